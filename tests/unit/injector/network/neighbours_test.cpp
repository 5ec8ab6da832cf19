#include <doctest/doctest.h>

#include <memory>
#include <thread>

#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;
constexpr std::uint16_t kOtherPort = 7002;
constexpr milliseconds kAsked(50);

void tc(const Namespace& where, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "tc");
  run_in(where, std::move(arguments));
}

v1::Fault with_interface(v1::Fault fault, const std::string& name) {
  fault.mutable_network()->set_interface(name);
  return fault;
}

}  // namespace

TEST_CASE("S26: the owner's own queues and filters work beside a fault and are the same after it") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  tc(hosts.node, {"qdisc", "add", "dev", "eth0", "root", "handle", "7:", "htb", "default", "1"});
  tc(hosts.node,
     {"class", "add", "dev", "eth0", "parent", "7:", "classid", "7:1", "htb", "rate", "1gbit"});
  tc(hosts.node, {"qdisc", "add", "dev", "eth0", "parent", "7:1", "handle", "8:", "tbf", "rate",
                  "900mbit", "burst", "1mb", "latency", "50ms"});
  tc(hosts.node, {"qdisc", "add", "dev", "eth0", "clsact"});
  for (const char* hook : {"egress", "ingress"}) {
    tc(hosts.node, {"filter", "add", "dev", "eth0", hook, "prio", "3", "protocol", "ip", "u32",
                    "match", "ip", "protocol", "17", "0xff", "classid", "7:1"});
  }
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS, v1::BOTH}) {
    const v1::Fault fault = delay_fault(kPort, kAsked, direction);
    const v1::Looked looked = look(hosts.node, fault);
    CHECK(looked.code() == 0);
    CHECK(looked.notes_size() == (direction == v1::BOTH ? 2 : 1));
    const auto held = inject(hosts.node, fault);
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, kPort, 11)) > to_ms(kAsked) - 3);
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, kOtherPort, 11)) < 20);
    CHECK(held->end().ok());
    CHECK(held->clean_up() == std::vector<std::string>());
    CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
  }
}

TEST_CASE("S26: a root that its owner has tuned is the same beside a fault and after it") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  std::vector<std::string> root = {"qdisc", "replace", "dev", "eth0", "root", "handle", "9:"};
  SUBCASE("fq") { root.insert(root.end(), {"fq", "limit", "5000", "flow_limit", "70"}); }
  SUBCASE("fq_codel") { root.insert(root.end(), {"fq_codel", "target", "7ms", "quantum", "600"}); }
  SUBCASE("sfq") { root.insert(root.end(), {"sfq", "perturb", "10", "quantum", "3000"}); }
  try {
    tc(hosts.node, root);
  } catch (const std::runtime_error&) {
    MESSAGE("SKIPPED: this kernel has no such qdisc");
    return;
  }
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  const auto held = inject(hosts.node, delay_fault(kPort, kAsked, v1::BOTH));
  CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, kPort, 11)) > 2 * to_ms(kAsked) - 3);
  CHECK(held->end().ok());
  CHECK(held->clean_up() == std::vector<std::string>());
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("S29: of two faults on one interface each ends alone, whichever goes first") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  for (const bool first_goes_first : {true, false}) {
    auto first = inject(hosts.node, delay_fault(kPort, kAsked));
    auto second = inject(hosts.node, delay_fault(kOtherPort, kAsked));
    Held& leaving = first_goes_first ? *first : *second;
    Held& staying = first_goes_first ? *second : *first;
    const std::uint16_t left_port = first_goes_first ? kPort : kOtherPort;
    const std::uint16_t held_port = first_goes_first ? kOtherPort : kPort;
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, held_port, 5)) > to_ms(kAsked) - 3);
    const v1::NetworkEvidence counted = staying.evidence().network();
    CHECK(counted.matched_packets() == 5);
    CHECK(leaving.end().ok());
    CHECK(leaving.clean_up() == std::vector<std::string>());
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, left_port, 5)) < 20);
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, held_port, 5)) > to_ms(kAsked) - 3);
    CHECK(staying.evidence().network().matched_packets() == 10);
    CHECK(staying.end().ok());
    CHECK(staying.clean_up() == std::vector<std::string>());
    CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
  }
}

