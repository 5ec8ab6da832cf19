/// \file
/// The TCP ports that no match ever takes, so that the ways to mend a node stay open.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "injector/network/classifier.h"

namespace squall::network {

inline constexpr std::uint16_t kSshPort = 22;

/// The established TCP connections of ssh and sshd in this network namespace, whatever their ports:
/// a session that socket activation took in, or one from here to elsewhere. Best effort: what
/// cannot be read is left out. Walks /proc, which takes milliseconds.
std::set<Connection> ssh_connections();

/// The ports on which an sshd of this network namespace listens. Best effort: what cannot be read
/// is left out. Used by one thread at a time.
class SshdPorts {
 public:
  /// Asks the kernel which sockets listen, in some 50 us; walks /proc for their owners, in
  /// milliseconds, only if those are not the same as the last time.
  const std::vector<std::uint16_t>& read();

  /// What it said last, if it was ever asked.
  const std::vector<std::uint16_t>& known() const { return ports_; }
  bool is_read() const { return is_read_; }

 private:
  bool is_read_ = false;
  std::map<std::uint32_t, std::uint16_t> listening_;  ///< The port of each, by its inode.
  std::vector<std::uint16_t> ports_;
};

}  // namespace squall::network
