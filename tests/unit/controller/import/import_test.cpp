#include "controller/import/import.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "controller/import/source.h"
#include "controller/import/words.h"
#include "experiments/plan/load.h"

namespace squall::importing {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE_MESSAGE(file, path.string());
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> examples() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(SQUALL_EXAMPLES_DIR)) {
    if (entry.path().string().find(".plan.") == std::string::npos) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  REQUIRE(paths.size() >= 10);
  return paths;
}

/// Compares with NAME.plan.yaml beside the example; SQUALL_WRITE_GOLDEN=1 writes it anew.
void check_golden(const fs::path& example, const std::string& text) {
  fs::path golden = example;
  golden.replace_extension(".plan.yaml");
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr) {
    std::ofstream(golden, std::ios::binary) << text;
    return;
  }
  CHECK_MESSAGE(text == text_of(golden), example.filename().string());
}

std::string errors_of(const std::string& plan, bool unobserved) {
  return format_diagnostics(
      plan::load(plan, "plan.yaml", {.set = {}, .params_files = {}, .unobserved = unobserved})
          .diagnostics,
      false);
}

Json json_of(const Source& source) {
  switch (source.kind()) {
    case Source::Kind::kNull:
      return nullptr;
    case Source::Kind::kScalar:
      return source.text();
    case Source::Kind::kList: {
      Json list = Json::array();
      for (const auto& part : source.parts()) list.push_back(json_of(*part));
      return list;
    }
    case Source::Kind::kMap:
      break;
  }
  Json map = Json::object();
  for (const auto& part : source.parts()) map[part->key()] = json_of(*part);
  return map;
}

/// The examples that are documents, whatever they are written in.
struct Document {
  std::string name;
  Json json;
};

std::vector<Document> documents() {
  std::vector<Document> all;
  for (const fs::path& path : examples()) {
    if (path.extension() == ".txt") continue;
    Diagnostics diagnostics;
    diagnostics.text = text_of(path);
    Source root;
    read_document(diagnostics, root);
    REQUIRE_FALSE(diagnostics.has_errors());
    all.push_back({path.filename().string(), json_of(root)});
  }
  REQUIRE(all.size() >= 8);
  return all;
}

/// Every place of a document, as a JSON pointer.
void for_each_place(const Json& json, const Json::json_pointer& at,
                    const std::function<void(const Json&, const Json::json_pointer&)>& each) {
  each(json, at);
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) for_each_place(value, at / key, each);
  } else if (json.is_array()) {
    for (std::size_t n = 0; n < json.size(); ++n) for_each_place(json[n], at / n, each);
  }
}

/// Whether a line stands below a comment that leaves something to decide; line 0 is the whole plan.
bool is_to_decide(const std::string& plan, std::size_t line) {
  std::vector<std::string> lines;
  std::istringstream in(plan);
  for (std::string text; std::getline(in, text);) lines.push_back(text);
  for (std::size_t above = line == 0 ? lines.size() : line - 1; above > 0; --above) {
    const auto begin = lines[above - 1].find_first_not_of(' ');
    const bool is_comment = begin != std::string::npos && lines[above - 1][begin] == '#';
    if (line != 0 && !is_comment) return false;
    if (lines[above - 1].find("# to decide: ") != std::string::npos) return true;
  }
  return false;
}

/// What an import must be, whatever it was made of.
void check_sound(const Imported& imported) {
  if (!imported.plan) {
    CHECK(imported.diagnostics.has_errors());
    return;
  }
  for (const char c : *imported.plan) {
    const bool raw = static_cast<unsigned char>(c) < 0x20 && c != '\n';
    if (raw || c == 0x7f) {
      FAIL_CHECK("a control character in " << *imported.plan);
      break;
    }
  }
  const plan::Loaded loaded =
      plan::load(*imported.plan, "plan.yaml", {.set = {}, .params_files = {}, .unobserved = true});
  if (loaded.plan) return;
  CHECK(imported.to_decide > 0);
  for (const Diagnostic& found : loaded.diagnostics.found) {
    if (found.severity != Severity::kError) continue;
    CHECK_MESSAGE(is_to_decide(*imported.plan, found.place.line), found.summary << " in\n"
                                                                                << *imported.plan);
  }
}

TEST_CASE("each example becomes the plan that is kept beside it") {
  for (const fs::path& path : examples()) {
    CAPTURE(path.filename().string());
    const Imported imported = import_text(text_of(path), path.filename().string());
    REQUIRE(imported.plan);
    check_golden(path, *imported.plan);
    check_sound(imported);
    const bool does_nothing = imported.plan->ends_with("method: []\n");
    CHECK(does_nothing == (path.stem() == "chaosmesh_http"));
    if (!does_nothing) CHECK(errors_of(*imported.plan, true) == "");
  }
}

