/// \file
/// The promise: every fault ends, whatever of Squall dies or hangs. Each case breaks something in
/// mid-fault and measures from another namespace when the effect was gone; then the node must read
/// as before, byte for byte. The same cases run with the relay on this kernel and with netem in the
/// lab. Their numbers are those of the list of what must be survived.
#include <doctest/doctest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
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

/// A relay takes with it what is queued in it, and for 200 ms what is still sent to it.
bool is_relay() { return expected_engine() == v1::RELAY; }

void freeze(const std::vector<Stranger>& processes) {
  for (const Stranger& process : processes) process.signal(SIGSTOP);
}

void thaw(const std::vector<Stranger>& processes) {
  for (const Stranger& process : processes) process.signal(SIGCONT);
}

/// Frozen first: a holder that sees its daemon die ends its fault sooner than the next signal is
/// sent.
void kill_at_once(MidFault& scene, const std::vector<Stranger>& holders) {
  scene.daemon->process().signal(SIGSTOP);
  freeze(holders);
  scene.daemon->process().signal(SIGKILL);
  for (const Stranger& holder : holders) holder.signal(SIGKILL);
}

void check_all_killed(MidFault& scene, const std::string& what) {
  const std::vector<Stranger> holders = scene.daemon->holders();
  const MonotonicTime struck = monotonic_now();
  kill_at_once(scene, holders);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  if (!is_relay()) scene.eyes.check_none_lost(struck);
  // Without this, the case would show nothing about the kernel.
  CHECK(fingerprint_of(scene.hosts.node) != scene.hosts.before);
  const MonotonicTime restarted = monotonic_now();
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const std::vector<std::string> after = fingerprint_of(scene.hosts.node);
  CHECK_MESSAGE(after == scene.hosts.before, difference(scene.hosts.before, after));
  note(what, gone, monotonic_now() - restarted);
}

void check_all_frozen(MidFault& scene, const std::string& what) {
  const std::vector<Stranger> holders = scene.daemon->holders();
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGSTOP);
  freeze(holders);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  CHECK(fingerprint_of(scene.hosts.node) != scene.hosts.before);
  // A lease that has not lapsed yet would be renewed, and rightly.
  eventually([&] { return monotonic_now() > struck + kLease + 100ms; }, 2 * kLease);
  const MonotonicTime thawed = monotonic_now();
  thaw(holders);
  scene.daemon->process().signal(SIGCONT);
  const Duration same = scene.hosts.check_same(kBound) - thawed;
  scene.eyes.see_no_fault(thawed);
  note(what, gone, same);
}

/// One that is set anew again and again for as long as it lives, and can be seen all the while.
v1::Fault falling_delay() {
  v1::Fault fault = delay_fault(kPort, kDelay);
  add_ramp(fault, "delay", number_of(kDelay), number_of(2 * kUntouched), Duration(fault.for_()));
  return fault;
}

bool tells_of(const std::vector<v1::LeaseEvent>& events, const std::string& fault) {
  for (const v1::LeaseEvent& event : events) {
    for (const std::string& line : event.opened().recovered()) {
      if (line.find(fault) != std::string::npos) return true;
    }
  }
  return false;
}

/// `squall run` of one network fault on the node, seen by the client.
struct MidRun {
  Hosts hosts;
  Eyes eyes{hosts};
  Daemon daemon{hosts.node, hosts.state.path()};
  TemporaryFolder runs;
  Process squall;

  MidRun() : squall(command()) {
    // What the client sees alone might be a machine that stalls while squall starts.
    const bool applied = eventually([&] { return tells("fault_applied"); }, kBound);
    REQUIRE_MESSAGE(applied, squall.out() << squall.err());
    eyes.see_fault();
    REQUIRE_MESSAGE(squall.running(), squall.out() << squall.err());
  }

  /// Whether the run's log holds an event of this kind.
  bool tells(const std::string& event) const {
    return log().find('"' + event + '"') != std::string::npos;
  }

