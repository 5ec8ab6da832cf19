#include "injector/network/distribution.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace squall::network {
namespace {

struct Moments {
  double mean = 0;
  double deviation = 0;
};

Moments moments_of(std::span<const std::int16_t> table) {
  double sum = 0;
  double squares = 0;
  for (const std::int16_t entry : table) {
    const double value = static_cast<double>(entry) / kDistributionScale;
    sum += value;
    squares += value * value;
  }
  const double count = static_cast<double>(table.size());
  return {sum / count, std::sqrt(squares / count - sum / count * sum / count)};
}

/// A table as tc reads it: numbers and lines of comment.
std::vector<int> read_table(const std::string& path) {
  std::vector<int> entries;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream numbers(line);
    for (int entry = 0; numbers >> entry;) entries.push_back(entry);
  }
  return entries;
}

}  // namespace

TEST_CASE("the normal distribution's table has mean 0 and standard deviation 1") {
  const Moments moments = moments_of(table_of(v1::NORMAL));
  CHECK(std::abs(moments.mean) < 0.001);
  CHECK(std::abs(moments.deviation - 1) < 0.005);
}

TEST_CASE("every table rises, has 4096 entries, and uniform has none") {
  CHECK(table_of(v1::UNIFORM).empty());
  for (const v1::Distribution distribution : {v1::NORMAL, v1::PARETO, v1::PARETONORMAL}) {
    const std::span<const std::int16_t> table = table_of(distribution);
    CHECK(table.size() == kDistributionEntries);
    CHECK(std::is_sorted(table.begin(), table.end()));
    CHECK(table.front() >= -kFarthestDeviation * kDistributionScale);
    CHECK(table.back() <= kFarthestDeviation * kDistributionScale);
  }
}

TEST_CASE("the tables are those of iproute2") {
  const std::pair<v1::Distribution, std::string> names[] = {
      {v1::NORMAL, "normal"}, {v1::PARETO, "pareto"}, {v1::PARETONORMAL, "paretonormal"}};
  for (const auto& [distribution, name] : names) {
    CAPTURE(name);
    std::vector<int> theirs;
    for (const std::string folder :
         {"/usr/lib/tc/", "/usr/lib/x86_64-linux-gnu/tc/", "/usr/lib/aarch64-linux-gnu/tc/"}) {
      if (theirs.empty()) theirs = read_table(folder + name + ".dist");
    }
    if (theirs.empty()) {
      MESSAGE("SKIPPED: iproute2's tables are not installed");
      return;
    }
    const std::span<const std::int16_t> ours = table_of(distribution);
    REQUIRE(theirs.size() == ours.size());
    int worst = 0;
    for (std::size_t i = 0; i < ours.size(); ++i) {
      worst = std::max(worst, std::abs(ours[i] - theirs[i]));
    }
    CHECK_MESSAGE(worst <= 1, "of 8192 to the standard deviation");
  }
}

TEST_CASE("a draw without a table is even between the mean less and the mean plus the jitter") {
  const Duration mu(1000);
  const Duration sigma(100);
  CHECK(draw(mu, Duration(0), 12345, {}) == mu);
  CHECK(draw(mu, sigma, 0, {}) == Duration(900));
  CHECK(draw(mu, sigma, 199, {}) == Duration(1099));
  CHECK(draw(mu, sigma, 200, {}) == Duration(900));
  // Where 32 bits do not hold twice the jitter, all of it is reached nevertheless.
  const Duration minute = std::chrono::seconds(60);
  CHECK(draw(minute, minute, 0, {}) == Duration(0));
  CHECK(draw(minute, minute, 0x80000000, {}) == minute);
  CHECK(draw(minute, minute, 0xffffffff, {}) > Duration(119'999'999'900));
  CHECK(draw(minute, minute, 0xffffffff, {}) < Duration(120'000'000'000));
}

TEST_CASE("a draw from a table is its entry times the standard deviation, rounded as netem does") {
  const std::int16_t table[] = {-8192, 0, 8192, 1, -1, 32767};
  const Duration mu = std::chrono::milliseconds(100);
  const Duration sigma(12'345'678);
  CHECK(draw(mu, sigma, 0, table) == mu - sigma);
  CHECK(draw(mu, sigma, 1, table) == mu);
  CHECK(draw(mu, sigma, 2 + 6 * 100, table) == mu + sigma);
  // 12,345,678 / 8192 = 1507.04
  CHECK(draw(mu, sigma, 3, table) == mu + Duration(1507));
  CHECK(draw(mu, sigma, 4, table) == mu - Duration(1507));
  // 12,345,678 × 32767 / 8192 = 49,381,205
  CHECK(draw(mu, sigma, 5, table) == mu + Duration(49'381'205));
  // A minute's jitter overflows nothing.
  CHECK(draw(mu, std::chrono::seconds(60), 0, table) == mu - std::chrono::seconds(60));
}

}  // namespace squall::network
