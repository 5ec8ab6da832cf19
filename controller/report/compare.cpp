#include "controller/report/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>

#include "controller/report/json.h"
#include "controller/report/text.h"

namespace squall::report {
namespace {

using Judgement = Figure::Judgement;
using Unit = Figure::Unit;

/// A share of failures is compared in points, of which this many are nothing.
constexpr double kFloorPoints = 0.5;

/// The higher, the graver.
int gravity(const Story& story) {
  if (!story.ended) return 8;
  switch (story.ended->verdict()) {
    case v1::HELD:
      return 0;
    case v1::BREACHED:
      return 1;
    case v1::NOT_STEADY:
      return 2;
    case v1::REFUSED:
      return 3;
    case v1::NOT_INJECTED:
      return 4;
    case v1::INTERRUPTED:
      return 5;
    case v1::RESIDUE:
      return 6;
    default:
      return 7;
  }
}

enum class Better { kLess, kMore };

class Comparing {
 public:
  Comparing(const Story& before, const Story& after, const Tolerance& tolerance)
      : before_(before), after_(after) {
    told_.tolerance = tolerance;
  }

  Comparison all() {
    told_.run_before = before_.run.run();
    told_.run_after = after_.run.run();
    told_.verdict_before = before_.verdict();
    told_.verdict_after = after_.verdict();
    if (before_.run.plan() != after_.run.plan() && !told_.tolerance.force) {
      told_.not_comparable = fmt::format("they are runs of different plans: \"{}\" and \"{}\"",
                                         before_.run.plan(), after_.run.plan());
      return std::move(told_);
    }
    const int was = gravity(before_);
    const int is = gravity(after_);
    told_.verdict = was == is  ? Judgement::kSame
                    : is < was ? Judgement::kBetter
                               : Judgement::kWorse;
    times();
    checks();
    loads();
    faults();
    return std::move(told_);
  }

 private:
  struct Measured {
    std::optional<double> value;
    std::uint64_t samples = 1;
  };

  void add(std::string what, Unit unit, const Measured& before, const Measured& after,
           Better better, double floor, std::uint64_t fewest = 1) {
    if (!before.value && !after.value) return;
    Figure figure{std::move(what), unit,          before.value,         after.value,
                  before.samples,  after.samples, Judgement::kNotJudged};
    if (before.value && after.value) {
      const double worse =
          better == Better::kLess ? *after.value - *before.value : *before.value - *after.value;
      const double allowed =
          std::max(floor, std::abs(*before.value) * told_.tolerance.percent / 100);
      figure.judgement = std::min(before.samples, after.samples) < fewest ? Judgement::kTooFew
                         : worse > allowed                                ? Judgement::kWorse
                         : -worse > allowed                               ? Judgement::kBetter
                                                                          : Judgement::kSame;
    }
    told_.figures.push_back(std::move(figure));
  }

  /// A check notices what happens when it asks next.
  double coarseness_ms() const {
    double most = told_.tolerance.floor_ms;
    for (const Story* const story : {&before_, &after_}) {
      for (const CheckStory& check : story->checks) most = std::max(most, check.every_ms);
    }
    return most;
  }

  void times() {
    const v1::RunTimes was = before_.times();
    const v1::RunTimes is = after_.times();
    const auto maybe = [](bool is_known, double ms) {
      return Measured{is_known ? std::optional(ms) : std::nullopt, 1};
    };
    add("time to detect", Unit::kMs, maybe(was.has_to_detect_ms(), was.to_detect_ms()),
        maybe(is.has_to_detect_ms(), is.to_detect_ms()), Better::kLess, coarseness_ms());
    add("time to abort", Unit::kMs, maybe(was.has_to_abort_ms(), was.to_abort_ms()),
        maybe(is.has_to_abort_ms(), is.to_abort_ms()), Better::kLess, told_.tolerance.floor_ms);
    add("time to recover", Unit::kMs, maybe(was.has_to_recover_ms(), was.to_recover_ms()),
        maybe(is.has_to_recover_ms(), is.to_recover_ms()), Better::kLess, coarseness_ms());
  }

