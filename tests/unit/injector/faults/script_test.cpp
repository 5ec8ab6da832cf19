#include <doctest/doctest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/ends.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"

namespace squall::hold {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
namespace fs = std::filesystem;

/// A folder of programs.
class Programs {
 public:
  /// Makes one, in sh, and returns its path.
  std::string make(const std::string& name, const std::string& text) const {
    const fs::path file = folder_.path() / name;
    std::ofstream(file) << "#!/bin/sh\n" << text << '\n';
    REQUIRE(::chmod(file.c_str(), 0755) == 0);
    return file;
  }

  fs::path path(const std::string& name) const { return folder_.path() / name; }
  bool has(const std::string& name) const { return fs::exists(path(name)); }

  std::string content(const std::string& name) const {
    std::ifstream file(path(name));
    return {std::istreambuf_iterator<char>(file), {}};
  }

 private:
  TemporaryFolder folder_;
};

v1::Fault script(const std::vector<std::string>& run, const std::vector<std::string>& undo,
                 Duration timeout = seconds(20)) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(minutes(5)).count());
  fault.mutable_script()->mutable_run()->Assign(run.begin(), run.end());
  fault.mutable_script()->mutable_undo()->Assign(undo.begin(), undo.end());
  fault.mutable_script()->set_timeout(timeout.count());
  return fault;
}

std::string refusal_of(const Namespace& node, const v1::Fault& fault) {
  try {
    Holder(node).inject(fault, minutes(1));
  } catch (const std::runtime_error& refused) {
    return refused.what();
  }
  return "not refused";
}

TEST_CASE("a script runs with its arguments as they are and its undo when the fault ends") {
  const Namespace node;
  const Programs programs;
  const std::string broken = programs.path("broken");
  ::setenv("SQUALL_TEST_SECRET", "secret", 1);
  const std::string run = programs.make(
      "run", "printf '%s|' \"$@\" > " + broken + "\nenv\nreadlink /proc/self/fd/0\npwd");
  const std::string undo = programs.make("undo", "rm \"$1\"");
  Holder holder(node);
  const v1::Evidence evidence =
      holder.inject(script({run, "a b", "$(id)", "*;"}, {undo, broken}), minutes(1));
  ::unsetenv("SQUALL_TEST_SECRET");
  CHECK(evidence.effect());
  CHECK(evidence.script().exit() == 0);
  CHECK(programs.content("broken") == "a b|$(id)|*;|");
  const std::string& output = evidence.script().output();
  CHECK(output.find("SQUALL_FAULT=squall:") != std::string::npos);
  CHECK(output.find("secret") == std::string::npos);
  CHECK(output.ends_with("/dev/null\n/\n"));
  CHECK(holder.release() == std::vector<std::string>());
  CHECK_FALSE(programs.has("broken"));
}

TEST_CASE("a script is undone however it ends and whoever has crashed") {
  const Programs programs;
  const std::string broken = programs.path("broken");
  const std::string run = programs.make("run", "touch " + broken);
  const std::string undo = programs.make("undo", "rm -f " + broken);
  WatchedFault watched;
  watched.fault = script({run}, {undo});
  watched.acts = [&] { return programs.has("broken"); };
  watched.restored = [&] { return !programs.has("broken"); };
  const std::string guardrails = programs.path("guardrails.yaml");
  std::ofstream(guardrails) << "scripts: [" << run << ", " << undo << "]\n";
  ::setenv("SQUALL_GUARDRAILS", guardrails.c_str(), 1);
  for (const std::string& failed : endings_that_fail(watched)) FAIL_CHECK(failed);
  ::unsetenv("SQUALL_GUARDRAILS");
}

TEST_CASE("what a script leaves running ends before its undo, also what has left its session") {
  const Namespace node;
  const Programs programs;
  const std::string pids = programs.path("pids");
  // In the background, in a session of its own, and as nobody's child with another environment.
  const std::string run = programs.make(
      "run", "sleep 1000 & echo $! >> " + pids + "\nsetsid -f sh -c 'echo $$ >> " + pids +
                 "; exec sleep 1000'\n" + "setsid -f env -i sh -c 'echo $$ >> " + pids +
                 "; exec /bin/sleep 1000'\n" + "while [ $(wc -l < " + pids +
                 ") -lt 3 ]; do sleep 0.01; done");
  const std::string alive = programs.path("alive");
  const std::string undo =
      programs.make("undo", "for p in $(cat " + pids + "); do if kill -0 $p; then echo $p >> " +
                                alive + "; fi; done; exit 0");
  Holder holder(node);
  holder.inject(script({run}, {undo}), minutes(1));
  std::ifstream file(pids);
  const std::vector<pid_t> left{std::istream_iterator<pid_t>(file), {}};
  REQUIRE(left.size() == 3);
  for (const pid_t pid : left) CHECK(::kill(pid, 0) == 0);
  CHECK(holder.release() == std::vector<std::string>());
  CHECK(programs.content("alive") == "");
  for (const pid_t pid : left) CHECK(::kill(pid, 0) != 0);
}

