/// \file
/// gRPC's answers, handed to the Asio loop that asked. Apart, for the controller asks nodes and a
/// check asks services in the same way.
#pragma once

#include <grpcpp/completion_queue.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace squall::wire {

/// Debian's abseil looks for a deadlock at every lock of a mutex, which gRPC does at every
/// step. From any thread, before gRPC's first use or later. Source: absl/synchronization/mutex.h,
/// SetMutexDeadlockDetectionMode().
void search_no_deadlocks();

/// Where gRPC's threads hand things to the loop. It outlives who asked, so that a call that ends
/// late finds nobody rather than a dead loop.
class Mailbox {
 public:
  explicit Mailbox(boost::asio::any_io_executor loop) : loop_(std::move(loop)) {}

  template <typename Function>
  void post(Function function) {
    const std::lock_guard lock(mutex_);
    if (open_) boost::asio::post(loop_, std::move(function));
  }

  void shut() {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }

 private:
  std::mutex mutex_;
  bool open_ = true;
  boost::asio::any_io_executor loop_;
};

/// Waits for gRPC on a thread of its own: one for all calls of the program. (The callback interface
/// of gRPC 1.51 polls on threads that wake every second and then sleep for 100 ms, an abort on the
/// wire.)
class Poller {
 public:
  /// What the queue hands back. Runs on the loop, unless who asked is gone by then.
  struct Tag {
    std::shared_ptr<Mailbox> mailbox;
    std::function<void(bool)> complete;
  };

  /// From any thread. Its thread ends with the last who holds it.
  static std::shared_ptr<Poller> shared();

  Poller();
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  grpc::CompletionQueue& queue() { return queue_; }

 private:
  void poll();

  grpc::CompletionQueue queue_;
  std::thread thread_;
};

}  // namespace squall::wire
