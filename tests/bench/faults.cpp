/// \file
/// How long a fault takes to be there and to be gone, as the node reports it (request received →
/// applied and read back, the ledger's record included) and as a client on a unix socket sees it.
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

constexpr double kInjectTarget = 1.0;
constexpr double kEndTarget = 0.3;

double ms(Duration duration) { return to_ms(duration); }
double ms(std::int64_t ns) { return static_cast<double>(ns) / 1e6; }

struct Times {
  std::vector<double> injected, injected_seen, ended, ended_seen, clean, clean_seen;
};

/// Long enough for the daemon to have its next spare holder ready. What is compared rests as long:
/// a processor that comes from its sleep is slower for everybody.
constexpr int kPauseMs = 100;

Times inject_and_revert(const Daemon& daemon, const v1::Fault& wanted, int times, int pause_ms) {
  Lease lease(daemon);
  Times out;
  for (int i = 0; i < times; ++i) {
    ::poll(nullptr, 0, pause_ms);
    v1::Fault fault = wanted;
    fault.set_id(new_fault_id());
    lease.renew();
    MonotonicTime start = monotonic_now();
    lease.inject(fault);
    const v1::LeaseEvent applied = lease.until(v1::LeaseEvent::kApplied);
    out.injected_seen.push_back(ms(monotonic_now() - start));
    out.injected.push_back(ms(applied.applied().took()));
    start = monotonic_now();
    lease.revert(fault.id());
    const v1::LeaseEvent ended = lease.until(v1::LeaseEvent::kEffectEnded);
    out.ended_seen.push_back(ms(monotonic_now() - start));
    out.ended.push_back(ms(ended.effect_ended().took()));
    const v1::LeaseEvent reverted = lease.until(v1::LeaseEvent::kReverted);
    out.clean_seen.push_back(ms(monotonic_now() - start));
    out.clean.push_back(ms(reverted.reverted().took()));
    if (reverted.reverted().residue_size() > 0) {
      throw std::runtime_error("residue: " + reverted.reverted().residue(0));
    }
  }
  return out;
}

void tell(Table& table, const std::string& kind, Times times, bool with_targets) {
  Row row{.section = "inject", .unit = "ms"};
  if (with_targets) row.at_most = kInjectTarget;
  row.what = kind + ": request → applied, by the node";
  table.add(row, std::move(times.injected));
  row.at_most.reset();
  row.what = kind + ": the same, seen by the client";
  table.add(row, std::move(times.injected_seen));
  row.section = "revert";
  if (with_targets) row.at_most = kEndTarget;
  row.what = kind + ": request → effect ended, by the node";
  table.add(row, std::move(times.ended));
  row.at_most.reset();
  row.what = kind + ": the same, seen by the client";
  table.add(row, std::move(times.ended_seen));
  row.what = kind + ": request → verified clean, by the node";
  table.add(row, std::move(times.clean));
}

const std::vector<std::string> kTcAdd = {"qdisc", "add",   "dev",   "eth0",  "root",    "tbf",
                                         "rate",  "1gbit", "burst", "128kb", "latency", "400ms"};
const std::vector<std::string> kTcDelete = {"qdisc", "del", "dev", "eth0", "root"};

/// What a tool built upon tc pays. The kernel may lack netem, so a tbf stands in: the same number
/// of messages.
void measure_tc(Bench& bench) {
  std::vector<std::string> add = {"tc"};
  std::vector<std::string> remove = {"tc"};
  add.insert(add.end(), kTcAdd.begin(), kTcAdd.end());
  remove.insert(remove.end(), kTcDelete.begin(), kTcDelete.end());
  std::vector<double> added;
  std::vector<double> removed;
  for (int i = 0; i < bench.times(100); ++i) {
    ::poll(nullptr, 0, kPauseMs);
    added.push_back(ms(timed(add)));
    ::poll(nullptr, 0, kPauseMs);
    removed.push_back(ms(timed(remove)));
  }
  bench.table.add({.section = "inject", .what = "tc by posix_spawn, qdisc add", .unit = "ms"},
                  std::move(added));
  bench.table.add({.section = "revert", .what = "tc by posix_spawn, qdisc del", .unit = "ms"},
                  std::move(removed));

  // tc -batch acknowledges nothing line by line: the whole divided by its lines.
  constexpr int kPairs = 200;
  const std::string file = "/tmp/squall-bench-" + std::to_string(::getpid()) + ".tc";
  {
    std::ofstream out(file);
    for (int i = 0; i < kPairs; ++i) {
      for (const auto* words : {&kTcAdd, &kTcDelete}) {
        for (const std::string& word : *words) out << word << ' ';
        out << '\n';
      }
    }
  }
  std::vector<double> batch;
  for (int i = 0; i < bench.times(10); ++i) {
    batch.push_back(ms(timed({"tc", "-batch", file})) / (2 * kPairs));
  }
  ::unlink(file.c_str());
  bench.table.add({.section = "inject", .what = "tc -batch, mean of add and del", .unit = "ms"},
                  std::move(batch));
}

}  // namespace

void measure_faults(Bench& bench) {
  measure_tc(bench);
  const Daemon daemon(bench.bin);
  const int times = bench.times(100);

  v1::Fault network;
  network.set_for_(60'000'000'000);
  network.mutable_network()->set_delay(1'000'000);
  network.mutable_network()->set_interface("eth0");
  network.mutable_network()->mutable_to()->add_ports()->set_first(9);
  network.mutable_network()->mutable_to()->mutable_ports(0)->set_last(9);
  tell(bench.table, "network delay", inject_and_revert(daemon, network, times, kPauseMs), true);

  v1::Fault loss = network;
  loss.mutable_network()->clear_delay();
  loss.mutable_network()->set_loss(100);
  tell(bench.table, "network loss 100%", inject_and_revert(daemon, loss, times, kPauseMs), true);

  v1::Fault cpu;
  cpu.set_for_(60'000'000'000);
  cpu.mutable_cpu()->set_load(1);
  cpu.mutable_cpu()->set_cores(1);
  tell(bench.table, "cpu", inject_and_revert(daemon, cpu, bench.times(50), kPauseMs), false);

  // The next one before the spare holder is there: the daemon has to wait for it.
  tell(bench.table, "network delay, back to back",
       inject_and_revert(daemon, network, bench.times(50), 0), false);
}

}  // namespace squall::bench
