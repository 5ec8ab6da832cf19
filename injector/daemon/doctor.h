/// \file
/// What of Squall is on this node, and whether somebody answers for it. Needs no daemon, and no
/// controller.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "injector/daemon/daemon.h"
#include "squall/v1/undo.pb.h"

namespace squall::daemon {

/// One object in the kernel.
struct Object {
  v1::Undo undo;      ///< Which removes it; none for what goes with its holder.
  std::string words;  ///< filter squall:abcdefgh:… on interface 2
  std::string owner;  ///< Who answers for it: "fault … of run …, held by pid 12"; empty: nobody.
  bool ours = false;  ///< Of this state directory; else its own doctor knows more.
};

struct Diagnosis {
  std::string daemon;  ///< The pid of the squalld that serves the state directory; empty: none.
  std::vector<Object> objects;
  /// Faults that the ledger has open and nobody holds, in words.
  std::vector<std::string> orphans;

  bool is_accounted_for() const;
};

/// Reads only. Errors: kNotFound where the state directory is none; kInternal where the node could
/// not be read, which is never taken for clean.
StatusOr<Diagnosis> diagnose(const Options& options);

/// Removes what is of this state directory and nobody answers for, and nothing else; where no
/// daemon serves it, that is what the next one would do at its start. Returns what was done and, in
/// `left`, what is still there. Errors: as diagnose().
StatusOr<std::vector<std::string>> sweep(const Options& options, std::vector<std::string>& left);

}  // namespace squall::daemon
