/// \file
/// What programs that know nothing of Squall say of each effect: curl and nginx, redis, iperf3,
/// ping. With the relay on this kernel, with netem in the lab.
#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/measure.h"
#include "tests/support/namespace.h"

using namespace squall;
using namespace squall::support;
using namespace std::chrono_literals;

namespace {

constexpr std::uint16_t kHttp = 8080;
constexpr std::uint16_t kRedis = 6379;
constexpr std::uint16_t kIperf = 5201;
constexpr Duration kAsked = 300ms;
constexpr Duration kStartBound = 20s;

/// nginx, redis-server and an iperf3 server on the node, and their clients on the other host.
class Scene : public TwoHosts {
 public:
  Scene()
      : nginx_(server({"nginx", "-e", "stderr", "-p", folder_.path(), "-c", nginx_conf()})),
        redis_(server({"redis-server", "--port", std::to_string(kRedis), "--bind", "0.0.0.0",
                       "--protected-mode", "no", "--save", "", "--dir", folder_.path()})),
        iperf_(server({"iperf3", "--server", "--json", "--port", std::to_string(kIperf)})) {
    add_clsact(node, "eth0");
    // Not of iperf3, which takes every connection for a test.
    for (const std::uint16_t port : {kHttp, kRedis}) {
      const bool serves = eventually(
          [&] { return !tcp_round_trips(client, kNode4, port, 0, 300ms).empty(); }, kStartBound);
      REQUIRE_MESSAGE(serves, port << ": " << nginx_.err() << redis_.out() << iperf_.err());
    }
  }

  /// Its end and what it said.
  struct Ended {
    int status;
    std::string out;
    Duration took;
  };

  Ended ask(const std::vector<std::string>& argv) const {
    const MonotonicTime start = monotonic_now();
    Process process(on(client, argv));
    const int status = process.wait(30s).value_or(-1);
    return {status, process.out(), monotonic_now() - start};
  }

  Ended redis_ping() const {
    return ask({"timeout", "3", "redis-cli", "-h", kNode4, "-p", std::to_string(kRedis), "ping"});
  }

  /// curl's own count of the time until it was connected, in seconds.
  Ended curl() const {
    return ask({"curl", "--silent", "--output", "/dev/null", "--max-time", "3", "--write-out",
                "%{time_connect}", std::string("http://") + kNode4 + ":" + std::to_string(kHttp)});
  }

  nlohmann::json iperf3(const std::vector<std::string>& words) const {
    std::vector<std::string> argv = {
        "timeout", "10",     "iperf3", "--client", kNode4, "--port", std::to_string(kIperf),
        "--json",  "--time", "2"};
    argv.insert(argv.end(), words.begin(), words.end());
    Ended ended{};
    // It waits for ever for an answer to its first datagram, which a fault may take.
    const bool measured = eventually(
        [&] {
          ended = ask(argv);
          return ended.status == 0;
        },
        4 * kStartBound);
    REQUIRE_MESSAGE(measured, ended.out);
    return nlohmann::json::parse(ended.out);
  }

  /// Of a thousand small datagrams.
  nlohmann::json iperf3_udp() const {
    return iperf3({"--udp", "--bitrate", "2M", "--length", "500", "--get-server-output"});
  }

  /// Percent of them.
  double lost_of_udp() const {
    return iperf3_udp().at("end").at("sum").at("lost_percent").get<double>();
  }

 private:
  static Command on(const Namespace& where, const std::vector<std::string>& argv) {
    Command command;
    command.argv = argv;
    command.where = &where;
    return command;
  }

  Process server(const std::vector<std::string>& argv) const { return Process(on(node, argv)); }

  std::string nginx_conf() const {
    const std::filesystem::path file = folder_.path() / "nginx.conf";
    std::ofstream(file) << "daemon off; user root; pid nginx.pid; error_log stderr;\n"
                           "events {}\n"
                           "http {\n"
                           "  access_log off;\n"
                           "  client_body_temp_path body; proxy_temp_path proxy;\n"
                           "  fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;\n"
                           "  scgi_temp_path scgi;\n"
                           "  server { listen "
                        << kHttp
                        << "; location / { return 200 \"here\"; } }\n"
                           "}\n";
    return file;
  }

  TemporaryFolder folder_;
  Process nginx_;
  Process redis_;
  Process iperf_;
};

v1::Fault udp_to_iperf() {
  v1::Fault fault = network_fault(kIperf, v1::INGRESS);
  fault.mutable_network()->mutable_to()->add_protocols()->set_number(17);
  return fault;
}

}  // namespace

