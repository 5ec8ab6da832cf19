/// \file
/// PostgreSQL under the faults of processes and of files, as its clients find it: by the words of
/// psql and of the server itself.
#include "tests/support/postgres.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

using namespace squall;
using namespace squall::support;
using namespace std::chrono_literals;

namespace {

constexpr Duration kDelay = 50ms;
constexpr Duration kLease = 5s;
constexpr Duration kBound = 30s;
/// How long nothing must come of what waits.
constexpr Duration kSilence = 500ms;
constexpr int kTries = 5;

bool is_installed() {
  if (has_postgres()) return true;
  MESSAGE("SKIPPED: there is no PostgreSQL here");
  return false;
}

/// By /proc/PID/stat; '?' if it is gone.
char state_of(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  const std::string all{std::istreambuf_iterator<char>(in), {}};
  const std::size_t name_ends = all.rfind(") ");
  return name_ends == std::string::npos ? '?' : all.at(name_ends + 2);
}

/// -1 if it is gone.
pid_t tracer_of(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("TracerPid:")) return std::stoi(line.substr(10));
  }
  return -1;
}

/// A client that stays, and with it its backend and the files that this has open.
class Session {
 public:
  explicit Session(const PostgresServer& server) : psql_(start(server)) {
    first_answer_ = ask("select pg_backend_pid();").out;
    backend_ = std::stoi(first_answer_);
    ask("\\timing on");
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  pid_t backend() const { return backend_; }
  bool is_with_its_backend() { return ask("select pg_backend_pid();").out == first_answer_; }
  std::string said() const { return psql_.err(); }

  void begin(const std::string& sql) {
    out_ = psql_.out().size();
    err_ = psql_.err().size();
    end_ = "end of " + std::to_string(++asked_) + "\n";
    const std::string lines = sql + "\n\\echo " + end_;
    REQUIRE(::write(words_.number(), lines.data(), lines.size()) == std::ssize(lines));
  }

  bool is_answered() const { return psql_.out().find(end_, out_) != std::string::npos; }

  /// Of what was begun last.
  struct Answer {
    std::string out;
    std::string err;
    Duration took{};  ///< psql's own word.
  };

  Answer answer() {
    const bool answered = eventually([&] { return is_answered(); }, kBound);
    REQUIRE_MESSAGE(answered, psql_.err());
    Answer answer{psql_.out().substr(out_), psql_.err().substr(err_)};
    if (const std::size_t time = answer.out.find("Time: "); time != std::string::npos) {
      const std::chrono::duration<double, std::milli> took(std::stod(answer.out.substr(time + 6)));
      answer.took = std::chrono::duration_cast<Duration>(took);
      answer.out.resize(time);
    } else {
      answer.out.resize(answer.out.find(end_));
    }
    return answer;
  }

  Answer ask(const std::string& sql) {
    begin(sql);
    return answer();
  }

  /// psql ends by itself when it finds that its connection is lost, sometimes only by the second
  /// query that it sends.
  bool loses_its_server() {
    constexpr int kConnectionWentBad = 2;  // psql(1)
    return eventually(
        [&] {
          begin("select 1;");
          return psql_.wait(100ms) == kConnectionWentBad;
        },
        kBound);
  }

  /// The least of some: a machine may stall.
  Duration quickest_commit() {
    Duration least = Duration::max();
    for (int i = 0; i < kTries; ++i) least = std::min(least, commit());
    return least;
  }

  Duration commit() {
    const Answer answer = ask("insert into orders values (default);");
    CHECK(answer.err.empty());
    return answer.took;
  }

 private:
  Process start(const PostgresServer& server) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe");
    // Kept, so that what is written to a psql that has ended is no signal to us.
    heard_.reset(ends[0]);
    words_.reset(ends[1]);
    Command command = server.psql({"--file", "/dev/fd/3"});
    command.descriptors = {{heard_.number(), 3}};
    return Process(command);
  }

  Fd heard_;
  Fd words_;
  Process psql_;
  std::string first_answer_;
  pid_t backend_ = -1;
  int asked_ = 0;
  std::size_t out_ = 0;  // where the answer to what was begun last starts
  std::size_t err_ = 0;
  std::string end_;
};

