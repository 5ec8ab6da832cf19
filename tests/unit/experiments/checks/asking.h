/// \file
/// A loop to ask on and a server to be asked, both on the test's own thread, so that what happens
/// first is no accident.
#pragma once

#include <doctest/doctest.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "experiments/checks/check.h"

namespace squall::checks::testing {

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace std::chrono_literals;

inline constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
inline constexpr auto kBound =
    20s;  ///< Nothing here takes that long; a test that fails ends by then.

/// Begins to ask; the answer is in the result when the loop has run far enough.
inline std::shared_ptr<std::optional<Sample>> begin(asio::io_context& loop, Check& check) {
  auto answer = std::make_shared<std::optional<Sample>>();
  asio::co_spawn(
      loop,
      [](Check& asked, std::shared_ptr<std::optional<Sample>> into) -> asio::awaitable<void> {
        Sample sample = co_await asked.ask();
        *into = std::move(sample);
      }(check, answer),
      [](std::exception_ptr failed) {
        if (failed) std::rethrow_exception(failed);
      });
  return answer;
}

template <typename Condition>
void run_until(asio::io_context& loop, Condition condition) {
  const MonotonicTime deadline = monotonic_now() + kBound;
  loop.restart();
  while (!condition() && monotonic_now() < deadline) loop.run_one_for(100ms);
  REQUIRE(condition());
}

inline Sample ask(asio::io_context& loop, Check& check) {
  const auto answer = begin(loop, check);
  run_until(loop, [&] { return answer->has_value(); });
  return **answer;
}

/// Begins to ask, thinks better of it after `meanwhile`, and waits for what the check says to that.
inline Sample ask_and_cancel(
    asio::io_context& loop, Check& check, const std::function<void()>& meanwhile = [] {}) {
  asio::cancellation_signal stop;
  std::optional<Sample> answer;
  asio::co_spawn(loop, check.ask(),
                 asio::bind_cancellation_slot(
                     stop.slot(), [&](std::exception_ptr, Sample sample) { answer = sample; }));
  loop.poll();
  meanwhile();
  stop.emit(asio::cancellation_type::terminal);
  run_until(loop, [&] { return answer.has_value(); });
  return *answer;
}

/// Accepts on a loopback port of its own and gives each connection to `serve`. Ends with its loop.
class Server {
 public:
  using Serve = std::function<asio::awaitable<void>(tcp::socket)>;

  Server(asio::io_context& loop, Serve serve)
      : acceptor_(loop, tcp::endpoint(asio::ip::address_v4::loopback(), 0)),
        serve_(std::move(serve)) {
    asio::co_spawn(loop, accept(), asio::detached);
  }

  std::string address() const {
    return "127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port());
  }
  std::string url() const { return "http://" + address() + "/"; }
  int accepted() const { return accepted_; }

 private:
  asio::awaitable<void> accept() {
    for (;;) {
      auto [failed, socket] = co_await acceptor_.async_accept(kToken);
      if (failed) co_return;
      ++accepted_;
      asio::co_spawn(acceptor_.get_executor(), serve_(std::move(socket)), asio::detached);
    }
  }

  tcp::acceptor acceptor_;
  Serve serve_;
  int accepted_ = 0;
};

/// The head of the next request, empty at the end of the connection.
inline asio::awaitable<std::string> read_head(tcp::socket& socket, std::string& buffer) {
  const auto [failed, length] =
      co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), "\r\n\r\n", kToken);
  if (failed) co_return "";
  std::string head = buffer.substr(0, length);
  buffer.erase(0, length);
  co_return head;
}

/// The whole of `text` to every request, until the other side closes.
inline Server::Serve answering(std::string text) {
  return [text = std::move(text)](tcp::socket taken) -> asio::awaitable<void> {
    // Parameters live in the frame, what a lambda captured does not.
    tcp::socket socket = std::move(taken);
    const std::string answer = text;
    std::string buffer;
    while (!(co_await read_head(socket, buffer)).empty()) {
      const auto [failed, written] =
          co_await asio::async_write(socket, asio::buffer(answer), kToken);
      if (failed) co_return;
    }
  };
}

/// A loopback port that nobody listens on any more.
inline std::string closed_address() {
  asio::io_context loop;
  tcp::acceptor acceptor(loop, tcp::endpoint(asio::ip::address_v4::loopback(), 0));
  return "127.0.0.1:" + std::to_string(acceptor.local_endpoint().port());
}

}  // namespace squall::checks::testing
