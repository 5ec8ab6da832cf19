#include "injector/network/frame.h"

#include <doctest/doctest.h>

#include <initializer_list>
#include <vector>

namespace squall::network {
namespace {

using Bytes = std::vector<std::byte>;

void append(Bytes& bytes, std::initializer_list<int> values) {
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
}

/// Virtio header and Ethernet, with as many VLAN tags.
Bytes frame_of(int type, int vlan_tags = 0) {
  Bytes frame(kVirtioHeader + 12);
  for (int i = 0; i < vlan_tags; ++i)
    append(frame, {i == 0 ? 0x88 : 0x81, i == 0 ? 0xa8 : 0, 0, 5});
  append(frame, {type >> 8, type & 0xff});
  return frame;
}

constexpr int kIp4 = 0x0800;
constexpr int kIp6 = 0x86dd;
constexpr int kArp = 0x0806;

std::uint32_t sum_of(const Bytes& frame, std::size_t from, std::size_t size) {
  std::uint32_t sum = 0;
  for (std::size_t i = from; i < from + size; i += 2) {
    sum += (std::to_integer<std::uint32_t>(frame[i]) << 8) |
           std::to_integer<std::uint32_t>(frame[i + 1]);
  }
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/// With a right checksum.
Bytes ip4_frame(int tos, int id = 0, int vlan_tags = 0) {
  Bytes frame = frame_of(kIp4, vlan_tags);
  const std::size_t ip = frame.size();
  append(frame,
         {0x45, tos, 0, 20, id >> 8, id & 0xff, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2});
  const std::uint32_t checksum = ~sum_of(frame, ip, 20);
  frame[ip + 10] = static_cast<std::byte>(checksum >> 8);
  frame[ip + 11] = static_cast<std::byte>(checksum);
  return frame;
}

Bytes ip6_frame(int ecn) {
  Bytes frame = frame_of(kIp6);
  append(frame, {0x6a, 0xbc & 0xcf, 0x12, 0x34});
  frame.back() = std::byte{0x34};
  frame[frame.size() - 3] |= static_cast<std::byte>(ecn << 4);
  frame.resize(frame.size() + 36);
  return frame;
}

void put16(Bytes& frame, std::size_t at, std::uint16_t value) {
  frame[at] = static_cast<std::byte>(value);
  frame[at + 1] = static_cast<std::byte>(value >> 8);
}

}  // namespace

TEST_CASE("an IPv4 packet that knows ECN is marked, and its checksum stays right") {
  for (int tags = 0; tags <= 2; ++tags) {
    for (int id = 0; id < 0x10000; id += 17) {
      for (const int ect : {1, 2}) {
        Bytes frame = ip4_frame(0xb8 | ect, id, tags);
        const std::size_t ip = network_offset(frame);
        REQUIRE(frame[ip] == std::byte{0x45});
        REQUIRE(set_congestion(frame));
        REQUIRE(frame[ip + 1] == std::byte{0xbb});
        REQUIRE(sum_of(frame, ip, 20) == 0xffff);
      }
    }
  }
}

TEST_CASE("an IPv6 packet that knows ECN is marked, and nothing else in it changes") {
  for (const int ect : {1, 2}) {
    Bytes frame = ip6_frame(ect);
    CHECK(set_congestion(frame));
    CHECK(frame == ip6_frame(3));
  }
}

TEST_CASE("what does not know ECN is left as it is, and what is marked already counts as marked") {
  for (const Bytes& whole : {ip4_frame(0xb8), ip6_frame(0), frame_of(kArp), frame_of(kIp4)}) {
    Bytes frame = whole;
    CHECK_FALSE(set_congestion(frame));
    CHECK(frame == whole);
  }
  for (const Bytes& whole : {ip4_frame(3), ip6_frame(3)}) {
    Bytes frame = whole;
    CHECK(set_congestion(frame));
    CHECK(frame == whole);
  }
}

TEST_CASE("a frame cut off anywhere is neither read nor written beyond its end") {
  for (const Bytes& whole : {ip4_frame(2, 0, 2), ip6_frame(2)}) {
    for (std::size_t length = kVirtioHeader; length < whole.size(); ++length) {
      // Of its own, so that a sanitizer sees where it ends.
      Bytes frame(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      frame.shrink_to_fit();
      CHECK(network_offset(frame) <= length);
      CHECK_FALSE(set_congestion(frame));
      CHECK(size_of(frame, length).bytes == length - kVirtioHeader);
    }
  }
}

TEST_CASE("a frame counts from its Ethernet header on, and a GSO frame as what it is cut into") {
  Bytes frame = ip4_frame(0);
  CHECK(size_of(frame, kVirtioHeader + 1514).bytes == 1514);
  CHECK(size_of(frame, kVirtioHeader + 1514).segments == 1);

  frame.resize(2048);
  frame[0] = std::byte{1};                           // VIRTIO_NET_HDR_F_NEEDS_CSUM
  frame[1] = std::byte{0x81};                        // VIRTIO_NET_HDR_GSO_TCPV4, with ECN
  put16(frame, 2, 200);                              // hdr_len, which is more than the headers
  put16(frame, 4, 1448);                             // gso_size
  put16(frame, 6, 14 + 20);                          // csum_start
  frame[kVirtioHeader + 34 + 12] = std::byte{0x80};  // a TCP header of 32 bytes
  constexpr std::size_t kHeaders = 14 + 20 + 32;
  FrameSize size = size_of(frame, kVirtioHeader + kHeaders + 3 * 1448);
  CHECK(size.segments == 3);
  CHECK(size.bytes == 3 * (kHeaders + 1448));
  size = size_of(frame, kVirtioHeader + kHeaders + 3 * 1448 + 1);
  CHECK(size.segments == 4);
  CHECK(size.bytes == 4 * kHeaders + 3 * 1448 + 1);

  frame[1] = std::byte{5};  // VIRTIO_NET_HDR_GSO_UDP_L4
  put16(frame, 4, 1000);
  size = size_of(frame, kVirtioHeader + 14 + 20 + 8 + 2500);
  CHECK(size.segments == 3);
  CHECK(size.bytes == 3 * 42 + 2500);
}

}  // namespace squall::network
