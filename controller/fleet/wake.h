/// \file
/// What coroutines of one loop wait on until something has changed. Apart from node.h, for the run
/// engine waits in the same way.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::fleet {

/// For the loop's thread alone. Whoever is woken looks again at what he waits for: a wake says that
/// something changed, not what.
class Wake {
 public:
  /// Until notify(), the deadline, or cancellation; never throws. Returns false if the coroutine
  /// has been cancelled, now or before. Lifetime: the Wake outlives everyone who waits.
  boost::asio::awaitable<bool> wait(MonotonicTime deadline = MonotonicTime::max());

  /// Wakes everyone who waits now.
  void notify();

 private:
  std::vector<boost::asio::steady_timer*> waiting_;
};

/// Whether the coroutine that asks has been cancelled.
boost::asio::awaitable<bool> is_cancelled();

}  // namespace squall::fleet
