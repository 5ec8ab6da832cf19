#include "injector/network/lock.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>

#include <cerrno>

namespace squall::network {

StatusOr<Fd> lock_namespace(Duration bound) {
  Fd file(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return from_errno("/proc/thread-self/ns/net", errno);
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
