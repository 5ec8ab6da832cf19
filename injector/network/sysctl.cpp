#include "injector/network/sysctl.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "experiments/base/failpoint.h"
#include "experiments/base/fd.h"

namespace squall::network {
namespace {

/// A ledger's word for a path must never lead out of /proc/sys.
StatusOr<Fd> open_setting(const std::string& name, int mode) {
  if (name.find("..") != std::string::npos) {
    return error(StatusCode::kInvalidArgument, name + " is no setting");
  }
  Fd file(open(("/proc/sys/" + name).c_str(), mode | O_CLOEXEC));
  if (!file.is_open()) return from_errno("cannot open /proc/sys/" + name, errno);
  return file;
}

}  // namespace

StatusOr<std::string> read_sysctl(const std::string& name) {
  const StatusOr<Fd> file = open_setting(name, O_RDONLY);
  if (!file.ok()) return file.status();
  std::array<char, 4096> text{};
  const ssize_t length = read(file->number(), text.data(), text.size());
  if (length < 0) return from_errno("cannot read /proc/sys/" + name, errno);
  std::string value(text.data(), static_cast<std::size_t>(length));
  while (value.ends_with('\n')) value.pop_back();
  return value;
}

Status write_sysctl(const std::string& name, const std::string& value) {
  const StatusOr<Fd> file = open_setting(name, O_WRONLY);
  if (!file.ok()) return file.status();
  const ssize_t written = write(file->number(), value.data(), value.size());
  failpoint<"sysctl.written">();
  if (written == static_cast<ssize_t>(value.size())) return ok();
  return from_errno("cannot write /proc/sys/" + name, errno);
}

}  // namespace squall::network
