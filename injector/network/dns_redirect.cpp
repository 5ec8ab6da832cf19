#include "injector/network/dns_redirect.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <netinet/in.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "experiments/base/failpoint.h"
#include "injector/network/cgroup_programs.h"
#include "injector/network/objects.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#include "dns_redirect.skel.h"
#pragma GCC diagnostic pop

namespace squall::network {
namespace {

constexpr std::uint16_t kDnsPort = 53;
constexpr std::string_view kSparedMap = "squall_spared";

int silent(libbpf_print_level /*level*/, const char* /*format*/, va_list /*arguments*/) {
  return 0;
}

std::uint16_t network_order(std::uint16_t port) { return htons(port); }

}  // namespace

StatusOr<std::unique_ptr<DnsRedirect>> DnsRedirect::load() {
  libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
  // What matters comes back as a code; the rest would go to stderr, unasked.
  libbpf_set_print(silent);
  struct dns_redirect* object = dns_redirect__open_and_load();
  if (object == nullptr && errno == EINVAL) {
    return error(StatusCode::kUnimplemented,
                 "this kernel has no programs on control groups (CONFIG_CGROUP_BPF)");
  }
  if (object == nullptr) return from_errno("cannot load the programs that redirect DNS", errno);
  return std::unique_ptr<DnsRedirect>(new DnsRedirect(object));
}

DnsRedirect::DnsRedirect(struct dns_redirect* object) : object_(object) {}

DnsRedirect::~DnsRedirect() {
  detach();
  dns_redirect__destroy(object_);
}

Status DnsRedirect::attach(int cgroup, const DnsPorts& ports, std::string_view tag) {
  const StatusOr<std::uint64_t> netns = own_netns_cookie();
  if (!netns.ok()) return netns.status();
  netns_ = *netns;
  squall_dns& dns = object_->bss->dns;
  std::transform(ports.begin(), ports.end(), dns.ports, network_order);
  dns.netns = netns_;
  tag.copy(dns.tag, sizeof dns.tag - 1);

  const bpf_program* programs[] = {
      // Those that restore before those that redirect.
      object_->progs.squall_peer4,    object_->progs.squall_peer6,
      object_->progs.squall_recvmsg4, object_->progs.squall_recvmsg6,
      object_->progs.squall_sendmsg4, object_->progs.squall_sendmsg6,
      object_->progs.squall_connect4, object_->progs.squall_connect6,
  };
  for (const bpf_program* program : programs) {
    bpf_link* link = bpf_program__attach_cgroup(program, cgroup);
    if (link == nullptr && errno == EPERM) {
      return error(StatusCode::kFailedPrecondition,
                   "the control group has a program of its owner that lets no other be beside it");
    }
    if (link == nullptr) return from_errno("cannot attach to the control group", errno);
    links_.push_back(link);
    failpoint<"dns.attached">();
    bpf_prog_info about{};
    if (!read_info(bpf_program__fd(program), about)) {
      return from_errno("cannot read an attached program", errno);
    }
    programs_.push_back(about.id);
  }
  if (Status known = introduce(); !known.ok()) return known;
  if (Status spared = ask_to_be_spared(); !spared.ok()) return spared;
  return check_attached();
}

/// The programs learn this process's number from the kernel, in which it may be another than here.
/// Outside of the control group nothing of this process is redirected anyway.
Status DnsRedirect::introduce() const {
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return from_errno("cannot open a socket", errno);
  const StatusOr<std::uint64_t> cookie =
      cookie_of(socket, SO_COOKIE, "cannot read a socket's cookie");
  if (!cookie.ok()) return cookie.status();
  squall_dns& dns = object_->bss->dns;
  std::atomic_ref<__u64>(dns.introducer).store(*cookie);
  sockaddr_in nobody{};
  nobody.sin_family = AF_INET;
  nobody.sin_port = htons(kDnsPort);
  nobody.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  // Sends nothing.
  const int failed =
      ::connect(socket.number(), reinterpret_cast<const sockaddr*>(&nobody), sizeof nobody);
  std::atomic_ref<__u64>(dns.introducer).store(0);
  if (failed != 0) return from_errno("the loopback interface cannot be used", errno);
  return ok();
}

Status DnsRedirect::ask_to_be_spared() {
  const __u32 process = std::atomic_ref<__u32>(object_->bss->dns.holder).load();
  if (process == 0) return ok();
  StatusOr<std::vector<CgroupProgram>> found = find_cgroup_programs();
  if (!found.ok()) return found.status();
  const __u8 present = 1;
  for (CgroupProgram& other : *found) {
    Fd spared = other.take_map(kSparedMap);
    if (!spared.is_open() || other.netns != netns_ ||
        std::find(programs_.begin(), programs_.end(), other.id) != programs_.end()) {
      continue;
    }
    if (bpf_map_update_elem(spared.number(), &process, &present, BPF_ANY) != 0) {
      return from_errno("cannot agree with another dns fault", errno);
    }
    sparing_.push_back(std::move(spared));
  }
  return ok();
}

void DnsRedirect::set_deadline(MonotonicTime deadline) {
  std::atomic_ref<__u64>(object_->bss->dns.deadline_ns)
      .store(static_cast<__u64>(std::max<std::int64_t>(0, to_ns(deadline))),
             std::memory_order_release);
}

std::optional<sockaddr_storage> DnsRedirect::server(std::size_t place) const {
  squall_dns_server& server = object_->bss->dns.servers[place];
  if (std::atomic_ref<__u32>(server.state).load(std::memory_order_acquire) != SQUALL_DNS_KNOWN) {
    return std::nullopt;
  }
  sockaddr_storage address{};
  if (place < SQUALL_DNS_SERVERS) {
    auto& ipv4 = reinterpret_cast<sockaddr_in&>(address);
    ipv4.sin_family = AF_INET;
    ipv4.sin_port = htons(kDnsPort);
    std::memcpy(&ipv4.sin_addr, server.address, sizeof ipv4.sin_addr);
  } else {
    auto& ipv6 = reinterpret_cast<sockaddr_in6&>(address);
    ipv6.sin6_family = AF_INET6;
    ipv6.sin6_port = htons(kDnsPort);
    std::memcpy(&ipv6.sin6_addr, server.address, sizeof ipv6.sin6_addr);
  }
  return address;
}

std::uint64_t DnsRedirect::passed() const {
  return std::atomic_ref<__u64>(object_->bss->dns.passed).load(std::memory_order_relaxed);
}

Status DnsRedirect::check_attached() const {
  for (const bpf_link* link : links_) {
    bpf_link_info info{};
    if (!read_info(bpf_link__fd(link), info)) return from_errno("cannot read a link", errno);
    if (info.cgroup.cgroup_id == 0) {
      return error(StatusCode::kFailedPrecondition,
                   "the programs that redirect DNS were taken off, or their control group is gone");
    }
  }
  return ok();
}

void DnsRedirect::detach() {
  // The last attached first: what redirects before what restores.
  while (!links_.empty()) {
    bpf_link__destroy(links_.back());
    links_.pop_back();
    failpoint<"dns.detached">();
  }
  const __u32 process = object_->bss->dns.holder;
  for (const Fd& map : sparing_) bpf_map_delete_elem(map.number(), &process);
  sparing_.clear();
}

std::vector<std::string> DnsRedirect::residue() const {
  if (programs_.empty()) return {};
  const StatusOr<std::vector<CgroupProgram>> found = find_cgroup_programs();
  if (!found.ok()) {
    return {"unknown: what redirects DNS could not be searched: " + message_of(found.status())};
  }
  std::vector<std::string> left;
  for (const CgroupProgram& standing : *found) {
    if (std::find(programs_.begin(), programs_.end(), standing.id) == programs_.end()) continue;
    left.push_back("the program " + standing.name + " is still attached");
  }
  return left;
}

}  // namespace squall::network
