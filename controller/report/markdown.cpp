/// \file
/// The draft of a postmortem, and the summary of a pipeline's step: GitHub's Markdown.
#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "controller/report/chronicle.h"
#include "controller/report/github.h"
#include "controller/report/markup.h"
#include "controller/report/reports.h"
#include "controller/report/text.h"
#include "controller/report/timeline.h"
#include "experiments/base/diagnostic.h"

namespace squall::report {
namespace {

/// Of a table; a step's summary may have a megabyte.
constexpr std::size_t kMostRows = 100;
constexpr int kMostColumns = 300;

class Draft {
 public:
  explicit Draft(const Story& story) : story_(story), times_(story.times()) {}

  std::string postmortem() {
    verdict();
    out_ += "\n# Postmortem: " + safe(title()) + "\n\n";
    facts();
    out_ += "\n## Hypothesis\n\n";
    out_ += story_.run.hypothesis().empty() ? "*The plan has none.*\n"
                                            : "*" + safe(story_.run.hypothesis()) + "*\n";
    what_happened();
    out_ += "\n## Impact in figures\n";
    times();
    checks();
    loads();
    faults();
    search();
    out_ +=
        "\n## What surprised us\n\n*To be filled in: what did we expect, what did we see, who "
        "noticed, and how?*\n\n- \n"
        "\n## What we do about it\n\n| action | who | until |\n| --- | --- | --- |\n|  |  |  |\n";
    out_ += "\n## How to run it again\n\n```sh\n" + command_again(story_) + "\n```\n";
    return std::move(out_);
  }

  std::string summary() {
    out_ += "### " + safe(title()) + "\n\n";
    verdict();
    out_ += "\n";
    facts();
    times();
    checks();
    loads();
    faults();
    search();
    return std::move(out_);
  }

 private:
  static std::string safe(std::string_view text) {
    const Style style{.utf8 = true};
    return markdown(Line().add(shown(text, style)).text(style, kMostColumns));
  }

  std::string title() const { return story_.run.plan().empty() ? "a run" : story_.run.plan(); }

  void verdict() {
    const bool held = story_.ended && story_.ended->verdict() == v1::HELD;
    out_ += fmt::format("**{} {}", held ? "✓" : "✗", story_.verdict());
    if (story_.ended) out_ += fmt::format(" (exit {})", story_.ended->exit_code());
    out_ += ":** " + safe(story_.sentence()) + "\n";
  }

  void facts() {
    std::vector<std::string> nodes;
    for (const NodeStory& node : story_.nodes) nodes.push_back(node.name);
    out_ += fmt::format("Run {}, begun {}, {} long, on {}; plan {}, seed {}, squall {}.\n",
                        safe(story_.run.run()), safe(story_.started ? story_.started->at : "?"),
                        elapsed_text(story_.end().elapsed),
                        nodes.empty() ? "no node" : safe(list_of_names(nodes)),
                        safe(story_.run.file()), story_.run.seed(), safe(story_.run.version()));
  }

  void row(const std::vector<std::string>& cells) {
    for (const std::string& cell : cells) out_ += "| " + cell + " ";
    out_ += "|\n";
  }

  void head(const std::vector<std::string>& cells) {
    out_ += "\n";
    row(cells);
    row(std::vector<std::string>(cells.size(), "---"));
  }

  void left_out(std::size_t count, std::string_view what) {
    if (count > 0) out_ += fmt::format("\n{} more {} are in the JSON report.\n", count, what);
  }

  void what_happened() {
    out_ += "\n## What happened\n";
    head({"time (UTC)", "into the run", "what"});
    for (const Happening& one : chronicle(story_, kMostRows)) {
      const std::string& at = one.moment.at;
      const std::size_t clock = at.find('T');
      row({safe(clock == std::string::npos ? at : at.substr(clock + 1, 12)),
           elapsed_text(one.moment.elapsed),
           one.kind == Happening::Kind::kBad ? "**" + safe(one.words) + "**" : safe(one.words)});
    }
  }

  void times() {
    head({"time to detect", "time to abort", "time to recover"});
    const auto ms = [](bool is_known, double value) { return is_known ? ms_text(value) : "–"; };
    row({ms(times_.has_to_detect_ms(), times_.to_detect_ms()),
         ms(times_.has_to_abort_ms(), times_.to_abort_ms()),
         ms(times_.has_to_recover_ms(), times_.to_recover_ms())});
    if (!story_.ended || story_.ended->expect_size() == 0) return;
    head({"expected of the run", "observed", ""});
    for (const v1::RunExpectation& one : story_.ended->expect())
      row({safe(one.expectation()), safe(one.observed()), one.holds() ? "✓" : "✗ does not hold"});
  }

