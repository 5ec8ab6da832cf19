#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "experiments/base/ids.h"
#include "injector/daemon/ledger.h"
#include "injector/daemon/state_dir.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/daemon/squalld.h"

namespace squall::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using support::Session;
using support::small_fault;
using support::Squalld;
using Event = v1::LeaseEvent;

constexpr Duration kBound = seconds(10);

/// A sanitizer needs memory, and descriptors, of its own.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

/// The holder of the one fault there is: the child that has threads of its own.
pid_t holder_of_the_fault(const Squalld& daemon) {
  pid_t found = 0;
  support::eventually(
      [&] {
        for (const pid_t pid : daemon.holders()) {
          std::size_t threads = 0;
          std::error_code gone;  // one that asked or swept may end while it is looked at
          for (const auto& entry : std::filesystem::directory_iterator(
                   "/proc/" + std::to_string(pid) + "/task", gone)) {
            threads += entry.exists(gone) ? 1 : 0;
          }
          if (threads > 1) found = pid;
        }
        return found != 0;
      },
      kBound);
  REQUIRE(found != 0);
  return found;
}

/// Injects and waits until it is applied.
v1::Fault applied(Session& session, const v1::Fault& fault = small_fault()) {
  session.inject(fault);
  const auto event = session.next([&](const Event& seen) {
    return seen.fault() == fault.id() && (seen.has_applied() || seen.has_failed());
  });
  REQUIRE(event.has_value());
  INFO(event->ShortDebugString());
  REQUIRE(event->has_applied());
  CHECK(event->applied().took() > 0);
  return fault;
}

TEST_CASE("a node describes itself") {
  Squalld daemon;
  daemon.start({"--environment", "staging"});
  const v1::Description description = daemon.describe();
  CHECK_FALSE(description.version().empty());
  CHECK(std::count(description.kinds().begin(), description.kinds().end(), "cpu") == 1);
  CHECK(description.state_dir() == daemon.state_dir());
  CHECK(description.boot_id() == boot_id());
  CHECK(description.environment() == "staging");
  CHECK(description.faults() == 0);
}

TEST_CASE("a fault is applied, shows evidence, is reverted, and the node is as before") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault fault = applied(session);
  CHECK(daemon.describe().faults() == 1);
  const auto evidence = session.next(Event::kEvidence, fault.id());
  REQUIRE(evidence.has_value());
  CHECK(evidence->evidence().effect());
  session.revert(fault.id());
  const auto over = session.next(Event::kEffectEnded, fault.id());
  REQUIRE(over.has_value());
  CHECK(over->effect_ended().reason() == v1::RELEASED);
  CHECK(over->effect_ended().took() > 0);
  const auto reverted = session.next(Event::kReverted, fault.id());
  REQUIRE(reverted.has_value());
  CHECK(reverted->reverted().residue().empty());
  session.revert_all();
  const auto settled = session.next(Event::kSettled);
  REQUIRE(settled.has_value());
  CHECK(settled->settled().residue().empty());
  CHECK(settled->settled().changed_by_others().empty());
  CHECK(session.finish().ok());
  CHECK(daemon.describe().faults() == 0);
}

TEST_CASE("a fault is ended from outside its run, which is told by whom and goes on") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault fault = applied(session);
  const v1::Description is = daemon.describe();
  REQUIRE(is.held_size() == 1);
  CHECK(is.held(0).fault() == fault.id());
  CHECK(is.held(0).run() == "run-1");
  CHECK(is.held(0).words() == "cpu load 1% cores 1");
  CHECK(is.held(0).remaining() > 0);
  CHECK(is.held(0).remaining() <= fault.for_());

  const auto none = daemon.revert(new_fault_id(), "ana@laptop");
  CHECK(none.status().code() == StatusCode::kNotFound);
  const auto reply = daemon.revert(fault.id(), "ana@laptop\n\x1b[31m");
  REQUIRE(reply.ok());
  CHECK(reply->faults() == 1);
  CHECK(reply->residue().empty());
  CHECK(daemon.describe().held().empty());
  const auto over = session.next(Event::kEffectEnded, fault.id());
  REQUIRE(over.has_value());
  CHECK(over->effect_ended().reason() == v1::RELEASED);
  CHECK(over->effect_ended().by() == "ana@laptop\\x0a\\x1b[31m");
  CHECK(session.next(Event::kReverted, fault.id()).has_value());
  // Over once is over.
  CHECK(daemon.revert(fault.id(), "ana@laptop").status().code() == StatusCode::kNotFound);

  // It does not latch; and what its run ends itself is told as nobody else's.
  const v1::Fault next = applied(session);
  session.revert(next.id());
  const auto own = session.next(Event::kEffectEnded, next.id());
  REQUIRE(own.has_value());
  CHECK(own->effect_ended().by().empty());
  session.revert_all();
  CHECK(session.next(Event::kSettled).has_value());
  CHECK(session.finish().ok());
}