  void checks() {
    for (const CheckStory& was : before_.checks) {
      const auto found = std::ranges::find_if(
          after_.checks, [&](const CheckStory& one) { return one.name == was.name; });
      if (found == after_.checks.end()) {
        told_.only_in_one.push_back(was.name + " is in the first run only");
        continue;
      }
      check(was, *found);
    }
    for (const CheckStory& is : after_.checks) {
      const bool known = std::ranges::any_of(
          before_.checks, [&](const CheckStory& one) { return one.name == is.name; });
      if (!known) told_.only_in_one.push_back(is.name + " is in the second run only");
    }
  }

  void check(const CheckStory& was, const CheckStory& is) {
    const std::string name = was.name + ": ";
    const double floor_ms = told_.tolerance.floor_ms;
    // A load tells its own latencies.
    for (const auto& [percent, fewest] : {std::pair{50, 5}, std::pair{99, 100}}) {
      if (was.is_load) break;
      add(fmt::format("{}p{}", name, percent), Unit::kMs,
          {was.latency_percentile_ms(percent), was.latencies_ms.count()},
          {is.latency_percentile_ms(percent), is.latencies_ms.count()}, Better::kLess, floor_ms,
          static_cast<std::uint64_t>(fewest));
    }
    if (!was.is_load)
      failures(name + "unanswered", was.asked - was.answered, was.asked, is.asked - is.answered,
               is.asked);
    for (const ExpectationStory& one : was.expect) {
      const auto same = std::ranges::find(is.expect, one.text, &ExpectationStory::text);
      const bool ordered = one.op.starts_with('<') || one.op.starts_with('>');
      if (same == is.expect.end() || !ordered) continue;
      const bool is_time = one.is_time();
      const bool is_share = one.metric == "error_rate";
      add(fmt::format("{}worst of {}", name, one.text),
          is_time    ? Unit::kMs
          : is_share ? Unit::kPercent
                     : Unit::kPlain,
          {one.worst_number, was.asked}, {same->worst_number, is.asked},
          one.op.starts_with('<') ? Better::kLess : Better::kMore,
          is_time    ? floor_ms
          : is_share ? kFloorPoints
                     : 0);
    }
  }

  void failures(const std::string& what, std::uint64_t failed_before, std::uint64_t before,
                std::uint64_t failed_after, std::uint64_t after) {
    const auto share = [](std::uint64_t part, std::uint64_t whole) {
      return Measured{
          whole == 0 ? std::nullopt
                     : std::optional(100 * static_cast<double>(part) / static_cast<double>(whole)),
          whole};
    };
    if (failed_before == 0 && failed_after == 0) return;
    const auto fewest = static_cast<double>(std::max<std::uint64_t>(std::min(before, after), 1));
    add(what, Unit::kPercent, share(failed_before, before), share(failed_after, after),
        Better::kLess, std::max(kFloorPoints, 100 / fewest));
  }

  void loads() {
    for (const LoadStory& was : before_.loads) {
      const LoadStory* const is = after_.load(was.told.load());
      if (is == nullptr) {
        told_.only_in_one.push_back("load " + was.told.load() + " is in the first run only");
        continue;
      }
      load(was.told, is->told);
    }
    for (const LoadStory& is : after_.loads) {
      if (before_.load(is.told.load()) == nullptr)
        told_.only_in_one.push_back("load " + is.told.load() + " is in the second run only");
    }
  }

  void load(const v1::LoadEnded& was, const v1::LoadEnded& is) {
    const std::string name = "load " + was.load() + ": ";
    struct Percentile {
      const char* name;
      double (v1::LoadEnded::*of)() const;
      std::uint64_t fewest;
    };
    constexpr std::array<Percentile, 4> kPercentiles = {{{"p50", &v1::LoadEnded::p50_ms, 5},
                                                         {"p90", &v1::LoadEnded::p90_ms, 10},
                                                         {"p99", &v1::LoadEnded::p99_ms, 100},
                                                         {"p99.9", &v1::LoadEnded::p999_ms, 1000}}};
    for (const Percentile& one : kPercentiles) {
      const auto measured = [&](const v1::LoadEnded& told) {
        return Measured{
            told.answered() > 0 ? std::optional(std::invoke(one.of, told)) : std::nullopt,
            told.answered()};
      };
      add(name + one.name, Unit::kMs, measured(was), measured(is), Better::kLess,
          told_.tolerance.floor_ms, one.fewest);
    }
    failures(name + "failed", was.failed(), was.sent(), is.failed(), is.sent());
    if (was.answered() > 0 || is.answered() > 0)
      add(name + "rate, a second", Unit::kPlain, {was.rate(), was.answered()},
          {is.rate(), is.answered()}, Better::kMore, 0);
  }

