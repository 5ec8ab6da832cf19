#include "tests/support/namespace.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/pkt_sched.h>
#include <netlink/addr.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/qdisc.h>
#include <netlink/route/tc.h>
#include <netlink/socket.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "tests/support/eventually.h"
namespace squall::support {
namespace {

[[noreturn]] void fail(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

int open_own() {
  const int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot open the network namespace");
  return fd;
}

/// Whether the interface has its link-local address, and all its IPv6 addresses their routes.
bool has_settled(const std::string& interface) {
  std::string routes;
  std::ifstream routes_file("/proc/thread-self/net/ipv6_route");
  for (std::string to, prefix, rest;
       routes_file >> to >> prefix && std::getline(routes_file, rest);) {
    if (prefix == "80") routes += to + ' ';
  }
  bool has_link_local = false;
  std::ifstream addresses("/proc/thread-self/net/if_inet6");
  for (std::string address, index, prefix, scope, flags, name;
       addresses >> address >> index >> prefix >> scope >> flags >> name;) {
    if (name != interface) continue;
    if (routes.find(address) == std::string::npos) return false;
    has_link_local = has_link_local || address.starts_with("fe80");
  }
  return has_link_local;
}

/// A netlink socket of the namespace that the calling thread is in.
class Netlink {
 public:
  Netlink() : socket_(nl_socket_alloc()) {
    check(nl_connect(socket_.get(), NETLINK_ROUTE), "cannot open a netlink socket");
  }

  void add_veth(const std::string& name, const std::string& peer_name, int peer_namespace) {
    const Link link(rtnl_link_veth_alloc());
    rtnl_link_set_name(link.get(), name.c_str());
    rtnl_link* peer = rtnl_link_veth_get_peer(link.get());
    rtnl_link_set_name(peer, peer_name.c_str());
    rtnl_link_set_ns_fd(peer, peer_namespace);
    check(rtnl_link_add(socket_.get(), link.get(), NLM_F_CREATE | NLM_F_EXCL),
          "cannot add a veth pair");
    rtnl_link_put(peer);
  }

  void raise(const std::string& name) {
    const Link change(rtnl_link_alloc());
    rtnl_link_set_flags(change.get(), IFF_UP);
    check(rtnl_link_change(socket_.get(), find(name).get(), change.get(), 0),
          "cannot raise " + name);
  }

  /// The kernel looks at a cable only so often: for up to a second after both ends are raised,
  /// packets vanish.
  void wait_until_up(const std::string& name) {
    const bool up = eventually(
        [&] {
          return rtnl_link_get_operstate(find(name).get()) == IF_OPER_UP && has_settled(name);
        },
        std::chrono::seconds(5));
    if (!up) throw std::runtime_error(name + " does not come up");
  }

  void add_address(const std::string& name, const std::string& text) {
    nl_addr* parsed = nullptr;
    check(nl_addr_parse(text.c_str(), AF_UNSPEC, &parsed), "cannot read " + text);
    const std::unique_ptr<nl_addr, decltype(&nl_addr_put)> local(parsed, nl_addr_put);
    const std::unique_ptr<rtnl_addr, decltype(&rtnl_addr_put)> address(rtnl_addr_alloc(),
                                                                       rtnl_addr_put);
    rtnl_addr_set_ifindex(address.get(), rtnl_link_get_ifindex(find(name).get()));
    check(rtnl_addr_set_local(address.get(), local.get()), "cannot set " + text);
    if (nl_addr_get_family(local.get()) == AF_INET6)
      rtnl_addr_set_flags(address.get(), IFA_F_NODAD);
    check(rtnl_addr_add(socket_.get(), address.get(), 0), "cannot add " + text + " to " + name);
  }

  void add_clsact(const std::string& name) {
    const std::unique_ptr<rtnl_qdisc, decltype(&rtnl_qdisc_put)> qdisc(rtnl_qdisc_alloc(),
                                                                       rtnl_qdisc_put);
    rtnl_tc_set_ifindex(TC_CAST(qdisc.get()), rtnl_link_get_ifindex(find(name).get()));
    rtnl_tc_set_parent(TC_CAST(qdisc.get()), TC_H_CLSACT);
    rtnl_tc_set_handle(TC_CAST(qdisc.get()), TC_H_MAKE(TC_H_CLSACT, 0));
    check(rtnl_tc_set_kind(TC_CAST(qdisc.get()), "clsact"), "no clsact");
    check(rtnl_qdisc_add(socket_.get(), qdisc.get(), NLM_F_CREATE | NLM_F_EXCL),
          "cannot add clsact to " + name);
  }

 private:
  struct FreeSocket {
    void operator()(nl_sock* socket) const { nl_socket_free(socket); }
  };
  struct FreeLink {
    void operator()(rtnl_link* link) const { rtnl_link_put(link); }
  };
  using Link = std::unique_ptr<rtnl_link, FreeLink>;

  static void check(int code, const std::string& what) {
    if (code < 0) throw std::runtime_error(what + ": " + nl_geterror(code));
  }

  Link find(const std::string& name) {
    rtnl_link* found = nullptr;
    check(rtnl_link_get_kernel(socket_.get(), 0, name.c_str(), &found), "cannot find " + name);
    return Link(found);
  }

  std::unique_ptr<nl_sock, FreeSocket> socket_;
};

/// Without these, the first second of an interface is full of packets that nobody asked for.
void quieten(const Namespace& where) {
  for (const char* scope : {"all", "default"}) {
    const std::string folder = std::string("net/ipv6/conf/") + scope;
    set_sysctl(where, folder + "/accept_dad", "0");
    set_sysctl(where, folder + "/dad_transmits", "0");
    set_sysctl(where, folder + "/router_solicitations", "0");
  }
}

}  // namespace

Namespace::Namespace() {
  const int before = open_own();
  if (unshare(CLONE_NEWNET) != 0) {
    close(before);
    fail("cannot make a network namespace (root is needed)");
  }
  fd_ = open_own();
  const int back = setns(before, CLONE_NEWNET);
  close(before);
  if (back != 0) fail("cannot return to the network namespace");
  run([] { Netlink().raise("lo"); });
  quieten(*this);
}

Namespace::Namespace(const std::string& name) : Namespace() {
  std::filesystem::create_directories("/run/netns");
  const std::string path = "/run/netns/" + name;
  close(open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
  const std::string ours = "/proc/self/fd/" + std::to_string(fd_);
  if (mount(ours.c_str(), path.c_str(), "none", MS_BIND, nullptr) != 0) {
    unlink(path.c_str());
    fail("cannot bind " + path);
  }
  bound_to_ = path;
}

Namespace::~Namespace() {
  if (!bound_to_.empty()) {
    umount2(bound_to_.c_str(), MNT_DETACH);
    unlink(bound_to_.c_str());
  }
  if (fd_ >= 0) close(fd_);
}

std::uint64_t Namespace::inode() const {
  struct stat status {};
  if (fstat(fd_, &status) != 0) fail("cannot stat the network namespace");
  return status.st_ino;
}

Namespace::Inside::Inside(const Namespace& where) : before_(open_own()) {
  if (setns(where.fd_, CLONE_NEWNET) != 0) {
    close(before_);
    fail("cannot enter the network namespace");
  }
}

Namespace::Inside::~Inside() {
  // Nothing after this could be trusted to happen where it should.
  if (setns(before_, CLONE_NEWNET) != 0) std::terminate();
  close(before_);
}

void set_sysctl(const Namespace& where, const std::string& name, const std::string& value) {
  where.run([&] {
    std::ofstream file("/proc/sys/" + name);
    if (!(file << value).flush()) throw std::runtime_error("cannot set " + name);
  });
}

void connect(const Namespace& first, const std::string& first_interface, const Namespace& second,
             const std::string& second_interface, int net) {
  const std::string net4 = "10.77." + std::to_string(net) + '.';
  const std::string net6 = "fd77:" + std::to_string(net) + "::";
  first.run([&] {
    Netlink netlink;
    netlink.add_veth(first_interface, second_interface, second.fd());
    netlink.add_address(first_interface, net4 + "1/24");
    netlink.add_address(first_interface, net6 + "1/64");
    netlink.raise(first_interface);
  });
  second.run([&] {
    Netlink netlink;
    netlink.add_address(second_interface, net4 + "2/24");
    netlink.add_address(second_interface, net6 + "2/64");
    netlink.raise(second_interface);
  });
  first.run([&] { Netlink().wait_until_up(first_interface); });
  second.run([&] { Netlink().wait_until_up(second_interface); });
}

void add_clsact(const Namespace& where, const std::string& interface) {
  where.run([&] { Netlink().add_clsact(interface); });
}

TwoHosts::TwoHosts() { connect(client, "eth0", node, "eth0", 0); }

ThreeHosts::ThreeHosts() { connect(node, "eth1", other, "eth0", 1); }

}  // namespace squall::support
