#include "experiments/checks/window.h"

#include <doctest/doctest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace squall::checks {
namespace {

using namespace std::chrono_literals;

const MonotonicTime kStart = from_ns(1'000'000'000'000);

Sample answer(Duration at, Duration latency, std::int64_t status = 200) {
  Sample sample;
  sample.asked = kStart + at - latency;
  sample.latency = latency;
  sample.status = status;
  return sample;
}

Sample no_answer(Duration at, Duration latency) {
  Sample sample = answer(at, latency);
  sample.status.reset();
  sample.error = "timeout";
  return sample;
}

/// Latencies as they are met: most near one another, a few a thousand times as long.
Duration some_latency(std::mt19937_64& random) {
  return Duration(
      static_cast<std::int64_t>(std::lognormal_distribution<double>(13.0, 2.0)(random)));
}

double exact(std::vector<Duration> latencies, double percent) {
  std::ranges::sort(latencies);
  const auto rank =
      std::ceil(percent / 100 * static_cast<double>(latencies.size()) * (1 - 1e-12) - 1e-9);
  return static_cast<double>(latencies[static_cast<std::size_t>(std::max(rank, 1.0)) - 1].count());
}

/// Never below the exact one, and at most 1/1,024 and a nanosecond above it.
bool near(double told, double truly) {
  return told >= truly && told <= truly * (1 + 1.0 / 1024) + 1;
}

constexpr double kPercentiles[] = {0, 1, 50, 90, 95, 99, 99.9, 100};

/// What a window is: every sample of the last seconds, gone through each time.
struct Naive {
  explicit Naive(Duration window) : length(window) {}

  Duration length;
  std::vector<Sample> samples;