TEST_CASE("all faults of all runs are ended at once from outside") {
  Squalld daemon;
  daemon.start();
  CHECK(daemon.revert("", "ana@laptop")->faults() == 0);
  Session one(daemon);
  Session other(daemon);
  one.open("run-1");
  other.open("run-2");
  const v1::Fault first = applied(one);
  const v1::Fault second = applied(other);
  const auto reply = daemon.revert("", "");
  REQUIRE(reply.ok());
  CHECK(reply->faults() == 2);
  CHECK(daemon.describe().faults() == 0);
  CHECK(one.next(Event::kEffectEnded, first.id())->effect_ended().by() == "somebody");
  CHECK(other.next(Event::kEffectEnded, second.id())->effect_ended().by() == "somebody");
}

TEST_CASE("a fault ends by itself when its time is up") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault fault = applied(session, small_fault(milliseconds(200)));
  const auto over = session.next(Event::kEffectEnded, fault.id());
  REQUIRE(over.has_value());
  CHECK(over->effect_ended().reason() == v1::DURATION_OVER);
  CHECK(session.next(Event::kReverted, fault.id()).has_value());
}

TEST_CASE("a lease that lapses reverts its faults and is refused for ever") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(1));
  const v1::Fault fault = applied(session);
  session.stop_renewing();
  REQUIRE(session.next(Event::kEffectEnded, fault.id()).has_value());
  REQUIRE(session.next(Event::kReverted, fault.id()).has_value());
  REQUIRE(session.next(Event::kSettled).has_value());
  const Status last = session.last_word();
  CHECK(last.code() == StatusCode::kFailedPrecondition);
  CHECK(message_of(last) == "the lease lapsed: no renewal for 1s");

  Session replay(daemon);
  v1::LeaseRequest open;
  open.mutable_open()->set_run("run-1");
  open.mutable_open()->set_epoch(1);
  open.mutable_open()->set_lease(Duration(seconds(1)).count());
  replay.send(open);
  const Status refused = replay.last_word();
  CHECK(refused.code() == StatusCode::kFailedPrecondition);
  CHECK(message_of(refused) == "epoch 1 of run run-1 is over on this node");

  Session later(daemon);
  later.open("run-1", 2);
  applied(later);
}

TEST_CASE("an epoch that is over is refused by a restarted daemon as well") {
  Squalld daemon;
  daemon.start();
  {
    Session session(daemon);
    session.open("run-1", 5);
    session.revert_all();
    REQUIRE(session.next(Event::kSettled).has_value());
  }
  daemon.process().signal(SIGTERM);
  CHECK(daemon.process().wait(kBound) == 0);
  daemon.start();
  Session replay(daemon);
  v1::LeaseRequest open;
  open.mutable_open()->set_run("run-1");
  open.mutable_open()->set_epoch(5);
  open.mutable_open()->set_lease(Duration(seconds(1)).count());
  replay.send(open);
  CHECK(replay.last_word().code() == StatusCode::kFailedPrecondition);
}

