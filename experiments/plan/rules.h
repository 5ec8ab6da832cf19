/// \file
/// What a plan's parts say about each other: steps about nodes, checks about their kinds, the plan
/// about being observed.
#pragma once

#include "experiments/plan/decode.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {

/// Steps in the largest plan, those within parallel steps included.
inline constexpr std::size_t kMostSteps = 10'000;

/// Tells what contradicts itself, and lets a fault's step that names no node name the only one
/// there is. What is wrong in itself (`tainted`) was told before and is passed over.
void weigh_plan(const YamlNode& root, const Tainted& tainted, bool unobserved, v1::Plan& plan,
                Diagnostics& diagnostics);

}  // namespace squall::plan
