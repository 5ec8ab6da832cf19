/// \file
/// The reports of a run, each a pure function of its story, which is one of its events: what
/// `squall run` writes at the end, `squall report` writes again from the log. Each begins with the
/// sentence that says what the run came to.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "controller/report/story.h"
#include "controller/report/style.h"
#include "experiments/base/status.h"

namespace squall::report {

/// Chaos Toolkit's top keys (experiment, status, deviated, start, end, duration, steady_states,
/// run, rollbacks), and under `squall` the verdict, the abort's times, every fault with its
/// evidence, every check with its numbers, every node.
std::string json_report(const Story& story);

/// One testcase per check, per fault applied and per fault reverted; times in seconds; in the shape
/// of Jenkins's schema.
std::string junit_report(const Story& story);

/// The summary at the end of a run. `files` are named on its last lines: what it is (log, json,
/// junit), and its path.
std::string text_report(
    const Story& story, const Style& style,
    const std::vector<std::pair<std::string, std::filesystem::path>>& files = {});

/// One page for people who were not there: self-contained, without anything fetched from elsewhere,
/// well-formed XML, and for the screen as well as for paper. Its size is bounded, whatever the
/// run's.
std::string html_report(const Story& story);

/// A draft of a postmortem, in GitHub's Markdown: what was believed, what happened when, in
/// figures; what surprised and what follows from it are left to people.
std::string markdown_report(const Story& story);

/// Makes an empty file where there is none, so that what keeps a report from being written there is
/// known before the run; what is there already stays as it is.
Status prepare_report(const std::filesystem::path& path);

/// Writes a report, whole or not at all (a temporary file, then rename(2)); a pipe or a device is
/// written through. `mode`: of a new file.
Status write_report(const std::filesystem::path& path, std::string_view text, mode_t mode = 0644);

}  // namespace squall::report