TEST_CASE("a stream that breaks reverts its faults at once") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  applied(session);
  const support::Stranger holder(holder_of_the_fault(daemon));
  const MonotonicTime broken = monotonic_now();
  session.break_off();
  CHECK(holder.ends(kBound));
  CHECK(monotonic_now() - broken < seconds(2));
  CHECK(support::eventually([&] { return daemon.describe().faults() == 0; }, kBound));
}

TEST_CASE("a stream of a later epoch replaces the earlier, whose faults are reverted") {
  Squalld daemon;
  daemon.start();
  Session first(daemon);
  first.open("run-1", 1, seconds(60));
  const v1::Fault fault = applied(first);
  Session second(daemon);
  second.open("run-1", 2, seconds(60));
  CHECK(first.next(Event::kReverted, fault.id()).has_value());
  CHECK(message_of(first.last_word()) == "replaced by epoch 2 of run run-1");
  applied(second);
}

TEST_CASE("S16: revert all is a barrier, also for a fault that is on its way") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  // The abort overtakes the fault: it is on its way to the kernel, or not even that.
  const v1::Fault early = small_fault();
  session.inject(early);
  session.revert_all();
  const v1::Fault late = small_fault();
  session.inject(late);
  const auto refused = session.next(Event::kFailed, late.id());
  REQUIRE(refused.has_value());
  CHECK(refused->failed().code() == static_cast<int>(StatusCode::kFailedPrecondition));
  CHECK(refused->failed().message() ==
        "everything was reverted: nothing is injected on this stream any more");
  REQUIRE(session.next(Event::kSettled).has_value());
  CHECK(daemon.describe().faults() == 0);
  CHECK(support::eventually([&] { return daemon.holders().size() <= 1; }, kBound));
}

TEST_CASE("S17: a fault asked for twice is one fault with one answer") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault fault = applied(session);
  session.inject(fault);
  const auto again = session.next(Event::kApplied, fault.id());
  REQUIRE(again.has_value());
  CHECK(daemon.describe().faults() == 1);
  session.revert(fault.id());
  REQUIRE(session.next(Event::kReverted, fault.id()).has_value());
  session.inject(fault);
  CHECK(session.next(Event::kApplied, fault.id()).has_value());
  CHECK(session.next(Event::kReverted, fault.id()).has_value());
  CHECK(daemon.describe().faults() == 0);
}

TEST_CASE(
    "S19: to revert what the node does not know is an error, and to revert all reads the node") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault lives = applied(session);
  const std::string unknown = new_fault_id();
  session.revert(unknown);
  const auto refused = session.next(Event::kFailed, unknown);
  REQUIRE(refused.has_value());
  CHECK(refused->failed().code() == static_cast<int>(StatusCode::kNotFound));
  CHECK(refused->failed().message() == "this run has no such fault on this node");
  CHECK(daemon.describe().faults() == 1);
  session.revert_all();
  const auto settled = session.next(Event::kSettled);
  REQUIRE(settled.has_value());
  CHECK(settled->settled().residue_size() == 0);
  CHECK(settled->settled().changed_by_others_size() == 0);
}

TEST_CASE("faults of two runs live side by side, and each settles alone") {
  Squalld daemon;
  daemon.start();
  Session first(daemon);
  first.open("run-1", 1, seconds(60));
  Session second(daemon);
  second.open("run-2", 1, seconds(60));
  applied(first);
  applied(second);
  CHECK(daemon.describe().faults() == 2);
  first.revert_all();
  REQUIRE(first.next(Event::kSettled).has_value());
  CHECK(daemon.describe().faults() == 1);
}

