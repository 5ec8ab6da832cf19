#include "experiments/plan/yaml.h"

#include <fmt/format.h>
#include <yaml.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <string_view>
#include <unordered_map>

namespace squall::plan {
namespace {

/// Ends the reading of a text that went beyond a limit; told already.
struct Enough {};

std::string_view to_view(const yaml_char_t* text) {
  return text == nullptr ? std::string_view() : reinterpret_cast<const char*>(text);
}

/// libyaml's nulls; none of ours are written otherwise.
bool is_null(std::string_view text) {
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

/// Where libyaml's marks stand in the text: they count characters, we count bytes, and only \n ends
/// a line.
class Marks {
 public:
  Marks(std::string_view text, std::size_t file) : text_(text), file_(file) {
    bool ascii = true;
    line_starts_.push_back(0);
    for (std::size_t at = 0; at < text.size(); ++at) {
      if (text[at] == '\n') line_starts_.push_back(at + 1);
      ascii = ascii && static_cast<unsigned char>(text[at]) < 0x80;
    }
    if (ascii) return;
    for (std::size_t at = 0; at < text.size();
         at += std::max<std::size_t>(utf8_length(text, at), 1)) {
      characters_.push_back(static_cast<std::uint32_t>(at));
    }
    characters_.push_back(static_cast<std::uint32_t>(text.size()));
  }

  std::size_t offset(const yaml_mark_t& mark) const {
    if (characters_.empty()) return std::min(mark.index, text_.size());
    return characters_[std::min(mark.index, characters_.size() - 1)];
  }

  Place place(std::size_t at, std::size_t length = 1) const {
    const auto line = std::upper_bound(line_starts_.begin(), line_starts_.end(), at) - 1;
    return {static_cast<std::size_t>(line - line_starts_.begin()) + 1, at - *line + 1,
            std::max<std::size_t>(length, 1), file_};
  }

 private:
  std::string_view text_;
  std::size_t file_;
  std::vector<std::size_t> line_starts_;
  std::vector<std::uint32_t> characters_;  ///< Byte of each; empty where all are ASCII.
};

/// Builds the tree from libyaml's events.
class Builder {
 public:
  Builder(Diagnostics& diagnostics, std::size_t file, YamlTree& tree)
      : out_(diagnostics),
        text_(diagnostics.text_of({.file = file})),
        tree_(tree),
        marks_(text_, file) {}

  /// Null if it holds nothing.
  const YamlNode* root() const { return root_; }

  void take(const yaml_event_t& event) {
    switch (event.type) {
      case YAML_STREAM_START_EVENT:
        return refuse_directive(0);
      case YAML_DOCUMENT_START_EVENT:
        return start_document(offset(event.start_mark));
      case YAML_DOCUMENT_END_EVENT:
        return refuse_directive(offset(event.end_mark));
      case YAML_ALIAS_EVENT:
        return take_alias(event);
      case YAML_SCALAR_EVENT:
        return take_scalar(event);
      case YAML_SEQUENCE_START_EVENT: {
        const auto& start = event.data.sequence_start;
        return open(YamlNode::Kind::kSequence, event, start.anchor, start.tag,
                    start.style == YAML_FLOW_SEQUENCE_STYLE);
      }
      case YAML_MAPPING_START_EVENT: {
        const auto& start = event.data.mapping_start;
        return open(YamlNode::Kind::kMapping, event, start.anchor, start.tag,
                    start.style == YAML_FLOW_MAPPING_STYLE);
      }
      case YAML_SEQUENCE_END_EVENT:
      case YAML_MAPPING_END_EVENT:
        return end();
      default:
        return;
    }
  }

  /// Says what libyaml found, in the plan's words and at the place that wants mending.
  void tell(const yaml_parser_t& parser) {
    const std::string_view what = parser.problem == nullptr ? "" : parser.problem;
    const std::string_view context = parser.context == nullptr ? "" : parser.context;
    if (parser.error == YAML_MEMORY_ERROR) throw std::bad_alloc();
    // The reader of bytes has no mark; what it could refuse is refused before it is asked.
    const std::size_t at = parser.error == YAML_READER_ERROR
                               ? std::min(parser.problem_offset, text_.size())
                               : offset(parser.problem_mark);
    const std::size_t from = offset(parser.context_mark);
    const std::string_view text = text_;
    Place place = marks_.place(at);
    const auto begins = [&](std::string_view start) { return what.starts_with(start); };
    const bool cannot_start = begins("found character that cannot start any token");
    if (context == "while scanning a directive") {
      tell_directive(from);
    } else if (begins("found a tab character") ||
               (cannot_start && at < text.size() && text[at] == '\t')) {
      out_.error(place, "a tab indents this line", "indent with blanks");
    } else if (const std::size_t bare = text.substr(0, at + 1).rfind("${");
               begins("did not find expected ',' or ") && bare != text.npos && bare >= from) {
      out_.error(marks_.place(bare, rest_of_line(bare)),
                 "a text with ${ in it needs quotes within brackets", "write \"${name}\"");
    } else if (begins("did not find expected ',' or ")) {
      const char bracket = what.ends_with("'}'") ? '}' : ']';
      out_.error(
          marks_.place(from),
          fmt::format("this {} is never closed, or something in it is not separated by a comma",
                      bracket == '}' ? '{' : '['),
          fmt::format("close it with {}", bracket));
    } else if (context == "while scanning a quoted scalar" ||
               (begins("found unknown escape character") && at + 1 >= text.size())) {
      out_.error(marks_.place(from, rest_of_line(from)), "this quote is never closed", "");
    } else if (begins("found unknown escape character")) {
      const std::size_t length =
          at + 1 < text.size() ? std::max<std::size_t>(utf8_length(text, at + 1), 1) : 0;
      place.length = length + 1;
      out_.error(place,
                 fmt::format("\"\\{}\" is not an escape",
                             text.substr(std::min(at + 1, text.size()), length)),
                 "write \\\\ for a backslash, or put the text in single quotes");
    } else if (begins("did not find expected hexdecimal number") ||
               begins("found invalid Unicode character escape code")) {
      out_.error(place, "this escape is not a character's number",
                 "write \\x with 2 hexadecimal digits, \\u with 4, \\U with 8");
    } else if (cannot_start) {
      out_.error(place, "a value cannot begin with this character", "put the value in quotes");
    } else if (begins("mapping values are not allowed") || begins("mapping keys are not allowed")) {
      out_.error(place, "a mapping cannot begin here",
                 "put a value that holds \": \" in quotes; else look at the indentation, and at "
                 "the line above");
    } else if (begins("block sequence entries are not allowed")) {
      out_.error(place, "a list cannot begin here",
                 "look at the indentation, and at the line above");
    } else if (begins("could not find expected ':'")) {
      out_.error(marks_.place(from, rest_of_line(from)),
                 "a key needs a colon and a blank behind it", "");
    } else if (at < text.size() && (text[at] == ']' || text[at] == '}')) {
      out_.error(place, "this closes what was never opened", "");
    } else if (begins("did not find expected key") ||
               begins("did not find expected '-' indicator") ||
               begins("did not find expected <document start>")) {
      out_.error(place, "this does not belong to what stands above it",
                 "look at the indentation and the quotes");
    } else {
      out_.error(
          place,
          fmt::format("this is not YAML: {}{}{}", context, context.empty() ? "" : ", ", what), "");
    }
  }

 private:
  struct Level {
    YamlNode* node;
    const YamlNode* key = nullptr;  ///< Of a mapping, where its value is still to come.
  };

  std::size_t offset(const yaml_mark_t& mark) const { return marks_.offset(mark); }

  /// libyaml compares each directive with all before it; none may reach it. They stand before a
  /// document alone, behind nothing but comments, blank lines and the ends of other documents.
  void refuse_directive(std::size_t at) {
    const std::string_view text = text_;
    for (;;) {
      at = skip_blanks(at);
      const bool begins_line = at == 0 || text[at - 1] == '\n';
      if (begins_line && text.substr(at, 3) == "...") {
        at += 3;
        continue;
      }
      if (!begins_line || text.substr(at, 1) != "%") return;
      tell_directive(at);
      throw Enough{};
    }
  }

  void tell_directive(std::size_t at) {
    out_.error(marks_.place(at, rest_of_line(at)), "a plan has no directives",
               "leave this line out; put a value that begins with % in quotes");
  }

  void start_document(std::size_t at) {
    if (++documents_ == 1) return;
    out_.error(marks_.place(at), "a second document", "one file is one plan");
    throw Enough{};
  }

  void take_alias(const yaml_event_t& event) {
    const std::size_t at = offset(event.start_mark);
    const Place place = marks_.place(at, offset(event.end_mark) - at);
    const auto found = anchors_.find(std::string(to_view(event.data.alias.anchor)));
    if (found == anchors_.end()) {
      out_.error(place,
                 fmt::format("nothing before this is marked &{}", to_view(event.data.alias.anchor)),
                 "an alias repeats what an anchor marked further up");
      throw Enough{};
    }
    if (found->second->open) {
      out_.error(place, "an alias to what it stands in", "it would go on for ever");
      throw Enough{};
    }
    aliased_ = true;
    add(*found->second, place);
  }

  void take_scalar(const yaml_event_t& event) {
    const auto& scalar = event.data.scalar;
    const std::string_view value(reinterpret_cast<const char*>(scalar.value), scalar.length);
    const bool plain = scalar.style == YAML_PLAIN_SCALAR_STYLE;
    const bool nothing = plain && value.empty();
    const std::size_t behind = behind_properties(event, scalar.anchor, scalar.tag);
    const std::size_t at = nothing ? offset(event.start_mark) : behind;
    const std::size_t end = std::max(offset(event.end_mark), at);
    const bool null = plain && is_null(value);
    YamlNode& node =
        make(null ? YamlNode::Kind::kNull : YamlNode::Kind::kScalar, at, scalar.anchor);
    node.open = false;
    const std::string_view text = text_;
    if (null) {
      node.place = nothing ? place_of_nothing(at) : marks_.place(at, value.size());
      return add(node);
    }
    node.text = value;
    node.bytes = value.size();
    node.plain = plain;
    if (plain) {
      node.verbatim = text.substr(at, value.size()) == value;
      node.place.length = node.verbatim ? value.size() : rest_of_line(at, end);
    } else if (scalar.style == YAML_SINGLE_QUOTED_SCALAR_STYLE ||
               scalar.style == YAML_DOUBLE_QUOTED_SCALAR_STYLE) {
      node.verbatim = end - at >= 2 && text.substr(at + 1, end - at - 2) == value &&
                      value.find('\n') == std::string_view::npos;
      node.place.length = rest_of_line(at, end);
    }
    if (!node.verbatim) find_lines(node, at, end);
    add(node);
  }

  /// Where the lines of a text of several are in the source: each is there as it is, but for blanks
  /// around it. None of them where one has an escape in it, or there are too many.
  void find_lines(YamlNode& node, std::size_t at, std::size_t end) const {
    constexpr std::size_t kMostLines = 1000;
    constexpr const char* kBlanks = " \t\r\n";
    const std::string_view source = text_;
    const std::string_view value = node.text;
    const bool block = source[at] == '|' || source[at] == '>';
    std::size_t read = 0;
    for (std::size_t from = at; from < end;) {
      const std::size_t line_end = std::min(source.substr(0, end).find('\n', from), end);
      const bool is_header = block && from == at;
      std::size_t begin = from + (from == at && !block && !node.plain ? 1 : 0);
      std::size_t stop = line_end == end && !block && !node.plain ? end - 1 : line_end;
      from = line_end + 1;
      begin = std::min(source.find_first_not_of(kBlanks, begin), stop);
      if (is_header || begin >= stop) continue;
      stop = source.substr(0, stop).find_last_not_of(kBlanks) + 1;
      const std::string_view line = source.substr(begin, stop - begin);
      const std::size_t found = std::min(value.find_first_not_of(kBlanks, read), value.size());
      // A comment between the lines of a plain text is none of it.
      if (value.substr(found, line.size()) != line || node.lines.size() == kMostLines) {
        return node.lines.clear();
      }
      read = found + line.size();
      node.lines.push_back({found, read, marks_.place(begin, line.size())});
    }
  }

  /// Of a value left out: its key's, or its list's dash.
  Place place_of_nothing(std::size_t at) const {
    if (!open_.empty() && open_.back().key != nullptr) return open_.back().key->place;
    const auto before = std::string_view(text_).substr(0, at).find_last_not_of(" \r\n");
    const bool dash = before != std::string_view::npos && text_[before] == '-';
    return marks_.place(dash ? before : at);
  }

  std::size_t rest_of_line(std::size_t at, std::size_t end = std::string_view::npos) const {
    // Bounded, or values that share one long line would be searched to its end each.
    const std::string_view rest = std::string_view(text_).substr(at, end - at);
    return std::max<std::size_t>(std::min(rest.find_first_of("\r\n"), rest.size()), 1);
  }

  /// Bytes up to the next blank or bracket: an anchor, a tag.
  std::size_t word_length(std::size_t at) const {
    const auto end = text_.find_first_of(" \t\r\n,[]{}", at);
    return std::max<std::size_t>((end == std::string::npos ? text_.size() : end) - at, 1);
  }

  /// Where a value itself starts, behind its anchor. Refuses its tag.
  std::size_t behind_properties(const yaml_event_t& event, const yaml_char_t* anchor,
                                const yaml_char_t* tag) {
    const std::string_view text = text_;
    std::size_t at = offset(event.start_mark);
    for (int left = (anchor != nullptr) + (tag != nullptr); left > 0 && at < text.size(); --left) {
      const bool bracketed = text.substr(at, 2) == "!<";
      const std::size_t length =
          bracketed ? std::min(text.find('>', at), text.size() - 1) + 1 - at : word_length(at);
      if (text[at] == '!')
        out_.error(marks_.place(at, length), "a plan has no tags", "write the value alone");
      at = skip_blanks(at + length);
    }
    return at;
  }

  /// Past blanks, line ends and comments.
  std::size_t skip_blanks(std::size_t at) const {
    const std::string_view text = text_;
    for (;;) {
      at = std::min(text.find_first_not_of(" \t\r\n", at), text.size());
      if (text.substr(at, 1) != "#") return at;
      at = std::min(text.find('\n', at), text.size());
    }
  }

  YamlNode& make(YamlNode::Kind kind, std::size_t at, const yaml_char_t* anchor) {
    YamlNode& node = tree_.nodes.emplace_back();
    node.kind = kind;
    node.place = marks_.place(at);
    node.begin = at;
    if (tree_.nodes.size() > kMostValues) too_many(node.place);
    if (anchor != nullptr) anchors_[std::string(to_view(anchor))] = &node;
    return node;
  }

  void open(YamlNode::Kind kind, const yaml_event_t& event, const yaml_char_t* anchor,
            const yaml_char_t* tag, bool flow) {
    YamlNode& node = make(kind, behind_properties(event, anchor, tag), anchor);
    node.flow = flow;
    if (open_.size() >= kDeepestPlan) too_deep(node.place);
    open_.push_back({&node});
  }

  void end() {
    YamlNode& node = *open_.back().node;
    open_.pop_back();
    node.open = false;
    if (node.kind == YamlNode::Kind::kMapping) tell_duplicates(node);
    add(node);
  }

  [[noreturn]] void too_deep(const Place& place) {
    out_.error(place, fmt::format("nested more than {} levels deep", kDeepestPlan), "");
    throw Enough{};
  }

  [[noreturn]] void too_many(const Place& place) {
    out_.error(place, aliased_ ? "the aliases repeat too much" : "too many values",
               fmt::format("a plan has at most {} values, those that aliases repeat included",
                           kMostValues));
    throw Enough{};
  }

  /// No text has as much without its aliases.
  [[noreturn]] void too_much_text(const Place& place) {
    out_.error(place, "the aliases repeat too much", kMostTextHint);
    throw Enough{};
  }

  void add(const YamlNode& node) { add(node, node.place); }

  /// Puts a finished node where it belongs; `place` is where it is used.
  void add(const YamlNode& node, const Place& place) {
    if (open_.empty()) {
      root_ = &node;
      return;
    }
    Level& level = open_.back();
    YamlNode& parent = *level.node;
    parent.values += node.values;
    parent.bytes += node.bytes;
    parent.height = std::max(parent.height, node.height + 1);
    if (parent.height > kDeepestPlan) too_deep(place);
    if (parent.values > kMostValues) too_many(place);
    if (parent.bytes > kMostText) too_much_text(place);
    if (parent.kind == YamlNode::Kind::kSequence) {
      parent.items.push_back(&node);
    } else if (level.key == nullptr) {
      level.key = &key_from(node, place);
    } else {
      parent.entries.push_back({level.key, &node});
      level.key = nullptr;
    }
  }

  const YamlNode& key_from(const YamlNode& node, const Place& place) {
    if (node.kind == YamlNode::Kind::kScalar && node.plain && node.text == "<<") {
      out_.error(place, "merge keys are not supported",
                 "write the keys out, or alias a whole value");
    } else if (node.kind != YamlNode::Kind::kScalar) {
      out_.error(place, "a key must be one word", "");
      throw Enough{};
    }
    return node;
  }

  void tell_duplicates(const YamlNode& mapping) {
    const auto& entries = mapping.entries;
    const auto tell = [&](const YamlNode& again, const YamlNode& first) {
      out_.error(again.place, fmt::format("\"{}\" is given twice", again.text),
                 fmt::format("it stands in line {} already", first.place.line));
    };
    constexpr std::size_t kFew = 16;
    if (entries.size() <= kFew) {
      for (std::size_t i = 1; i < entries.size(); ++i) {
        for (std::size_t j = 0; j < i; ++j) {
          if (entries[i].key->text != entries[j].key->text) continue;
          tell(*entries[i].key, *entries[j].key);
          break;
        }
      }
      return;
    }
    std::unordered_map<std::string_view, const YamlNode*> seen;
    for (const YamlNode::Entry& entry : entries) {
      const auto [first, fresh] = seen.emplace(entry.key->text, entry.key);
      if (!fresh) tell(*entry.key, *first->second);
    }
  }

  Diagnostics& out_;
  const std::string& text_;
  YamlTree& tree_;
  const YamlNode* root_ = nullptr;
  Marks marks_;
  std::vector<Level> open_;
  std::unordered_map<std::string, const YamlNode*> anchors_;
  int documents_ = 0;
  bool aliased_ = false;
};

/// Of a whole UTF-8 character.
std::uint32_t code_point(std::string_view character) {
  std::uint32_t code = static_cast<unsigned char>(character[0]) & (0xFFU >> (character.size() + 1));
  for (const char byte : character.substr(1)) {
    code = code << 6 | (static_cast<unsigned char>(byte) & 0x3FU);
  }
  return code;
}

/// Tells the first byte or character that no plan may hold. Of the line ends only \n is one:
/// libyaml takes three more for such, where no editor shows one.
bool tell_bad_bytes(Diagnostics& diagnostics, std::size_t file) {
  const std::string_view text = diagnostics.text_of({.file = file});
  std::size_t line = 1;
  std::size_t line_start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const Place place{line, at - line_start + 1, 1, file};
    if (byte == '\n') {
      ++line;
      line_start = at + 1;
    }
    if (byte < 0x80) {
      const bool allowed = (byte >= 0x20 && byte != 0x7f) || byte == '\t' || byte == '\n' ||
                           (byte == '\r' && at + 1 < text.size() && text[at + 1] == '\n');
      if (!allowed) {
        diagnostics.error(place, fmt::format("the byte 0x{:02x} cannot stand in a plan", byte), "");
        return true;
      }
      ++at;
      continue;
    }
    const std::size_t length = utf8_length(text, at);
    if (length == 0) {
      diagnostics.error(place, fmt::format("the byte 0x{:02x} is not UTF-8", byte),
                        "save the file as UTF-8");
      return true;
    }
    const std::uint32_t code = code_point(text.substr(at, length));
    const bool is_line_end = code == 0x85 || code == 0x2028 || code == 0x2029;
    if (code < 0xA0 || is_line_end || code == 0xFFFE || code == 0xFFFF) {
      diagnostics.error({place.line, place.column, length, file},
                        fmt::format("the character U+{:04X} cannot stand in a plan", code), "");
      return true;
    }
    at += length;
  }
  return false;
}

/// The text is one of the diagnostics' own.
const YamlNode* read_source(Diagnostics& diagnostics, std::size_t file, std::string& text,
                            YamlTree& tree) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (std::string_view(text).starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  if (text.size() > kLargestPlan) {
    diagnostics.error({.file = file}, fmt::format("{} bytes are too many", text.size()),
                      "a plan has at most 1 MiB");
    text.clear();
    return nullptr;
  }
  if (tell_bad_bytes(diagnostics, file)) return nullptr;

  Builder builder(diagnostics, file, tree);
  yaml_parser_t parser;
  if (yaml_parser_initialize(&parser) == 0) throw std::bad_alloc();
  const std::unique_ptr<yaml_parser_t, decltype(&yaml_parser_delete)> owner(&parser,
                                                                            &yaml_parser_delete);
  yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&parser, reinterpret_cast<const unsigned char*>(text.data()),
                               text.size());
  try {
    for (bool done = false; !done;) {
      yaml_event_t event;
      if (yaml_parser_parse(&parser, &event) == 0) {
        builder.tell(parser);
        return nullptr;
      }
      const std::unique_ptr<yaml_event_t, decltype(&yaml_event_delete)> held(&event,
                                                                             &yaml_event_delete);
      done = event.type == YAML_STREAM_END_EVENT;
      builder.take(event);
    }
  } catch (const Enough&) {
    return nullptr;
  }
  return builder.root();
}

}  // namespace

