#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "tests/support/eventually.h"
#include "tests/support/promtool.h"
#include "tests/unit/injector/daemon/squalld.h"

namespace squall::daemon {
namespace {

using namespace std::chrono_literals;
using support::Session;
using support::small_fault;
using support::Squalld;

constexpr Duration kBound = 20s;

std::string fetch(const std::vector<std::string>& where) {
  support::Command command;
  command.argv = {"curl", "--silent", "--noproxy", "*"};
  command.argv.insert(command.argv.end(), where.begin(), where.end());
  support::Process curl(command);
  static_cast<void>(curl.wait(kBound));
  return curl.out();
}

/// By the log, as the port is any.
std::string address_in(const std::string& log) {
  const std::string mark = "event=metrics listen=\"";
  const std::size_t begin = log.find(mark) + mark.size();
  return log.substr(begin, log.find('"', begin) - begin);
}

bool has(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

}  // namespace

TEST_CASE("a node's metrics tell what it holds and held, as promtool wants them") {
  Squalld daemon;
  daemon.start({"--metrics", "127.0.0.1:0"});
  const std::string url = "http://" + address_in(daemon.process().err()) + "/metrics";
  const auto told = [&] { return fetch({url}); };
  const std::string before = told();
  CHECK(support::promtool_says(before) == "");
  CHECK(has(before, "squalld_leases_active 0"));
  CHECK(has(before, "squalld_faults_active{kind=\"cpu\"} 0"));
  CHECK(has(before, "squalld_faults_injected_total{kind=\"network\"} 0"));

  Session session(daemon);
  session.open("run-of-metrics");
  const v1::Fault fault = small_fault();
  session.inject(fault);
  REQUIRE(session.next(v1::LeaseEvent::kApplied, fault.id()));
  const std::string during = told();
  CHECK(has(during, "squalld_leases_active 1"));
  CHECK(has(during, "squalld_faults_active{kind=\"cpu\"} 1"));
  CHECK(has(during, "squalld_faults_injected_total{kind=\"cpu\"} 1"));
  CHECK(during.find(fault.id()) == std::string::npos);
  CHECK(during.find("run-of-metrics") == std::string::npos);

  session.revert(fault.id());
  REQUIRE(session.next(v1::LeaseEvent::kReverted, fault.id()));
  const std::string after = told();
  CHECK(support::promtool_says(after) == "");
  CHECK(has(after, "squalld_faults_active{kind=\"cpu\"} 0"));
  CHECK(has(after, "squalld_fault_end_seconds_count{kind=\"cpu\"} 1"));
  CHECK(has(after, "squalld_residue_total 0"));
  CHECK(has(after, "squalld_faults_failed_total{kind=\"cpu\"} 0"));
  CHECK(session.finish().ok());
  CHECK(support::eventually([&] { return has(told(), "squalld_leases_active 0"); }, kBound, 50ms));
  CHECK(has(told(), "squalld_lease_lapses_total 0"));
}

TEST_CASE("a lease that lapses and a fault that is refused are counted") {
  Squalld daemon;
  const std::string socket = daemon.state_dir() + "/metrics.sock";
  daemon.start({"--metrics", "unix:" + socket});
  const auto told = [&] { return fetch({"--unix-socket", socket, "http://squalld/metrics"}); };
  Session session(daemon);
  session.open("lapsing", 1, 1s);
  v1::Fault nothing;
  nothing.set_id("aaaaaaaaaaaa");
  session.inject(nothing);
  REQUIRE(session.next(v1::LeaseEvent::kFailed, nothing.id()));
  CHECK(has(told(), "squalld_faults_refused_total 1"));
  session.stop_renewing();
  CHECK(support::eventually([&] { return has(told(), "squalld_lease_lapses_total 1"); }, kBound,
                            50ms));
  CHECK(support::eventually([&] { return has(told(), "squalld_leases_active 0"); }, kBound, 50ms));
}

TEST_CASE("metrics are refused where they would be served in plain text to others") {
  Squalld daemon;
  support::Command command;
  command.argv = {support::binary("squalld"), "--state-dir", daemon.state_dir(), "--metrics",
                  "0.0.0.0:0"};
  support::Process refused(command);
  CHECK(refused.wait(kBound) == 2);
  CHECK(refused.err() ==
        "squalld: --metrics: 0.0.0.0:0: only loopback and unix sockets are served in plain text; "
        "for others name the folder with ca.pem, cert.pem and key.pem by --tls-dir\n");
}

}  // namespace squall::daemon
