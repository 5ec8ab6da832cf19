#include "injector/network/netlink.h"

#include <linux/gen_stats.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "experiments/base/failpoint.h"

namespace squall::network {
namespace {

constexpr int kMaxDumpTries = 8;
/// Of a dump of which two in a row must agree: many faults may end on one interface at once.
constexpr int kMaxChangingDumps = 200;

ifinfomsg for_link(std::uint32_t index) {
  ifinfomsg header{};
  header.ifi_index = static_cast<int>(index);
  return header;
}

tcmsg for_traffic(std::uint32_t ifindex, std::uint32_t parent, std::uint32_t handle = 0,
                  std::uint32_t priority = 0, std::uint16_t protocol = 0) {
  tcmsg header{};
  header.tcm_ifindex = static_cast<int>(ifindex);
  header.tcm_parent = parent;
  header.tcm_handle = handle;
  header.tcm_info = TC_H_MAKE(priority << 16, htons(protocol));
  return header;
}

struct FreeMessage {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};

/// The attributes of one level, by their number.
class Attributes {
 public:
  Attributes(const nlmsghdr* header, std::size_t family_header) {
    nlmsg_parse(const_cast<nlmsghdr*>(header), static_cast<int>(family_header), found_.data(),
                kLast, nullptr);
  }
  explicit Attributes(const nlattr* nest) {
    if (nest != nullptr) {
      nla_parse(found_.data(), kLast, static_cast<nlattr*>(nla_data(nest)), nla_len(nest), nullptr);
    }
  }

  const nlattr* operator[](int number) const { return found_[static_cast<std::size_t>(number)]; }

  std::string text(int number) const {
    const nlattr* attribute = (*this)[number];
    if (attribute == nullptr) return {};
    const char* start = static_cast<const char*>(nla_data(attribute));
    return std::string(start, strnlen(start, static_cast<std::size_t>(nla_len(attribute))));
  }

  Bytes bytes(int number) const {
    const nlattr* attribute = (*this)[number];
    if (attribute == nullptr) return {};
    const std::byte* start = static_cast<const std::byte*>(nla_data(attribute));
    return Bytes(start, start + nla_len(attribute));
  }

  /// The value, or all zero if it is not there; a shorter one (an older kernel's) is filled with
  /// zeros.
  template <typename T>
  T value(int number) const {
    T result{};
    const nlattr* attribute = (*this)[number];
    if (attribute != nullptr) {
      const std::size_t length = static_cast<std::size_t>(nla_len(attribute));
      std::memcpy(&result, nla_data(attribute), length < sizeof(T) ? length : sizeof(T));
    }
    return result;
  }

 private:
  /// More than any level that is read here has; libnl passes over what is beyond.
  static constexpr int kLast = 127;
  static_assert(IFLA_MAX <= kLast && TCA_MAX <= kLast && RTA_MAX <= kLast);

  std::array<nlattr*, kLast + 1> found_{};
};

Status from_kernel(std::string_view context, int errno_value, const std::string& words) {
  // tc's own calls answer EINVAL for most of what is simply not there or not as expected; the words
  // tell.
  const Status plain = from_errno(context, errno_value);
  if (words.empty()) return plain;
  return error(plain.code(), message_of(plain) + " (" + words + ")");
}

}  // namespace

bool Link::is_up() const { return (flags & IFF_UP) != 0; }
bool Link::is_loopback() const { return (flags & IFF_LOOPBACK) != 0; }

void Netlink::CloseSocket::operator()(nl_sock* socket) const { nl_socket_free(socket); }

/// A message being built.
class Netlink::Request {
 public:
  /// Room for two of netem's distribution tables, of 8 KiB each.
  static constexpr std::size_t kLongestRequest = 32 * 1024;

  template <typename Header>
  Request(std::string context, std::uint16_t type, int flags, const Header& header)
      : context_(std::move(context)),
        message_(nlmsg_alloc_size(kLongestRequest)),
        complete_(message_ != nullptr &&
                  nlmsg_put(message_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, type, 0,
                            flags | NLM_F_REQUEST) != nullptr &&
                  nlmsg_append(message_.get(), const_cast<Header*>(&header), sizeof(header),
                               NLMSG_ALIGNTO) == 0) {}

