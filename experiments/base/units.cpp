#include "experiments/base/units.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

namespace squall {
namespace {

__extension__ using Wide = unsigned __int128;

struct UnitName {
  std::string_view name;
  std::uint64_t factor;
};

/// A unit that people write, and how Squall spells it.
struct Alias {
  std::string_view written;
  std::string_view ours;
};

/// What parsing one sort of quantity needs to know, for its values and for its messages.
struct Quantity {
  std::string_view noun;     ///< With its article: a duration.
  std::string_view usual;    ///< The unit that a bare number is most likely to have meant.
  std::string_view units;    ///< For people: ns, us, ms, s, m or h.
  std::string_view example;  ///< A well-written one.
  std::string_view finest;   ///< The smallest step.
  std::uint64_t limit;
  std::span<const UnitName> names;
  std::span<const Alias> aliases;
};

// Ascending, as the writers below need them.
constexpr std::array<UnitName, 6> kDurationUnits = {{{"ns", 1},
                                                     {"us", 1'000},
                                                     {"ms", 1'000'000},
                                                     {"s", 1'000'000'000},
                                                     {"m", 60'000'000'000},
                                                     {"h", 3'600'000'000'000}}};
constexpr std::array<UnitName, 9> kByteUnits = {{{"B", 1},
                                                 {"kB", 1'000},
                                                 {"KiB", 1ULL << 10},
                                                 {"MB", 1'000'000},
                                                 {"MiB", 1ULL << 20},
                                                 {"GB", 1'000'000'000},
                                                 {"GiB", 1ULL << 30},
                                                 {"TB", 1'000'000'000'000},
                                                 {"TiB", 1ULL << 40}}};
constexpr std::array<UnitName, 5> kRateUnits = {{{"bit", 1},
                                                 {"kbit", 1'000},
                                                 {"mbit", 1'000'000},
                                                 {"gbit", 1'000'000'000},
                                                 {"tbit", 1'000'000'000'000}}};
constexpr std::array<UnitName, 1> kPercentUnits = {{{"%", 1}}};
constexpr std::array<UnitName, 1> kPerSecondUnits = {{{"/s", 1}}};

constexpr std::array<Alias, 23> kDurationAliases = {
    {{"nsec", "ns"}, {"usec", "us"},   {"\xC2\xB5s", "us"},   {"\xCE\xBCs", "us"},
     {"msec", "ms"}, {"millis", "ms"}, {"millisecond", "ms"}, {"milliseconds", "ms"},
     {"MS", "ms"},   {"Ms", "ms"},     {"mS", "ms"},          {"S", "s"},
     {"sec", "s"},   {"secs", "s"},    {"second", "s"},       {"seconds", "s"},
     {"min", "m"},   {"mins", "m"},    {"minute", "m"},       {"minutes", "m"},
     {"hr", "h"},    {"hour", "h"},    {"hours", "h"}}};
constexpr std::array<Alias, 13> kByteAliases = {{{"b", "B"},
                                                 {"byte", "B"},
                                                 {"bytes", "B"},
                                                 {"K", "KiB"},
                                                 {"k", "KiB"},
                                                 {"KB", "kB"},
                                                 {"kb", "kB"},
                                                 {"M", "MiB"},
                                                 {"mb", "MB"},
                                                 {"G", "GiB"},
                                                 {"gb", "GB"},
                                                 {"T", "TiB"},
                                                 {"kib", "KiB"}}};
constexpr std::array<Alias, 9> kRateAliases = {{{"bps", "bit"},
                                                {"kbps", "kbit"},
                                                {"Kbit", "kbit"},
                                                {"mbps", "mbit"},
                                                {"Mbps", "mbit"},
                                                {"Mbit", "mbit"},
                                                {"gbps", "gbit"},
                                                {"Gbps", "gbit"},
                                                {"Gbit", "gbit"}}};
constexpr std::array<Alias, 2> kPercentAliases = {{{"percent", "%"}, {"pct", "%"}}};
constexpr std::array<Alias, 5> kPerSecondAliases = {
    {{"/sec", "/s"}, {"/second", "/s"}, {"rps", "/s"}, {"rqps", "/s"}, {"qps", "/s"}}};

const Quantity kDuration = {.noun = "a duration",
                            .usual = "ms",
                            .units = "ns, us, ms, s, m or h",
                            .example = "200ms",
                            .finest = "1ns",
                            .limit = std::numeric_limits<std::int64_t>::max(),
                            .names = kDurationUnits,
                            .aliases = kDurationAliases};
const Quantity kBytes = {.noun = "a size",
                         .usual = "MiB",
                         .units = "B, kB, MB, GB, KiB, MiB or GiB",
                         .example = "64MiB",
                         .finest = "1B",
                         .limit = std::numeric_limits<std::uint64_t>::max(),
                         .names = kByteUnits,
                         .aliases = kByteAliases};
const Quantity kRate = {.noun = "a rate",
                        .usual = "mbit",
                        .units = "bit, kbit, mbit or gbit",
                        .example = "10mbit",
                        .finest = "1bit",
                        .limit = std::numeric_limits<std::uint64_t>::max(),
                        .names = kRateUnits,
                        .aliases = kRateAliases};
const Quantity kPercent = {.noun = "a percentage",
                           .usual = "%",
                           .units = "%",
                           .example = "1%",
                           .finest = "",
                           .limit = 100,
                           .names = kPercentUnits,
                           .aliases = kPercentAliases};
const Quantity kPerSecond = {.noun = "a number per second",
                             .usual = "/s",
                             .units = "/s",
                             .example = "1000/s",
                             .finest = "",
                             .limit = std::numeric_limits<std::uint64_t>::max(),
                             .names = kPerSecondUnits,
                             .aliases = kPerSecondAliases};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// A text in quotes for a message; what could not be shown in full is cut.
std::string quoted(std::string_view text) {
  constexpr std::size_t kLongest = 40;
  if (text.size() <= kLongest) return fmt::format("\"{}\"", text);
  return fmt::format("\"{}...\"", text.substr(0, kLongest));
}

Status wrong(std::string_view message) { return error(StatusCode::kInvalidArgument, message); }

struct Written {
  std::string_view whole;     ///< Digits before the point, at least one.
  std::string_view fraction;  ///< Digits behind it, maybe none.
  std::string_view number;    ///< Both, with the point.
  const UnitName* unit = nullptr;
};

StatusOr<Written> take_apart(std::string_view text, const Quantity& quantity);

/// Whether what is about to be suggested would be right.
bool is_right(std::string_view text, const Quantity& quantity) {
  return take_apart(text, quantity).ok();
}

StatusOr<Written> take_apart(std::string_view text, const Quantity& quantity) {
  const auto not_one = [&] {
    return wrong(
        fmt::format("{} is not {}; write {}", quoted(text), quantity.noun, quantity.example));
  };
  if (text.empty()) {
    return wrong(fmt::format("{} is missing; write {}", quantity.noun, quantity.example));
  }
  if (text[0] == '-' || text[0] == '+') {
    if (!is_right(text.substr(1), quantity)) return not_one();
    return wrong(fmt::format("{} has a sign; write {}", quoted(text), text.substr(1)));
  }
  std::size_t at = 0;
  while (at < text.size() && is_digit(text[at])) ++at;
  if (at == 0) {
    if (text[0] == '.' && is_right(fmt::format("0{}", text), quantity)) {
      return wrong(fmt::format("{} begins with a point; write 0{}", quoted(text), text));
    }
    return not_one();
  }
  Written written;
  written.whole = text.substr(0, at);
  if (written.whole.size() > 1 && written.whole[0] == '0') {
    const auto first = written.whole.find_first_not_of('0');
    const auto from = first < at ? first : at - 1;
    if (!is_right(text.substr(from), quantity)) return not_one();
    return wrong(fmt::format("{} has a leading zero; write {}", quoted(text), text.substr(from)));
  }
  if (at + 1 < text.size() && text[at] == '.' && is_digit(text[at + 1])) {
    const std::size_t begin = ++at;
    while (at < text.size() && is_digit(text[at])) ++at;
    written.fraction = text.substr(begin, at - begin);
  }
  written.number = text.substr(0, at);

  std::string_view unit = text.substr(at);
  if (unit.size() > 1 && unit[0] == ' ') unit.remove_prefix(1);
  if (unit.empty() || unit == " ") {
    return wrong(
        fmt::format("{} of what? write {}{}", written.number, written.number, quantity.usual));
  }
  if (unit.size() > 1 && (unit[0] == 'e' || unit[0] == 'E') &&
      (is_digit(unit[1]) || unit[1] == '-' || unit[1] == '+')) {
    return wrong(
        fmt::format("{} has an exponent; write it out, as {}", quoted(text), quantity.example));
  }
  for (const UnitName& known : quantity.names) {
    if (known.name == unit) {
      written.unit = &known;
      return written;
    }
  }
  for (const Alias& alias : quantity.aliases) {
    if (alias.written == unit) {
      return wrong(fmt::format("{} is not a unit here; write {}{}", quoted(unit), written.number,
                               alias.ours));
    }
  }
  // What is not even a word is no unit: 1:30, 1,5s, 0x10, 2..3s.
  for (const char c : unit) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '/';
    if (!letter) return not_one();
  }
  return wrong(
      quantity.names.size() == 1
          ? fmt::format("unknown unit {}; write {}{}", quoted(unit), written.number, quantity.units)
          : fmt::format("unknown unit {}; write {} with {}", quoted(unit), written.number,
                        quantity.units));
}

/// An exact whole number of the base unit.
StatusOr<std::uint64_t> parse_whole(std::string_view text, const Quantity& quantity) {
  const auto written = take_apart(text, quantity);
  if (!written.ok()) return written.status();
  const std::uint64_t factor = written->unit->factor;
  const auto too_large = [&] {
    return wrong(fmt::format("{} is too large; write at most {}{}", quoted(text),
                             quantity.limit / factor, written->unit->name));
  };
  const auto too_fine = [&] {
    return wrong(fmt::format("{} is finer than {}; write whole multiples of {}", quoted(text),
                             quantity.finest, quantity.finest));
  };

  Wide value = 0;
  for (const char digit : written->whole) {
    value = value * 10 + static_cast<unsigned>(digit - '0');
    if (value > quantity.limit) return too_large();
  }
  value *= factor;
  std::string_view fraction = written->fraction;
  while (!fraction.empty() && fraction.back() == '0') fraction.remove_suffix(1);
  constexpr std::size_t kMostDigits = 18;  // 10^18 times the largest factor still fits
  if (fraction.size() > kMostDigits) return too_fine();
  Wide part = 0;
  Wide scale = 1;
  for (const char digit : fraction) {
    part = part * 10 + static_cast<unsigned>(digit - '0');
    scale *= 10;
  }
  part *= factor;
  if (part % scale != 0) return too_fine();
  value += part / scale;
  if (value > quantity.limit) return too_large();
  return static_cast<std::uint64_t>(value);
}

/// The number before a unit whose factor is 1; not finite where no double holds it.
StatusOr<double> parse_decimal(std::string_view text, const Quantity& quantity) {
  const auto written = take_apart(text, quantity);
  if (!written.ok()) return written.status();
  double value = 0;
  const char* const last = written->number.data() + written->number.size();
  const auto [end, code] =
      std::from_chars(written->number.data(), last, value, std::chars_format::fixed);
  // Out of a double's range, either way; the digits themselves were counted off above.
  return code == std::errc() && end == last ? value : std::numeric_limits<double>::infinity();
}

/// The shortest exact spelling with a number of at least 1; of two as short the one with the larger
/// unit.
std::string shortest(std::uint64_t value, std::span<const UnitName> units) {
  std::string best;
  for (const UnitName& unit : units) {
    if (value < unit.factor) break;
    std::string candidate = std::to_string(value / unit.factor);
    std::uint64_t rest = value % unit.factor;
    if (rest != 0) {
      candidate += '.';
      constexpr int kMostDigits = 18;
      for (int digits = 0; rest != 0 && digits < kMostDigits; ++digits) {
        rest *= 10;  // rest < 3.6e12: never overflows
        candidate += static_cast<char>('0' + rest / unit.factor);
        rest %= unit.factor;
      }
      if (rest != 0) continue;
    }
    candidate += unit.name;
    if (best.empty() || candidate.size() <= best.size()) best = std::move(candidate);
  }
  return best;
}

std::string written_out(double number) {
  std::array<char, 400> digits{};  // the smallest double written out is some 330 characters
  const auto [end, code] =
      std::to_chars(digits.data(), digits.data() + digits.size(), number, std::chars_format::fixed);
  return code == std::errc() ? std::string(digits.data(), end) : fmt::format("{}", number);
}

std::vector<std::string_view> names_of(std::span<const UnitName> units) {
  std::vector<std::string_view> names;
  for (const UnitName& unit : units) names.push_back(unit.name);
  return names;
}

}  // namespace

StatusOr<Duration> parse_duration(std::string_view text) {
  const auto value = parse_whole(text, kDuration);
  if (!value.ok()) return value.status();
  return Duration(static_cast<std::int64_t>(*value));
}

StatusOr<double> parse_percent(std::string_view text) {
  const auto value = parse_decimal(text, kPercent);
  if (!value.ok()) return value.status();
  if (!std::isfinite(*value)) {
    return wrong(
        fmt::format("{} cannot be held; write a percentage from 0% to 100%", quoted(text)));
  }
  if (*value > 100) {
    return wrong(fmt::format("{} is more than the whole; write at most 100%", quoted(text)));
  }
  return value;
}

StatusOr<double> parse_per_second(std::string_view text) {
  const auto value = parse_decimal(text, kPerSecond);
  if (!value.ok() || std::isfinite(*value)) return value;
  return wrong(fmt::format("{} cannot be held; write {}", quoted(text), kPerSecond.example));
}

StatusOr<std::uint64_t> parse_bytes(std::string_view text) { return parse_whole(text, kBytes); }

StatusOr<std::uint64_t> parse_rate(std::string_view text) { return parse_whole(text, kRate); }

StatusOr<std::uint64_t> parse_count(std::string_view text) {
  if (text.empty()) return wrong("a number is missing; write a whole number");
  for (const char c : text) {
    if (!is_digit(c)) {
      return wrong(fmt::format("{} is not a whole number; write digits only", quoted(text)));
    }
  }
  if (text.size() > 1 && text[0] == '0') {
    const auto first = text.find_first_not_of('0');
    return wrong(fmt::format("{} has a leading zero; write {}", quoted(text),
                             first == std::string_view::npos ? "0" : text.substr(first)));
  }
  std::uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) {
    return wrong(fmt::format("{} is too large; write at most {}", quoted(text),
                             std::numeric_limits<std::uint64_t>::max()));
  }
  return value;
}

std::string format_duration(Duration duration) {
  const std::int64_t count = duration.count();
  if (count == 0) return "0s";
  // Unsigned negation: also right for the least value there is.
  const auto value =
      count < 0 ? 0 - static_cast<std::uint64_t>(count) : static_cast<std::uint64_t>(count);
  return fmt::format("{}{}", count < 0 ? "-" : "", shortest(value, kDurationUnits));
}

std::string format_measured(Duration duration) {
  const double ns = std::abs(static_cast<double>(duration.count()));
  const std::string_view sign = duration.count() < 0 ? "-" : "";
  if (ns < 1000) return fmt::format("{}{:.0f}ns", sign, ns);
  struct Scale {
    double factor;
    std::string_view unit;
  };
  for (const auto& [factor, unit] : {Scale{1e3, "us"}, Scale{1e6, "ms"}, Scale{1e9, "s"}}) {
    const double value = ns / factor;
    if (value < 9.995) return fmt::format("{}{:.2f}{}", sign, value, unit);
    if (value < 99.95) return fmt::format("{}{:.1f}{}", sign, value, unit);
    if (value < 999.5) return fmt::format("{}{:.0f}{}", sign, value, unit);
  }
  return fmt::format("{}{:.0f}s", sign, ns / 1e9);
}

std::string format_percent(double percent) { return written_out(percent) + "%"; }

std::string format_per_second(double per_second) { return written_out(per_second) + "/s"; }

std::string format_bytes(std::uint64_t bytes) {
  return bytes == 0 ? "0B" : shortest(bytes, kByteUnits);
}

std::string format_rate(std::uint64_t bits_per_second) {
  return bits_per_second == 0 ? "0bit" : shortest(bits_per_second, kRateUnits);
}

std::vector<std::string_view> duration_units() { return names_of(kDurationUnits); }
std::vector<std::string_view> percent_units() { return names_of(kPercentUnits); }
std::vector<std::string_view> byte_units() { return names_of(kByteUnits); }
std::vector<std::string_view> per_second_units() { return names_of(kPerSecondUnits); }
std::vector<std::string_view> rate_units() { return names_of(kRateUnits); }

}  // namespace squall
