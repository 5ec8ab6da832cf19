/// \file
/// Which processes of the node a fault may touch: those that a plan's selector matches, and never
/// one that must live. Every kind that touches processes selects them here, so that no kind can
/// forget a rule.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"
#include "squall/v1/hold.pb.h"

namespace squall::hold {

/// One process, held by its pidfd: the number may be given to another process, the descriptor may
/// not.
struct Target {
  std::uint32_t pid = 0;
  std::uint64_t start_time = 0;  ///< Field 22 of /proc/PID/stat.
  std::string command;           ///< Its arguments, or its name; control characters escaped.
  Fd pidfd;
};

/// One that matched and must live.
struct Spared {
  std::uint32_t pid = 0;
  std::string command;
  std::string why;
};

struct Selection {
  std::vector<Target> targets;   ///< By pid.
  std::vector<Target> unpicked;  ///< Matched too.
  std::vector<Spared> spared;    ///< By pid.
};

/// The processes that match all of the selector's conditions, as `pick` wants them; drawn by the
/// seed, the same for the same processes. They are those in this process's network namespace,
/// unless a container is asked for. Left out: what Protection says must live, and processes that
/// have ended. Errors: kNotFound if none is left, naming those that matched but are protected, and
/// for a user that is not known; kFailedPrecondition for fewer than are to be picked;
/// kInvalidArgument for an empty selector, and for a container's id that is that of several;
/// kInternal when /proc cannot be read.
StatusOr<Selection> select_processes(const v1::Process& wanted, const v1::ProcessPick& pick,
                                     std::uint64_t seed);

/// All of them.
StatusOr<std::vector<Target>> select_processes(const v1::Process& wanted);

/// The process of that number, without a word on whether it may be touched; nothing if there is
/// none.
std::optional<Target> target_of(std::uint32_t pid);

/// Whether it has ended; of a number that is used again, nothing is told.
bool has_ended(const Target& target);

/// As `has_ended`, but waits for it.
bool ends_by(const Target& target, MonotonicTime time);

/// The target as evidence and looks show it. The commands of all of them together are kept to what
/// fits a message: of many, each is shortened.
void tell(std::span<const Target> targets,
          google::protobuf::RepeatedPtrField<v1::KillEvidence::Victim>& told);

/// "5 of the 9 that match", and whom it spares and why, as a look's notes.
void tell(const Selection& selection, v1::Looked& looked);

}  // namespace squall::hold
