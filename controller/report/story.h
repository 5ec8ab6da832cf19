/// \file
/// What the events of a run add up to so far: per check, fault and node, what is known of it. The
/// one reading of the events, shared by every screen and report, so that no two of them can tell a
/// run differently.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

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
  std::string text;             ///< As the plan has it.
  std::optional<double> bound;  ///< Of `metric < bound`: milliseconds, percent or plain.
  std::string worst;            ///< The worst seen, in words: p99 148ms. Empty: never judged.
  std::optional<double> worst_number;
  bool ever_false = false;
  bool breached = false;  ///< `worst` is what breached it.
  std::string latest;     ///< In any phase.
  std::optional<double> latest_number;
  bool holds = true;  ///< The latest.
};

struct BreachStory {
  Moment moment;
  std::string expectation;
  std::string observed;
  bool aborts = false;
  double since_ms = 0;
  std::optional<Moment> held_again;
};

struct CheckStory {
  std::string name;
  std::string kind;
  double every_ms = 0;
  std::vector<ExpectationStory> expect;
  std::uint64_t asked = 0;
  std::uint64_t answered = 0;
  std::vector<double> latencies_ms;  ///< Of the answered, in order of asking.
  bool holds = false;                ///< The latest answer.
  bool changed = false;  ///< It differs in that from the one before; true for the first.
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

/// A person's observation.
struct NoteStory {
  Moment moment;
  std::string by;    ///< user@host
  std::string kind;  ///< detected, mitigated, recovered; empty: free words.
  std::string text;  ///< May be empty where `kind` says it.
};

/// What a note says, in one line: detected: customers are calling.
std::string note_text(const NoteStory& note);

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
  std::optional<v1::Asked> question;    ///< That waits for its answer.
  std::vector<v1::Attempted> attempts;  ///< Of the search, in their order.
  std::optional<v1::Found> answer;      ///< What it came to.
  std::vector<NoteStory> notes;         ///< In the order of their times.
  std::optional<v1::AbortDecided> abort;
  Moment abort_at;
  std::size_t acting_at_abort = 0;  ///< Faults whose effect had not ended by then.
  std::optional<double> recovered_after_ms;
  std::optional<v1::RunEnded> ended;

  v1::Phase phase() const { return phases.empty() ? v1::PREFLIGHT : phases.back().first; }
  bool reached(v1::Phase phase) const;

  /// Whether a check ended as it should: never broken, and true when the steady state was proven or
  /// had to be again.
  bool stands(const CheckStory& check) const;

  /// Whether an expectation kept the steady state from being proven.
  bool kept_from_steady(const ExpectationStory& one) const;

 private:
  CheckStory& check(const std::string& name);
  FaultStory& fault(const std::string& id, const std::string& node);
  NodeStory& node(const std::string& name);
  void take_asked(const v1::CheckAsked& asked);
  void take_attempted(const v1::Attempted& attempted);
  void take_note(NoteStory note);
  void take_fault(const v1::Event& event, const Moment& moment);

  std::map<std::string, std::size_t> check_index_, fault_index_, node_index_;
};

/// What a fault did, from its evidence: 412 packets matched. Empty where there is none.
std::string evidence_text(const v1::Evidence& evidence);

/// held, breached, not steady
std::string verdict_text(v1::Verdict verdict);

/// preflight, steady, method
std::string phase_text(v1::Phase phase);

/// What an observation says beside the name of its metric: 148ms of "p99 148ms".
std::string without_metric(const std::string& observed, const std::string& expectation);

}  // namespace squall::report
