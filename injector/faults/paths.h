/// \file
/// Which files and directories of the node a fault may touch: found without following a symbolic
/// link, held by descriptors from then on, and never one that the node or squalld itself stands on.
#pragma once

#include <sys/stat.h>

#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "google/protobuf/repeated_field.h"

namespace squall::hold {

using SparedPaths = google::protobuf::RepeatedPtrField<std::string>;

/// A name in a folder, and what it stands for.
struct FoundPath {
  std::string folder;
  std::string name;
  Fd parent;  ///< The folder, for reading.
  Fd self;    ///< O_PATH.
  struct stat status {};

  std::string path() const { return folder + (folder.ends_with('/') ? "" : "/") + name; }
  bool is_folder() const { return S_ISDIR(status.st_mode); }
};

/// Opens with O_PATH what an absolute path stands for; no part of it may be a symbolic link.
/// Errors: kNotFound; kInvalidArgument for a symbolic link, with what it leads to.
StatusOr<Fd> open_path(const std::string& path);

/// Finds what `path` stands for, for a fault that changes it. `field`: the fault's, for errors.
/// Errors: as open_path(); kInvalidArgument for what no fault may touch: /, what is directly below
/// it, what is below /proc, /sys or /dev, and what is, holds or is held by one of `spared` or this
/// program; kPermissionDenied for what protect() was told of.
StatusOr<FoundPath> find_path(const std::string& field, const std::string& path,
                              const SparedPaths& spared);

/// Whether `path` is `folder` or below it.
bool is_within(const std::string& path, const std::string& folder);

/// The mount that an open descriptor's file was reached by, as /proc/PID/mountinfo numbers it; 0 if
/// it cannot be told. Touches no file system but /proc; safe after fork(). `proc`: where /proc is
/// open, for a process that cannot reach it by its name.
int mount_of(int file, int proc = -1);

}  // namespace squall::hold
