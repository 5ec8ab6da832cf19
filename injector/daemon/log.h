/// \file
/// One line an event on stderr, key=value. The one door to spdlog.
///
/// error: a person must act; warn: degraded; info: a change of state; debug: the rest.
#pragma once

#include <string>
#include <string_view>

#include "experiments/base/status.h"

namespace squall::daemon {

enum class LogLevel { kDebug, kInfo, kWarn, kError };

/// Errors: kInvalidArgument for a word that is no level.
Status set_log_level(std::string_view word);

/// May be called from any thread.
void log(LogLevel level, std::string_view line);

/// "text" with quotes and control characters escaped, as the value of a key.
std::string quoted(std::string_view text);

}  // namespace squall::daemon
