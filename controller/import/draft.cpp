#include "controller/import/draft.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "experiments/base/diagnostic.h"

namespace squall::importing {
namespace {

constexpr std::size_t kWidth = 100;

/// Of a whole UTF-8 character.
std::uint32_t code_point(std::string_view character) {
  if (character.size() == 1) return static_cast<unsigned char>(character[0]);
  std::uint32_t code = static_cast<unsigned char>(character[0]) & (0xFFU >> (character.size() + 1));
  for (const char byte : character.substr(1)) {
    code = code << 6 | (static_cast<unsigned char>(byte) & 0x3FU);
  }
  return code;
}

/// Whether a character may stand in a plan as it is: not one that a terminal obeys, nor one that
/// YAML or an editor takes for the end of a line.
bool is_shown(std::string_view character) {
  const std::uint32_t code = code_point(character);
  const bool ends_line = code == 0x2028 || code == 0x2029;
  const bool is_none = code == 0xFEFF || code == 0xFFFE || code == 0xFFFF;
  return code >= 0x20 && !(code >= 0x7F && code < 0xA0) && !ends_line && !is_none &&
         escape_controls(character) == character;
}

std::string escape_of(std::string_view character) {
  const std::uint32_t code = code_point(character);
  if (code < 0x100) return fmt::format("\\x{:02x}", code);
  return code < 0x10000 ? fmt::format("\\u{:04x}", code) : fmt::format("\\U{:08x}", code);
}

/// Calls `each` with every character; what is not UTF-8 comes byte by byte.
template <typename Each>
void for_each_character(std::string_view text, Each each) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = std::max<std::size_t>(utf8_length(text, at), 1);
    each(text.substr(at, length));
    at += length;
  }
}

/// For a comment: one line whatever the text holds.
std::string visible(std::string_view text) {
  std::string out;
  for_each_character(text, [&](std::string_view character) {
    out += is_shown(character) ? std::string(character) : escape_of(character);
  });
  return out;
}

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/// What a reader of YAML, or a person, could take for something else than text.
bool looks_like_no_text(std::string_view text) {
  constexpr std::array<std::string_view, 8> kWords = {"true", "false", "yes",  "no",
                                                      "on",   "off",   "null", "~"};
  std::string low(text);
  std::transform(low.begin(), low.end(), low.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  return std::find(kWords.begin(), kWords.end(), low) != kWords.end() ||
         text.find_first_not_of("0123456789.+-eE_:") == std::string_view::npos;
}

bool can_be_plain(std::string_view text, bool in_brackets) {
  constexpr std::string_view kBeginnings = "_/.$(<+^";
  if (text.empty() || text.back() == ' ' || text.back() == ':') return false;
  if (!is_letter_or_digit(text[0]) && kBeginnings.find(text[0]) == std::string_view::npos) {
    return false;
  }
  if (text == "null" || text == "Null" || text == "NULL" || text.starts_with("...")) return false;
  if (text.find(": ") != text.npos || text.find(" #") != text.npos) return false;
  // A colon before a bracket would begin a value there.
  if (in_brackets && text.find_first_of(",[]{}") != text.npos) return false;
  bool shown = true;
  for_each_character(text, [&](std::string_view character) {
    shown = shown && is_shown(character) && utf8_length(character, 0) > 0;
  });
  return shown;
}

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  for_each_character(text, [&](std::string_view character) {
    if (character == "\"" || character == "\\") {
      out += '\\';
      out += character;
    } else if (character == "\n") {
      out += "\\n";
    } else if (character == "\t") {
      out += "\\t";
    } else {
      out += is_shown(character) ? std::string(character) : escape_of(character);
    }
  });
  return out + "\"";
}

std::string scalar(const Draft& draft, bool in_brackets) {
  return quoted_where_needed(draft.text(), in_brackets, draft.kind() == Draft::Kind::kText);
}

bool has_notes(const Draft& draft) {
  if (!draft.notes().empty()) return true;
  return std::any_of(draft.entries().begin(), draft.entries().end(),
                     [](const Draft::Entry& entry) { return has_notes(*entry.value); });
}

/// The value in one line, with brackets.
std::string in_brackets(const Draft& draft) {
  if (draft.kind() == Draft::Kind::kWord || draft.kind() == Draft::Kind::kText) {
    return scalar(draft, true);
  }
  const bool is_map = draft.kind() == Draft::Kind::kMap;
  std::string out = is_map ? "{" : "[";
  for (const Draft::Entry& entry : draft.entries()) {
    if (entry.value->kind() == Draft::Kind::kNothing) continue;
    if (out.size() > 1) out += ", ";
    if (is_map) out += quoted_where_needed(entry.key, true, false) + ": ";
    out += in_brackets(*entry.value);
  }
  return out + (is_map ? "}" : "]");
}

bool is_scalar(const Draft& draft) {
  return draft.kind() == Draft::Kind::kWord || draft.kind() == Draft::Kind::kText;
}

/// Nothing of it would be written but notes.
bool is_empty(const Draft& draft) {
  return !is_scalar(draft) &&
         std::all_of(draft.entries().begin(), draft.entries().end(), [](const Draft::Entry& entry) {
           return entry.value->kind() == Draft::Kind::kNothing;
         });
}

class Writer {
 public:
  Page write(Draft& root) {
    notes(root, 0);
    map(root, 0);
    return std::move(page_);
  }

