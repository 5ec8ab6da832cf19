#include "injector/network/fingerprint.h"

#include <linux/if.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <memory>
#include <set>
#include <utility>

#include "injector/network/cgroup_programs.h"

namespace squall::network {
namespace {

namespace fs = std::filesystem;

/// A busy host may change its tables during every read for a while; then the answer is an error,
/// not a guess.
constexpr int kAttempts = 50;

using Message = std::vector<std::byte>;

struct FreeSocket {
  void operator()(nl_sock* socket) const { nl_socket_free(socket); }
};
struct FreeMessage {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
struct FreeCallbacks {
  void operator()(nl_cb* callbacks) const { nl_cb_put(callbacks); }
};

bool is_one_of(int type, std::initializer_list<int> types) {
  return std::find(types.begin(), types.end(), type) != types.end();
}

void append_hex(std::string& line, const void* bytes, std::size_t size) {
  constexpr char kDigits[] = "0123456789abcdef";
  const auto* byte = static_cast<const unsigned char*>(bytes);
  for (std::size_t i = 0; i < size; ++i) {
    line += kDigits[byte[i] >> 4];
    line += kDigits[byte[i] & 15];
  }
}

/// A run of attributes inside a message.
struct Attributes {
  nlattr* first;
  int size;

  static Attributes of(const nlattr* nest) {
    return {static_cast<nlattr*>(nla_data(nest)), nla_len(nest)};
  }

  const nlattr* find(int type) const { return nla_find(first, size, type); }

