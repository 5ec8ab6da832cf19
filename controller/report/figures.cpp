#include "controller/report/figures.h"

#include <algorithm>
#include <cmath>

namespace squall::report {
namespace {

/// Of a duration in milliseconds that is a nanosecond; what is smaller is as good as nothing.
constexpr double kSmallest = 1e-6;
constexpr double kBucketsPerDoubling = 64;

/// A run of a hundred years: more is a mistake of the log.
constexpr double kLongest = 3e9;

Curve::Stretch merged(const Curve::Stretch& first, const Curve::Stretch& second) {
  Curve::Stretch both = first;
  both.to = second.to;
  if (second.least && (!both.least || second.least->number < both.least->number))
    both.least = second.least;
  if (second.most && (!both.most || second.most->number > both.most->number))
    both.most = second.most;
  both.gap = first.gap || second.gap;
  both.holds = first.holds && second.holds;
  return both;
}

}  // namespace

void Percentiles::add(double number) {
  if (!std::isfinite(number)) return;
  number = std::max(number, 0.0);
  least_ = count_ == 0 ? number : std::min(least_, number);
  most_ = count_ == 0 ? number : std::max(most_, number);
  ++count_;
  if (buckets_.empty() && exact_.size() < kExact) {
    exact_.push_back(number);
    return;
  }
  for (const double kept : exact_) put_into_bucket(kept);
  exact_ = {};
  put_into_bucket(number);
}

void Percentiles::put_into_bucket(double number) {
  // The first bucket is of what is smaller than all others.
  const double doublings = number > kSmallest ? std::log2(number / kSmallest) : -1;
  const auto bucket = doublings < 0 ? std::size_t{0}
                                    : static_cast<std::size_t>(doublings * kBucketsPerDoubling) + 1;
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  ++buckets_[bucket];
}

std::optional<double> Percentiles::at(double percent) const {
  if (count_ == 0) return std::nullopt;
  const double all = static_cast<double>(count_);
  const double rank = std::clamp(std::ceil(percent / 100 * all - 1e-9), 1.0, all);
  if (buckets_.empty()) {
    std::vector<double> sorted = exact_;
    const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(rank) - 1;
    std::nth_element(sorted.begin(), nth, sorted.end());
    return *nth;
  }
  if (rank >= all) return most_;
  std::uint64_t before = 0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    before += buckets_[bucket];
    if (static_cast<double>(before) < rank) continue;
    const double middle = static_cast<double>(bucket) - 0.5;
    const double number = bucket == 0 ? 0 : kSmallest * std::exp2(middle / kBucketsPerDoubling);
    return std::clamp(number, least_, most_);
  }
  return most_;
}

void Curve::add(double at, std::optional<double> number, bool holds) {
  const double latest = stretches_.empty() ? 0 : stretches_.back().to;
  at = std::isfinite(at) ? std::clamp(at, latest, std::max(latest, kLongest)) : latest;
  if (number && !std::isfinite(*number)) number.reset();
  while (at / width_ >= static_cast<double>(kStretches)) halve();
  Stretch next;
  next.index = static_cast<std::size_t>(at / width_);
  next.from = next.to = at;
  if (number) next.least = next.most = Peak{at, *number};
  next.gap = !number;
  next.holds = holds;
  if (!stretches_.empty() && stretches_.back().index == next.index) {
    stretches_.back() = merged(stretches_.back(), next);
  } else {
    stretches_.push_back(next);
  }
}

void Curve::halve() {
  width_ *= 2;
  std::size_t kept = 0;
  for (std::size_t n = 0; n < stretches_.size(); ++n) {
    Stretch next = stretches_[n];
    next.index /= 2;
    if (kept > 0 && stretches_[kept - 1].index == next.index) {
      stretches_[kept - 1] = merged(stretches_[kept - 1], next);
    } else {
      stretches_[kept++] = next;
    }
  }
  stretches_.resize(kept);
}

}  // namespace squall::report
