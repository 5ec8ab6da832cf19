#include "controller/report/picture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "controller/report/text.h"

namespace squall::report {
namespace {

/// Narrower than this, the drawings give way to the words.
constexpr int kWide = 100;
/// Below this many columns a line of the past shows nothing.
constexpr int kShortestSpark = 4;
/// As much of the past as is asked for where there is little room.
constexpr int kGoodSpark = 8;
/// Of the notes that people made.
constexpr std::size_t kMostNotes = 3;
/// Of checks that hold, and of faults that act, where there is no room for all.
constexpr std::size_t kMostKept = 5;
/// Of a check, before where it is asked from is cut as well.
constexpr int kShortestName = 6;

std::string fault_name(const FaultStory& fault) {
  return fault.words.empty() ? fault.kind : fault.words;
}

/// What the watched metric is held against: < 300ms over 10s. Where it does not hold the two must
/// not read as one statement: p99 301ms, wanted < 300ms over 10s.
std::string bound_text(const ExpectationStory& one) {
  const auto blank = one.text.find(' ');
  const std::string bound = blank == std::string::npos ? "" : one.text.substr(blank + 1);
  return bound.empty() ? "" : (one.holds ? " " : ", wanted ") + bound;
}

/// The dead stay dead: nothing is reverted of what is done at once.
std::string_view over_text(const FaultStory& fault) {
  if (fault.ended_by_hand()) return fault.end_reason;
  return fault.at_once() ? "done" : "reverted";
}

bool is_over(const FaultStory& fault) { return fault.failed || fault.reverted; }

class Picture {
 public:
  Picture(const Story& story, double elapsed, const Style& style)
      : story_(story), elapsed_(elapsed), style_(style), marks_(marks_of(style)) {}

  std::vector<std::string> lines() {
    head();
    abort();
    checks();
    faults();
    nodes();
    notes();
    end();
    return fitted();
  }

 private:
  /// In which order lines go when the terminal is low: what is over, then what is merely more of
  /// the same, and what must be seen never.
  enum class Rank { kGap, kOver, kMoreChecks, kMoreFaults, kSaid, kSteps, kCheck, kFault, kKept };

  struct Row {
    Line line;
    Rank rank = Rank::kKept;
  };

  std::string safe(std::string_view text) const { return shown(text, style_); }
  void put(Line line, Rank rank = Rank::kKept) { rows_.push_back({std::move(line), rank}); }
  void gap() { put({}, Rank::kGap); }

  void head() {
    Line title;
    title.add(" ").add(safe(story_.run.plan()), Paint::kBold);
    put(title);
    if (!story_.run.hypothesis().empty()) {
      put(Line().add(" ").add(safe(story_.run.hypothesis()), Paint::kDim), Rank::kSaid);
    }
    Line facts;
    const std::string dot = fmt::format(" {} ", marks_.dot);
    facts.add(" run ", Paint::kDim).add(safe(story_.run.run()), Paint::kDim);
    // Before what a narrow terminal cuts off.
    if (!story_.ended) facts.add(dot + "q aborts", Paint::kDim);
    facts.add(fmt::format("{}{} {}", dot, story_.nodes.size(),
                          story_.nodes.size() == 1 ? "node" : "nodes"),
              Paint::kDim);
    facts.add(fmt::format("{}seed {}", dot, story_.run.seed()), Paint::kDim);
    put(facts, story_.ended ? Rank::kSaid : Rank::kKept);
    gap();
    Line phases = progress(true);
    if (phases.columns() > style_.width) phases = progress(false);
    put(phases);
    steps();
    question();
  }

  /// How far the run is; in full with the phases that were and will be.
  Line progress(bool in_full) const {
    Line phases;
    phases.add(" ");
    for (const v1::Phase phase :
         {v1::PREFLIGHT, v1::STEADY, v1::METHOD, v1::REVERT, v1::RECOVERY}) {
      const bool now = !story_.ended && !story_.phases.empty() && phase == story_.phase();
      if (!in_full && !now) continue;
      std::string word = phase_text(phase);
      // Never by colour alone: the one that goes on is in brackets.
      if (now) word = fmt::format("[{}]", word);
      phases.add(word, now ? Paint::kBold : story_.reached(phase) ? Paint::kPlain : Paint::kDim);
      if (in_full && phase != v1::RECOVERY) {
        phases.add(fmt::format(" {} ", marks_.arrow), Paint::kDim);
      }
    }
    phases.add("   ").add(clock_text(elapsed_), Paint::kBold);
    if (story_.phase() == v1::METHOD && story_.run.method_ms() > 0 && !story_.ended) {
      const double length = story_.run.method_ms() / 1000;
      const double passed = std::min(elapsed_ - story_.phases.back().second.elapsed, length);
      phases.add("  ");
      if (style_.width >= kWide) bar(phases, passed / length);
      phases.add(fmt::format(" {} of {}", clock_text(passed), clock_text(length)), Paint::kDim);
    }
    return phases;
  }

