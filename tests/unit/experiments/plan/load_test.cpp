#include "experiments/plan/load.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/util/message_differencer.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace squall::plan {
namespace {

constexpr const char* kGood = R"(# A plan as people write them.
plan: checkout survives a slow database                 # title, required
hypothesis: p99 stays under 300 ms and fewer than 1 % of orders fail while the database is slow
environment: staging
tags: [checkout, tier-1]

nodes:
  db-1: {address: 10.0.0.11:7411, labels: {role: db, zone: a, member: primary}}
  db-2: {address: 10.0.0.12:7411, labels: {role: db, zone: b, member: replica}}
  web-1: {address: 10.0.0.21:7411, labels: {role: web, zone: a}}

steady_state:
  - name: shop answers
    http: {url: "http://shop.staging/cart", headers: {X-Test: "1"}}
    timeout: 200ms
    expect: [status == 200, p99 < 300ms over 10s, error_rate < 1% over 10s]
    every: 200ms
  - name: queue drains
    exec: {run: [cat, /var/lib/queue/depth]}
    expect: [value <= 1.5 x baseline for 5s]
    on_breach: note
    no_data: ok

method:
  - name: database is slow
    on: {role: db, member: replica}
    pick: 1
    network: {delay: 200ms, jitter: 20ms, to: {ports: [5432, 8000-8010], cidrs: ["fe80::/10"]}}
    for: 60s
  - wait: 10s
  - parallel:
      - {on: {role: db}, pick: 50%, kill: {process: {name: postgres}, signal: term}}
      - {on: web-1, cpu: {load: 80%, cores: 2}, for: 30s}

lease: 10s
seed: 18446744073709551615
)";

v1::Plan good(const std::string& text, bool unobserved = false) {
  const Loaded loaded =
      load(text, "plan.yaml", {.set = {}, .params_files = {}, .unobserved = unobserved});
  REQUIRE_MESSAGE(loaded.plan.has_value(), format_diagnostics(loaded.diagnostics, false));
  return *loaded.plan;
}

std::string told(const std::string& text) {
  const Loaded loaded = load(text, "plan.yaml");
  CHECK_FALSE(loaded.plan.has_value());
  return format_diagnostics(loaded.diagnostics, false);
}

/// A folder that is gone with the test.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "squall-plan-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

