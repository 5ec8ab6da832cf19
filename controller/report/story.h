/// \file
/// What the events of a run add up to so far: per check, fault and node, what is known of it. The
/// one reading of the events, shared by every screen and report, so that no two of them can tell a
/// run differently. However long a run lasts, what is kept of it is bounded by what its plan names
/// and by what happened to it, and not by how often a check was asked.
#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "controller/report/figures.h"
#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"

namespace squall::report {

/// A moment of the run, both ways.
struct Moment {
  std::string at;      ///< RFC 3339, UTC
  double elapsed = 0;  ///< Seconds since the run's first event.
};

/// One expectation of a check. What is kept is of the time in which it counted: the method, or the
/// proving of the steady state in a run that came no further.
struct ExpectationStory {
  explicit ExpectationStory(std::string as_planned);

  std::string text;    ///< As the plan has it.
  std::string metric;  ///< Its first word, and its second.
  std::string op;
  std::optional<double> bound;  ///< Of `metric < bound`: milliseconds, percent or plain.
  std::string worst;            ///< The worst seen, in words: p99 148ms. Empty: never judged.
  std::optional<double> worst_number;
  bool ever_false = false;
  bool breached = false;  ///< `worst` is what breached it.
  std::string latest;     ///< In any phase.
  std::optional<double> latest_number;
  bool holds = true;  ///< The latest.

  /// Whether its metric is a latency or a percentile of them.
  bool is_time() const;
};

struct BreachStory {
  Moment moment;
  std::string expectation;
  std::string observed;
  bool aborts = false;
  double since_ms = 0;
  std::optional<Moment> held_again;
};

/// A check as asked from one place: where several nodes ask it, each has a story of its own. Or a
/// load, whose numbers are told as a check's.
struct CheckStory {
  std::string name;   ///< As reports call it: shop answers from web-1.
  std::string check;  ///< As the plan does: shop answers.
  std::string from;   ///< The node that asks; empty: squall does.
  std::string kind;
  bool is_load = false;
  double every_ms = 0;
  std::vector<ExpectationStory> expect;
  std::uint64_t asked = 0;
  std::uint64_t answered = 0;
  Percentiles latencies_ms;  ///< Of the answered.
  bool holds = false;        ///< The latest answer.
  bool changed = false;      ///< It differs in that from the one before; true for the first.
  std::string observed;
  std::string error;
  std::map<v1::Phase, bool> held_at_end_of;  ///< Of a phase: the latest answer in it.
  std::vector<BreachStory> breaches;

  /// One point of the sparkline: the watched metric, nothing where it was unanswered.
  struct Point {
    std::optional<double> number;
    bool holds = false;
  };
  std::deque<Point> recent;
  Curve curve;  ///< The watched metric over the whole run.

  /// Whether a breach counted against the run: one that is only noted does not.
  bool broke() const;

  /// The expectation whose metric is watched: the first with a percentile or a latency, else the
  /// first with a number.
  const ExpectationStory* watched() const;

  /// Nearest rank over every answered asking of the run. Nothing without one.
  std::optional<double> latency_percentile_ms(double percent) const;
};

/// Of a fault that a person ended by hand, the beginning of why it ended; who it was follows.
inline constexpr std::string_view kRevertedBy = "reverted by ";

struct FaultStory {
  std::string id, node, step, kind, words;
  double lasts_ms = 0;
  Moment injecting;
  std::optional<Moment> applied, effect_ended, reverted, failed;
  double apply_took_ms = 0, end_took_ms = 0, revert_took_ms = 0;
  std::optional<v1::Evidence> evidence;  ///< The latest.
  std::string evidence_words;
  std::string end_reason;
  std::string failure;
  std::vector<std::string> residue;
  bool effect_seen = false;      ///< At any time: a fault may end with nothing, as it was meant to.
  bool cut_short = false;        ///< The run was aborted, or a person ended it, while it was held.
  bool acted_elsewhere = false;  ///< Another part of the same partition did.

  bool acted() const { return effect_seen; }
  /// It had its time and nothing shows that it did anything. A fault that was cut short had not.
  bool without_effect() const { return !acted() && !acted_elsewhere && !cut_short; }
  /// Nothing shows that it did anything, and the run's abort left it no time to.
  bool without_effect_yet() const { return applied && !failed && !acted() && cut_short; }
  bool clean() const { return reverted && residue.empty(); }
  bool ended_by_hand() const { return end_reason.starts_with(kRevertedBy); }
  /// What is over as soon as it is done, as a kill: nothing of it can be reverted.
  bool at_once() const { return lasts_ms <= 0; }

