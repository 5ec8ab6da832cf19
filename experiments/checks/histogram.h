/// \file
/// Durations counted by size to three significant digits, however many there are. Apart from
/// window.h, for a load counts in histograms and hands them over whole.
///
/// Log-linear, as Gil Tene's HdrHistogram: each doubling of the value is divided into 1,024 equal
/// buckets, so that a bucket is never wider than 1/1,024 of what is in it. Source:
/// https://hdrhistogram.github.io/HdrHistogram/
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "experiments/base/clock.h"

namespace squall::checks {

class Histogram {
 public:
  /// Durations count as at least 0 and at most this, some 78 hours.
  static constexpr Duration kLargest{(std::int64_t{1} << 48) - 1};

  Histogram() = default;
  Histogram(Histogram&&) = default;
  Histogram& operator=(Histogram&&) = default;

  void add(Duration value, std::uint64_t count = 1);
  void add(const Histogram& other);

  /// Takes out what was added before, and no more than that.
  void subtract(const Histogram& other);

  std::uint64_t count() const { return count_; }

  /// The upper end of the bucket that holds the value of this rank, 1 for the smallest: never less
  /// than the value itself, and at most 1/1,024 of it more, or 1 ns. Not for ranks beyond count().
  Duration at_rank(std::uint64_t rank) const;

  /// Nearest rank; as at_rank(). Zero when empty.
  Duration percentile(double percent) const;

  /// Gives back the memory of what is empty; the rest is 8 KiB per doubling, at most 320 KiB.
  void clear();

 private:
  static constexpr int kBits = 10;
  static constexpr std::size_t kBuckets = std::size_t{1} << kBits;
  /// Those below 1,024 ns, and one for each doubling from there to kLargest.
  static constexpr std::size_t kOctaves = 48 - kBits + 1;

  struct Octave {
    std::uint64_t count = 0;
    std::array<std::uint64_t, kBuckets> buckets{};
  };
  struct Place {
    std::size_t octave;
    std::size_t bucket;
  };

  static Place place_of(Duration value);
  static Duration upper_end(Place place);

  std::uint64_t count_ = 0;
  /// Made when there is something to count in them: most latencies are within a few doublings.
  std::array<std::unique_ptr<Octave>, kOctaves> octaves_;
};

/// The rank of a percentile among `count` values, by nearest rank: the least that so many percent
/// of them do not exceed. At least 1.
std::uint64_t rank_of(double percent, std::uint64_t count);

}  // namespace squall::checks
