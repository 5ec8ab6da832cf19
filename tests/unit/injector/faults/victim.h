/// \file
/// Processes for faults to touch, which end with the objects that hold them.
#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "experiments/processes/proc.h"
#include "injector/faults/fault.h"
#include "injector/network/cgroup.h"
#include "tests/support/eventually.h"
#include "tests/support/namespace.h"

namespace squall::hold {

inline constexpr Duration kBound = std::chrono::seconds(15);

/// A name that fits the kernel's 15 bytes, of this test program alone.
inline std::string unique_name(const std::string& what) {
  return "sqt" + std::to_string(::getpid()) + what;
}

/// What a test and the processes that it starts see alike.
template <typename T>
class Shared {
 public:
  Shared()
      : at_(new (::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                        0)) T()) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { ::munmap(at_, sizeof(T)); }

  T* operator->() const { return at_; }
  T& operator*() const { return *at_; }

 private:
  T* at_;
};

/// A child with a name of its own that waits for its end. Killed with this object.
class Victim {
 public:
  explicit Victim(
      const std::string& name, const std::function<void()>& prepare = [] {},
      std::optional<pid_t> wanted = std::nullopt) {
    int ready[2];
    REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
    clone_args how{};
    how.exit_signal = SIGCHLD;
    if (wanted) {
      how.set_tid = reinterpret_cast<std::uintptr_t>(&*wanted);
      how.set_tid_size = 1;
    }
    pid_ = wanted ? static_cast<pid_t>(::syscall(SYS_clone3, &how, sizeof how)) : ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      sigset_t none;
      sigemptyset(&none);
      ::sigprocmask(SIG_SETMASK, &none, nullptr);
      ::signal(SIGTERM, SIG_DFL);  // doctest's own would report a crash
      ::prctl(PR_SET_NAME, name.c_str());
      prepare();
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(ready[1]);
    char byte = 0;
    CHECK(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }
  void signal(int number) const { CHECK(::kill(pid_, number) == 0); }

  /// The signal that ended it; nothing if it lives.
  std::optional<int> ended_by() {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
    pid_ = -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

  /// As `ended_by`, once it has ended.
  std::optional<int> ends_by_signal() {
    std::optional<int> number;
    support::eventually([&] { return (number = ended_by()).has_value(); }, kBound);
    return number;
  }

  char state() const {
    const auto process = ProcFolder::open(pid());
    const auto stat = process ? process->stat() : std::nullopt;
    return stat ? stat->state : '?';
  }

  std::uint32_t tracer() const {
    const auto process = ProcFolder::open(pid());
    return process ? process->status_number("TracerPid").value_or(0) : 0;
  }

 private:
  pid_t pid_ = -1;
};

/// Forks. True in the child, which ends with its parent.
inline bool fork_child() {
  const pid_t parent = ::getpid();
  if (::fork() != 0) return false;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(0);  // it ended before the line above
  return true;
}

/// One that a machine as slow as the lab does not let lapse before the fault is applied.
inline Duration short_lease() {
  return std::chrono::seconds(std::getenv("SQUALL_LAB") != nullptr ? 5 : 1);
}

/// What a victim does first that is to be of another node.
inline std::function<void()> inside(const support::Namespace& where) {
  return [&where] {
    if (::setns(where.fd(), CLONE_NEWNET) != 0) ::_exit(1);
  };
}

/// A control group of v2, removed with this object.
class OwnGroup {
 public:
  explicit OwnGroup(const std::string& name) { make("/" + name); }

  /// Below another, which must outlive it.
  OwnGroup(const OwnGroup& above, const std::string& name) { make(above.path_ + "/" + name); }
  OwnGroup(const OwnGroup&) = delete;
  OwnGroup& operator=(const OwnGroup&) = delete;
  ~OwnGroup() {
    write("cgroup.freeze", "0");
    // Whoever was in it is being killed, and leaves it when he is buried.
    CHECK(support::eventually(
        [&] { return ::unlinkat(root_.number(), path_.c_str() + 1, AT_REMOVEDIR) == 0; }, kBound));
  }

  const std::string& path() const { return path_; }

  /// Where its hierarchy is mounted.
  std::string mount() const {
    return std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(root_.number()));
  }

  void take(std::uint32_t pid) const { REQUIRE(write("cgroup.procs", std::to_string(pid))); }

  bool write(const std::string& file, const std::string& text) const {
    std::ofstream out(folder() + "/" + file);
    out << text << std::flush;
    return out.good();
  }

  std::string read(const std::string& file) const {
    std::ifstream in(folder() + "/" + file);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  bool is_frozen() const { return read("cgroup.events").find("frozen 1") != std::string::npos; }

 private:
  void make(const std::string& path) {
    path_ = path;
    StatusOr<Fd> root = network::open_cgroup_root();
    REQUIRE_MESSAGE(root.ok(), message_of(root.status()));
    root_ = *std::move(root);
    REQUIRE(::mkdirat(root_.number(), path_.c_str() + 1, 0755) == 0);
  }

  std::string folder() const { return "/proc/self/fd/" + std::to_string(root_.number()) + path_; }

  Fd root_;
  std::string path_;
};

inline std::unique_ptr<Fault> make_fault(const v1::Fault& fault) {
  v1::Start start;
  *start.mutable_fault() = fault;
  return find_kind(fault)->make(start);
}

inline v1::Looked look_at(const v1::Fault& fault) {
  v1::Look look;
  *look.mutable_fault() = fault;
  return find_kind(fault)->look(look);
}

}  // namespace squall::hold
