#include "injector/faults/programs.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "experiments/base/diagnostic.h"
#include "experiments/base/failpoint.h"
#include "experiments/base/file.h"

namespace squall::hold {
namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr const char* kMark = "SQUALL_FAULT=";
/// How long what was killed may take to be gone.
constexpr Duration kUntilGone = std::chrono::seconds(2);

int exit_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/// The child's side; says the errno on `report` if the program cannot be started. Nothing here may
/// allocate.
[[noreturn]] void become(const std::vector<char*>& argv, const std::vector<char*>& environment,
                         int output, int report) {
  ::setsid();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  ::dup2(null, STDIN_FILENO);
  ::dup2(output, STDOUT_FILENO);
  ::dup2(output, STDERR_FILENO);
  // The holder blocks and ignores signals as it needs; a program expects them as they are at birth.
  sigset_t none;
  ::sigemptyset(&none);
  ::pthread_sigmask(SIG_SETMASK, &none, nullptr);
  for (const int number : {SIGPIPE, SIGCHLD, SIGXFSZ, SIGHUP, SIGINT, SIGTERM}) {
    ::signal(number, SIG_DFL);
  }
  if (::chdir("/") == 0) ::execve(argv[0], argv.data(), environment.data());
  const int failed = errno;
  if (::write(report, &failed, sizeof failed) < 0) ::_exit(126);
  ::_exit(127);
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  pointers.reserve(words.size() + 1);
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

bool bears(const std::string& process, const std::string& tag) {
  // One that has ended since it was listed bears nothing.
  const std::string text = read_whole("/proc/" + process + "/environ").value_or("");
  const std::string mark = kMark + tag;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\0', at), text.size());
    if (text.compare(at, end - at, mark) == 0) return true;
    at = end + 1;
  }
  return false;
}

/// Field 4 of /proc/PID/stat, 0 for one that has ended.
pid_t parent_of(const std::string& process) {
  std::ifstream file("/proc/" + process + "/stat");
  std::string text;
  std::getline(file, text);
  const std::size_t close = text.rfind(')');
  if (close == std::string::npos || close + 4 > text.size() || text[close + 2] == 'Z') return 0;
  return static_cast<pid_t>(std::strtol(text.c_str() + close + 4, nullptr, 10));
}

/// Kills, by descriptor, what is looked for now. Returns how many.
int kill_what_runs(const std::string& tag) {
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir("/proc"), &::closedir);
  if (!folder) return 0;
  const pid_t self = ::getpid();
  int killed = 0;
  while (const dirent* entry = ::readdir(folder.get())) {
    const std::string name = entry->d_name;
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const auto pid = static_cast<pid_t>(std::strtol(name.c_str(), nullptr, 10));
    // The descriptor first: what is read afterwards is of the process that will be killed, or it
    // has ended.
    const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!pidfd.is_open() || pid == self) continue;
    const pid_t parent = parent_of(name);
    if (parent == 0 || (parent != self && (tag.empty() || !bears(name, tag)))) continue;
    if (::syscall(SYS_pidfd_send_signal, pidfd.number(), SIGKILL, nullptr, 0) == 0) ++killed;
  }
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {
  }
  return killed;
}

}  // namespace

Status check_program(const std::string& field, const std::vector<std::string>& argv) {
  if (argv.empty()) return error(StatusCode::kInvalidArgument, field + ": names no program");
  const std::string& program = argv.front();
  const std::string shown = escape_controls(program);
  if (!program.starts_with('/')) {
    return error(StatusCode::kInvalidArgument,
                 field + ": " + shown + " is no absolute path; no PATH is searched");
  }
  struct stat seen {};
  if (::stat(program.c_str(), &seen) != 0) {
    return error(StatusCode::kNotFound,
                 field + ": " + message_of(from_errno("there is no " + shown + " to run", errno)));
  }
  if (!S_ISREG(seen.st_mode) || ::faccessat(AT_FDCWD, program.c_str(), X_OK, AT_EACCESS) != 0) {
    return error(StatusCode::kPermissionDenied,
                 field + ": " + shown + " is no file that may be executed; chmod +x makes it one");
  }
  return ok();
}

void listen_to(ProgramEnd& end) {
  std::array<char, 4096> part{};
  for (;;) {
    const ssize_t size = ::read(end.saying.number(), part.data(), part.size());
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) return;
    end.output.append(part.data(), static_cast<std::size_t>(size));
    if (end.output.size() > kMostOutput) end.output.erase(0, end.output.size() - kMostOutput);
  }
}

StatusOr<ProgramEnd> run_program(const std::string& field, const std::vector<std::string>& argv,
                                 Duration timeout, const std::string& tag) {
  if (const Status runs = check_program(field, argv); !runs.ok()) return runs;
  std::vector<std::string> words = argv;
  std::vector<std::string> settings{kPath};
  if (!tag.empty()) settings.push_back(kMark + tag);
  const std::vector<char*> arguments = pointers_to(words);
  const std::vector<char*> environment = pointers_to(settings);
  int output[2];
  int report[2];
  if (::pipe2(output, O_CLOEXEC) != 0) return from_errno("pipe2", errno);
  ProgramEnd end;
  end.saying.reset(output[0]);
  Fd saying(output[1]);
  if (::pipe2(report, O_CLOEXEC) != 0) return from_errno("pipe2", errno);
  const Fd failed(report[0]);
  Fd failing(report[1]);
  ::fcntl(end.saying.number(), F_SETFL, O_NONBLOCK);
  // Whoever escapes from the session by a second fork comes to us.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);

  const MonotonicTime until = monotonic_now() + timeout;
  const pid_t child = ::fork();
  if (child < 0) return from_errno("fork", errno);
  if (child == 0) become(arguments, environment, saying.number(), failing.number());
  const Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
  saying.reset();
  failing.reset();
  failpoint<"programs.started">();
  int why = 0;
  ssize_t size = 0;
  while ((size = ::read(failed.number(), &why, sizeof why)) < 0 && errno == EINTR) {
  }
  if (size == sizeof why) {
    ::waitpid(child, nullptr, 0);
    return error(
        StatusCode::kFailedPrecondition,
        field + ": " + message_of(from_errno("cannot run " + escape_controls(argv[0]), why)));
  }

  bool listening = true;
  for (bool running = true; running;) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now()).count();
    pollfd waiting[] = {
        {.fd = pidfd.number(), .events = POLLIN, .revents = 0},
        {.fd = listening ? end.saying.number() : -1, .events = POLLIN, .revents = 0}};
    ::poll(waiting, 2, static_cast<int>(std::max<long>(left, 0)));
    listen_to(end);
    if ((waiting[1].revents & POLLHUP) != 0) listening = false;
    running = waiting[0].revents == 0;
    if (running && monotonic_now() >= until) {
      end.timed_out = true;
      // The leader is not waited for yet, so that its number still is its own.
      ::kill(-child, SIGKILL);
      running = false;
    }
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  end.exit = exit_of(status);
  failpoint<"programs.ended">();
  if (end.timed_out) end_what_runs(tag);
  listen_to(end);
  return end;
}

int end_what_runs(const std::string& tag) {
  const MonotonicTime until = monotonic_now() + kUntilGone;
  int killed = 0;
  // Again, until none is found: what was just killed may have forked before, and an orphan comes to
  // us only when its parent is gone.
  while (const int now = kill_what_runs(tag)) {
    killed += now;
    if (monotonic_now() >= until) break;
    const timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  failpoint<"programs.leftovers_ended">();
  return killed;
}

}  // namespace squall::hold
