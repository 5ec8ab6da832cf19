#include "injector/faults/freezer.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <sstream>
#include <utility>

#include "experiments/base/failpoint.h"
#include "experiments/base/file.h"
#include "experiments/processes/proc.h"
#include "injector/faults/groups.h"
#include "injector/faults/undo.h"
#include "injector/network/cgroup.h"

namespace squall::hold {
namespace {

constexpr Duration kStep = std::chrono::milliseconds(5);

/// Below the folder and nowhere else, over no link.
Fd open_below(int folder, const std::string& path, std::uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC | O_NOFOLLOW;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV;
  return Fd(static_cast<int>(::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how)));
}

Fd open_group(const Fd& root, const std::string& path) {
  return open_below(root.number(), "." + path, O_RDONLY | O_DIRECTORY);
}

bool has_file(const Fd& folder, const char* name) {
  return ::faccessat(folder.number(), name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/// A group that is gone while its folder is open says ENODEV.
Status trouble(const std::string& context, int problem) {
  return from_errno(context, problem == ENODEV ? ENOENT : problem);
}

StatusOr<std::string> read_file(const Fd& folder, const char* name) {
  const Fd file = open_below(folder.number(), name, O_RDONLY);
  if (!file.is_open()) return trouble(name, errno);
  std::string text;
  if (const int problem = read_rest(file.number(), text)) return trouble(name, problem);
  return text;
}

/// The numbers in a file of the folder and of all below it. A threaded group says EOPNOTSUPP: its
/// processes are told by the group above it. Source: Documentation/admin-guide/cgroup-v2.rst.
Status collect(const Fd& folder, const char* file, std::vector<std::uint32_t>& numbers) {
  const StatusOr<std::string> text = read_file(folder, file);
  if (!text.ok() && text.status().code() != StatusCode::kUnimplemented) {
    // Removed meanwhile, by whoever emptied it.
    return text.status().code() == StatusCode::kNotFound ? ok() : text.status();
  }
  std::istringstream lines(text.ok() ? *text : "");
  for (std::uint32_t number = 0; lines >> number;) numbers.push_back(number);

  const int again = ::openat(folder.number(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (again < 0) return from_errno("a control group", errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::fdopendir(again), &::closedir);
  if (!entries) {
    ::close(again);
    return from_errno("a control group", errno);
  }
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string name = entry->d_name;
    if (entry->d_type != DT_DIR || name == "." || name == "..") continue;
    const Fd below = open_below(folder.number(), name, O_RDONLY | O_DIRECTORY);
    if (!below.is_open()) continue;
    if (Status collected = collect(below, file, numbers); !collected.ok()) return collected;
  }
  return ok();
}

}  // namespace

StatusOr<Freezer> Freezer::open(const v1::Pause& wanted) {
  StatusOr<Freezer> found = find(wanted);
  if (!found.ok()) return found;
  if (::faccessat(found->folder_.number(), found->file(), W_OK, 0) == 0) return found;
  return error(StatusCode::kFailedPrecondition,
               found->in_words() + " cannot be frozen: its hierarchy is mounted to be read only");
}

StatusOr<Freezer> Freezer::find(const v1::Pause& wanted) {
  v1::Scope scope;
  if (!wanted.unit().empty()) scope.set_unit(wanted.unit());
  if (!wanted.cgroup().empty()) scope.set_cgroup(wanted.cgroup());
  const StatusOr<std::string> path = network::cgroup_path(scope);
  if (!path.ok()) return path.status();
  if (*path == "/") {
    return error(StatusCode::kFailedPrecondition,
                 "the root control group holds the whole node and cannot be frozen");
  }
  const StatusOr<Fd> root = network::open_cgroup_root();
  if (root.ok()) {
    if (Fd folder = open_group(*root, *path); folder.is_open()) {
      if (has_file(folder, "cgroup.freeze")) return Freezer(*path, false, std::move(folder));
      return error(StatusCode::kUnimplemented,
                   "this kernel's cgroup v2 has no freezer: Linux 5.2 is needed");
    }
  }
  const StatusOr<Fd> v1_root = open_v1_root("freezer");
  if (!root.ok() && !v1_root.ok()) return root.status();
  if (v1_root.ok()) {
    Fd folder = open_group(*v1_root, *path);
    if (folder.is_open()) return Freezer(*path, true, std::move(folder));
  }
  return error(StatusCode::kNotFound, "there is no control group " + *path +
                                          (v1_root.ok() ? ", in v2 or in v1's freezer" : ""));
}

StatusOr<Freezer> Freezer::open(const v1::ThawCgroup& undo) {
  const StatusOr<Fd> root = undo.v1() ? open_v1_root("freezer") : network::open_cgroup_root();
  if (!root.ok()) return root.status();
  Fd folder = open_group(*root, undo.path());
  if (!folder.is_open()) return from_errno("the control group " + undo.path(), errno);
  Freezer freezer(undo.path(), undo.v1(), std::move(folder));
  if (freezer.inode() != undo.inode()) {
    return error(StatusCode::kNotFound, "another control group bears the path " + undo.path());
  }
  return freezer;
}

std::string Freezer::in_words() const { return "control group " + path_ + (v1_ ? " (v1)" : ""); }

StatusOr<std::string> Freezer::state() const {
  StatusOr<std::string> text = read_file(folder_, file());
  if (!text.ok()) return in_context(in_words(), text.status());
  while (!text->empty() && text->back() == '\n') text->pop_back();
  return text;
}

StatusOr<bool> Freezer::is_frozen() const {
  if (v1_) {
    const StatusOr<std::string> now = state();
    if (!now.ok()) return now.status();
    return *now == "FROZEN";
  }
  const StatusOr<std::string> now = events();
  if (!now.ok()) return in_context(in_words(), now.status());
  return now->find("frozen 1") != std::string::npos;
}

Status Freezer::write(const std::string& wanted) const {
  const char* name = file();
  const Fd file = open_below(folder_.number(), name, O_WRONLY);
  if (!file.is_open() ||
      ::write(file.number(), wanted.data(), wanted.size()) != std::ssize(wanted)) {
    return trouble(in_words() + ": " + name, errno);
  }
  failpoint<"freezer.written">();
  const StatusOr<std::string> now = state();
  if (!now.ok()) return now.status();
  // v1 reads FREEZING until all stand.
  if (*now == wanted || (v1_ && wanted == frozen() && *now == "FREEZING")) return ok();
  return error(StatusCode::kDataLoss,
               in_words() + ": " + name + " reads " + *now + " after " + wanted + " was written");
}

Status Freezer::wait_until_frozen(MonotonicTime by) const {
  for (;;) {
    const StatusOr<bool> now = is_frozen();
    if (!now.ok()) return now.status();
    if (*now) return ok();
    if (monotonic_now() >= by) {
      return error(StatusCode::kFailedPrecondition,
                   in_words() +
                       " does not freeze: one of its processes waits in the kernel, "
                       "where nothing interrupts it");
    }
    const timespec step{.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
    ::nanosleep(&step, nullptr);
  }
}

v1::ThawCgroup Freezer::undo(const std::string& before) const {
  v1::ThawCgroup undo;
  undo.set_path(path_);
  undo.set_inode(inode());
  undo.set_v1(v1_);
  undo.set_ours(frozen());
  undo.set_before(before);
  return undo;
}

StatusOr<std::vector<std::uint32_t>> Freezer::members(const char* name) const {
  std::vector<std::uint32_t> numbers;
  if (Status collected = collect(folder_, name, numbers); !collected.ok()) {
    return in_context(in_words(), collected);
  }
  std::sort(numbers.begin(), numbers.end());
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  return numbers;
}

StatusOr<Fd> Freezer::lock() const {
  Fd lock(::openat(folder_.number(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.is_open()) return from_errno(in_words(), errno);
  if (::flock(lock.number(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return from_errno(in_words() + ": flock", errno);
    return error(StatusCode::kFailedPrecondition, "another fault has frozen " + in_words());
  }
  return lock;
}

/// The file's changes are told as urgent, and a holder waits for what is readable: an epoll
/// descriptor is, for whatever it holds.
Status Freezer::watch() {
  if (v1_) return ok();
  events_ = open_below(folder_.number(), "cgroup.events", O_RDONLY);
  watched_.reset(::epoll_create1(EPOLL_CLOEXEC));
  epoll_event changed{};
  changed.events = EPOLLPRI;
  if (!events_.is_open() || !watched_.is_open() ||
      ::epoll_ctl(watched_.number(), EPOLL_CTL_ADD, events_.number(), &changed) != 0) {
    return trouble(in_words() + ": cgroup.events", errno);
  }
  return ok();
}

/// Read through the watched descriptor, for which that is then no news any more.
StatusOr<std::string> Freezer::events() const {
  if (!events_.is_open()) return read_file(folder_, "cgroup.events");
  std::array<char, 256> text{};
  const ssize_t size = ::pread(events_.number(), text.data(), text.size(), 0);
  if (size < 0) return trouble("cgroup.events", errno);
  return std::string(text.data(), static_cast<std::size_t>(size));
}

std::uint64_t Freezer::inode() const {
  struct stat about {};
  return ::fstat(folder_.number(), &about) == 0 ? about.st_ino : 0;
}

namespace {

/// What is no longer as we left it is left alone: the group is gone, or another bears its path, or
/// somebody thawed it.
Status thaw(const v1::Undo& undo) {
  const v1::ThawCgroup& what = undo.thaw_cgroup();
  const StatusOr<Freezer> freezer = Freezer::open(what);
  if (freezer.status().code() == StatusCode::kNotFound) return ok();
  if (!freezer.ok()) return freezer.status();
  const StatusOr<std::string> now = freezer->state();
  if (now.status().code() == StatusCode::kNotFound) return ok();
  if (!now.ok()) return now.status();
  if (*now != what.ours() && *now != "FREEZING") return ok();
  return freezer->write(what.before());
}

}  // namespace

extern const UndoKind kThawCgroup;
const UndoKind kThawCgroup{
    .what = v1::Undo::kThawCgroup, .run = thaw, .in_words = [](const v1::Undo& undo) {
      return "frozen control group " + undo.thaw_cgroup().path();
    }};

}  // namespace squall::hold
