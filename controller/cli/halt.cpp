// The commands that stop whole nodes, whoever's runs are on them: halt and resume.
#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "controller/cli/commands.h"
#include "controller/cli/resolved.h"
#include "controller/fleet/grpc_node.h"
#include "controller/fleet/local_node.h"
#include "controller/report/reports.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/state.h"
#include "experiments/plan/load.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

/// user@host, as it will stand in logs.
std::string who() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const passwd* user = getpwuid(getuid());
  return fmt::format("{}@{}", user == nullptr ? std::to_string(getuid()) : user->pw_name,
                     host.data());
}

std::string now() {
  return fmt::format(
      "{:%Y-%m-%dT%H:%M:%SZ}",
      fmt::gmtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
}

/// What is meant.
struct Where {
  std::set<std::string> addresses;
  bool here = false;  ///< This machine: its squalld, and those that runs brought along.
};

/// Plans by their nodes, all else by its address; nothing: here. Says what is wrong.
std::optional<Where> where(const Invocation& said) {
  Where where;
  where.here = said.files.empty();
  for (const std::string& named : said.files) {
    std::error_code failed;
    if (!fs::is_regular_file(named, failed)) {
      if (named.starts_with("unix:") || named.find(':') != std::string::npos) {
        where.addresses.insert(named);
        continue;
      }
      complain(escape_controls(named) + ": there is no such file, and it is no host:port either");
      return std::nullopt;
    }
    std::map<std::string, v1::Node> nodes;
    if (is_resolved(named)) {
      const auto resolved = read_resolved(named);
      if (!resolved.ok()) {
        complain(escape_controls(message_of(resolved.status())));
        return std::nullopt;
      }
      nodes = {resolved->plan().nodes().begin(), resolved->plan().nodes().end()};
    } else {
      // Whatever else is wrong with a plan, its nodes can be stopped.
      nodes = plan::load_file(named, said.given).nodes;
    }
    if (nodes.empty()) {
      complain(escape_controls(named) +
               ": no nodes can be read from it; name their addresses, or "
               "nothing for this machine");
      return std::nullopt;
    }
    for (const auto& [name, node] : nodes) {
      if (node.address().empty()) where.here = true;
      if (!node.address().empty()) where.addresses.insert(node.address());
    }
  }
  return where;
}

/// Those that listen here now.
void add_here(Where& where) {
  if (!where.here) return;
  const fs::path state = default_state_dir();
  std::vector<fs::path> sockets = {state / "squalld.sock"};
  std::error_code none;
  for (const auto& folder : fs::directory_iterator(state / fleet::kLocalFolder, none)) {
    sockets.push_back(folder.path() / "squalld.sock");
  }
  for (const fs::path& socket : sockets) {
    if (fleet::listens(socket)) where.addresses.insert("unix:" + socket.native());
  }
}

struct Outcome {
  std::string address;
  Status status;
  std::string words;
  std::vector<std::string> residue;
};

/// All at once. `act` says what came of one.
template <typename Act>
std::vector<Outcome> on_all(const Where& where, const Invocation& said, Act act) {
  std::vector<Outcome> outcomes;
  std::optional<fleet::Credentials> credentials;
  Status unfit;
  if (!said.tls_dir.empty()) {
    auto read = fleet::read_credentials(said.tls_dir);
    if (read.ok()) credentials = *std::move(read);
    if (!read.ok()) unfit = in_context("--tls-dir", read.status());
  }
  for (const std::string& address : where.addresses) outcomes.push_back({address, ok(), "", {}});
  asio::io_context loop{1};
  std::vector<std::unique_ptr<fleet::Latch>> latches;
  for (Outcome& outcome : outcomes) {
    const bool local = outcome.address.starts_with("unix:");
    if (!local && !credentials) {
      outcome.status = unfit.ok() ? error(StatusCode::kInvalidArgument,
                                          "over TCP it takes mTLS: name the folder with ca.pem, "
                                          "cert.pem and key.pem by --tls-dir")
                                  : unfit;
      continue;
    }
    latches.push_back(fleet::make_latch(outcome.address, local ? std::nullopt : credentials));
    asio::co_spawn(loop, act(*latches.back(), outcome),
                   [&outcome](const std::exception_ptr& thrown) {
                     if (thrown)
                       outcome.status = error(StatusCode::kInternal, "a fault of squall's own");
                   });
  }
  loop.run();
  return outcomes;
}

int tell(const std::vector<Outcome>& outcomes) {
  bool reached = true;
  bool clean = true;
  for (const Outcome& outcome : outcomes) {
    if (!outcome.status.ok()) {
      complain(escape_controls(fmt::format("{}: {}", outcome.address, message_of(outcome.status))));
      reached = false;
      continue;
    }
    std::printf("%s: %s\n", escape_controls(outcome.address).c_str(),
                escape_controls(outcome.words).c_str());
    for (const std::string& line : outcome.residue) {
      complain(escape_controls(fmt::format("{}: left behind: {}", outcome.address, line)));
      clean = false;
    }
  }
  return !clean ? kResidue : reached ? kSuccess : kUnreachable;
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

}  // namespace

int halt(const Invocation& said) {
  auto meant = where(said);
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
  const int code = tell(on_all(*meant, said, [&](fleet::Latch& latch, Outcome& outcome) {
    return halt_one(latch, outcome, request);
  }));
  if (!meant->here) return code;
  if (!latched) return code == kSuccess ? kInternal : code;
  std::printf("this machine (%s): halted; `squall resume --reason WHY` lets runs begin again\n",
              default_state_dir().c_str());
  return code;
}

int resume(const Invocation& said) {
  auto meant = where(said);
  if (!meant) return kRefused;
  add_here(*meant);
  v1::ResumeRequest request;
  request.set_by(who());
  request.set_reason(said.reason);
  const int code = tell(on_all(*meant, said, [&](fleet::Latch& latch, Outcome& outcome) {
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

}  // namespace squall::cli
