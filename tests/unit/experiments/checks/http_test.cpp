#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "asking.h"
#include "tests/support/certificates.h"

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

/// A JSON answer, as services give it.
std::string json(const std::string& body) {
  return fmt::format("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.size(), body);
}

TEST_CASE("a number in a JSON answer is the value, and what is there instead is told") {
  asio::io_context loop;
  const auto asked = [&](const std::string& body, const std::string& pointer) {
    Server server(loop, answering(json(body)));
    v1::Check wanted = http_check(server.url());
    wanted.mutable_http()->set_value(pointer);
    Sample sample = ask(loop, *make_check(wanted));
    CHECK(sample.error == "");
    CHECK(sample.status == 200);
    return sample;
  };
  const auto value = [&](const std::string& body, const std::string& pointer) {
    const Sample sample = asked(body, pointer);
    CHECK(sample.no_data == "");
    return sample.numbers.at("value");
  };
  const auto no_data = [&](const std::string& body, const std::string& pointer) {
    const Sample sample = asked(body, pointer);
    CHECK(sample.numbers.empty());
    return sample.no_data;
  };
  CHECK(value(R"({"queue": {"depth": 42}})", "/queue/depth") == 42);
  CHECK(value(R"([{"a/b": -1.5}])", "/0/a~1b") == -1.5);
  CHECK(no_data(R"({"queue": {}})", "/queue/depth") == "the answer has no /queue/depth");
  CHECK(no_data(R"([1])", "/99999999999999999999") == "the answer has no /99999999999999999999");
  CHECK(no_data(R"([1])", "/-") == "the answer has no /-");
  CHECK(no_data(R"({"a": 1})", "/a~2") == "the answer has no /a~2");
  CHECK(no_data(R"({"a": "7"})", "/a") == "/a is no number but a string");
  CHECK(no_data(R"({"a": [7]})", "/a") == "/a is no number but an array");
  CHECK(no_data(R"({"a": null})", "/a") == "/a is no number but null");
  CHECK(no_data("<html>", "/a") == "the answer is no JSON");
  CHECK(no_data("", "/a") == "the answer is no JSON");
  CHECK(no_data(std::string(60'000, '['), "/a") == "the answer is no JSON");
  CHECK(no_data(R"({"b": ")" + std::string(70'000, 'x') + R"(", "a": 1})", "/a") ==
        "the answer is longer than the 64 KiB that are kept");
}

/// A redirect to `where`.
std::string moved(const std::string& where, const std::string& how = "302 Found") {
  return fmt::format("HTTP/1.1 {}\r\nLocation: {}\r\nContent-Length: 6\r\n\r\nmoved!", how, where);
}

TEST_CASE("redirects are followed where the plan says so, ten at most, and to the web alone") {
  asio::io_context loop;
  const auto asked = [&](const std::string& url) {
    v1::Check wanted = http_check(url);
    wanted.mutable_http()->set_follow(true);
    return ask(loop, *make_check(wanted));
  };
  Server last(loop, answering(kOk));
  SUBCASE("to another server") {
    Server first(loop, answering(moved(last.url())));
    const Sample sample = asked(first.url());
    CHECK(sample.error == "");
    CHECK(sample.status == 200);
    CHECK(sample.output == "hello");
  }
  SUBCASE("for ever") {
    Server circle(loop, answering(moved("/")));
    CHECK(asked(circle.url()).error == "more than 10 redirects");
  }
  SUBCASE("to a file") {
    Server first(loop, answering(moved("file:///etc/hostname")));
    CHECK(asked(first.url()).error == "redirected to neither http nor https");
  }
  SUBCASE("to where nobody listens") {
    Server first(loop, answering(moved("http://" + closed_address() + "/")));
    CHECK(asked(first.url()).error == "connection refused");
  }
}

TEST_CASE("what is posted goes on as it was where the redirect says so, else as a GET") {
  asio::io_context loop;
  std::vector<std::string> heads;
  const auto recording = [&](std::string first_answer) {
    return [&heads, first_answer](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      std::vector<std::string>& into = heads;
      const std::string answers[] = {first_answer, kOk};
      std::string buffer;
      for (const std::string& answer : answers) {
        const std::string head = co_await read_head(socket, buffer);
        if (head.empty()) co_return;
        const bool has_body = head.find("Content-Length: 5\r\n") != std::string::npos;
        while (has_body && buffer.size() < 5) {
          char bytes[64];
          const auto [failed, length] =
              co_await socket.async_read_some(asio::buffer(bytes), kToken);
          if (failed) co_return;
          buffer.append(bytes, length);
        }
        into.push_back(head.substr(0, head.find(' ')) +
                       (has_body ? " " + buffer.substr(0, 5) : ""));
        if (has_body) buffer.erase(0, 5);
        co_await asio::async_write(socket, asio::buffer(answer), kToken);
      }
    };
  };
  const auto asked = [&](const std::string& method, const std::string& how) {
    heads.clear();
    Server server(loop, recording(moved("/next", how)));
    v1::Check wanted = http_check(server.url());
    wanted.mutable_http()->set_method(method);
    wanted.mutable_http()->set_body("order");
    wanted.mutable_http()->set_follow(true);
    CHECK(ask(loop, *make_check(wanted)).status == 200);
    return heads;
  };
  using Heads = std::vector<std::string>;
  CHECK(asked("POST", "302 Found") == Heads{"POST order", "GET"});
  CHECK(asked("POST", "307 Temporary Redirect") == Heads{"POST order", "POST order"});
  CHECK(asked("PUT", "302 Found") == Heads{"PUT order", "PUT order"});
}

TEST_CASE("an http check asks the address or the unix socket that the plan says") {
  asio::io_context loop;
  std::string head;
  Server server(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    head = co_await read_head(socket, buffer);
    co_await asio::async_write(socket, asio::buffer(kOk), kToken);
  });
  const std::string port = server.address().substr(server.address().find(':'));
  SUBCASE("an address") {
    v1::Check wanted = http_check("http://shop.invalid" + port + "/cart");
    wanted.mutable_http()->set_resolve("127.0.0.1");
    const Sample sample = ask(loop, *make_check(wanted));
    CHECK(sample.error == "");
    CHECK(sample.status == 200);
    CHECK(head.find("Host: shop.invalid" + port + "\r\n") != std::string::npos);
  }
  SUBCASE("an IPv6 address where nobody listens") {
    v1::Check wanted = http_check("http://shop.invalid" + port + "/cart");
    wanted.mutable_http()->set_resolve("::1");
    const std::string error = ask(loop, *make_check(wanted)).error;
    CHECK(error != "cannot resolve name");
    CHECK(error != "");
  }
  SUBCASE("a unix socket") {
    using asio::local::stream_protocol;
    std::string folder = "/tmp/squall-http-XXXXXX";
    REQUIRE(mkdtemp(folder.data()) != nullptr);
    stream_protocol::acceptor acceptor(loop, stream_protocol::endpoint(folder + "/app.sock"));
    asio::co_spawn(
        loop,
        [](stream_protocol::acceptor& from) -> asio::awaitable<void> {
          auto [failed, socket] = co_await from.async_accept(kToken);
          std::string buffer;
          co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), "\r\n\r\n", kToken);
          co_await asio::async_write(socket, asio::buffer(kOk), kToken);
        }(acceptor),
        asio::detached);
    v1::Check wanted = http_check("http://shop.invalid/cart");
    wanted.mutable_http()->set_unix(folder + "/app.sock");
    const Sample sample = ask(loop, *make_check(wanted));
    CHECK(sample.error == "");
    CHECK(sample.output == "hello");
    wanted.mutable_http()->set_unix(folder + "/none.sock");
    CHECK(ask(loop, *make_check(wanted)).error == "no such file or directory");
    std::filesystem::remove_all(folder);
  }
}

TEST_CASE("an http check speaks TLS as the plan says") {
  asio::io_context loop;
  const support::Authority authority;
  const support::Authority other("another authority");
  const support::Pair pair = authority.issue("shop.internal", "127.0.0.1");
  const support::Pair client = authority.issue("squall", "127.0.0.1");
  std::string folder = "/tmp/squall-http-XXXXXX";
  REQUIRE(mkdtemp(folder.data()) != nullptr);
  const auto file = [&](const std::string& name, const std::string& text) {
    std::ofstream(folder + "/" + name) << text;
    return folder + "/" + name;
  };
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.use_certificate(asio::buffer(pair.certificate), asio::ssl::context::pem);
  context.use_private_key(asio::buffer(pair.key), asio::ssl::context::pem);
  context.add_certificate_authority(asio::buffer(authority.pem()));
  std::string name;
  std::string head;
  Server server(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
    asio::ssl::stream<tcp::socket> stream(std::move(taken), context);
    const auto [refused] = co_await stream.async_handshake(asio::ssl::stream_base::server, kToken);
    if (refused) co_return;
    const char* const asked_for =
        SSL_get_servername(stream.native_handle(), TLSEXT_NAMETYPE_host_name);
    name = asked_for != nullptr ? asked_for : "";
    co_await asio::async_read_until(stream, asio::dynamic_buffer(head), "\r\n\r\n", kToken);
    co_await asio::async_write(stream, asio::buffer(kOk), kToken);
  });
  v1::Check wanted = http_check("https://" + server.address() + "/cart");
  v1::Tls& tls = *wanted.mutable_http()->mutable_tls();
  const auto asked = [&] { return ask(loop, *make_check(wanted)); };
  SUBCASE("an authority of its own") {
    tls.set_ca(file("ca.pem", authority.pem()));
    const Sample sample = asked();
    CHECK(sample.error == "");
    CHECK(sample.status == 200);
  }
  SUBCASE("another authority") {
    tls.set_ca(file("ca.pem", other.pem()));
    CHECK(asked().error == "TLS: self-signed certificate in certificate chain");
  }
  SUBCASE("any certificate") {
    tls.set_insecure(true);
    CHECK(asked().status == 200);
  }
  SUBCASE("another name, which this certificate does not bear") {
    tls.set_ca(file("ca.pem", authority.pem()));
    tls.set_server_name("cart.internal");
    CHECK(asked().error.starts_with("TLS: "));
    tls.set_insecure(true);
    CHECK(asked().status == 200);
    CHECK(name == "cart.internal");
    CHECK(head.find("Host: " + server.address() + "\r\n") != std::string::npos);
  }
  SUBCASE("a certificate of ours, which the server wants") {
    context.set_verify_mode(asio::ssl::verify_peer | asio::ssl::verify_fail_if_no_peer_cert);
    tls.set_ca(file("ca.pem", authority.pem()));
    CHECK(asked().error == "TLS: tlsv13 alert certificate required");
    tls.set_cert(file("cert.pem", client.certificate));
    tls.set_key(file("key.pem", client.key));
    const Sample sample = asked();
    CHECK(sample.error == "");
    CHECK(sample.status == 200);
  }
  SUBCASE("files that are not there, or are no PEM") {
    tls.set_ca(folder + "/none.pem");
    CHECK(asked().error == "TLS: no authority can be read from " + folder + "/none.pem");
    tls.set_ca(file("ca.pem", authority.pem()));
    tls.set_cert(file("cert.pem", "rubbish"));
    tls.set_key(folder + "/none.pem");
    CHECK(asked().error == "TLS: no certificate with its key can be read from " + folder +
                               "/cert.pem and " + folder + "/none.pem");
  }
  std::filesystem::remove_all(folder);
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
