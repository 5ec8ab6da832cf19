#include "injector/faults/groups.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>
#include <system_error>
#include <utility>

#include "experiments/base/failpoint.h"
#include "experiments/base/file.h"
#include "injector/network/cgroup.h"

namespace squall::hold {
namespace {

namespace fs = std::filesystem;

StatusOr<std::string> read_at(const Fd& folder, const std::string& name) {
  const Fd file(::openat(folder.number(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open()) return from_errno(name, errno);
  std::string text;
  if (const int problem = read_rest(file.number(), text)) return from_errno(name, problem);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

bool has_word(const std::string& text, std::string_view word, char between) {
  std::istringstream words(text);
  for (std::string one; std::getline(words, one, between);) {
    if (one == word) return true;
  }
  return false;
}

/// Where the controller acts, and as what an Undo knows that.
StatusOr<std::pair<std::string, Fd>> find_hierarchy(std::string_view controller) {
  StatusOr<Fd> root = network::open_cgroup_root();
  if (root.ok()) {
    const StatusOr<std::string> controllers = read_at(*root, "cgroup.controllers");
    if (controllers.ok() && has_word(*controllers, controller, ' ')) {
      return std::pair(std::string(), *std::move(root));
    }
  }
  StatusOr<Fd> own = open_v1_root(controller);
  if (!own.ok()) return own.status();
  return std::pair(std::string(controller), *std::move(own));
}

/// 0, or the errno.
int try_write(const Group& group, const std::string& name, const std::string& value) {
  const Fd file(::openat(group.folder.number(), name.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open()) return errno;
  if (::write(file.number(), value.data(), value.size()) < 0) return errno;
  failpoint<"groups.written">();
  return 0;
}

StatusOr<Group> open_below(const Fd& root, std::string hierarchy, std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  if (path.empty() || path == "/") {
    return error(StatusCode::kInvalidArgument,
                 "the root of all control groups has no limit; name a group below it");
  }
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  Group group{std::move(hierarchy), path, 0, Fd()};
  group.folder.reset(static_cast<int>(
      ::syscall(SYS_openat2, root.number(), ("." + path).c_str(), &how, sizeof how)));
  if (!group.folder.is_open()) {
    if (errno != ENOENT && errno != ENOTDIR) return from_errno("the control group " + path, errno);
    return error(StatusCode::kNotFound,
                 "there is no control group " + path +
                     (group.is_v2() ? "" : " of the " + group.hierarchy + " controller"));
  }
  struct stat about {};
  if (::fstat(group.folder.number(), &about) != 0) return from_errno(path, errno);
  group.inode = about.st_ino;
  return group;
}

}  // namespace

StatusOr<Fd> open_v1_root(std::string_view controller) {
  // Source: proc(5), /proc/PID/mountinfo; the controllers are among the last field's options.
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string id, parent, device, root, point, word, type, source, options;
    words >> id >> parent >> device >> root >> point;
    while (words >> word && word != "-") {
    }
    if (!(words >> type >> source >> options) || type != "cgroup") continue;
    if (!has_word(options, controller, ',')) continue;
    Fd folder(::open(point.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (folder.is_open()) return folder;
  }
  return error(StatusCode::kUnimplemented,
               "this node's control groups have no " + std::string(controller) + " controller");
}

StatusOr<Group> find_group(const v1::Scope& scope, std::string_view controller) {
  if (scope.cgroup().empty() && scope.unit().empty()) {
    return error(StatusCode::kInvalidArgument, "a cgroup or a unit is needed");
  }
  StatusOr<std::pair<std::string, Fd>> hierarchy = find_hierarchy(controller);
  if (!hierarchy.ok()) return hierarchy.status();
  std::string path = scope.cgroup();
  if (!scope.unit().empty()) {
    StatusOr<std::string> found = network::path_of_unit(hierarchy->second, scope.unit());
    if (!found.ok()) return found.status();
    path = *std::move(found);
  }
  return open_below(hierarchy->second, std::move(hierarchy->first), std::move(path));
}

StatusOr<Group> open_group(const std::string& hierarchy, const std::string& path) {
  const StatusOr<Fd> root =
      hierarchy.empty() ? network::open_cgroup_root() : open_v1_root(hierarchy);
  if (!root.ok()) return root.status();
  return open_below(*root, hierarchy, path);
}

StatusOr<std::string> read_key(const Group& group, const std::string& name) {
  StatusOr<std::string> text = read_at(group.folder, name);
  return text.ok() ? text : in_context("the control group " + group.path, text.status());
}

Status write_key(const Group& group, const std::string& name, const std::string& value) {
  const int problem = try_write(group, name, value);
  if (problem == 0) return ok();
  return from_errno("the control group " + group.path + ": " + name, problem);
}

StatusOr<std::uint64_t> read_number(const Group& group, const std::string& name) {
  const StatusOr<std::string> text = read_key(group, name);
  if (!text.ok()) return text.status();
  if (*text == "max") return std::numeric_limits<std::uint64_t>::max();
  std::uint64_t number = 0;
  const char* const end = text->data() + text->size();
  if (const auto read = std::from_chars(text->data(), end, number);
      read.ec != std::errc() || read.ptr != end) {
    return error(StatusCode::kInternal,
                 "the control group " + group.path + ": " + name + " is no number");
  }
  return number;
}

Status move_into(const Group& group, std::uint32_t pid) {
  // Source: cgroup-v2, "No Internal Process Constraint" and "Threads".
  switch (const int problem = try_write(group, "cgroup.procs", std::to_string(pid))) {
    case 0:
      break;
    case EBUSY:
      return error(StatusCode::kFailedPrecondition,
                   "the control group " + group.path +
                       " takes no processes, for it divides what it has among the groups below "
                       "it; name one of those");
    case EOPNOTSUPP:
      return error(StatusCode::kFailedPrecondition,
                   "the control group " + group.path + " takes threads only, not processes");
    default:
      return from_errno("the control group " + group.path + ": cgroup.procs", problem);
  }
  const StatusOr<std::uint32_t> found =
      find_process(group, [&](std::uint32_t one) { return one == pid; });
  if (!found.ok()) return found.status();
  if (*found == pid) return ok();
  return error(StatusCode::kInternal,
               "process " + std::to_string(pid) + " is not in the control group " + group.path);
}

StatusOr<std::uint32_t> find_process(const Group& group,
                                     const std::function<bool(std::uint32_t)>& fits) {
  const auto first_in = [&](const fs::path& folder) -> std::uint32_t {
    std::ifstream pids(folder / "cgroup.procs");
    for (std::uint32_t pid = 0; pids >> pid;) {
      if (fits(pid)) return pid;
    }
    return 0;
  };
  const fs::path begin = "/proc/self/fd/" + std::to_string(group.folder.number()) + "/";
  if (const std::uint32_t found = first_in(begin); found != 0) return found;
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(begin, failed);
       !failed && entry != fs::recursive_directory_iterator(); entry.increment(failed)) {
    std::error_code gone;
    if (!entry->is_directory(gone)) continue;
    if (const std::uint32_t found = first_in(entry->path()); found != 0) return found;
  }
  // A group that was removed while it was read holds nobody.
  if (failed && failed != std::errc::no_such_file_or_directory) {
    return from_errno("the control group " + group.path, failed.value());
  }
  return 0U;
}

}  // namespace squall::hold
