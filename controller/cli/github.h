/// \file
/// What a command tells GitHub's runner beside what it tells everyone, where it runs in one.
#pragma once

#include <span>
#include <string>

#include "controller/report/story.h"
#include "experiments/base/diagnostic.h"

namespace squall::cli {

/// GITHUB_ACTIONS=true.
bool in_github_actions();

/// Everything found in plans as annotations at their places, on standard error, so that standard
/// output stays the result. Only in GitHub's runner.
void annotate(std::span<const Diagnostics> files);

/// What a run came to: annotations on standard error, a summary at the end of $GITHUB_STEP_SUMMARY,
/// and verdict, exit_code and run for $GITHUB_OUTPUT. Only in GitHub's runner; a file there that
/// cannot be written to is told, and changes nothing.
void tell_github(const report::Story& story);

}  // namespace squall::cli
