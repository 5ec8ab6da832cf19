/// \file
/// The summary at the end of a run, in the manner of k6: dotted leaders, one mark per line, one
/// verdict.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "controller/report/chronicle.h"
#include "controller/report/reports.h"
#include "controller/report/story.h"
#include "controller/report/text.h"

namespace squall::report {
namespace {

class Summary {
 public:
  Summary(const Story& story, const Style& style)
      : story_(story), style_(style), marks_(marks_of(style)) {}

  std::string text(const std::vector<std::pair<std::string, std::filesystem::path>>& files) {
    leader_ = leader_column(files);
    verdict(true);
    head();
    checks();
    faults();
    nodes();
    search();
    abort();
    recovery();
    run_as_a_whole();
    notes();
    line({});
    verdict(false);
    if (!files.empty()) line({});
    for (const auto& [what, path] : files) {
      Line one;
      one.add("  ").add(safe(what)).pad_to(10, ' ').add(safe(path.string()), Paint::kDim);
      // Never cut: it is there to be copied.
      out_ += one.text(style_) + "\n";
    }
    return out_;
  }

 private:
  std::string safe(std::string_view text) const { return shown(text, style_); }

  /// What is read in a log or copied is never cut; it goes on at `indent`.
  void line(const Line& one, int indent = 8) {
    for (const Line& part : one.folded(style_.width, indent)) out_ += part.text(style_) + "\n";
  }

  void title(std::string_view words) {
    line({});
    line(Line().add("  ").add(words, Paint::kBold));
  }

  /// Where the dots end: behind the longest name, but in the left half.
  int leader_column(const std::vector<std::pair<std::string, std::filesystem::path>>&) const {
    int longest = 0;
    for (const CheckStory& check : story_.checks) {
      longest = std::max(longest, columns_of(safe(check.name)) + 6);
      for (const ExpectationStory& one : check.expect) {
        longest = std::max(longest, columns_of(safe(one.text)) + 8);
      }
    }
    for (const FaultStory& fault : story_.faults) {
      longest = std::max(longest, columns_of(safe(fault_title(fault))) + 6);
    }
    return std::clamp(longest + 4, 30, std::max(30, style_.width * 3 / 5));
  }

  Line marked(int indent, Paint paint, std::string_view mark) const {
    Line one;
    one.add(std::string(static_cast<std::size_t>(indent), ' ')).add(mark, paint).add(" ");
    return one;
  }

  Line good(int indent) const { return marked(indent, Paint::kGood, marks_.yes); }
  Line bad(int indent) const { return marked(indent, Paint::kBad, marks_.no); }
  Line neither(int indent) const { return marked(indent, Paint::kWarn, marks_.waiting); }

  Line& dots(Line& one) const {
    one.add(" ", Paint::kDim);
    return one.pad_to(leader_ - 1, '.', Paint::kDim, 3).add(" ");
  }

  void more(int indent, std::string_view text, Paint paint = Paint::kDim) {
    for (const std::string& part : wrapped(text, std::max(style_.width - indent, 20))) {
      line(Line().add(std::string(static_cast<std::size_t>(indent), ' ')).add(part, paint));
    }
  }

  void head() {
    line({});
    line(Line().add("  ").add(
        safe(story_.run.plan().empty() ? "a run without a beginning" : story_.run.plan()),
        Paint::kBold));
    if (!story_.run.hypothesis().empty()) more(2, safe(story_.run.hypothesis()));
    Line facts;
    facts.add("  ").add("run " + safe(story_.run.run()), Paint::kDim);
    const std::string dot = fmt::format(" {} ", marks_.dot);
    facts.add(
        fmt::format("{}{} node{}", dot, story_.nodes.size(), story_.nodes.size() == 1 ? "" : "s"),
        Paint::kDim);
    facts.add(fmt::format("{}seed {}", dot, story_.run.seed()), Paint::kDim);
    facts.add(dot + ms_text(duration_ms()), Paint::kDim);
    if (!story_.run.version().empty())
      facts.add(dot + "squall " + safe(story_.run.version()), Paint::kDim);
    line(facts, 2);
  }

  double duration_ms() const {
    return story_.ended ? story_.ended->duration_ms() : story_.end().elapsed * 1000;
  }

  void search() {
    if (story_.attempts.empty()) return;
    title("search");
    for (const v1::Attempted& attempt : story_.attempts) {
      Line one = attempt.held() ? good(2) : bad(2);
      one.add(safe(attempt.value()));
      dots(one).add(attempt.held() ? "holds" : "breaks " + safe(attempt.words()));
      line(one);
    }
    if (story_.answer) {
      more(2,
           safe(fmt::format("{}, to within {}", story_.answer->words(),
                            story_.answer->resolution())),
           Paint::kBold);
    }
  }

