/// \file
/// What is kept of a figure that is measured again and again, however long a run lasts: its
/// percentiles, and its course. Both are exact at first and bounded ever after.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace squall::report {

/// Percentiles of all numbers added. Exact for the first kExact, then to within 1 % of the number;
/// the smallest and the largest always are exact.
class Percentiles {
 public:
  static constexpr std::size_t kExact = 1024;

  /// What is not finite is left out; below 0 counts as 0.
  void add(double number);

  std::uint64_t count() const { return count_; }

  /// Nearest rank. Nothing where nothing was added.
  std::optional<double> at(double percent) const;

 private:
  void put_into_bucket(double number);

  std::uint64_t count_ = 0;
  double least_ = 0;
  double most_ = 0;
  std::vector<double> exact_;           ///< While there are no buckets.
  std::vector<std::uint64_t> buckets_;  ///< Of 2^(1/64) each.
};

/// The course of a figure over the run, in at most kStretches stretches of time, each with its
/// least and its greatest number; so no peak is lost, however much is thinned.
class Curve {
 public:
  static constexpr std::size_t kStretches = 512;

  struct Peak {
    double at = 0;  ///< Seconds into the run.
    double number = 0;
  };
  struct Stretch {
    std::size_t index = 0;  ///< Its begin, in stretches.
    double from = 0;        ///< Of its first asking, and of its last.
    double to = 0;
    std::optional<Peak> least, most;  ///< Absent where nothing was answered in it.
    bool gap = false;                 ///< Something was not.
    bool holds = true;                ///< All of it.
  };

  /// `at` never decreases; where it does, it counts as the latest time.
  void add(double at, std::optional<double> number, bool holds);

  std::span<const Stretch> stretches() const { return stretches_; }

 private:
  void halve();

  double width_ = 0.001;  ///< Of a stretch, in seconds.
  std::vector<Stretch> stretches_;
};

}  // namespace squall::report
