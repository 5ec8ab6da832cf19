#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/ends.h"
#include "tests/support/eventually.h"
#include "tests/support/fingerprint.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

namespace squall::hold {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
namespace fs = std::filesystem;

const fs::path kUnits = "/run/systemd/system";
const std::string kShop = "sqt-shop.service";
const std::string kTill = "sqt-till.service";  // cannot be without the shop

/// Throws std::runtime_error unless it succeeds; a reload of all units takes ten seconds here.
std::string systemctl(const std::vector<std::string>& words) {
  Command command;
  command.argv = {"systemctl"};
  command.argv.insert(command.argv.end(), words.begin(), words.end());
  Process process(command);
  const std::optional<int> status = process.wait(minutes(1));
  if (status == 0) return process.out();
  throw std::runtime_error("systemctl " + words[0] +
                           (status ? " failed: " + process.err() : " does not end"));
}

std::string property(const std::string& unit, const std::string& name) {
  std::string text = systemctl({"show", "--value", "-p", name, unit});
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

/// As the kernel has it, whatever systemd says: the processes of its control group.
std::vector<pid_t> processes_of(const std::string& unit) {
  std::ifstream file("/sys/fs/cgroup/system.slice/" + unit + "/cgroup.procs");
  return {std::istream_iterator<pid_t>(file), {}};
}

bool runs(const std::string& unit) { return !processes_of(unit).empty(); }

/// Two services that run while the object lives.
class Shop {
 public:
  Shop() {
    // The systemd of whoever runs the tests is not ours to play with.
    REQUIRE(std::getenv("SQUALL_LAB") != nullptr);
    std::ofstream(kUnits / kShop)
        << "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/sleep infinity\n";
    std::ofstream(kUnits / kTill) << "[Unit]\nDefaultDependencies=no\nRequires=" << kShop
                                  << "\nAfter=" << kShop
                                  << "\n[Service]\nExecStart=/usr/bin/sleep infinity\n";
    systemctl({"daemon-reload"});
    systemctl({"start", kShop, kTill});
    REQUIRE(eventually([] { return runs(kShop) && runs(kTill); }, seconds(20)));
  }
  Shop(const Shop&) = delete;
  Shop& operator=(const Shop&) = delete;
  ~Shop() {
    try {
      systemctl({"stop", kTill, kShop});
    } catch (const std::runtime_error& problem) {
      MESSAGE(problem.what());
    }
  }
};

v1::Fault service(const std::string& unit, v1::ServiceAction action = v1::STOP) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(minutes(5)).count());
  fault.mutable_service()->set_unit(unit);
  fault.mutable_service()->set_action(action);
  return fault;
}

std::string refusal_of(const Namespace& node, const std::string& unit) {
  try {
    Holder(node).inject(service(unit), minutes(1));
  } catch (const std::runtime_error& refused) {
    return refused.what();
  }
  return "not refused";
}

TEST_CASE("a stopped service runs again when the fault ends, and what it took along too") {
  const Namespace node;
  const Shop shop;
  const Fingerprint before = fingerprint_of_unit(kShop) + fingerprint_of_unit(kTill);
  Holder holder(node);
  const v1::Evidence evidence = holder.inject(service(kShop), minutes(1));
  CHECK(evidence.effect());
  CHECK(evidence.service().state() == "inactive");
  CHECK(evidence.service().stops() == 1);
  CHECK_FALSE(runs(kShop));
  CHECK_FALSE(runs(kTill));
  CHECK(holder.release(seconds(30)) == std::vector<std::string>());
  CHECK(runs(kShop));
  CHECK(runs(kTill));
  CHECK(difference(before, fingerprint_of_unit(kShop) + fingerprint_of_unit(kTill)) == "");
}

TEST_CASE("a restarted service is another process and runs") {
  const Namespace node;
  const Shop shop;
  const std::vector<pid_t> before = processes_of(kShop);
  Holder holder(node);
  const v1::Evidence evidence = holder.inject(service(kShop, v1::RESTART), minutes(1));
  CHECK(evidence.effect());
  CHECK(evidence.service().state() == "active");
  CHECK(runs(kShop));
  CHECK(processes_of(kShop) != before);
  CHECK(holder.release(seconds(30)) == std::vector<std::string>());
  CHECK(runs(kShop));
}

TEST_CASE("a stopped service runs again however the fault ends and whoever has crashed") {
  const Shop shop;
  WatchedFault watched;
  watched.fault = service(kShop);
  watched.acts = [] { return !runs(kShop) && !runs(kTill); };
  watched.restored = [] { return runs(kShop) && runs(kTill); };
  for (const std::string& failed : endings_that_fail(watched)) FAIL_CHECK(failed);
}

TEST_CASE("a service that somebody else started meanwhile is told and left alone") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  holder.inject(service(kShop), minutes(1));
  systemctl({"start", kShop});
  const std::vector<pid_t> theirs = processes_of(kShop);
  const auto pulsed = holder.pulse(minutes(1));
  REQUIRE(pulsed.has_value());
  CHECK(pulsed->service().state() == "active");
  CHECK(holder.release(seconds(30)) == std::vector<std::string>());
  CHECK(processes_of(kShop) == theirs);
}

