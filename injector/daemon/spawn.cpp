#include "injector/daemon/spawn.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "injector/hold/channel.h"

namespace squall::daemon {
namespace {

constexpr int kHolderSocket = 3;

/// Its descriptors are /dev/null for input and output, our stderr or /dev/null as well, and
/// `socket` as 3, if it is one; no others.
///
/// Not by fork(2), whose copy of all page tables would make this process pay for every page that it
/// next writes to: posix_spawn(3) copies none.
StatusOr<pid_t> spawn(const std::string& program, const std::vector<std::string>& arguments,
                      bool is_silent, const Fd& socket = Fd()) {
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) {
    words.push_back(const_cast<char*>(argument.c_str()));
  }
  words.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  int problem = ::posix_spawn_file_actions_init(&actions);
  if (problem != 0) return from_errno("starting " + program, problem);
  const auto also = [&problem](int result) { problem = problem != 0 ? problem : result; };
  // First, for the socket may have the number of one of the others.
  int highest = STDERR_FILENO;
  if (socket.is_open()) {
    highest = kHolderSocket;
    also(::posix_spawn_file_actions_adddup2(&actions, socket.number(), kHolderSocket));
  }
  also(::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0));
  also(::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0));
  if (is_silent) {
    also(::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0));
  }
  also(::posix_spawn_file_actions_addclosefrom_np(&actions, highest + 1));
  pid_t pid = 0;
  if (problem == 0) {
    problem = ::posix_spawn(&pid, program.c_str(), &actions, nullptr, words.data(), environ);
  }
  ::posix_spawn_file_actions_destroy(&actions);
  if (problem != 0) return from_errno("starting " + program, problem);
  return pid;
}

}  // namespace

StatusOr<Spawned> spawn_holder(const std::string& program, bool spare) {
  StatusOr<hold::Pair> pair = hold::make_pair();
  if (!pair.ok()) return pair.status();
  const std::vector<std::string> arguments =
      spare ? std::vector<std::string>{"--spare"} : std::vector<std::string>();
  const StatusOr<pid_t> pid = spawn(program, arguments, false, pair->holder);
  if (!pid.ok()) return pid.status();
  Spawned spawned;
  spawned.pid = *pid;
  // Nobody else reaps it, so the number is still its own.
  spawned.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, spawned.pid, 0)));
  if (!spawned.pidfd.is_open()) return from_errno("pidfd_open", errno);
  spawned.start_time = start_time_of(spawned.pid);
  spawned.socket = std::move(pair->daemon);
  return spawned;
}

StatusOr<int> run_program(const std::string& program, const std::vector<std::string>& arguments) {
  const StatusOr<pid_t> pid = spawn(program, arguments, true);
  if (!pid.ok()) return pid.status();
  siginfo_t end{};
  int waited = 0;
  do {
    waited = ::waitid(P_PID, static_cast<id_t>(*pid), &end, WEXITED);
  } while (waited != 0 && errno == EINTR);
  if (waited != 0) return from_errno("waiting for " + program, errno);
  return end.si_code == CLD_EXITED ? end.si_status : 128 + end.si_status;
}

std::uint64_t start_time_of(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const auto close = text.rfind(')');  // the name before it may hold blanks and parentheses
  if (close == std::string::npos) return 0;
  std::istringstream rest(text.substr(close + 1));
  std::string word;
  std::uint64_t start_time = 0;
  rest >> word;
  if (word == "Z" || word == "X") return 0;
  for (int field = 4; field <= 21; ++field) rest >> word;
  rest >> start_time;
  return rest ? start_time : 0;
}

StatusOr<Fd> open_process(pid_t pid, std::uint64_t start_time) {
  Fd pidfd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  // The start time is read after the descriptor is open: from then on the number cannot pass to
  // another process without the descriptor telling.
  if (!pidfd.is_open() || start_time == 0 || start_time_of(pid) != start_time) {
    return error(StatusCode::kNotFound, "no such process");
  }
  return pidfd;
}

void kill_process(const Fd& pidfd) {
  ::syscall(SYS_pidfd_send_signal, pidfd.number(), SIGKILL, nullptr, 0);
}

}  // namespace squall::daemon
