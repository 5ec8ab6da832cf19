#include "controller/cli/outside.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>

#include "controller/cli/resolved.h"
#include "controller/fleet/local_node.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/state.h"
#include "experiments/plan/load.h"

namespace squall::cli {

namespace asio = boost::asio;
namespace fs = std::filesystem;

std::string who() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const passwd* user = getpwuid(getuid());
  return fmt::format("{}@{}", user == nullptr ? std::to_string(getuid()) : user->pw_name,
                     host.data());
}

std::optional<Where> where(const std::vector<std::string>& said, const plan::Given& given) {
  Where where;
  where.here = said.empty();
  for (const std::string& named : said) {
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
      nodes = plan::load_file(named, given).nodes;
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

std::vector<Outcome> on_all(const Where& where, const std::string& tls_dir, const Act& act) {
  std::vector<Outcome> outcomes;
  std::optional<fleet::Credentials> credentials;
  Status unfit;
  if (!tls_dir.empty()) {
    auto read = fleet::read_credentials(tls_dir);
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

}  // namespace squall::cli