const YamlNode* YamlNode::find_key(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key->text == key) return entry.key;
  }
  return nullptr;
}

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key->text == key) return entry.value;
  }
  return nullptr;
}

Place YamlNode::within(std::size_t offset, std::size_t length) const {
  if ((!verbatim && lines.empty()) || offset > text.size()) return place;
  // Anything within a parameter's value stands where its ${name} does.
  const auto in_source = [this](std::size_t at, bool is_end) {
    std::size_t source = at;
    for (const Stand& stand : stands) {
      if (at >= stand.end) {
        source = at - stand.end + stand.source_end;
      } else if (is_end ? at > stand.begin : at >= stand.begin) {
        return is_end ? stand.source_end : stand.source_begin;
      }
    }
    return source;
  };
  const std::size_t from = in_source(offset, false);
  const std::size_t to = in_source(std::min(offset + length, text.size()), true);
  Place part = place;
  if (verbatim) {
    part.column += from + (plain ? 0 : 1);
    part.length = std::max(to, from + 1) - from;
    return part;
  }
  const auto behind =
      std::upper_bound(lines.begin(), lines.end(), from,
                       [](std::size_t wanted, const Line& line) { return wanted < line.begin; });
  if (behind == lines.begin()) return place;
  const Line& line = *std::prev(behind);
  const std::size_t on_line = std::min(from, line.end - 1);
  part = line.place;
  part.column += on_line - line.begin;
  part.length = std::max(std::min(to, line.end), on_line + 1) - on_line;
  return part;
}

YamlTree read_yaml(Diagnostics& diagnostics) {
  YamlTree tree;
  tree.root = read_source(diagnostics, 0, diagnostics.text, tree);
  return tree;
}

const YamlNode* read_yaml_beside(Diagnostics& diagnostics, std::size_t file, YamlTree& tree) {
  return read_source(diagnostics, file, diagnostics.beside[file - 1].text, tree);
}

}  // namespace squall::plan
