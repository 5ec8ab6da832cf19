#include <doctest/doctest.h>

#include <algorithm>
#include <boost/asio/post.hpp>
#include <chrono>
#include <initializer_list>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <utility>

#include "fakes.h"

namespace squall::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::size_t count(const std::vector<Command>& told, const std::string& what) {
  return static_cast<std::size_t>(std::count_if(
      told.begin(), told.end(), [&what](const Command& command) { return command.what == what; }));
}

/// Healthy until the method has begun, then broken for as long as `until_reverted` says.
Answers broken_under_fault(World& world, std::int64_t broken = 500) {
  return [&world, broken](MonotonicTime) -> std::int64_t {
    const bool acting = std::any_of(world.nodes.begin(), world.nodes.end(),
                                    [](const auto& node) { return node->acting() > 0; });
    return acting ? broken : 200;
  };
}

/// The first inject that any node was told after any node was told to revert everything.
bool injected_after_the_barrier(const World& world) {
  bool barrier = false;
  for (const Command& command : world.told()) {
    if (command.what == "revert_all") barrier = true;
    if (command.what == "inject" && barrier) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("a plan whose checks hold walks every phase and ends with 0") {
  World world(2);
  world.add_check("shop");
  world.add_fault(milliseconds(30));
  world.add_wait(milliseconds(5));
  world.add_kill("node-1");
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(ended.verdict() == v1::HELD);
  CHECK(world.phases() == "preflight steady method revert recovery verdict");
  CHECK(count(world.told(), "inject") == 3);
  CHECK(world.of(v1::Event::kFaultReverted).size() == 3);
  CHECK(world.of(v1::Event::kNodeSettled).size() == 2);
  CHECK(world.of(v1::Event::kRecovered).size() == 1);
  CHECK_FALSE(ended.has_abort());
  CHECK(world.events.front().has_run_started());
  CHECK(world.events.back().has_run_ended());
}

TEST_CASE(
    "how long it took to detect, to abort and to recover is told, and held against the plan") {
  const auto expect = [](World& world, const char* text, const char* metric, v1::Operator op,
                         Duration bound) {
    v1::Expectation& one = *world.plan.add_expect();
    one.set_text(text);
    one.set_metric(metric);
    one.set_op(op);
    one.add_values()->set_number(static_cast<double>(bound.count()));
  };
  SUBCASE("all of it as expected") {
    World world(1);
    world.add_check("shop");
    world.answers["shop"] = broken_under_fault(world);
    world.add_fault(seconds(10));
    expect(world, "time_to_detect < 20s", "time_to_detect", v1::LESS, seconds(20));
    expect(world, "time_to_recover < 20s", "time_to_recover", v1::LESS, seconds(20));
    const v1::RunEnded ended = world.run();
    CHECK(ended.verdict() == v1::BREACHED);
    CHECK(ended.times().to_detect_ms() >= 0);
    CHECK(ended.times().has_to_detect_ms());
    CHECK(ended.times().to_abort_ms() == ended.abort().effect_ended_ms());
    const double recovered = world.of(v1::Event::kRecovered)[0].recovered().after_ms();
    CHECK(ended.times().to_recover_ms() == recovered);
    REQUIRE(ended.expect_size() == 2);
    CHECK(ended.expect(0).holds());
    CHECK(has(ended.expect(0).observed(), "time_to_detect "));
    CHECK(ended.expect(1).holds());
  }
  SUBCASE("what took too long is a breach of the run") {
    World world(1);
    world.add_check("shop");
    world.add_fault(milliseconds(10));
    expect(world, "time_to_recover > 20s", "time_to_recover", v1::GREATER, seconds(20));
    const v1::RunEnded ended = world.run();
    CHECK(ended.verdict() == v1::BREACHED);
    CHECK(ended.exit_code() == 1);
    CHECK(has(ended.sentence(), "the run as a whole: observed time_to_recover "));
    CHECK(has(ended.sentence(), "expected time_to_recover > 20s"));
  }
  SUBCASE("what did not happen took no time") {
    World world(1);
    world.add_check("shop");
    world.add_fault(milliseconds(10));
    expect(world, "time_to_detect < 1ns", "time_to_detect", v1::LESS, Duration(1));
    const v1::RunEnded ended = world.run();
    CHECK(ended.verdict() == v1::HELD);
    CHECK_FALSE(ended.times().has_to_detect_ms());
    CHECK_FALSE(ended.times().has_to_abort_ms());
    REQUIRE(ended.expect_size() == 1);
    CHECK(ended.expect(0).holds());
    CHECK(ended.expect(0).observed() == "time_to_detect did not happen");
  }
}

TEST_CASE("a check that flaps has not held again until it has held for as long as it must") {
  World world(1);
  v1::Check& check = world.add_check("shop");
  check.set_on_breach(v1::NOTE);
  check.set_held_again_after(Duration(milliseconds(200)).count());
  // Under the fault two answers are bad, and two are good.
  int answers = 0;
  world.answers["shop"] = [&](MonotonicTime) -> std::int64_t {
    return world.nodes[0]->acting() > 0 && ++answers % 4 < 2 ? 500 : 200;
  };
  world.add_fault(milliseconds(300));
  const v1::RunEnded ended = world.run();
  CHECK(world.of(v1::Event::kCheckBreached).size() == 1);
  CHECK(world.of(v1::Event::kCheckHeldAgain).size() == 1);
  // Recovery is believed no sooner.
  CHECK(ended.times().to_recover_ms() >= 200);
}

TEST_CASE("a run takes no longer than its own waits and a few milliseconds") {
  World world(1);
  world.add_check("shop", seconds(1));
  world.add_fault(milliseconds(20));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(ended.duration_ms() >= 20);
  // Had it waited for its check's next turn, it would be a second.
  CHECK(ended.duration_ms() < 800);
}

TEST_CASE("a kill that waits for its targets' ends is not told to end before they had their time") {
  World world(1);
  world.add_check("shop");
  v1::Step& step = world.add_kill();
  step.mutable_fault()->mutable_kill()->set_signal(v1::SIGNAL_TERM);
  step.mutable_fault()->mutable_kill()->set_grace(Duration(milliseconds(60)).count());
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(count(world.told(), "revert") == 0);
  CHECK(ended.duration_ms() >= 60);
}

TEST_CASE("a step lasts as long as its fault") {
  World world(1);
  world.add_check("shop");
  world.add_fault(milliseconds(50));
  world.add_kill();
  CHECK(world.run().exit_code() == 0);
  const auto told = world.nodes[0]->told;
  REQUIRE(told.size() >= 2);
  const auto second = std::find_if(told.begin() + 1, told.end(),
                                   [](const Command& command) { return command.what == "inject"; });
  REQUIRE(second != told.end());
  CHECK(second->at - told[0].at >= milliseconds(50));
  CHECK(second->at - told[0].at < milliseconds(1000));
}

TEST_CASE("a breach in the middle of a step aborts at once") {
  World world(3);
  world.add_check("shop");
  world.answers["shop"] = broken_under_fault(world);
  world.add_fault(seconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(ended.verdict() == v1::BREACHED);
  CHECK(ended.duration_ms() < 1000);
  CHECK(world.phases() == "preflight steady method revert recovery verdict");
  CHECK(world.of(v1::Event::kRecovered).size() == 1);
  REQUIRE(ended.has_abort());
  CHECK(ended.abort().decided_ms() >= 0);
  CHECK(ended.abort().decided_ms() <= ended.abort().effect_ended_ms());
  CHECK(ended.abort().effect_ended_ms() <= ended.abort().verified_clean_ms());
  CHECK(ended.abort().effect_ended_ms() < 1000);
  CHECK(has(ended.sentence(), "check \"shop\" was breached"));
  CHECK(has(ended.sentence(), "expected status == 200"));
  CHECK(has(ended.sentence(), "on node-1, node-2, node-3"));
  CHECK(world.of(v1::Event::kCheckBreached).size() == 1);
  CHECK(world.of(v1::Event::kAbortDecided).size() == 1);
}

TEST_CASE("a breach that is only to be noted is told and the run goes on") {
  World world(1);
  world.add_check("shop").set_on_breach(v1::NOTE);
  world.answers["shop"] = broken_under_fault(world);
  world.add_fault(milliseconds(50));
  world.add_kill();
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(count(world.told(), "inject") == 2);
  CHECK(world.of(v1::Event::kAbortDecided).empty());
  CHECK(world.of(v1::Event::kCheckHeldAgain).size() >= 1);
}

TEST_CASE("the breach that aborted is told first, whatever was noted before it") {
  World world(1);
  world.add_check("noted").set_on_breach(v1::NOTE);
  world.add_check("shop");
  world.answers["noted"] = broken_under_fault(world);
  world.answers["shop"] = [&world](MonotonicTime) -> std::int64_t {
    return world.of(v1::Event::kCheckBreached).empty() || !world.nodes[0]->acting() ? 200 : 500;
  };
  world.add_fault(seconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(ended.sentence().starts_with("check \"shop\" was breached "));
  CHECK(ended.sentence().ends_with(" (and 1 more)"));
}

TEST_CASE("a fault that ended while the breaching answer was awaited is named as its cause") {
  World world(1);
  world.add_check("shop").set_no_data(v1::OK);  // a late answer is what it is about
  world.add_fault(milliseconds(100));
  world.add_wait(seconds(5));
  // What is asked while the fault acts is answered when that is over.
  world.answers["shop"] = broken_under_fault(world);
  world.holds_answers = [&world] { return world.nodes[0]->acting() > 0; };
  const v1::RunEnded ended = world.run();
  INFO(ended.sentence());
  CHECK(ended.exit_code() == 1);
  CHECK(ended.sentence().ends_with(
      "observed status 500, expected status == 200, under network delay 1ms on node-1"));
}

TEST_CASE("where nothing was acting when the run was aborted, no effect is said to have ended") {
  World world(1);
  world.add_check("shop");
  world.add_kill();
  world.add_wait(seconds(10));
  world.answers["shop"] = [&world](MonotonicTime) -> std::int64_t {
    return world.of(v1::Event::kFaultReverted).empty() ||
                   !world.of(v1::Event::kAbortDecided).empty()
               ? 200
               : 500;
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  REQUIRE(ended.has_abort());
  CHECK(ended.abort().effect_ended_ms() == 0);
  CHECK(ended.abort().verified_clean_ms() > 0);
}

TEST_CASE("an end that is not proven has no time in the abort") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10));
  world.nodes[1]->stays_lost = true;
  std::size_t applied = 0;
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_applied() && ++applied == 2) world.nodes[1]->lose("socket closed");
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 5);
  REQUIRE(ended.has_abort());
  CHECK(ended.abort().effect_ended_ms() == 0);
  CHECK(ended.abort().verified_clean_ms() == 0);
}

