#include "injector/network/netem.h"

#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <sstream>
#include <utility>

#include "injector/network/distribution.h"

namespace squall::network {
namespace {

constexpr std::size_t kHeader = sizeof(nlattr);
constexpr std::uint32_t kWhole = std::numeric_limits<std::uint32_t>::max();

/// Debian 12's headers are older than Linux 6.7, which brought it. Source: linux/pkt_sched.h.
constexpr std::uint16_t kSeedAttribute = TCA_NETEM_SLOT_DIST + 1;  // TCA_NETEM_PRNG_SEED

std::uint32_t to_fraction(double percent) {
  return static_cast<std::uint32_t>(std::llround(std::clamp(percent, 0.0, 100.0) / 100 * kWhole));
}

double to_percent(std::uint32_t fraction) { return static_cast<double>(fraction) / kWhole * 100; }

// --- writing ---

template <typename T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const std::size_t end = bytes.size();
  bytes.resize(end + sizeof(value));
  std::memcpy(bytes.data() + end, &value, sizeof(value));
}

void append_payload(std::vector<std::byte>& bytes, int number, std::span<const std::byte> payload) {
  append(bytes, nlattr{static_cast<std::uint16_t>(kHeader + payload.size()),
                       static_cast<std::uint16_t>(number)});
  bytes.insert(bytes.end(), payload.begin(), payload.end());
  bytes.resize((bytes.size() + 3) & ~std::size_t{3});
}

template <typename T>
void append_attribute(std::vector<std::byte>& bytes, int number, const T& value) {
  append_payload(bytes, number, std::as_bytes(std::span(&value, 1)));
}

void append_table(std::vector<std::byte>& bytes, int number, v1::Distribution distribution) {
  const std::span<const std::int16_t> table = table_of(distribution);
  if (!table.empty()) append_payload(bytes, number, std::as_bytes(table));
}

/// The chance of `second` beside that of `first`: the kernel adds the two in 32 bits, and two
/// halves would be 0.
std::uint32_t fraction_beside(double first, double second) {
  return std::min(to_fraction(second), kWhole - to_fraction(first));
}

void append_losses(std::vector<std::byte>& bytes, const Effect& effect) {
  std::vector<std::byte> nested;
  if (effect.gilbert_elliott) {
    const GilbertElliott& model = *effect.gilbert_elliott;
    tc_netem_gemodel wire{};
    wire.p = to_fraction(model.p);
    wire.r = to_fraction(model.r);
    wire.h = kWhole - to_fraction(model.loss_when_bad);
    wire.k1 = to_fraction(model.loss_when_good);
    append_attribute(nested, NETEM_LOSS_GE, wire);
  } else if (effect.four_state) {
    const FourState& model = *effect.four_state;
    tc_netem_gimodel wire{};
    wire.p13 = to_fraction(model.p13);
    wire.p14 = fraction_beside(model.p13, model.p14);
    wire.p31 = to_fraction(model.p31);
    wire.p32 = fraction_beside(model.p31, model.p32);
    wire.p23 = to_fraction(model.p23);
    append_attribute(nested, NETEM_LOSS_GI, wire);
  }
  if (!nested.empty()) append_payload(bytes, TCA_NETEM_LOSS | NLA_F_NESTED, nested);
}

void append_rate(std::vector<std::byte>& bytes, const Rate& rate) {
  if (rate.bytes_per_second == 0) return;
  tc_netem_rate wire{};
  wire.rate = static_cast<std::uint32_t>(std::min<std::uint64_t>(rate.bytes_per_second, kWhole));
  wire.packet_overhead = rate.packet_overhead;
  wire.cell_size = rate.cell_size;
  wire.cell_overhead = rate.cell_overhead;
  if (rate.bytes_per_second > kWhole) {
    append_attribute(bytes, TCA_NETEM_RATE64, rate.bytes_per_second);
  }
  append_attribute(bytes, TCA_NETEM_RATE, wire);
}

bool has_table(const Slots& slot) {
  return slot.distribution != v1::UNIFORM && slot.jitter > Duration::zero();
}

tc_netem_slot wire_of(const Slots& slot) {
  tc_netem_slot wire{};
  wire.max_packets = static_cast<std::int32_t>(slot.packets);
  wire.max_bytes = static_cast<std::int32_t>(slot.bytes);
  if (has_table(slot)) {
    wire.dist_delay = slot.delay.count();
    wire.dist_jitter = slot.jitter.count();
  } else {
    // Without a table the kernel reads nothing but these two.
    wire.min_delay = (slot.min_delay + slot.delay - slot.jitter).count();
    wire.max_delay =
        std::max(slot.min_delay, slot.max_delay).count() + (slot.delay + slot.jitter).count();
  }
  return wire;
}

/// All but the tables and the seed. The order is ours: the delays, which are never left out, stand
/// last, so that a reader misses what was cut off.
void append_settings(std::vector<std::byte>& bytes, const Effect& effect) {
  tc_netem_qopt basic{};  // its own delay and jitter stay 0: the 64-bit attributes replace them
  basic.limit = effect.limit;
  basic.loss = to_fraction(effect.loss.percent);
  basic.duplicate = to_fraction(effect.duplicate.percent);
  // A gap alone would reorder everything, and without a gap nothing is reordered.
  if (effect.reorder.percent > 0) basic.gap = std::max(1u, effect.gap);
  append(bytes, basic);

  tc_netem_corr correlations{};
  correlations.delay_corr = to_fraction(effect.delay_correlation);
  correlations.loss_corr = to_fraction(effect.loss.correlation);
  correlations.dup_corr = to_fraction(effect.duplicate.correlation);
  if ((correlations.delay_corr | correlations.loss_corr | correlations.dup_corr) != 0) {
    append_attribute(bytes, TCA_NETEM_CORR, correlations);
  }
  if (effect.reorder.percent > 0) {
    append_attribute(bytes, TCA_NETEM_REORDER,
                     tc_netem_reorder{to_fraction(effect.reorder.percent),
                                      to_fraction(effect.reorder.correlation)});
  }
  if (effect.corrupt.percent > 0) {
    append_attribute(bytes, TCA_NETEM_CORRUPT,
                     tc_netem_corrupt{to_fraction(effect.corrupt.percent),
                                      to_fraction(effect.corrupt.correlation)});
  }
  append_losses(bytes, effect);
  append_rate(bytes, effect.rate);
  if (effect.ecn) append_attribute(bytes, TCA_NETEM_ECN, std::uint32_t{1});
  if (effect.slot) append_attribute(bytes, TCA_NETEM_SLOT, wire_of(*effect.slot));
  append_attribute(bytes, TCA_NETEM_LATENCY64, std::int64_t{effect.delay.count()});
  append_attribute(bytes, TCA_NETEM_JITTER64, std::int64_t{effect.jitter.count()});
}

// --- reading ---

/// The attributes of one nest, by number.
class Attributes {
 public:
  static StatusOr<Attributes> read(std::span<const std::byte> bytes) {
    Attributes attributes;
    while (!bytes.empty()) {
      nlattr header{};
      if (bytes.size() < kHeader) return cut_off();
      std::memcpy(&header, bytes.data(), kHeader);
      if (header.nla_len < kHeader || header.nla_len > bytes.size()) return cut_off();
      attributes.payloads_[header.nla_type & NLA_TYPE_MASK] =
          bytes.subspan(kHeader, header.nla_len - kHeader);
      bytes = bytes.subspan(std::min<std::size_t>((header.nla_len + 3u) & ~3u, bytes.size()));
    }
    return attributes;
  }