TEST_CASE("an experiment all of which maps is a plan that is valid as it is") {
  const Imported imported =
      import_text(text_of(fs::path(SQUALL_EXAMPLES_DIR) / "chaostoolkit_complete.yaml"), "x.yaml");
  REQUIRE(imported.plan);
  CHECK(imported.is_complete());
  CHECK(imported.not_mapped == 0);
  CHECK(imported.to_decide == 0);
  CHECK(errors_of(*imported.plan, false) == "");
}

TEST_CASE("the counts are those of the comments") {
  for (const fs::path& path : examples()) {
    const Imported imported = import_text(text_of(path), "x");
    REQUIRE(imported.plan);
    const auto times = [&](const std::string& words) {
      std::size_t count = 0;
      for (auto at = imported.plan->find(words); at != std::string::npos;
           at = imported.plan->find(words, at + 1)) {
        ++count;
      }
      return count;
    };
    CHECK(times("# not mapped: ") == imported.not_mapped);
    CHECK(times("# to decide: ") == imported.to_decide);
  }
}

TEST_CASE("a field that nobody knows is told wherever it stands") {
  for (const Document& document : documents()) {
    std::size_t places = 0;
    for_each_place(document.json, Json::json_pointer(), [&](const Json& json, const auto& at) {
      if (!json.is_object()) return;
      ++places;
      const std::string marker = fmt::format("marker-{}", places);
      Json changed = document.json;
      changed[at]["stray-field"] = marker;
      const Imported imported = import_text(changed.dump(), document.name);
      const bool secret = at.to_string().starts_with("/secrets");
      REQUIRE_MESSAGE(imported.plan, document.name << " " << at.to_string());
      CHECK_MESSAGE((secret || imported.plan->find(marker) != std::string::npos),
                    document.name << " " << at.to_string() << "\n"
                                  << *imported.plan);
      check_sound(imported);
    });
    CHECK(places > 2);
  }
}

TEST_CASE("whatever a value is replaced by is in the plan or in a comment") {
  for (const Document& document : documents()) {
    std::size_t places = 0;
    for_each_place(document.json, Json::json_pointer(), [&](const Json& json, const auto& at) {
      if (json.is_object() || json.is_array()) return;
      ++places;
      const std::string marker = fmt::format("marker-{}", places);
      Json changed = document.json;
      changed[at] = marker;
      const Imported imported = import_text(changed.dump(), document.name);
      if (!imported.plan) {
        // Only what the format is known by.
        CHECK_MESSAGE(at.to_string() == "/apiVersion", document.name << " " << at.to_string());
        return;
      }
      const bool secret = at.to_string().starts_with("/secrets");
      CHECK_MESSAGE((secret || imported.plan->find(marker) != std::string::npos),
                    document.name << " " << at.to_string() << "\n"
                                  << *imported.plan);
      check_sound(imported);
    });
    CHECK(places > 5);
  }
}

TEST_CASE("no value of a document can change without a change in what is written") {
  for (const Document& document : documents()) {
    const std::string before = *import_text(document.json.dump(), document.name).plan;
    std::size_t places = 0;
    for_each_place(document.json, Json::json_pointer(), [&](const Json& json, const auto& at) {
      if (!json.is_string() || at.to_string().starts_with("/secrets")) return;
      ++places;
      // Another of its kind where it has a digit, which stays right; else another word.
      std::string other = json.template get<std::string>();
      const auto digit = other.find_first_of("12345678");
      if (digit == std::string::npos) {
        other += "x";
      } else {
        ++other[digit];
      }
      Json changed = document.json;
      changed[at] = other;
      const Imported imported = import_text(changed.dump(), document.name);
      CHECK_MESSAGE(imported.plan != before, document.name << " " << at.to_string());
    });
    CHECK(places > 5);
  }
}

TEST_CASE("whatever a part is left out the rest is read") {
  for (const Document& document : documents()) {
    for_each_place(document.json, Json::json_pointer(), [&](const Json&, const auto& at) {
      if (at.empty()) return;
      Json changed = document.json;
      Json& parent = changed[at.parent_pointer()];
      if (parent.is_object()) {
        parent.erase(at.back());
      } else {
        parent.erase(std::stoul(at.back()));
      }
      check_sound(import_text(changed.dump(), document.name));
    });
  }
}

TEST_CASE("whatever kind of value stands where another is expected the rest is read") {
  for (const Document& document : documents()) {
    for_each_place(document.json, Json::json_pointer(), [&](const Json&, const auto& at) {
      for (const Json& other : {Json(nullptr), Json(-7), Json::array(), Json::object(),
                                Json::array({"one", Json::object()}), Json({{"inner", "value"}})}) {
        Json changed = document.json;
        changed[at] = other;
        check_sound(import_text(changed.dump(), document.name));
      }
    });
  }
}

