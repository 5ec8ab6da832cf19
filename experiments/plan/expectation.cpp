#include "experiments/plan/expectation.h"

#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"

namespace squall::plan {
namespace {

enum class Measure { kNumber, kText };

/// What a metric is, whatever kind of check has it.
struct Metric {
  std::string_view name;
  Measure measure;
  v1::Unit unit;
  bool windowed;  ///< Taken over a window of many answers, not from one.
  std::string_view example;
};

constexpr std::array<Metric, 22> kMetrics = {{
    {"status", Measure::kNumber, v1::UNIT_NONE, false, "status == 200"},
    {"latency", Measure::kNumber, v1::DURATION, false, "latency < 300ms"},
    {"body", Measure::kText, v1::UNIT_NONE, false, "body contains ok"},
    {"error_rate", Measure::kNumber, v1::PERCENT, true, "error_rate < 1% over 10s"},
    {"rate", Measure::kNumber, v1::UNIT_NONE, true, "rate > 5 over 10s"},
    {"p50", Measure::kNumber, v1::DURATION, true, "p50 < 300ms over 10s"},
    {"p90", Measure::kNumber, v1::DURATION, true, "p90 < 300ms over 10s"},
    {"p95", Measure::kNumber, v1::DURATION, true, "p95 < 300ms over 10s"},
    {"p99", Measure::kNumber, v1::DURATION, true, "p99 < 300ms over 10s"},
    {"p999", Measure::kNumber, v1::DURATION, true, "p999 < 300ms over 10s"},
    {"state", Measure::kText, v1::UNIT_NONE, false, "state == open"},
    {"exit", Measure::kNumber, v1::UNIT_NONE, false, "exit == 0"},
    {"stdout", Measure::kText, v1::UNIT_NONE, false, "stdout contains ready"},
    {"text", Measure::kText, v1::UNIT_NONE, false, "text == ready"},
    {"count", Measure::kNumber, v1::UNIT_NONE, false, "count >= 4"},
    {"lines", Measure::kNumber, v1::UNIT_NONE, true, "lines == 0 over 10s"},
    {"lag", Measure::kNumber, v1::DURATION, false, "lag < 1s"},
    {"rss", Measure::kNumber, v1::BYTES, false, "rss < 512MiB"},
    {"cpu", Measure::kNumber, v1::PERCENT, false, "cpu < 80%"},
    {"time_to_detect", Measure::kNumber, v1::DURATION, false, "time_to_detect < 5s"},
    {"time_to_abort", Measure::kNumber, v1::DURATION, false, "time_to_abort < 1s"},
    {"time_to_recover", Measure::kNumber, v1::DURATION, false, "time_to_recover < 20s"},
}};
constexpr Metric kValue = {"value", Measure::kNumber, v1::UNIT_NONE, false, "value < 100"};

const Metric* metric_named(std::string_view name) {
  if (name == kValue.name) return &kValue;
  const auto* found = std::find_if(kMetrics.begin(), kMetrics.end(),
                                   [&](const Metric& metric) { return metric.name == name; });
  return found == kMetrics.end() ? nullptr : found;
}

struct Operation {
  std::string_view spelling;
  v1::Operator op;
};
constexpr std::array<Operation, 10> kOperations = {{{"<=", v1::LESS_OR_EQUAL},
                                                    {">=", v1::GREATER_OR_EQUAL},
                                                    {"==", v1::EQUAL},
                                                    {"!=", v1::NOT_EQUAL},
                                                    {"<", v1::LESS},
                                                    {">", v1::GREATER},
                                                    {"between", v1::BETWEEN},
                                                    {"in", v1::IN},
                                                    {"matches", v1::MATCHES},
                                                    {"contains", v1::CONTAINS}}};

/// How other languages write ours.
struct Foreign {
  std::string_view theirs;
  std::string_view ours;
};
constexpr std::array<Foreign, 8> kForeign = {{{"=", "=="},
                                              {"===", "=="},
                                              {"is", "=="},
                                              {"<>", "!="},
                                              {"=<", "<="},
                                              {"=>", ">="},
                                              {"=~", "matches"},
                                              {"~", "matches"}}};

std::string operator_near(std::string_view word) {
  std::string near;
  for (const Foreign& known : kForeign) {
    if (known.theirs == word) near = known.ours;
  }
  if (near.empty()) near = nearest(word, {"between", "in", "matches", "contains"});
  if (!near.empty()) return fmt::format("did you mean {}?", near);
  return "it may be <, <=, >, >=, ==, !=, between, in, matches or contains";
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

const char* noun_of(const Metric& metric) {
  if (metric.measure == Measure::kText) return "a text";
  if (metric.unit == v1::DURATION) return "a duration";
  if (metric.unit == v1::PERCENT) return "a percentage";
  if (metric.unit == v1::BYTES) return "a size";
  return "a number";
}

/// Reads from left to right; the first problem ends it.
class Reader {
 public:
  Reader(std::string_view text, v1::Expectation& expectation) : text_(text), out_(expectation) {}

  std::optional<ProblemAt> read() {
    out_.set_text(std::string(text_));
    skip();
    const std::size_t begin = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_]))) ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    if (name.empty()) {
      return wrong(begin, 1, "an expectation begins with a metric",
                   "write it as status == 200 or p99 < 300ms over 10s");
    }
    metric_ = metric_named(name);
    if (metric_ == nullptr) {
      const std::string near = nearest(name, metric_words());
      return wrong(begin, name.size(), fmt::format("unknown metric \"{}\"", name),
                   near.empty() ? "write it as status == 200 or p99 < 300ms over 10s"
                                : fmt::format("did you mean \"{}\"?", near));
    }
    out_.set_metric(std::string(name));
    if (auto problem = operation()) return problem;
    if (auto problem = metric_->measure == Measure::kText ? texts() : numbers()) return problem;
    return ending();
  }

 private:
  static ProblemAt wrong(std::size_t offset, std::size_t length, std::string summary,
                         std::string hint) {
    return {offset, std::max<std::size_t>(length, 1), {std::move(summary), std::move(hint)}};
  }

  void skip() {
    while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
  }

  /// The next word up to a blank, without moving there.
  std::string_view word() const {
    std::size_t end = at_;
    while (end < text_.size() && !is_blank(text_[end])) ++end;
    return text_.substr(at_, end - at_);
  }

  bool take(std::string_view wanted) {
    if (word() != wanted) return false;
    at_ += wanted.size();
    skip();
    return true;
  }

  std::optional<ProblemAt> operation() {
    skip();
    std::size_t length = 0;
    const auto sign_end = std::min(text_.find_first_not_of("<>=!~", at_), text_.size());
    const std::string_view sign = text_.substr(at_, sign_end - at_);
    const std::string_view found = sign.empty() ? word() : sign;
    for (const Operation& known : kOperations) {
      if (known.spelling != found) continue;
      out_.set_op(known.op);
      length = found.size();
    }
    if (length == 0) {
      if (found.empty()) {
        return wrong(text_.size(), 1, "an operator is missing",
                     fmt::format("write it as {}", metric_->example));
      }
      return wrong(at_, found.size(), fmt::format("unknown operator \"{}\"", found),
                   operator_near(found));
    }
    const bool for_texts = out_.op() == v1::MATCHES || out_.op() == v1::CONTAINS;
    const bool for_both =
        out_.op() == v1::EQUAL || out_.op() == v1::NOT_EQUAL || out_.op() == v1::IN;
    if (!for_both && for_texts != (metric_->measure == Measure::kText)) {
      return wrong(at_, length,
                   fmt::format("{} is {}, which \"{}\" does not compare", metric_->name,
                               noun_of(*metric_), text_.substr(at_, length)),
                   fmt::format("write it as {}", metric_->example));
    }
    at_ += length;
    skip();
    if (at_ == text_.size()) {
      return wrong(text_.size(), 1, fmt::format("{} to compare with is missing", noun_of(*metric_)),
                   fmt::format("write it as {}", metric_->example));
    }
    return std::nullopt;
  }

  std::optional<ProblemAt> numbers() {
    if (out_.op() == v1::IN) {
      return list(
          [this](std::size_t offset, std::string_view item) { return number(offset, item); });
    }
    if (auto problem = quantity()) return problem;
    if (out_.op() != v1::BETWEEN) return std::nullopt;
    if (!take("and")) {
      return wrong(at_, word().size(), "between needs two quantities", "write between A and B");
    }
    const std::size_t second = at_;
    if (auto problem = quantity()) return problem;
    const v1::Quantity& low = out_.values(0);
    const v1::Quantity& high = out_.values(1);
    if (low.times_baseline() == high.times_baseline() && low.number() > high.number()) {
      return wrong(second, at_ - second, "between has its larger quantity first",
                   "write the smaller one first");
    }
    return std::nullopt;
  }

  /// One quantity: 300ms, 1%, 200, 1.5 x baseline.
  std::optional<ProblemAt> quantity() {
    const std::size_t begin = at_;
    std::string_view first = word();
    at_ += first.size();
    skip();
    const bool attached = first.size() > 1 && first.back() == 'x' && word() == "baseline";
    if (attached || (word() == "x" && first != "x")) {
      if (!attached) take("x");
      if (!take("baseline")) {
        return wrong(at_, word().size(), "only the baseline can be multiplied",
                     "write 1.5 x baseline");
      }
      if (attached) first.remove_suffix(1);
      double factor = 0;
      if (!decimal(first, factor) || factor <= 0) {
        return wrong(begin, first.size(), fmt::format("\"{}\" is not a factor", first),
                     "write 1.5 x baseline");
      }
      v1::Quantity& value = *out_.add_values();
      value.set_number(factor);
      value.set_unit(metric_->unit);
      value.set_times_baseline(true);
      return std::nullopt;
    }
    if (first == "baseline") {
      return wrong(begin, first.size(), "how many times the baseline?", "write 1.5 x baseline");
    }
    if (metric_->unit == v1::UNIT_NONE) return number(begin, first);
    return number(begin, with_unit(begin, first));
  }

  /// A number's text, which the reading has just passed, with its unit if that follows behind a
  /// blank.
  std::string_view with_unit(std::size_t begin, std::string_view number) {
    double ignored = 0;
    const std::string_view next = word();
    const bool is_unit = !next.empty() && (is_letter(next[0]) || next[0] == '%') &&
                         next != "over" && next != "for" && next != "and";
    if (!decimal(number, ignored) || !is_unit) return number;
    const std::size_t end = at_ + next.size();
    at_ = end;
    skip();
    return text_.substr(begin, end - begin);
  }

  /// A decimal number, whole of the text, finite, maybe negative; no exponent.
  static bool decimal(std::string_view text, double& value) {
    const std::string_view digits = text.starts_with('-') ? text.substr(1) : text;
    if (digits.empty() || !is_digit(digits.front()) || !is_digit(digits.back())) return false;
    if (digits.size() > 1 && digits[0] == '0' && digits[1] != '.') return false;
    const auto [end, code] =
        std::from_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed);
    return code == std::errc() && end == text.data() + text.size() && std::isfinite(value);
  }

  std::optional<ProblemAt> number(std::size_t offset, std::string_view text) {
    v1::Quantity value;
    if (metric_->unit == v1::UNIT_NONE) {
      // 5/s is what a rate is anyway.
      std::string_view digits = text;
      if (metric_->name == "rate" && digits.ends_with("/s")) digits.remove_suffix(2);
      double plain = 0;
      if (!decimal(digits, plain)) {
        return wrong(offset, text.size(),
                     fmt::format("{} is a number; \"{}\" is not", metric_->name, text),
                     fmt::format("write it as {}", metric_->example));
      }
      value.set_number(plain);
    } else {
      const auto read = parse_number(text, metric_->unit);
      if (!read.ok()) {
        const Problem told = problem_of(read.status());
        return wrong(offset, text.size(), told.summary,
                     fmt::format("{} is {}; {}", metric_->name, noun_of(*metric_), told.hint));
      }
      value.set_number(*read);
      value.set_unit(metric_->unit);
    }
    *out_.add_values() = std::move(value);
    return std::nullopt;
  }

  /// [a, b, c]: each handed on with its place.
  template <typename Item>
  std::optional<ProblemAt> list(Item item) {
    const std::size_t begin = at_;
    const auto end = text_.find(']', at_);
    if (text_[at_] != '[' || end == std::string_view::npos) {
      return wrong(begin, text_.size() - begin, "in needs a list", "write in [200, 204]");
    }
    ++at_;
    while (true) {
      skip();
      const std::size_t item_begin = at_;
      while (at_ < end && text_[at_] != ',') ++at_;
      std::size_t item_end = at_;
      while (item_end > item_begin && is_blank(text_[item_end - 1])) --item_end;
      if (item_end == item_begin) {
        return wrong(item_begin, 1, "the list has an empty place", "write in [200, 204]");
      }
      if (auto problem = item(item_begin, text_.substr(item_begin, item_end - item_begin))) {
        return problem;
      }
      if (at_ >= end) break;
      ++at_;
    }
    at_ = end + 1;
    skip();
    return std::nullopt;
  }

  std::optional<ProblemAt> texts() {
    if (out_.op() == v1::IN) {
      return list([this](std::size_t offset, std::string_view item) {
        return text_value(offset, unquoted(item));
      });
    }
    const std::size_t begin = at_;
    if (text_[at_] == '"' || text_[at_] == '\'') {
      const auto end = text_.find(text_[at_], at_ + 1);
      if (end != std::string_view::npos) {
        at_ = end + 1;
        skip();
        return text_value(begin, text_.substr(begin + 1, end - begin - 1));
      }
    }
    // All the rest, but for a window and a patience at its end.
    std::string_view value = text_.substr(begin);
    for (const std::string_view word : {" for ", " over "}) {
      const auto from = value.rfind(word);
      if (from == std::string_view::npos || from == 0) continue;
      if (parse_duration(value.substr(from + word.size())).ok()) value = value.substr(0, from);
    }
    at_ = begin + value.size();
    while (!value.empty() && is_blank(value.back())) value.remove_suffix(1);
    skip();
    return text_value(begin, value);
  }

  static std::string_view unquoted(std::string_view text) {
    const bool quoted = text.size() >= 2 && (text.front() == '"' || text.front() == '\'') &&
                        text.front() == text.back();
    return quoted ? text.substr(1, text.size() - 2) : text;
  }

  std::optional<ProblemAt> text_value(std::size_t offset, std::string_view text) {
    if (out_.op() == v1::MATCHES) {
      constexpr std::int64_t kMostMemory = 1 << 20;
      RE2::Options options(RE2::Quiet);
      options.set_max_mem(kMostMemory);
      const RE2 pattern(re2::StringPiece(text.data(), text.size()), options);
      if (!pattern.ok()) {
        return wrong(offset, text.size(), fmt::format("not a pattern: {}", pattern.error()),
                     "patterns have RE2's syntax");
      }
    }
    v1::Quantity& value = *out_.add_values();
    value.set_text(std::string(text));
    return std::nullopt;
  }

  std::optional<ProblemAt> ending() {
    skip();
    bool has_over = false;
    bool has_for = false;
    while (at_ < text_.size()) {
      const std::size_t begin = at_;
      const std::string_view found = word();
      const bool over = found == "over";
      if (!over && found != "for") {
        const std::string near = nearest(found, {"over", "for"});
        return wrong(begin, text_.size() - begin,
                     fmt::format("\"{}\" cannot follow here", text_.substr(begin)),
                     near.empty() ? "only `over 10s` and `for 2s` may follow"
                                  : fmt::format("did you mean \"{}\"?", near));
      }
      if (over ? has_over : has_for) {
        return wrong(begin, found.size(), fmt::format("`{}` is given twice", found), "");
      }
      if (over && has_for) {
        return wrong(begin, found.size(), "`over` stands behind `for`", "write over 10s for 2s");
      }
      at_ += found.size();
      skip();
      const std::size_t value_at = at_;
      std::string_view value = word();
      at_ += value.size();
      skip();
      value = with_unit(value_at, value);
      const auto duration = parse_duration(value);
      if (!duration.ok()) {
        const Problem told = problem_of(duration.status());
        return wrong(value_at, value.size(), told.summary, told.hint);
      }
      constexpr Duration kLongest = std::chrono::hours(1);
      if (*duration > kLongest || (over && *duration <= Duration::zero())) {
        return wrong(value_at, value.size(), fmt::format("`{} {}` is out of bounds", found, value),
                     over ? "write more than 0s, up to 1h" : "write up to 1h");
      }
      if (over && !metric_->windowed) {
        return wrong(begin, value_at + value.size() - begin,
                     fmt::format("{} is of one answer and has no window", metric_->name),
                     fmt::format("leave it out; `for {}` says how long it must be false", value));
      }
      (over ? has_over : has_for) = true;
      if (over) {
        out_.set_over(duration->count());
      } else {
        out_.set_for_(duration->count());
      }
    }
    return std::nullopt;
  }

  std::string_view text_;
  v1::Expectation& out_;
  const Metric* metric_ = nullptr;
  std::size_t at_ = 0;
};

}  // namespace

