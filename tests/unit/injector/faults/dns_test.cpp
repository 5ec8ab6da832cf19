/// \file
/// The dns fault as clients see it. Always held by a squall-hold of its own: what the holding
/// process asks is never redirected, and here the test is what asks.
#include "tests/support/dns.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "injector/faults/fault.h"
#include "injector/network/cgroup.h"
#include "injector/network/dns_redirect.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using Addresses = std::vector<std::string>;

constexpr const char* kServer4 = TwoHosts::kClient4;
constexpr const char* kServer6 = TwoHosts::kClient6;
/// How long the absence of an answer is watched.
constexpr Duration kBrief = milliseconds(300);

/// Not every kernel can redirect sockets by their control group; then ctest shows why nothing was
/// tested.
void require_redirects() {
  static const v1::Looked looked = [] {
    v1::Look asked;
    asked.mutable_fault()->mutable_dns();
    return hold::find_kind(asked.fault())->look(asked);
  }();
  if (looked.code() != static_cast<int>(StatusCode::kUnimplemented)) return;
  std::printf("SKIPPED: %s\n", looked.message().c_str());
  throw std::runtime_error(looked.message());
}

/// The node, and the name server on the other host.
struct Scene : TwoHosts {
  Scene() { require_redirects(); }

  NameServer server{client};
};

v1::Fault dns(const std::vector<std::string>& names) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(minutes(1)).count());
  fault.mutable_dns()->mutable_names()->Assign(names.begin(), names.end());
  return fault;
}

v1::Fault dns(const std::vector<std::string>& names, v1::DnsAnswer answer) {
  v1::Fault fault = dns(names);
  fault.mutable_dns()->set_answer(answer);
  return fault;
}

v1::Fault late_dns(const std::vector<std::string>& names, Duration delay) {
  v1::Fault fault = dns(names);
  fault.mutable_dns()->set_delay(delay.count());
  return fault;
}

v1::DnsEvidence evidence_of(Holder& holder) {
  const auto evidence = holder.pulse(minutes(1));
  REQUIRE(evidence.has_value());
  return evidence->dns();
}

struct Way {
  const char* server;
  Transport transport;
  const char* from;
};

/// Every way to ask a server.
const Way kWays[] = {
    {kServer4, Transport::kConnected, "10.77.0.1#53"},
    {kServer4, Transport::kUnconnected, "10.77.0.1#53"},
    {kServer4, Transport::kMapped, "::ffff:10.77.0.1#53"},
    {kServer4, Transport::kTcp, "10.77.0.1#53"},
    {kServer4, Transport::kTcpByBytes, "10.77.0.1#53"},
    {kServer6, Transport::kConnected, "fd77::1#53"},
    {kServer6, Transport::kUnconnected, "fd77::1#53"},
    {kServer6, Transport::kTcp, "fd77::1#53"},
};

std::string in_words(const Way& way) {
  return std::string(way.from) + ", way " + std::to_string(static_cast<int>(way.transport));
}

/// What `getent ahosts` prints, with that file for /etc/resolv.conf.
std::string resolve_by_getent(const Namespace& where, const std::string& file,
                              const std::string& name) {
  int ends[2];
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  Fd out(ends[0]);
  Fd in(ends[1]);
  const pid_t child = ::fork();
  if (child == 0) {
    // Only system calls: other threads may hold any lock.
    if (::setns(where.fd(), CLONE_NEWNET) != 0 || ::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount(file.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) != 0) {
      ::_exit(125);
    }
    ::dup2(in.number(), STDOUT_FILENO);
    ::execl("/usr/bin/getent", "getent", "-s", "hosts:dns", "ahosts", name.c_str(), nullptr);
    ::_exit(126);
  }
  in.reset();
  std::string text;
  std::array<char, 4096> part{};
  for (ssize_t size = 0; (size = ::read(out.number(), part.data(), part.size())) > 0;) {
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == (text.empty() ? 2 : 0));  // getent(1): 2 is not found
  return text;
}

}  // namespace

