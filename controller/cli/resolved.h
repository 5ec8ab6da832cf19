/// \file
/// Plans with everything chosen, as files: what `squall plan --out` writes, and what every run
/// keeps of itself.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "controller/run/preflight.h"
#include "experiments/base/status.h"
#include "squall/v1/plan.pb.h"

namespace squall::cli {

/// Whether a file is one of these, and not a plan as people write them.
bool is_resolved(const std::filesystem::path& path);

/// Errors: kInvalidArgument, with the path of what is wrong in it; those of reading it.
StatusOr<v1::ResolvedPlan> read_resolved(const std::filesystem::path& path);

/// For its owner's eyes only: what a plan says to servers may be secret.
Status write_resolved(const std::filesystem::path& path, const v1::ResolvedPlan& resolved);

/// What of a node's answer counts for whether the world is still the same.
v1::ResolvedPlan::Seen seen_in(const v1::Looked& looked);

/// What the nodes said.
std::vector<v1::ResolvedPlan::Seen> seen_by(const std::vector<run::NodePreview>& previews);

/// What is otherwise now than it was, each a sentence without a full stop; empty: nothing.
std::vector<std::string> changes(const v1::ResolvedPlan& then,
                                 const std::vector<run::NodePreview>& now);

}  // namespace squall::cli
