#include "injector/network/emulation.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace squall::network {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr std::uint64_t kSeed = 7;
constexpr int kPackets = 1'000'000;
constexpr MonotonicTime kStart{std::chrono::hours(1)};

Effect seeded(std::uint64_t seed = kSeed) {
  Effect effect;
  effect.seed = seed;
  return effect;
}

template <typename Decision>
std::vector<bool> decide(const Effect& effect, Decision decision, int packets = kPackets) {
  Emulation emulation(effect, kStart);
  std::vector<bool> decided;
  for (int i = 0; i < packets; ++i) decided.push_back(decision(emulation));
  return decided;
}

bool is_lost(Emulation& emulation) { return emulation.is_lost(); }

double share(const std::vector<bool>& decided) {
  return static_cast<double>(std::count(decided.begin(), decided.end(), true)) /
         static_cast<double>(decided.size());
}

/// How long the stretches of `value` are, on average.
double mean_run(const std::vector<bool>& decided, bool value) {
  double runs = 0;
  for (std::size_t i = 1; i < decided.size(); ++i) {
    if (decided[i] == value && decided[i - 1] != value) ++runs;
  }
  return static_cast<double>(std::count(decided.begin(), decided.end(), value)) / runs;
}

/// Of those after a hit, the share of hits.
double share_after_hit(const std::vector<bool>& decided) {
  double after = 0;
  double hits = 0;
  for (std::size_t i = 1; i < decided.size(); ++i) {
    if (!decided[i - 1]) continue;
    ++after;
    if (decided[i]) ++hits;
  }
  return hits / after;
}

/// Five standard deviations of a share of independent draws.
double bound(double probability, double draws = kPackets) {
  return 5 * std::sqrt(probability * (1 - probability) / draws);
}

bool is_reordered(Emulation& emulation) {
  return emulation.time_to_send(kStart, 100) == Emulation::kAtOnce;
}

}  // namespace

TEST_CASE("every chance is met as often as asked") {
  struct Row {
    const char* name;
    Chance Effect::*chance;
    std::function<bool(Emulation&)> decision;
  };
  const Row rows[] = {
      {"loss", &Effect::loss, is_lost},
      {"duplicate", &Effect::duplicate, [](Emulation& e) { return e.is_duplicated(); }},
      {"corrupt", &Effect::corrupt, [](Emulation& e) { return e.flipped_bit(8).has_value(); }},
      {"reorder", &Effect::reorder, is_reordered},
  };
  for (const Row& row : rows) {
    CAPTURE(row.name);
    for (const double percent : {0.0, 0.01, 1.0, 10.0, 50.0, 99.0, 100.0}) {
      CAPTURE(percent);
      Effect effect = seeded();
      (effect.*row.chance).percent = percent;
      const double asked = percent / 100;
      CHECK(std::abs(share(decide(effect, row.decision)) - asked) <= bound(asked));
    }
  }
}

TEST_CASE("a correlated chance is netem's weighted mean: rarer than asked, and in clusters") {
  for (const double correlation : {25.0, 75.0}) {
    CAPTURE(correlation);
    Effect effect = seeded();
    effect.loss = {.percent = 20, .correlation = correlation};
    const std::vector<bool> lost = decide(effect, is_lost);
    // The same in floating point, by another generator.
    std::minstd_rand random(1);
    std::vector<bool> expected;
    double last = 0.5;
    for (int i = 0; i < kPackets; ++i) {
      const double fresh = static_cast<double>(random()) / std::minstd_rand::max();
      last = fresh * (1 - correlation / 100) + last * correlation / 100;
      expected.push_back(last < 0.2);
    }
    // Both are random, and what is correlated strays more: by (1 + c) / (1 - c) in its variance.
    const double widened = std::sqrt(2 * (1 + correlation / 100) / (1 - correlation / 100));
    const double among = share(expected) * kPackets;
    CHECK(std::abs(share(lost) - share(expected)) < widened * bound(share(expected)));
    CHECK(std::abs(share_after_hit(lost) - share_after_hit(expected)) <
          widened * bound(share_after_hit(expected), among));
    CHECK(share(lost) < 0.2);
    CHECK(share_after_hit(lost) > 1.5 * share(lost));
  }
}

TEST_CASE("a whole correlation repeats the first draw for ever") {
  Effect effect = seeded();
  effect.loss = {.percent = 50, .correlation = 100};
  const double lost = share(decide(effect, is_lost, 1000));
  CHECK((lost == 0 || lost == 1));
}

