/// \file
/// The ledger as the loop uses it: every write happens on a thread of its own, for a slow disk must
/// not hold up an abort.
#pragma once

#include <functional>
#include <string>

#include "experiments/base/status.h"
#include "injector/daemon/ledger.h"
#include "injector/daemon/loop.h"

namespace squall::daemon {

class Journal {
 public:
  Journal(Loop& loop, Ledger ledger);

  /// Calls back on the loop when the record is written, and on the disk if it must be, or is known
  /// not to be.
  void opened(v1::LedgerOpened record, std::function<void(Status)> written);

  /// Not synced: closing twice does no harm, and a lost record costs one idle sweep.
  void closed(const std::string& fault);
  void lease(const std::string& run, std::uint64_t epoch);

 private:
  void append(v1::LedgerRecord record);

  Loop& loop_;
  Ledger ledger_;
  Worker disk_;  // last: its thread uses the ledger
};

}  // namespace squall::daemon
