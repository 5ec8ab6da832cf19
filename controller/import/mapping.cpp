#include "controller/import/mapping.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <utility>

#include "experiments/base/units.h"

namespace squall::importing {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Digits with at most one point at the beginning of a text, not negative; the rest is what follows
/// them.
std::optional<double> number_before(std::string_view text, std::string_view& rest) {
  const auto end = std::min(text.find_first_not_of("0123456789."), text.size());
  if (end == 0 || !is_digit(text[end - 1]) || text[0] == '.') return std::nullopt;
  double value = 0;
  const auto [stop, code] =
      std::from_chars(text.data(), text.data() + end, value, std::chars_format::fixed);
  if (code != std::errc() || stop != text.data() + end) return std::nullopt;
  rest = text.substr(end);
  return value;
}

std::optional<double> number(std::string_view text) {
  std::string_view rest;
  const auto value = number_before(text, rest);
  return rest.empty() ? value : std::nullopt;
}

struct Factor {
  std::string_view unit;
  double factor;
};

/// A number with one of the units, in the base unit.
std::optional<double> scaled(std::string_view text, std::span<const Factor> units) {
  std::string_view rest;
  const auto value = number_before(text, rest);
  if (!value) return std::nullopt;
  while (rest.starts_with(' ')) rest.remove_prefix(1);
  for (const Factor& known : units) {
    if (known.unit == rest) return *value * known.factor;
  }
  return std::nullopt;
}

/// Beyond this a double does not count whole numbers any more.
constexpr double kMostExact = 9.0e15;

std::optional<std::string> duration_of(std::optional<double> ns) {
  if (!ns || *ns > 9.0e18) return std::nullopt;
  const auto whole = static_cast<std::int64_t>(std::llround(*ns));
  return whole == 0 ? "" : format_duration(Duration(whole));
}

std::optional<std::string> whole_of(std::optional<double> value,
                                    std::string (*format)(std::uint64_t)) {
  if (!value || *value > kMostExact) return std::nullopt;
  const auto whole = static_cast<std::uint64_t>(std::llround(*value));
  return whole == 0 ? "" : format(whole);
}

std::string plain_count(std::uint64_t value) { return std::to_string(value); }

constexpr double kSecond = 1e9;
constexpr double kKi = 1024;

bool is_address(std::string_view text) {
  const std::string host(text.substr(0, text.find('/')));
  in6_addr parsed{};
  if (inet_pton(AF_INET, host.c_str(), &parsed) != 1 &&
      inet_pton(AF_INET6, host.c_str(), &parsed) != 1) {
    return false;
  }
  const auto slash = text.find('/');
  if (slash == std::string_view::npos) return true;
  const std::string_view prefix = text.substr(slash + 1);
  return !prefix.empty() && prefix.size() <= 3 &&
         std::all_of(prefix.begin(), prefix.end(), is_digit);
}

bool is_host_name(std::string_view text) {
  const auto fits = [](char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.';
  };
  return !text.empty() && std::all_of(text.begin(), text.end(), fits) &&
         text.find_first_not_of("0123456789.") != std::string_view::npos;
}

std::optional<std::string> port_range(std::string text) {
  const auto between = text.find_first_of(":-");
  if (between != std::string::npos) text[between] = '-';
  const auto is_port = [](std::string_view digits) {
    const auto value = number(digits);
    return value && *value >= 1 && *value <= 65535 && digits.find('.') == std::string_view::npos;
  };
  const std::string_view view = text;
  const bool right = between == std::string::npos
                         ? is_port(view)
                         : is_port(view.substr(0, between)) && is_port(view.substr(between + 1));
  return right ? std::optional(text) : std::nullopt;
}

}  // namespace

