/// \file
/// Holds samples against a check's expectations: windows, percentiles, error rates, how long
/// something was false. No clock and no sockets of its own: time comes with the samples, so every
/// case is a plain test.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/checks/check.h"

namespace squall::checks {

/// An expectation that does not hold, or does not hold any more.
struct Breach {
  std::string expectation;  ///< As the plan has it.
  std::string observed;     ///< p99 412ms
  Duration since{};         ///< How long it had been false.
};

/// How one expectation stands.
struct Finding {
  std::string observed;  ///< p99 148ms; no data
  bool holds = false;
  std::optional<double> number;  ///< The metric: milliseconds, percent, or plain. None where it is
                                 ///< text or unanswered.
};

/// Whether a number in base units is what an expectation wants that compares with numbers alone.
bool accepts(const v1::Expectation& wanted, double number);

class Judge {
 public:
  explicit Judge(const v1::Check& check);
  ~Judge();

  /// Takes a sample into account. Samples come in the order of `asked`.
  void add(const Sample& sample);

  /// Whether every expectation holds at `now`, whatever its `for`: what the steady state is proven
  /// by. Until the baselines are known, one that needs its own holds if there is a number to make
  /// it of.
  bool holds(MonotonicTime now) const;

  /// The first expectation that counts as breached at `now`: false for as long as its `for` says,
  /// or without data for two intervals where no_data says so.
  std::optional<Breach> breached(MonotonicTime now);

  /// How every expectation stands at `now`, in the plan's order: what a CheckAsked event tells
  /// beside the answer.
  std::vector<Finding> findings(MonotonicTime now) const;

  /// Whether there is enough data to say: every window has at least three samples, every other
  /// expectation one, every baseline a number.
  bool ready(MonotonicTime now) const;

  /// The longest window in which something is counted: how long it may take until there was enough
  /// of it.
  Duration longest_count() const;

  /// Ends the proving of the steady state: medians of what was seen so far become the baselines,
  /// and the windows begin anew so that nothing from before is held against the method. What is
  /// counted in one, as lines of a log, still counts where there must be enough of it.
  void start_watching(MonotonicTime now);

  /// Forgets the windows: after a revert, recovery is judged by what is asked from `now` on.
  void restart(MonotonicTime now);

  /// The watched value of the latest sample in words: 200 in 3.2ms.
  std::string observed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squall::checks
