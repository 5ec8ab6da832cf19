/// \file
/// Single keys of a person at the terminal, without echo and without Enter.
#pragma once

#include <termios.h>

#include <optional>

namespace squall::cli {

/// Ctrl-C and the like stay signals. The terminal is put back by the destructor; for the ends that
/// run no destructor, restore() may be called at any time.
class Keys {
 public:
  /// None where standard input is not a terminal, or not ours to change: a job in the background.
  static std::optional<Keys> take();

  Keys(Keys&& other) noexcept;
  Keys& operator=(Keys&&) = delete;
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;
  ~Keys();

  void restore();

 private:
  explicit Keys(const termios& before) : before_(before) {}

  std::optional<termios> before_;
};

}  // namespace squall::cli
