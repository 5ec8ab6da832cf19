/// \file
/// What a great many askings came to, told together: a load's numbers of a second.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/base/clock.h"
#include "experiments/checks/histogram.h"

namespace squall::checks {

struct Tally {
  MonotonicTime from;  ///< Everything in it was answered, or given up, between these two.
  MonotonicTime until;
  Histogram answered;            ///< How long the answered took.
  std::uint64_t unanswered = 0;  ///< Given up.
  std::uint64_t failed = 0;      ///< The unanswered, and the answers with a server's error.
  std::string error;             ///< Of the latest unanswered.

  /// How long those have waited that should have been answered by now: the least that each of them
  /// will take. They are told again when they are answered or given up.
  Histogram waiting;
};

}  // namespace squall::checks
