#include "experiments/plan/by_hand.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

// Whole texts: what a person reads is what is tested.

namespace squall::plan {
namespace {

std::string told(const ByHand& said, const Given& given = {}) {
  return format_diagnostics(load_by_hand(said, given).diagnostics, false);
}

ByHand delay() {
  ByHand said;
  said.fault = "network: {delay: 200ms}";
  said.lasts = "60s";
  said.checks = {{"exec: {run: [\"true\"]}", {"exit == 0"}}};
  return said;
}

/// A file, gone with the test.
class File {
 public:
  explicit File(const std::string& text) {
    std::string name = (std::filesystem::temp_directory_path() / "squall-plan-XXXXXX").string();
    const int made = mkstemp(name.data());
    REQUIRE(made >= 0);
    close(made);
    path = name;
    std::ofstream(path) << text;
  }
  ~File() { std::filesystem::remove(path); }
  std::string path;
};

constexpr const char* kPlan = R"(plan: the shop survives a slow network
hypothesis: nobody notices
environment: staging
params: {delay: 30ms}
lease: 7s
nodes:
  web-1: {address: "10.0.0.1:7411", labels: {role: web}}
  web-2: {address: "10.0.0.2:7411", labels: {role: web}}
  db-1: {address: "10.0.0.3:7411", labels: {role: db, zone: a}}
steady_state:
  - {name: exec, exec: {run: ["true"]}, expect: [exit == 0]}
method:
  - {on: db-1, network: {delay: "${delay}"}, for: 5s}
recovery: {within: 3s}
)";

TEST_CASE("a fault by hand is a plan of one step, on this machine where nothing else is said") {
  ByHand said = delay();
  said.checks.push_back({"{exec: {run: [ls, /]}, every: 200ms}", {"exit == 0", "latency < 1s"}});
  said.checks.push_back(
      {"{name: mine, tcp: {address: \"127.0.0.1:80\"}, expect: [state == open]}", {}});
  const Loaded loaded = load_by_hand(said);
  INFO(format_diagnostics(loaded.diagnostics, false));
  REQUIRE(loaded.plan.has_value());
  const v1::Plan& plan = *loaded.plan;
  CHECK(plan.plan() == "by hand: network delay 200ms");
  REQUIRE(plan.nodes().size() == 1);
  CHECK(plan.nodes().contains("local"));
  REQUIRE(plan.method_size() == 1);
  CHECK(plan.method(0).on().node() == "local");
  CHECK(plan.method(0).fault().for_() == 60'000'000'000);
  CHECK(plan.lease() == 5'000'000'000);
  REQUIRE(plan.steady_state_size() == 3);
  CHECK(plan.steady_state(0).name() == "exec");
  CHECK(plan.steady_state(1).name() == "exec 2");
  CHECK(plan.steady_state(1).every() == 200'000'000);
  CHECK(plan.steady_state(1).expect_size() == 2);
  CHECK(plan.steady_state(2).name() == "mine");
}

TEST_CASE("what a step may have beside its fault may be said with it") {
  ByHand said = delay();
  said.lasts = "";
  said.fault = "on: {role: web}\npick: 1\nnetwork: {delay: 200ms}\nfor: 9s\n";
  const File file(kPlan);
  said.plan_file = file.path;
  const Loaded loaded = load_by_hand(said);
  INFO(format_diagnostics(loaded.diagnostics, false));
  REQUIRE(loaded.plan.has_value());
  CHECK(loaded.plan->method(0).pick().count() == 1);
  CHECK(loaded.plan->method(0).fault().for_() == 9'000'000'000);
  CHECK(loaded.plan->method(0).on().labels().at("role") == "web");
}

TEST_CASE(
    "with a plan its nodes, checks, environment, lease and recovery hold, and its steps do not") {
  const File file(kPlan);
  ByHand said = delay();
  said.plan_file = file.path;
  said.fault = "network: {delay: \"${delay}\"}";
  said.on = "role=db,zone=a";
  Given given;
  given.set = {"delay=40ms"};
  const Loaded loaded = load_by_hand(said, given);
  INFO(format_diagnostics(loaded.diagnostics, false));
  REQUIRE(loaded.plan.has_value());
  const v1::Plan& plan = *loaded.plan;
  CHECK(plan.nodes().size() == 3);
  CHECK(plan.environment() == "staging");
  CHECK(plan.hypothesis().empty());
  CHECK(plan.lease() == 7'000'000'000);
  CHECK(plan.recovery().within() == 3'000'000'000);
  REQUIRE(plan.method_size() == 1);
  CHECK(plan.method(0).fault().network().delay() == 40'000'000);
  CHECK(plan.method(0).on().labels().at("zone") == "a");
  REQUIRE(plan.steady_state_size() == 2);
  CHECK(plan.steady_state(1).name() == "exec 2");
  CHECK(load_by_hand(said, given).diagnostics.warnings == 0);
}

TEST_CASE("nodes are given by their addresses, too") {
  ByHand said = delay();
  said.nodes = {"10.0.0.1:7411", "[::1]:7411"};
  said.on = "all";
  const Loaded loaded = load_by_hand(said);
  INFO(format_diagnostics(loaded.diagnostics, false));
  REQUIRE(loaded.plan.has_value());
  CHECK(loaded.plan->nodes().at("node-1").address() == "10.0.0.1:7411");
  CHECK(loaded.plan->nodes().at("node-2").address() == "[::1]:7411");
}

TEST_CASE("what is wrong with a fault by hand is told in the text it stands in") {
  ByHand said = delay();
  said.fault = "network: {dealy: 200ms}";
  said.on = "web-1";
  said.lasts = "60x";
  said.checks = {{"exec: {run: [\"true\"]}", {"exit = 0"}}, {"http: {url: 17}", {}}};
  CHECK(told(said) == R"(inject:1:11: error: unknown key "dealy"
  network: {dealy: 200ms}
            ^^^^^
  did you mean "delay"?
--on:1:1: error: there is no node "web-1"
  web-1
  ^^^^^
  there is local
--for:1:1: error: unknown unit "x"
  60x
  ^^^
  write 60 with ns, us, ms, s, m or h
--expect:1:6: error: unknown operator "="
  exit = 0
       ^
  did you mean ==?
--check:1:1: error: a check needs `expect`
  http: {url: 17}
  ^^^^
  expect: what must hold, all of it
--check:1:13: error: "17" is not a URL
  http: {url: 17}
              ^^
  write http://host:port/path
)");
}

TEST_CASE("a fault by hand is one fault") {
  ByHand said = delay();
  said.fault = "wait: 5s";
  CHECK(told(said) == R"(inject:1:1: error: `wait` is no fault
  wait: 5s
  ^^^^
  what takes more than one fault is a plan for squall run
)");
  for (const char* fault : {"", "network", "[network]", "{}", "# nothing"}) {
    said.fault = fault;
    INFO(fault);
    CHECK(told(said).find("error: a fault is its kind and its fields\n") != std::string::npos);
  }
  said = delay();
  said.fault = "{network: {delay: 1ms}, for: 5s}";
  CHECK(told(said) == R"(--for:1:1: error: `for` is said with the fault already
  60s
  ^^^
  say it once
)");
}

TEST_CASE("nobody injects by hand what nothing would see, unless he says so") {
  ByHand said = delay();
  said.checks.clear();
  CHECK(told(said) ==
        R"(inject:1:1: error: no check: nothing would see what the fault does
  network: {delay: 200ms}
  ^
  add --check and --expect, or --plan with a plan that has checks, or say --unobserved
)");
  Given given;
  given.unobserved = true;
  CHECK(load_by_hand(said, given).plan.has_value());
}

TEST_CASE("bytes that are no text, unclosed quotes and labels without values are told") {
  ByHand said = delay();
  said.on = "a\x1b[31m=b";
  CHECK(
      told(said).starts_with("--on:1:1: error: control characters, or bytes that are not UTF-8\n"));
  for (const char* labels : {"=b", "a=", "a=b,", "a=b,c", "a=b,a=c"}) {
    said.on = labels;
    INFO(labels);
    CHECK(told(said).find("--on:1:") != std::string::npos);
    CHECK_FALSE(load_by_hand(said).plan.has_value());
  }
  said = delay();
  for (const char* fault :
       {"network: {delay: \"200ms}", "network: {delay: 1ms", "\xff\xfe: 1", "a: &a [*a]"}) {
    said.fault = fault;
    INFO(fault);
    CHECK_FALSE(load_by_hand(said).plan.has_value());
    said.plan_file = "/nonexistent";
    CHECK_FALSE(load_by_hand(said).plan.has_value());
    said.plan_file = "";
  }
  said = delay();
  said.checks = {{"exec", {}}};
  CHECK(told(said).find("--check:1:1: error: a check is its kind and its fields\n") !=
        std::string::npos);
}

}  // namespace
}  // namespace squall::plan
