#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kUntouched = 7100;
constexpr std::uint64_t kSeed = 20;
/// After which nothing more is taken to come; longer than any delay of these faults.
constexpr Duration kQuiet = milliseconds(1300);

/// One option of a fault, on a port of its own.
struct Option {
  std::uint16_t port = 0;
  std::string name;
  std::function<void(v1::Network&)> ask;
};

/// What came of a stream to each option's port and to one that nothing touches.
class Streams {
 public:
  Streams(const TwoHosts& hosts, const std::vector<Option>& options, OneWay wanted)
      : ports_(ports_of(options)), sink_(hosts.client, ports_), rounds_(wanted.rounds) {
    for (const Option& option : options) {
      v1::Fault fault = network_fault(option.port);
      fault.set_seed(kSeed);
      option.ask(*fault.mutable_network());
      faults_[option.port] = inject(hosts.node, fault);
    }
    wanted.ports = ports_;
    if (wanted.address.empty()) wanted.address = TwoHosts::kClient4;
    send_one_way(hosts.node, wanted);
    // Without a fault every one arrives: what is missing elsewhere is the faults' doing.
    REQUIRE(arrivals(kUntouched).size() == rounds_);
  }

  std::vector<OneWayArrival> arrivals(std::uint16_t port) const {
    return sink_.arrivals(port, kQuiet);
  }

  /// How often each that was sent has arrived.
  std::vector<int> copies(std::uint16_t port) const {
    std::vector<int> copies(rounds_);
    for (const OneWayArrival& arrival : arrivals(port)) ++copies.at(arrival.number);
    return copies;
  }

  std::vector<bool> lost(std::uint16_t port) const {
    std::vector<bool> lost;
    for (const int count : copies(port)) lost.push_back(count == 0);
    return lost;
  }

  /// In ms, sorted, without what the bare path takes.
  std::vector<double> delays(std::uint16_t port) const {
    std::vector<double> bare = times(kUntouched);
    std::vector<double> delays = times(port);
    for (double& delay : delays) delay -= bare[bare.size() / 2];
    return delays;
  }

  v1::NetworkEvidence evidence(std::uint16_t port) const {
    return faults_.at(port)->evidence().network();
  }

  bool is_relay(std::uint16_t port) const { return evidence(port).engine() == v1::RELAY; }

 private:
  static std::vector<std::uint16_t> ports_of(const std::vector<Option>& options) {
    std::vector<std::uint16_t> ports{kUntouched};
    for (const Option& option : options) ports.push_back(option.port);
    return ports;
  }

  std::vector<double> times(std::uint16_t port) const {
    std::vector<double> times;
    for (const OneWayArrival& arrival : arrivals(port)) times.push_back(to_ms(arrival.took));
    std::sort(times.begin(), times.end());
    return times;
  }

  std::vector<std::uint16_t> ports_;
  Sink sink_;
  std::size_t rounds_;
  std::map<std::uint16_t, std::unique_ptr<Held>> faults_;
};

/// A line of the table that the test leaves behind.
void tell(const v1::NetworkEvidence& evidence, const std::string& option, const std::string& what,
          double asked, double measured, double bound) {
  std::printf("%-6s %-28s %-22s asked %9.4f  measured %9.4f  within %8.4f\n",
              evidence.engine() == v1::RELAY ? "relay" : "netem", option.c_str(), what.c_str(),
              asked, measured, bound);
}

double share(const std::vector<bool>& of) {
  return static_cast<double>(std::count(of.begin(), of.end(), true)) /
         static_cast<double>(of.size());
}

/// How long the stretches of losses are, on average; 0 without any.
double mean_burst(const std::vector<bool>& lost) {
  double bursts = 0;
  for (std::size_t i = 0; i < lost.size(); ++i) {
    if (lost[i] && (i == 0 || !lost[i - 1])) ++bursts;
  }
  return bursts == 0 ? 0 : share(lost) * static_cast<double>(lost.size()) / bursts;
}

