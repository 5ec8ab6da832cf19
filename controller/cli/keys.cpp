#include "controller/cli/keys.h"

#include <unistd.h>

#include <utility>

namespace squall::cli {

std::optional<Keys> Keys::take() {
  // A job in the background that touches the terminal is stopped by it.
  if (isatty(STDIN_FILENO) != 1 || tcgetpgrp(STDIN_FILENO) != getpgrp()) return std::nullopt;
  termios before{};
  if (tcgetattr(STDIN_FILENO, &before) != 0) return std::nullopt;
  termios raw = before;
  raw.c_lflag &= static_cast<tcflag_t>(~(ICANON | ECHO));
  if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0) return std::nullopt;
  return Keys(before);
}

Keys::Keys(Keys&& other) noexcept : before_(std::exchange(other.before_, std::nullopt)) {}

Keys::~Keys() { restore(); }

void Keys::restore() {
  if (before_ && tcgetpgrp(STDIN_FILENO) == getpgrp()) tcsetattr(STDIN_FILENO, TCSANOW, &*before_);
  before_.reset();
}

}  // namespace squall::cli
