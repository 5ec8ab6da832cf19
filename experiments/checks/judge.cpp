#include "experiments/checks/judge.h"

#include <fmt/core.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <deque>
#include <limits>
#include <map>
#include <string_view>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"
#include "experiments/checks/window.h"

namespace squall::checks {
namespace {

constexpr Duration kDefaultWindow = std::chrono::seconds(10);
constexpr std::size_t kWindowNeeds = 3;
/// A loop that hiccups is not a target without data.
constexpr Duration kShortestSilence = std::chrono::milliseconds(100);
constexpr double kUnanswered = std::numeric_limits<double>::infinity();

enum class Metric {
  kUnknown,
  kLatency,
  kStatus,
  kBody,
  kState,
  kExit,
  kStdout,
  kNumber,
  kErrorRate,
  kRate,
  kPercentile,
  kSum
};

struct MetricName {
  std::string_view name;
  Metric metric;
  double percentile = 0;
};

constexpr MetricName kMetrics[] = {
    {"latency", Metric::kLatency},    {"status", Metric::kStatus},
    {"body", Metric::kBody},          {"state", Metric::kState},
    {"exit", Metric::kExit},          {"stdout", Metric::kStdout},
    {"value", Metric::kNumber},       {"error_rate", Metric::kErrorRate},
    {"rate", Metric::kRate},          {"p50", Metric::kPercentile, 50},
    {"p90", Metric::kPercentile, 90}, {"p95", Metric::kPercentile, 95},
    {"p99", Metric::kPercentile, 99}, {"p999", Metric::kPercentile, 99.9},
    {"text", Metric::kStdout},        {"count", Metric::kNumber},
    {"lag", Metric::kNumber},         {"rss", Metric::kNumber},
    {"cpu", Metric::kNumber},         {"lines", Metric::kSum},
};

MetricName metric_named(std::string_view name) {
  for (const MetricName& known : kMetrics) {
    if (known.name == name) return known;
  }
  return {name, Metric::kUnknown};
}

bool is_windowed(Metric metric) {
  return metric == Metric::kErrorRate || metric == Metric::kRate || metric == Metric::kPercentile;
}

/// How many of something there were in the last `length`. What there was before the window began
/// anew counts for an expectation, and never against it.
class Sum {
 public:
  explicit Sum(Duration length) : length_(length) {}

  Duration length() const { return length_; }

  void begin() {
    fresh_ = 0;
    since_begun_ = 0;
  }

  void add(MonotonicTime at, double amount) {
    entries_.push_back({at, amount});
    ++fresh_;
    all_ += amount;
    since_begun_ += amount;
  }

  void advance(MonotonicTime now) {
    while (!entries_.empty() && entries_.front().at + length_ < now) {
      const double amount = entries_.front().amount;
      all_ -= amount;
      if (fresh_ == entries_.size()) {
        --fresh_;
        since_begun_ -= amount;
      }
      entries_.pop_front();
    }
  }

  /// Asks since it began.
  std::size_t size() const { return fresh_; }

  double since_begun() const { return since_begun_; }
  double all() const { return all_; }

 private:
  struct Entry {
    MonotonicTime at;
    double amount;  ///< A whole number, so that no rounding adds up.
  };

  Duration length_;
  std::deque<Entry> entries_;
  std::size_t fresh_ = 0;  ///< How many have come since it began.
  double since_begun_ = 0;
  double all_ = 0;
};

/// What a metric is at a moment: a number in base units (infinite: later than any bound, as nothing
/// was answered), or text.
struct Value {
  std::optional<double> number;
  std::optional<std::string> text;

