/// \file
/// Starting programs, by posix_spawn(3).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::daemon {

/// A started holder, identified by its pidfd; (pid, start time) is how the ledger names it.
struct Spawned {
  pid_t pid = 0;
  std::uint64_t start_time = 0;  ///< Field 22 of /proc/PID/stat.
  Fd pidfd;
  Fd socket;  ///< Our end of the socketpair: close-on-exec and inherited by no sibling, or its EOF
              ///< would never come.
};

/// Starts the holder with nothing but its end of the socketpair on descriptor 3, and stderr. The
/// kernel ends it when the calling *thread* ends, so call it only on a thread as old as the daemon.
/// The caller reaps it. Errors: kNotFound, kPermissionDenied for the program; kResourceExhausted.
StatusOr<Spawned> spawn_holder(const std::string& program, bool spare);

/// Runs a program to its end and returns its exit code, or 128 and the number of the signal that
/// ended it. For the start of the daemon only: it blocks.
StatusOr<int> run_program(const std::string& program, const std::vector<std::string>& arguments);

/// Field 22 of /proc/PID/stat; 0 if there is no such process, or it has ended and only waits to be
/// reaped.
std::uint64_t start_time_of(pid_t pid);

/// A pidfd of the process, if it still is the one that started then. Errors: kNotFound.
StatusOr<Fd> open_process(pid_t pid, std::uint64_t start_time);

/// SIGKILL, by descriptor.
void kill_process(const Fd& pidfd);

}  // namespace squall::daemon