  void put(int number, const void* start, std::size_t length) {
    complete_ = complete_ && nla_put(message_.get(), number, static_cast<int>(length), start) == 0;
  }
  template <typename T>
  void put(int number, const T& value) {
    put(number, &value, sizeof(value));
  }
  void put_text(int number, std::string_view text) {
    put(number, std::string(text).c_str(), text.size() + 1);
  }

  template <typename Fill>
  void nest(int number, Fill fill) {
    if (!complete_) return;
    nlattr* start = nla_nest_start(message_.get(), number);
    complete_ = start != nullptr;
    if (!complete_) return;
    fill();
    nla_nest_end(message_.get(), start);
  }

  const std::string& context() const { return context_; }
  bool complete() const { return complete_; }
  nl_msg* get() { return message_.get(); }

 private:
  std::string context_;
  std::unique_ptr<nl_msg, FreeMessage> message_;
  bool complete_;
};

/// One message of an answer.
class Netlink::Reply {
 public:
  explicit Reply(const nlmsghdr* header) : bytes_(header->nlmsg_len) {
    std::memcpy(bytes_.data(), header, header->nlmsg_len);
  }
  const nlmsghdr* header() const { return reinterpret_cast<const nlmsghdr*>(bytes_.data()); }
  template <typename Header>
  const Header& body() const {
    return *static_cast<const Header*>(nlmsg_data(header()));
  }
  template <typename Header>
  bool has() const {
    return bytes_.size() >= NLMSG_HDRLEN + sizeof(Header);
  }

