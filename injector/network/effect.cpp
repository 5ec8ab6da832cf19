#include "injector/network/effect.h"

#include <algorithm>
#include <chrono>

#include "injector/network/distribution.h"

namespace squall::network {
namespace {

constexpr double kPacketsPerSecond = 250'000;
constexpr double kLeastPackets = 100'000;
constexpr double kMostPackets = 1e8;
constexpr double kLeastOfRate = 1'000;
constexpr double kSmallestPacket = 64;
constexpr double kLargestPacket = 65'536;  // with its offloads
constexpr Duration kMargin = std::chrono::milliseconds(100);
constexpr Duration kLongestBacklog = std::chrono::minutes(1);

double seconds_of(Duration duration) { return static_cast<double>(duration.count()) / 1e9; }

Chance chance(double percent, double correlation) { return {percent, correlation}; }

Duration farthest(Duration mean, Duration jitter, v1::Distribution distribution) {
  return mean + (distribution == v1::UNIFORM ? 1 : kFarthestDeviation) * jitter;
}

Duration longest_slot(const Slots& slot) {
  return std::max(slot.max_delay, farthest(slot.delay, slot.jitter, slot.distribution));
}

/// A queue that the fault itself never fills. What a line of some rate holds back is less than what
/// a host sends.
std::uint32_t limit_for(const Effect& effect) {
  const double seconds = seconds_of(longest_delay(effect));
  double packets = std::clamp(seconds * kPacketsPerSecond, kLeastPackets, kMostPackets);
  if (effect.rate.bytes_per_second > 0) {
    const double carried =
        seconds * static_cast<double>(effect.rate.bytes_per_second) / kSmallestPacket;
    packets = std::clamp(carried, kLeastOfRate, packets);
  }
  return static_cast<std::uint32_t>(packets);
}

/// How long a full queue needs to leave, packet by packet.
Duration backlog_of(const Effect& effect) {
  const double packets = effect.limit;
  double seconds = 0;
  if (effect.rate.bytes_per_second > 0) {
    seconds = packets * kLargestPacket / static_cast<double>(effect.rate.bytes_per_second);
  }
  if (effect.slot && (effect.slot->packets > 0 || effect.slot->bytes > 0)) {
    double per_slot = packets;
    if (effect.slot->packets > 0) per_slot = std::min<double>(per_slot, effect.slot->packets);
    if (effect.slot->bytes > 0) {
      per_slot = std::min(per_slot, std::max(1.0, effect.slot->bytes / kLargestPacket));
    }
    seconds = std::max(seconds, packets / per_slot * seconds_of(longest_slot(*effect.slot)));
  }
  if (seconds >= seconds_of(kLongestBacklog)) return kLongestBacklog;
  return Duration(static_cast<std::int64_t>(seconds * 1e9));
}

Slots slots_of(const v1::Slot& wanted) {
  Slots slots;
  slots.min_delay = Duration(wanted.min_delay());
  slots.max_delay = std::max(slots.min_delay, Duration(wanted.max_delay()));
  slots.delay = Duration(wanted.delay());
  slots.jitter = Duration(wanted.jitter());
  slots.distribution = wanted.distribution();
  slots.packets = wanted.packets();
  slots.bytes = wanted.bytes();
  return slots;
}

}  // namespace

Effect effect_of(const v1::Network& wanted, std::uint64_t seed) {
  Effect effect;
  effect.delay = Duration(wanted.delay());
  effect.jitter = Duration(wanted.jitter());
  effect.distribution = wanted.distribution();
  effect.delay_correlation = wanted.delay_correlation();
  effect.loss = chance(wanted.loss(), wanted.loss_correlation());
  if (wanted.has_gilbert_elliott()) {
    const v1::GilbertElliott& model = wanted.gilbert_elliott();
    GilbertElliott& burst = effect.gilbert_elliott.emplace();
    burst.p = model.p();
    burst.r = model.r();
    if (model.has_loss_when_bad()) burst.loss_when_bad = model.loss_when_bad();
    burst.loss_when_good = model.loss_when_good();
  }
  if (wanted.has_four_state()) {
    const v1::FourState& model = wanted.four_state();
    FourState& burst = effect.four_state.emplace();
    burst.p13 = model.p13();
    burst.p31 = model.p31();
    burst.p32 = model.p32();
    if (model.has_p23()) burst.p23 = model.p23();
    burst.p14 = model.p14();
  }
  effect.ecn = wanted.ecn();
  effect.duplicate = chance(wanted.duplicate(), wanted.duplicate_correlation());
  effect.corrupt = chance(wanted.corrupt(), wanted.corrupt_correlation());
  effect.reorder = chance(wanted.reorder(), wanted.reorder_correlation());
  if (effect.reorder.percent > 0) effect.gap = std::max(1u, wanted.gap());
  if (wanted.rate() > 0) {
    effect.rate.bytes_per_second = std::max<std::uint64_t>(1, wanted.rate() / 8);
    effect.rate.packet_overhead = wanted.packet_overhead();
    effect.rate.cell_size = wanted.cell_size();
    effect.rate.cell_overhead = wanted.cell_overhead();
  }
  if (wanted.has_slot()) effect.slot = slots_of(wanted.slot());
  effect.limit = wanted.has_limit() ? wanted.limit() : limit_for(effect);
  effect.seed = seed;
  return effect;
}

Duration longest_delay(const Effect& effect) {
  const Duration delay = farthest(effect.delay, effect.jitter, effect.distribution);
  return effect.slot ? delay + longest_slot(*effect.slot) : delay;
}

Duration longest_stay(const Effect& effect) {
  // A netem that was found does not say whether it has a table.
  Effect spread = effect;
  spread.distribution = v1::NORMAL;
  return longest_delay(spread) + backlog_of(effect) + kMargin;
}

bool loses_all(const Effect& effect) {
  Effect plain;
  plain.loss = effect.loss;
  plain.limit = effect.limit;
  plain.seed = effect.seed;
  return effect.loss.percent >= 100 && effect == plain;
}

bool only_loses(const Effect& effect) {
  Effect plain;
  plain.loss = effect.loss;
  plain.gilbert_elliott = effect.gilbert_elliott;
  plain.four_state = effect.four_state;
  plain.ecn = effect.ecn;
  plain.limit = effect.limit;
  plain.seed = effect.seed;
  return effect == plain;
}

bool draws_by_chance(const Effect& effect) {
  const auto is_open = [](const Chance& chance) {
    return chance.percent > 0 && chance.percent < 100;
  };
  return effect.jitter > Duration::zero() || is_open(effect.loss) || effect.gilbert_elliott ||
         effect.four_state || is_open(effect.duplicate) || effect.corrupt.percent > 0 ||
         is_open(effect.reorder);
}

}  // namespace squall::network