std::optional<ProblemAt> read_expectation(std::string_view text, v1::Expectation& expectation) {
  return Reader(text, expectation).read();
}

std::vector<std::string> metric_words() {
  std::vector<std::string> names;
  for (const Metric& metric : kMetrics) names.emplace_back(metric.name);
  names.emplace_back(kValue.name);
  return names;
}

std::vector<std::string> operator_words() {
  std::vector<std::string> words;
  for (const Operation& operation : kOperations) words.emplace_back(operation.spelling);
  return words;
}

Grammar expectation_grammar() {
  Grammar grammar;
  grammar.help = "what must hold, as a check's answers show it; a list of them is a conjunction";
  grammar.form = "metric op quantity [over WINDOW] [for DURATION]";
  grammar.parts = {
      {"metric", "what is looked at; each check kind has its own, below"},
      {"op", "< <= > >= == !=, between A and B, in [A, B], matches REGEX, contains TEXT"},
      {"quantity",
       "a number with its unit, a text, or N x baseline: N times the metric's median while the "
       "steady state was proven"},
      {"over", "the window that a rate or a percentile is taken over (default 10s)"},
      {"for", "how long it must have been false on end before it is a breach (default: at once)"}};
  for (const Metric& metric : kMetrics) {
    if (metric.name.starts_with('p') && metric.name != "p99") continue;
    grammar.examples.emplace_back(metric.example);
  }
  grammar.examples.emplace_back("p99 < 1.5 x baseline over 10s for 2s");
  return grammar;
}