 private:
  std::vector<char> bytes_;
};

StatusOr<Netlink::Socket> Netlink::open_socket() {
  Socket socket(nl_socket_alloc());
  if (!socket) return error(StatusCode::kResourceExhausted, "no memory for a netlink socket");
  if (const int failed = nl_connect(socket.get(), NETLINK_ROUTE); failed < 0) {
    return error(StatusCode::kInternal,
                 std::string("cannot open a netlink socket: ") + nl_geterror(failed));
  }
  nl_socket_set_buffer_size(socket.get(), 1 << 20, 1 << 20);
  nl_socket_set_msg_buf_size(socket.get(), 1 << 16);
  return socket;
}

StatusOr<Netlink> Netlink::open() {
  StatusOr<Socket> opened = open_socket();
  if (!opened.ok()) return opened.status();
  Socket socket = *std::move(opened);
  const int on = 1;
  // Without it there are only numbers; an old kernel may refuse.
  setsockopt(nl_socket_get_fd(socket.get()), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  return Netlink(std::move(socket));
}

StatusOr<std::vector<Netlink::Reply>> Netlink::ask_once(Request& request) {
  if (!request.complete()) {
    return error(StatusCode::kInternal, request.context() + ": message too long");
  }
  nl_complete_msg(socket_.get(), request.get());
  nlmsg_hdr(request.get())->nlmsg_seq = nl_socket_use_seq(socket_.get());
  const std::uint32_t sequence = nlmsg_hdr(request.get())->nlmsg_seq;
  if (const int sent = nl_send(socket_.get(), request.get()); sent < 0) {
    return error(StatusCode::kInternal, request.context() + ": " + nl_geterror(sent));
  }
  const bool dump = (nlmsg_hdr(request.get())->nlmsg_flags & NLM_F_DUMP) == NLM_F_DUMP;
  const bool wants_ack = (nlmsg_hdr(request.get())->nlmsg_flags & NLM_F_ACK) != 0;
  std::vector<Reply> replies;
  bool interrupted = false;
  parts_ = 0;
  for (;;) {
    sockaddr_nl from{};
    unsigned char* raw = nullptr;
    int length = nl_recv(socket_.get(), &from, &raw, nullptr);
    const std::unique_ptr<unsigned char, decltype(&std::free)> owner(raw, &std::free);
    if (length <= 0) {
      return error(StatusCode::kInternal,
                   request.context() + ": " + (length == 0 ? "no answer" : nl_geterror(length)));
    }
    bool has_part = false;
    for (const nlmsghdr* header = reinterpret_cast<const nlmsghdr*>(raw); nlmsg_ok(header, length);
         header = nlmsg_next(const_cast<nlmsghdr*>(header), &length)) {
      if (header->nlmsg_seq != sequence) continue;
      if ((header->nlmsg_flags & NLM_F_DUMP_INTR) != 0) interrupted = true;
      if (header->nlmsg_type == NLMSG_ERROR || header->nlmsg_type == NLMSG_DONE) {
        const int* code = static_cast<const int*>(nlmsg_data(header));
        const int failed = header->nlmsg_len >= NLMSG_HDRLEN + sizeof(int) ? *code : 0;
        if (failed < 0) {
          std::string words;
          if (header->nlmsg_type == NLMSG_ERROR && (header->nlmsg_flags & NLM_F_ACK_TLVS) != 0) {
            const std::size_t echoed = (header->nlmsg_flags & NLM_F_CAPPED) != 0
                                           ? 0
                                           : nlmsg_hdr(request.get())->nlmsg_len - NLMSG_HDRLEN;
            const Attributes attributes(header, sizeof(nlmsgerr) + NLMSG_ALIGN(echoed));
            words = attributes.text(NLMSGERR_ATTR_MSG);
          }
          return from_kernel(request.context(), -failed, words);
        }
        if (interrupted) return error(StatusCode::kUnavailable, "interrupted");
        return replies;
      }
      if (header->nlmsg_type == NLMSG_NOOP) continue;
      replies.emplace_back(header);
      if (!std::exchange(has_part, true)) ++parts_;
      if (!dump && !wants_ack) return replies;
    }
  }
}

StatusOr<std::vector<Netlink::Reply>> Netlink::ask(Request& request) {
  StatusOr<std::vector<Reply>> replies = ask_once(request);
  // A dump during which the tables changed may have left something out.
  for (int tries = 1; tries < kMaxDumpTries && !replies.ok() &&
                      replies.status().code() == StatusCode::kUnavailable;
       ++tries) {
    replies = ask_once(request);
  }
  return replies;
}

/// A dump of qdiscs or filters. Of these the kernel goes on by their place in the list, and does
/// not say whether it has changed between two parts of the answer: what is removed in front of that
/// place makes it pass over as many others. Then the next dump has not what was removed. Source:
/// net/sched/cls_api.c, tcf_chain_dump; net/sched/sch_api.c, tc_dump_qdisc.
StatusOr<std::vector<Netlink::Reply>> Netlink::ask_for_traffic(Request& request) {
  const auto is_same = [](const Reply& a, const Reply& b) {
    return a.has<tcmsg>() && b.has<tcmsg>() &&
           std::memcmp(&a.body<tcmsg>(), &b.body<tcmsg>(), sizeof(tcmsg)) == 0;
  };
  std::optional<std::vector<Reply>> before;
  for (int tries = 0; tries < kMaxChangingDumps; ++tries) {
    StatusOr<std::vector<Reply>> replies = ask(request);
    if (!replies.ok() || parts_ <= 1) return replies;
    if (before &&
        std::equal(before->begin(), before->end(), replies->begin(), replies->end(), is_same)) {
      return replies;
    }
    before = *std::move(replies);
  }
  return error(StatusCode::kUnavailable, request.context() + ": they never cease to change");
}

Status Netlink::acknowledge(Request& request) {
  nlmsg_hdr(request.get())->nlmsg_flags |= NLM_F_ACK;
  const Status done = ask_once(request).status();
  failpoint<"netlink.changed">();
  return done;
}

namespace {

template <typename Reply>
Link to_link(const Reply& reply) {
  const ifinfomsg& body = reply.template body<ifinfomsg>();
  const Attributes attributes(reply.header(), sizeof(ifinfomsg));
  Link link;
  link.index = static_cast<std::uint32_t>(body.ifi_index);
  link.flags = body.ifi_flags;
  link.type = body.ifi_type;
  link.name = attributes.text(IFLA_IFNAME);
  link.alias = attributes.text(IFLA_IFALIAS);
  link.mtu = attributes.value<std::uint32_t>(IFLA_MTU);
  link.address = attributes.bytes(IFLA_ADDRESS);
  const rtnl_link_stats64 stats = attributes.value<rtnl_link_stats64>(IFLA_STATS64);
  link.rx_packets = stats.rx_packets;
  link.tx_packets = stats.tx_packets;
  link.tx_dropped = stats.tx_dropped;
  if (attributes[IFLA_LINKINFO] != nullptr) {
    link.kind = Attributes(attributes[IFLA_LINKINFO]).text(IFLA_INFO_KIND);
  }
  return link;
}

StatusOr<std::optional<Link>> only_link(const StatusOr<std::vector<Link>>& found) {
  if (found.ok()) {
    if (found->empty()) return std::optional<Link>();
    return std::optional<Link>(found->front());
  }
  if (found.status().code() == StatusCode::kNotFound) return std::optional<Link>();
  return found.status();
}

}  // namespace

StatusOr<std::vector<Link>> Netlink::links() {
  Request request("cannot read the links", RTM_GETLINK, NLM_F_DUMP, ifinfomsg{});
  StatusOr<std::vector<Reply>> replies = ask(request);
  if (!replies.ok()) return replies.status();
  std::vector<Link> links;
  for (const Reply& reply : *replies) {
    if (reply.header()->nlmsg_type == RTM_NEWLINK && reply.has<ifinfomsg>()) {
      links.push_back(to_link(reply));
    }
  }
  return links;
}

StatusOr<std::optional<Link>> Netlink::find_link(std::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ) return std::optional<Link>();
  Request request("cannot read the link " + std::string(name), RTM_GETLINK, 0, ifinfomsg{});
  request.put_text(IFLA_IFNAME, name);
  StatusOr<std::vector<Reply>> replies = ask(request);
  if (!replies.ok()) return only_link(replies.status());
  std::vector<Link> links;
  for (const Reply& reply : *replies) links.push_back(to_link(reply));
  return only_link(links);
}

StatusOr<std::optional<Link>> Netlink::find_link(std::uint32_t index) {
  Request request("cannot read the link " + std::to_string(index), RTM_GETLINK, 0, for_link(index));
  StatusOr<std::vector<Reply>> replies = ask(request);
  if (!replies.ok()) return only_link(replies.status());
  std::vector<Link> links;
  for (const Reply& reply : *replies) links.push_back(to_link(reply));
  return only_link(links);
}

Status Netlink::add_ifb(const std::string& name) {
  Request request("cannot make the device " + name, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL,
                  ifinfomsg{});
  request.put_text(IFLA_IFNAME, name);
  request.nest(IFLA_LINKINFO, [&] { request.put_text(IFLA_INFO_KIND, "ifb"); });
  return acknowledge(request);
}

Status Netlink::set_link(std::uint32_t index, const LinkSettings& settings) {
  Request request("cannot set up the device", RTM_SETLINK, 0, for_link(index));
  if (settings.address) {
    request.put(IFLA_ADDRESS, settings.address->data(), settings.address->size());
  }
  if (settings.mtu) request.put(IFLA_MTU, *settings.mtu);
  if (settings.queue_length) request.put(IFLA_TXQLEN, *settings.queue_length);
  if (settings.alias) request.put(IFLA_IFALIAS, settings.alias->data(), settings.alias->size());
  return acknowledge(request);
}

Status Netlink::set_up(std::uint32_t index) {
  Request quiet("cannot keep IPv6 addresses off the device", RTM_SETLINK, 0, for_link(index));
  quiet.nest(IFLA_AF_SPEC, [&] {
    quiet.nest(AF_INET6,
               [&] { quiet.put(IFLA_INET6_ADDR_GEN_MODE, std::uint8_t{IN6_ADDR_GEN_MODE_NONE}); });
  });
  // A kernel without IPv6 refuses, and gives no such address either.
  static_cast<void>(acknowledge(quiet));
  ifinfomsg header = for_link(index);
  header.ifi_flags = IFF_UP;
  header.ifi_change = IFF_UP;
  Request up("cannot set the device up", RTM_SETLINK, 0, header);
  return acknowledge(up);
}

Status Netlink::delete_link(std::uint32_t index) {
  Request request("cannot remove the device", RTM_DELLINK, 0, for_link(index));
  return acknowledge(request);
}

StatusOr<std::vector<Qdisc>> Netlink::qdiscs() {
  Request request("cannot read the qdiscs", RTM_GETQDISC, NLM_F_DUMP, tcmsg{});
  StatusOr<std::vector<Reply>> replies = ask_for_traffic(request);
  if (!replies.ok()) return replies.status();
  std::vector<Qdisc> qdiscs;
  for (const Reply& reply : *replies) {
    if (reply.header()->nlmsg_type != RTM_NEWQDISC || !reply.has<tcmsg>()) continue;
    const tcmsg& body = reply.body<tcmsg>();
    const Attributes attributes(reply.header(), sizeof(tcmsg));
    Qdisc qdisc;
    qdisc.ifindex = static_cast<std::uint32_t>(body.tcm_ifindex);
    qdisc.handle = body.tcm_handle;
    qdisc.parent = body.tcm_parent;
    qdisc.kind = attributes.text(TCA_KIND);
    qdisc.options = attributes.bytes(TCA_OPTIONS);
    const Attributes stats(attributes[TCA_STATS2]);
    qdisc.packets = stats.value<gnet_stats_basic>(TCA_STATS_BASIC).packets;
    const gnet_stats_queue queue = stats.value<gnet_stats_queue>(TCA_STATS_QUEUE);
    qdisc.queued = queue.qlen;
    qdisc.drops = queue.drops;
    qdiscs.push_back(std::move(qdisc));
  }
  return qdiscs;
}

StatusOr<std::optional<Qdisc>> Netlink::root_qdisc(std::uint32_t ifindex) {
  StatusOr<std::vector<Qdisc>> all = qdiscs();
  if (!all.ok()) return all.status();
  for (Qdisc& qdisc : *all) {
    if (qdisc.ifindex == ifindex && qdisc.parent == TC_H_ROOT) {
      return std::optional<Qdisc>(std::move(qdisc));
    }
  }
  return std::optional<Qdisc>();
}

StatusOr<bool> Netlink::has_clsact(std::uint32_t ifindex) {
  StatusOr<std::vector<Qdisc>> all = qdiscs();
  if (!all.ok()) return all.status();
  for (const Qdisc& qdisc : *all) {
    if (qdisc.ifindex == ifindex && qdisc.kind == "clsact") return true;
  }
  return false;
}

Status Netlink::add_clsact(std::uint32_t ifindex) {
  Request request("cannot add clsact", RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL,
                  for_traffic(ifindex, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0)));
  request.put_text(TCA_KIND, "clsact");
  return acknowledge(request);
}