TEST_CASE("a fault is told as being injected before it is sent") {
  World world(1);
  world.add_check("shop");
  world.add_fault(milliseconds(20));
  bool sent_before = true;
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_injecting()) sent_before = count(world.told(), "inject") > 0;
  };
  CHECK(world.run().exit_code() == 0);
  CHECK_FALSE(sent_before);
}

TEST_CASE("a baseline that nothing can be measured for lets nothing be injected") {
  World world(1);
  v1::Expectation& wanted = *world.add_check("shop").mutable_expect(0);
  wanted.set_text("value < 2 x baseline");
  wanted.set_metric("value");
  wanted.set_op(v1::LESS);
  wanted.mutable_values(0)->set_number(2);
  wanted.mutable_values(0)->set_times_baseline(true);
  world.plan.mutable_steady_state(0)->set_no_data(v1::OK);
  world.add_fault(milliseconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 3);
  CHECK(count(world.told(), "inject") == 0);
  CHECK(ended.sentence() ==
        "check \"shop\" did not hold before the method: too few answers to say, the last: 200 in "
        "100us; nothing was injected");
}

TEST_CASE("reverts go to all nodes at once") {
  World world(100);
  world.add_check("shop");
  world.answers["shop"] = broken_under_fault(world);
  world.add_fault(seconds(10));
  for (const auto& node : world.nodes) node->revert_takes = milliseconds(30);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  MonotonicTime first = MonotonicTime::max();
  MonotonicTime last = MonotonicTime::min();
  for (const Command& command : world.told()) {
    if (command.what != "revert_all") continue;
    first = std::min(first, command.at);
    last = std::max(last, command.at);
  }
  CHECK(count(world.told(), "revert_all") == 100);
  // A hundred nodes that take 30 ms each take 30 ms together, not three seconds.
  CHECK(last - first < milliseconds(1000));
  CHECK(ended.abort().effect_ended_ms() < 1500);
}

