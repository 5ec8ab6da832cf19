#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "experiments/base/failpoint.h"
#include "injector/daemon/daemon.h"
#include "injector/daemon/log.h"
#include "injector/daemon/spawn.h"

namespace squall::daemon {
namespace {

constexpr Duration kHoldersGrace = std::chrono::seconds(1);

void close_in(Ledger& ledger, const std::string& fault) {
  v1::LedgerRecord record;
  record.mutable_closed()->set_fault(fault);
  const Status status = ledger.append(record);
  if (!status.ok())
    log(LogLevel::kWarn, "event=ledger_write_failed why=" + quoted(message_of(status)));
}

/// An old holder saw its daemon die and is undoing its fault; two at once would get in each other's
/// way.
void wait_for_holders(const std::vector<v1::LedgerOpened>& open, const std::string& boot_id) {
  const MonotonicTime until = monotonic_now() + kHoldersGrace;
  std::vector<Fd> holders;
  for (const v1::LedgerOpened& opened : open) {
    if (opened.boot_id() != boot_id) continue;
    StatusOr<Fd> pidfd =
        open_process(static_cast<pid_t>(opened.holder_pid()), opened.holder_start_time());
    if (pidfd.ok()) holders.push_back(*std::move(pidfd));
  }
  for (const Fd& holder : holders) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
    pollfd end{.fd = holder.number(), .events = POLLIN, .revents = 0};
    if (::poll(&end, 1, static_cast<int>(std::max<long>(left.count(), 0))) > 0) continue;
    kill_process(holder);
    ::poll(&end, 1, 1000);
  }
}

void keep_what_outlives_a_boot(google::protobuf::RepeatedPtrField<v1::Undo>& undos) {
  const auto gone = std::remove_if(undos.begin(), undos.end(), [](const v1::Undo& undo) {
    return undo.what_case() == v1::Undo::WHAT_NOT_SET || ends_with_boot(undo);
  });
  undos.erase(gone, undos.end());
}

}  // namespace

StatusOr<v1::FromHolder> ask_now(Loop& loop, Holders& holders, const v1::ToHolder& request,
                                 Duration patience) {
  std::optional<StatusOr<v1::FromHolder>> result;
  holders.ask(request, patience, [&](StatusOr<v1::FromHolder> answer) {
    result = std::move(answer);
    loop.stop();
  });
  while (!result) loop.run();
  return *std::move(result);
}

std::vector<std::string> recover(Loop& loop, Holders& holders, Ledger& ledger,
                                 const std::string& state_id, const std::string& boot_id) {
  std::vector<std::string> told;
  const std::vector<v1::LedgerOpened> open = ledger.content().open;
  if (ledger.content().damaged) {
    told.push_back(
        "the ledger's end was damaged; the node was searched for what it may have named");
  }
  wait_for_holders(open, boot_id);
  Duration longest = patience_for({});
  // The newest first: what it was laid over is as it was when the older one was made.
  for (auto entry = open.rbegin(); entry != open.rend(); ++entry) {
    const v1::LedgerOpened& opened = *entry;
    const std::string name =
        fmt::format("{} fault {} of run {}", opened.kind(), opened.fault(), opened.run());
    v1::ToHolder request;
    *request.mutable_sweep()->mutable_undos() = opened.undos();
    if (opened.boot_id() != boot_id) {
      // Kernel objects end with their boot, and an undo must never meet the objects of another.
      keep_what_outlives_a_boot(*request.mutable_sweep()->mutable_undos());
      if (request.sweep().undos().empty()) {
        close_in(ledger, opened.fault());
        told.push_back(name + ": gone with an earlier boot");
        continue;
      }
    }
    const Duration patience = patience_for(opened.undos());
    longest = std::max(longest, patience);
    const StatusOr<v1::FromHolder> answer = ask_now(loop, holders, request, patience);
    failpoint<"recover.undone">();
    if (answer.ok() && answer->swept().residue().empty()) {
      close_in(ledger, opened.fault());
      told.push_back(name + ": swept");
      continue;
    }
    const std::string why = answer.ok() ? answer->swept().residue(0) : message_of(answer.status());
    told.push_back(name + ": left behind: " + why);
  }
  v1::ToHolder search;
  search.mutable_sweep()->set_state_id(state_id);
  const StatusOr<v1::FromHolder> answer = ask_now(loop, holders, search, longest);
  failpoint<"recover.searched">();
  if (!answer.ok()) {
    told.push_back("the node could not be searched: " + message_of(answer.status()));
  } else {
    for (const std::string& line : answer->swept().done()) told.push_back("swept " + line);
    for (const std::string& line : answer->swept().residue())
      told.push_back("left behind: " + line);
  }
  const Status status = open.empty() ? ok() : ledger.compact();
  if (!status.ok()) {
    log(LogLevel::kWarn, "event=ledger_write_failed why=" + quoted(message_of(status)));
  }
  return told;
}

}  // namespace squall::daemon