std::optional<ProblemAt> misfit(const v1::Expectation& expectation, std::string_view called,
                                const Descriptor& measured, std::optional<Duration> every) {
  const Metric* metric = metric_named(expectation.metric());
  if (metric == nullptr) return std::nullopt;
  const v1::MessageRules& rules = rules_of(measured);
  const std::string& text = expectation.text();
  const std::vector<std::string> metrics(rules.metrics().begin(), rules.metrics().end());
  if (std::find(metrics.begin(), metrics.end(), expectation.metric()) == metrics.end()) {
    return ProblemAt{text.find(expectation.metric()),
                     expectation.metric().size(),
                     {fmt::format("{} has no metric \"{}\"", called, expectation.metric()),
                      fmt::format("it may be {}", one_of(metrics))}};
  }
  const bool whole = expectation.op() == v1::EQUAL || expectation.op() == v1::NOT_EQUAL ||
                     expectation.op() == v1::IN;
  if (expectation.metric() == "state" && whole) {
    const std::vector<std::string> states(rules.states().begin(), rules.states().end());
    for (const v1::Quantity& value : expectation.values()) {
      if (std::find(states.begin(), states.end(), value.text()) != states.end()) continue;
      const std::string near = nearest(value.text(), states);
      return ProblemAt{text.rfind(value.text()),
                       value.text().size(),
                       {fmt::format("{} has no state \"{}\"", called, value.text()),
                        near.empty() ? fmt::format("it may be {}", one_of(states))
                                     : fmt::format("did you mean \"{}\"?", near)}};
    }
  }
  if (expectation.has_over() && every && Duration(expectation.over()) < *every) {
    const std::string between = format_duration(*every);
    const auto over = text.rfind(" over ");
    return ProblemAt{over == std::string::npos ? 0 : over + 1,
                     4,
                     {fmt::format("a window of {} is shorter than the {} between two asks",
                                  format_duration(Duration(expectation.over())), between),
                      fmt::format("write over {} or more", between)}};
  }
  return std::nullopt;
}

}  // namespace squall::plan