TEST_CASE("of two faults on lo the last to leave puts its settings back") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  auto first = inject(hosts.node, with_interface(delay_fault(kPort, kAsked), "lo"));
  auto second = inject(hosts.node, with_interface(delay_fault(kOtherPort, kAsked), "lo"));
  first.reset();
  CHECK(quickest_ms(measure(hosts.node, "127.0.0.1", kOtherPort, 5)) > 2 * to_ms(kAsked) - 3);
  second.reset();
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("a fault that may match what another one matches is refused, and the other named") {
  TwoHosts hosts;
  v1::Fault standing = delay_fault(kPort, kAsked);
  standing.set_id("aaaaaaaaaaaa");
  const auto held = inject(hosts.node, standing);
  const std::string refusal =
      "the fault aaaaaaaaaaaa already acts on eth0 egress and may match the same packets";
  v1::Fault overlapping = delay_fault(kPort, kAsked);
  CHECK(look(hosts.node, overlapping).message() == refusal);
  CHECK(look(hosts.node, overlapping).code() == static_cast<int>(StatusCode::kFailedPrecondition));
  overlapping.mutable_network()->clear_to();
  CHECK(look(hosts.node, overlapping).message() == refusal);
  CHECK_THROWS_AS(Held(hosts.node, overlapping), std::runtime_error);
  CHECK(look(hosts.node, delay_fault(kOtherPort, kAsked)).code() == 0);
  CHECK(look(hosts.node, delay_fault(kPort, kAsked, v1::INGRESS)).code() == 0);
}

TEST_CASE("of many faults on one interface that end at once each removes what is its own") {
  // More filters than the kernel tells in one message of a dump, of which it does not say whether
  // they changed meanwhile.
  constexpr std::uint16_t kFaults = 60;
  TwoHosts hosts;
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  std::vector<std::unique_ptr<Held>> faults;
  for (std::uint16_t i = 0; i < kFaults; ++i) {
    auto fault =
        std::make_unique<Held>(hosts.node, loss_fault(kPort + i, 100), std::vector<std::uint32_t>(),
                               faults.empty() ? nullptr : faults.front().get());
    fault->apply(std::chrono::minutes(5));
    faults.push_back(std::move(fault));
  }
  std::vector<std::vector<std::string>> residue(kFaults);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kFaults; ++i) {
    threads.emplace_back([&, i] {
      CHECK(faults[i]->end().ok());
      residue[i] = faults[i]->clean_up();
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(residue == std::vector<std::vector<std::string>>(kFaults));
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("a fault that has ended makes room for the same again before it has cleaned up") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  for (const v1::Fault& fault : {delay_fault(kPort, kAsked), loss_fault(kPort, 100)}) {
    auto first = inject(hosts.node, fault);
    CHECK(first->end().ok());
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, kPort, 5)) < 20);
    v1::Fault same = delay_fault(kPort, kAsked);
    Held second(hosts.node, same, {}, first.get());
    second.apply(std::chrono::minutes(5));
    CHECK(first->clean_up() == std::vector<std::string>());
    CHECK(quickest_ms(measure(hosts.client, TwoHosts::kNode4, kPort, 5)) > to_ms(kAsked) - 3);
    CHECK(second.end().ok());
    CHECK(second.clean_up() == std::vector<std::string>());
    CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
  }
}

