/// \file
/// Host names as this node resolves them, asked off the loop: an answer may take its servers'
/// patience.
#pragma once

#include <google/protobuf/message.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "injector/daemon/loop.h"
#include "squall/v1/hold.pb.h"

namespace squall::daemon {

using Hosts = google::protobuf::RepeatedPtrField<v1::HostAddresses>;

/// Every host name in a message, by its declarations, each once.
std::vector<std::string> host_names(const google::protobuf::Message& message);

/// Used by the loop's thread.
class Resolver {
 public:
  using Answer = std::function<void(StatusOr<Hosts>)>;

  explicit Resolver(Loop& loop);
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  /// Waits for no answer: what is still being asked is never told.
  ~Resolver();

  /// Calls back on the loop, with each name's addresses in a fixed order; before it returns where
  /// there are no names. Errors: kNotFound for a name that stands for no address, kUnavailable
  /// where nobody could say.
  void resolve(const std::vector<std::string>& names, Answer answer);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace squall::daemon
