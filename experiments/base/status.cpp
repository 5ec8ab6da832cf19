#include "experiments/base/status.h"

#include <cerrno>
#include <system_error>

namespace squall {
namespace {

StatusCode code_of(int errno_value) {
  switch (errno_value) {
    case ENOENT:
    case ESRCH:
    case ENODEV:
    case ENXIO:
      return StatusCode::kNotFound;
    case EPERM:
    case EACCES:
      return StatusCode::kPermissionDenied;
    case EEXIST:
      return StatusCode::kAlreadyExists;
    case EOPNOTSUPP:
    case ENOSYS:
    case EAFNOSUPPORT:
      return StatusCode::kUnimplemented;
    case ENOMEM:
    case ENOSPC:
    case EMFILE:
    case ENFILE:
    case EDQUOT:
      return StatusCode::kResourceExhausted;
    default:
      return StatusCode::kInternal;
  }
}

}  // namespace

Status from_errno(std::string_view context, int errno_value) {
  return error(code_of(errno_value),
               std::string(context) + ": " + std::generic_category().message(errno_value));
}

}  // namespace squall
