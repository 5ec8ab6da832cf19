#include "controller/report/style.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string>
#include <string_view>

namespace squall::report {
namespace {

/// Unset and empty are the same here. Source: no-color.org.
std::string_view variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

bool is_utf8_locale() {
  std::string_view locale = variable("LC_ALL");
  if (locale.empty()) locale = variable("LC_CTYPE");
  if (locale.empty()) locale = variable("LANG");
  std::string lower(locale);
  std::ranges::transform(lower, lower.begin(), [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
}

}  // namespace

Style style_of(int descriptor) {
  Style style;
  const bool terminal = isatty(descriptor) == 1;
  const bool dumb = variable("TERM") == "dumb" || variable("TERM").empty();
  const std::string_view ci = variable("CI");
  const std::string_view force = variable("CLICOLOR_FORCE");
  style.live = terminal && !dumb && (ci.empty() || ci == "false" || ci == "0");
  style.colour = terminal && !dumb;
  if (!force.empty() && force != "0") style.colour = true;
  if (!variable("NO_COLOR").empty()) style.colour = false;
  style.utf8 = is_utf8_locale();

  winsize size{};
  if (terminal && ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    style.width = size.ws_col;
    style.height = std::max<int>(size.ws_row, 1);
  } else if (const std::string_view columns = variable("COLUMNS"); !columns.empty()) {
    int width = 0;
    std::from_chars(columns.data(), columns.data() + columns.size(), width);
    if (width > 0) style.width = width;
  }
  style.width = std::max(style.width, 20);
  return style;
}

}  // namespace squall::report