Status Netlink::delete_clsact(std::uint32_t ifindex) {
  Request request("cannot remove clsact", RTM_DELQDISC, 0,
                  for_traffic(ifindex, TC_H_CLSACT, TC_H_MAKE(TC_H_CLSACT, 0)));
  request.put_text(TCA_KIND, "clsact");
  return acknowledge(request);
}

Status Netlink::put_root_netem(const char* what, std::uint16_t flags, std::uint32_t ifindex,
                               std::span<const std::byte> options) {
  Request request(what, RTM_NEWQDISC, flags,
                  for_traffic(ifindex, TC_H_ROOT, TC_H_MAKE(1u << 16, 0)));
  request.put_text(TCA_KIND, "netem");
  request.put(TCA_OPTIONS, options.data(), options.size());
  return acknowledge(request);
}

Status Netlink::add_root_netem(std::uint32_t ifindex, std::span<const std::byte> options) {
  return put_root_netem("cannot add netem", NLM_F_CREATE | NLM_F_EXCL, ifindex, options);
}

Status Netlink::change_root_netem(std::uint32_t ifindex, std::span<const std::byte> options) {
  return put_root_netem("cannot change netem", 0, ifindex, options);
}

namespace {

Action to_action(const nlattr* nest) {
  const Attributes attributes(nest);
  Action action;
  action.kind = attributes.text(TCA_ACT_KIND);
  const Attributes stats(attributes[TCA_ACT_STATS]);
  const gnet_stats_basic basic = stats.value<gnet_stats_basic>(TCA_STATS_BASIC);
  action.bytes = basic.bytes;
  action.packets = basic.packets;
  // The basic count has 32 bits; a kernel that has counted further says so here.
  if (stats[TCA_STATS_PKT64] != nullptr) {
    action.packets = stats.value<std::uint64_t>(TCA_STATS_PKT64);
  }
  action.overlimits = stats.value<gnet_stats_queue>(TCA_STATS_QUEUE).overlimits;
  if (action.kind == "mirred") {
    const Attributes options(attributes[TCA_ACT_OPTIONS]);
    const tc_mirred mirred = options.value<tc_mirred>(TCA_MIRRED_PARMS);
    action.target = mirred.ifindex;
    action.to_ingress = mirred.eaction == TCA_INGRESS_REDIR || mirred.eaction == TCA_INGRESS_MIRROR;
  }
  return action;
}

}  // namespace

