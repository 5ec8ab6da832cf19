#include "injector/daemon/guardrails.h"

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/faults.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/daemon/squalld.h"

namespace squall::daemon {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using support::Namespace;
using support::Session;
using support::small_fault;
using support::Squalld;
using support::TemporaryFolder;
using Event = v1::LeaseEvent;
namespace fs = std::filesystem;

constexpr Duration kBound = seconds(10);
/// A Wednesday, 2026-07-01 12:00 UTC.
constexpr std::time_t kWednesdayNoon = 1782907200;

class File {
 public:
  explicit File(const std::string& text) { std::ofstream(path()) << text; }
  std::string path() const { return folder_.path() / "guardrails.yaml"; }
  fs::path beside(const std::string& name) const { return folder_.path() / name; }

 private:
  TemporaryFolder folder_;
};

Guardrails load(const std::string& text) {
  const File file(text);
  auto guardrails = Guardrails::load(file.path());
  INFO(message_of(guardrails.status()));
  REQUIRE(guardrails.ok());
  return *std::move(guardrails);
}

/// What is wrong with the text, without the first line, and the folder.
std::string mistakes(const std::string& text) {
  const File file(text);
  const auto guardrails = Guardrails::load(file.path());
  if (guardrails.ok()) return "none";
  CHECK(guardrails.status().code() == StatusCode::kInvalidArgument);
  std::string told = message_of(guardrails.status());
  CHECK(told.starts_with("the guardrails are wrong, and without them nothing is served\n"));
  told.erase(0, told.find('\n') + 1);
  const std::string folder = fs::path(file.path()).parent_path().string() + '/';
  for (auto at = told.find(folder); at != std::string::npos; at = told.find(folder)) {
    told.erase(at, folder.size());
  }
  return told;
}

/// Why the fault is refused; empty: it is not.
std::string why(const Guardrails& guardrails, const v1::Fault& fault, std::size_t beside = 0,
                std::time_t now = kWednesdayNoon) {
  const Status status = guardrails.allow(fault, beside, now);
  CHECK(status.code() != StatusCode::kInvalidArgument);
  return message_of(status);
}

v1::Fault fault_of(Duration lasts = minutes(1)) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(lasts.count());
  return fault;
}

v1::Fault script(const std::string& run, const std::string& undo) {
  v1::Fault fault = fault_of();
  fault.mutable_script()->add_run(run);
  fault.mutable_script()->add_undo(undo);
  fault.mutable_script()->set_timeout(Duration(seconds(5)).count());
  return fault;
}

/// How a fault ended that a node was asked for: its refusal, or "applied".
std::string answer(Session& session, const v1::Fault& fault) {
  session.inject(fault);
  const auto event = session.next([&](const Event& seen) {
    return seen.fault() == fault.id() && (seen.has_applied() || seen.has_failed());
  });
  REQUIRE(event.has_value());
  return event->has_applied() ? "applied" : event->failed().message();
}