TEST_CASE("S24: a steady state that does not hold lets nothing be injected") {
  World world(2);
  world.add_check("shop");
  world.answers["shop"] = [](MonotonicTime) { return 503; };
  world.add_fault(milliseconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 3);
  CHECK(count(world.told(), "inject") == 0);
  CHECK(world.phases() == "preflight steady verdict");
  CHECK(has(ended.sentence(), "did not hold before the method"));
}

TEST_CASE("S23: a check that throws aborts, reverts and is a fault of squall's own") {
  World world(2);
  world.add_check("shop");
  world.answers["shop"] = broken_under_fault(world, 0);
  world.add_fault(seconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 70);
  CHECK(ended.duration_ms() < 1000);
  CHECK(world.of(v1::Event::kFaultReverted).size() == 2);
  CHECK(has(ended.sentence(), "the check's own code broke"));
}

TEST_CASE("a check that throws before the method lets nothing be injected") {
  World world(1);
  world.add_check("shop");
  world.answers["shop"] = [](MonotonicTime) { return 0; };
  world.add_fault(milliseconds(10));
  CHECK(world.run().exit_code() == 70);
  CHECK(count(world.told(), "inject") == 0);
}

TEST_CASE("a walk that throws aborts and reverts") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10), "node-1");
  world.plan.mutable_method(0)->set_name("first");
  v1::Step& both = *world.plan.add_method();
  v1::Step held = world.plan.method(0);
  v1::Step throws = world.plan.method(0);
  throws.set_name("throws");
  *both.mutable_parallel()->add_steps() = held;
  *both.mutable_parallel()->add_steps() = throws;
  world.plan.mutable_method()->DeleteSubrange(0, 1);
  world.on_event = [](const v1::Event& event) {
    if (event.step_started().step() == "throws") throw std::runtime_error("the walk broke");
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 70);
  CHECK(ended.duration_ms() < 1000);
  CHECK(has(ended.sentence(), "the walk broke"));
  CHECK(world.nodes[0]->acting() == 0);
}

TEST_CASE("a fault that fails on one node of three is reverted on all") {
  World world(3);
  world.add_check("shop");
  world.nodes[1]->fails_to_apply = true;
  world.add_fault(seconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 4);
  CHECK(ended.duration_ms() < 1000);
  CHECK(has(ended.sentence(), "failed on node-2: no such device"));
  for (const auto& node : world.nodes) {
    CHECK(node->acting() == 0);
    CHECK(count(node->told, "revert_all") == 1);
  }
}

TEST_CASE("a fault without effect is no success, but one that was aborted is not blamed") {
  SUBCASE("to its end") {
    World world(2);
    world.add_check("shop");
    world.nodes[1]->shows_effect = false;
    world.add_fault(milliseconds(20));
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(has(ended.sentence(), "showed no effect on node-2"));
  }
  SUBCASE("aborted") {
    World world(1);
    world.add_check("shop");
    world.nodes[0]->shows_effect = false;
    world.answers["shop"] = broken_under_fault(world);
    world.add_fault(seconds(10));
    CHECK(world.run().exit_code() == 1);
  }
}

TEST_CASE("a partition has its effect where any part of it shows one") {
  World world(2);
  world.add_check("shop");
  v1::Step& step = world.add_fault(milliseconds(20));
  step.mutable_fault()->mutable_partition()->set_shape(v1::HALVES);
  SUBCASE("one never had anything to lose") {
    world.nodes[0]->shows_effect = false;
    CHECK(world.run().exit_code() == 0);
  }
  SUBCASE("nor had the other") {
    for (const auto& node : world.nodes) node->shows_effect = false;
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(has(ended.sentence(), "showed no effect"));
  }
  for (const v1::Event& event : world.of(v1::Event::kFaultInjecting)) {
    CHECK(event.fault_injecting().kind() == "partition");
  }
}