/// Five standard deviations of a share of `draws`, of whose neighbours `correlation` is common.
double bound_of(double probability, double draws, double correlation = 0) {
  return 5 *
         std::sqrt(probability * (1 - probability) / draws * (1 + correlation) / (1 - correlation));
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation_of(std::span<const double> values) {
  const double mean = mean_of(values);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

/// Which packets netem's correlated random number loses: fewer than it is asked to, the more of
/// them in a row. Source: net/sched/sch_netem.c, get_crandom().
std::vector<bool> correlated_losses(double threshold, double correlation) {
  std::minstd_rand random(1);
  double last = 0.5;
  std::vector<bool> lost;
  for (int i = 0; i < 2'000'000; ++i) {
    const double fresh = static_cast<double>(random()) / std::minstd_rand::max();
    last = fresh * (1 - correlation) + last * correlation;
    lost.push_back(last < threshold);
  }
  return lost;
}

}  // namespace

TEST_CASE("losses, bursts, duplicates and flipped bits are as frequent as asked") {
  constexpr std::size_t kRounds = 3000;
  constexpr auto kDraws = static_cast<double>(kRounds);
  constexpr std::uint16_t kLoss = 7101;
  constexpr std::uint16_t kCorrelated = 7102;
  constexpr std::uint16_t kGilbert = 7103;
  constexpr std::uint16_t kFourState = 7104;
  constexpr std::uint16_t kDuplicate = 7105;
  constexpr std::uint16_t kBoth = 7106;
  constexpr std::uint16_t kCorrupt = 7107;
  const std::vector<Option> options = {
      {kLoss, "loss", [](v1::Network& n) { n.set_loss(10); }},
      {kCorrelated, "loss_correlation",
       [](v1::Network& n) {
         n.set_loss(40);
         n.set_loss_correlation(50);
       }},
      {kGilbert, "gilbert_elliott",
       [](v1::Network& n) {
         n.mutable_gilbert_elliott()->set_p(5);
         n.mutable_gilbert_elliott()->set_r(25);
       }},
      {kFourState, "four_state",
       [](v1::Network& n) {
         n.mutable_four_state()->set_p13(5);
         n.mutable_four_state()->set_p31(25);
         n.mutable_four_state()->set_p32(10);
         n.mutable_four_state()->set_p23(40);
         n.mutable_four_state()->set_p14(2);
       }},
      {kDuplicate, "duplicate", [](v1::Network& n) { n.set_duplicate(10); }},
      {kBoth, "duplicate and loss",
       [](v1::Network& n) {
         n.set_duplicate(100);
         n.set_loss(50);
       }},
      {kCorrupt, "corrupt", [](v1::Network& n) { n.set_corrupt(10); }},
  };
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds, .size = 300, .every = milliseconds(1)});
  const auto check = [&](std::uint16_t port, const std::string& what, double asked, double measured,
                         double bound) {
    const auto option = std::find_if(options.begin(), options.end(),
                                     [&](const Option& o) { return o.port == port; });
    CAPTURE(option->name);
    CAPTURE(what);
    CAPTURE(asked);
    CAPTURE(measured);
    tell(streams.evidence(port), option->name, what, asked, measured, bound);
    CHECK(std::abs(measured - asked) < bound);
  };

  check(kLoss, "share lost", 0.1, share(streams.lost(kLoss)), bound_of(0.1, kDraws));

  const std::vector<bool> correlated = streams.lost(kCorrelated);
  const std::vector<bool> expected = correlated_losses(0.4, 0.5);
  check(kCorrelated, "share lost", share(expected), share(correlated),
        bound_of(share(expected), kDraws, 0.5));
  // Without correlation the same share would come in bursts of 1.43.
  check(kCorrelated, "mean burst", mean_burst(expected), mean_burst(correlated), 0.4);

  const std::vector<bool> gilbert = streams.lost(kGilbert);
  check(kGilbert, "share lost", 5 / 30.0, share(gilbert), bound_of(5 / 30.0, kDraws, 0.7));
  check(kGilbert, "mean burst", 4, mean_burst(gilbert), 5 * 4 / std::sqrt(kDraws / 24));

  const double burst = 0.05 / 0.25;
  const double within = burst * 0.10 / 0.40;
  const double four = (burst + 0.02) / (1 + burst + within + 0.02);
  check(kFourState, "share lost", four, share(streams.lost(kFourState)),
        bound_of(four, kDraws, 0.7));

  const std::vector<int> duplicated = streams.copies(kDuplicate);
  CHECK(*std::min_element(duplicated.begin(), duplicated.end()) == 1);
  CHECK(*std::max_element(duplicated.begin(), duplicated.end()) == 2);
  const auto twice = std::count(duplicated.begin(), duplicated.end(), 2);
  check(kDuplicate, "share that arrives twice", 0.1, static_cast<double>(twice) / kDraws,
        bound_of(0.1, kDraws));

  // A packet of which there are two and one is lost is there once, and the second of two may be
  // lost as well.
  const std::vector<int> both = streams.copies(kBoth);
  CHECK(*std::min_element(both.begin(), both.end()) == 1);
  CHECK(*std::max_element(both.begin(), both.end()) == 2);
  check(kBoth, "share that arrives twice", 0.25,
        static_cast<double>(std::count(both.begin(), both.end(), 2)) / kDraws,
        bound_of(0.25, kDraws));

  // One bit flipped is always found out: the packet was there, and was not taken.
  const auto corrupted = static_cast<double>(kRounds - streams.arrivals(kCorrupt).size());
  check(kCorrupt, "share refused", 0.1, corrupted / kDraws, bound_of(0.1, kDraws));
  const auto refused = static_cast<double>(snmp(hosts.client, "Udp", "InCsumErrors"));
  const auto headers = static_cast<double>(snmp(hosts.client, "Ip", "InHdrErrors"));
  // The payload is 300 of 328 bytes, or with Ethernet's header, which netem flips as well, of 342.
  CHECK(refused > 0.75 * corrupted);
  CHECK(refused + headers <= corrupted);

  for (const Option& option : options) {
    CAPTURE(option.name);
    CHECK(streams.evidence(option.port).matched_packets() == kRounds);
    CHECK(streams.evidence(option.port).overflow_packets() == 0);
  }
  for (const std::uint16_t port : {kLoss, kCorrelated, kGilbert, kFourState}) {
    CHECK(streams.evidence(port).dropped_packets() == kRounds - streams.arrivals(port).size());
  }
  // netem counts none of these.
  if (streams.is_relay(kDuplicate)) {
    CHECK(streams.evidence(kDuplicate).duplicated_packets() == static_cast<std::size_t>(twice));
    CHECK(streams.evidence(kCorrupt).corrupted_packets() == corrupted);
  }
}

