#include "controller/notify/metrics.h"

#include <doctest/doctest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "../report/told_runs.h"
#include "experiments/metrics/endpoint.h"
#include "tests/support/eventually.h"
#include "tests/support/process.h"
#include "tests/support/promtool.h"

namespace squall::notify {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using report::testing::run_named;

constexpr Duration kBound = 30s;

std::unique_ptr<metrics::Endpoint> serve(const Metrics& numbers) {
  auto endpoint = metrics::Endpoint::start("127.0.0.1:0", "", numbers.registry());
  REQUIRE_MESSAGE(endpoint.ok(), message_of(endpoint.status()));
  return *std::move(endpoint);
}

std::string fetch(const std::string& url) {
  support::Command command;
  command.argv = {"curl", "--silent", "--noproxy", "*", url};
  support::Process curl(command);
  static_cast<void>(curl.wait(kBound));
  return curl.out();
}

std::string after(const std::vector<v1::Event>& events) {
  Metrics numbers("0.1.0");
  for (const v1::Event& event : events) numbers.on(event);
  return fetch("http://" + serve(numbers)->address() + "/metrics");
}

bool has(const std::string& text, const std::string& line) {
  return ("\n" + text).find("\n" + line + "\n") != std::string::npos;
}

}  // namespace

TEST_CASE("what a run counts is as promtool wants it, before, in and after every kind of run") {
  CHECK(support::promtool_says(after({})) == "");
  for (const char* name : {"held", "breached", "residue", "not_steady", "refused", "nasty"}) {
    CAPTURE(name);
    CHECK(support::promtool_says(after(run_named(name))) == "");
  }
}

TEST_CASE("a run's numbers are those of its log") {
  const auto events = run_named("breached");
  std::size_t asked = 0;
  std::size_t applied = 0;
  for (const v1::Event& event : events) {
    asked += event.has_check_asked() ? 1 : 0;
    applied += event.has_fault_applied() ? 1 : 0;
  }
  const std::string text = after(events);
  CHECK(has(text, "squall_build_info{version=\"0.1.0\"} 1"));
  CHECK(has(text, "squall_checks_asked_total " + std::to_string(asked)));
  CHECK(has(text, "squall_check_breaches_total 1"));
  CHECK(has(text, "squall_aborts_total{cause=\"breach\"} 1"));
  CHECK(has(text, "squall_faults_injected_total{kind=\"network\"} " + std::to_string(applied)));
  CHECK(has(text, "squall_faults_active{kind=\"network\"} 0"));
  CHECK(has(text, "squall_verdict{verdict=\"breached\"} 1"));
  CHECK(has(text, "squall_verdict{verdict=\"held\"} 0"));
  CHECK(has(text, "squall_phase{phase=\"method\"} 0"));
}

TEST_CASE("in mid-run the phase and what acts are told, and nothing that names the run") {
  auto events = run_named("breached");
  std::size_t end = 0;
  while (!events[end].has_fault_applied()) ++end;
  events.resize(end + 1);
  const std::string text = after(events);
  CHECK(has(text, "squall_phase{phase=\"method\"} 1"));
  CHECK(has(text, "squall_faults_active{kind=\"network\"} 1"));
  CHECK(text.find("20261122-071549-k3x9") == std::string::npos);
  CHECK(text.find(events.front().run_started().plan()) == std::string::npos);
}

TEST_CASE("a real Prometheus scrapes a run") {
  Metrics numbers("0.1.0");
  const auto endpoint = serve(numbers);
  for (const v1::Event& event : run_named("held")) numbers.on(event);

  std::string folder = (fs::temp_directory_path() / "squall-prometheus-XXXXXX").string();
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  std::ofstream(folder + "/prometheus.yml")
      << "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
         "scrape_configs:\n"
         "  - {job_name: squall, static_configs: [{targets: [\""
      << endpoint->address() << "\"]}]}\n";
  std::string address;
  {
    boost::asio::io_context loop;
    const boost::asio::ip::tcp::acceptor free(loop, {boost::asio::ip::address_v4::loopback(), 0});
    address = "127.0.0.1:" + std::to_string(free.local_endpoint().port());
  }
  support::Command command;
  command.argv = {"prometheus", "--config.file=" + folder + "/prometheus.yml",
                  "--storage.tsdb.path=" + folder + "/data", "--web.listen-address=" + address};
  {
    support::Process prometheus(command);
    const std::string query =
        "http://" + address + "/api/v1/query?query=squall_verdict%7Bverdict%3D%22held%22%7D";
    std::string answer;
    const bool scraped = support::eventually(
        [&] {
          answer = fetch(query);
          return answer.find("\"verdict\":\"held\"") != std::string::npos;
        },
        kBound, 200ms);
    CHECK_MESSAGE(scraped, answer << prometheus.err());
    CHECK(answer.find(",\"1\"]") != std::string::npos);
    CHECK(fetch("http://" + address + "/api/v1/targets").find("\"health\":\"up\"") !=
          std::string::npos);
  }
  fs::remove_all(folder);
}

}  // namespace squall::notify
