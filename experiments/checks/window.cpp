#include "experiments/checks/window.h"

#include <algorithm>
#include <limits>

namespace squall::checks {
namespace {

constexpr double kUnanswered = std::numeric_limits<double>::infinity();

}  // namespace

void Window::begin(MonotonicTime now) {
  *this = Window(length_);
  begun_ = now;
}

void Window::add(const Sample& sample) {
  const MonotonicTime at = arrival(sample);
  const bool answered = sample.error.empty();
  const bool failed = is_failure(sample);
  if (!begun_) begun_ = sample.asked;
  ++size_;
  failed_ += failed ? 1 : 0;
  if (is_exact()) {
    const double latency = answered ? static_cast<double>(sample.latency.count()) : kUnanswered;
    entries_.push_back({at, latency, failed});
    // A vector kept in order beats a tree: all of it fits the processor's nearest cache, and moving
    // a part of it is one memmove.
    sorted_.insert(std::upper_bound(sorted_.begin(), sorted_.end(), latency), latency);
    if (entries_.size() > kExact) pour();
    return;
  }
  Slice& slice = slice_at(at, at);
  slice.failed += failed ? 1 : 0;
  if (answered) {
    slice.answered.add(sample.latency);
    answered_.add(sample.latency);
  } else {
    ++slice.unanswered;
    ++unanswered_;
  }
}

void Window::add(const Tally& tally) {
  if (!begun_) begun_ = tally.from;
  if (is_exact()) pour();
  drop_waiting();
  Slice& slice = slice_at(tally.from, tally.until);
  slice.answered.add(tally.answered);
  slice.unanswered += tally.unanswered;
  slice.failed += tally.failed;
  answered_.add(tally.answered);
  unanswered_ += tally.unanswered;
  size_ += tally.answered.count() + tally.unanswered;
  failed_ += tally.failed;
  waiting_.add(tally.waiting);
  answered_.add(tally.waiting);
  waiting_at_ = tally.until;
}

void Window::pour() {
  for (const Entry& entry : entries_) {
    Slice& slice = slice_at(entry.at, entry.at);
    slice.failed += entry.failed ? 1 : 0;
    if (entry.latency < kUnanswered) {
      const Duration latency(static_cast<std::int64_t>(entry.latency));
      slice.answered.add(latency);
      answered_.add(latency);
    } else {
      ++slice.unanswered;
      ++unanswered_;
    }
  }
  entries_ = {};
  sorted_ = {};
}

Window::Slice& Window::slice_at(MonotonicTime begun, MonotonicTime at) {
  if (slices_.empty() || at >= slices_.back().begun + length_ / kSlices) {
    slices_.emplace_back();
    slices_.back().begun = begun;
    slices_.back().last = at;
  }
  slices_.back().last = std::max(slices_.back().last, at);
  return slices_.back();
}

void Window::drop_waiting() {
  answered_.subtract(waiting_);
  waiting_.clear();
}

void Window::advance(MonotonicTime now) {
  while (!entries_.empty() && entries_.front().at + length_ < now) {
    const Entry& oldest = entries_.front();
    sorted_.erase(std::lower_bound(sorted_.begin(), sorted_.end(), oldest.latency));
    failed_ -= oldest.failed ? 1 : 0;
    --size_;
    entries_.pop_front();
  }
  if (waiting_.count() > 0 && waiting_at_ + length_ < now) drop_waiting();
  while (!slices_.empty() && slices_.front().last + length_ < now) {
    const Slice& oldest = slices_.front();
    answered_.subtract(oldest.answered);
    unanswered_ -= oldest.unanswered;
    failed_ -= oldest.failed;
    size_ -= oldest.answered.count() + oldest.unanswered;
    slices_.pop_front();
  }
}

double Window::percentile(double percent) const {
  const std::uint64_t total = size_ + waiting_.count();
  const std::uint64_t rank = rank_of(percent, total);
  if (is_exact()) return sorted_[rank - 1];
  if (rank > total - unanswered_) return kUnanswered;
  return static_cast<double>(answered_.at_rank(rank).count());
}

double Window::error_rate() const {
  return 100 * static_cast<double>(failed_) / static_cast<double>(size_);
}

double Window::rate(MonotonicTime now) const {
  Duration passed = begun_ ? std::min(length_, now - *begun_) : length_;
  // The oldest slice is let go as a whole, and may reach back beyond the window.
  if (!slices_.empty()) passed = std::max(passed, now - slices_.front().begun);
  const double seconds = std::max(static_cast<double>(passed.count()) / 1e9, 1e-3);
  return static_cast<double>(size_ - failed_) / seconds;
}

}  // namespace squall::checks
