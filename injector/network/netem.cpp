#include "injector/network/netem.h"

#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace squall::network {
namespace {

constexpr std::size_t kAttributeHeader = 4;

std::uint32_t to_fraction(double percent) {
  constexpr double kWhole = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::llround(std::clamp(percent, 0.0, 100.0) / 100 * kWhole));
}

double to_percent(std::uint32_t fraction) {
  return static_cast<double>(fraction) / std::numeric_limits<std::uint32_t>::max() * 100;
}

template <typename T>
void append(std::vector<std::byte>& bytes, const T& value) {
  const std::size_t end = bytes.size();
  bytes.resize(end + sizeof(value));
  std::memcpy(bytes.data() + end, &value, sizeof(value));
}

void append_ns(std::vector<std::byte>& bytes, std::uint16_t number, Duration value) {
  append(bytes, std::uint16_t{kAttributeHeader + sizeof(std::int64_t)});
  append(bytes, number);
  append(bytes, std::int64_t{value.count()});
}

}  // namespace

std::vector<std::byte> encode_netem(const NetemSettings& settings) {
  std::vector<std::byte> bytes;
  tc_netem_qopt basic{};  // its own delay and jitter stay 0: the 64-bit attributes replace them
  basic.limit = settings.limit;
  basic.loss = to_fraction(settings.loss);
  append(bytes, basic);
  append_ns(bytes, TCA_NETEM_LATENCY64, settings.delay);
  append_ns(bytes, TCA_NETEM_JITTER64, settings.jitter);
  return bytes;
}

StatusOr<NetemSettings> decode_netem(std::span<const std::byte> options) {
  tc_netem_qopt basic{};
  if (options.size() < sizeof(basic)) {
    return error(StatusCode::kInternal, "netem's options are too short");
  }
  std::memcpy(&basic, options.data(), sizeof(basic));
  NetemSettings settings;
  settings.loss = to_percent(basic.loss);
  settings.limit = basic.limit;
  bool has_delay = false;
  std::span<const std::byte> rest = options.subspan(sizeof(basic));
  while (rest.size() >= kAttributeHeader) {
    std::uint16_t length = 0;
    std::uint16_t number = 0;
    std::memcpy(&length, rest.data(), sizeof(length));
    std::memcpy(&number, rest.data() + sizeof(length), sizeof(number));
    if (length < kAttributeHeader || length > rest.size()) {
      return error(StatusCode::kInternal, "netem's options are cut off");
    }
    const bool is_delay = number == TCA_NETEM_LATENCY64;
    if ((is_delay || number == TCA_NETEM_JITTER64) &&
        length == kAttributeHeader + sizeof(std::int64_t)) {
      std::int64_t ns = 0;
      std::memcpy(&ns, rest.data() + kAttributeHeader, sizeof(ns));
      (is_delay ? settings.delay : settings.jitter) = Duration(ns);
      has_delay = has_delay || is_delay;
    }
    rest = rest.subspan(std::min<std::size_t>((length + 3u) & ~3u, rest.size()));
  }
  if (!has_delay) return error(StatusCode::kInternal, "netem tells no 64-bit delay");
  return settings;
}

bool same_netem(const NetemSettings& a, const NetemSettings& b) {
  return a.delay == b.delay && a.jitter == b.jitter && a.limit == b.limit &&
         to_fraction(a.loss) == to_fraction(b.loss);
}

std::uint32_t netem_limit(Duration longest) {
  constexpr double kPerSecond = 250'000;
  constexpr double kLeast = 100'000;
  const double seconds = static_cast<double>(longest.count()) / 1e9;
  return static_cast<std::uint32_t>(std::clamp(seconds * kPerSecond, kLeast, 1e8));
}

}  // namespace squall::network
