/// \file
/// The sockets of chosen processes, for a network fault that means these alone.
#pragma once

#include "experiments/base/status.h"
#include "injector/network/classifier.h"
#include "squall/v1/faults.pb.h"

namespace squall::hold {

/// Whether processes can be told by the numbers that they have here. Errors: kUnimplemented outside
/// of the first PID namespace, for the kernel's programs are told the numbers that hold there.
Status tells_processes_apart();

/// Marks what these processes have open, and means what they will make. What ends or closes
/// meanwhile is left out. Errors: as select_processes(); kResourceExhausted; kInternal.
Status mark_sockets(const v1::Process& wanted, network::Classifier& classifier);

}  // namespace squall::hold