 private:
  std::string log() const {
    std::string text;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(runs.path())) {
      if (entry.path().filename() != "events.jsonl") continue;
      std::ifstream file(entry.path());
      text.append(std::istreambuf_iterator<char>(file), {});
    }
    return text;
  }

  Command command() const {
    const std::string plan = runs.path() / "plan.yaml";
    std::ofstream file(plan);
    file << "plan: something to survive\n"
            "hypothesis: the node is clean again, whatever happens to the controller\n"
            "lease: "
         << kLease / 1s
         << "s\n"
            "nodes: {node: {address: \""
         << daemon.address()
         << "\"}}\n"
            "steady_state:\n"
            "  - {name: programs start, exec: {run: [\"true\"]}, every: 500ms, expect: [exit == "
            "0]}\n"
            "method:\n"
            "  - name: slow\n"
            "    on: node\n"
            "    network: {delay: 300ms, to: {ports: ["
         << kPort
         << "]}}\n"
            "    for: 60s\n";
    file.close();
    Command squall_run;
    squall_run.argv = {binary("squall"), "run",        plan,
                       "--unobserved",   "--runs-dir", runs.path().native()};
    squall_run.environment = {{"CI", "true"}};
    return squall_run;
  }
};

void check_told_to_end(int number) {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(number);
  const int status = scene.daemon->process().wait(kBound).value_or(-1);
  CHECK_MESSAGE(status == 0, scene.daemon->process().err());
  const Duration same = scene.hosts.check_same(Duration::zero()) - struck;
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  scene.eyes.check_none_lost(struck);
  note("S04 squalld told to end by signal " + std::to_string(number), gone, same);
}

}  // namespace

TEST_CASE(
    "S01: squalld killed in mid-fault and started again: clean before it serves, and it tells of "
    "it") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  scene.daemon->process().wait(5s);
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const std::vector<std::string> after = fingerprint_of(scene.hosts.node);
  CHECK_MESSAGE(after == scene.hosts.before, difference(scene.hosts.before, after));
  const Duration same = monotonic_now() - struck;
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Controller next(scene.daemon->address(), "next", 1, kLease);
  CHECK(tells_of(next.events(), scene.fault.id()));
  scene.eyes.check_none_lost(struck);
  note("S01 squalld killed, started again", gone, same);
}

TEST_CASE(
    "S02: squalld killed and never started again: its holders undo at once and lose nothing") {
  MidFault scene;
  const std::vector<Stranger> holders = scene.daemon->holders();
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  // What is queued leaves first: the delay, and a tenth of a second.
  for (const Stranger& holder : holders) CHECK(holder.ends(5s));
  scene.eyes.check_none_lost(struck);
  note("S02 squalld killed for good", gone, same);
}

TEST_CASE(
    "S03: squalld and every holder killed at once: the kernel alone ends the effect, the next "
    "start cleans up") {
  MidFault scene;
  check_all_killed(scene, "S03 all killed, squalld started again");
}

TEST_CASE("S03: a delay that ramps ends as one that stays when all are killed") {
  MidFault scene(falling_delay());
  check_all_killed(scene, "S03 all killed while the delay falls");
}

TEST_CASE("S03: after all were killed, squall-hold --sweep cleans up without a daemon") {
  MidFault scene;
  const std::vector<Stranger> holders = scene.daemon->holders();
  const MonotonicTime struck = monotonic_now();
  kill_at_once(scene, holders);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const MonotonicTime swept = monotonic_now();
  Command sweep_all;
  sweep_all.argv = {binary("squall-hold"), "--sweep"};
  sweep_all.where = &scene.hosts.node;
  run(sweep_all);
  note("S03 all killed, swept by hand", gone, scene.hosts.check_same(Duration::zero()) - swept);
}

TEST_CASE(
    "S03: a fault in another network namespace than squalld's, and all killed: the next start "
    "cleans "
    "up there") {
  Hosts hosts;
  Eyes eyes(hosts);
  const Namespace home;
  std::optional<Daemon> daemon(std::in_place, home, hosts.state.path());
  Controller controller(daemon->address(), "elsewhere", 1, kLease);
  v1::Fault fault = delay_fault(kPort, kDelay);
  fault.mutable_network()->mutable_in()->set_netns("/proc/" + std::to_string(getpid()) + "/fd/" +
                                                   std::to_string(hosts.node.fd()));
  controller.inject(fault);
  eyes.see_fault();

  const std::vector<Stranger> holders = daemon->holders();
  const MonotonicTime struck = monotonic_now();
  daemon->process().signal(SIGSTOP);
  freeze(holders);
  daemon->process().signal(SIGKILL);
  for (const Stranger& holder : holders) holder.signal(SIGKILL);
  const Duration gone = eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  CHECK(fingerprint_of(hosts.node) != hosts.before);
  daemon.emplace(home, hosts.state.path());
  const std::vector<std::string> after = fingerprint_of(hosts.node);
  CHECK_MESSAGE(after == hosts.before, difference(hosts.before, after));
  note("S03 in another namespace, all killed", gone, std::nullopt);
}