TEST_CASE("delays have the mean, the deviation and the quantiles that their distribution has") {
  constexpr std::size_t kRounds = 1000;
  // In ms; so large that what a busy machine adds is little beside them.
  constexpr double kDelay = 500;
  constexpr double kJitter = 150;
  constexpr double kNoise = 25;
  struct Row {
    std::uint16_t port;
    v1::Distribution distribution;
    std::function<double(double)> inverse;  // of jitter, below which a share of the draws lies
  };
  const auto normal = [](double at) {
    double low = -6;
    double high = 6;
    for (int i = 0; i < 60; ++i) {
      const double middle = (low + high) / 2;
      (std::erfc(-middle / std::sqrt(2.0)) / 2 < at ? low : high) = middle;
    }
    return low;
  };
  // Source: iproute2's netem/pareto.c and paretonormal.c; a table's 16 bits end at 4 deviations.
  const auto pareto = [](double at) {
    return std::min(4.0, (std::pow(1 - at, -1 / 3.0) - 1.5) * 4 / 3);
  };
  const Row rows[] = {
      {7201, v1::UNIFORM, [](double at) { return 2 * at - 1; }},
      {7202, v1::NORMAL, normal},
      {7203, v1::PARETO, pareto},
      {7204, v1::PARETONORMAL, [&](double at) { return (normal(at) + 3 * pareto(at)) / 4; }},
  };
  std::vector<Option> options;
  for (const Row& row : rows) {
    options.push_back({row.port, v1::Distribution_Name(row.distribution), [&](v1::Network& n) {
                         n.set_delay(Duration(milliseconds(500)).count());
                         n.set_jitter(Duration(milliseconds(150)).count());
                         n.set_distribution(row.distribution);
                       }});
  }
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds, .every = milliseconds(6)});
  for (const Row& row : rows) {
    const std::string name = v1::Distribution_Name(row.distribution);
    CAPTURE(name);
    const std::vector<double> delays = streams.delays(row.port);
    REQUIRE(delays.size() == kRounds);
    const auto check = [&](const std::string& what, double asked, double measured, double bound) {
      CAPTURE(what);
      CAPTURE(asked);
      CAPTURE(measured);
      tell(streams.evidence(row.port), name, what, asked, measured, bound);
      CHECK(std::abs(measured - asked) < bound);
    };
    // Without the outermost two percent, where one stall of the machine would outweigh all others.
    constexpr std::size_t kCut = kRounds / 50;
    std::vector<double> expected;
    for (std::size_t i = kCut; i < kRounds - kCut; ++i) {
      expected.push_back(kDelay + row.inverse((static_cast<double>(i) + 0.5) / kRounds) * kJitter);
    }
    const std::span<const double> middle = std::span(delays).subspan(kCut, kRounds - 2 * kCut);
    const double deviation = deviation_of(expected);
    check("mean, ms", mean_of(expected), mean_of(middle),
          5 * deviation / std::sqrt(double{kRounds}) + kNoise);
    check("deviation, ms", deviation, deviation_of(middle), 0.2 * deviation);
    for (const double at : {0.1, 0.5, 0.9}) {
      const double slope = (row.inverse(at + 0.01) - row.inverse(at - 0.01)) / 0.02 * kJitter;
      check("quantile " + std::to_string(at).substr(0, 3) + ", ms",
            kDelay + row.inverse(at) * kJitter, delays[static_cast<std::size_t>(at * kRounds)],
            bound_of(at, kRounds) * slope + kNoise);
    }
  }
}

