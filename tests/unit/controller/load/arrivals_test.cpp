#include "controller/load/arrivals.h"

#include <doctest/doctest.h>

#include <cmath>
#include <random>

namespace squall::load {
namespace {

using namespace std::chrono_literals;

v1::HttpLoad at_rate(double rate) {
  v1::HttpLoad load;
  load.set_rate(rate);
  return load;
}

void add_stage(v1::HttpLoad& load, double rate, Duration over) {
  v1::LoadStage& stage = *load.add_stages();
  stage.set_rate(rate);
  stage.set_over(over.count());
}

TEST_CASE("requests of a constant rate are due one after another, the first at once") {
  const Arrivals arrivals(at_rate(1000));
  CHECK(arrivals.due(0) == 0ns);
  CHECK(arrivals.due(1) == 1ms);
  CHECK(arrivals.due(86'400'000) == 24h);
  CHECK(arrivals.by(-1ns) == 0);
  CHECK(arrivals.by(0ns) == 1);
  CHECK(arrivals.by(10ms) == 11);
  CHECK(arrivals.mean_rate(10s) == doctest::Approx(1000));
}

TEST_CASE("a stage changes the rate evenly, and the last one's stays") {
  v1::HttpLoad load = at_rate(100);
  add_stage(load, 500, 10s);
  add_stage(load, 500, 10s);
  add_stage(load, 0.01, 20s);
  const Arrivals arrivals(load);
  // The areas below the rate.
  CHECK(arrivals.by(5s) == 1001);
  CHECK(arrivals.by(10s) == 3001);
  CHECK(arrivals.by(20s) == 8001);
  CHECK(arrivals.by(40s) == 8000 + 5000 + 1);
  CHECK(arrivals.by(140s) == 8000 + 5000 + 1 + 1);
  CHECK(arrivals.mean_rate(20s) == doctest::Approx(400));
}

TEST_CASE("what is due, and by when, are two words for the same") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 50; ++round) {
    const auto rate = [&] {
      return std::pow(10.0, -2.0 + static_cast<double>(random() % 700) / 100);
    };
    v1::HttpLoad load = at_rate(rate());
    for (std::uint64_t stages = random() % 4; stages > 0; --stages) {
      add_stage(load, rate(), 1ms * static_cast<std::int64_t>(1 + random() % 100'000));
    }
    const Arrivals arrivals(load);
    Duration before = -1ns;
    const std::uint64_t step = 1 + random() % 1000;
    for (std::uint64_t number = 0; number < 200 * step; number += step) {
      const Duration due = arrivals.due(number);
      CHECK(due >= before);
      before = due;
      const std::uint64_t by = arrivals.by(due);
      CHECK(by > number);
      CHECK(arrivals.due(by) > due);
    }
  }
}

}  // namespace
}  // namespace squall::load
