/// \file
/// The door to the programs that send a node's DNS queries to the responder: eBPF programs on a
/// control group, held by links of this process. With the process the links are gone, and with them
/// the programs; should it only freeze, nothing is redirected past the deadline.
///
/// What is not redirected, and goes to its server as ever: sockets that were connected before, that
/// are tied to an interface (SO_BINDTODEVICE), queries to a link-local IPv6 address, and to more
/// servers of one family than there are places. Source: linux/bpf.h, BPF_CGROUP_INET4_CONNECT.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "injector/network/dns_redirect_layout.h"

struct bpf_link;
struct dns_redirect;

namespace squall::network {

/// The places for servers; the first half is IPv4's.
inline constexpr std::size_t kDnsPlaces = std::size_t{2} * SQUALL_DNS_SERVERS;

/// The responder's port for each place, 0 where it has none.
using DnsPorts = std::array<std::uint16_t, kDnsPlaces>;

/// One fault's programs. Made for the calling thread's network namespace. set_deadline() and
/// server() may be called by any thread, everything else by one.
class DnsRedirect {
 public:
  /// Loads and verifies; changes nothing.
  /// Errors: kPermissionDenied without CAP_BPF and CAP_NET_ADMIN; kUnimplemented for a kernel
  /// without CONFIG_CGROUP_BPF.
  static StatusOr<std::unique_ptr<DnsRedirect>> load();

  DnsRedirect(const DnsRedirect&) = delete;
  DnsRedirect& operator=(const DnsRedirect&) = delete;

  /// Detaches.
  ~DnsRedirect();

  /// Puts the programs on a control group. Nothing is redirected before set_deadline(). Other such
  /// faults of the namespace spare what this process passes on from now on, so that a query goes
  /// through all of them, the oldest first; call it under lock_namespace(). `tag` is the fault's.
  /// Errors: kFailedPrecondition if the group's owner lets no further programs be.
  Status attach(int cgroup, const DnsPorts& ports, std::string_view tag);

  /// From then on nothing is redirected; the epoch itself: nothing from now on. Answers still look
  /// like the servers'.
  void set_deadline(MonotonicTime deadline);

  /// The server to which a place belongs, with its port.
  std::optional<sockaddr_storage> server(std::size_t place) const;

  /// Queries that should have been redirected and could not.
  std::uint64_t passed() const;

  /// Errors: kFailedPrecondition if somebody took a program off, or the control group is gone.
  Status check_attached() const;

  /// Takes the programs off. Idempotent.
  void detach();

  /// After detach(), what of ours is still there, each a sentence.
  std::vector<std::string> residue() const;

 private:
  explicit DnsRedirect(struct dns_redirect* object);
  Status introduce() const;
  Status ask_to_be_spared();

  struct dns_redirect* object_;
  std::uint64_t netns_ = 0;
  std::vector<struct bpf_link*> links_;
  std::vector<std::uint32_t> programs_;  // the kernel's numbers
  std::vector<Fd> sparing_;              // maps of the faults that were there before
};

}  // namespace squall::network
