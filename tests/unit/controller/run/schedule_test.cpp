#include "controller/run/schedule.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <set>

#include "experiments/base/ids.h"

namespace squall::run {
namespace {

v1::Plan plan_of(int nodes) {
  v1::Plan plan;
  for (int n = 0; n < nodes; ++n) {
    v1::Node node;
    node.set_address("fake");
    (*node.mutable_labels())["zone"] = std::string(1, n % 2 == 0 ? 'a' : 'b');
    (*plan.mutable_nodes())[fmt::format("node-{}", n)] = node;
  }
  return plan;
}

v1::Step& add_step(v1::Plan& plan) {
  v1::Step& step = *plan.add_method();
  step.mutable_on()->set_all(true);
  step.mutable_fault()->set_for_(1'000'000'000);
  step.mutable_fault()->mutable_network()->set_delay(1'000'000);
  return step;
}

std::vector<std::size_t> picked(const v1::Plan& plan, std::uint64_t seed) {
  const auto schedule = make_schedule(plan, seed);
  REQUIRE(schedule.ok());
  std::vector<std::size_t> nodes;
  for (const Target& target : schedule->front().targets) nodes.push_back(target.node);
  return nodes;
}

std::size_t count_of(const v1::Pick& pick, std::size_t of) {
  const auto count = picked_count(pick, of);
  REQUIRE(count.ok());
  return *count;
}

}  // namespace

TEST_CASE("the same seed picks the same nodes, on every machine") {
  v1::Plan plan = plan_of(10);
  add_step(plan).mutable_pick()->set_count(3);
  CHECK(picked(plan, 42) == picked(plan, 42));
  // Written down, so that a run of today can be walked again tomorrow.
  CHECK(picked(plan, 42) == std::vector<std::size_t>{0, 4, 6});
  std::set<std::vector<std::size_t>> different;
  for (std::uint64_t seed = 0; seed < 50; ++seed) different.insert(picked(plan, seed));
  CHECK(different.size() > 20);
}

TEST_CASE("every node is picked about as often as any other") {
  v1::Plan plan = plan_of(5);
  add_step(plan).mutable_pick()->set_count(2);
  std::vector<int> times(5);
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    for (const std::size_t node : picked(plan, seed)) ++times[node];
  }
  for (const int each : times) {
    CHECK(each > 700);
    CHECK(each < 900);
  }
}

TEST_CASE("a pick is a number, a share, a minority or a majority") {
  v1::Pick pick;
  CHECK(count_of(pick, 5) == 5);
  pick.set_all(true);
  CHECK(count_of(pick, 5) == 5);
  pick.set_count(2);
  CHECK(count_of(pick, 5) == 2);
  pick.set_percent(50);
  CHECK(count_of(pick, 4) == 2);
  CHECK(count_of(pick, 5) == 3);
  pick.set_percent(1);
  CHECK(count_of(pick, 5) == 1);
  pick.set_percent(100);
  CHECK(count_of(pick, 3) == 3);
  pick.set_minority(true);
  CHECK(count_of(pick, 3) == 1);
  CHECK(count_of(pick, 4) == 1);
  CHECK(count_of(pick, 5) == 2);
  pick.set_majority(true);
  CHECK(count_of(pick, 1) == 1);
  CHECK(count_of(pick, 4) == 3);
  CHECK(count_of(pick, 5) == 3);
}

TEST_CASE("a pick of none, or of more than there are, is an error") {
  v1::Pick pick;
  pick.set_minority(true);
  CHECK(message_of(picked_count(pick, 2).status()) ==
        "`pick` takes none of the 2 nodes that `on` matches");
  pick.set_count(4);
  CHECK(message_of(picked_count(pick, 3).status()) ==
        "`pick` takes 4 nodes, but `on` matches only 3");
}

TEST_CASE("a step acts on the nodes whose every label matches") {
  v1::Plan plan = plan_of(4);
  v1::Step& step = add_step(plan);
  step.mutable_on()->clear_all();
  (*step.mutable_on()->mutable_labels())["zone"] = std::string("b");
  CHECK(picked(plan, 1) == std::vector<std::size_t>{1, 3});
  step.mutable_on()->clear_labels();
  step.mutable_on()->set_node("node-2");
  CHECK(picked(plan, 1) == std::vector<std::size_t>{2});
  step.mutable_on()->set_node("node-9");
  step.set_name("slow");
  CHECK(message_of(make_schedule(plan, 1).status()) == "slow (method[0]): `on` matches no node");
}

TEST_CASE("every fault of a schedule has an id of its own") {
  v1::Plan plan = plan_of(3);
  add_step(plan);
  add_step(plan);
  const auto schedule = make_schedule(plan, 1);
  REQUIRE(schedule.ok());
  std::set<std::string> ids;
  for (const Step* step : acting_steps(*schedule)) {
    for (const Target& target : step->targets) {
      CHECK(is_fault_id(target.fault.id()));
      ids.insert(target.fault.id());
    }
  }
  CHECK(ids.size() == 6);
}

TEST_CASE("a method lasts as long as its steps, and parallel ones as the longest of them") {
  v1::Plan plan = plan_of(1);
  add_step(plan);
  plan.add_method()->set_wait(500'000'000);
  v1::Step& both = *plan.add_method();
  *both.mutable_parallel()->add_steps() = plan.method(0);
  both.mutable_parallel()->add_steps()->set_wait(3'000'000'000);
  const auto schedule = make_schedule(plan, 1);
  REQUIRE(schedule.ok());
  CHECK(length_of(*schedule) == std::chrono::milliseconds(4500));
  CHECK((*schedule)[2].steps[1].place == "method[2].parallel[1]");
  CHECK((*schedule)[2].steps[1].name == "wait");
}

TEST_CASE("what is repeated is chosen anew each time, and the same for a seed") {
  v1::Plan plan = plan_of(8);
  v1::Repeat& repeat = *plan.add_method()->mutable_repeat();
  repeat.set_times(6);
  repeat.set_every(20'000'000'000);
  v1::Plan one = plan_of(8);
  *repeat.add_steps() = add_step(one);
  repeat.mutable_steps(0)->mutable_pick()->set_count(1);
  const auto nodes_of = [](const std::vector<Step>& schedule) {
    std::vector<std::size_t> nodes;
    for (const Step* step : acting_steps(schedule)) nodes.push_back(step->targets.front().node);
    return nodes;
  };
  const auto first = make_schedule(plan, 7);
  const auto again = make_schedule(plan, 7);
  REQUIRE(first.ok());
  REQUIRE(again.ok());
  const std::vector<std::size_t> nodes = nodes_of(*first);
  CHECK(nodes.size() == 6);
  CHECK(std::set<std::size_t>(nodes.begin(), nodes.end()).size() > 1);
  CHECK(nodes == nodes_of(*again));
  const Duration once((*first)[0].steps[5].lasts);
  CHECK(length_of(*first) == 5 * std::chrono::seconds(20) + once);
  CHECK((*first)[0].steps[2].name == "3 of 6");
  CHECK((*first)[0].steps[2].steps[0].steps[0].place == "method[0].repeat[2][0]");
}

TEST_CASE("a pulse is the same fault on the same nodes and off between until its time is up") {
  v1::Plan plan = plan_of(4);
  v1::Step& step = add_step(plan);
  step.mutable_pick()->set_count(2);
  step.mutable_fault()->set_for_(23'000'000'000);
  step.mutable_fault()->mutable_pulse()->set_on(5'000'000'000);
  step.mutable_fault()->mutable_pulse()->set_off(10'000'000'000);
  const auto schedule = make_schedule(plan, 1);
  REQUIRE(schedule.ok());
  const std::vector<Step>& turns = (*schedule)[0].steps;
  REQUIRE(turns.size() == 4);
  CHECK(length_of(*schedule) == std::chrono::seconds(23));
  CHECK(turns[0].lasts == std::chrono::seconds(5));
  CHECK(turns[1].form == Step::Form::kWait);
  CHECK(turns[2].lasts == std::chrono::seconds(5));
  CHECK(turns[3].lasts == std::chrono::seconds(3));
  REQUIRE(turns[2].targets.size() == 2);
  for (std::size_t n = 0; n < 2; ++n) {
    CHECK(turns[2].targets[n].node == turns[0].targets[n].node);
    CHECK(turns[2].targets[n].fault.id() != turns[0].targets[n].fault.id());
    CHECK_FALSE(turns[2].targets[n].fault.has_pulse());
    CHECK(turns[2].targets[n].fault.for_() == 5'000'000'000);
  }
}

TEST_CASE("one number is looked for by a step of the method itself") {
  v1::Plan plan = plan_of(1);
  v1::Search& search = *add_step(plan).mutable_fault()->mutable_search();
  search.set_field("delay");
  search.set_to(1e9);
  search.set_resolution(1e6);
  CHECK(make_schedule(plan, 1).ok());
  SUBCASE("twice") { *plan.add_method() = plan.method(0); }
  SUBCASE("among others") {
    const v1::Step inner = plan.method(0);
    *plan.mutable_method(0)->mutable_parallel()->add_steps() = inner;
  }
  CHECK(message_of(make_schedule(plan, 1).status())
            .find("one number is looked for, by a step of the method itself") != std::string::npos);
}

TEST_CASE("no plan makes more steps than it may have however it was made") {
  v1::Plan plan = plan_of(1);
  v1::Step& step = add_step(plan);
  SUBCASE("by a pulse") {
    step.mutable_fault()->set_for_(86'400'000'000'000);
    step.mutable_fault()->mutable_pulse()->set_on(10'000'000);
    step.mutable_fault()->mutable_pulse()->set_off(10'000'000);
  }
  SUBCASE("by repeats within repeats") {
    v1::Step inner = step;
    for (int n = 0; n < 5; ++n) {
      v1::Step outer;
      outer.mutable_repeat()->set_times(10'000);
      *outer.mutable_repeat()->add_steps() = inner;
      inner = outer;
    }
    *plan.mutable_method(0) = inner;
  }
  CHECK(message_of(make_schedule(plan, 1).status()).find("more than 10000 steps") !=
        std::string::npos);
}

TEST_CASE("faults that may act at the same time are those of steps that run together") {
  v1::Plan plan = plan_of(1);
  const auto named = [](v1::Step step, const std::string& name) {
    step.set_name(name);
    return step;
  };
  const v1::Step step = add_step(plan);
  plan.clear_method();
  *plan.add_method() = named(step, "a");
  v1::Parallel& both = *plan.add_method()->mutable_parallel();
  *both.add_steps() = named(step, "b");
  v1::Repeat& repeat = *both.add_steps()->mutable_repeat();
  repeat.set_times(1);
  *repeat.add_steps() = named(step, "c");
  *repeat.add_steps() = named(step, "d");
  const auto schedule = make_schedule(plan, 1);
  REQUIRE(schedule.ok());
  std::vector<std::string> told;
  for (const Moment& moment : moments_of(*schedule)) {
    std::string& names = told.emplace_back();
    for (const Step* acting : moment) names += acting->name;
  }
  CHECK(told == std::vector<std::string>{"a", "bc", "bd"});
}

}  // namespace squall::run
