/// \file
/// The samples of the last seconds, in bounded memory whatever their rate: their percentiles, how
/// many failed, how many came. No clock of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/checks/check.h"
#include "experiments/checks/histogram.h"

namespace squall::checks {

/// As long as it holds at most kExact samples, it is exact: nearest rank, over precisely its
/// length. With more, or with tallies, it counts in slices of 1/32 of its length, each a histogram,
/// until it is begun anew or empty: then a percentile is at most 1/1,024 above the exact one and
/// never below it, and a sample is let go up to one slice late. It then takes 8 KiB per slice and
/// doubling of the latencies in it: some 2 MiB where they lie between 100 us and 30 ms.
class Window {
 public:
  static constexpr std::size_t kExact = 4096;
  static constexpr int kSlices = 32;

  explicit Window(Duration length) : length_(length) {}

  /// Forgets everything; what comes is held against the time since `now`.
  void begin(MonotonicTime now);

  /// In the order of arrival, or nearly.
  void add(const Sample& sample);

  /// The waiting of the tally before are taken back: they are in this one, in one way or another.
  void add(const Tally& tally);

  /// Lets go of what is older than the window.
  void advance(MonotonicTime now);

  /// How many were answered or given up.
  std::uint64_t size() const { return size_; }
  /// How many are waited for, beside those.
  std::uint64_t waiting() const { return waiting_.count(); }
  Duration length() const { return length_; }

  /// Nearest rank, in nanoseconds: the smallest latency that at least that share does not exceed.
  /// Infinite where that is one that was not answered. Those that are waited for count as taking as
  /// long as they have waited. Not when nothing is in it nor waited for.
  double percentile(double percent) const;

  /// In percent. Not when empty.
  double error_rate() const;

  /// Good answers per second, over as much of the window as has passed.
  double rate(MonotonicTime now) const;

 private:
  struct Entry {
    MonotonicTime at;
    double latency;
    bool failed;
  };

  /// What arrived between its beginning and 1/32 of the window later.
  struct Slice {
    MonotonicTime begun;
    MonotonicTime last;
    Histogram answered;
    std::uint64_t unanswered = 0;
    std::uint64_t failed = 0;
  };

  bool is_exact() const { return slices_.empty(); }
  /// From here on in slices.
  void pour();
  Slice& slice_at(MonotonicTime begun, MonotonicTime at);
  void drop_waiting();

  Duration length_;
  std::optional<MonotonicTime> begun_;
  std::uint64_t size_ = 0;
  std::uint64_t failed_ = 0;

  std::deque<Entry> entries_;   ///< In order of time.
  std::vector<double> sorted_;  ///< Their latencies in order.

  std::deque<Slice> slices_;
  Histogram answered_;  ///< Of all slices, and of those that are waited for.
  std::uint64_t unanswered_ = 0;
  Histogram waiting_;
  MonotonicTime waiting_at_;
};

}  // namespace squall::checks