  bool none() const { return !number && !text; }
};

struct Outcome {
  bool has_data = false;
  bool holds = false;
  Value value;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::string number_text(double number) { return fmt::format("{:.6g}", number); }

/// To three digits; what is not measured is told exactly, by format_bytes().
std::string size_text(double bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1023.5 && unit + 1 < kUnits.size(); ++unit) bytes /= 1024;
  return bytes < 1000 ? fmt::format("{:.3g}{}", bytes, kUnits.at(unit))
                      : fmt::format("{:.0f}{}", bytes, kUnits.at(unit));
}

std::string_view trimmed(std::string_view text) {
  const auto last = text.find_last_not_of(" \t\r\n");
  return last == std::string_view::npos ? std::string_view() : text.substr(0, last + 1);
}

/// Whether a number stands to an expectation's bounds as its operator says; `bound` gives each,
/// where it is known.
template <typename Bound>
bool compares(const v1::Expectation& wanted, double number, Bound bound) {
  if (wanted.op() == v1::IN) {
    for (int index = 0; index < wanted.values_size(); ++index) {
      if (bound(index) == number) return true;
    }
    return false;
  }
  const std::optional<double> first = bound(0);
  if (!first) return false;
  switch (wanted.op()) {
    case v1::LESS:
      return number < *first;
    case v1::LESS_OR_EQUAL:
      return number <= *first;
    case v1::GREATER:
      return number > *first;
    case v1::GREATER_OR_EQUAL:
      return number >= *first;
    case v1::EQUAL:
      return number == *first;
    case v1::NOT_EQUAL:
      return number != *first;
    case v1::BETWEEN: {
      const std::optional<double> second = bound(1);
      return second && number >= *first && number <= *second;
    }
    default:
      return false;
  }
}

/// 998 answers, p99 12ms, 2 failed
std::string in_words(const Tally& tally) {
  if (tally.answered.count() == 0) return "no answer yet";
  return fmt::format("{} answers, p99 {}, {} failed", tally.answered.count(),
                     format_measured(tally.answered.percentile(99)), tally.failed);
}

struct Rule {
  v1::Expectation wanted;
  Metric metric = Metric::kUnknown;
  double percentile = 0;
  Window* window = nullptr;  ///< Of a windowed metric.
  std::optional<Sum> sum;    ///< Of one that is counted.
  std::unique_ptr<RE2> pattern;
  std::vector<double> proving;  ///< What the metric was while the steady state was proven.
  std::optional<double> baseline;
  std::optional<MonotonicTime> false_since;
  std::optional<MonotonicTime> last_data;

  bool is_time() const {
    return metric == Metric::kLatency || metric == Metric::kPercentile || wanted.metric() == "lag";
  }

  bool needs_baseline() const {
    return std::ranges::any_of(wanted.values(),
                               [](const auto& value) { return value.times_baseline(); });
  }

  /// The bound a number is held against; text that reads as a number counts as one.
  std::optional<double> bound(int index) const {
    if (index >= wanted.values_size()) return std::nullopt;
    const v1::Quantity& quantity = wanted.values(index);
    if (quantity.value_case() == v1::Quantity::kText) {
      double number = 0;
      const char* end = quantity.text().data() + quantity.text().size();
      const auto [stop, failed] = std::from_chars(quantity.text().data(), end, number);
      if (failed != std::errc() || stop != end) return std::nullopt;
      return number;
    }
    if (quantity.times_baseline()) {
      return baseline ? std::optional(quantity.number() * *baseline) : std::nullopt;
    }
    return quantity.number();
  }

  bool accepts_number(double number) const {
    if (wanted.op() == v1::MATCHES)
      return pattern && RE2::PartialMatch(number_text(number), *pattern);
    return compares(wanted, number, [this](int index) { return bound(index); });
  }

  std::string text_of(const v1::Quantity& quantity) const {
    return quantity.value_case() == v1::Quantity::kText ? quantity.text()
                                                        : number_text(quantity.number());
  }

  bool accepts_text(const std::string& text) const {
    if (wanted.op() == v1::MATCHES) return pattern && RE2::PartialMatch(text, *pattern);
    const auto equals = [&](const v1::Quantity& quantity) {
      const std::string other = text_of(quantity);
      // A program's last line ends in a newline that nobody writes into a plan.
      return text == other || (metric == Metric::kStdout && trimmed(text) == trimmed(other));
    };
    switch (wanted.op()) {
      case v1::EQUAL:
      case v1::IN:
        return std::ranges::any_of(wanted.values(), equals);
      case v1::NOT_EQUAL:
        return std::ranges::none_of(wanted.values(), equals);
      case v1::CONTAINS:
        return wanted.values_size() > 0 &&
               text.find(text_of(wanted.values(0))) != std::string::npos;
      default:
        return false;
    }
  }

