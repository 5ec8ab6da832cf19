/// Whom a fault hits: every case measures, from another namespace, both what is meant and what is
/// not.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <thread>

#include "injector/network/cgroup.h"
#include "injector/network/cgroup_programs.h"
#include "injector/network/netlink.h"
#include "tests/unit/injector/network/driver.h"
#include "tests/unit/injector/network/ping.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;
constexpr std::uint16_t kOtherPort = 7002;
constexpr Duration kDelay = milliseconds(100);
/// Nobody delays a packet on purpose by less.
constexpr double kUntouchedMs = 60;

v1::Fault delay_of_all(v1::Direction direction = v1::EGRESS) {
  v1::Fault fault = delay_fault(kPort, kDelay, direction);
  fault.mutable_network()->clear_to();
  return fault;
}

double udp_ms(const TwoHosts& hosts, std::uint16_t port, const char* address = TwoHosts::kNode4) {
  return quickest_ms(measure(hosts.client, address, port, 5));
}

double tcp_ms(const TwoHosts& hosts, std::uint16_t port) {
  std::vector<Duration> times = tcp_round_trips(hosts.client, TwoHosts::kNode4, port, 4);
  REQUIRE(times.size() == 5);
  return to_ms(*std::min_element(times.begin() + 1, times.end()));
}

v1::Cidr cidr_of(const std::string& address) {
  v1::Cidr cidr;
  in_addr four{};
  in6_addr six{};
  if (inet_pton(AF_INET, address.c_str(), &four) == 1) {
    cidr.set_address(&four, sizeof(four));
  } else {
    REQUIRE(inet_pton(AF_INET6, address.c_str(), &six) == 1);
    cidr.set_address(&six, sizeof(six));
  }
  cidr.set_prefix(static_cast<std::uint32_t>(cidr.address().size() * 8));
  return cidr;
}

hold::Hosts stands_for(const std::string& host, std::vector<std::string> addresses) {
  hold::Hosts hosts;
  v1::HostAddresses& known = *hosts.Add();
  known.set_host(host);
  for (const std::string& address : addresses) known.add_addresses(cidr_of(address).address());
  return hosts;
}

/// A control group of its own, which the sockets made in its scope belong to for good.
class Group {
 public:
  explicit Group(const std::string& name) {
    StatusOr<Fd> root = network::open_cgroup_root();
    REQUIRE_MESSAGE(root.ok(), message_of(root.status()));
    root_ = *std::move(root);
    mount_ = "/proc/self/fd/" + std::to_string(root_.number());
    name_ = "/" + name + "-" + std::to_string(getpid());
    REQUIRE(mkdir((mount_ + name_).c_str(), 0755) == 0);
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    move_to("");
    rmdir((mount_ + name_).c_str());
  }

  template <typename Work>
  auto inside(Work work) {
    move_to(name_);
    auto made = work();
    move_to("");
    return made;
  }

  const std::string& path() const { return name_; }

 private:
  void move_to(const std::string& group) {
    std::ofstream(mount_ + group + "/cgroup.procs") << getpid() << std::flush;
  }

  Fd root_;
  std::string mount_;
  std::string name_;
};

/// A process that answers on a port of the node, and on others once it is told to.
class Answering {
 public:
  Answering(const TwoHosts& hosts, std::uint16_t port) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::setns(hosts.node.fd(), CLONE_NEWNET) != 0) ::_exit(1);
      ::close(ends[0]);
      std::vector<std::unique_ptr<Echo>> all;
      std::uint16_t next = 0;
      while (::recv(ends[1], &next, sizeof next, 0) == sizeof next) {
        all.push_back(std::make_unique<Echo>(hosts.node, next));
        ::send(ends[1], &next, sizeof next, MSG_NOSIGNAL);
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    socket_.reset(ends[0]);
    also(port);
  }
  Answering(const Answering&) = delete;
  Answering& operator=(const Answering&) = delete;
  ~Answering() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }

  void also(std::uint16_t port) const {
    REQUIRE(::send(socket_.number(), &port, sizeof port, MSG_NOSIGNAL) == sizeof port);
    REQUIRE(::recv(socket_.number(), &port, sizeof port, 0) == sizeof port);
  }

 private:
  pid_t pid_ = -1;
  Fd socket_;
};

}  // namespace

