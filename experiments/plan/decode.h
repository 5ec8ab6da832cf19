/// \file
/// From a YAML tree to a message, by the message's declaration alone: names, units, bounds,
/// defaults, choices, forms. No kind is known by name here.
#pragma once

#include <unordered_set>

#include "experiments/base/diagnostic.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/yaml.h"

namespace squall::plan {

/// The values with something wrong in them: what is said about a plan as a whole keeps silent about
/// these.
using Tainted = std::unordered_set<const YamlNode*>;

/// Decodes the tree's root, tells everything wrong on the way, and fills in what is declared for
/// where the plan is silent. Repeated fields have as many elements as their lists, whatever is
/// wrong with some.
Tainted decode(const YamlTree& tree, Message& message, Diagnostics& diagnostics);

}  // namespace squall::plan
