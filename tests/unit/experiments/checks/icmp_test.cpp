#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "asking.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

namespace squall::checks {
namespace {

using namespace testing;

v1::Check icmp_check(const std::string& host, Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_icmp()->set_host(host);
  return check;
}

Sample ping(const std::string& host, Duration timeout = 10s) {
  asio::io_context loop;
  const auto check = make_check(icmp_check(host, timeout));
  return ask(loop, *check);
}

/// The two sockets there are to ping by: who is in the range may open the first.
void by_each_socket(const support::Namespace& where, const std::function<void()>& then) {
  for (const char* range : {"0 0", "1 0"}) {
    CAPTURE(range);
    support::set_sysctl(where, "net/ipv4/ping_group_range", range);
    where.run(then);
  }
}

void run_in(const support::Namespace& where, std::vector<std::string> argv) {
  support::run({.argv = std::move(argv), .where = &where, .environment = {}, .descriptors = {}});
}

/// What lies behind the node: it says that 10.99.0.0/16 and fd99::/16 cannot be reached, and of
/// 10.98.0.0/16 and fd98::/16 it says nothing.
struct Routed : support::TwoHosts {
  Routed() {
    support::set_sysctl(node, "net/ipv4/ip_forward", "1");
    support::set_sysctl(node, "net/ipv6/conf/all/forwarding", "1");
    run_in(node, {"ip", "route", "add", "unreachable", "10.99.0.0/16"});
    run_in(node, {"ip", "route", "add", "blackhole", "10.98.0.0/16"});
    run_in(node, {"ip", "-6", "route", "add", "unreachable", "fd99::/16"});
    run_in(node, {"ip", "-6", "route", "add", "blackhole", "fd98::/16"});
    run_in(client, {"ip", "route", "add", "10.96.0.0/12", "via", kNode4});
    run_in(client, {"ip", "-6", "route", "add", "fd90::/12", "via", kNode6});
  }
};

TEST_CASE("an icmp check tells a reply, by IPv4 and IPv6, with and without a ping socket") {
  const support::TwoHosts hosts;
  by_each_socket(hosts.client, [] {
    for (const char* host : {"127.0.0.1", "::1", "[::1]", "localhost", support::TwoHosts::kNode4,
                             support::TwoHosts::kNode6}) {
      CAPTURE(host);
      const Sample sample = ping(host);
      CHECK(sample.error == "");
      CHECK(sample.state == "reply");
      CHECK(sample.latency > 0ns);
    }
  });
}

TEST_CASE("an icmp check tells what cannot be reached from what is silent") {
  const Routed hosts;
  by_each_socket(hosts.client, [] {
    // Each in the words that its protocol has for it.
    for (const auto& [host, error] : {std::pair("10.99.0.1", "no route to host"),
                                      std::pair("fd99::1", "network unreachable")}) {
      CAPTURE(host);
      const Sample sample = ping(host);
      CHECK(sample.state == "unreachable");
      CHECK(sample.error == error);
      CHECK(sample.latency < kBound);
    }
    for (const char* host : {"10.98.0.1", "fd98::1"}) {
      CAPTURE(host);
      const Sample sample = ping(host, 150ms);
      CHECK(sample.state == "timeout");
      CHECK(sample.error == "timeout after 150ms");
      CHECK(sample.latency >= 150ms);
    }
    // There is no way at all.
    const Sample nowhere = ping("203.0.113.1");
    CHECK(nowhere.state == "unreachable");
    CHECK(nowhere.error == "network unreachable");
  });
}

TEST_CASE("of pings at once each takes its own answer") {
  const Routed hosts;
  by_each_socket(hosts.client, [] {
    asio::io_context loop;
    std::vector<std::unique_ptr<Check>> checks;
    std::vector<std::shared_ptr<std::optional<Sample>>> answers;
    const char* const kHosts[] = {support::TwoHosts::kNode4, "10.99.0.1", "10.98.0.1",
                                  support::TwoHosts::kNode6, "fd98::1"};
    constexpr int kRounds = 20;
    for (int round = 0; round < kRounds; ++round) {
      for (const char* host : kHosts) {
        // A router does not say for each of many that it cannot be reached.
        const bool answers_all = host == kHosts[0] || host == kHosts[3];
        checks.push_back(make_check(icmp_check(host, answers_all ? 10s : 500ms)));
        answers.push_back(begin(loop, *checks.back()));
      }
    }
    for (const auto& answer : answers) run_until(loop, [&] { return answer->has_value(); });
    for (std::size_t at = 0; at < answers.size(); at += std::size(kHosts)) {
      CHECK((*answers[at])->state == "reply");
      CHECK((*answers[at + 2])->state == "timeout");
      CHECK((*answers[at + 3])->state == "reply");
      CHECK((*answers[at + 4])->state == "timeout");
    }
  });
}

TEST_CASE("who may not ping is told what is missing") {
  const support::Namespace alone;
  support::set_sysctl(alone, "net/ipv4/ping_group_range", "1 0");
  Sample sample;
  std::thread([&] {
    alone.run([&] {
      // The privileges of this thread alone, which ends with it.
      __user_cap_header_struct head{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
      __user_cap_data_struct sets[2]{};
      REQUIRE(syscall(SYS_capget, &head, sets) == 0);
      sets[0].effective &= ~(1U << CAP_NET_RAW);
      REQUIRE(syscall(SYS_capset, &head, sets) == 0);
      sample = ping("127.0.0.1");
    });
  }).join();
  CHECK(sample.state == "");
  CHECK(sample.error ==
        "not allowed to ping: net.ipv4.ping_group_range leaves this user out, and CAP_NET_RAW is "
        "missing");
}

TEST_CASE("an icmp check of a name that nobody knows says so") {
  const Sample sample = ping(std::string(64, 'n') + ".invalid");
  CHECK(sample.state == "unreachable");
  CHECK(sample.error == "cannot resolve name");
}

TEST_CASE("an icmp asking that is cancelled ends at once") {
  const Routed hosts;
  hosts.client.run([] {
    asio::io_context loop;
    const auto check = make_check(icmp_check("10.98.0.1", 60s));
    CHECK(ask_and_cancel(loop, *check).error == "cancelled");
  });
}

}  // namespace
}  // namespace squall::checks
