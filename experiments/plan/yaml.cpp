#include "experiments/plan/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <cstring>
#include <sstream>
#include <unordered_map>

namespace squall::plan {
namespace {

/// Ends the reading of a text that went beyond a limit; told already.
struct Enough {};

Place place_of(const YAML::Mark& mark, std::size_t length = 1) {
  return {static_cast<std::size_t>(std::max(mark.line, 0)) + 1,
          static_cast<std::size_t>(std::max(mark.column, 0)) + 1, std::max<std::size_t>(length, 1)};
}

bool is_blank(char c) { return c == ' ' || c == '\t'; }

/// Builds the tree from yaml-cpp's events.
class Builder final : public YAML::EventHandler {
 public:
  Builder(Diagnostics& diagnostics, YamlTree& tree) : out_(diagnostics), tree_(tree) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1) {
      out_.error(place_of(mark), "a second document", "one file is one plan");
      throw Enough{};
    }
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const std::size_t at = offset(mark);
    YamlNode& node = make(YamlNode::Kind::kNull, mark, anchor);
    // A value left out has the mark of whatever comes next; it is told at its key.
    const std::string_view rest =
        std::string_view(out_.text).substr(std::min(at, out_.text.size()));
    std::size_t length = 0;
    if (rest.starts_with('~')) length = 1;
    if (rest.starts_with("null") || rest.starts_with("Null") || rest.starts_with("NULL"))
      length = 4;
    if (length > 0) {
      node.place.length = length;
    } else if (!open_.empty() && open_.back().key != nullptr) {
      node.place = open_.back().key->place;
    } else if (const auto dash =
                   std::string_view(out_.text).substr(0, at).find_last_not_of(" \r\n");
               dash != std::string_view::npos && out_.text[dash] == '-') {
      node.place = place_at(dash);
    }
    add(node);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const Place place = place_of(mark, word_length(offset(mark)));
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end() || found->second->open) {
      out_.error(place, "an alias to what it stands in", "it would go on for ever");
      throw Enough{};
    }
    aliased_ = true;
    add(*found->second, place);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode& node = make(YamlNode::Kind::kScalar, mark, anchor);
    node.text = value;
    node.plain = tag == "?";
    std::size_t at = offset(mark);
    if (anchor != 0) at = behind_anchor(at, node.place);
    const std::string_view text = out_.text;
    if (tag != "?" && (tag != "!" || (at < text.size() && text[at] == '!'))) {
      refuse_tag(node.place, at);
    } else if (node.plain) {
      node.verbatim = text.substr(at, value.size()) == value;
      node.place.length = node.verbatim ? value.size() : rest_of_line(at);
    } else if (at < text.size() && (text[at] == '"' || text[at] == '\'')) {
      measure_quoted(node, at);
    } else {
      node.place.length = 1;  // | or >
    }
    last_end_ = at + std::max<std::size_t>(node.place.length, 1);
    node.open = false;
    add(node);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value style) override {
    start(YamlNode::Kind::kSequence, mark, tag, anchor, style);
  }
  void OnSequenceEnd() override { end(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value style) override {
    start(YamlNode::Kind::kMapping, mark, tag, anchor, style);
  }
  void OnMapEnd() override { end(); }

  /// Says what yaml-cpp found, in the plan's words and at the place that wants mending.
  void tell(const YAML::Exception& exception) {
    Place place = place_of(exception.mark);
    const std::string_view what = exception.msg;
    const std::string_view line = line_at(place.line);
    const auto first = line.find_first_not_of(" \t");
    const auto tab = line.substr(0, std::min(first, line.size())).find('\t');
    const auto is = [&](const char* message) { return what == message; };
    namespace msg = YAML::ErrorMsg;
    if (is(msg::TAB_IN_INDENTATION) || tab != std::string_view::npos) {
      if (tab != std::string_view::npos) place.column = tab + 1;
      place.length = 1;
      out_.error(place, "a tab indents this line", "indent with blanks");
    } else if (is(msg::END_OF_MAP_FLOW) || is(msg::END_OF_SEQ_FLOW)) {
      const bool map = is(msg::END_OF_MAP_FLOW);
      for (auto level = open_.rbegin(); level != open_.rend(); ++level) {
        if (!level->node->flow) continue;
        place = level->node->place;
        break;
      }
      out_.error(
          place,
          fmt::format("this {} is never closed, or something in it is not separated by a comma",
                      map ? '{' : '['),
          fmt::format("close it with {}", map ? '}' : ']'));
    } else if (is(msg::EOF_IN_SCALAR) || is(msg::DOC_IN_SCALAR)) {
      tell_unclosed(out_.text.find_first_of("\"'", std::min(last_end_, out_.text.size())), place);
    } else if (is(msg::UNKNOWN_ANCHOR)) {
      place.length = word_length(offset(exception.mark));
      const std::string_view text = out_.text;
      out_.error(
          place,
          fmt::format("nothing before this is marked {}",
                      "&" + std::string(text.substr(offset(exception.mark) + 1, place.length - 1))),
          "an alias repeats what an anchor marked further up");
    } else if (is(msg::UNKNOWN_TOKEN)) {
      out_.error(place, "a value cannot begin with this character", "put the value in quotes");
    } else if (what.starts_with(msg::INVALID_ESCAPE)) {
      out_.error(
          place,
          fmt::format("\"\\{}\" is not an escape", what.substr(std::strlen(msg::INVALID_ESCAPE))),
          "write \\\\ for a backslash, or put the text in single quotes");
    } else if (is(msg::MAP_VALUE) || is(msg::MAP_KEY)) {
      out_.error(place, "a mapping cannot begin here",
                 "put a value that holds \": \" in quotes; else look at the indentation, and at "
                 "the line above");
    } else if (is(msg::BLOCK_ENTRY)) {
      out_.error(place, "a list cannot begin here",
                 "look at the indentation, and at the line above");
    } else if (is(msg::FLOW_END)) {
      out_.error(place, "this closes what was never opened", "");
    } else if (is(msg::END_OF_MAP) || is(msg::END_OF_SEQ)) {
      out_.error(place, "this does not belong to what stands above it",
                 "look at the indentation and the quotes");
    } else {
      out_.error(place, fmt::format("this is not YAML: {}", what), "");
    }
  }

 private:
  struct Level {
    YamlNode* node;
    const YamlNode* key = nullptr;  ///< Of a mapping, where its value is still to come.
  };

  std::size_t offset(const YAML::Mark& mark) const {
    return std::min(static_cast<std::size_t>(std::max(mark.pos, 0)), out_.text.size());
  }

  std::string_view line_at(std::size_t number) const {
    std::string_view text = out_.text;
    for (; number > 1; --number) {
      const auto end = text.find('\n');
      if (end == std::string_view::npos) return "";
      text.remove_prefix(end + 1);
    }
    return text.substr(0, text.find('\n'));
  }

  std::size_t rest_of_line(std::size_t at) const {
    const auto end = out_.text.find_first_of("\r\n", at);
    return std::max<std::size_t>((end == std::string::npos ? out_.text.size() : end) - at, 1);
  }

  /// Bytes up to the next blank or bracket: an alias, an anchor, a tag.
  std::size_t word_length(std::size_t at) const {
    const auto end = out_.text.find_first_of(" \t\r\n,[]{}", at);
    return std::max<std::size_t>((end == std::string::npos ? out_.text.size() : end) - at, 1);
  }

  /// Moves a mark from &anchor to what it marks.
  std::size_t behind_anchor(std::size_t at, Place& place) const {
    const std::string_view text = out_.text;
    if (at >= text.size() || text[at] != '&') return at;
    std::size_t to = at + word_length(at);
    while (to < text.size() && is_blank(text[to])) ++to;
    place.column += to - at;
    return to;
  }

  void measure_quoted(YamlNode& node, std::size_t at) {
    const std::string_view text = out_.text;
    const char quote = text[at];
    std::size_t end = at + 1;
    for (; end < text.size(); ++end) {
      if (quote == '"' && text[end] == '\\') {
        ++end;
      } else if (text[end] == quote) {
        if (quote == '\'' && end + 1 < text.size() && text[end + 1] == '\'') {
          ++end;
        } else {
          break;
        }
      }
    }
    if (end >= text.size()) {
      tell_unclosed(at, node.place);
      throw Enough{};
    }
    const std::size_t length = end + 1 - at;
    node.verbatim =
        text.substr(at + 1, length - 2) == node.text && node.text.find('\n') == std::string::npos;
    node.place.length = std::min(length, rest_of_line(at));
  }

  void tell_unclosed(std::size_t at, Place place) {
    if (at != std::string::npos && at < out_.text.size()) {
      place = place_at(at);
      place.length = rest_of_line(at);
    }
    out_.error(place, "this quote is never closed", "");
  }

  Place place_at(std::size_t at) const {
    const std::string_view before = std::string_view(out_.text).substr(0, at);
    const auto line_end = before.rfind('\n');
    return {static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')) + 1,
            at - (line_end == std::string_view::npos ? 0 : line_end + 1) + 1, 1};
  }

  void refuse_tag(Place place, std::size_t at) {
    place.length = word_length(at);
    out_.error(place, "a plan has no tags", "write the value alone");
  }

  YamlNode& make(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    YamlNode& node = tree_.nodes.emplace_back();
    node.kind = kind;
    node.place = place_of(mark);
    if (kind == YamlNode::Kind::kNull) node.open = false;
    if (anchor != 0) anchors_[anchor] = &node;
    return node;
  }

  void start(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag,
             YAML::anchor_t anchor, YAML::EmitterStyle::value style) {
    YamlNode& node = make(kind, mark, anchor);
    node.flow = style == YAML::EmitterStyle::Flow;
    std::size_t at = offset(mark);
    if (anchor != 0) at = behind_anchor(at, node.place);
    if (tag != "?" && !tag.empty()) refuse_tag(node.place, at);
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

  void add(const YamlNode& node) { add(node, node.place); }

  /// Puts a finished node where it belongs; `place` is where it is used.
  void add(const YamlNode& node, const Place& place) {
    if (open_.empty()) {
      tree_.root = &node;
      return;
    }
    Level& level = open_.back();
    YamlNode& parent = *level.node;
    parent.values += node.values;
    parent.height = std::max(parent.height, node.height + 1);
    if (parent.height > kDeepestPlan) too_deep(place);
    if (parent.values > kMostValues) {
      out_.error(place, aliased_ ? "the aliases repeat too much" : "too many values",
                 fmt::format("a plan has at most {} values, those that aliases repeat included",
                             kMostValues));
      throw Enough{};
    }
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
  YamlTree& tree_;
  std::vector<Level> open_;
  std::unordered_map<YAML::anchor_t, const YamlNode*> anchors_;
  std::size_t last_end_ = 0;  ///< Behind the last scalar, where an unclosed quote is looked for.
  int documents_ = 0;
  bool aliased_ = false;
};

/// Tells the first byte that no YAML text may hold. yaml-cpp would take NUL for the end, and 0xFF
/// for a space.
bool tell_bad_bytes(Diagnostics& diagnostics) {
  const std::string_view text = diagnostics.text;
  std::size_t line = 1;
  std::size_t line_start = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const Place place{line, at - line_start + 1, 1};
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
    at += length;
  }
  return false;
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
  if (!verbatim || offset > text.size()) return place;
  Place part = place;
  part.column += offset + (plain ? 0 : 1);
  part.length = std::max<std::size_t>(std::min(length, text.size() - offset), 1);
  return part;
}

YamlTree read_yaml(Diagnostics& diagnostics) {
  YamlTree tree;
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (std::string_view(diagnostics.text).starts_with(kByteOrderMark)) {
    diagnostics.text.erase(0, kByteOrderMark.size());
  }
  if (diagnostics.text.size() > kLargestPlan) {
    diagnostics.error({}, fmt::format("{} bytes are too many", diagnostics.text.size()),
                      "a plan has at most 1 MiB");
    diagnostics.text.clear();
    return tree;
  }
  if (tell_bad_bytes(diagnostics)) return tree;

  Builder builder(diagnostics, tree);
  try {
    std::istringstream stream(diagnostics.text);
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const Enough&) {
    tree.root = nullptr;
  } catch (const YAML::Exception& exception) {
    builder.tell(exception);
    tree.root = nullptr;
  } catch (const std::exception& exception) {
    diagnostics.error({}, fmt::format("this is not YAML: {}", exception.what()), "");
    tree.root = nullptr;
  }
  return tree;
}

}  // namespace squall::plan
