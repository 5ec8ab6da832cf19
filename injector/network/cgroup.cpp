#include "injector/network/cgroup.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

namespace squall::network {

namespace fs = std::filesystem;

StatusOr<Fd> open_cgroup_root() {
  // Source: proc(5), /proc/PID/mountinfo.
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, point, word, type;
    words >> id >> parent >> device >> root >> point;
    while (words >> word && word != "-") {
    }
    if (!(words >> type) || type != "cgroup2") continue;
    Fd folder(::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.is_open()) return folder;
  }
  // A mount of our own, which is nowhere to be seen and ends with its last descriptor.
  const Fd context(::fsopen("cgroup2", FSOPEN_CLOEXEC));
  if (!context.is_open() && (errno == ENODEV || errno == ENOSYS)) {
    return error(StatusCode::kUnimplemented, "this kernel has no cgroup v2");
  }
  if (!context.is_open() ||
      ::fsconfig(context.number(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return from_errno("cgroup v2 is mounted nowhere and cannot be reached", errno);
  }
  const Fd mount(::fsmount(context.number(), FSMOUNT_CLOEXEC, 0));
  if (!mount.is_open()) return from_errno("cannot reach cgroup v2", errno);
  Fd folder(::openat(mount.number(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open()) return from_errno("cannot open cgroup v2", errno);
  return folder;
}

StatusOr<std::string> path_of_unit(const Fd& root, const std::string& unit) {
  const fs::path begin = "/proc/self/fd/" + std::to_string(root.number()) + "/";
  std::vector<std::string> found;
  std::error_code failed;
  fs::recursive_directory_iterator entry(begin, fs::directory_options::skip_permission_denied,
                                         failed);
  for (; !failed && entry != fs::recursive_directory_iterator(); entry.increment(failed)) {
    std::error_code gone;
    if (entry->path().filename() == unit && entry->is_directory(gone)) {
      found.push_back("/" + entry->path().lexically_relative(begin).native());
    }
  }
  if (found.empty()) {
    return error(StatusCode::kNotFound,
                 "no control group of the unit " + unit + ": it is not running, or not known here");
  }
  if (found.size() > 1) {
    return error(StatusCode::kFailedPrecondition,
                 "the unit " + unit + " has more than one control group: " + found[0] + " and " +
                     found[1] + "; name one by its path");
  }
  return found[0];
}

StatusOr<std::string> cgroup_path(const v1::Scope& scope) {
  if (!scope.unit().empty()) {
    const StatusOr<Fd> root = open_cgroup_root();
    if (!root.ok()) return root.status();
    return path_of_unit(*root, scope.unit());
  }
  std::string path = scope.cgroup().empty() ? "/" : scope.cgroup();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

StatusOr<Fd> open_cgroup(const std::string& path) {
  const StatusOr<Fd> root = open_cgroup_root();
  if (!root.ok()) return root.status();
  Fd folder(::openat(root->number(), ("." + path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.is_open()) return folder;
  if (errno == ENOENT || errno == ENOTDIR) {
    return error(StatusCode::kNotFound, "there is no control group " + path);
  }
  return from_errno("cannot open the control group " + path, errno);
}

StatusOr<Cgroup> find_cgroup(const v1::Scope& scope) {
  if (scope.cgroup().empty() && scope.unit().empty()) return Cgroup{};
  const StatusOr<std::string> path = cgroup_path(scope);
  if (!path.ok()) return path.status();
  const StatusOr<Fd> folder = open_cgroup(*path);
  if (!folder.ok()) return folder.status();
  struct stat about {};
  if (::fstat(folder->number(), &about) != 0) return from_errno(*path, errno);
  const auto level = *path == "/" ? 0 : std::count(path->begin(), path->end(), '/');
  return Cgroup{about.st_ino, static_cast<std::uint32_t>(level)};
}

}  // namespace squall::network
