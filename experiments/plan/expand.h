/// \file
/// What stands in a plan for something else: ${name} for a parameter's value, `include` for the
/// steps of another file, `nodes: {from: FILE}` for the nodes of one. After it, the tree is that of
/// a plan without any of them, and every value still knows where it was written.
#pragma once

#include <map>
#include <string>

#include "experiments/base/diagnostic.h"
#include "experiments/plan/load.h"
#include "experiments/plan/yaml.h"

namespace squall::plan {

/// Of the parameters, by name; of those that have one.
using Values = std::map<std::string, std::string>;

/// Rewrites the tree, whose root is a mapping, and tells everything wrong on the way. What is wrong
/// stays as it was written.
Values expand(YamlTree& tree, const Given& given, Diagnostics& diagnostics);

}  // namespace squall::plan
