#include "experiments/checks/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace squall::checks {

std::uint64_t rank_of(double percent, std::uint64_t count) {
  // 99.9 / 100 * 1,000 is a little more than 999.
  const double rank = std::ceil(percent / 100 * static_cast<double>(count) * (1 - 1e-12) - 1e-9);
  return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(std::max(rank, 1.0)), 1,
                                   std::max<std::uint64_t>(count, 1));
}

Histogram::Place Histogram::place_of(Duration value) {
  const auto ns = static_cast<std::uint64_t>(std::clamp(value, Duration::zero(), kLargest).count());
  const int width = static_cast<int>(std::bit_width(ns));
  if (width <= kBits) return {0, static_cast<std::size_t>(ns)};
  // The leading bit names the octave, the ten after it the bucket.
  const int shift = width - 1 - kBits;
  return {static_cast<std::size_t>(width - kBits),
          static_cast<std::size_t>(ns >> shift) & (kBuckets - 1)};
}

Duration Histogram::upper_end(Place place) {
  const auto bucket = static_cast<std::int64_t>(place.bucket);
  if (place.octave == 0) return Duration(bucket);
  const auto shift = static_cast<int>(place.octave) - 1;
  return Duration(((bucket + static_cast<std::int64_t>(kBuckets) + 1) << shift) - 1);
}

void Histogram::add(Duration value, std::uint64_t count) {
  if (count == 0) return;
  const Place place = place_of(value);
  auto& octave = octaves_[place.octave];
  if (!octave) octave = std::make_unique<Octave>();
  octave->buckets[place.bucket] += count;
  octave->count += count;
  count_ += count;
}

void Histogram::add(const Histogram& other) {
  for (std::size_t n = 0; n < kOctaves; ++n) {
    if (!other.octaves_[n] || other.octaves_[n]->count == 0) continue;
    if (!octaves_[n]) octaves_[n] = std::make_unique<Octave>();
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
      octaves_[n]->buckets[bucket] += other.octaves_[n]->buckets[bucket];
    }
    octaves_[n]->count += other.octaves_[n]->count;
  }
  count_ += other.count_;
}

void Histogram::subtract(const Histogram& other) {
  for (std::size_t n = 0; n < kOctaves; ++n) {
    if (!other.octaves_[n] || other.octaves_[n]->count == 0) continue;
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
      octaves_[n]->buckets[bucket] -= other.octaves_[n]->buckets[bucket];
    }
    octaves_[n]->count -= other.octaves_[n]->count;
    if (octaves_[n]->count == 0) octaves_[n].reset();
  }
  count_ -= other.count_;
}

Duration Histogram::at_rank(std::uint64_t rank) const {
  for (std::size_t n = 0; n < kOctaves; ++n) {
    if (!octaves_[n]) continue;
    if (rank > octaves_[n]->count) {
      rank -= octaves_[n]->count;
      continue;
    }
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
      const std::uint64_t here = octaves_[n]->buckets[bucket];
      if (rank <= here) return upper_end({n, bucket});
      rank -= here;
    }
  }
  return kLargest;
}

Duration Histogram::percentile(double percent) const {
  return count_ == 0 ? Duration::zero() : at_rank(rank_of(percent, count_));
}

void Histogram::clear() { *this = Histogram(); }

}  // namespace squall::checks