  void checks() {
    title("checks");
    if (story_.checks.empty()) line(neither(2).add("none: nothing was observed"));
    for (const CheckStory& check : story_.checks) {
      const bool noted = !check.breaches.empty() && !check.broke();
      const bool never = check.asked == 0;
      Line head = never                   ? neither(2)
                  : !story_.stands(check) ? bad(2)
                  : noted                 ? marked(2, Paint::kWarn, marks_.note)
                                          : good(2);
      head.add(safe(check.name));
      dots(head);
      if (never) {
        line(head.add("never asked"));
        continue;
      }
      head.add(fmt::format("{} asked, ", check.asked));
      const std::uint64_t unanswered = check.asked - check.answered;
      head.add(unanswered == 0 ? "all answered" : fmt::format("{} unanswered", unanswered),
               unanswered == 0 ? Paint::kPlain : Paint::kWarn);
      line(head);
      if (const LoadStory* load = check.is_load ? story_.load(check.check) : nullptr) {
        more(6, safe(load->told.words()));
      } else if (const auto middle = check.latency_percentile_ms(50)) {
        const std::string dot = fmt::format(" {} ", marks_.dot);
        more(6, "med " + ms_text(*middle) + dot + "p99 " +
                    ms_text(*check.latency_percentile_ms(99)) + dot + "max " +
                    ms_text(*check.latency_percentile_ms(100)));
      }
      for (const ExpectationStory& one : check.expect) expectation(one, noted);
      if (noted) more(6, "only noted, as its on_breach says; the run went on");
    }
  }

  void expectation(const ExpectationStory& one, bool noted) {
    const bool judged = !one.worst.empty();
    const bool unsteady = story_.kept_from_steady(one);
    const bool broken = (one.breached && !noted) || unsteady;
    Line row = broken         ? bad(4)
               : one.breached ? marked(4, Paint::kWarn, marks_.note)
               : judged       ? good(4)
                              : neither(4);
    row.add(safe(one.text));
    dots(row);
    const std::string& words = unsteady ? one.latest : one.worst;
    row.add(judged ? safe(without_metric(words, one.text)) : "not judged",
            broken ? Paint::kBad : Paint::kPlain);
    if (one.ever_false && !one.breached && !unsteady) {
      row.add(" (briefly false)", Paint::kWarn);
    }
    line(row);
  }

  void faults() {
    title("faults");
    if (story_.faults.empty()) line(neither(2).add("none was injected"));
    for (const FaultStory& fault : story_.faults) {
      const bool fine = fault.applied && !fault.failed && fault.clean() && !fault.without_effect();
      Line head = fine ? good(2) : bad(2);
      head.add(safe(fault_title(fault)));
      dots(head);
      if (fault.failed) {
        head.add("failed", Paint::kBad);
      } else if (!fault.applied) {
        head.add("never applied", Paint::kBad);
      } else if (fault.without_effect()) {
        head.add("no effect", Paint::kBad);
        if (!fault.evidence_words.empty()) head.add(": " + safe(fault.evidence_words));
      } else if (!fault.acted()) {
        head.add(fault.ended_by_hand() ? "none yet (ended by hand)" : "none yet (aborted)");
      } else {
        head.add(safe(fault.evidence_words));
      }
      line(head);
      if (fault.failed) more(6, safe(fault.failure), Paint::kBad);
      if (fault.applied) times(fault);
      for (const std::string& left : fault.residue) {
        more(6, "left behind: " + safe(left), Paint::kBad);
      }
    }
  }

  void times(const FaultStory& fault) {
    const std::string dot = fmt::format(" {} ", marks_.dot);
    std::string text = "applied in " + ms_text(fault.apply_took_ms);
    if (fault.effect_ended && !fault.at_once()) {
      text += dot;
      const auto took = fault.ending_ms();
      text += took ? "effect ended in " + ms_text(*took) : "effect ended";
      if (!fault.end_reason.empty()) text += " (" + safe(fault.end_reason) + ")";
    }
    if (fault.reverted) {
      text += dot + (fault.residue.empty() ? "verified clean" : "not clean");
      if (const auto took = fault.reverting_ms()) text += " in " + ms_text(*took);
    } else if (!fault.failed) {
      text += dot + "never verified clean";
    }
    more(6, text, fault.reverted || fault.failed ? Paint::kDim : Paint::kBad);
  }