TEST_CASE("without a fault the scene answers, whichever way it is asked") {
  const Scene scene;
  for (const Way& way : kWays) {
    INFO(in_words(way));
    const auto reply = ask(scene.node, way.server, way.transport, {.name = "api.example.com"});
    REQUIRE(reply.has_value());
    CHECK(reply->addresses == Addresses{NameServer::kAddress4});
    CHECK(reply->from == way.from);
  }
}

TEST_CASE("nxdomain and servfail are what the matched names get, whichever way they are asked") {
  const Scene scene;
  for (const auto& [answer, code] : {std::pair(v1::NXDOMAIN, 3), std::pair(v1::SERVFAIL, 2)}) {
    Holder holder(scene.node);
    CHECK_FALSE(
        holder.inject(dns({"api.example.com", "*.Internal."}, answer), minutes(1)).effect());
    std::uint64_t asked = scene.server.asked();
    for (const Way& way : kWays) {
      INFO(in_words(way));
      for (const char* name :
           {"api.example.com", "API.example.COM", "db.internal", "a.b.internal"}) {
        const auto reply = ask(scene.node, way.server, way.transport, {.name = name, .edns = true});
        REQUIRE(reply.has_value());
        CHECK(reply->code == code);
        CHECK(reply->addresses.empty());
        CHECK(reply->edns);
        CHECK(reply->from == way.from);
      }
    }
    CHECK(scene.server.asked() == asked);
    const v1::DnsEvidence evidence = evidence_of(holder);
    CHECK(evidence.matched_queries() == 4 * std::size(kWays));
    CHECK(evidence.answered_queries() == 4 * std::size(kWays));
    CHECK(evidence.forwarded_queries() == 0);
    CHECK(evidence.passed_queries() == 0);
    CHECK(holder.pulse(minutes(1))->effect());
    CHECK(holder.release() == std::vector<std::string>());
  }
}

TEST_CASE("names that are not matched get the very bytes of the server that was asked") {
  const Scene scene;
  const Question questions[] = {{.name = "example.com"},
                                {.name = "internal"},
                                {.name = "notinternal", .ipv6 = true},
                                {.name = "api.example.com.nowhere"}};
  std::vector<std::vector<std::uint8_t>> before;
  for (const Way& way : kWays) {
    for (const Question& question : questions) {
      const auto reply = ask(scene.node, way.server, way.transport, question);
      REQUIRE(reply.has_value());
      before.push_back(reply->bytes);
    }
  }
  Holder holder(scene.node);
  holder.inject(dns({"api.example.com", "*.internal"}, v1::NXDOMAIN), minutes(1));
  std::size_t i = 0;
  for (const Way& way : kWays) {
    for (const Question& question : questions) {
      INFO(in_words(way), " ", question.name);
      const auto reply = ask(scene.node, way.server, way.transport, question);
      REQUIRE(reply.has_value());
      CHECK(reply->bytes == before[i++]);
      CHECK(reply->from == way.from);
    }
  }
  const v1::DnsEvidence evidence = evidence_of(holder);
  CHECK(evidence.matched_queries() == 0);
  CHECK(evidence.forwarded_queries() == std::size(kWays) * std::size(questions));
}

TEST_CASE("timeout leaves the matched names without any answer") {
  const Scene scene;
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::TIMEOUT), minutes(1));
  for (const Way& way : kWays) {
    INFO(in_words(way));
    CHECK_FALSE(ask(scene.node, way.server, way.transport, {.name = "a.example"}, kBrief));
  }
  CHECK(scene.server.asked() == 0);
  CHECK(evidence_of(holder).unanswered_queries() == std::size(kWays));
}

TEST_CASE("a delay holds the server's answers to the matched names, and no others") {
  const Scene scene;
  constexpr Duration kDelay = milliseconds(400);
  Holder holder(scene.node);
  holder.inject(late_dns({"slow.example"}, kDelay), minutes(1));
  for (const Way& way : kWays) {
    INFO(in_words(way));
    const auto late = ask(scene.node, way.server, way.transport, {.name = "slow.example"});
    REQUIRE(late.has_value());
    CHECK(late->addresses == Addresses{NameServer::kAddress4});
    CHECK(late->took >= kDelay);
    CHECK(late->took < kDelay + seconds(3));
    // One quick answer of several shows that none is held.
    Duration quickest = seconds(1);
    for (int i = 0; i < 5; ++i) {
      const auto other = ask(scene.node, way.server, way.transport, {.name = "quick.example"});
      REQUIRE(other.has_value());
      quickest = std::min(quickest, other->took);
    }
    CHECK(quickest < kDelay / 2);
  }
  CHECK(evidence_of(holder).delayed_answers() == std::size(kWays));
}

