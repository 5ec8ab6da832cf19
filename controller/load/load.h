/// \file
/// Traffic that goes on with a run: requests of our own, or a program that makes them. Knows
/// neither the run nor its verdicts.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "experiments/base/status.h"
#include "experiments/checks/check.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::load {

/// For one thread, that of the loop it is awaited on; what it does itself is done elsewhere and
/// disturbs nothing there. The destructor ends what end() has not, without a word and at once.
class Load {
 public:
  virtual ~Load() = default;

  /// Begins, once. Errors: kInvalidArgument, kFailedPrecondition and what the system says, for what
  /// this machine or the plan lacks. A target that does not answer is none: it is what is measured.
  virtual Status start(const boost::asio::any_io_executor& loop) = 0;

  /// Its numbers, each asking all that came since the last: a Sample with a tally. Null for what
  /// tells none. Lifetime: the load outlives it, and asks nothing of it after end().
  virtual std::unique_ptr<checks::Check> numbers() = 0;

  /// Waits until it has ended by itself in a way that it should not have, and says how; empty when
  /// cancelled.
  virtual boost::asio::awaitable<std::string> failed() = 0;

  /// Ends it and all it has started, and tells the whole of it. `in_haste`: without asking it to
  /// end first.
  virtual boost::asio::awaitable<v1::LoadEnded> end(bool in_haste) = 0;
};

/// The load that a plan describes. What a program writes goes to load-NAME.log in `folder`.
std::unique_ptr<Load> make_load(const v1::Load& load, const std::filesystem::path& folder);

}  // namespace squall::load