std::string lower(std::string_view text) {
  std::string low(text);
  std::transform(low.begin(), low.end(), low.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  return low;
}

std::optional<std::string> go_duration(const std::string& text) {
  constexpr std::array<Factor, 8> kUnits = {{{"ns", 1},
                                             {"us", 1e3},
                                             {"\xC2\xB5s", 1e3},
                                             {"\xCE\xBCs", 1e3},
                                             {"ms", 1e6},
                                             {"s", kSecond},
                                             {"m", 60 * kSecond},
                                             {"h", 3600 * kSecond}}};
  if (text == "0") return "";
  std::string_view rest = text;
  double total = 0;
  while (!rest.empty()) {
    std::string_view behind;
    if (!number_before(rest, behind)) return std::nullopt;
    const auto unit_end = std::min(behind.find_first_of("0123456789."), behind.size());
    const auto length = rest.size() - behind.size() + unit_end;
    const auto part = scaled(rest.substr(0, length), kUnits);
    if (!part) return std::nullopt;
    total += *part;
    rest.remove_prefix(length);
  }
  return text.empty() ? std::nullopt : duration_of(total);
}

std::optional<std::string> milliseconds(const std::string& text) {
  const auto value = number(text);
  return duration_of(value ? std::optional(*value * 1e6) : std::nullopt);
}

std::optional<std::string> seconds(const std::string& text) {
  const auto value = number(text);
  return duration_of(value ? std::optional(*value * kSecond) : std::nullopt);
}

std::optional<std::string> iso_duration(const std::string& text) {
  if (!text.starts_with("PT")) return std::nullopt;
  const std::string go = lower(std::string_view(text).substr(2));
  // Letters that mean something else there, or nothing here.
  if (go.find("ms") != std::string::npos || go.find_first_not_of("0123456789.hms") != go.npos) {
    return std::nullopt;
  }
  return go_duration(go);
}

std::optional<std::string> tc_time(const std::string& text) {
  constexpr std::array<Factor, 12> kUnits = {{{"", 1e3},
                                              {"ns", 1},
                                              {"nsec", 1},
                                              {"nsecs", 1},
                                              {"us", 1e3},
                                              {"usec", 1e3},
                                              {"usecs", 1e3},
                                              {"ms", 1e6},
                                              {"msec", 1e6},
                                              {"msecs", 1e6},
                                              {"s", kSecond},
                                              {"sec", kSecond}}};
  return duration_of(scaled(lower(text), kUnits));
}

std::optional<std::string> percentage(const std::string& text) {
  const std::string_view digits =
      text.ends_with('%') ? std::string_view(text).substr(0, text.size() - 1) : text;
  const auto value = number(digits);
  if (!value) return std::nullopt;
  return *value == 0 ? "" : format_percent(*value);
}

std::optional<std::string> probability(const std::string& text) {
  const auto value = number(text);
  if (!value || *value > 1) return std::nullopt;
  // Through the nearest decimal: 0.07 is 7%, not 7.000000000000001%.
  return percentage(fmt::format("{:.10g}", *value * 100));
}

std::optional<std::string> count(const std::string& text) {
  const auto value = number(text);
  if (!value || text.find('.') != std::string::npos) return std::nullopt;
  return whole_of(value, plain_count);
}

std::optional<std::string> tc_rate(const std::string& text) {
  constexpr std::array<Factor, 15> kUnits = {{{"", 1},
                                              {"bit", 1},
                                              {"kbit", 1e3},
                                              {"mbit", 1e6},
                                              {"gbit", 1e9},
                                              {"tbit", 1e12},
                                              {"kibit", kKi},
                                              {"bps", 8},
                                              {"mibit", kKi * kKi},
                                              {"kbps", 8e3},
                                              {"mbps", 8e6},
                                              {"gbps", 8e9},
                                              {"tbps", 8e12},
                                              {"kibps", 8 * kKi},
                                              {"mibps", 8 * kKi * kKi}}};
  return whole_of(scaled(lower(text), kUnits), format_rate);
}

std::optional<std::string> mesh_rate(const std::string& text) {
  constexpr std::array<Factor, 5> kUnits = {{{"bps", 8},
                                             {"kbps", 8 * kKi},
                                             {"mbps", 8 * kKi * kKi},
                                             {"gbps", 8 * kKi * kKi * kKi},
                                             {"tbps", 8 * kKi * kKi * kKi * kKi}}};
  return whole_of(scaled(lower(text), kUnits), format_rate);
}

std::optional<std::string> decimal_size(const std::string& text) {
  constexpr std::array<Factor, 14> kUnits = {{{"", 1},
                                              {"b", 1},
                                              {"k", 1e3},
                                              {"kb", 1e3},
                                              {"kib", kKi},
                                              {"m", 1e6},
                                              {"mb", 1e6},
                                              {"g", 1e9},
                                              {"gb", 1e9},
                                              {"mib", kKi * kKi},
                                              {"t", 1e12},
                                              {"tb", 1e12},
                                              {"c", 1},
                                              {"gib", kKi * kKi * kKi}}};
  return whole_of(scaled(lower(text), kUnits), format_bytes);
}

std::optional<std::string> binary_size(const std::string& text) {
  constexpr std::array<Factor, 10> kUnits = {{{"", 1},
                                              {"b", 1},
                                              {"k", kKi},
                                              {"kb", kKi},
                                              {"m", kKi * kKi},
                                              {"mb", kKi * kKi},
                                              {"g", kKi * kKi * kKi},
                                              {"gb", kKi * kKi * kKi},
                                              {"t", kKi * kKi * kKi * kKi},
                                              {"tb", kKi * kKi * kKi * kKi}}};
  return whole_of(scaled(lower(text), kUnits), format_bytes);
}

std::optional<std::string> mebibytes(const std::string& text) {
  const auto value = number(text);
  return whole_of(value ? std::optional(*value * kKi * kKi) : std::nullopt, format_bytes);
}

std::optional<std::string> any_text(const std::string& text) { return text; }

std::optional<std::string> taken(Source* field, Convert convert, std::string_view wanted) {
  if (field == nullptr) return std::nullopt;
  const auto value = field->kind() == Source::Kind::kScalar ? convert(field->text()) : std::nullopt;
  if (!value) {
    field->leave(fmt::format("not {}", wanted));
    return std::nullopt;
  }
  field->take();
  return value;
}

bool put(Source* field, Draft& to, std::string_view ours, Convert convert,
         std::string_view wanted) {
  const auto value = taken(field, convert, wanted);
  if (!value) return false;
  if (value->empty()) {
    to.say(fmt::format("{}: {} asks for nothing", field->path(), field->written()));
    return false;
  }
  to.set(ours, convert == any_text ? Draft::text(*value) : Draft::word(*value));
  return true;
}

void put(Source& from, Draft& to, std::span<const Rule> rules) {
  for (const Rule& rule : rules) {
    Source* field = from.find(rule.theirs);
    if (field == nullptr) continue;
    if (!rule.needs.empty() && to.find(rule.needs) == nullptr) {
      field->leave(fmt::format("does nothing without {}", rule.needs), Note::Kind::kSaid);
      continue;
    }
    put(field, to, rule.ours, rule.convert, rule.wanted);
  }
}

void put_or(Source* field, Draft& to, std::string_view ours, Convert convert,
            std::string_view wanted, std::string_view otherwise) {
  if (put(field, to, ours, convert, wanted)) return;
  Draft& guess = to.set(ours, Draft::word(std::string(otherwise)));
  if (field == nullptr) return guess.say("not in the source: the tool's own default");
  guess.decide(fmt::format("{} is a guess", otherwise));
}

void put_required(Source* field, Draft& to, std::string_view ours, Convert convert,
                  std::string_view wanted, std::string_view placeholder) {
  if (put(field, to, ours, convert, wanted)) return;
  to.set(ours, Draft::word(std::string(placeholder)))
      .decide(fmt::format("{}: the source does not say it", wanted));
}

std::string text_of(Source* field) {
  return field != nullptr && field->kind() == Source::Kind::kScalar ? field->text() : "";
}

bool took(Source* field, std::string_view text) {
  if (field == nullptr || text_of(field) != text) return false;
  field->take();
  return true;
}

std::vector<std::string> listed(Source* field) {
  std::vector<std::string> words;
  const auto split = [&](std::string_view text) {
    while (!text.empty()) {
      const auto comma = std::min(text.find(','), text.size());
      std::string_view word = text.substr(0, comma);
      while (word.starts_with(' ')) word.remove_prefix(1);
      while (word.ends_with(' ')) word.remove_suffix(1);
      if (!word.empty()) words.emplace_back(word);
      text.remove_prefix(std::min(comma + 1, text.size()));
    }
  };
  if (field == nullptr) return words;
  if (field->kind() == Source::Kind::kScalar) split(field->text());
  for (const auto& part : field->parts()) {
    if (part->kind() == Source::Kind::kScalar) split(part->text());
  }
  return words;
}

void put_addresses(Source* field, Draft& fault, std::string_view match) {
  const std::vector<std::string> words = listed(field);
  if (words.empty()) return;
  for (const std::string& word : words) {
    if (is_address(word) || is_host_name(word)) continue;
    return field->leave(fmt::format("{} is neither an address nor a host's name", word));
  }
  Draft& to = fault.map_at(match);
  for (const std::string& word : words) {
    if (is_address(word)) {
      to.list_at("cidrs").add(Draft::word(word));
    } else {
      to.list_at("hosts").add(Draft::text(word));
    }
  }
  field->take();
}

void put_ports(Source* field, Draft& fault, std::string_view match) {
  const std::vector<std::string> words = listed(field);
  if (words.empty()) return;
  for (const std::string& word : words) {
    if (!port_range(word)) return field->leave(fmt::format("{} is not a port", word));
  }
  Draft& ports = fault.map_at(match).list_at("ports");
  for (const std::string& word : words) ports.add(Draft::word(*port_range(word)));
  field->take();
}

void put_protocol(Source* field, Draft& fault, std::string_view match) {
  const std::string word = lower(text_of(field));
  if (word.empty()) return;
  if (word == "all" || word == "any") {
    fault.say(fmt::format("{}: {} asks for nothing", field->path(), field->written()));
  } else if (word == "tcp" || word == "udp" || word == "icmp") {
    fault.map_at(match).list_at("protocols").add(Draft::word(word));
  } else {
    return field->leave("not tcp, udp, icmp or all");
  }
  field->take();
}

std::string as_pattern(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    const bool plain = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '_' || c == ' ' || c == '/' || c == '-' || c == '=' || c == ',' ||
                       c == ':' || c == '@' || static_cast<unsigned char>(c) >= 0x80;
    if (!plain) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::optional<std::string> signal_name(const std::string& text) {
  struct Known {
    std::string_view name;
    std::string_view number;
  };
  constexpr std::array<Known, 8> kKnown = {{{"KILL", "9"},
                                            {"TERM", "15"},
                                            {"INT", "2"},
                                            {"HUP", "1"},
                                            {"QUIT", "3"},
                                            {"USR1", "10"},
                                            {"USR2", "12"},
                                            {"ABRT", "6"}}};
  std::string name = text;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c & ~0x20) : c; });
  if (name.starts_with("SIG")) name = name.substr(3);
  for (const Known& known : kKnown) {
    if (known.name == name || known.number == name) return std::string(known.name);
  }
  return std::nullopt;
}

