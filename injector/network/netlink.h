/// \file
/// The door to rtnetlink: links, qdiscs, filters and routes of the calling thread's network
/// namespace as values, and the few changes that faults make. Reads are complete or an error, never
/// a part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/status.h"

struct nl_sock;
struct nl_msg;

namespace squall::network {

using Bytes = std::vector<std::byte>;

/// The two hooks of a clsact qdisc, as filters name their parent. Source: linux/pkt_sched.h.
inline constexpr std::uint32_t kClsactIngress = 0xfffffff2;
inline constexpr std::uint32_t kClsactEgress = 0xfffffff3;

struct Link {
  std::uint32_t index = 0;
  std::string name;
  std::string alias;
  std::string kind;         ///< IFLA_INFO_KIND: ifb, tun, veth…; empty for hardware and lo.
  std::uint32_t flags = 0;  ///< IFF_*.
  std::uint16_t type = 0;   ///< ARPHRD_*.
  std::uint32_t mtu = 0;
  Bytes address;
  std::uint64_t rx_packets = 0;
  std::uint64_t tx_packets = 0;
  std::uint64_t tx_dropped = 0;

  bool is_up() const;
  bool is_loopback() const;
};

struct Qdisc {
  std::uint32_t ifindex = 0;
  std::uint32_t handle = 0;
  std::uint32_t parent = 0;
  std::string kind;
  Bytes options;  ///< The contents of TCA_OPTIONS.
  std::uint64_t packets = 0;
  std::uint32_t queued = 0;
  std::uint32_t drops = 0;
};

/// One action of a filter.
struct Action {
  std::string kind;
  std::uint32_t target = 0;  ///< mirred: the interface it sends to.
  bool to_ingress = false;   ///< mirred: into that interface's receive path.
  std::uint64_t packets = 0;
  std::uint64_t bytes = 0;
  std::uint32_t overlimits = 0;  ///< mirred: what the target refused.
};

struct Filter {
  std::uint32_t ifindex = 0;
  std::uint32_t parent = 0;
  std::uint32_t priority = 0;
  std::uint16_t protocol = 0;  ///< ETH_P_*, host order.
  std::uint32_t handle = 0;
  std::string kind;
  std::string name;           ///< TCA_BPF_NAME.
  std::uint32_t program = 0;  ///< TCA_BPF_ID.
  std::vector<Action> actions;
};

/// What add_filter() makes: one cls_bpf filter for every protocol.
struct NewFilter {
  std::uint32_t ifindex = 0;
  std::uint32_t parent = 0;
  std::uint32_t priority = 0;
  std::uint32_t handle = 1;
  int program_fd = -1;
  std::string name;
  std::uint32_t redirect_to = 0;  ///< 0: the program acts by itself (direct action).
  bool to_ingress = false;
};

/// Settings of a device of our own; what is absent stays as it is.
struct LinkSettings {
  std::optional<std::string> alias;
  std::optional<std::uint32_t> mtu;
  std::optional<std::uint32_t> queue_length;
  std::optional<Bytes> address;
};

/// One rtnetlink socket. Bound to the network namespace of the thread that opened it; used by one
/// thread at a time.
///
/// Errors of all calls: kNotFound (ENODEV, ENOENT), kAlreadyExists, kPermissionDenied,
/// kUnimplemented (EOPNOTSUPP), else kInternal, with the kernel's own words where it has some.
class Netlink {
 public:
  static StatusOr<Netlink> open();

  StatusOr<std::vector<Link>> links();
  /// One link, or nothing if there is none of that name or index.
  StatusOr<std::optional<Link>> find_link(std::string_view name);
  StatusOr<std::optional<Link>> find_link(std::uint32_t index);

  Status add_ifb(const std::string& name);
  Status set_link(std::uint32_t index, const LinkSettings& settings);
  /// Up, and without an IPv6 link-local address of its own.
  Status set_up(std::uint32_t index);
  Status delete_link(std::uint32_t index);

  /// All qdiscs of the namespace, those of ingress included.
  StatusOr<std::vector<Qdisc>> qdiscs();
  /// The root qdisc of one interface, or nothing.
  StatusOr<std::optional<Qdisc>> root_qdisc(std::uint32_t ifindex);
  StatusOr<bool> has_clsact(std::uint32_t ifindex);
  Status add_clsact(std::uint32_t ifindex);
  Status delete_clsact(std::uint32_t ifindex);
  /// The root of a device of our own.
  Status add_root_netem(std::uint32_t ifindex, std::span<const std::byte> options);
  /// Sets all of what it is told anew; what is queued stays.
  Status change_root_netem(std::uint32_t ifindex, std::span<const std::byte> options);

  /// All filters of one hook, or those of one priority; none if there is no such interface or no
  /// clsact.
  StatusOr<std::vector<Filter>> filters(std::uint32_t ifindex, std::uint32_t parent,
                                        std::uint32_t priority = 0);
  Status add_filter(const NewFilter& filter);
  Status delete_filter(const Filter& filter);

  /// The interface that the kernel would send to this address (4 or 16 bytes) by.
  StatusOr<std::uint32_t> route_to(std::span<const std::byte> address);

 private:
  Status put_root_netem(const char* what, std::uint16_t flags, std::uint32_t ifindex,
                        std::span<const std::byte> options);
  friend class Monitor;
  struct CloseSocket {
    void operator()(nl_sock* socket) const;
  };
  using Socket = std::unique_ptr<nl_sock, CloseSocket>;
  static StatusOr<Socket> open_socket();
  explicit Netlink(Socket socket) : socket_(std::move(socket)) {}

  class Request;
  class Reply;
  Status acknowledge(Request& request);
  StatusOr<std::vector<Reply>> ask(Request& request);
  StatusOr<std::vector<Reply>> ask_once(Request& request);
  StatusOr<std::vector<Reply>> ask_for_traffic(Request& request);

  Socket socket_;
  int parts_ = 0;  ///< Of the last answer: how many messages of the socket's it came in.
};

/// Hears of every change of the namespace's links and traffic control, whoever made it. Bound and
/// used as a Netlink.
class Monitor {
 public:
  /// Errors: kInternal.
  static StatusOr<Monitor> open();

  /// Readable when there is something to hear.
  int descriptor() const;

  /// Takes all that there is. Returns whether it was about one of these interfaces, or may have
  /// been.
  bool heard_of(std::span<const std::uint32_t> interfaces);

 private:
  explicit Monitor(Netlink::Socket socket) : socket_(std::move(socket)) {}

  Netlink::Socket socket_;
};

/// /proc/thread-self/ns/net, the identity of the calling thread's network namespace.
StatusOr<std::uint64_t> current_netns();

}  // namespace squall::network
