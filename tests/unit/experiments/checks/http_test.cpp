#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdlib>

#include "asking.h"

namespace squall::checks {
namespace {

using namespace testing;

const std::string kOk = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

v1::Check http_check(const std::string& url, Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_http()->set_url(url);
  return check;
}

Sample ask_http(asio::io_context& loop, const std::string& url, Duration timeout = 10s) {
  const auto check = make_check(http_check(url, timeout));
  return ask(loop, *check);
}

/// Reads the request, then says nothing for ever.
asio::awaitable<void> hang(tcp::socket taken) {
  tcp::socket socket = std::move(taken);
  std::string buffer;
  co_await read_head(socket, buffer);
  co_await read_head(socket, buffer);
}

TEST_CASE("an http check tells the status, the body and how long it took") {
  asio::io_context loop;
  Server server(loop, answering(kOk));
  const Sample sample = ask_http(loop, server.url());
  CHECK(sample.error == "");
  CHECK(sample.status == 200);
  CHECK(sample.output == "hello");
  CHECK(sample.latency > 0ns);
  CHECK(sample.latency < kBound);
}

TEST_CASE("an answer of any status is an answer, and a redirect is one that is not followed") {
  asio::io_context loop;
  Server broken(loop, answering("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"));
  Server moved(loop, answering("HTTP/1.1 302 Found\r\nLocation: " + broken.url() +
                               "\r\nContent-Length: 0\r\n\r\n"));
  CHECK(ask_http(loop, broken.url()).status == 503);
  CHECK(ask_http(loop, moved.url()).status == 302);
  CHECK(broken.accepted() == 1);
}

TEST_CASE("an http check keeps its connection, and makes a new one when that was closed") {
  asio::io_context loop;
  Server keeping(loop, answering(kOk));
  const auto check = make_check(http_check(keeping.url()));
  for (int round = 0; round < 3; ++round) CHECK(ask(loop, *check).status == 200);
  CHECK(keeping.accepted() == 1);

  Server closing(loop, [](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    co_await read_head(socket, buffer);
    co_await asio::async_write(socket, asio::buffer(kOk), kToken);
  });
  const auto other = make_check(http_check(closing.url()));
  for (int round = 0; round < 3; ++round) CHECK(ask(loop, *other).status == 200);
  CHECK(closing.accepted() == 3);
}

TEST_CASE("method, headers and body arrive as the plan has them") {
  asio::io_context loop;
  std::string head;
  std::string body;
  Server server(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    head = co_await read_head(socket, buffer);
    while (buffer.size() < 5) {
      char bytes[64];
      const auto [failed, length] = co_await socket.async_read_some(asio::buffer(bytes), kToken);
      if (failed) co_return;
      buffer.append(bytes, length);
    }
    body = buffer;
    co_await asio::async_write(socket, asio::buffer(kOk), kToken);
  });
  v1::Check wanted = http_check(server.url());
  wanted.mutable_http()->set_method("POST");
  wanted.mutable_http()->set_body("order");
  (*wanted.mutable_http()->mutable_headers())["X-Shop"] = "blue; green";
  (*wanted.mutable_http()->mutable_headers())["X-Empty"] = "";
  CHECK(ask(loop, *make_check(wanted)).status == 200);
  CHECK(head.starts_with("POST / HTTP/1.1\r\n"));
  CHECK(head.find("X-Shop: blue; green\r\n") != std::string::npos);
  CHECK(head.find("X-Empty:\r\n") != std::string::npos);
  CHECK(head.find("Content-Type") == std::string::npos);
  CHECK(head.find("Expect") == std::string::npos);
  CHECK(body == "order");
}

TEST_CASE("a line break in a header is refused, as it would begin another request") {
  asio::io_context loop;
  v1::Check wanted = http_check("http://127.0.0.1:1/");
  (*wanted.mutable_http()->mutable_headers())["X-Shop"] = "a\r\nHost: other";
  CHECK(ask(loop, *make_check(wanted)).error == "a method or header that HTTP cannot carry");
}

TEST_CASE(
    "an endpoint that hangs fails at its own timeout, and another check is answered meanwhile") {
  asio::io_context loop;
  Server hanging(loop, hang);
  Server working(loop, answering(kOk));
  const auto slow = make_check(http_check(hanging.url(), 300ms));
  const auto fast = make_check(http_check(working.url()));
  const auto late = begin(loop, *slow);
  const Sample sample = ask(loop, *fast);
  CHECK(sample.status == 200);
  CHECK_FALSE(late->has_value());
  run_until(loop, [&] { return late->has_value(); });
  CHECK((*late)->error == "timeout after 300ms");
  CHECK((*late)->latency >= 300ms);
  CHECK_FALSE((*late)->status.has_value());
}

TEST_CASE("an endpoint that trickles its answer fails at the timeout of the whole") {
  asio::io_context loop;
  Server server(loop, [](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    asio::steady_timer pause(socket.get_executor());
    std::string buffer;
    co_await read_head(socket, buffer);
    const std::string start = "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n";
    co_await asio::async_write(socket, asio::buffer(start), kToken);
    for (;;) {
      const auto [failed, written] =
          co_await asio::async_write(socket, asio::buffer("x", 1), kToken);
      if (failed) co_return;
      pause.expires_after(5ms);
      co_await pause.async_wait(kToken);
    }
  });
  const Sample sample = ask_http(loop, server.url(), 200ms);
  CHECK(sample.error == "timeout after 200ms");
  CHECK(sample.latency >= 200ms);
}

TEST_CASE("an answer is kept up to 64 KiB, and given up beyond 10 MB") {
  asio::io_context loop;
  const std::string head = "HTTP/1.1 200 OK\r\nContent-Length: ";
  SUBCASE("100 kB") {
    Server server(loop, answering(head + "100000\r\n\r\n" + std::string(100'000, 'a')));
    const Sample sample = ask_http(loop, server.url());
    CHECK(sample.status == 200);
    CHECK(sample.output == std::string(64 * 1024, 'a'));
  }
  SUBCASE("11 MB, announced") {
    Server server(loop, answering(head + "11000000\r\n\r\n" + std::string(11'000'000, 'a')));
    CHECK(ask_http(loop, server.url()).error == "answer larger than 10 MB");
  }
  SUBCASE("11 MB, without a word") {
    const std::string text =
        "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + std::string(11'000'000, 'a');
    Server server(loop, answering(text));
    const Sample sample = ask_http(loop, server.url());
    CHECK(sample.error == "answer larger than 10 MB");
    CHECK_FALSE(sample.status.has_value());
  }
}

TEST_CASE("an http check says in words why it got no answer") {
  asio::io_context loop;
  SUBCASE("nobody listens") {
    CHECK(ask_http(loop, "http://" + closed_address() + "/").error == "connection refused");
  }
  SUBCASE("the connection is reset") {
    Server server(loop, [](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      std::string buffer;
      co_await read_head(socket, buffer);
      socket.set_option(asio::socket_base::linger(true, 0));
      socket.close();  // the destructor would put lingering back, and with it the orderly end
    });
    CHECK(ask_http(loop, server.url()).error == "connection reset");
  }
  SUBCASE("the connection is closed") {
    Server server(loop, [](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      std::string buffer;
      co_await read_head(socket, buffer);
    });
    CHECK(ask_http(loop, server.url()).error == "connection closed without an answer");
  }
  SUBCASE("the answer ends before its length") {
    Server server(loop, [](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      std::string buffer;
      co_await read_head(socket, buffer);
      co_await asio::async_write(socket, asio::buffer(kOk.substr(0, kOk.size() - 2)), kToken);
    });
    CHECK(ask_http(loop, server.url()).error == "answer cut short");
  }
  SUBCASE("it speaks something else") {
    Server server(loop, answering("SSH-2.0-OpenSSH_9.2\r\n"));
    CHECK(ask_http(loop, server.url()).error == "not an HTTP answer");
  }
  SUBCASE("no such name") {
    // A label of 64 letters: the resolver refuses it without asking anybody.
    CHECK(ask_http(loop, "http://" + std::string(64, 'n') + ".invalid/").error ==
          "cannot resolve name");
  }
  SUBCASE("no such scheme") {
    CHECK(ask_http(loop, "file:///etc/hostname").error == "neither http nor https");
  }
}

/// A key and a certificate that nobody has signed but itself.
void use_new_certificate(asio::ssl::context& context) {
  const std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key(EVP_EC_gen("P-256"),
                                                                &EVP_PKEY_free);
  const std::unique_ptr<X509, decltype(&X509_free)> certificate(X509_new(), &X509_free);
  REQUIRE(key);
  REQUIRE(certificate);
  X509_set_version(certificate.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate.get()), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -60);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3600);
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* name = X509_get_subject_name(certificate.get());
  const unsigned char text[] = "shop";
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, text, -1, -1, 0);
  X509_set_issuer_name(certificate.get(), name);
  REQUIRE(X509_sign(certificate.get(), key.get(), EVP_sha256()) > 0);
  REQUIRE(SSL_CTX_use_certificate(context.native_handle(), certificate.get()) == 1);
  REQUIRE(SSL_CTX_use_PrivateKey(context.native_handle(), key.get()) == 1);
}

TEST_CASE("bad TLS is told as such") {
  asio::io_context loop;
  SUBCASE("a certificate that nobody signed") {
    asio::ssl::context context(asio::ssl::context::tls_server);
    use_new_certificate(context);
    Server server(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
      asio::ssl::stream<tcp::socket> stream(std::move(taken), context);
      co_await stream.async_handshake(asio::ssl::stream_base::server, kToken);
    });
    CHECK(ask_http(loop, "https://" + server.address() + "/").error ==
          "TLS: self-signed certificate");
  }
  SUBCASE("no TLS at all") {
    Server server(loop, [](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      char bytes[64];
      co_await socket.async_read_some(asio::buffer(bytes), kToken);
      co_await asio::async_write(
          socket, asio::buffer(std::string("HTTP/1.1 400 Bad Request\r\n\r\n")), kToken);
    });
    CHECK(ask_http(loop, "https://" + server.address() + "/").error == "TLS: wrong version number");
  }
  SUBCASE("a handshake that never goes on") {
    Server server(loop, hang);
    CHECK(ask_http(loop, "https://" + server.address() + "/", 150ms).error ==
          "timeout after 150ms");
  }
}

