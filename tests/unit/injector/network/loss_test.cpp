#include <doctest/doctest.h>

#include <cmath>

#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;
constexpr std::uint16_t kOtherPort = 7002;
constexpr std::size_t kProbes = 1000;
constexpr Duration kPace = milliseconds(1);

std::vector<Probe> many(const Namespace& from) {
  Stream stream(from, TwoHosts::kNode4, kPort, kPace, kProbes);
  eventually([&] { return stream.probes().size() >= kProbes; }, std::chrono::seconds(60));
  return stream.finish(milliseconds(500));
}

}  // namespace

TEST_CASE("of a whole loss not one packet is left, and the others all arrive") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS}) {
    const std::string way = v1::Direction_Name(direction);
    CAPTURE(way);
    const auto held = inject(hosts.node, loss_fault(kPort, 100, direction));
    CHECK(answered(measure(hosts.client, TwoHosts::kNode4, kPort, 50, milliseconds(200))) == 0);
    CHECK(answered(measure(hosts.client, TwoHosts::kNode6, kPort, 50, milliseconds(200))) == 0);
    CHECK(answered(measure(hosts.client, TwoHosts::kNode4, kOtherPort, 50)) == 50);
    const v1::Evidence evidence = held->evidence();
    CHECK(evidence.effect());
    CHECK(evidence.network().matched_packets() == 100);
    CHECK(evidence.network().dropped_packets() == 100);
    CHECK(evidence.network().overflow_packets() == 0);
    CHECK(held->end().ok());
    CHECK(answered(measure(hosts.client, TwoHosts::kNode4, kPort, 50)) == 50);
  }
}

TEST_CASE("a random loss takes its share, and the evidence says which packets are missing") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  for (const double percent : {5.0, 30.0}) {
    CAPTURE(percent);
    const auto held = inject(hosts.node, loss_fault(kPort, percent));
    const std::size_t lost = kProbes - answered(many(hosts.client));
    const v1::NetworkEvidence evidence = held->evidence().network();
    // A relay that is held up for 200 ms lets what comes meanwhile pass.
    CHECK(evidence.matched_packets() <= kProbes);
    CHECK(evidence.matched_packets() > kProbes / 2);
    const double expected = static_cast<double>(evidence.matched_packets()) * percent / 100;
    // Five standard deviations of the binomial: less than once in a million runs.
    const double bound = 5 * std::sqrt(expected * (1 - percent / 100));
    CHECK(std::abs(static_cast<double>(lost) - expected) < bound);
    CHECK(evidence.dropped_packets() == lost);
    CHECK(evidence.overflow_packets() == 0);
  }
}

TEST_CASE("S30: a fault that matches nothing shows no effect") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const auto held = inject(hosts.node, loss_fault(kOtherPort, 100));
  CHECK(answered(measure(hosts.client, TwoHosts::kNode4, kPort, 5)) == 5);
  CHECK_FALSE(held->evidence().effect());
}

}  // namespace squall::support
