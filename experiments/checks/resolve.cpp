#include "experiments/checks/resolve.h"

#include <netdb.h>

#include <charconv>
#include <cstring>
#include <system_error>
#include <utility>

#include "experiments/checks/kind.h"

namespace squall::checks {

namespace asio = boost::asio;
using asio::ip::tcp;

HostPort split(const std::string& address) {
  const auto colon = address.rfind(':');
  if (colon == std::string::npos) return {address, "0"};
  std::string host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return {host, address.substr(colon + 1)};
}

/// Shared with the thread.
struct Resolver::Lookup {
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
  }
};

Resolver::Resolver(std::string host, std::string port)
    : host_(std::move(host)), port_(std::move(port)) {}
Resolver::~Resolver() = default;

Resolver::Resolver(const std::string& address) {
  const auto colon = address.rfind(':');
  host_ = address.substr(0, colon);
  port_ = colon == std::string::npos ? "0" : address.substr(colon + 1);
  if (host_.size() >= 2 && host_.front() == '[' && host_.back() == ']') {
    host_ = host_.substr(1, host_.size() - 2);
  }
}

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
  if (!aside_.is_going()) {
    lookup_ = std::make_shared<Lookup>();
    if (!aside_.begin(
            [lookup = lookup_, host = host_, port = port_] { lookup->run(host, port); })) {
      resolved.error = "cannot resolve name: out of threads or descriptors";
      co_return resolved;
    }
  }
  const std::shared_ptr<Lookup> lookup = lookup_;
  const Aside::Wait waited = co_await aside_.wait(deadline);
  switch (waited) {
    case Aside::Wait::kDone:
      resolved.endpoints = lookup->endpoints;
      if (resolved.endpoints.empty()) resolved.error = "cannot resolve name";
      break;
    case Aside::Wait::kLate:
      resolved.error = timeout_words(timeout);
      break;
    case Aside::Wait::kGivenUp:
      resolved.error = kCancelled;
      break;
  }
  co_return resolved;
}

}  // namespace squall::checks
