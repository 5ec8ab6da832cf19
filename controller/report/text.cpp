#include "controller/report/text.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"

namespace squall::report {
namespace {

/// The character at `at` of text that is UTF-8, and its bytes.
struct Character {
  std::uint32_t code;
  std::size_t length;
};

Character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0;
  };
  const std::uint32_t first = byte(at);
  if (first < 0xC0) return {first, 1};
  const auto tail = [&](std::size_t i) { return byte(at + i) & 0x3F; };
  if (first < 0xE0) return {(first & 0x1F) << 6 | tail(1), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | tail(1) << 6 | tail(2), 3};
  return {(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

struct Range {
  std::uint32_t first, last;
};

/// wcwidth(3) would ask the process's locale, which a library must not set. Source: Unicode 15,
/// EastAsianWidth.txt, in the coarse blocks that terminals agree on.
int width_of(std::uint32_t code) {
  constexpr Range kNone[] = {
      {0x0300, 0x036F}, {0x200B, 0x200F}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}};
  constexpr Range kWide[] = {{0x1100, 0x115F}, {0x2E80, 0xA4CF},   {0xAC00, 0xD7A3},
                             {0xF900, 0xFAFF}, {0xFE30, 0xFE6F},   {0xFF00, 0xFF60},
                             {0xFFE0, 0xFFE6}, {0x1F300, 0x1FAFF}, {0x20000, 0x3FFFD}};
  const auto in = [&](const auto& ranges) {
    return std::ranges::any_of(ranges, [&](Range r) { return code >= r.first && code <= r.last; });
  };
  return in(kNone) ? 0 : in(kWide) ? 2 : 1;
}

std::string_view start_of(Paint paint) {
  switch (paint) {
    case Paint::kPlain:
      return "";
    case Paint::kBold:
      return "\x1b[1m";
    case Paint::kDim:
      return "\x1b[2m";
    case Paint::kGood:
      return "\x1b[32m";
    case Paint::kBad:
      return "\x1b[1;31m";
    case Paint::kWarn:
      return "\x1b[33m";
  }
  return "";
}

std::string painted(std::string_view text, Paint paint, const Style& style) {
  if (!style.colour || paint == Paint::kPlain || text.empty()) return std::string(text);
  return fmt::format("{}{}\x1b[0m", start_of(paint), text);
}

/// The bytes of `text` that fit into `columns`.
std::size_t fitting(std::string_view text, int columns) {
  std::size_t at = 0;
  while (at < text.size()) {
    const Character character = character_at(text, at);
    columns -= width_of(character.code);
    if (columns < 0) break;
    at = std::min(at + character.length, text.size());
  }
  return at;
}

}  // namespace

const Marks& marks_of(const Style& style) {
  static const Marks kUtf8{.yes = "✓",
                           .no = "✗",
                           .note = "!",
                           .running = "▶",
                           .waiting = "·",
                           .arrow = "→",
                           .dot = "·",
                           .more = "…",
                           .bar_full = "█",
                           .bar_empty = "░",
                           .spark = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"},
                           .spark_gap = "×"};
  static const Marks kAscii{.yes = "ok",
                            .no = "NO",
                            .note = "!",
                            .running = ">",
                            .waiting = ".",
                            .arrow = "->",
                            .dot = "-",
                            .more = "...",
                            .bar_full = "#",
                            .bar_empty = "-",
                            .spark = {"_", ".", "-", "=", "+", "*", "#", "@"},
                            .spark_gap = "x"};
  return style.utf8 ? kUtf8 : kAscii;
}

std::string shown(std::string_view text, const Style& style) {
  std::string safe = escape_controls(text);
  if (style.utf8) return safe;
  std::string ascii;
  for (std::size_t at = 0; at < safe.size();) {
    const Character character = character_at(safe, at);
    if (character.code < 0x80) {
      ascii += safe[at];
    } else if (width_of(character.code) > 0) {
      ascii += '?';
    }
    at += character.length;
  }
  return ascii;
}

int columns_of(std::string_view text) {
  int columns = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    columns += width_of(character.code);
    at += character.length;
  }
  return columns;
}

Line& Line::add(std::string_view text, Paint paint) {
  parts_.push_back({std::string(text), paint});
  columns_ += columns_of(text);
  return *this;
}

Line& Line::pad_to(int column, char filler, Paint paint, int least) {
  const int missing = std::max(column - columns_, least);
  return add(std::string(static_cast<std::size_t>(missing), filler), paint);
}

std::string Line::text(const Style& style, int width) const {
  std::string out;
  const bool too_wide = width > 0 && columns_ > width;
  const std::string_view more = marks_of(style).more;
  int left = too_wide ? width - columns_of(more) : columns_;
  for (const Part& part : parts_) {
    const std::size_t length = fitting(part.text, left);
    out += painted(std::string_view(part.text).substr(0, length), part.paint, style);
    left -= columns_of(std::string_view(part.text).substr(0, length));
    if (length < part.text.size()) break;
  }
  if (too_wide) out += more;
  return out;
}

std::vector<Line> Line::folded(int width, int indent) const {
  if (columns_ <= width) return {*this};
  std::vector<Line> lines(1);
  bool begun = false;  // the last of `lines` has a word
  Line word;           // as one word may be of several paints
  int blanks = 0;
  const auto spaces = [](int count) { return std::string(static_cast<std::size_t>(count), ' '); };
  const auto end_word = [&] {
    if (word.parts_.empty()) return;
    const bool fits = !begun || lines.back().columns_ + blanks + word.columns_ <= width;
    if (!fits) {
      lines.emplace_back();
      begun = false;
    }
    const bool is_leader = word.parts_.front().text.find_first_not_of('.') == std::string::npos;
    if (fits || !is_leader) {
      lines.back().add(spaces(fits ? blanks : indent));
      for (const Part& part : word.parts_) lines.back().add(part.text, part.paint);
      begun = true;
    } else {
      blanks = indent;
    }
    if (begun) blanks = 0;
    word = Line();
  };
  for (const Part& part : parts_) {
    std::string_view text = part.text;
    while (!text.empty()) {
      const std::size_t length = std::min(text.find(' '), text.size());
      if (length > 0) word.add(text.substr(0, length), part.paint);
      text.remove_prefix(length);
      if (text.empty()) break;
      end_word();
      if (begun || lines.size() == 1) ++blanks;
      text.remove_prefix(1);
    }
  }
  end_word();
  return lines;
}

std::vector<std::string> wrapped(std::string_view text, int width) {
  std::vector<std::string> lines;
  std::string line;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    const std::string_view word = text.substr(0, end);
    if (!line.empty() && columns_of(line) + 1 + columns_of(word) > width) {
      lines.push_back(std::move(line));
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  if (!line.empty()) lines.push_back(std::move(line));
  return lines;
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<long>(std::max(seconds, 0.0));
  if (whole >= 3600)
    return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{:02}:{:02}", whole / 60, whole % 60);
}

std::string ms_text(double ms) {
  return format_measured(Duration(static_cast<std::int64_t>(std::llround(ms * 1e6))));
}

}  // namespace squall::report