TEST_CASE("Gilbert-Elliott loses in bursts of 1/r packets, 1/p apart") {
  Effect effect = seeded();
  effect.gilbert_elliott = GilbertElliott{.p = 1, .r = 10};
  const std::vector<bool> lost = decide(effect, is_lost);
  // A stretch's length is geometric: its deviation is about its mean.
  const double bursts = kPackets / 110.0;
  CHECK(std::abs(mean_run(lost, true) - 10) < 5 * 10 / std::sqrt(bursts));
  CHECK(std::abs(mean_run(lost, false) - 100) < 5 * 100 / std::sqrt(bursts));
  CHECK(share(lost) == doctest::Approx(1 / 11.0).epsilon(0.1));
}

TEST_CASE("Gilbert-Elliott's states lose the share that each is told") {
  Effect effect = seeded();
  effect.gilbert_elliott =
      GilbertElliott{.p = 20, .r = 60, .loss_when_bad = 50, .loss_when_good = 2};
  const double bad = 20.0 / 80;
  const double expected = bad * 0.5 + (1 - bad) * 0.02;
  CHECK(std::abs(share(decide(effect, is_lost)) - expected) < 2 * bound(expected));
}

TEST_CASE("four states lose as their chain's stationary distribution says") {
  Effect effect = seeded();
  effect.four_state = FourState{.p13 = 1, .p31 = 20, .p32 = 5, .p23 = 30, .p14 = 0.5};
  const std::vector<bool> lost = decide(effect, is_lost);
  // Relative to state 1.
  const double burst = 0.01 / 0.20;
  const double within = burst * 0.05 / 0.30;
  const double alone = 0.005;
  const double expected = (burst + alone) / (1 + burst + within + alone);
  CHECK(share(lost) == doctest::Approx(expected).epsilon(0.05));
}

TEST_CASE("without its other transitions the four-state model is a burst of 1/p31") {
  Effect effect = seeded();
  effect.four_state = FourState{.p13 = 2, .p31 = 25};
  const std::vector<bool> lost = decide(effect, is_lost);
  const double bursts = kPackets / 54.0;
  CHECK(std::abs(mean_run(lost, true) - 4) < 5 * 4 / std::sqrt(bursts));
  CHECK(std::abs(mean_run(lost, false) - 50) < 5 * 50 / std::sqrt(bursts));
}

TEST_CASE("a loss of the four-state model that stands alone is never followed by another") {
  Effect effect = seeded();
  effect.four_state = FourState{.p13 = 0, .p31 = 100, .p14 = 10};
  const std::vector<bool> lost = decide(effect, is_lost);
  CHECK(mean_run(lost, true) == 1);
  // Every packet after one is received: 10 in 110.
  CHECK(share(lost) == doctest::Approx(1 / 11.0).epsilon(0.02));
}

TEST_CASE("the same seed decides the same, another seed otherwise, and without one never twice") {
  Effect effect = seeded();
  effect.loss.percent = 50;
  const auto decided = [&](std::uint64_t seed) {
    effect.seed = seed;
    return decide(effect, is_lost, 256);
  };
  CHECK(decided(1) == decided(1));
  CHECK(decided(1) != decided(2));
  CHECK(decided(0) != decided(0));
  // Neighbours are as unlike as any.
  const std::vector<bool> one = decided(1);
  const std::vector<bool> two = decided(2);
  int same = 0;
  for (std::size_t i = 0; i < one.size(); ++i) same += one[i] == two[i] ? 1 : 0;
  CHECK(same > 128 - 5 * 8);
  CHECK(same < 128 + 5 * 8);
}

TEST_CASE("a seed means the same on every machine and in every version") {
  Effect effect = seeded(42);
  effect.loss.percent = 10;
  effect.duplicate.percent = 10;
  effect.delay = milliseconds(100);
  effect.jitter = milliseconds(10);
  Emulation emulation(effect, kStart);
  std::vector<int> lost;
  std::vector<int> duplicated;
  for (int i = 0; i < 100; ++i) {
    if (emulation.is_duplicated()) duplicated.push_back(i);
    if (emulation.is_lost()) lost.push_back(i);
  }
  CHECK(lost == std::vector<int>{8, 12, 19, 27, 30, 40, 41, 47, 54, 59, 83, 86, 92, 96, 98});
  CHECK(duplicated == std::vector<int>{2, 4, 22, 70, 84});
  CHECK(emulation.time_to_send(kStart, 100) - kStart == Duration(97'188'429));
}

