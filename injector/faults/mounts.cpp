#include "injector/faults/mounts.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <utility>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "experiments/base/failpoint.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

/// Nobody's: one below the number that stands for "no user".
constexpr const char* kNobodyAtAll = "4294967294";

/// A line of /proc/PID/mountinfo. Source: proc(5).
struct Mount {
  int id = 0;
  int parent = 0;
  std::string device;
  std::string root;
  std::string point;
  bool read_only = false;
  std::string source;
};

/// Blanks, tabs, line ends and backslashes stand there as three octal digits.
std::string unescaped(const std::string& text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      plain += text[i];
      continue;
    }
    plain +=
        static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
    i += 3;
  }
  return plain;
}

/// Errors: kNotFound when the process is gone.
StatusOr<std::vector<Mount>> mounts_of(const std::string& process) {
  std::ifstream lines("/proc/" + process + "/mountinfo");
  std::vector<Mount> mounts;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    Mount mount;
    std::string options;
    std::string word;
    words >> mount.id >> mount.parent >> mount.device >> mount.root >> mount.point >> options;
    while (words >> word && word != "-") {
    }
    words >> word >> mount.source;
    if (!words) return error(StatusCode::kInternal, "cannot read mountinfo: " + line);
    mount.root = unescaped(mount.root);
    mount.point = unescaped(mount.point);
    mount.source = unescaped(mount.source);
    mount.read_only = options == "ro" || options.starts_with("ro,");
    mounts.push_back(std::move(mount));
  }
  if (mounts.empty()) return error(StatusCode::kNotFound, "no mounts of process " + process);
  return mounts;
}

/// What of the mount's file system a path below it is.
std::string root_of(const std::string& path, const Mount& mount) {
  const std::string below = path.substr(mount.point == "/" ? 0 : mount.point.size());
  if (mount.root != "/") return mount.root + below;
  return below.empty() ? "/" : below;
}

/// A read-only mount of ours shows what is below it anyway, and nobody mounts that for any other
/// reason than to hold it differently: plan_read_only() refuses where somebody does.
bool is_it(const Mount& mount, const std::vector<Mount>& mounts, const v1::Unmount& undo) {
  if (mount.point != undo.path()) return false;
  if (!undo.tag().empty()) return mount.source == undo.tag();
  if (mount.device != undo.device() || mount.root != undo.root()) return false;
  return std::any_of(mounts.begin(), mounts.end(), [&](const Mount& below) {
    return below.id == mount.parent && below.device == undo.device() &&
           root_of(undo.path(), below) == undo.root();
  });
}

const Mount* find_it(const std::vector<Mount>& mounts, const v1::Unmount& undo) {
  const auto found = std::find_if(mounts.begin(), mounts.end(),
                                  [&](const Mount& mount) { return is_it(mount, mounts, undo); });
  return found == mounts.end() ? nullptr : &*found;
}

/// A mount namespace and some process in it.
struct MountNamespace {
  Fd fd;
  std::string process;
};

