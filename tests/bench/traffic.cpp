#include "tests/bench/traffic.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "experiments/base/ids.h"

namespace squall::bench {
namespace {

class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {
    if (fd_ < 0) throw std::runtime_error(std::string("socket: ") + std::strerror(errno));
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() { ::close(fd_); }
  operator int() const { return fd_; }

 private:
  int fd_;
};

sockaddr_in address(const char* host) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(kPort);
  ::inet_pton(AF_INET, host, &out.sin_addr);
  return out;
}

void check(int result, const char* what) {
  if (result < 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

void bind_to(int fd, const char* host) {
  const int on = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const sockaddr_in name = address(host);
  check(::bind(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name), "bind");
}

void give_up_after(int fd, long seconds) {
  const timeval limit{seconds, 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

std::int64_t wall_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

std::vector<double> one_way(const TwoHosts& hosts, int count, std::int64_t pause_us) {
  const Socket far(hosts.far_socket(SOCK_DGRAM));
  const int on = 1;
  check(::setsockopt(far, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on), "SO_TIMESTAMPNS");
  bind_to(far, TwoHosts::kFar);
  give_up_after(far, 1);
  const Socket near(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sockaddr_in to = address(TwoHosts::kFar);

  std::vector<double> times;
  std::thread receiver([&] {
    for (int i = 0; i < count; ++i) {
      std::int64_t sent = 0;
      alignas(cmsghdr) char control[256];
      iovec part{&sent, sizeof sent};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      if (::recvmsg(far, &message, 0) != sizeof sent) return;
      for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SO_TIMESTAMPNS) continue;
        timespec stamp{};
        std::memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
        const std::int64_t arrived = std::int64_t{stamp.tv_sec} * 1'000'000'000 + stamp.tv_nsec;
        times.push_back(static_cast<double>(arrived - sent) / 1e6);
      }
    }
  });
  for (int i = 0; i < count; ++i) {
    const std::int64_t now = wall_ns();
    ::sendto(near, &now, sizeof now, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to);
    // The pace of the stream; nothing is waited for.
    std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
  }
  receiver.join();
  return times;
}

double throughput(const TwoHosts& hosts, Duration how_long) {
  const Socket listener(hosts.far_socket(SOCK_STREAM));
  bind_to(listener, TwoHosts::kFar);
  check(::listen(listener, 1), "listen");
  give_up_after(listener, 5);
  std::uint64_t bytes = 0;
  Duration took{};
  std::thread receiver([&] {
    const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    give_up_after(fd, 5);
    std::vector<char> buffer(1 << 20);
    const MonotonicTime start = monotonic_now();
    for (ssize_t got = 0; (got = ::recv(fd, buffer.data(), buffer.size(), 0)) > 0;) {
      bytes += static_cast<std::uint64_t>(got);
    }
    took = monotonic_now() - start;
    ::close(fd);
  });
  {
    const Socket near(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    // Linux's default. bbr paces by its own guess at the bandwidth, and it would be that guess
    // which is measured, on the bare veth as well.
    constexpr std::string_view kCubic = "cubic";
    check(::setsockopt(near, IPPROTO_TCP, TCP_CONGESTION, kCubic.data(), kCubic.size()), "cubic");
    const sockaddr_in to = address(TwoHosts::kFar);
    if (::connect(near, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) {
      const std::vector<char> buffer(256 << 10);
      const MonotonicTime end = monotonic_now() + how_long;
      while (monotonic_now() < end && ::send(near, buffer.data(), buffer.size(), 0) > 0) {
      }
    }
  }
  receiver.join();
  if (bytes == 0) throw std::runtime_error("nothing came through");
  return static_cast<double>(bytes) * 8 / static_cast<double>(took.count());
}

Arrived small_frames(const TwoHosts& hosts, Duration how_long) {
  constexpr std::size_t kPayload = 18;  // beside Ethernet's 18 bytes, IPv4's 20 and UDP's 8
  constexpr std::size_t kAtOnce = 64;
  const Socket far(hosts.far_socket(SOCK_DGRAM));
  const int room = 16 << 20;
  check(::setsockopt(far, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room), "SO_RCVBUFFORCE");
  bind_to(far, TwoHosts::kFar);
  const timeval limit{0, 200'000};
  ::setsockopt(far, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);

  std::array<char, kPayload> payload{};
  iovec part{payload.data(), payload.size()};
  std::array<mmsghdr, kAtOnce> messages{};
  for (mmsghdr& message : messages) {
    message.msg_hdr.msg_iov = &part;
    message.msg_hdr.msg_iovlen = 1;
  }
  std::uint64_t arrived = 0;
  MonotonicTime first{};
  MonotonicTime last{};
  std::thread receiver([&] {
    std::array<char, kPayload> ignored{};
    iovec into{ignored.data(), ignored.size()};
    std::array<mmsghdr, kAtOnce> received{};
    for (mmsghdr& message : received) {
      message.msg_hdr.msg_iov = &into;
      message.msg_hdr.msg_iovlen = 1;
    }
    for (;;) {
      const int got = ::recvmmsg(far, received.data(), kAtOnce, MSG_WAITFORONE, nullptr);
      if (got <= 0) return;  // none any more
      last = monotonic_now();
      if (arrived == 0) first = last;
      arrived += static_cast<std::uint64_t>(got);
    }
  });
  const Socket near(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const sockaddr_in to = address(TwoHosts::kFar);
  check(::connect(near, reinterpret_cast<const sockaddr*>(&to), sizeof to), "connect");
  const MonotonicTime end = monotonic_now() + how_long;
  while (monotonic_now() < end) ::sendmmsg(near, messages.data(), kAtOnce, 0);
  receiver.join();
  if (last <= first) throw std::runtime_error("nothing came through");
  const auto frames = static_cast<double>(arrived);
  return {frames, frames / std::chrono::duration<double>(last - first).count()};
}

NetworkFault::NetworkFault(Lease& lease, v1::Network network, std::uint16_t port) : lease_(lease) {
  fault_.set_id(new_fault_id());
  fault_.set_for_(60'000'000'000);
  network.set_interface("eth0");
  v1::PortRange& range = *network.mutable_to()->add_ports();
  range.set_first(port);
  range.set_last(port);
  *fault_.mutable_network() = std::move(network);
  lease_.renew();
  lease_.inject(fault_);
  lease_.until(v1::LeaseEvent::kApplied);
}

std::uint64_t NetworkFault::end() {
  lease_.revert(fault_.id());
  const v1::LeaseEvent ended = lease_.until(v1::LeaseEvent::kEffectEnded);
  lease_.until(v1::LeaseEvent::kReverted);
  return ended.effect_ended().evidence().network().matched_packets();
}

v1::Network delay_of(std::int64_t ns, v1::Engine engine) {
  v1::Network network;
  network.set_delay(ns);
  network.set_engine(engine);
  return network;
}

}  // namespace squall::bench
