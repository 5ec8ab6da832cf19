#include "tests/support/measure.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "experiments/base/fd.h"
#include "tests/support/eventually.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

constexpr std::size_t kInARow = 20;
/// How often somebody who waits looks at what was received: not so often that looking is what is
/// measured.
constexpr Duration kLook = std::chrono::milliseconds(10);

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

/// What is measured is the network, not who else wants the processor. Without the privilege it is
/// measured all the same.
void hurry() {
  sched_param parameters{};
  parameters.sched_priority = 10;
  pthread_setschedparam(pthread_self(), SCHED_FIFO, &parameters);
}

Fd opened(int fd) {
  if (fd < 0) fail("cannot open a socket");
  return Fd(fd);
}

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;

  Address(const std::string& text, std::uint16_t port) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
      v4->sin_family = AF_INET;
      v4->sin_port = htons(port);
      size = sizeof *v4;
    } else if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
      v6->sin6_family = AF_INET6;
      v6->sin6_port = htons(port);
      size = sizeof *v6;
    } else {
      throw std::runtime_error(text + " is no address");
    }
  }

  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

/// So that nothing is lost to a full buffer while this machine is busy elsewhere, and counted as
/// the network's loss.
void widen(int socket) {
  const int bytes = 8 << 20;
  setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
}