TEST_CASE("a plan is loaded as it is written") {
  const v1::Plan plan = good(kGood);
  CHECK(plan.plan() == "checkout survives a slow database");
  CHECK(plan.environment() == "staging");
  CHECK(plan.tags_size() == 2);
  CHECK(plan.nodes().at("db-2").address() == "10.0.0.12:7411");
  CHECK(plan.nodes().at("db-2").labels().at("member") == "replica");
  CHECK(plan.seed() == 18446744073709551615U);
  CHECK(plan.lease() == 10'000'000'000);

  const v1::Check& shop = plan.steady_state(0);
  CHECK(shop.http().url() == "http://shop.staging/cart");
  CHECK(shop.http().headers().at("X-Test") == "1");
  CHECK(shop.every() == 200'000'000);
  CHECK(shop.expect(1).text() == "p99 < 300ms over 10s");
  CHECK(shop.expect(1).metric() == "p99");
  CHECK(shop.expect(1).op() == v1::LESS);
  CHECK(shop.expect(1).values(0).number() == 300e6);
  CHECK(shop.expect(1).values(0).unit() == v1::DURATION);
  CHECK(shop.expect(1).over() == 10'000'000'000);
  const v1::Check& queue = plan.steady_state(1);
  CHECK(queue.exec().run(1) == "/var/lib/queue/depth");
  CHECK(queue.on_breach() == v1::NOTE);
  CHECK(queue.no_data() == v1::OK);
  CHECK(queue.expect(0).values(0).times_baseline());
  CHECK(queue.expect(0).for_() == 5'000'000'000);

  const v1::Step& slow = plan.method(0);
  CHECK(slow.name() == "database is slow");
  CHECK(slow.on().labels().at("member") == "replica");
  CHECK(slow.pick().count() == 1);
  CHECK(slow.fault().for_() == 60'000'000'000);
  CHECK(slow.fault().network().delay() == 200'000'000);
  CHECK(slow.fault().network().jitter() == 20'000'000);
  CHECK_FALSE(slow.fault().network().has_loss());
  CHECK(slow.fault().network().to().ports(1).last() == 8010);
  CHECK(slow.fault().network().to().cidrs(0).prefix() == 10);
  CHECK(slow.fault().network().to().cidrs(0).address().size() == 16);
  CHECK(slow.fault().id().empty());
  CHECK(plan.method(1).wait() == 10'000'000'000);
  const auto& together = plan.method(2).parallel().steps();
  CHECK(together[0].pick().percent() == 50);
  CHECK(together[0].fault().kill().process().name() == "postgres");
  CHECK(together[0].fault().kill().signal() == v1::SIGNAL_TERM);
  CHECK(together[1].on().node() == "web-1");
  CHECK(together[1].fault().cpu().load() == 80);
  CHECK(together[1].fault().cpu().cores() == 2);
}

TEST_CASE("what a plan is silent about is filled in") {
  const v1::Plan plan = good(R"(plan: t
nodes:
  local:
steady_state:
  - name: up
    http: {url: "http://127.0.0.1/"}
    expect: [status == 200]
  - name: fast
    tcp: {address: "h:1"}
    expect: [state == open]
    every: 20ms
method:
  - network: {loss: 1%}
    for: 1s
  - kill: {process: {port: 80}}
)");
  CHECK(plan.lease() == 5'000'000'000);
  CHECK(plan.recovery().within() == 30'000'000'000);
  CHECK_FALSE(plan.has_seed());
  CHECK(plan.nodes().at("local").address().empty());
  CHECK(plan.steady_state(0).every() == 1'000'000'000);
  CHECK(plan.steady_state(0).timeout() == 1'000'000'000);
  CHECK(plan.steady_state(1).timeout() == 20'000'000);
  CHECK(plan.steady_state(0).http().method() == "GET");
  CHECK(plan.method(0).fault().network().direction() == v1::EGRESS);
  CHECK(plan.method(0).fault().network().engine() == v1::AUTO);
  CHECK_FALSE(plan.method(0).fault().network().has_to());
  // The only node there is need not be named.
  CHECK(plan.method(0).on().node() == "local");
  CHECK(plan.method(1).on().node() == "local");
}

TEST_CASE("a plan without checks runs only unobserved") {
  const char* text = "plan: t\nnodes: {local: {}}\nmethod: [{wait: 1s}]\n";
  CHECK(good(text, true).steady_state_size() == 0);
  CHECK(told(text).find("--unobserved") != std::string::npos);
}

TEST_CASE("every way of choosing nodes is read") {
  const std::string begin =
      "plan: t\nnodes: {a: {address: \"h:1\", labels: {r: x}}, b: {address: \"h:2\"}}\nmethod:\n";
  const auto step = [&](const std::string& where) {
    return good(begin + "  - {" + where + ", kill: {process: {name: x}}}\n", true).method(0);
  };
  CHECK(step("on: all").on().all());
  CHECK(step("on: {all: true}").on().all());
  CHECK(step("on: a").on().node() == "a");
  CHECK(step("on: {r: x}").on().labels().at("r") == "x");
  CHECK(step("on: all, pick: all").pick().all());
  CHECK(step("on: all, pick: 2").pick().count() == 2);
  CHECK(step("on: all, pick: 50%").pick().percent() == 50);
  CHECK(step("on: all, pick: minority").pick().minority());
  CHECK(step("on: all, pick: majority").pick().majority());
}

TEST_CASE("words that YAML 1.1 took for truth are words") {
  const v1::Plan plan = good(
      "plan: yes\nnodes: {on: {address: \"h:1\", labels: {off: no}}}\nmethod:\n"
      "  - {on: on, kill: {process: {name: y}}}\n",
      true);
  CHECK(plan.plan() == "yes");
  CHECK(plan.method(0).on().node() == "on");
  CHECK(plan.nodes().at("on").labels().at("off") == "no");
  CHECK(plan.method(0).fault().kill().process().name() == "y");
}

TEST_CASE("an alias stands for what it repeats") {
  const v1::Plan plan = good(
      "plan: t\nnodes: {local: {}}\nmethod:\n"
      "  - &slow {network: &net {delay: 1ms}, for: 1s}\n  - *slow\n  - {network: *net, for: 2s}\n",
      true);
  CHECK(plan.method(1).fault().network().delay() == 1'000'000);
  CHECK(plan.method(2).fault().network().delay() == 1'000'000);
  CHECK(plan.method(2).fault().for_() == 2'000'000'000);
}

TEST_CASE("a byte order mark and Windows line ends do no harm") {
  const v1::Plan plan =
      good("\xEF\xBB\xBFplan: t\r\nnodes: {local: {}}\r\nmethod: [{wait: 1s}]\r\n", true);
  CHECK(plan.plan() == "t");
  CHECK(told("\xEF\xBB\xBFplan: t\r\nnode: {}\r\n")
            .find("plan.yaml:2:1: error: unknown key \"node\"\n  node: {}\n  ^^^^\n") !=
        std::string::npos);
}

TEST_CASE("texts with nothing in them are empty plans") {
  const std::string empty =
      "plan.yaml: error: the plan is empty\n  begin with `plan:` and its title\n";
  CHECK(told("") == empty);
  CHECK(told("# only a comment\n") == empty);
  CHECK(told("~\n") == empty);
  CHECK(told("---\n") == empty);
  CHECK(told("{}\n").find("the plan needs `plan`") != std::string::npos);
}

TEST_CASE("bytes that are no text are told and shown escaped") {
  CHECK(told(std::string("plan: a\0b\n", 10)) ==
        "plan.yaml:1:8: error: the byte 0x00 cannot stand in a plan\n  plan: a\\x00b\n         "
        "^^^^\n");
  CHECK(told("plan: caf\xe9\n") ==
        "plan.yaml:1:10: error: the byte 0xe9 is not UTF-8\n  plan: caf\\xe9\n           ^^^^\n"
        "  save the file as UTF-8\n");
  CHECK(told("plan: \x1b[31m\n").find("0x1b") != std::string::npos);
  CHECK(told("plan: \"a\\0b\"\n").find("the control character \\x00 cannot stand here") !=
        std::string::npos);
  CHECK(told("plan: \"\\e[31m\"\n").find("the control character \\x1b cannot stand here") !=
        std::string::npos);
}

TEST_CASE("more than 1 MiB is no plan") {
  CHECK(told(std::string((1 << 20) + 1, '#')) ==
        "plan.yaml: error: 1048577 bytes are too many\n  a plan has at most 1 MiB\n");
}

TEST_CASE("no depth and no alias takes more than a moment") {
  const auto begin = std::chrono::steady_clock::now();
  const std::string deep = "nested more than 64 levels deep";
  CHECK(told("plan: " + std::string(100'000, '[')).find(deep) != std::string::npos);
  std::string dashes;
  for (int i = 0; i < 100'000; ++i) dashes += "- ";
  CHECK(told(dashes).find(deep) != std::string::npos);
  std::string indented;
  for (std::size_t i = 0; i < 500; ++i) indented += std::string(i, ' ') + "a:\n";
  CHECK(told(indented).find(deep) != std::string::npos);

  std::string bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n";
  for (int i = 1; i < 20; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int j = 0; j < 9; ++j) bomb += "," + last;
    bomb += "]\n";
  }
  CHECK(told(bomb).find("the aliases repeat too much") != std::string::npos);

  std::string tower = "a0: &a0 [x]\n";
  for (int i = 1; i < 100; ++i) {
    tower += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [*a" + std::to_string(i - 1) +
             "]\n";
  }
  CHECK(told(tower).find(deep) != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - begin < std::chrono::seconds(20));
}

TEST_CASE("aliases of steps count as steps") {
  std::string text = "plan: t\nnodes: {local: {}}\nmethod:\n  - parallel: &a [";
  for (int i = 0; i < 101; ++i) text += "{wait: 1s},";
  text += "]\n";
  for (int i = 0; i < 100; ++i) text += "  - parallel: *a\n";
  CHECK(
      format_diagnostics(
          load(text, "plan.yaml", {.set = {}, .params_files = {}, .unobserved = true}).diagnostics,
          false) ==
      "plan.yaml:3:1: error: more than 10000 steps\n  method:\n  ^^^^^^\n"
      "  those of a `repeat` count as often as they are walked, and each turn of a `pulse`\n");
}

TEST_CASE("a plan has at most 10000 expectations in all of its checks") {
  const auto with_expectations = [](int each) {
    std::string text = "plan: t\nnodes: {local: {}}\nmethod: [{wait: 1s}]\nsteady_state:\n";
    for (const char* name : {"a", "b"}) {
      text += fmt::format("  - name: {}\n    tcp: {{address: \"h:1\"}}\n    expect: [", name);
      for (int n = 0; n < each; ++n) text += "state == open, ";
      text += "]\n";
    }
    return format_diagnostics(load(text, "plan.yaml").diagnostics, false);
  };
  CHECK(with_expectations(5000).empty());
  CHECK(
      with_expectations(5001).starts_with("plan.yaml:10:5: error: more than 10000 expectations\n"));
}

TEST_CASE("a file that is no plain file is a diagnostic") {
  const Folder folder;
  const auto first = [](const std::string& path) {
    const Loaded loaded = load_file(path);
    CHECK_FALSE(loaded.plan.has_value());
    REQUIRE(loaded.diagnostics.found.size() == 1);
    CHECK(loaded.diagnostics.file == path);
    return loaded.diagnostics.found[0].summary;
  };
  CHECK(first(folder.file("missing.yaml")) == "No such file or directory");
  CHECK(first(folder.file("")) == "is a directory");
  CHECK(first("/dev/zero") == "is not a file");
  REQUIRE(mkfifo(folder.file("fifo").c_str(), 0600) == 0);
  CHECK(first(folder.file("fifo")) == "is not a file");
  std::ofstream(folder.file("large.yaml")) << std::string((1 << 20) + 1, '#');
  CHECK(first(folder.file("large.yaml")) == "is larger than 1 MiB");
}

TEST_CASE("a plan's file is loaded") {
  const Folder folder;
  std::ofstream(folder.file("plan.yaml")) << kGood;
  const Loaded loaded = load_file(folder.file("plan.yaml"));
  REQUIRE(loaded.plan.has_value());
  CHECK(google::protobuf::util::MessageDifferencer::Equals(*loaded.plan, good(kGood)));
}

TEST_CASE("what a plan loads to keeps the bounds of the wire") {
  const v1::Plan plan = good(kGood);
  CHECK(check_bounds(plan.method(0).fault()) == ok());
  CHECK(check_bounds(plan.steady_state(0)) == ok());
  CHECK(check_bounds(plan) == ok());
}

}  // namespace
}  // namespace squall::plan