TEST_CASE("what a killed holder's script left running is ended by the sweep") {
  const Namespace node;
  const Programs programs;
  const std::string run =
      programs.make("run", "sleep 1000 & echo $! > " + programs.path("pid").native());
  const std::string undo = programs.make("undo", "exit 0");
  Holder holder(node);
  holder.inject(script({run}, {undo}), minutes(1));
  const Stranger left(std::stoi(programs.content("pid")));
  holder.process().signal(SIGKILL);
  REQUIRE(holder.process().wait(seconds(10)).has_value());
  CHECK(sweep(node, holder.undos()).residue_size() == 0);
  CHECK(left.ends(seconds(10)));
}

TEST_CASE("a script that fails is a fault that failed and its undo is run") {
  const Namespace node;
  const Programs programs;
  const std::string undone = programs.path("undone");
  const std::string run = programs.make("run", "echo 'no \\033[31mluck'; exit 7");
  const std::string undo = programs.make("undo", "touch " + undone);
  CHECK(refusal_of(node, script({run}, {undo})) ==
        "script.run ended with status 7: no \\x1b[31mluck");
  CHECK(eventually([&] { return programs.has("undone"); }, seconds(10)));
}

TEST_CASE("a script that does not end in time is ended with all that it started and undone") {
  const Namespace node;
  const Programs programs;
  const std::string pids = programs.path("pids");
  const std::string undone = programs.path("undone");
  const std::string run =
      programs.make("run", "trap '' TERM\nsetsid -f sh -c 'echo $$ >> " + pids +
                               "; exec sleep 1000'\n" + "while [ ! -s " + pids +
                               " ]; do sleep 0.01; done\necho $$ >> " + pids + "\nsleep 1000");
  const std::string undo = programs.make("undo", "touch " + undone);
  CHECK(refusal_of(node, script({run}, {undo}, seconds(2))) == "script.run had not ended after 2s");
  CHECK(eventually([&] { return programs.has("undone"); }, seconds(10)));
  std::ifstream file(pids);
  const std::vector<pid_t> started{std::istream_iterator<pid_t>(file), {}};
  REQUIRE(started.size() == 2);
  for (const pid_t pid : started) CHECK(::kill(pid, 0) != 0);
}

TEST_CASE("an undo that fails is residue with its own words and is tried again by a sweep") {
  const Namespace node;
  const Programs programs;
  const std::string may = programs.path("may");
  const std::string run = programs.make("run", "exit 0");
  const std::string undo = programs.make("undo", "[ -e " + may + " ] || { echo not yet; exit 3; }");
  Holder holder(node);
  holder.inject(script({run}, {undo}), minutes(1));
  CHECK(holder.release() ==
        std::vector<std::string>{
            "the effect was not ended: script.undo ended with status 3: not yet"});
  const v1::Swept failed = sweep(node, holder.undos());
  REQUIRE(failed.residue_size() == 1);
  CHECK(failed.residue(0) == "what " + undo + " undoes: script.undo ended with status 3: not yet");
  std::ofstream(programs.path("may")) << "yes";
  CHECK(sweep(node, holder.undos()).residue_size() == 0);
}

TEST_CASE("of what a script says the last 4 KiB are kept, and what is said later is heard too") {
  const Namespace node;
  const Programs programs;
  const std::string go = programs.path("go");
  const std::string run =
      programs.make("run", "seq 1 20000\n(while [ ! -e " + go +
                               " ]; do sleep 0.01; done; echo later; exec sleep 1000) &");
  const std::string undo = programs.make("undo", "exit 0");
  Holder holder(node);
  const v1::Evidence evidence = holder.inject(script({run}, {undo}), minutes(1));
  CHECK(evidence.script().output().size() == 4096);
  CHECK(evidence.script().output().ends_with("\n19999\n20000\n"));
  std::ofstream(programs.path("go")) << "now";
  CHECK(eventually(
      [&] {
        const auto pulsed = holder.pulse(minutes(1));
        return pulsed && pulsed->script().output().ends_with("20000\nlater\n");
      },
      seconds(10)));
  CHECK(holder.release() == std::vector<std::string>());
}

TEST_CASE("a script is refused before anything is run where a program is missing or no program") {
  const Namespace node;
  const Programs programs;
  const std::string undone = programs.path("undone");
  const std::string good = programs.make("good", "touch " + undone);
  const std::string plain = programs.path("plain");
  std::ofstream(programs.path("plain")) << "text";
  const std::string none = programs.path("none");
  CHECK(refusal_of(node, script({"break-it"}, {good})) ==
        "script.run: break-it is no absolute path; no PATH is searched");
  CHECK(refusal_of(node, script({good}, {none})) ==
        "script.undo: there is no " + none + " to run: No such file or directory");
  CHECK(refusal_of(node, script({plain}, {good})) ==
        "script.run: " + plain + " is no file that may be executed; chmod +x makes it one");
  CHECK_FALSE(programs.has("undone"));
}

TEST_CASE("a node runs no program unless its guardrails list it") {
  const Namespace node;
  const TemporaryFolder state;
  const Programs programs;
  const std::string good = programs.make("good", "touch " + programs.path("ran").native());
  const Daemon daemon(node, state.path());
  Controller controller(daemon.address(), "scripts", 1, seconds(5));
  std::string why;
  try {
    controller.inject(script({good}, {good}));
  } catch (const std::runtime_error& refused) {
    why = refused.what();
  }
  CHECK(why == "this node takes no script faults; its guardrails can allow programs by `scripts`");
  CHECK_FALSE(programs.has("ran"));
}

}  // namespace
}  // namespace squall::hold
