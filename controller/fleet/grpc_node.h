/// \file
/// A node reached over gRPC. Its source is the controller's only door to that library.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "controller/fleet/node.h"

namespace squall::fleet {

/// PEM texts of ca.pem, cert.pem and key.pem.
struct Credentials {
  std::string ca;
  std::string certificate;
  std::string key;
};

/// Reads ca.pem, cert.pem and key.pem. Errors: kInvalidArgument, naming the file.
StatusOr<Credentials> read_credentials(const std::string& folder);

/// A node at host:port, over mTLS, or at unix:/path, in plaintext: the socket's file mode is what
/// guards it. To be used on the loop that first awaits connect().
std::unique_ptr<Node> make_grpc_node(std::string name, std::string address,
                                     std::optional<Credentials> credentials);

/// A node from outside any run: what it holds, whoever's, and its end. To be used on the loop that
/// first awaits it.
class Latch {
 public:
  Latch() = default;
  Latch(const Latch&) = delete;
  Latch& operator=(const Latch&) = delete;
  virtual ~Latch() = default;

  /// Errors: as Node::connect().
  virtual boost::asio::awaitable<StatusOr<v1::Description>> describe() = 0;

  /// Ends one fault, or all; answered when they are gone. Errors: kNotFound where it is not held
  /// there.
  virtual boost::asio::awaitable<StatusOr<v1::RevertReply>> revert(v1::RevertRequest request) = 0;

  /// Answered when no fault is left there. Errors: as Node::connect().
  virtual boost::asio::awaitable<StatusOr<v1::HaltReply>> halt(v1::HaltRequest request) = 0;
  virtual boost::asio::awaitable<StatusOr<v1::ResumeReply>> resume(v1::ResumeRequest request) = 0;
};

/// As make_grpc_node().
std::unique_ptr<Latch> make_latch(std::string address, std::optional<Credentials> credentials);

}  // namespace squall::fleet
