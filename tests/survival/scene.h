/// \file
/// A network fault in mid-life and a client that watches it from outside: where every case of
/// survival begins, and how it is judged.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/faults.h"
#include "tests/support/measure.h"
#include "tests/support/namespace.h"

namespace squall::survival {

inline constexpr std::uint16_t kPort = 7000;
/// Shorter than in life, so that many cases take little time. Programs start twenty times slower in
/// the lab.
extern const Duration kLease;
inline constexpr Duration kDelay = std::chrono::milliseconds(300);

/// Below this, nobody delays a packet on purpose.
inline constexpr Duration kUntouched = std::chrono::milliseconds(100);

/// What may come on top of a promised time on a machine that is busy with something else.
extern const Duration kSlack;

/// For what has no promised time: only so that a broken case ends.
inline constexpr Duration kBound = std::chrono::seconds(15);

/// A node with an echo, a client that knows the way, and the node's fingerprint before anything
/// happened.
struct Hosts : support::TwoHosts {
  support::Echo echo{node, kPort};
  support::TemporaryFolder state;
  std::vector<std::string> before;

  Hosts();

  /// Waits until the node reads as before, byte for byte, and checks that it does. Returns when.
  MonotonicTime check_same(Duration bound) const;
};

/// The client's eyes: one stream of probes over IPv4 and one over IPv6, from before the fault until
/// after it.
class Eyes {
 public:
  explicit Eyes(const Hosts& hosts);

  /// Waits until both see the fault, and checks that they do.
  void see_fault() const;

  /// Waits until both see no fault any more, watches on for a while, and checks that it stays so.
  /// Returns how long after `since` the first packet left that was not touched and behind which
  /// none was.
  Duration see_no_fault(MonotonicTime since);

  /// Checks that every probe was answered, in the end: none was lost that was merely delayed.
  /// Losses are told with times since `origin`.
  void check_none_lost(MonotonicTime origin);

 private:
  std::vector<std::vector<support::Probe>> probes();

  support::Stream four_;
  support::Stream six_;
};

/// Who holds the first fault that it says it has applied: other holders read the node, or are kept
/// for the next fault.
support::Stranger holder_of(support::Daemon& daemon);

/// Daemon, lease and fault, seen by the client.
struct MidFault {
  Hosts hosts;
  Eyes eyes{hosts};
  std::optional<support::Daemon> daemon;
  std::optional<support::Controller> controller;
  v1::Fault fault;
  std::optional<support::Stranger> holder;  ///< The fault's; the daemon keeps another one, spare.

  explicit MidFault(v1::Fault fault = support::delay_fault(kPort, kDelay));
};

/// Notes a case's times for the table that the program prints at its end, and says them at once.
/// `same`: when the node read as before.
void note(const std::string& what, Duration effect_gone, std::optional<Duration> same);

}  // namespace squall::survival
