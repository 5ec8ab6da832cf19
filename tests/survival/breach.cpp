/// \file
/// A check is breached while ten nodes hold a fault each: how soon all of them are rid of it.
#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/survival/scene.h"

using namespace squall;
using namespace squall::support;
using namespace squall::survival;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t kNodes = 10;

struct Node {
  Namespace host;
  TemporaryFolder state;
  std::vector<std::string> before = fingerprint_of(host);
  Daemon daemon{host, state.path()};
};

/// The only run's log below a folder, as far as it is written.
std::vector<nlohmann::json> log_below(const std::filesystem::path& runs) {
  std::vector<nlohmann::json> events;
  std::error_code none;
  for (const auto& run : std::filesystem::directory_iterator(runs, none)) {
    std::ifstream in(run.path() / "events.jsonl");
    for (std::string line; std::getline(in, line);) {
      if (in.eof()) break;  // torn: it is being written
      events.push_back(nlohmann::json::parse(line));
    }
  }
  return events;
}

}  // namespace

TEST_CASE("S20: a breach ends the effect on ten nodes, and how soon is in the run's end") {
  std::vector<std::unique_ptr<Node>> nodes;
  for (std::size_t n = 0; n < kNodes; ++n) nodes.push_back(std::make_unique<Node>());
  const TemporaryFolder folder;
  const auto sign = folder.path() / "the shop is open";
  std::ofstream(sign) << "yes";
  std::ofstream plan(folder.path() / "plan.yaml");
  plan << "plan: a shop that closes\nlease: 5s\nnodes:\n";
  for (std::size_t n = 0; n < kNodes; ++n) {
    plan << "  n" << n << ": {address: \"" << nodes[n]->daemon.address() << "\"}\n";
  }
  plan << "steady_state:\n  - {name: open, exec: {run: [test, -e, \"" << sign.native()
       << "\"]}, every: 1s, expect: [exit == 0]}\n"
       << "method:\n  - {on: all, network: {delay: 10ms, interface: lo}, for: 60s}\nrecovery: "
          "{within: 200ms}\n";
  plan.close();
  Command command;
  command.argv = {binary("squall"), "run", folder.path() / "plan.yaml", "--runs-dir",
                  folder.path() / "runs"};
  Process squall(command);
  const auto applied = [&] {
    std::size_t count = 0;
    for (const auto& event : log_below(folder.path() / "runs"))
      count += event.count("fault_applied");
    return count == kNodes;
  };
  REQUIRE_MESSAGE(eventually(applied, kBound), squall.err());
  std::filesystem::remove(sign);
  REQUIRE_MESSAGE(squall.wait(kBound) == 1, squall.err());

  const nlohmann::json ended = log_below(folder.path() / "runs").back().at("run_ended");
  const nlohmann::json& abort = ended.at("abort");
  const double decided = abort.at("decided_ms");
  const double effect_ended = abort.at("effect_ended_ms");
  const double clean = abort.at("verified_clean_ms");
  CHECK(decided <= effect_ended);
  CHECK(effect_ended <= clean);
  CHECK(effect_ended - decided < to_ms(kSlack));
  CHECK(ended.at("times").at("to_abort_ms") == effect_ended);
  for (const auto& node : nodes) CHECK(fingerprint_of(node->host) == node->before);
  const auto from_ms = [](double ms) { return Duration(static_cast<std::int64_t>(ms * 1e6)); };
  note("S20: ten nodes, a breach", from_ms(effect_ended - decided), from_ms(clean - decided));
}
