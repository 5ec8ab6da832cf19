#include "controller/history/history.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <thread>

#include "controller/report/event_log.h"

namespace squall::history {
namespace {

namespace fs = std::filesystem;

/// A folder of its own, gone with the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "squall-history-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// What a log is made of.
struct Told {
  std::string id;
  std::string at = "2026-11-22T07:15:49.000000Z";
  std::string plan = "the shop survives";
  std::string file = "shop.yaml";
  std::vector<std::string> tags = {};
  std::optional<v1::Verdict> verdict = v1::HELD;
  std::string content = "{\"plan\": {\"plan\": \"the shop survives\"}}";
};

std::string first_line(const Told& told) {
  v1::Event event;
  event.set_at(told.at);
  v1::RunStarted& started = *event.mutable_run_started();
  started.set_run(told.id);
  started.set_plan(told.plan);
  started.set_file(told.file);
  started.mutable_tags()->Assign(told.tags.begin(), told.tags.end());
  return report::to_json_line(event) + "\n";
}

std::string last_line(const Told& told) {
  v1::Event event;
  event.set_at(told.at);
  event.set_elapsed(12.5);
  v1::RunEnded& ended = *event.mutable_run_ended();
  ended.set_verdict(*told.verdict);
  ended.set_exit_code(*told.verdict == v1::BREACHED ? 1 : 0);
  ended.set_sentence("a person may write \"run_ended\":{ too");
  ended.set_duration_ms(12500);
  if (*told.verdict == v1::BREACHED) ended.mutable_times()->set_to_abort_ms(3.5);
  return report::to_json_line(event) + "\n";
}

std::string asked_line() {
  v1::Event event;
  event.mutable_check_asked()->set_check("up");
  event.mutable_check_asked()->set_observed("\"run_ended\":{\"verdict\":\"HELD\"}");
  return report::to_json_line(event) + "\n";
}

std::string note_line(const std::string& text) {
  v1::Event event;
  event.mutable_noted()->set_text(text);
  return report::to_json_line(event) + "\n";
}

void append(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::app) << text;
}

void write_run(const fs::path& runs, const Told& told) {
  const fs::path folder = runs / told.id;
  fs::create_directories(folder);
  append(folder / "events.jsonl", first_line(told) + asked_line());
  if (told.verdict) append(folder / "events.jsonl", last_line(told));
  if (!told.content.empty()) append(folder / "plan.json", told.content);
}

History open(const fs::path& runs) {
  auto history = History::open(runs);
  REQUIRE_MESSAGE(history.ok(), message_of(history.status()));
  return *std::move(history);
}

std::vector<Run> all(History& history, const Filter& filter = {}) {
  auto found = history.runs(filter);
  REQUIRE_MESSAGE(found.ok(), message_of(found.status()));
  return *std::move(found);
}

std::vector<std::string> ids(const std::vector<Run>& runs) {
  std::vector<std::string> names;
  for (const Run& run : runs) names.push_back(run.id);
  return names;
}

using Ids = std::vector<std::string>;

}  // namespace

TEST_CASE("a run is read from its log's first line and its end") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "a", .tags = {"nightly", "db"}, .verdict = v1::BREACHED});
  const auto run = read_run(folder.path() / "a");
  REQUIRE(run.ok());
  CHECK(run->id == "a");
  CHECK(run->at == "2026-11-22T07:15:49.000000Z");
  CHECK(run->plan == "the shop survives");
  CHECK(run->file == "shop.yaml");
  CHECK(run->tags == std::vector<std::string>{"nightly", "db"});
  CHECK(run->verdict == v1::BREACHED);
  CHECK(run->exit_code == 1);
  CHECK(run->sentence == "a person may write \"run_ended\":{ too");
  CHECK(run->duration_ms == 12500);
  CHECK(run->to_abort_ms == 3.5);
  CHECK_FALSE(run->to_detect_ms);
  CHECK(run->digest.size() == 64);
}

TEST_CASE("the end of a run is found before whatever was noted after it, and across chunks") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "a"});
  const fs::path log = folder.path() / "a" / "events.jsonl";
  // Each length moves the line of the end over the border of what is read at once.
  for (int n = 0; n < 40; ++n) {
    append(log, note_line(std::string(4000 + 37 * static_cast<std::size_t>(n), 'x')));
    const auto run = read_run(folder.path() / "a");
    REQUIRE(run.ok());
    REQUIRE_MESSAGE(run->verdict == v1::HELD, n);
  }
}

