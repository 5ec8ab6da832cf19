/// \file
/// Text for people as terminals need it: safe to show, cut to columns, painted, and in ASCII where
/// the locale has no more.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "controller/report/style.h"

namespace squall::report {

enum class Paint { kPlain, kBold, kDim, kGood, kBad, kWarn };

/// The few signs that are not letters; in ASCII each is as readable, if not as pretty.
struct Marks {
  std::string_view yes, no, note, running, waiting, arrow, dot, more;
  std::string_view bar_full, bar_empty;
  std::vector<std::string_view> spark;  ///< From low to high.
  std::string_view spark_gap;           ///< Asked, but unanswered.
};

const Marks& marks_of(const Style& style);

/// Text from a plan or a node: controls escaped, and what the locale cannot show replaced by '?'.
std::string shown(std::string_view text, const Style& style);

/// Columns on a terminal; wide characters (East Asian, emoji) count two, combining ones none. No
/// escape sequences in it.
int columns_of(std::string_view text);

/// One line, put together from painted parts and cut to a width as a whole. Parts are safe to show
/// already.
class Line {
 public:
  Line& add(std::string_view text, Paint paint = Paint::kPlain);

  /// Fills up to a column; leaves `least` fillers at any rate.
  Line& pad_to(int column, char filler = ' ', Paint paint = Paint::kPlain, int least = 1);

  int columns() const { return columns_; }

  /// Without a newline; cut with an ellipsis where it is wider than `width` (0: never).
  std::string text(const Style& style, int width = 0) const;

  /// On as many lines as it takes, broken at blanks, each but the first beginning at `indent`. A
  /// leader of dots that would begin a line is left out; a word wider than a line is never cut.
  std::vector<Line> folded(int width, int indent) const;

 private:
  struct Part {
    std::string text;
    Paint paint;
  };
  std::vector<Part> parts_;
  int columns_ = 0;
};

/// Words put on lines of at most `width` columns.
std::vector<std::string> wrapped(std::string_view text, int width);

/// 00:42, 1:02:03
std::string clock_text(double seconds);

/// From milliseconds: 12.3ms, 1.20s.
std::string ms_text(double ms);

}  // namespace squall::report
