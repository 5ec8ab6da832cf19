/// \file
/// One ICMP echo, without a program for it.
#pragma once

#include <optional>
#include <string>

#include "experiments/base/clock.h"
#include "tests/support/namespace.h"

namespace squall::support {

/// The round trip to an IPv4 or IPv6 address, or nothing within the bound.
std::optional<Duration> ping(const Namespace& from, const std::string& address,
                             Duration bound = std::chrono::seconds(2));

}  // namespace squall::support