TEST_CASE("S18: a node that is lost ends the run, and is asked again until its end is proven") {
  World world(3);
  world.add_check("shop");
  world.add_fault(seconds(10));
  bool lost = false;
  world.on_event = [&](const v1::Event& event) {
    if (!event.has_fault_applied() || std::exchange(lost, true)) return;
    world.nodes[2]->lose("socket closed");
  };
  SUBCASE("it comes back") {
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(world.nodes[2]->opened == 2);
    CHECK(has(ended.sentence(), "node node-3 (fake:node-3) was lost: socket closed"));
    CHECK(ended.duration_ms() < 2000);
  }
  SUBCASE("it does not") {
    world.nodes[2]->stays_lost = true;
    // The lease of a second, and what is allowed beyond it.
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 5);
    CHECK(has(ended.sentence(), "node-3 (fake:node-3) is not proven"));
    CHECK(has(ended.sentence(), "the lease ends it by "));
    CHECK(has(ended.sentence(), "start squalld there anew"));
  }
  CHECK(world.nodes[0]->acting() == 0);
  CHECK(world.nodes[1]->acting() == 0);
  CHECK(world.of(v1::Event::kNodeLost).size() == 1);
  CHECK_FALSE(injected_after_the_barrier(world));
  const auto decided = world.of(v1::Event::kAbortDecided);
  REQUIRE(decided.size() == 1);
  CHECK(decided[0].abort_decided().cause() == "node lost");
}

TEST_CASE("one signal aborts and reverts, two leave at once") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10));
  std::size_t applied = 0;
  SUBCASE("one") {
    world.on_event = [&](const v1::Event& event) {
      if (event.has_fault_applied() && ++applied == 2) world.engine->interrupt("SIGINT");
    };
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 130);
    CHECK(ended.duration_ms() < 1000);
    CHECK(world.phases() == "preflight steady method revert verdict");
    CHECK(world.of(v1::Event::kNodeSettled).size() == 2);
    CHECK(has(ended.sentence(), "stopped by SIGINT"));
  }
  SUBCASE("two") {
    world.nodes[0]->settles = world.nodes[1]->settles = false;
    world.nodes[0]->revert_takes = world.nodes[1]->revert_takes = seconds(30);
    world.on_event = [&](const v1::Event& event) {
      if (event.has_fault_applied() && ++applied == 2) world.engine->interrupt("SIGINT");
      if (event.phase_started().phase() == v1::REVERT) world.engine->interrupt("SIGINT");
    };
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 5);
    CHECK(ended.duration_ms() < 1000);
    CHECK(has(ended.sentence(), "the run was left before it was told"));
  }
}

TEST_CASE("a signal ends a run in every phase") {
  for (const v1::Phase phase : {v1::PREFLIGHT, v1::STEADY, v1::METHOD, v1::REVERT, v1::RECOVERY}) {
    CAPTURE(v1::Phase_Name(phase));
    World world(2);
    world.add_check("shop");
    world.add_fault(milliseconds(20));
    if (phase == v1::RECOVERY) {
      // Nothing holds again, so that it has to be waited for.
      world.plan.mutable_recovery()->set_within(Duration(seconds(10)).count());
      world.answers["shop"] = [&world](MonotonicTime) -> std::int64_t {
        return world.of(v1::Event::kNodeSettled).empty() ? 200 : 500;
      };
    }
    world.on_event = [&](const v1::Event& event) {
      if (!event.has_phase_started() || event.phase_started().phase() != phase) return;
      boost::asio::post(world.loop, [&world] { world.engine->interrupt("SIGTERM"); });
    };
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 130);
    CHECK(ended.duration_ms() < 2000);
    CHECK(world.nodes[0]->acting() == 0);
    CHECK_FALSE(injected_after_the_barrier(world));
  }
}

TEST_CASE("what cannot be injected is told of every node, and nothing is started") {
  World world(3);
  world.add_check("shop");
  world.add_fault(milliseconds(10));
  SUBCASE("unreachable") {
    world.nodes[0]->unreachable = error(StatusCode::kUnavailable, "fake:node-1 cannot be reached");
    world.nodes[2]->unreachable = error(StatusCode::kUnavailable, "fake:node-3 cannot be reached");
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(ended.sentence() == "node node-1: fake:node-1 cannot be reached (and 1 more)");
  }
  SUBCASE("an unknown kind") {
    world.nodes[1]->kinds = {"cpu"};
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(ended.sentence() == "node node-2: its squalld fake does not know the fault network");
  }
  SUBCASE("a refusal of this kernel") {
    world.nodes[1]->looked.set_code(static_cast<int>(StatusCode::kUnimplemented));
    world.nodes[1]->looked.set_message("no sch_netem here");
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(has(ended.sentence(), "no sch_netem here"));
  }
  SUBCASE("a refusal by a guardrail") {
    world.nodes[1]->looked.set_code(static_cast<int>(StatusCode::kPermissionDenied));
    world.nodes[1]->looked.set_message("guardrail: no network faults here");
    CHECK(world.run().exit_code() == 4);
  }
  SUBCASE("a refusal of what the plan asks for") {
    world.nodes[1]->looked.set_code(static_cast<int>(StatusCode::kInvalidArgument));
    world.nodes[1]->looked.set_message("99 cores, this node has 2");
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 4);
    CHECK(ended.sentence() == "node node-2 refuses network delay 1ms: 99 cores, this node has 2");
  }
  SUBCASE("another environment") {
    world.nodes[1]->environment = "production";
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 2);
    CHECK(ended.sentence() ==
          "node node-2 is of the environment \"production\", the plan names \"\"");
  }
  CHECK(count(world.told(), "inject") == 0);
  CHECK(world.phases() == "preflight verdict");
}

