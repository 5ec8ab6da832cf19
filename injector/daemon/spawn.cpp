#include "injector/daemon/spawn.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/process/args.hpp>
#include <boost/process/child.hpp>
#include <boost/process/exe.hpp>
#include <boost/process/handles.hpp>
#include <boost/process/io.hpp>
#include <boost/process/posix.hpp>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "injector/hold/channel.h"

namespace squall::daemon {

namespace bp = boost::process;

StatusOr<Spawned> spawn_holder(const std::string& program, bool spare) {
  const std::vector<std::string> arguments =
      spare ? std::vector<std::string>{"--spare"} : std::vector<std::string>();
  StatusOr<hold::Pair> pair = hold::make_pair();
  if (!pair.ok()) return pair.status();
  Spawned spawned;
  std::error_code problem;
  bp::child child(bp::exe = program, bp::args = arguments,
                  bp::std_in<bp::null, bp::std_out> bp::null,
                  bp::posix::fd.bind(3, pair->holder.number()), bp::limit_handles, problem);
  if (problem) return from_errno("starting " + program, problem.value());
  spawned.pid = child.id();
  child.detach();
  // Nobody else reaps it, so the number is still its own.
  spawned.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, spawned.pid, 0)));
  if (!spawned.pidfd.is_open()) return from_errno("pidfd_open", errno);
  spawned.start_time = start_time_of(spawned.pid);
  spawned.socket = std::move(pair->daemon);
  return spawned;
}

StatusOr<int> run_program(const std::string& program, const std::vector<std::string>& arguments) {
  std::error_code problem;
  bp::child child(bp::exe = program, bp::args = arguments,
                  bp::std_in<bp::null, bp::std_out> bp::null, bp::std_err > bp::null,
                  bp::limit_handles, problem);
  if (problem) return from_errno("starting " + program, problem.value());
  child.wait(problem);
  if (problem) return from_errno("waiting for " + program, problem.value());
  return child.exit_code();
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
