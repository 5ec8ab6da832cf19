/// Checks that a node asks, when what asks or who wanted it dies or hangs in the middle: no program
/// of theirs is left on the node.
#include <doctest/doctest.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/process.h"
#include "tests/unit/injector/daemon/squalld.h"

namespace {

using namespace squall;
using namespace squall::support;
using namespace std::chrono_literals;

constexpr Duration kBound = 15s;

v1::Check sleeping_check(Duration timeout) {
  v1::Check check;
  check.set_name("a check that takes its time");
  check.set_every(timeout.count());
  check.set_timeout(timeout.count());
  check.mutable_exec()->add_run("/bin/sleep");
  check.mutable_exec()->add_run("1000");
  v1::Expectation& expectation = *check.add_expect();
  expectation.set_text("exit == 0");
  expectation.set_metric("exit");
  expectation.set_op(v1::EQUAL);
  expectation.add_values()->set_number(0);
  return check;
}

/// A node that lets checks run sleep, and the program of the one that is asked.
struct Scene {
  TemporaryFolder folder;
  Squalld daemon;

  Scene() {
    const std::string guardrails = folder.path() / "guardrails.yaml";
    std::ofstream(guardrails) << "scripts: [/bin/sleep]\n";
    daemon.start({"--guardrails", guardrails});
  }

  std::vector<pid_t> programs() { return children_of(daemon.process().pid(), "sleep"); }

  Stranger program() {
    REQUIRE(eventually([&] { return programs().size() == 1; }, kBound));
    return Stranger(programs().at(0));
  }

  /// `squall run` of a plan whose only check is asked from the node and takes a minute.
  Process run() {
    const std::string plan = folder.path() / "plan.yaml";
    std::ofstream(plan) << "plan: a check to survive\n"
                           "nodes: {web-1: {address: \""
                        << daemon.address()
                        << "\"}}\n"
                           "steady_state:\n"
                           "  - {name: takes its time, from: web-1, exec: {run: [/bin/sleep, "
                           "\"1000\"]}, every: 60s, expect: [exit == 0]}\n"
                           "method: [{wait: 1s}]\n";
    Command command;
    command.argv = {binary("squall"), "run", plan, "--runs-dir", folder.path() / "runs"};
    command.environment = {{"CI", "true"}};
    return Process(command);
  }
};

}  // namespace

TEST_CASE("S11: squall killed while a node asks and the check's program is ended") {
  Scene scene;
  Process squall = scene.run();
  const Stranger program = scene.program();
  squall.signal(SIGKILL);
  CHECK(program.ends(kBound));
  CHECK(scene.programs().empty());
}

TEST_CASE("S13: Ctrl-C while a node asks and the check's program is ended") {
  Scene scene;
  Process squall = scene.run();
  const Stranger program = scene.program();
  squall.signal(SIGINT);
  CHECK(squall.wait(kBound) == 130);
  CHECK(program.ends(kBound));
}

TEST_CASE("S12: squall frozen while a node asks and the check's program is ended when it is late") {
  Scene scene;
  Asking question(scene.daemon);
  question.send(sleeping_check(300ms));
  const Stranger program = scene.program();
  // Nobody reads the answer, nor asks again.
  CHECK(program.ends(kBound));
  CHECK(scene.programs().empty());
}

TEST_CASE("S05: squalld frozen while it asks and the kernel ends the check's program") {
  Scene scene;
  Asking question(scene.daemon);
  question.send(sleeping_check(300ms));
  const Stranger program = scene.program();
  scene.daemon.process().signal(SIGSTOP);
  CHECK(program.ends(kBound));
  scene.daemon.process().signal(SIGCONT);
  const auto answer = question.answer();
  REQUIRE_MESSAGE(answer.ok(), message_of(answer.status()));
  // Late is what it was, whoever noticed.
  CHECK((answer->error() == "timeout after 300ms" || answer->exit() == 128 + SIGALRM));
  CHECK(scene.programs().empty());
}

TEST_CASE("S05: squalld frozen when the asker is gone and goes on with no program left") {
  Scene scene;
  std::optional<Asking> question(std::in_place, scene.daemon);
  question->send(sleeping_check(1min));
  const Stranger program = scene.program();
  scene.daemon.process().signal(SIGSTOP);
  question->break_off();
  scene.daemon.process().signal(SIGCONT);
  CHECK(program.ends(kBound));
  CHECK(scene.programs().empty());
}

TEST_CASE("S02: squalld killed while it asks and the check's program dies with it") {
  Scene scene;
  Asking question(scene.daemon);
  question.send(sleeping_check(1min));
  const Stranger program = scene.program();
  scene.daemon.process().signal(SIGKILL);
  CHECK(program.ends(kBound));
}
