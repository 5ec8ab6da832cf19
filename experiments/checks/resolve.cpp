#include "experiments/checks/resolve.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <charconv>
#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>

#include "experiments/checks/kind.h"

namespace squall::checks {

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace asio::experimental::awaitable_operators;

HostPort split(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos) return {address, "0"};
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return {host, address.substr(colon + 1)};
}

/// Shared by the thread and whoever waits. The thread touches nothing of the loop: it makes `ready`
/// readable, and that stays so.
struct Resolver::Lookup {
  Lookup() : ready(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (ready < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  ~Lookup() { close(ready); }
  Lookup(const Lookup&) = delete;
  Lookup& operator=(const Lookup&) = delete;

  int ready;
  std::atomic<bool> done = false;  ///< Set after `endpoints`.
  std::vector<tcp::endpoint> endpoints;

  void run(const std::string& host, const std::string& port) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_ADDRCONFIG | AI_NUMERICSERV;
    addrinfo* found = nullptr;
    if (getaddrinfo(host.c_str(), port.c_str(), &hints, &found) == 0) {
      for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
        tcp::endpoint endpoint;
        if (at->ai_addrlen > endpoint.capacity()) continue;
        std::memcpy(endpoint.data(), at->ai_addr, at->ai_addrlen);
        endpoint.resize(at->ai_addrlen);
        endpoints.push_back(endpoint);
      }
      freeaddrinfo(found);
    }
    done = true;
    const std::uint64_t one = 1;
    static_cast<void>(!write(ready, &one, sizeof one));
  }
};

Resolver::Resolver(std::string host, std::string port)
    : host_(std::move(host)), port_(std::move(port)) {}
Resolver::~Resolver() = default;

asio::awaitable<Resolved> Resolver::resolve(MonotonicTime deadline, Duration timeout) {
  Resolved resolved;
  boost::system::error_code not_numeric;
  const auto address = asio::ip::make_address(host_, not_numeric);
  if (!not_numeric) {
    std::uint16_t port = 0;
    const auto [end, failed] = std::from_chars(port_.data(), port_.data() + port_.size(), port);
    if (failed != std::errc() || end != port_.data() + port_.size()) {
      resolved.error = "not a port: " + port_;
    } else {
      resolved.endpoints.emplace_back(address, port);
    }
    co_return resolved;
  }
  if (!pending_) {
    auto lookup = std::make_shared<Lookup>();
    // Signals are for the program's own threads: one that is handled here would be missed there.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([lookup, host = host_, port = port_] { lookup->run(host, port); }).detach();
      pending_ = std::move(lookup);
    } catch (const std::system_error&) {
      resolved.error = "cannot resolve name: out of threads";
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!pending_) co_return resolved;
  }

  const std::shared_ptr<Lookup> lookup = pending_;
  const auto executor = co_await asio::this_coro::executor;
  const int copy = fcntl(lookup->ready, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) {
    resolved.error = "cannot resolve name: out of descriptors";
    co_return resolved;
  }
  asio::posix::stream_descriptor ready(executor, copy);
  asio::steady_timer late(executor, deadline);
  constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
  const auto first =
      co_await (ready.async_wait(asio::posix::stream_descriptor::wait_read, kToken) ||
                late.async_wait(kToken));
  if (lookup->done) {
    if (pending_ == lookup) pending_.reset();
    resolved.endpoints = lookup->endpoints;
    if (resolved.endpoints.empty()) resolved.error = "cannot resolve name";
    co_return resolved;
  }
  const bool timed_out = first.index() == 1 && !std::get<0>(std::get<1>(first));
  resolved.error = timed_out ? timeout_words(timeout) : kCancelled;
  co_return resolved;
}

}  // namespace squall::checks