  bool has(int number) const { return payloads_.contains(number); }
  std::span<const std::byte> operator[](int number) const { return payloads_.at(number); }

  /// Into `value`, if it is there. Returns false if it is of another size.
  template <typename T>
  bool take(int number, T& value) const {
    const auto found = payloads_.find(number);
    if (found == payloads_.end()) return true;
    if (found->second.size() != sizeof(T)) return false;
    std::memcpy(&value, found->second.data(), sizeof(T));
    return true;
  }

 private:
  static Status cut_off() { return error(StatusCode::kInternal, "netem's options are cut off"); }

  std::map<int, std::span<const std::byte>> payloads_;
};

Status unknown_form() {
  return error(StatusCode::kInternal, "netem's options are of a form that is not known");
}

Status read_losses(std::span<const std::byte> nested, Effect& effect) {
  const StatusOr<Attributes> models = Attributes::read(nested);
  if (!models.ok()) return models.status();
  tc_netem_gemodel gilbert{};
  tc_netem_gimodel four{};
  if (!models->take(NETEM_LOSS_GE, gilbert) || !models->take(NETEM_LOSS_GI, four)) {
    return unknown_form();
  }
  if (models->has(NETEM_LOSS_GE)) {
    effect.gilbert_elliott = GilbertElliott{to_percent(gilbert.p), to_percent(gilbert.r),
                                            to_percent(kWhole - gilbert.h), to_percent(gilbert.k1)};
  } else if (models->has(NETEM_LOSS_GI)) {
    effect.four_state = FourState{to_percent(four.p13), to_percent(four.p31), to_percent(four.p32),
                                  to_percent(four.p23), to_percent(four.p14)};
  } else {
    return unknown_form();
  }
  return ok();
}

Slots slots_of(const tc_netem_slot& wire) {
  Slots slot;
  slot.min_delay = Duration(wire.min_delay);
  slot.max_delay = Duration(wire.max_delay);
  slot.delay = Duration(wire.dist_delay);
  slot.jitter = Duration(wire.dist_jitter);
  if (wire.dist_jitter != 0) slot.distribution = v1::NORMAL;
  slot.packets = static_cast<std::uint32_t>(wire.max_packets);
  slot.bytes = static_cast<std::uint32_t>(wire.max_bytes);
  return slot;
}

}  // namespace

