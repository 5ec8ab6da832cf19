/// \file
/// Two runs of one plan beside each other: what got better, what got worse, and what is too close
/// or stands on too little to say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "controller/report/story.h"
#include "controller/report/style.h"

namespace squall::report {

/// By how much a figure may differ without having changed: by either of both.
struct Tolerance {
  double percent = 10;
  double floor_ms = 10;  ///< Of times: 1.0ms beside 1.2ms is noise, though it is a fifth more.
  bool force = false;    ///< Compares runs of different plans as well.
};

struct Figure {
  enum class Unit { kMs, kPercent, kPlain };
  enum class Judgement { kSame, kBetter, kWorse, kTooFew, kNotJudged };

  std::string what;  ///< shop answers: p99
  Unit unit = Unit::kMs;
  std::optional<double> before, after;
  std::uint64_t samples_before = 1;  ///< How many measurements it stands on.
  std::uint64_t samples_after = 1;
  Judgement judgement = Judgement::kNotJudged;
};

struct Comparison {
  std::string not_comparable;  ///< Why; empty: they are.
  std::string run_before, run_after;
  std::string verdict_before, verdict_after;
  Figure::Judgement verdict = Figure::Judgement::kSame;
  std::vector<Figure> figures;
  std::vector<std::string> only_in_one;  ///< Checks and loads that cannot be compared, in words.
  Tolerance tolerance;

  /// How many figures got worse, the verdict among them.
  std::size_t regressions() const;
};

/// Percentiles count only where enough was measured to have one: five answers for a median, a
/// hundred for a p99. A share of failures has to change by more than one answer. What a check
/// notices is no more exact than how often it asks.
Comparison compare(const Story& before, const Story& after, const Tolerance& tolerance);

/// A table; the first line says what it comes to.
std::string comparison_text(const Comparison& comparison, const Style& style);
std::string comparison_json(const Comparison& comparison);

}  // namespace squall::report
