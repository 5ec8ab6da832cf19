/// \file
/// Certificates for tests: an authority of the test's own, and what it signs.
#pragma once

#include <memory>
#include <string>

namespace squall::support {

struct Pair {
  std::string certificate;  ///< PEM, as is the key.
  std::string key;
};

class Authority {
 public:
  explicit Authority(const std::string& name = "authority of a test");
  ~Authority();
  Authority(const Authority&) = delete;
  Authority& operator=(const Authority&) = delete;

  std::string pem() const;

  /// For a server at, or a client from, an IPv4 address.
  Pair issue(const std::string& name, const std::string& address) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squall::support
