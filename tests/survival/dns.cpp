/// As survival.cpp, for dns faults: what the node's sockets ask reaches its server again, whatever
/// dies or hangs. The server is in another namespace; the fault's programs are part of the
/// fingerprint.
#include "tests/support/dns.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "injector/faults/fault.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/survival/scene.h"

using namespace squall;
using namespace squall::support;
using namespace squall::survival;
using namespace std::chrono_literals;

namespace {

constexpr const char* kName = "shop.test";
constexpr int kNoSuchName = 3;
/// An answer that comes at all comes sooner; a frozen responder gives none.
constexpr Duration kAnswered = 100ms;

/// Not every kernel can redirect sockets by their control group; then ctest shows why nothing was
/// tested.
void require_redirects() {
  v1::Look asked;
  asked.mutable_fault()->mutable_dns();
  const v1::Looked looked = hold::find_kind(asked.fault())->look(asked);
  if (looked.code() != static_cast<int>(StatusCode::kUnimplemented)) return;
  std::printf("SKIPPED: %s\n", looked.message().c_str());
  throw std::runtime_error(looked.message());
}

/// A name server, a daemon and a fault that leaves one name without an address.
struct MidDns {
  Hosts hosts;
  NameServer server{hosts.client};
  std::optional<Daemon> daemon;
  std::optional<Controller> controller;
  v1::Fault fault;
  std::optional<Stranger> holder;

  MidDns() {
    require_redirects();
    REQUIRE(eventually([&] { return resolves(); }, kBound));
    daemon.emplace(hosts.node, hosts.state.path());
    controller.emplace(daemon->address(), "survival", 1, kLease);
    inject();
    holder.emplace(holder_of(*daemon));
  }

  void inject() {
    fault.set_id(new_fault_id());
    fault.set_for_(Duration(1min).count());
    fault.mutable_dns()->clear_names();
    fault.mutable_dns()->add_names(kName);
    fault.mutable_dns()->set_answer(v1::NXDOMAIN);
    try {
      controller->inject(fault);
    } catch (const std::runtime_error& failed) {
      FAIL(std::string(failed.what()) << "; squalld said:\n" << daemon->process().err());
    }
    for (const auto& [address, transport] : ways()) {
      const std::uint64_t before = server.asked();
      const std::optional<Reply> reply = ask(hosts.node, address, transport, {.name = kName});
      REQUIRE(reply.has_value());
      CHECK(reply->code == kNoSuchName);
      CHECK(server.asked() == before);
    }
    CHECK(fingerprint_of(hosts.node) != hosts.before);
  }

  /// Whether every way leads to the server, which says so itself.
  bool resolves() const {
    for (const auto& [address, transport] : ways()) {
      const std::uint64_t before = server.asked();
      const auto reply = ask(hosts.node, address, transport, {.name = kName}, kAnswered);
      if (!reply || reply->addresses != std::vector<std::string>{NameServer::kAddress4} ||
          server.asked() == before) {
        return false;
      }
    }
    return true;
  }

  /// Waits until the name resolves, watches on for a while, and checks that it stays so. Returns
  /// how long after `since` that was.
  Duration see_no_fault(MonotonicTime since) const {
    CHECK(eventually([&] { return resolves(); }, kBound, 5ms));
    const MonotonicTime gone = monotonic_now();
    while (monotonic_now() < gone + kLease / 2) {
      for (const auto& [address, transport] : ways()) {
        const auto reply = ask(hosts.node, address, transport, {.name = kName}, kBound);
        CHECK((reply && reply->code == 0));
      }
      yield_for(10ms);
    }
    return gone - since;
  }

  Duration check_same(MonotonicTime since) const { return hosts.check_same(kBound) - since; }

  /// What squalld says of itself: its exit status and its words.
  std::pair<int, std::string> doctor() const {
    Command command;
    command.where = &hosts.node;
    command.argv = {binary("squalld"), "doctor", "--state-dir", hosts.state.path().native()};
    Process process(command);
    const int status = process.wait(kBound).value_or(-1);
    return {status, process.out() + process.err()};
  }

 private:
  static std::vector<std::pair<const char*, Transport>> ways() {
    return {{Hosts::kClient4, Transport::kUnconnected}, {Hosts::kClient6, Transport::kConnected}};
  }
};

void kill_at_once(const MidDns& scene, Daemon& daemon) {
  const std::vector<Stranger> holders = daemon.holders();
  daemon.process().signal(SIGSTOP);
  for (const Stranger& one : holders) one.signal(SIGSTOP);
  daemon.process().signal(SIGKILL);
  for (const Stranger& one : holders) one.signal(SIGKILL);
  CHECK(scene.holder->ends(kBound));
}

/// The links of that process, which live as long as any descriptor of them does.
std::vector<Fd> take_links(pid_t pid) {
  const Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  std::vector<Fd> links;
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code gone;
    const std::string what = std::filesystem::read_symlink(entry.path(), gone);
    if (what.find("bpf_link") == std::string::npos && what.find("bpf-link") == std::string::npos) {
      continue;
    }
    const int number = std::stoi(entry.path().filename());
    Fd link(static_cast<int>(::syscall(SYS_pidfd_getfd, process.number(), number, 0)));
    REQUIRE(link.is_open());
    links.push_back(std::move(link));
  }
  return links;
}

}  // namespace

