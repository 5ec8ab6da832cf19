/// \file
/// What a node pays for squalld while nothing happens: its own memory and ticks, and those of the
/// spare holder.
#include <poll.h>
#include <unistd.h>

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

constexpr int kIdleMs = 10'000;

double resident_mib(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stod(line.substr(6)) / 1024;
  }
  throw std::runtime_error("cannot read the memory of a process");
}

}  // namespace

void measure_idle(Bench& bench) {
  const Daemon daemon(bench.bin);
  ::poll(nullptr, 0, 500);  // let its start be over
  const std::vector<pid_t> holders = children(daemon.pid());
  long before = ticks(daemon.pid());
  for (const pid_t holder : holders) before += ticks(holder);
  ::poll(nullptr, 0, bench.quick ? kIdleMs / 10 : kIdleMs);
  long after = ticks(daemon.pid());
  double spare = 0;
  for (const pid_t holder : holders) {
    after += ticks(holder);
    spare += resident_mib(holder);
  }
  bench.table.add({.section = "idle",
                   .what = "squalld, resident memory",
                   .unit = "MiB",
                   .median = resident_mib(daemon.pid()),
                   .at_most = 20});
  bench.table.add({.section = "idle",
                   .what = "its spare holder, resident memory",
                   .unit = "MiB",
                   .median = spare});
  bench.table.add({.section = "idle",
                   .what = "CPU ticks of both in 10 s",
                   .unit = "ticks",
                   .median = static_cast<double>(after - before),
                   .at_most = 0});
}

}  // namespace squall::bench
