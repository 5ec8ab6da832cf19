#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <optional>
#include <thread>

#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;

/// A socket's address; IPv4 where it has no colon.
struct Address {
  Address(const std::string& text, std::uint16_t port) {
    if (text.find(':') == std::string::npos) {
      sockaddr_in& to = *reinterpret_cast<sockaddr_in*>(&storage);
      to.sin_family = AF_INET;
      to.sin_port = htons(port);
      inet_pton(AF_INET, text.c_str(), &to.sin_addr);
      size = sizeof(sockaddr_in);
    } else {
      sockaddr_in6& to = *reinterpret_cast<sockaddr_in6*>(&storage);
      to.sin6_family = AF_INET6;
      to.sin6_port = htons(port);
      inet_pton(AF_INET6, text.c_str(), &to.sin6_addr);
      size = sizeof(sockaddr_in6);
    }
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }

  sockaddr_storage storage{};
  socklen_t size = 0;
};

class Socket {
 public:
  Socket(const Namespace& where, const Address& address, int type)
      : fd_(where.run([&] { return socket(address.storage.ss_family, type | SOCK_CLOEXEC, 0); })) {
    if (fd_ < 0) throw std::runtime_error("cannot open a socket");
    const int on = 1;
    const int room = 64 << 20;
    setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    setsockopt(fd_, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

/// The byte at each place of the stream; no two pieces of the same length are alike.
std::uint8_t byte_at(std::size_t place) {
  return static_cast<std::uint8_t>((place * 2654435761u) >> 13);
}

/// Sends `size` bytes by TCP and returns at which byte what arrives differs or ends.
std::size_t carry(const Namespace& from, const Namespace& to, const std::string& address,
                  std::size_t size) {
  const Address where(address, kPort);
  const Socket listener(to, where, SOCK_STREAM);
  if (bind(listener.get(), where.get(), where.size) != 0 || listen(listener.get(), 1) != 0) {
    throw std::runtime_error("cannot listen");
  }
  std::thread sender([&] {
    const Socket socket(from, where, SOCK_STREAM);
    if (connect(socket.get(), where.get(), where.size) != 0) return;
    std::vector<std::uint8_t> part(1 << 18);
    for (std::size_t sent = 0; sent < size;) {
      const std::size_t here = std::min(part.size(), size - sent);
      for (std::size_t i = 0; i < here; ++i) part[i] = byte_at(sent + i);
      std::size_t done = 0;
      while (done < here) {
        const ssize_t wrote = send(socket.get(), part.data() + done, here - done, MSG_NOSIGNAL);
        if (wrote <= 0) return;
        done += static_cast<std::size_t>(wrote);
      }
      sent += here;
    }
  });
  std::size_t right = 0;
  pollfd waiting{.fd = listener.get(), .events = POLLIN, .revents = 0};
  if (poll(&waiting, 1, 5000) == 1) {
    const int connection = accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC);
    std::vector<std::uint8_t> part(1 << 18);
    bool same = true;
    while (same) {
      pollfd more{.fd = connection, .events = POLLIN, .revents = 0};
      if (poll(&more, 1, 5000) != 1) break;
      const ssize_t got = read(connection, part.data(), part.size());
      if (got <= 0) break;
      for (ssize_t i = 0; i < got && same; ++i) {
        same = part[static_cast<std::size_t>(i)] == byte_at(right);
        if (same) ++right;
      }
    }
    close(connection);
  }
  sender.join();
  return right;
}

std::int64_t wall_clock_ns() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// The time on the way of the next datagram, from when it was sent to when the kernel received it,
/// which a busy reader does not delay.
std::optional<double> next_ms(int sink, std::vector<std::uint8_t>& datagram) {
  std::array<char, 256> control{};
  iovec place{.iov_base = datagram.data(), .iov_len = datagram.size()};
  msghdr message{};
  message.msg_iov = &place;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (recvmsg(sink, &message, MSG_DONTWAIT) <= 0) return std::nullopt;
  std::int64_t sent = 0;
  std::memcpy(&sent, datagram.data(), sizeof(sent));
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_TIMESTAMPNS) continue;
    timespec received{};
    std::memcpy(&received, CMSG_DATA(part), sizeof(received));
    return to_ms(Duration(std::int64_t{received.tv_sec} * 1'000'000'000 + received.tv_nsec - sent));
  }
  throw std::runtime_error("the kernel gave no time of arrival");
}

/// One-way times of `count` datagrams of `size` bytes, as far as they come within `grace`.
std::vector<double> one_way_ms(const Namespace& from, const Namespace& to,
                               const std::string& address, std::size_t count, std::size_t size,
                               Duration pace, Duration grace) {
  const Address where(address, kPort);
  const Socket sink(to, where, SOCK_DGRAM);
  const Socket source(from, where, SOCK_DGRAM);
  const int on = 1;
  setsockopt(sink.get(), SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on));
  if (bind(sink.get(), where.get(), where.size) != 0) throw std::runtime_error("cannot bind");
  std::vector<std::uint8_t> datagram(size);
  std::vector<double> times;
  const auto take = [&] {
    while (const std::optional<double> time = next_ms(sink.get(), datagram)) {
      times.push_back(*time);
    }
  };
  MonotonicTime next = monotonic_now();
  for (std::size_t i = 0; i < count; ++i, next += pace) {
    do {
      take();
    } while (monotonic_now() < next);
    const std::int64_t now = wall_clock_ns();
    std::memcpy(datagram.data(), &now, sizeof(now));
    sendto(source.get(), datagram.data(), datagram.size(), 0, where.get(), where.size);
  }
  const MonotonicTime end = monotonic_now() + grace;
  while (times.size() < count && monotonic_now() < end) take();
  std::sort(times.begin(), times.end());
  return times;
}

v1::Fault everything(Duration delay, v1::Direction direction) {
  v1::Fault fault = delay_fault(kPort, delay, direction);
  fault.mutable_network()->clear_to();
  return fault;
}

}  // namespace

