/// \file
/// What netem does to packets under each option, measured one way: the node sends numbered
/// datagrams, the client sees which of them come, when, how often and in what state.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <thread>

#include "experiments/base/fd.h"
#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint16_t kPort = 7001;
constexpr std::uint64_t kFirst = UINT64_MAX - 1;
constexpr std::uint64_t kLast = UINT64_MAX;
constexpr std::size_t kHeaders = 14 + 20 + 8;  // Ethernet, IPv4, UDP
constexpr int kCapable = 2;                    // ECN, as RFC 3168 has it
constexpr int kCongested = 3;

struct Arrival {
  std::uint64_t number = 0;
  MonotonicTime at{};
  Duration delay{};
  std::size_t flipped = 0;  ///< Bits that are not as they were sent.
  int ecn = 0;
};

struct Datagrams {
  std::size_t count = 0;
  std::size_t size = 64;
  Duration every{};
  int ecn = 0;
};

std::uint8_t filling(std::size_t place) { return static_cast<std::uint8_t>(place * 31 + 7); }

/// What the datagrams bear beside a filling.
struct Head {
  std::uint64_t number = 0;
  std::int64_t sent = 0;
};

sockaddr_in client_address() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  inet_pton(AF_INET, TwoHosts::kClient4, &address.sin_addr);
  return address;
}

Fd datagram_socket(const Namespace& where) {
  Fd fd(where.run([] { return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }));
  if (!fd.is_open()) throw std::runtime_error("cannot open a socket");
  const int on = 1;
  const int room = 64 << 20;
  setsockopt(fd.number(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
  setsockopt(fd.number(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room));
  // A flipped bit is to be seen, not to be taken for a loss.
  setsockopt(fd.number(), SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on));
  setsockopt(fd.number(), IPPROTO_IP, IP_RECVTOS, &on, sizeof(on));
  return fd;
}

class Receiver {
 public:
  explicit Receiver(const Namespace& where) : socket_(datagram_socket(where)) {
    const sockaddr_in address = client_address();
    const auto* any = reinterpret_cast<const sockaddr*>(&address);
    if (bind(socket_.number(), any, sizeof(address)) != 0) throw std::runtime_error("cannot bind");
    thread_ = std::thread([this] { receive(); });
  }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;
  ~Receiver() {
    shutdown(socket_.number(), SHUT_RD);
    thread_.join();
  }

  void await_first() {
    await([&] { return !arrivals_.empty(); });
  }

  /// What came before the last datagram, in the order in which it came.
  std::vector<Arrival> until_last() {
    await([&] { return ended_; });
    const std::lock_guard lock(mutex_);
    return arrivals_;
  }

 private:
  template <typename Condition>
  void await(Condition holds) {
    const bool came = eventually(
        [&] {
          const std::lock_guard lock(mutex_);
          return holds();
        },
        seconds(30));
    if (!came) throw std::runtime_error("a datagram did not come that nothing holds back");
  }

  void receive() {
    std::uint8_t bytes[2048];
    for (;;) {
      alignas(cmsghdr) char control[64];
      iovec part{bytes, sizeof(bytes)};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control;
      message.msg_controllen = sizeof(control);
      const ssize_t size = recvmsg(socket_.number(), &message, 0);
      if (size < static_cast<ssize_t>(sizeof(Head))) return;
      Head head;
      std::memcpy(&head, bytes, sizeof(head));
      Arrival arrival;
      arrival.at = monotonic_now();
      arrival.number = head.number;
      arrival.delay = arrival.at.time_since_epoch() - Duration(head.sent);
      for (std::size_t i = sizeof(head); i < static_cast<std::size_t>(size); ++i) {
        arrival.flipped +=
            static_cast<std::size_t>(std::popcount(static_cast<unsigned>(bytes[i] ^ filling(i))));
      }
      for (cmsghdr* part_of = CMSG_FIRSTHDR(&message); part_of != nullptr;
           part_of = CMSG_NXTHDR(&message, part_of)) {
        if (part_of->cmsg_level == IPPROTO_IP && part_of->cmsg_type == IP_TOS) {
          arrival.ecn = *CMSG_DATA(part_of) & 3;
        }
      }
      const std::lock_guard lock(mutex_);
      if (arrival.number == kLast) ended_ = true;
      if (!ended_) arrivals_.push_back(arrival);
    }
  }

  Fd socket_;
  std::mutex mutex_;
  std::vector<Arrival> arrivals_;
  bool ended_ = false;
  std::thread thread_;
};

void send(int socket, std::uint64_t number, std::size_t size) {
  std::vector<std::uint8_t> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = filling(i);
  const Head head{number, Duration(monotonic_now().time_since_epoch()).count()};
  std::memcpy(bytes.data(), &head, sizeof(head));
  const sockaddr_in address = client_address();
  sendto(socket, bytes.data(), size, 0, reinterpret_cast<const sockaddr*>(&address),
         sizeof(address));
}

struct Seen {
  std::vector<Arrival> arrivals;
  v1::NetworkEvidence evidence;
};

/// Sends them under the fault and ends it, which waits for what it holds.
Seen through(const v1::Network& wanted, const Datagrams& datagrams) {
  TwoHosts hosts;
  Receiver receiver(hosts.client);
  const Fd sender = datagram_socket(hosts.node);
  setsockopt(sender.number(), IPPROTO_IP, IP_TOS, &datagrams.ecn, sizeof(datagrams.ecn));
  v1::Fault fault = network_fault(kPort);
  fault.mutable_network()->MergeFrom(wanted);
  send(sender.number(), kFirst, sizeof(Head));
  receiver.await_first();  // the neighbour is found before, not under it
  const auto held = inject(hosts.node, fault);
  MonotonicTime next = monotonic_now();
  for (std::size_t i = 0; i < datagrams.count; ++i) {
    if (const Duration left = next - monotonic_now(); left > Duration::zero()) yield_for(left);
    next = std::max(next + datagrams.every, monotonic_now());
    send(sender.number(), i, datagrams.size);
  }
  CHECK(held->end().ok());
  CHECK(held->clean_up() == std::vector<std::string>());
  Seen seen;
  seen.evidence = held->evidence().network();
  send(sender.number(), kLast, sizeof(Head));
  seen.arrivals = receiver.until_last();
  seen.arrivals.erase(seen.arrivals.begin());
  CHECK(seen.evidence.matched_packets() == datagrams.count);
  CHECK(seen.evidence.overflow_packets() == 0);
  return seen;
}

/// Five standard deviations of how many of `count` a chance hits: less than once in a million runs.
double five_deviations(std::size_t count, double share) {
  return 5 * std::sqrt(static_cast<double>(count) * share * (1 - share));
}

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double last = static_cast<double>(values.size() - 1);
  return values[static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * last)];
}