TEST_CASE("which packets are lost does not hang on what else is drawn for them") {
  Effect effect = seeded();
  effect.loss.percent = 10;
  const std::vector<bool> alone = decide(effect, is_lost, 1000);
  effect.delay = milliseconds(100);
  effect.jitter = milliseconds(10);
  effect.corrupt.percent = 50;
  effect.slot = Slots{.min_delay = milliseconds(1), .max_delay = milliseconds(2)};
  const auto all = [](Emulation& emulation) {
    emulation.flipped_bit(8);
    emulation.departure(emulation.time_to_send(kStart, 100), kStart);
    return emulation.is_lost();
  };
  CHECK(decide(effect, all, 1000) == alone);
}

TEST_CASE("every bit of a packet is as likely to be flipped") {
  Effect effect = seeded();
  effect.corrupt.percent = 100;
  Emulation emulation(effect, kStart);
  std::vector<int> flips(100);
  for (int i = 0; i < kPackets; ++i) ++flips.at(*emulation.flipped_bit(flips.size()));
  for (const int count : flips) {
    CHECK(std::abs(count / double{kPackets} - 0.01) < bound(0.01));
  }
  CHECK_FALSE(emulation.flipped_bit(0).has_value());
}

TEST_CASE("only every Nth packet may go at once") {
  Effect effect = seeded();
  effect.delay = milliseconds(10);
  effect.gap = 5;
  effect.reorder.percent = 100;
  Emulation emulation(effect, kStart);
  for (int i = 1; i <= 100; ++i) {
    CAPTURE(i);
    const MonotonicTime expected =
        i % 5 == 0 ? Emulation::kAtOnce : kStart + Duration(milliseconds(10));
    CHECK(emulation.time_to_send(kStart, 100) == expected);
  }
  // Half of those that may: four wait, and then as many as it takes, two on average.
  effect.reorder.percent = 50;
  CHECK(std::abs(share(decide(effect, is_reordered)) - 1 / 6.0) < bound(1 / 6.0));
}

TEST_CASE("a line's packets leave one after another, exact to the nanosecond") {
  Effect effect = seeded();
  effect.rate.bytes_per_second = 1'000'000;
  Emulation emulation(effect, kStart);
  CHECK(emulation.time_to_send(kStart, 1000) == kStart + milliseconds(1));
  CHECK(emulation.time_to_send(kStart, 1) == kStart + microseconds(1001));
  CHECK(emulation.time_to_send(kStart + microseconds(500), 99) == kStart + microseconds(1100));
  // The line stood idle meanwhile.
  CHECK(emulation.time_to_send(kStart + milliseconds(5), 99) == kStart + microseconds(5099));

  effect.rate.bytes_per_second = 3;
  Emulation slow(effect, kStart);
  CHECK(slow.time_to_send(kStart, 1) == kStart + Duration(333'333'333));
  CHECK(slow.time_to_send(kStart, 65536) == kStart + Duration(333'333'333 + 21'845'333'333'333));

  effect.rate.bytes_per_second = 125'000'000'000;
  Emulation quick(effect, kStart);
  CHECK(quick.time_to_send(kStart, 1500) == kStart + Duration(12));
}

TEST_CASE("what a packet waits for the line counts for its delay") {
  Effect effect = seeded();
  effect.rate.bytes_per_second = 1'000'000;
  effect.delay = milliseconds(10);
  Emulation emulation(effect, kStart);
  for (int i = 1; i <= 50; ++i) {
    CHECK(emulation.time_to_send(kStart, 1000) == kStart + milliseconds(10 + i));
  }
  CHECK(emulation.time_to_send(kStart + milliseconds(55), 1000) == kStart + milliseconds(66));
}

TEST_CASE("a line's overheads count by packet and by cell, and cells are whole") {
  Effect effect = seeded();
  effect.rate = {.bytes_per_second = 1'000'000'000,
                 .packet_overhead = 20,
                 .cell_size = 48,
                 .cell_overhead = 5};
  const auto cost = [&](std::uint64_t bytes) {
    return Emulation(effect, kStart).time_to_send(kStart, bytes) - kStart;
  };
  CHECK(cost(28) == Duration(53));
  CHECK(cost(29) == Duration(2 * 53));
  CHECK(cost(76) == Duration(2 * 53));
  CHECK(cost(77) == Duration(3 * 53));
  effect.rate.packet_overhead = -14;
  effect.rate.cell_size = 0;
  CHECK(cost(100) == Duration(86));
  CHECK(cost(10) == Duration::zero());
}

