/// \file
/// sch_netem's own wire format, written and read by hand: libnl 3.7's setters cut delays to 32-bit
/// ticks, know loss in raw units only, and know neither rate nor slot nor loss in bursts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "injector/network/effect.h"

namespace squall::network {

/// The contents of TCA_OPTIONS, distribution tables included, for an effect that netem_lacks()
/// nothing of. Source: net/sched/sch_netem.c, netem_change(); linux/pkt_sched.h.
std::vector<std::byte> encode_netem(const Effect& effect);

/// What netem_dump() writes, as of any kernel since 4.16 (LATENCY64, JITTER64).
///
/// A table is never told: `distribution` is UNIFORM, whatever was set, but for a slot, of which the
/// kernel at least tells that it has some; that reads NORMAL. A slot without a table reads as its
/// shortest and longest time. `seed` is 0 where the kernel has none (before 6.7).
///
/// Errors: kInternal for anything shorter, or of another form.
StatusOr<Effect> decode_netem(std::span<const std::byte> options);

/// Whether both are the same to the kernel, with shares as its 32-bit fractions, but for the
/// tables, which it does not tell; a seed of 0 is the same as any.
bool same_netem(const Effect& a, const Effect& b);

/// Why netem cannot do this, in words; empty if it can.
std::string netem_lacks(const Effect& effect);

/// Whether this kernel's netem draws from TCA_NETEM_PRNG_SEED, as since Linux 6.7; an older one
/// ignores it without a word.
bool netem_takes_seeds();

/// What netem makes of this otherwise than its words let one expect, for whoever asks for it.
/// Source: net/sched/sch_netem.c, get_crandom(), tabledist().
std::vector<std::string> netem_notes(const Effect& effect);

/// The longest jitter: the kernel draws it in 32 bits of nanoseconds, sign included, with a table
/// or without.
inline constexpr Duration kLongestNetemJitter{2'147'000'000};

}  // namespace squall::network