TEST_CASE(
    "faults of one time that may match the same packets are refused before any of them acts") {
  TwoHosts hosts;
  const auto look_beside = [&](const v1::Fault& fault, const v1::Fault& other) {
    v1::Look request;
    *request.mutable_fault() = fault;
    *request.add_beside() = other;
    return look(hosts.node, request);
  };
  const v1::Looked met = look_beside(delay_fault(kPort, kAsked), loss_fault(kPort, 10));
  CHECK(met.code() == static_cast<int>(StatusCode::kFailedPrecondition));
  CHECK(met.message() ==
        "another network fault of the same time may match the same packets on eth0, and only one "
        "of them would act; write them as one fault, or give them different addresses, ports or "
        "protocols");
  v1::Fault everything = loss_fault(kPort, 10, v1::BOTH);
  everything.mutable_network()->clear_to();
  CHECK(look_beside(delay_fault(kPort, kAsked), everything).message() == met.message());
  v1::Fault named = loss_fault(kPort, 10);
  named.mutable_network()->mutable_to()->clear_ports();
  named.mutable_network()->mutable_to()->add_hosts("db.internal");
  v1::Look by_name;
  *by_name.mutable_fault() = delay_fault(kPort, kAsked);
  *by_name.add_beside() = named;
  v1::HostAddresses& host = *by_name.add_hosts();
  host.set_host("db.internal");
  host.add_addresses(std::string("\x0a\x4d\x00\x01", 4));
  CHECK(look(hosts.node, by_name).message() == met.message());

  CHECK(look_beside(delay_fault(kPort, kAsked), loss_fault(kOtherPort, 10)).code() == 0);
  CHECK(look_beside(delay_fault(kPort, kAsked), loss_fault(kPort, 10, v1::INGRESS)).code() == 0);
  const v1::Fault elsewhere = with_interface(loss_fault(kPort, 10, v1::EGRESS), "lo");
  CHECK(look_beside(delay_fault(kPort, kAsked), elsewhere).code() == 0);
  v1::Fault other_kind;
  other_kind.mutable_cpu()->set_load(10);
  CHECK(look_beside(delay_fault(kPort, kAsked), other_kind).code() == 0);
}

TEST_CASE("a look says the engine, why, and where, and changes nothing") {
  ThreeHosts hosts;
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  v1::Looked looked = look(hosts.node, delay_fault(kPort, kAsked));
  CHECK(looked.code() == 0);
  CHECK(looked.engine() == expected_engine());
  CHECK(looked.engine_reason() == (expected_engine() == v1::NETEM
                                       ? "this kernel has it"
                                       : "this kernel lacks sch_netem (CONFIG_NET_SCH_NETEM)"));
  REQUIRE(looked.interfaces_size() == 2);
  CHECK(looked.interfaces(0) == "eth0");
  CHECK(looked.interfaces(1) == "eth1");

  looked = look(hosts.node, with_interface(delay_fault(kPort, kAsked), "nosuch0"));
  CHECK(looked.code() == static_cast<int>(StatusCode::kNotFound));
  CHECK(looked.message() == "no interface nosuch0");

  v1::Fault to_itself = delay_fault(kPort, kAsked);
  v1::Cidr& cidr = *to_itself.mutable_network()->mutable_to()->add_cidrs();
  cidr.set_address(std::string("\x7f\0\0\x01", 4));
  cidr.set_prefix(32);
  looked = look(hosts.node, to_itself);
  CHECK(looked.code() == static_cast<int>(StatusCode::kFailedPrecondition));
  CHECK(looked.message() == "the cidrs lead to lo, which must be named: interface: lo");
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("an owner's ingress qdisc, beside which no clsact can be, is a reason to refuse") {
  TwoHosts hosts;
  tc(hosts.node, {"qdisc", "add", "dev", "eth0", "ingress"});
  CHECK_THROWS_AS(Held(hosts.node, delay_fault(kPort, kAsked)), std::runtime_error);
}

TEST_CASE("an interface of the same number in another namespace keeps its owner's clsact") {
  const Namespace here;
  const Namespace there("squall-there");
  for (const Namespace* each : {&here, &there}) {
    run_in(*each,
           {"ip", "link", "add", "one", "index", "77", "type", "veth", "peer", "name", "other"});
    run_in(*each, {"ip", "link", "set", "one", "up"});
  }
  add_clsact(there, "one");
  const std::vector<std::string> before = settled_fingerprint(there);
  const auto first = inject(here, loss_fault(kPort, 100));
  {
    v1::Fault fault = loss_fault(kPort, 100);
    fault.mutable_network()->mutable_in()->set_netns("squall-there");
    Held second(here, fault, {}, first.get());
    second.apply(std::chrono::minutes(5));
  }
  CHECK(difference(before, settled_fingerprint(there)) == "");
}

}  // namespace squall::support
