#include "controller/report/chronicle.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "experiments/base/diagnostic.h"

namespace squall::report {
namespace {

using Kind = Happening::Kind;

/// What acts within this of another is told as one with it.
constexpr double kOneMomentSeconds = 1;

class Chronicle {
 public:
  explicit Chronicle(const Story& story) : story_(story) {}

  std::vector<Happening> all() {
    phases();
    nodes();
    steps();
    faults();
    checks();
    people();
    search();
    turns();
    std::ranges::stable_sort(told_, {}, [](const Happening& one) { return one.moment.elapsed; });
    return std::move(told_);
  }

 private:
  void tell(const Moment& moment, Kind kind, std::string words) {
    told_.push_back({moment, kind, std::move(words)});
  }

  void phases() {
    for (const auto& [phase, moment] : story_.phases) {
      switch (phase) {
        case v1::PREFLIGHT:
          tell(moment, Kind::kTurn, "the nodes are asked whether they would take part");
          break;
        case v1::STEADY:
          tell(moment, Kind::kTurn, "the steady state is to be proven");
          break;
        case v1::METHOD:
          tell(moment, Kind::kGood, "the steady state is proven; the method begins");
          break;
        case v1::REVERT:
          tell(moment, Kind::kTurn, "everything is reverted");
          break;
        case v1::RECOVERY:
          tell(moment, Kind::kTurn, "recovery is to be proven");
          break;
        default:
          break;
      }
    }
  }

  void nodes() {
    for (const NodeStory& node : story_.nodes) {
      if (node.lost) tell(*node.lost, Kind::kBad, node.name + " is lost: " + node.lost_reason);
    }
  }

  void steps() {
    for (const StepStory& step : story_.steps) {
      std::string words = "step: " + step.words;
      if (!step.nodes.empty()) words += " (" + list_of_names(step.nodes) + ")";
      tell(step.started, Kind::kTurn, std::move(words));
    }
  }

  /// Several nodes on which the same was done at once.
  struct Group {
    Moment first;
    std::vector<std::string> nodes;
  };

  /// Tells `what` of each fault that has such a moment.
  template <typename MomentOf>
  void together(Kind kind, const std::string& what, MomentOf moment_of) {
    std::map<std::pair<std::string, std::string>, std::vector<Group>> groups;
    for (const FaultStory& fault : story_.faults) {
      const std::optional<Moment> moment = moment_of(fault);
      if (!moment) continue;
      auto& of_step = groups[{fault.step, fault.words.empty() ? fault.kind : fault.words}];
      const bool joins =
          !of_step.empty() && moment->elapsed - of_step.back().first.elapsed < kOneMomentSeconds;
      if (!joins) of_step.push_back({*moment, {}});
      of_step.back().nodes.push_back(fault.node);
    }
    for (const auto& [fault, of_step] : groups) {
      for (const Group& group : of_step) {
        tell(group.first, kind,
             fmt::format("{} on {} {}", fault.second, list_of_names(group.nodes), what));
      }
    }
  }

  void faults() {
    using Maybe = std::optional<Moment>;
    together(Kind::kFault, "acts",
             [](const FaultStory& fault) { return fault.at_once() ? Maybe() : fault.applied; });
    together(Kind::kFault, "is done",
             [](const FaultStory& fault) { return fault.at_once() ? fault.applied : Maybe(); });
    together(Kind::kFault, "has ended", [](const FaultStory& fault) {
      return fault.at_once() ? Maybe() : fault.effect_ended;
    });
    together(Kind::kGood, "is verified clean",
             [](const FaultStory& fault) { return fault.clean() ? fault.reverted : Maybe(); });
    for (const FaultStory& fault : story_.faults) {
      if (fault.failed)
        tell(*fault.failed, Kind::kBad, fault_title(fault) + " failed: " + fault.failure);
      if (fault.reverted && !fault.clean())
        tell(*fault.reverted, Kind::kBad, fault_title(fault) + " " + revert_problem(fault));
    }
  }

