/// \file
/// The daemon's one loop: timers, descriptors and work handed over by other threads, all run one
/// after another while run() is called, by its thread or the one that hands over. The door to
/// Boost.Asio, but for the checks' coroutines; without anything to do it sleeps in the kernel.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <functional>
#include <memory>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"

namespace squall::daemon {

class Loop {
 public:
  Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  ~Loop();

  /// Until stop(); may be called again after that. Work must not throw.
  void run();
  void stop();

  /// From any thread. Runs in the order posted.
  void post(std::function<void()> work);

  /// As post(), from any thread that is not running the loop's work, and in the order handed over.
  /// Where nothing else runs just now, the calling thread runs it itself, before this returns: who
  /// is awake already need not wait until another thread is woken up.
  void hand_over(std::function<void()> work);

  /// Calls back on the loop for each of these signals, and those named before, in place of an
  /// earlier callback; while the Loop lives they do nothing else.
  void on_signals(const std::vector<int>& numbers, std::function<void(int)> seen);

  /// For coroutines that are to run here, but not in turn with the loop's work: of a loop that
  /// nothing is handed over to.
  boost::asio::any_io_executor executor();

  struct Core;  ///< For the classes of this file.
  Core& core() { return *core_; }

 private:
  std::unique_ptr<Core> core_;
};

/// One alarm. Not to be used after its Loop; destroying it cancels.
class Timer {
 public:
  explicit Timer(Loop& loop);
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer();

  /// Replaces an alarm that is set. A time in the past fires soon, but never from within this call.
  void at(MonotonicTime when, std::function<void()> fire);
  void cancel();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// Owns a descriptor and calls back, on the loop, whenever it is readable, again and again while it
/// stays so. The callback may destroy this object.
class Watch {
 public:
  Watch(Loop& loop, Fd descriptor, std::function<void()> readable);
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  ~Watch();

  int number() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// One long-lived thread that runs what it is given in order: for what may block, and for what the
/// kernel ties to the thread that did it. Destroying it waits for all that was given.
class Worker {
 public:
  Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();

  /// From any thread. Work must not throw.
  void post(std::function<void()> work);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squall::daemon
