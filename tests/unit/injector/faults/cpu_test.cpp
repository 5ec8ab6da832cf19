#include <doctest/doctest.h>
#include <sched.h>
#include <time.h>

#include "injector/faults/fault.h"
#include "tests/support/eventually.h"

namespace squall::hold {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

v1::Start cpu(double load, std::uint32_t cores) {
  v1::Start start;
  start.mutable_fault()->mutable_cpu()->set_load(load);
  start.mutable_fault()->mutable_cpu()->set_cores(cores);
  return start;
}

std::unique_ptr<Fault> make(const v1::Start& start) {
  const FaultKind* kind = find_kind(start.fault());
  REQUIRE(kind != nullptr);
  return kind->make(start);
}

/// The kernel's own account of this process.
Duration burnt_by_this_process() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

void let_pass(Duration time) {
  const MonotonicTime until = monotonic_now() + time;
  support::eventually([&] { return monotonic_now() >= until; }, time + seconds(1));
}

TEST_CASE("cpu burns the share it was asked for, as the kernel counts it") {
  const auto fault = make(cpu(20, 1));
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  CHECK(fault->evidence().effect());
  const Duration burnt_before = burnt_by_this_process();
  const MonotonicTime begun = monotonic_now();
  support::yield_for(seconds(2));
  const double burnt =
      to_ms(burnt_by_this_process() - burnt_before) / to_ms(monotonic_now() - begun) * 100;
  const v1::Evidence evidence = fault->evidence();
  CHECK(evidence.cpu().cores() == 1);
  // On a crowded machine less may be had, but never more, and what is told is what was had.
  CHECK(burnt <= 21.0);
  CHECK(burnt >= 10.0);
  CHECK(evidence.cpu().achieved() == doctest::Approx(burnt).epsilon(0.1));
  CHECK(fault->end_effect().ok());
  CHECK(fault->clean_up().empty());
}

TEST_CASE("cpu burns nothing any more once its effect has ended") {
  const auto fault = make(cpu(50, 1));
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  CHECK(fault->end_effect().ok());
  const Duration burnt = burnt_by_this_process();
  support::yield_for(milliseconds(200));
  CHECK(burnt_by_this_process() - burnt < milliseconds(20));
  CHECK(fault->end_effect().ok());
}

TEST_CASE("cpu stops at its deadline though nobody tells it to") {
  const auto fault = make(cpu(50, 1));
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(monotonic_now() + milliseconds(100)).ok());
  let_pass(milliseconds(150));
  const Duration burnt = burnt_by_this_process();
  support::yield_for(milliseconds(200));
  CHECK(burnt_by_this_process() - burnt < milliseconds(20));
}

TEST_CASE("cpu refuses more cores than the node may use, before anything is burnt") {
  const auto fault = make(cpu(50, 4096));
  const auto undos = fault->prepare();
  CHECK(undos.status().code() == StatusCode::kInvalidArgument);
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  REQUIRE(::sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  CHECK(message_of(undos.status()) ==
        "cpu.cores: 4096 cores, but this node may use " + std::to_string(CPU_COUNT(&allowed)));
}

}  // namespace
}  // namespace squall::hold
