/// \file
/// Work that would hold up the loop, done in a thread of its own: a name is looked up, /proc is
/// walked, a file is read.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>

#include "experiments/base/clock.h"

namespace squall::checks {

/// One piece of work after the other. What is given up goes on until it is done, and can be awaited
/// again. For the thread of the loop.
class Aside {
 public:
  /// Runs it in a thread. It must own or share what it touches, as it may outlive this; what it
  /// throws is dropped. Only when nothing is going on. False: out of threads or descriptors.
  bool begin(std::function<void()> work);

  /// Begun, and its end was not awaited yet.
  bool is_going() const { return task_ != nullptr; }

  enum class Wait { kDone, kLate, kGivenUp };

  /// Waits for what was begun. What the work wrote can be read once it is done.
  boost::asio::awaitable<Wait> wait(MonotonicTime deadline);

 private:
  struct Task;
  std::shared_ptr<Task> task_;
};

}  // namespace squall::checks
