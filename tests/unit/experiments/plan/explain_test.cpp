#include "experiments/plan/explain.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <string>

#include "experiments/plan/declared.h"
#include "experiments/plan/load.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

std::string indented(const std::string& text, const std::string& by) {
  std::string out = by;
  for (const char c : text) {
    out += c;
    if (c == '\n') out += by;
  }
  return out + "\n";
}

std::string told(const std::string& text) {
  return format_diagnostics(load(text, "example", true).diagnostics, false);
}

TEST_CASE("every word explains itself, with an example") {
  for (const std::string& word : explainable()) {
    const auto page = explain(word);
    REQUIRE_MESSAGE(page.ok(), word);
    CHECK(page->rfind(word + ": ", 0) == 0);
    CHECK_MESSAGE(page->find("\nExample") != std::string::npos, word);
  }
}

TEST_CASE("every kind of fault and check is among the words") {
  const std::vector<std::string> words = explainable();
  for (const OneofDescriptor* kinds : {v1::Fault::descriptor()->FindOneofByName("kind"),
                                       v1::Check::descriptor()->FindOneofByName("kind")}) {
    for (const std::string& kind : choices(*kinds)) {
      CHECK_MESSAGE(std::find(words.begin(), words.end(), kind) != words.end(), kind);
    }
  }
}

TEST_CASE("the example of every fault kind is a step that loads") {
  const OneofDescriptor& kinds = *v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    const v1::MessageRules& rules = rules_of(*kinds.field(i)->message_type());
    const std::string lasts = rules.at_once() ? "" : "    for: 1s\n";
    CHECK(told("plan: t\nnodes: {local: {}}\nmethod:\n  - " + rules.example() + "\n" + lasts) ==
          "");
  }
}

TEST_CASE("the example of every check kind is a check that loads") {
  const OneofDescriptor& kinds = *v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    const v1::MessageRules& rules = rules_of(*kinds.field(i)->message_type());
    CHECK(told("plan: t\nnodes: {local: {}}\nmethod: [{wait: 1s}]\nsteady_state:\n  - name: x\n"
               "    expect: [latency < 1s]\n    " +
               rules.example() + "\n") == "");
  }
}

TEST_CASE("the examples of a plan and its parts load where they stand") {
  const auto example = [](const auto& type) { return rules_of(*type.descriptor()).example(); };
  CHECK(told(example(v1::Plan())) == "");
  const std::string nodes = "nodes:\n" + indented(example(v1::Node()), "  ") + "plan: t\n";
  CHECK(told(nodes + "method:\n" + indented(example(v1::Step()), "  ")) == "");
  CHECK(told(nodes + "method: [{wait: 1s}]\nsteady_state:\n" +
             indented(example(v1::Check()), "  ")) == "");
  CHECK(told(nodes + "method: [{wait: 1s}]\n" + example(v1::Recovery()) + "\n") == "");
  CHECK(told(nodes + "method:\n  - kill:\n      " + example(v1::Process()) + "\n") == "");
  CHECK(told(nodes + "method:\n  - for: 1s\n    network:\n      delay: 1s\n      " +
             example(v1::Match()) + "\n") == "");
}

TEST_CASE("a kind's page tells its fields with unit, bounds and default") {
  CHECK(*explain("network") ==
        R"(network: delays or loses the packets it matches; all others pass untouched

  delay      duration    added to every matched packet (1us to 60s; such as 200ms)
  jitter     duration    the delay varies by up to this much either way (1us to 60s; at most
                         `delay`; only with `delay`; such as 20ms)
  loss       percentage  share of the matched packets that vanish (0.0001% to 100%; such as 1%)
  to         match       which packets; without it, all of them
  direction  word        which way the packets go, seen from the node (egress, ingress or both;
                         default egress)
  interface  text        the network interface (such as eth0)
  engine     word        what delays the packets (auto, netem or relay; default auto)

At least one of delay or loss.

Example
  network: {delay: 200ms, jitter: 20ms, to: {ports: [5432]}}
)");
}

TEST_CASE("a field is explained where it stands") {
  CHECK(*explain("delay") ==
        "delay in network: duration, added to every matched packet (1us to 60s; such as 200ms)\n");
}

TEST_CASE("an unknown word is met with the nearest") {
  CHECK(message_of(explain("netwrok").status()) ==
        "no word \"netwrok\"; did you mean \"network\"?");
  CHECK(explain("quux").status().code() == StatusCode::kNotFound);
  CHECK(message_of(explain("\x1b[31m").status()).find('\x1b') == std::string::npos);
}

TEST_CASE("a fault is told in a few words") {
  v1::Fault fault;
  CHECK(in_words(fault) == "no fault");
  fault.mutable_network()->set_delay(300'000'000);
  CHECK(in_words(fault) == "network delay 300ms");
  fault.mutable_network()->mutable_to()->add_ports()->set_first(5432);
  fault.mutable_network()->mutable_to()->mutable_ports(0)->set_last(5432);
  fault.mutable_network()->set_direction(v1::INGRESS);
  CHECK(in_words(fault) == "network delay 300ms to ports 5432 direction ingress");
  fault.mutable_kill()->mutable_process()->set_name("ngi\nnx");
  fault.mutable_kill()->set_signal(v1::SIGNAL_TERM);
  CHECK(in_words(fault) == "kill process name ngi\\x0anx signal TERM");
  fault.mutable_cpu()->set_load(80);
  fault.mutable_cpu()->set_cores(2);
  CHECK(in_words(fault) == "cpu load 80% cores 2");
}

TEST_CASE("evidence is told in a few words") {
  v1::Evidence evidence;
  CHECK(in_words(evidence) == "nothing shown");
  evidence.mutable_network();
  CHECK(in_words(evidence) == "0 packets matched");
  evidence.mutable_network()->set_matched_packets(412);
  evidence.mutable_network()->set_dropped_packets(4);
  CHECK(in_words(evidence) == "412 packets matched, 4 lost as asked");
  evidence.mutable_kill()->add_victims();
  CHECK(in_words(evidence) == "1 process ended");
  evidence.mutable_cpu()->set_achieved(79.8333);
  evidence.mutable_cpu()->set_cores(2);
  CHECK(in_words(evidence) == "79.8% of each core burnt, 2 cores");
}

}  // namespace
}  // namespace squall::plan
