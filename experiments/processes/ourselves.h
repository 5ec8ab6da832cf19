/// \file
/// Which processes are Squall's own: no fault touches them, and no check counts them where others
/// are meant.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

#include "experiments/processes/proc.h"

namespace squall {

/// What must be known of this process for that, read once.
class Ourselves {
 public:
  Ourselves();

  /// This process, or one that it descends from.
  bool is_in_line(std::uint32_t pid) const { return line_.contains(pid); }

  /// One that runs a program of Squall's, known by its name, by its program's and by the file:
  /// another name hides nobody.
  bool is_program(const ProcFolder& process, const Stat& stat) const;

 private:
  bool is_file(const ProcFolder::Program& program) const;
  bool is_started_here(std::uint32_t pid) const;

  std::set<std::uint32_t> line_;
  std::vector<ProcFolder::Program> programs_;
};

}  // namespace squall
