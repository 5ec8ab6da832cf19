#include "injector/network/distribution.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace squall::network {
namespace {

using Table = std::array<std::int16_t, kDistributionEntries>;

std::int16_t to_entry(double scaled) {
  constexpr double kLeast = std::numeric_limits<std::int16_t>::min();
  constexpr double kMost = std::numeric_limits<std::int16_t>::max();
  return static_cast<std::int16_t>(std::lrint(std::clamp(scaled, kLeast, kMost)));
}

/// Where the normal distribution's cumulative function reaches `share`. Newton's method from the
/// middle: left of it the function is convex, so that it comes down on the root from the right.
double inverse_normal(double share) {
  if (share > 0.5) return -inverse_normal(1 - share);
  double x = 0;
  for (int i = 0; i < 100; ++i) {
    const double cumulative = 0.5 * std::erfc(-x / std::sqrt(2.0));
    const double density = std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
    const double step = (cumulative - share) / density;
    x -= step;
    if (std::abs(step) < 1e-9) break;
  }
  return x;
}

/// In the tables' units. iproute2's lists the last point of a fine grid that still rounds to 4 × i
/// of 16384.
double normal(std::size_t i) {
  const double share = (4 * static_cast<double>(i) + 0.5) / 16384;
  return inverse_normal(share) * kDistributionScale;
}

/// Shape 3: mean 3/2, and 4/3 is what the generator takes for the reciprocal of its deviation.
double pareto(std::size_t i) {
  constexpr double kShape = 3;
  const double above = 1 - static_cast<double>(i) / kDistributionEntries;
  return (std::pow(above, -1 / kShape) - 1.5) * (4.0 / 3.0) * kDistributionScale;
}

double paretonormal(std::size_t i) {
  return std::trunc((std::rint(normal(i)) + 3.0 * to_entry(pareto(i))) / 4);
}

template <typename Entry>
Table make_table(Entry entry) {
  Table table;
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = to_entry(entry(i));
  return table;
}

}  // namespace

std::span<const std::int16_t> table_of(v1::Distribution distribution) {
  switch (distribution) {
    case v1::NORMAL: {
      static const Table table = make_table(normal);
      return table;
    }
    case v1::PARETO: {
      static const Table table = make_table(pareto);
      return table;
    }
    case v1::PARETONORMAL: {
      static const Table table = make_table(paretonormal);
      return table;
    }
    default:
      return {};
  }
}

Duration draw(Duration mu, Duration sigma, std::uint32_t random,
              std::span<const std::int16_t> table) {
  const std::int64_t deviation = sigma.count();
  if (deviation == 0) return mu;
  if (table.empty()) {
    const std::uint64_t width = 2 * static_cast<std::uint64_t>(deviation);
    constexpr std::uint64_t kNetemEnds = std::uint64_t{1} << 32;
    // Beyond 32 bits of nanoseconds, where netem has ended, a remainder would no longer reach all.
    const std::uint64_t offset = width < kNetemEnds ? random % width : random * (width >> 8) >> 24;
    return mu - sigma + Duration(static_cast<std::int64_t>(offset));
  }
  // In two parts, so that nothing is lost to rounding and nothing overflows.
  const std::int64_t entry = table[random % table.size()];
  const std::int64_t rest = deviation % kDistributionScale * entry;
  const std::int64_t half = rest >= 0 ? kDistributionScale / 2 : -kDistributionScale / 2;
  return mu + Duration((rest + half) / kDistributionScale + deviation / kDistributionScale * entry);
}

}  // namespace squall::network
