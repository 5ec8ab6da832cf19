#include "controller/cli/outline.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "controller/cli/resolved.h"
#include "controller/report/text.h"
#include "experiments/base/units.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/load.h"

namespace squall::cli {
namespace {

using Json = nlohmann::ordered_json;
using report::Line;
using report::Paint;

/// A method of thousands is told by its beginning.
constexpr std::size_t kMostSteps = 200;

/// 2 of 9 nodes (22%)
std::string share(std::size_t some, std::size_t of, const std::string& what) {
  return fmt::format("{} of {} {} ({}%)", some, of, what, of == 0 ? 0 : (100 * some + of / 2) / of);
}

const v1::MessageRules& rules_of_kind(const v1::Fault& fault) {
  return plan::rules_of(*kind_of(fault)->message_type());
}

/// How much of the fleet is touched, as a whole and of those with each label.
struct BlastRadius {
  struct Part {
    std::string label;  ///< role=db; empty: of all.
    std::size_t hit = 0;
    std::size_t of = 0;
  };
  std::vector<Part> parts;
  std::size_t faults = 0;

  explicit BlastRadius(const Outline& outline) {
    const std::vector<std::string> names = run::node_names(outline.plan);
    std::set<std::string> hit;
    for (const run::Step* step : run::acting_steps(outline.schedule)) {
      for (const run::Target& target : step->targets) hit.insert(names[target.node]);
      faults += step->targets.size();
    }
    parts.push_back({"", hit.size(), names.size()});
    std::map<std::string, std::pair<std::size_t, std::size_t>> by_label;
    for (const auto& [name, node] : outline.plan.nodes()) {
      for (const auto& [label, value] : node.labels()) {
        auto& [some, all] = by_label[label + "=" + value];
        some += hit.contains(name) ? 1 : 0;
        ++all;
      }
    }
    for (const auto& [label, counts] : by_label) {
      if (counts.first > 0) parts.push_back({label, counts.first, counts.second});
    }
  }
};

/// What a node said about a fault of a step.
struct Answer {
  const run::NodePreview* node;
  const v1::Looked* looked;
};

class Text {
 public:
  Text(const Outline& outline, const report::Style& style)
      : outline_(outline), style_(style), marks_(report::marks_of(style)) {
    for (const run::NodePreview& node : outline.nodes) {
      for (std::size_t n = 0; n < node.answers.size(); ++n) {
        answers_[node.asked[n].step].push_back({&node, &node.answers[n]});
      }
    }
  }

  std::string whole() {
    head();
    nodes();
    title("method");
    for (const run::Step& one : outline_.schedule) add(one, 2);
    if (shown_ > kMostSteps) {
      put(Line().add(fmt::format("  {} and {} steps more", marks_.more, shown_ - kMostSteps)));
    }
    foot();
    return out_;
  }

 private:
  std::string safe(std::string_view text) const { return report::shown(text, style_); }

  void put(const Line& line, int indent = 8) {
    for (const Line& part : line.folded(style_.width, indent)) out_ += part.text(style_) + "\n";
  }

  void title(std::string_view words) {
    put({});
    put(Line().add("  ").add(words, Paint::kBold));
  }

  void head() {
    const std::string dot = fmt::format(" {} ", marks_.dot);
    put({});
    put(Line().add("  ").add(safe(outline_.plan.plan()), Paint::kBold));
    if (!outline_.plan.hypothesis().empty()) {
      put(Line().add("  ").add(safe(outline_.plan.hypothesis()), Paint::kDim), 2);
    }
    std::vector<std::string> facts = {safe(outline_.file), fmt::format("seed {}", outline_.seed),
                                      "lease " + format_duration(Duration(outline_.plan.lease()))};
    if (!outline_.plan.environment().empty()) facts.push_back(safe(outline_.plan.environment()));
    for (const auto& [name, parameter] :
         std::map(outline_.plan.params().begin(), outline_.plan.params().end())) {
      facts.push_back(
          fmt::format("{}={}", safe(name), safe(plan::shown_value(name, parameter.value()))));
    }
    put(Line().add("  ").add(fmt::format("{}", fmt::join(facts, dot)), Paint::kDim), 2);
  }

  void nodes() {
    title("nodes");
    int names = 0;
    for (const run::NodePreview& node : outline_.nodes) {
      names = std::max(names, report::columns_of(safe(node.name)));
    }
    for (const run::NodePreview& node : outline_.nodes) {
      Line line;
      const bool fit = node.reached.ok() && node.refused.empty();
      line.add("  ").add(fit ? marks_.yes : marks_.no, fit ? Paint::kGood : Paint::kBad).add(" ");
      line.add(safe(node.name)).pad_to(6 + names, ' ');
      if (!node.reached.ok()) {
        line.add(safe(message_of(node.reached)), Paint::kBad);
      } else if (!node.refused.empty()) {
        line.add(safe(node.refused), Paint::kBad);
      } else {
        line.add(safe(fmt::format("{}, squalld {}, kernel {}, {}", node.address,
                                  node.description.version(), node.description.kernel(),
                                  node.description.netem() ? "netem" : "relay")),
                 Paint::kDim);
      }
      put(line);
    }
  }

