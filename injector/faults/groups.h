/// \file
/// Control groups as their controllers see them: in the one hierarchy of cgroup v2, or in that of a
/// controller of cgroup v1. For the kinds that use up what a group is limited to.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "squall/v1/selector.pb.h"

namespace squall::hold {

struct Group {
  std::string hierarchy;  ///< The controller of a hierarchy of cgroup v1; empty: cgroup v2.
  std::string path;       ///< From the hierarchy's root; never the root itself.
  std::uint64_t inode = 0;
  Fd folder;

  bool is_v2() const { return hierarchy.empty(); }
};

/// The group that a scope names, where `controller` acts. Errors: kInvalidArgument for a scope that
/// names none, or the root, which has no limits; kNotFound for one that is not there;
/// kUnimplemented where no hierarchy has the controller.
StatusOr<Group> find_group(const v1::Scope& scope, std::string_view controller);

/// Errors: as find_group.
StatusOr<Group> open_group(const std::string& hierarchy, const std::string& path);

/// The root of the hierarchy of cgroup v1 that has the controller. Errors: kUnimplemented where
/// none has.
StatusOr<Fd> open_v1_root(std::string_view controller);

/// One of its files, without the newline. Errors: kNotFound for one that is not there.
StatusOr<std::string> read_key(const Group& group, const std::string& name);
Status write_key(const Group& group, const std::string& name, const std::string& value);

/// A number in one of its files; the largest for "max". Errors: also kInternal for what is none.
StatusOr<std::uint64_t> read_number(const Group& group, const std::string& name);

/// Moves the process with all its threads into the group, and reads back that it is there.
/// Errors: kFailedPrecondition for a group that takes no processes, with why.
Status move_into(const Group& group, std::uint32_t pid);

/// The first process of the group, or of one below it, that fits; 0 for none. Errors: kInternal.
StatusOr<std::uint32_t> find_process(const Group& group,
                                     const std::function<bool(std::uint32_t)>& fits);

}  // namespace squall::hold
