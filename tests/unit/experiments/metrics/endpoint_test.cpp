#include "experiments/metrics/endpoint.h"

#include <doctest/doctest.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "tests/support/certificates.h"
#include "tests/support/eventually.h"
#include "tests/support/process.h"

namespace squall::metrics {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using asio::ip::tcp;
using asio::local::stream_protocol;
using boost::system::error_code;
using namespace std::chrono_literals;

constexpr Duration kBound = 20s;

/// A folder of its own, gone with the test.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "squall-metrics-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

std::shared_ptr<prometheus::Registry> registry() {
  auto made = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter()
      .Name("shop_carts_total")
      .Help("Carts.")
      .Register(*made)
      .Add({})
      .Increment(3);
  return made;
}

std::unique_ptr<Endpoint> start(const std::string& address, const std::string& tls_dir = "") {
  auto endpoint = Endpoint::start(address, tls_dir, registry());
  REQUIRE_MESSAGE(endpoint.ok(), message_of(endpoint.status()));
  return *std::move(endpoint);
}

tcp::endpoint place_of(const Endpoint& endpoint) {
  const std::string& address = endpoint.address();
  return {asio::ip::address_v4::loopback(),
          static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))};
}

/// All that is answered to `text`, until the other side closes.
template <typename Protocol>
std::string ask(const typename Protocol::endpoint& place, const std::string& text) {
  asio::io_context loop;
  typename Protocol::socket socket(loop);
  socket.connect(place);
  error_code ignored;
  asio::write(socket, asio::buffer(text), ignored);
  std::string answer;
  asio::read(socket, asio::dynamic_buffer(answer), ignored);
  return answer;
}

std::string ask(const Endpoint& endpoint, const std::string& text) {
  return ask<tcp>(place_of(endpoint), text);
}

std::string first_line(const std::string& answer) { return answer.substr(0, answer.find("\r\n")); }

const std::string kGet = "GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n";

/// Its exit status, and what it said.
std::pair<int, std::string> call(const std::vector<std::string>& argv) {
  support::Command command;
  command.argv = argv;
  support::Process process(command);
  const int status = process.wait(kBound).value_or(-1);
  return {status, process.out() + process.err()};
}

}  // namespace

