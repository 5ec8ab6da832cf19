#include "injector/network/emulation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "injector/network/distribution.h"

namespace squall::network {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kWhole = std::uint64_t{1} << 32;

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

}  // namespace

CorrelatedRandom::CorrelatedRandom(std::uint64_t seed, double correlation)
    : random_(seed),
      correlation_(to_fraction(correlation)),
      last_(static_cast<std::uint32_t>(random_() >> 32)) {}

std::uint32_t CorrelatedRandom::draw() {
  const std::uint64_t value = random_() >> 32;
  if (correlation_ == 0) return static_cast<std::uint32_t>(value);
  const std::uint64_t rho = std::uint64_t{correlation_} + 1;
  last_ = static_cast<std::uint32_t>((Wide{value} * (kWhole - rho) + Wide{last_} * rho) >> 32);
  return last_;
}

Emulation::Draw::Draw(std::uint64_t seed, const Chance& chance)
    : threshold(to_fraction(chance.percent)), random(seed, chance.correlation) {}

Emulation::Emulation(const Effect& effect, MonotonicTime now)
    : effect_(with_seed(effect)),
      duplicate_(seed_of(effect_, Purpose::kDuplicate), effect_.duplicate),
      loss_(seed_of(effect_, Purpose::kLoss), effect_.loss),
      corrupt_(seed_of(effect_, Purpose::kCorrupt), effect_.corrupt),
      reorder_(seed_of(effect_, Purpose::kReorder), effect_.reorder),
      place_(seed_of(effect_, Purpose::kPlace), 0),
      delay_(seed_of(effect_, Purpose::kDelay), effect_.delay_correlation),
      slot_(seed_of(effect_, Purpose::kSlot), 0),
      delay_table_(table_of(effect_.distribution)),
      slot_next_(now) {
  if (effect_.gilbert_elliott) {
    loss_model_ = Loss::kGilbertElliott;
    a1_ = to_fraction(effect_.gilbert_elliott->p);
    a2_ = to_fraction(effect_.gilbert_elliott->r);
    a3_ = to_fraction(100 - effect_.gilbert_elliott->loss_when_bad);
    a4_ = to_fraction(effect_.gilbert_elliott->loss_when_good);
  } else if (effect_.four_state) {
    loss_model_ = Loss::kFourState;
    a1_ = to_fraction(effect_.four_state->p13);
    a2_ = to_fraction(effect_.four_state->p31);
    a3_ = to_fraction(effect_.four_state->p32);
    a4_ = to_fraction(effect_.four_state->p14);
    a5_ = to_fraction(effect_.four_state->p23);
  }
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
  loss_.threshold = to_fraction(effect_.loss.percent);
  corrupt_.threshold = to_fraction(effect_.corrupt.percent);
  reorder_.threshold = to_fraction(effect_.reorder.percent);
}

bool Emulation::is_duplicated() { return duplicate_.happens(); }

bool Emulation::is_lost() {
  switch (loss_model_) {
    case Loss::kGilbertElliott:
      return loss_gilb_ell();
    case Loss::kFourState:
      return loss_4state();
    case Loss::kRandom:
      break;
  }
  return loss_.happens();
}

bool Emulation::loss_gilb_ell() {
  constexpr std::uint8_t kGood = 1;
  constexpr std::uint8_t kBad = 2;
  // Whether this packet is lost is the old state's to say.
  if (state_ == kGood) {
    if (loss_.random.draw() < a1_) state_ = kBad;
    return loss_.random.draw() < a4_;
  }
  if (loss_.random.draw() < a2_) state_ = kGood;
  return loss_.random.draw() > a3_;
}

bool Emulation::loss_4state() {
  constexpr std::uint8_t kReceivedInGap = 1;
  constexpr std::uint8_t kReceivedInBurst = 2;
  constexpr std::uint8_t kLostInBurst = 3;
  constexpr std::uint8_t kLostInGap = 4;
  const std::uint64_t random = loss_.random.draw();
  // Whether this packet is lost is the new state's to say.
  switch (state_) {
    case kReceivedInGap:
      if (random < a4_) {
        state_ = kLostInGap;
      } else if (random < a1_ + a4_) {
        state_ = kLostInBurst;
      }
      break;
    case kReceivedInBurst:
      if (random < a5_) state_ = kLostInBurst;
      break;
    case kLostInBurst:
      if (random < a3_) {
        state_ = kReceivedInBurst;
      } else if (random < a2_ + a3_) {
        state_ = kReceivedInGap;
      }
      break;
    default:
      state_ = kReceivedInGap;
  }
  return state_ == kLostInBurst || state_ == kLostInGap;
}

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
