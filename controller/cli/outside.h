/// \file
/// Nodes from outside any run: which are meant, and what is asked of all of them at once. Shared by
/// halt, resume, revert and nodes.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/fleet/grpc_node.h"
#include "experiments/base/status.h"

namespace squall::cli {

/// user@host, as it will stand in logs.
std::string who();

/// What is meant.
struct Where {
  std::set<std::string> addresses;
  bool here = false;  ///< This machine: its squalld, and those that runs brought along.
};

/// Plans by their nodes, all else by its address; nothing: here. Says what is wrong.
std::optional<Where> where(const std::vector<std::string>& named, const plan::Given& given);

/// Those that listen here now, where `here` is meant.
void add_here(Where& where);

struct Outcome {
  std::string address;
  Status status;
  std::string words;
  std::vector<std::string> residue;
};

/// What is done to one node, and what came of it.
using Act = std::function<boost::asio::awaitable<void>(fleet::Latch&, Outcome&)>;

/// All at once.
std::vector<Outcome> on_all(const Where& where, const std::string& tls_dir, const Act& act);

/// Says what came of each. Returns the exit code.
int tell(const std::vector<Outcome>& outcomes);

}  // namespace squall::cli
