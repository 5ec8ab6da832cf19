/// \file
/// The run engine: preflight → steady → method → revert → recovery → verdict, on one loop. What it
/// knows of nodes and checks are two interfaces, what it tells is events; its tests bring their
/// own.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/load/load.h"
#include "controller/run/schedule.h"
#include "experiments/checks/check.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// Of a person.
struct Answer {
  bool yes = false;
  std::string by;  ///< In words.
};

/// What a run is made of.
struct Parts {
  v1::Plan plan;
  std::string run;   ///< Its id.
  std::string file;  ///< The plan's, as the user named it.
  std::uint64_t seed = 0;
  std::string version;         ///< Of squall.
  std::vector<Step> schedule;  ///< Of make_schedule(plan, seed).
  std::vector<fleet::Node*>
      nodes;  ///< Sorted by name, as the schedule's indices are. They outlive the engine.
  std::function<std::unique_ptr<checks::Check>(const v1::Check&)> make_check;
  /// Absent where the plan has no load.
  std::function<std::unique_ptr<load::Load>(const v1::Load&)> make_load;
  /// Puts a question to a person, and says who answered and whether it was yes. Honours
  /// cancellation. Absent where nobody can be asked: then the answer is no.
  std::function<boost::asio::awaitable<Answer>(const std::string& question)> ask;
  std::function<void(v1::Event)> tell;  ///< Called on the loop, in order; fills in the times.
};

/// For the loop's thread alone.
class Engine {
 public:
  explicit Engine(Parts parts);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Walks the plan, once. Never throws. When it returns, every fault has been reverted or is named
  /// as residue, and the last event, RunEnded, has been told. The nodes' leases are still open.
  boost::asio::awaitable<v1::RunEnded> run();

  /// A person or a signal wants the run to end. The first time: abort and revert. The second: leave
  /// now, and let the leases clean up. `by` says who, in words: SIGINT, the q key.
  void interrupt(std::string_view by);

  /// Somebody stops all runs: abort and revert, however often it is said.
  void halt(const std::string& by, const std::string& reason);

 private:
  class Run;
  std::unique_ptr<Run> run_;
};

}  // namespace squall::run
