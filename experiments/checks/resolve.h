/// \file
/// Names to addresses without blocking the loop, and without the one queue behind Asio's own
/// resolver, where a name that nobody answers would hold up every other check.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/checks/aside.h"

namespace squall::checks {

struct HostPort {
  std::string host;  ///< Without brackets.
  std::string port;
};

/// db-1:5432, 10.0.0.1:5432, [::1]:5432. The plan's loader has refused anything else.
HostPort split(const std::string& address);

struct Resolved {
  std::string error;  ///< cannot resolve name, or why it was given up.
  std::vector<boost::asio::ip::tcp::endpoint> endpoints;
};

/// Looks up one name, afresh each time. A lookup that is given up goes on in a thread of its own
/// until the system gives up too; asked again before that, its result is awaited instead of
/// starting another.
class Resolver {
 public:
  Resolver(std::string host, std::string port);

  /// Of db-1:5432, 10.0.0.1:5432, [::1]:5432. The plan's loader has refused anything else.
  explicit Resolver(const std::string& address);
  ~Resolver();

  /// Errors in words, as in Sample. Cancellation ends it at once, with the error "cancelled".
  boost::asio::awaitable<Resolved> resolve(MonotonicTime deadline, Duration timeout);

 private:
  struct Lookup;
  std::string host_;
  std::string port_;
  Aside aside_;
  std::shared_ptr<Lookup> lookup_;  ///< The latest that was begun.
};

}  // namespace squall::checks