std::uint64_t inode_of(int fd) {
  struct stat status {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

/// All in which a process of this node lives; this process's own is the first. Errors: kInternal
/// when /proc cannot be read.
StatusOr<std::vector<MountNamespace>> mount_namespaces() {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc"), &::closedir);
  if (!folder) return from_errno("opening /proc", errno);
  std::map<std::uint64_t, MountNamespace> known;
  const auto add = [&](const std::string& process) {
    Fd fd(::open(("/proc/" + process + "/ns/mnt").c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd.is_open()) return std::uint64_t{0};  // ended, or a thread of the kernel
    const std::uint64_t inode = inode_of(fd.number());
    known.try_emplace(inode, MountNamespace{std::move(fd), process});
    return inode;
  };
  const std::uint64_t own = add("self");
  if (own == 0) return from_errno("opening /proc/self/ns/mnt", errno);
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") == std::string::npos) add(name);
  }
  std::vector<MountNamespace> all;
  all.push_back(std::move(known.at(own)));
  for (auto& [inode, one] : known) {
    if (inode != own) all.push_back(std::move(one));
  }
  return all;
}

/// What is mounted in a namespace; empty if its last process has ended.
StatusOr<std::vector<Mount>> mounts_in(const MountNamespace& where) {
  StatusOr<std::vector<Mount>> mounts = mounts_of(where.process);
  if (mounts.status().code() == StatusCode::kNotFound) return std::vector<Mount>();
  if (!mounts.ok()) return mounts;
  struct stat now {};
  const std::string link = "/proc/" + where.process + "/ns/mnt";
  if (::stat(link.c_str(), &now) != 0 || now.st_ino != inode_of(where.fd.number())) {
    return std::vector<Mount>();  // the number is another process's
  }
  return mounts;
}

/// Where files are still open below a read-only mount, or somebody works in it, it lives on unseen,
/// and must not stay read-only there.
int make_writable(const v1::Unmount& undo) {
  if (!undo.tag().empty()) return 0;
  mount_attr writable{};
  writable.attr_clr = MOUNT_ATTR_RDONLY;
  const int failed = ::mount_setattr(AT_FDCWD, undo.path().c_str(), AT_SYMLINK_NOFOLLOW, &writable,
                                     sizeof writable);
  return failed == 0 ? 0 : errno;
}

int detach(const v1::Unmount& undo) {
  return ::umount2(undo.path().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0 ? 0 : errno;
}

/// Acts on the mount of that number, if it is what the path leads to. 0 or an errno; ESTALE if the
/// path leads elsewhere.
int act_on(const v1::Unmount& undo, int id, int proc, int (*act)(const v1::Unmount& undo)) {
  const int file = ::open(undo.path().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (file < 0) return errno;
  const bool leads_there = mount_of(file, proc) == id;
  ::close(file);
  return leads_there ? act(undo) : ESTALE;
}

/// As act_on(), by a child: whoever enters a mount namespace loses its own root and folder.
int act_in(const MountNamespace& where, const v1::Unmount& undo, int id,
           int (*act)(const v1::Unmount& undo)) {
  // There may be no /proc in that namespace.
  const Fd proc(::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC));
  const pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) {
    ::_exit(::setns(where.fd.number(), CLONE_NEWNS) == 0 ? act_on(undo, id, proc.number(), act)
                                                         : errno);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

/// Errors: kDataLoss for what is still there.
Status unmount_in(const MountNamespace& where, const v1::Unmount& undo) {
  for (;;) {
    const StatusOr<std::vector<Mount>> mounts = mounts_in(where);
    if (!mounts.ok()) return mounts.status();
    const Mount* ours = find_it(*mounts, undo);
    if (ours == nullptr) return ok();
    int failed = act_in(where, undo, ours->id, make_writable);
    failpoint<"mounts.made_writable">();
    if (failed == 0) failed = act_in(where, undo, ours->id, detach);
    failpoint<"mounts.detached">();
    if (failed == 0) continue;
    std::string why = failed == ESTALE ? "somebody else mounted something over it"
                                       : message_of(from_errno("umount2", failed));
    if (where.process != "self") why += ", as process " + where.process + " sees it";
    return error(StatusCode::kDataLoss,
                 "the mount over " + escape_controls(undo.path()) + " is still there: " + why);
  }
}

Status set_option(const Fd& context, const char* key, const std::string& value) {
  if (::fsconfig(context.number(), FSCONFIG_SET_STRING, key, value.c_str(), 0) == 0) return ok();
  return from_errno(std::string("fuse's option ") + key, errno);
}

Status lay_over(const Fd& mount, const FoundPath& found) {
  if (::move_mount(mount.number(), "", found.self.number(), "",
                   MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) == 0) {
    failpoint<"mounts.mounted">();
    return ok();
  }
  return from_errno("mounting over " + escape_controls(found.path()), errno);
}

Status run(const v1::Undo& undo) { return unmount(undo.unmount()); }

std::string words_of(const v1::Undo& undo) {
  return "mount over " + escape_controls(undo.unmount().path());
}

}  // namespace

StatusOr<v1::Unmount> plan_cover(const FoundPath& found, const std::string& tag) {
  v1::Unmount undo;
  undo.set_path(found.path());
  undo.set_tag(tag);
  return undo;
}

StatusOr<v1::Unmount> plan_read_only(const FoundPath& found) {
  const StatusOr<std::vector<Mount>> own = mounts_of("self");
  if (!own.ok()) return own.status();
  const int id = mount_of(found.self.number());
  const auto holding =
      std::find_if(own->begin(), own->end(), [&](const Mount& mount) { return mount.id == id; });
  if (holding == own->end() || !is_within(found.path(), holding->point)) {
    return error(StatusCode::kInternal,
                 "cannot tell by which mount " + escape_controls(found.path()) + " is reached");
  }
  v1::Unmount undo;
  undo.set_path(found.path());
  undo.set_device(holding->device);
  undo.set_root(root_of(found.path(), *holding));
  const StatusOr<std::vector<MountNamespace>> all = mount_namespaces();
  if (!all.ok()) return all.status();
  for (const MountNamespace& where : *all) {
    const StatusOr<std::vector<Mount>> mounts = mounts_in(where);
    if (!mounts.ok()) return mounts.status();
    if (find_it(*mounts, undo) == nullptr) continue;
    return error(StatusCode::kFailedPrecondition,
                 escape_controls(found.path()) + " is mounted over itself already" +
                     (where.process == "self" ? "" : ", as process " + where.process + " sees it"));
  }
  return undo;
}

Status cover_unreadable(const FoundPath& found, const std::string& tag) {
  const Fd device(::open("/dev/fuse", O_RDWR | O_CLOEXEC));
  if (!device.is_open()) {
    return error(StatusCode::kFailedPrecondition, kNoFuse);
  }
  const Fd context(::fsopen("fuse", FSOPEN_CLOEXEC));
  if (!context.is_open()) return from_errno("fsopen of fuse", errno);
  char kind[16];
  std::snprintf(kind, sizeof kind, "%o", found.status.st_mode & S_IFMT);
  const std::pair<const char*, std::string> options[] = {
      {"fd", std::to_string(device.number())},
      {"rootmode", kind},
      {"user_id", kNobodyAtAll},
      {"group_id", kNobodyAtAll},
      {"source", tag},
  };
  for (const auto& [key, value] : options) {
    if (Status set = set_option(context, key, value); !set.ok()) return set;
  }
  if (::fsconfig(context.number(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return from_errno("making a fuse file system", errno);
  }
  const Fd mount(::fsmount(context.number(), FSMOUNT_CLOEXEC,
                           MOUNT_ATTR_NODEV | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
  if (!mount.is_open()) return from_errno("fsmount", errno);
  // The device's descriptor is closed with this function: with nobody to ask, nothing can ever wait
  // for an answer.
  return lay_over(mount, found);
}

Status cover_read_only(const FoundPath& found) {
  const Fd mount(::open_tree(found.self.number(), "",
                             OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE));
  if (!mount.is_open()) return from_errno("open_tree", errno);
  mount_attr read_only{};
  read_only.attr_set = MOUNT_ATTR_RDONLY;
  if (::mount_setattr(mount.number(), "", AT_EMPTY_PATH, &read_only, sizeof read_only) != 0) {
    return from_errno("mount_setattr", errno);
  }
  return lay_over(mount, found);
}

StatusOr<bool> is_mounted(const v1::Unmount& undo) {
  const StatusOr<std::vector<Mount>> mounts = mounts_of("self");
  if (!mounts.ok()) return mounts.status();
  const Fd file(::open(undo.path().c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  const Mount* ours = find_it(*mounts, undo);
  return ours != nullptr && file.is_open() && mount_of(file.number()) == ours->id;
}

Status unmount(const v1::Unmount& undo) {
  // What a namespace got by propagation goes with ours, and nobody could make it writable then.
  StatusOr<std::vector<MountNamespace>> all = mount_namespaces();
  if (!all.ok()) return all.status();
  for (const MountNamespace& where : *all) {
    const StatusOr<std::vector<Mount>> mounts = mounts_in(where);
    if (!mounts.ok()) return mounts.status();
    const Mount* ours = find_it(*mounts, undo);
    if (ours != nullptr) act_in(where, undo, ours->id, make_writable);
  }
  // Twice, for a namespace that took its copy while the first look was under way.
  for (int look = 0; look < 2; ++look) {
    for (const MountNamespace& where : *all) {
      if (Status done = unmount_in(where, undo); !done.ok()) return done;
    }
    all = mount_namespaces();
    if (!all.ok()) return all.status();
  }
  return ok();
}

bool has_own_mount_namespace() {
  struct stat own {};
  struct stat first {};
  return ::stat("/proc/self/ns/mnt", &own) == 0 && ::stat("/proc/1/ns/mnt", &first) == 0 &&
         own.st_ino != first.st_ino;
}

extern const UndoKind kUnmount;
const UndoKind kUnmount{.what = v1::Undo::kUnmount, .run = run, .in_words = words_of};

}  // namespace squall::hold