std::vector<std::byte> encode_netem(const Effect& effect) {
  std::vector<std::byte> bytes;
  append_settings(bytes, effect);
  std::vector<std::byte> more;
  if (effect.jitter > Duration::zero()) {
    append_table(more, TCA_NETEM_DELAY_DIST, effect.distribution);
  }
  if (effect.slot && has_table(*effect.slot)) {
    append_table(more, TCA_NETEM_SLOT_DIST, effect.slot->distribution);
  }
  if (effect.seed != 0) append_attribute(more, kSeedAttribute, effect.seed);
  bytes.insert(bytes.begin() + sizeof(tc_netem_qopt), more.begin(), more.end());
  return bytes;
}

StatusOr<Effect> decode_netem(std::span<const std::byte> options) {
  tc_netem_qopt basic{};
  if (options.size() < sizeof(basic)) {
    return error(StatusCode::kInternal, "netem's options are too short");
  }
  std::memcpy(&basic, options.data(), sizeof(basic));
  const StatusOr<Attributes> attributes = Attributes::read(options.subspan(sizeof(basic)));
  if (!attributes.ok()) return attributes.status();
  if (!attributes->has(TCA_NETEM_LATENCY64) || !attributes->has(TCA_NETEM_JITTER64)) {
    return error(StatusCode::kInternal, "netem tells no 64-bit delay");
  }
  std::int64_t delay = 0;
  std::int64_t jitter = 0;
  tc_netem_corr correlations{};
  tc_netem_reorder reorder{};
  tc_netem_corrupt corrupt{};
  tc_netem_rate rate{};
  std::uint64_t rate64 = 0;
  std::uint32_t ecn = 0;
  tc_netem_slot slot{};
  Effect effect;
  if (!attributes->take(TCA_NETEM_LATENCY64, delay) ||
      !attributes->take(TCA_NETEM_JITTER64, jitter) ||
      !attributes->take(TCA_NETEM_CORR, correlations) ||
      !attributes->take(TCA_NETEM_REORDER, reorder) ||
      !attributes->take(TCA_NETEM_CORRUPT, corrupt) || !attributes->take(TCA_NETEM_RATE, rate) ||
      !attributes->take(TCA_NETEM_RATE64, rate64) || !attributes->take(TCA_NETEM_ECN, ecn) ||
      !attributes->take(TCA_NETEM_SLOT, slot) || !attributes->take(kSeedAttribute, effect.seed)) {
    return unknown_form();
  }
  effect.delay = Duration(delay);
  effect.jitter = Duration(jitter);
  effect.delay_correlation = to_percent(correlations.delay_corr);
  effect.loss = {to_percent(basic.loss), to_percent(correlations.loss_corr)};
  if (attributes->has(TCA_NETEM_LOSS)) {
    const Status read = read_losses((*attributes)[TCA_NETEM_LOSS], effect);
    if (!read.ok()) return read;
  }
  effect.ecn = ecn != 0;
  effect.duplicate = {to_percent(basic.duplicate), to_percent(correlations.dup_corr)};
  effect.corrupt = {to_percent(corrupt.probability), to_percent(corrupt.correlation)};
  effect.reorder = {to_percent(reorder.probability), to_percent(reorder.correlation)};
  effect.gap = basic.gap;
  effect.rate = {std::max<std::uint64_t>(rate.rate, rate64), rate.packet_overhead, rate.cell_size,
                 rate.cell_overhead};
  if (attributes->has(TCA_NETEM_SLOT)) effect.slot = slots_of(slot);
  effect.limit = basic.limit;
  return effect;
}

