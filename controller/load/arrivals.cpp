#include "controller/load/arrivals.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace squall::load {
namespace {

constexpr double kEndless = std::numeric_limits<double>::infinity();

double seconds_of(Duration duration) { return static_cast<double>(duration.count()) / 1e9; }

}  // namespace

Arrivals::Arrivals(const v1::HttpLoad& load) {
  Stretch next;
  next.from = load.rate();
  for (const v1::LoadStage& stage : load.stages()) {
    next.lasts = seconds_of(Duration(stage.over()));
    next.to = stage.rate();
    stretches_.push_back(next);
    next.before += due_within(next, next.lasts);
    next.begins += next.lasts;
    next.from = next.to;
  }
  next.lasts = kEndless;
  next.to = next.from;
  stretches_.push_back(next);
}

/// The area below the rate: a rectangle and a triangle.
double Arrivals::due_within(const Stretch& stretch, double elapsed) {
  if (stretch.from == stretch.to) return stretch.from * elapsed;
  return stretch.from * elapsed +
         (stretch.to - stretch.from) * elapsed * elapsed / (2 * stretch.lasts);
}

double Arrivals::count(double elapsed) const {
  const auto after =
      std::upper_bound(stretches_.begin() + 1, stretches_.end(), elapsed,
                       [](double time, const Stretch& stretch) { return time < stretch.begins; });
  const Stretch& stretch = *std::prev(after);
  return stretch.before + due_within(stretch, elapsed - stretch.begins);
}

Duration Arrivals::due(std::uint64_t number) const {
  const auto wanted = static_cast<double>(number);
  const auto after =
      std::upper_bound(stretches_.begin() + 1, stretches_.end(), wanted,
                       [](double count, const Stretch& stretch) { return count < stretch.before; });
  const Stretch& stretch = *std::prev(after);
  const double rest = wanted - stretch.before;
  double into = rest / stretch.from;
  if (stretch.from != stretch.to) {
    // rest = from t + slope t^2 / 2, solved in the way that a small slope does not spoil.
    const double slope = (stretch.to - stretch.from) / stretch.lasts;
    const double root = std::sqrt(std::max(stretch.from * stretch.from + 2 * slope * rest, 0.0));
    into = 2 * rest / (stretch.from + root);
  }
  return Duration(static_cast<std::int64_t>((stretch.begins + into) * 1e9));
}

std::uint64_t Arrivals::by(Duration elapsed) const {
  if (elapsed < Duration::zero()) return 0;
  auto number = static_cast<std::uint64_t>(count(seconds_of(elapsed)));
  // Rounding is put right against what due() says, which is what counts.
  while (number > 0 && due(number - 1) > elapsed) --number;
  while (due(number) <= elapsed) ++number;
  return number;
}

double Arrivals::mean_rate(Duration elapsed) const {
  const double seconds = seconds_of(elapsed);
  return seconds > 0 ? count(seconds) / seconds : stretches_.front().from;
}

}  // namespace squall::load
