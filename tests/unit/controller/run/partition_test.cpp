#include "controller/run/partition.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "experiments/plan/forms.h"

namespace squall::run {
namespace {

constexpr std::uint64_t kSeeds = 50;

bool is_symmetric(const Cuts& cuts) {
  for (std::size_t one = 0; one < cuts.size(); ++one) {
    for (const std::size_t other : cuts[one]) {
      const std::vector<std::size_t>& back = cuts[other];
      if (other == one || std::find(back.begin(), back.end(), one) == back.end()) return false;
    }
  }
  return true;
}

std::multiset<std::size_t> sizes(const Cuts& cuts) {
  std::multiset<std::size_t> all;
  for (const std::vector<std::size_t>& lost : cuts) all.insert(lost.size());
  return all;
}

/// Nodes a-1, a-2, b-1, b-2, c-1, each with a role and an address.
v1::Plan plan_of_five() {
  v1::Plan plan;
  for (const char* name : {"a-1", "a-2", "b-1", "b-2", "c-1"}) {
    v1::Node& node = (*plan.mutable_nodes())[name];
    node.set_address(fmt::format("10.0.0.{}:7411", plan.nodes_size()));
    (*node.mutable_labels())["role"] = std::string(1, name[0]);
  }
  return plan;
}

v1::Partition& add_partition(v1::Plan& plan) {
  v1::Step& step = *plan.add_method();
  step.mutable_fault()->set_for_(1'000'000'000);
  return *step.mutable_fault()->mutable_partition();
}

/// "a-1 both 10.0.0.3,10.0.0.4", a line a fault.
std::vector<std::string> told(const v1::Plan& plan) {
  const auto schedule = make_schedule(plan, 42);
  REQUIRE_MESSAGE(schedule.ok(), message_of(schedule.status()));
  const std::vector<std::string> names = node_names(plan);
  std::vector<std::string> lines;
  for (const Target& target : schedule->front().targets) {
    const v1::Network& network = target.fault.network();
    CHECK(network.loss() == 100);
    CHECK(target.fault.for_() == 1'000'000'000);
    CHECK(target.fault.seed() != 0);
    CHECK_FALSE(target.fault.id().empty());
    std::string line = names[target.node] + " " + v1::Direction_Name(network.direction());
    for (const v1::Cidr& cidr : network.to().cidrs()) line += " " + plan::format_cidr(cidr);
    for (const std::string& host : network.to().hosts()) line += " " + host;
    lines.push_back(line);
  }
  return lines;
}

}  // namespace

TEST_CASE("halves part all from all, and the larger has one node more at most") {
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const Cuts even = cuts_of(v1::HALVES, 4, random);
    CHECK(is_symmetric(even));
    CHECK(sizes(even) == std::multiset<std::size_t>{2, 2, 2, 2});
    const Cuts odd = cuts_of(v1::HALVES, 5, random);
    CHECK(is_symmetric(odd));
    CHECK(sizes(odd) == std::multiset<std::size_t>{2, 2, 2, 3, 3});
  }
}

TEST_CASE("in a ring each sees a majority, and no two see the same one") {
  for (std::size_t count = 4; count <= 9; ++count) {
    Random random(count);
    const Cuts cuts = cuts_of(v1::RING, count, random);
    CHECK(is_symmetric(cuts));
    std::set<std::vector<std::size_t>> majorities;
    for (const std::vector<std::size_t>& lost : cuts) {
      CHECK_FALSE(lost.empty());
      CHECK(count - lost.size() > count / 2);
      majorities.insert(lost);
    }
    CHECK(majorities.size() == count);
  }
}

TEST_CASE("a bridge sees both halves, and they see nothing of each other") {
  Random random(1);
  const Cuts cuts = cuts_of(v1::BRIDGE, 5, random);
  CHECK(is_symmetric(cuts));
  CHECK(sizes(cuts) == std::multiset<std::size_t>{0, 2, 2, 2, 2});
}

TEST_CASE("an isolated node sees nobody, and over the seeds it is any of them") {
  std::set<std::size_t> alone;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    Random random(seed);
    const Cuts cuts = cuts_of(v1::ISOLATE, 4, random);
    CHECK(is_symmetric(cuts));
    CHECK(sizes(cuts) == std::multiset<std::size_t>{1, 1, 1, 3});
    for (std::size_t node = 0; node < cuts.size(); ++node) {
      if (cuts[node].size() == 3) alone.insert(node);
    }
  }
  CHECK(alone.size() == 4);
}

TEST_CASE("a partition becomes loss on every node that it concerns, both ways") {
  v1::Plan plan = plan_of_five();
  v1::Partition& partition = add_partition(plan);
  (*partition.add_between()->mutable_labels())["role"] = "a";
  partition.add_between()->set_node("b-2");
  CHECK(told(plan) == std::vector<std::string>{"a-1 BOTH 10.0.0.4", "a-2 BOTH 10.0.0.4",
                                               "b-2 BOTH 10.0.0.1 10.0.0.2"});
}

TEST_CASE("three groups are parted each from each") {
  v1::Plan plan = plan_of_five();
  v1::Partition& partition = add_partition(plan);
  for (const char* role : {"a", "b", "c"}) {
    (*partition.add_between()->mutable_labels())["role"] = role;
  }
  const std::vector<std::string> faults = told(plan);
  REQUIRE(faults.size() == 5);
  CHECK(faults.front() == "a-1 BOTH 10.0.0.3 10.0.0.4 10.0.0.5");
  CHECK(faults.back() == "c-1 BOTH 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4");
}

TEST_CASE("one way, only what the first group sends is lost") {
  v1::Plan plan = plan_of_five();
  v1::Partition& partition = add_partition(plan);
  partition.set_one_way(true);
  partition.add_between()->set_node("a-1");
  partition.add_between()->set_node("c-1");
  CHECK(told(plan) == std::vector<std::string>{"a-1 EGRESS 10.0.0.5", "c-1 INGRESS 10.0.0.1"});
}

TEST_CASE(
    "a node is known by its addresses, else by its squalld's, and without any it is an error") {
  v1::Plan plan = plan_of_five();
  v1::Partition& partition = add_partition(plan);
  partition.add_between()->set_node("a-1");
  partition.add_between()->set_node("c-1");
  v1::Node& node = plan.mutable_nodes()->at("c-1");
  node.set_address("[2001:db8::7]:7411");
  CHECK(told(plan).front() == "a-1 BOTH 2001:db8::7");
  node.set_address("db.internal:7411");
  CHECK(told(plan).front() == "a-1 BOTH db.internal");
  v1::Cidr cidr;
  REQUIRE_FALSE(plan::read_cidr("10.9.0.0/24", cidr).has_value());
  *node.add_addresses() = cidr;
  CHECK(told(plan).front() == "a-1 BOTH 10.9.0.0/24");
  node.clear_addresses();
  node.set_address("unix:/run/squalld.sock");
  CHECK(message_of(make_schedule(plan, 1).status()) ==
        "partition between node a-1, node c-1 (method[0]): no other node knows an address of c-1: "
        "give it `addresses`");
}

TEST_CASE("a shape parts the nodes that are selected, and no others") {
  v1::Plan plan = plan_of_five();
  add_partition(plan).set_shape(v1::ISOLATE);
  (*plan.mutable_method(0)->mutable_on()->mutable_labels())["role"] = "b";
  CHECK(told(plan) == std::vector<std::string>{"b-1 BOTH 10.0.0.4", "b-2 BOTH 10.0.0.3"});
}

}  // namespace squall::run