  void question() {
    if (!story_.question || story_.ended) return;
    gap();
    const Line row = Line()
                         .add(fmt::format(" {} ", marks_.note), Paint::kWarn)
                         .add(safe(story_.question->question()), Paint::kBold)
                         .add("  y goes on, n ends the run", Paint::kDim);
    for (Line& part : row.folded(style_.width, 3)) put(std::move(part));
  }

  void steps() {
    for (const StepStory& step : story_.steps) {
      if (step.ended || story_.ended || story_.phase() != v1::METHOD) continue;
      if (story_.question && story_.question->place() == step.place) continue;
      // One that has no name of its own is told by its fault.
      const bool is_fault = std::ranges::any_of(story_.faults, [&step](const FaultStory& fault) {
        return fault.step == step.words && fault.words == step.words;
      });
      if (is_fault) continue;
      Line row;
      row.add(fmt::format(" {} ", marks_.running), Paint::kWarn).add(safe(step.words));
      if (step.lasts_ms > 0) {
        const double left = step.lasts_ms / 1000 - std::max(elapsed_ - step.started.elapsed, 0.0);
        row.add(fmt::format("  {} left", clock_text(std::ceil(left))), Paint::kDim);
      }
      put(row, Rank::kSteps);
    }
  }

  void bar(Line& line, double share) const {
    const int columns = style_.width < kWide ? 6 : 12;
    const int full = std::clamp(static_cast<int>(std::lround(share * columns)), 0, columns);
    std::string text;
    for (int column = 0; column < columns; ++column) {
      text += column < full ? marks_.bar_full : marks_.bar_empty;
    }
    line.add(text, Paint::kWarn);
  }

  void abort() {
    if (!story_.abort) return;
    gap();
    const Line row =
        Line().add(" ABORT ", Paint::kBad).add(safe(story_.abort->words()), Paint::kBad);
    for (Line& part : row.folded(style_.width, 7)) put(std::move(part));
  }

  void checks() {
    if (story_.checks.empty()) return;
    gap();
    int names = 0;
    int numbers = 0;
    int answers = 0;
    std::size_t points = 0;
    for (const CheckStory& check : story_.checks) {
      names = std::max(names, columns_of(safe(check.name)));
      answers = std::max(answers, columns_of(safe(last_answer(check))));
      points = std::max(points, check.recent.size());
      if (const auto* watched = check.watched()) {
        numbers = std::max(numbers, columns_of(safe(watched->latest + bound_text(*watched))));
      }
    }
    // A short past is worth more than the whole of a long bound; the rest is as wide as its words.
    const int columns = numbers > 0 ? 3 : 2;
    const int widest = std::min(static_cast<int>(points), style_.width < kWide ? 12 : 24);
    const int begin_columns = 1 + columns_of(marks_.yes) + 1;
    const auto words = [&] { return begin_columns + names + numbers + answers; };
    const auto cut = [&](int& column, int least, int room) {
      column -= std::clamp(column - std::max(least, 10), 0, std::max(words() - room, 0));
    };
    const int spark_room = std::min(widest, kGoodSpark) + 2 * columns;
    cut(numbers, style_.width * 2 / 5, style_.width - spark_room);
    int sparks = std::clamp(style_.width - words() - 2 * columns, 0, widest);
    if (sparks < kShortestSpark) sparks = 0;
    const int between = words() + 2 * (columns - 1) <= style_.width ? 2 : 1;
    cut(names, style_.width / 3, style_.width - between * (columns - 1));
    cut(numbers, style_.width * 2 / 5, style_.width - between * (columns - 1));
    std::size_t holding = 0;
    for (const CheckStory& check : story_.checks) {
      const bool asked = check.asked > 0;
      Line row;
      row.add(" ");
      if (!asked) {
        row.add(marks_.waiting, Paint::kDim);
      } else {
        row.add(check.holds ? marks_.yes : marks_.no, check.holds ? Paint::kGood : Paint::kBad);
      }
      row.pad_to(1 + columns_of(marks_.yes) + 1);
      const int begin = row.columns();
      row.add(fitted_name(check, names)).pad_to(begin + names + between);
      const ExpectationStory* watched = check.watched();
      const int middle = row.columns();
      if (watched != nullptr) {
        row.add(safe(watched->latest), watched->holds ? Paint::kPlain : Paint::kBad);
        const int room = std::max(numbers - columns_of(safe(watched->latest)), 1);
        row.add(Line().add(safe(bound_text(*watched))).text({.utf8 = style_.utf8}, room),
                Paint::kDim);
      }
      if (numbers > 0) row.pad_to(middle + numbers + between);
      if (sparks > 0) {
        spark(row, check, watched, static_cast<std::size_t>(sparks));
        row.add(" ");
      }
      row.add(safe(last_answer(check)), check.error.empty() ? Paint::kDim : Paint::kBad);
      const bool broken = asked && !check.holds;
      put(row, broken ? Rank::kKept : holding++ < kMostKept ? Rank::kCheck : Rank::kMoreChecks);
      for (const ExpectationStory& one : check.expect) {
        if (one.holds || one.latest.empty()) continue;
        put(Line().add("     ").add(safe(one.text), Paint::kBad).add(": " + safe(one.latest)));
      }
    }
  }