TEST_CASE("what comes over the wire is refused by its field, and nothing changes") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1");
  const v1::Fault living = applied(session);
  v1::Fault bad = small_fault();
  SUBCASE("out of bounds") {
    bad.mutable_cpu()->set_load(101);
    session.inject(bad);
    const auto failed = session.next(Event::kFailed, bad.id());
    REQUIRE(failed.has_value());
    CHECK(failed->failed().code() == static_cast<int>(StatusCode::kInvalidArgument));
    CHECK(failed->failed().message().find("fault.cpu.load") != std::string::npos);
  }
  SUBCASE("no kind") {
    bad.clear_kind();
    session.inject(bad);
    const auto failed = session.next(Event::kFailed, bad.id());
    REQUIRE(failed.has_value());
    CHECK(failed->failed().code() == static_cast<int>(StatusCode::kInvalidArgument));
  }
  SUBCASE("no duration") {
    bad.clear_for_();
    session.inject(bad);
    const auto failed = session.next(Event::kFailed, bad.id());
    REQUIRE(failed.has_value());
    CHECK(failed->failed().code() == static_cast<int>(StatusCode::kInvalidArgument));
  }
  SUBCASE("a fault nobody knows is not taken for reverted") {
    session.revert("aaaaaaaaaaaa");
    const auto failed = session.next(Event::kFailed, "aaaaaaaaaaaa");
    REQUIRE(failed.has_value());
    CHECK(failed->failed().code() == static_cast<int>(StatusCode::kNotFound));
  }
  CHECK(daemon.describe().faults() == 1);
  CHECK(session.next(Event::kEvidence, living.id()).has_value());
}

TEST_CASE("a stream that begins wrongly is refused with the field's path") {
  Squalld daemon;
  daemon.start();
  v1::LeaseRequest request;
  std::string wrong;
  SUBCASE("not with open") {
    request.mutable_renew();
    wrong = "open: must be the first message";
  }
  SUBCASE("with nothing") { wrong = "open: must be the first message"; }
  SUBCASE("with a bad run") {
    request.mutable_open()->set_run("../x");
    wrong = "open.run: 1 to 64 letters, digits and '-' are needed";
  }
  SUBCASE("with an absurd lease") {
    request.mutable_open()->set_run("run");
    request.mutable_open()->set_lease(-1);
    wrong = "open.lease: 1s to 60s are needed";
  }
  Session session(daemon);
  session.send(request);
  const Status status = session.last_word();
  CHECK(status.code() == StatusCode::kInvalidArgument);
  CHECK(message_of(status) == wrong);
}

TEST_CASE("a plan that does not name the node's environment is refused") {
  Squalld daemon;
  daemon.start({"--environment", "prod"});
  Session session(daemon);
  v1::LeaseRequest open;
  open.mutable_open()->set_run("run-1");
  open.mutable_open()->set_lease(Duration(seconds(1)).count());
  open.mutable_open()->set_environment("staging");
  session.send(open);
  CHECK(message_of(session.last_word()) ==
        "this node's environment is \"prod\", the plan names \"staging\"");
}

TEST_CASE("a preflight looks and changes nothing") {
  Squalld daemon;
  daemon.start();
  v1::PreflightRequest request;
  *request.add_faults() = small_fault();
  request.add_faults()->mutable_kill()->mutable_process()->set_name("no-such-program");
  request.mutable_faults(1)->set_id(new_fault_id());
  const auto reply = daemon.preflight(request);
  REQUIRE(reply.ok());
  REQUIRE(reply->faults_size() == 2);
  CHECK(reply->faults(0).code() == 0);
  CHECK(reply->faults(1).code() == static_cast<int>(StatusCode::kNotFound));
  request.mutable_faults(0)->mutable_cpu()->set_load(0.5);
  CHECK(daemon.preflight(request).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a preflight refuses faults that would meet and lets pass those that follow each other") {
  const support::Namespace where;
  Squalld daemon;
  daemon.start({}, &where);
  v1::PreflightRequest request;
  for (int n = 0; n < 2; ++n) {
    *request.add_faults() = support::delay_fault(7000, seconds(1));
    request.mutable_faults(n)->mutable_network()->set_interface("lo");
    request.add_together(1);
  }
  const auto code_of_both = [&] {
    const auto reply = daemon.preflight(request);
    REQUIRE(reply.ok());
    REQUIRE(reply->faults_size() == 2);
    CHECK(reply->faults(0).code() == reply->faults(1).code());
    return static_cast<StatusCode>(reply->faults(0).code());
  };
  CHECK(code_of_both() == StatusCode::kFailedPrecondition);
  request.set_together(1, 2);
  CHECK(code_of_both() == StatusCode::kOk);
  request.clear_together();
  CHECK(code_of_both() == StatusCode::kOk);
}

TEST_CASE("a holder that is killed is told at once, and its fault is gone") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const v1::Fault fault = applied(session);
  const support::Stranger holder(holder_of_the_fault(daemon));
  const MonotonicTime killed = monotonic_now();
  holder.signal(SIGKILL);
  const auto failed = session.next(Event::kFailed, fault.id());
  REQUIRE(failed.has_value());
  CHECK(monotonic_now() - killed < seconds(2));
  CHECK(failed->failed().message() == "the holder was killed by signal 9");
  CHECK(failed->failed().residue().empty());
  CHECK(daemon.describe().faults() == 0);
  applied(session);
}

