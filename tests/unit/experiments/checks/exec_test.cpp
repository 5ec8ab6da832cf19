#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <vector>

#include "asking.h"
#include "tests/support/eventually.h"
#include "tests/support/process.h"

namespace squall::checks {
namespace {

using namespace testing;

v1::Check exec_check(const std::vector<std::string>& run, Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  for (const std::string& word : run) check.mutable_exec()->add_run(word);
  return check;
}

Sample ask_exec(const std::vector<std::string>& run, Duration timeout = 10s) {
  asio::io_context loop;
  const auto check = make_check(exec_check(run, timeout));
  return ask(loop, *check);
}

/// Whether it runs. What is dead but unreaped does not: PID 1 of a container takes its time.
bool runs(long pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string line;
  if (!std::getline(file, line)) return false;
  const auto state = line.find(") ");
  return state != std::string::npos && line[state + 2] != 'Z' && line[state + 2] != 'X';
}

/// No child of this process is left, not even a zombie.
bool childless() {
  siginfo_t info{};
  return waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 && errno == ECHILD;
}

/// Reaps what earlier tests killed in loops that ended before they could: a zombie is only then not
/// this test's.
void bury_the_dead() {
  REQUIRE(support::eventually(
      [] {
        siginfo_t info{};
        return waitid(P_ALL, 0, &info, WEXITED | WNOHANG) != 0 && errno == ECHILD;
      },
      kBound));
}

TEST_CASE("the value of an exec check is the first number in its output") {
  const auto value = [](const char* output) {
    const Sample sample = ask_exec({"printf", "%s", output});
    const auto found = sample.numbers.find("value");
    return found == sample.numbers.end() ? std::nullopt : std::optional(found->second);
  };
  CHECK(value("17\n") == 17);
  CHECK(value("lag: -2.5 s of 10") == -2.5);
  CHECK(value("1e3") == 1000);
  CHECK(value("  .5") == .5);
  CHECK_FALSE(value("none").has_value());
  CHECK_FALSE(value("nan").has_value());
}

TEST_CASE("an exec check tells the exit code and standard output") {
  bury_the_dead();
  const Sample sample = ask_exec({"echo", "queue", "17; rm -rf $HOME"});
  CHECK(sample.error == "");
  CHECK(sample.exit == 0);
  CHECK(sample.output == "queue 17; rm -rf $HOME\n");
  CHECK(ask_exec({"perl", "-e", "exit 3"}).exit == 3);
  CHECK(ask_exec({"perl", "-e", "kill 9, $$"}).exit == 128 + 9);
  CHECK(childless());
}

TEST_CASE("a program that is not there is told by name") {
  const Sample sample = ask_exec({"no-such-program"});
  CHECK(sample.error == "cannot run no-such-program: no such file or directory");
  CHECK_FALSE(sample.exit.has_value());
}

TEST_CASE("a checked program sees PATH and its own environment only") {
  setenv("SQUALL_TEST_SECRET", "1", 1);
  asio::io_context loop;
  v1::Check wanted = exec_check({"env"});
  (*wanted.mutable_exec()->mutable_env())["QUEUE"] = "orders";
  const Sample sample = ask(loop, *make_check(wanted));
  unsetenv("SQUALL_TEST_SECRET");
  std::set<std::string> names;
  std::istringstream lines(sample.output);
  for (std::string line; std::getline(lines, line);) names.insert(line.substr(0, line.find('=')));
  CHECK(names == std::set<std::string>{"PATH", "QUEUE"});
}

TEST_CASE("a checked program inherits no descriptor and reads an empty input") {
  const int leaky =
      open("/dev/null", O_RDONLY);  // not close-on-exec, as a careless library's would be
  const Sample sample =
      ask_exec({"perl", "-e", "print join ' ', grep { -e \"/proc/self/fd/$_\" } 0..99"});
  close(leaky);
  CHECK(sample.output == "0 1 2");
  CHECK(ask_exec({"cat"}).exit == 0);
}

TEST_CASE("output is kept up to 64 KiB, and a program that writes more still ends") {
  const Sample sample = ask_exec({"perl", "-e", "print 'a' x 300000"});
  CHECK(sample.exit == 0);
  CHECK(sample.output == std::string(64 * 1024, 'a'));
}

TEST_CASE("a program that is late is ended with all that it started") {
  const Sample sample = ask_exec(
      {"perl", "-e",
       "$| = 1; my $child = fork; if (!$child) { sleep 60; exit } print \"$$ $child\"; sleep 60"},
      400ms);
  CHECK(sample.error == "timeout after 400ms");
  CHECK_FALSE(sample.exit.has_value());
  CHECK(sample.latency >= 400ms);
  std::istringstream pids(sample.output);
  long parent = 0;
  long child = 0;
  pids >> parent >> child;
  REQUIRE(parent > 1);
  REQUIRE(child > 1);
  CHECK(support::eventually([&] { return !runs(parent) && !runs(child); }, kBound));
}

TEST_CASE("a program that is late is reaped by the loop") {
  bury_the_dead();
  asio::io_context loop;
  const auto check = make_check(exec_check({"sleep", "60"}, 50ms));
  for (int round = 0; round < 3; ++round) CHECK(ask(loop, *check).error == "timeout after 50ms");
  run_until(loop, childless);
}

TEST_CASE("what a program leaves running is ended, and is not waited for") {
  const Sample sample = ask_exec(
      {"perl", "-e", "$| = 1; my $child = fork; if (!$child) { sleep 60; exit } print $child"});
  CHECK(sample.exit == 0);
  CHECK(sample.latency < kBound);
  const long child = std::stol(sample.output);
  CHECK(support::eventually([&] { return !runs(child); }, kBound));
}

TEST_CASE("an exec asking that is cancelled ends its program at once") {
  bury_the_dead();
  asio::io_context loop;
  const auto check = make_check(exec_check({"sleep", "60"}, 60s));
  const Sample answer = ask_and_cancel(loop, *check, [] { CHECK_FALSE(childless()); });
  CHECK(answer.error == "cancelled");
  run_until(loop, childless);
}

TEST_CASE("a loop that ends in the middle of an exec asking leaves no program running") {
  bury_the_dead();
  const auto check = make_check(exec_check({"sleep", "60"}, 60s));
  {
    asio::io_context loop;
    const auto answer = begin(loop, *check);
    loop.poll();
    CHECK_FALSE(childless());
  }
  // Nobody is left to reap it, but it does not run on.
  bury_the_dead();
}

TEST_CASE("a program whose asker is frozen is ended by the kernel soon after its time is up") {
  asio::io_context loop;
  const auto check = make_check(exec_check({"sleep", "1000"}, 50ms));
  const auto answer = begin(loop, *check);
  loop.poll();  // and no more: nobody is there to see that it is late
  const std::vector<pid_t> started = support::children_of(getpid(), "sleep");
  REQUIRE(started.size() == 1);
  CHECK(support::eventually([&] { return !runs(started[0]); }, kBound));
  run_until(loop, [&] { return answer->has_value(); });
}

TEST_CASE("a program whose asker dies dies with it") {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  const pid_t asker = fork();
  if (asker == 0) {
    asio::io_context loop;
    const auto check = make_check(exec_check({"sleep", "1000"}));
    const auto answer = begin(loop, *check);
    loop.poll();
    const std::vector<pid_t> started = support::children_of(getpid(), "sleep");
    const pid_t pid = started.empty() ? 0 : started[0];
    if (write(ends[1], &pid, sizeof pid) != sizeof pid) _exit(1);
    kill(getpid(), SIGKILL);
  }
  pid_t program = 0;
  REQUIRE(read(ends[0], &program, sizeof program) == sizeof program);
  close(ends[0]);
  close(ends[1]);
  REQUIRE(program > 0);
  CHECK(waitpid(asker, nullptr, 0) == asker);
  CHECK(support::eventually([&] { return !runs(program); }, kBound));
}

TEST_CASE("a program is looked for on the PATH, and no shell reads one that the kernel does not") {
  CHECK(ask_exec({"true"}).exit == 0);
  CHECK(ask_exec({"no-such-program"}).error ==
        "cannot run no-such-program: no such file or directory");
  CHECK(ask_exec({"/etc/passwd"}).error == "cannot run /etc/passwd: permission denied");
  std::string script = std::filesystem::temp_directory_path() / "squall-script-XXXXXX";
  const int file = mkstemp(script.data());
  REQUIRE(file >= 0);
  CHECK(write(file, "exit 0\n", 7) == 7);
  CHECK(fchmod(file, 0700) == 0);
  close(file);
  CHECK(ask_exec({script}).error == "cannot run " + script + ": exec format error");
  std::filesystem::remove(script);
}

}  // namespace
}  // namespace squall::checks
