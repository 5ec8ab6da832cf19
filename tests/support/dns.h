/// \file
/// A DNS server and a client of the tests' own, which share no code with what is tested.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::support {

class Namespace;

/// Answers on port 53, UDP and TCP, IPv4 and IPv6, until destroyed: every name has the addresses
/// below, but those below .nowhere, which do not exist; a name below .silent gets no answer.
class NameServer {
 public:
  static constexpr const char* kAddress4 = "192.0.2.1";
  static constexpr const char* kAddress6 = "2001:db8::1";

  explicit NameServer(const Namespace& where);
  NameServer(const NameServer&) = delete;
  NameServer& operator=(const NameServer&) = delete;
  ~NameServer();

  /// The queries that have come so far.
  std::uint64_t asked() const;

 private:
  class Server;
  std::unique_ptr<Server> server_;
};

enum class Transport {
  kConnected,    ///< UDP, by connect() and send(), as glibc asks.
  kUnconnected,  ///< UDP, by sendto(), as musl asks.
  kMapped,       ///< UDP to an IPv4 server from an IPv6 socket.
  kTcp,
  kTcpByBytes,  ///< TCP, every byte in a write of its own.
};

struct Question {
  std::string name;
  bool ipv6 = false;        ///< AAAA, else A.
  bool edns = false;        ///< With an OPT record.
  std::string device = {};  ///< Tied to this interface, unless empty.
};

struct Reply {
  std::vector<std::uint8_t> bytes;
  int code = 0;                        ///< RCODE.
  std::vector<std::string> addresses;  ///< Of the A and AAAA records.
  bool edns = false;
  Duration took{};
  std::string from;  ///< What the socket says the answer, or its connection, came from.
};

/// Asks once; nothing if there was no answer within `bound`, or the socket failed.
std::optional<Reply> ask(const Namespace& where, const std::string& server, Transport transport,
                         const Question& question, Duration bound = std::chrono::seconds(5));

/// The bytes of a query.
std::vector<std::uint8_t> make_query(const Question& question, std::uint16_t id = 0x5153);

}  // namespace squall::support
