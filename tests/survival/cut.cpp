/// \file
/// The network between a controller and its nodes fails: each node ends its faults by itself, and
/// the controller says of which it does not know. Several nodes, over TCP with certificates.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/certificates.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/survival/scene.h"

using namespace squall;
using namespace squall::support;
using namespace squall::survival;
using namespace std::chrono_literals;

namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
}

/// A host with a squalld that listens on TCP.
struct TlsNode {
  Namespace host;
  TemporaryFolder state;
  std::string address;
  std::vector<std::string> before;
  std::optional<Process> squalld;
};

/// A controller's host, and nodes that each hang on a cable of their own.
class Fleet {
 public:
  explicit Fleet(int nodes) {
    give_certificate("controller", "127.0.0.1");
    for (int n = 0; n < nodes; ++n) {
      TlsNode& node = *nodes_.emplace_back(std::make_unique<TlsNode>());
      connect(controller, "eth" + std::to_string(n), node.host, "eth0", n);
      node.address = "10.77." + std::to_string(n) + ".2";
      node.before = fingerprint_of(node.host);
      const std::string name = "n" + std::to_string(n);
      give_certificate(name, node.address);
      Command command;
      command.argv = {binary("squalld"),      "--state-dir", node.state.path(),    "--listen",
                      node.address + ":7411", "--tls-dir",   folder_.path() / name};
      command.where = &node.host;
      node.squalld.emplace(command);
    }
    for (const auto& node : nodes_) {
      const bool serves = eventually(
          [&] { return node->squalld->err().find("event=serving") != std::string::npos; }, kBound);
      REQUIRE_MESSAGE(serves, node->squalld->err());
    }
  }

  TlsNode& node(std::size_t n) { return *nodes_[n]; }

  /// `squall run` of one fault on all of the nodes, once it is applied on each.
  Process run(const std::string& fault) {
    std::string plan =
        "plan: what a cable does\nlease: " + std::to_string(kLease / 1s) + "s\nnodes:\n";
    for (std::size_t n = 0; n < nodes_.size(); ++n) {
      plan += "  n" + std::to_string(n) + ": {address: \"" + nodes_[n]->address + ":7411\"}\n";
    }
    plan +=
        "steady_state:\n"
        "  - {name: programs start, exec: {run: [\"true\"]}, every: 500ms, expect: [exit == "
        "0]}\n"
        "method:\n  - " +
        fault + "\n";
    write(folder_.path() / "plan.yaml", plan);
    Command command;
    command.argv = {binary("squall"),
                    "run",
                    folder_.path() / "plan.yaml",
                    "--tls-dir",
                    folder_.path() / "controller",
                    "--runs-dir",
                    folder_.path() / "runs"};
    command.where = &controller;
    command.environment = {{"CI", "true"}};
    Process squall(command);
    const bool applied =
        eventually([&] { return times_told("fault_applied") == nodes_.size(); }, kBound);
    REQUIRE_MESSAGE(applied, squall.out() << squall.err());
    return squall;
  }

  /// Until the node reads as before; how long after `since`.
  static Duration until_same(const TlsNode& node, MonotonicTime since, Duration bound) {
    std::vector<std::string> after;
    const bool same = eventually(
        [&] {
          after = fingerprint_of(node.host);
          return after == node.before;
        },
        bound);
    CHECK_MESSAGE(same, difference(node.before, after));
    return monotonic_now() - since;
  }

  std::size_t times_told(const std::string& event) const {
    std::size_t times = 0;
    const std::filesystem::path runs = folder_.path() / "runs";
    if (!std::filesystem::exists(runs)) return 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(runs)) {
      if (entry.path().filename() != "events.jsonl") continue;
      std::ifstream file(entry.path());
      for (std::string line; std::getline(file, line);) {
        times += line.find('"' + event + '"') != std::string::npos;
      }
    }
    return times;
  }

  Namespace controller;

 private:
  void give_certificate(const std::string& name, const std::string& address) {
    const std::filesystem::path folder = folder_.path() / name;
    std::filesystem::create_directories(folder);
    const Pair pair = authority_.issue(name, address);
    write(folder / "ca.pem", authority_.pem());
    write(folder / "cert.pem", pair.certificate);
    write(folder / "key.pem", pair.key);
    std::filesystem::permissions(folder / "key.pem", std::filesystem::perms::owner_read);
  }

  Authority authority_;
  TemporaryFolder folder_;
  std::vector<std::unique_ptr<TlsNode>> nodes_;
};

