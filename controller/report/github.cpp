#include "controller/report/github.h"

#include <fmt/format.h>

#include <algorithm>

#include "controller/report/chronicle.h"
#include "experiments/base/diagnostic.h"

namespace squall::report {
namespace {

/// GitHub shows ten of a kind for a step, and drops the others without a word.
constexpr std::size_t kMostAnnotations = 10;

std::string escaped(std::string_view text, bool is_property) {
  std::string out;
  for (const char c : escape_controls(text, true)) {
    switch (c) {
      case '%':
        out += "%25";
        break;
      case '\n':
        out += "%0A";
        break;
      case ':':
        out += is_property ? "%3A" : ":";
        break;
      case ',':
        out += is_property ? "%2C" : ",";
        break;
      default:
        out += c;
    }
  }
  return out;
}

/// The line of a plan on which the check or the load of this name begins. Nothing where that is not
/// plain to see.
std::string line_of(std::string_view plan, const std::string& name) {
  std::size_t number = 0;
  while (!plan.empty()) {
    ++number;
    const std::size_t end = std::min(plan.find('\n'), plan.size());
    const std::string_view line = plan.substr(0, end);
    plan.remove_prefix(std::min(end + 1, plan.size()));
    const std::size_t key = line.find("name:");
    if (key == std::string_view::npos) continue;
    std::string_view rest = line.substr(key + 5);
    const std::size_t begin = rest.find_first_not_of(" \"'");
    if (begin == std::string_view::npos) continue;
    rest.remove_prefix(begin);
    if (!rest.starts_with(name)) continue;
    rest.remove_prefix(name.size());
    const std::size_t next = rest.find_first_not_of(" \r");
    const bool ends = next == std::string_view::npos;
    if (ends || (next == 0 && std::string_view("\"',}").find(rest[0]) != std::string_view::npos) ||
        (next > 0 && std::string_view("#}").find(rest[next]) != std::string_view::npos))
      return std::to_string(number);
  }
  return "";
}

}  // namespace

std::string workflow_command(
    std::string_view command,
    const std::vector<std::pair<std::string_view, std::string>>& properties,
    std::string_view message) {
  std::string out = fmt::format("::{}", command);
  bool first = true;
  for (const auto& [name, value] : properties) {
    if (value.empty()) continue;
    out += fmt::format("{}{}={}", first ? " " : ",", name, escaped(value, true));
    first = false;
  }
  return out + "::" + escaped(message, false) + "\n";
}

std::string github_annotations(const Story& story, const std::string& file, std::string_view plan) {
  std::string out;
  std::size_t told = 0;
  const auto annotate = [&](std::string_view level, const std::string& check,
                            const std::string& title, const std::string& message) {
    if (++told > kMostAnnotations) return;
    out += workflow_command(
        level,
        {{"file", file}, {"line", check.empty() ? "" : line_of(plan, check)}, {"title", title}},
        message);
  };
  // The sentence points at what aborted the run, else at the plan.
  std::string at;
  for (const CheckStory& check : story.checks) {
    if (at.empty() && (check.broke() || (check.asked > 0 && !story.stands(check))))
      at = check.check;
  }
  const bool held = story.ended && story.ended->verdict() == v1::HELD;
  annotate(held ? "notice" : "error", at, fmt::format("{}: {}", story.verdict(), story.run.plan()),
           story.sentence());
  for (const CheckStory& check : story.checks) {
    for (const BreachStory& breach : check.breaches) {
      annotate(breach.aborts ? "error" : "warning", check.check, check.name,
               fmt::format("{}, expected {}, {:.2f}s into the run", breach.observed,
                           breach.expectation, breach.moment.elapsed));
    }
  }
  for (const FaultStory& fault : story.faults) {
    std::string problem = apply_problem(fault);
    if (problem.empty()) problem = revert_problem(fault);
    if (!problem.empty()) annotate("error", "", fault_title(fault), problem);
  }
  if (story.ended) {
    for (const v1::RunExpectation& one : story.ended->expect()) {
      if (!one.holds())
        annotate("error", "", one.expectation(),
                 one.observed() + ", expected " + one.expectation());
    }
  }
  return out;
}

std::string github_report(const Story& story) {
  return github_annotations(story, story.run.file()) + "\n" + github_summary(story);
}

}  // namespace squall::report
