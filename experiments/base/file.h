/// \file
/// A file read whole: the system's own, a key, a log. A plan's are read by experiments/plan/file.h,
/// which bounds them.
#pragma once

#include <cstddef>
#include <string>

#include "experiments/base/status.h"

namespace squall {

/// The largest that is read: a device has no end.
inline constexpr std::size_t kLargestFile = std::size_t{64} << 20U;

/// Errors: from_errno, with the path before it: of opening, and of reading, as of a folder, or of
/// what /proc told of a process that has ended since; kResourceExhausted past kLargestFile.
StatusOr<std::string> read_whole(const std::string& path);

/// A certificate or a key. Errors: as read_whole(); kInvalidArgument for what is no PEM (RFC 7468).
StatusOr<std::string> read_pem(const std::string& path);

}  // namespace squall
