/// \file
/// What the way to netem behind an IFB costs beside a netem that tc puts at the root: in the lab,
/// whose kernel has netem, so that only the ratio of the two means something.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/bench/sections.h"
#include "tests/bench/traffic.h"

namespace squall::bench {
namespace {

constexpr std::int64_t kDelay = 1'000'000;
/// Packets: more than a stream has on its way at any time.
const std::string kLimit = "100000";

}  // namespace

void measure_netem_in_lab(Bench& bench) {
  const Daemon daemon(bench.bin);
  Lease lease(daemon);
  const Duration each = std::chrono::milliseconds(1500);
  v1::Network network = delay_of(kDelay, v1::NETEM);
  network.set_limit(100'000);
  std::vector<double> at_root, behind, shares;
  // The first stream does not count: meanwhile the daemon makes its next spare holder ready, and
  // the lab has but one processor.
  const auto measured = [&] {
    throughput(bench.hosts, each / 3);
    lease.renew();
    return throughput(bench.hosts, each);
  };
  for (int i = 0; i < 7; ++i) {
    must({"tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "1ms", "limit", kLimit});
    at_root.push_back(measured());
    must({"tc", "qdisc", "del", "dev", "eth0", "root"});
    NetworkFault fault(lease, network, kPort);
    behind.push_back(measured());
    fault.end();
    shares.push_back(behind.back() / at_root.back());
  }
  bench.table.add({.section = "netem", .what = "TCP, netem at the root by tc", .unit = "Gbit/s"},
                  std::move(at_root));
  bench.table.add({.section = "netem", .what = "TCP, netem of a fault", .unit = "Gbit/s"},
                  std::move(behind));
  bench.table.add(
      {.section = "netem", .what = "the fault's share of tc's", .unit = "ratio", .at_least = 0.95},
      std::move(shares));
}

void measure_netem(Bench& bench) {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const Folder folder;
  const std::filesystem::path results = folder.path() / "lab";
  // As the lab runs a test program: its only case is the section.
  must({self.parent_path() / "squall-lab", "run", results, "200", self});
  std::ifstream out(results / "0.out");
  bench.table.add_json({std::istreambuf_iterator<char>(out), {}});
}

}  // namespace squall::bench