TEST_CASE("whoever asks for /metrics is told the numbers") {
  const auto endpoint = start("127.0.0.1:0");
  const std::string answer = ask(*endpoint, kGet);
  CHECK(first_line(answer) == "HTTP/1.1 200 OK");
  CHECK(answer.find("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n") !=
        std::string::npos);
  CHECK(answer.find("# HELP shop_carts_total Carts.\n") != std::string::npos);
  CHECK(answer.find("\nshop_carts_total 3\n") != std::string::npos);
  const std::string head = ask(*endpoint, "HEAD /metrics HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(first_line(head) == "HTTP/1.1 200 OK");
  CHECK(head.find("Content-Length: ") != std::string::npos);
  CHECK(head.find("shop_carts") == std::string::npos);
}

TEST_CASE("nothing else is told, and no nonsense ends it") {
  const auto endpoint = start("localhost:0");
  CHECK(first_line(ask(*endpoint, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")) ==
        "HTTP/1.1 404 Not Found");
  CHECK(first_line(ask(*endpoint, "DELETE /metrics HTTP/1.1\r\nHost: h\r\n\r\n")) ==
        "HTTP/1.1 405 Method Not Allowed");
  CHECK(
      first_line(ask(*endpoint, "POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789")) ==
      "HTTP/1.1 413 Payload Too Large");
  CHECK(first_line(ask(*endpoint, "\x16\x03\x01 nonsense\r\n\r\n")) == "HTTP/1.1 400 Bad Request");
  CHECK(first_line(ask(*endpoint, "GET /" + std::string(20'000, 'x') + " HTTP/1.1\r\n\r\n")) ==
        "HTTP/1.1 431 Request Header Fields Too Large");
  CHECK(first_line(ask(*endpoint, kGet)) == "HTTP/1.1 200 OK");
}

TEST_CASE("those who say nothing are dropped, and keep nobody from an answer for longer") {
  const auto endpoint = start("127.0.0.1:0");
  asio::io_context loop;
  std::vector<tcp::socket> silent;
  for (int n = 0; n < 40; ++n) {
    silent.emplace_back(loop).connect(place_of(*endpoint));
    error_code ignored;
    if (n % 2 == 0) asio::write(silent.back(), asio::buffer("GET /met", 8), ignored);
  }
  CHECK(support::eventually([&] { return ask(*endpoint, kGet).starts_with("HTTP/1.1 200"); },
                            kBound, 50ms));
  for (tcp::socket& socket : silent) {
    std::string rest;
    error_code ended;
    asio::read(socket, asio::dynamic_buffer(rest), ended);
    CHECK(rest.empty());
  }
}

TEST_CASE(
    "on a unix socket it takes the place of one that died, of no other file and of none that "
    "lives") {
  const Folder folder;
  const std::string path = folder.path / "metrics.sock";
  {
    asio::io_context loop;
    const stream_protocol::acceptor died(loop, stream_protocol::endpoint(path));
  }
  REQUIRE(fs::is_socket(path));
  {
    const auto endpoint = start("unix:" + path);
    CHECK(first_line(ask<stream_protocol>(stream_protocol::endpoint(path), kGet)) ==
          "HTTP/1.1 200 OK");
    CHECK(message_of(Endpoint::start("unix:" + path, "", registry()).status()) ==
          "cannot listen on unix:" + path + ": Address already in use");
  }
  CHECK_FALSE(fs::exists(path));
  std::ofstream(path) << "precious";
  CHECK(message_of(Endpoint::start("unix:" + path, "", registry()).status()) ==
        "cannot listen on unix:" + path + ": Address already in use");
  CHECK(fs::file_size(path) == 8);
}

TEST_CASE("no program that is started inherits a socket of it") {
  // Those of whoever started this test are not its own.
  const auto inherited = [] {
    const auto [status, told] = call({"ls", "-l", "/proc/self/fd"});
    REQUIRE(status == 0);
    std::set<std::string> sockets;
    for (std::size_t at = told.find("socket:["); at != std::string::npos;
         at = told.find("socket:[", at + 1)) {
      sockets.insert(told.substr(at, told.find(']', at) - at));
    }
    return sockets;
  };
  const std::set<std::string> before = inherited();
  const Folder folder;
  const auto by_tcp = start("127.0.0.1:0");
  const auto by_path = start("unix:" + (folder.path / "metrics.sock").string());
  CHECK(inherited() == before);
}

TEST_CASE(
    "an address that is none, is taken or lacks its TLS is refused with what would be right") {
  const std::string hint = ": write 127.0.0.1:9464, [::1]:9464, localhost:9464 or unix:/path";
  for (const std::string wrong : {"", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                                  "127.0.0.1:-1", "127.0.0.1:94x", "::1:9464", "shop:9464"}) {
    CHECK(message_of(check_address(wrong, "/tls")) == wrong + hint);
  }
  CHECK(message_of(check_address("unix:relative", "")) ==
        "unix:relative: unix: and an absolute path of less than 108 bytes is needed");
  CHECK(message_of(check_address("0.0.0.0:9464", "")) ==
        "0.0.0.0:9464: only loopback and unix sockets are served in plain text; for others name "
        "the folder with ca.pem, cert.pem and key.pem by --tls-dir");
  CHECK(check_address("0.0.0.0:9464", "/tls").ok());
  CHECK(check_address("[::1]:9464", "").ok());
  const auto first = start("127.0.0.1:0");
  CHECK(message_of(Endpoint::start(first->address(), "", registry()).status()) ==
        "cannot listen on " + first->address() + ": Address already in use");
}

TEST_CASE("elsewhere than on loopback it speaks to those alone who show a certificate") {
  const Folder folder;
  const support::Authority authority;
  const support::Authority stranger("somebody else's");
  const auto keep = [&](const std::string& name, const std::string& text) {
    const fs::path path = folder.path / name;
    std::ofstream(path) << text;
    return path.string();
  };
  const support::Pair server = authority.issue("node", "127.0.0.1");
  const std::string ca = keep("ca.pem", authority.pem());
  keep("cert.pem", server.certificate);
  keep("key.pem", server.key);
  const support::Pair friendly = authority.issue("prometheus", "127.0.0.1");
  const support::Pair hostile = stranger.issue("prometheus", "127.0.0.1");
  const std::string cert = keep("client.pem", friendly.certificate);
  const std::string key = keep("client-key.pem", friendly.key);
  const std::string bad_cert = keep("stranger.pem", hostile.certificate);
  const std::string bad_key = keep("stranger-key.pem", hostile.key);

  // Every address of this machine: reached over loopback, and yet none of loopback's own.
  const auto endpoint = start("0.0.0.0:0", folder.path);
  const std::string port = endpoint->address().substr(endpoint->address().rfind(':'));
  const std::string url = "https://127.0.0.1" + port + "/metrics";
  const std::vector<std::string> curl = {"curl", "--silent", "--noproxy", "*", "--cacert", ca};
  const auto with = [&](std::vector<std::string> more) {
    std::vector<std::string> argv = curl;
    argv.insert(argv.end(), more.begin(), more.end());
    return call(argv);
  };
  const auto [status, told] = with({"--cert", cert, "--key", key, url});
  CHECK_MESSAGE(status == 0, told);
  CHECK(told.find("shop_carts_total 3") != std::string::npos);
  CHECK(with({url}).first != 0);
  CHECK(with({"--cert", bad_cert, "--key", bad_key, url}).first != 0);
  CHECK(call({"curl", "--silent", "--noproxy", "*", "http://127.0.0.1" + port + "/metrics"})
            .second.find("shop") == std::string::npos);
}

}  // namespace squall::metrics