TEST_CASE("every mistake of the guardrails is told with its line and column") {
  CHECK(mistakes(R"(environment: staging
kinds: [network, cpuu, script]
longest: 10
protect: {ports: [70000], processes: [a-name-that-is-too-long]}
quiet: [{days: [mon, someday], from: 08:00, to: 10:00}]
strongest:
  cpu: {load: 80%, of: total}
  network: {dealy: 2s}
  gpu: {load: 1%}
colour: red
)") == R"(guardrails.yaml:3:10: error: 10 of what?
  longest: 10
           ^^
  write 10ms
guardrails.yaml:4:19: error: ports 70000 is too large
  protect: {ports: [70000], processes: [a-name-that-is-too-long]}
                    ^^^^^
  write 1 to 65535
guardrails.yaml:4:39: error: the kernel keeps 15 bytes of a program's name; "a-name-that-is-too-long" has 23
  protect: {ports: [70000], processes: [a-name-that-is-too-long]}
                                        ^^^^^^^^^^^^^^^^^^^^^^^
  write "a-name-that-is-"
guardrails.yaml:5:22: error: unknown days "someday"
  quiet: [{days: [mon, someday], from: 08:00, to: 10:00}]
                       ^^^^^^^
  it may be mon, tue, wed, thu, fri, sat or sun
guardrails.yaml:7:20: error: of has no more and no less
    cpu: {load: 80%, of: total}
                     ^^
  of cpu may be bounded: load, cores, ramp
guardrails.yaml:8:13: error: unknown key "dealy"
    network: {dealy: 2s}
              ^^^^^
  did you mean "delay"?
guardrails.yaml:9:3: error: unknown fault "gpu"
    gpu: {load: 1%}
    ^^^
  did you mean "cpu"?
guardrails.yaml:10:1: error: unknown key "colour"
  colour: red
  ^^^^^^
  known here: environment, kinds, scripts, protect, longest, strongest, faults, quiet)");
}

TEST_CASE("what the rules say together is told where it stands") {
  CHECK(mistakes("kinds: [network, cpuu]\nscripts: [/bin/true]\n") ==
        R"(guardrails.yaml:1:18: error: unknown fault "cpuu"
  kinds: [network, cpuu]
                   ^^^^
  did you mean "cpu"?
guardrails.yaml:2:1: error: scripts allows programs, and kinds does not name script
  scripts: [/bin/true]
  ^^^^^^^
  add script to `kinds`, or leave `scripts` out)");
  CHECK(mistakes("kinds: [script]\n") ==
        R"(guardrails.yaml:1:1: error: kinds names script, and no program is allowed
  kinds: [script]
  ^^^^^
  list under `scripts` those that may be run)");
  CHECK(mistakes("quiet: [{from: 8am, to: 24:01}, {from: 10:00, to: 10:00}]\n") ==
        R"(guardrails.yaml:1:16: error: "8am" is no time of the day
  quiet: [{from: 8am, to: 24:01}, {from: 10:00, to: 10:00}]
                 ^^^
  write 00:00 to 24:00, such as 08:30
guardrails.yaml:1:25: error: "24:01" is no time of the day
  quiet: [{from: 8am, to: 24:01}, {from: 10:00, to: 10:00}]
                          ^^^^^
  write 00:00 to 24:00, such as 08:30
guardrails.yaml:1:51: error: the quiet hours end when they begin
  quiet: [{from: 8am, to: 24:01}, {from: 10:00, to: 10:00}]
                                                    ^^^^^
  write 00:00 to 24:00 for a whole day)");
  CHECK(mistakes("# nothing\n") == R"(guardrails.yaml: error: the guardrails are empty)");
  CHECK(mistakes("strongest: {cpu: {}}\n") == R"(guardrails.yaml:1:13: error: cpu bounds nothing
  strongest: {cpu: {}}
              ^^^
  known in it: load, cores, ramp)");
}

TEST_CASE("guardrails that others may write are refused, and so are those that are not there") {
  const File file("longest: 1m\n");
  fs::permissions(file.path(), fs::perms::group_write, fs::perm_options::add);
  const auto loaded = Guardrails::load(file.path());
  CHECK(message_of(loaded.status()) ==
        "the guardrails are wrong, and without them nothing is served\n" + file.path() +
            ": error: can be written by others than its owner; chmod go-w mends that");
  const TemporaryFolder state;
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", state.path(), "--guardrails",
                  file.beside("none")};
  support::Process squalld(command);
  CHECK(squalld.wait(kBound) == 2);
  CHECK(squalld.err().ends_with(
      "squalld: the guardrails are wrong, and without them nothing is served\n" +
      file.beside("none").string() + ": error: No such file or directory\n"));
}

TEST_CASE("the guardrails that are delivered can be read") {
  const auto guardrails = Guardrails::load(SQUALL_SOURCE_DIR "/packaging/guardrails.yaml");
  INFO(message_of(guardrails.status()));
  REQUIRE(guardrails.ok());
  CHECK(guardrails->environment() == "staging");
}