/// The node with its database, and a run that has its lease.
struct Scene {
  Namespace node;
  PostgresServer server{&node};
  TemporaryFolder state;
  Daemon daemon{node, state.path()};
  Controller controller{daemon.address(), "run", 1, kLease};

  Scene() { REQUIRE(server.ask("create table orders (number serial)").status == 0); }

  int traced() const {
    int traced = 0;
    for (const pid_t pid : server.children()) traced += tracer_of(pid) > 0 ? 1 : 0;
    return traced;
  }

  bool nobody_is_traced() {
    return eventually([&] { return traced() == 0 && tracer_of(server.process().pid()) == 0; },
                      kBound);
  }

  /// The last evidence, once nothing is left of the fault.
  v1::Evidence revert(const v1::Fault& fault) {
    controller.revert(fault.id());
    const auto ended = wait_for(fault, &v1::LeaseEvent::has_effect_ended);
    const auto reverted = wait_for(fault, &v1::LeaseEvent::has_reverted);
    CHECK(reverted.reverted().residue().empty());
    return ended.effect_ended().evidence();
  }

 private:
  v1::LeaseEvent wait_for(const v1::Fault& fault, bool (v1::LeaseEvent::*is)() const) const {
    const auto event = controller.wait_for(
        [&](const v1::LeaseEvent& one) { return one.fault() == fault.id() && (one.*is)(); },
        kBound);
    REQUIRE(event.has_value());
    return *event;
  }
};

v1::Fault fault_for_a_minute() {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(1min).count());
  return fault;
}

/// Of every process of the server, on what is below the folder.
v1::Fault io_fault(v1::FileOperation operation, const std::filesystem::path& below) {
  v1::Fault fault = fault_for_a_minute();
  fault.mutable_io()->mutable_of()->set_name("postgres");
  fault.mutable_io()->set_path(below);
  fault.mutable_io()->add_operations(operation);
  return fault;
}

}  // namespace

TEST_CASE("commits take longer by what io delays an fsync and no longer once Squall is gone") {
  if (!is_installed()) return;
  Scene scene;
  Session session(scene.server);
  // With this its backend has opened the log that it will write to.
  CHECK(session.quickest_commit() < kDelay);

  const auto slow = [&] {
    v1::Fault fault = io_fault(v1::FSYNC, scene.server.data());
    fault.mutable_io()->set_delay(kDelay.count());
    scene.controller.inject(fault);
    CHECK(scene.traced() == std::ssize(scene.server.children()));
    const Duration commit = session.quickest_commit();
    MESSAGE("a commit took " << commit / 1us << " us");
    CHECK(commit >= kDelay);
    return fault;
  };
  const v1::Evidence evidence = scene.revert(slow());
  CHECK(evidence.effect());
  CHECK(evidence.io().delayed() >= kTries);
  CHECK(evidence.io().failed() == 0);
  CHECK(scene.nobody_is_traced());
  CHECK(session.quickest_commit() < kDelay);

  slow();
  scene.daemon.process().signal(SIGKILL);
  CHECK(scene.nobody_is_traced());
  CHECK(session.quickest_commit() < kDelay);
  CHECK(session.ask("select count(*) from orders;").out == std::to_string(5 * kTries) + "\n");
  CHECK(session.is_with_its_backend());
}

TEST_CASE("reads that io makes fail cost a query its answer and the server nothing") {
  if (!is_installed()) return;
  Scene scene;
  Session session(scene.server);
  // Some hundred blocks, of which hardly any stay in the server's memory.
  session.ask("create table goods as select n, repeat('x', 500) from generate_series(1, 10000) n;");
  const std::string count = "select count(*) from goods;";
  CHECK(session.ask(count).out == "10000\n");

  v1::Fault fault = io_fault(v1::READ, scene.server.data() / "base");
  fault.mutable_io()->set_error(v1::FILE_ERROR_EIO);
  fault.mutable_io()->set_percent(10);
  scene.controller.inject(fault);
  const Session::Answer failed = session.ask(count);
  CHECK(failed.out == "");
  CHECK_MESSAGE(failed.err.find("ERROR:  could not read block ") != std::string::npos, failed.err);
  CHECK_MESSAGE(failed.err.find(": Input/output error\n") != std::string::npos, failed.err);
  CHECK(session.ask("select 1;").out == "1\n");
  CHECK(scene.revert(fault).io().failed() > 0);

  CHECK(session.ask(count).out == "10000\n");
  CHECK(session.is_with_its_backend());
  CHECK(scene.nobody_is_traced());
}