TEST_CASE(
    "S03: after all were killed, squalld doctor tells what is left and squalld sweep removes it") {
  MidFault scene;
  Command command;
  command.where = &scene.hosts.node;
  const auto ask = [&](const std::string& what) {
    command.argv = {binary("squalld"), what, "--state-dir", scene.hosts.state.path().native()};
    Process process(command);
    const int status = process.wait(kBound).value_or(-1);
    return std::make_pair(status, process.out() + process.err());
  };
  const auto [held, about_held] = ask("doctor");
  CHECK_MESSAGE(held == 0, about_held);
  CHECK_MESSAGE(
      about_held.find("held by pid " + std::to_string(scene.holder->pid())) != std::string::npos,
      about_held);
  // What somebody answers for is none of a sweep's business.
  CHECK(ask("sweep").first == 0);
  scene.eyes.see_fault();

  const std::vector<Stranger> holders = scene.daemon->holders();
  kill_at_once(scene, holders);
  for (const Stranger& holder : holders) CHECK(holder.ends(kBound));
  REQUIRE(scene.daemon->process().wait(kBound).has_value());
  const auto [left, about_left] = ask("doctor");
  CHECK_MESSAGE(left == 5, about_left);
  CHECK(about_left.find("NOBODY answers for it") != std::string::npos);
  CHECK(about_left.find(scene.fault.id()) != std::string::npos);
  const auto [swept, about_swept] = ask("sweep");
  CHECK_MESSAGE(swept == 0, about_swept);
  scene.hosts.check_same(kBound);
  CHECK(ask("doctor").first == 0);
}

TEST_CASE("S04: squalld told to end by SIGTERM reverts first, loses nothing and exits 0") {
  check_told_to_end(SIGTERM);
}

TEST_CASE("S04: squalld told to end by SIGINT reverts first, loses nothing and exits 0") {
  check_told_to_end(SIGINT);
}

TEST_CASE("S04: squalld told to end by SIGHUP reverts first, loses nothing and exits 0") {
  check_told_to_end(SIGHUP);
}

TEST_CASE(
    "S05: squalld frozen: its holders end the fault with the lease, and nothing comes back when it "
    "thaws") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  // The controller never stopped renewing: all of that is waiting for the daemon.
  scene.daemon->process().signal(SIGCONT);
  CHECK(scene.controller->ended(kBound).has_value());
  scene.eyes.see_no_fault(monotonic_now());
  scene.hosts.check_same(kBound);
  scene.eyes.check_none_lost(struck);
  note("S05 squalld frozen", gone, same);
}

TEST_CASE("S05: a holder frozen: the effect ends within the lease, squalld clears it away") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  scene.holder->signal(SIGCONT);
  scene.eyes.see_no_fault(monotonic_now());
  scene.hosts.check_same(kBound);
  CHECK(scene.daemon->describe(5s).ok());
  note("S05 holder frozen", gone, same);
}

TEST_CASE(
    "S05: squalld and its holders frozen: the kernel alone ends the effect, and thawed they clean "
    "up") {
  MidFault scene;
  check_all_frozen(scene, "S05 all frozen");
}

TEST_CASE("S05: a delay that ramps ends as one that stays when all are frozen") {
  MidFault scene(falling_delay());
  check_all_frozen(scene, "S05 all frozen while the delay falls");
}

