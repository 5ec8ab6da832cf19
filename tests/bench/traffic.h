/// \file
/// Traffic between the bench's two hosts, and how much of it arrives, how late.
#pragma once

#include <cstdint>
#include <vector>

#include "tests/bench/node.h"

namespace squall::bench {

/// The far host's port, of TCP and UDP, that all of it goes to.
inline constexpr std::uint16_t kPort = 7007;

/// One-way times of datagrams from near to far, in ms.
std::vector<double> one_way(const TwoHosts& hosts, int count, std::int64_t pause_us);

/// One TCP stream from near to far for a while; Gbit/s.
double throughput(const TwoHosts& hosts, Duration how_long);

struct Arrived {
  double frames = 0;
  double per_second = 0;
};

/// Frames of 64 bytes, their checksum included, sent as fast as it goes for a while.
Arrived small_frames(const TwoHosts& hosts, Duration how_long);

/// A network fault in force from construction to end().
class NetworkFault {
 public:
  /// Of what goes to that port by eth0.
  NetworkFault(Lease& lease, v1::Network network, std::uint16_t port);
  NetworkFault(const NetworkFault&) = delete;
  NetworkFault& operator=(const NetworkFault&) = delete;

  /// Returns what it matched.
  std::uint64_t end();

 private:
  Lease& lease_;
  v1::Fault fault_;
};

/// A delay of that length.
v1::Network delay_of(std::int64_t ns, v1::Engine engine);

}  // namespace squall::bench
