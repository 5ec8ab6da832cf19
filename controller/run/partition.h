/// \file
/// Partitions: from who must not reach whom to the faults that see to it, one on each node
/// concerned.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "controller/run/schedule.h"
#include "experiments/base/status.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// For each node the nodes that it cannot exchange packets with, all as indices into `nodes`.
using Cuts = std::vector<std::vector<std::size_t>>;

/// How a shape parts `count` nodes; who stands where is drawn. Symmetric: neither hears the other.
Cuts cuts_of(v1::Shape shape, std::size_t count, Random& random);

/// The faults of a partition: all packets to and from those on the other side are lost. `groups`:
/// the nodes of each group of `between`, or all that the shape is to part, as indices into `names`.
/// Errors: kInvalidArgument for a node that has no address which others know.
StatusOr<std::vector<Target>> part(const v1::Plan& plan, const std::vector<std::string>& names,
                                   const v1::Partition& partition,
                                   const std::vector<std::vector<std::size_t>>& groups,
                                   Random& random);

}  // namespace squall::run
