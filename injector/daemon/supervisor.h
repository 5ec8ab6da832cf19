/// \file
/// What squalld tells the service manager that started it: that it serves, and from then on that it
/// still does. Where there is none, nothing.
#pragma once

#include <string>

#include "experiments/base/clock.h"
#include "injector/daemon/loop.h"

namespace squall::daemon {

/// Takes $NOTIFY_SOCKET and $WATCHDOG_USEC out of the environment, so that no holder speaks in
/// squalld's name. Source: sd_notify(3), sd_watchdog_enabled(3).
class Supervisor {
 public:
  explicit Supervisor(Loop& loop);

  /// It serves. If the service manager wants a sign of life, it is given from the loop, twice in
  /// each of its intervals: a loop that hangs gives none.
  void ready();

  /// It is ending, and gives no more signs of life than it must.
  void stopping();

 private:
  void tell(const std::string& state) const;
  void give_sign();

  std::string socket_;
  Duration interval_{};  // zero: none is wanted
  Timer due_;
};

}  // namespace squall::daemon
