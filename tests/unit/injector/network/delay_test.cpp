#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/eventually.h"
#include "tests/support/measure.h"
#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;
constexpr std::uint16_t kOtherPort = 7002;
constexpr milliseconds kAsked(50);

/// Asked 50 ms: 50 ± 3 beyond what the path takes undisturbed.
void check_delayed(Duration round_trip, Duration undisturbed) {
  CHECK(to_ms(round_trip - undisturbed) > to_ms(kAsked) - 3);
  CHECK(to_ms(round_trip - undisturbed) < to_ms(kAsked) + 3);
}

struct Measured {
  Duration matched;
  Duration unmatched;
};

Measured measure_both(const Namespace& from, const char* address) {
  return {median_round_trip(measure(from, address, kPort, 11)),
          median_round_trip(measure(from, address, kOtherPort, 11))};
}

}  // namespace

TEST_CASE(
    "what matches is delayed by what was asked and the rest is not, out and in, IPv4 and IPv6") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS, v1::BOTH}) {
    for (const char* address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
      CAPTURE(v1::Direction_Name(direction));
      CAPTURE(address);
      const Measured undisturbed = measure_both(hosts.client, address);
      const auto held = inject(hosts.node, delay_fault(kPort, kAsked, direction));
      const Measured disturbed = measure_both(hosts.client, address);
      const v1::Evidence evidence = held->evidence();
      CHECK(held->end().ok());
      CHECK(held->clean_up() == std::vector<std::string>());
      check_delayed(disturbed.matched / (direction == v1::BOTH ? 2 : 1), undisturbed.matched);
      CHECK(to_ms(disturbed.unmatched) < 10);
      CHECK(evidence.effect());
      CHECK(evidence.network().engine() == expected_engine());
      CHECK(evidence.network().matched_packets() == (direction == v1::BOTH ? 22 : 11));
      CHECK(evidence.network().overflow_packets() == 0);
      CHECK(to_ms(measure_both(hosts.client, address).matched) < 10);
    }
  }
  CHECK(difference(before, fingerprint_of(hosts.node)) == "");
}

}  // namespace squall::support