  /// A row for each expectation of each check; those of broken checks first, where not all fit.
  void checks() {
    if (story_.checks.empty()) {
      out_ += "\nNothing was observed.\n";
      return;
    }
    std::vector<const CheckStory*> chosen;
    for (const CheckStory& check : story_.checks) chosen.push_back(&check);
    if (chosen.size() > kMostRows) {
      std::stable_partition(chosen.begin(), chosen.end(), [&](const CheckStory* one) {
        return !one->breaches.empty() || !story_.stands(*one);
      });
      chosen.resize(kMostRows);
    }
    head({"", "check", "expected", "worst", "asked", "unanswered", "p50", "p99"});
    for (const CheckStory* const check : chosen) {
      const std::string mark = check->asked == 0         ? "·"
                               : !story_.stands(*check)  ? "✗"
                               : check->breaches.empty() ? "✓"
                                                         : "!";
      const auto middle = check->latency_percentile_ms(50);
      const auto high = check->latency_percentile_ms(99);
      std::string expected;
      std::string worst;
      for (const ExpectationStory& one : check->expect) {
        expected += (expected.empty() ? "" : "<br>") + safe(one.text);
        const std::string words =
            one.worst.empty() ? "not judged" : safe(without_metric(one.worst, one.text));
        worst += (worst.empty() ? "" : "<br>") + (one.breached ? "**" + words + "**" : words);
      }
      row({mark, safe(check->name), expected, worst, fmt::format("{}", check->asked),
           fmt::format("{}", check->asked - check->answered), middle ? ms_text(*middle) : "–",
           high ? ms_text(*high) : "–"});
    }
    left_out(story_.checks.size() - chosen.size(), "checks");
  }

  void loads() {
    if (story_.loads.empty()) return;
    head({"load", "what it came to"});
    for (const LoadStory& load : story_.loads)
      row({safe(load.told.load()), safe(load.told.words())});
  }

  void faults() {
    if (story_.faults.empty()) {
      out_ += "\nNo fault was injected.\n";
      return;
    }
    std::vector<const FaultStory*> chosen;
    for (const FaultStory& fault : story_.faults) chosen.push_back(&fault);
    if (chosen.size() > kMostRows) {
      std::stable_partition(chosen.begin(), chosen.end(), [](const FaultStory* one) {
        return one->failed || !one->clean() || one->without_effect();
      });
      chosen.resize(kMostRows);
    }
    head({"", "fault", "node", "from", "to", "evidence", "its end"});
    for (const FaultStory* const fault : chosen) {
      const std::string applying = apply_problem(*fault);
      const std::string reverting = revert_problem(*fault);
      const auto took = fault->reverting_ms();
      row({applying.empty() && reverting.empty() ? "✓" : "✗",
           safe(fault->words.empty() ? fault->kind : fault->words), safe(fault->node),
           fault->applied ? elapsed_text(fault->applied->elapsed) : "–",
           fault->effect_ended ? elapsed_text(fault->effect_ended->elapsed) : "–",
           applying.empty() ? safe(fault->evidence_words) : "**" + safe(applying) + "**",
           !reverting.empty() ? "**" + safe(reverting) + "**"
           : fault->failed    ? "failed"
                              : "verified clean" + (took ? " in " + ms_text(*took) : "")});
    }
    left_out(story_.faults.size() - chosen.size(), "faults");
  }

  void search() {
    if (story_.attempts.empty()) return;
    head({"", "tried", "what came of it"});
    for (const v1::Attempted& attempt : story_.attempts) {
      row({attempt.held() ? "✓" : "✗", safe(attempt.value()),
           attempt.held() ? "holds" : "breaks: " + safe(attempt.words())});
    }
    if (story_.answer) out_ += "\n**" + safe(story_.answer->words()) + "**\n";
  }

  const Story& story_;
  v1::RunTimes times_;
  std::string out_;
};

}  // namespace

std::string markdown_report(const Story& story) { return Draft(story).postmortem(); }

std::string github_summary(const Story& story) { return Draft(story).summary(); }

}  // namespace squall::report
