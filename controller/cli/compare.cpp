// squall compare: two runs of one plan beside each other.
#include "controller/report/compare.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

#include "controller/cli/commands.h"
#include "experiments/base/units.h"

namespace squall::cli {
namespace {

/// Says why not.
std::optional<report::Story> story_of(const Invocation& said, const std::string& named) {
  if (run_folder(said, named).empty()) {
    complain("there is no run yet in " + runs_folder(said));
    return std::nullopt;
  }
  auto story = report::read_story(log_of(said, named));
  if (!story.ok()) {
    complain(message_of(story.status()));
    return std::nullopt;
  }
  if (!story->started) {
    complain(log_of(said, named).string() + ": no event in it");
    return std::nullopt;
  }
  return *std::move(story);
}

}  // namespace

int compare(const Invocation& said) {
  report::Tolerance tolerance{.force = said.force};
  if (const auto percent = parse_percent(said.tolerance); percent.ok()) {
    tolerance.percent = *percent;
  } else {
    complain("--tolerance: " + message_of(percent.status()));
    return kRefused;
  }
  if (const auto floor = parse_duration(said.floor); floor.ok()) {
    tolerance.floor_ms = to_ms(*floor);
  } else {
    complain("--floor: " + message_of(floor.status()));
    return kRefused;
  }
  const auto before = story_of(said, said.files.front());
  if (!before) return kRefused;
  const auto after = story_of(said, said.files.back());
  if (!after) return kRefused;
  const report::Comparison comparison = report::compare(*before, *after, tolerance);
  const std::string text = said.output == "json"
                               ? comparison_json(comparison)
                               : comparison_text(comparison, report::style_of(STDOUT_FILENO));
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (!comparison.not_comparable.empty()) {
    complain(comparison.not_comparable + "; --force compares them all the same");
    return kRefused;
  }
  return comparison.regressions() == 0 ? kSuccess : kNo;
}

}  // namespace squall::cli