TEST_CASE("residue is graver than a breach") {
  World world(2);
  world.add_check("shop");
  world.answers["shop"] = broken_under_fault(world);
  world.nodes[0]->residue = {"device sq123 is still there"};
  world.add_fault(seconds(10));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 5);
  CHECK(has(ended.sentence(), "left on node-1: device sq123 is still there; also: check \"shop\""));
}

TEST_CASE("checks that do not hold again in time are a breach") {
  World world(1);
  world.add_check("shop");
  bool injected = false;
  world.answers["shop"] = [&](MonotonicTime) -> std::int64_t { return injected ? 500 : 200; };
  world.add_kill();
  world.on_event = [&](const v1::Event& event) {
    if (event.phase_started().phase() == v1::RECOVERY) injected = true;
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(has(ended.sentence(), "did not hold again within 300ms of the last revert"));
}

TEST_CASE("a slow apply that is answered after the abort is not told twice, and ends") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10));
  world.nodes[1]->apply_takes = milliseconds(100);
  world.answers["shop"] = broken_under_fault(world);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(world.nodes[1]->acting() == 0);
  CHECK(world.of(v1::Event::kNodeSettled).size() == 2);
}

TEST_CASE("steps that are parallel begin together and end with the last") {
  World world(2);
  world.add_check("shop");
  v1::Step& both = *world.plan.add_method();
  world.add_fault(milliseconds(300), "node-1");
  world.add_fault(milliseconds(400), "node-2");
  for (int n = 1; n <= 2; ++n) *both.mutable_parallel()->add_steps() = world.plan.method(n);
  world.plan.mutable_method()->DeleteSubrange(1, 2);
  world.add_kill("node-1");
  CHECK(world.run().exit_code() == 0);
  const auto told = world.told();
  REQUIRE(told.size() >= 3);
  CHECK(told[0].what == "inject");
  CHECK(told[1].what == "inject");
  CHECK(told[1].at - told[0].at < milliseconds(300));
  const auto third = std::find_if(told.begin() + 2, told.end(),
                                  [](const Command& command) { return command.what == "inject"; });
  REQUIRE(third != told.end());
  CHECK(third->at - told[0].at >= milliseconds(400));
}

