/// \file
/// A file read whole: the system's own, a key, a log. A plan's are read by experiments/plan/file.h,
/// which bounds them.
#pragma once

#include <string>

#include "experiments/base/status.h"

namespace squall {

/// Errors: from_errno, with the path before it: of opening, and of reading, as of a folder, or of
/// what /proc told of a process that has ended since.
StatusOr<std::string> read_whole(const std::string& path);

/// A certificate or a key. Errors: as read_whole(); kInvalidArgument for what is no PEM (RFC 7468).
StatusOr<std::string> read_pem(const std::string& path);

}  // namespace squall
