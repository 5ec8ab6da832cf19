#include "controller/load/http.h"

#include <stdlib.h>
#include <unistd.h>

#include <boost/asio/ssl.hpp>
#include <string>
#include <utility>

#include "experiments/checks/judge.h"
#include "servers.h"
#include "tests/support/certificates.h"

namespace squall::load {
namespace {

using namespace testing;

std::unique_ptr<Load> load_of(const v1::HttpLoad& load) { return make_http_load("shoppers", load); }

/// Of a text, removed with it.
class File {
 public:
  explicit File(const std::string& text) : fd_(mkstemp(name_)) {
    REQUIRE(write(fd_, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    unlink(name_);
    close(fd_);
  }
  const char* path() const { return name_; }

 private:
  char name_[32] = "/tmp/squall-load-test-XXXXXX";
  int fd_;
};

double p(const checks::Histogram& histogram, double percent) {
  return to_ms(histogram.percentile(percent));
}

TEST_CASE("requests are sent at the rate that was asked for, and all are told of") {
  Server server(answering(kOk));
  Run run(load_of(wanted(server.url(), 500)));
  REQUIRE(run.started.ok());
  const MonotonicTime begun = monotonic_now();
  run.until(300);
  const v1::LoadEnded ended = run.end();
  const double elapsed = to_ms(monotonic_now() - begun) / 1000;
  CHECK(ended.load() == "shoppers");
  // As many as were due by then, and none more: a slow machine has a longer time, too.
  CHECK(static_cast<double>(ended.sent()) <= 500 * elapsed + 10);
  CHECK(ended.wanted_per_second() == doctest::Approx(500));
  CHECK(ended.answered() >= 300);
  CHECK(ended.answered() <= ended.sent());
  CHECK(ended.failed() == 0);
  CHECK(ended.p50_ms() > 0);
  CHECK(ended.p50_ms() <= ended.p99_ms());
  CHECK(ended.p99_ms() <= ended.max_ms());
  CHECK(ended.words().find(" requests, ") != std::string::npos);
  CHECK(ended.words().find(" 0 failed") != std::string::npos);
  CHECK_FALSE(ended.has_exit());
  CHECK(server.asked >= static_cast<int>(ended.answered()));
}

TEST_CASE("a server that stalls for a second is as slow as it is to those who came meanwhile") {
  Server server(answering(kOk));
  Run run(load_of(wanted(server.url(), 200, 4)));
  run.until(50);
  server.stalls = true;
  const MonotonicTime stalled = monotonic_now();
  const bool waited = eventually([&] { return monotonic_now() >= stalled + 1s; }, kBound, 20ms);
  REQUIRE(waited);
  server.stalls = false;
  // 200 came while nobody answered; a closed loop of four would have counted four.
  const Run::Sum& sum = run.until(50 + 200);
  CHECK(sum.unanswered == 0);
  std::uint64_t slow = 0;
  for (std::uint64_t rank = 1; rank <= sum.latencies.count(); ++rank) {
    slow += sum.latencies.at_rank(rank) >= 500ms ? 1 : 0;
  }
  CHECK(slow >= 60);
  CHECK(p(sum.latencies, 99) >= 900);
}

TEST_CASE("a server that answers nothing is slow before anything is given up") {
  Server server(answering(kOk));
  v1::Check wanted_of_it;
  wanted_of_it.set_every(Duration(1s).count());
  wanted_of_it.set_timeout(Duration(10s).count());
  v1::Expectation& fast = *wanted_of_it.add_expect();
  fast.set_text("p99 < 300ms over 10s");
  fast.set_metric("p99");
  fast.set_op(v1::LESS);
  fast.add_values()->set_number(300e6);
  checks::Judge judge(wanted_of_it);

  Run run(load_of(wanted(server.url(), 100, 5)));
  run.until(50);
  judge.start_watching(monotonic_now());
  run.forget(monotonic_now());
  server.stalls = true;
  std::optional<checks::Breach> breach;
  const bool seen = eventually(
      [&] {
        judge.add(run.ask());
        breach = judge.breached(monotonic_now());
        return breach.has_value();
      },
      5s, 50ms);
  CHECK(seen);
  server.stalls = false;
}

TEST_CASE("no more connections are open than there are users, and they are kept") {
  Server server(answering(kOk, 20ms));
  Run run(load_of(wanted(server.url(), 1000, 3)));
  run.until(60);
  CHECK(server.most_open == 3);
  CHECK(server.accepted == 3);
  // Three users of 20 ms each are 150/s at most: what is late is not dropped.
  CHECK(run.end().wanted_per_second() == doctest::Approx(1000));
}

TEST_CASE("an answer that is too late is an error, and its connection is replaced") {
  Server server(answering(kOk, 10s));
  Run run(load_of(wanted(server.url(), 100, 2, 100ms)));
  const Run::Sum& sum = run.until(6);
  CHECK(sum.answered == 0);
  CHECK(sum.failed == sum.unanswered);
  CHECK(sum.error == "timeout after 100ms");
  CHECK(server.accepted >= 6);
  const v1::LoadEnded ended = run.end();
  CHECK(ended.failed() >= 6);
  CHECK(ended.words().ends_with("failed (timeout after 100ms)"));
}

TEST_CASE("a server's error is an answer and a failure, a client's is an answer") {
  const auto of_status = [](const std::string& status) {
    Server server(answering("HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n"));
    Run run(load_of(wanted(server.url(), 200)));
    const Run::Sum& sum = run.until(20);
    CHECK(sum.unanswered == 0);
    return std::pair(sum.answered, sum.failed);
  };
  const auto [busy, failed] = of_status("503 Busy");
  CHECK(failed == busy);
  CHECK(of_status("404 Not Found").second == 0);
}

TEST_CASE("every way in which HTTP ends an answer is understood") {
  const auto is_fine = [](const std::string& answer, const std::string& method = "GET") {
    Server server(answering(answer));
    v1::HttpLoad load = wanted(server.url(), 200);
    load.set_method(method);
    Run run(load_of(load));
    const Run::Sum& sum = run.until(20);
    CHECK(sum.error == "");
    return sum.unanswered == 0 && server.accepted <= 10;
  };
  CHECK(is_fine(kOk));
  CHECK(
      is_fine("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
              "5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nTrailer: x\r\n\r\n"));
  CHECK(is_fine("HTTP/1.1 204 No Content\r\n\r\n"));
  CHECK(is_fine("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"));
  CHECK(is_fine("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + kOk));
  CHECK(is_fine("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", "HEAD"));
  const std::string large(1'000'000, 'a');
  CHECK(is_fine("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + large));
}

TEST_CASE("a server that closes each time is asked on a new connection each time") {
  const auto close_after = [](const std::string& text) -> Server::Serve {
    return [text](Server& server, tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      const std::string answer = text;
      std::string buffer;
      const std::string head = co_await server.head(socket, buffer);
      if (!head.empty()) co_await asio::async_write(socket, asio::buffer(answer), kToken);
    };
  };
  SUBCASE("and says so") {
    Server server(
        close_after("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"));
    Run run(load_of(wanted(server.url(), 200)));
    CHECK(run.until(20).unanswered == 0);
    CHECK(server.accepted >= 20);
  }
  SUBCASE("without a word") {
    Server server(close_after(kOk));
    Run run(load_of(wanted(server.url(), 200)));
    CHECK(run.until(20).unanswered == 0);
    CHECK(server.accepted >= 20);
  }
  SUBCASE("which is the end of an answer of no length") {
    Server server(close_after("HTTP/1.0 200 OK\r\n\r\nhello"));
    Run run(load_of(wanted(server.url(), 200)));
    CHECK(run.until(20).unanswered == 0);
  }
  SUBCASE("in the middle of an answer") {
    Server server(close_after("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"));
    Run run(load_of(wanted(server.url(), 200)));
    const Run::Sum& sum = run.until(20);
    CHECK(sum.answered == 0);
    CHECK(sum.error == "answer cut short");
  }
}

TEST_CASE("a load says in words why it got no answer") {
  const auto error_from = [](const std::string& url) {
    Run run(load_of(wanted(url, 200, 10, 5s)));
    const Run::Sum& sum = run.until(10);
    CHECK(sum.answered == 0);
    CHECK(sum.failed == sum.unanswered);
    return sum.error;
  };
  const auto after_reading = [](bool reset) -> Server::Serve {
    return [reset](Server& server, tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      const bool resets = reset;
      std::string buffer;
      co_await server.head(socket, buffer);
      if (resets) socket.set_option(asio::socket_base::linger(true, 0));
      socket.close();
    };
  };
  {
    Server resetting(after_reading(true));
    CHECK(error_from(resetting.url()) == "connection reset");
  }
  {
    Server closing(after_reading(false));
    CHECK(error_from(closing.url()) == "connection closed without an answer");
  }
  {
    Server talking(answering("SSH-2.0-OpenSSH_9.2\r\n"));
    CHECK(error_from(talking.url()) == "not an HTTP answer");
  }
  {
    Server wordy(answering("HTTP/1.1 200 OK\r\nX: " + std::string(20'000, 'x') + "\r\n\r\n"));
    const std::string told = error_from(wordy.url());
    CHECK((told == "the head of an answer is larger than 8 KiB" || told == "not an HTTP answer"));
  }
  std::string closed;
  {
    const Server gone(answering(kOk));
    closed = gone.url();
  }
  CHECK(error_from(closed) == "connection refused");
  CHECK(error_from("http://no-such-host.invalid/") == "cannot resolve name");
  Server plain([](Server&, tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    co_await asio::async_write(socket, asio::buffer(kOk), kToken);
  });
  CHECK(error_from("https" + plain.url().substr(4)) == "TLS: wrong version number");
}

TEST_CASE("what was due before is not told of after") {
  Server server(answering(kOk));
  Run run(load_of(wanted(server.url(), 200, 2)));
  run.until(20);
  server.stalls = true;
  const bool waits =
      eventually([&] { return run.ask().tally->waiting.count() > 20; }, kBound, 10ms);
  REQUIRE(waits);
  const MonotonicTime now = monotonic_now();
  run.forget(now);
  const checks::Sample after = run.ask();
  const checks::Histogram& waiting = after.tally->waiting;
  const Duration passed = monotonic_now() - now;
  CHECK((waiting.count() == 0 || waiting.percentile(100) <= passed + passed / 500));
  server.stalls = false;
  const bool answered = eventually(
      [&] {
        const checks::Sample sample = run.ask();
        const auto& told = sample.tally->answered;
        // The queue of those before is worked off first, and none of it is told.
        CHECK(told.percentile(100) <= monotonic_now() - now + 1ms + told.percentile(100) / 500);
        return told.count() > 0;
      },
      kBound, 5ms);
  CHECK(answered);
}

TEST_CASE("a load that is ended or let go in the midst of things ends at once") {
  Server server(answering(kOk, 10s));
  const MonotonicTime begun = monotonic_now();
  {
    Run run(load_of(wanted(server.url(), 1000, 50)));
    const bool busy = eventually([&] { return server.asked >= 50; }, kBound);
    CHECK(busy);
    run.end();
  }
  {
    Run run(load_of(wanted(server.url(), 1000, 50)));
    const bool busy = eventually([&] { return server.asked >= 100; }, kBound);
    CHECK(busy);
  }
  CHECK(monotonic_now() - begun < 8s);
}

/// Speaks TLS, and answers every request.
Server::Serve answering_securely(asio::ssl::context& context) {
  return [&context](Server& server, tcp::socket taken) -> asio::awaitable<void> {
    asio::ssl::stream<tcp::socket> stream(std::move(taken), context);
    const auto [refused] = co_await stream.async_handshake(asio::ssl::stream_base::server, kToken);
    if (refused) co_return;
    std::string buffer;
    for (;;) {
      const auto [failed, length] =
          co_await asio::async_read_until(stream, asio::dynamic_buffer(buffer), "\r\n\r\n", kToken);
      if (failed) co_return;
      buffer.erase(0, length);
      ++server.asked;
      const auto [lost, written] = co_await asio::async_write(stream, asio::buffer(kOk), kToken);
      if (lost) co_return;
    }
  };
}

TEST_CASE("https is spoken to a server whose certificate can be trusted, and to no other") {
  const support::Authority authority;
  const support::Pair pair = authority.issue("shop", "127.0.0.1");
  asio::ssl::context context(asio::ssl::context::tls_server);
  context.use_certificate_chain(asio::buffer(pair.certificate));
  context.use_private_key(asio::buffer(pair.key), asio::ssl::context::pem);
  Server server(answering_securely(context));
  const File ca(authority.pem());

  v1::HttpLoad load = wanted("https" + server.url().substr(4), 200);
  load.mutable_tls()->set_ca(ca.path());
  {
    Run run(load_of(load));
    CHECK(run.until(50).error == "");
    CHECK(run.sum().unanswered == 0);
    CHECK(server.accepted <= 10);
  }
  load.mutable_tls()->set_server_name("other.internal");
  {
    Run run(load_of(load));
    CHECK(run.until(5).error == "TLS: certificate verify failed");
    CHECK(run.sum().answered == 0);
  }
  load.mutable_tls()->clear_server_name();
  load.mutable_tls()->clear_ca();
  {
    Run run(load_of(load));
    CHECK(run.until(5).error == "TLS: certificate verify failed");
  }
  load.mutable_tls()->set_insecure(true);
  Run run(load_of(load));
  CHECK(run.until(20).error == "");
}

TEST_CASE("what a load lacks to begin with is told before it begins") {
  v1::HttpLoad load = wanted("https://127.0.0.1/", 1);
  load.mutable_tls()->set_ca("/nowhere/ca.pem");
  const Run run(load_of(load));
  CHECK(message_of(run.started) == "/nowhere/ca.pem: No such file or directory");
}

}  // namespace
}  // namespace squall::load
