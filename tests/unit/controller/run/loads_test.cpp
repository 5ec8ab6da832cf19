#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>

#include "fakes.h"

namespace squall::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Where in the events the first of that kind is.
std::size_t place_of(const World& world, v1::Event::EventCase kind) {
  const auto found = std::ranges::find_if(
      world.events, [kind](const v1::Event& event) { return event.event_case() == kind; });
  return static_cast<std::size_t>(found - world.events.begin());
}

bool acts(const World& world) {
  return std::ranges::any_of(world.nodes, [](const auto& node) { return node->acting() > 0; });
}

}  // namespace

TEST_CASE("a load runs from before the steady state is proven until the run is over") {
  World world(1);
  world.add_check("shop");
  world.add_load("shoppers");
  world.add_fault(milliseconds(30));
  bool begun_before_steady = false;
  bool ended_before_verdict = false;
  world.on_event = [&](const v1::Event& event) {
    if (!event.has_phase_started()) return;
    const FakeLoad& load = world.loads["shoppers"];
    if (event.phase_started().phase() == v1::STEADY) begun_before_steady = load.begun;
    if (event.phase_started().phase() == v1::RECOVERY) CHECK_FALSE(load.ended);
    if (event.phase_started().phase() == v1::VERDICT) ended_before_verdict = load.ended;
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(begun_before_steady);
  CHECK(ended_before_verdict);
  CHECK_FALSE(world.loads["shoppers"].in_haste);
  REQUIRE(world.of(v1::Event::kLoadEnded).size() == 1);
  CHECK(world.of(v1::Event::kLoadEnded)[0].load_ended().load() == "shoppers");
  CHECK(place_of(world, v1::Event::kLoadEnded) < place_of(world, v1::Event::kRunEnded));

  const v1::RunStarted& start = world.events.front().run_started();
  REQUIRE(start.checks_size() == 2);
  CHECK_FALSE(start.checks(0).load());
  CHECK(start.checks(1).load());
  CHECK(start.checks(1).name() == "shoppers");
  CHECK(start.checks(1).kind() == "http");
  CHECK(start.checks(1).expect(0) == "p99 < 300ms");
  const auto asked = world.of(v1::Event::kCheckAsked);
  const auto told = std::ranges::find_if(
      asked, [](const v1::Event& event) { return event.check_asked().check() == "shoppers"; });
  REQUIRE(told != asked.end());
  CHECK(told->check_asked().observed() == "100 answers, p99 10.0ms, 0 failed");
  CHECK(told->check_asked().findings(0).observed() == "p99 10.0ms");
}

TEST_CASE("a load that is too slow under a fault is a breach, and told as a check's") {
  World world(1);
  world.add_check("shop");
  world.add_load("shoppers");
  world.loads["shoppers"].is = [&world]() -> Duration {
    return acts(world) ? milliseconds(900) : milliseconds(10);
  };
  world.add_fault(seconds(15));
  world.plan.mutable_recovery()->set_within(Duration(seconds(5)).count());
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(ended.sentence().find("check \"shoppers\" was breached") != std::string::npos);
  CHECK(ended.sentence().find("observed p99 900ms, expected p99 < 300ms") != std::string::npos);
  CHECK(world.of(v1::Event::kRecovered).size() == 1);
  CHECK(world.loads["shoppers"].ended);
}

TEST_CASE("a load that does not hold keeps the steady state from being proven") {
  World world(1);
  world.add_load("shoppers");
  world.loads["shoppers"].is = [] { return milliseconds(900); };
  world.add_fault(seconds(1));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 3);
  CHECK(world.told().empty());
  CHECK(world.loads["shoppers"].ended);
}

TEST_CASE("a load that cannot be started ends the run before anything is injected") {
  World world(1);
  world.add_check("shop");
  world.add_load("shoppers");
  world.add_load("others");
  world.loads["others"].refuses = error(StatusCode::kFailedPrecondition, "cannot run k6");
  world.add_fault(seconds(1));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 4);
  CHECK(ended.sentence() == "load \"others\": cannot run k6");
  CHECK(world.told().empty());
  CHECK(world.phases() == "preflight verdict");
  // The one that did start.
  CHECK(world.loads["shoppers"].ended);
  CHECK_FALSE(world.loads["others"].ended);
  CHECK(world.of(v1::Event::kLoadEnded).size() == 1);
}

TEST_CASE("a load that dies aborts the run: what was to be shown under it was not") {
  World world(1);
  world.add_check("shop");
  world.add_load("shoppers");
  world.loads["shoppers"].dies = [&world] { return acts(world); };
  world.add_fault(seconds(15));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 4);
  CHECK(ended.sentence() == "load \"shoppers\": it died");
  CHECK(world.of(v1::Event::kAbortDecided)[0].abort_decided().cause() == "load failed");
  CHECK(world.of(v1::Event::kFaultReverted).size() == 1);
  CHECK(world.of(v1::Event::kLoadEnded).size() == 1);
}

TEST_CASE("a load ends with a run that is stopped") {
  World world(1);
  world.add_check("shop");
  world.add_load("shoppers");
  world.add_fault(seconds(15));
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_applied()) world.engine->interrupt("a test");
  };
  CHECK(world.run().exit_code() == 130);
  CHECK(world.loads["shoppers"].ended);
}

TEST_CASE("a load is not begun where the nodes are not fit") {
  World world(1);
  world.nodes[0]->unreachable = error(StatusCode::kUnavailable, "no answer");
  world.add_load("shoppers");
  world.add_fault(seconds(1));
  CHECK(world.run().exit_code() == 4);
  CHECK_FALSE(world.loads["shoppers"].begun);
  CHECK(world.of(v1::Event::kLoadEnded).empty());
}

}  // namespace squall::test
