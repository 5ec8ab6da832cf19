/// \file
/// What GitHub's runner understands: workflow commands in a step's output, and the step's summary.
/// Source: docs.github.com, "Workflow commands for GitHub Actions".
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "controller/report/story.h"

namespace squall::report {

/// A line as `::error file=plan.yaml,line=3::message`, with its newline. Properties without a value
/// are left out; what would end a property or the line is escaped.
std::string workflow_command(
    std::string_view command,
    const std::vector<std::pair<std::string_view, std::string>>& properties,
    std::string_view message);

/// What a run came to as annotations, the sentence first. `file` is the plan as GitHub knows it;
/// `plan` its text, where it is at hand, for the line that a check stands on.
std::string github_annotations(const Story& story, const std::string& file,
                               std::string_view plan = "");

/// For $GITHUB_STEP_SUMMARY.
std::string github_summary(const Story& story);

/// Both, annotations first.
std::string github_report(const Story& story);

}  // namespace squall::report
