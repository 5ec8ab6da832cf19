/// \file
/// Where Squall keeps its state: one rule, so that squall finds the squalld that runs here.
#pragma once

#include <string>

namespace squall {

/// $SQUALL_STATE_DIR, else $XDG_STATE_HOME/squall, else /var/lib/squall. Empty values count as
/// unset, and so does a relative $XDG_STATE_HOME. Source: XDG Base Directory Specification.
std::string default_state_dir();

/// The file in a state directory whose being there says that nothing is to begin: squall halt made
/// it, squall resume removes it.
inline constexpr const char* kHaltedFile = "halted";

}  // namespace squall
