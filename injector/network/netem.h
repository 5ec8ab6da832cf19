/// \file
/// sch_netem's own wire format, written and read by hand: libnl 3.7's setters cut delays to 32-bit
/// ticks and know loss in raw units only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"

namespace squall::network {

struct NetemSettings {
  Duration delay{};
  Duration jitter{};
  double loss = 0;          ///< Percent.
  std::uint32_t limit = 0;  ///< Packets.

  friend bool operator==(const NetemSettings&, const NetemSettings&) = default;
};

/// The contents of TCA_OPTIONS. Source: net/sched/sch_netem.c, netem_change().
std::vector<std::byte> encode_netem(const NetemSettings& settings);

/// What netem_dump() writes, as of any kernel since 4.16 (LATENCY64).
/// Errors: kInternal for anything shorter.
StatusOr<NetemSettings> decode_netem(std::span<const std::byte> options);

/// Whether both mean the same to the kernel: loss as its 32-bit fraction.
bool same_netem(const NetemSettings& a, const NetemSettings& b);

/// A queue that the fault itself never fills: 250,000 packets per second of delay, at least
/// 100,000.
std::uint32_t netem_limit(Duration longest);

/// How long a packet may be held at most before it counts as stuck.
inline Duration longest_stay(Duration delay, Duration jitter) {
  return delay + 4 * jitter + std::chrono::milliseconds(100);
}

/// The longest jitter without a distribution table: the kernel draws from 2 × jitter in 32 bits.
inline constexpr Duration kLongestNetemJitter{2'147'000'000};

}  // namespace squall::network
