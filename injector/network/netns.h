/// \file
/// Network namespaces other than the caller's own: found by name or by number, entered and left.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::network {

/// By its name as `ip netns` knows it, by a whole path, or by the pid of a process in it.
/// Errors: kNotFound for one that is not there, kPermissionDenied.
StatusOr<Fd> open_netns(const std::string& name);

/// By its number, the inode of /proc/PID/ns/net. Errors: kNotFound for one in which no process is,
/// which is mounted nowhere, and of which nobody holds an open file: it is gone.
StatusOr<Fd> find_netns(std::uint64_t inode);

/// The number of the namespace that this file is of. Errors: kInternal.
StatusOr<std::uint64_t> number_of(const Fd& netns);

/// Every namespace but the calling thread's own that is mounted or has a process in it.
std::vector<std::uint64_t> other_netns();

/// Puts the calling thread into a namespace for as long as the object lives.
class InNetns {
 public:
  /// Errors: kPermissionDenied without CAP_SYS_ADMIN.
  static StatusOr<InNetns> enter(const Fd& netns);

  InNetns(InNetns&&) = default;
  InNetns& operator=(InNetns&&) = delete;
  ~InNetns();

 private:
  explicit InNetns(Fd back) : back_(std::move(back)) {}

  Fd back_;
};

}  // namespace squall::network
