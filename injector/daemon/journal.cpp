#include "injector/daemon/journal.h"

#include <utility>

#include "injector/daemon/log.h"

namespace squall::daemon {
namespace {

/// A file this small is not worth writing anew.
constexpr std::size_t kWorthCompacting = 64 * 1024;

}  // namespace

Journal::Journal(Loop& loop, Ledger ledger) : loop_(loop), ledger_(std::move(ledger)) {}

void Journal::opened(v1::LedgerOpened record, std::function<void(Status)> written) {
  v1::LedgerRecord whole;
  *whole.mutable_opened() = std::move(record);
  disk_.post([this, whole = std::move(whole), written = std::move(written)]() mutable {
    Status status = ledger_.append(whole);
    loop_.hand_over(
        [written = std::move(written), status = std::move(status)] { written(status); });
  });
}

void Journal::closed(const std::string& fault) {
  v1::LedgerRecord record;
  record.mutable_closed()->set_fault(fault);
  append(std::move(record));
}

void Journal::lease(const std::string& run, std::uint64_t epoch) {
  v1::LedgerRecord record;
  record.mutable_lease()->set_run(run);
  record.mutable_lease()->set_epoch(epoch);
  append(std::move(record));
}

void Journal::append(v1::LedgerRecord record) {
  disk_.post([this, record = std::move(record)] {
    Status status = ledger_.append(record);
    if (status.ok() && ledger_.content().open.empty() && ledger_.size() > kWorthCompacting) {
      status = ledger_.compact();
    }
    if (!status.ok())
      log(LogLevel::kWarn, "event=ledger_write_failed why=" + quoted(message_of(status)));
  });
}

}  // namespace squall::daemon