TEST_CASE("a preflight says which faults may live at the same time") {
  World world(1);
  world.add_check("shop");
  v1::Step& both = *world.plan.add_method();
  world.add_fault(milliseconds(5), "node-1").mutable_fault()->mutable_network()->set_delay(1'000);
  world.add_fault(milliseconds(5), "node-1").mutable_fault()->mutable_network()->set_delay(2'000);
  for (int n = 1; n <= 2; ++n) *both.mutable_parallel()->add_steps() = world.plan.method(n);
  // The same one twice at once is two; once more, later, it would be told the same again.
  *both.mutable_parallel()->add_steps() = world.plan.method(1);
  world.add_fault(milliseconds(5), "node-1").mutable_fault()->mutable_network()->set_delay(4'000);
  world.plan.mutable_method()->DeleteSubrange(1, 2);
  CHECK(world.run().exit_code() == 0);
  const v1::PreflightRequest& asked = world.nodes[0]->preflighted;
  REQUIRE(asked.faults_size() == 4);
  REQUIRE(asked.together_size() == 4);
  CHECK(asked.faults(0).network().delay() == 1'000);
  CHECK(asked.faults(2).network().delay() == 1'000);
  CHECK(asked.together(0) == asked.together(1));
  CHECK(asked.together(0) == asked.together(2));
  CHECK(asked.faults(3).network().delay() == 4'000);
  CHECK(asked.together(0) != asked.together(3));
}

TEST_CASE("a thousand parallel steps are walked and aborted like one") {
  World world(1);
  world.add_check("shop");
  world.add_fault(seconds(10));
  const v1::Step one = world.plan.method(0);
  v1::Step& all = *world.plan.mutable_method(0);
  all.Clear();
  for (int n = 0; n < 1000; ++n) *all.mutable_parallel()->add_steps() = one;
  world.answers["shop"] = broken_under_fault(world);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(world.nodes[0]->acting() == 0);
  CHECK(count(world.told(), "inject") == 1000);
}

TEST_CASE("S25: whenever a breach comes, nothing is injected after the decision") {
  std::mt19937_64 random(20261122);
  const auto up_to = [&random](std::uint64_t most) { return random() % (most + 1); };
  std::size_t aborted = 0;
  std::size_t unfinished = 0;
  for (int interleaving = 0; interleaving < 150; ++interleaving) {
    CAPTURE(interleaving);
    World world(3);
    world.add_check("shop", milliseconds(1));
    const std::size_t steps = 4;
    for (std::size_t n = 0; n < steps; ++n) {
      if (up_to(3) == 0) {
        world.add_kill();
      } else {
        world.add_fault(std::chrono::microseconds(500 + up_to(3000)));
      }
    }
    for (const auto& node : world.nodes) {
      node->apply_takes = std::chrono::microseconds(up_to(1500));
      node->revert_takes = std::chrono::microseconds(up_to(1500));
    }
    // At a random time after the method began, often on a boundary of two steps.
    const Duration breach = std::chrono::microseconds(up_to(9000));
    std::optional<MonotonicTime> method;
    bool reverting = false;
    world.on_event = [&](const v1::Event& event) {
      if (event.phase_started().phase() == v1::METHOD) method = monotonic_now();
      if (event.phase_started().phase() == v1::REVERT) reverting = true;
    };
    world.answers["shop"] = [&](MonotonicTime now) -> std::int64_t {
      return method && !reverting && now - *method >= breach ? 500 : 200;
    };
    const v1::RunEnded ended = world.run();
    CHECK_FALSE(injected_after_the_barrier(world));
    CHECK((ended.exit_code() == 0 || ended.exit_code() == 1));
    for (const auto& node : world.nodes) CHECK(node->acting() == 0);
    if (ended.exit_code() == 1) ++aborted;
    if (count(world.told(), "inject") < 3 * steps) ++unfinished;
  }
  // Else nothing was tried.
  CHECK(aborted > 20);
  CHECK(unfinished > 10);
}

TEST_CASE("what is halted on one node is reverted on all and the run says by whom") {
  World world(3);
  world.add_check("shop");
  world.add_fault(seconds(10));
  std::size_t applied = 0;
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_applied() && ++applied == 3) world.nodes[1]->halt("ana", "a drill");
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 130);
  CHECK(ended.sentence() == "halted on node-2 by ana: a drill");
  CHECK(ended.duration_ms() < 5000);
  for (const auto& node : world.nodes) {
    CHECK(node->acting() == 0);
    CHECK(count(node->told, "revert_all") == 1);
  }
}

TEST_CASE("a run that is halted itself says by whom, and being told twice leaves nothing undone") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10));
  for (const auto& node : world.nodes) node->revert_takes = milliseconds(20);
  std::size_t applied = 0;
  world.on_event = [&](const v1::Event& event) {
    if (!event.has_fault_applied() || ++applied != 2) return;
    // From a second terminal, which knows of no node.
    boost::asio::post(world.loop, [&] {
      world.engine->halt("ana@laptop", "a drill");
      world.engine->halt("ana@laptop", "a drill");
    });
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 130);
  CHECK(ended.sentence() == "halted by ana@laptop: a drill");
  CHECK(world.of(v1::Event::kFaultReverted).size() == 2);
  CHECK(world.of(v1::Event::kNodeSettled).size() == 2);
}

TEST_CASE("a fault that somebody ends by hand ends its step, and the run goes on and says who") {
  World world(2);
  world.add_check("shop");
  world.add_fault(seconds(10));
  world.add_fault(milliseconds(20));
  // Nothing was seen of it yet: it was not given its time.
  world.nodes[1]->shows_effect = false;
  std::size_t applied = 0;
  world.on_event = [&](const v1::Event& event) {
    if (!event.has_fault_applied() || ++applied != 2) return;
    world.nodes[1]->revert_by("ana@laptop");
    world.nodes[1]->shows_effect = true;
    world.nodes[0]->revert_by("ana@laptop");
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(ended.duration_ms() < 5000);
  CHECK(ended.sentence() ==
        "every check held throughout, and again after the last revert; network delay 1ms on "
        "node-2 was reverted by ana@laptop (and 1 more)");
  const auto over = world.of(v1::Event::kFaultEffectEnded);
  REQUIRE(over.size() == 4);
  CHECK(over[0].fault_effect_ended().reason() == "reverted by ana@laptop");
  CHECK(over[1].fault_effect_ended().reason() == "reverted by ana@laptop");
  CHECK(over[2].fault_effect_ended().reason() == "its time was up");
  CHECK(count(world.told(), "inject") == 4);
}

TEST_CASE("the run waits for a person and goes on with yes") {
  World world(1);
  world.add_check("shop");
  world.plan.add_method()->set_ask("has the pager gone off?");
  world.add_kill();
  std::string asked;
  world.ask = [&](const std::string& question) -> boost::asio::awaitable<run::Answer> {
    asked = question;
    co_return run::Answer{true, "a person"};
  };
  CHECK(world.run().exit_code() == 0);
  CHECK(asked == "has the pager gone off?");
  CHECK(count(world.told(), "inject") == 1);
  REQUIRE(world.of(v1::Event::kAnswered).size() == 1);
  CHECK(world.of(v1::Event::kAnswered)[0].answered().by() == "a person");
}

TEST_CASE("a person's no ends the run, and so does nobody to be asked") {
  World world(1);
  world.add_check("shop");
  world.plan.add_method()->set_ask("go on?");
  world.add_kill();
  std::string by = "nobody was there to be asked";
  SUBCASE("no") {
    by = "a person";
    world.ask = [](const std::string&) -> boost::asio::awaitable<run::Answer> {
      co_return run::Answer{false, "a person"};
    };
  }
  SUBCASE("nobody") {}
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 130);
  CHECK(ended.sentence() == "\"go on?\" was answered with no: " + by);
  CHECK(count(world.told(), "inject") == 0);
}

namespace {

/// Breaks while a delay of at least this much acts.
Answers broken_from(World& world, std::int64_t delay_ns) {
  return [&world, delay_ns](MonotonicTime) -> std::int64_t {
    return world.nodes[0]->largest_delay() >= delay_ns ? 500 : 200;
  };
}

v1::Search& add_search(World& world, double from_ms, double to_ms, double resolution_ms) {
  v1::Fault& fault = *world.add_fault(milliseconds(60)).mutable_fault();
  fault.mutable_network()->set_delay(static_cast<std::int64_t>(to_ms * 1e6));
  v1::Search& search = *fault.mutable_search();
  search.set_field("delay");
  search.set_from(from_ms * 1e6);
  search.set_to(to_ms * 1e6);
  search.set_resolution(resolution_ms * 1e6);
  return search;
}

}  // namespace

TEST_CASE("a search finds the largest number that the steady state stands, to its resolution") {
  World world(1);
  world.add_check("shop");
  add_search(world, 0, 1000, 10);
  world.answers["shop"] = broken_from(world, 345'000'000);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(ended.sentence() ==
        "network delay holds up to 340ms and breaks at 350ms: check \"shop\": observed status 500, "
        "expected status == 200");
  const auto attempts = world.of(v1::Event::kAttempted);
  CHECK(attempts.size() <= 7);
  // By halves from the mild end: nothing harsher than half of the range was tried.
  CHECK(attempts[0].attempted().value() == "500ms");
  CHECK_FALSE(attempts[0].attempted().held());
  REQUIRE(world.of(v1::Event::kFound).size() == 1);
  CHECK(world.of(v1::Event::kFound)[0].found().holds() == "340ms");
  CHECK(world.of(v1::Event::kAbortDecided).empty());
  CHECK(world.of(v1::Event::kCheckBreached).empty());
}

TEST_CASE(
    "a node whose part of an attempt was cut short is not blamed for having shown no effect") {
  World world(2);
  world.add_check("shop");
  add_search(world, 0, 1000, 10);
  world.answers["shop"] = broken_from(world, 500'000'000);
  std::size_t attempts = 0;
  // The second node has something to lose only in attempts that run to their end.
  world.on_event = [&](const v1::Event& event) {
    if (event.has_attempted()) ++attempts;
    world.nodes[1]->shows_effect = attempts > 0;
  };
  world.nodes[1]->shows_effect = false;
  CHECK(world.run().exit_code() == 0);
  CHECK_FALSE(world.of(v1::Event::kAttempted)[0].attempted().held());
}

TEST_CASE("a search in which nothing breaks says that the most that was tried holds") {
  World world(1);
  world.add_check("shop");
  add_search(world, 0, 40, 10);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 0);
  CHECK(ended.sentence() == "network delay holds up to 40ms, the most that was tried");
}

