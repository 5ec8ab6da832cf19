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
  CHECK((*schedule)[2].parallel[1].place == "method[2].parallel[1]");
  CHECK((*schedule)[2].parallel[1].name == "wait");
}

}  // namespace squall::run