TEST_CASE("a log without an end, a torn one and an empty one are runs without a verdict") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "20261122-071549-lost", .verdict = std::nullopt});
  write_run(folder.path(), {.id = "torn", .verdict = std::nullopt});
  const std::string end = last_line({.id = "torn"});
  append(folder.path() / "torn" / "events.jsonl", end.substr(0, end.size() / 2));
  fs::create_directories(folder.path() / "20261122-071550-none");
  append(folder.path() / "20261122-071550-none" / "events.jsonl", "");
  fs::create_directories(folder.path() / "garbage");
  append(folder.path() / "garbage" / "events.jsonl", std::string(200'000, '\x01'));
  fs::create_directories(folder.path() / "no-log");
  History history = open(folder.path());
  const auto runs = all(history);
  CHECK(runs.size() == 4);
  for (const Run& run : runs) CHECK_FALSE(run.verdict);
  CHECK(ids(all(history, {.without_end = true})).size() == 4);
  const auto empty = read_run(folder.path() / "20261122-071550-none");
  REQUIRE(empty.ok());
  CHECK(empty->at == "2026-11-22T07:15:50Z");
  CHECK(read_run(folder.path() / "no-log").status().code() == StatusCode::kNotFound);
}

TEST_CASE("runs are filtered by plan, verdict, day, tag and number, the latest first") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "a", .at = "2026-11-20T10:00:00.000000Z", .tags = {"nightly"}});
  write_run(folder.path(),
            {.id = "b", .at = "2026-11-21T10:00:00.000000Z", .verdict = v1::BREACHED});
  write_run(folder.path(), {.id = "c",
                            .at = "2026-11-22T10:00:00.000000Z",
                            .plan = "100% of the disk",
                            .file = "disk.yaml",
                            .tags = {"nightly", "db"}});
  History history = open(folder.path());
  CHECK(ids(all(history)) == Ids{"c", "b", "a"});
  CHECK(ids(all(history, {.plan = "SHOP"})) == Ids{"b", "a"});
  CHECK(ids(all(history, {.plan = "disk.y"})) == Ids{"c"});
  CHECK(ids(all(history, {.plan = "0%"})) == Ids{"c"});
  CHECK(ids(all(history, {.plan = "_"})) == Ids{});
  CHECK(ids(all(history, {.verdict = v1::BREACHED})) == Ids{"b"});
  CHECK(ids(all(history, {.since = "2026-11-21"})) == Ids{"c", "b"});
  CHECK(ids(all(history, {.tags = {"nightly"}})) == Ids{"c", "a"});
  CHECK(ids(all(history, {.tags = {"nightly", "db"}})) == Ids{"c"});
  CHECK(ids(all(history, {.tags = {"night"}})) == Ids{});
  CHECK(ids(all(history, {.limit = 2})) == Ids{"c", "b"});
  CHECK(ids(all(history, {.plan = "'; DROP TABLE run; --"})) == Ids{});
  CHECK(ids(all(history)).size() == 3);
}

TEST_CASE("a plan whose verdict changes though the plan does not is flaky") {
  const TemporaryFolder folder;
  auto add = [&, day = 10](const std::string& plan, std::optional<v1::Verdict> verdict,
                                 const std::string& content) mutable {
    write_run(folder.path(),
              {.id = fmt::format("run-{}", day),
               .at = fmt::format("2026-11-{}T10:00:00.000000Z", day),
               .plan = plan,
               .verdict = verdict,
               .content = fmt::format("{{\"plan\": {}, \"seed\": {}}}", content, day)});
    ++day;
  };
  add("flaky", v1::HELD, R"({"a": 1, "b": 2})");
  add("mended", v1::BREACHED, R"({"a": 1})");
  add("flaky", v1::BREACHED, R"({"b": 2, "a": 1})");  // the same plan, printed in another order
  add("mended", v1::HELD, R"({"a": 2})");
  add("flaky", std::nullopt, R"({"a": 1, "b": 2})");
  add("flaky", v1::INTERRUPTED, R"({"a": 1, "b": 2})");
  add("flaky", v1::BREACHED, R"({"a": 1, "b": 2})");
  add("flaky", v1::HELD, R"({"a": 1, "b": 2})");
  History history = open(folder.path());
  const auto records = by_plan(all(history));
  REQUIRE(records.size() == 2);
  CHECK(records[0].plan == "flaky");
  CHECK(records[0].runs == 6);
  CHECK(records[0].held == 2);
  CHECK(records[0].breached == 2);
  CHECK(records[0].flips == 2);
  CHECK(records[0].last.id == "run-17");
  CHECK(records[1].plan == "mended");
  CHECK(records[1].flips == 0);
}

TEST_CASE("an index that is damaged, empty, of another version or no database is made anew") {
  const TemporaryFolder folder;
  for (const char* id : {"a", "b", "c"}) write_run(folder.path(), {.id = id});
  const fs::path file = folder.path() / "index.sqlite";
  {
    History history = open(folder.path());
    REQUIRE(all(history).size() == 3);
  }
  REQUIRE(fs::exists(file));
  const auto size = fs::file_size(file);
  SUBCASE("no database") {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << std::string(5000, 'x');
  }
  SUBCASE("empty") { fs::resize_file(file, 0); }
  SUBCASE("cut short") { fs::resize_file(file, size / 2); }
  SUBCASE("a page of nothing") {
    std::fstream damage(file, std::ios::binary | std::ios::in | std::ios::out);
    damage.seekp(4096);
    damage << std::string(4096, '\xff');
  }
  SUBCASE("another version") {
    auto other = Database::open(file, std::chrono::seconds(1));
    REQUIRE(other.ok());
    REQUIRE(other->run("DROP TABLE run; CREATE TABLE run(x); PRAGMA user_version = 99").ok());
  }
  SUBCASE("gone") { fs::remove(file); }
  History history = open(folder.path());
  CHECK(history.why_not_kept().ok());
  CHECK(all(history).size() == 3);
  CHECK(fs::file_size(file) > 0);
}

