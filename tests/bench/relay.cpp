/// \file
/// How exactly the relay delays, by the kernel's own receive stamps on the far host, and how much
/// it lets through beside the bare veth; and what a fault takes from a stream that it does not
/// mean.
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tests/bench/sections.h"
#include "tests/bench/traffic.h"

namespace squall::bench {
namespace {

constexpr std::int64_t kMicrosecond = 1'000;
constexpr std::int64_t kMillisecond = 1'000'000;
/// Nobody sends there.
constexpr std::uint16_t kOtherPort = 9;

/// Next to nothing is lost, so that it is the way through the engine which counts.
v1::Network a_loss() {
  v1::Network network;
  network.set_loss(0.0001);
  network.set_engine(v1::RELAY);
  return network;
}

/// The processor time of a daemon's holders until now, in us.
double holders_time(const Daemon& daemon) {
  long sum = 0;
  for (const pid_t holder : children(daemon.pid())) sum += ticks(holder);
  return static_cast<double>(sum) * 1e6 / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace

void measure_relay(Bench& bench) {
  const int count = bench.times(300);
  bench.table.add({.section = "relay", .what = "bare veth, one way", .unit = "ms"},
                  one_way(bench.hosts, count, 3000));
  const Daemon daemon(bench.bin);
  Lease lease(daemon);
  for (const int asked : {1, 5, 10, 50, 100}) {
    NetworkFault fault(lease, delay_of(asked * kMillisecond, v1::RELAY), kPort);
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
  std::vector<double> bare, beside_share, undelayed, undelayed_share, relayed, relayed_share;
  std::vector<double> packets, relayed_packets, packets_share, cpu_each;
  // The beginning does not count: meanwhile the daemon makes its next spare holder ready.
  const auto stream = [&] {
    throughput(bench.hosts, each / 5);
    return throughput(bench.hosts, each);
  };
  // In turns, so that what else the machine does hits all alike.
  for (int i = 0; i < bench.times(7); ++i) {
    NetworkFault beside(lease, delay_of(kMillisecond, v1::RELAY), kOtherPort);
    const double besides = stream();
    beside.end();
    bare.push_back(stream());
    beside_share.push_back(besides / bare.back());
    NetworkFault loss(lease, a_loss(), kPort);
    undelayed.push_back(stream());
    undelayed_share.push_back(undelayed.back() / bare.back());
    loss.end();
    // The shortest delay: of a longer one it is TCP's own window that sets the pace.
    NetworkFault fault(lease, delay_of(kMicrosecond, v1::RELAY), kPort);
    relayed.push_back(stream());
    relayed_share.push_back(relayed.back() / bare.back());
    fault.end();

    packets.push_back(small_frames(bench.hosts, each).per_second);
    NetworkFault storm(lease, delay_of(kMillisecond, v1::RELAY), kPort);
    const double before = holders_time(daemon);
    const Arrived arrived = small_frames(bench.hosts, each);
    cpu_each.push_back((holders_time(daemon) - before) / arrived.frames);
    storm.end();
    relayed_packets.push_back(arrived.per_second);
    packets_share.push_back(relayed_packets.back() / packets.back());
  }
  const auto add = [&](const char* what, const char* unit, std::vector<double> samples,
                       std::optional<double> at_least = std::nullopt) {
    bench.table.add({.section = "through", .what = what, .unit = unit, .at_least = at_least},
                    std::move(samples));
  };
  add("TCP, bare veth", "Gbit/s", std::move(bare));
  add("share of it beside a fault that does not match", "ratio", std::move(beside_share), 0.98);
  add("TCP, relay with no delay (a loss)", "Gbit/s", std::move(undelayed));
  add("its share of the bare veth", "ratio", std::move(undelayed_share), 0.8);
  add("TCP, relay at 1 us", "Gbit/s", std::move(relayed));
  add("its share of the bare veth, two more copies of each byte", "ratio",
      std::move(relayed_share));
  add("64-byte frames, bare veth", "1/s", std::move(packets));
  add("64-byte frames, relay at 1 ms", "1/s", std::move(relayed_packets));
  add("relay's share of the bare veth, 64-byte frames", "ratio", std::move(packets_share), 0.5);
  add("relay's CPU time for each frame of 64 bytes", "us", std::move(cpu_each));
}

}  // namespace squall::bench
