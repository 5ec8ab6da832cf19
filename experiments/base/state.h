/// \file
/// Where Squall keeps its state: one rule, so that squall finds the squalld that runs here.
#pragma once

#include <string>

namespace squall {

/// $SQUALL_STATE_DIR, else $XDG_STATE_HOME/squall, else /var/lib/squall. Empty values count as
/// unset, and so does a relative $XDG_STATE_HOME. Source: XDG Base Directory Specification.
std::string default_state_dir();

}  // namespace squall