TEST_CASE("a search whose mildest number breaks the steady state is a breach") {
  World world(1);
  world.add_check("shop");
  add_search(world, 10, 40, 10);
  world.answers["shop"] = broken_from(world, 1);
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(has(ended.sentence(), "network delay breaks at 10ms already, the least that was tried"));
}

TEST_CASE("a system that does not recover from an attempt ends the search") {
  World world(1);
  world.add_check("shop");
  add_search(world, 0, 40, 10);
  world.plan.mutable_recovery()->set_within(Duration(milliseconds(50)).count());
  bool broken = false;
  world.answers["shop"] = [&](MonotonicTime) -> std::int64_t {
    broken = broken || world.nodes[0]->acting() > 0;
    return broken ? 500 : 200;
  };
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 1);
  CHECK(
      has(ended.sentence(), "the checks did not hold again within 50ms of the attempt with 20ms"));
  CHECK(world.of(v1::Event::kAttempted).size() == 1);
}

namespace {

/// Asked from every node.
v1::Check& add_check_from_all(World& world, const std::string& name) {
  v1::Check& check = world.add_check(name);
  check.mutable_from()->set_all(true);
  return check;
}

/// From these nodes it is broken while a fault acts anywhere.
void break_from(World& world, const std::string& check, std::size_t nodes) {
  for (std::size_t n = 0; n < nodes; ++n) {
    world.nodes[n]->answers[check] = broken_under_fault(world);
  }
}

}  // namespace

TEST_CASE("a check holds while as many vantage points hold as its quorum says") {
  struct Row {
    const char* of;
    std::size_t broken;
    bool holds;
  };
  for (const Row& row : std::initializer_list<Row>{{"", 0, true},
                                                   {"", 1, false},
                                                   {"all", 1, false},
                                                   {"2 of 3", 1, true},
                                                   {"2 of 3", 2, false},
                                                   {"1", 2, true},
                                                   {"1", 3, false},
                                                   {"majority", 1, true},
                                                   {"majority", 2, false}}) {
    CAPTURE(row.of);
    CAPTURE(row.broken);
    World world(3);
    v1::Check& check = add_check_from_all(world, "shop");
    v1::Quorum& of = *check.mutable_of();
    const std::string how = row.of;
    if (how == "all") of.set_all(true);
    if (how == "majority") of.set_majority(true);
    if (how == "2 of 3") of.set_count(2);
    if (how == "1") of.set_count(1);
    if (how.empty()) check.clear_of();
    break_from(world, "shop", row.broken);
    world.add_fault(milliseconds(60), "node-1");
    const v1::RunEnded ended = world.run();
    INFO(ended.sentence());
    CHECK(ended.exit_code() == (row.holds ? 0 : 1));
    CHECK(world.of(v1::Event::kCheckBreached).size() == (row.holds ? 0 : 1));
  }
}

