/// \file
/// The TCP ports that no match ever takes, so that the ways to mend a node stay open.
#pragma once

#include <cstdint>
#include <vector>

namespace squall::network {

inline constexpr std::uint16_t kSshPort = 22;

/// The ports on which an sshd of this network namespace listens now. Best effort: what cannot be
/// read is left out. Walks /proc, so it takes milliseconds.
std::vector<std::uint16_t> sshd_ports();

}  // namespace squall::network