void put_for(Draft& step, const std::optional<std::string>& duration) {
  const bool told = duration && !duration->empty();
  Draft& end = step.set("for", Draft::word(told ? *duration : "60s"));
  if (!told) {
    end.decide("the source sets no end, and every fault of Squall has one; 60s is a guess");
  }
}

Draft Experiment::described(const Labels& labels, std::size_t at_least) {
  constexpr std::size_t kMostFilledIn = 16;
  at_least = std::min(at_least, kMostFilledIn);
  const auto known = std::find_if(described_.begin(), described_.end(),
                                  [&](const Described& d) { return d.labels == labels; });
  if (known == described_.end()) {
    described_.push_back({labels, at_least});
  } else {
    known->count = std::max(known->count, at_least);
  }
  if (labels.empty()) return Draft::word("all");
  Draft on = Draft::map();
  for (const auto& [label, value] : labels) on.set(label, Draft::text(value));
  return on;
}

Draft& Experiment::add_node(const std::string& name, const std::string& address,
                            const Labels& labels) {
  Draft& node = nodes_.set(name, Draft::map());
  node.set("address", Draft::text(address));
  for (const auto& [label, value] : labels) node.map_at("labels").set(label, Draft::text(value));
  return node;
}

Draft Experiment::finish(std::string_view called) {
  Draft plan = Draft::map();
  for (const Note& note : head.notes()) plan.note(note);
  if (title.text().empty()) title = Draft::text(std::string(called));
  plan.set("plan", std::move(title));
  if (!hypothesis.text().empty()) plan.set("hypothesis", std::move(hypothesis));
  if (!tags.entries().empty()) plan.set("tags", std::move(tags));

  std::size_t number = 0;
  for (const auto& [labels, times] : described_) {
    for (std::size_t n = 0; n < times; ++n) {
      const std::string name = fmt::format("fill-in-{}", ++number);
      add_node(name, fmt::format("{}.invalid:7411", name), labels);
    }
  }
  if (number > 0) {
    nodes_.decide(
        "the source tells what the machines are like, not which they are: write their names and "
        "addresses in place of fill-in");
  }
  if (nodes_.entries().empty()) {
    nodes_.say("the source names no machines: this is the one that squall itself runs on");
    nodes_.set("local", Draft::map());
  }
  plan.set("nodes", std::move(nodes_));

  if (steady_state.entries().empty()) {
    Draft& example = plan.set("steady_state", Draft::list());
    for (const Note& note : steady_state.notes()) example.note(note);
    example.decide(
        "a plan needs a steady state: what must hold before, during and after. An example:");
    example.make_example();
    Draft& check = example.add(Draft::map());
    check.set("name", Draft::text("customers are served"));
    check.map_at("http").set("url", Draft::text("http://127.0.0.1:8080/"));
    check.list_at("expect").add(Draft::text("status == 200"));
    check.list_at("expect").add(Draft::text("p99 < 300ms over 10s"));
  } else {
    plan.set("steady_state", std::move(steady_state));
  }
  const bool does_nothing = std::all_of(
      method.entries().begin(), method.entries().end(),
      [](const Draft::Entry& entry) { return entry.value->kind() == Draft::Kind::kNothing; });
  if (does_nothing) {
    method.decide("nothing of the source is a step of a plan: write what is to be done");
  }
  plan.set("method", std::move(method));
  return plan;
}

}  // namespace squall::importing
