#include "experiments/checks/child.h"

#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <csignal>
#include <cstdlib>

namespace squall::checks {
namespace asio = boost::asio;

Child::~Child() {
  if (!reaped_) signal_group(SIGKILL);
  reap();
}

asio::awaitable<bool> Child::wait() {
  const auto [failed] =
      co_await ended_.async_wait(Descriptor::wait_read, asio::as_tuple(asio::use_awaitable));
  co_return !failed;
}

void Child::signal_group(int number) {
  if (!reaped_) kill(-pid_, number);
}

std::optional<int> Child::reap() {
  if (reaped_) return std::nullopt;
  siginfo_t how{};
  if (waitid(P_PID, static_cast<id_t>(pid_), &how, WEXITED | WNOHANG) != 0) {
    reaped_ = errno == ECHILD;  // somebody else did
    return std::nullopt;
  }
  if (how.si_pid != pid_) return std::nullopt;
  reaped_ = true;
  return how.si_code == CLD_EXITED ? how.si_status : 128 + how.si_status;
}

void Child::abandon() {
  signal_group(SIGKILL);
  ended_.async_wait(Descriptor::wait_read,
                    [self = shared_from_this()](boost::system::error_code) { self->reap(); });
}

int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment_with(const std::map<std::string, std::string>& wanted) {
  std::vector<std::string> environment;
  const char* path = std::getenv("PATH");
  if (!wanted.contains("PATH")) {
    environment.push_back(std::string("PATH=") + (path != nullptr ? path : "/usr/bin:/bin"));
  }
  for (const auto& [name, value] : wanted) environment.push_back(name + "=" + value);
  return environment;
}

}  // namespace squall::checks
