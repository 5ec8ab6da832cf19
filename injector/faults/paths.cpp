#include "injector/faults/paths.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "injector/faults/spared.h"

namespace squall::hold {
namespace {

Fd open_without_links(int folder, const std::string& path, int flags) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return Fd(static_cast<int>(::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how)));
}

Status is_link(const std::string& path) {
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                         &std::free);
  std::string why = escape_controls(path) + " leads through a symbolic link";
  if (real) why += ": write " + escape_controls(real.get());
  return error(StatusCode::kInvalidArgument, why);
}

std::string own_program() {
  std::array<char, 4096> text{};
  const ssize_t size = ::readlink("/proc/self/exe", text.data(), text.size() - 1);
  return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : std::string();
}

/// Why no fault may touch it; empty: one may.
std::string why_spared(const std::string& path, const SparedPaths& spared) {
  if (path.find('/', 1) == std::string::npos) {
    return "the node itself stands on it; name something below it";
  }
  for (const char* folder : {"/proc", "/sys", "/dev"}) {
    if (is_within(path, folder)) return std::string("it is below ") + folder;
  }
  SparedPaths all = spared;
  *all.Add() = own_program();
  for (const std::string& needed : all) {
    if (needed.empty()) continue;
    if (is_within(path, needed)) return "it is what squalld itself needs";
    if (is_within(needed, path)) return "squalld itself needs " + needed;
  }
  return "";
}

}  // namespace

bool is_within(const std::string& path, const std::string& folder) {
  if (!path.starts_with(folder)) return false;
  return path.size() == folder.size() || folder.ends_with('/') || path[folder.size()] == '/';
}

StatusOr<Fd> open_path(const std::string& path) {
  Fd file = open_without_links(AT_FDCWD, path, O_PATH | O_NOFOLLOW);
  if (!file.is_open()) {
    if (errno == ELOOP) return is_link(path);
    if (errno == ENOENT || errno == ENOTDIR) {
      return error(StatusCode::kNotFound, "there is no " + escape_controls(path));
    }
    return from_errno("opening " + escape_controls(path), errno);
  }
  return file;
}

StatusOr<FoundPath> find_path(const std::string& field, const std::string& path,
                              const SparedPaths& spared) {
  std::string whole = path;
  while (whole.size() > 1 && whole.ends_with('/')) whole.pop_back();
  if (!whole.starts_with('/')) {
    return error(StatusCode::kInvalidArgument,
                 field + ": " + escape_controls(path) + " is no absolute path");
  }
  if (const std::string why = why_spared(whole, spared); !why.empty()) {
    return error(StatusCode::kInvalidArgument,
                 field + ": " + escape_controls(whole) + " cannot be touched: " + why);
  }
  if (const std::string why = why_protected_path(whole); !why.empty()) {
    return error(StatusCode::kPermissionDenied,
                 field + ": " + escape_controls(whole) + " cannot be touched: " + why);
  }
  const std::size_t slash = whole.rfind('/');
  FoundPath found;
  found.folder = slash == 0 ? "/" : whole.substr(0, slash);
  found.name = whole.substr(slash + 1);
  StatusOr<Fd> self = open_path(whole);
  if (!self.ok()) return in_context(field, self.status());
  found.self = *std::move(self);
  if (::fstat(found.self.number(), &found.status) != 0) {
    return in_context(field, from_errno("looking at " + escape_controls(whole), errno));
  }
  if (S_ISLNK(found.status.st_mode)) return in_context(field, is_link(whole));
  found.parent = open_without_links(AT_FDCWD, found.folder, O_RDONLY | O_DIRECTORY);
  // Both were reached by name: they belong together only if the one still is in the other.
  struct stat again {};
  if (!found.parent.is_open() || ::fstatat(found.parent.number(), found.name.c_str(), &again,
                                           AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) {
    return in_context(field, from_errno("opening " + escape_controls(found.folder), errno));
  }
  if (again.st_ino != found.status.st_ino || again.st_dev != found.status.st_dev) {
    return error(StatusCode::kUnavailable,
                 field + ": " + escape_controls(whole) + " was replaced while it was looked at");
  }
  return found;
}

int mount_of(int file, int proc) {
  std::array<char, 64> path{};
  std::snprintf(path.data(), path.size(), "%sself/fdinfo/%d", proc < 0 ? "/proc/" : "", file);
  const int lines = ::openat(proc < 0 ? AT_FDCWD : proc, path.data(), O_RDONLY | O_CLOEXEC);
  if (lines < 0) return 0;
  std::array<char, 4096> text{};
  const ssize_t size = ::read(lines, text.data(), text.size() - 1);
  ::close(lines);
  if (size <= 0) return 0;
  const char* id = std::strstr(text.data(), "mnt_id:");
  return id == nullptr ? 0 : std::atoi(id + 7);
}

}  // namespace squall::hold
