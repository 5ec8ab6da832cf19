/// \file
/// Which of the two engines this kernel can run, found out by reading alone.
#pragma once

#include <string>

#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

struct EngineChoice {
  v1::Engine engine = v1::NETEM;
  std::string reason;  ///< In words, for the preflight.
};

/// AUTO is netem where the kernel has it and it can do what is asked, else the relay.
///
/// A part of the kernel is there if /proc/modules, modules.builtin or modules.dep of the running
/// kernel name it; where those files do not exist or are silent, if /proc/config.gz or
/// /boot/config-RELEASE has it built in; and where there is neither, if /proc/kallsyms has one of
/// its functions. What was found is remembered for the life of the process. Errors: kUnimplemented
/// for an engine that this kernel lacks, or that cannot do it; kInvalidArgument for what neither
/// could.
StatusOr<EngineChoice> choose_engine(const v1::Network& wanted);

}  // namespace squall::network
