#include <doctest/doctest.h>
#include <signal.h>
#include <time.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/ends.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"

namespace squall::hold {
namespace {

using namespace support;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// Between two readings of this slow machine's clocks.
constexpr Duration kReading = milliseconds(20);

Duration now_of(clockid_t clock) {
  timespec now{};
  REQUIRE(::clock_gettime(clock, &now) == 0);
  return seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// What no time that passes changes: how far the wall clock is from the boot's.
Duration wall_minus_boot() {
  Duration least = Duration::max();
  Duration distance{};
  for (int i = 0; i < 20; ++i) {
    const Duration boot = now_of(CLOCK_BOOTTIME);
    const Duration wall = now_of(CLOCK_REALTIME);
    const Duration took = now_of(CLOCK_BOOTTIME) - boot;
    if (took < least) distance = wall - boot;
    least = std::min(least, took);
  }
  return distance;
}

bool is_near(Duration a, Duration b) { return a - b < kReading && b - a < kReading; }

/// The clock as a case found it: so it is left, whatever happens in between.
class KeptClock {
 public:
  KeptClock() = default;
  KeptClock(const KeptClock&) = delete;
  KeptClock& operator=(const KeptClock&) = delete;
  ~KeptClock() { set(before); }

  /// As somebody else would.
  static void set(Duration wall_to_boot) {
    const Duration wall = now_of(CLOCK_BOOTTIME) + wall_to_boot;
    const auto whole = std::chrono::floor<seconds>(wall);
    const timespec time{.tv_sec = whole.count(), .tv_nsec = (wall - whole).count()};
    CHECK(::clock_settime(CLOCK_REALTIME, &time) == 0);
  }

  const Duration before = wall_minus_boot();
};

v1::Fault clock(Duration offset) {
  // The clock of whoever runs the tests is not ours to set.
  REQUIRE(std::getenv("SQUALL_LAB") != nullptr);
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(minutes(5)).count());
  if (offset > Duration::zero()) {
    fault.mutable_clock()->set_ahead(offset.count());
  } else {
    fault.mutable_clock()->set_back(-offset.count());
  }
  return fault;
}

TEST_CASE("the wall clock is as far ahead or back as asked and then as if it had never been") {
  const Namespace node;
  const Duration before = wall_minus_boot();
  for (const Duration offset :
       {Duration(hours(1)), Duration(-hours(1)), Duration(milliseconds(250)),
        Duration(-milliseconds(250)), Duration(hours(8760)), Duration(-hours(8760))}) {
    INFO(offset.count());
    Holder holder(node);
    const v1::Evidence evidence = holder.inject(clock(offset), minutes(1));
    CHECK(evidence.effect());
    CHECK(is_near(Duration(evidence.clock().offset()), offset));
    CHECK(is_near(wall_minus_boot(), before + offset));
    CHECK(holder.release() == std::vector<std::string>());
    CHECK(is_near(wall_minus_boot(), before));
  }
}

TEST_CASE("a clock fault is undone however it ends and whoever has crashed") {
  const Duration before = wall_minus_boot();
  WatchedFault watched;
  watched.fault = clock(hours(1));
  watched.acts = [&] { return is_near(wall_minus_boot(), before + hours(1)); };
  watched.restored = [&] { return is_near(wall_minus_boot(), before); };
  for (const std::string& failed : endings_that_fail(watched)) FAIL_CHECK(failed);
}

TEST_CASE("an undo of the clock does its work once and forgives a change that was never made") {
  const Namespace node;
  const Duration before = wall_minus_boot();
  Holder holder(node);
  holder.inject(clock(-hours(3)), minutes(1));
  holder.process().signal(SIGKILL);
  REQUIRE(holder.process().wait(seconds(10)).has_value());
  CHECK(is_near(wall_minus_boot(), before - hours(3)));
  for (int times = 0; times < 3; ++times) {
    CHECK(sweep(node, holder.undos()).residue_size() == 0);
    CHECK(is_near(wall_minus_boot(), before));
  }
}

TEST_CASE("of a clock that somebody else moved meanwhile only our own offset is taken back") {
  const Namespace node;
  const KeptClock kept;
  Holder holder(node);
  holder.inject(clock(hours(1)), minutes(1));
  KeptClock::set(kept.before + hours(1) + minutes(5));
  const auto pulsed = holder.pulse(minutes(1));
  REQUIRE(pulsed.has_value());
  CHECK(is_near(Duration(pulsed->clock().offset()), hours(1) + minutes(5)));
  CHECK(holder.release() == std::vector<std::string>());
  CHECK(is_near(wall_minus_boot(), kept.before + minutes(5)));
}

TEST_CASE("a clock that a time daemon has put right is told and not touched again") {
  const Namespace node;
  const KeptClock kept;
  Holder holder(node);
  holder.inject(clock(hours(1)), minutes(1));
  KeptClock::set(kept.before);
  CHECK_FALSE(holder.pulse(seconds(10)).has_value());
  CHECK(holder.process().wait(seconds(10)).has_value());
  CHECK(is_near(wall_minus_boot(), kept.before));
  CHECK(sweep(node, holder.undos()).residue_size() == 0);
  CHECK(is_near(wall_minus_boot(), kept.before));
}

TEST_CASE("S36: leases and durations are unmoved when the wall clock jumps an hour") {
  const Namespace node;
  const Duration before = wall_minus_boot();
  const TemporaryFolder state;
  const Daemon daemon(node, state.path());
  Controller controller(daemon.address(), "leases", 1, seconds(4));
  v1::Fault other;
  other.set_id(new_fault_id());
  other.set_for_(Duration(minutes(5)).count());
  other.mutable_cpu()->set_load(1);
  controller.inject(other);
  const auto ended = [&](const v1::Fault& fault) {
    return [id = fault.id()](const v1::LeaseEvent& event) {
      return event.fault() == id && (event.has_effect_ended() || event.has_failed());
    };
  };
  for (const Duration offset : {Duration(hours(1)), Duration(-hours(1))}) {
    v1::Fault jump = clock(offset);
    jump.set_for_(Duration(seconds(6)).count());
    const MonotonicTime begun = monotonic_now();
    controller.inject(jump);
    CHECK(is_near(wall_minus_boot(), before + offset));
    // Longer than a lease, so that its renewals too are counted by the right clock.
    REQUIRE(controller.wait_for(ended(jump), seconds(30)).has_value());
    CHECK(monotonic_now() - begun >= seconds(6));
    CHECK(is_near(wall_minus_boot(), before));
    CHECK_FALSE(controller.wait_for(ended(other), Duration::zero()).has_value());
  }
  controller.inject(clock(hours(1)));
  controller.fall_silent();
  const MonotonicTime silent = monotonic_now();
  CHECK(eventually([&] { return is_near(wall_minus_boot(), before); }, seconds(30)));
  CHECK(monotonic_now() - silent < seconds(20));
  CHECK(controller.wait_for(ended(other), seconds(20)).has_value());
}

TEST_CASE("a time before 1970 is refused and the clock untouched") {
  const Namespace node;
  const KeptClock kept;
  KeptClock::set(hours(24));
  const Duration before = wall_minus_boot();
  std::string why;
  try {
    Holder(node).inject(clock(-hours(48)), minutes(1));
  } catch (const std::runtime_error& refused) {
    why = refused.what();
  }
  CHECK(why == "clock.back: further back than 1970 on the day that this node booted");
  CHECK(is_near(wall_minus_boot(), before));
}

}  // namespace
}  // namespace squall::hold
