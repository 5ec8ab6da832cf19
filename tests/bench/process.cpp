#include "tests/bench/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace squall::bench {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

/// `output`: where its standard output goes, unless -1.
pid_t spawn(const std::vector<std::string>& argv, bool verbose, int output = -1) {
  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  if (!verbose) {
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  }
  if (output >= 0) posix_spawn_file_actions_adddup2(&actions, output, 1);
  pid_t pid = -1;
  const int code = ::posix_spawnp(&pid, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (code != 0) throw std::runtime_error(argv[0] + ": " + std::strerror(code));
  return pid;
}

int end_of(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) fail("waitpid");
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string joined(const std::vector<std::string>& argv) {
  std::string text;
  for (const std::string& word : argv) text += (text.empty() ? "" : " ") + word;
  return text;
}

}  // namespace

Process::Process(const std::vector<std::string>& argv, bool verbose) : pid_(spawn(argv, verbose)) {}

Process::~Process() {
  if (pid_ < 0) return;
  const int handle = static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0));
  ::kill(pid_, SIGTERM);
  pollfd end{handle, POLLIN, 0};
  if (handle < 0 || ::poll(&end, 1, 5000) == 0) ::kill(pid_, SIGKILL);
  if (handle >= 0) ::close(handle);
  int status = 0;
  ::waitpid(pid_, &status, 0);
}

int Process::wait() { return end_of(std::exchange(pid_, -1)); }

Duration timed(const std::vector<std::string>& argv, int code) {
  const MonotonicTime start = monotonic_now();
  const int got = end_of(spawn(argv, false));
  const Duration took = monotonic_now() - start;
  if (got != code) throw std::runtime_error(joined(argv) + " exited with " + std::to_string(got));
  return took;
}

Usage usage_of(const std::vector<std::string>& argv) {
  const MonotonicTime start = monotonic_now();
  const pid_t pid = spawn(argv, false);
  int status = 0;
  rusage used{};
  while (::wait4(pid, &status, 0, &used) < 0) {
    if (errno != EINTR) fail("wait4");
  }
  const Duration took = monotonic_now() - start;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    throw std::runtime_error(joined(argv) + " failed");
  return {took, static_cast<std::size_t>(used.ru_maxrss) * 1024};  // in KiB: getrusage(2)
}

void must(const std::vector<std::string>& argv) {
  const int code = end_of(spawn(argv, true));
  if (code != 0) throw std::runtime_error(joined(argv) + " exited with " + std::to_string(code));
}

std::string output_of(const std::vector<std::string>& argv) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail("pipe2");
  pid_t pid = -1;
  try {
    pid = spawn(argv, true, ends[1]);
  } catch (...) {
    ::close(ends[0]);
    ::close(ends[1]);
    throw;
  }
  ::close(ends[1]);
  std::string text;
  char buffer[4096];
  ssize_t got = 0;
  while ((got = ::read(ends[0], buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) text.append(buffer, static_cast<std::size_t>(got));
  }
  ::close(ends[0]);
  const int code = end_of(pid);
  if (code != 0) throw std::runtime_error(joined(argv) + " exited with " + std::to_string(code));
  return text;
}

long ticks(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(in)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skipped;
  for (int i = 3; i < 14; ++i) fields >> skipped;
  long user = 0;
  long system = 0;
  if (!(fields >> user >> system)) throw std::runtime_error("cannot read the ticks of a process");
  return user + system;
}

std::vector<pid_t> children(pid_t pid) {
  std::vector<pid_t> found;
  const std::string tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::ifstream in(task.path() / "children");
    for (pid_t child = 0; in >> child;) found.push_back(child);
  }
  return found;
}

Folder::Folder() {
  std::string pattern = std::filesystem::temp_directory_path() / "squall-bench-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) fail("mkdtemp");
  path_ = pattern;
}

Folder::~Folder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string Folder::write(const std::string& name, const std::string& text) const {
  std::ofstream(path_ / name) << text;
  return path_ / name;
}

TwoHosts::TwoHosts() {
  const auto here = [] { return ::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC); };
  const auto by_number = [](int fd) {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd);
  };
  if (::unshare(CLONE_NEWNET) < 0) fail("a new network namespace");
  far_ = here();
  must({"ip", "link", "set", "lo", "up"});
  if (::unshare(CLONE_NEWNET) < 0) fail("a new network namespace");
  near_ = here();
  must({"ip", "link", "set", "lo", "up"});
  must({"ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns",
        by_number(far_)});
  must({"ip", "address", "add", std::string(kNear) + "/24", "dev", "eth0"});
  must({"ip", "link", "set", "eth0", "addrgenmode", "none", "up"});
  if (::setns(far_, CLONE_NEWNET) < 0) fail("setns");
  must({"ip", "address", "add", std::string(kFar) + "/24", "dev", "eth0"});
  must({"ip", "link", "set", "eth0", "addrgenmode", "none", "up"});
  if (::setns(near_, CLONE_NEWNET) < 0) fail("setns");
}

TwoHosts::~TwoHosts() {
  ::close(near_);
  ::close(far_);
}

int TwoHosts::far_socket(int type) const {
  if (::setns(far_, CLONE_NEWNET) < 0) fail("setns");
  const int fd = ::socket(AF_INET, type | SOCK_CLOEXEC, 0);
  if (::setns(near_, CLONE_NEWNET) < 0) fail("setns");
  if (fd < 0) fail("socket");
  return fd;
}

}  // namespace squall::bench
