/// \file
/// How a random delay is spread: netem's distribution tables and its rule for drawing from them, so
/// that both engines draw alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "experiments/base/clock.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

/// What stands for one standard deviation in a table. Source: linux/pkt_sched.h,
/// NETEM_DIST_SCALE.
inline constexpr int kDistributionScale = 8192;
inline constexpr std::size_t kDistributionEntries = 4096;

/// No entry of a table is further from 0 than this many standard deviations: they have 16 bits.
inline constexpr int kFarthestDeviation = 4;

/// The inverse of the distribution's cumulative function at evenly spaced points, rising; empty for
/// UNIFORM, which has none. Made when it is first asked for, by any thread, and there for good.
///
/// Source: the generators of iproute2, netem/normal.c, pareto.c and paretonormal.c (NISTnet's).
std::span<const std::int16_t> table_of(v1::Distribution distribution);

/// A draw with mean `mu`, by a random number of which every value is equally likely. Without a
/// table evenly from mu - sigma until mu + sigma, else with the standard deviation `sigma`. It may
/// be below 0, which netem takes for "at once".
///
/// Source: net/sched/sch_netem.c, tabledist(), to the bit for any sigma that netem itself takes.
Duration draw(Duration mu, Duration sigma, std::uint32_t random,
              std::span<const std::int16_t> table);

}  // namespace squall::network