  /// Where it is too long for its column, the node that asks is still told.
  std::string fitted_name(const CheckStory& check, int width) const {
    const Style style{.utf8 = style_.utf8};
    const std::string whole = safe(check.name);
    const std::string place = check.from.empty() ? "" : safe(placed_name("", check.from));
    const int room = width - columns_of(place);
    if (place.empty() || columns_of(whole) <= width || room < kShortestName) {
      return Line().add(whole).text(style, width);
    }
    const std::string name = whole.substr(0, whole.size() - place.size());
    return Line().add(name).text(style, room) + place;
  }

  static std::string last_answer(const CheckStory& check) {
    return check.asked > 0 ? check.observed : "not asked yet";
  }

  /// From 0 to the bound, so that how high the line stands is how near it is to a breach; what is
  /// beyond is a full block.
  void spark(Line& row, const CheckStory& check, const ExpectationStory* watched,
             std::size_t columns) const {
    double top = 0;
    const bool has_bound = watched != nullptr && watched->bound && *watched->bound > 0;
    const std::size_t from = check.recent.size() > columns ? check.recent.size() - columns : 0;
    for (std::size_t at = from; at < check.recent.size(); ++at) {
      top = std::max(top, check.recent[at].number.value_or(0) * 1.25);
    }
    if (has_bound) top = *watched->bound;
    row.add(std::string(columns - (check.recent.size() - from), ' '));
    const auto levels = static_cast<double>(marks_.spark.size());
    for (std::size_t at = from; at < check.recent.size(); ++at) {
      const CheckStory::Point& point = check.recent[at];
      if (!point.number) {
        row.add(marks_.spark_gap, Paint::kBad);
        continue;
      }
      const double share = top > 0 ? *point.number / top : 0;
      const double level = std::clamp(std::floor(share * (levels - 1)), 0.0, levels - 1);
      row.add(marks_.spark[static_cast<std::size_t>(level)],
              point.holds ? Paint::kGood : Paint::kBad);
    }
  }

  void faults() {
    if (story_.faults.empty()) return;
    gap();
    int names = 0;
    int nodes = 0;
    for (const FaultStory& fault : story_.faults) {
      names = std::max(names, columns_of(safe(fault_name(fault))));
      nodes = std::max(nodes, columns_of(safe(fault.node)));
    }
    std::size_t acting = 0;
    names = std::min(names, std::max(style_.width * 2 / 5, 10));
    nodes = std::min(nodes, std::max(style_.width / 6, 6));
    for (const FaultStory& fault : story_.faults) {
      Line row;
      row.add(" ");
      const bool bad = fault.failed || !fault.residue.empty();
      if (bad) {
        row.add(marks_.no, Paint::kBad);
      } else if (fault.reverted) {
        row.add(marks_.yes, Paint::kGood);
      } else {
        row.add(fault.applied ? marks_.running : marks_.waiting, Paint::kWarn);
      }
      row.pad_to(1 + columns_of(marks_.yes) + 1);
      int begin = row.columns();
      row.add(Line().add(safe(fault_name(fault))).text({.utf8 = style_.utf8}, names))
          .pad_to(begin + names + 2);
      begin = row.columns();
      row.add(Line().add(safe(fault.node)).text({.utf8 = style_.utf8}, nodes))
          .pad_to(begin + nodes + 2);
      state(row, fault);
      put(row, bad                    ? Rank::kKept
               : is_over(fault)       ? Rank::kOver
               : acting++ < kMostKept ? Rank::kFault
                                      : Rank::kMoreFaults);
    }
  }

