/// \file
/// How exactly a share of a core is burnt, by the kernel's account of the processes that burn it,
/// beside stress-ng on the same core. Beside other load on that core, both show that load as well.
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

constexpr int kWindowMs = 100;
constexpr int kWindows = 100;
constexpr double kMostError = 0.1;
constexpr double kMostDeviation = 1;
constexpr const char* kStressNg = "/usr/bin/stress-ng";

/// Processor time of a process and all below it, to the moment: /proc/PID/schedstat and stat tell
/// it as of the last tick, which is several milliseconds. Source: clock_getcpuclockid(3).
Duration burnt_below(pid_t pid) {
  Duration sum{};
  clockid_t clock{};
  timespec used{};
  if (::clock_getcpuclockid(pid, &clock) == 0 && ::clock_gettime(clock, &used) == 0) {
    sum = std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
  }
  for (const pid_t child : children(pid)) sum += burnt_below(child);
  return sum;
}

/// The one of squalld's holders that burns; the other is the spare.
pid_t burning_below(pid_t daemon) {
  const std::vector<pid_t> holders = children(daemon);
  const auto most = std::max_element(holders.begin(), holders.end(), [](pid_t one, pid_t other) {
    return burnt_below(one) < burnt_below(other);
  });
  if (most == holders.end()) throw std::runtime_error("squalld has no holder");
  return *most;
}

struct Shares {
  double mean = 0;       ///< In percent of a core.
  double deviation = 0;  ///< Of the windows, in points.
};

/// `beside`: what else is done now and then.
Shares shares_of(pid_t pid, int windows, const std::function<void()>& beside) {
  std::vector<double> shares;
  const MonotonicTime begun = monotonic_now();
  const Duration burnt_before = burnt_below(pid);
  MonotonicTime then = begun;
  Duration burnt_then = burnt_before;
  for (int i = 1; i <= windows; ++i) {
    const MonotonicTime until = begun + i * std::chrono::milliseconds(kWindowMs);
    const timespec at{.tv_sec = to_ns(until) / 1'000'000'000,
                      .tv_nsec = to_ns(until) % 1'000'000'000};
    if (i % 10 == 0) beside();
    ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
    const Duration burnt_now = burnt_below(pid);
    const MonotonicTime now = monotonic_now();
    shares.push_back(to_ms(burnt_now - burnt_then) / to_ms(now - then) * 100);
    then = now;
    burnt_then = burnt_now;
  }
  Shares out;
  out.mean = to_ms(burnt_then - burnt_before) / to_ms(then - begun) * 100;
  double squares = 0;
  for (const double share : shares) squares += (share - out.mean) * (share - out.mean);
  out.deviation = std::sqrt(squares / static_cast<double>(shares.size()));
  return out;
}

void tell(Table& table, const std::string& who, int load, const Shares& shares, bool with_targets) {
  const std::string what = who + ", " + std::to_string(load) + " % of a core: ";
  Row error{.section = "cpu",
            .what = what + "mean error",
            .unit = "points",
            .median = std::abs(shares.mean - load)};
  Row deviation{.section = "cpu",
                .what = what + "deviation of 100 ms",
                .unit = "points",
                .median = shares.deviation};
  if (with_targets) {
    error.at_most = kMostError;
    deviation.at_most = kMostDeviation;
  }
  table.add(error);
  table.add(deviation);
}

/// Long enough for both to have begun.
constexpr int kBeginMs = 500;

}  // namespace

void measure_cpu(Bench& bench) {
  const Daemon daemon(bench.bin);
  const int windows = bench.times(kWindows);
  const bool has_stress_ng = ::access(kStressNg, X_OK) == 0;
  if (!has_stress_ng) std::fprintf(stderr, "cpu: stress-ng is not installed, and not compared\n");
  for (const int load : {10, 30, 50, 70, 90}) {
    {
      v1::Fault fault;
      fault.set_id(new_fault_id());
      fault.set_for_(60'000'000'000);
      fault.mutable_cpu()->set_load(load);
      fault.mutable_cpu()->add_on_cores(0);
      Lease lease(daemon);
      lease.inject(fault);
      lease.until(v1::LeaseEvent::kApplied);
      ::poll(nullptr, 0, kBeginMs);
      const auto live = [&] {
        lease.renew();
        lease.until(v1::LeaseEvent::kEvidence);
      };
      tell(bench.table, "squall", load, shares_of(burning_below(daemon.pid()), windows, live),
           true);
      lease.revert(fault.id());
      lease.until(v1::LeaseEvent::kReverted);
    }
    if (!has_stress_ng) continue;
    const Process stress(
        {kStressNg, "--quiet", "--taskset", "0", "--cpu", "1", "--cpu-load", std::to_string(load)});
    ::poll(nullptr, 0, kBeginMs);
    tell(bench.table, "stress-ng", load, shares_of(stress.pid(), windows, [] {}), false);
  }
}

}  // namespace squall::bench