  std::string words(const Value& value, const std::string& last_error) const {
    const std::string& name = wanted.metric();
    if (value.text) {
      constexpr std::size_t kShown = 60;
      const std::string_view text = trimmed(*value.text);
      const std::string shown = escape_controls(text.substr(0, kShown));
      if (metric == Metric::kState) return name + " " + shown;
      return name + " \"" + shown + (text.size() > kShown ? "...\"" : "\"");
    }
    if (!value.number) return "no data";
    const double number = *value.number;
    if (!std::isfinite(number)) return name + " unanswered (" + last_error + ")";
    std::string words = name + " ";
    if (is_time()) {
      words += format_measured(Duration(static_cast<std::int64_t>(number)));
    } else if (metric == Metric::kErrorRate || name == "cpu") {
      words += fmt::format("{:.3g}%", number);
    } else if (name == "rss") {
      words += size_text(number);
    } else if (metric == Metric::kRate) {
      words += fmt::format("{:.3g}/s", number);
    } else {
      words += number_text(number);
    }
    if (needs_baseline() && baseline) {
      words += " (baseline ";
      words += is_time() ? format_measured(Duration(static_cast<std::int64_t>(*baseline)))
                         : number_text(*baseline);
      words += ")";
    }
    return words;
  }
};

}  // namespace

struct Judge::State {
  explicit State(const v1::Check& check)
      : every(check.has_every() ? Duration(check.every()) : std::chrono::seconds(1)),
        silence(std::max(2 * std::max(every, Duration(check.timeout())), kShortestSilence)),
        no_data_breaches(check.no_data() == v1::BREACH) {
    for (const v1::Expectation& wanted : check.expect()) {
      Rule rule;
      rule.wanted = wanted;
      const MetricName metric = metric_named(wanted.metric());
      rule.metric = metric.metric;
      rule.percentile = metric.percentile;
      if (is_windowed(rule.metric)) {
        const Duration over = wanted.has_over() ? Duration(wanted.over()) : kDefaultWindow;
        rule.window = &windows.try_emplace(over, over).first->second;
      }
      if (rule.metric == Metric::kSum) {
        rule.sum.emplace(wanted.has_over() ? Duration(wanted.over()) : kDefaultWindow);
      }
      if (wanted.op() == v1::MATCHES && wanted.values_size() > 0) {
        rule.pattern = std::make_unique<RE2>(wanted.values(0).text(), RE2::Quiet);
      }
      rules.push_back(std::move(rule));
    }
  }

  Duration every;
  Duration silence;  ///< This long without data is a breach.
  bool no_data_breaches;
  std::vector<Rule> rules;
  std::map<Duration, Window> windows;  ///< One for all expectations over the same time.
  std::optional<Sample> latest;        ///< Since the last restart.
  std::string last_error;
  bool watching = false;

  static Value windowed(const Rule& rule, MonotonicTime now) {
    const Window& window = *rule.window;
    if (rule.metric == Metric::kPercentile) {
      if (window.size() + window.waiting() == 0) return {};
      return {.number = window.percentile(rule.percentile), .text = {}};
    }
    if (window.size() == 0) return {};
    return {.number = rule.metric == Metric::kRate ? window.rate(now) : window.error_rate(),
            .text = {}};
  }

