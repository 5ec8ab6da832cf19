/// \file
/// One HTTP request on an Asio loop, by libcurl.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/clock.h"
#include "squall/v1/checks.pb.h"

namespace squall::checks {

struct Request {
  std::string url;  ///< http or https; nothing else is spoken.
  std::string method = "GET";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  Duration timeout{};   ///< For the whole: name, connection, TLS, the answer's last byte.
  bool follow = false;  ///< Redirects, kMostRedirects of them, to http and https alone.
  v1::Tls tls;
  std::string address;      ///< Asked whatever the URL's host resolves to; empty: what it does.
  std::string unix_socket;  ///< Asked instead of the URL's host; empty: that is asked.
};

inline constexpr long kMostRedirects = 10;

struct Answer {
  std::string error;  ///< Empty: answered. Else why not: connection refused, timeout after 200ms,
                      ///< TLS: certificate has expired.
  std::int64_t status = 0;
  std::string body;    ///< Its first 64 KiB.
  bool cut = false;    ///< There was more of it.
  Duration latency{};  ///< Until the whole answer was there, or until it was given up.
};

/// Asks, and keeps the connection for the next time. Heeds no proxy of the environment, sends no
/// cookie. An answer of more than 10 MB is given up. For one thread, that of
/// the loop; destroyed before the loop.
class Fetcher {
 public:
  Fetcher();
  ~Fetcher();

  /// Never throws for what the other side does. Cancellation ends it at once, with the error
  /// "cancelled".
  boost::asio::awaitable<Answer> fetch(Request request);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squall::checks
