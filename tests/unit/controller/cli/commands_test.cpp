#include "controller/cli/commands.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace squall::cli {
namespace {

namespace fs = std::filesystem;

/// A folder of its own, which is also the state directory, gone with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "squall-cli-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
    setenv("SQUALL_STATE_DIR", path.c_str(), 1);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
    unsetenv("SQUALL_STATE_DIR");
  }
  fs::path path;
};

std::string text_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Told {
  int code = 0;
  std::string error;  ///< What went to standard error.
};

Told call(int (*command)(const Invocation&), const Invocation& said, const fs::path& folder) {
  const fs::path caught = folder / "stderr";
  std::fflush(stderr);
  const int kept = dup(STDERR_FILENO);
  const int file = open(caught.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  dup2(file, STDERR_FILENO);
  Told told;
  told.code = command(said);
  std::fflush(stderr);
  dup2(kept, STDERR_FILENO);
  close(kept);
  close(file);
  told.error = text_of(caught);
  return told;
}

fs::path plan_in(const fs::path& folder) {
  const fs::path plan = folder / "plan.yaml";
  std::ofstream(plan) << "plan: a test\n"
                         "nodes: {local: {}}\n"
                         "steady_state:\n"
                         "  - {name: up, exec: {run: [\"true\"]}, expect: [exit == 0]}\n"
                         "method:\n"
                         "  - {cpu: {load: 1%}, for: 1s}\n";
  return plan;
}

}  // namespace

TEST_CASE("a report that could not be written is refused before anything is started") {
  const Folder folder;
  Invocation said;
  said.files = {plan_in(folder.path)};
  const fs::path nowhere = folder.path / "none" / "report";
  SUBCASE("json") { said.json_file = nowhere; }
  SUBCASE("junit") { said.junit_file = nowhere; }
  const Told told = call(run_plan, said, folder.path);
  CHECK(told.code == kRefused);
  CHECK(told.error == "squall: cannot write " + nowhere.string() +
                          ": No such file or directory; nothing was started\n");
  CHECK_FALSE(fs::exists(folder.path / "runs"));
}

TEST_CASE("an import says by its exit code whether a person has to look at it") {
  const Folder folder;
  Invocation said;
  said.files = {"kill", "4f5a1c0b9d3e"};
  CHECK(call(import_experiment, said, folder.path).code == kRefused);
  said.from = "pumba";
  const Told told = call(import_experiment, said, folder.path);
  CHECK(told.code == kNo);
  CHECK(told.error == "squall: not mapped: 0, to decide: 1; each has its comment in the plan\n");
  said.files = {folder.path / "none"};
  const Told none = call(import_experiment, said, folder.path);
  CHECK(none.code == kRefused);
  CHECK(none.error == said.files.front() + ": error: No such file or directory\n");
}

TEST_CASE("a log without an event is no run to report") {
  const Folder folder;
  const fs::path log = folder.path / "events.jsonl";
  std::ofstream(log).flush();
  Invocation said;
  said.run = folder.path;
  for (const char* format : {"text", "json", "junit"}) {
    said.format = format;
    const Told told = call(report, said, folder.path);
    CHECK(told.code == kRefused);
    CHECK(told.error == "squall: " + log.string() + ": no event in it\n");
  }
}

TEST_CASE("explain writes its pages to a folder that it makes") {
  const Folder folder;
  Invocation said;
  said.markdown_folder = (folder.path / "docs" / "reference" / "").string();
  fs::create_directories(folder.path / "docs" / "faults");
  std::ofstream(folder.path / "docs" / "faults" / "processes.md") << "# both\n\n## kill\n";
  const Told told = call(explain, said, folder.path);
  CHECK(told.code == kSuccess);
  CHECK(told.error == "");
  CHECK(
      text_of(folder.path / "docs/reference/kill.md")
          .ends_with("More about it: [faults/processes.md#kill](../faults/processes.md#kill).\n"));
  CHECK(fs::exists(folder.path / "docs/reference/README.md"));
}

TEST_CASE("explain says where it cannot write its pages") {
  const Folder folder;
  Invocation said;
  std::ofstream(folder.path / "file") << "";
  said.markdown_folder = (folder.path / "file" / "reference").string();
  const Told told = call(explain, said, folder.path);
  CHECK(told.code == kRefused);
  CHECK(told.error == "squall: " + said.markdown_folder + ": Not a directory\n");
}

}  // namespace squall::cli
