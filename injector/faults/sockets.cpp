#include "injector/faults/sockets.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/processes/proc.h"
#include "injector/faults/processes.h"

namespace squall::hold {
namespace {

/// PROC_PID_INIT_INO. Source: include/linux/proc_ns.h.
constexpr ino_t kFirstPidNamespace = 0xeffffffc;

Status mark_sockets_of(const Target& target, network::Classifier& classifier) {
  // First: what it makes while its descriptors are walked is marked by the kernel.
  if (Status meant = classifier.mean_process(target.pid); !meant.ok()) return meant;
  const auto process = ProcFolder::open(target.pid);
  if (!process || has_ended(target)) return ok();
  for (const std::uint32_t number : process->descriptor_numbers()) {
    // A second descriptor of the same open file. Source: pidfd_getfd(2).
    const Fd own(static_cast<int>(::syscall(SYS_pidfd_getfd, target.pidfd.number(), number, 0)));
    if (!own.is_open()) {
      if (errno == EBADF || errno == ESRCH) continue;  // closed or ended meanwhile
      return from_errno("cannot look at the sockets of process " + std::to_string(target.pid),
                        errno);
    }
    struct stat about {};
    if (::fstat(own.number(), &about) != 0 || !S_ISSOCK(about.st_mode)) continue;
    if (Status marked = classifier.mark_socket(own.number()); !marked.ok()) return marked;
  }
  return ok();
}

}  // namespace

Status tells_processes_apart() {
  struct stat about {};
  if (::stat("/proc/self/ns/pid", &about) != 0) return from_errno("/proc/self/ns/pid", errno);
  if (about.st_ino == kFirstPidNamespace) return ok();
  return error(StatusCode::kUnimplemented,
               "squalld is in a PID namespace of its own, where the kernel's numbers of processes "
               "are not known; write a cgroup or a unit");
}

Status mark_sockets(const v1::Process& wanted, network::Classifier& classifier) {
  const StatusOr<std::vector<Target>> targets = select_processes(wanted);
  if (!targets.ok()) return targets.status();
  for (const Target& target : *targets) {
    if (Status marked = mark_sockets_of(target, classifier); !marked.ok()) return marked;
  }
  return ok();
}

}  // namespace squall::hold