/// The commands of a file, its continued lines joined.
std::vector<std::vector<std::string>> commands_of(const std::string& name) {
  const auto commands =
      split_line(text_of(fs::path(SQUALL_EXAMPLES_DIR) / name)
                     .substr(0, text_of(fs::path(SQUALL_EXAMPLES_DIR) / name).find("echo done")));
  REQUIRE(commands);
  std::vector<std::vector<std::string>> words;
  for (const Command& command : *commands) words.push_back(command.words);
  REQUIRE(words.size() > 10);
  return words;
}

TEST_CASE("whatever a word of a command line is replaced by is in the plan or in a comment") {
  for (const auto& [file, from] :
       {std::pair("pumba.txt", "pumba"), std::pair("chaosblade.txt", "chaosblade")}) {
    for (const std::vector<std::string>& words : commands_of(file)) {
      const std::string program = from == std::string("pumba") ? "pumba" : "blade";
      const auto begin = std::find_if(words.begin(), words.end(), [&](const std::string& word) {
        return program_name(word) == program;
      });
      REQUIRE(begin != words.end());
      for (std::size_t n = 1; begin + static_cast<std::ptrdiff_t>(n) != words.end(); ++n) {
        std::vector<std::string> changed(begin, words.end());
        changed[n] = "marker-x";
        const Imported imported = import_command(changed, from);
        REQUIRE(imported.plan);
        CHECK_MESSAGE(imported.plan->find("marker-x") != std::string::npos,
                      fmt::format("{}\n{}", fmt::join(changed, " "), *imported.plan));
        check_sound(imported);
        changed.insert(changed.begin() + static_cast<std::ptrdiff_t>(n), "--stray=marker-y");
        const Imported stray = import_command(changed, from);
        REQUIRE(stray.plan);
        CHECK_MESSAGE(stray.plan->find("marker-y") != std::string::npos,
                      fmt::format("{}\n{}", fmt::join(changed, " "), *stray.plan));
      }
    }
  }
}

TEST_CASE("no number of a command line can change without a change in what is written") {
  for (const auto& [file, from] :
       {std::pair("pumba.txt", "pumba"), std::pair("chaosblade.txt", "chaosblade")}) {
    for (const std::vector<std::string>& words : commands_of(file)) {
      const std::string before = *import_command(words, from).plan;
      for (std::size_t n = 1; n < words.size(); ++n) {
        std::vector<std::string> changed = words;
        const auto digit = changed[n].find_first_of("12345678");
        if (digit == std::string::npos) continue;
        ++changed[n][digit];
        CHECK_MESSAGE(import_command(changed, from).plan != before,
                      fmt::format("{}", fmt::join(changed, " ")));
      }
    }
  }
}

TEST_CASE("texts that are cut off or changed are refused or become sound plans") {
  std::mt19937 random(7);
  for (const fs::path& path : examples()) {
    CAPTURE(path.filename().string());
    const std::string text = text_of(path);
    for (std::size_t size = 0; size < text.size(); size += 61) {
      check_sound(import_text(text.substr(0, size), "x"));
    }
    for (int round = 0; round < 60; ++round) {
      std::string changed = text;
      for (int n = 0; n < 4; ++n) {
        changed[random() % changed.size()] = static_cast<char>(random() % 256);
      }
      check_sound(import_text(changed, "x"));
    }
  }
}

TEST_CASE("no text of the source leaves its line or reaches the terminal as it is") {
  const std::string hostile =
      "\\u001b[2J evil\\nmethod: []\\n# \\u0085\\u2028\\u202e\\u0007\\u007f # : {";
  const std::string text = R"({"title": ")" + hostile + R"(", "stray)" + hostile + R"(": ")" +
                           hostile + R"(", "method": [{"type": "probe", "name": ")" + hostile +
                           R"("}]})";
  const Imported imported = import_text(text, "x.json");
  REQUIRE(imported.plan);
  check_sound(imported);
  for (const char* raw : {"\x1b", "\xC2\x85", "\xE2\x80\xA8", "\xE2\x80\xAE", "\x07", "\x7f"}) {
    CHECK(imported.plan->find(raw) == std::string::npos);
  }
  CHECK(imported.plan->find("\\x1b[2J evil\\nmethod: []\\n#") != std::string::npos);
  CHECK(imported.plan->find("\nmethod: []\n") == imported.plan->rfind("\nmethod: []\n"));
}