TEST_CASE("a protocol alone is hit, on a port that others use as well") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = delay_fault(kPort, kDelay);
  SUBCASE("udp") {
    fault.mutable_network()->mutable_to()->add_protocols()->set_number(IPPROTO_UDP);
    const auto held = inject(hosts.node, fault);
    CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) >= to_ms(kDelay));
    CHECK(tcp_ms(hosts, kPort) < kUntouchedMs);
  }
  SUBCASE("tcp") {
    fault.mutable_network()->mutable_to()->add_protocols()->set_number(IPPROTO_TCP);
    const auto held = inject(hosts.node, fault);
    CHECK(tcp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(udp_ms(hosts, kPort) < kUntouchedMs);
  }
}

TEST_CASE("icmp is hit without what else goes to the same host") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = delay_of_all();
  fault.mutable_network()->mutable_to()->add_protocols()->set_number(IPPROTO_ICMP);
  const auto held = inject(hosts.node, fault);
  CHECK(udp_ms(hosts, kPort) < kUntouchedMs);
  CHECK(ping(hosts.client, TwoHosts::kNode4) >= kDelay);
  const std::optional<Duration> six = ping(hosts.client, TwoHosts::kNode6);
  REQUIRE(six.has_value());
  CHECK(to_ms(*six) < kUntouchedMs);
}

TEST_CASE("what is excepted passes, whatever else asks for it") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const Echo other(hosts.node, kOtherPort);
  v1::Fault fault = delay_of_all();
  v1::Match& except = *fault.mutable_network()->mutable_except();
  SUBCASE("a port") {
    except.add_ports()->set_first(kOtherPort);
    except.mutable_ports(0)->set_last(kOtherPort);
    const auto held = inject(hosts.node, fault);
    CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(udp_ms(hosts, kOtherPort) < kUntouchedMs);
  }
  SUBCASE("an address, though the match names it too") {
    *except.add_cidrs() = cidr_of(TwoHosts::kClient6);
    for (const char* address : {TwoHosts::kClient4, TwoHosts::kClient6}) {
      *fault.mutable_network()->mutable_to()->add_cidrs() = cidr_of(address);
    }
    const auto held = inject(hosts.node, fault);
    CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) < kUntouchedMs);
  }
  SUBCASE("an address within a network that is hit") {
    *except.add_cidrs() = cidr_of(TwoHosts::kClient4);
    v1::Cidr& around = *fault.mutable_network()->mutable_to()->add_cidrs();
    around.set_address(std::string("\x0a\x00\x00\x00", 4));
    around.set_prefix(8);
    fault.mutable_network()->set_interface("eth0");
    const auto held = inject(hosts.node, fault);
    CHECK(udp_ms(hosts, kPort) < kUntouchedMs);
    CHECK(held->evidence().network().matched_packets() == 0);
  }
  SUBCASE("only where all of the exception holds") {
    except.add_ports()->set_first(kPort);
    except.mutable_ports(0)->set_last(kPort);
    except.add_protocols()->set_number(IPPROTO_TCP);
    const auto held = inject(hosts.node, fault);
    CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(tcp_ms(hosts, kPort) < kUntouchedMs);
    CHECK(tcp_ms(hosts, kOtherPort) >= to_ms(kDelay));
  }
}

TEST_CASE("what comes from somewhere is hit as it arrives") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = delay_of_all();
  *fault.mutable_network()->mutable_from()->add_cidrs() = cidr_of(TwoHosts::kClient4);
  const auto held = inject(hosts.node, fault);
  CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
  CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) < kUntouchedMs);
  REQUIRE(held->undos().front().has_remove_filter());
  CHECK(held->undos().front().remove_filter().parent() == network::kClsactIngress);
}

