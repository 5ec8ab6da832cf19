/// \file
/// Programs of ours on control groups, of whichever process: each stands by a link that its holder
/// has, and goes with it.
#pragma once

#include <bpf/bpf.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::network {

/// What the kernel tells of one of its objects of BPF.
template <typename Info>
bool read_info(int descriptor, Info& info) {
  __u32 size = sizeof info;
  return ::bpf_obj_get_info_by_fd(descriptor, &info, &size) == 0;
}

struct CgroupProgram {
  std::uint32_t id = 0;
  std::string name;
  std::uint64_t cgroup = 0;
  std::uint64_t netns = 0;  ///< The cookie of the namespace whose sockets are meant.
  std::string tag;
  std::vector<Fd> maps;

  /// Its map of that name, which is then no longer among its maps.
  Fd take_map(std::string_view wanted);
};

/// Those of our faults. Errors: kPermissionDenied without CAP_SYS_ADMIN, kInternal.
StatusOr<std::vector<CgroupProgram>> find_cgroup_programs();

/// Those that are attached for the calling thread's network namespace, one line each. None where
/// the caller may not look: then it cannot have attached anything either.
StatusOr<std::vector<std::string>> list_cgroup_programs();

/// What bears the state directory's tag, attached for whichever namespace, in words that end in the
/// tag; of any state directory, but for the calling thread's namespace alone, for an empty id.
/// None where the caller may not look, as above. Errors: kInternal.
StatusOr<std::vector<std::string>> find_tagged_programs(const std::string& state_id);

/// A number of the kernel's for a socket or for its namespace: SO_COOKIE, SO_NETNS_COOKIE.
StatusOr<std::uint64_t> cookie_of(const Fd& socket, int which, const char* what);

/// That of the network namespace that the caller is in.
StatusOr<std::uint64_t> own_netns_cookie();

}  // namespace squall::network
