#include "injector/daemon/state_dir.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "experiments/base/clock.h"
#include "experiments/base/ids.h"

namespace squall::daemon {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

/// How long a dead squalld's lock may outlive it: a child that it had forked has the lock as well,
/// until it has become another program.
constexpr Duration kLastChild = std::chrono::seconds(1);

/// Whether no process has this pid; of none, too.
bool is_dead(const std::string& pid) {
  const long number = std::strtol(pid.c_str(), nullptr, 10);
  return number <= 0 || (::kill(static_cast<pid_t>(number), 0) != 0 && errno == ESRCH);
}

bool is_state_id(const std::string& id) {
  return id.size() == 8 && std::all_of(id.begin(), id.end(), [](char letter) {
           return (letter >= 'a' && letter <= 'z') || (letter >= '2' && letter <= '7');
         });
}

/// Whole or not at all: objects in the kernel bear the id, so a torn one would orphan them.
Status write_whole(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  ::unlink(fresh.c_str());
  const Fd file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file.is_open()) return from_errno(fresh, errno);
  if (::write(file.number(), text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(file.number()) != 0 || std::rename(fresh.c_str(), path.c_str()) != 0) {
    return from_errno(fresh, errno);
  }
  return ok();
}

}  // namespace

StatusOr<StateDir> StateDir::open(const std::string& path) {
  StateDir dir;
  std::error_code problem;
  dir.path_ = std::filesystem::absolute(path, problem).string();
  if (!problem && !std::filesystem::exists(dir.path_, problem)) {
    std::filesystem::create_directories(dir.path_, problem);
    if (!problem) {
      std::filesystem::permissions(dir.path_, std::filesystem::perms::owner_all, problem);
    }
  }
  if (problem) return from_errno("state directory " + path, problem.value());

  // What stands in the ledger is carried out as root, so nobody else may write there.
  struct stat about {};
  if (::stat(dir.path_.c_str(), &about) != 0) return from_errno(dir.path_, errno);
  if (about.st_uid != ::geteuid() || (about.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return error(StatusCode::kFailedPrecondition,
                 "the state directory " + dir.path_ +
                     " can be written by others: chown it to uid " + std::to_string(::geteuid()) +
                     " and chmod it to 700");
  }

  const std::string lock = dir.path_ + "/lock";
  dir.lock_.reset(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  // On a disk that has become read-only there is still a ledger to be swept.
  if (!dir.lock_.is_open())
    dir.lock_.reset(::open(lock.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!dir.lock_.is_open()) return from_errno(lock, errno);
  const MonotonicTime until = monotonic_now() + kLastChild;
  while (::flock(dir.lock_.number(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return from_errno(lock, errno);
    if (is_dead(first_line(lock)) && monotonic_now() < until) {
      ::poll(nullptr, 0, 1);
      continue;
    }
    return error(StatusCode::kFailedPrecondition, "squalld with pid " + first_line(lock) +
                                                      " already serves the state directory " +
                                                      dir.path_);
  }
  // For people; the lock is what counts.
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(dir.lock_.number(), 0) == 0) {
    static_cast<void>(!::pwrite(dir.lock_.number(), pid.data(), pid.size(), 0));
  }

  const std::string id_path = dir.path_ + "/state-id";
  dir.id_ = first_line(id_path);
  if (!is_state_id(dir.id_)) {
    if (!dir.id_.empty()) {
      return error(StatusCode::kDataLoss,
                   id_path +
                       " is damaged: what bears the old id can only be swept by squall-hold "
                       "--sweep; remove the file after that");
    }
    dir.id_ = new_state_id();
    if (const Status status = write_whole(id_path, dir.id_ + "\n"); !status.ok()) return status;
  }
  return dir;
}

StatusOr<StateDir::Seen> StateDir::look(const std::string& path) {
  Seen seen;
  seen.id = first_line(path + "/state-id");
  seen.ledger = path + "/ledger";
  const std::string lock = path + "/lock";
  const Fd file(::open(lock.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file.is_open() && errno != ENOENT) return from_errno(lock, errno);
  if (!file.is_open() || !is_state_id(seen.id)) {
    return error(StatusCode::kNotFound, "no squalld has kept its state in " + path);
  }
  // Shared, so that two who look are not in each other's way.
  if (::flock(file.number(), LOCK_SH | LOCK_NB) != 0) seen.daemon = first_line(lock);
  return seen;
}

std::optional<Halt> StateDir::halted() const { return read_halt(path_ + "/" + kHaltedFile); }

Status StateDir::keep_halted(const std::optional<Halt>& halted) const {
  const std::string path = path_ + "/" + kHaltedFile;
  if (halted) return write_whole(path, format_halt(*halted));
  if (::unlink(path.c_str()) == 0 || errno == ENOENT) return ok();
  return from_errno(path, errno);
}

std::string boot_id() { return first_line("/proc/sys/kernel/random/boot_id"); }

}  // namespace squall::daemon
