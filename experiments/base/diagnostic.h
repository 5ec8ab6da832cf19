/// \file
/// What the user wrote wrong: a place, what is wrong there, what would be right. All of a file are
/// collected and shown at once; what went wrong while running is a Status instead.
#pragma once

#include <array>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace squall {

/// A stretch of one line of a text. Lines and columns count from 1; columns count bytes. Line 0:
/// the file as a whole.
struct Place {
  std::size_t line = 0;
  std::size_t column = 0;
  std::size_t length = 1;  ///< Bytes under the caret, at least 1, never past the end of the line.
  std::size_t file = 0;    ///< Of the Diagnostics: 0 is the text itself, n the nth beside it.

  friend bool operator==(const Place&, const Place&) = default;
};

/// By file, line and column.
struct InOrder {
  bool operator()(const Place& a, const Place& b) const {
    return std::tuple(a.file, a.line, a.column) < std::tuple(b.file, b.line, b.column);
  }
};

enum class Severity { kError, kWarning };

struct Diagnostic {
  Severity severity = Severity::kError;
  Place place;
  std::string summary;  ///< What is wrong; lower case, no full stop.
  std::string hint;     ///< What would be right, or the nearest known word; may be empty.

  friend bool operator==(const Diagnostic&, const Diagnostic&) = default;
};

/// A text that things may be found in.
struct Source {
  std::string file;  ///< As the user named it.
  std::string text;  ///< The whole text, for the source line under each message.
};

/// Everything found in one text, and in those that belong to it, each once for its place, however
/// often an alias repeats it.
struct Diagnostics {
  /// How many errors are kept, and how many warnings: a text of a million mistakes takes no more
  /// memory than one of a thousand.
  static constexpr std::size_t kMostKept = 1000;

  /// Works a hint out, only where the diagnostic is kept.
  using Hint = std::function<std::string()>;

  std::string file;             ///< As the user named it.
  std::string text;             ///< The whole text.
  std::deque<Source> beside{};  ///< Texts that it draws from. References to them stay good.
  /// What is said behind the hint of an error at a place: where its value comes from.
  std::map<Place, std::string, InOrder> remarks{};
  std::vector<Diagnostic> found;
  bool more = false;         ///< There was more than what is kept.
  std::size_t errors = 0;    ///< Told, those included that are not kept.
  std::size_t warnings = 0;  ///< Likewise.
  /// File, line, column, summary: what the errors, and then the warnings, are known by.
  using Key = std::tuple<std::size_t, std::size_t, std::size_t, std::string>;
  std::array<std::set<Key>, 2> kept{};

  bool has_errors() const { return errors > 0; }
  const std::string& file_of(const Place& place) const;
  const std::string& text_of(const Place& place) const;
  void error(Place place, std::string summary, std::string hint = "");
  void error(Place place, std::string summary, const Hint& hint);
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
