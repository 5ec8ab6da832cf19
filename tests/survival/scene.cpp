#include "tests/survival/scene.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>

#include "tests/support/eventually.h"
#include "tests/support/holder.h"

namespace squall::survival {
namespace {

using namespace std::chrono_literals;
using support::Probe;

/// Prints what it was told when the program ends.
class Table {
 public:
  ~Table() {
    if (rows_.empty()) return;
    std::printf("\n%-64s %12s %12s\n", "survived", "effect gone", "clean");
    for (const std::string& row : rows_) std::printf("%s\n", row.c_str());
  }

  void add(const std::string& row) { rows_.push_back(row); }

 private:
  std::vector<std::string> rows_;
};

Table table;

std::string in_ms(std::optional<Duration> time) {
  char text[32];
  if (!time) return "-";
  std::snprintf(text, sizeof text, "%.0f ms", to_ms(*time));
  return text;
}

bool in_the_lab() { return std::getenv("SQUALL_LAB") != nullptr; }

/// Of the probes, by which times are told.
constexpr Duration kPace = 10ms;

}  // namespace

const Duration kLease = in_the_lab() ? 3s : 1s;
const Duration kSlack = in_the_lab() ? 1200ms : 400ms;

void note(const std::string& what, Duration effect_gone, std::optional<Duration> same) {
  char row[160];
  std::snprintf(row, sizeof row, "%-64s %12s %12s", what.c_str(), in_ms(effect_gone).c_str(),
                in_ms(same).c_str());
  table.add(row);
  MESSAGE(row);
}

Hosts::Hosts() {
  support::go_first();
  support::add_clsact(node, "eth0");
  for (const char* address : {kNode4, kNode6}) {
    REQUIRE(support::answered(support::measure(client, address, kPort, 5)) == 5);
  }
  before = support::fingerprint_of(node);
}

MonotonicTime Hosts::check_same(Duration bound) const {
  std::vector<std::string> after;
  support::eventually([&] { return (after = support::fingerprint_of(node)) == before; }, bound,
                      10ms);
  const MonotonicTime now = monotonic_now();
  CHECK_MESSAGE(after == before, support::difference(before, after));
  return now;
}

Eyes::Eyes(const Hosts& hosts)
    : four_(hosts.client, Hosts::kNode4, kPort, kPace),
      six_(hosts.client, Hosts::kNode6, kPort, kPace) {}

void Eyes::see_fault() const {
  const MonotonicTime now = monotonic_now();
  CHECK(four_.is_disturbed(now, kUntouched, kBound));
  CHECK(six_.is_disturbed(now, kUntouched, kBound));
}

Duration Eyes::see_no_fault(MonotonicTime since) {
  CHECK(four_.passes_untouched(since, kUntouched, kBound));
  CHECK(six_.passes_untouched(since, kUntouched, kBound));
  // Whatever would come back, comes back within a lease.
  support::yield_for(kLease / 2);
  MonotonicTime latest = since;
  for (const std::vector<Probe>& seen : probes()) {
    // Those that left a moment ago are still on their way.
    std::vector<Probe> settled = seen;
    const MonotonicTime due = monotonic_now() - kUntouched;
    std::erase_if(settled, [&](const Probe& probe) { return probe.sent > due; });
    const std::optional<MonotonicTime> from = support::untouched_from(settled, kUntouched);
    REQUIRE(from.has_value());
    latest = std::max(latest, *from);
  }
  return latest - since;
}

void Eyes::check_none_lost(MonotonicTime origin) {
  for (support::Stream* stream : {&four_, &six_}) {
    const std::vector<Probe> seen = stream->finish(kDelay + 2s);
    CHECK_MESSAGE(support::answered(seen) == seen.size(), support::losses(seen, origin));
  }
}

std::vector<std::vector<Probe>> Eyes::probes() { return {four_.probes(), six_.probes()}; }

support::Stranger holder_of(support::Daemon& daemon) {
  std::string said;
  REQUIRE(support::eventually(
      [&] { return (said = daemon.process().err()).find("event=applied ") != std::string::npos; },
      kBound));
  const std::string pid = " pid=";
  const auto at = said.find(pid, said.find("event=applied "));
  REQUIRE(at != std::string::npos);
  return support::Stranger(std::stoi(said.substr(at + pid.size())));
}

MidFault::MidFault(v1::Fault wanted) : fault(std::move(wanted)) {
  daemon.emplace(hosts.node, hosts.state.path());
  controller.emplace(daemon->address(), "survival", 1, kLease);
  v1::FaultApplied applied;
  try {
    applied = controller->inject(fault);
  } catch (const std::runtime_error& failed) {
    FAIL(std::string(failed.what()) << "; squalld said:\n" << daemon->process().err());
  }
  CHECK(applied.evidence().network().engine() == support::expected_engine());
  holder.emplace(holder_of(*daemon));
  eyes.see_fault();
}

}  // namespace squall::survival
