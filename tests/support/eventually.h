/// \file
/// Waiting for a condition instead of for a time.
#pragma once

#include <poll.h>

#include <chrono>
#include <ctime>

#include "experiments/base/clock.h"

namespace squall::support {

/// Gives the processor away for a moment; the step of every wait below.
inline void yield_for(Duration time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  const timespec limit{.tv_sec = seconds.count(), .tv_nsec = (time - seconds).count()};
  ppoll(nullptr, 0, &limit, nullptr);
}

/// Asks every `step` until it holds, at most `bound` long. Returns whether it did.
template <typename Condition>
bool eventually(Condition condition, Duration bound, Duration step = std::chrono::milliseconds(2)) {
  const MonotonicTime deadline = monotonic_now() + bound;
  while (!condition()) {
    if (monotonic_now() >= deadline) return condition();
    yield_for(step);
  }
  return true;
}

}  // namespace squall::support