TEST_CASE("a delay that ramps holds answers longer and longer") {
  const Scene scene;
  constexpr Duration kDelay = milliseconds(600);
  v1::Fault fault = late_dns({"slow.example"}, kDelay);
  add_ramp(fault, "delay", 0, number_of(kDelay), seconds(3));
  Holder holder(scene.node);
  holder.inject(fault, minutes(1));
  const auto takes = [&] {
    const auto answer =
        ask(scene.node, kWays[0].server, kWays[0].transport, {.name = "slow.example"});
    REQUIRE(answer.has_value());
    return answer->took;
  };
  bool grew = false;
  Duration last = takes();
  CHECK(last < kDelay);
  CHECK(eventually(
      [&] {
        const Duration now = takes();
        grew = grew || (now > last && now < kDelay);
        last = now;
        return now >= kDelay;
      },
      seconds(15)));
  CHECK(grew);
  CHECK(holder.release().empty());
  CHECK(takes() < kDelay / 2);
}

TEST_CASE("a delay holds back what is answered in the server's place as well") {
  const Scene scene;
  v1::Fault fault = late_dns({"*.internal"}, milliseconds(200));
  fault.mutable_dns()->set_answer(v1::NXDOMAIN);
  Holder holder(scene.node);
  holder.inject(fault, minutes(1));
  const auto reply = ask(scene.node, kServer4, Transport::kConnected, {.name = "db.internal"});
  REQUIRE(reply.has_value());
  CHECK(reply->code == 3);
  CHECK(reply->took >= milliseconds(200));
}

TEST_CASE(
    "with addresses a name resolves elsewhere, and to nothing of a family that is not given") {
  const Scene scene;
  Holder both(scene.node);
  v1::Fault fault = dns({"db.internal"});
  for (const char* address : {"10.9.9.9", "2001:db8::9", "10.9.9.10"}) {
    fault.mutable_dns()->add_addresses(address);
  }
  both.inject(fault, minutes(1));
  for (const Way& way : kWays) {
    INFO(in_words(way));
    const auto ipv4 = ask(scene.node, way.server, way.transport, {.name = "db.internal"});
    REQUIRE(ipv4.has_value());
    CHECK(ipv4->code == 0);
    CHECK(ipv4->addresses == Addresses{"10.9.9.9", "10.9.9.10"});
    const auto ipv6 =
        ask(scene.node, way.server, way.transport, {.name = "db.internal", .ipv6 = true});
    REQUIRE(ipv6.has_value());
    CHECK(ipv6->addresses == Addresses{"2001:db8::9"});
  }
  CHECK(both.release() == std::vector<std::string>());

  Holder one(scene.node);
  fault.set_id(new_fault_id());
  fault.mutable_dns()->clear_addresses();
  fault.mutable_dns()->add_addresses("10.9.9.9");
  one.inject(fault, minutes(1));
  const auto none =
      ask(scene.node, kServer4, Transport::kConnected, {.name = "db.internal", .ipv6 = true});
  REQUIRE(none.has_value());
  CHECK(none->code == 0);
  CHECK(none->addresses.empty());
}

TEST_CASE("the C library's resolver sees the fault, and sees it no more") {
  const Scene scene;
  const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("resolv." + std::to_string(::getpid()));
  std::ofstream(file) << "nameserver " << kServer4 << "\noptions timeout:1 attempts:1\n";
  const auto resolves = [&](const std::string& name) {
    return resolve_by_getent(scene.node, file.native(), name);
  };
  const std::string healthy = resolves("api.example.com");
  CHECK(healthy.find(NameServer::kAddress4) != std::string::npos);
  CHECK(healthy.find(NameServer::kAddress6) != std::string::npos);
  Holder holder(scene.node);
  v1::Fault fault = dns({"api.example.com"});
  fault.mutable_dns()->add_addresses("10.9.9.9");
  holder.inject(fault, minutes(1));
  const std::string elsewhere = resolves("api.example.com");
  CHECK(elsewhere.find("10.9.9.9") != std::string::npos);
  CHECK(elsewhere.find(NameServer::kAddress4) == std::string::npos);
  CHECK(elsewhere.find(NameServer::kAddress6) == std::string::npos);
  CHECK(resolves("other.example.com") != "");
  CHECK(holder.release() == std::vector<std::string>());
  CHECK(resolves("api.example.com") == healthy);
  std::filesystem::remove(file);
}

