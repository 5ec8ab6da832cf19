/// As survival.cpp, for a partition: `squall run` of one between the node and its client, each with
/// a squalld. Whatever dies or hangs on one side or in between, both sides end their part, and the
/// client sees the node again.
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/survival/scene.h"

using namespace squall;
using namespace squall::support;
using namespace squall::survival;
using namespace std::chrono_literals;

namespace {

/// gRPC gives a node up that answers no ping for 2 s, and 1 s more; until then the other side's
/// lease is renewed, and rightly.
constexpr Duration kGivenUp = 3s;

struct MidPartition {
  Hosts hosts;
  TemporaryFolder clients_state;
  std::vector<std::string> clients_before =
      (add_clsact(hosts.client, "eth0"), fingerprint_of(hosts.client));
  Eyes eyes{hosts};
  std::optional<Daemon> daemon{std::in_place, hosts.node, hosts.state.path()};
  std::optional<Daemon> clients{std::in_place, hosts.client, clients_state.path()};
  TemporaryFolder runs;
  Process squall;
  std::optional<Stranger> holder;  ///< Of the node's part.

  MidPartition() : squall(command()) {
    const bool applied = eventually([&] { return times_told("fault_applied") == 2; }, kBound);
    REQUIRE_MESSAGE(applied, squall.out() << squall.err());
    holder.emplace(holder_of(*daemon));
    eyes.see_fault();
    REQUIRE_MESSAGE(squall.running(), squall.out() << squall.err());
  }

  std::size_t times_told(const std::string& event) const {
    std::size_t times = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(runs.path())) {
      if (entry.path().filename() != "events.jsonl") continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        times += line.find('"' + event + '"') != std::string::npos;
      }
    }
    return times;
  }

  /// Until both sides read as before; how long after `since`.
  Duration check_same(MonotonicTime since) const {
    hosts.check_same(kBound);
    std::vector<std::string> after;
    eventually([&] { return (after = fingerprint_of(hosts.client)) == clients_before; }, kBound,
               10ms);
    CHECK_MESSAGE(after == clients_before, difference(clients_before, after));
    return monotonic_now() - since;
  }

  /// The run must end, and as no success.
  void check_run_failed() {
    const std::optional<int> status = squall.wait(kBound);
    REQUIRE(status.has_value());
    CHECK_MESSAGE(status != 0, squall.out());
  }

 private:
  Command command() const {
    const std::string plan = runs.path() / "plan.yaml";
    std::ofstream file(plan);
    const auto node = [&](const char* name, const Daemon& of, const char* four, const char* six) {
      file << "  " << name << ": {address: \"" << of.address() << "\", addresses: [" << four
           << ", \"" << six << "\"]}\n";
    };
    file << "plan: a partition to survive\nlease: " << kLease / 1s << "s\nnodes:\n";
    node("node", *daemon, Hosts::kNode4, Hosts::kNode6);
    node("client", *clients, Hosts::kClient4, Hosts::kClient6);
    file << "steady_state:\n"
            "  - {name: programs start, exec: {run: [\"true\"]}, every: 500ms, expect: [exit == "
            "0]}\n"
            "method:\n"
            "  - name: parted\n"
            "    partition: {between: [node, client]}\n"
            "    for: 60s\n";
    file.close();
    Command run;
    run.argv = {binary("squall"), "run", plan, "--unobserved", "--runs-dir", runs.path().native()};
    run.environment = {{"CI", "true"}};
    return run;
  }
};

}  // namespace

TEST_CASE("S01: squalld of one side of a partition killed and started again and both are clean") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  scene.daemon->process().wait(kBound);
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const std::vector<std::string> after = fingerprint_of(scene.hosts.node);
  CHECK_MESSAGE(after == scene.hosts.before, difference(scene.hosts.before, after));
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  scene.check_run_failed();
  note("S01 partition, squalld killed, started again", gone, same);
}

TEST_CASE("S02: squalld of one side of a partition killed for good and both sides end") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  CHECK(scene.holder->ends(kBound));
  scene.check_run_failed();
  note("S02 partition, squalld killed for good", gone, same);
}

TEST_CASE("S03: everything on one side of a partition killed at once and both sides end") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  const std::vector<Stranger> holders = scene.daemon->holders();
  scene.daemon->process().signal(SIGSTOP);
  for (const Stranger& one : holders) one.signal(SIGSTOP);
  scene.daemon->process().signal(SIGKILL);
  for (const Stranger& one : holders) one.signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  // By the kernel alone: the filters stand until somebody comes.
  CHECK(fingerprint_of(scene.hosts.node) != scene.hosts.before);
  const MonotonicTime restarted = monotonic_now();
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const Duration same = scene.check_same(restarted);
  scene.check_run_failed();
  note("S03 partition, one side killed, started again", gone, same);
}

TEST_CASE("S05: squalld of one side of a partition frozen and both sides end") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kGivenUp + kLease + kSlack);
  const Duration same = scene.check_same(struck);
  scene.daemon->process().signal(SIGCONT);
  scene.check_run_failed();
  scene.eyes.see_no_fault(monotonic_now());
  scene.check_same(struck);
  note("S05 partition, squalld frozen", gone, same);
}

TEST_CASE("S05: the holder of one side of a partition frozen and both sides end") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  // Killed when a pulse stays unanswered for a third of the lease; then the run aborts.
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  CHECK(scene.holder->ends(kBound));
  scene.check_run_failed();
  note("S05 partition, a holder frozen", gone, same);
}

TEST_CASE("the holder of one side of a partition killed and both sides end") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  scene.check_run_failed();
  note("partition, a holder killed", gone, same);
}

TEST_CASE("S11: squall killed in a partition and both sides are clean within a lease") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.squall.signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  CHECK(scene.times_told("run_ended") == 0);
  note("S11 partition, squall killed", gone, same);
}

TEST_CASE("S12: squall frozen in a partition and both sides are clean within a lease") {
  MidPartition scene;
  const MonotonicTime struck = monotonic_now();
  scene.squall.signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  scene.squall.signal(SIGCONT);
  scene.check_run_failed();
  scene.eyes.see_no_fault(monotonic_now());
  scene.check_same(struck);
  note("S12 partition, squall frozen", gone, same);
}
