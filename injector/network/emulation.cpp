#include "injector/network/emulation.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "injector/network/distribution.h"

namespace squall::network {
namespace {

__extension__ using Wide = unsigned __int128;

std::uint32_t to_fraction(double percent) {
  constexpr double kMost = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::llround(std::clamp(percent, 0.0, 100.0) / 100 * kMost));
}

/// A number below `bound`, as even as its 32 bits allow.
std::uint64_t scaled(std::uint32_t random, std::uint64_t bound) {
  return static_cast<std::uint64_t>((Wide{bound} * random) >> 32);
}

/// Seeds that lie next to each other give sequences that have nothing in common. Source: S. Vigna,
/// splitmix64.c, whose output function this is.
std::uint64_t mixed(std::uint64_t seed) {
  seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
  seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
  return seed ^ (seed >> 31);
}

enum class Purpose : std::uint64_t {
  kDuplicate = 1,
  kLoss,
  kCorrupt,
  kReorder,
  kPlace,
  kDelay,
  kSlot
};

std::uint64_t seed_of(const Effect& effect, Purpose purpose) {
  return mixed(effect.seed + static_cast<std::uint64_t>(purpose) * 0x9e3779b97f4a7c15);
}

Effect with_seed(Effect effect) {
  std::random_device device;
  while (effect.seed == 0) effect.seed = (std::uint64_t{device()} << 32) | device();
  return effect;
}

/// One that begins at the seed.
squall_random sequence(std::uint64_t seed) {
  squall_random random{.state = seed, .last = 0, .chain = 1};
  random.last = squall_uniform(&random);
  return random;
}

}  // namespace

squall_loss loss_of(const Effect& effect) {
  squall_loss loss{};
  if (effect.gilbert_elliott) {
    loss.model = SQUALL_LOSS_GILBERT_ELLIOTT;
    loss.a1 = to_fraction(effect.gilbert_elliott->p);
    loss.a2 = to_fraction(effect.gilbert_elliott->r);
    loss.a3 = to_fraction(100 - effect.gilbert_elliott->loss_when_bad);
    loss.a4 = to_fraction(effect.gilbert_elliott->loss_when_good);
  } else if (effect.four_state) {
    loss.model = SQUALL_LOSS_FOUR_STATE;
    loss.a1 = to_fraction(effect.four_state->p13);
    loss.a2 = to_fraction(effect.four_state->p31);
    loss.a3 = to_fraction(effect.four_state->p32);
    loss.a4 = to_fraction(effect.four_state->p14);
    loss.a5 = to_fraction(effect.four_state->p23);
  } else {
    loss.chance = to_fraction(effect.loss.percent);
    loss.correlation = to_fraction(effect.loss.correlation);
  }
  return loss;
}

squall_random loss_sequence(const Effect& effect) {
  return sequence(seed_of(with_seed(effect), Purpose::kLoss));
}

CorrelatedRandom::CorrelatedRandom(std::uint64_t seed, double correlation)
    : random_(sequence(seed)), correlation_(to_fraction(correlation)) {}

Emulation::Draw::Draw(std::uint64_t seed, const Chance& chance)
    : threshold(to_fraction(chance.percent)), random(seed, chance.correlation) {}

Emulation::Emulation(const Effect& effect, MonotonicTime now)
    : effect_(with_seed(effect)),
      loss_(loss_of(effect_)),
      losses_(loss_sequence(effect_)),
      duplicate_(seed_of(effect_, Purpose::kDuplicate), effect_.duplicate),
      corrupt_(seed_of(effect_, Purpose::kCorrupt), effect_.corrupt),
      reorder_(seed_of(effect_, Purpose::kReorder), effect_.reorder),
      place_(seed_of(effect_, Purpose::kPlace), 0),
      delay_(seed_of(effect_, Purpose::kDelay), effect_.delay_correlation),
      slot_(seed_of(effect_, Purpose::kSlot), 0),
      delay_table_(table_of(effect_.distribution)),
      slot_next_(now) {
  // tc takes a gap of 1 where none is named; without `reorder`, every packet waits.
  if (effect_.reorder.percent > 0) gap_ = std::max(effect_.gap, std::uint32_t{1});
  if (effect_.slot) {
    slot_table_ = table_of(effect_.slot->distribution);
    packets_left_ = effect_.slot->packets;
    bytes_left_ = effect_.slot->bytes;
  }
}