TEST_CASE("the share asked for goes ahead of the others") {
  constexpr std::size_t kRounds = 2000;
  const std::vector<Option> options = {{7301, "reorder",
                                        [](v1::Network& n) {
                                          n.set_delay(Duration(milliseconds(200)).count());
                                          n.set_reorder(25);
                                        }},
                                       {7302, "gap", [](v1::Network& n) {
                                          n.set_delay(Duration(milliseconds(200)).count());
                                          n.set_reorder(50);
                                          n.set_gap(4);
                                        }}};
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds, .every = milliseconds(1)});
  for (const Option& option : options) {
    CAPTURE(option.name);
    // Three that wait, and two on average until the next goes ahead.
    const double asked = option.port == 7301 ? 0.25 : 1 / 5.0;
    const std::vector<double> delays = streams.delays(option.port);
    REQUIRE(delays.size() == kRounds);
    const auto ahead =
        std::count_if(delays.begin(), delays.end(), [](double d) { return d < 190; });
    const double bound = bound_of(asked, kRounds);
    tell(streams.evidence(option.port), option.name, "share ahead", asked,
         static_cast<double>(ahead) / kRounds, bound);
    CHECK(std::abs(static_cast<double>(ahead) / kRounds - asked) < bound);
    CHECK(delays[kRounds / 10] < 50);
    CHECK(delays[kRounds / 2] == doctest::Approx(200).epsilon(0.05));
    if (streams.is_relay(option.port)) {
      CHECK(streams.evidence(option.port).reordered_packets() == static_cast<std::size_t>(ahead));
    }
  }
}

