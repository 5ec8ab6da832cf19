/// \file
/// What a word of the plan language means, told from the declarations alone.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "experiments/plan/words.h"

namespace squall::plan {

/// Every word that explain() knows: plan, step, the fault kinds, the check kinds, what is in them,
/// guardrails, expectation.
std::vector<std::string> explainable();

/// The page of one word: what it does, its fields with unit, bounds and default, an example.
/// Errors: kNotFound, naming the nearest word.
StatusOr<std::string> explain(const std::string& word);

/// Pages that are written by hand, by their path below docs/: what is in them.
using Handwritten = std::map<std::string, std::string>;

/// All that is written by hand below a folder, which is docs/; nothing where there is no such
/// folder.
Handwritten read_handwritten(const std::filesystem::path& docs);

/// The same pages as Markdown, and an index: file names to texts, for a folder below docs/. Each
/// leads on to what is written by hand about its word.
std::map<std::string, std::string> reference(const Handwritten& handwritten);

}  // namespace squall::plan