  std::string text(int type) const {
    const nlattr* attribute = find(type);
    if (attribute == nullptr) return "";
    const auto* bytes = static_cast<const char*>(nla_data(attribute));
    return {bytes, strnlen(bytes, static_cast<std::size_t>(nla_len(attribute)))};
  }
};

/// Prints one attribute in its own way and returns true, or leaves it to be printed as type and
/// bytes. Printing nothing and returning true drops it.
using Printer = std::function<bool(std::string& line, int type, const nlattr* attribute)>;

void print(std::string& line, Attributes attributes, const Printer& special) {
  nlattr* attribute;
  int left;
  nla_for_each_attr(attribute, attributes.first, attributes.size, left) {
    const int type = nla_type(attribute);
    if (special(line, type, attribute)) continue;
    line += ' ' + std::to_string(type) + '=';
    append_hex(line, nla_data(attribute), static_cast<std::size_t>(nla_len(attribute)));
  }
}

void print_nest(std::string& line, int type, const nlattr* nest, const Printer& special) {
  line += ' ' + std::to_string(type) + "={";
  print(line, Attributes::of(nest), special);
  line += " }";
}

/// Only the first `size` bytes: what follows counts.
bool print_start(std::string& line, int type, const nlattr* attribute, std::size_t size) {
  line += ' ' + std::to_string(type) + '=';
  append_hex(line, nla_data(attribute),
             std::min(size, static_cast<std::size_t>(nla_len(attribute))));
  return true;
}

Printer dropping(std::initializer_list<int> types) {
  return [dropped = std::vector<int>(types)](std::string&, int type, const nlattr*) {
    return std::find(dropped.begin(), dropped.end(), type) != dropped.end();
  };
}

std::string name_of(const std::string& text) { return text.empty() ? "-" : text; }

// Links.

Printer port_state_dropped(const std::string& kind) {
  if (kind == "bridge") {
    return dropping({IFLA_BRPORT_STATE, IFLA_BRPORT_TOPOLOGY_CHANGE_ACK, IFLA_BRPORT_CONFIG_PENDING,
                     IFLA_BRPORT_MESSAGE_AGE_TIMER, IFLA_BRPORT_FORWARD_DELAY_TIMER,
                     IFLA_BRPORT_HOLD_TIMER, IFLA_BRPORT_MCAST_EHT_HOSTS_CNT});
  }
  if (kind == "bond") {
    return dropping({IFLA_BOND_SLAVE_STATE, IFLA_BOND_SLAVE_MII_STATUS,
                     IFLA_BOND_SLAVE_LINK_FAILURE_COUNT, IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE,
                     IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE});
  }
  return dropping({});
}

Printer device_state_dropped(const std::string& kind) {
  if (kind == "bridge") {
    // How many addresses it has learnt; newer than Debian 12's headers, as Linux 6.7.
    constexpr int kFdbLearned = 48;  // IFLA_BR_FDB_N_LEARNED
    return dropping({IFLA_BR_TOPOLOGY_CHANGE, IFLA_BR_TOPOLOGY_CHANGE_DETECTED, IFLA_BR_HELLO_TIMER,
                     IFLA_BR_TCN_TIMER, IFLA_BR_TOPOLOGY_CHANGE_TIMER, IFLA_BR_GC_TIMER,
                     IFLA_BR_MCAST_QUERIER_STATE, kFdbLearned});
  }
  if (kind == "bond") return dropping({IFLA_BOND_ACTIVE_SLAVE, IFLA_BOND_AD_INFO});
  return dropping({});
}

bool print_link_kind(std::string& line, int type, const nlattr* nest) {
  const Attributes inner = Attributes::of(nest);
  const std::string kind = inner.text(IFLA_INFO_KIND);
  const std::string port_kind = inner.text(IFLA_INFO_SLAVE_KIND);
  print_nest(line, type, nest, [&](std::string& out, int inner_type, const nlattr* attribute) {
    switch (inner_type) {
      case IFLA_INFO_XSTATS:
        return true;
      case IFLA_INFO_DATA:
        print_nest(out, inner_type, attribute, device_state_dropped(kind));
        return true;
      case IFLA_INFO_SLAVE_DATA:
        print_nest(out, inner_type, attribute, port_state_dropped(port_kind));
        return true;
      default:
        return false;
    }
  });
  return true;
}

bool print_link_families(std::string& line, int type, const nlattr* nest) {
  print_nest(line, type, nest, [](std::string& out, int family, const nlattr* attribute) {
    if (family != AF_INET6) return false;
    print_nest(out, family, attribute,
               dropping({IFLA_INET6_FLAGS, IFLA_INET6_STATS, IFLA_INET6_CACHEINFO,
                         IFLA_INET6_ICMP6STATS}));
    return true;
  });
  return true;
}

std::string link_line(nlmsghdr* message) {
  const auto* link = static_cast<const ifinfomsg*>(nlmsg_data(message));
  const Attributes attributes{nlmsg_attrdata(message, sizeof *link),
                              nlmsg_attrlen(message, sizeof *link)};
  constexpr unsigned kOperational = IFF_RUNNING | IFF_LOWER_UP | IFF_DORMANT;
  std::string line = "link " + std::to_string(link->ifi_index) + ' ' +
                     attributes.text(IFLA_IFNAME) + " type=" + std::to_string(link->ifi_type) +
                     " flags=" + std::to_string(link->ifi_flags & ~kOperational);
  print(line, attributes, [](std::string& out, int type, const nlattr* attribute) {
    if (type == IFLA_LINKINFO) return print_link_kind(out, type, attribute);
    if (type == IFLA_AF_SPEC) return print_link_families(out, type, attribute);
    return is_one_of(type, {IFLA_IFNAME, IFLA_STATS, IFLA_STATS64, IFLA_OPERSTATE, IFLA_CARRIER,
                            IFLA_CARRIER_CHANGES, IFLA_CARRIER_UP_COUNT, IFLA_CARRIER_DOWN_COUNT});
  });
  return line;
}

// Addresses, rules, routes.

std::string address_line(nlmsghdr* message) {
  const auto* address = static_cast<const ifaddrmsg*>(nlmsg_data(message));
  // Come and go with time and with the peer: duplicate detection, the end of a lifetime.
  constexpr std::uint32_t kPassing = IFA_F_TENTATIVE | IFA_F_OPTIMISTIC | IFA_F_DEPRECATED;
  std::string line = "address " + std::to_string(address->ifa_index) +
                     " family=" + std::to_string(address->ifa_family) +
                     " prefix=" + std::to_string(address->ifa_prefixlen) +
                     " scope=" + std::to_string(address->ifa_scope);
  print(line, {nlmsg_attrdata(message, sizeof *address), nlmsg_attrlen(message, sizeof *address)},
        [](std::string& out, int type, const nlattr* attribute) {
          if (type == IFA_FLAGS) {
            out += " flags=" + std::to_string(nla_get_u32(attribute) & ~kPassing);
            return true;
          }
          return type == IFA_CACHEINFO;
        });
  return line;
}

std::string rule_line(nlmsghdr* message) {
  const auto* rule = static_cast<const rtmsg*>(nlmsg_data(message));
  std::string line = "rule";
  line += " header=";
  append_hex(line, rule, sizeof *rule);
  print(line, {nlmsg_attrdata(message, sizeof *rule), nlmsg_attrlen(message, sizeof *rule)},
        dropping({}));
  return line;
}

/// Empty for what is not configuration: cached routes.
std::string route_line(nlmsghdr* message, int family) {
  rtmsg route{};
  std::memcpy(&route, nlmsg_data(message), sizeof route);
  // A kernel without the family answers with the routes of all others.
  if (route.rtm_family != family || (route.rtm_flags & RTM_F_CLONED) != 0) return "";
  constexpr unsigned kOperational = RTNH_F_DEAD | RTNH_F_LINKDOWN;
  route.rtm_flags &= ~kOperational;
  std::string line = "route header=";
  append_hex(line, &route, sizeof route);
  print(line, {nlmsg_attrdata(message, sizeof route), nlmsg_attrlen(message, sizeof route)},
        dropping({RTA_CACHEINFO, RTA_EXPIRES}));
  return line;
}

// Traffic control.

/// Which attribute of an action holds when it was made and last used.
int action_times(const std::string& kind) {
  if (kind == "police") return TCA_POLICE_TM;
  for (const char* second : {"csum", "nat", "ct", "ife"}) {
    if (kind == second) return 2;
  }
  return kind == "xt" || kind == "ipt" ? 4 : 1;
}

bool print_action(std::string& line, int type, const nlattr* nest) {
  const std::string kind = Attributes::of(nest).text(TCA_ACT_KIND);
  print_nest(line, type, nest, [&](std::string& out, int inner_type, const nlattr* attribute) {
    if (inner_type == TCA_ACT_OPTIONS) {
      print_nest(out, inner_type, attribute, dropping({action_times(kind)}));
      return true;
    }
    return is_one_of(inner_type, {TCA_ACT_STATS, TCA_ACT_IN_HW_COUNT});
  });
  return true;
}

/// Where a filter of this kind keeps its actions and, below, what it counts.
int actions_of(const std::string& kind) {
  if (kind == "bpf") return TCA_BPF_ACT;
  if (kind == "u32") return TCA_U32_ACT;
  if (kind == "flower") return TCA_FLOWER_ACT;
  if (kind == "matchall") return TCA_MATCHALL_ACT;
  if (kind == "basic") return TCA_BASIC_ACT;
  if (kind == "fw") return TCA_FW_ACT;
  if (kind == "flow") return TCA_FLOW_ACT;
  if (kind == "cgroup") return TCA_CGROUP_ACT;
  if (kind == "route") return TCA_ROUTE4_ACT;
  return -1;
}

bool print_filter_option(std::string& line, const std::string& kind, int type,
                         const nlattr* attribute) {
  if (type == actions_of(kind)) {
    print_nest(line, type, attribute, print_action);
    return true;
  }
  if (kind == "u32" && type == TCA_U32_MARK) {
    return print_start(line, type, attribute, offsetof(tc_u32_mark, success));
  }
  return (kind == "u32" && type == TCA_U32_PCNT) || (kind == "basic" && type == TCA_BASIC_PCNT) ||
         (kind == "matchall" && type == TCA_MATCHALL_PCNT);
}

bool print_qdisc_option(std::string& line, const std::string& kind, int type,
                        const nlattr* attribute) {
  if (kind == "htb" && type == TCA_HTB_INIT) {
    return print_start(line, type, attribute, offsetof(tc_htb_glob, direct_pkts));
  }
  return false;
}

bool print_options(std::string& line, bool is_filter, const std::string& kind,
                   const nlattr* attribute) {
  // Some kinds answer with a plain structure, some of those with counters at its end.
  if (kind == "sfq") {
    return print_start(line, TCA_OPTIONS, attribute, offsetof(tc_sfq_qopt_v1, stats));
  }
  if (kind == "gred") return true;
  const Attributes inner = Attributes::of(attribute);
  int covered = 0;
  nlattr* each;
  int left;
  nla_for_each_attr(each, inner.first, inner.size, left) covered += nla_total_size(nla_len(each));
  if (NLA_ALIGN(inner.size) != covered) return false;
  print_nest(line, TCA_OPTIONS, attribute, [&](std::string& out, int type, const nlattr* option) {
    return is_filter ? print_filter_option(out, kind, type, option)
                     : print_qdisc_option(out, kind, type, option);
  });
  return true;
}

struct TrafficObject {
  tcmsg header{};
  std::string kind;
  std::string line;
};

TrafficObject traffic_object(const char* what, nlmsghdr* message) {
  TrafficObject object;
  std::memcpy(&object.header, nlmsg_data(message), sizeof object.header);
  const Attributes attributes{nlmsg_attrdata(message, sizeof object.header),
                              nlmsg_attrlen(message, sizeof object.header)};
  const bool is_qdisc = message->nlmsg_type == RTM_NEWQDISC;
  const bool is_filter = message->nlmsg_type == RTM_NEWTFILTER;
  object.kind = attributes.text(TCA_KIND);
  object.line = std::string(what) + ' ' + std::to_string(object.header.tcm_ifindex) + ' ' +
                name_of(object.kind) + " handle=" + std::to_string(object.header.tcm_handle) +
                " parent=" + std::to_string(object.header.tcm_parent);
  // For a qdisc this is its reference count.
  if (!is_qdisc) object.line += " info=" + std::to_string(object.header.tcm_info);
  print(object.line, attributes, [&](std::string& out, int type, const nlattr* attribute) {
    if (type == TCA_OPTIONS) return print_options(out, is_filter, object.kind, attribute);
    return is_one_of(type, {TCA_KIND, TCA_STATS, TCA_STATS2, TCA_XSTATS});
  });
  return object;
}

/// Of these, a class is a flow that happens to have packets queued.
bool has_configured_classes(const std::string& kind) {
  for (const char* passing : {"fq_codel", "fq_pie", "sfq", "sfb", "cake", "choke"}) {
    if (kind == passing) return false;
  }
  return true;
}

/// One reading of the calling thread's network namespace.
class Reader {
 public:
  StatusOr<std::vector<std::string>> read() {
    if (Status opened = open(); !opened.ok()) return opened;
    for (const auto step : {&Reader::links, &Reader::addresses, &Reader::rules, &Reader::routes,
                            &Reader::traffic, &Reader::sysctls, &Reader::programs}) {
      if (Status done = (this->*step)(); !done.ok()) return in_context("fingerprint", done);
    }
    std::sort(lines_.begin(), lines_.end());
    return std::move(lines_);
  }

