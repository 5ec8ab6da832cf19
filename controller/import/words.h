/// \file
/// Command lines as a shell would split them, and their flags; nothing is expanded or run.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/import/source.h"

namespace squall::importing {

/// One command of a line.
struct Command {
  std::vector<std::string> words;
  bool in_background = false;  ///< It ended in `&`.
};

/// Splits at blanks, and into commands at ; && & and line ends; quotes and backslashes as in sh(1),
/// `$` and `` ` `` stay text. A `#` that begins a word begins a comment. Nothing: a quote is not
/// closed, or the line pipes or redirects.
std::optional<std::vector<Command>> split_line(std::string_view line);

/// The name behind the last slash, and before a tag: /usr/bin/tc, gaiaadm/pumba:0.9.
std::string program_name(std::string_view word);

/// How a program's flags are written.
struct Flags {
  struct Alias {
    std::string_view written;  ///< -t
    std::string_view meant;    ///< --time
  };
  std::span<const Alias> aliases;
  std::span<const std::string_view> switches;  ///< Those that take no value.
  bool stop_at_word = false;                   ///< The first word that is no flag ends them.
};

/// Reads flags from a word on: each becomes a field of `into` under its long name, a switch with
/// the value true. Words that are no flags are returned, or the place of the first one is where
/// `at` stops. A flag that is not known takes the next word for its value.
std::vector<std::string> read_flags(std::span<const std::string> words, std::size_t& at,
                                    const Flags& flags, Source& into);

}  // namespace squall::importing