TEST_CASE("every field that a bound is turned round for is one that can be bounded") {
  const auto& limits = v1::Guardrails::descriptor()
                           ->FindFieldByName("strongest")
                           ->options()
                           .GetExtension(v1::limits);
  for (const auto* names : {&limits.less_is_stronger(), &limits.absent_is_strongest()}) {
    CHECK_FALSE(names->empty());
    for (const std::string& name : *names) {
      INFO(name);
      const auto* field =
          v1::Fault::descriptor()->file()->pool()->FindFieldByName("squall.v1." + name);
      REQUIRE(field != nullptr);
      CHECK(field->is_optional());
    }
  }
}

TEST_CASE("a kind is allowed or not, and a script only by its programs") {
  const Guardrails none;
  CHECK(why(none, small_fault(hours(24))) == "");
  CHECK(why(none, script("/bin/true", "/bin/true")) ==
        "this node takes no script faults; its guardrails can allow programs by `scripts`");
  const Guardrails network = load("# kinds\nkinds: [network, dns]\n");
  CHECK(why(network, support::delay_fault(80, seconds(1))) == "");
  CHECK(why(network, small_fault()) == "guardrails.yaml:2: kinds does not name cpu");
  CHECK(why(network, script("/bin/true", "/bin/true")) ==
        "guardrails.yaml:2: kinds does not name script");
  const Guardrails scripts = load("scripts: [/opt/a, /opt/b]\n");
  CHECK(why(scripts, small_fault()) == "");
  CHECK(why(scripts, script("/opt/a", "/opt/b")) == "");
  CHECK(why(scripts, script("/opt/a", "/opt/c")) ==
        "guardrails.yaml:1: scripts does not list /opt/c");
  CHECK(why(scripts, script("/opt/../bin/sh", "/opt/b")) ==
        "guardrails.yaml:1: scripts does not list /opt/../bin/sh");
}

TEST_CASE("no fault lasts longer, and none is one too many") {
  const Guardrails guardrails = load("longest: 10m\nfaults: 2\n");
  CHECK(why(guardrails, small_fault(minutes(10)), 1) == "");
  CHECK(why(guardrails, small_fault(minutes(10) + milliseconds(1))) ==
        "guardrails.yaml:1: longest is 10m, the fault asks for 600.001s");
  CHECK(why(guardrails, small_fault(), 2) ==
        "guardrails.yaml:2: faults is 2, and this one would be one more");
}

TEST_CASE("a fault is held to the bounds of its kind, and to its effects") {
  const Guardrails guardrails = load(R"(strongest:
  network:
    delay: 2s
    loss: 50%
    rate: 1mbit
    slot: {min_delay: 1ms}
  cpu: {load: 80%, cores: 2}
  memory: {size: 1GiB, keep_free: 512MiB}
)");
  v1::Fault fault = support::delay_fault(80, seconds(2));
  CHECK(why(guardrails, fault) == "");
  fault.mutable_network()->set_delay(Duration(seconds(10)).count());
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:3: strongest.network.delay is 2s, the fault asks for 10s");
  fault = support::loss_fault(80, 51);
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:4: strongest.network.loss is 50%, the fault asks for 51%");

  SUBCASE("less of some is more") {
    fault = support::network_fault(80);
    fault.mutable_network()->set_rate(1'000'000);
    CHECK(why(guardrails, fault) == "");
    fault.mutable_network()->set_rate(8);
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:5: strongest.network.rate is 1mbit at least, the fault asks for 8bit");
  }
  SUBCASE("another effect does not get round it") {
    fault = support::network_fault(80);
    fault.mutable_network()->mutable_gilbert_elliott()->set_p(100);
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:2: strongest.network names no gilbert_elliott, so that no fault may ask "
          "for it");
    fault = support::delay_fault(80, seconds(1));
    fault.mutable_network()->mutable_slot()->set_min_delay(Duration(seconds(60)).count());
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:6: strongest.network.slot.min_delay is 1ms, the fault asks for 1m");
    fault.mutable_network()->mutable_slot()->clear_min_delay();
    fault.mutable_network()->mutable_slot()->set_delay(Duration(seconds(60)).count());
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:6: strongest.network.slot names no delay, so that no fault may ask for "
          "it");
    fault = fault_of();
    fault.mutable_memory()->set_to(100);
    fault.mutable_memory()->set_keep_free(1U << 30U);
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:8: strongest.memory names no to, so that no fault may ask for it");
  }
  SUBCASE("silence where it means all does not get round it") {
    fault = small_fault();
    fault.mutable_cpu()->clear_cores();
    fault.mutable_cpu()->clear_on_cores();
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:7: strongest.cpu.cores is 2, the fault names no cores");
    for (const std::uint32_t core : {0U, 1U, 2U}) fault.mutable_cpu()->add_on_cores(core);
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:7: strongest.cpu names no on_cores, so that no fault may ask for it");
    fault = fault_of();
    fault.mutable_memory()->set_size(1U << 20U);
    CHECK(why(guardrails, fault) ==
          "guardrails.yaml:8: strongest.memory.keep_free is 512MiB, the fault names no keep_free");
  }
  SUBCASE("what is no number exceeds every bound") {
    fault = support::loss_fault(80, std::numeric_limits<double>::quiet_NaN());
    CHECK(why(guardrails, fault) != "");
  }
}

