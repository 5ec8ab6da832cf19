/// \file
/// What happened in a run, in the order of time and in words, for reports that people read.
#pragma once

#include <string>
#include <vector>

#include "controller/report/story.h"

namespace squall::report {

struct Happening {
  enum class Kind { kTurn, kFault, kGood, kBad, kPerson };
  Moment moment;
  Kind kind = Kind::kTurn;
  std::string words;  ///< As plans and nodes have them: not safe to show as they are.
};

/// Faults of one step that act in one moment on several nodes are told as one. Where more happened
/// than `most`, what is in the middle is told as how much was left out.
std::vector<Happening> chronicle(const Story& story, std::size_t most = 300);

/// network delay 300ms egress on back-1
std::string fault_title(const FaultStory& fault);

/// a, b and c; of many, how many more there are.
std::string list_of_names(const std::vector<std::string>& names, std::size_t most = 6);

/// The command that walks the same plan with the same choices, for a shell; and the one that needs
/// its record, on a second line.
std::string command_again(const Story& story);

/// Why applying it failed, or what it lacked. Empty: it was applied, and did something or was cut
/// short.
std::string apply_problem(const FaultStory& fault);

/// Empty: it was read back and nothing of it is left.
std::string revert_problem(const FaultStory& fault);

}  // namespace squall::report
