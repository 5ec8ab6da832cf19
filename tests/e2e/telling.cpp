/// \file
/// Runs of the real squall that tell others, and the history of them.
#include <doctest/doctest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/process.h"
#include "tests/unit/controller/notify/receiving.h"

using namespace squall;
using namespace squall::support;
using namespace std::chrono_literals;
using notify::testing::Manner;
using notify::testing::Receiving;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr Duration kBound = 60s;
const std::string kSecret = "correct-horse-battery-staple";

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A plan, a folder of runs, and the environment that squall has there.
class Place {
 public:
  Place() {
    std::ofstream(plan())
        << "plan: a short one\n"
           "tags: [told]\n"
           "nodes: {local: {}}\n"
           "steady_state:\n"
           "  - {name: up, exec: {run: [\"true\"]}, every: 200ms, expect: [exit == "
           "0]}\n"
           "method:\n"
           "  - {on: local, cpu: {load: 1%, cores: 1}, for: 500ms}\n"
           "recovery: {within: 10s}\n";
  }

  Process squall(const std::vector<std::string>& words,
                 std::vector<std::pair<std::string, std::string>> environment = {}) const {
    Command command;
    command.argv = {binary("squall")};
    command.argv.insert(command.argv.end(), words.begin(), words.end());
    command.environment = std::move(environment);
    command.environment.emplace_back("SQUALL_STATE_DIR", folder_.path() / "state");
    return Process(command);
  }

  std::string plan() const { return folder_.path() / "plan.yaml"; }
  fs::path runs() const { return folder_.path() / "state" / "runs"; }

  std::vector<fs::path> run_folders() const {
    std::vector<fs::path> folders;
    std::error_code none;
    for (const auto& entry : fs::directory_iterator(runs(), none)) {
      if (entry.is_directory()) folders.push_back(entry.path());
    }
    return folders;
  }

  /// Everything that runs left on disk.
  std::string kept() const {
    std::string all;
    for (const auto& entry : fs::recursive_directory_iterator(folder_.path() / "state")) {
      if (entry.is_regular_file()) all += text_of(entry.path());
    }
    return all;
  }

 private:
  TemporaryFolder folder_;
};

std::vector<std::string> events_told(const Receiving& server) {
  std::vector<std::string> words;
  for (const auto& asked : server.asked()) words.push_back(json::parse(asked.body)["event"]);
  return words;
}

}  // namespace

TEST_CASE(
    "a run tells its receivers, and no secret of theirs is in its log, its reports or its words") {
  const Place place;
  Receiving webhook, slack, grafana, collector;
  Process run =
      place.squall({"run", place.plan(), "--webhook", webhook.url() + "/" + kSecret, "--slack",
                    slack.url() + "/services/" + kSecret, "--grafana", grafana.url()},
                   {{"SQUALL_WEBHOOK_SECRET", kSecret + "1"},
                    {"SQUALL_GRAFANA_TOKEN", kSecret + "2"},
                    {"OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()},
                    {"OTEL_EXPORTER_OTLP_HEADERS", "api-key=" + kSecret + "3"}});
  const auto status = run.wait(kBound);
  INFO(run.out() << run.err());
  REQUIRE(status == 0);
  CHECK(events_told(webhook) == std::vector<std::string>{"run_started", "run_ended"});
  CHECK(webhook.asked().front().header("X-Squall-Signature").starts_with("sha256="));
  CHECK(slack.asked().size() == 2);
  CHECK(grafana.asked().size() == 2);
  CHECK(grafana.asked().front().header("Authorization") == "Bearer " + kSecret + "2");
  REQUIRE_FALSE(collector.asked().empty());
  CHECK(collector.asked().front().target == "/v1/traces");
  CHECK(collector.asked().front().header("api-key") == kSecret + "3");
  CHECK((run.out() + run.err()).find(kSecret) == std::string::npos);
  CHECK(place.kept().find(kSecret) == std::string::npos);
}

TEST_CASE("receivers that hang, fail or are gone delay no run and change no verdict") {
  const Place place;
  Receiving hanging([](std::size_t) { return Manner{.what = Manner::kHang}; });
  Receiving failing([](std::size_t) { return Manner{.status = 500}; });
  Receiving well;
  std::string gone;
  {
    const Receiving closed;
    gone = closed.url();
  }
  Process run = place.squall({"run", place.plan(), "--webhook", hanging.url(), "--webhook",
                              failing.url(), "--webhook", gone, "--webhook", well.url()});
  const auto status = run.wait(kBound);
  const auto left = std::chrono::system_clock::now();
  INFO(run.out() << run.err());
  REQUIRE(status == 0);
  CHECK(run.out().find("held (exit 0)") != std::string::npos);
  for (const Receiving* server : {&hanging, &failing}) {
    CHECK(run.err().find("squall: webhook " + server->url() +
                         ": 2 of 2 messages were not "
                         "delivered: ") != std::string::npos);
  }
  CHECK(run.err().find("squall: webhook " + gone +
                       ": 2 of 2 messages were not delivered: "
                       "connection refused") != std::string::npos);
  CHECK(events_told(well) == std::vector<std::string>{"run_started", "run_ended"});
  // From the log's last word to the end of the program: the last moment of two seconds, and what a
  // loaded machine needs to write reports and to end.
  const auto folders = place.run_folders();
  REQUIRE(folders.size() == 1);
  const auto written = fs::last_write_time(folders.front() / "events.jsonl");
  const auto ended = std::chrono::time_point_cast<std::chrono::milliseconds>(
      std::chrono::file_clock::to_sys(written));
  CHECK(left - ended < 12s);
}

TEST_CASE("where nobody can be told, nothing is started, and no secret is shown") {
  const Place place;
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{"--webhook", "ftp://h/" + kSecret},
       "squall: --webhook: a URL that begins with http:// or https:// is needed; nothing was "
       "started\n"},
      {{"--slack", kSecret},
       "squall: --slack: a URL that begins with http:// or https:// is needed; nothing was "
       "started\n"},
      {{"--grafana", "http://"},
       "squall: --grafana: a URL that begins with http:// or https:// is needed; nothing was "
       "started\n"},
      {{"--metrics", "9464"},
       "squall: --metrics: 9464: write 127.0.0.1:9464, [::1]:9464, localhost:9464 or unix:/path; "
       "nothing was started\n"},
  };
  for (const auto& [words, told] : wrong) {
    std::vector<std::string> argv = {"run", place.plan()};
    argv.insert(argv.end(), words.begin(), words.end());
    Process run = place.squall(argv);
    CHECK(run.wait(kBound) == 2);
    CHECK(run.err() == told);
  }
  CHECK(place.run_folders().empty());
}

