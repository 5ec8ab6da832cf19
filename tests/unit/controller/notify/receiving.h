/// \file
/// A web server to be told things by: it keeps every request and answers, or behaves badly, as the
/// test wants.
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::notify::testing {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;

inline constexpr auto kToken = asio::as_tuple(asio::use_awaitable);

/// What is done with one request.
struct Manner {
  enum What { kAnswer, kHang, kReset } what = kAnswer;
  unsigned status = 200;
  Duration after{};  ///< The answer comes so late.
};

struct Asked {
  std::string method;
  std::string target;
  std::string body;
  http::fields headers;

  std::string header(const std::string& name) const { return std::string(headers[name]); }
};

/// On a loopback port of its own and a thread of its own, until it is destroyed.
class Receiving {
 public:
  /// `manner`: of the n-th request, from 0; on the server's thread.
  explicit Receiving(std::function<Manner(std::size_t)> manner =
                         [](std::size_t) { return Manner(); })
      : manner_(std::move(manner)),
        acceptor_(loop_, tcp::endpoint(asio::ip::address_v4::loopback(), 0)) {
    asio::co_spawn(loop_, accept(), asio::detached);
    thread_ = std::thread([this] { loop_.run(); });
  }
  ~Receiving() {
    loop_.stop();
    thread_.join();
  }

  std::string url() const {
    return "http://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port());
  }

  std::vector<Asked> asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }

 private:
  asio::awaitable<void> accept() {
    for (;;) {
      auto [failed, socket] = co_await acceptor_.async_accept(kToken);
      if (failed) co_return;
      asio::co_spawn(loop_, serve(std::move(socket)), asio::detached);
    }
  }

  asio::awaitable<void> serve(tcp::socket socket) {
    boost::beast::flat_buffer buffer;
    for (;;) {
      http::request<http::string_body> request;
      const auto [failed, bytes] = co_await http::async_read(socket, buffer, request, kToken);
      if (failed) co_return;
      std::size_t number = 0;
      {
        const std::lock_guard lock(mutex_);
        number = asked_.size();
        asked_.push_back({std::string(request.method_string()), std::string(request.target()),
                          request.body(), request.base()});
      }
      const Manner manner = manner_(number);
      asio::steady_timer timer(loop_);
      if (manner.what == Manner::kHang) {
        timer.expires_at(MonotonicTime::max());
        co_await timer.async_wait(kToken);
        co_return;
      }
      if (manner.what == Manner::kReset) {
        socket.set_option(asio::socket_base::linger(true, 0));
        co_return;
      }
      timer.expires_after(manner.after);
      co_await timer.async_wait(kToken);
      http::response<http::string_body> answer(static_cast<http::status>(manner.status), 11);
      if (manner.status != 204) answer.body() = "{}";
      answer.prepare_payload();
      const auto [broken, written] = co_await http::async_write(socket, answer, kToken);
      if (broken) co_return;
    }
  }

  std::function<Manner(std::size_t)> manner_;
  mutable std::mutex mutex_;
  std::vector<Asked> asked_;
  asio::io_context loop_{1};
  tcp::acceptor acceptor_;
  std::thread thread_;
};

}  // namespace squall::notify::testing
