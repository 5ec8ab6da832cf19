/// \file
/// squalld from its options to its end: lock, recover, serve, revert.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "injector/daemon/holders.h"
#include "injector/daemon/ledger.h"
#include "injector/daemon/loop.h"

namespace squall::daemon {

struct Options {
  std::string state_dir;
  std::string listen;  ///< Empty: squalld.sock in the state directory.
  std::string tls_dir;
  std::string hold;  ///< The holder's program.
  std::string environment;
  std::string version;
  std::string metrics;     ///< Where they are served; empty: nowhere.
  std::string guardrails;  ///< Empty: those in /etc/squall, if there are any.
};

/// Serves until SIGTERM, SIGINT or SIGHUP, reverts everything and returns. A second signal returns
/// at once; the holders then revert by themselves. Errors: of the state directory, the address, the
/// holder's program, the guardrails; nothing was served then.
Status serve(const Options& options);

/// Asks a new holder and runs the loop until its answer is there, whatever else stops it meanwhile.
/// Errors: as Holders::ask().
StatusOr<v1::FromHolder> ask_now(Loop& loop, Holders& holders, const v1::ToHolder& request,
                                 Duration patience);

/// Undoes what an earlier daemon of this state directory left: waits for its holders (at most 1 s,
/// then SIGKILL), runs the ledger's undos and removes whatever bears the tag. Runs the loop while
/// it waits. Returns what was done and what is still left, each a sentence; what is clean is closed
/// in the ledger.
std::vector<std::string> recover(Loop& loop, Holders& holders, Ledger& ledger,
                                 const std::string& state_id, const std::string& boot_id);

}  // namespace squall::daemon
