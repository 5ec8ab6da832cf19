#include "injector/daemon/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

#include "experiments/base/diagnostic.h"

namespace squall::daemon {
namespace {

spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("squalld",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v", spdlog::pattern_time_type::utc);
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

}  // namespace

Status set_log_level(std::string_view word) {
  for (const auto& [name, level] :
       {std::pair<std::string_view, spdlog::level::level_enum>{"debug", spdlog::level::debug},
        {"info", spdlog::level::info},
        {"warn", spdlog::level::warn},
        {"error", spdlog::level::err}}) {
    if (word != name) continue;
    logger().set_level(level);
    return ok();
  }
  return error(StatusCode::kInvalidArgument, "log level: one of debug, info, warn, error");
}

void log(LogLevel level, std::string_view line) {
  static constexpr spdlog::level::level_enum kLevels[] = {spdlog::level::debug, spdlog::level::info,
                                                          spdlog::level::warn, spdlog::level::err};
  logger().log(kLevels[static_cast<int>(level)], "{}", line);
}

std::string quoted(std::string_view text) {
  std::string value = "\"";
  for (const char letter : escape_controls(text)) {
    if (letter == '"') value += '\\';
    value += letter;
  }
  return value + '"';
}

}  // namespace squall::daemon
