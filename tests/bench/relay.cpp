/// \file
/// How exactly the relay delays, by the kernel's own receive stamps on the far host, and how much
/// it lets through beside the bare veth.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

constexpr std::uint16_t kPort = 7007;

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

/// One-way times of datagrams from near to far, in ms.
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

/// One TCP stream from near to far for a while; Gbit/s.
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

/// A network fault in force from construction to destruction.
class Delayed {
 public:
  Delayed(Lease& lease, std::int64_t delay_ns) : lease_(lease) {
    fault_.set_id(new_fault_id());
    fault_.set_for_(60'000'000'000);
    v1::Network& network = *fault_.mutable_network();
    network.set_delay(delay_ns);
    network.set_interface("eth0");
    network.set_engine(v1::RELAY);
    v1::PortRange& port = *network.mutable_to()->add_ports();
    port.set_first(kPort);
    port.set_last(kPort);
    lease_.renew();
    lease_.inject(fault_);
    lease_.until(v1::LeaseEvent::kApplied);
  }
  Delayed(const Delayed&) = delete;
  Delayed& operator=(const Delayed&) = delete;
  void end() {
    lease_.revert(fault_.id());
    lease_.until(v1::LeaseEvent::kReverted);
  }

 private:
  Lease& lease_;
  v1::Fault fault_;
};

}  // namespace

void measure_relay(Bench& bench) {
  const int count = bench.times(300);
  bench.table.add({.section = "relay", .what = "bare veth, one way", .unit = "ms"},
                  one_way(bench.hosts, count, 3000));
  const Daemon daemon(bench.bin);
  Lease lease(daemon);
  for (const int asked : {1, 5, 10, 50, 100}) {
    Delayed fault(lease, asked * 1'000'000);
    std::vector<double> errors;
    for (const double got : one_way(bench.hosts, count, 3000))
      errors.push_back(std::abs(got - asked));
    fault.end();
    bench.table.add({.section = "relay",
                     .what = "error of a delay of " + std::to_string(asked) + " ms",
                     .unit = "ms",
                     .at_most = 0.1},
                    std::move(errors));
  }
}

void measure_throughput(Bench& bench) {
  const Daemon daemon(bench.bin);
  Lease lease(daemon);
  const Duration each = std::chrono::milliseconds(bench.quick ? 300 : 1500);
  std::vector<double> bare;
  std::vector<double> relayed;
  std::vector<double> shares;
  // In turns, so that what else the machine does hits both alike.
  for (int i = 0; i < bench.times(5); ++i) {
    bare.push_back(throughput(bench.hosts, each));
    Delayed fault(lease, 1'000'000);
    relayed.push_back(throughput(bench.hosts, each));
    fault.end();
    shares.push_back(relayed.back() / bare.back());
  }
  bench.table.add({.section = "through", .what = "TCP, bare veth", .unit = "Gbit/s"},
                  std::move(bare));
  bench.table.add({.section = "through", .what = "TCP, relay at 1 ms", .unit = "Gbit/s"},
                  std::move(relayed));
  bench.table.add({.section = "through",
                   .what = "relay's share of the bare veth",
                   .unit = "ratio",
                   .at_least = 0.75},
                  std::move(shares));
}

}  // namespace squall::bench
