/// \file
/// A plan of one step, from what a person says on the command line: a fault by hand is checked,
/// weighed and walked as any other.
#pragma once

#include <string>
#include <vector>

#include "experiments/plan/load.h"

namespace squall::plan {

struct ByHand {
  struct Check {
    std::string text;  ///< As in a plan: http: {url: …}. It may do without a name.
    std::vector<std::string> expect;
  };

  std::string fault;  ///< As in a plan: network: {delay: 200ms}.
  std::string on;     ///< A node's name, or labels: role=web,zone=a. Empty: the only node.
  std::string lasts;  ///< 60s. Empty: as `fault` says.
  std::vector<Check> checks;
  std::vector<std::string> nodes;  ///< Addresses; empty: the plan's, or this machine.
  std::string plan_file;           ///< Whose nodes, checks, lease, environment and recovery hold.
};

/// Never throws. What is wrong is told in its own text: `inject`, `--check`, `--for`, or the plan's
/// file. Of that plan, which is to be right as a whole, no step is walked.
Loaded load_by_hand(const ByHand& said, const Given& given = {});

}  // namespace squall::plan
