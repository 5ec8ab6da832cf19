#include "injector/network/cgroup_programs.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "injector/network/dns_redirect_layout.h"
#include "injector/network/match.h"
#include "injector/network/objects.h"

// Of Linux 5.14; older C libraries lack it.
#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

namespace squall::network {
namespace {

constexpr std::string_view kPrefix = "squall_";

/// The value of an array that holds one such value, as a .bss does.
template <typename Value>
bool read_value(const Fd& map, Value& value) {
  bpf_map_info about{};
  const __u32 key = 0;
  return read_info(map.number(), about) && about.type == BPF_MAP_TYPE_ARRAY &&
         about.value_size == sizeof value && bpf_map_lookup_elem(map.number(), &key, &value) == 0;
}

template <typename Value>
bool tells_whose(const Fd& map, CgroupProgram& program) {
  const auto value = std::make_unique<Value>();
  if (!read_value(map, *value)) return false;
  program.netns = value->netns;
  program.tag.assign(value->tag, ::strnlen(value->tag, sizeof value->tag));
  return true;
}

/// Nothing for what is not ours.
std::optional<CgroupProgram> read_program(const Fd& link) {
  bpf_link_info about_link{};
  if (!read_info(link.number(), about_link) || about_link.type != BPF_LINK_TYPE_CGROUP) {
    return std::nullopt;
  }
  const Fd program(bpf_prog_get_fd_by_id(about_link.prog_id));
  if (!program.is_open()) return std::nullopt;
  std::array<__u32, 16> maps{};
  bpf_prog_info about{};
  about.nr_map_ids = static_cast<__u32>(maps.size());
  about.map_ids = reinterpret_cast<__u64>(maps.data());
  if (!read_info(program.number(), about)) return std::nullopt;
  CgroupProgram read;
  read.id = about_link.prog_id;
  read.name = about.name;
  read.cgroup = about_link.cgroup.cgroup_id;
  if (!read.name.starts_with(kPrefix)) return std::nullopt;
  bool is_ours = false;
  for (std::size_t i = 0; i < std::min<std::size_t>(about.nr_map_ids, maps.size()); ++i) {
    Fd map(bpf_map_get_fd_by_id(maps[i]));
    if (!map.is_open()) continue;
    is_ours = is_ours || tells_whose<squall_dns>(map, read) || tells_whose<squall_match>(map, read);
    read.maps.push_back(std::move(map));
  }
  if (!is_ours) return std::nullopt;
  return read;
}

/// As find_cgroup_programs(), for who need not be allowed to look.
StatusOr<std::vector<CgroupProgram>> find_if_allowed() {
  StatusOr<std::vector<CgroupProgram>> found = find_cgroup_programs();
  if (found.status().code() == StatusCode::kPermissionDenied) return std::vector<CgroupProgram>();
  return found;
}

}  // namespace

Fd CgroupProgram::take_map(std::string_view wanted) {
  for (Fd& map : maps) {
    bpf_map_info about{};
    if (read_info(map.number(), about) && about.name == wanted) return std::move(map);
  }
  return Fd();
}

StatusOr<std::vector<CgroupProgram>> find_cgroup_programs() {
  std::vector<CgroupProgram> found;
  __u32 id = 0;
  while (bpf_link_get_next_id(id, &id) == 0) {
    const Fd link(bpf_link_get_fd_by_id(id));
    if (!link.is_open()) continue;  // gone meanwhile
    if (auto program = read_program(link)) found.push_back(*std::move(program));
  }
  if (errno == ENOSYS || errno == EINVAL) return found;  // a kernel without links has none of ours
  if (errno != ENOENT) return from_errno("cannot list the kernel's links", errno);
  return found;
}

StatusOr<std::vector<std::string>> list_cgroup_programs() {
  const StatusOr<std::uint64_t> netns = own_netns_cookie();
  if (!netns.ok()) return netns.status();
  const StatusOr<std::vector<CgroupProgram>> found = find_if_allowed();
  if (!found.ok()) return found.status();
  std::vector<std::string> lines;
  for (const CgroupProgram& program : *found) {
    if (program.netns != *netns) continue;
    lines.push_back("cgroup-program " + program.name + " program=" + std::to_string(program.id) +
                    " cgroup=" + std::to_string(program.cgroup) + " tag=" + program.tag);
  }
  return lines;
}

StatusOr<std::vector<std::string>> find_tagged_programs(const std::string& state_id) {
  const StatusOr<std::uint64_t> netns = own_netns_cookie();
  if (!netns.ok()) return netns.status();
  const StatusOr<std::vector<CgroupProgram>> found = find_if_allowed();
  if (!found.ok()) return found.status();
  std::vector<std::string> words;
  for (const CgroupProgram& program : *found) {
    if (!is_tag(program.tag, state_id) || (state_id.empty() && program.netns != *netns)) continue;
    words.push_back("program " + std::to_string(program.id) + ", " + program.name +
                    ", on control group " + std::to_string(program.cgroup) + ", of " + program.tag);
  }
  return words;
}

StatusOr<std::uint64_t> cookie_of(const Fd& socket, int which, const char* what) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  if (::getsockopt(socket.number(), SOL_SOCKET, which, &cookie, &size) != 0) {
    return from_errno(what, errno);
  }
  return cookie;
}

StatusOr<std::uint64_t> own_netns_cookie() {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return from_errno("cannot open a socket", errno);
  return cookie_of(socket, SO_NETNS_COOKIE, "cannot read the network namespace's cookie");
}

}  // namespace squall::network
