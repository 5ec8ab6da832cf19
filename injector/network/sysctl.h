/// \file
/// Values below /proc/sys, of the calling thread's network namespace.
#pragma once

#include <string>

#include "experiments/base/status.h"

namespace squall::network {

/// The value without its newline. Errors: kNotFound where there is no such setting;
/// kInvalidArgument for a name that leads out of /proc/sys.
StatusOr<std::string> read_sysctl(const std::string& name);
Status write_sysctl(const std::string& name, const std::string& value);

}  // namespace squall::network