bool same_netem(const Effect& a, const Effect& b) {
  std::vector<std::byte> ours;
  std::vector<std::byte> theirs;
  append_settings(ours, a);
  append_settings(theirs, b);
  return ours == theirs && (a.seed == b.seed || a.seed == 0 || b.seed == 0);
}

std::string netem_lacks(const Effect& effect) {
  // Below it the kernel's length of a packet would be negative, which it takes for endless.
  constexpr std::int32_t kShortestPacket = 20;
  if (effect.jitter > kLongestNetemJitter) return "netem's jitter ends at 2.147s";
  if (effect.slot) {
    const tc_netem_slot wire = wire_of(*effect.slot);
    if (Duration(wire.dist_jitter) > kLongestNetemJitter) {
      return "netem's jitter of a slot ends at 2.147s";
    }
    if (Duration(wire.max_delay - wire.min_delay) > kLongestNetemJitter) {
      return "netem's shortest and longest slot are at most 2.147s apart";
    }
  }
  if (effect.rate.packet_overhead < -kShortestPacket) {
    return "netem's packet_overhead takes off at most 20 bytes";
  }
  if (effect.rate.cell_size > 0 &&
      effect.rate.cell_overhead + static_cast<std::int64_t>(effect.rate.cell_size) < 0) {
    return "netem's cell_overhead takes off at most the cell itself";
  }
  return "";
}

bool netem_takes_seeds() {
  utsname kernel{};
  uname(&kernel);
  int major = 0;
  int minor = 0;
  char dot = 0;
  std::istringstream(kernel.release) >> major >> dot >> minor;
  return std::pair(major, minor) >= std::pair(6, 7);
}

std::vector<std::string> netem_notes(const Effect& effect) {
  std::vector<std::string> notes;
  const auto is_bent = [](const Chance& chance) {
    return chance.correlation > 0 && chance.percent > 0 && chance.percent < 100;
  };
  if (is_bent(effect.loss) || is_bent(effect.duplicate) || is_bent(effect.corrupt) ||
      is_bent(effect.reorder)) {
    notes.emplace_back(
        "by netem's rule correlated numbers keep to the middle: what has a correlation hits fewer "
        "packets than asked, above 50% more; gilbert_elliott and four_state keep their share");
  }
  if (effect.delay_correlation > 0) {
    notes.emplace_back(
        "by netem's rule delays do not show their correlation: they are taken from the remainder "
        "of a number that does");
  }
  if (effect.seed != 0 && draws_by_chance(effect) && !netem_takes_seeds()) {
    notes.emplace_back(
        "netem of this kernel draws its own random numbers: the seed does not make it repeatable "
        "(it would as of Linux 6.7)");
  }
  return notes;
}

}  // namespace squall::network
