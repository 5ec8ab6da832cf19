/// \file
/// The node that squall itself runs on: its running squalld if there is one, else a private one,
/// started for the run and ended after it.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "controller/fleet/node.h"
#include "experiments/base/state.h"

namespace squall::fleet {

struct LocalOptions {
  /// Where the node's squalld has its ledger and, at squalld.sock, its socket.
  std::filesystem::path state = default_state_dir();

  /// Of the private daemon; empty: squalld beside this program, or in ../sbin.
  std::filesystem::path squalld;
};

/// Below a state directory: those of the private daemons, and the latch that keeps any from being
/// started.
inline constexpr const char* kLocalFolder = "local";
std::filesystem::path local_latch(const std::filesystem::path& state);

/// Whether somebody does on a unix socket.
bool listens(const std::filesystem::path& socket);

/// connect() finds the daemon or starts a private one; close() ends it. A private daemon has a
/// state directory of its own below `state`/local, the first that no other run uses, so that what a
/// killed run left in its ledger is swept by the next. It also ends, and reverts, when this process
/// dies. Threads: connect() is awaited on a thread that lives as long as the run (the daemon's
/// parent-death signal follows the thread).
std::unique_ptr<Node> make_local_node(std::string name, LocalOptions options);

}  // namespace squall::fleet