TEST_CASE("of a share of the connections each is hit whole or not at all") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = delay_fault(kPort, kDelay, v1::BOTH);
  fault.set_seed(7);
  fault.mutable_network()->set_connections(50);
  const auto held = inject(hosts.node, fault);
  int hit = 0;
  int whole = 0;
  constexpr int kConnections = 40;
  for (int i = 0; i < kConnections; ++i) {
    // A socket each, and so a flow of its own.
    const std::vector<Probe> probes = measure(hosts.client, TwoHosts::kNode4, kPort, 4);
    int slow = 0;
    int slower = 0;
    for (const Probe& probe : probes) {
      REQUIRE(probe.round_trip.has_value());
      slow += to_ms(*probe.round_trip) >= to_ms(kDelay) ? 1 : 0;
      // The relay reckons in the time that it takes itself, and may be some us early.
      slower += to_ms(*probe.round_trip) >= 2 * to_ms(kDelay) - 1 ? 1 : 0;
    }
    hit += slower == 4 ? 1 : 0;
    whole += slower == 4 || slow < 4 ? 1 : 0;
  }
  CHECK(whole == kConnections);
  // Five standard deviations.
  CHECK(hit >= 20 - 16);
  CHECK(hit <= 20 + 16);
}

TEST_CASE("of a share of the packets about that many are hit") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = loss_fault(kPort, 100);
  fault.mutable_network()->set_packets(25);
  const auto held = inject(hosts.node, fault);
  const std::vector<Probe> probes = measure(hosts.client, TwoHosts::kNode4, kPort, 400);
  const auto lost = static_cast<double>(probes.size() - answered(probes));
  // Five standard deviations: sqrt(400 x 0.25 x 0.75) is 8.7.
  CHECK(lost >= 100 - 44);
  CHECK(lost <= 100 + 44);
  CHECK(held->evidence().network().matched_packets() == static_cast<std::uint64_t>(lost));
}

TEST_CASE("a control group's sockets are hit and no others, either way") {
  Group group("squall-aim");
  const TwoHosts hosts;
  const auto echo = group.inside([&] { return std::make_unique<Echo>(hosts.node, kPort); });
  const Echo other(hosts.node, kOtherPort);
  v1::Direction direction = v1::EGRESS;
  SUBCASE("egress") { direction = v1::EGRESS; }
  SUBCASE("ingress") { direction = v1::INGRESS; }
  v1::Fault fault = delay_of_all(direction);
  fault.mutable_network()->mutable_in()->set_cgroup(group.path());
  const auto held = inject(hosts.node, fault);
  for (const char* address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
    CHECK(udp_ms(hosts, kPort, address) >= to_ms(kDelay));
    CHECK(udp_ms(hosts, kOtherPort, address) < kUntouchedMs);
  }
  CHECK(tcp_ms(hosts, kPort) >= to_ms(kDelay));
  CHECK(tcp_ms(hosts, kOtherPort) < kUntouchedMs);
}

