/// \file
/// The grammar of expectations: metric op quantity [over WINDOW] [for DURATION].
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
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

/// The grammar, for people: each part of an expectation and what it is, and well-written ones.
struct Grammar {
  std::string help;
  std::string form;
  std::vector<std::pair<std::string, std::string>> parts;
  std::vector<std::string> examples;
};
Grammar expectation_grammar();

/// Whether an expectation, well written in itself, fits what is measured: the message that declares
/// the metrics, as a plan calls it, and how often it is asked, where it is.
std::optional<ProblemAt> misfit(const v1::Expectation& expectation, std::string_view called,
                                const Descriptor& measured, std::optional<Duration> every);

}  // namespace squall::plan
