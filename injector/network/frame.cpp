#include "injector/network/frame.h"

#include <linux/if_ether.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

namespace squall::network {
namespace {

// Source: linux/virtio_net.h.
constexpr std::byte kNeedsChecksum{1};
constexpr std::byte kChecksumIsValid{2};
constexpr std::byte kGsoKind{0x7f};  // without VIRTIO_NET_HDR_GSO_ECN
constexpr std::byte kGsoTcp4{1};
constexpr std::byte kGsoTcp6{4};
constexpr std::size_t kGsoKindAt = 1;
constexpr std::size_t kHeaderSizeAt = 2;
constexpr std::size_t kGsoSizeAt = 4;
constexpr std::size_t kChecksumStartAt = 6;

constexpr std::size_t kTypeAt = 12;  // in an Ethernet header
constexpr std::size_t kVlanTag = 4;
constexpr std::size_t kTcpOffsetAt = 12;
constexpr std::size_t kUdpHeader = 8;
constexpr std::size_t kIp4Header = 20;
constexpr std::size_t kIp6Header = 40;
constexpr std::size_t kIp4ChecksumAt = 10;

/// Of the host's order, as virtio headers are unless asked otherwise.
std::size_t host16(std::span<const std::byte> from, std::size_t at) {
  std::uint16_t value = 0;
  std::memcpy(&value, from.data() + at, sizeof(value));
  return value;
}

std::uint16_t wire16(std::span<const std::byte> from, std::size_t at) {
  return ntohs(static_cast<std::uint16_t>(host16(from, at)));
}

/// What every segment of a GSO frame repeats.
std::size_t repeated_header(std::span<const std::byte> beginning) {
  const std::byte kind = beginning[kGsoKindAt] & kGsoKind;
  const std::size_t transport = host16(beginning, kChecksumStartAt);
  if ((beginning[0] & kNeedsChecksum) == std::byte{0}) return host16(beginning, kHeaderSizeAt);
  if (kind != kGsoTcp4 && kind != kGsoTcp6) return transport + kUdpHeader;
  const std::size_t at = kVirtioHeader + transport + kTcpOffsetAt;
  if (at >= beginning.size()) return transport;
  return transport + (std::to_integer<std::size_t>(beginning[at]) >> 4) * 4;
}

bool is_vlan(std::uint16_t type) { return type == ETH_P_8021Q || type == ETH_P_8021AD; }

}  // namespace

FrameSize size_of(std::span<const std::byte> beginning, std::size_t length) {
  if (length < kVirtioHeader || beginning.size() < kVirtioHeader) return {};
  FrameSize size{.bytes = length - kVirtioHeader};
  const std::size_t gso_size = host16(beginning, kGsoSizeAt);
  if ((beginning[kGsoKindAt] & kGsoKind) == std::byte{0} || gso_size == 0) return size;
  const std::size_t header = repeated_header(beginning);
  if (size.bytes <= header) return size;
  size.segments = static_cast<std::uint32_t>((size.bytes - header + gso_size - 1) / gso_size);
  size.bytes += std::uint64_t{size.segments - 1} * header;
  return size;
}

std::size_t network_offset(std::span<const std::byte> beginning) {
  std::size_t offset = kVirtioHeader + ETH_HLEN;
  while (offset <= beginning.size() && is_vlan(wire16(beginning, offset - 2))) offset += kVlanTag;
  return std::min(offset, beginning.size());
}

bool set_congestion(std::span<std::byte> beginning) {
  const std::size_t network = network_offset(beginning);
  if (network < kVirtioHeader + kTypeAt + 2) return false;
  const std::uint16_t type = wire16(beginning, network - 2);
  const std::span<std::byte> ip = beginning.subspan(network);
  if (type == ETH_P_IP && ip.size() >= kIp4Header) {
    constexpr std::byte kCongested{3};
    if ((ip[1] & kCongested) == std::byte{0}) return false;
    const std::uint32_t before = wire16(ip, 0);
    ip[1] |= kCongested;
    // Source: RFC 1624, equation 3.
    std::uint32_t sum =
        (~std::uint32_t{wire16(ip, kIp4ChecksumAt)} & 0xffff) + (~before & 0xffff) + wire16(ip, 0);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    const std::uint16_t checksum = htons(static_cast<std::uint16_t>(~sum));
    std::memcpy(ip.data() + kIp4ChecksumAt, &checksum, sizeof(checksum));
    return true;
  }
  if (type == ETH_P_IPV6 && ip.size() >= kIp6Header) {
    // The traffic class lies across the first two bytes.
    constexpr std::byte kCongested{0x30};
    if ((ip[1] & kCongested) == std::byte{0}) return false;
    ip[1] |= kCongested;
    return true;
  }
  return false;
}

void distrust_checksum(std::span<std::byte> beginning) { beginning[0] &= ~kChecksumIsValid; }

}  // namespace squall::network
