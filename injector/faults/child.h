/// \file
/// A process of a holder's own that acts in its stead: one that can be put into a control group,
/// whose limits then hold for what it uses up, and that the kernel may kill without the holder.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::hold {

/// Zeroed memory that a process shares with the children that it starts afterwards.
class SharedMemory {
 public:
  /// Errors: kResourceExhausted.
  static StatusOr<SharedMemory> map(std::size_t size);
  SharedMemory(SharedMemory&& other) noexcept
      : start_(std::exchange(other.start_, nullptr)), size_(other.size_) {}
  SharedMemory& operator=(SharedMemory&&) = delete;
  ~SharedMemory();

  void* start() const { return start_; }

 private:
  SharedMemory(void* start, std::size_t size) : start_(start), size_(size) {}

  void* start_;
  std::size_t size_;
};

/// It dies with the thread that started it, whatever that dies of: its death is the undo.
class Child {
 public:
  /// Starts a child that waits for go() and then acts; it ends when `act` returns. Only for a
  /// process that has no other threads. Of the caller's descriptors it keeps the standard ones and
  /// those in `keep`. Errors: kResourceExhausted.
  static StatusOr<Child> start(const std::function<void()>& act, const std::vector<int>& keep = {});
  Child(Child&& other) noexcept;
  Child& operator=(Child&&) = delete;
  ~Child() { end(); }

  pid_t pid() const { return pid_; }

  void go();

  /// Readable once it has ended.
  int ended() const { return pidfd_.number(); }

  /// How it ended, as far as it has: "ended with 0", "was killed by signal 9"; "" while it lives.
  std::string how();

  /// Kills it. From its return on, nothing of it is left, its memory included.
  void end();

 private:
  Child(pid_t pid, Fd pidfd, Fd gate)
      : pid_(pid), pidfd_(std::move(pidfd)), gate_(std::move(gate)) {}

  pid_t pid_ = -1;
  Fd pidfd_;
  Fd gate_;
  std::string how_;  // once it has been waited for
};

}  // namespace squall::hold