TEST_CASE("no fault reaches into the quiet hours") {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  const Guardrails guardrails =
      load("quiet:\n- {days: [wed], from: 22:00, to: 06:00}\n- {from: 13:00, to: 14:00}\n");
  const auto at = [](int hour, int minute) {
    return kWednesdayNoon + (hour - 12) * 3600 + minute * 60;
  };
  const std::string night = "guardrails.yaml:2: the quiet hours from 22:00 to 06:00 ";
  const v1::Fault minute = small_fault(minutes(1));
  CHECK(why(guardrails, minute, 0, at(12, 0)) == "");
  CHECK(why(guardrails, minute, 0, at(21, 59)) == "");
  CHECK(why(guardrails, minute, 0, at(22, 0)) == night + "are now");
  CHECK(why(guardrails, minute, 0, at(24 + 5, 59)) == night + "are now");
  CHECK(why(guardrails, minute, 0, at(24 + 6, 0)) == "");
  CHECK(why(guardrails, minute, 0, at(5, 0)) == "");        // Tuesday's night is not quiet
  CHECK(why(guardrails, minute, 0, at(24 + 22, 0)) == "");  // nor Thursday's
  CHECK(why(guardrails, small_fault(hours(9)), 0, at(14, 0)) ==
        night + "begin before the fault would end");
  CHECK(why(guardrails, minute, 0, at(48 + 13, 30)) ==
        "guardrails.yaml:3: the quiet hours from 13:00 to 14:00 are now");
  v1::Fault at_once = fault_of();
  at_once.clear_for_();
  at_once.mutable_kill()->mutable_process()->set_name("nginx");
  CHECK(why(guardrails, at_once, 0, at(12, 59)) == "");
  CHECK(why(guardrails, at_once, 0, at(13, 0)) != "");
}

TEST_CASE("what is protected cannot be named") {
  const Guardrails guardrails = load(R"(protect:
  processes: [postgres]
  units: [db.service]
  ports: [80, 5432]
  interfaces: [wg0]
  paths: [/var/lib/db]
)");
  v1::Fault fault = fault_of();
  fault.mutable_kill()->mutable_process()->set_name("postgres");
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:2: protect.processes has postgres, which the fault names as "
        "kill.process.name");
  fault.mutable_kill()->mutable_process()->set_name("nginx");
  CHECK(why(guardrails, fault) == "");
  fault.mutable_kill()->mutable_process()->set_port(5432);
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:4: protect.ports has 5432, which the fault names as kill.process.port");
  fault.mutable_service()->set_unit("db.service");
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:3: protect.units has db.service, which the fault names as service.unit");
  fault.mutable_cpu()->mutable_in()->set_unit("db.service");
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:3: protect.units has db.service, which the fault names as cpu.in.unit");
  fault.mutable_files()->set_path("/var/lib/db");
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:6: protect.paths has /var/lib/db, which the fault names as files.path");
  fault = support::delay_fault(8080, seconds(1));
  CHECK(why(guardrails, fault) == "");
  fault.mutable_network()->set_interface("wg0");
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:5: protect.interfaces has wg0, which the fault names as "
        "network.interface");
  fault.mutable_network()->clear_interface();
  fault.mutable_network()->mutable_to()->mutable_ports(0)->set_first(5000);
  CHECK(why(guardrails, fault) ==
        "guardrails.yaml:4: protect.ports has 5432, which the fault names as network.to.ports");
  *fault.mutable_network()->mutable_except() = fault.network().to();
  fault.mutable_network()->clear_to();
  CHECK(why(guardrails, fault) == "");
}

