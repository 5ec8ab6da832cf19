/// \file
/// The node's gRPC service. The one door to gRPC in the daemon: every message is handed to the loop
/// and every answer comes from there.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "experiments/base/status.h"
#include "injector/daemon/asking.h"
#include "injector/daemon/loop.h"
#include "injector/daemon/node.h"

namespace squall::daemon {

struct Listen {
  std::string address;  ///< unix:/path or host:port.
  std::string
      tls_dir;  ///< With ca.pem, cert.pem and key.pem; needed unless address is a unix socket.
};

class Server {
 public:
  /// Listens from now on. `describe` is called on the loop.
  /// Errors: kInvalidArgument for an address without the TLS that it needs; kFailedPrecondition for
  /// one that is taken or for TLS material that cannot be read.
  static StatusOr<std::unique_ptr<Server>> start(Loop& loop, Node& node, Asking& asking,
                                                 const Listen& listen,
                                                 std::function<v1::Description()> describe);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Ends every call. Blocks until the last is gone; call it while the loop does not run.
  ~Server();

  /// The TCP port it listens on; 0 for a unix socket.
  std::uint16_t port() const;

  struct Calls;

 private:
  Server();
  std::unique_ptr<Calls> calls_;
};

/// The port of host:port; 0 for a unix socket. Errors: kInvalidArgument for neither.
StatusOr<std::uint16_t> port_of(const std::string& address);

}  // namespace squall::daemon