  void add(const run::Step& step, int indent) {
    if (!step.name.empty() && ++shown_ > kMostSteps) return;
    const std::string blanks(static_cast<std::size_t>(indent), ' ');
    const int inside = step.name.empty() ? indent : indent + 4;
    using Form = run::Step::Form;
    if (!step.name.empty()) {
      const bool acts = !step.targets.empty();
      const std::string_view mark = acts                           ? "+"
                                    : step.form == Form::kAsk      ? "?"
                                    : step.form == Form::kInTurn   ? "="
                                    : step.form == Form::kTogether ? "="
                                                                   : std::string_view(marks_.dot);
      Line line;
      line.add(blanks).add(mark, acts ? Paint::kGood : Paint::kDim).add(" ").add(safe(step.name));
      if (step.lasts > Duration::zero()) {
        line.add(step.form == Form::kSearch ? "  at most " : "  ")
            .add(format_duration(step.lasts), Paint::kDim);
      }
      put(line, inside);
    }
    if (!step.targets.empty()) add_fault(step, inside);
    for (const run::Step& below : step.steps) add(below, inside);
  }

  void add_fault(const run::Step& step, int indent) {
    const std::string blanks(static_cast<std::size_t>(indent), ' ');
    const v1::Fault& fault = step.targets.front().fault;
    const std::string words = plan::in_words(fault);
    if (words != step.name && !step.parts) put(Line().add(blanks).add(safe(words)), indent + 2);
    const std::vector<std::string> names = run::node_names(outline_.plan);
    std::vector<std::string> on;
    for (const run::Target& target : step.targets) on.push_back(safe(names[target.node]));
    put(Line()
            .add(blanks)
            .add(fmt::format("on {}", fmt::join(on, ", ")))
            .add(fmt::format("  {}", safe(step.why)), Paint::kDim),
        indent + 2);
    for (const Answer& answer : answers_[&step]) {
      for (const auto& [said, paint] : said_by(*answer.looked)) {
        put(Line()
                .add(blanks)
                .add(fmt::format("{}: ", safe(answer.node->name)))
                .add(safe(said), paint),
            indent + 2);
      }
    }
    const std::string& undo = rules_of_kind(fault).undo();
    put(Line().add(blanks).add("- ", Paint::kBad).add(undo, Paint::kDim), indent + 2);
  }

  static std::vector<std::pair<std::string, Paint>> said_by(const v1::Looked& looked) {
    if (looked.code() != 0) return {{"refused: " + looked.message(), Paint::kBad}};
    std::vector<std::pair<std::string, Paint>> said;
    if (looked.engine() != v1::AUTO) {
      said.emplace_back(
          fmt::format(
              "by {} on {}{}", looked.engine() == v1::NETEM ? "netem" : "the relay",
              fmt::join(looked.interfaces(), ", "),
              looked.engine_reason().empty() ? "" : fmt::format(" ({})", looked.engine_reason())),
          Paint::kPlain);
    }
    const v1::ResolvedPlan::Seen seen = seen_in(looked);
    for (const std::string& target : seen.targets()) said.emplace_back(target, Paint::kPlain);
    for (const std::string& host : seen.hosts()) said.emplace_back(host, Paint::kPlain);
    for (const std::string& note : looked.notes()) said.emplace_back(note, Paint::kWarn);
    return said;
  }

  void foot() {
    const BlastRadius radius(outline_);
    put({});
    Line reach;
    reach.add("  blast radius  ", Paint::kBold);
    std::vector<std::string> parts;
    for (const BlastRadius::Part& part : radius.parts) {
      const std::string what = part.label.empty() ? "nodes" : "with " + safe(part.label);
      parts.push_back(share(part.hit, part.of, what));
    }
    put(reach.add(fmt::format("{}", fmt::join(parts, fmt::format(" {} ", marks_.dot)))), 16);
    put(Line()
            .add("  duration      ", Paint::kBold)
            .add(fmt::format("{}, then at most {} of recovery",
                             format_duration(run::length_of(outline_.schedule)),
                             format_duration(Duration(outline_.plan.recovery().within())))),
        16);
    const std::size_t refused = refusals(outline_).size();
    put({});
    put(Line()
            .add("  ")
            .add(refused == 0 ? marks_.yes : marks_.no, refused == 0 ? Paint::kGood : Paint::kBad)
            .add(fmt::format(" Plan: {} to inject and to revert, {} refused. Nothing was changed.",
                             radius.faults, refused),
                 Paint::kBold));
  }

