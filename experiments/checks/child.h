/// \file
/// A program that was started in a group of its own, held by pidfd until it is reaped: what a check
/// runs, and what makes a load.
#pragma once

#include <sys/types.h>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace squall::checks {

/// For the loop's thread alone.
class Child : public std::enable_shared_from_this<Child> {
 public:
  using Descriptor = boost::asio::posix::stream_descriptor;

  /// Of a leader of its own group, and its pidfd.
  Child(pid_t pid, Descriptor ended) : pid_(pid), ended_(std::move(ended)) {}
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  /// Ends what still runs: the loop itself is going, and all that is left is to leave nothing.
  ~Child();

  /// True when the program is over, false when the wait was cancelled.
  /// Source: pidfd_open(2), a pidfd is readable when its process is a zombie.
  boost::asio::awaitable<bool> wait();

  /// To it and all of its group. Only before reap(): a zombie still holds its number, so the group
  /// can be nobody else's.
  void signal_group(int number);

  /// Its exit code, 128 + the signal that ended it as a shell has it; nothing while it runs.
  std::optional<int> reap();

  /// Ends it and its group now; the loop reaps it when it is gone, which nobody waits for.
  void abandon();

 private:
  pid_t pid_;
  Descriptor ended_;
  bool reaped_ = false;
};

/// pidfd_open(2); glibc 2.36's <sys/pidfd.h> lacks extern "C". -1 with errno.
int open_pidfd(pid_t pid);

/// As execve(2) wants them; they point into `texts`.
std::vector<char*> pointers(std::vector<std::string>& texts);

/// NAME=value of each, and squall's own PATH unless it is among them.
std::vector<std::string> environment_with(const std::map<std::string, std::string>& wanted);

}  // namespace squall::checks