  std::vector<Sample> held(MonotonicTime now) const {
    std::vector<Sample> all;
    std::ranges::copy_if(samples, std::back_inserter(all),
                         [&](const Sample& sample) { return arrival(sample) + length >= now; });
    return all;
  }
};

bool property(const char* sentence, const std::function<void(std::uint32_t)>& holds) {
  return rc::check(sentence, [&] { holds(*rc::gen::arbitrary<std::uint32_t>()); });
}

TEST_CASE("a histogram's percentile is never below the exact one, and at most 1/1,024 above") {
  CHECK(property("near", [](std::uint32_t seed) {
    std::mt19937_64 random(seed);
    std::vector<Duration> latencies(1 + random() % 3000);
    std::ranges::generate(latencies, [&] { return some_latency(random); });
    Histogram histogram;
    for (const Duration latency : latencies) histogram.add(latency);
    RC_ASSERT(histogram.count() == latencies.size());
    for (const double percent : kPercentiles) {
      const auto told = static_cast<double>(histogram.percentile(percent).count());
      RC_ASSERT(near(told, exact(latencies, percent)));
    }
  }));
}

TEST_CASE("a histogram holds the ends of its buckets apart") {
  for (int shift = 0; shift < 48; ++shift) {
    for (const std::int64_t off : {-1, 0, 1}) {
      const Duration value((std::int64_t{1} << shift) + off);
      Histogram histogram;
      histogram.add(value);
      CHECK(near(static_cast<double>(histogram.percentile(50).count()),
                 static_cast<double>(value.count())));
    }
  }
  Histogram histogram;
  histogram.add(-5ns);
  CHECK(histogram.percentile(100) == 0ns);
  histogram.add(Duration::max());
  CHECK(histogram.percentile(100) == Histogram::kLargest);
}

TEST_CASE("what is added to a histogram and taken out again leaves no trace") {
  CHECK(property("add and subtract", [](std::uint32_t seed) {
    std::mt19937_64 random(seed);
    Histogram stays;
    Histogram goes;
    Histogram both;
    for (int n = 0; n < 500; ++n) {
      const Duration latency = some_latency(random);
      (random() % 2 == 0 ? stays : goes).add(latency, 1 + random() % 3);
    }
    both.add(stays);
    both.add(goes);
    RC_ASSERT(both.count() == stays.count() + goes.count());
    both.subtract(goes);
    RC_ASSERT(both.count() == stays.count());
    for (const double percent : kPercentiles) {
      RC_ASSERT(both.percentile(percent) == stays.percentile(percent));
    }
  }));
}

TEST_CASE("a window of few samples is exact, and holds precisely those of its length") {
  CHECK(property("exact", [](std::uint32_t seed) {
    std::mt19937_64 random(seed);
    const Duration length = 1ms * static_cast<int>(1 + random() % 2000);
    Window window(length);
    Naive naive(length);
    Duration at{};
    MonotonicTime now = kStart;
    for (int n = 0; n < 300; ++n) {
      at += Duration(static_cast<std::int64_t>(random() % 20'000'000));
      const Duration latency = some_latency(random);
      const Sample sample = random() % 10 == 0   ? no_answer(at, latency)
                            : random() % 10 == 0 ? answer(at, latency, 503)
                                                 : answer(at, latency);
      window.add(sample);
      naive.samples.push_back(sample);
      now = std::max(now, kStart + at + Duration(static_cast<std::int64_t>(random() % 5'000'000)));
      window.advance(now);
      const auto held = naive.held(now);
      RC_ASSERT(window.size() == held.size());
      if (held.empty()) continue;
      std::vector<double> latencies;
      for (const Sample& one : held) {
        latencies.push_back(one.error.empty() ? static_cast<double>(one.latency.count())
                                              : INFINITY);
      }
      std::ranges::sort(latencies);
      for (const double percent : kPercentiles) {
        RC_ASSERT(window.percentile(percent) == latencies[rank_of(percent, latencies.size()) - 1]);
      }
      const auto failed = static_cast<double>(std::ranges::count_if(held, is_failure));
      RC_ASSERT(window.error_rate() == 100 * failed / static_cast<double>(held.size()));
    }
  }));
}

TEST_CASE("a window of many samples lets go of them at most a slice late") {
  CHECK(property("in slices", [](std::uint32_t seed) {
    std::mt19937_64 random(seed);
    const Duration length = 1s;
    const Duration slice = length / Window::kSlices;
    Window window(length);
    Naive naive(length);
    Duration at{};
    for (int n = 0; n < 15'000; ++n) {
      at += Duration(static_cast<std::int64_t>(random() % 200'000));
      const Duration latency = some_latency(random);
      const Sample sample = random() % 50 == 0 ? no_answer(at, latency) : answer(at, latency);
      window.add(sample);
      naive.samples.push_back(sample);
      const MonotonicTime now = kStart + at;
      window.advance(now);
      if (n % 1'000 != 999) continue;
      const auto least = naive.held(now).size();
      const auto most = naive.held(now - slice - 1ns).size();
      RC_ASSERT(window.size() >= least);
      RC_ASSERT(window.size() <= most);
      // It is exactly what the last so many samples were.
      std::vector<double> latencies;
      for (std::size_t index = naive.samples.size() - window.size(); index < naive.samples.size();
           ++index) {
        const Sample& one = naive.samples[index];
        latencies.push_back(one.error.empty() ? static_cast<double>(one.latency.count())
                                              : INFINITY);
      }
      std::ranges::sort(latencies);
      for (const double percent : kPercentiles) {
        const double truly = latencies[rank_of(percent, latencies.size()) - 1];
        const double told = window.percentile(percent);
        RC_ASSERT((std::isinf(truly) ? std::isinf(told) : near(told, truly)));
      }
    }
    window.advance(kStart + at + 2 * length);
    RC_ASSERT(window.size() == 0U);
  }));
}

TEST_CASE("a tally counts as the samples it stands for") {
  CHECK(property("tallies", [](std::uint32_t seed) {
    std::mt19937_64 random(seed);
    Window one_by_one(10s);
    Window together(10s);
    one_by_one.begin(kStart);
    together.begin(kStart);
    for (int second = 0; second < 15; ++second) {
      Tally tally;
      tally.from = kStart + 1s * second;
      tally.until = tally.from + 1s;
      for (int n = 0; n < 500; ++n) {
        const Duration latency = some_latency(random) % 900'000'000;
        // At its end, as a tally's are.
        const Sample sample = random() % 20 == 0 ? no_answer(1s * (second + 1), latency)
                                                 : answer(1s * (second + 1), latency);
        one_by_one.add(sample);
        if (sample.error.empty()) {
          tally.answered.add(latency);
        } else {
          ++tally.unanswered;
          ++tally.failed;
        }
      }
      together.add(tally);
      one_by_one.advance(tally.until);
      together.advance(tally.until);
    }
    const MonotonicTime now = kStart + 15s;
    RC_ASSERT(together.size() == one_by_one.size());
    RC_ASSERT(together.error_rate() == one_by_one.error_rate());
    for (const double percent : kPercentiles) {
      RC_ASSERT(together.percentile(percent) == one_by_one.percentile(percent));
    }
    // The oldest second is still in it whole, so that what came is divided by eleven.
    RC_ASSERT(std::abs(together.rate(now) / 475 - 1) < 0.05);
  }));
}

TEST_CASE("those that are waited for count in a percentile, until they are told again") {
  Window window(10s);
  window.begin(kStart);
  Tally tally;
  tally.from = kStart;
  tally.until = kStart + 1s;
  tally.answered.add(10ms, 50);
  tally.waiting.add(800ms, 50);
  window.add(tally);
  CHECK(window.size() == 50);
  CHECK(window.waiting() == 50);
  CHECK(near(window.percentile(50), 10e6));
  CHECK(near(window.percentile(99), 800e6));
  CHECK(window.error_rate() == 0);

  Tally next;
  next.from = kStart + 1s;
  next.until = kStart + 2s;
  next.answered.add(20ms, 50);
  window.add(next);
  CHECK(window.size() == 100);
  CHECK(window.waiting() == 0);
  CHECK(near(window.percentile(99), 20e6));
}

TEST_CASE("a window that nothing comes to any more is empty, and exact again") {
  Window window(1s);
  for (int n = 0; n < 10'000; ++n) window.add(answer(n * 10us, 100us + n * 1ns));
  CHECK(window.size() == 10'000);
  window.advance(kStart + 2s);
  CHECK(window.size() == 0);
  window.add(answer(3s, 123'456'789ns));
  CHECK(window.percentile(50) == 123'456'789);
}

}  // namespace
}  // namespace squall::checks
