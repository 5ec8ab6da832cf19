/// \file
/// A plan as it would be walked: which nodes and why, what would be done to them and how it would
/// be undone, how much of the fleet that is. For people and for programs.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "controller/report/style.h"
#include "controller/run/preflight.h"
#include "controller/run/schedule.h"
#include "squall/v1/plan.pb.h"

namespace squall::cli {

struct Outline {
  const v1::Plan& plan;
  std::string file;
  std::uint64_t seed = 0;
  std::span<const run::Step> schedule;
  const std::vector<run::NodePreview>& nodes;
};

/// What speaks against it: nodes that refuse, with their reasons. Empty: all would take part.
std::vector<std::string> refusals(const Outline& outline);

std::string outline_text(const Outline& outline, const report::Style& style);
std::string outline_json(const Outline& outline);

}  // namespace squall::cli