Fd open_socket(const Namespace& where, int family, int type) {
  return opened(where.run([&] { return socket(family, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }));
}

Fd listen_everywhere(const Namespace& where, int type, std::uint16_t port) {
  Fd listener = open_socket(where, AF_INET6, type);
  const int off = 0;
  const int on = 1;
  setsockopt(listener.number(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  setsockopt(listener.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (type == SOCK_DGRAM) widen(listener.number());
  const Address any("::", port);
  if (bind(listener.number(), any.get(), any.size) != 0) fail("cannot bind");
  if (type == SOCK_STREAM && listen(listener.number(), 16) != 0) fail("cannot listen");
  return listener;
}

bool wait_for(int fd, short events, Duration bound) {
  pollfd waiting{fd, events, 0};
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(bound);
  const timespec limit{.tv_sec = seconds.count(), .tv_nsec = (bound - seconds).count()};
  return ppoll(&waiting, 1, &limit, nullptr) > 0;
}

}  // namespace

class Echo::Server {
 public:
  Server(const Namespace& where, std::uint16_t port)
      : stop_(opened(eventfd(0, EFD_CLOEXEC))),
        datagrams_(listen_everywhere(where, SOCK_DGRAM, port)),
        listener_(listen_everywhere(where, SOCK_STREAM, port)),
        thread_([this] { serve(); }) {}

  ~Server() {
    eventfd_write(stop_.number(), 1);
    thread_.join();
  }

 private:
  void serve() {
    hurry();
    for (;;) {
      std::vector<pollfd> ready{{stop_.number(), POLLIN, 0},
                                {datagrams_.number(), POLLIN, 0},
                                {listener_.number(), POLLIN, 0}};
      for (const Fd& connection : connections_) ready.push_back({connection.number(), POLLIN, 0});
      if (poll(ready.data(), ready.size(), -1) < 0) continue;
      if (ready[0].revents != 0) return;
      if (ready[1].revents != 0) answer_datagrams();
      for (std::size_t i = ready.size(); i-- > 3;) {
        if (ready[i].revents != 0 && !answer_bytes(ready[i].fd)) {
          connections_.erase(connections_.begin() + static_cast<std::ptrdiff_t>(i - 3));
        }
      }
      if (ready[2].revents != 0) accept_one();
    }
  }

  void answer_datagrams() {
    char buffer[65536];
    sockaddr_storage from{};
    for (;;) {
      socklen_t size = sizeof from;
      auto* address = reinterpret_cast<sockaddr*>(&from);
      const ssize_t got = recvfrom(datagrams_.number(), buffer, sizeof buffer, 0, address, &size);
      if (got < 0) return;
      sendto(datagrams_.number(), buffer, static_cast<std::size_t>(got), 0, address, size);
    }
  }

  static bool answer_bytes(int connection) {
    char buffer[65536];
    const ssize_t got = recv(connection, buffer, sizeof buffer, 0);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    return got > 0 && send(connection, buffer, static_cast<std::size_t>(got), MSG_NOSIGNAL) == got;
  }

  void accept_one() {
    const int fd = accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connections_.emplace_back(fd);
  }

  Fd stop_;
  Fd datagrams_;
  Fd listener_;
  std::vector<Fd> connections_;
  std::thread thread_;
};

Echo::Echo(const Namespace& where, std::uint16_t port)
    : server_(std::make_unique<Server>(where, port)) {}
Echo::~Echo() = default;

std::size_t answered(const std::vector<Probe>& probes) {
  return static_cast<std::size_t>(
      std::count_if(probes.begin(), probes.end(),
                    [](const Probe& probe) { return probe.round_trip.has_value(); }));
}

Duration median_round_trip(const std::vector<Probe>& probes) {
  std::vector<Duration> round_trips;
  for (const Probe& probe : probes) {
    if (probe.round_trip) round_trips.push_back(*probe.round_trip);
  }
  if (round_trips.empty()) return Duration::zero();
  const auto middle = round_trips.begin() + static_cast<std::ptrdiff_t>(round_trips.size() / 2);
  std::nth_element(round_trips.begin(), middle, round_trips.end());
  return *middle;
}

std::string losses(const std::vector<Probe>& probes, MonotonicTime origin) {
  std::string text;
  const auto since = [&](const Probe& probe) {
    return std::to_string(
               std::chrono::duration_cast<std::chrono::milliseconds>(probe.sent - origin).count()) +
           " ms";
  };
  for (std::size_t first = 0, end = 0; first < probes.size(); first = end + 1) {
    for (end = first; end < probes.size() && !probes[end].round_trip; ++end) {
    }
    if (end == first) continue;
    text += std::to_string(end - first) + " lost from " + since(probes[first]) + " to " +
            since(probes[end - 1]) + "; ";
  }
  return text;
}

std::optional<MonotonicTime> untouched_from(const std::vector<Probe>& probes, Duration limit) {
  std::optional<MonotonicTime> from;
  for (auto probe = probes.rbegin(); probe != probes.rend(); ++probe) {
    if (!probe->round_trip || *probe->round_trip > limit) break;
    from = probe->sent;
  }
  return from;
}

class Stream::Sender {
 public:
  Sender(const Namespace& from, const std::string& address, std::uint16_t port, Duration every,
         std::size_t count)
      : every_(every),
        left_(count),
        stop_(opened(eventfd(0, EFD_CLOEXEC))),
        to_(address, port),
        socket_(open_socket(from, to_.storage.ss_family, SOCK_DGRAM)) {
    widen(socket_.number());
    if (::connect(socket_.number(), to_.get(), to_.size) != 0) fail("cannot connect to " + address);
    thread_ = std::thread([this] { pump(); });
  }

  ~Sender() {
    eventfd_write(stop_.number(), 1);
    thread_.join();
  }

  void stop_sending() {
    const std::lock_guard lock(mutex_);
    left_ = 0;
  }

  std::vector<Probe> probes() const {
    const std::lock_guard lock(mutex_);
    return probes_;
  }

 private:
  void pump() {
    hurry();
    MonotonicTime next = monotonic_now();
    for (;;) {
      pollfd ready[]{{stop_.number(), POLLIN, 0}, {socket_.number(), POLLIN, 0}};
      const Duration left = std::max(Duration::zero(), Duration(next - monotonic_now()));
      const timespec limit{.tv_sec = 0, .tv_nsec = left.count() % 1'000'000'000};
      ppoll(ready, 2, &limit, nullptr);
      if (ready[0].revents != 0) return;
      receive();
      if (monotonic_now() < next) continue;
      send_one();
      // After a stall, no burst to make up for it: the pace is what is wanted, not the number.
      next = std::max(next + every_, monotonic_now());
    }
  }

  void send_one() {
    std::uint64_t number = 0;
    {
      const std::lock_guard lock(mutex_);
      if (left_ == 0) return;
      --left_;
      number = probes_.size();
      probes_.push_back({monotonic_now(), std::nullopt});
    }
    // One that cannot be sent is one that gets no answer.
    send(socket_.number(), &number, sizeof number, MSG_NOSIGNAL);
  }

  void receive() {
    std::uint64_t number = 0;
    while (recv(socket_.number(), &number, sizeof number, 0) ==
           static_cast<ssize_t>(sizeof number)) {
      const MonotonicTime now = monotonic_now();
      const std::lock_guard lock(mutex_);
      if (number >= probes_.size()) continue;
      Probe& probe = probes_[number];
      if (!probe.round_trip) probe.round_trip = now - probe.sent;
    }
  }

  Duration every_;
  std::size_t left_;  ///< To be sent; guarded by the mutex.
  Fd stop_;
  Address to_;
  Fd socket_;
  mutable std::mutex mutex_;
  std::vector<Probe> probes_;
  std::thread thread_;
};

Stream::Stream(const Namespace& from, const std::string& address, std::uint16_t port,
               Duration every, std::size_t count)
    : sender_(std::make_unique<Sender>(from, address, port, every, count)) {}
Stream::~Stream() = default;

std::vector<Probe> Stream::probes() const { return sender_->probes(); }

std::vector<Probe> Stream::finish(Duration grace) {
  sender_->stop_sending();
  eventually(
      [&] {
        const std::vector<Probe> all = probes();
        return answered(all) == all.size();
      },
      grace);
  return probes();
}

bool Stream::passes_untouched(MonotonicTime after, Duration limit, Duration bound) const {
  return eventually(
      [&] {
        std::size_t in_a_row = 0;
        for (const Probe& probe : probes()) {
          if (probe.sent <= after) continue;
          in_a_row = probe.round_trip && *probe.round_trip <= limit ? in_a_row + 1 : 0;
          if (in_a_row == kInARow) return true;
        }
        return false;
      },
      bound, kLook);
}

bool Stream::is_disturbed(MonotonicTime after, Duration limit, Duration bound) const {
  return eventually(
      [&] {
        std::size_t in_a_row = 0;
        const MonotonicTime answers_due = monotonic_now() - std::chrono::milliseconds(500);
        for (const Probe& probe : probes()) {
          if (probe.sent <= after) continue;
          const bool disturbed =
              probe.round_trip ? *probe.round_trip > limit : probe.sent < answers_due;
          in_a_row = disturbed ? in_a_row + 1 : 0;
          if (in_a_row == kInARow / 2) return true;
        }
        return false;
      },
      bound, kLook);
}

std::vector<Probe> measure(const Namespace& from, const std::string& address, std::uint16_t port,
                           std::size_t count, Duration grace) {
  Stream stream(from, address, port, std::chrono::milliseconds(5), count);
  eventually([&] { return stream.probes().size() >= count; }, std::chrono::seconds(30));
  return stream.finish(grace);
}

namespace {

/// As the kernel stamps what it receives.
Duration wall_clock() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::chrono::seconds(now.tv_sec) + Duration(now.tv_nsec);
}

struct Numbered {
  std::uint64_t number = 0;
  std::int64_t sent_ns = 0;
};

constexpr std::uint8_t kEcnMask = 3;
constexpr int kKnowsEcn = 2;  // ECT(0)

}  // namespace

class Sink::Receiver {
 public:
  Receiver(const Namespace& where, const std::vector<std::uint16_t>& ports)
      : ports_(ports), stop_(opened(eventfd(0, EFD_CLOEXEC))), arrivals_(ports.size()) {
    const int on = 1;
    for (const std::uint16_t port : ports) {
      sockets_.push_back(listen_everywhere(where, SOCK_DGRAM, port));
      setsockopt(sockets_.back().number(), SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
      setsockopt(sockets_.back().number(), IPPROTO_IP, IP_RECVTOS, &on, sizeof on);
      setsockopt(sockets_.back().number(), IPPROTO_IPV6, IPV6_RECVTCLASS, &on, sizeof on);
    }
    thread_ = std::thread([this] { receive_all(); });
  }

  ~Receiver() {
    eventfd_write(stop_.number(), 1);
    thread_.join();
  }

  std::vector<OneWayArrival> arrivals(std::uint16_t port, Duration quiet) const {
    eventually([&] { return is_quiet(quiet); }, std::chrono::seconds(60), kLook);
    const std::lock_guard lock(mutex_);
    return arrivals_.at(
        static_cast<std::size_t>(std::find(ports_.begin(), ports_.end(), port) - ports_.begin()));
  }

 private:
  bool is_quiet(Duration quiet) const {
    const std::lock_guard lock(mutex_);
    return monotonic_now() - last_ >= quiet;
  }

  void receive_all() {
    hurry();
    for (;;) {
      std::vector<pollfd> ready{{stop_.number(), POLLIN, 0}};
      for (const Fd& socket : sockets_) ready.push_back({socket.number(), POLLIN, 0});
      if (poll(ready.data(), ready.size(), -1) < 0) continue;
      if (ready[0].revents != 0) return;
      for (std::size_t i = 0; i < sockets_.size(); ++i) {
        if (ready[i + 1].revents != 0) receive(i);
      }
    }
  }

  void receive(std::size_t which) {
    Numbered numbered;
    iovec part{&numbered, sizeof numbered};
    for (;;) {
      alignas(cmsghdr) char control[256];
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof control;
      if (recvmsg(sockets_[which].number(), &message, 0) != sizeof numbered) return;
      OneWayArrival arrival;
      arrival.number = numbered.number;
      for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
          timespec stamp{};
          std::memcpy(&stamp, CMSG_DATA(c), sizeof stamp);
          arrival.at = std::chrono::seconds(stamp.tv_sec) + Duration(stamp.tv_nsec);
        } else if ((c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) ||
                   (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS)) {
          // One byte or an int of this host's order, which is little-endian.
          arrival.congested = (*CMSG_DATA(c) & kEcnMask) == kEcnMask;
        }
      }
      arrival.took = arrival.at - Duration(numbered.sent_ns);
      const std::lock_guard lock(mutex_);
      arrivals_[which].push_back(arrival);
      last_ = monotonic_now();
    }
  }

  std::vector<std::uint16_t> ports_;
  Fd stop_;
  std::vector<Fd> sockets_;
  mutable std::mutex mutex_;
  std::vector<std::vector<OneWayArrival>> arrivals_;
  MonotonicTime last_ = monotonic_now();
  std::thread thread_;
};

Sink::Sink(const Namespace& where, const std::vector<std::uint16_t>& ports)
    : receiver_(std::make_unique<Receiver>(where, ports)) {}
Sink::~Sink() = default;

std::vector<OneWayArrival> Sink::arrivals(std::uint16_t port, Duration quiet) const {
  return receiver_->arrivals(port, quiet);
}

void send_one_way(const Namespace& from, const OneWay& wanted) {
  std::vector<Address> to;
  for (const std::uint16_t port : wanted.ports) to.emplace_back(wanted.address, port);
  const int family = to.at(0).storage.ss_family;
  const Fd sender = opened(from.run([&] { return socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0); }));
  // Room for all that a fault holds: who waits for room keeps no pace.
  const int bytes = 64 << 20;
  setsockopt(sender.number(), SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
  setsockopt(sender.number(), family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6,
             family == AF_INET ? IP_TOS : IPV6_TCLASS, &kKnowsEcn, sizeof kKnowsEcn);
  std::vector<std::byte> payload(std::max(wanted.size, sizeof(Numbered)));
  // In a thread of its own, whose priority ends with it.
  std::thread([&] {
    hurry();
    MonotonicTime next = monotonic_now();
    for (std::uint64_t number = 0; number < wanted.rounds; ++number) {
      for (const Address& address : to) {
        const Numbered numbered{.number = number, .sent_ns = wall_clock().count()};
        std::memcpy(payload.data(), &numbered, sizeof numbered);
        sendto(sender.number(), payload.data(), payload.size(), 0, address.get(), address.size);
      }
      next += wanted.every;
      const Duration left = next - monotonic_now();
      if (left > Duration::zero()) yield_for(left);
    }
  }).join();
}

std::uint64_t snmp(const Namespace& where, const std::string& protocol, const std::string& name) {
  return where.run([&]() -> std::uint64_t {
    std::ifstream file("/proc/thread-self/net/snmp");
    // Two lines for each protocol: the names, and below them the numbers.
    for (std::string names, numbers; std::getline(file, names) && std::getline(file, numbers);) {
      if (!names.starts_with(protocol + ":")) continue;
      std::istringstream all_names(names);
      std::istringstream all_numbers(numbers);
      for (std::string here, number; all_names >> here && all_numbers >> number;) {
        if (here == name) return std::stoull(number);
      }
    }
    throw std::runtime_error("no " + protocol + " " + name + " in /proc/net/snmp");
  });
}

std::vector<Duration> tcp_round_trips(const Namespace& from, const std::string& address,
                                      std::uint16_t port, std::size_t count, Duration bound) {
  std::vector<Duration> round_trips;
  const Address to(address, port);
  const Fd connection = open_socket(from, to.storage.ss_family, SOCK_STREAM);
  const int on = 1;
  setsockopt(connection.number(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  MonotonicTime start = monotonic_now();
  if (::connect(connection.number(), to.get(), to.size) != 0 && errno != EINPROGRESS)
    return round_trips;
  if (!wait_for(connection.number(), POLLOUT, bound)) return round_trips;
  int failure = 0;
  socklen_t size = sizeof failure;
  getsockopt(connection.number(), SOL_SOCKET, SO_ERROR, &failure, &size);
  if (failure != 0) return round_trips;
  round_trips.push_back(monotonic_now() - start);
  for (char byte = 0; round_trips.size() <= count; ++byte) {
    start = monotonic_now();
    if (send(connection.number(), &byte, 1, MSG_NOSIGNAL) != 1) break;
    if (!wait_for(connection.number(), POLLIN, bound) ||
        recv(connection.number(), &byte, 1, 0) != 1)
      break;
    round_trips.push_back(monotonic_now() - start);
  }
  return round_trips;
}

}  // namespace squall::support
