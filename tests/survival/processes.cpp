/// As survival.cpp, for faults that touch processes: what is paused must go on, whatever dies or
/// hangs. A paused process counts its own steps, in memory that it shares with the test.
#include <doctest/doctest.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <optional>
#include <thread>
#include <vector>

#include "tests/support/eventually.h"
#include "tests/survival/scene.h"
#include "tests/unit/injector/faults/victim.h"

using namespace squall;
using namespace squall::support;
using namespace squall::survival;
using namespace std::chrono_literals;

namespace {

/// A process of the node that steps for ever, and a fault that pauses it.
struct MidPause {
  Namespace node;
  TemporaryFolder state;
  hold::OwnGroup group{hold::unique_name("g")};
  hold::Shared<std::atomic<std::uint64_t>> steps;
  std::optional<hold::Victim> target;
  std::optional<Daemon> daemon;
  std::optional<Controller> controller;
  v1::Fault fault;
  std::optional<Stranger> holder;

  explicit MidPause(bool freezes = false) {
    target.emplace(hold::unique_name("t"), [this] {
      hold::inside(node)();
      std::thread([this] {
        for (;;) {
          ++*steps;
          yield_for(200us);
        }
      }).detach();
    });
    group.take(target->pid());
    fault.set_id(new_fault_id());
    fault.set_for_(Duration(1min).count());
    if (freezes) {
      fault.mutable_pause()->set_cgroup(group.path());
    } else {
      fault.mutable_pause()->mutable_process()->set_name(hold::unique_name("t"));
    }
    daemon.emplace(node, state.path());
    controller.emplace(daemon->address(), "survival", 1, kLease);
    try {
      CHECK(controller->inject(fault).evidence().effect());
    } catch (const std::runtime_error& failed) {
      FAIL(std::string(failed.what()) << "; squalld said:\n" << daemon->process().err());
    }
    holder.emplace(holder_of(*daemon));
    CHECK(stands());
  }

  bool stands() const {
    const std::uint64_t before = *steps;
    yield_for(60ms);
    return *steps == before;
  }

  /// How long after `since` the first step was seen.
  Duration see_it_go_on(MonotonicTime since) const {
    const std::uint64_t before = *steps;
    CHECK(eventually([&] { return *steps > before; }, kBound));
    return monotonic_now() - since;
  }

  void check_as_before() const {
    CHECK(eventually([&] { return target->tracer() == 0; }, kBound));
    CHECK(eventually([&] { return !group.is_frozen(); }, kBound));
    CHECK(group.read("cgroup.freeze") == "0\n");
  }

  /// Frozen first: a holder that sees its daemon die ends its fault sooner than the next signal.
  void kill_at_once() {
    std::vector<Stranger> holders = daemon->holders();
    daemon->process().signal(SIGSTOP);
    for (const Stranger& one : holders) one.signal(SIGSTOP);
    daemon->process().signal(SIGKILL);
    for (const Stranger& one : holders) one.signal(SIGKILL);
  }
};

}  // namespace

TEST_CASE("S02: squalld killed for good and what it paused goes on at once") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kSlack);
  scene.check_as_before();
  note("S02 pause, squalld killed for good", gone, std::nullopt);
}

TEST_CASE("S03: squalld and every holder killed at once and the kernel lets what is paused go on") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  scene.kill_at_once();
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kSlack);
  scene.check_as_before();
  note("S03 pause, all killed", gone, std::nullopt);
}

TEST_CASE("S05: a frozen holder is killed by squalld and what it paused goes on") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGSTOP);
  const Duration gone = scene.see_it_go_on(struck);
  // A pulse every third of the lease, and a third of it to answer.
  CHECK(gone <= kLease + kSlack);
  CHECK(scene.holder->ends(kBound));
  scene.check_as_before();
  note("S05 pause, its holder frozen", gone, std::nullopt);
}

TEST_CASE("S05: squalld and its holders frozen and the kernel lets what is paused go on") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  const std::vector<Stranger> holders = scene.daemon->holders();
  scene.daemon->process().signal(SIGSTOP);
  for (const Stranger& one : holders) one.signal(SIGSTOP);
  const Duration gone = scene.see_it_go_on(struck);
  // Half a second after its lease a holder is ended by its own timer.
  CHECK(gone <= kLease + 500ms + kSlack);
  CHECK(scene.holder->ends(kBound));
  scene.check_as_before();
  note("S05 pause, all frozen", gone, std::nullopt);
  scene.daemon->process().signal(SIGCONT);
  CHECK(eventually(
      [&] { return scene.daemon->process().err().find("event=holder_lost") != std::string::npos; },
      kBound));
  CHECK_FALSE(scene.stands());
}

TEST_CASE("S11: a controller that vanishes lets what is paused go on at once") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->vanish();
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kLease + kSlack);
  scene.check_as_before();
  note("S11 pause, the controller gone", gone, std::nullopt);
}

TEST_CASE("S12: a controller that falls silent lets what is paused go on within a lease") {
  MidPause scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->fall_silent();
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kLease + kSlack);
  scene.check_as_before();
  note("S12 pause, the controller silent", gone, std::nullopt);
}

TEST_CASE("S02: squalld killed for good and its holder thaws what it froze") {
  MidPause scene(true);
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kSlack);
  scene.check_as_before();
  note("S02 freezer, squalld killed for good", gone, std::nullopt);
}

TEST_CASE(
    "S03: squalld and every holder killed at once and the next start thaws before it serves") {
  MidPause scene(true);
  scene.kill_at_once();
  scene.daemon->process().wait(kBound);
  // The kernel keeps what was written: without the sweep it would stay so.
  CHECK(scene.stands());
  CHECK(scene.group.is_frozen());
  const MonotonicTime restarted = monotonic_now();
  scene.daemon.emplace(scene.node, scene.state.path());
  CHECK(scene.group.read("cgroup.freeze") == "0\n");
  const Duration gone = scene.see_it_go_on(restarted);
  scene.check_as_before();
  note("S03 freezer, all killed, squalld started again", gone, std::nullopt);
}

TEST_CASE("S05: a frozen holder is killed by squalld which thaws what that one froze") {
  MidPause scene(true);
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGSTOP);
  const Duration gone = scene.see_it_go_on(struck);
  CHECK(gone <= kLease + kSlack);
  scene.check_as_before();
  note("S05 freezer, its holder frozen", gone, std::nullopt);
}
