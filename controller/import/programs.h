/// \file
/// What the command lines of well-known programs do, in steps of a plan: tc, stress-ng, kill,
/// pkill, killall, systemctl. Several tools run them, or take their arguments.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controller/import/draft.h"

namespace squall::importing {

/// What one command line comes to.
struct Meant {
  std::vector<Draft> steps;  ///< Those that last have no `for` where the line does not say it.
  bool undoes = false;       ///< It takes back what another one did: nothing to be done here.
};

/// Nothing: not a program that is known here, or not in a way that a plan can say. `where` is the
/// path that notes about its arguments begin with.
std::optional<Meant> meaning_of(std::span<const std::string> words, const std::string& where);

/// The same for stress-ng's arguments alone.
Meant meaning_of_stress(std::span<const std::string> arguments, const std::string& where);

/// A program of the source's own as a script fault, whose undo is for a person to write.
Draft script_of(std::span<const std::string> words);

/// Ends a step of stress-ng's when its tool says so, and where that does not, by its own timeout.
void put_end_of_stress(Draft& step, const std::optional<std::string>& duration);

/// Whether the step lasts, and must say for how long.
bool lasts(const Draft& step);

}  // namespace squall::importing