  void checks() {
    for (const CheckStory& check : story_.checks) {
      for (const BreachStory& breach : check.breaches) {
        tell(breach.moment, Kind::kBad,
             fmt::format("{} is breached: {}, expected {}{}", check.name, breach.observed,
                         breach.expectation, breach.aborts ? "" : "; only noted"));
        if (breach.held_again) tell(*breach.held_again, Kind::kGood, check.name + " holds again");
      }
    }
    for (const LoadStory& load : story_.loads) {
      tell(load.moment, Kind::kTurn,
           fmt::format("load {} ends: {}", load.told.load(), load.told.words()));
    }
  }

  void people() {
    for (const QuestionStory& one : story_.questions) {
      tell(one.asked, Kind::kPerson, "asked: " + one.question);
      if (one.answered)
        tell(*one.answered, Kind::kPerson,
             fmt::format("answered: {}, by {}", one.yes ? "yes" : "no", one.by));
    }
    for (const NoteStory& note : story_.notes) {
      tell(note.moment, Kind::kPerson,
           (note.kind.empty() ? "note: " : "") + note_text(note) +
               (note.by.empty() ? "" : " (" + note.by + ")"));
    }
  }

  void search() {
    // Attempts have no times of their own; what they did has.
    if (!story_.answer) return;
    tell(story_.answer_at, Kind::kTurn, "found: " + story_.answer->words());
  }

  void turns() {
    if (story_.abort) {
      tell(story_.abort_at, Kind::kBad,
           fmt::format("aborted ({}): {}", story_.abort->cause(), story_.abort->words()));
    }
    if (story_.recovered_at) tell(*story_.recovered_at, Kind::kGood, "every check holds again");
    if (story_.ended_at) {
      const bool held = story_.ended->verdict() == v1::HELD;
      tell(*story_.ended_at, held ? Kind::kGood : Kind::kBad, "verdict: " + story_.verdict());
    }
  }

  const Story& story_;
  std::vector<Happening> told_;
};

}  // namespace

std::vector<Happening> chronicle(const Story& story, std::size_t most) {
  std::vector<Happening> all = Chronicle(story).all();
  if (all.size() <= most || most < 3) return all;
  const std::size_t left_out = all.size() - most + 1;
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(most / 2);
  begin->kind = Kind::kTurn;
  begin->words = fmt::format("({} more, which are in the event log)", left_out);
  all.erase(begin + 1, begin + static_cast<std::ptrdiff_t>(left_out));
  return all;
}

std::string fault_title(const FaultStory& fault) {
  return (fault.words.empty() ? fault.kind : fault.words) + " on " + fault.node;
}

std::string list_of_names(const std::vector<std::string>& names, std::size_t most) {
  const bool cut = names.size() > most;
  const std::size_t shown = cut ? most - 1 : names.size();
  std::string text;
  for (std::size_t n = 0; n < shown; ++n) {
    if (n > 0) text += n + 1 == names.size() ? " and " : ", ";
    text += names[n];
  }
  if (cut) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

std::string command_again(const Story& story) {
  // As a shell takes it, and on one line.
  const auto quoted = [](const std::string& text) {
    constexpr std::string_view kPlain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,%+";
    std::string safe = escape_controls(text);
    if (!safe.empty() && safe.find_first_not_of(kPlain) == std::string::npos) return safe;
    std::string out = "'";
    for (const char c : safe) out += c == '\'' ? "'\\''" : std::string(1, c);
    return out + "'";
  };
  std::string command =
      fmt::format("squall run {} --seed {}", quoted(story.run.file()), story.run.seed());
  const std::map<std::string, std::string> params(story.run.params().begin(),
                                                  story.run.params().end());
  for (const auto& [name, value] : params)
    command += fmt::format(" --set {}", quoted(fmt::format("{}={}", name, value)));
  return command + "\nsquall run --replay " + quoted(story.run.run());
}

std::string apply_problem(const FaultStory& fault) {
  if (!fault.applied) return fault.failed ? fault.failure : "never applied";
  if (fault.failed && !fault.effect_ended) return fault.failure;
  if (fault.without_effect()) return "no effect";
  return "";
}

std::string revert_problem(const FaultStory& fault) {
  if (!fault.residue.empty()) return fmt::format("left behind: {}", fmt::join(fault.residue, "; "));
  if (!fault.reverted && !fault.failed) return "never verified clean";
  return "";
}

}  // namespace squall::report