TEST_CASE("a holder that is frozen is killed once it leaves a pulse unanswered") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(3));
  const v1::Fault fault = applied(session);
  const support::Stranger holder(holder_of_the_fault(daemon));
  holder.signal(SIGSTOP);
  const auto failed = session.next(Event::kFailed, fault.id());
  REQUIRE(failed.has_value());
  CHECK(failed->failed().message() ==
        "the holder left a pulse unanswered within 1s and was killed");
  CHECK(holder.ends(kBound));
}

TEST_CASE("a daemon that is killed takes its holders with it") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  applied(session);
  applied(session);
  std::vector<support::Stranger> holders;
  for (const pid_t pid : daemon.holders()) holders.emplace_back(pid);
  REQUIRE(holders.size() >= 2);
  daemon.process().signal(SIGKILL);
  for (const support::Stranger& holder : holders) CHECK(holder.ends(seconds(1)));
}

TEST_CASE("a daemon that was frozen for longer than a lease applies nothing again") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(1));
  const v1::Fault fault = applied(session);
  const support::Stranger holder(holder_of_the_fault(daemon));
  daemon.process().signal(SIGSTOP);
  for (int i = 0; i < 5; ++i) session.renew();  // they queue up
  CHECK(holder.ends(seconds(3)));
  session.stop_renewing();
  daemon.process().signal(SIGCONT);
  CHECK(session.next(Event::kReverted, fault.id()).has_value());
  CHECK(session.last_word().code() == StatusCode::kFailedPrecondition);
  CHECK(daemon.describe().faults() == 0);
}

TEST_CASE("SIGTERM, SIGINT and SIGHUP revert everything and exit 0") {
  int number = 0;
  SUBCASE("SIGTERM") { number = SIGTERM; }
  SUBCASE("SIGINT") { number = SIGINT; }
  SUBCASE("SIGHUP") { number = SIGHUP; }
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const v1::Fault fault = applied(session);
  daemon.process().signal(number);
  CHECK(session.next(Event::kReverted, fault.id()).has_value());
  CHECK(daemon.process().wait(kBound) == 0);
  CHECK_FALSE(std::filesystem::exists(daemon.state_dir() + "/squalld.sock"));
}

TEST_CASE("told twice to end, a daemon leaves at once and its holders undo by themselves") {
  for (int i = 0; i < 3; ++i) {
    Squalld daemon;
    daemon.start();
    Session session(daemon);
    session.open("run-1", 1, seconds(60));
    applied(session);
    const support::Stranger holder(holder_of_the_fault(daemon));
    daemon.process().signal(SIGTERM);
    daemon.process().signal(SIGINT);
    const std::optional<int> code = daemon.process().wait(kBound);
    // It may have reverted everything before it read the second signal.
    CHECK_MESSAGE((code == 1 || code == 0), code.value_or(-1), daemon.process().err());
    CHECK(holder.ends(kBound));
  }
}

TEST_CASE("a daemon whose parent ignores SIGCHLD still hears of a holder's end") {
  const auto inherited = ::signal(SIGCHLD, SIG_IGN);
  Squalld daemon;
  daemon.start();
  ::signal(SIGCHLD, inherited);
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const v1::Fault fault = applied(session);
  support::Stranger(holder_of_the_fault(daemon)).signal(SIGKILL);
  const auto failed = session.next(Event::kFailed, fault.id());
  REQUIRE(failed.has_value());
  CHECK(failed->failed().message() == "the holder was killed by signal 9");
}