  Value value_of(const Rule& rule, MonotonicTime now) const {
    if (!latest) return {};
    const bool answered = latest->error.empty();
    const auto as_number = [](const auto& whole) {
      return whole ? Value{.number = static_cast<double>(*whole), .text = {}} : Value{};
    };
    switch (rule.metric) {
      case Metric::kLatency:
        return {.number = answered ? static_cast<double>(latest->latency.count()) : kUnanswered,
                .text = {}};
      case Metric::kStatus:
        return as_number(latest->status);
      case Metric::kExit:
        return as_number(latest->exit);
      case Metric::kState:
        return {.number = {},
                .text = latest->state.empty() ? std::nullopt : std::optional(latest->state)};
      case Metric::kBody:
      case Metric::kStdout: {
        const bool known = answered && (latest->no_data.empty() || !latest->output.empty());
        return {.number = {}, .text = known ? std::optional(latest->output) : std::nullopt};
      }
      case Metric::kNumber: {
        const auto found = latest->numbers.find(rule.wanted.metric());
        const bool known = answered && found != latest->numbers.end();
        return {.number = known ? std::optional(found->second) : std::nullopt, .text = {}};
      }
      case Metric::kSum: {
        if (!answered || rule.sum->size() == 0) return {};
        const double since = rule.sum->since_begun();
        return {.number = rule.accepts_number(since) ? since : rule.sum->all(), .text = {}};
      }
      case Metric::kErrorRate:
      case Metric::kRate:
      case Metric::kPercentile:
        return windowed(rule, now);
      case Metric::kUnknown:
        break;
    }
    return {};
  }

  void advance(MonotonicTime now) {
    for (auto& [over, window] : windows) window.advance(now);
    for (Rule& rule : rules) {
      if (rule.sum) rule.sum->advance(now);
    }
  }

  /// With the windows at `now`. An ask that got no answer is data that holds nothing; an answer
  /// without the metric is no data.
  Outcome judge(const Rule& rule, MonotonicTime now) const {
    Outcome outcome;
    outcome.value = value_of(rule, now);
    const bool unanswered = latest && !latest->error.empty();
    outcome.has_data = !outcome.value.none() || (unanswered && !rule.window);
    if (!outcome.has_data) {
      outcome.holds = !no_data_breaches && latest;
    } else if (outcome.value.none()) {
      outcome.holds = false;
    } else if (rule.needs_baseline() && !rule.baseline && !watching) {
      // What it will be measured by is being measured; a service that is down gives no measure.
      outcome.holds = outcome.value.number && std::isfinite(*outcome.value.number);
    } else {
      outcome.holds = outcome.value.number ? rule.accepts_number(*outcome.value.number)
                                           : rule.accepts_text(*outcome.value.text);
    }
    return outcome;
  }

  std::string words(const Rule& rule, const Outcome& outcome) const {
    if (!outcome.has_data && latest && !latest->no_data.empty()) {
      return "no data (" + latest->no_data + ")";
    }
    if (outcome.has_data && outcome.value.none()) return "no answer (" + latest->error + ")";
    return rule.words(outcome.value, last_error);
  }

  /// Notes since when each expectation has been false.
  void note(MonotonicTime now) {
    advance(now);
    for (Rule& rule : rules) {
      const Outcome outcome = judge(rule, now);
      if (!rule.last_data) rule.last_data = now;
      if (!outcome.has_data) continue;
      if (outcome.holds) {
        rule.false_since.reset();
      } else if (!rule.false_since) {
        rule.false_since = now;
      }
    }
  }

