#include "experiments/base/state.h"

#include <cstdlib>

namespace squall {

std::string default_state_dir() {
  if (const char* own = std::getenv("SQUALL_STATE_DIR"); own != nullptr && *own != '\0') return own;
  if (const char* home = std::getenv("XDG_STATE_HOME"); home != nullptr && *home == '/') {
    return std::string(home) + "/squall";
  }
  return "/var/lib/squall";
}

}  // namespace squall
