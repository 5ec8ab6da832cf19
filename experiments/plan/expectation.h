/// \file
/// The grammar of expectations: metric op quantity [over WINDOW] [for DURATION].
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/plan/declared.h"
#include "squall/v1/checks.pb.h"

namespace squall::plan {

/// A problem within a text: bytes from its beginning.
struct ProblemAt {
  std::size_t offset = 0;
  std::size_t length = 1;
  Problem problem;
};

/// Reads one expectation. Which metrics there are is the check kind's to say, so every metric of
/// any kind is taken here.
std::optional<ProblemAt> read_expectation(std::string_view text, v1::Expectation& expectation);

/// The words of the grammar: every metric of any kind, every operator.
std::vector<std::string> metric_words();
std::vector<std::string> operator_words();

/// The grammar and the metrics of every check kind, for people.
std::string explain_expectations();

/// Whether an expectation, well written in itself, fits the kind of its check and how often that
/// asks.
std::optional<ProblemAt> misfit(const v1::Expectation& expectation, const v1::Check& check);

}  // namespace squall::plan