  void state(Line& row, const FaultStory& fault) const {
    if (fault.failed) {
      row.add(safe(fault.failure), Paint::kBad);
    } else if (!fault.residue.empty()) {
      row.add("left behind: " + safe(fault.residue.front()), Paint::kBad);
    } else if (fault.reverted) {
      row.add(fmt::format("{}, verified clean", safe(over_text(fault))), Paint::kGood);
      if (!fault.evidence_words.empty()) row.add("  " + safe(fault.evidence_words), Paint::kDim);
    } else if (fault.effect_ended) {
      row.add("effect ended, verifying", Paint::kWarn);
    } else if (!fault.applied) {
      row.add("injecting");
    } else {
      const std::string seen =
          safe(fault.evidence_words.empty() ? "no effect seen yet" : fault.evidence_words);
      if (fault.lasts_ms > 0) {
        const double lasts = fault.lasts_ms / 1000;
        const double left = std::clamp(lasts - (elapsed_ - fault.applied->elapsed), 0.0, lasts);
        const std::string words = fmt::format("{} left  ", clock_text(std::ceil(left)));
        Line drawn;
        bar(drawn, 1 - left / lasts);
        // The drawing gives way to what the fault does.
        const int needed = row.columns() + drawn.columns() + 1 + columns_of(words + seen);
        if (needed <= style_.width) {
          bar(row, 1 - left / lasts);
          row.add(" ");
        }
        row.add(words);
      }
      row.add(seen, Paint::kDim);
    }
  }

  void nodes() {
    bool first = true;
    for (const NodeStory& node : story_.nodes) {
      const auto say = [&](const std::string& words) {
        if (first) gap();
        first = false;
        put(Line()
                .add(" ")
                .add(marks_.no, Paint::kBad)
                .add(" ")
                .add(safe(node.name) + ": " + safe(words)));
      };
      if (node.lost) say("lost: " + node.lost_reason);
      for (const std::string& refusal : node.refusals) say("refused " + refusal);
      for (const std::string& left : node.residue) say("left behind: " + left);
    }
  }

  /// The latest; all of them are in the reports.
  void notes() {
    if (story_.notes.empty()) return;
    gap();
    const std::size_t first =
        story_.notes.size() > kMostNotes ? story_.notes.size() - kMostNotes : 0;
    for (std::size_t n = first; n < story_.notes.size(); ++n) {
      const NoteStory& note = story_.notes[n];
      put(Line()
              .add(fmt::format(" {} ", marks_.note), Paint::kWarn)
              .add(clock_text(note.moment.elapsed) + "  ")
              .add(safe(note_text(note)))
              .add("  " + safe(note.by), Paint::kDim),
          n + 1 < story_.notes.size() ? Rank::kOver : Rank::kKept);
    }
  }

  void end() {
    if (!story_.ended) return;
    gap();
    const bool held = story_.ended->verdict() == v1::HELD;
    const Paint paint = held ? Paint::kGood : Paint::kBad;
    put(Line()
            .add(" ")
            .add(held ? marks_.yes : marks_.no, paint)
            .add(" ")
            .add(verdict_text(story_.ended->verdict()), paint));
  }