TEST_CASE("a TCP stream passes a fault whole and unchanged, however the kernel lumps it together") {
  TwoHosts hosts;
  constexpr std::size_t kSize = 8 << 20;
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS}) {
    const auto held = inject(hosts.node, delay_fault(kPort, milliseconds(2), direction));
    for (const auto& [client, node] : {std::pair(TwoHosts::kClient4, TwoHosts::kNode4),
                                       std::pair(TwoHosts::kClient6, TwoHosts::kNode6)}) {
      CAPTURE(std::string(node));
      CHECK(carry(hosts.node, hosts.client, client, kSize) == kSize);
      CHECK(carry(hosts.client, hosts.node, node, kSize) == kSize);
    }
    CHECK(held->evidence().network().matched_bytes() > kSize);
    CHECK(held->evidence().network().overflow_packets() == 0);
  }
}

TEST_CASE("a TCP stream passes a fault on lo whole and unchanged") {
  TwoHosts hosts;
  constexpr std::size_t kSize = 8 << 20;
  v1::Fault fault = delay_fault(kPort, milliseconds(2));
  fault.mutable_network()->set_interface("lo");
  const auto held = inject(hosts.node, fault);
  CHECK(carry(hosts.node, hosts.node, "127.0.0.1", kSize) == kSize);
  CHECK(carry(hosts.node, hosts.node, "::1", kSize) == kSize);
}

TEST_CASE(
    "a flipped bit never gets past the receiver's checksum, though the sender leaves its own out") {
  TwoHosts hosts;
  constexpr std::size_t kSize = 2 << 20;
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS}) {
    v1::Fault fault = network_fault(kPort, direction);
    fault.mutable_network()->set_corrupt(2);
    const auto held = inject(hosts.node, fault);
    const bool egress = direction == v1::EGRESS;
    const Namespace& from = egress ? hosts.node : hosts.client;
    const Namespace& to = egress ? hosts.client : hosts.node;
    CHECK(carry(from, to, egress ? TwoHosts::kClient4 : TwoHosts::kNode4, kSize) == kSize);
    CHECK(carry(from, to, egress ? TwoHosts::kClient6 : TwoHosts::kNode6, kSize) == kSize);
    CHECK(snmp(to, "Tcp", "InCsumErrors") + snmp(to, "Ip", "InHdrErrors") > 0);
    if (held->evidence().network().engine() == v1::RELAY) {
      CHECK(held->evidence().network().corrupted_packets() > 0);
    }
  }
}

TEST_CASE("datagrams in fragments are delayed, all of their parts, when no ports are asked for") {
  TwoHosts hosts;
  for (const char* address : {TwoHosts::kClient4, TwoHosts::kClient6}) {
    const auto held = inject(hosts.node, everything(milliseconds(50), v1::EGRESS));
    const std::vector<double> times = one_way_ms(hosts.node, hosts.client, address, 5, 8000,
                                                 milliseconds(1), std::chrono::seconds(2));
    REQUIRE(times.size() == 5);
    CHECK(times.front() > 47);
    CHECK(times.front() < 53);
    CHECK(held->evidence().network().matched_packets() >= 5 * 6);
  }
}

TEST_CASE(
    "with ports only first fragments are known to match, and the datagram still waits for them") {
  TwoHosts hosts;
  const auto held = inject(hosts.node, delay_fault(kPort, milliseconds(50)));
  const std::vector<double> times = one_way_ms(hosts.node, hosts.client, TwoHosts::kClient4, 5,
                                               8000, milliseconds(1), std::chrono::seconds(2));
  REQUIRE(times.size() == 5);
  CHECK(times.front() > 47);
  CHECK(held->evidence().network().matched_packets() == 5);
}

TEST_CASE("S31: a second of delay at ten thousand packets a second loses none of them") {
  TwoHosts hosts;
  constexpr std::size_t kCount = 10'000;
  const auto held = inject(hosts.node, delay_fault(kPort, std::chrono::seconds(1)));
  const std::vector<double> times =
      one_way_ms(hosts.node, hosts.client, TwoHosts::kClient4, kCount, 64,
                 std::chrono::microseconds(100), std::chrono::seconds(10));
  REQUIRE(times.size() == kCount);
  CHECK(times[kCount / 2] > 950);
  CHECK(times[kCount / 2] < 1050);
  const v1::NetworkEvidence evidence = held->evidence().network();
  CHECK(evidence.matched_packets() == kCount);
  CHECK(evidence.overflow_packets() == 0);
}

}  // namespace squall::support
