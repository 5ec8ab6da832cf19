/// \file
/// Holds every #include of the project against the table in floors_and_doors.txt, and looks for
/// shells. What the table does not allow is found here, not in a review.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

namespace fs = std::filesystem;

struct Table {
  std::map<std::string, std::vector<std::string>> floors;
  std::map<std::string, std::vector<std::string>> doors;
};

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

Table parse_table(std::istream& in) {
  Table table;
  for (std::string line; std::getline(in, line);) {
    line.resize(std::min(line.find('#'), line.size()));
    if (words_of(line).empty()) continue;
    const std::size_t colon = line.rfind(':');
    REQUIRE_MESSAGE(colon != std::string::npos, line);
    const std::vector<std::string> head = words_of(line.substr(0, colon));
    REQUIRE_MESSAGE(head.size() == 2, line);
    REQUIRE_MESSAGE((head[0] == "floor" || head[0] == "door"), line);
    (head[0] == "floor" ? table.floors : table.doors)[head[1]] = words_of(line.substr(colon + 1));
  }
  return table;
}

/// Whether the path is the place, or a file below it.
bool is_in(std::string_view path, std::string_view place) {
  return path.starts_with(place) && (path.size() == place.size() || path[place.size()] == '/');
}

/// The floor that a path of ours stands on; empty: none. Generated headers are the api's.
std::string floor_of(const Table& table, std::string_view path) {
  if (path.starts_with("squall/v1/")) return "api";
  for (const auto& [floor, allowed] : table.floors) {
    if (is_in(path, floor)) return floor;
  }
  return "";
}

bool allows(const std::vector<std::string>& places, std::string_view path) {
  return std::any_of(places.begin(), places.end(),
                     [&](const std::string& place) { return is_in(path, place); });
}

bool is_ours(std::string_view header) {
  for (const std::string_view top : {"api", "experiments", "controller", "injector", "tests"}) {
    if (is_in(header, top)) return true;
  }
  return header.starts_with("squall/v1/");
}

/// What is wrong with one file, a sentence each.
std::vector<std::string> check_includes(const Table& table, const std::string& path,
                                        const std::string& text) {
  static const std::regex kInclude(R"(^[ \t]*#[ \t]*include[ \t]*[<"]([^>"]+)[>"])",
                                   std::regex::multiline);
  std::vector<std::string> found;
  const std::string floor = floor_of(table, path);
  if (floor.empty()) found.push_back(path + " stands on no floor of the table");
  for (std::sregex_iterator it(text.begin(), text.end(), kInclude), end; it != end; ++it) {
    const std::string header = (*it)[1];
    if (is_ours(header) && !floor.empty()) {
      const std::string other = floor_of(table, header);
      if (other != floor && !allows(table.floors.at(floor), other.empty() ? header : other)) {
        found.push_back(path + " includes " + header + ", which " + floor + " may not");
      }
    }
    const std::vector<std::string>* places = nullptr;
    std::size_t longest = 0;
    for (const auto& [prefix, allowed] : table.doors) {
      if (header.starts_with(prefix) && prefix.size() > longest) {
        longest = prefix.size();
        places = &allowed;
      }
    }
    if (places != nullptr && !allows(*places, path)) {
      found.push_back(path + " includes " + header + ", which is not its door");
    }
  }
  return found;
}

/// Uses of a shell in one file. Comments may speak of them.
std::vector<std::string> check_shells(const std::string& path, const std::string& text) {
  static const std::regex kComment(R"(//[^\n]*)");
  static const std::regex kCall(R"((^|[^A-Za-z0-9_])(system|popen)[ \t]*\()",
                                std::regex::multiline);
  static const std::regex kShell(R"re("(/[a-z/]*)?(ba|da|z)?sh"[ \t\n]*,[ \t\n]*"-[a-z]*c")re");
  const std::string code = std::regex_replace(text, kComment, "");
  std::vector<std::string> found;
  if (std::regex_search(code, kCall)) found.push_back(path + " calls system() or popen()");
  if (std::regex_search(code, kShell)) found.push_back(path + " starts a shell");
  return found;
}

std::string read(const fs::path& path) {
  std::ifstream in(path);
  REQUIRE_MESSAGE(in.good(), path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

const fs::path kSource = SQUALL_SOURCE_DIR;

Table project_table() {
  std::ifstream in(kSource / "tests/unit/floors_and_doors.txt");
  REQUIRE(in.good());
  return parse_table(in);
}

/// Every C++ file below a folder of the project, by its path from the root.
std::vector<std::string> sources(const std::string& folder) {
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(kSource / folder)) {
    const std::string extension = entry.path().extension();
    if (extension == ".cpp" || extension == ".h" || extension == ".c") {
      found.push_back(fs::relative(entry.path(), kSource));
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

TEST_CASE("every include keeps to the floors and doors") {
  const Table table = project_table();
  std::size_t files = 0;
  for (const std::string folder : {"experiments", "controller", "injector"}) {
    for (const std::string& path : sources(folder)) {
      ++files;
      for (const std::string& sentence : check_includes(table, path, read(kSource / path))) {
        FAIL_CHECK(sentence);
      }
    }
  }
  CHECK(files > 10);
}

TEST_CASE("nothing starts a shell") {
  for (const std::string folder : {"experiments", "controller", "injector", "tests"}) {
    for (const std::string& path : sources(folder)) {
      if (path == "tests/unit/floors_and_doors_test.cpp") continue;
      for (const std::string& sentence : check_shells(path, read(kSource / path)))
        FAIL_CHECK(sentence);
    }
  }
}

TEST_CASE("a planted violation is found") {
  const Table table = project_table();
  const auto includes = [&](const std::string& path, const std::string& header) {
    return check_includes(table, path, "#pragma once\n\n  # include \"" + header + "\"\n").size();
  };
  CHECK(includes("experiments/base/units.cpp", "experiments/base/units.h") == 0);
  CHECK(includes("experiments/base/units.cpp", "experiments/plan/load.h") == 1);
  CHECK(includes("experiments/base/units.cpp", "squall/v1/plan.pb.h") == 1);
  CHECK(includes("experiments/plan/load.cpp", "squall/v1/plan.pb.h") == 0);
  CHECK(includes("experiments/plan/load.cpp", "experiments/checks/check.h") == 1);
  CHECK(includes("controller/run/engine.cpp", "injector/faults/fault.h") == 1);
  CHECK(includes("injector/hold/main.cpp", "controller/run/engine.h") == 1);
  CHECK(includes("injector/hold/main.cpp", "experiments/plan/load.h") == 1);
  CHECK(includes("controller/run/engine.cpp", "tests/support/child.h") == 1);
  CHECK(includes("controller/run/engine.cpp", "yaml.h") == 1);
  CHECK(includes("injector/hold/main.cpp", "grpcpp/grpcpp.h") == 1);
  CHECK(includes("injector/hold/main.cpp", "squall/v1/node.grpc.pb.h") == 1);
  CHECK(includes("controller/new/thing.cpp", "vector") == 1);

  const auto shells = [](const std::string& code) { return check_shells("x.cpp", code).size(); };
  CHECK(shells("int x = std::system (\"ls\");") == 1);
  CHECK(shells("FILE* f = popen(\"ls\", \"r\");") == 1);
  CHECK(shells("run({\"/bin/sh\", \"-c\", text});") == 1);
  CHECK(shells("run({\"bash\",\n  \"-ec\", text});") == 1);
  CHECK(shells("// never system(\nfile_system(1); // popen(\n") == 0);
}

}  // namespace