 private:
  Status open() {
    socket_.reset(nl_socket_alloc());
    if (!socket_) return error(StatusCode::kInternal, "no memory for a netlink socket");
    if (const int code = nl_connect(socket_.get(), NETLINK_ROUTE); code < 0) {
      return failed("cannot open a netlink socket", code);
    }
    nl_socket_set_msg_buf_size(socket_.get(), 128 * 1024);
    return ok();
  }

  static Status failed(const std::string& what, int code) {
    return error(StatusCode::kInternal, what + ": " + nl_geterror(code));
  }

  /// All answers to one dump, complete and of one moment, or an error. `code`, if given, receives
  /// libnl's own.
  template <typename Header>
  StatusOr<std::vector<Message>> dump(int type, const Header& header, int* code = nullptr) {
    int result = 0;
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      std::vector<Message> answers;
      result = dump_once(type, &header, sizeof header, answers);
      if (result >= 0) return answers;
      // After any other error the rest of an answer may still be on its way; a new socket has none.
      if (result != -NLE_DUMP_INTR) break;
    }
    if (code != nullptr) *code = result;
    if (Status reopened = open(); !reopened.ok()) return reopened;
    return failed("cannot dump message type " + std::to_string(type), result);
  }

  int dump_once(int type, const void* header, std::size_t size, std::vector<Message>& answers) {
    const std::unique_ptr<nl_msg, FreeMessage> request(nlmsg_alloc_simple(type, NLM_F_DUMP));
    const std::unique_ptr<nl_cb, FreeCallbacks> callbacks(nl_cb_alloc(NL_CB_DEFAULT));
    if (!request || !callbacks) return -NLE_NOMEM;
    if (const int code =
            nlmsg_append(request.get(), const_cast<void*>(header), size, NLMSG_ALIGNTO);
        code < 0) {
      return code;
    }
    if (type == RTM_GETLINK) nla_put_u32(request.get(), IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    if (type == RTM_GETQDISC) nla_put_flag(request.get(), TCA_DUMP_INVISIBLE);
    nl_cb_set(
        callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM,
        [](nl_msg* message, void* to) {
          const auto* bytes = reinterpret_cast<const std::byte*>(nlmsg_hdr(message));
          static_cast<std::vector<Message>*>(to)->emplace_back(
              bytes, bytes + nlmsg_hdr(message)->nlmsg_len);
          return static_cast<int>(NL_OK);
        },
        &answers);
    if (const int code = nl_send_auto(socket_.get(), request.get()); code < 0) return code;
    return nl_recvmsgs(socket_.get(), callbacks.get());
  }

  static nlmsghdr* header_of(Message& message) {
    return reinterpret_cast<nlmsghdr*>(message.data());
  }

  Status links() {
    StatusOr<std::vector<Message>> answers = dump(RTM_GETLINK, ifinfomsg{});
    if (!answers.ok()) return answers.status();
    for (Message& message : *answers) {
      lines_.push_back(link_line(header_of(message)));
    }
    return ok();
  }

  Status addresses() {
    StatusOr<std::vector<Message>> answers = dump(RTM_GETADDR, ifaddrmsg{});
    if (!answers.ok()) return answers.status();
    for (Message& message : *answers) lines_.push_back(address_line(header_of(message)));
    return ok();
  }

  Status rules() {
    int code = 0;
    StatusOr<std::vector<Message>> answers = dump(RTM_GETRULE, rtmsg{}, &code);
    // A kernel built without policy routing has no rules to be changed.
    if (code == -NLE_OPNOTSUPP || code == -NLE_AF_NOSUPPORT) return ok();
    if (!answers.ok()) return answers.status();
    for (Message& message : *answers) lines_.push_back(rule_line(header_of(message)));
    return ok();
  }

  Status routes() {
    for (const int family : {AF_INET, AF_INET6}) {
      rtmsg wanted{};
      wanted.rtm_family = static_cast<unsigned char>(family);
      StatusOr<std::vector<Message>> answers = dump(RTM_GETROUTE, wanted);
      if (!answers.ok()) return answers.status();
      for (Message& message : *answers) {
        std::string line = route_line(header_of(message), family);
        if (!line.empty()) lines_.push_back(std::move(line));
      }
    }
    return ok();
  }

  Status traffic() {
    // Filters hang on qdiscs and on classes; (interface, parent).
    std::set<std::pair<int, std::uint32_t>> parents;
    std::set<int> classful;
    StatusOr<std::vector<Message>> qdiscs = dump(RTM_GETQDISC, tcmsg{});
    if (!qdiscs.ok()) return qdiscs.status();
    for (Message& message : *qdiscs) {
      TrafficObject qdisc = traffic_object("qdisc", header_of(message));
      const int interface = qdisc.header.tcm_ifindex;
      if (qdisc.kind == "clsact") {
        parents.emplace(interface, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS));
        parents.emplace(interface, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS));
      } else if (qdisc.header.tcm_handle != 0) {
        parents.emplace(interface, qdisc.header.tcm_handle);
        classful.insert(interface);
      }
      lines_.push_back(std::move(qdisc.line));
    }
    for (const int interface : classful) {
      tcmsg wanted{};
      wanted.tcm_ifindex = interface;
      StatusOr<std::vector<Message>> classes = dump(RTM_GETTCLASS, wanted);
      if (!classes.ok()) return classes.status();
      for (Message& message : *classes) {
        TrafficObject found = traffic_object("class", header_of(message));
        if (!has_configured_classes(found.kind)) continue;
        parents.emplace(interface, found.header.tcm_handle);
        lines_.push_back(std::move(found.line));
      }
    }
    for (const auto& [interface, parent] : parents) {
      tcmsg wanted{};
      wanted.tcm_ifindex = interface;
      wanted.tcm_parent = parent;
      StatusOr<std::vector<Message>> filters = dump(RTM_GETTFILTER, wanted);
      if (!filters.ok()) return filters.status();
      for (Message& message : *filters) {
        lines_.push_back(traffic_object("filter", header_of(message)).line);
      }
    }
    return ok();
  }

