/// \file
/// What happens to the packets that a fault matches, in the terms of tc-netem(8). Both engines are
/// told the same and draw from the same distributions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "experiments/base/clock.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

/// Something that happens to a share of the packets.
struct Chance {
  double percent = 0;
  double correlation = 0;  ///< Percent: of the next draw that the last one decides.

  friend bool operator==(const Chance&, const Chance&) = default;
};

/// All in percent of the packets; the names are tc's.
struct GilbertElliott {
  double p = 0;
  double r = 0;
  double loss_when_bad = 100;  ///< 1-h.
  double loss_when_good = 0;   ///< 1-k.

  friend bool operator==(const GilbertElliott&, const GilbertElliott&) = default;
};

struct FourState {
  double p13 = 0;
  double p31 = 0;
  double p32 = 0;
  double p23 = 100;
  double p14 = 0;

  friend bool operator==(const FourState&, const FourState&) = default;
};

/// A line of so many bytes per second. What a packet counts for: its own bytes and the overhead,
/// rounded up to whole cells, each with an overhead of its own.
struct Rate {
  std::uint64_t bytes_per_second = 0;  ///< 0: none.
  std::int32_t packet_overhead = 0;
  std::uint32_t cell_size = 0;
  std::int32_t cell_overhead = 0;

  friend bool operator==(const Rate&, const Rate&) = default;
};

/// Either from min_delay to max_delay, or delay and jitter with a distribution.
struct Slots {
  Duration min_delay{};
  Duration max_delay{};
  Duration delay{};
  Duration jitter{};
  v1::Distribution distribution = v1::UNIFORM;
  std::uint32_t packets = 0;  ///< 0: no bound.
  std::uint32_t bytes = 0;

  friend bool operator==(const Slots&, const Slots&) = default;
};

struct Effect {
  Duration delay{};
  Duration jitter{};
  v1::Distribution distribution = v1::UNIFORM;
  double delay_correlation = 0;  ///< Percent.
  Chance loss;
  std::optional<GilbertElliott> gilbert_elliott;  ///< Instead of `loss`, as the next.
  std::optional<FourState> four_state;
  bool ecn = false;  ///< Marks what can be marked instead of losing it.
  Chance duplicate;
  Chance corrupt;
  Chance reorder;
  std::uint32_t gap = 0;
  Rate rate;
  std::optional<Slots> slot;
  std::uint32_t limit = 0;  ///< Packets held at most.
  std::uint64_t seed = 0;   ///< 0: of the engine's own choice.

  friend bool operator==(const Effect&, const Effect&) = default;
};

/// What a plan asks for; its limit where it names none.
Effect effect_of(const v1::Network& wanted, std::uint64_t seed);

/// How long a packet may be held at most, beside the time that it waits for others.
Duration longest_delay(const Effect& effect);

/// How long the queue may take to empty before something counts as stuck, if it is full.
Duration longest_stay(const Effect& effect);

/// Whether every packet is lost, and nothing else is asked: no queue is needed for that.
bool loses_all(const Effect& effect);

/// Whether all it does to packets is to lose some of them, or to mark those: nobody has to hold a
/// packet for that.
bool only_loses(const Effect& effect);

/// Whether chance decides what happens to a packet, so that a seed makes a difference.
bool draws_by_chance(const Effect& effect);

}  // namespace squall::network
