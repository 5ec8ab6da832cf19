/// \file
/// When each request of a load is due: arithmetic on its rate and stages, so that what is late
/// costs no memory.
#pragma once

#include <cstdint>
#include <vector>

#include "experiments/base/clock.h"
#include "squall/v1/plan.pb.h"

namespace squall::load {

class Arrivals {
 public:
  explicit Arrivals(const v1::HttpLoad& load);

  /// When the request of this number is due, after the load's beginning; 0 is due at once. Grows
  /// with the number.
  Duration due(std::uint64_t number) const;

  /// How many are due by then: due(n) <= elapsed for the n below it.
  std::uint64_t by(Duration elapsed) const;

  /// How many were wanted a second, on the average until then.
  double mean_rate(Duration elapsed) const;

 private:
  /// The rate goes evenly from one to the other.
  struct Stretch {
    double begins = 0;  ///< Seconds after the load's beginning.
    double lasts = 0;   ///< Infinite: the last.
    double from = 0;    ///< A second.
    double to = 0;
    double before = 0;  ///< How many are due before it.
  };

  static double due_within(const Stretch& stretch, double elapsed);
  double count(double elapsed) const;

  std::vector<Stretch> stretches_;
};

}  // namespace squall::load