  /// The files below /proc/sys/net are those of the thread that opens them.
  Status sysctls() {
    std::error_code failure;
    const fs::path folder = "/proc/sys/net/ipv4/conf";
    fs::directory_iterator entries(folder, failure);
    if (failure) return from_errno("cannot list " + folder.native(), failure.value());
    for (; entries != fs::directory_iterator(); entries.increment(failure)) {
      for (const char* name : {"accept_local", "route_localnet", "rp_filter"}) {
        std::ifstream file(entries->path() / name);
        std::string value;
        // An interface may vanish while we read.
        if (!std::getline(file, value)) continue;
        lines_.push_back("sysctl net/ipv4/conf/" + entries->path().filename().native() + '/' +
                         name + ' ' + value);
      }
    }
    if (failure) return from_errno("cannot list " + folder.native(), failure.value());
    return ok();
  }

  /// Only ours: others' programs on control groups are of the whole host, not of this namespace.
  Status programs() {
    StatusOr<std::vector<std::string>> found = list_cgroup_programs();
    if (!found.ok()) return found.status();
    lines_.insert(lines_.end(), found->begin(), found->end());
    return ok();
  }

  std::unique_ptr<nl_sock, FreeSocket> socket_;
  std::vector<std::string> lines_;
};

}  // namespace

StatusOr<std::vector<std::string>> fingerprint() { return Reader().read(); }

}  // namespace squall::network