  /// How long its end took on the node. Nothing where nobody asked for it, as there is nothing to
  /// measure from.
  std::optional<double> ending_ms() const;
  /// How long it took to be read back: as the node told, else from the end of its effect as seen
  /// here. Nothing where neither is known.
  std::optional<double> reverting_ms() const;
};

/// The whole of a load, as it was told at its end.
struct LoadStory {
  Moment moment;
  v1::LoadEnded told;
};

/// A person's observation.
struct NoteStory {
  Moment moment;
  std::string by;    ///< user@host
  std::string kind;  ///< detected, mitigated, recovered; empty: free words.
  std::string text;  ///< May be empty where `kind` says it.
};

/// What a note says, in one line: detected: customers are calling.
std::string note_text(const NoteStory& note);

/// What a step asked a person.
struct QuestionStory {
  Moment asked;
  std::string question;
  std::optional<Moment> answered;
  bool yes = false;
  std::string by;
};

struct NodeStory {
  std::string name, address, kernel;
  bool netem = false;
  std::vector<std::string> recovered;
  std::optional<Moment> lost;
  std::string lost_reason;
  std::vector<std::string> refusals;  ///< Of preflight: fault and why.
  std::vector<v1::Preflighted> preflighted;
  bool settled = false;
  std::vector<std::string> residue, changed_by_others;
};

struct StepStory {
  std::string words, place;
  double lasts_ms = 0;
  std::vector<std::string> nodes;
  Moment started;
  std::optional<Moment> ended;
};

/// A check as asked from a node, empty: by squall, in words: shop answers from web-1.
std::string placed_name(const std::string& check, const std::string& from);

class Story {
 public:
  Story() = default;
  explicit Story(std::span<const v1::Event> events);

  /// Events out of any order, or of a later version, are taken as they come: a report of a bad log
  /// is better than none.
  void take(const v1::Event& event);

  v1::RunStarted run;
  std::optional<Moment> started;
  Moment latest;
  std::vector<std::pair<v1::Phase, Moment>> phases;
  std::vector<CheckStory> checks;
  std::vector<FaultStory> faults;
  std::vector<NodeStory> nodes;
  std::vector<StepStory> steps;
  std::vector<LoadStory> loads;
  std::vector<NoteStory> notes;  ///< In the order of their times.
  std::vector<QuestionStory> questions;
  std::optional<v1::Asked> question;    ///< That waits for its answer.
  std::vector<v1::Attempted> attempts;  ///< Of the search, in their order.
  std::optional<v1::Found> answer;      ///< What it came to.
  Moment answer_at;
  std::optional<v1::AbortDecided> abort;
  Moment abort_at;
  std::size_t acting_at_abort = 0;  ///< Faults whose effect had not ended by then.
  std::optional<double> recovered_after_ms;
  std::optional<Moment> recovered_at;
  std::optional<v1::RunEnded> ended;
  std::optional<Moment> ended_at;

  v1::Phase phase() const { return phases.empty() ? v1::PREFLIGHT : phases.back().first; }
  bool reached(v1::Phase phase) const;

  /// When the run ended, as far as the log tells: notes may be taken after it.
  const Moment& end() const { return ended_at ? *ended_at : latest; }

  /// What the run came to, in one sentence: cause, check, observed, expected, node, time.
  std::string sentence() const;

  /// held, breached; lost where the log ends without a verdict.
  std::string verdict() const;

  /// How long it took to detect, to abort and to recover: as the run's end tells, and what it does
  /// not tell, as the events do.
  v1::RunTimes times() const;

  /// What a load came to, once it has ended.
  const LoadStory* load(const std::string& name) const;

  /// Whether a check ended as it should: never broken, and true when the steady state was proven or
  /// had to be again.
  bool stands(const CheckStory& check) const;

  /// Whether an expectation kept the steady state from being proven.
  bool kept_from_steady(const ExpectationStory& one) const;

 private:
  CheckStory& check(const std::string& name, const std::string& from);
  std::vector<CheckStory*> asked_as(const std::string& check);
  void take_started(const v1::RunStarted& told);
  void take_breached(const v1::CheckBreached& told, const Moment& moment);
  FaultStory& fault(const std::string& id, const std::string& node);
  NodeStory& node(const std::string& name);
  void take_asked(const v1::CheckAsked& asked, double elapsed);
  void take_attempted(const v1::Attempted& attempted);
  void take_note(NoteStory note);
  void take_fault(const v1::Event& event, const Moment& moment);

  std::unordered_map<std::string, std::size_t> check_index_, fault_index_, node_index_;
  std::vector<std::size_t> open_steps_;
  std::string key_;  ///< Of check_index_, used again and again.
};

/// Reads a log as the story that it tells, without ever holding more of it than that. Errors: as
/// read_events.
StatusOr<Story> read_story(const std::filesystem::path& log);

/// What a fault did, from its evidence: 412 packets matched. Empty where there is none.
std::string evidence_text(const v1::Evidence& evidence);

/// held, breached, not steady
std::string verdict_text(v1::Verdict verdict);

/// preflight, steady, method
std::string phase_text(v1::Phase phase);

/// What an observation says beside the name of its metric: 148ms of "p99 148ms".
std::string without_metric(const std::string& observed, const std::string& expectation);

}  // namespace squall::report
