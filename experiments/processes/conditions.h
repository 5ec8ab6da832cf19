/// \file
/// A plan's words for processes, made ready to be asked about each process of the node. Faults and
/// checks match by these alone, so that a check counts what a fault would touch.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "experiments/base/status.h"
#include "experiments/processes/proc.h"
#include "squall/v1/selector.pb.h"

namespace re2 {
class RE2;
}

namespace squall {

/// Only root sees in which network namespace another user's process is. Who is not root takes none
/// of those, or those that are in no container by the name of their control group.
enum class Unseen { kNone, kOutsideContainers };

/// What costs least is asked first. For one thread, and for one walk over the processes: what it
/// read of parents and of sockets is kept.
class ProcessConditions {
 public:
  /// Errors: kInvalidArgument for a selector without a condition and for a bad pattern; kNotFound
  /// for a user that is not known; kInternal when /proc cannot be read.
  static StatusOr<ProcessConditions> make(const v1::Process& wanted, Unseen unseen = Unseen::kNone);

  ProcessConditions(ProcessConditions&&) noexcept;
  ProcessConditions& operator=(ProcessConditions&&) noexcept;
  ~ProcessConditions();

  /// name nginx, port 80
  const std::string& in_words() const { return in_words_; }

  /// Its stat, if it lives and all that is given holds. Only processes in this process's network
  /// namespace fit, unless a container is asked for.
  std::optional<Stat> fits(const ProcFolder& process);

  /// Whether somebody listens on the port that is asked for, be it one that does not fit: of a
  /// process that is not ours, only root sees what it has open.
  bool found_listeners() const;

  /// Errors: kInvalidArgument where the container's id was found to be that of several.
  Status one_container() const;

 private:
  ProcessConditions(const v1::Process& wanted, Unseen unseen);

  bool is_child(const Stat& stat);
  bool is_users(const ProcFolder& process) const;
  bool is_in_groups(const ProcFolder& process);
  bool is_here(const ProcFolder& process) const;
  bool has_arguments(const ProcFolder& process) const;
  bool listens(const ProcFolder& process);

  v1::Process wanted_;
  Unseen unseen_;
  std::string in_words_;
  ino_t own_network_ = 0;
  std::optional<uid_t> uid_;
  std::unique_ptr<re2::RE2> cmdline_;
  std::map<std::uint32_t, std::string> parents_;    // their names, by pid
  std::map<ino_t, std::set<std::string>> sockets_;  // those that listen, by network namespace
  std::set<std::string> containers_;                // those that bear the wanted id
};

}  // namespace squall
