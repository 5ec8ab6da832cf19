#include "experiments/base/diagnostic.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace squall {
namespace {

/// Characters that a terminal obeys instead of showing: C1 controls, and those that turn the
/// direction of writing.
bool is_obeyed(std::string_view character) {
  if (character.size() == 2) return character[0] == '\xC2' && character[1] < '\xA0';
  if (character.size() != 3 || character[0] != '\xE2') return false;
  if (character[1] == '\x80') return character[2] >= '\xAA' && character[2] <= '\xAE';
  return character[1] == '\x81' && character[2] >= '\xA6' && character[2] <= '\xA9';
}

/// Columns of a terminal, one a character: near enough for a caret.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

/// The part of a line around the caret that is worth showing, never starting or ending within a
/// character.
std::pair<std::size_t, std::size_t> shown_part(std::string_view line, std::size_t column) {
  constexpr std::size_t kBefore = 100;
  constexpr std::size_t kShown = 160;
  const auto begins = [&](std::size_t at) {
    return at >= line.size() || (static_cast<unsigned char>(line[at]) & 0xC0) != 0x80;
  };
  std::size_t from = column > kBefore && line.size() > kShown ? column - kBefore : 0;
  while (!begins(from)) ++from;
  std::size_t to = std::min(line.size(), from + kShown);
  while (!begins(to)) ++to;
  return {from, to};
}

std::size_t distance(std::string_view a, std::string_view b) {
  // Optimal string alignment: three rows are enough.
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> now(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) last[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t change = last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        now[j] = std::min(now[j], before[j - 2] + 1);
      }
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

/// The lines of a text, counted from 1, without their ends.
class Lines {
 public:
  explicit Lines(std::string_view text) : text_(text) {
    for (std::size_t at = text.find('\n'); at != text.npos; at = text.find('\n', at + 1)) {
      starts_.push_back(at + 1);
    }
  }

  std::size_t size() const { return starts_.size(); }

  std::string_view at(std::size_t number) const {
    const std::size_t begin = starts_[number - 1];
    const std::size_t end = number < starts_.size() ? starts_[number] - 1 : text_.size();
    std::string_view line = text_.substr(begin, end - begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    return line;
  }

 private:
  std::string_view text_;
  std::vector<std::size_t> starts_ = {0};
};

/// Whether this is news, and there is room for it.
bool keep(Diagnostics& diagnostics, Severity severity, const Place& place,
          const std::string& summary) {
  std::set<Diagnostics::Key>& kept = diagnostics.kept[severity == Severity::kError ? 0 : 1];
  Diagnostics::Key key(place.file, place.line, place.column, summary);
  if (kept.contains(key)) return false;
  if (kept.size() == Diagnostics::kMostKept) {
    diagnostics.more = true;
    return false;
  }
  kept.insert(std::move(key));
  return true;
}

}  // namespace

void Diagnostics::error(Place place, std::string summary, std::string hint) {
  error(place, std::move(summary), [&hint] { return std::move(hint); });
}

void Diagnostics::error(Place place, std::string summary, const Hint& hint) {
  ++errors;
  if (!keep(*this, Severity::kError, place, summary)) return;
  std::string whole = hint();
  if (const auto remark = remarks.find(place); remark != remarks.end()) {
    whole += (whole.empty() ? "" : "; ") + remark->second;
  }
  found.push_back({Severity::kError, place, std::move(summary), std::move(whole)});
}

void Diagnostics::warning(Place place, std::string summary, std::string hint) {
  ++warnings;
  if (!keep(*this, Severity::kWarning, place, summary)) return;
  found.push_back({Severity::kWarning, place, std::move(summary), std::move(hint)});
}

const std::string& Diagnostics::file_of(const Place& place) const {
  return place.file == 0 ? file : beside[place.file - 1].file;
}

const std::string& Diagnostics::text_of(const Place& place) const {
  return place.file == 0 ? text : beside[place.file - 1].text;
}

std::string format_diagnostics(const Diagnostics& diagnostics, bool colour) {
  const std::string_view bold = colour ? "\033[1m" : "";
  const std::string_view red = colour ? "\033[1;31m" : "";
  const std::string_view yellow = colour ? "\033[1;33m" : "";
  const std::string_view green = colour ? "\033[32m" : "";
  const std::string_view plain = colour ? "\033[0m" : "";

  std::vector<const Diagnostic*> sorted;
  sorted.reserve(diagnostics.found.size());
  for (const Diagnostic& diagnostic : diagnostics.found) sorted.push_back(&diagnostic);
  std::stable_sort(sorted.begin(), sorted.end(), [](const Diagnostic* a, const Diagnostic* b) {
    return InOrder()(a->place, b->place);
  });

  constexpr std::size_t kMostShown = 200;
  std::vector<Lines> lines = {Lines(diagnostics.text)};
  for (const Source& source : diagnostics.beside) lines.emplace_back(source.text);
  std::string out;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    if (i == kMostShown) {
      out += fmt::format("{}: {}{} more not shown\n", escape_controls(diagnostics.file),
                         diagnostics.more ? "more than " : "", sorted.size() - kMostShown);
      break;
    }
    const Diagnostic& diagnostic = *sorted[i];
    const Place& place = diagnostic.place;
    const Lines& source = lines[place.file];
    out += fmt::format("{}{}:", bold, escape_controls(diagnostics.file_of(place)));
    if (place.line > 0) out += fmt::format("{}:{}:", place.line, place.column);
    const bool is_error = diagnostic.severity == Severity::kError;
    out += fmt::format("{} {}{}:{} {}{}{}\n", plain, is_error ? red : yellow,
                       is_error ? "error" : "warning", plain, bold,
                       escape_controls(diagnostic.summary), plain);
    if (place.line > 0 && place.line <= source.size() && place.column > 0) {
      const std::string_view line = source.at(place.line);
      const std::size_t column = std::min(place.column - 1, line.size());
      const auto [from, to] = shown_part(line, column);
      const std::string_view lead = from > 0 ? "..." : "";
      const std::string_view trail = to < line.size() ? "..." : "";
      const std::string before = escape_controls(line.substr(from, column - from));
      const std::size_t length =
          std::min(std::max<std::size_t>(place.length, 1), to > column ? to - column : 0);
      const std::string under = escape_controls(line.substr(column, length));
      out += fmt::format("  {}{}{}\n", lead, escape_controls(line.substr(from, to - from)), trail);
      out += fmt::format("  {}{}{}{}\n", std::string(lead.size() + width(before), ' '), green,
                         std::string(std::max<std::size_t>(width(under), 1), '^'), plain);
    }
    if (!diagnostic.hint.empty()) {
      out += fmt::format("  {}\n", escape_controls(diagnostic.hint));
    }
  }
  return out;
}

/// Source: Unicode 15, table 3-7: no overlong forms, no surrogates, nothing past U+10FFFF.
std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const auto follows = [&](std::size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(at);
  if (first < 0x80) return at < text.size() ? 1 : 0;
  if (first >= 0xC2 && first <= 0xDF) return follows(at + 1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : 0xBF;
    return follows(at + 1, low, high) && follows(at + 2) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xF4 ? 0x8F : 0xBF;
    return follows(at + 1, low, high) && follows(at + 2) && follows(at + 3) ? 4 : 0;
  }
  return 0;
}

std::string escape_controls(std::string_view text, bool keep_newlines) {
  std::string out;
  out.reserve(text.size());
  const auto escape = [&](std::string_view bytes) {
    for (const char byte : bytes) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
    }
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    const std::string_view character = text.substr(at, std::max<std::size_t>(length, 1));
    const auto first = static_cast<unsigned char>(character[0]);
    const bool is_control = (first < 0x20 && !(keep_newlines && first == '\n')) || first == 0x7f;
    if (length == 0 || is_control || is_obeyed(character)) {
      escape(character);
    } else {
      out += character;
    }
    at += character.size();
  }
  return out;
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  constexpr std::size_t kLongest = 64;  // no word of ours is longer, and the distance is quadratic
  if (word.empty() || word.size() > kLongest) return "";
  const std::string wanted = lower(word);
  std::string best;
  std::size_t best_distance = kLongest;
  for (const std::string& candidate : known) {
    const std::size_t longer = std::max(word.size(), candidate.size());
    const std::size_t shorter = std::min(word.size(), candidate.size());
    if (longer - shorter > longer / 3) continue;
    const std::size_t far = distance(wanted, lower(candidate));
    if (far <= longer / 3 && far < best_distance) {
      best = candidate;
      best_distance = far;
    }
  }
  return best;
}

}  // namespace squall
