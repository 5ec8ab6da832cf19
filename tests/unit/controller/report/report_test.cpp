#include <doctest/doctest.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

#include "controller/report/compare.h"
#include "controller/report/event_log.h"
#include "controller/report/event_reader.h"
#include "controller/report/figures.h"
#include "controller/report/github.h"
#include "controller/report/markup.h"
#include "controller/report/picture.h"
#include "controller/report/reports.h"
#include "controller/report/screen.h"
#include "controller/report/story.h"
#include "controller/report/text.h"
#include "told_runs.h"

namespace squall::report {
namespace {

using namespace testing;
namespace fs = std::filesystem;

constexpr std::array kRuns = {"held",    "breached", "residue", "not_steady",
                              "refused", "gameday",  "nasty"};
constexpr Style kPlainStyle{.utf8 = true, .width = 100};

/// A folder of its own, gone with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "squall-report-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Compares with a file of tests/unit/controller/report/golden; SQUALL_WRITE_GOLDEN=1 writes it
/// instead, to be looked at.
void check_golden(const std::string& name, const std::string& text) {
  const fs::path path = fs::path(SQUALL_GOLDEN_DIR) / name;
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  INFO(name);
  CHECK(text_of(path) == text);
}

std::string lines_of(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::vector<v1::Event> first_seconds(std::vector<v1::Event> events, double seconds) {
  std::erase_if(events, [&](const v1::Event& event) { return event.elapsed() > seconds; });
  return events;
}

/// Well-formed XML with every element closed, read by hand, so that the test needs no program.
std::string xml_fault(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < xml.size();) {
    const auto byte = static_cast<unsigned char>(xml[at]);
    if (byte < 0x20 && byte != '\n' && byte != '\t') return "control character";
    if (xml[at] == '&') {
      const std::string_view rest = std::string_view(xml).substr(at);
      const auto known = {"&amp;", "&lt;", "&gt;", "&quot;", "&#10;"};
      if (std::ranges::none_of(known, [&](const char* one) { return rest.starts_with(one); }))
        return "bare &";
    }
    if (xml[at] != '<') {
      ++at;
      continue;
    }
    const std::size_t end = xml.find('>', at);
    if (end == std::string::npos) return "no end of tag";
    const std::string tag = xml.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.find('<') != std::string::npos) return "< in a tag";
    if (std::ranges::count(tag, '"') % 2 != 0) return "open quote in " + tag;
    if (tag.starts_with("?") || tag.starts_with("!DOCTYPE")) continue;
    const std::string name = tag.substr(
        tag.starts_with("/") ? 1 : 0, tag.find_first_of(" /", 1) - (tag.starts_with("/") ? 1 : 0));
    if (tag.starts_with("/")) {
      if (open.empty() || open.back() != name) return "closes " + name;
      open.pop_back();
    } else if (!tag.ends_with("/")) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

std::size_t occurrences(const std::string& text, const std::string& what) {
  std::size_t count = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST_CASE("the reports of a run are what they were") {
  for (const std::string name : kRuns) {
    const auto events = run_named(name);
    check_golden(name + ".txt",
                 text_report(Story(events), kPlainStyle,
                             {{"log", "runs/1/events.jsonl"}, {"json", "runs/1/report.json"}}));
    check_golden(name + ".json", json_report(Story(events)));
    check_golden(name + ".xml", junit_report(Story(events)));
    check_golden(name + ".html", html_report(Story(events)));
    check_golden(name + ".md", markdown_report(Story(events)));
    check_golden(name + ".github", github_report(Story(events)));
  }
}

TEST_CASE("an event log keeps every event, and reads back the same") {
  const Folder folder;
  for (const std::string name : kRuns) {
    auto log = EventLog::create(folder.path / name);
    REQUIRE(log.ok());
    const auto events = run_named(name);
    for (const v1::Event& event : events) (*log)->write(event);
    CHECK((*log)->flush().ok());
    const auto read = read_events((*log)->path());
    REQUIRE(read.ok());
    REQUIRE(read->size() == events.size());
    for (std::size_t index = 0; index < events.size(); ++index) {
      v1::Event expected = events[index];
      expected.set_at((*read)[index].at());
      expected.set_elapsed((*read)[index].elapsed());
      if (name != "nasty")
        CHECK((*read)[index].SerializeAsString() == expected.SerializeAsString());
    }
  }
}

TEST_CASE("an event is stamped with the time of day and the time since the first") {
  const Folder folder;
  auto log = EventLog::create(folder.path);
  REQUIRE(log.ok());
  (*log)->write({});
  (*log)->write({});
  REQUIRE((*log)->flush().ok());
  const auto events = read_events((*log)->path());
  REQUIRE(events.ok());
  REQUIRE(events->size() == 2);
  CHECK((*events)[0].elapsed() == 0);
  CHECK((*events)[1].elapsed() > 0);
  CHECK((*events)[1].elapsed() < 60);
  const std::string& at = (*events)[0].at();
  CHECK(at.size() == std::string("2026-11-22T07:15:49.123456Z").size());
  CHECK(at[10] == 'T');
  CHECK(at.back() == 'Z');
  CHECK((*events)[1].at() >= at);
}

TEST_CASE("a line of the log reads without the contract beside it") {
  v1::Event event;
  event.set_at("2026-11-22T07:15:49.000001Z");
  event.set_elapsed(1.5);
  v1::FaultActed& acted = *event.mutable_fault_evidence();
  acted.set_fault("aaaaaaaaaaaa");
  acted.mutable_evidence()->mutable_network()->set_matched_bytes(1ULL << 60);
  CHECK(
      to_json_line(event) ==
      R"({"at":"2026-11-22T07:15:49.000001Z","elapsed":1.5,"fault_evidence":{"fault":"aaaaaaaaaaaa","evidence":)"
      R"({"effect":false,"network":{"engine":"AUTO","matched_packets":0,"matched_bytes":1152921504606846976,)"
      R"("dropped_packets":0,"overflow_packets":0,"marked_packets":0,"duplicated_packets":0,)"
      R"("corrupted_packets":0,"reordered_packets":0}},"took_ms":0.0}})");
  const auto read = from_json_line(to_json_line(event));
  REQUIRE(read.ok());
  CHECK(read->SerializeAsString() == event.SerializeAsString());
}

TEST_CASE("a log that was torn by a crash is read up to there") {
  const Folder folder;
  const fs::path path = folder.path / "events.jsonl";
  const std::string line = to_json_line(held_run().front());
  for (std::size_t length = 0; length <= line.size(); ++length) {
    std::ofstream(path, std::ios::binary) << line << "\n" << line.substr(0, length);
    const auto events = read_events(path);
    REQUIRE(events.ok());
    CHECK(events->size() == (length == line.size() ? 2 : 1));
  }
  std::ofstream(path, std::ios::binary) << line << "\n"
                                        << line.substr(0, 20) << "\n"
                                        << line << "\n";
  const auto events = read_events(path);
  CHECK(events.status().code() == StatusCode::kDataLoss);
  CHECK(message_of(events.status()) == path.string() + ": line 2: not an event");
  CHECK(read_events(folder.path / "none").status().code() == StatusCode::kNotFound);
}

TEST_CASE("a log of a later version is still read") {
  const auto event =
      from_json_line(R"({"at":"x","moon":1,"run_ended":{"verdict":"HELD","phase_of_moon":3}})");
  REQUIRE(event.ok());
  CHECK(event->has_run_ended());
}

TEST_CASE("a second log is never written over the first") {
  const Folder folder;
  REQUIRE(EventLog::create(folder.path).ok());
  CHECK(EventLog::create(folder.path).status().code() == StatusCode::kAlreadyExists);
}

TEST_CASE("a log that cannot be written stops no sink, and says so") {
  struct Counter : Sink {
    void on(const v1::Event&) override { ++events; }
    int events = 0;
  } counter;
  const Folder folder;
  auto log = EventLog::create(folder.path);
  REQUIRE(log.ok());
  (*log)->tell(counter);
  (*log)->write({});
  CHECK((*log)->flush().ok());
  // The log's own descriptor becomes one that takes nothing, as on a full disk.
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code failed;
    if (fs::read_symlink(entry.path(), failed) != (*log)->path()) continue;
    const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    REQUIRE(full >= 0);
    REQUIRE(dup2(full, std::stoi(entry.path().filename().string())) >= 0);
    close(full);
    break;
  }
  (*log)->write({});
  CHECK((*log)->flush().code() == StatusCode::kResourceExhausted);
  CHECK(counter.events == 2);
}

TEST_CASE("the JSON report names the four times of an abort, and has Chaos Toolkit's keys") {
  const auto json = nlohmann::json::parse(json_report(Story(breached_run())));
  for (const char* key : {"experiment", "status", "deviated", "start", "end", "duration",
                          "steady_states", "run", "rollbacks", "squall"}) {
    CHECK(json.contains(key));
  }
  CHECK(json["deviated"] == true);
  CHECK(json["status"] == "failed");
  CHECK(json["steady_states"]["before"]["steady_state_met"] == true);
  CHECK(json["steady_states"]["during"][0]["steady_state_met"] == false);
  CHECK(json["steady_states"]["after"]["steady_state_met"] == true);
  const auto& abort = json["squall"]["abort"];
  CHECK(abort["breach_seen_ms"] == 0);
  CHECK(abort["decided_ms"] == 1.2);
  CHECK(abort["effect_ended_ms"] == 8);
  CHECK(abort["verified_clean_ms"] == 340);
  CHECK(json["squall"]["verdict"] == "breached");
  CHECK(json["squall"]["exit_code"] == 1);
  CHECK(json["squall"]["faults"][0]["evidence"]["network"]["matched_packets"] == 412);
}

TEST_CASE("a time that was never reached is null, not zero") {
  const auto json = nlohmann::json::parse(json_report(Story(residue_run())));
  CHECK(json["squall"]["abort"]["verified_clean_ms"].is_null());
  CHECK(text_report(Story(residue_run()), kPlainStyle).find("verified clean unproven") !=
        std::string::npos);
}

TEST_CASE("a run whose log ends without a verdict is told as lost, and never as completed") {
  auto events = held_run();
  events.pop_back();
  const auto json = nlohmann::json::parse(json_report(Story(events)));
  CHECK(json["status"] == "aborted");
  CHECK(json["squall"]["verdict"] == "lost");
  CHECK(json["squall"]["exit_code"].is_null());
  CHECK(text_report(Story(events), kPlainStyle).find("✗ lost: the log ends without a verdict") !=
        std::string::npos);
  CHECK(occurrences(junit_report(Story(events)), "<error ") == 1);
}

TEST_CASE("no report needs the whole of a log") {
  for (const std::string name : kRuns) {
    auto events = run_named(name);
    while (!events.empty()) {
      events.pop_back();
      CHECK(nlohmann::json::accept(json_report(Story(events))));
      CHECK(xml_fault(junit_report(Story(events))) == "");
      CHECK(xml_fault(html_report(Story(events))) == "");
      CHECK_FALSE(markdown_report(Story(events)).empty());
      CHECK_FALSE(github_report(Story(events)).empty());
      CHECK_FALSE(text_report(Story(events), kPlainStyle).empty());
      CHECK_FALSE(picture(Story(events), 1, kPlainStyle).empty());
    }
    // Nor its beginning.
    events = run_named(name);
    events.erase(events.begin());
    CHECK(nlohmann::json::accept(json_report(Story(events))));
    CHECK(xml_fault(junit_report(Story(events))) == "");
    CHECK(xml_fault(html_report(Story(events))) == "");
  }
}

TEST_CASE("the first line of every report is the sentence that says what the run came to") {
  const Story story(breached_run());
  const std::string sentence = story.sentence();
  const auto first_line = [](const std::string& text) { return text.substr(0, text.find('\n')); };
  CHECK(first_line(text_report(story, {.utf8 = true, .width = 400})) ==
        "  ✗ breached (exit 1): " + sentence);
  CHECK(first_line(markdown_report(story)) == "**✗ breached (exit 1):** " + markdown(sentence));
  CHECK(first_line(github_report(story)).ends_with("::" + sentence));
  CHECK(json_report(story).starts_with("{\n  \"sentence\": \"" + sentence));
  const std::string html = html_report(story);
  CHECK(html.substr(html.find("<main>\n") + 7).starts_with("<p class=\"verdict bad\">"));
  const std::string junit = junit_report(story);
  CHECK(junit.substr(junit.find("<property "))
            .starts_with("<property name=\"sentence\" value=\"" + xml(sentence)));
}

TEST_CASE("the page of a run is well-formed, and fetches nothing from anywhere") {
  for (const std::string name : kRuns) {
    const std::string html = html_report(Story(run_named(name)));
    INFO(name);
    CHECK(xml_fault(html) == "");
    for (const char* outside : {"http:", "https:", "src=", "url(", "@import", "<script", "<iframe"})
      CHECK(html.find(outside) == std::string::npos);
    CHECK(occurrences(html, "href=") == 1);
    CHECK(html.find("<link rel=\"icon\" href=\"data:,\"/>") != std::string::npos);
    CHECK(html.find("content=\"default-src 'none';") != std::string::npos);
  }
}

TEST_CASE("the page of a run that is long and wide stays small, and shows what broke first") {
  Story story;
  v1::Event event;
  v1::RunStarted& run = *event.mutable_run_started();
  constexpr int kChecks = 1000;
  for (int n = 0; n < kChecks; ++n) {
    auto& line = *run.add_checks();
    line.set_name(fmt::format("check {}", n));
    line.add_expect("p99 < 300ms over 10s");
  }
  story.take(event);
  event.mutable_phase_started()->set_phase(v1::METHOD);
  story.take(event);
  for (int n = 0; n < 3000; ++n) {
    event.set_elapsed(n);
    v1::FaultInjecting& injecting = *event.mutable_fault_injecting();
    injecting.set_fault(fmt::format("fault {}", n));
    injecting.set_node(fmt::format("node {}", n % 100));
    injecting.set_words("network delay 300ms egress");
    injecting.set_lasts_ms(1000);
    story.take(event);
    event.mutable_fault_applied()->set_fault(fmt::format("fault {}", n));
    story.take(event);
  }
  for (int round = 0; round < 200; ++round) {
    event.set_elapsed(3000 + round);
    for (int n = 0; n < kChecks; ++n) {
      v1::CheckAsked& asked = *event.mutable_check_asked();
      asked.set_check(fmt::format("check {}", n));
      asked.set_answered(true);
      asked.set_holds(true);
      asked.set_latency_ms(round);
      asked.clear_findings();
      v1::CheckAsked::Finding& finding = *asked.add_findings();
      finding.set_observed("p99 3ms");
      finding.set_holds(true);
      finding.set_number(round % 7);
      story.take(event);
    }
  }
  event.mutable_check_breached()->set_check("check 999");
  event.mutable_check_breached()->set_aborts(true);
  story.take(event);
  const std::string html = html_report(story);
  CHECK(html.size() < 1024 * 1024);
  CHECK(markdown_report(story).size() < 256 * 1024);
  CHECK(html.find("<td><strong>check 999</strong>") != std::string::npos);
  CHECK(html.find("750 more checks are in the JSON report.") != std::string::npos);
}

TEST_CASE("percentiles are exact at first, then to within a hundredth") {
  Percentiles few;
  CHECK_FALSE(few.at(50).has_value());
  for (const double number : {5.0, 1.0, 4.0, 2.0, 3.0}) few.add(number);
  CHECK(few.at(50) == 3);
  CHECK(few.at(0) == 1);
  CHECK(few.at(100) == 5);
  few.add(std::numeric_limits<double>::quiet_NaN());
  CHECK(few.count() == 5);

  Percentiles many;
  std::vector<double> all;
  // From a microsecond to minutes, unevenly.
  for (int n = 0; n < 20000; ++n) {
    const double number = std::exp2((n * 7919 % 20000) / 740.0) / 1000;
    all.push_back(number);
    many.add(number);
  }
  std::ranges::sort(all);
  for (const double percent : {0.1, 1.0, 50.0, 90.0, 99.0, 99.9}) {
    const double exact = all[static_cast<std::size_t>(std::ceil(percent / 100 * 20000)) - 1];
    CHECK(many.at(percent).value() == doctest::Approx(exact).epsilon(0.01));
  }
  CHECK(many.at(100) == all.back());
}

TEST_CASE("a curve keeps every peak, however long a run lasts") {
  Curve curve;
  constexpr int kAskings = 100000;
  for (int n = 0; n < kAskings; ++n) {
    const double number = n == 12345 ? 900 : n == 77777 ? -3 : 10;
    curve.add(n * 0.25, n == 500 ? std::nullopt : std::optional(number), n != 12345);
  }
  CHECK(curve.stretches().size() <= Curve::kStretches);
  CHECK(curve.stretches().size() > Curve::kStretches / 4);
  double most = 0;
  double least = 0;
  std::size_t gaps = 0;
  std::size_t broken = 0;
  for (const Curve::Stretch& one : curve.stretches()) {
    most = std::max(most, one.most->number);
    least = std::min(least, one.least->number);
    gaps += one.gap ? 1 : 0;
    broken += one.holds ? 0 : 1;
    CHECK(one.from <= one.to);
  }
  CHECK(most == 900);
  CHECK(least == -3);
  CHECK(gaps == 1);
  CHECK(broken == 1);
  // A clock that jumps is a mistake of the log, and no reason to end.
  curve.add(1e300, 1, true);
  curve.add(std::numeric_limits<double>::infinity(), 1, true);
  curve.add(-5, 1, true);
  CHECK(curve.stretches().size() <= Curve::kStretches);
}

TEST_CASE("what is no line of a log is told as none") {
  for (const char* line : {"",
                           "{",
                           "[]",
                           "null",
                           "{}x",
                           "{\"at\":1}",
                           "{\"elapsed\":\"1\"}",
                           "{\"elapsed\":inf}",
                           "{\"elapsed\":-inf}",
                           "{\"elapsed\":1,}",
                           "{\"elapsed\":01}",
                           "{\"elapsed\":1.}",
                           "{\"elapsed\":1.e5}",
                           "{\"elapsed\":.5}",
                           "{\"elapsed\":+1}",
                           "{\"elapsed\":1e}",
                           "{\"at\":\"\x01\"}",
                           "{\"at\":\"\\ud800\"}",
                           "{\"at\":\"\\u12\"}",
                           "{\"at\":\"\\x\"}",
                           "{\"at\":\"\xff\"}",
                           "{\"moon\":}",
                           "{\"run_started\":{\"seed\":-1}}",
                           "{\"run_started\":{\"nodes\":\"a\"}}",
                           "{\"run_ended\":{\"verdict\":HELD}}"}) {
    INFO(line);
    CHECK_FALSE(from_json_line(line).ok());
  }
  CHECK_FALSE(from_json_line("{\"moon\":" + std::string(100000, '[')).ok());
}

TEST_CASE("a line that is damaged at random is read as JSON has it, or not at all") {
  std::mt19937 random(7);
  const auto below = [&](std::size_t bound) { return random() % bound; };
  EventReader reader;
  v1::Event event;
  std::size_t taken = 0;
  std::vector<std::string> lines;
  for (const char* name : {"breached", "gameday", "nasty"}) {
    for (const v1::Event& one : run_named(name)) lines.push_back(to_json_line(one));
  }
  constexpr std::string_view kBytes = "\"\\{}[]:,0123456789.eE+-truefalsn u\xc3\xa9\xff\x01";
  for (int round = 0; round < 20000; ++round) {
    std::string line = lines[below(lines.size())];
    for (std::size_t n = below(3) + 1; n > 0; --n) {
      const std::size_t at = below(line.size());
      const std::size_t kind = below(4);
      if (kind == 0) line[at] = kBytes[below(kBytes.size())];
      if (kind == 1) line.insert(at, 1, kBytes[below(kBytes.size())]);
      if (kind == 2) line.erase(at, below(4) + 1);
      if (kind == 3) line.insert(at, line.substr(below(line.size()), below(20)));
      if (line.empty()) line = "x";
    }
    if (!reader.read(line, event)) continue;
    ++taken;
    INFO(line);
    CHECK(nlohmann::json::accept(line));
  }
  CHECK(taken > 100);
}

TEST_CASE("whatever JSON can say the same in, a line of the log is read the same") {
  const auto event = from_json_line(
      " { \"run_started\" : { \"moon\" : [ 1 , { \"a\" : [ ] } , \"x\" , null , true ] , \"file\" "
      ": null ,"
      " \"params\" : { \"delay\" : \"300ms\" , \"load\":\"\" } , \"seed\" : 18446744073709551615 ,"
      " \"plan\" : \"\\u00e9\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\" } , \"elapsed\" : 1e-3 }\r");
  REQUIRE(event.ok());
  CHECK(event->elapsed() == 0.001);
  const v1::RunStarted& run = event->run_started();
  CHECK(run.seed() == std::numeric_limits<std::uint64_t>::max());
  CHECK(run.plan() == "é😀\"\\/\b\f\n\r\t");
  CHECK(run.params().size() == 2);
  CHECK(run.params().at("delay") == "300ms");
  CHECK(run.file().empty());
  const auto later = from_json_line(R"({"run_ended":{"verdict":"MOON","exit_code":9}})");
  REQUIRE(later.ok());
  CHECK(later->run_ended().exit_code() == 9);
}

TEST_CASE("events are in the log in the order in which they were told, however fast") {
  const Folder folder;
  auto log = EventLog::create(folder.path);
  REQUIRE(log.ok());
  constexpr int kEvents = 20000;
  for (int n = 0; n < kEvents; ++n) {
    v1::Event event;
    event.mutable_step_ended()->set_place(std::to_string(n));
    (*log)->write(std::move(event));
  }
  CHECK((*log)->flush().ok());
  int read = 0;
  bool in_order = true;
  REQUIRE(read_events((*log)->path(), [&](const v1::Event& event) {
            in_order = in_order && event.step_ended().place() == std::to_string(read++);
          }).ok());
  CHECK(read == kEvents);
  CHECK(in_order);
}

TEST_CASE("what was told before a run took a turn outlives a crash") {
  const Folder folder;
  // A disk that takes longer than the log waits for it keeps an attempt from proving anything.
  bool kept = false;
  for (int attempt = 0; attempt < 20 && !kept; ++attempt) {
    const fs::path run = folder.path / std::to_string(attempt);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const auto log = EventLog::create(run);
      for (int n = 0; log.ok() && n < 500; ++n) {
        v1::Event event;
        event.mutable_step_ended()->set_place(std::to_string(n));
        (*log)->write(std::move(event));
      }
      v1::Event event;
      event.mutable_abort_decided()->set_cause("breach");
      if (log.ok()) (*log)->write(std::move(event));
      kill(getpid(), SIGKILL);
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    const auto events = read_events(run / "events.jsonl");
    kept = events.ok() && events->size() == 501 && events->back().has_abort_decided();
  }
  CHECK(kept);
}

TEST_CASE("where several nodes ask a check, each is told by itself, and a breach where it is") {
  const Story story(gameday_run());
  REQUIRE(story.checks.size() == 3);
  CHECK(story.checks[0].name == "dashboard answers from web-1");
  CHECK(story.checks[0].breaches.empty());
  CHECK(story.checks[1].name == "dashboard answers from web-2");
  REQUIRE(story.checks[1].breaches.size() == 1);
  CHECK(story.checks[1].breaches[0].held_again.has_value());
  CHECK(story.checks[2].is_load);
  REQUIRE(story.load("users") != nullptr);
  CHECK(story.load("users")->told.failed() == 14);
  // The breach, and what was expected of the run.
  CHECK(occurrences(junit_report(story), "<failure ") == 2);
}

TEST_CASE("a note that is taken after a run does not make the run longer") {
  const Story story(gameday_run());
  REQUIRE(story.notes.size() == 2);
  CHECK(story.notes[1].moment.elapsed > story.end().elapsed + 90);
  const auto json = nlohmann::json::parse(json_report(story));
  CHECK(json["duration"] == story.end().elapsed);
  CHECK(json["squall"]["notes"][0]["kind"] == "detected");
  CHECK(json["squall"]["times"]["to_detect_ms"] == 2404);
  CHECK(json["squall"]["expect"][0]["holds"] == false);
  CHECK(json["squall"]["loads"][0]["p99_ms"] == 212);
}

TEST_CASE("a workflow command keeps its properties and its message apart from what they say") {
  CHECK(workflow_command("error", {{"file", "a,b:c%.yaml"}, {"line", ""}, {"col", "7"}},
                         "50% of\nall: x, y") ==
        "::error file=a%2Cb%3Ac%25.yaml,col=7::50%25 of%0Aall: x, y\n");
  CHECK(workflow_command("notice", {}, "::error::\r\x1b[2J") ==
        "::notice::::error::\\x0d\\x1b[2J\n");
}

TEST_CASE("an annotation names the line of the plan on which its check stands") {
  const std::string plan =
      "plan: x\nsteady_state:\n  - name: shop answers twice\n  - {name: \"shop answers\", every: "
      "1s}\n";
  const std::string told = github_annotations(Story(breached_run()), "plan.yaml", plan);
  CHECK(occurrences(told, "::error file=plan.yaml,line=4,title=") == 2);
  CHECK(occurrences(github_annotations(Story(held_run()), "plan.yaml", plan), "::notice ") == 1);
  CHECK(occurrences(github_annotations(Story(breached_run()), "plan.yaml"), "line=") == 0);
}

TEST_CASE("nothing from a plan or a node becomes Markdown") {
  CHECK(markdown("a|b *c* <img> [x](y) `z` @ada #1 1_000 $x$") ==
        "a\\|b \\*c\\* \\<img\\> \\[x\\](y) \\`z\\` &#64;ada \\#1 1\\_000 \\$x\\$");
  // A row has as many cells as its table's head.
  const std::string report = markdown_report(Story(nasty_run()));
  CHECK(report.find("\x1b") == std::string::npos);
}

/// A run whose only check took these milliseconds.
Story measured(const std::vector<double>& latencies, double worst) {
  Story story;
  v1::Event event;
  v1::RunStarted& run = *event.mutable_run_started();
  run.set_plan("shop");
  auto& line = *run.add_checks();
  line.set_name("shop answers");
  line.add_expect("p99 < 300ms over 10s");
  line.set_every_ms(200);
  story.take(event);
  event.mutable_phase_started()->set_phase(v1::METHOD);
  story.take(event);
  for (const double latency : latencies) {
    v1::CheckAsked& asked = *event.mutable_check_asked();
    asked.set_check("shop answers");
    asked.set_answered(true);
    asked.set_holds(true);
    asked.set_latency_ms(latency);
    asked.clear_findings();
    v1::CheckAsked::Finding& finding = *asked.add_findings();
    finding.set_holds(true);
    finding.set_observed("p99");
    finding.set_number(worst);
    story.take(event);
  }
  event.mutable_run_ended()->set_verdict(v1::HELD);
  story.take(event);
  return story;
}

const Figure* figure_of(const Comparison& comparison, const std::string& what) {
  const auto found = std::ranges::find(comparison.figures, what, &Figure::what);
  return found == comparison.figures.end() ? nullptr : &*found;
}

TEST_CASE("a run beside itself is no worse") {
  for (const std::string name : kRuns) {
    const Story story(run_named(name));
    const Comparison comparison = compare(story, story, {});
    INFO(name);
    CHECK(comparison.not_comparable.empty());
    CHECK(comparison.regressions() == 0);
    CHECK(nlohmann::json::accept(comparison_json(comparison)));
  }
}

TEST_CASE("what got worse by more than the tolerance is a regression, and noise is none") {
  using Judgement = Figure::Judgement;
  const std::vector<double> fast(200, 1.0);
  const std::vector<double> hardly_slower(200, 1.2);
  const std::vector<double> slow(200, 120);
  const Tolerance tolerance{.percent = 10, .floor_ms = 10};
  CHECK(compare(measured(fast, 30), measured(hardly_slower, 31), tolerance).regressions() == 0);
  // Unless that is what was asked for.
  CHECK(compare(measured(fast, 30), measured(hardly_slower, 31), {.percent = 10, .floor_ms = 0})
            .regressions() == 2);
  const Comparison worse = compare(measured(fast, 30), measured(slow, 130), tolerance);
  CHECK(worse.regressions() == 3);
  CHECK(figure_of(worse, "shop answers: p50")->judgement == Judgement::kWorse);
  CHECK(figure_of(worse, "shop answers: p99")->samples_after == 200);
  const Comparison better = compare(measured(slow, 130), measured(fast, 30), tolerance);
  CHECK(better.regressions() == 0);
  CHECK(figure_of(better, "shop answers: p99")->judgement == Judgement::kBetter);
  // A p99 of fifty answers is its greatest one.
  const Comparison few =
      compare(measured(std::vector(50, 1.0), 1), measured(std::vector(50, 99.0), 1), tolerance);
  CHECK(figure_of(few, "shop answers: p99")->judgement == Judgement::kTooFew);
  CHECK(figure_of(few, "shop answers: p50")->judgement == Judgement::kWorse);
}

TEST_CASE("runs of different plans are compared only where that is asked for") {
  const Story held(held_run());
  const Story breached(breached_run());
  const Comparison refused = compare(held, breached, {});
  CHECK(refused.not_comparable ==
        "they are runs of different plans: \"checkout survives the loss of a replica\" and "
        "\"checkout survives a slow network\"");
  const Comparison forced = compare(held, breached, {.force = true});
  CHECK(forced.not_comparable.empty());
  CHECK(forced.verdict == Figure::Judgement::kWorse);
  CHECK(forced.regressions() > 0);
  check_golden("compare.txt", comparison_text(forced, kPlainStyle));
  check_golden("compare.json", comparison_json(forced));
}

TEST_CASE("JUnit has one testcase per check, per fault applied and per fault reverted") {
  const std::string xml = junit_report(Story(breached_run()));
  CHECK(occurrences(xml, "<testcase ") == 2 + 2 + 2);
  CHECK(occurrences(xml, "classname=\"squall.checks\"") == 2);
  CHECK(occurrences(xml, "classname=\"squall.faults.applied\"") == 2);
  CHECK(occurrences(xml, "classname=\"squall.faults.reverted\"") == 2);
  CHECK(occurrences(xml, "<failure ") == 1);
}

TEST_CASE("JUnit is never green where the exit code is not 0") {
  for (const std::string name : kRuns) {
    const std::string xml = junit_report(Story(run_named(name)));
    INFO(name);
    CHECK((occurrences(xml, "<failure ") + occurrences(xml, "<error ") == 0) == (name == "held"));
    CHECK(xml_fault(xml) == "");
  }
}

TEST_CASE("nothing from a plan or a node reaches the terminal as a control") {
  const auto events = nasty_run();
  std::string all =
      text_report(Story(events), kPlainStyle) + lines_of(picture(Story(events), 1, kPlainStyle));
  Story story;
  for (const v1::Event& event : events) {
    story.take(event);
    all += plain_line(story, event, kPlainStyle) + "\n";
  }
  for (const char c : all) CHECK((c == '\n' || static_cast<unsigned char>(c) >= 0x20));
  CHECK(all.find('\x7f') == std::string::npos);
  CHECK(all.find("\xff") == std::string::npos);
}

TEST_CASE("where the locale has no more, everything is ASCII") {
  Style ascii = kPlainStyle;
  ascii.utf8 = false;
  for (const std::string name : kRuns) {
    const auto events = run_named(name);
    std::string all =
        text_report(Story(events), ascii) + lines_of(picture(Story(events), 2, ascii));
    Story story;
    for (const v1::Event& event : events) {
      story.take(event);
      all += plain_line(story, event, ascii);
    }
    CHECK(std::ranges::all_of(all, [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
  }
}

TEST_CASE("colour only paints: without it the words are the same") {
  Style colour = kPlainStyle;
  colour.colour = true;
  for (const std::string name : kRuns) {
    const auto events = run_named(name);
    std::string painted =
        text_report(Story(events), colour) + lines_of(picture(Story(events), 2, colour));
    CHECK(painted.find("\x1b[") != std::string::npos);
    std::string bare;
    for (std::size_t at = 0; at < painted.size(); ++at) {
      if (painted[at] == '\x1b') {
        at = painted.find('m', at);
      } else {
        bare += painted[at];
      }
    }
    CHECK(bare == text_report(Story(events), kPlainStyle) +
                      lines_of(picture(Story(events), 2, kPlainStyle)));
  }
}

TEST_CASE("the live view shows a run as it goes on") {
  const auto events = breached_run();
  check_golden("picture_steady.txt",
               lines_of(picture(Story(first_seconds(events, 0.6)), 0.6, kPlainStyle)));
  check_golden("picture_method.txt",
               lines_of(picture(Story(first_seconds(events, 3)), 3, kPlainStyle)));
  const auto aborted = std::ranges::find_if(
      events, [](const v1::Event& event) { return event.has_abort_decided(); });
  check_golden(
      "picture_abort.txt",
      lines_of(picture(Story(std::vector(events.begin(), aborted + 2)), 3.6, kPlainStyle)));
  check_golden("picture_end.txt", lines_of(picture(Story(events), 5, kPlainStyle)));
}

TEST_CASE("the live view fits its terminal, whatever the size") {
  for (const std::string name : kRuns) {
    const auto events = run_named(name);
    for (const int width : {20, 40, 71, 72, 80, 200}) {
      for (const int height : {2, 5, 10, 24}) {
        const Style style{.utf8 = true, .width = width, .height = height};
        const auto lines = picture(Story(events), 2, style);
        CHECK(lines.size() < static_cast<std::size_t>(height));
        CHECK(std::ranges::all_of(
            lines, [&](const std::string& line) { return columns_of(line) <= width; }));
      }
    }
  }
}

TEST_CASE("on a small terminal a breach reads as one, and its words have room before its curve") {
  const auto events = breached_run();
  const auto aborted = std::ranges::find_if(
      events, [](const v1::Event& event) { return event.has_abort_decided(); });
  check_golden("picture_small.txt",
               lines_of(picture(Story(std::vector(events.begin(), aborted + 2)), 3.6,
                                {.utf8 = true, .width = 79, .height = 24})));
}

TEST_CASE("what a summary says is never cut, however narrow the paper") {
  const Style narrow{.utf8 = true, .width = 50};
  check_golden("breached_narrow.txt",
               text_report(Story(breached_run()), narrow, {{"log", "runs/1/events.jsonl"}}));
  for (const std::string name : kRuns) {
    CHECK(text_report(Story(run_named(name)), narrow).find("…") == std::string::npos);
  }
}

TEST_CASE("a line that is too wide goes on below, without the dots that led across it") {
  Line line;
  line.add("  ").add("✓", Paint::kGood).add(" a long name ").add("....", Paint::kDim);
  line.add(" ").add("bre").add("ached", Paint::kBad).add(": twice");
  std::string folded;
  for (const Line& part : line.folded(16, 4)) folded += part.text(kPlainStyle) + "\n";
  CHECK(folded ==
        "  ✓ a long name\n"
        "    breached:\n"
        "    twice\n");
  CHECK(line.folded(80, 4).front().text(kPlainStyle) == line.text(kPlainStyle));
}

TEST_CASE("a fault that an abort left no time to act is neither a success nor a failure") {
  auto events = breached_run();
  for (v1::Event& event : events) {
    for (v1::FaultActed* acted :
         {event.has_fault_applied() ? event.mutable_fault_applied() : nullptr,
          event.has_fault_evidence() ? event.mutable_fault_evidence() : nullptr,
          event.has_fault_effect_ended() ? event.mutable_fault_effect_ended() : nullptr}) {
      if (acted == nullptr || acted->node() != "back-2") continue;
      acted->mutable_evidence()->set_effect(false);
      acted->mutable_evidence()->mutable_network()->set_matched_packets(0);
    }
  }
  const auto json = nlohmann::json::parse(json_report(Story(events)));
  CHECK(json["run"][0]["status"] == "succeeded");
  CHECK(json["run"][1]["status"] == "no effect yet when aborted");
  CHECK(json["rollbacks"][1]["status"] == "succeeded");
  CHECK(json["squall"]["abort"]["acting"] == 2);
  const std::string xml = junit_report(Story(events));
  CHECK(occurrences(xml,
                    "<skipped type=\"no effect yet when aborted\" message=\"no effect yet when "
                    "aborted\"/>") == 1);
  CHECK(occurrences(xml, "skipped=\"1\"") == 1);
}

TEST_CASE("a fault of an attempt that broke early is not blamed for what it had no time to do") {
  std::vector<v1::Event> events;
  const auto add = [&]() -> v1::Event& { return events.emplace_back(); };
  add().mutable_phase_started()->set_phase(v1::METHOD);
  for (const char* step : {"before", "network delay 100ms"}) {
    v1::StepStarted& started = *add().mutable_step_started();
    started.set_step(step);
    started.set_place(step == std::string("before") ? "method[0]" : "method[1]");
    v1::FaultInjecting& injecting = *add().mutable_fault_injecting();
    injecting.set_fault(step);
    injecting.set_step(step);
    injecting.set_lasts_ms(1000);
    add().mutable_fault_applied()->set_fault(step);
    add().mutable_fault_effect_ended()->set_fault(step);
    add().mutable_fault_reverted()->set_fault(step);
  }
  v1::Attempted& attempted = *add().mutable_attempted();
  attempted.set_place("method[1]");
  attempted.set_value("100ms");
  const Story story(events);
  REQUIRE(story.faults.size() == 2);
  CHECK(story.faults[0].without_effect());
  CHECK_FALSE(story.faults[1].without_effect());
  CHECK(story.attempts.size() == 1);
}

TEST_CASE("a fault whose ramp ends with nothing has acted all the same") {
  std::vector<v1::Event> events;
  const auto add = [&]() -> v1::Event& { return events.emplace_back(); };
  add().mutable_fault_injecting()->set_fault("f");
  v1::FaultActed& seen = *add().mutable_fault_evidence();
  seen.set_fault("f");
  seen.mutable_evidence()->set_effect(true);
  v1::FaultActed& ended = *add().mutable_fault_effect_ended();
  ended.set_fault("f");
  ended.mutable_evidence()->set_effect(false);
  const Story story(events);
  REQUIRE(story.faults.size() == 1);
  CHECK_FALSE(story.faults[0].without_effect());
}

TEST_CASE("a time that no node told is measured here, and null where it cannot be") {
  auto events = breached_run();
  for (v1::Event& event : events) {
    if (event.has_fault_effect_ended()) event.mutable_fault_effect_ended()->set_took_ms(0);
    if (event.has_fault_reverted()) event.mutable_fault_reverted()->set_took_ms(0);
  }
  const auto json = nlohmann::json::parse(json_report(Story(events)));
  const auto& fault = json["squall"]["faults"][0];
  CHECK(fault["end_took_ms"].is_null());
  CHECK(fault["revert_took_ms"] == 13);
  CHECK(json["rollbacks"][0]["duration"] == 0.013);
  std::erase_if(events, [](const v1::Event& event) { return event.has_fault_effect_ended(); });
  const auto blind = nlohmann::json::parse(json_report(Story(events)));
  CHECK(blind["squall"]["faults"][0]["revert_took_ms"].is_null());
  CHECK(blind["rollbacks"][0]["duration"].is_null());
}

TEST_CASE("an abort under which nothing was acting says so") {
  auto events = breached_run();
  std::erase_if(events, [](const v1::Event& event) {
    return event.has_fault_injecting() || event.has_fault_applied() || event.has_fault_evidence() ||
           event.has_fault_effect_ended() || event.has_fault_reverted();
  });
  events.back().mutable_run_ended()->mutable_abort()->set_effect_ended_ms(0);
  CHECK(
      text_report(Story(events), kPlainStyle)
          .find("    breach seen → decided 1.20ms → nothing was acting → verified clean 340ms\n") !=
      std::string::npos);
  const auto abort = nlohmann::json::parse(json_report(Story(events)))["squall"]["abort"];
  CHECK(abort["acting"] == 0);
  CHECK(abort["effect_ended_ms"].is_null());
  CHECK(abort["verified_clean_ms"] == 340);
}

TEST_CASE("what is done at once is done, and not reverted") {
  Story story;
  std::string told;
  for (const v1::Event& event : held_run()) {
    story.take(event);
    if (event.has_fault_reverted()) told = plain_line(story, event, kPlainStyle);
  }
  CHECK(told == "✓ done, verified clean: kill nginx on back-1");
}

TEST_CASE("where there is no terminal, every event worth a line gets one, with its time") {
  std::array<int, 2> ends{};
  REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
  {
    const auto screen = make_screen(ends[1], kPlainStyle);
    for (const v1::Event& event : breached_run()) {
      screen->on(event);
      screen->tick(monotonic_now());
    }
    screen->finish();
  }
  close(ends[1]);
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t length = 0; (length = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(length));
  }
  close(ends[0]);
  check_golden("plain_breached.txt", text);
}

TEST_CASE("a terminal's style follows the environment") {
  const auto with = [](std::initializer_list<std::pair<const char*, const char*>> variables) {
    for (const char* name :
         {"NO_COLOR", "CLICOLOR_FORCE", "TERM", "CI", "COLUMNS", "LC_ALL", "LC_CTYPE", "LANG"}) {
      unsetenv(name);
    }
    for (const auto& [name, value] : variables) setenv(name, value, 1);
    std::array<int, 2> ends{};
    REQUIRE(pipe2(ends.data(), O_CLOEXEC) == 0);
    const Style style = style_of(ends[1]);
    close(ends[0]);
    close(ends[1]);
    return style;
  };
  CHECK(with({{"TERM", "xterm"}, {"LANG", "C.UTF-8"}}) == Style{.utf8 = true});
  CHECK(with({{"TERM", "xterm"}, {"LANG", "C"}}) == Style{});
  CHECK(with({{"LANG", "C.UTF-8"}, {"LC_ALL", "C"}}) == Style{});
  CHECK(with({{"CLICOLOR_FORCE", "1"}}).colour);
  CHECK_FALSE(with({{"CLICOLOR_FORCE", "0"}}).colour);
  CHECK_FALSE(with({{"CLICOLOR_FORCE", "1"}, {"NO_COLOR", "1"}}).colour);
  CHECK(with({{"COLUMNS", "132"}}).width == 132);
  CHECK(with({{"COLUMNS", "many"}}).width == 80);
}

TEST_CASE("a terminal is live, but not when it is dumb or a CI's") {
  const int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  REQUIRE(terminal >= 0);
  const auto with = [&](const char* term, const char* ci, const char* no_color) {
    setenv("TERM", term, 1);
    setenv("CI", ci, 1);
    setenv("NO_COLOR", no_color, 1);
    unsetenv("CLICOLOR_FORCE");
    return style_of(terminal);
  };
  CHECK(with("xterm", "", "").live);
  CHECK(with("xterm", "", "").colour);
  CHECK_FALSE(with("dumb", "", "").live);
  CHECK_FALSE(with("dumb", "", "").colour);
  CHECK_FALSE(with("xterm", "true", "").live);
  CHECK(with("xterm", "", "1").live);
  CHECK_FALSE(with("xterm", "", "1").colour);
  close(terminal);
}

TEST_CASE("a report is written whole or not at all") {
  const Folder folder;
  const fs::path path = folder.path / "report.json";
  REQUIRE(write_report(path, "first").ok());
  REQUIRE(write_report(path, "second").ok());
  CHECK(text_of(path) == "second");
  CHECK(std::distance(fs::directory_iterator(folder.path), {}) == 1);
  CHECK(write_report(folder.path / "none" / "report.json", "x").code() == StatusCode::kNotFound);
}

TEST_CASE("a report's place is made before it is written, and what is there is kept") {
  const Folder folder;
  const fs::path path = folder.path / "report.json";
  REQUIRE(prepare_report(path).ok());
  CHECK(fs::file_size(path) == 0);
  REQUIRE(write_report(path, "whole").ok());
  REQUIRE(prepare_report(path).ok());
  CHECK(text_of(path) == "whole");
  const Status none = prepare_report(folder.path / "none" / "report.json");
  CHECK(message_of(none) == "cannot write " + (folder.path / "none/report.json").string() +
                                ": No such file or directory");
  CHECK(message_of(prepare_report(folder.path)) ==
        "cannot write " + folder.path.string() + ": Is a directory");
}

TEST_CASE("a report to a device is written through it, and never put in its place") {
  const Folder folder;
  // By a link, so that a failure of this test costs nobody their /dev/null.
  const fs::path link = folder.path / "link";
  fs::create_symlink("/dev/null", link);
  REQUIRE(prepare_report(link).ok());
  REQUIRE(write_report(link, "gone").ok());
  CHECK(fs::is_symlink(link));
  fs::create_symlink("/dev/full", folder.path / "full");
  CHECK(write_report(folder.path / "full", "x").code() == StatusCode::kResourceExhausted);
}

namespace {

constexpr const char* kSlowShop = "the shop answers within its time";

/// A check that three nodes ask, of which one does not see it hold.
std::vector<v1::Event> asked_from_nodes() {
  std::vector<v1::Event> events;
  v1::RunStarted& run = *events.emplace_back().mutable_run_started();
  auto& line = *run.add_checks();
  line.set_name(kSlowShop);
  line.set_kind("http");
  line.add_expect("p99 < 300ms over 10s");
  for (const char* node : {"web-1", "web-2", "web-3"}) line.add_from(node);
  events.emplace_back().mutable_phase_started()->set_phase(v1::METHOD);
  for (const std::string node : {"web-1", "web-2", "web-3"}) {
    const bool holds = node != "web-2";
    v1::CheckAsked& asked = *events.emplace_back().mutable_check_asked();
    asked.set_check(kSlowShop);
    asked.set_from(node);
    asked.set_answered(true);
    asked.set_holds(holds);
    asked.set_latency_ms(holds ? 3 : 412);
    asked.set_observed("200 in " + std::string(holds ? "3.00ms" : "412ms"));
    auto& finding = *asked.add_findings();
    finding.set_observed(holds ? "p99 3.00ms" : "p99 412ms");
    finding.set_holds(holds);
    finding.set_number(holds ? 3 : 412);
  }
  v1::CheckBreached& breached = *events.emplace_back().mutable_check_breached();
  breached.set_check(kSlowShop);
  breached.set_expectation("p99 < 300ms over 10s");
  breached.set_observed("p99 412ms from web-2 (3 of 3 must hold, 2 do)");
  breached.set_aborts(true);
  return events;
}

}  // namespace

TEST_CASE("a check that nodes ask has a story for each of them") {
  auto events = asked_from_nodes();
  Story story(events);
  REQUIRE(story.checks.size() == 3);
  for (const CheckStory& check : story.checks) {
    CAPTURE(check.name);
    const bool against = check.from == "web-2";
    CHECK(check.name == "the shop answers within its time from " + check.from);
    CHECK(check.asked == 1);
    CHECK(check.expect.size() == 1);
    CHECK(check.breaches.size() == (against ? 1 : 0));
    CHECK(check.expect[0].breached == against);
    CHECK(check.expect[0].worst == (against ? "p99 412ms" : "p99 3.00ms"));
    CHECK(story.stands(check) == !against);
  }
  events.emplace_back().mutable_check_held_again()->set_check(kSlowShop);
  CHECK(Story(events).checks[1].breaches[0].held_again.has_value());
}

TEST_CASE("the live view says which node asks, also where there is little room") {
  const auto lines =
      picture(Story(asked_from_nodes()), 1, {.utf8 = true, .width = 80, .height = 24});
  for (const std::string node : {"web-1", "web-2", "web-3"}) {
    CHECK(std::ranges::any_of(lines, [&](const std::string& line) {
      return line.find("… from " + node) != std::string::npos && columns_of(line) <= 80;
    }));
  }
  Story story;
  std::string told;
  for (const v1::Event& event : asked_from_nodes()) {
    story.take(event);
    if (!event.has_check_asked()) continue;
    told += plain_line(story, event, kPlainStyle) + "\n";
  }
  CHECK(told ==
        "✓ check the shop answers within its time from web-1 holds: 200 in 3.00ms\n"
        "✗ check the shop answers within its time from web-2 does not hold: 200 in 412ms\n"
        "✓ check the shop answers within its time from web-3 holds: 200 in 3.00ms\n");
}

TEST_CASE("wide characters and combining ones are counted as a terminal shows them") {
  CHECK(columns_of("shop") == 4);
  CHECK(columns_of("é") == 1);
  CHECK(columns_of("e\u0301") == 1);
  CHECK(columns_of("漢字") == 4);
  CHECK(Line().add("漢字漢字").text(kPlainStyle, 5) == "漢字…");
  CHECK(Line().add("shop answers").text({}, 8) == "shop ...");
}

v1::Event noted(double elapsed, const std::string& kind, const std::string& text) {
  v1::Event event;
  event.set_at("2026-11-22T09:00:00.000000Z");
  event.set_elapsed(elapsed);
  event.mutable_noted()->set_by("ana@laptop");
  event.mutable_noted()->set_kind(kind);
  event.mutable_noted()->set_text(text);
  return event;
}

TEST_CASE("notes stand in the order of their times, and one that comes late makes no run longer") {
  std::vector<v1::Event> events = breached_run();
  const Story without(events);
  events.push_back(noted(6000, "", "it was the index after all"));
  events.push_back(noted(2, "detected", "the pager went off"));
  events.push_back(noted(2.5, "mitigated", ""));
  const Story story(events);
  CHECK(story.latest.elapsed == without.latest.elapsed);
  REQUIRE(story.notes.size() == 3);
  CHECK(note_text(story.notes[0]) == "detected: the pager went off");
  CHECK(note_text(story.notes[1]) == "mitigated");
  CHECK(note_text(story.notes[2]) == "it was the index after all");
  CHECK(junit_report(Story(events)) == junit_report(Story(breached_run())));
  const std::string summary = text_report(Story(events), kPlainStyle);
  CHECK(summary.find("  notes\n"
                     "  ! 00:02  detected: the pager went off  ana@laptop\n"
                     "  ! 00:02  mitigated  ana@laptop\n"
                     "  ! 1:40:00  it was the index after all  ana@laptop\n") != summary.npos);
  CHECK(lines_of(picture(story, 5, kPlainStyle)).find(" ! 00:02  mitigated  ana@laptop\n") !=
        std::string::npos);
  CHECK(plain_line(story, events.back(), kPlainStyle) == "! mitigated (ana@laptop)");
  CHECK(json_report(Story(events)).find("\"kind\": \"detected\"") != std::string::npos);
}

TEST_CASE("where there is little room, what acts and what fails is seen, and how to end it") {
  std::vector<v1::Event> events = breached_run();
  v1::RunStarted& start = *events.front().mutable_run_started();
  for (int n = 0; n < 40; ++n) {
    auto& line = *start.add_checks();
    line.set_name("more " + std::to_string(n));
    line.add_expect("exit == 0");
  }
  const auto aborted = std::ranges::find_if(events, &v1::Event::has_abort_decided);
  for (const int height : {20, 24, 30}) {
    Style style = kPlainStyle;
    style.height = height;
    const auto lines = picture(Story(std::vector(events.begin(), aborted)), 3, style);
    CHECK(lines.size() == static_cast<std::size_t>(height) - 1);
    const std::string text = lines_of(lines);
    for (const char* seen : {"q aborts", "shop answers", "back-1", "back-2", "checks that hold"}) {
      INFO(seen);
      CHECK(text.find(seen) != text.npos);
    }
  }
}

TEST_CASE("a fault that a person ended is not blamed for having had no effect") {
  std::vector<v1::Event> events = breached_run();
  const auto ended = std::ranges::find_if(events, &v1::Event::has_fault_effect_ended);
  REQUIRE(ended != events.end());
  ended->mutable_fault_effect_ended()->set_reason("reverted by ana@laptop");
  const Story story(events);
  const auto fault =
      std::ranges::find(story.faults, ended->fault_effect_ended().fault(), &FaultStory::id);
  REQUIRE(fault != story.faults.end());
  CHECK(fault->ended_by_hand());
  CHECK(fault->cut_short);
  CHECK(text_report(Story(events), kPlainStyle).find("(reverted by ana@laptop)") !=
        std::string::npos);
}

TEST_CASE("an event is added to the log of a run that is over, and a torn line is removed") {
  const Folder folder;
  const fs::path path = folder.path / "events.jsonl";
  CHECK(append_event(path, noted(0, "", "x")).code() == StatusCode::kNotFound);
  std::ofstream(path) << "no run\n";
  CHECK(append_event(path, noted(0, "", "x")).code() == StatusCode::kDataLoss);
  fs::remove(path);
  {
    const auto log = EventLog::create(folder.path);
    REQUIRE(log.ok());
    for (const v1::Event& event : held_run()) (*log)->write(event);
  }
  const auto before = read_events(path);
  REQUIRE(before.ok());
  std::ofstream(path, std::ios::app) << R"({"at":"2026-11-22T07:15:52.0)";
  REQUIRE(append_event(path, noted(0, "recovered", "all is well")).ok());
  REQUIRE(append_event(path, noted(0, "", "and again")).ok());
  const auto after = read_events(path);
  REQUIRE(after.ok());
  REQUIRE(after->size() == before->size() + 2);
  CHECK(after->back().noted().text() == "and again");
  CHECK(after->at(before->size()).noted().text() == "all is well");
  CHECK(after->at(before->size()).elapsed() >= before->back().elapsed());
  CHECK(after->back().at() >= before->back().at());
  // One that was set back puts nothing before what was told already.
  const std::string ahead =
      R"({"at":"2099-01-01T00:00:00.000000Z","elapsed":7,"phase_started":{}})";
  std::ofstream(path, std::ios::trunc) << ahead << "\n";
  REQUIRE(append_event(path, noted(0, "", "x")).ok());
  CHECK(read_events(path)->back().elapsed() == 7);
}

}  // namespace
}  // namespace squall::report