  /// A picture taller than the terminal could not be drawn over.
  std::vector<std::string> fitted() {
    const auto room = static_cast<std::size_t>(std::max(style_.height - 1, 1));
    std::size_t checks = 0;
    std::size_t faults = 0;
    std::size_t others = 0;
    const auto total = [&] { return rows_.size() + (checks + faults + others > 0 ? 1 : 0); };
    while (total() > room && rows_.size() > 1) {
      // The last of the least.
      const auto least =
          std::min_element(rows_.rbegin(), rows_.rend(),
                           [](const Row& one, const Row& other) { return one.rank < other.rank; });
      switch (least->rank) {
        case Rank::kCheck:
        case Rank::kMoreChecks:
          ++checks;
          break;
        case Rank::kFault:
        case Rank::kMoreFaults:
          ++faults;
          break;
        case Rank::kGap:
          break;
        default:
          ++others;
      }
      rows_.erase(std::next(least).base());
    }
    std::vector<std::string> lines;
    for (const Row& row : rows_) lines.push_back(row.line.text(style_, style_.width));
    if (checks + faults + others == 0 || lines.size() >= room) return lines;
    std::vector<std::string> words;
    const auto say = [&words](std::size_t count, const char* what) {
      if (count > 0)
        words.push_back(fmt::format("{} more {}{}", count, what, count == 1 ? "" : "s"));
    };
    say(checks, "check");
    if (checks > 0) words.back() += checks == 1 ? " that holds" : " that hold";
    say(faults, "fault");
    say(others, "line");
    lines.push_back(Line()
                        .add(fmt::format(" and {}", fmt::join(words, ", ")), Paint::kDim)
                        .text(style_, style_.width));
    return lines;
  }