  const Outline& outline_;
  report::Style style_;
  const report::Marks& marks_;
  std::map<const run::Step*, std::vector<Answer>> answers_;
  std::size_t shown_ = 0;
  std::string out_;
};

Json json_of(const run::Step& step, const Outline& outline) {
  constexpr const char* kForms[] = {"fault", "wait", "ask", "together", "in_turn", "search"};
  Json json = {{"place", step.place},
               {"name", step.name},
               {"form", kForms[static_cast<std::size_t>(step.form)]},
               {"lasts_ms", to_ms(step.lasts)}};
  if (!step.targets.empty()) {
    json["why"] = step.why;
    json["undo"] = rules_of_kind(step.targets.front().fault).undo();
    Json faults = Json::array();
    const std::vector<std::string> names = run::node_names(outline.plan);
    for (const run::Target& target : step.targets) {
      faults.push_back({{"node", names[target.node]}, {"fault", plan::in_words(target.fault)}});
    }
    json["faults"] = std::move(faults);
  }
  for (const run::Step& below : step.steps) json["steps"].push_back(json_of(below, outline));
  return json;
}

}  // namespace

std::vector<std::string> refusals(const Outline& outline) {
  std::vector<std::string> told;
  for (const run::NodePreview& node : outline.nodes) {
    if (!node.refused.empty()) told.push_back(node.refused);
    for (const run::Question& question : node.asked) {
      if (!node.reached.ok() || run::knows(node.description, *question.fault)) continue;
      told.push_back(fmt::format("node {}: its squalld {} does not know {}", node.name,
                                 node.description.version(), plan::in_words(*question.fault)));
    }
    for (std::size_t n = 0; n < node.answers.size(); ++n) {
      if (node.answers[n].code() == 0) continue;
      told.push_back(fmt::format("node {} refuses {}: {}", node.name,
                                 plan::in_words(*node.asked[n].fault), node.answers[n].message()));
    }
  }
  return told;
}

std::string outline_text(const Outline& outline, const report::Style& style) {
  return Text(outline, style).whole();
}

std::string outline_json(const Outline& outline) {
  Json json = {{"plan", outline.plan.plan()}, {"file", outline.file}, {"seed", outline.seed}};
  for (const auto& [name, parameter] :
       std::map(outline.plan.params().begin(), outline.plan.params().end())) {
    json["params"][name] = plan::shown_value(name, parameter.value());
  }
  json["nodes"] = Json::array();
  for (const run::NodePreview& node : outline.nodes) {
    Json one = {{"name", node.name}, {"address", node.address}, {"reached", node.reached.ok()}};
    if (!node.reached.ok()) one["error"] = message_of(node.reached);
    if (!node.refused.empty()) one["refused"] = node.refused;
    if (node.reached.ok()) {
      one["version"] = node.description.version();
      one["kernel"] = node.description.kernel();
      one["netem"] = node.description.netem();
    }
    one["faults"] = Json::array();
    const std::vector<v1::ResolvedPlan::Seen> seen = seen_by({node});
    for (std::size_t n = 0; n < seen.size(); ++n) {
      const v1::Looked& looked = node.answers[n];
      Json fault = {
          {"place", seen[n].place()}, {"fault", seen[n].fault()}, {"refused", looked.code() != 0}};
      if (looked.code() != 0) fault["message"] = looked.message();
      if (!seen[n].engine().empty()) fault["engine"] = seen[n].engine();
      if (!looked.engine_reason().empty()) fault["engine_reason"] = looked.engine_reason();
      const auto list = [&](const char* key, const auto& words) {
        if (!words.empty()) fault[key] = std::vector<std::string>(words.begin(), words.end());
      };
      list("interfaces", seen[n].interfaces());
      list("targets", seen[n].targets());
      list("hosts", seen[n].hosts());
      list("notes", looked.notes());
      one["faults"].push_back(std::move(fault));
    }
    json["nodes"].push_back(std::move(one));
  }
  json["method"] = Json::array();
  for (const run::Step& step : outline.schedule) json["method"].push_back(json_of(step, outline));
  const BlastRadius radius(outline);
  json["blast_radius"] = Json::array();
  for (const BlastRadius::Part& part : radius.parts) {
    json["blast_radius"].push_back({{"label", part.label}, {"nodes", part.hit}, {"of", part.of}});
  }
  json["duration_ms"] = to_ms(run::length_of(outline.schedule));
  json["faults"] = radius.faults;
  json["refusals"] = refusals(outline);
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace squall::cli
