/// \file
/// Control groups of version 2: the parts of a node that sockets belong to.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

/// As the kernel knows a socket's group.
struct Cgroup {
  std::uint64_t id = 0;     ///< The inode of its folder; 0: none.
  std::uint32_t level = 0;  ///< Below the root, which is 0.
};

/// The root of the hierarchy, mounted or not. Errors: kUnimplemented without cgroup v2.
StatusOr<Fd> open_cgroup_root();

/// A unit's group bears its name, somewhere below its slices: systemd.slice(5). From the root on.
/// Errors: kNotFound for a unit without a group, kFailedPrecondition for one whose name two bear.
StatusOr<std::string> path_of_unit(const Fd& root, const std::string& unit);

/// The group that a scope names, by path or as that of a systemd unit, from the root on; the root
/// for a scope that names neither. Errors: kNotFound for a unit without a group,
/// kFailedPrecondition for one whose name two groups bear.
StatusOr<std::string> cgroup_path(const v1::Scope& scope);

/// Its folder. Errors: kNotFound for a group that is not there.
StatusOr<Fd> open_cgroup(const std::string& path);

/// Who a scope means; none for one that names no group. Errors: as the three above.
StatusOr<Cgroup> find_cgroup(const v1::Scope& scope);

}  // namespace squall::network
