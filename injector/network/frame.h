/// \file
/// Frames as a TAP with IFF_VNET_HDR hands them over: struct virtio_net_hdr, Ethernet, and what is
/// in it. What the relay has to know of them, and what it changes in them.
///
/// Each function takes a frame's beginning, at least its headers where the frame has them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace squall::network {

/// struct virtio_net_hdr's size, which AF_PACKET expects as well. (Its header is not C++.)
inline constexpr std::size_t kVirtioHeader = 10;

struct FrameSize {
  std::uint64_t bytes = 0;     ///< On the wire, from the first Ethernet header on.
  std::uint32_t segments = 1;  ///< Packets that a GSO frame is cut into on its way.
};

/// `length`: of the frame with its virtio header. As the kernel counts it for its queues.
/// Source: net/core/dev.c, qdisc_pkt_len_init().
FrameSize size_of(std::span<const std::byte> beginning, std::size_t length);

/// Where the network header begins: behind the virtio header, Ethernet and its VLAN tags. The
/// frame's end if there is none.
std::size_t network_offset(std::span<const std::byte> beginning);

/// Marks an IP packet as having met congestion. Returns whether it is marked now: one whose sender
/// does not know ECN cannot be. Source: RFC 3168; include/net/inet_ecn.h, INET_ECN_set_ce().
bool set_congestion(std::span<std::byte> beginning);

/// Whoever receives the frame checks its checksum, although this host's interface did.
void distrust_checksum(std::span<std::byte> beginning);

}  // namespace squall::network
