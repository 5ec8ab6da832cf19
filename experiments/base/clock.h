/// \file
/// CLOCK_MONOTONIC as the leases, pulses and the kernel's deadline maps see it: nanoseconds since
/// boot.
#pragma once

#include <chrono>
#include <cstdint>

namespace squall {

using Duration = std::chrono::nanoseconds;

/// std::chrono::steady_clock is CLOCK_MONOTONIC in libstdc++, so its count compares with
/// bpf_ktime_get_ns(). Source: bpf-helpers(7); libstdc++ src/c++11/chrono.cc.
using MonotonicTime = std::chrono::steady_clock::time_point;

inline MonotonicTime monotonic_now() { return std::chrono::steady_clock::now(); }

inline std::int64_t to_ns(MonotonicTime time) {
  return std::chrono::duration_cast<Duration>(time.time_since_epoch()).count();
}

inline MonotonicTime from_ns(std::int64_t ns) { return MonotonicTime(Duration(ns)); }

inline double to_ms(Duration duration) { return static_cast<double>(duration.count()) / 1e6; }

}  // namespace squall
