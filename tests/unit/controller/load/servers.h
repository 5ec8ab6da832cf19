/// \file
/// Servers that a load is let loose on, on a thread of their own, and the loads.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "controller/load/load.h"
#include "experiments/base/clock.h"
#include "tests/support/eventually.h"

namespace squall::load::testing {

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace std::chrono_literals;
using support::eventually;

inline constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
inline constexpr Duration kBound = 20s;  ///< Nothing here takes that long.

/// Accepts on a loopback port and gives each connection to `serve`.
class Server {
 public:
  using Serve = std::function<asio::awaitable<void>(Server&, tcp::socket)>;

  explicit Server(Serve serve)
      : acceptor_(loop_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        port_(acceptor_.local_endpoint().port()),
        serve_(std::move(serve)) {
    asio::co_spawn(loop_, accept(), asio::detached);
    thread_ = std::thread([this] { loop_.run(); });
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  ~Server() {
    loop_.stop();
    thread_.join();
  }

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_) + "/"; }

  std::atomic<int> accepted = 0;
  std::atomic<int> asked = 0;        ///< Requests whose head has come.
  std::atomic<int> open = 0;         ///< Connections now.
  std::atomic<int> most_open = 0;    ///< At any time.
  std::atomic<bool> stalls = false;  ///< Answers nothing as long as it does.

  /// The head of the next request, and none at the end of the connection. Waits while the server
  /// stalls.
  asio::awaitable<std::string> head(tcp::socket& socket, std::string& buffer) {
    const auto [failed, length] =
        co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), "\r\n\r\n", kToken);
    if (failed) co_return "";
    std::string text = buffer.substr(0, length);
    buffer.erase(0, length);
    ++asked;
    asio::steady_timer pause(loop_);
    while (stalls) {
      pause.expires_after(1ms);
      co_await pause.async_wait(kToken);
    }
    co_return text;
  }

 private:
  asio::awaitable<void> accept() {
    for (;;) {
      auto [failed, socket] = co_await acceptor_.async_accept(kToken);
      if (failed) co_return;
      ++accepted;
      most_open = std::max<int>(most_open, ++open);
      asio::co_spawn(loop_, serve_(*this, std::move(socket)),
                     [this](const std::exception_ptr&) { --open; });
    }
  }

  asio::io_context loop_{1};
  tcp::acceptor acceptor_;
  std::uint16_t port_;
  Serve serve_;
  std::thread thread_;
};

/// `text` to every request, `after` so long.
inline Server::Serve answering(std::string text, Duration after = {}) {
  return
      [text = std::move(text), after](Server& server, tcp::socket taken) -> asio::awaitable<void> {
        // Parameters live in the frame, what a lambda captured does not.
        tcp::socket socket = std::move(taken);
        const std::string answer = text;
        const Duration pause = after;
        std::string buffer;
        asio::steady_timer timer(socket.get_executor());
        for (;;) {
          const std::string head = co_await server.head(socket, buffer);
          if (head.empty()) co_return;
          if (pause > Duration::zero()) {
            timer.expires_after(pause);
            co_await timer.async_wait(kToken);
          }
          const auto [failed, written] =
              co_await asio::async_write(socket, asio::buffer(answer), kToken);
          if (failed) co_return;
        }
      };
}

inline const std::string kOk = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A load on a loop of its own, as a run has it.
class Run {
 public:
  explicit Run(std::unique_ptr<Load> load) : load_(std::move(load)), numbers_(load_->numbers()) {
    started = load_->start(loop_.get_executor());
  }

  Status started;

  /// What has come since the last.
  checks::Sample ask() { return wait_for<checks::Sample>(numbers_->ask()); }

  void forget(MonotonicTime before) { numbers_->forget(before); }

  /// The tallies of all asks together.
  struct Sum {
    std::uint64_t answered = 0;
    std::uint64_t unanswered = 0;
    std::uint64_t failed = 0;
    checks::Histogram latencies;
    std::string error;
  };

  /// Asks until so many were answered or given up.
  const Sum& until(std::uint64_t count) {
    const bool came = eventually(
        [&] {
          take();
          return sum_.answered + sum_.unanswered >= count;
        },
        kBound, 10ms);
    CHECK(came);
    return sum_;
  }

  const Sum& sum() {
    take();
    return sum_;
  }

  v1::LoadEnded end(bool in_haste = false) { return wait_for<v1::LoadEnded>(load_->end(in_haste)); }

  /// Of a load that ends by itself.
  std::string failed() { return wait_for<std::string>(load_->failed()); }

  Load& load() { return *load_; }

 private:
  template <typename Result>
  Result wait_for(asio::awaitable<Result> work) {
    std::optional<Result> result;
    asio::co_spawn(loop_, std::move(work), [&](const std::exception_ptr& thrown, Result got) {
      if (thrown) std::rethrow_exception(thrown);
      result = std::move(got);
    });
    const MonotonicTime deadline = monotonic_now() + kBound;
    loop_.restart();
    while (!result && monotonic_now() < deadline) {
      loop_.restart();
      loop_.run_one_for(10ms);
    }
    REQUIRE(result);
    return *std::move(result);
  }

  void take() {
    const checks::Sample sample = ask();
    sum_.answered += sample.tally->answered.count();
    sum_.unanswered += sample.tally->unanswered;
    sum_.failed += sample.tally->failed;
    sum_.latencies.add(sample.tally->answered);
    if (!sample.tally->error.empty()) sum_.error = sample.tally->error;
  }

  asio::io_context loop_{1};
  std::unique_ptr<Load> load_;
  std::unique_ptr<checks::Check> numbers_;
  Sum sum_;
};

inline v1::HttpLoad wanted(const std::string& url, double rate, std::uint32_t connections = 10,
                           Duration timeout = 10s) {
  v1::HttpLoad load;
  load.set_url(url);
  load.set_rate(rate);
  load.set_connections(connections);
  load.set_timeout(timeout.count());
  return load;
}

}  // namespace squall::load::testing
