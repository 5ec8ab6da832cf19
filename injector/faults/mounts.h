/// \file
/// Mounts that a fault lays over a path, and how they are found and taken away again: in every
/// mount namespace that has them, for one that is made meanwhile takes a copy along.
#pragma once

#include <string>

#include "experiments/base/status.h"
#include "injector/faults/paths.h"
#include "squall/v1/undo.pb.h"

namespace squall::hold {

/// The undo of cover_unreadable(), before it is made. `tag` becomes its source.
StatusOr<v1::Unmount> plan_cover(const FoundPath& found, const std::string& tag);

/// The undo of cover_read_only(), before it is made. Errors: kFailedPrecondition where a mount of
/// the same is there already, in any mount namespace: ours could not be told from it.
StatusOr<v1::Unmount> plan_read_only(const FoundPath& found);

inline constexpr const char* kNoFuse =
    "unreadable needs /dev/fuse, which is missing here; modprobe fuse brings it";

/// Lays a mount over it at which every access fails with EACCES, root's as well: a FUSE file system
/// that belongs to a user whom nobody is, and that nobody serves.
/// Errors: kFailedPrecondition without /dev/fuse; kUnimplemented before Linux 5.2.
/// Source: fs/fuse/dir.c, fuse_allow_current_process().
Status cover_unreadable(const FoundPath& found, const std::string& tag);

/// Mounts it once more over itself, read-only, with all that is mounted below it as it is.
/// Errors: kUnimplemented before Linux 5.12.
Status cover_read_only(const FoundPath& found);

/// Whether the mount that the undo names is the topmost at its path, as this process sees it.
StatusOr<bool> is_mounted(const v1::Unmount& undo);

/// Takes it away in all mount namespaces and reads back. Idempotent. Errors: kDataLoss for what is
/// still there.
Status unmount(const v1::Unmount& undo);

/// Whether this process lives in another mount namespace than the node's PID 1.
bool has_own_mount_namespace();

}  // namespace squall::hold
