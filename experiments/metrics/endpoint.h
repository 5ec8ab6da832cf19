/// \file
/// Where a Prometheus server asks for the numbers of a program: GET /metrics and nothing else, on a
/// thread of its own, so that whoever asks, and however badly, is not felt by the program. Asleep
/// while nobody does.
#pragma once

#include <memory>
#include <string>

#include "experiments/base/status.h"

namespace prometheus {
class Registry;
}

namespace squall::metrics {

class Endpoint {
 public:
  /// Listens from now on. `address`: unix:/path, or host:port, where a port of 0 is any that is
  /// free; the host is an address or localhost. In plain text on a unix socket and on loopback; any
  /// other address takes `tls_dir` (ca.pem, cert.pem, key.pem) and speaks to those alone who show a
  /// certificate of that authority. Errors: kInvalidArgument for an address that is none or lacks
  /// the TLS that it needs; kFailedPrecondition for one that is taken; those of reading the files.
  static StatusOr<std::unique_ptr<Endpoint>> start(
      const std::string& address, const std::string& tls_dir,
      std::shared_ptr<const prometheus::Registry> registry);
  Endpoint(const Endpoint&) = delete;
  Endpoint& operator=(const Endpoint&) = delete;

  /// Ends every connection and waits for the thread.
  ~Endpoint();

  /// As it was given, but with the port that it got.
  const std::string& address() const;

 private:
  struct State;
  explicit Endpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

/// Whether it could be served there; contacts nobody. Errors: kInvalidArgument, as start().
Status check_address(const std::string& address, const std::string& tls_dir);

}  // namespace squall::metrics