void Emulation::become(const Effect& effect) {
  const std::uint64_t seed = effect_.seed;
  effect_ = effect;
  effect_.seed = seed;
  duplicate_.threshold = to_fraction(effect_.duplicate.percent);
  loss_ = loss_of(effect_);
  corrupt_.threshold = to_fraction(effect_.corrupt.percent);
  reorder_.threshold = to_fraction(effect_.reorder.percent);
}

bool Emulation::is_duplicated() { return duplicate_.happens(); }

bool Emulation::is_lost() { return squall_loses(&loss_, &losses_) != 0; }

std::optional<std::uint64_t> Emulation::flipped_bit(std::uint64_t bits) {
  if (!corrupt_.happens() || bits == 0) return std::nullopt;
  return scaled(place_.draw(), bits);
}

Duration Emulation::packet_time(std::uint64_t bytes) const {
  const Rate& rate = effect_.rate;
  std::int64_t length = static_cast<std::int64_t>(bytes) + rate.packet_overhead;
  if (rate.cell_size != 0) {
    const std::int64_t cells = (length + rate.cell_size - 1) / rate.cell_size;
    length = cells * (std::int64_t{rate.cell_size} + rate.cell_overhead);
  }
  if (length <= 0) return Duration::zero();
  constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
  return Duration(static_cast<std::int64_t>(
      Wide{kNsPerSecond} * static_cast<std::uint64_t>(length) / rate.bytes_per_second));
}

MonotonicTime Emulation::time_to_send(MonotonicTime now, std::uint64_t bytes) {
  if (gap_ != 0 && counter_ >= gap_ - 1 && reorder_.happens()) {
    counter_ = 0;
    return kAtOnce;
  }
  ++counter_;
  const Duration delay = effect_.jitter == Duration::zero()
                             ? effect_.delay
                             : draw(effect_.delay, effect_.jitter, delay_.draw(), delay_table_);
  MonotonicTime at = now + std::max(Duration::zero(), delay);
  if (effect_.rate.bytes_per_second != 0) {
    // The line is free when the last packet has gone. The wait for that counts for the delay.
    at = std::max(at, last_) + packet_time(bytes);
    last_ = at;
  }
  return at;
}

MonotonicTime Emulation::departure(MonotonicTime time_to_send, MonotonicTime now) {
  if (!effect_.slot || time_to_send == kAtOnce) return time_to_send;
  if (slot_next_ < time_to_send) get_slot_next(now);
  return std::max(time_to_send, slot_next_);
}

void Emulation::has_left(MonotonicTime time_to_send, std::uint64_t bytes, MonotonicTime now) {
  if (!effect_.slot || time_to_send == kAtOnce) return;
  const Slots& slot = *effect_.slot;
  --packets_left_;
  bytes_left_ -= static_cast<std::int64_t>(bytes);
  if ((slot.packets != 0 && packets_left_ <= 0) || (slot.bytes != 0 && bytes_left_ <= 0)) {
    get_slot_next(now);
  }
}

void Emulation::get_slot_next(MonotonicTime now) {
  const Slots& slot = *effect_.slot;
  Duration next{};
  if (slot.delay != Duration::zero()) {
    next = draw(slot.delay, slot.jitter, slot_.draw(), slot_table_);
  } else {
    const Duration range = std::max(Duration::zero(), slot.max_delay - slot.min_delay);
    next = slot.min_delay + Duration(static_cast<std::int64_t>(
                                scaled(slot_.draw(), static_cast<std::uint64_t>(range.count()))));
  }
  slot_next_ = now + next;
  packets_left_ = slot.packets;
  bytes_left_ = slot.bytes;
}

}  // namespace squall::network