  const Story& story_;
  double elapsed_;
  Style style_;
  const Marks& marks_;
  std::vector<Row> rows_;
};

}  // namespace

std::vector<std::string> picture(const Story& story, double elapsed, const Style& style) {
  return Picture(story, elapsed, style).lines();
}

std::string plain_line(const Story& story, const v1::Event& event, const Style& style) {
  const Marks& marks = marks_of(style);
  const auto safe = [&](std::string_view text) { return shown(text, style); };
  const auto yes = [&](const std::string& words) { return fmt::format("{} {}", marks.yes, words); };
  const auto no = [&](const std::string& words) { return fmt::format("{} {}", marks.no, words); };
  const auto residue = [&](const auto& left) {
    std::string words;
    for (const std::string& one : left) words += (words.empty() ? "" : "; ") + safe(one);
    return words;
  };
  const auto fault = [&](const std::string& id) {
    for (const FaultStory& one : story.faults) {
      if (one.id == id) return safe(fault_name(one) + " on " + one.node);
    }
    return safe(id);
  };
  switch (event.event_case()) {
    case v1::Event::kRunStarted:
      return fmt::format("run {}: {} (seed {})", safe(story.run.run()), safe(story.run.plan()),
                         story.run.seed());
    case v1::Event::kPhaseStarted:
      return "phase: " + phase_text(event.phase_started().phase());
    case v1::Event::kNodeConnected: {
      const v1::NodeConnected& node = event.node_connected();
      std::string words = fmt::format("node {} connected: {}, kernel {}", safe(node.node()),
                                      safe(node.address()), safe(node.kernel()));
      if (node.recovered_size() > 0) words += "; swept at its start: " + residue(node.recovered());
      return words;
    }
    case v1::Event::kNodeLost:
      return no(fmt::format("node {} lost: {}", safe(event.node_lost().node()),
                            safe(event.node_lost().reason())));
    case v1::Event::kPreflighted: {
      const v1::Preflighted& told = event.preflighted();
      if (!told.refused()) {
        if (told.notes().empty()) return "";
        return fmt::format("node {}, {}: {}", safe(told.node()), safe(told.fault()),
                           residue(told.notes()));
      }
      return no(fmt::format("node {} refuses {}: {}", safe(told.node()), safe(told.fault()),
                            safe(told.message())));
    }
    case v1::Event::kCheckAsked: {
      // Only what changed: the first answer, and each time it begins or ceases to hold.
      const v1::CheckAsked& asked = event.check_asked();
      const std::string name = placed_name(asked.check(), asked.from());
      const auto check = std::ranges::find(story.checks, name, &CheckStory::name);
      if (check == story.checks.end() || !check->changed) return "";
      const std::string words =
          fmt::format("check {} {}: {}", safe(name), asked.holds() ? "holds" : "does not hold",
                      safe(asked.observed()));
      return asked.holds() ? yes(words) : no(words);
    }
    case v1::Event::kCheckBreached: {
      const v1::CheckBreached& told = event.check_breached();
      return no(fmt::format("check {} breached: {}, expected {}{}", safe(told.check()),
                            safe(told.observed()), safe(told.expectation()),
                            told.aborts() ? "" : " (noted only)"));
    }
    case v1::Event::kCheckHeldAgain:
      return yes(fmt::format("check {} holds again", safe(event.check_held_again().check())));
    case v1::Event::kStepStarted: {
      const v1::StepStarted& told = event.step_started();
      std::string words = "step: " + safe(told.step());
      if (told.lasts_ms() > 0) words += " for " + ms_text(told.lasts_ms());
      return words;
    }
    case v1::Event::kAsked:
      return fmt::format("{} {}", marks.note, safe(event.asked().question()));
    case v1::Event::kAnswered: {
      const v1::Answered& told = event.answered();
      const std::string words =
          fmt::format("answered with {} by {}", told.yes() ? "yes" : "no", safe(told.by()));
      return told.yes() ? yes(words) : no(words);
    }
    case v1::Event::kAttempted: {
      const v1::Attempted& told = event.attempted();
      return told.held() ? yes(safe(told.value()) + " holds")
                         : no(fmt::format("{} breaks {}", safe(told.value()), safe(told.words())));
    }
    case v1::Event::kFound:
      return yes("found: " + safe(event.found().words()));
    case v1::Event::kFaultInjecting:
      return fmt::format("injecting {}", fault(event.fault_injecting().fault()));
    case v1::Event::kFaultApplied: {
      const v1::FaultActed& told = event.fault_applied();
      return fmt::format("{} applied {} in {}", marks.running, fault(told.fault()),
                         ms_text(told.took_ms()));
    }
    case v1::Event::kFaultEffectEnded: {
      const v1::FaultActed& told = event.fault_effect_ended();
      std::string words = "effect ended: " + fault(told.fault());
      for (const FaultStory& one : story.faults) {
        if (one.id == told.fault() && !one.evidence_words.empty())
          words += ": " + safe(one.evidence_words);
        if (one.id == told.fault() && one.ended_by_hand())
          words += " (" + safe(one.end_reason) + ")";
      }
      return words;
    }
    case v1::Event::kHostChanged: {
      const v1::HostChanged& told = event.host_changed();
      return fmt::format("{}: {} now stands for {}", fault(told.fault()), safe(told.host()),
                         told.addresses().empty()
                             ? "nothing"
                             : safe(fmt::format("{}", fmt::join(told.addresses(), ", "))));
    }
    case v1::Event::kFaultReverted: {
      const v1::FaultRevertedEvent& told = event.fault_reverted();
      if (told.residue_size() > 0) {
        return no(fmt::format("{} left behind: {}", fault(told.fault()), residue(told.residue())));
      }
      const auto one = std::ranges::find(story.faults, told.fault(), &FaultStory::id);
      return yes(
          fmt::format("{}, verified clean: {}",
                      one == story.faults.end() ? std::string("reverted") : safe(over_text(*one)),
                      fault(told.fault())));
    }
    case v1::Event::kFaultFailed: {
      const v1::FaultFailedEvent& told = event.fault_failed();
      std::string words = fmt::format("{} failed: {}", fault(told.fault()), safe(told.message()));
      if (told.residue_size() > 0) words += "; left behind: " + residue(told.residue());
      return no(words);
    }
    case v1::Event::kNodeSettled: {
      const v1::NodeSettled& told = event.node_settled();
      if (told.residue_size() > 0) {
        return no(
            fmt::format("node {}: left behind: {}", safe(told.node()), residue(told.residue())));
      }
      return yes(fmt::format("node {} is as it was", safe(told.node())));
    }
    case v1::Event::kAbortDecided:
      return no("ABORT: " + safe(event.abort_decided().words()));
    case v1::Event::kRecovered:
      return yes("every check holds again after " + ms_text(event.recovered().after_ms()));
    case v1::Event::kRunEnded: {
      const v1::RunEnded& told = event.run_ended();
      const std::string words = verdict_text(told.verdict()) + ": " + safe(told.sentence());
      return told.verdict() == v1::HELD ? yes(words) : no(words);
    }
    case v1::Event::kNoted: {
      const v1::Noted& told = event.noted();
      const NoteStory note{{}, told.by(), told.kind(), told.text()};
      return fmt::format("{} {} ({})", marks.note, safe(note_text(note)), safe(note.by));
    }
    case v1::Event::kFaultEvidence:
    case v1::Event::kStepEnded:
    case v1::Event::kLoadEnded:
    case v1::Event::EVENT_NOT_SET:
      break;
  }
  return "";
}

}  // namespace squall::report
