/// \file
/// What the user wrote wrong: a place, what is wrong there, what would be right. All of a file are
/// collected and shown at once; what went wrong while running is a Status instead.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace squall {

/// A stretch of one line of a text. Lines and columns count from 1; columns count bytes. Line 0:
/// the file as a whole.
struct Place {
  std::size_t line = 0;
  std::size_t column = 0;
  std::size_t length = 1;  ///< Bytes under the caret, at least 1, never past the end of the line.

  friend bool operator==(const Place&, const Place&) = default;
};

enum class Severity { kError, kWarning };

struct Diagnostic {
  Severity severity = Severity::kError;
  Place place;
  std::string summary;  ///< What is wrong; lower case, no full stop.
  std::string hint;     ///< What would be right, or the nearest known word; may be empty.

  friend bool operator==(const Diagnostic&, const Diagnostic&) = default;
};

/// Everything found in one text.
struct Diagnostics {
  std::string file;  ///< As the user named it.
  std::string text;  ///< The whole text, for the source line under each message.
  std::vector<Diagnostic> found;

  bool has_errors() const;
  void error(Place place, std::string summary, std::string hint = "");
  void warning(Place place, std::string summary, std::string hint = "");
};

/// As a compiler does: file:line:column: error: summary, the source line, a caret under the place,
/// the hint; in the order of their places. Control characters of the text are escaped. Colour only
/// where asked for.
std::string format_diagnostics(const Diagnostics& diagnostics, bool colour);

/// Bytes below 0x20 and 0x7f (but not the newline where `keep_newlines`), C1 controls, marks that
/// turn the direction of writing, and bytes that are not UTF-8, as \xNN: text from a plan or a node
/// may then be shown on a terminal.
std::string escape_controls(std::string_view text, bool keep_newlines = false);

/// Bytes of the UTF-8 character that begins at `at`, 1 to 4; 0 if none does.
std::size_t utf8_length(std::string_view text, std::size_t at);

/// The nearest of the known words, if near enough to be a slip (Damerau-Levenshtein, at most a
/// third of its letters).
std::string nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace squall