std::string refused(const std::string& text, std::string_view from = "") {
  const Imported imported = import_text(text, "x", from);
  CHECK_FALSE(imported.plan);
  return format_diagnostics(imported.diagnostics, false);
}

TEST_CASE("what is no experiment is refused with what is wrong") {
  const std::string known =
      "  it may be one of Chaos Toolkit, Chaos Mesh, AWS FIS, Pumba and ChaosBlade\n";
  CHECK(refused("") == "x: error: this is no experiment that is known here\n" + known);
  CHECK(refused("hello: world\n") ==
        "x: error: this is no experiment that is known here\n" + known);
  CHECK(refused("plan: x\nmethod: []\n") == "x: error: this is a plan of Squall's already\n");
  CHECK(refused("apiVersion: chaos-mesh.org/v1alpha1\nspec: {}\n---\nsecond: 1\n") ==
        "x:3:1: error: a second document\n  ---\n  ^\n  one file is one plan\n");
  CHECK(refused(std::string((1 << 20) + 1, ' ')) ==
        "x: error: 1048577 bytes are too many\n  an experiment has at most 1 MiB\n");
  CHECK(refused(R"({"a": 1, "a": 2})") == "x: error: \"a\" is given twice\n");
  CHECK(refused(std::string(100'000, '[')) == "x: error: nested more than 64 levels deep\n");
  CHECK(refused(std::string(100'000, '{')).starts_with("x:1:2: error: this is not JSON: "));
}

TEST_CASE("credentials of an experiment are not shown in a comment of the plan") {
  const Imported imported = import_text(
      R"({"title": "t", "steady-state-hypothesis": {"title": "ok", "probes": [
  {"type": "probe", "name": "web", "tolerance": 200,
   "provider": {"type": "http", "url": "http://h/", "auth": ["ana", "s3cret"]}}]},
  "method": []})",
      "t.json", "");
  REQUIRE(imported.plan);
  CHECK(imported.plan->find("provider.auth: not shown") != std::string::npos);
  CHECK(imported.plan->find("s3cret") == std::string::npos);
}

TEST_CASE("an action that only takes something back maps whole, name and all") {
  const Imported imported = import_text(
      R"({"title": "t", "method": [{"type": "action", "name": "undo", "provider":
  {"type": "process", "path": "tc", "arguments": "qdisc del dev eth0 root"}}]})",
      "t.json", "");
  REQUIRE(imported.plan);
  CHECK(imported.plan->find("not mapped") == std::string::npos);
}

TEST_CASE("of two ways to say a StressChaos the one that Chaos Mesh takes is taken") {
  const Imported imported = import_text(R"(apiVersion: chaos-mesh.org/v1alpha1
kind: StressChaos
metadata: {name: burn}
spec:
  mode: all
  selector: {labelSelectors: {app: web}}
  duration: 30s
  stressngStressors: --cpu 2 --cpu-load 50
  stressors: {cpu: {workers: 1, load: 20}}
)",
                                        "t.yaml", "");
  REQUIRE(imported.plan);
  CHECK(imported.plan->find("load: 50%") != std::string::npos);
  CHECK(imported.plan->find("load: 20%") == std::string::npos);
  CHECK(imported.plan->find("stressors: {cpu: {workers: 1, load: 20}}") != std::string::npos);
}

TEST_CASE("a document is read as the format that it is said to be") {
  CHECK(import_text("method: []\n", "x", "chaostoolkit").plan);
  CHECK_FALSE(import_text("method: []\n", "x").plan);
  CHECK(import_text("kill web\n", "x", "pumba").plan);
}

TEST_CASE("a command line needs no program in front of it") {
  const std::vector<std::string> without = {"kill", "--signal", "SIGTERM", "4f5a1c0b9d3e"};
  std::vector<std::string> with = without;
  with.insert(with.begin(), "pumba");
  const Imported imported = import_command(without, "pumba");
  REQUIRE(imported.plan);
  CHECK(*imported.plan == *import_command(with, "pumba").plan);
  CHECK(imported.plan->find("container: 4f5a1c0b9d3e") != std::string::npos);
  CHECK_FALSE(import_command(without, "fis").plan);
  CHECK_FALSE(import_command(std::vector<std::string>{"kill", "\xff"}, "pumba").plan);
}

TEST_CASE("what is no regular file of at most 1 MiB is refused") {
  const auto told = [](const std::string& path) {
    return format_diagnostics(import_file(path).diagnostics, false);
  };
  CHECK(told("/nowhere/x") == "/nowhere/x: error: No such file or directory\n");
  CHECK(told("/") == "/: error: is a directory\n");
  CHECK(told("/dev/null") == "/dev/null: error: is not a file\n");
}

}  // namespace
}  // namespace squall::importing