 private:
  /// The entries of a map, each on lines of its own. With a dash before the first of them its notes
  /// were written above the dash.
  void map(Draft& draft, std::size_t indent, std::string_view dash = "") {
    for (Draft::Entry& entry : draft.entries()) {
      Draft& value = *entry.value;
      const auto outer = comment_;
      if (value.is_example() && !comment_) comment_ = indent;
      if (dash.empty()) notes(value, indent);
      if (value.kind() != Draft::Kind::kNothing) {
        value_of(fmt::format("{}{}:", dash, quoted_where_needed(entry.key, false, false)), value,
                 indent - dash.size(), indent);
        dash = "";
      }
      comment_ = outer;
    }
  }

  /// Behind its key, which stands at a column; what is below it is indented from `indent` on.
  void value_of(const std::string& key, Draft& value, std::size_t column, std::size_t indent) {
    if (is_scalar(value)) return line(key + " " + scalar(value, false), column, &value);
    if (is_empty(value)) {
      for (const Draft::Entry& entry : value.entries()) notes(*entry.value, column);
      return line(key + (value.kind() == Draft::Kind::kMap ? " {}" : " []"), column, &value);
    }
    const bool of_maps = value.kind() == Draft::Kind::kList &&
                         value.entries().front().value->kind() == Draft::Kind::kMap;
    const std::string short_form = key + " " + in_brackets(value);
    if (!of_maps && !has_notes_below(value) && column + short_form.size() <= kWidth) {
      return line(short_form, column, &value);
    }
    line(key, column, &value);
    if (value.kind() == Draft::Kind::kMap) return map(value, indent + 2);
    list(value, indent + 2);
  }

  void list(Draft& draft, std::size_t indent) {
    for (Draft::Entry& entry : draft.entries()) {
      Draft& item = *entry.value;
      notes(item, indent);
      if (item.kind() == Draft::Kind::kNothing) continue;
      if (item.kind() != Draft::Kind::kMap || is_empty(item)) {
        line("- " + in_brackets(item), indent, &item);
        continue;
      }
      for (const Draft::Entry& inner : item.entries()) {
        notes(*inner.value, indent);
        if (inner.value->kind() != Draft::Kind::kNothing) break;
      }
      map(item, indent + 2, "- ");
    }
  }

  static bool has_notes_below(const Draft& draft) {
    return std::any_of(draft.entries().begin(), draft.entries().end(),
                       [](const Draft::Entry& entry) { return has_notes(*entry.value); });
  }

  void notes(const Draft& draft, std::size_t indent) {
    for (const Note& note : draft.notes()) {
      const std::string_view kind = note.kind == Note::Kind::kLost   ? "not mapped: "
                                    : note.kind == Note::Kind::kOpen ? "to decide: "
                                                                     : "";
      comment(visible(fmt::format("{}{}", kind, note.text)), indent);
    }
  }

  /// Wrapped at blanks.
  void comment(std::string_view text, std::size_t indent) {
    const std::size_t room = kWidth - std::min(indent + 4, kWidth / 2);
    std::string_view begin = "# ";
    while (!text.empty()) {
      std::size_t end = text.size();
      if (end > room) {
        end = text.rfind(' ', room);
        if (end == std::string_view::npos || end == 0) end = std::min(text.find(' '), text.size());
      }
      add(fmt::format("{}{}", begin, text.substr(0, end)), indent, nullptr);
      text.remove_prefix(std::min(end + 1, text.size()));
      begin = "#   ";
    }
  }

  void line(const std::string& text, std::size_t column, Draft* owner) {
    if (!comment_) return add(text, column, owner);
    add("# " + std::string(column - *comment_, ' ') + text, *comment_, nullptr);
  }

  void add(const std::string& text, std::size_t column, Draft* owner) {
    page_.text.append(column, ' ').append(text).append("\n");
    page_.owners.push_back(owner);
  }

  Page page_;
  std::optional<std::size_t> comment_;  ///< The column of the example that this is in.
};

}  // namespace

Draft& Draft::set(std::string_view key, Draft value) {
  auto owned = std::make_unique<Draft>(std::move(value));
  for (Entry& entry : entries_) {
    if (entry.key != key) continue;
    entry.value = std::move(owned);
    return *entry.value;
  }
  return *entries_.emplace_back(Entry{std::string(key), std::move(owned)}).value;
}

Draft& Draft::add(Draft value) {
  return *entries_.emplace_back(Entry{"", std::make_unique<Draft>(std::move(value))}).value;
}

const Draft* Draft::find(std::string_view key) const {
  for (const Entry& entry : entries_) {
    if (entry.key == key) return entry.value.get();
  }
  return nullptr;
}

Draft* Draft::find(std::string_view key) {
  return const_cast<Draft*>(std::as_const(*this).find(key));
}

Draft& Draft::map_at(std::string_view key) {
  Draft* found = find(key);
  return found != nullptr ? *found : set(key, map());
}

Draft& Draft::list_at(std::string_view key) {
  Draft* found = find(key);
  return found != nullptr ? *found : set(key, list());
}

Draft Draft::copy() const {
  Draft same(kind_, text_);
  same.example_ = example_;
  same.notes_ = notes_;
  for (const Entry& entry : entries_) {
    same.entries_.push_back({entry.key, std::make_unique<Draft>(entry.value->copy())});
  }
  return same;
}

std::size_t Draft::count(Note::Kind kind) const {
  auto count = static_cast<std::size_t>(
      std::count_if(notes_.begin(), notes_.end(), [&](const Note& n) { return n.kind == kind; }));
  for (const Entry& entry : entries_) count += entry.value->count(kind);
  return count;
}

std::string quoted_where_needed(std::string_view text, bool in_brackets, bool free_text) {
  const bool plain = can_be_plain(text, in_brackets) && !(free_text && looks_like_no_text(text));
  return plain ? std::string(text) : in_quotes(text);
}

Page write(Draft& root) { return Writer().write(root); }

}  // namespace squall::importing
