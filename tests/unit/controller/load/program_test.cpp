#include "controller/load/program.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "servers.h"

namespace squall::load {
namespace {

using namespace testing;
namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/squall-load-test-XXXXXX";
    path_ = mkdtemp(name);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  const fs::path& path() const { return path_; }
  std::string text_of(const std::string& name) const {
    std::ostringstream text;
    text << std::ifstream(path_ / name).rdbuf();
    return text.str();
  }

 private:
  fs::path path_;
};

v1::Load running(const std::vector<std::string>& argv, const std::string& name = "k6") {
  v1::Load load;
  load.set_name(name);
  for (const std::string& word : argv) load.mutable_run()->add_argv(word);
  return load;
}

/// Whether it stands: an ended one that nobody has waited for does not.
bool stands(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  const auto name_ends = text.rfind(')');
  return name_ends != std::string::npos && text[name_ends + 2] != 'Z';
}

/// In Perl, which every Debian has.
const std::string kSayNumber = "$| = 1; print qq($$\n);";

/// What a program wrote as its own number.
pid_t pid_in(const Folder& folder, const std::string& log) {
  const bool written = eventually([&] { return folder.text_of(log).ends_with("\n"); }, kBound);
  REQUIRE(written);
  return std::stoi(folder.text_of(log));
}

TEST_CASE("a program runs as long as the load does, and what it writes is kept") {
  const Folder folder;
  v1::Load load =
      running({"perl", "-e", kSayNumber + "print STDERR qq($ENV{WHO}\n); sleep 100"}, "far / away");
  (*load.mutable_env())["WHO"] = "shoppers";
  Run run(make_program(load, folder.path()));
  REQUIRE(run.started.ok());
  CHECK(run.load().numbers() == nullptr);
  const bool written = eventually(
      [&] { return folder.text_of("load-far___away.log").ends_with("shoppers\n"); }, kBound);
  REQUIRE(written);
  const pid_t pid = std::stoi(folder.text_of("load-far___away.log"));
  CHECK(stands(pid));
  const v1::LoadEnded ended = run.end();
  CHECK_FALSE(stands(pid));
  CHECK_FALSE(ended.has_exit());
  CHECK(ended.words().starts_with("perl ran for "));
  CHECK(ended.words().ends_with(", until it was ended"));
}

TEST_CASE("a program is asked to end, and what it has started ends with it") {
  const Folder folder;
  Run run(make_program(running({"perl", "-e",
                                "$| = 1; $SIG{TERM} = sub { print qq(ended\n); exit 0 };"
                                "$child = fork; if (!$child) { sleep 100; exit }"
                                "print qq($child\n); sleep 100"}),
                       folder.path()));
  const pid_t child = pid_in(folder, "load-k6.log");
  const MonotonicTime begun = monotonic_now();
  run.end();
  CHECK(monotonic_now() - begun < 1900ms);
  CHECK(folder.text_of("load-k6.log").ends_with("\nended\n"));
  const bool gone = eventually([&] { return !stands(child); }, kBound);
  CHECK(gone);
}

TEST_CASE("a program that does not end when it is asked to is ended") {
  const Folder folder;
  Run run(make_program(running({"perl", "-e", "$SIG{TERM} = 'IGNORE';" + kSayNumber + "sleep 100"}),
                       folder.path()));
  const pid_t pid = pid_in(folder, "load-k6.log");
  SUBCASE("after two seconds") {
    const MonotonicTime begun = monotonic_now();
    run.end();
    CHECK(monotonic_now() - begun >= 2s);
  }
  SUBCASE("at once in haste") { run.end(true); }
  const bool gone = eventually([&] { return !stands(pid); }, kBound);
  CHECK(gone);
}

TEST_CASE("a program that fails says how") {
  const Folder folder;
  Run run(make_program(running({"perl", "-e", "exit 3"}), folder.path()));
  const std::string told = run.failed();
  CHECK(told.starts_with("perl ended after "));
  CHECK(told.ends_with(" with exit 3 (its output: " + (folder.path() / "load-k6.log").native() +
                       ")"));
  CHECK(run.end().exit() == 3);

  Run killed(make_program(running({"perl", "-e", "kill 9, $$"}), folder.path()));
  CHECK(killed.failed().find(" by signal 9 ") != std::string::npos);
}

TEST_CASE("a program that cannot be started is named, and why") {
  const Folder folder;
  const auto refusal = [&](const std::vector<std::string>& argv) {
    const Run run(make_program(running(argv), folder.path()));
    return message_of(run.started);
  };
  CHECK(refusal({"no-such-program"}) == "cannot run no-such-program: no such file or directory");
  CHECK(refusal({"/etc/passwd"}) == "cannot run /etc/passwd: permission denied");
  CHECK(refusal({"/nowhere/at/all"}) == "cannot run /nowhere/at/all: no such file or directory");
}

TEST_CASE("a program dies with the process that has started it") {
  const Folder folder;
  const pid_t parent = fork();
  REQUIRE(parent >= 0);
  if (parent == 0) {
    asio::io_context loop;
    const auto load =
        make_program(running({"perl", "-e", kSayNumber + "sleep 100"}), folder.path());
    if (!load->start(loop.get_executor()).ok()) _exit(1);
    for (;;) pause();
  }
  const pid_t pid = pid_in(folder, "load-k6.log");
  CHECK(stands(pid));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  const bool gone = eventually([&] { return !stands(pid); }, kBound);
  CHECK(gone);
}

}  // namespace
}  // namespace squall::load
