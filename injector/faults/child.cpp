#include "injector/faults/child.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <vector>

#include "experiments/base/failpoint.h"

namespace squall::hold {
namespace {

/// The holder's socket above all: squalld must see its end when the holder dies.
void close_all_but(std::vector<int> kept) {
  std::sort(kept.begin(), kept.end());
  unsigned first = STDERR_FILENO + 1;
  for (const int number : kept) {
    const auto keep = static_cast<unsigned>(number);
    if (keep > first) ::close_range(first, keep - 1, 0);
    first = std::max(first, keep + 1);
  }
  ::close_range(first, ~0U, 0);
}

[[noreturn]] void live(pid_t parent, int gate, const std::function<void()>& act) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(EXIT_FAILURE);  // it died before the line above
  // The holder takes these as messages; a child has nobody to read them.
  sigset_t none;
  sigemptyset(&none);
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) ::signal(number, SIG_DFL);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  char byte = 0;
  ssize_t got = 0;
  while ((got = ::read(gate, &byte, 1)) < 0 && errno == EINTR) {
  }
  if (got == 1) act();
  ::_exit(EXIT_SUCCESS);
}

}  // namespace

StatusOr<SharedMemory> SharedMemory::map(std::size_t size) {
  void* const start =
      ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED) return from_errno("memory to share with a child", errno);
  return SharedMemory(start, size);
}

SharedMemory::~SharedMemory() {
  if (start_ != nullptr) ::munmap(start_, size_);
}

StatusOr<Child> Child::start(const std::function<void()>& act, const std::vector<int>& keep) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return from_errno("a socket to a child", errno);
  }
  const Fd gate(ends[0]);
  Fd opener(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return error(StatusCode::kResourceExhausted, "a child of the holder cannot be started");
  }
  if (pid == 0) {
    std::vector<int> kept(keep);
    kept.push_back(gate.number());
    close_all_but(std::move(kept));
    live(parent, gate.number(), act);
  }
  failpoint<"child.started">();
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!pidfd.is_open()) {
    const int problem = errno;
    Child(pid, Fd(), std::move(opener)).end();
    return from_errno("pidfd_open of a child", problem);
  }
  return Child(pid, std::move(pidfd), std::move(opener));
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::move(other.pidfd_)),
      gate_(std::move(other.gate_)),
      how_(std::move(other.how_)) {}

void Child::go() {
  // One that has died already cannot be told, and its pidfd says so.
  while (::send(gate_.number(), "x", 1, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

std::string Child::how() {
  int status = 0;
  if (how_.empty() && pid_ > 0 && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    how_ = WIFSIGNALED(status) ? "was killed by signal " + std::to_string(WTERMSIG(status))
                               : "ended with " + std::to_string(WEXITSTATUS(status));
  }
  return how_;
}

void Child::end() {
  if (pid_ <= 0) return;
  if (how().empty()) {
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  pid_ = -1;
}

}  // namespace squall::hold