TEST_CASE(
    "a holder killed: squalld clears away what it left, tells the controller, and takes the next "
    "fault") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack + (is_relay() ? 200ms : 0ms));
  const Duration same = scene.hosts.check_same(kBound) - struck;
  const auto is_told = [&](const v1::LeaseEvent& event) {
    return event.fault() == scene.fault.id() && (event.has_failed() || event.has_reverted());
  };
  CHECK(scene.controller->wait_for(is_told, 5s).has_value());
  const v1::Fault second = delay_fault(kPort, kDelay);
  scene.controller->inject(second);
  scene.eyes.see_fault();
  scene.controller->revert_all();
  scene.hosts.check_same(kBound);
  note("holder killed", gone, same);
}

TEST_CASE(
    "S11: squall killed in mid-run: the node is clean within a lease, and the run is not told as "
    "completed") {
  MidRun scene;
  const MonotonicTime struck = monotonic_now();
  scene.squall.signal(SIGKILL);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  scene.eyes.check_none_lost(struck);
  CHECK_FALSE(scene.tells("run_ended"));
  note("S11 squall killed", gone, same);
}

TEST_CASE(
    "S12: squall frozen for three leases: the node is clean within one, and the run injects "
    "nothing after") {
  MidRun scene;
  const MonotonicTime struck = monotonic_now();
  scene.squall.signal(SIGSTOP);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  eventually([&] { return monotonic_now() - struck > 3 * kLease; }, 4 * kLease);
  scene.squall.signal(SIGCONT);
  const std::optional<int> status = scene.squall.wait(kBound);
  CHECK(status.has_value());
  CHECK(status != 0);
  scene.eyes.see_no_fault(struck + 2 * kLease);
  scene.hosts.check_same(kBound);
  scene.eyes.check_none_lost(struck);
  note("S12 squall frozen", gone, same);
}

TEST_CASE(
    "S12: a renewal that comes too late revives nothing, and its lease takes no fault any more") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->fall_silent();
  const Duration gone = scene.eyes.see_no_fault(struck);
  // Its last renewal may have been sent just before.
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  const MonotonicTime late = monotonic_now();
  scene.controller->renew();
  const v1::Fault another = delay_fault(kPort, kDelay);
  scene.controller->send_inject(another);
  const std::optional<Status> ended = scene.controller->ended(kBound);
  REQUIRE(ended.has_value());
  CHECK(ended->code() == StatusCode::kFailedPrecondition);
  // The same epoch again is as stale.
  CHECK_THROWS_WITH_AS(Controller(scene.daemon->address(), "survival", 1, kLease),
                       "no lease: epoch 1 of run survival is over on this node",
                       std::runtime_error);
  scene.eyes.see_no_fault(late);
  scene.hosts.check_same(Duration::zero());
  scene.eyes.check_none_lost(struck);
  note("S12 controller silent, then late", gone, same);
}

TEST_CASE(
    "S11: a controller whose stream breaks: reverted at once, without waiting for the lease") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->vanish();
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  scene.eyes.check_none_lost(struck);
  note("S11 stream broken", gone, same);
}

TEST_CASE("S13: Ctrl-C once: reverted, nothing lost, exit 130, the log complete") {
  MidRun scene;
  const MonotonicTime struck = monotonic_now();
  scene.squall.signal(SIGINT);
  const int status = scene.squall.wait(kBound).value_or(-1);
  CHECK_MESSAGE(status == 130, scene.squall.out() << scene.squall.err());
  const Duration same = scene.hosts.check_same(Duration::zero()) - struck;
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  scene.eyes.check_none_lost(struck);
  note("S13 Ctrl-C once", gone, same);
}

TEST_CASE(
    "S13: Ctrl-C twice: squall leaves at once and says what it has not seen, the lease cleans up") {
  MidRun scene;
  const MonotonicTime struck = monotonic_now();
  // So that the first finds nobody who could answer.
  scene.daemon.process().signal(SIGSTOP);
  scene.squall.signal(SIGINT);
  eventually([&] { return scene.squall.wait(100ms).has_value(); }, 300ms);
  scene.squall.signal(SIGINT);
  // Residue, until somebody proves otherwise: nobody was waited for who could have.
  const int status = scene.squall.wait(kLease).value_or(-1);
  CHECK_MESSAGE(status == 5, scene.squall.out() << scene.squall.err());
  CHECK(scene.squall.err().find("is not proven") != std::string::npos);
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  scene.daemon.process().signal(SIGCONT);
  const Duration same = scene.hosts.check_same(kBound) - struck;
  scene.eyes.check_none_lost(struck);
  note("S13 Ctrl-C twice, squalld frozen", gone, same);
}