TEST_CASE("the node's environment may stand in its guardrails, and only once") {
  const File file("environment: staging\n");
  Squalld daemon;
  daemon.start({"--guardrails", file.path()});
  CHECK(daemon.describe().environment() == "staging");
  Session session(daemon);
  v1::LeaseRequest open;
  open.mutable_open()->set_run("run-1");
  open.mutable_open()->set_lease(Duration(seconds(1)).count());
  open.mutable_open()->set_environment("prod");
  session.send(open);
  CHECK(message_of(session.last_word()) ==
        "this node's environment is \"staging\", the plan names \"prod\"");
  const TemporaryFolder state;
  support::Command command;
  command.argv = {support::binary("squalld"),
                  "--state-dir",
                  state.path(),
                  "--guardrails",
                  file.path(),
                  "--environment",
                  "prod"};
  support::Process squalld(command);
  CHECK(squalld.wait(kBound) == 2);
  CHECK(squalld.err().ends_with("squalld: --environment is prod, and the guardrails in " +
                                file.path() + " say staging; leave one out\n"));
}

TEST_CASE("a node refuses by its guardrails at preflight and again at inject") {
  const File file("longest: 1m\nfaults: 1\nquiet: [{from: 00:00, to: 24:00}]\n");
  const File no_quiet("longest: 1m\nfaults: 1\n");
  Squalld daemon;
  daemon.start({"--guardrails", no_quiet.path()});
  const std::string too_long = "guardrails.yaml:1: longest is 1m, the fault asks for 2m";
  const std::string too_many = "guardrails.yaml:2: faults is 1, and this one would be one more";
  v1::PreflightRequest request;
  for (const Duration lasts : {minutes(2), minutes(1), minutes(1), minutes(1)}) {
    *request.add_faults() = small_fault(lasts);
  }
  for (const std::uint32_t together : {1U, 2U, 2U, 3U}) request.add_together(together);
  const auto reply = daemon.preflight(request);
  REQUIRE(reply.ok());
  CHECK(reply->faults(0).message() == too_long);
  CHECK(reply->faults(0).code() == static_cast<int>(StatusCode::kPermissionDenied));
  CHECK(reply->faults(1).code() == 0);
  CHECK(reply->faults(2).message() == too_many);
  CHECK(reply->faults(3).code() == 0);
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  CHECK(answer(session, small_fault(minutes(2))) == too_long);
  const v1::Fault first = small_fault();
  CHECK(answer(session, first) == "applied");
  Session other(daemon);
  other.open("run-2", 1, seconds(60));
  CHECK(answer(other, small_fault()) == too_many);
  session.revert(first.id());
  REQUIRE(session.next(Event::kReverted, first.id()).has_value());
  CHECK(answer(other, small_fault()) == "applied");

  Squalld quiet;
  quiet.start({"--guardrails", file.path()});
  Session late(quiet);
  late.open("run-1", 1, seconds(60));
  CHECK(answer(late, small_fault()) ==
        "guardrails.yaml:3: the quiet hours from 00:00 to 24:00 are now");
}

TEST_CASE("a protected process is not found by its pid either") {
  const File file("protect:\n  processes: [guarded-prog]\n");
  const fs::path program = file.beside("guarded-prog");
  fs::copy_file("/bin/sleep", program);
  support::Command command;
  command.argv = {program, "1000"};
  support::Process guarded(command);
  Squalld daemon;
  daemon.start({"--guardrails", file.path()});
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  v1::Fault fault = fault_of();
  fault.clear_for_();
  fault.mutable_kill()->mutable_process()->set_pid(static_cast<std::uint32_t>(guarded.pid()));
  const std::string told = answer(session, fault);
  CHECK(told == "no process with pid " + std::to_string(guarded.pid()) +
                    " on this node that may be touched: " + std::to_string(guarded.pid()) +
                    " is protected by guardrails.yaml:2");
  CHECK(guarded.running());
  v1::PreflightRequest request;
  *request.add_faults() = fault;
  const auto reply = daemon.preflight(request);
  REQUIRE(reply.ok());
  CHECK(reply->faults(0).message() == told);
}