TEST_CASE("a query to paused backends waits for their end and nothing acknowledged is lost") {
  if (!is_installed()) return;
  Scene scene;
  Session session(scene.server);
  session.commit();

  v1::Fault fault = fault_for_a_minute();
  fault.mutable_pause()->mutable_process()->set_children_of("postgres");
  const v1::FaultApplied applied = scene.controller.inject(fault);
  CHECK(applied.evidence().effect());
  const std::vector<pid_t> paused = scene.server.children();
  CHECK(applied.evidence().pause().processes() == paused.size());
  CHECK(std::find(paused.begin(), paused.end(), session.backend()) != paused.end());
  for (const pid_t pid : paused) CHECK(state_of(pid) == 't');
  CHECK(tracer_of(scene.server.process().pid()) == 0);
  session.begin("insert into orders values (default);");
  CHECK_FALSE(eventually([&] { return session.is_answered(); }, kSilence));

  CHECK(scene.revert(fault).effect());
  const Session::Answer late = session.answer();
  CHECK(late.err.empty());
  CHECK(late.took > kSilence / 2);
  CHECK(session.ask("select count(*) from orders;").out == "2\n");
  CHECK(scene.server.children() == paused);
  CHECK(scene.nobody_is_traced());
}

TEST_CASE("a backend that is ended loses its own client and nobody else's") {
  if (!is_installed()) return;
  Scene scene;
  Session first(scene.server);
  Session second(scene.server);
  v1::Fault fault;
  fault.set_id(new_fault_id());
  v1::Kill& kill = *fault.mutable_kill();
  kill.mutable_process()->set_children_of("postgres");
  kill.mutable_process()->set_cmdline("^postgres: postgres postgres ");  // a user, a database
  kill.set_signal(v1::SIGNAL_TERM);
  kill.mutable_pick()->set_count(1);
  const v1::Evidence evidence = scene.controller.inject(fault).evidence();
  CHECK(evidence.effect());
  REQUIRE(evidence.kill().victims_size() == 1);
  CHECK(evidence.kill().victims(0).gone());
  const auto victim = static_cast<pid_t>(evidence.kill().victims(0).pid());
  REQUIRE((victim == first.backend() || victim == second.backend()));
  Session& theirs = victim == first.backend() ? first : second;
  Session& other = victim == first.backend() ? second : first;

  CHECK(theirs.loses_its_server());
  const std::string why = "FATAL:  terminating connection due to administrator command";
  CHECK_MESSAGE(theirs.said().find(why) != std::string::npos, theirs.said());
  other.commit();
  CHECK(other.is_with_its_backend());
  CHECK(scene.server.process().running());
  CHECK(scene.server.ask("select count(*) from orders").out == "1\n");
}

TEST_CASE("a part of the server that is killed is seen to come back after its recovery") {
  if (!is_installed()) return;
  Scene scene;
  Session session(scene.server);
  session.commit();
  v1::Fault fault = fault_for_a_minute();
  v1::Kill& kill = *fault.mutable_kill();
  kill.mutable_process()->set_children_of("postgres");
  kill.mutable_process()->set_cmdline("^postgres: walwriter");
  kill.set_respawn(v1::WATCH);
  const v1::Evidence evidence = scene.controller.inject(fault).evidence();
  CHECK(evidence.effect());
  REQUIRE(evidence.kill().victims_size() == 1);

  // A server of which a part was killed trusts none of the others, and begins anew.
  CHECK(eventually([&] { return scene.server.ask("select 1").status == 0; }, kBound, 50ms));
  CHECK(session.loses_its_server());
  CHECK(scene.server.ask("select count(*) from orders").out == "1\n");
  CHECK(scene.server.process().running());
  const auto told = scene.controller.wait_for(
      [](const v1::LeaseEvent& event) { return event.evidence().kill().respawned() == 1; }, kBound);
  REQUIRE(told.has_value());
  const Duration came_back(told->evidence().kill().respawn_time());
  MESSAGE("the server's part was back after " << came_back / 1ms << " ms");
  CHECK(came_back > 0ms);
  CHECK(scene.revert(fault).kill().respawned() == 1);
}
