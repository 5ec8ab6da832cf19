/// \file
/// The network part of a node's fingerprint: what must read the same, byte for byte, before a fault
/// and after it.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/status.h"

namespace squall::network {

/// Links (without statistics and operational state), addresses, qdiscs, classes, filters, rules,
/// routes and the sysctls that faults may set, of the calling thread's network namespace; one
/// object a line, sorted. Errors: kInternal when the kernel could not be read completely.
StatusOr<std::vector<std::string>> fingerprint();

}  // namespace squall::network
