/// \file
/// What went wrong while running, as a value: absl's Status under our name, and the one place that
/// knows that Debian's absl::string_view is not std::string_view.
///
/// The code says what the caller should do: kInvalidArgument fix the plan; kFailedPrecondition fix
/// the node; kUnavailable retry; kDataLoss stop and look; kUnimplemented another kernel or version.
/// Messages are lower case, without a full stop; each floor adds its context once.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <string_view>
#include <utility>

namespace squall {

using Status = absl::Status;
using StatusCode = absl::StatusCode;
template <typename T>
using StatusOr = absl::StatusOr<T>;

inline Status ok() { return absl::OkStatus(); }

inline Status error(StatusCode code, std::string_view message) {
  return Status(code, absl::string_view(message.data(), message.size()));
}

/// The message as a string of the standard library.
inline std::string message_of(const Status& status) { return std::string(status.message()); }

/// Puts "context: " before the message and keeps the code; ok stays ok.
inline Status in_context(std::string_view context, const Status& status) {
  if (status.ok()) return status;
  return error(status.code(), std::string(context) + ": " + message_of(status));
}

/// From an errno: kNotFound, kPermissionDenied, kAlreadyExists, kUnimplemented (EOPNOTSUPP,
/// ENOSYS), kResourceExhausted (ENOMEM, ENOSPC, EMFILE) or else kInternal, with the system's own
/// text behind the context.
Status from_errno(std::string_view context, int errno_value);

}  // namespace squall