  void begin(MonotonicTime now) {
    for (auto& [over, window] : windows) window.begin(now);
    for (Rule& rule : rules) {
      if (rule.sum) rule.sum->begin();
      rule.false_since.reset();
      rule.last_data = now;
    }
    latest.reset();
  }
};

bool accepts(const v1::Expectation& wanted, double number) {
  return compares(wanted, number, [&](int index) {
    return index < wanted.values_size() ? std::optional(wanted.values(index).number())
                                        : std::nullopt;
  });
}

Judge::Judge(const v1::Check& check) : state_(std::make_unique<State>(check)) {}
Judge::~Judge() = default;

void Judge::add(const Sample& sample) {
  State& state = *state_;
  const MonotonicTime now = arrival(sample);
  state.latest = sample;
  if (!sample.error.empty()) state.last_error = sample.error;
  if (sample.tally && !sample.tally->error.empty()) state.last_error = sample.tally->error;
  for (auto& [over, window] : state.windows) {
    if (sample.tally) {
      window.add(*sample.tally);
    } else {
      window.add(sample);
    }
  }
  for (Rule& rule : state.rules) {
    const auto counted = sample.numbers.find(rule.wanted.metric());
    if (rule.sum && counted != sample.numbers.end()) rule.sum->add(now, counted->second);
  }
  state.note(now);
  for (Rule& rule : state.rules) {
    const Outcome outcome = state.judge(rule, now);
    if (outcome.has_data) rule.last_data = now;
    const auto number = outcome.value.number;
    if (!state.watching && rule.needs_baseline() && number && std::isfinite(*number)) {
      rule.proving.push_back(*number);
    }
  }
}

bool Judge::holds(MonotonicTime now) const {
  state_->advance(now);
  return std::ranges::all_of(state_->rules,
                             [&](const Rule& rule) { return state_->judge(rule, now).holds; });
}

std::optional<Breach> Judge::breached(MonotonicTime now) {
  State& state = *state_;
  state.note(now);
  for (const Rule& rule : state.rules) {
    const Duration silent = now - *rule.last_data;
    if (silent > state.silence && state.no_data_breaches) {
      std::string observed = "no data for " + format_measured(silent);
      if (state.latest && !state.latest->no_data.empty()) {
        observed += " (" + state.latest->no_data + ")";
      }
      return Breach{rule.wanted.text(), std::move(observed), silent};
    }
    if (!rule.false_since) continue;
    const Duration since = now - *rule.false_since;
    if (since < Duration(rule.wanted.for_())) continue;
    return Breach{rule.wanted.text(), state.words(rule, state.judge(rule, now)), since};
  }
  return std::nullopt;
}

std::vector<Finding> Judge::findings(MonotonicTime now) const {
  state_->advance(now);
  std::vector<Finding> all;
  for (const Rule& rule : state_->rules) {
    const Outcome outcome = state_->judge(rule, now);
    Finding finding{state_->words(rule, outcome), outcome.holds, std::nullopt};
    const auto number = outcome.value.number;
    if (number && std::isfinite(*number)) finding.number = rule.is_time() ? *number / 1e6 : *number;
    all.push_back(std::move(finding));
  }
  return all;
}

bool Judge::ready(MonotonicTime now) const {
  state_->advance(now);
  if (!state_->latest) return false;
  return std::ranges::all_of(state_->rules, [&](const Rule& rule) {
    if (rule.needs_baseline() && !rule.baseline && rule.proving.empty()) return false;
    if (!rule.window && !rule.sum) return true;
    const Duration length = rule.window ? rule.window->length() : rule.sum->length();
    const std::size_t size = rule.window ? rule.window->size() : rule.sum->size();
    // A window shorter than three intervals never holds three samples.
    const auto fits = static_cast<std::size_t>(length / state_->every);
    return size >= std::clamp<std::size_t>(fits, 1, kWindowNeeds);
  });
}

Duration Judge::longest_count() const {
  Duration longest{};
  for (const Rule& rule : state_->rules) {
    if (rule.sum) longest = std::max(longest, rule.sum->length());
  }
  return longest;
}

void Judge::start_watching(MonotonicTime now) {
  for (Rule& rule : state_->rules) {
    if (!rule.proving.empty()) rule.baseline = median(std::move(rule.proving));
    rule.proving.clear();
  }
  state_->watching = true;
  state_->begin(now);
}

void Judge::restart(MonotonicTime now) { state_->begin(now); }

std::string Judge::observed() const {
  if (!state_->latest) return "no answer yet";
  const Sample& sample = *state_->latest;
  if (!sample.error.empty()) return sample.error;
  if (sample.tally) return in_words(*sample.tally);
  const std::string latency = format_measured(sample.latency);
  if (!sample.no_data.empty()) return "no data (" + sample.no_data + ")";
  if (sample.status) return fmt::format("{} in {}", *sample.status, latency);
  if (sample.exit) return fmt::format("exit {} in {}", *sample.exit, latency);
  return fmt::format("{} in {}", sample.state.empty() ? "answered" : sample.state, latency);
}

}  // namespace squall::checks
