#include "injector/daemon/asking.h"

#include <doctest/doctest.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/unit/injector/daemon/squalld.h"

namespace squall::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using support::children_of;
using support::eventually;
using support::Session;
using support::small_fault;
using support::Squalld;
using Question = support::Asking;

constexpr Duration kBound = seconds(10);

v1::Check check_of(const std::string& metric, Duration timeout = seconds(5)) {
  v1::Check check;
  check.set_name("a check");
  check.set_every(timeout.count());
  check.set_timeout(timeout.count());
  v1::Expectation& expectation = *check.add_expect();
  expectation.set_text(metric + " < 1s");
  expectation.set_metric(metric);
  expectation.set_op(v1::LESS);
  expectation.add_values()->set_number(1e9);
  return check;
}

v1::Check tcp(const std::string& address) {
  v1::Check check = check_of("latency");
  check.mutable_tcp()->set_address(address);
  return check;
}

v1::Check exec(const std::vector<std::string>& run, Duration timeout = minutes(1)) {
  v1::Check check = check_of("exit", timeout);
  for (const std::string& word : run) check.mutable_exec()->add_run(word);
  return check;
}

/// A port of the loopback that somebody listens on as long as it lives.
class Listening {
 public:
  Listening() : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(fd_.number(), reinterpret_cast<const sockaddr*>(&address), size) == 0);
    REQUIRE(::getsockname(fd_.number(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    REQUIRE(::listen(fd_.number(), 64) == 0);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  }
  const std::string& address() const { return address_; }
  void stop() { fd_.reset(); }

 private:
  Fd fd_;
  std::string address_;
};

/// A node whose guardrails let checks run these programs.
class WithPrograms {
 public:
  WithPrograms() {
    const std::string path = folder_.path() / "guardrails.yaml";
    std::ofstream(path) << "scripts: [/bin/sleep, /bin/echo, /usr/bin/printf]\n";
    daemon.start({"--guardrails", path});
  }

  std::size_t sleeping() { return children_of(daemon.process().pid(), "sleep").size(); }
  bool sleeps(std::size_t many) {
    return eventually([&] { return sleeping() == many; }, kBound);
  }

  Squalld daemon;

 private:
  support::TemporaryFolder folder_;
};

const std::vector<std::string> kForEver = {"/bin/sleep", "1000"};

std::string refusal(const Squalld& daemon, const v1::Check& check) {
  const auto answer = Question(daemon).ask(check);
  REQUIRE_FALSE(answer.ok());
  return std::string(absl::StatusCodeToString(answer.status().code())) + " " +
         message_of(answer.status());
}

TEST_CASE("a check is asked from the node, once for each question") {
  Squalld daemon;
  daemon.start();
  Listening there;
  Question question(daemon);
  auto sample = question.ask(tcp(there.address()));
  REQUIRE(sample.ok());
  CHECK(sample->state() == "open");
  CHECK(sample->latency() > 0);
  sample = question.ask();
  REQUIRE(sample.ok());
  CHECK(sample->state() == "open");
  there.stop();
  sample = question.ask();
  REQUIRE(sample.ok());
  CHECK(sample->state() == "refused");
  CHECK(sample->error() == "connection refused");
  CHECK(question.finish().ok());
}

TEST_CASE("what a program writes comes as it is, and its number as a metric") {
  WithPrograms node;
  const auto sample = Question(node.daemon).ask(exec({"/usr/bin/printf", "caf\\351 42"}));
  REQUIRE_MESSAGE(sample.ok(), message_of(sample.status()));
  CHECK(sample->exit() == 0);
  CHECK(sample->output() == "caf\xe9 42");
  CHECK(sample->numbers().at("value") == 42);
}

TEST_CASE("what cannot be asked is refused with its place or its rule") {
  Squalld daemon;
  daemon.start();
  CHECK(refusal(daemon, exec({"/bin/sleep", "0"})) ==
        "PERMISSION_DENIED this node runs no programs for checks; its guardrails can allow them by "
        "`scripts`");
  v1::Check engine = check_of("latency");
  engine.mutable_http()->set_url("http://localhost/containers/create");
  engine.mutable_http()->set_unix("/run/docker.sock");
  CHECK(refusal(daemon, engine) ==
        "PERMISSION_DENIED a unix socket would be asked as squalld's user: a node asks by address "
        "alone");
  v1::Check nothing = check_of("latency");
  CHECK(refusal(daemon, nothing).starts_with("INVALID_ARGUMENT check: no check kind; one of "));
  v1::Check nameless = tcp("127.0.0.1:1");
  nameless.clear_name();
  CHECK(refusal(daemon, nameless) == "INVALID_ARGUMENT check.name: missing");
  v1::Check odd = tcp("no port");
  CHECK(refusal(daemon, odd).starts_with("INVALID_ARGUMENT check.tcp.address: "));
  v1::Check endless = tcp("127.0.0.1:1");
  endless.set_timeout(Duration(std::chrono::hours(2)).count());
  CHECK(refusal(daemon, endless).starts_with("INVALID_ARGUMENT check.timeout: "));
  {
    Question question(daemon);
    CHECK(message_of(question.ask().status()) == "check: missing");
  }
  {
    Question question(daemon);
    CHECK(question.ask(tcp("127.0.0.1:1")).ok());
    CHECK(message_of(question.ask(tcp("127.0.0.1:1")).status()) ==
          "check: in the first request of a stream");
  }
  // It serves on.
  CHECK(daemon.describe().faults() == 0);
}

TEST_CASE("guardrails say which programs checks may run") {
  WithPrograms node;
  CHECK(refusal(node.daemon, exec({"/bin/cat", "/etc/shadow"})) ==
        "PERMISSION_DENIED guardrails.yaml:1: scripts does not list /bin/cat");
  v1::Check preloaded = exec({"/bin/sleep", "0"});
  (*preloaded.mutable_exec()->mutable_env())["LD_PRELOAD"] = "/tmp/mine.so";
  CHECK(refusal(node.daemon, preloaded) ==
        "PERMISSION_DENIED guardrails.yaml:1: scripts lists programs, and no `env` for them");
}

TEST_CASE("one question at a time is asked on a stream") {
  WithPrograms node;
  Question question(node.daemon);
  question.send(exec(kForEver));
  CHECK(node.sleeps(1));
  question.send();
  const auto answer = question.answer();
  CHECK(answer.status().code() == StatusCode::kFailedPrecondition);
  CHECK(message_of(answer.status()) == "asked again before the last question was answered");
  CHECK(node.sleeps(0));
}

TEST_CASE("no client has more checks asked than it may") {
  Squalld daemon;
  daemon.start();
  Listening there;
  std::vector<std::unique_ptr<Question>> questions;
  for (std::size_t n = 0; n < kMostChecksOfOne; ++n) {
    questions.push_back(std::make_unique<Question>(daemon));
    REQUIRE(questions.back()->ask(tcp(there.address())).ok());
    // A listener's queue is shorter than that.
    there = Listening();
  }
  CHECK(refusal(daemon, tcp(there.address())) ==
        "RESOURCE_EXHAUSTED 256 checks are asked for this client already");
  questions.pop_back();
  CHECK(eventually([&] { return Question(daemon).ask(tcp(there.address())).ok(); }, kBound));
}

TEST_CASE("what is asked ends at once with its stream, however that ends") {
  WithPrograms node;
  auto question = std::make_unique<Question>(node.daemon);
  question->send(exec(kForEver));
  CHECK(node.sleeps(1));
  SUBCASE("broken") { question->break_off(); }
  SUBCASE("ended by the client") { CHECK(question->finish().ok()); }
  SUBCASE("gone") { question.reset(); }
  CHECK(node.sleeps(0));
}

TEST_CASE("a daemon that is told to end leaves no program of a check") {
  WithPrograms node;
  Question question(node.daemon);
  question.send(exec(kForEver));
  CHECK(node.sleeps(1));
  const support::Stranger program(children_of(node.daemon.process().pid(), "sleep").at(0));
  node.daemon.process().signal(SIGTERM);
  CHECK(node.daemon.process().wait(kBound) == 0);
  CHECK(program.ends(kBound));
  CHECK(message_of(question.answer().status()) == "squalld is ending");
}

TEST_CASE("a node that is halted still answers what is asked from it") {
  Squalld daemon;
  daemon.start();
  Listening there;
  Question question(daemon);
  CHECK(question.ask(tcp(there.address())).ok());
  daemon.halt("the shop is down");
  CHECK(question.ask().ok());
  CHECK(Question(daemon).ask(tcp(there.address())).ok());
}

TEST_CASE("checks that are asked without a pause take nothing from a lease") {
  WithPrograms node;
  Session session(node.daemon);
  session.open("run-1", 1, seconds(1));
  const v1::Fault fault = small_fault();
  session.inject(fault);
  REQUIRE(session.next(v1::LeaseEvent::kApplied, fault.id()).has_value());
  std::vector<std::unique_ptr<Question>> questions;
  const v1::Check check = exec({"/bin/echo", "again"});
  for (int n = 0; n < 8; ++n) {
    questions.push_back(std::make_unique<Question>(node.daemon));
    REQUIRE(questions.back()->ask(check).ok());
  }
  for (int round = 0; round < 20; ++round) {
    for (const auto& question : questions) question->send();
    for (const auto& question : questions) CHECK(question->answer().ok());
    session.renew();
  }
  CHECK(node.daemon.describe().faults() == 1);
  session.revert_all();
  CHECK(session.next(v1::LeaseEvent::kSettled).has_value());
}

}  // namespace
}  // namespace squall::daemon
