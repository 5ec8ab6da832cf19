/// \file
/// Programs of somebody else's that a fault runs: in a session of their own, bounded in time, what
/// they say kept, and nothing that they started left running unless that was asked for.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::hold {

/// The most that is kept of what a program says: the last of it.
inline constexpr std::size_t kMostOutput = 4096;

struct ProgramEnd {
  int exit = 0;            ///< Its exit status, or 128 + the signal that ended it.
  bool timed_out = false;  ///< Ended by us, and all that it had started.
  std::string output;      ///< The last bytes of it, whatever they are.
  Fd saying;               ///< Where what it left running may say more.
};

/// Takes what has been said since. A process that is left running waits when nobody listens to it
/// for some 64 KiB, and is ended by its next word when `saying` is closed.
void listen_to(ProgramEnd& end);

/// Whether a program can be run: an absolute path to a file that may be executed. `field`: the
/// fault's, for errors. Errors: kInvalidArgument, kNotFound, kPermissionDenied.
Status check_program(const std::string& field, const std::vector<std::string>& argv);

/// Runs it and waits until it has ended, or ends it when the timeout is over. Its environment is
/// PATH and, unless `tag` is empty, SQUALL_FAULT=tag; its standard input is empty. What it leaves
/// running goes on. Errors: as check_program(); kResourceExhausted.
StatusOr<ProgramEnd> run_program(const std::string& field, const std::vector<std::string>& argv,
                                 Duration timeout, const std::string& tag);

/// Ends with SIGKILL whatever has SQUALL_FAULT=tag in the environment that it was started with, and
/// whatever this process was left as the parent of. Returns how many processes that were.
int end_what_runs(const std::string& tag);

}  // namespace squall::hold