TEST_CASE(
    "S10: a second squalld on the same state directory is refused by name, and the first is "
    "unharmed") {
  MidFault scene;
  Command second;
  second.argv = {binary("squalld"), "--state-dir", scene.hosts.state.path().native()};
  second.where = &scene.hosts.node;
  Process refused(second);
  CHECK(refused.wait(kBound) == 1);
  const std::string said = refused.err() + refused.out();
  CHECK(said.find("pid " + std::to_string(scene.daemon->process().pid())) != std::string::npos);
  scene.eyes.see_fault();
  scene.controller->revert_all();
  scene.hosts.check_same(kBound);
}

TEST_CASE(
    "S29: of two faults one is reverted: the other acts on and counts on, and then the node is "
    "clean") {
  constexpr std::uint16_t kOtherPort = 7002;
  MidFault scene;
  const Echo other(scene.hosts.node, kOtherPort);
  const v1::Fault second = delay_fault(kOtherPort, kDelay);
  scene.controller->inject(second);
  Stream watch(scene.hosts.client, Hosts::kNode4, kOtherPort);
  CHECK(watch.is_disturbed({}, kUntouched, kBound));

  const MonotonicTime struck = monotonic_now();
  scene.controller->revert(scene.fault.id());
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const auto is_reverted = [&](const v1::LeaseEvent& event) {
    return event.fault() == scene.fault.id() && event.has_reverted();
  };
  REQUIRE(scene.controller->wait_for(is_reverted, kBound).has_value());
  const auto counted = [&] {
    std::uint64_t packets = 0;
    for (const v1::LeaseEvent& event : scene.controller->events()) {
      if (event.fault() == second.id() && event.has_evidence())
        packets = event.evidence().network().matched_packets();
    }
    return packets;
  };
  const std::uint64_t counted_before = counted();
  CHECK(eventually([&] { return counted() > counted_before + 50; }, kBound));
  const std::vector<Probe> seen = watch.finish(2s);
  CHECK_MESSAGE(answered(seen) == seen.size(), losses(seen, struck));
  for (const Probe& probe : seen) {
    if (probe.round_trip && *probe.round_trip < kDelay - 3ms)
      FAIL_CHECK("a packet of the other fault was not delayed");
  }
  scene.controller->revert_all();
  const Duration same = scene.hosts.check_same(kBound) - struck;
  scene.eyes.check_none_lost(struck);
  note("S29 one of two reverted", gone, same);
}

TEST_CASE(
    "reverted on command: the effect is gone at once, nothing delayed is lost, and the node reads "
    "the same") {
  MidFault scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->revert_all();
  const Duration gone = scene.eyes.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const std::optional<v1::LeaseEvent> settled = scene.controller->wait_for(
      [](const v1::LeaseEvent& event) { return event.has_settled(); }, kBound);
  REQUIRE(settled.has_value());
  CHECK(settled->settled().residue().empty());
  CHECK(settled->settled().changed_by_others().empty());
  const Duration same = scene.hosts.check_same(Duration::zero()) - struck;
  scene.eyes.check_none_lost(struck);
  note("reverted on command", gone, same);
}

TEST_CASE("a fault's own time is up: it ends by itself while its lease lives on") {
  Hosts hosts;
  Eyes eyes(hosts);
  Daemon daemon(hosts.node, hosts.state.path());
  Controller controller(daemon.address(), "brief", 1, kLease);
  v1::Fault fault = delay_fault(kPort, kDelay);
  constexpr Duration kTime = 3s;
  fault.set_for_(kTime.count());
  controller.inject(fault);
  const MonotonicTime applied = monotonic_now();
  eyes.see_fault();
  const Duration gone = eyes.see_no_fault(applied);
  CHECK(gone > kTime - kSlack);
  CHECK(gone <= kTime + kSlack);
  const Duration same = hosts.check_same(kBound) - applied;
  eyes.check_none_lost(applied);
  note("a fault of 3 s", gone, same);
}