TEST_CASE("a process's sockets are hit and no others, also those that it makes later") {
  const TwoHosts hosts;
  const Answering meant(hosts, kPort);
  const Answering other(hosts, kOtherPort);
  v1::Direction direction = v1::EGRESS;
  SUBCASE("egress") { direction = v1::EGRESS; }
  SUBCASE("ingress") { direction = v1::INGRESS; }
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  v1::Fault fault = delay_of_all(direction);
  fault.mutable_network()->mutable_in()->mutable_process()->set_pid(meant.pid());
  {
    const auto held = inject(hosts.node, fault);
    constexpr std::uint16_t kLater = 7003;
    constexpr std::uint16_t kOtherLater = 7004;
    meant.also(kLater);
    other.also(kOtherLater);
    for (const char* address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
      CAPTURE(address);
      CHECK(udp_ms(hosts, kPort, address) >= to_ms(kDelay));
      CHECK(udp_ms(hosts, kLater, address) >= to_ms(kDelay));
      CHECK(udp_ms(hosts, kOtherPort, address) < kUntouchedMs);
      CHECK(udp_ms(hosts, kOtherLater, address) < kUntouchedMs);
    }
    // A connection is its listener's.
    CHECK(tcp_ms(hosts, kPort) >= to_ms(kDelay));
    CHECK(tcp_ms(hosts, kLater) >= to_ms(kDelay));
    CHECK(tcp_ms(hosts, kOtherPort) < kUntouchedMs);
    CHECK(tcp_ms(hosts, kOtherLater) < kUntouchedMs);
    CHECK(held->pulse(std::chrono::minutes(5)).ok());
    CHECK(held->evidence().network().matched_packets() >= 4 * 5);
    const auto programs = hosts.node.run([] { return network::find_tagged_programs(kStateId); });
    REQUIRE(programs.ok());
    CHECK(programs->size() == 1);
  }
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
  CHECK(udp_ms(hosts, kPort) < kUntouchedMs);
}

TEST_CASE("processes that are started later are meant too, and none at all is refused") {
  const TwoHosts hosts;
  const std::string name = "squall-a-" + std::to_string(getpid() % 100000);
  std::array<char, 16> own{};
  prctl(PR_GET_NAME, own.data());
  v1::Fault fault = delay_of_all();
  fault.mutable_network()->mutable_in()->mutable_process()->set_name(name);
  CHECK(look(hosts.node, fault).message() ==
        "network.in: no process with name " + name + " on this node");

  v1::Fault contained = delay_of_all();
  contained.mutable_network()->mutable_in()->mutable_process()->set_container("4f5a1c0b9d3e");
  CHECK(look(hosts.node, contained).message() ==
        "network.in.process.container: a container's packets are told apart in its own network "
        "namespace; write in: {netns: PID}, of a process in it, or its cgroup");

  // Children begin with the name of who starts them, and only they are to have it.
  const auto start = [&](std::uint16_t port) {
    prctl(PR_SET_NAME, name.c_str());
    auto started = std::make_unique<Answering>(hosts, port);
    prctl(PR_SET_NAME, own.data());
    return started;
  };
  const auto first = start(kPort);
  CHECK(look(hosts.node, fault).message() == "");
  const auto held = inject(hosts.node, fault);
  CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
  const auto second = start(kOtherPort);
  CHECK(eventually(
      [&] {
        return held->pulse(std::chrono::minutes(5)).ok() &&
               udp_ms(hosts, kOtherPort) >= to_ms(kDelay);
      },
      std::chrono::seconds(20)));
}

TEST_CASE("a unit is its control group, and one that is not there is refused") {
  Group group("squall-aim.service");
  v1::Scope scope;
  scope.set_unit(group.path().substr(1));
  const StatusOr<std::string> found = network::cgroup_path(scope);
  REQUIRE_MESSAGE(found.ok(), message_of(found.status()));
  CHECK(*found == group.path());
  const StatusOr<network::Cgroup> known = network::find_cgroup(scope);
  REQUIRE_MESSAGE(known.ok(), message_of(known.status()));
  CHECK(known->id != 0);
  CHECK(known->level == 1);
  scope.set_unit("squall-nowhere.service");
  CHECK(network::find_cgroup(scope).status().code() == StatusCode::kNotFound);
  scope.clear_unit();
  scope.set_cgroup("/squall/nowhere");
  CHECK(message_of(network::find_cgroup(scope).status()) ==
        "there is no control group /squall/nowhere");
}