TEST_CASE("a state directory that others may write is refused") {
  Squalld daemon;
  std::filesystem::permissions(daemon.state_dir(), std::filesystem::perms::others_write,
                               std::filesystem::perm_options::add);
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", daemon.state_dir()};
  support::Process process(command);
  CHECK(process.wait(kBound) == 1);
  CHECK(process.err() == "squalld: the state directory " + daemon.state_dir() +
                             " can be written by others: chown it to uid " +
                             std::to_string(::geteuid()) + " and chmod it to 700\n");
}

TEST_CASE("a second daemon of the same state directory is refused and names the first") {
  Squalld daemon;
  daemon.start();
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", daemon.state_dir()};
  support::Process second(command);
  CHECK(second.wait(kBound) == 1);
  CHECK(second.err() == "squalld: squalld with pid " + std::to_string(daemon.process().pid()) +
                            " already serves the state directory " + daemon.state_dir() + "\n");
  CHECK(daemon.describe().faults() == 0);
}

TEST_CASE("a state directory whose daemon is dead is waited for while a child of it has the lock") {
  const Squalld daemon;
  const std::string path = daemon.state_dir() + "/lock";
  constexpr pid_t kNobody = 0x7ffffffe;
  std::ofstream(path) << kNobody << '\n';
  Fd childs(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(childs.number(), LOCK_EX | LOCK_NB) == 0);
  bool opened = false;
  std::thread next([&] { opened = StateDir::open(daemon.state_dir()).ok(); });
  const auto files_open = [&] {
    int open = 0;
    std::error_code gone;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      open += std::filesystem::read_symlink(entry.path(), gone) == path ? 1 : 0;
    }
    return open;
  };
  CHECK(support::eventually([&] { return files_open() == 2; }, kBound));
  childs.reset();
  next.join();
  CHECK(opened);
}

TEST_CASE("TCP without TLS is refused") {
  Squalld daemon;
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", daemon.state_dir(), "--listen",
                  "127.0.0.1:7411"};
  support::Process process(command);
  CHECK(process.wait(kBound) == 2);
  CHECK(
      process.err().find("TLS needed: to listen on 127.0.0.1:7411, give --tls-dir DIR with ca.pem, "
                         "cert.pem and key.pem\n") != std::string::npos);
}

TEST_CASE("the socket and the state directory are for their owner alone") {
  Squalld daemon;
  daemon.start();
  for (const char* name : {"/squalld.sock", "/ledger", "/lock", "/state-id"}) {
    struct stat found {};
    REQUIRE(::stat((daemon.state_dir() + name).c_str(), &found) == 0);
    CHECK((found.st_mode & 077) == 0);
  }
}

TEST_CASE("a holder inherits nothing but its own end of the socket") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  applied(session);
  applied(session);
  for (const pid_t pid : daemon.holders()) {
    int sockets = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      CHECK(target.find(daemon.state_dir()) == std::string::npos);
      if (target.starts_with("socket:")) ++sockets;
    }
    CHECK(sockets <= 2);  // its own, and one for netlink
  }
}

TEST_CASE("S09: what was changed on disk is undone after a reboot too, the newest change first") {
  const support::Namespace node;
  Squalld daemon;
  const std::filesystem::path folder = daemon.state_dir() + "-shop";
  std::filesystem::create_directory(folder);
  // One file that was hidden twice: only in this order can it have its first name back.
  std::ofstream(folder / ".squall-newer") << "price = 3";
  struct stat seen {};
  REQUIRE(::stat((folder / ".squall-newer").c_str(), &seen) == 0);
  std::string ledger = ledger_header();
  const auto add = [&](const std::string& name, const std::string& hidden) {
    v1::LedgerRecord record;
    v1::LedgerOpened& opened = *record.mutable_opened();
    opened.set_fault(new_fault_id());
    opened.set_run("run-1");
    opened.set_kind("files");
    opened.set_boot_id("another");
    v1::RenameBack& undo = *opened.add_undos()->mutable_rename_back();
    undo.set_folder(folder);
    undo.set_name(name);
    undo.set_hidden(hidden);
    undo.set_inode(seen.st_ino);
    ledger += ledger_frame(record);
  };
  add("shop.conf", ".squall-older");
  add(".squall-older", ".squall-newer");
  std::ofstream(daemon.state_dir() + "/ledger", std::ios::binary) << ledger;
  daemon.start({}, &node);
  std::string text;
  std::getline(std::ifstream(folder / "shop.conf"), text);
  CHECK(text == "price = 3");
  CHECK_FALSE(std::filesystem::exists(folder / ".squall-newer"));
  std::filesystem::remove_all(folder);
}