/// A control group that bears a unit's name, in the first hierarchy where one can be made.
class UnitGroup {
 public:
  explicit UnitGroup(const std::string& unit) {
    std::ifstream mounts("/proc/self/mounts");
    std::string device, where, type, rest;
    while (mounts >> device >> where >> type && std::getline(mounts, rest)) {
      if (type != "cgroup2" && type != "cgroup") continue;
      std::error_code problem;
      above_ = fs::path(where) / (unit + ".slice");
      folder_ = above_ / unit;
      // A hierarchy of cpusets takes no process before it is told which.
      if (rest.find("cpuset") == std::string::npos && fs::create_directory(folder_, problem))
        return;
    }
    folder_.clear();
  }
  UnitGroup(const UnitGroup&) = delete;
  UnitGroup& operator=(const UnitGroup&) = delete;
  ~UnitGroup() {
    if (!exists()) return;
    ::rmdir(folder_.c_str());
    ::rmdir(above_.c_str());
  }

  bool exists() const { return !folder_.empty(); }
  void add(pid_t pid) const { std::ofstream(folder_ / "cgroup.procs") << pid << std::flush; }

 private:
  fs::path above_;
  fs::path folder_;
};

TEST_CASE("a process of a protected unit is not touched and neither is a group that holds it") {
  const std::string unit = "squall-test-" + std::to_string(::getpid()) + ".service";
  const UnitGroup group(unit);
  if (!group.exists()) {
    MESSAGE("SKIPPED: no control group can be made here");
    return;
  }
  const File file("protect:\n  units: [" + unit + "]\n");
  support::Command command;
  command.argv = {"/bin/sleep", "1000"};
  support::Process guarded(command);
  group.add(guarded.pid());
  Squalld daemon;
  daemon.start({"--guardrails", file.path()});
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  v1::Fault fault = fault_of();
  fault.clear_for_();
  fault.mutable_kill()->mutable_process()->set_pid(static_cast<std::uint32_t>(guarded.pid()));
  CHECK(answer(session, fault) ==
        "no process with pid " + std::to_string(guarded.pid()) +
            " on this node that may be touched: " + std::to_string(guarded.pid()) +
            " is protected by guardrails.yaml:2");
  CHECK(guarded.running());
  v1::Fault whole = small_fault();
  whole.mutable_cpu()->mutable_in()->set_cgroup("/" + unit + ".slice");
  CHECK(answer(session, whole) == "cpu: in: cgroup: /" + unit +
                                      ".slice cannot be touched: it holds " + unit +
                                      ", protected by guardrails.yaml:2");
  guarded.signal(SIGKILL);
  CHECK(guarded.wait(kBound).has_value());
}

TEST_CASE("guardrails with a mistake keep nothing from its end that an earlier daemon left") {
  const File file("longest: soon\n");
  const fs::path hidden = file.beside("folder/hidden");
  fs::create_directory(hidden.parent_path());
  std::ofstream(hidden) << "text";
  Squalld daemon;
  daemon.start();
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  v1::Fault fault = fault_of();
  fault.mutable_files()->set_path(hidden);
  REQUIRE(answer(session, fault) == "applied");
  REQUIRE_FALSE(fs::exists(hidden));
  // Frozen first, so that none of them mends it when the daemon is gone.
  for (const pid_t pid : daemon.holders()) ::kill(pid, SIGSTOP);
  daemon.process().signal(SIGKILL);
  REQUIRE(daemon.process().wait(kBound).has_value());
  CHECK_FALSE(fs::exists(hidden));
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", daemon.state_dir(), "--guardrails",
                  file.path()};
  support::Process next(command);
  CHECK(next.wait(kBound) == 2);
  INFO(next.err());
  CHECK(fs::exists(hidden));
}

