/// \file
/// The steady state under watch: asks every check at its own pace, from each of its vantage points,
/// tells what was answered, and says when a check is breached and when all of them hold. What a
/// breach leads to is the engine's.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/fleet/wake.h"
#include "experiments/base/clock.h"
#include "experiments/checks/check.h"
#include "experiments/checks/judge.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// A check that counts as breached, by the answer that made it so.
struct Breached {
  const v1::Check& check;
  const checks::Breach& breach;
  MonotonicTime asked;  ///< When that answer was asked for.
  MonotonicTime seen;   ///< When it was in.
};

/// What the watch needs of the run. Called on the loop.
struct WatchParts {
  /// Of a check that squall itself asks.
  std::function<std::unique_ptr<checks::Check>(const v1::Check&)> make_check;

  /// The nodes that ask a check; empty: squall does. They outlive the watch.
  std::function<std::vector<fleet::Node*>(const v1::Check&)> vantage_points;
  std::function<void(v1::Event)> tell;

  /// A check is breached that was not before. `first` is to be told, but need not be before what is
  /// done about it.
  std::function<void(const Breached& breached, std::vector<v1::Event> first)> on_breach;

  /// While a number is looked for, a breach that would abort is the answer to an attempt. Returns
  /// whether it was taken as one.
  std::function<bool(const v1::Check& check)> is_searched_for;
  std::function<void(const Breached& breached)> on_searched;

  /// A check's own code threw.
  std::function<void(const std::string& what)> on_internal;
};

/// For the loop's thread alone.
class Watch {
 public:
  Watch(const v1::Plan& plan, WatchParts parts);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// The numbers of a load, which are asked every second and judged as a check's. Only before
  /// ask_all().
  void add(const v1::Load& load, std::unique_ptr<checks::Check> numbers);

  /// Whether nothing is asked at all.
  bool empty() const { return watched_.empty(); }

  /// The checks as RunStarted names them.
  void describe(v1::RunStarted& start) const;

  /// Whether a check is asked from the node.
  bool asks_from(const fleet::Node& node) const;

  /// Asks once what is asked from the node, whatever the answer. Returns what the node will not
  /// ask, however often it is told to: each check's name and why.
  boost::asio::awaitable<std::vector<std::pair<std::string, Status>>> try_from(
      const fleet::Node& node);

  /// From here on nothing is asked from the node, so that its vantage points have no data, or it is
  /// again.
  void lost(const fleet::Node& node) { set_lost(node, true); }
  void reached(const fleet::Node& node) { set_lost(node, false); }

  /// Asks until cancelled. Where there is nothing to ask, waits for that all the same.
  boost::asio::awaitable<void> ask_all();

  /// What the answers are held against: baselines end with the METHOD's beginning, which is also
  /// when breaches begin to count.
  void enter(v1::Phase phase, MonotonicTime now);

  /// From here on no check is breached any more: the run is being ended.
  void stop_looking() { looking_ = false; }

  /// What was asked before is not held against what comes.
  void judge_from(MonotonicTime time);

  /// Every check, without waiting for its turn.
  void ask_now();

  /// How long it takes until every check has been answered often enough to say anything.
  Duration time_to_prove() const;

  /// Until every check has enough answers and holds; in the STEADY phase also from those vantage
  /// points that a quorum does without, if they answer by then. False: not by the deadline, or
  /// `stop` says so, which is asked after every answer and every notify().
  boost::asio::awaitable<bool> proven(MonotonicTime deadline, std::function<bool()> stop);
  void notify() { judged_.notify(); }

  /// A check that does not hold, and what speaks against it: observed 503, expected status == 200.
  struct Shortfall {
    std::string check;
    std::string words;
  };
  std::vector<Shortfall> shortfalls(MonotonicTime now) const;

 private:
  struct Vantage;
  struct Watched;

  boost::asio::awaitable<void> ask(Watched& watched, Vantage& vantage);
  void judge(Watched& watched, Vantage& vantage, const checks::Sample& sample, MonotonicTime seen);
  /// `there`: when the answer was, as its news is of; `seen`: now.
  void look(Watched& watched, Vantage& vantage, MonotonicTime asked, MonotonicTime there,
            MonotonicTime seen, std::vector<v1::Event> told);
  bool stands(const Watched& watched, MonotonicTime now) const;
  std::string shortfall(const Watched& watched, MonotonicTime now) const;
  void set_lost(const fleet::Node& node, bool lost);

  WatchParts parts_;
  std::vector<std::unique_ptr<Watched>> watched_;
  v1::Phase phase_ = v1::PREFLIGHT;
  bool looking_ = false;
  fleet::Wake judged_;
};

}  // namespace squall::run