  void nodes() {
    bool titled = false;
    const auto say = [&](const NodeStory& node, const std::string& words, bool grave) {
      if (!titled) title("nodes");
      titled = true;
      Line row = grave ? bad(2) : marked(2, Paint::kWarn, marks_.note);
      line(row.add(safe(node.name)).add(": ").add(safe(words)), 4);
    };
    for (const NodeStory& node : story_.nodes) {
      if (node.lost) say(node, "lost: " + node.lost_reason, true);
      for (const std::string& refusal : node.refusals) say(node, "refused " + refusal, true);
      for (const std::string& left : node.residue) say(node, "left behind: " + left, true);
      for (const std::string& swept : node.recovered)
        say(node, "swept at its start: " + swept, false);
      for (const std::string& other : node.changed_by_others) {
        say(node, "changed by others: " + other, false);
      }
    }
  }

  void abort() {
    if (!story_.abort) return;
    title("abort");
    if (!story_.abort->words().empty()) more(4, safe(story_.abort->words()), Paint::kPlain);
    if (!story_.ended || !story_.ended->has_abort()) return;
    const v1::AbortTimes& times = story_.ended->abort();
    const std::string cause = story_.abort->cause().empty() ? "cause" : safe(story_.abort->cause());
    const std::string first = cause == "breach" ? "breach seen" : cause;
    const auto step = [&](std::string_view what, double ms) {
      // Zero is what a time has that was never reached: a node that could not be asked.
      return fmt::format(" {} {} {}", marks_.arrow, what, ms > 0 ? ms_text(ms) : "unproven");
    };
    more(4,
         first + fmt::format(" {} decided {}", marks_.arrow, ms_text(times.decided_ms())) +
             (story_.acting_at_abort == 0 ? fmt::format(" {} nothing was acting", marks_.arrow)
                                          : step("effect ended", times.effect_ended_ms())) +
             step("verified clean", times.verified_clean_ms()),
         Paint::kBold);
  }

  void recovery() {
    if (!story_.reached(v1::RECOVERY)) return;
    title("recovery");
    if (story_.recovered_after_ms) {
      Line row = good(2);
      row.add("every check holds again");
      line(dots(row).add("after " + ms_text(*story_.recovered_after_ms)));
      return;
    }
    for (const CheckStory& check : story_.checks) {
      const auto held = check.held_at_end_of.find(v1::RECOVERY);
      if (held != check.held_at_end_of.end() && held->second) continue;
      Line row = bad(2);
      row.add(safe(check.name));
      line(dots(row).add("does not hold: " + safe(check.observed), Paint::kBad));
    }
  }

  /// What the plan expects of the run itself, and how long what matters took.
  void run_as_a_whole() {
    const v1::RunTimes times = story_.times();
    const bool told = story_.ended && story_.ended->expect_size() > 0;
    if (!told && !times.has_to_detect_ms()) return;
    title("times");
    const auto time = [&](std::string_view what, bool is_known, double ms) {
      if (!is_known) return;
      Line row;
      row.add("    ").add(what);
      line(dots(row).add(ms_text(ms)));
    };
    time("to detect", times.has_to_detect_ms(), times.to_detect_ms());
    time("to abort", times.has_to_abort_ms(), times.to_abort_ms());
    time("to recover", times.has_to_recover_ms(), times.to_recover_ms());
    if (!told) return;
    for (const v1::RunExpectation& one : story_.ended->expect()) {
      Line row = one.holds() ? good(2) : bad(2);
      row.add(safe(one.expectation()));
      line(dots(row).add(safe(without_metric(one.observed(), one.expectation())),
                         one.holds() ? Paint::kPlain : Paint::kBad));
    }
  }

  void notes() {
    if (story_.notes.empty()) return;
    title("notes");
    for (const NoteStory& note : story_.notes) {
      Line row = marked(2, Paint::kWarn, marks_.note);
      row.add(clock_text(note.moment.elapsed) + "  ").add(safe(note_text(note)));
      line(row.add("  ").add(safe(note.by), Paint::kDim), 4);
    }
  }

  /// First, with the sentence that says it all; and last, where a terminal is looked at.
  void verdict(bool in_full) {
    const bool held = story_.ended && story_.ended->verdict() == v1::HELD;
    Line row = held ? good(2) : bad(2);
    row.add(story_.verdict(), held ? Paint::kGood : Paint::kBad);
    if (story_.ended) row.add(fmt::format(" (exit {})", story_.ended->exit_code()), Paint::kDim);
    if (in_full && !story_.sentence().empty()) row.add(": ").add(safe(story_.sentence()));
    line(row, 4);
  }

  const Story& story_;
  Style style_;
  const Marks& marks_;
  int leader_ = 40;
  std::string out_;
};

}  // namespace

std::string text_report(const Story& story, const Style& style,
                        const std::vector<std::pair<std::string, std::filesystem::path>>& files) {
  return Summary(story, style).text(files);
}

}  // namespace squall::report