TEST_CASE("each vantage point is told by itself, and a breach says which of them saw what") {
  World world(3);
  add_check_from_all(world, "shop").mutable_of()->set_count(3);
  break_from(world, "shop", 1);
  world.add_fault(seconds(10), "node-2");
  const v1::RunEnded ended = world.run();
  CHECK(has(ended.sentence(),
            "observed status 500 from node-1 (3 of 3 must hold, 2 do), expected status == 200"));
  const auto& line = world.events.front().run_started().checks(0);
  CHECK(line.from_size() == 3);
  CHECK(line.from(2) == "node-3");
  std::map<std::string, std::size_t> asked;
  for (const v1::Event& event : world.of(v1::Event::kCheckAsked)) {
    ++asked[event.check_asked().from()];
    if (event.check_asked().from() != "node-1") CHECK(event.check_asked().holds());
  }
  CHECK(asked.size() == 3);
  CHECK(asked.contains("node-1"));
  CHECK(world.of(v1::Event::kRecovered).size() == 1);
}

TEST_CASE("a check is asked from the nodes that its labels select, and from no others") {
  World world(3);
  (*(*world.plan.mutable_nodes())["node-2"].mutable_labels())["role"] = "web";
  (*world.add_check("shop").mutable_from()->mutable_labels())["role"] = "web";
  world.answers["shop"] = [](MonotonicTime) -> std::int64_t { return 500; };  // squall's own view
  world.add_fault(milliseconds(30), "node-1");
  const v1::RunEnded ended = world.run();
  INFO(ended.sentence());
  CHECK(ended.exit_code() == 0);
  CHECK(world.nodes[0]->asked == 0);
  CHECK(world.nodes[1]->asked > 1);
  CHECK(world.nodes[2]->asked == 0);
  for (const v1::Event& event : world.of(v1::Event::kCheckAsked)) {
    CHECK(event.check_asked().from() == "node-2");
  }
}

TEST_CASE("a steady state that does not hold from a node names the node") {
  World world(2);
  add_check_from_all(world, "shop");
  world.nodes[1]->answers["shop"] = [](MonotonicTime) -> std::int64_t { return 503; };
  world.add_fault(milliseconds(30));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 3);
  CHECK(
      has(ended.sentence(),
          "check \"shop\" did not hold before the method: observed status 503 from node-2 (2 of 2 "
          "must hold, 1 does), expected status == 200; nothing was injected"));
}

TEST_CASE("a vantage point that a quorum does without is waited for, but not for ever") {
  World world(2);
  add_check_from_all(world, "shop").mutable_of()->set_count(1);
  // It answers what is asked of it at preflight, and nothing after that.
  world.nodes[1]->answers["shop"] = [&](MonotonicTime) -> std::int64_t {
    return world.nodes[1]->asked == 1 ? 200 : -1;
  };
  world.add_fault(milliseconds(20), "node-1");
  const v1::RunEnded ended = world.run();
  INFO(ended.sentence());
  CHECK(ended.exit_code() == 0);
  // Three times `every` and the timeout are what it is given.
  CHECK(world.of(v1::Event::kCheckAsked).size() >= 3);
}

TEST_CASE("a squalld that cannot ask is told before anything is injected") {
  World world(2);
  add_check_from_all(world, "shop");
  world.nodes[1]->version = "0.1.0";
  world.nodes[1]->refuses_to_ask = error(StatusCode::kUnimplemented, "");
  world.add_fault(milliseconds(30), "node-1");
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 4);
  CHECK(ended.sentence() == "node node-2: its squalld 0.1.0 cannot ask");
  CHECK(count(world.told(), "inject") == 0);
}

TEST_CASE("a check that a node's guardrails refuse is told with the rule") {
  World world(1);
  add_check_from_all(world, "backlog");
  world.nodes[0]->refuses_to_ask =
      error(StatusCode::kPermissionDenied, "guardrails.yaml:3: scripts does not list /bin/true");
  world.add_fault(milliseconds(30));
  const v1::RunEnded ended = world.run();
  CHECK(ended.exit_code() == 4);
  CHECK(ended.sentence() ==
        "node node-1: it does not ask \"backlog\": guardrails.yaml:3: scripts does not list "
        "/bin/true");
}

TEST_CASE("a node that only asks and is lost has no data from then") {
  World world(3);
  v1::Check& check = add_check_from_all(world, "shop");
  world.add_fault(milliseconds(150), "node-1");
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_applied()) world.nodes[2]->lose("the connection was closed");
  };
  SUBCASE("which is a breach where all must hold") {
    const v1::RunEnded ended = world.run();
    CHECK(ended.exit_code() == 1);
    CHECK(has(ended.sentence(), "check \"shop\" was breached"));
    CHECK(has(ended.sentence(), "observed no data for "));
    CHECK(has(ended.sentence(), " from node-3 (3 of 3 must hold, 2 do)"));
  }
  SUBCASE("which the others make up for where they are enough") {
    check.mutable_of()->set_count(2);
    CHECK(world.run().exit_code() == 0);
  }
  CHECK(world.of(v1::Event::kNodeLost).size() == 1);
}

TEST_CASE("a node that asks and is acted on ends the run when it is lost") {
  World world(2);
  add_check_from_all(world, "shop").mutable_of()->set_count(1);
  world.add_fault(seconds(10), "node-1");
  world.on_event = [&](const v1::Event& event) {
    if (event.has_fault_applied()) world.nodes[0]->lose("the connection was closed");
  };
  CHECK(world.run().exit_code() != 0);
  CHECK(world.of(v1::Event::kAbortDecided).size() == 1);
}

}  // namespace squall::test