TEST_CASE("what the environment says wrong of traces keeps no run from walking") {
  const Place place;
  Process run = place.squall({"run", place.plan()}, {{"OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere"}});
  CHECK(run.wait(kBound) == 0);
  CHECK(run.err().find("squall: no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT: a URL that begins "
                       "with http:// or https:// is needed\n") != std::string::npos);
}

TEST_CASE("squall runs lists what ran, what was lost, and how often a plan held") {
  const Place place;
  Process none = place.squall({"runs"});
  CHECK(none.wait(kBound) == 0);
  CHECK(none.err() == "squall: no such run in " + place.runs().string() + "\n");

  Process killed = place.squall({"run", place.plan()});
  REQUIRE(eventually(
      [&] {
        const auto folders = place.run_folders();
        return !folders.empty() &&
               text_of(folders.front() / "events.jsonl").find("fault_injecting") !=
                   std::string::npos;
      },
      kBound));
  killed.signal(SIGKILL);
  REQUIRE(killed.wait(kBound));
  for (int n = 0; n < 2; ++n) {
    Process run = place.squall({"run", place.plan()});
    REQUIRE(run.wait(kBound) == 0);
  }
  Process listing = place.squall({"runs", "-o", "json", "--tag", "told"});
  REQUIRE(listing.wait(kBound) == 0);
  const json listed = json::parse(listing.out())["runs"];
  REQUIRE(listed.size() == 3);
  CHECK(listed[0]["verdict"] == "held");
  CHECK(listed[0]["exit_code"] == 0);
  CHECK(listed[1]["verdict"] == "held");
  CHECK(listed[0]["plan_digest"] == listed[1]["plan_digest"]);
  CHECK(listed[2]["verdict"] == "lost");
  CHECK(listed[2]["exit_code"].is_null());

  const std::string first = listed[2]["run"];
  Process lost = place.squall({"runs", "--verdict", "lost"});
  CHECK(lost.wait(kBound) == 0);
  CHECK(lost.out().find(first) != std::string::npos);
  Process by_plan = place.squall({"runs", "--by", "plan", "--since", "1h"});
  CHECK(by_plan.wait(kBound) == 0);
  CHECK(by_plan.out().find("a short one  3     2     0         0") != std::string::npos);
  Process last = place.squall({"report", "last", "-o", "json"});
  REQUIRE(last.wait(kBound) == 0);
  CHECK(last.out().find(listed[0]["run"].get<std::string>()) != std::string::npos);
  const std::string beginning = first.substr(0, first.size() - 1);
  Process begun = place.squall({"report", beginning, "-o", "json"});
  REQUIRE(begun.wait(kBound) == 0);
  CHECK(begun.out().find(first) != std::string::npos);
  Process several = place.squall({"report", "2"});
  CHECK(several.wait(kBound) == 2);
  CHECK(
      several.err().starts_with("squall: 2 begins the ids of 3 runs; `squall runs` lists them\n"));
  Process wrong = place.squall({"runs", "--verdict", "great", "--since", "yesterday"});
  CHECK(wrong.wait(kBound) == 2);
  CHECK(wrong.err().starts_with("squall: --verdict: great is none; there are held, breached,"));
}
