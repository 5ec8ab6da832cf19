/// \file
/// A file read whole: the system's own, a key, a log. A plan's are read by experiments/plan/file.h,
/// which bounds them.
#pragma once

#include <cstddef>
#include <limits>
#include <string>

#include "experiments/base/status.h"

namespace squall {

/// No bound: of what the system itself tells, or what Squall wrote.
inline constexpr std::size_t kAnySize = std::numeric_limits<std::size_t>::max();

/// Adds what is left of an open file to `text`. Returns 0 or an errno: EFBIG where `text` would be
/// longer than `most` bytes.
int read_rest(int file, std::string& text, std::size_t most = kAnySize);

/// Errors: from_errno, with the path before it: of opening, and of reading, as of a folder, or of
/// what /proc told of a process that has ended since, or of what is larger than `most`.
StatusOr<std::string> read_whole(const std::string& path, std::size_t most = kAnySize);

/// A certificate or a key, of at most 1 MiB. Errors: as read_whole(); kInvalidArgument for what is
/// no PEM (RFC 7468).
StatusOr<std::string> read_pem(const std::string& path);

}  // namespace squall
