#include "experiments/base/state.h"

#include <fmt/format.h>

#include <cstdlib>
#include <fstream>

#include "experiments/base/diagnostic.h"

namespace squall {

std::string default_state_dir() {
  if (const char* own = std::getenv("SQUALL_STATE_DIR"); own != nullptr && *own != '\0') return own;
  if (const char* home = std::getenv("XDG_STATE_HOME"); home != nullptr && *home == '/') {
    return std::string(home) + "/squall";
  }
  return "/var/lib/squall";
}

std::string in_words(const Halt& halt) {
  return fmt::format("halted by {} at {}: {}; `squall resume` lets runs begin again", halt.by,
                     halt.at, halt.reason);
}

std::string format_halt(const Halt& halt) {
  return fmt::format("{}\n{}\n{}\n", escape_controls(halt.by), escape_controls(halt.at),
                     escape_controls(halt.reason));
}

std::optional<Halt> read_halt(const std::string& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  Halt halt;
  for (std::string* line : {&halt.by, &halt.at, &halt.reason}) std::getline(file, *line);
  return halt;
}

}  // namespace squall
