/// \file
/// Where Squall keeps its state: one rule, so that squall finds the squalld that runs here.
#pragma once

#include <optional>
#include <string>

namespace squall {

/// $SQUALL_STATE_DIR, else $XDG_STATE_HOME/squall, else /var/lib/squall. Empty values count as
/// unset, and so does a relative $XDG_STATE_HOME. Source: XDG Base Directory Specification.
std::string default_state_dir();

/// Who stopped everything, when (RFC 3339, UTC), and why.
struct Halt {
  std::string by;
  std::string at;
  std::string reason;
};

/// Why nothing begins: halted by ana@host at …: customers are calling; `squall resume` …
std::string in_words(const Halt& halt);

/// What a latch's file says: a line each.
std::string format_halt(const Halt& halt);

/// None without the file; one that was cut short still says that something was stopped.
std::optional<Halt> read_halt(const std::string& path);

/// The file in a state directory whose being there says that nothing is to begin: squall halt made
/// it, squall resume removes it.
inline constexpr const char* kHaltedFile = "halted";

}  // namespace squall