/// From each value to the next.
double correlation_of(const std::vector<double>& values) {
  const double mean =
      std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  double together = 0;
  double alone = 0;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    together += (values[i] - mean) * (values[i + 1] - mean);
    alone += (values[i] - mean) * (values[i] - mean);
  }
  return together / alone;
}

bool needs_netem() {
  if (expected_engine() == v1::NETEM) return false;
  MESSAGE("SKIPPED: this kernel has no netem");
  return true;
}

}  // namespace

/// netem takes the remainder of a number that is correlated, and that is not. Source:
/// net/sched/sch_netem.c, tabledist(), get_crandom().
TEST_CASE("netem's delays do not show the correlation that it was told") {
  if (needs_netem()) return;
  constexpr std::size_t kCount = 500;
  for (const double correlation : {0.0, 90.0}) {
    v1::Network wanted;
    wanted.set_delay(Duration(milliseconds(500)).count());
    wanted.set_jitter(Duration(milliseconds(200)).count());
    if (correlation > 0) wanted.set_delay_correlation(correlation);
    // A stall of the machine, which several packets share, looks like one.
    double measured = 1;
    for (int round = 0; round < 5 && measured > 0.25; ++round) {
      const Seen seen = through(wanted, {.count = kCount, .every = milliseconds(1)});
      REQUIRE(seen.arrivals.size() == kCount);
      std::vector<double> delays(kCount);
      for (const Arrival& arrival : seen.arrivals) delays[arrival.number] = to_ms(arrival.delay);
      measured = std::min(measured, correlation_of(delays));
    }
    MESSAGE("asked " << correlation / 100 << ", from one delay to the next " << measured);
    CHECK(measured < 0.25);
  }
}

/// netem's correlated numbers keep to the middle, so that less than half becomes rarer still.
TEST_CASE("what is to be lost and knows ECN is marked and comes, and the rest is lost") {
  if (needs_netem()) return;
  v1::Network wanted;
  wanted.set_loss(100);
  wanted.set_ecn(true);
  const Seen capable = through(wanted, {.count = 100, .ecn = kCapable});
  CHECK(capable.arrivals.size() == 100);
  for (const Arrival& arrival : capable.arrivals) CHECK(arrival.ecn == kCongested);
  const Seen incapable = through(wanted, {.count = 100});
  CHECK(incapable.arrivals.empty());
  CHECK(incapable.evidence.dropped_packets() == 100);
}