void ip(const Namespace& where, const std::vector<std::string>& words) {
  Command command;
  command.argv = {"ip"};
  command.argv.insert(command.argv.end(), words.begin(), words.end());
  command.where = &where;
  support::run(command);
}

constexpr std::size_t kCut = 1;

/// The controller and the second of three nodes lose each other as `cut` does it. `within`: of what
/// is cut, until the node has nothing of the fault any more. `may_tell`: whether the node can still
/// say so, if its controller has not given it up before.
void check_cut(const std::string& how, Duration within, bool may_tell,
               const std::function<void(Fleet&)>& cut) {
  Fleet fleet(3);
  Process squall = fleet.run("{on: all, network: {delay: 300ms, to: {ports: [7000]}}, for: 60s}");
  const MonotonicTime struck = monotonic_now();
  cut(fleet);
  const Duration same = Fleet::until_same(fleet.node(kCut), struck, within + kBound);
  // What is delayed leaves first, and then the device goes.
  CHECK(same <= within + kSlack + 1s);
  for (const std::size_t other : {0u, 2u}) Fleet::until_same(fleet.node(other), struck, kBound);
  const std::optional<int> status = squall.wait(2min);
  const std::string said = squall.out() + squall.err();
  REQUIRE_MESSAGE(status.has_value(), said);
  const bool told = fleet.times_told("node_settled") == 3;
  CHECK((may_tell || !told));
  CHECK_MESSAGE(*status == (told ? 4 : 5), said);
  CHECK_MESSAGE(said.find("n1") != std::string::npos, said);
  CHECK(fleet.times_told("node_settled") == (told ? 3 : 2));
  note("S14 cut off " + how, same, same);
}

}  // namespace

TEST_CASE("S14: a node cut off both ways reverts by itself, and the run ends on the others") {
  check_cut("both ways", kLease, false, [](Fleet& fleet) {
    ip(fleet.controller, {"link", "set", "eth1", "down"});
  });
}

TEST_CASE("S14: a node that does not hear its controller reverts by itself and says so") {
  check_cut("from its controller's words", kLease, true, [](Fleet& fleet) {
    ip(fleet.controller, {"route", "add", "blackhole", fleet.node(kCut).address});
  });
}

TEST_CASE("S14: a node whose controller does not hear it reverts by itself") {
  // Its lease is renewed until gRPC's keepalive (2 s, and 1 s for the answer) gives it up.
  check_cut("in what it says", 3s + kLease, false, [](Fleet& fleet) {
    // Sent to an address that is nobody's.
    ip(fleet.node(kCut).host, {"neigh", "replace", "10.77.1.1", "lladdr", "02:00:00:00:00:99",
                               "dev", "eth0", "nud", "permanent"});
  });
}

TEST_CASE("S15: of a whole loss on the only interface the control channel is spared throughout") {
  Fleet fleet(1);
  const Echo echo(fleet.node(0).host, kPort);
  Process squall = fleet.run("{on: all, network: {loss: 100%, direction: both}, for: " +
                             std::to_string(3 * kLease / 1s) + "s}");
  const std::vector<Probe> probes = measure(fleet.controller, "10.77.0.2", kPort, 20);
  CHECK(answered(probes) == 0);
  const std::optional<int> status = squall.wait(1min);
  const std::string said = squall.out() + squall.err();
  REQUIRE_MESSAGE(status.has_value(), said);
  // Held through three leases, each of which lives by renewals that pass the loss.
  CHECK_MESSAGE(*status == 0, said);
  CHECK(fleet.times_told("node_lost") == 0);
  Fleet::until_same(fleet.node(0), monotonic_now(), kBound);
}
