#include "injector/daemon/supervisor.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "experiments/base/fd.h"
#include "injector/daemon/log.h"

namespace squall::daemon {
namespace {

std::string take_out(const char* name) {
  const char* value = std::getenv(name);
  std::string taken = value == nullptr ? "" : value;
  ::unsetenv(name);
  return taken;
}

}  // namespace

Supervisor::Supervisor(Loop& loop) : socket_(take_out("NOTIFY_SOCKET")), due_(loop) {
  const std::string interval = take_out("WATCHDOG_USEC");
  const std::string pid = take_out("WATCHDOG_PID");
  // Inherited from somebody whom it was meant for, it is not for us.
  if (pid.empty() || pid == std::to_string(::getpid())) {
    interval_ = std::chrono::microseconds(std::strtoll(interval.c_str(), nullptr, 10));
  }
}

void Supervisor::ready() {
  tell("READY=1");
  give_sign();
}

void Supervisor::stopping() { tell("STOPPING=1"); }

void Supervisor::give_sign() {
  if (socket_.empty() || interval_ <= Duration::zero()) return;
  tell("WATCHDOG=1");
  due_.at(monotonic_now() + interval_ / 2, [this] { give_sign(); });
}

void Supervisor::tell(const std::string& state) const {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path) return;
  socket_.copy(address.sun_path, socket_.size());
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // of the abstract kind
  const Fd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
  if (::sendto(socket.number(), state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
               reinterpret_cast<const sockaddr*>(&address), size) < 0) {
    log(LogLevel::kWarn, "event=supervisor_untold what=" + state +
                             " why=" + quoted(message_of(from_errno("sendto", errno))));
  }
}

}  // namespace squall::daemon
