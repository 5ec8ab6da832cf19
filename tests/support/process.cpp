#include "tests/support/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "tests/support/namespace.h"

namespace squall::support {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

// <sys/pidfd.h> of glibc 2.36 cannot be included from C++.
int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

int send_signal(int pidfd, int number) {
  return static_cast<int>(syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0));
}

bool ended_within(int pidfd, Duration bound) {
  pollfd waiting{pidfd, POLLIN, 0};
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(bound);
  const timespec limit{.tv_sec = seconds.count(), .tv_nsec = (bound - seconds).count()};
  return ppoll(&waiting, 1, &limit, nullptr) > 0;
}

std::string read_whole(int fd) {
  std::string text;
  char buffer[65536];
  for (ssize_t got = 0;
       (got = pread(fd, buffer, sizeof buffer, static_cast<off_t>(text.size()))) > 0;) {
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return text;
}

std::vector<char*> pointers(const std::vector<std::string>& words) {
  std::vector<char*> all;
  for (const std::string& word : words) all.push_back(const_cast<char*>(word.c_str()));
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& ours) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    bool replaced = false;
    for (const auto& [name, value] : ours) {
      replaced = replaced || std::string_view(*entry).starts_with(name + '=');
    }
    if (!replaced) all.emplace_back(*entry);
  }
  for (const auto& [name, value] : ours) all.push_back(name + '=' + value);
  return all;
}

std::string found_on_path(const std::string& program) {
  if (program.find('/') != std::string::npos) return program;
  for (const char* folder : {"/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/"}) {
    if (access((folder + program).c_str(), X_OK) == 0) return folder + program;
  }
  throw std::runtime_error(program + " is not installed");
}

}  // namespace

std::string binary(const std::string& name) {
  const char* folder = std::getenv("SQUALL_BIN_DIR");
  return std::string(folder != nullptr ? folder : SQUALL_BUILT_BIN_DIR) + '/' + name;
}

void go_first() { setpriority(PRIO_PROCESS, 0, -15); }

Process::Process(const Command& command) {
  const std::string program = found_on_path(command.argv.at(0));
  const std::vector<std::string> environment = environment_with(command.environment);
  const std::vector<char*> argv = pointers(command.argv);
  const std::vector<char*> envp = pointers(environment);
  // Above every number asked for, so that putting one in its place overwrites none still to be
  // placed.
  std::vector<std::pair<int, int>> placed;
  for (const auto& [ours, theirs] : command.descriptors) {
    placed.emplace_back(fcntl(ours, F_DUPFD_CLOEXEC, 100), theirs);
  }
  out_ = memfd_create("out", MFD_CLOEXEC);
  err_ = memfd_create("err", MFD_CLOEXEC);
  const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t parent = getpid();

  pid_ = fork();
  if (pid_ == 0) {
    // From here to exec only calls that are safe between the two.
    if (command.where != nullptr && setns(command.where->fd(), CLONE_NEWNET) != 0) _exit(126);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(null, STDIN_FILENO);
    dup2(out_, STDOUT_FILENO);
    dup2(err_, STDERR_FILENO);
    for (const auto& [ours, theirs] : placed) dup2(ours, theirs);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(125);
    execve(program.c_str(), argv.data(), envp.data());
    dprintf(STDERR_FILENO, "cannot run %s: %s\n", program.c_str(), std::strerror(errno));
    _exit(127);
  }
  const int fork_errno = errno;
  close(null);
  for (const auto& [ours, theirs] : placed) close(ours);
  errno = fork_errno;
  if (pid_ < 0) fail("cannot fork");
  pidfd_ = open_pidfd(pid_);
  if (pidfd_ < 0) fail("cannot open a pidfd");
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      pidfd_(std::exchange(other.pidfd_, -1)),
      out_(std::exchange(other.out_, -1)),
      err_(std::exchange(other.err_, -1)),
      status_(other.status_) {}

Process::~Process() {
  if (pidfd_ >= 0 && !status_) {
    send_signal(pidfd_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  for (const int fd : {pidfd_, out_, err_}) {
    if (fd >= 0) close(fd);
  }
}

void Process::signal(int number) const {
  if (send_signal(pidfd_, number) != 0 && errno != ESRCH) fail("cannot send a signal");
}

bool Process::running() { return !wait(Duration::zero()).has_value(); }

std::optional<int> Process::wait(Duration bound) {
  if (status_) return status_;
  if (!ended_within(pidfd_, bound)) return std::nullopt;
  int status = 0;
  if (waitpid(pid_, &status, 0) != pid_) fail("cannot wait for a child");
  status_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  return status_;
}

std::string Process::out() const { return read_whole(out_); }
std::string Process::err() const { return read_whole(err_); }

std::string run(const Command& command) {
  Process process(command);
  const std::optional<int> status = process.wait(std::chrono::seconds(10));
  if (status != 0) {
    std::string words;
    for (const std::string& word : command.argv) words += word + ' ';
    throw std::runtime_error(
        words +
        (status ? "ended with status " + std::to_string(*status) : std::string("did not end")) +
        ": " + process.out() + process.err());
  }
  return process.out();
}

Stranger::Stranger(pid_t pid) : pid_(pid), pidfd_(open_pidfd(pid)) {
  if (pidfd_ < 0) fail("cannot open a pidfd of process " + std::to_string(pid));
}

Stranger::Stranger(Stranger&& other) noexcept
    : pid_(other.pid_), pidfd_(std::exchange(other.pidfd_, -1)) {}

Stranger& Stranger::operator=(Stranger&& other) noexcept {
  std::swap(pid_, other.pid_);
  std::swap(pidfd_, other.pidfd_);
  return *this;
}

Stranger::~Stranger() {
  if (pidfd_ >= 0) close(pidfd_);
}

void Stranger::signal(int number) const {
  if (send_signal(pidfd_, number) != 0 && errno != ESRCH) fail("cannot send a signal");
}

bool Stranger::ends(Duration bound) const { return ended_within(pidfd_, bound); }

std::vector<pid_t> children_of(pid_t parent, const std::string& name) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string number = entry.path().filename();
    if (number.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "stat");
    std::string line;
    // pid (comm) state ppid; the name may itself hold blanks and parentheses.
    if (!std::getline(file, line)) continue;
    const std::size_t open = line.find('(');
    const std::size_t close = line.rfind(')');
    if (open == std::string::npos || close == std::string::npos || close + 4 > line.size())
      continue;
    const char state = line[close + 2];
    const pid_t its_parent = std::atoi(line.c_str() + close + 4);
    if (its_parent == parent && state != 'Z' && line.substr(open + 1, close - open - 1) == name) {
      children.push_back(std::atoi(number.c_str()));
    }
  }
  return children;
}

}  // namespace squall::support