TEST_CASE("a proxy of the environment is not asked instead of the target") {
  asio::io_context loop;
  Server server(loop, answering(kOk));
  setenv("http_proxy", ("http://" + closed_address()).c_str(), 1);
  const Sample sample = ask_http(loop, server.url());
  unsetenv("http_proxy");
  CHECK(sample.status == 200);
}

TEST_CASE("an asking that is cancelled ends at once") {
  asio::io_context loop;
  Server server(loop, hang);
  const auto check = make_check(http_check(server.url(), 60s));
  asio::cancellation_signal stop;
  std::optional<Sample> answer;
  asio::co_spawn(loop, check->ask(),
                 asio::bind_cancellation_slot(
                     stop.slot(), [&](std::exception_ptr, Sample sample) { answer = sample; }));
  run_until(loop, [&] { return server.accepted() == 1; });
  stop.emit(asio::cancellation_type::terminal);
  run_until(loop, [&] { return answer.has_value(); });
  CHECK(answer->error == "cancelled");
  CHECK(answer->latency < kBound);
  // It can be asked again.
  const auto again = begin(loop, *check);
  run_until(loop, [&] { return server.accepted() == 2; });
  CHECK_FALSE(again->has_value());
}

TEST_CASE("a loop that ends in the middle of an asking leaves nothing behind") {
  const auto loop = std::make_unique<asio::io_context>();
  Server server(*loop, hang);
  const auto check = make_check(http_check(server.url(), 60s));
  const auto answer = begin(*loop, *check);
  run_until(*loop, [&] { return server.accepted() == 1; });
  CHECK_FALSE(answer->has_value());
}

TEST_CASE("one check is asked a hundred times at once") {
  asio::io_context loop;
  Server server(loop, answering(kOk));
  const auto check = make_check(http_check(server.url()));
  std::vector<std::shared_ptr<std::optional<Sample>>> answers;
  for (int index = 0; index < 100; ++index) answers.push_back(begin(loop, *check));
  for (const auto& answer : answers) {
    run_until(loop, [&] { return answer->has_value(); });
    CHECK((*answer)->status == 200);
  }
}

}  // namespace
}  // namespace squall::checks