TEST_CASE("S01: squalld killed in mid-fault and started again and names resolve before it serves") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  scene.daemon->process().wait(kBound);
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const std::vector<std::string> after = fingerprint_of(scene.hosts.node);
  CHECK_MESSAGE(after == scene.hosts.before, difference(scene.hosts.before, after));
  const Duration same = monotonic_now() - struck;
  CHECK(scene.resolves());
  scene.see_no_fault(struck);
  note("S01 dns, squalld killed, started again", same, same);
}

TEST_CASE("S02: squalld killed for good and the holder of a dns fault takes its programs off") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGKILL);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.check_same(struck);
  CHECK(scene.holder->ends(kBound));
  note("S02 dns, squalld killed for good", gone, same);
}

TEST_CASE("S03: squalld and every holder killed at once and a dns fault's programs die with them") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  kill_at_once(scene, *scene.daemon);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.check_same(struck);
  note("S03 dns, all killed", gone, same);
}

TEST_CASE("S05: squalld frozen and the holder of a dns fault ends it with the lease") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.daemon->process().signal(SIGSTOP);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  scene.daemon->process().signal(SIGCONT);
  CHECK(scene.controller->ended(kBound).has_value());
  scene.see_no_fault(monotonic_now());
  scene.check_same(struck);
  note("S05 dns, squalld frozen", gone, same);
}

TEST_CASE("S05: the holder of a dns fault frozen and names resolve within the lease") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGSTOP);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  CHECK(scene.holder->ends(kBound));
  CHECK(scene.daemon->describe(kBound).ok());
  note("S05 dns, its holder frozen", gone, same);
}

TEST_CASE("S05: squalld and its holders frozen and the kernel redirects no query past the lease") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  const std::vector<Stranger> holders = scene.daemon->holders();
  scene.daemon->process().signal(SIGSTOP);
  for (const Stranger& one : holders) one.signal(SIGSTOP);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  // Half a second after its lease the holder is ended by its own timer, and its programs with it.
  const Duration same = scene.check_same(struck);
  CHECK(scene.holder->ends(kBound));
  scene.daemon->process().signal(SIGCONT);
  scene.see_no_fault(monotonic_now());
  scene.check_same(struck);
  note("S05 dns, all frozen", gone, same);
}

TEST_CASE(
    "the holder of a dns fault killed and names resolve at once and the next fault is taken") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.holder->signal(SIGKILL);
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.check_same(struck);
  const auto is_told = [&](const v1::LeaseEvent& event) {
    return event.fault() == scene.fault.id() && event.has_failed();
  };
  CHECK(scene.controller->wait_for(is_told, kBound).has_value());
  scene.inject();
  scene.controller->revert_all();
  scene.check_same(struck);
  note("dns, its holder killed", gone, same);
}

TEST_CASE("S11: a controller that vanishes and names resolve at once") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->vanish();
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kSlack);
  const Duration same = scene.check_same(struck);
  note("S11 dns, the controller gone", gone, same);
}

TEST_CASE("S12: a controller that falls silent and names resolve within a lease") {
  MidDns scene;
  const MonotonicTime struck = monotonic_now();
  scene.controller->fall_silent();
  const Duration gone = scene.see_no_fault(struck);
  CHECK(gone <= kLease + kSlack);
  const Duration same = scene.check_same(struck);
  note("S12 dns, the controller silent", gone, same);
}

TEST_CASE("squalld doctor tells who answers for a dns fault's programs and which nobody does") {
  MidDns scene;
  const std::string mark = ":" + scene.fault.id() + ": ";
  const auto [held, about_held] = scene.doctor();
  CHECK_MESSAGE(held == 0, about_held);
  const std::string owner = mark + "dns fault " + scene.fault.id() +
                            " of run survival, held by pid " + std::to_string(scene.holder->pid()) +
                            "\n";
  for (const char* program : {"squall_connect4", "squall_sendmsg6", "squall_peer4"}) {
    const auto at = about_held.find(program);
    REQUIRE_MESSAGE(at != std::string::npos, about_held);
    const std::string line = about_held.substr(at, about_held.find('\n', at) + 1 - at);
    CHECK_MESSAGE(line.ends_with(owner), line);
  }

  std::vector<Fd> links = take_links(scene.holder->pid());
  CHECK(links.size() == 8);
  kill_at_once(scene, *scene.daemon);
  REQUIRE(scene.daemon->process().wait(kBound).has_value());
  const auto [left, about_left] = scene.doctor();
  CHECK_MESSAGE(left == 5, about_left);
  CHECK_MESSAGE(about_left.find(mark + "NOBODY answers for it\n") != std::string::npos, about_left);

  links.clear();
  scene.hosts.check_same(kBound);
  // Open in the ledger until the next start.
  scene.daemon.emplace(scene.hosts.node, scene.hosts.state.path());
  const auto [clean, about_clean] = scene.doctor();
  CHECK_MESSAGE(clean == 0, about_clean);
  CHECK_MESSAGE(about_clean.find(scene.fault.id()) == std::string::npos, about_clean);
}