TEST_CASE("sockets of another network namespace are untouched by a dns fault") {
  const Scene scene;
  const NameServer own(scene.node);
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::NXDOMAIN), minutes(1));
  for (const Transport transport :
       {Transport::kConnected, Transport::kUnconnected, Transport::kTcp}) {
    const auto reply = ask(scene.client, TwoHosts::kNode4, transport, {.name = "a.example"});
    REQUIRE(reply.has_value());
    CHECK(reply->code == 0);
  }
  CHECK(evidence_of(holder).matched_queries() == 0);
}

TEST_CASE("a server on the node itself is asked in vain as well, and passed on to") {
  const Scene scene;
  const NameServer own(scene.node);
  Holder holder(scene.node);
  holder.inject(dns({"*.internal"}, v1::NXDOMAIN), minutes(1));
  for (const char* server : {"127.0.0.1", "::1", TwoHosts::kNode4}) {
    INFO(server);
    const auto matched = ask(scene.node, server, Transport::kConnected, {.name = "a.internal"});
    REQUIRE(matched.has_value());
    CHECK(matched->code == 3);
    const auto other = ask(scene.node, server, Transport::kConnected, {.name = "a.example"});
    REQUIRE(other.has_value());
    CHECK(other->code == 0);
  }
  CHECK(own.asked() == 3);
}

TEST_CASE("behind a resolver of the node a name is late once, not once for each hop") {
  const Scene scene;
  // A resolver that asks the server for whatever it is asked; by UDP, at 127.0.0.1.
  const Fd socket(scene.node.run([] { return ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }));
  sockaddr_in own{};
  own.sin_family = AF_INET;
  own.sin_port = htons(53);
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(socket.number(), reinterpret_cast<sockaddr*>(&own), sizeof own) == 0);
  std::thread resolver([&] {
    for (;;) {
      std::array<char, 512> query{};
      sockaddr_in client{};
      socklen_t size = sizeof client;
      if (::recvfrom(socket.number(), query.data(), query.size(), 0,
                     reinterpret_cast<sockaddr*>(&client), &size) <= 0) {
        return;
      }
      const auto reply = ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"});
      if (!reply) return;
      ::sendto(socket.number(), reply->bytes.data(), reply->bytes.size(), 0,
               reinterpret_cast<sockaddr*>(&client), size);
    }
  });
  constexpr Duration kDelay = seconds(2);
  std::optional<Reply> reply;
  std::optional<v1::Evidence> evidence;
  {
    Holder holder(scene.node);
    holder.inject(late_dns({"*"}, kDelay), minutes(1));
    reply = ask(scene.node, "127.0.0.1", Transport::kConnected, {.name = "a.example"}, seconds(10));
    evidence = holder.pulse(minutes(1));
  }
  ::shutdown(socket.number(), SHUT_RDWR);
  resolver.join();
  REQUIRE(reply.has_value());
  CHECK(reply->took >= kDelay);
  CHECK(reply->took < 2 * kDelay);
  REQUIRE(evidence.has_value());
  CHECK(evidence->dns().matched_queries() == 1);
  CHECK(evidence->dns().forwarded_queries() == 2);
}

