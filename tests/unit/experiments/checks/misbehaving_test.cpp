#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>

#include "asking.h"
#include "tests/support/certificates.h"

namespace squall::checks {
namespace {

using namespace testing;

constexpr Duration kTimeout = 400ms;

/// Reads whatever comes, and says nothing for ever.
asio::awaitable<void> hang(tcp::socket taken) {
  tcp::socket socket = std::move(taken);
  char bytes[4096];
  for (;;) {
    const auto [failed, length] = co_await socket.async_read_some(asio::buffer(bytes), kToken);
    if (failed) co_return;
  }
}

/// Takes a first word, and then is gone without an orderly end.
asio::awaitable<void> reset(tcp::socket taken) {
  tcp::socket socket = std::move(taken);
  char bytes[64];
  co_await socket.async_read_some(asio::buffer(bytes), kToken);
  socket.set_option(asio::socket_base::linger(true, 0));
  socket.close();
}

/// Says `start`, and then a byte at a time for ever.
Server::Serve trickling(std::string start) {
  return [start = std::move(start)](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    const std::string begun = start;
    asio::steady_timer pause(socket.get_executor());
    co_await asio::async_write(socket, asio::buffer(begun), kToken);
    for (;;) {
      const auto [failed, written] =
          co_await asio::async_write(socket, asio::buffer("\0", 1), kToken);
      if (failed) co_return;
      pause.expires_after(5ms);
      co_await pause.async_wait(kToken);
    }
  };
}

/// An answer of HTTP that begins well and has no end.
asio::awaitable<void> flood(tcp::socket taken) {
  tcp::socket socket = std::move(taken);
  const std::string start = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
  const std::string chunk(100'000, 'x');
  co_await asio::async_write(socket, asio::buffer(start), kToken);
  for (;;) {
    const auto [failed, written] = co_await asio::async_write(socket, asio::buffer(chunk), kToken);
    if (failed) co_return;
  }
}

v1::Check http_to(const std::string& url) {
  v1::Check check;
  check.mutable_http()->set_url(url);
  return check;
}

v1::Check grpc_to(const std::string& address, bool with_tls = false) {
  v1::Check check;
  check.mutable_grpc()->set_address(address);
  if (with_tls) check.mutable_grpc()->mutable_tls();
  return check;
}

v1::Check tcp_to(const std::string& address) {
  v1::Check check;
  check.mutable_tcp()->set_address(address);
  return check;
}

TEST_CASE("S21: what hangs, resets, trickles, floods, or has bad TLS or no name fails by itself") {
  asio::io_context loop;
  Server working(loop, answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"));
  Server hanging(loop, hang);
  Server resetting(loop, reset);
  Server trickling_http(loop, trickling("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"));
  // A frame of HTTP/2, SETTINGS, of which there is always more to come.
  Server trickling_grpc(loop, trickling(std::string("\x00\x3f\xf6\x04\x00\x00\x00\x00\x00", 9)));
  Server flooding(loop, flood);
  const support::Authority unknown;
  const support::Pair pair = unknown.issue("shop", "127.0.0.1");
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.use_certificate(asio::buffer(pair.certificate), asio::ssl::context::pem);
  context.use_private_key(asio::buffer(pair.key), asio::ssl::context::pem);
  Server untrusted(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
    asio::ssl::stream<tcp::socket> stream(std::move(taken), context);
    co_await stream.async_handshake(asio::ssl::stream_base::server, kToken);
  });
  const std::string nowhere = std::string(64, 'n') + ".invalid";

  const std::string late = "timeout after 400ms";
  struct Wrong {
    v1::Check check;
    std::string error;  ///< Empty: in words of the library's own.
  };
  const std::vector<Wrong> wrongs = {
      {http_to(hanging.url()), late},
      {http_to("https://" + hanging.address() + "/"), late},
      {grpc_to(hanging.address()), late},
      {http_to(resetting.url()), "connection reset"},
      {grpc_to(resetting.address()), ""},
      {http_to(trickling_http.url()), late},
      {grpc_to(trickling_grpc.address()), late},
      {http_to(flooding.url()), "answer larger than 10 MB"},
      {grpc_to(flooding.address()), "not a gRPC answer"},
      {http_to("https://" + untrusted.address() + "/"),
       "TLS: unable to get local issuer certificate"},
      {grpc_to(untrusted.address(), true), "TLS: certificate verify failed"},
      {http_to("http://" + nowhere + "/"), "cannot resolve name"},
      {tcp_to(nowhere + ":80"), "cannot resolve name"},
      {grpc_to(nowhere + ":80"), "cannot resolve name"},
      {tcp_to(closed_address()), "connection refused"},
      {grpc_to(closed_address()), "connection refused"},
  };
  std::vector<std::unique_ptr<Check>> checks;
  std::vector<std::shared_ptr<std::optional<Sample>>> answers;
  for (const Wrong& wrong : wrongs) {
    v1::Check check = wrong.check;
    // Nothing but what is said to be late is to fail by being so, on however slow a machine.
    check.set_timeout((wrong.error == late ? kTimeout : Duration(kBound)).count());
    if (wrong.error.empty()) check.set_timeout(kTimeout.count());
    checks.push_back(make_check(check));
    answers.push_back(begin(loop, *checks.back()));
  }

  // Meanwhile one that works is asked again and again.
  v1::Check good = http_to(working.url());
  good.set_timeout(Duration(kBound).count());
  const auto undisturbed = make_check(good);
  const auto all_over = [&] {
    return std::ranges::all_of(answers, [](const auto& answer) { return answer->has_value(); });
  };
  const MonotonicTime deadline = monotonic_now() + kBound;
  int asked = 0;
  while (!all_over() && monotonic_now() < deadline) {
    const Sample sample = ask(loop, *undisturbed);
    REQUIRE(sample.error == "");
    REQUIRE(sample.status == 200);
    ++asked;
  }
  CHECK(asked > 1);
  REQUIRE(all_over());
  for (std::size_t i = 0; i < wrongs.size(); ++i) {
    const std::string which = wrongs[i].check.ShortDebugString();
    CAPTURE(which);
    const Sample& sample = **answers[i];
    CHECK(sample.error != "");
    if (!wrongs[i].error.empty()) CHECK(sample.error == wrongs[i].error);
    CHECK(sample.latency < kBound);
    if (wrongs[i].error == late) CHECK(sample.latency >= kTimeout - 5ms);
    CHECK_FALSE(sample.status.has_value());
  }
}

}  // namespace
}  // namespace squall::checks