TEST_CASE("what goes ahead of the others does not wait for them, nor for the next to come") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kUntouched);
  v1::Fault fault = delay_fault(kUntouched, std::chrono::seconds(30));
  fault.mutable_network()->set_reorder(100);
  const auto held = inject(hosts.node, fault);
  for (int i = 0; i < 10; ++i) {
    const std::vector<Probe> probe =
        measure(hosts.client, TwoHosts::kNode4, kUntouched, 1, std::chrono::seconds(5));
    CHECK(answered(probe) == 1);
  }
}

TEST_CASE("a rate lets through what a line of that speed does") {
  constexpr std::size_t kRounds = 150;
  constexpr double kOnWire = 1000 + 8 + 20 + 14;
  // Slow enough for any sender to fill it.
  constexpr std::uint64_t kAsked = 1'000'000;
  struct Row {
    Option option;
    double bytes;  // per packet
  };
  const Row rows[] = {
      {{7401, "rate", [](v1::Network& n) { n.set_rate(kAsked); }}, kOnWire},
      {{7402, "packet_overhead",
        [](v1::Network& n) {
          n.set_rate(kAsked);
          n.set_packet_overhead(500);
        }},
       kOnWire + 500},
      {{7403, "cell_size",
        [](v1::Network& n) {
          n.set_rate(kAsked);
          n.set_cell_size(300);
          n.set_cell_overhead(100);
        }},
       4 * 400},
  };
  std::vector<Option> options;
  for (const Row& row : rows) options.push_back(row.option);
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds, .size = 1000});
  for (const Row& row : rows) {
    CAPTURE(row.option.name);
    const std::vector<OneWayArrival> arrivals = streams.arrivals(row.option.port);
    REQUIRE(arrivals.size() == kRounds);
    // The median of many stretches: a machine that stalls spoils a few of them only.
    constexpr std::size_t kStretch = kRounds / 4;
    std::vector<double> rates;
    for (std::size_t i = kStretch; i < arrivals.size(); ++i) {
      const double seconds = to_ms(arrivals[i].at - arrivals[i - kStretch].at) / 1e3;
      rates.push_back(kStretch * row.bytes * 8 / seconds);
    }
    std::sort(rates.begin(), rates.end());
    const double measured = rates[rates.size() / 2];
    constexpr double kBound = 0.03 * kAsked;
    tell(streams.evidence(row.option.port), row.option.name, "Mbit/s", kAsked / 1e6, measured / 1e6,
         kBound / 1e6);
    CHECK(std::abs(measured - kAsked) < kBound);
  }
}

TEST_CASE("packets leave together in slots, no more of them than a slot takes") {
  constexpr std::size_t kRounds = 600;
  constexpr double kSlot = 50;
  constexpr double kNoise = 15;
  constexpr std::size_t kMost = 30;
  const auto slots = [](v1::Network& n) {
    n.mutable_slot()->set_min_delay(Duration(milliseconds(50)).count());
    n.mutable_slot()->set_max_delay(Duration(milliseconds(50)).count());
  };
  const std::vector<Option> options = {{7501, "slot", slots},
                                       {7502, "slot of packets", [&](v1::Network& n) {
                                          slots(n);
                                          n.mutable_slot()->set_packets(kMost);
                                        }}};
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds, .every = milliseconds(1)});
  for (const Option& option : options) {
    CAPTURE(option.name);
    const std::vector<OneWayArrival> arrivals = streams.arrivals(option.port);
    REQUIRE(arrivals.size() == kRounds);
    std::vector<double> starts{to_ms(arrivals.front().at)};
    std::vector<std::size_t> sizes{1};
    for (std::size_t i = 1; i < arrivals.size(); ++i) {
      const bool is_next = to_ms(arrivals[i].at - arrivals[i - 1].at) > kSlot / 2;
      if (is_next) {
        starts.push_back(to_ms(arrivals[i].at));
        sizes.push_back(0);
      }
      ++sizes.back();
    }
    REQUIRE(starts.size() > 5);
    std::vector<double> apart;
    for (std::size_t i = 1; i < starts.size(); ++i) apart.push_back(starts[i] - starts[i - 1]);
    std::sort(apart.begin(), apart.end());
    std::sort(sizes.begin(), sizes.end());
    const double measured = apart[apart.size() / 2];
    // A slot begins when the first packet for it comes, or is seen to have come.
    tell(streams.evidence(option.port), option.name, "slots apart, ms", kSlot, measured, kNoise);
    CHECK(measured > kSlot - 2);
    CHECK(measured < kSlot + kNoise);
    if (option.port == 7502) {
      tell(streams.evidence(option.port), option.name, "packets of a slot", kMost,
           static_cast<double>(sizes[sizes.size() / 2]), 1);
      CHECK(sizes[sizes.size() / 2] == kMost);
    }
  }
}

