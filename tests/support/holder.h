/// \file
/// A holder under test, with the test in squalld's place: what may go wrong with a holder is shown
/// without a daemon.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/ids.h"
#include "squall/v1/hold.pb.h"
#include "tests/support/process.h"

namespace squall::support {

class Namespace;

class Holder {
 public:
  /// Starts squall-hold in the namespace; it waits for a fault.
  explicit Holder(const Namespace& where);
  Holder(const Holder&) = delete;
  Holder& operator=(const Holder&) = delete;
  ~Holder();

  /// start → undos → go → applied. Throws std::runtime_error with the reason when the fault is
  /// refused.
  v1::Evidence inject(const v1::Fault& fault, Duration lease);

  /// Moves the lease's end to now + lease, and returns the evidence that comes back; nothing if
  /// none does.
  std::optional<v1::Evidence> pulse(Duration lease);

  void say(const v1::ToHolder& message);

  /// The next message, or nothing within the bound or when the holder is gone.
  std::optional<v1::FromHolder> hear(Duration bound);

  /// release → effect_ended → released. Returns the residue; throws when it does not come within
  /// `bound`.
  std::vector<std::string> release(Duration bound = std::chrono::seconds(10));

  /// As squalld's death looks to the holder.
  void hang_up();

  /// What the daemon would have in its ledger.
  const std::vector<v1::Undo>& undos() const { return undos_; }

  Process& process() { return *process_; }

 private:
  int socket_ = -1;
  std::optional<Process> process_;
  std::vector<v1::Undo> undos_;
};

/// The state directory's id that all of these holders are given. Each test program has its own: a
/// sweep reaches into every namespace.
inline const std::string kStateId = new_state_id();

/// As the daemon sweeps after a holder died: runs the undos, then whatever still bears the tag.
v1::Swept sweep(const Namespace& where, const std::vector<v1::Undo>& undos);

/// The namespace's fingerprint. Throws std::runtime_error when it cannot be read.
std::vector<std::string> fingerprint_of(const Namespace& where);

/// The lines that are in one of the two only, marked - and +: what a failed comparison shows.
std::string difference(const std::vector<std::string>& before,
                       const std::vector<std::string>& after);

/// Whether this kernel has netem: then a fault's engine must be NETEM, else RELAY.
v1::Engine expected_engine();

}  // namespace squall::support