TEST_CASE("a delay is what curl and redis-cli take longer, and only on the port that is meant") {
  const Scene scene;
  Holder holder(scene.node);
  CHECK(std::stod(scene.curl().out) < 0.3);
  holder.inject(delay_fault(kHttp, kAsked), 60s);
  const Scene::Ended slow = scene.curl();
  CHECK(slow.status == 0);
  CHECK(std::stod(slow.out) >= 0.297);
  CHECK(std::stod(slow.out) < 1.0);
  CHECK(scene.redis_ping().out == "PONG\n");
  CHECK(holder.release().empty());
  CHECK(std::stod(scene.curl().out) < 0.3);

  Holder other(scene.node);
  other.inject(delay_fault(kRedis, kAsked), 60s);
  const Scene::Ended late = scene.redis_ping();
  CHECK(late.out == "PONG\n");
  CHECK(late.took >= 2 * kAsked - 5ms);  // to connect, and to ask
  CHECK(std::stod(scene.curl().out) < 0.3);
  CHECK(other.release().empty());
}

TEST_CASE("of a whole loss redis-cli and curl hear nothing, and everything once it has ended") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = loss_fault(kHttp, 100);
  v1::PortRange& redis = *fault.mutable_network()->mutable_to()->add_ports();
  redis.set_first(kRedis);
  redis.set_last(kRedis);
  holder.inject(fault, 60s);
  CHECK(scene.curl().status == 28);         // curl(1): operation timed out
  CHECK(scene.redis_ping().status == 124);  // timeout(1)
  CHECK(holder.release().empty());
  CHECK(scene.curl().status == 0);
  CHECK(scene.redis_ping().out == "PONG\n");
}

TEST_CASE("a rate is what iperf3 measures") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = network_fault(kIperf, v1::INGRESS);
  fault.mutable_network()->set_rate(8'000'000);
  fault.mutable_network()->set_limit(200);
  holder.inject(fault, 60s);
  const double received =
      scene.iperf3({}).at("end").at("sum_received").at("bits_per_second").get<double>() / 8e6;
  MESSAGE("iperf3 received " << received << " of the rate that was asked for");
  // What is beside the payload: 66 bytes of headers for 1448.
  CHECK(received < 1.02);
  CHECK(received > 0.7);
  CHECK(holder.release().empty());
}

TEST_CASE("a loss is what iperf3 misses") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = udp_to_iperf();
  fault.mutable_network()->set_loss(20);
  holder.inject(fault, 60s);
  const double lost = scene.lost_of_udp();
  CHECK(lost > 13);  // five standard deviations of a thousand datagrams
  CHECK(lost < 27);
  CHECK(holder.release().empty());
}

TEST_CASE("what is corrupted fails its checksum, and iperf3 misses it") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = udp_to_iperf();
  fault.mutable_network()->set_corrupt(20);
  holder.inject(fault, 60s);
  const double lost = scene.lost_of_udp();
  CHECK(lost > 13);
  CHECK(lost < 27);
  CHECK(holder.release().empty());
}

TEST_CASE("what is reordered iperf3 sees out of order") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = udp_to_iperf();
  fault.mutable_network()->set_delay(Duration(50ms).count());
  fault.mutable_network()->set_reorder(25);
  holder.inject(fault, 60s);
  const nlohmann::json received = scene.iperf3_udp().at("server_output_json").at("end");
  CHECK(received.at("streams").at(0).at("udp").at("out_of_order").get<int>() > 100);
  CHECK(holder.release().empty());
}

TEST_CASE("what is duplicated ping counts twice") {
  const Scene scene;
  Holder holder(scene.node);
  v1::Fault fault = network_fault(1);
  fault.mutable_network()->mutable_to()->clear_ports();
  fault.mutable_network()->mutable_to()->add_protocols()->set_number(1);
  fault.mutable_network()->set_duplicate(100);
  holder.inject(fault, 60s);
  const Scene::Ended pinged =
      scene.ask({"ping", "-n", "-q", "-c", "20", "-i", "0.02", TwoHosts::kNode4});
  // ping ends with the twentieth answer, and may not wait for its twin.
  const bool twice = pinged.out.find("+19 duplicates") != std::string::npos ||
                     pinged.out.find("+20 duplicates") != std::string::npos;
  CHECK_MESSAGE(twice, pinged.out);
  CHECK(holder.release().empty());
}