TEST_CASE("after a dns fault the node is as it was, and during it the fingerprint tells it") {
  const Scene scene;
  const std::vector<std::string> before = fingerprint_of(scene.node);
  const std::vector<std::string> elsewhere = fingerprint_of(scene.client);
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::NXDOMAIN), minutes(1));
  CHECK(holder.undos().empty());
  CHECK(fingerprint_of(scene.node) != before);
  CHECK(fingerprint_of(scene.client) == elsewhere);
  CHECK(holder.release() == std::vector<std::string>());
  const std::vector<std::string> after = fingerprint_of(scene.node);
  CHECK_MESSAGE(after == before, difference(before, after));
  for (const Way& way : kWays) {
    INFO(in_words(way));
    const auto reply = ask(scene.node, way.server, way.transport, {.name = "a.example"});
    REQUIRE(reply.has_value());
    CHECK(reply->code == 0);
  }
}

TEST_CASE("with its holder killed a dns fault is gone at once") {
  const Scene scene;
  const std::vector<std::string> before = fingerprint_of(scene.node);
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::TIMEOUT), minutes(1));
  CHECK_FALSE(ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"}, kBrief));
  holder.process().signal(SIGKILL);
  REQUIRE(holder.process().wait(seconds(5)).has_value());
  for (const Way& way : kWays) {
    INFO(in_words(way));
    CHECK(ask(scene.node, way.server, way.transport, {.name = "a.example"}).has_value());
  }
  const std::vector<std::string> after = fingerprint_of(scene.node);
  CHECK_MESSAGE(after == before, difference(before, after));
}

TEST_CASE("with its holder frozen a dns fault ends at its deadline") {
  const Scene scene;
  Holder holder(scene.node);
  constexpr Duration kLease = seconds(2);
  const MonotonicTime begun = monotonic_now();
  holder.inject(dns({"*"}, v1::TIMEOUT), kLease);
  holder.process().signal(SIGSTOP);
  bool was_disturbed = false;
  MonotonicTime passed{};
  CHECK(eventually(
      [&] {
        if (!ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"}, kBrief)) {
          was_disturbed = true;
          return false;
        }
        passed = monotonic_now();
        return true;
      },
      seconds(20)));
  CHECK(was_disturbed);
  CHECK(passed - begun >= kLease);
  CHECK(ask(scene.node, kServer6, Transport::kTcp, {.name = "a.example"}).has_value());
  holder.process().signal(SIGCONT);
  CHECK(holder.process().wait(seconds(10)) == 0);
}

TEST_CASE("answers that are held when a dns fault ends are given at once") {
  const Scene scene;
  v1::Fault fault = late_dns({"*"}, seconds(30));
  fault.mutable_dns()->set_answer(v1::NXDOMAIN);
  Holder holder(scene.node);
  holder.inject(fault, minutes(1));
  std::optional<Reply> udp;
  std::optional<Reply> tcp;
  std::thread by_udp([&] {
    udp = ask(scene.node, kServer4, Transport::kUnconnected, {.name = "a.example"}, seconds(20));
  });
  std::thread by_tcp([&] {
    tcp = ask(scene.node, kServer6, Transport::kTcp, {.name = "a.example"}, seconds(20));
  });
  bool held = false;
  std::vector<std::string> residue;
  // Whatever is thrown, the threads end before what they use.
  try {
    held = eventually([&] { return holder.pulse(minutes(1))->dns().matched_queries() == 2; },
                      seconds(10));
    residue = holder.release();
  } catch (const std::exception& problem) {
    residue = {problem.what()};
  }
  by_udp.join();
  by_tcp.join();
  CHECK(held);
  CHECK(residue == std::vector<std::string>());
  REQUIRE(udp.has_value());
  CHECK(udp->code == 3);
  CHECK(udp->from == "10.77.0.1#53");
  CHECK(udp->took < seconds(15));
  REQUIRE(tcp.has_value());
  CHECK(tcp->code == 3);
  CHECK(tcp->took < seconds(15));
}

TEST_CASE("a server that refuses is told as one that fails") {
  require_redirects();
  const TwoHosts hosts;
  Holder holder(hosts.node);
  holder.inject(dns({"*.internal"}, v1::NXDOMAIN), minutes(1));
  const auto reply = ask(hosts.node, kServer4, Transport::kConnected, {.name = "a.example"});
  REQUIRE(reply.has_value());
  CHECK(reply->code == 2);
  CHECK_FALSE(ask(hosts.node, kServer4, Transport::kTcp, {.name = "a.example"}).has_value());
  CHECK(holder.release() == std::vector<std::string>());
}

