/// \file
/// Which processes of the node a fault may touch: found by name, pid or listening port, and never
/// one that must live. Every kind that touches processes selects them here, so that no kind can
/// forget a rule.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"

namespace squall::hold {

/// One process, held by its pidfd: the number may be given to another process, the descriptor may
/// not.
struct Target {
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  ///< Field 22 of /proc/PID/stat.
  std::string command;           ///< Its arguments, or its name; control characters escaped.
  Fd pidfd;
};

/// The processes in this network namespace that the selector matches. Left out: PID 1, kernel
/// threads, the calling process and its ancestors, squall's own programs, systemd, sshd and what
/// protect() was told of; and processes that have ended. Errors: kNotFound if none is left, naming those that matched but are
/// protected; kInvalidArgument for an empty selector; kInternal when /proc cannot be read.
StatusOr<std::vector<Target>> select_processes(const v1::Process& wanted);

}  // namespace squall::hold