TEST_CASE("a service that cannot run again is residue and says how it is") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  holder.inject(service(kShop), minutes(1));
  std::ofstream(kUnits / kShop)
      << "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/usr/bin/false\n";
  systemctl({"daemon-reload"});
  const std::vector<std::string> residue = holder.release(seconds(30));
  REQUIRE(residue.size() == 1);
  CHECK(residue[0] ==
        "the effect was not ended: " + kShop + " does not run again: it is failed after its start");
}

TEST_CASE("a service fault is refused with what is wrong before anything is stopped") {
  const Namespace node;
  const Shop shop;
  std::ofstream(kUnits / "sqt-stubborn.service")
      << "[Unit]\nDefaultDependencies=no\nRefuseManualStop=yes\n"
      << "[Service]\nExecStart=/usr/bin/sleep infinity\n";
  std::ofstream(kUnits / "sqt-idle.service")
      << "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/usr/bin/sleep infinity\n";
  systemctl({"daemon-reload"});
  systemctl({"start", "sqt-stubborn.service"});
  CHECK(refusal_of(node, "sqt-none.service") ==
        "service.unit: this node has no unit sqt-none.service");
  CHECK(refusal_of(node, "sqt-idle.service") ==
        "service.unit: sqt-idle.service is inactive; only what is active can be stopped");
  CHECK(refusal_of(node, "sqt-stubborn.service") ==
        "service.unit: sqt-stubborn.service refuses to be stopped (RefuseManualStop=yes)");
  CHECK(refusal_of(node, "systemd-journald.service") ==
        "service.unit: systemd-journald.service cannot be touched: the node itself stands on it");
  CHECK(refusal_of(node, "init.scope") ==
        "service.unit: init.scope cannot be touched: only a .service, .socket, .timer or .path can "
        "be stopped and started again");
  // The cases run in it, and so do their holders.
  CHECK(refusal_of(node, "squall-lab.service")
            .starts_with("service.unit: squall-lab.service cannot be touched: squalld runs in it"));
  CHECK(runs(kShop));
  CHECK(runs("sqt-stubborn.service"));
  fs::remove(kUnits / "sqt-stubborn.service");
}

/// squalld as its package's own unit has it, but for where it is and keeps its state.
class OwnUnit {
 public:
  OwnUnit() {
    fs::copy_file(fs::path(SQUALL_SOURCE_DIR) / "packaging/squalld.service",
                  kUnits / "squalld.service", fs::copy_options::overwrite_existing);
    fs::create_directories(kUnits / "squalld.service.d");
    std::ofstream(kUnits / "squalld.service.d/lab.conf")
        << "[Unit]\nDefaultDependencies=no\nAfter=\nWants=\n[Service]\nExecStart=\nExecStart="
        << binary("squalld") << " --state-dir " << state_.path().native() << "\nStateDirectory=\n";
    systemctl({"daemon-reload"});
    // Returns when it has said that it serves.
    systemctl({"start", "squalld.service"});
  }
  OwnUnit(const OwnUnit&) = delete;
  OwnUnit& operator=(const OwnUnit&) = delete;
  ~OwnUnit() {
    try {
      systemctl({"stop", "squalld.service"});
    } catch (const std::runtime_error& problem) {
      MESSAGE(problem.what());
    }
  }

  std::string address() const { return "unix:" + (state_.path() / "squalld.sock").native(); }
  pid_t pid() const { return std::atoi(property("squalld.service", "MainPID").c_str()); }

 private:
  TemporaryFolder state_;
};

TEST_CASE("squalld killed or frozen under systemd is there again and what it stopped runs") {
  const Shop shop;
  const OwnUnit own;
  for (const bool frozen : {false, true}) {
    INFO(frozen);
    Controller controller(own.address(), frozen ? "frozen" : "killed", 1, seconds(4));
    controller.inject(service(kShop));
    CHECK_FALSE(runs(kShop));
    const pid_t before = own.pid();
    REQUIRE(before > 0);
    const Stranger daemon(before);
    if (frozen) {
      daemon.signal(SIGSTOP);
    } else {
      // Its holders first, while it cannot see it: nobody but the next squalld can undo it.
      daemon.signal(SIGSTOP);
      for (const pid_t pid : children_of(before, "squall-hold")) Stranger(pid).signal(SIGKILL);
      daemon.signal(SIGKILL);
    }
    CHECK(daemon.ends(seconds(60)));
    CHECK(eventually([] { return runs(kShop) && runs(kTill); }, seconds(60), milliseconds(50)));
    CHECK(eventually(
        [&] {
          const pid_t now = own.pid();
          return now > 0 && now != before && property("squalld.service", "ActiveState") == "active";
        },
        seconds(60), milliseconds(200)));
  }
}

TEST_CASE("a stop of squalld's unit reverts its faults first") {
  const Shop shop;
  const OwnUnit own;
  Controller controller(own.address(), "stopped", 1, seconds(4));
  controller.inject(service(kShop));
  CHECK_FALSE(runs(kShop));
  systemctl({"stop", "squalld.service"});
  CHECK(runs(kShop));
  CHECK(runs(kTill));
  CHECK(property("squalld.service", "Result") == "success");
}

}  // namespace
}  // namespace squall::hold