TEST_CASE("what a dead daemon left in its ledger is undone before the next one serves") {
  const support::Namespace node;
  const std::string knob = "net/ipv4/conf/lo/route_localnet";
  const auto read_knob = [&] {
    std::string value;
    node.run([&] { std::ifstream("/proc/sys/" + knob) >> value; });
    return value;
  };
  REQUIRE(read_knob() == "0");
  support::set_sysctl(node, knob, "1");
  Squalld daemon;
  v1::LedgerRecord record;
  v1::LedgerOpened& opened = *record.mutable_opened();
  opened.set_fault(new_fault_id());
  opened.set_run("run-1");
  opened.set_kind("network");
  opened.set_boot_id(boot_id());
  v1::SetSysctl& undo = *opened.add_undos()->mutable_set_sysctl();
  undo.set_netns_inode(node.inode());
  undo.set_name(knob);
  undo.set_ours("1");
  undo.set_before("0");
  std::string expected_value = "0";
  std::string expected_words = ": swept";
  SUBCASE("of this boot") {}
  SUBCASE("but not the kernel objects of another boot") {
    opened.set_boot_id("another");
    expected_value = "1";
    expected_words = ": gone with an earlier boot";
  }
  std::string tail;
  SUBCASE("though its end is torn") { tail = "torn"; }
  bool full = false;
  SUBCASE("though nothing can be written") { full = true; }
  std::ofstream(daemon.state_dir() + "/ledger", std::ios::binary)
      << ledger_header() << ledger_frame(record) << tail;
  if (full) {
    // The state's id and the lock are there already; a new ledger is not to be had.
    std::ofstream(daemon.state_dir() + "/state-id") << new_state_id() << '\n';
    std::filesystem::create_directory(daemon.state_dir() + "/ledger.new");
  }
  daemon.start({}, &node);
  CHECK(read_knob() == expected_value);
  if (full) {
    Session session(daemon);
    session.open("run-2");
    const v1::Fault fault = small_fault();
    session.inject(fault);
    const auto refused = session.next(Event::kFailed, fault.id());
    REQUIRE(refused.has_value());
    CHECK(refused->failed().message().find("its undos cannot be written") != std::string::npos);
    return;
  }
  Session session(daemon);
  const v1::Opened told = session.open("run-2");
  CHECK(std::count(told.recovered().begin(), told.recovered().end(),
                   "network fault " + opened.fault() + " of run run-1" + expected_words) == 1);
  Session next(daemon);
  CHECK(next.open("run-3").recovered().empty());
}