TEST_CASE("an interface is protected also where the fault names none") {
  const File file("protect:\n  interfaces: [eth0]\n");
  const Namespace node;
  const Namespace other;
  support::connect(node, "eth0", other, "eth0", 1);
  Squalld daemon;
  daemon.start({"--guardrails", file.path()}, &node);
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const std::string told = "the interface eth0 cannot be touched: protected by guardrails.yaml:2";
  CHECK(answer(session, support::loss_fault(80, 100)) == told);
  v1::Fault all = support::loss_fault(80, 100);
  all.mutable_network()->set_interface("all");
  CHECK(answer(session, all) == told);
  all.set_id(new_fault_id());
  all.mutable_network()->set_interface("lo");
  CHECK(answer(session, all) == "applied");
}

/// Whether a connection comes about within a time that is long for this machine's own.
bool connects(const Namespace& where, std::uint16_t port, Duration bound) {
  return where.run([&] {
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::connect(socket.number(), reinterpret_cast<sockaddr*>(&to), sizeof to);
    pollfd waiting{.fd = socket.number(), .events = POLLOUT, .revents = 0};
    const auto ms = std::chrono::duration_cast<milliseconds>(bound).count();
    return ::poll(&waiting, 1, static_cast<int>(ms)) == 1 && waiting.revents == POLLOUT;
  });
}

TEST_CASE("a protected port is spared by a fault that takes all packets") {
  const File file("protect:\n  ports: [5432]\n");
  const Namespace node;
  std::vector<Fd> listeners;
  for (const std::uint16_t port : {std::uint16_t{5432}, std::uint16_t{5433}}) {
    listeners.push_back(node.run([&] {
      Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in at{};
      at.sin_family = AF_INET;
      at.sin_port = htons(port);
      at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      REQUIRE(::bind(socket.number(), reinterpret_cast<sockaddr*>(&at), sizeof at) == 0);
      REQUIRE(::listen(socket.number(), 8) == 0);
      return socket;
    }));
  }
  Squalld daemon;
  daemon.start({"--guardrails", file.path()}, &node);
  CHECK(connects(node, 5433, kBound));
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  v1::Fault fault = support::loss_fault(80, 100);
  fault.mutable_network()->clear_to();
  fault.mutable_network()->set_interface("lo");
  REQUIRE(answer(session, fault) == "applied");
  CHECK(connects(node, 5432, kBound));
  CHECK_FALSE(connects(node, 5433, milliseconds(500)));
}

TEST_CASE("a protected path is spared by every name it has") {
  const File place("");
  const fs::path folder = place.beside("guarded");
  const fs::path open = place.beside("open");
  fs::create_directories(folder / "inner");
  fs::create_directories(open);
  std::ofstream(folder / "inner/file") << "text";
  std::ofstream(open / "file") << "text";
  fs::create_hard_link(folder / "inner/file", open / "linked");
  fs::create_directory_symlink(folder, place.beside("alias"));
  const File file("protect:\n  paths:\n  - " + (place.beside("alias") / "inner").string() +
                  "\n  - " + (folder / "inner/file").string() + "\n");
  Squalld daemon;
  daemon.start({"--guardrails", file.path()});
  Session session(daemon);
  session.open("run-1", 1, seconds(60));
  const auto told = [&](const fs::path& path) {
    v1::Fault fault = fault_of();
    fault.mutable_files()->set_path(path);
    return answer(session, fault);
  };
  const auto denied = [&](const fs::path& path, const std::string& by) {
    return "files.path: " + path.string() + " cannot be touched: " + by;
  };
  CHECK(told(folder / "inner") == denied(folder / "inner", "protected by guardrails.yaml:3"));
  CHECK(told(folder) == denied(folder, "it holds " + (place.beside("alias") / "inner").string() +
                                           ", protected by guardrails.yaml:3"));
  CHECK(told(open / "linked") == denied(open / "linked", "protected by guardrails.yaml:4"));
  CHECK(told(fs::path(file.path())) == denied(file.path(), "it is what squalld itself needs"));
  CHECK(told(open / "file") == "applied");
}

}  // namespace
}  // namespace squall::daemon