TEST_CASE("a socket that stays connected to the responder is refused after the end, not ignored") {
  const Scene scene;
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::NXDOMAIN), minutes(1));
  const Fd socket(scene.node.run([] { return ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0); }));
  sockaddr_in server{};
  server.sin_family = AF_INET;
  server.sin_port = htons(53);
  server.sin_addr.s_addr = htonl(0x0a4d0001);
  REQUIRE(::connect(socket.number(), reinterpret_cast<sockaddr*>(&server), sizeof server) == 0);
  CHECK(holder.release() == std::vector<std::string>());
  const std::vector<std::uint8_t> query = make_query({.name = "a.example"});
  // The refusal comes back as a packet of its own, and is told by the next call.
  CHECK(eventually(
      [&] {
        return ::send(socket.number(), query.data(), query.size(), 0) < 0 && errno == ECONNREFUSED;
      },
      seconds(5)));
}

TEST_CASE("a socket that is tied to an interface passes untouched and is counted") {
  const Scene scene;
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::NXDOMAIN), minutes(1));
  for (const Transport transport : {Transport::kConnected, Transport::kTcp}) {
    const auto reply =
        ask(scene.node, kServer4, transport, {.name = "a.example", .device = "eth0"});
    REQUIRE(reply.has_value());
    CHECK(reply->code == 0);
  }
  CHECK(evidence_of(holder).passed_queries() == 2);
}

TEST_CASE("more servers than there are places pass untouched and are counted") {
  const Scene scene;  // nobody need be there: the answers come from the responder
  Holder holder(scene.node);
  holder.inject(dns({"*"}, v1::NXDOMAIN), minutes(1));
  for (int i = 1; i <= SQUALL_DNS_SERVERS; ++i) {
    const std::string server = "10.77.0." + std::to_string(100 + i);
    INFO(server);
    const auto reply = ask(scene.node, server, Transport::kUnconnected, {.name = "a.example"});
    REQUIRE(reply.has_value());
    CHECK(reply->from == server + "#53");
  }
  CHECK(evidence_of(holder).passed_queries() == 0);
  const auto reply = ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"});
  REQUIRE(reply.has_value());
  CHECK(reply->code == 0);
  CHECK(evidence_of(holder).passed_queries() == 1);
}

TEST_CASE("of two dns faults on one node each does its part, in whichever order they end") {
  const Scene scene;
  for (const bool older_ends_first : {true, false}) {
    INFO(older_ends_first);
    Holder older(scene.node);
    older.inject(dns({"a.example"}, v1::NXDOMAIN), minutes(1));
    Holder newer(scene.node);
    newer.inject(dns({"b.example"}, v1::SERVFAIL), minutes(1));
    const auto code_of = [&](const std::string& name) {
      const auto reply = ask(scene.node, kServer4, Transport::kConnected, {.name = name});
      return reply ? reply->code : -1;
    };
    CHECK(code_of("a.example") == 3);
    CHECK(code_of("b.example") == 2);
    CHECK(code_of("c.example") == 0);
    CHECK((older_ends_first ? older : newer).release() == std::vector<std::string>());
    CHECK(code_of("a.example") == (older_ends_first ? 0 : 3));
    CHECK(code_of("b.example") == (older_ends_first ? 2 : 0));
    CHECK(code_of("c.example") == 0);
  }
}

