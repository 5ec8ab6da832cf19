/// \file
/// The fingerprint on this kernel and on the lab's: still under traffic, moved by every change,
/// back after its undo.
#include "injector/network/fingerprint.h"

#include <doctest/doctest.h>

#include <chrono>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/holder.h"
#include "tests/support/measure.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

using namespace squall::support;
using namespace std::chrono_literals;

namespace {

std::vector<std::string> read(const Namespace& where) {
  squall::StatusOr<std::vector<std::string>> lines =
      where.run([] { return squall::network::fingerprint(); });
  REQUIRE_MESSAGE(lines.ok(), squall::message_of(lines.status()));
  return *lines;
}

void act(const Namespace& where, const std::string& command) {
  std::istringstream words(command);
  Command program;
  program.where = &where;
  for (std::string word; words >> word;) program.argv.push_back(word);
  run(program);
}

/// An owner's own arrangements, of the kinds that both kernels have.
void furnish(const Namespace& node) {
  act(node, "tc qdisc add dev eth0 root handle 1: htb default 10 direct_qlen 100");
  act(node, "tc class add dev eth0 parent 1: classid 1:10 htb rate 100mbit");
  act(node, "tc qdisc add dev eth0 parent 1:10 handle 10: tbf rate 90mbit burst 64k latency 50ms");
  act(node,
      "tc filter add dev eth0 parent 1: protocol ip prio 5 u32 match ip dport 9 0xffff flowid "
      "1:10");
  act(node, "tc qdisc add dev eth0 clsact");
  act(node,
      "tc filter add dev eth0 egress protocol all prio 7 u32 match u32 0 0 action mirred egress "
      "mirror dev lo");
}

}  // namespace

TEST_CASE("a fingerprint stands still under traffic, whatever the kernel counts") {
  const TwoHosts hosts;
  furnish(hosts.node);
  const Echo echo(hosts.node, 7000);
  const std::vector<std::string> before = read(hosts.node);
  CHECK(answered(measure(hosts.client, TwoHosts::kNode4, 7000, 50)) == 50);
  CHECK(answered(measure(hosts.client, TwoHosts::kNode6, 7000, 50)) == 50);
  for (int i = 0; i < 20; ++i) CHECK(read(hosts.node) == before);
}

TEST_CASE("every change moves the fingerprint, and taking it back brings back the same bytes") {
  const TwoHosts hosts;
  furnish(hosts.node);
  struct Change {
    std::string make;
    std::string take_back;
  };
  const std::vector<Change> changes{
      {"ip link add name sqtbr type bridge", "ip link del sqtbr"},
      {"ip link add name sqtifb type ifb", "ip link del sqtifb"},
      {"ip link set eth0 mtu 1400", "ip link set eth0 mtu 1500"},
      {"ip link set eth0 alias owned", "ip link set eth0 alias none"},
      {"ip address add 10.78.0.1/24 dev eth0", "ip address del 10.78.0.1/24 dev eth0"},
      {"ip address add fd78::1/64 dev eth0 nodad", "ip address del fd78::1/64 dev eth0"},
      {"ip route add 10.79.0.0/16 via 10.77.0.1", "ip route del 10.79.0.0/16 via 10.77.0.1"},
      {"ip route add fd79::/64 via fd77::1", "ip route del fd79::/64 via fd77::1"},
      {"ip rule add from 10.80.0.0/16 table 100", "ip rule del from 10.80.0.0/16 table 100"},
      {"ip -6 rule add from fd80::/16 table 100", "ip -6 rule del from fd80::/16 table 100"},
      {"tc qdisc add dev lo root handle 5: tbf rate 90mbit burst 64k latency 50ms",
       "tc qdisc del dev lo root"},
      {"tc qdisc add dev lo clsact", "tc qdisc del dev lo clsact"},
      {"tc class add dev eth0 parent 1: classid 1:20 htb rate 10mbit",
       "tc class del dev eth0 classid 1:20"},
      {"tc class change dev eth0 parent 1: classid 1:10 htb rate 50mbit",
       "tc class change dev eth0 parent 1: classid 1:10 htb rate 100mbit"},
      {"tc filter add dev eth0 parent 1: protocol ip prio 6 u32 match ip dport 10 0xffff flowid "
       "1:10",
       "tc filter del dev eth0 parent 1: prio 6"},
      {"tc filter add dev eth0 egress protocol ip prio 8 u32 match u32 0 0 action mirred egress "
       "redirect dev lo",
       "tc filter del dev eth0 egress prio 8"},
      {"tc filter add dev eth0 ingress protocol ipv6 prio 8 u32 match u32 0 0 action mirred egress "
       "redirect dev lo",
       "tc filter del dev eth0 ingress prio 8"},
      {"sysctl -q -w net.ipv4.conf.lo.route_localnet=1",
       "sysctl -q -w net.ipv4.conf.lo.route_localnet=0"},
      {"sysctl -q -w net.ipv4.conf.lo.accept_local=1",
       "sysctl -q -w net.ipv4.conf.lo.accept_local=0"},
  };
  act(hosts.node, "ip link set eth0 alias none");
  const std::vector<std::string> before = read(hosts.node);
  for (const Change& change : changes) {
    INFO(change.make);
    act(hosts.node, change.make);
    CHECK(read(hosts.node) != before);
    act(hosts.node, change.take_back);
    const std::vector<std::string> after = read(hosts.node);
    CHECK_MESSAGE(after == before, difference(before, after));
  }
}

TEST_CASE("a fingerprint is of the namespace that the thread is in") {
  const TwoHosts hosts;
  const std::vector<std::string> node = read(hosts.node);
  const std::vector<std::string> client = read(hosts.client);
  CHECK(node != client);
  act(hosts.client, "ip address add 10.78.0.1/24 dev eth0");
  const std::vector<std::string> again = read(hosts.node);
  CHECK_MESSAGE(again == node, difference(node, again));
  CHECK(read(hosts.client) != client);
}
