/// \file
/// What the terminal on a descriptor can show: whether it is one, its colours, its characters, its
/// size. Every text for people is made for a Style, so that each can be tested without a terminal.
#pragma once

namespace squall::report {

struct Style {
  bool live = false;    ///< The cursor may be moved: a terminal, not TERM=dumb, not CI=true.
  bool colour = false;  ///< NO_COLOR, CLICOLOR_FORCE and TERM=dumb are heeded. Never the only sign
                        ///< of anything.
  bool utf8 = false;    ///< The locale's characters; else ASCII.
  int width = 80;       ///< Columns.
  int height = 24;      ///< Lines.

  friend bool operator==(const Style&, const Style&) = default;
};

/// Of a descriptor, by isatty(3) and the environment (NO_COLOR, CLICOLOR_FORCE, TERM, CI, COLUMNS,
/// LC_ALL, LC_CTYPE, LANG).
Style style_of(int descriptor);

}  // namespace squall::report