TEST_CASE("reordered packets pass at once, by chance or every so many") {
  if (needs_netem()) return;
  constexpr std::size_t kCount = 2000;
  v1::Network wanted;
  wanted.set_delay(Duration(milliseconds(400)).count());
  wanted.set_reorder(25);
  const auto passed = [](const Seen& seen) {
    std::vector<std::uint64_t> numbers;
    for (const Arrival& arrival : seen.arrivals) {
      if (arrival.delay < milliseconds(399)) numbers.push_back(arrival.number);
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  };
  Seen seen = through(wanted, {.count = kCount});
  CHECK(seen.arrivals.size() == kCount);
  const std::size_t at_once = passed(seen).size();
  MESSAGE(at_once << " of " << kCount << " passed at once");
  CHECK(std::abs(static_cast<double>(at_once) - 0.25 * kCount) < five_deviations(kCount, 0.25));

  wanted.set_reorder(100);
  wanted.set_gap(5);
  seen = through(wanted, {.count = 100});
  std::vector<std::uint64_t> every_fifth;
  for (std::uint64_t number = 4; number < 100; number += 5) every_fifth.push_back(number);
  CHECK(passed(seen) == every_fifth);
}

TEST_CASE("a rate takes the time that its bytes, overheads and cells take") {
  if (needs_netem()) return;
  constexpr std::size_t kCount = 200;
  constexpr std::size_t kSize = 1200;
  struct Row {
    std::int32_t packet_overhead;
    std::uint32_t cell_size;
    std::int32_t cell_overhead;
    std::size_t counted;  // bytes of each packet
  };
  const Row rows[] = {{0, 0, 0, kSize + kHeaders},
                      {100, 0, 0, kSize + kHeaders + 100},
                      {-20, 0, 0, kSize + kHeaders - 20},
                      {100, 48, 5, 28 * 53}};  // 1342 bytes fill 28 cells
  for (const Row& row : rows) {
    CAPTURE(row.counted);
    v1::Network wanted;
    wanted.set_rate(8'000'000);
    if (row.packet_overhead != 0) wanted.set_packet_overhead(row.packet_overhead);
    if (row.cell_size != 0) wanted.set_cell_size(row.cell_size);
    if (row.cell_overhead != 0) wanted.set_cell_overhead(row.cell_overhead);
    const double expected = static_cast<double>(kCount * row.counted) / 1000;  // ms
    double quickest = 1e9;
    for (int round = 0; round < 5 && quickest > expected + 3; ++round) {
      const Seen seen = through(wanted, {.count = kCount, .size = kSize});
      REQUIRE(seen.arrivals.size() == kCount);
      const MonotonicTime first = seen.arrivals[0].at - seen.arrivals[0].delay;
      // A busy machine can only add to it.
      quickest = std::min(quickest, to_ms(seen.arrivals.back().at - first));
    }
    MESSAGE(kCount << " packets that count " << row.counted << " bytes at 8 Mbit/s: " << quickest
                   << " ms, expected " << expected);
    CHECK(quickest > expected - 1);
    CHECK(quickest < expected + 10);
  }
}

TEST_CASE("packets wait for their slot, and leave in it as many as may") {
  if (needs_netem()) return;
  v1::Network wanted;
  wanted.mutable_slot()->set_min_delay(Duration(milliseconds(50)).count());
  wanted.mutable_slot()->set_packets(5);
  const Seen seen = through(wanted, {.count = 100});
  REQUIRE(seen.arrivals.size() == 100);
  std::vector<double> sizes{1};
  std::vector<double> apart;
  MonotonicTime start = seen.arrivals[0].at;
  for (std::size_t i = 1; i < seen.arrivals.size(); ++i) {
    const MonotonicTime at = seen.arrivals[i].at;
    if (at - start < milliseconds(20)) {
      ++sizes.back();
      continue;
    }
    apart.push_back(to_ms(at - start));
    sizes.push_back(1);
    start = at;
  }
  MESSAGE(sizes.size() << " slots of " << quantile(sizes, 0.5) << " packets, "
                       << quantile(apart, 0.5) << " ms apart");
  CHECK(quantile(sizes, 0.5) == 5);
  CHECK(std::abs(quantile(apart, 0.5) - 50) < 5);
}

TEST_CASE("no more packets are held than the limit, and what it refuses is lost as asked") {
  if (needs_netem()) return;
  v1::Network wanted;
  wanted.set_delay(Duration(seconds(1)).count());
  wanted.set_limit(100);
  const Seen seen = through(wanted, {.count = 500});
  CHECK(seen.arrivals.size() == 100);
  CHECK(seen.evidence.dropped_packets() == 400);
  CHECK(seen.evidence.overflow_packets() == 0);
}

}  // namespace squall::support
