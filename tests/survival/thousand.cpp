/// \file
/// A thousand faults under one squalld, in runs of 25 that live at once: it must be after them what
/// it was before.
#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"

namespace squall::survival {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kFaults = 1000;
/// One run of each; a node remembers what became of a run's faults for as long as the run lasts.
constexpr int kFaultsInARun = 25;
/// Until then its memory grows to what it needs: buffers, arenas, the runs it remembers.
constexpr int kUntilSteady = 250;
constexpr Duration kBound = seconds(30);

long resident_kb(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; file >> word;) {
    long kilobytes = 0;
    if (word == "VmRSS:" && file >> kilobytes) return kilobytes;
  }
  return 0;
}

long descriptors(pid_t pid) {
  const std::filesystem::directory_iterator folder("/proc/" + std::to_string(pid) + "/fd");
  return std::distance(begin(folder), end(folder));
}

/// One run: all of them applied, then all reverted, and the node read before and after.
void run_through(const Daemon& daemon, int number) {
  Controller controller(daemon.address(), "run-" + std::to_string(number), 1, seconds(10));
  for (int i = 0; i < kFaultsInARun; ++i) {
    v1::Fault fault = loss_fault(static_cast<std::uint16_t>(7000 + i), 100);
    fault.mutable_network()->set_interface("lo");
    controller.inject(fault);
  }
  controller.revert_all();
  const auto settled =
      controller.wait_for([](const v1::LeaseEvent& event) { return event.has_settled(); }, kBound);
  REQUIRE(settled.has_value());
  CHECK(settled->settled().residue().empty());
}

TEST_CASE("S37: a thousand faults leave the node and squalld as they were") {
  const Namespace node;
  const TemporaryFolder state;
  const std::vector<std::string> before = fingerprint_of(node);
  Daemon daemon(node, state.path());
  const pid_t pid = daemon.process().pid();
  long steady_kb = 0;
  long steady_descriptors = 0;
  for (int done = 0; done < kFaults; done += kFaultsInARun) {
    run_through(daemon, done / kFaultsInARun);
    if (done + kFaultsInARun == kUntilSteady) {
      // The spare holder for the next fault counts.
      REQUIRE(eventually([&] { return daemon.holders().size() == 1; }, kBound));
      steady_kb = resident_kb(pid);
      steady_descriptors = descriptors(pid);
    }
  }
  CHECK(difference(before, fingerprint_of(node)) == "");
  REQUIRE(steady_kb > 0);
  // A holder that was just asked, or a stream that just ended, is put away a moment later.
  const auto same = [&] { return descriptors(pid) <= steady_descriptors; };
  CHECK_MESSAGE(eventually(same, kBound, milliseconds(20)),
                descriptors(pid) << " descriptors, " << steady_descriptors << " before");
  const long kb = resident_kb(pid);
  CHECK_MESSAGE(static_cast<double>(kb) <= 1.05 * static_cast<double>(steady_kb),
                kb << " KiB, " << steady_kb << " before");
  MESSAGE("resident " << steady_kb << " KiB after " << kUntilSteady << " faults, " << kb
                      << " KiB after " << kFaults << "; descriptors " << steady_descriptors
                      << " and " << descriptors(pid));
}

}  // namespace
}  // namespace squall::survival