StatusOr<std::vector<Filter>> Netlink::filters(std::uint32_t ifindex, std::uint32_t parent,
                                               std::uint32_t priority) {
  Request request("cannot read the filters", RTM_GETTFILTER, NLM_F_DUMP,
                  for_traffic(ifindex, parent, 0, priority));
  StatusOr<std::vector<Reply>> replies = ask_for_traffic(request);
  if (!replies.ok()) {
    if (replies.status().code() == StatusCode::kNotFound) return std::vector<Filter>();
    return replies.status();
  }
  std::vector<Filter> filters;
  for (const Reply& reply : *replies) {
    if (reply.header()->nlmsg_type != RTM_NEWTFILTER || !reply.has<tcmsg>()) continue;
    const tcmsg& body = reply.body<tcmsg>();
    const Attributes attributes(reply.header(), sizeof(tcmsg));
    // Beside each filter the kernel also tells its classifier as such, without a handle.
    if (body.tcm_handle == 0) continue;
    Filter filter;
    filter.ifindex = ifindex;
    filter.parent = parent;
    filter.priority = TC_H_MAJ(body.tcm_info) >> 16;
    filter.protocol = ntohs(static_cast<std::uint16_t>(TC_H_MIN(body.tcm_info)));
    filter.handle = body.tcm_handle;
    filter.kind = attributes.text(TCA_KIND);
    if (filter.kind == "bpf" && attributes[TCA_OPTIONS] != nullptr) {
      const Attributes options(attributes[TCA_OPTIONS]);
      filter.name = options.text(TCA_BPF_NAME);
      filter.program = options.value<std::uint32_t>(TCA_BPF_ID);
      const Attributes actions(options[TCA_BPF_ACT]);
      for (int i = 0; i <= TCA_ACT_MAX_PRIO; ++i) {
        if (actions[i] != nullptr) filter.actions.push_back(to_action(actions[i]));
      }
    }
    filters.push_back(std::move(filter));
  }
  return filters;
}