TEST_CASE("a fault in another network namespace acts there and is undone from here") {
  const Namespace client;
  const Namespace blue("squall-blue");
  connect(client, "eth0", blue, "eth0", 0);
  const Echo echo(blue, kPort);
  const Namespace here;
  const std::vector<std::string> before = settled_fingerprint(blue);
  v1::Fault fault = delay_fault(kPort, kDelay);
  fault.mutable_network()->mutable_in()->set_netns("squall-blue");
  {
    const auto held = inject(here, fault);
    CHECK(quickest_ms(measure(client, TwoHosts::kNode4, kPort, 5)) >= to_ms(kDelay));
    CHECK(held->evidence().network().matched_packets() >= 5);
    CHECK(held->pulse(std::chrono::minutes(1)).ok());
  }
  CHECK(difference(before, settled_fingerprint(blue)) == "");
  CHECK(quickest_ms(measure(client, TwoHosts::kNode4, kPort, 5)) < kUntouchedMs);

  // As if its holder had died: a sweep finds it from another namespace, and there alone.
  const auto left = inject(here, fault);
  const StatusOr<std::vector<v1::Undo>> found =
      here.run([] { return network::find_tagged(kStateId); });
  REQUIRE(found.ok());
  CHECK_FALSE(found->empty());
  for (const v1::Undo& undo : *found) CHECK(here.run([&] { return network::run_undo(undo); }).ok());
  CHECK(difference(before, settled_fingerprint(blue)) == "");

  fault.mutable_network()->mutable_in()->set_netns("squall-nowhere");
  CHECK(look(here, fault).message() == "no network namespace /run/netns/squall-nowhere");
}

TEST_CASE("a host's addresses are hit, and others once the name stands for others") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  v1::Fault fault = delay_of_all();
  fault.mutable_network()->set_interface("eth0");
  fault.mutable_network()->mutable_to()->add_hosts("client.test");
  Held held(hosts.node, fault, {}, nullptr, stands_for("client.test", {TwoHosts::kClient4}));
  held.apply(std::chrono::minutes(5));
  CHECK(udp_ms(hosts, kPort) >= to_ms(kDelay));
  CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) < kUntouchedMs);
  CHECK(held.resolved(stands_for("client.test", {TwoHosts::kClient6})).ok());
  CHECK(udp_ms(hosts, kPort) < kUntouchedMs);
  CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) >= to_ms(kDelay));
  CHECK(held.resolved(stands_for("client.test", {})).ok());
  CHECK(udp_ms(hosts, kPort, TwoHosts::kNode6) < kUntouchedMs);
}

TEST_CASE("an ssh session is spared on any port, and other connections to that port are not") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const auto held = inject(hosts.node, delay_fault(kPort, kDelay));
  const auto last_of = [&](const char* name) {
    // Both ends of the connection are this process's.
    std::array<char, 16> before{};
    prctl(PR_GET_NAME, before.data());
    prctl(PR_SET_NAME, name);
    std::atomic<bool> done = false;
    std::vector<Duration> times;
    std::thread client([&] {
      times = tcp_round_trips(hosts.client, TwoHosts::kNode4, kPort, 20);
      done = true;
    });
    // Connected: its handshake's answer and two more have passed.
    const std::uint64_t passed = held->evidence().network().matched_packets();
    CHECK(eventually([&] { return held->evidence().network().matched_packets() > passed + 2; },
                     std::chrono::seconds(10)));
    while (!done) {
      CHECK(held->pulse(std::chrono::minutes(5)).ok());
      yield_for(milliseconds(20));
    }
    client.join();
    prctl(PR_SET_NAME, before.data());
    REQUIRE(times.size() == 21);
    CHECK(times[0] >= kDelay);
    return to_ms(*std::min_element(times.end() - 5, times.end()));
  };
  CHECK(last_of("ssh") < kUntouchedMs);
  CHECK(last_of("not-ssh") >= to_ms(kDelay));
}

TEST_CASE("the interface named all is every one that is up, but lo") {
  const ThreeHosts hosts;
  v1::Fault fault = delay_of_all();
  *fault.mutable_network()->mutable_to()->add_cidrs() = cidr_of(TwoHosts::kClient4);
  CHECK(look(hosts.node, fault).interfaces_size() == 1);
  fault.mutable_network()->set_interface("all");
  CHECK(look(hosts.node, fault).interfaces_size() == 2);
}

}  // namespace squall::support