TEST_CASE("where no index can be kept the logs are read all the same") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "a"});
  fs::create_directories(folder.path() / "index.sqlite" / "in-the-way");
  History history = open(folder.path());
  CHECK_FALSE(history.why_not_kept().ok());
  CHECK(ids(all(history)) == Ids{"a"});
  CHECK_FALSE(remember(folder.path() / "a").ok());
}

TEST_CASE("an index that is taken away while it is open is no loss") {
  const TemporaryFolder folder;
  write_run(folder.path(), {.id = "a"});
  History history = open(folder.path());
  for (const char* part : {"", "-wal", "-shm"}) {
    std::ofstream(folder.path() / ("index.sqlite" + std::string(part)),
                  std::ios::binary | std::ios::trunc)
        << "x";
  }
  CHECK(ids(all(history)) == Ids{"a"});
  History again = open(folder.path());
  CHECK(ids(all(again)) == Ids{"a"});
}

TEST_CASE("whatever happens to runs and index, the index says what the logs say") {
  std::mt19937 draw(20261123);
  const auto one_of = [&](std::size_t count) { return std::size_t{draw()} % count; };
  const TemporaryFolder folder;
  int next = 0;
  for (int step = 0; step < 120; ++step) {
    std::vector<fs::path> there;
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      if (entry.is_directory()) there.push_back(entry.path());
    }
    std::sort(there.begin(), there.end());
    const fs::path some = there.empty() ? fs::path() : there[one_of(there.size())];
    switch (there.empty() ? 0 : one_of(8)) {
      case 0:
      case 1:
      case 2: {
        Told told{.id = fmt::format("run-{:03}", next++)};
        told.plan = fmt::format("plan {}", one_of(3));
        told.at = fmt::format("2026-11-22T07:{:02}:00.000000Z", one_of(60));
        told.content = fmt::format("{{\"plan\": {}}}", one_of(3));
        told.verdict.reset();
        if (one_of(4) > 0) told.verdict = static_cast<v1::Verdict>(one_of(8));
        write_run(folder.path(), told);
        if (one_of(2) == 0) static_cast<void>(remember(folder.path() / told.id));
        break;
      }
      case 3:
        fs::remove_all(some);
        break;
      case 4:
        append(some / "events.jsonl", note_line("seen"));
        break;
      case 5: {  // it ends
        Told told{.id = some.filename()};
        told.verdict = static_cast<v1::Verdict>(one_of(8));
        append(some / "events.jsonl", last_line(told));
        break;
      }
      case 6:
        fs::remove(folder.path() / "index.sqlite");
        break;
      case 7:
        std::ofstream(folder.path() / "index.sqlite", std::ios::binary | std::ios::trunc)
            << std::string(one_of(9000), 'x');
        break;
    }
    std::map<std::string, Run> logs;
    for (const auto& entry : fs::directory_iterator(folder.path())) {
      if (auto run = read_run(entry.path()); run.ok()) logs[run->id] = *run;
    }
    History history = open(folder.path());
    if (one_of(10) == 0) REQUIRE(history.rebuild().ok());
    const std::vector<Run> indexed = all(history);
    REQUIRE(indexed.size() == logs.size());
    for (const Run& run : indexed) REQUIRE(run == logs[run.id]);
    REQUIRE(std::ranges::is_sorted(indexed, [](const Run& a, const Run& b) {
      return std::pair(a.at, a.id) > std::pair(b.at, b.id);
    }));
  }
}

TEST_CASE("runs that end at the same time, beside those who list them, all are in the index") {
  const TemporaryFolder folder;
  constexpr int kWriters = 4;
  constexpr int kEach = 25;
  std::vector<std::thread> threads;
  for (int writer = 0; writer < kWriters; ++writer) {
    threads.emplace_back([&, writer] {
      for (int n = 0; n < kEach; ++n) {
        const Told told{.id = fmt::format("w{}-{}", writer, n)};
        write_run(folder.path(), told);
        static_cast<void>(remember(folder.path() / told.id));
      }
    });
  }
  threads.emplace_back([&] {
    for (int n = 0; n < 10; ++n) {
      if (auto history = History::open(folder.path()); history.ok()) {
        static_cast<void>(history->rebuild());
      }
    }
  });
  for (std::thread& thread : threads) thread.join();
  History history = open(folder.path());
  CHECK(all(history).size() == kWriters * kEach);
  CHECK(history.why_not_kept().ok());
}

}  // namespace squall::history
