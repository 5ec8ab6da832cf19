#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asking.h"

namespace squall::checks {
namespace {

using namespace testing;

v1::Check tcp_check(const std::string& address, Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_tcp()->set_address(address);
  return check;
}

Sample ask_tcp(const std::string& address, Duration timeout = 10s) {
  asio::io_context loop;
  const auto check = make_check(tcp_check(address, timeout));
  return ask(loop, *check);
}

/// A listening port whose queue is full: the kernel drops every further SYN, as a network does that
/// loses all.
class FullPort {
 public:
  FullPort() {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    REQUIRE(bind(listener_, generic, length) == 0);
    REQUIRE(listen(listener_, 0) == 0);
    REQUIRE(getsockname(listener_, generic, &length) == 0);
    port_ = ntohs(address.sin_port);
    for (int& client : clients_) {
      client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
      static_cast<void>(connect(client, generic, length));
    }
  }
  ~FullPort() {
    for (const int client : clients_) close(client);
    close(listener_);
  }
  FullPort(const FullPort&) = delete;
  FullPort& operator=(const FullPort&) = delete;

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  int listener_ = -1;
  int clients_[3] = {-1, -1, -1};
  std::uint16_t port_ = 0;
};

TEST_CASE("a tcp check tells an open port") {
  asio::io_context loop;
  Server server(loop, [](tcp::socket) -> asio::awaitable<void> { co_return; });
  const auto check = make_check(tcp_check(server.address()));
  const Sample sample = ask(loop, *check);
  CHECK(sample.state == "open");
  CHECK(sample.error == "");
  CHECK(sample.latency > 0ns);
}

TEST_CASE("a tcp check finds a port by name") {
  asio::io_context loop;
  Server server(loop, [](tcp::socket) -> asio::awaitable<void> { co_return; });
  const std::string port = server.address().substr(server.address().find(':'));
  const auto check = make_check(tcp_check("localhost" + port));
  for (int round = 0; round < 3; ++round) CHECK(ask(loop, *check).state == "open");
}

TEST_CASE("a tcp check tells refused, unreachable and silent targets apart") {
  SUBCASE("refused") {
    const Sample sample = ask_tcp(closed_address());
    CHECK(sample.state == "refused");
    CHECK(sample.error == "connection refused");
  }
  SUBCASE("unreachable") {
    // There is no TCP to a group of hosts: the kernel refuses it like a missing route.
    const Sample sample = ask_tcp("224.0.0.1:80");
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "network unreachable");
  }
  SUBCASE("silent") {
    const FullPort full;
    const Sample sample = ask_tcp(full.address(), 120ms);
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 120ms");
    CHECK(sample.latency >= 120ms);
  }
  SUBCASE("without a name") {
    const Sample sample = ask_tcp(std::string(64, 'n') + ".invalid:80");
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "cannot resolve name");
  }
}

TEST_CASE("an IPv6 host stands in brackets") {
  const Sample sample = ask_tcp("[::1]:1", 2s);
  CHECK(sample.error != "cannot resolve name");
  CHECK(sample.state != "open");
}

TEST_CASE("a tcp asking that is cancelled ends at once") {
  asio::io_context loop;
  const FullPort full;
  const auto check = make_check(tcp_check(full.address(), 60s));
  CHECK(ask_and_cancel(loop, *check).error == "cancelled");
}

}  // namespace
}  // namespace squall::checks
