/// \file
/// Every end that a fault under squalld may come to, whoever has crashed: what each reversible kind
/// must survive.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "squall/v1/faults.pb.h"

namespace squall::support {

/// A fault, and how a bystander sees it.
struct WatchedFault {
  v1::Fault fault;                 ///< Its id and duration are set anew for each end.
  std::function<bool()> acts;      ///< Whether it has its effect.
  std::function<bool()> restored;  ///< Whether all is as before the fault, byte for byte.
};

/// Injects the fault once for every end, by a squalld of its own, sees it act, brings the end
/// about, and waits until all is restored: release; its duration; a silent and a vanished
/// controller; its holder killed, and frozen; squalld told to end, killed, and frozen; squalld and
/// holders killed at once, and squalld started again. Returns what did not go so, each a sentence.
std::vector<std::string> endings_that_fail(const WatchedFault& watched);

}  // namespace squall::support
