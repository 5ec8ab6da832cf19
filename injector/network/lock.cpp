#include "injector/network/lock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>

#include <cerrno>
#include <utility>

namespace squall::network {

StatusOr<Fd> open_lock() {
  Fd file(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return from_errno("/proc/thread-self/ns/net", errno);
  return file;
}

StatusOr<Fd> lock_namespace(Duration bound) {
  StatusOr<Fd> file = open_lock();
  if (!file.ok()) return file;
  return lock_namespace(*std::move(file), bound);
}

StatusOr<Fd> lock_namespace(Fd file, Duration bound) {
  const MonotonicTime until = monotonic_now() + bound;
  while (flock(file.number(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) return from_errno("flock", errno);
    if (monotonic_now() >= until) {
      return error(StatusCode::kUnavailable, "another fault has been starting or ending here for " +
                                                 std::to_string(to_ms(bound) / 1000) + " s");
    }
    poll(nullptr, 0, 1);
  }
  return file;
}

}  // namespace squall::network