Status Netlink::add_filter(const NewFilter& filter) {
  Request request(
      "cannot add the filter", RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL,
      for_traffic(filter.ifindex, filter.parent, filter.handle, filter.priority, ETH_P_ALL));
  request.put_text(TCA_KIND, "bpf");
  request.nest(TCA_OPTIONS, [&] {
    request.put(TCA_BPF_FD, static_cast<std::uint32_t>(filter.program_fd));
    request.put_text(TCA_BPF_NAME, filter.name);
    if (filter.redirect_to == 0) {
      request.put(TCA_BPF_FLAGS, std::uint32_t{TCA_BPF_FLAG_ACT_DIRECT});
      return;
    }
    request.nest(TCA_BPF_ACT, [&] {
      request.nest(1, [&] {
        request.put_text(TCA_ACT_KIND, "mirred");
        request.nest(TCA_ACT_OPTIONS, [&] {
          tc_mirred mirred{};
          mirred.action = TC_ACT_STOLEN;
          mirred.eaction = filter.to_ingress ? TCA_INGRESS_REDIR : TCA_EGRESS_REDIR;
          mirred.ifindex = filter.redirect_to;
          request.put(TCA_MIRRED_PARMS, mirred);
        });
      });
    });
  });
  return acknowledge(request);
}