TEST_CASE("a dns fault in a control group leaves the sockets outside of it alone") {
  const Scene scene;
  const StatusOr<Fd> opened = network::open_cgroup_root();
  REQUIRE(opened.ok());
  const std::string root = "/proc/self/fd/" + std::to_string(opened->number());
  const std::string name = "/squall-test-" + std::to_string(::getpid());
  const std::filesystem::path group = root + name;
  REQUIRE(std::filesystem::create_directory(group));
  const auto enter = [](const std::filesystem::path& where) {
    std::ofstream(where / "cgroup.procs") << ::getpid() << std::flush;
  };
  std::string home;  // cgroups(7): the line of version 2 is 0::/PATH
  for (std::ifstream lines("/proc/self/cgroup"); std::getline(lines, home);) {
    if (home.starts_with("0::")) break;
  }
  REQUIRE(home.starts_with("0::"));
  v1::Fault fault = dns({"*"}, v1::NXDOMAIN);
  fault.mutable_dns()->mutable_in()->set_cgroup(name);
  {
    Holder holder(scene.node);
    holder.inject(fault, minutes(1));
    const auto outside = ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"});
    enter(group);
    const auto inside = ask(scene.node, kServer4, Transport::kConnected, {.name = "a.example"});
    enter(root + home.substr(3));
    REQUIRE(outside.has_value());
    CHECK(outside->code == 0);
    REQUIRE(inside.has_value());
    CHECK(inside->code == 3);
    CHECK(holder.release() == std::vector<std::string>());
  }
  std::error_code failed;
  CHECK(eventually([&] { return std::filesystem::remove(group, failed); }, seconds(5)));
}

TEST_CASE("where cgroup v2 is mounted nowhere its root is found all the same") {
  require_redirects();
  const pid_t child = ::fork();
  if (child == 0) {
    // As `ip netns exec` does it, with all below /sys hidden.
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", "/sys", "tmpfs", 0, nullptr) != 0) {
      ::_exit(2);
    }
    const StatusOr<Fd> root = network::open_cgroup_root();
    ::_exit(root.ok() && ::faccessat(root->number(), "cgroup.procs", R_OK, 0) == 0 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("whatever bytes come to the responder, it goes on answering") {
  const Scene scene;
  Holder holder(scene.node);
  holder.inject(dns({"*.internal"}, v1::NXDOMAIN), minutes(1));
  std::mt19937 random(20261122);
  sockaddr_in server{};
  server.sin_family = AF_INET;
  server.sin_port = htons(53);
  server.sin_addr.s_addr = htonl(0x0a4d0001);
  const auto* address = reinterpret_cast<const sockaddr*>(&server);
  const std::vector<std::uint8_t> query = make_query({.name = "a.internal", .edns = true});
  for (int round = 0; round < 300; ++round) {
    std::vector<std::uint8_t> bytes = query;
    if (round % 3 == 0) bytes.resize(random() % bytes.size());
    if (round % 3 == 1) bytes[random() % bytes.size()] = static_cast<std::uint8_t>(random());
    if (round % 3 == 2) {
      for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
    }
    const bool tcp = round % 2 == 0;
    const Fd socket(scene.node.run(
        [&] { return ::socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0); }));
    REQUIRE(::connect(socket.number(), address, sizeof server) == 0);
    ::send(socket.number(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  CHECK(holder.process().running());
  for (const Way& way : kWays) {
    INFO(in_words(way));
    const auto reply = ask(scene.node, way.server, way.transport, {.name = "a.internal"});
    REQUIRE(reply.has_value());
    CHECK(reply->code == 3);
  }
}

TEST_CASE("a look at dns says where it would act, or why it cannot") {
  const Scene scene;
  const auto look = [&](const v1::Fault& fault) {
    return scene.node.run([&] {
      v1::Look asked;
      *asked.mutable_fault() = fault;
      return hold::find_kind(fault)->look(asked);
    });
  };
  v1::Fault fault = dns({"*"}, v1::NXDOMAIN);
  const v1::Looked all = look(fault);
  CHECK(all.message() == "");
  REQUIRE(all.notes_size() == 1);
  CHECK(all.notes(0) == "queries of the sockets in the control group /");
  fault.mutable_dns()->mutable_in()->set_cgroup("/there/is/none");
  CHECK(look(fault).message() == "there is no control group /there/is/none");
  CHECK(look(fault).code() == static_cast<int>(StatusCode::kNotFound));
  fault.mutable_dns()->mutable_in()->clear_cgroup();
  fault.mutable_dns()->mutable_in()->set_unit("squall-none.service");
  CHECK(look(fault).message() ==
        "no control group of the unit squall-none.service: it is not running, or not known here");
  fault.mutable_dns()->mutable_in()->clear_unit();
  fault.mutable_dns()->mutable_in()->set_netns("blue");
  CHECK(look(fault).code() == static_cast<int>(StatusCode::kUnimplemented));
}

}  // namespace squall::support
