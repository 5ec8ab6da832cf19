/// \file
/// What sch_netem decides about a packet, without a packet: the relay moves them, this says which
/// are lost and when the others leave. Apart from it so that every rule can be tested by itself.
///
/// Source of every rule: net/sched/sch_netem.c of Linux 6.1, by the names that the functions have
/// there.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "experiments/base/clock.h"
#include "injector/network/effect.h"
#include "injector/network/loss.h"

namespace squall::network {

/// An effect's losses in the form that squall_loses() takes.
squall_loss loss_of(const Effect& effect);

/// Where the sequence of its losses begins; without a seed, anywhere.
squall_random loss_sequence(const Effect& effect);

/// A sequence of squall_draw()'s.
class CorrelatedRandom {
 public:
  CorrelatedRandom(std::uint64_t seed, double correlation);

  std::uint32_t draw() { return squall_draw(&random_, correlation_); }

 private:
  squall_random random_;
  std::uint32_t correlation_;
};

/// The decisions for one packet after another. The same effect, seed and times give the same ones
/// on every machine, and each kind of decision has a sequence of its own: which packets are lost
/// does not depend on how many were delayed meanwhile.
class Emulation {
 public:
  /// The time to send of what is ahead of everything that is held: long ago.
  static constexpr MonotonicTime kAtOnce{};

  /// `now`: of the first slot.
  Emulation(const Effect& effect, MonotonicTime now);

  /// From here on with other numbers, of which none is there that was not before: delay, jitter,
  /// the chances, the rate. The sequences go on.
  void become(const Effect& effect);

  /// Whether a packet that arrives is there twice. To be asked before is_lost(), and not of a
  /// duplicate. Both together leave one packet.
  bool is_duplicated();

  bool is_lost();

  /// Which of the packet's bits is to be flipped, if any; less than `bits`.
  std::optional<std::uint64_t> flipped_bit(std::uint64_t bits);

  /// When a packet that finds room in the queue leaves it; the next due is the next sent. kAtOnce
  /// for one that goes ahead of the others. `bytes`: from its Ethernet header on.
  MonotonicTime time_to_send(MonotonicTime now, std::uint64_t bytes);

  /// When the first packet of the queue leaves, given its time to send: then, or in the next slot.
  MonotonicTime departure(MonotonicTime time_to_send, MonotonicTime now);

  /// It left.
  void has_left(MonotonicTime time_to_send, std::uint64_t bytes, MonotonicTime now);

 private:
  /// Chances are compared as the kernel does, as 32-bit fractions.
  struct Draw {
    Draw(std::uint64_t seed, const Chance& chance);

    bool happens() { return threshold != 0 && threshold >= random.draw(); }

    std::uint32_t threshold;
    CorrelatedRandom random;
  };

  Duration packet_time(std::uint64_t bytes) const;
  void get_slot_next(MonotonicTime now);

  Effect effect_;

  squall_loss loss_;
  squall_random losses_;
  Draw duplicate_;
  Draw corrupt_;
  Draw reorder_;
  CorrelatedRandom place_;
  CorrelatedRandom delay_;
  CorrelatedRandom slot_;
  std::span<const std::int16_t> delay_table_;
  std::span<const std::int16_t> slot_table_;

  std::uint32_t gap_ = 0;
  std::uint32_t counter_ = 0;  ///< Packets since the last that went at once.
  MonotonicTime last_{};       ///< The latest time to send so far.

  MonotonicTime slot_next_{};
  std::int64_t packets_left_ = 0;
  std::int64_t bytes_left_ = 0;
};

}  // namespace squall::network