Status Netlink::delete_filter(const Filter& filter) {
  Request request(
      "cannot remove the filter", RTM_DELTFILTER, 0,
      for_traffic(filter.ifindex, filter.parent, filter.handle, filter.priority, filter.protocol));
  request.put_text(TCA_KIND, filter.kind);
  return acknowledge(request);
}

StatusOr<std::uint32_t> Netlink::route_to(std::span<const std::byte> address) {
  const bool ipv4 = address.size() == 4;
  rtmsg header{};
  header.rtm_family = ipv4 ? AF_INET : AF_INET6;
  header.rtm_dst_len = ipv4 ? 32 : 128;
  Request request("cannot look up the route", RTM_GETROUTE, 0, header);
  request.put(RTA_DST, address.data(), address.size());
  StatusOr<std::vector<Reply>> replies = ask(request);
  if (!replies.ok()) return replies.status();
  for (const Reply& reply : *replies) {
    const Attributes attributes(reply.header(), sizeof(rtmsg));
    if (attributes[RTA_OIF] != nullptr) return attributes.value<std::uint32_t>(RTA_OIF);
  }
  return error(StatusCode::kNotFound, "the route leads to no interface");
}

StatusOr<Monitor> Monitor::open() {
  StatusOr<Netlink::Socket> socket = Netlink::open_socket();
  if (!socket.ok()) return socket.status();
  nl_socket_disable_seq_check(socket->get());
  if (nl_socket_set_nonblocking(socket->get()) < 0 ||
      nl_socket_add_memberships(socket->get(), RTNLGRP_LINK, RTNLGRP_TC, 0) < 0) {
    return error(StatusCode::kInternal, "cannot listen to changes of the network");
  }
  return Monitor(*std::move(socket));
}

int Monitor::descriptor() const { return nl_socket_get_fd(socket_.get()); }

bool Monitor::heard_of(std::span<const std::uint32_t> interfaces) {
  bool heard = false;
  for (;;) {
    sockaddr_nl from{};
    unsigned char* raw = nullptr;
    int length = nl_recv(socket_.get(), &from, &raw, nullptr);
    const std::unique_ptr<unsigned char, decltype(&std::free)> owner(raw, &std::free);
    if (length == -NLE_AGAIN || length == 0) return heard;
    if (length < 0) return true;  // more than there was room for: what was lost may have been it
    for (nlmsghdr* header = reinterpret_cast<nlmsghdr*>(raw); nlmsg_ok(header, length);
         header = nlmsg_next(header, &length)) {
      // struct tcmsg and struct ifinfomsg both begin with a family and have the interface's index
      // at the same place: linux/rtnetlink.h.
      static_assert(offsetof(tcmsg, tcm_ifindex) == offsetof(ifinfomsg, ifi_index));
      if (header->nlmsg_len < NLMSG_HDRLEN + sizeof(ifinfomsg)) continue;
      const auto index =
          static_cast<std::uint32_t>(static_cast<const ifinfomsg*>(nlmsg_data(header))->ifi_index);
      heard = heard || std::find(interfaces.begin(), interfaces.end(), index) != interfaces.end();
    }
  }
}

StatusOr<std::uint64_t> current_netns() {
  struct stat found {};
  if (stat("/proc/thread-self/ns/net", &found) != 0) {
    return from_errno("cannot read /proc/thread-self/ns/net", errno);
  }
  return std::uint64_t{found.st_ino};
}

}  // namespace squall::network