TEST_CASE("what a lost lease left behind is told to the lease that takes its place") {
  if (kSanitized) {
    MESSAGE("SKIPPED: a sanitizer needs what is measured here");
    return;
  }
  const support::Namespace node;
  Squalld daemon;
  daemon.start({}, &node);
  v1::Fault fault = small_fault();
  fault.mutable_network()->set_interface("lo");
  fault.mutable_network()->set_delay(Duration(milliseconds(1)).count());
  const rlimit none{.rlim_cur = 3, .rlim_max = 4096};
  const rlimit plenty{.rlim_cur = 4096, .rlim_max = 4096};
  {
    Session session(daemon);
    session.open("run-1", 1, seconds(60));
    applied(session, fault);
    // Without another descriptor neither the holder nor a sweep can undo anything.
    for (const pid_t pid : daemon.holders()) {
      REQUIRE(::prlimit(pid, RLIMIT_NOFILE, &none, nullptr) == 0);
    }
    REQUIRE(::prlimit(daemon.process().pid(), RLIMIT_NOFILE, &none, nullptr) == 0);
  }
  const bool told = support::eventually(
      [&] { return daemon.process().err().find("event=residue") != std::string::npos; }, kBound);
  INFO(daemon.process().err());
  REQUIRE(told);
  REQUIRE(::prlimit(daemon.process().pid(), RLIMIT_NOFILE, &plenty, nullptr) == 0);
  Session again(daemon);
  again.open("run-1", 2, seconds(60));
  again.revert_all();
  const auto settled = again.next(Event::kSettled);
  REQUIRE(settled.has_value());
  REQUIRE(settled->settled().residue_size() >= 1);
  CHECK(settled->settled().residue(0).starts_with(fault.id() + ": "));
}

TEST_CASE("what still bears a fault's id when all was reverted is residue, wherever it bears it") {
  const support::Namespace node;
  Squalld daemon;
  daemon.start({}, &node);
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const v1::Fault fault = applied(session);
  session.revert(fault.id());
  REQUIRE(session.next(Event::kReverted, fault.id()).has_value());
  support::Command leave;
  leave.argv = {"ip", "link", "set", "lo", "alias", "squall:aaaaaaaa:" + fault.id()};
  leave.where = &node;
  support::run(leave);
  session.revert_all();
  const auto settled = session.next(Event::kSettled);
  REQUIRE(settled.has_value());
  REQUIRE(settled->settled().residue_size() == 1);
  CHECK(settled->settled().residue(0).starts_with("link 1 "));
}

TEST_CASE(
    "S08: a fault whose undos cannot be written is refused, and those that live still revert") {
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const v1::Fault living = applied(session);
  // A disk that is full, as far as this daemon is concerned.
  const rlimit full{.rlim_cur = 16, .rlim_max = RLIM_INFINITY};
  REQUIRE(::prlimit(daemon.process().pid(), RLIMIT_FSIZE, &full, nullptr) == 0);
  const v1::Fault refused = small_fault();
  session.inject(refused);
  const auto failed = session.next(Event::kFailed, refused.id());
  REQUIRE(failed.has_value());
  CHECK(failed->failed().code() == static_cast<int>(StatusCode::kFailedPrecondition));
  CHECK(failed->failed().message().find("its undos cannot be written") != std::string::npos);
  session.revert(living.id());
  CHECK(session.next(Event::kReverted, living.id()).has_value());
}

struct Usage {
  std::uint64_t ticks = 0;
  std::uint64_t resident_kib = 0;
};

Usage usage_of(pid_t pid) {
  Usage usage;
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(stat, text);
  std::istringstream rest(text.substr(text.rfind(')') + 1));
  std::string word;
  for (int field = 3; field <= 13; ++field) rest >> word;
  std::uint64_t user = 0;
  std::uint64_t system = 0;
  rest >> user >> system;
  usage.ticks = user + system;
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmRSS:")) usage.resident_kib = std::stoull(line.substr(6));
  }
  return usage;
}

TEST_CASE("an idle daemon costs next to nothing") {
  if (kSanitized) {
    MESSAGE("SKIPPED: a sanitizer needs what is measured here");
    return;
  }
  Squalld daemon;
  daemon.start();
  // Its spare is started, and what it did at its start is over.
  REQUIRE(support::eventually([&] { return daemon.holders().size() == 1; }, kBound));
  const Usage before = usage_of(daemon.process().pid());
  support::yield_for(seconds(10));
  const Usage after = usage_of(daemon.process().pid());
  // Not quite nothing: two timer threads of gRPC wake once a second, a tick of the processor's time
  // in a minute or two.
  CHECK(after.ticks <= before.ticks + 1);
  CHECK(after.resident_kib <= 20 * 1024);
}

}  // namespace
}  // namespace squall::daemon
