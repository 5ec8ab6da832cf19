/// \file
/// Which processes must live, whatever a plan says: those on which a node, and the promise that
/// every fault ends, stand.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/processes/ourselves.h"
#include "experiments/processes/proc.h"

namespace squall::hold {

/// The rules, with what they need to know of this process read once.
class Protection {
 public:
  /// Why it must live: "sshd"; empty if it need not. A process is known by its name, by its
  /// program's and, where the program is one of Squall's, by the file: another name hides nobody.
  std::string why(const ProcFolder& process, const Stat& stat) const;

  /// Why nothing may be done to a whole group that holds the process, as what the group holds:
  /// "what must live: 12 is sshd"; empty if it may.
  std::string why_not_with(std::uint32_t pid) const;

 private:
  Ourselves ourselves_;
};

}  // namespace squall::hold
