#include "injector/faults/sockets.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/processes/proc.h"
#include "injector/faults/processes.h"
#include "injector/network/cgroup.h"
#include "injector/network/cgroup_programs.h"

namespace squall::hold {
namespace {

/// PROC_PID_INIT_INO. Source: include/linux/proc_ns.h.
constexpr ino_t kFirstPidNamespace = 0xeffffffc;

/// By a second descriptor of the same open file: pidfd_getfd(2).
Status mark_socket(const Target& target, std::uint32_t number, network::Classifier& classifier) {
  const Fd own(static_cast<int>(::syscall(SYS_pidfd_getfd, target.pidfd.number(), number, 0)));
  if (own.is_open()) return classifier.mark_socket(own.number());
  if (errno == EBADF || errno == ESRCH) return ok();  // closed or ended meanwhile
  return from_errno("cannot look at the sockets of process " + std::to_string(target.pid), errno);
}

Status mark_sockets_of(const Target& target, network::Classifier& classifier,
                       const MarkedSockets& known, MarkedSockets& marked) {
  Status first;
  const auto process = ProcFolder::open(target.pid);
  if (!process || has_ended(target)) return ok();
  const std::string folder = "/proc/" + std::to_string(target.pid) + "/fd/";
  for (const std::uint32_t number : process->descriptor_numbers()) {
    // What is no socket is not touched: even to close a descriptor may wait, for a file server.
    std::array<char, 64> link{};
    const ssize_t length =
        ::readlink((folder + std::to_string(number)).c_str(), link.data(), link.size());
    if (length <= 0) continue;
    const std::string shown(link.data(), static_cast<std::size_t>(length));
    if (!shown.starts_with("socket:[")) continue;
    if (!known.contains(shown)) {
      Status done = mark_socket(target, number, classifier);
      if (!done.ok()) {
        if (first.ok()) first = std::move(done);
        continue;
      }
    }
    marked.insert(shown);
  }
  return first;
}

}  // namespace

Status can_mark_sockets() {
  struct stat about {};
  if (::stat("/proc/self/ns/pid", &about) != 0) return from_errno("/proc/self/ns/pid", errno);
  if (about.st_ino != kFirstPidNamespace) {
    return error(
        StatusCode::kUnimplemented,
        "squalld is in a PID namespace of its own, where the kernel's numbers of processes "
        "are not known; write a cgroup or a unit");
  }
  if (!network::own_netns_cookie().ok()) {
    return error(StatusCode::kUnimplemented,
                 "this kernel is older than Linux 5.14; write a cgroup or a unit");
  }
  return network::open_cgroup_root().status();
}

Status mark_sockets(const v1::Process& wanted, network::Classifier& classifier,
                    MarkedSockets& marked) {
  const StatusOr<std::vector<Target>> targets = select_processes(wanted);
  if (!targets.ok()) {
    if (targets.status().code() == StatusCode::kNotFound) {
      classifier.mean_processes({}).IgnoreError();
    }
    return targets.status();
  }
  std::set<std::uint32_t> numbers;
  for (const Target& target : *targets) numbers.insert(target.pid);
  // First: what they make while their descriptors are walked is marked by the kernel.
  Status first = classifier.mean_processes(numbers);
  // Numbers of sockets are used again: only what is still there is known.
  MarkedSockets now;
  for (const Target& target : *targets) {
    Status done = mark_sockets_of(target, classifier, marked, now);
    if (first.ok()) first = std::move(done);
  }
  marked = std::move(now);
  return first;
}

}  // namespace squall::hold