  /// The median of what a fault's kind took, over all nodes.
  static std::map<std::string, std::pair<Percentiles, Percentiles>> taken_by(const Story& story) {
    std::map<std::string, std::pair<Percentiles, Percentiles>> taken;
    for (const FaultStory& fault : story.faults) {
      auto& [applying, ending] = taken[fault.words.empty() ? fault.kind : fault.words];
      if (fault.applied) applying.add(fault.apply_took_ms);
      if (const auto took = fault.ending_ms()) ending.add(*took);
    }
    return taken;
  }

  void faults() {
    const auto was = taken_by(before_);
    const auto is = taken_by(after_);
    for (const auto& [words, before] : was) {
      const auto after = is.find(words);
      if (after == is.end()) continue;
      add(words + ": applied in", Unit::kMs, {before.first.at(50), before.first.count()},
          {after->second.first.at(50), after->second.first.count()}, Better::kLess,
          told_.tolerance.floor_ms);
      add(words + ": ended in", Unit::kMs, {before.second.at(50), before.second.count()},
          {after->second.second.at(50), after->second.second.count()}, Better::kLess,
          told_.tolerance.floor_ms);
    }
  }

  const Story& before_;
  const Story& after_;
  Comparison told_;
};

std::string_view words_of(Judgement judgement) {
  switch (judgement) {
    case Judgement::kSame:
      return "same";
    case Judgement::kBetter:
      return "better";
    case Judgement::kWorse:
      return "worse";
    case Judgement::kTooFew:
      return "too few to say";
    case Judgement::kNotJudged:
      return "not judged";
  }
  return "";
}

std::string value_text(const Figure& figure, const std::optional<double>& value) {
  if (!value) return "-";
  switch (figure.unit) {
    case Unit::kMs:
      return ms_text(*value);
    case Unit::kPercent:
      return fmt::format("{:.3g}%", *value);
    case Unit::kPlain:
      return fmt::format("{:.4g}", *value);
  }
  return "";
}

/// +12%; nothing where there is nothing to divide by.
std::optional<double> change_of(const Figure& figure) {
  if (!figure.before || !figure.after || *figure.before == 0) return std::nullopt;
  return 100 * (*figure.after - *figure.before) / std::abs(*figure.before);
}

std::string outcome(const Comparison& comparison) {
  if (!comparison.not_comparable.empty()) return "cannot be compared: " + comparison.not_comparable;
  std::vector<std::string> worse;
  if (comparison.verdict == Judgement::kWorse)
    worse.push_back(
        fmt::format("verdict {} -> {}", comparison.verdict_before, comparison.verdict_after));
  for (const Figure& figure : comparison.figures) {
    if (figure.judgement == Judgement::kWorse)
      worse.push_back(fmt::format("{} {} -> {}", figure.what, value_text(figure, figure.before),
                                  value_text(figure, figure.after)));
  }
  const std::size_t count = worse.size();
  if (count > 3) worse.resize(3);
  const auto better =
      std::ranges::count(comparison.figures, Judgement::kBetter, &Figure::judgement) +
      (comparison.verdict == Judgement::kBetter ? 1 : 0);
  if (count == 0)
    return better == 0 ? "nothing got worse" : fmt::format("nothing got worse, {} better", better);
  return fmt::format(
      "{} got worse: {}{}", count, fmt::join(worse, "; "),
      count > worse.size() ? fmt::format("; and {} more", count - worse.size()) : "");
}

}  // namespace

std::size_t Comparison::regressions() const {
  return static_cast<std::size_t>(
             std::ranges::count(figures, Judgement::kWorse, &Figure::judgement)) +
         (verdict == Judgement::kWorse ? 1 : 0);
}

Comparison compare(const Story& before, const Story& after, const Tolerance& tolerance) {
  return Comparing(before, after, tolerance).all();
}

std::string comparison_text(const Comparison& comparison, const Style& style) {
  const Marks& marks = marks_of(style);
  std::string out;
  const auto line = [&](const Line& one) {
    for (const Line& part : one.folded(std::max(style.width, 60), 4))
      out += part.text(style) + "\n";
  };
  const bool good = comparison.not_comparable.empty() && comparison.regressions() == 0;
  Line head;
  head.add(good ? marks.yes : marks.no, good ? Paint::kGood : Paint::kBad).add(" ");
  line(head.add(shown(outcome(comparison), style), Paint::kBold));
  if (!comparison.not_comparable.empty()) return out;
  const auto& tolerance = comparison.tolerance;
  line(Line().add(
      fmt::format("{} beside {}; tolerance {:g}%, of times at least {}",
                  shown(comparison.run_before, style), shown(comparison.run_after, style),
                  tolerance.percent, ms_text(tolerance.floor_ms)),
      Paint::kDim));
  line({});
  std::vector<std::array<std::string, 6>> rows = {
      {"", "before", "after", "change", "measured", ""}};
  rows.push_back({"verdict", shown(comparison.verdict_before, style),
                  shown(comparison.verdict_after, style), "", "",
                  std::string(words_of(comparison.verdict))});
  std::vector<Judgement> judgements = {Judgement::kNotJudged, comparison.verdict};
  for (const Figure& figure : comparison.figures) {
    const auto change = change_of(figure);
    rows.push_back({shown(figure.what, style), value_text(figure, figure.before),
                    value_text(figure, figure.after),
                    change ? fmt::format("{:+.0f}%", *change) : "",
                    fmt::format("{} / {}", figure.samples_before, figure.samples_after),
                    std::string(words_of(figure.judgement))});
    judgements.push_back(figure.judgement);
  }
  std::array<int, 6> widths{};
  for (const auto& row : rows) {
    for (std::size_t n = 0; n < row.size(); ++n)
      widths[n] = std::max(widths[n], columns_of(row[n]));
  }
  for (std::size_t r = 0; r < rows.size(); ++r) {
    Line one;
    const Judgement judgement = judgements[r];
    const Paint paint = r == 0                            ? Paint::kDim
                        : judgement == Judgement::kWorse  ? Paint::kBad
                        : judgement == Judgement::kBetter ? Paint::kGood
                                                          : Paint::kPlain;
    for (std::size_t n = 0; n < rows[r].size(); ++n) {
      const int column = one.columns() + widths[n];
      // Figures end where those above and below them do.
      if (n > 0 && n < 5) one.pad_to(column - columns_of(rows[r][n]), ' ', Paint::kPlain, 0);
      one.add(rows[r][n], n == 5 || r == 0 ? paint : Paint::kPlain);
      if (n + 1 < rows[r].size()) one.pad_to(column + 2, ' ');
    }
    out += one.text(style) + "\n";
  }
  for (const std::string& one : comparison.only_in_one)
    line(Line().add(shown(one, style), Paint::kDim));
  return out;
}

std::string comparison_json(const Comparison& comparison) {
  const auto run = [](const std::string& id, const std::string& verdict) {
    return Json{{"run", id}, {"verdict", verdict}};
  };
  const auto maybe = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json(nullptr);
  };
  Json figures = Json::array();
  for (const Figure& figure : comparison.figures) {
    figures.push_back({{"what", figure.what},
                       {"unit", figure.unit == Unit::kMs        ? "ms"
                                : figure.unit == Unit::kPercent ? "percent"
                                                                : ""},
                       {"before", maybe(figure.before)},
                       {"after", maybe(figure.after)},
                       {"change_percent", maybe(change_of(figure))},
                       {"samples", {figure.samples_before, figure.samples_after}},
                       {"judgement", words_of(figure.judgement)}});
  }
  return dump_indented({{"outcome", outcome(comparison)},
                        {"comparable", comparison.not_comparable.empty()},
                        {"before", run(comparison.run_before, comparison.verdict_before)},
                        {"after", run(comparison.run_after, comparison.verdict_after)},
                        {"tolerance_percent", comparison.tolerance.percent},
                        {"floor_ms", comparison.tolerance.floor_ms},
                        {"regressions", comparison.regressions()},
                        {"verdict", words_of(comparison.verdict)},
                        {"figures", std::move(figures)},
                        {"only_in_one", comparison.only_in_one}});
}

}  // namespace squall::report
