// The commands that end what others began: halt and resume, of whole nodes, and revert, of faults.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/cli/outside.h"
#include "controller/cli/run_socket.h"
#include "controller/fleet/grpc_node.h"
#include "controller/fleet/local_node.h"
#include "controller/report/reports.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/ids.h"
#include "experiments/base/state.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

std::string now() {
  return fmt::format(
      "{:%Y-%m-%dT%H:%M:%SZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

asio::awaitable<void> halt_one(fleet::Latch& latch, Outcome& outcome, v1::HaltRequest request) {
  const auto reply = co_await latch.halt(std::move(request));
  outcome.status = reply.status();
  if (!reply.ok()) co_return;
  outcome.words = reply->runs().empty()
                      ? "halted; nothing ran there"
                      : fmt::format("halted; {} run{} ended, {} fault{} reverted",
                                    reply->runs_size(), reply->runs_size() == 1 ? "" : "s",
                                    reply->faults(), reply->faults() == 1 ? "" : "s");
  outcome.residue.assign(reply->residue().begin(), reply->residue().end());
}

asio::awaitable<void> resume_one(fleet::Latch& latch, Outcome& outcome, v1::ResumeRequest request) {
  const auto reply = co_await latch.resume(std::move(request));
  outcome.status = reply.status();
  if (!reply.ok()) co_return;
  outcome.words = !reply->has_was()
                      ? "was not halted"
                      : fmt::format("goes on; it was halted by {} at {}: {}", reply->was().by(),
                                    reply->was().at(), reply->was().reason());
}

asio::awaitable<void> revert_one(fleet::Latch& latch, Outcome& outcome, v1::RevertRequest request) {
  const bool all = request.fault().empty();
  const auto reply = co_await latch.revert(std::move(request));
  outcome.status = reply.status();
  if (!reply.ok()) co_return;
  outcome.words = !all                   ? "reverted"
                  : reply->faults() == 0 ? "no fault is held there"
                                         : fmt::format("{} fault{} reverted", reply->faults(),
                                                       reply->faults() == 1 ? "" : "s");
  outcome.residue.assign(reply->residue().begin(), reply->residue().end());
}

/// Those that are walked from here, wherever their nodes are.
int halt_runs(const Invocation& said, const v1::HaltRequest& request) {
  int code = kSuccess;
  std::error_code none;
  for (const auto& run : fs::directory_iterator(runs_folder(said), none)) {
    if (!goes_on(run.path())) continue;
    const std::string name = escape_controls(run.path().filename().string());
    const Status halted = halt_run(run.path(), request);
    if (halted.ok()) {
      std::printf("run %s: ended\n", name.c_str());
      continue;
    }
    complain(fmt::format("run {}: {}", name, message_of(halted)));
    code = kUnreachable;
  }
  return code;
}

}  // namespace

int halt(const Invocation& said) {
  auto meant = where(said.files, said.given);
  if (!meant) return kRefused;
  const std::string reason = said.reason.empty() ? "stopped by hand" : said.reason;
  // Before anybody looks who is there, so that no run begins in between.
  bool latched = true;
  if (meant->here) {
    const fs::path latch = fleet::local_latch(default_state_dir());
    std::error_code failed;
    fs::create_directories(latch.parent_path(), failed);
    const Status kept = report::write_report(
        latch, format_halt({.by = who(), .at = now(), .reason = reason}), 0600);
    latched = kept.ok();
    if (!latched) complain("new runs are not kept from beginning: " + message_of(kept));
  }
  add_here(*meant);
  v1::HaltRequest request;
  request.set_by(who());
  request.set_reason(reason);
  int code = tell(on_all(*meant, said.tls_dir, [&](fleet::Latch& latch, Outcome& outcome) {
    return halt_one(latch, outcome, request);
  }));
  if (!meant->here) return code;
  code = std::max(code, halt_runs(said, request));
  if (!latched) return code == kSuccess ? kInternal : code;
  std::printf("this machine (%s): halted; `squall resume --reason WHY` lets runs begin again\n",
              default_state_dir().c_str());
  return code;
}

int resume(const Invocation& said) {
  auto meant = where(said.files, said.given);
  if (!meant) return kRefused;
  add_here(*meant);
  v1::ResumeRequest request;
  request.set_by(who());
  request.set_reason(said.reason);
  const int code = tell(on_all(*meant, said.tls_dir, [&](fleet::Latch& latch, Outcome& outcome) {
    return resume_one(latch, outcome, request);
  }));
  if (!meant->here) return code;
  const fs::path state = default_state_dir();
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(state / fleet::kLocalFolder, none)) {
    // Of daemons that have ended since: nobody else answers for it.
    const fs::path socket = folder.path() / "squalld.sock";
    std::error_code failed;
    if (!fleet::listens(socket)) fs::remove(folder.path() / kHaltedFile, failed);
  }
  std::error_code failed;
  const bool was = fs::remove(fleet::local_latch(state), failed);
  if (failed) {
    complain(fleet::local_latch(state).string() + ": " + failed.message());
    return kInternal;
  }
  std::puts(was ? "this machine: goes on" : "this machine: was not halted");
  return code;
}

int revert(const Invocation& said) {
  std::vector<std::string> named = said.files;
  v1::RevertRequest request;
  request.set_by(who());
  if (!said.all) {
    if (named.empty() || !is_fault_id(named.front())) {
      complain((named.empty() ? "which fault?"
                              : escape_controls(named.front()) +
                                    " is no fault's id, which is 12 of a-z and 2-7;") +
               " `squall nodes` tells what is held; --all ends all of it");
      return kRefused;
    }
    request.set_fault(named.front());
    named.erase(named.begin());
  }
  auto meant = where(named, said.given);
  if (!meant) return kRefused;
  add_here(*meant);
  auto outcomes = on_all(*meant, said.tls_dir, [&](fleet::Latch& latch, Outcome& outcome) {
    return revert_one(latch, outcome, request);
  });
  if (said.all) {
    if (outcomes.empty()) std::puts("this machine: no squalld runs here, and no run goes on");
    return tell(outcomes);
  }
  // One node at most has it; what the others are like is then beside the point.
  const std::size_t asked = outcomes.size();
  const auto has_it = [](const Outcome& outcome) { return outcome.status.ok(); };
  if (std::any_of(outcomes.begin(), outcomes.end(), has_it)) {
    std::erase_if(outcomes, std::not_fn(has_it));
    return tell(outcomes);
  }
  std::erase_if(outcomes, [](const Outcome& outcome) {
    return outcome.status.code() == StatusCode::kNotFound;
  });
  tell(outcomes);
  complain(
      fmt::format("no fault {} is held on {}; it may be over: `squall nodes` tells what is held",
                  request.fault(),
                  asked == 0   ? "this machine, where no squalld runs"
                  : asked == 1 ? "the node that was asked"
                               : fmt::format("the {} nodes that were asked", asked)));
  return outcomes.empty() ? kNo : kUnreachable;
}

}  // namespace squall::cli
