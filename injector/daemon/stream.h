/// \file
/// A client's stream, as those see it who answer on it: the lease's and that of a check that is
/// asked here. Owned by the server.
#pragma once

#include <string>

#include "experiments/base/status.h"

namespace squall::daemon {

template <typename Event>
class Stream {
 public:
  Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  virtual ~Stream() = default;

  /// Whose it is: what the client's certificate names; empty on a unix socket, whose file says who
  /// may use it.
  virtual std::string client() const = 0;

  virtual void tell(Event event) = 0;

  /// The last word, after what was told. None of these functions is called again.
  virtual void finish(const Status& status) = 0;
};

}  // namespace squall::daemon
