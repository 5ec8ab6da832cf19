/// \file
/// The daemon's folder on disk: the lock that makes it the only one, its id, and the ledger's
/// place.
#pragma once

#include <optional>
#include <string>

#include "experiments/base/fd.h"
#include "experiments/base/state.h"
#include "experiments/base/status.h"

namespace squall::daemon {

class StateDir {
 public:
  /// Creates the folder (mode 0700) where needed, locks it, and reads or makes its id. The lock is
  /// held until this object or the process is gone; that of a daemon that is dead, by a child that
  /// it left, is waited for. Errors: kFailedPrecondition naming the pid of
  /// the daemon that has it; kPermissionDenied and the like.
  static StatusOr<StateDir> open(const std::string& path);

  /// Looks without making, locking or changing anything. Errors: kNotFound where no daemon has ever
  /// been; kPermissionDenied and the like.
  struct Seen {
    std::string id;
    std::string daemon;  ///< The pid of the daemon that has the lock; empty: none.
    std::string ledger;  ///< Its path.
  };
  static StatusOr<Seen> look(const std::string& path);

  const std::string& path() const { return path_; }
  const std::string& id() const {
    return id_;
  }  ///< 8 characters, the same for as long as the folder exists.
  std::string ledger() const { return path_ + "/ledger"; }
  std::string socket() const { return path_ + "/squalld.sock"; }

  /// By whom and why everything was stopped, if it still is.
  std::optional<Halt> halted() const;

  /// Keeps it for later starts; nothing: forgets it. Errors: of writing.
  Status keep_halted(const std::optional<Halt>& halted) const;

 private:
  StateDir() = default;

  std::string path_;
  std::string id_;
  Fd lock_;
};

/// Of the running kernel. Empty if /proc is not there.
std::string boot_id();

}  // namespace squall::daemon