TEST_CASE("packets wait for the next slot and leave together in it") {
  Effect effect = seeded();
  effect.slot = Slots{.min_delay = milliseconds(10), .max_delay = milliseconds(10)};
  Emulation emulation(effect, kStart);
  const MonotonicTime first = kStart + milliseconds(1);
  const MonotonicTime slot = first + milliseconds(10);
  CHECK(emulation.departure(first, first) == slot);
  CHECK(emulation.departure(first, first + milliseconds(5)) == slot);
  for (int i = 0; i < 100; ++i) {
    const MonotonicTime due = first + i * microseconds(100);
    CHECK(emulation.departure(due, slot) == slot);
    emulation.has_left(due, 1500, slot);
  }
  CHECK(emulation.departure(slot + milliseconds(1), slot + milliseconds(1)) ==
        slot + milliseconds(11));
  // What goes at once waits for nothing.
  CHECK(emulation.departure(Emulation::kAtOnce, slot) == Emulation::kAtOnce);
}

TEST_CASE("a slot that is full makes the others wait for the next") {
  const Slots slots{.min_delay = milliseconds(10), .max_delay = milliseconds(10)};
  for (const bool by_bytes : {false, true}) {
    CAPTURE(by_bytes);
    Effect effect = seeded();
    effect.slot = slots;
    (by_bytes ? effect.slot->bytes : effect.slot->packets) = by_bytes ? 2500 : 3;
    Emulation emulation(effect, kStart);
    const MonotonicTime due = kStart + milliseconds(1);
    MonotonicTime now = due;
    for (int slot = 1; slot <= 5; ++slot) {
      const MonotonicTime expected = due + slot * milliseconds(10);
      // The third of 1000 bytes still begins within 2500.
      for (int i = 0; i < 3; ++i) {
        CHECK(emulation.departure(due, now) == expected);
        now = expected;
        emulation.has_left(due, 1000, now);
      }
    }
  }
}

TEST_CASE("slots lie as far apart as their bounds or their distribution say") {
  const auto gaps = [](const Slots& slots) {
    Effect effect = seeded();
    effect.slot = slots;
    Emulation emulation(effect, kStart);
    std::vector<double> all;
    MonotonicTime now = kStart;
    for (int i = 0; i < 100'000; ++i) {
      const MonotonicTime due = now + Duration(1);
      const MonotonicTime slot = emulation.departure(due, due);
      all.push_back(to_ms(slot - due));
      now = slot;
    }
    return all;
  };
  const auto mean = [](const std::vector<double>& values) {
    return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
  };
  const std::vector<double> bounded =
      gaps({.min_delay = milliseconds(10), .max_delay = milliseconds(30)});
  CHECK(*std::min_element(bounded.begin(), bounded.end()) >= 10);
  CHECK(*std::max_element(bounded.begin(), bounded.end()) < 30);
  CHECK(std::abs(mean(bounded) - 20) < 5 * 20 / std::sqrt(12 * 100'000.0));
  const std::vector<double> spread =
      gaps({.delay = milliseconds(20), .jitter = milliseconds(2), .distribution = v1::NORMAL});
  CHECK(std::abs(mean(spread) - 20) < 0.05);
}

TEST_CASE("a delay is spread as its distribution says, and never below nothing") {
  Effect effect = seeded();
  effect.delay = milliseconds(100);
  const auto delays = [&] {
    Emulation emulation(effect, kStart);
    std::vector<double> all;
    for (int i = 0; i < 100'000; ++i) {
      all.push_back(to_ms(emulation.time_to_send(kStart, 100) - kStart));
    }
    std::sort(all.begin(), all.end());
    return all;
  };
  CHECK(delays().front() == 100);
  CHECK(delays().back() == 100);
  effect.jitter = milliseconds(30);
  const std::vector<double> even = delays();
  CHECK(even.front() >= 70);
  CHECK(even.back() <= 130);
  CHECK(even[10'000] == doctest::Approx(76).epsilon(0.01));
  CHECK(even[90'000] == doctest::Approx(124).epsilon(0.01));
  effect.distribution = v1::NORMAL;
  const std::vector<double> normal = delays();
  CHECK(normal[15'866] == doctest::Approx(70).epsilon(0.01));
  CHECK(normal[50'000] == doctest::Approx(100).epsilon(0.01));
  CHECK(normal[84'134] == doctest::Approx(130).epsilon(0.01));
  effect.jitter = milliseconds(100);
  CHECK(delays().front() == 0);
}

}  // namespace squall::network