TEST_CASE("a queue holds no more packets than its limit") {
  constexpr std::size_t kRounds = 50;
  constexpr std::size_t kLimit = 10;
  const std::vector<Option> options = {{7601, "limit", [](v1::Network& n) {
                                          n.set_delay(Duration(milliseconds(500)).count());
                                          n.set_limit(kLimit);
                                        }}};
  TwoHosts hosts;
  const Streams streams(hosts, options, {.rounds = kRounds});
  CHECK(streams.arrivals(7601).size() == kLimit);
  CHECK(streams.evidence(7601).dropped_packets() == kRounds - kLimit);
  CHECK(streams.evidence(7601).overflow_packets() == 0);
}

TEST_CASE("the same packets are lost again when the seed is the same, held or not") {
  constexpr std::size_t kRounds = 200;
  const auto lose = [](Duration delay) {
    const auto ask = [&](v1::Network& n) {
      n.set_engine(v1::RELAY);
      n.set_loss(50);
      if (delay != Duration::zero()) n.set_delay(delay.count());
    };
    // A relay that a busy machine keeps from running for 200 ms lets packets pass untouched.
    for (int i = 0; i < 5; ++i) {
      TwoHosts hosts;
      const Streams streams(hosts, {{7801, "seed", ask}},
                            {.rounds = kRounds, .every = milliseconds(2)});
      std::vector<bool> lost = streams.lost(7801);
      if (streams.evidence(7801).matched_packets() == kRounds) return lost;
    }
    throw std::runtime_error("the relay did not get to see every packet, five times over");
  };
  // Without a delay the classifier decides, with one the relay.
  const std::vector<bool> lost = lose(Duration::zero());
  CHECK(lose(Duration::zero()) == lost);
  CHECK(lose(milliseconds(1)) == lost);
}

TEST_CASE("what knows ECN is marked instead of lost") {
  constexpr std::size_t kRounds = 500;
  for (const char* address : {TwoHosts::kClient4, TwoHosts::kClient6}) {
    CAPTURE(address);
    const std::vector<Option> options = {{7701, "ecn", [](v1::Network& n) {
                                            n.set_loss(30);
                                            n.set_ecn(true);
                                          }}};
    TwoHosts hosts;
    const Streams streams(hosts, options,
                          {.address = address, .rounds = kRounds, .every = milliseconds(1)});
    const std::vector<OneWayArrival> arrivals = streams.arrivals(7701);
    CHECK(arrivals.size() == kRounds);
    const auto marked =
        std::count_if(arrivals.begin(), arrivals.end(),
                      [](const OneWayArrival& arrival) { return arrival.congested; });
    tell(streams.evidence(7701), "ecn", "share marked", 0.3, static_cast<double>(marked) / kRounds,
         bound_of(0.3, kRounds));
    CHECK(std::abs(static_cast<double>(marked) / kRounds - 0.3) < bound_of(0.3, kRounds));
    CHECK(snmp(hosts.client, "Udp", "InCsumErrors") == 0);
    if (streams.is_relay(7701)) {
      CHECK(streams.evidence(7701).marked_packets() == static_cast<std::size_t>(marked));
      CHECK(streams.evidence(7701).dropped_packets() == 0);
    }
  }
}

}  // namespace squall::support
