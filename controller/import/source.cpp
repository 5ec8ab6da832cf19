#include "controller/import/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "experiments/plan/yaml.h"

namespace squall::importing {
namespace {

using Json = nlohmann::json;

/// Builds the tree as the parser goes, so that neither depth nor size is beyond the limits at any
/// time; nlohmann's own tree would be as deep as the text.
class Builder : public nlohmann::json_sax<Json> {
 public:
  explicit Builder(Source& root) : root_(root) {}

  /// What ended the reading, and at which byte; the reading is not over at once everywhere.
  std::string wrong;
  std::size_t at = 0;

  bool null() override { return leaf(Source::Kind::kNull, ""); }
  bool boolean(bool value) override {
    return leaf(Source::Kind::kScalar, value ? "true" : "false");
  }
  bool number_integer(std::int64_t value) override {
    return leaf(Source::Kind::kScalar, std::to_string(value));
  }
  bool number_unsigned(std::uint64_t value) override {
    return leaf(Source::Kind::kScalar, std::to_string(value));
  }
  bool number_float(double, const std::string& text) override {
    return leaf(Source::Kind::kScalar, text);
  }
  bool string(std::string& text) override { return leaf(Source::Kind::kScalar, text); }
  bool binary(Json::binary_t&) override { return refuse("bytes are no JSON"); }
  bool start_object(std::size_t) override { return open(Source::Kind::kMap); }
  bool start_array(std::size_t) override { return open(Source::Kind::kList); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    if (!keys_.back().insert(name).second) {
      return refuse(fmt::format("\"{}\" is given twice", name));
    }
    key_ = name;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const Json::exception& failed) override {
    at = position == 0 ? 0 : position - 1;
    // [json.exception.parse_error.101] parse error at line 1, column 5: syntax error while …
    const std::string_view said = failed.what();
    const auto colon = said.find(": ");
    wrong = fmt::format("this is not JSON: {}",
                        colon == std::string_view::npos ? said : said.substr(colon + 2));
    return false;
  }

 private:
  bool refuse(std::string why) {
    wrong = std::move(why);
    return false;
  }

  Source* next(Source::Kind kind, std::string text) {
    if (++values_ > plan::kMostValues) {
      refuse(fmt::format("more than {} values", plan::kMostValues));
      return nullptr;
    }
    if (open_.empty()) {
      root_.become(kind);
      if (kind == Source::Kind::kScalar) root_.add("", kind, std::move(text));
      return &root_;
    }
    return &open_.back()->add(std::exchange(key_, ""), kind, std::move(text));
  }

  bool leaf(Source::Kind kind, std::string text) { return next(kind, std::move(text)) != nullptr; }

  bool open(Source::Kind kind) {
    if (open_.size() >= plan::kDeepestPlan) {
      return refuse(fmt::format("nested more than {} levels deep", plan::kDeepestPlan));
    }
    Source* made = next(kind, "");
    if (made == nullptr) return false;
    open_.push_back(made);
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  Source& root_;
  std::vector<Source*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
  std::size_t values_ = 0;
};

/// Whether the text was read; `wrong` and `at` say why not.
bool parse_json(std::string_view text, Source& into, std::string& wrong, std::size_t& at) {
  Builder builder(into);
  try {
    if (Json::sax_parse(text.begin(), text.end(), &builder)) return true;
  } catch (const std::exception& failed) {
    builder.wrong = fmt::format("this is not JSON: {}", failed.what());
  }
  wrong = builder.wrong;
  at = builder.at;
  return false;
}

Place place_of(std::string_view text, std::size_t at) {
  at = std::min(at, text.empty() ? 0 : text.size() - 1);
  const std::string_view before = text.substr(0, at);
  const auto line_start = before.rfind('\n');
  Place place;
  place.line = static_cast<std::size_t>(std::count(before.begin(), before.end(), '\n')) + 1;
  place.column = line_start == std::string_view::npos ? at + 1 : at - line_start;
  return place;
}

void copy(const plan::YamlNode& node, const std::string& key, Source& into) {
  using Kind = plan::YamlNode::Kind;
  if (node.kind == Kind::kNull) {
    into.add(key, Source::Kind::kNull);
  } else if (node.kind == Kind::kScalar) {
    into.add(key, Source::Kind::kScalar, node.text);
  } else {
    const bool is_map = node.kind == Kind::kMapping;
    Source& made = into.add(key, is_map ? Source::Kind::kMap : Source::Kind::kList);
    for (const plan::YamlNode::Entry& entry : node.entries) {
      copy(*entry.value, entry.key->text, made);
    }
    for (const plan::YamlNode* item : node.items) copy(*item, "", made);
  }
}

/// Whether anything at or below it was taken, told, or left with a word of its own.
bool is_touched(const Source& source) {
  if (source.taken() || source.told() || source.why()) return true;
  return std::any_of(source.parts().begin(), source.parts().end(),
                     [](const auto& part) { return is_touched(*part); });
}

const Reason* reason_for(const Source& source, std::span<const Reason> reasons) {
  for (const Source* level = &source; level != nullptr; level = level->parent()) {
    for (const Reason& known : reasons) {
      if (known.key == level->key()) return &known;
    }
  }
  return nullptr;
}

}  // namespace

Source& Source::add(std::string key, Kind kind, std::string text) {
  auto& part = parts_.emplace_back(std::make_unique<Source>(kind, std::move(text)));
  part->key_ = std::move(key);
  part->parent_ = this;
  part->index_ = parts_.size() - 1;
  return *part;
}

Source* Source::find(std::string_view key) {
  if (kind_ != Kind::kMap) return nullptr;
  for (const auto& part : parts_) {
    if (part->key_ == key) return part.get();
  }
  return nullptr;
}

Source* Source::find(std::initializer_list<std::string_view> keys) {
  Source* found = this;
  for (const std::string_view key : keys) {
    found = found == nullptr ? nullptr : found->find(key);
  }
  return found;
}

std::string Source::path() const {
  if (path_) return *path_;
  if (parent_ == nullptr) return "";
  const std::string before = parent_->path();
  if (parent_->kind_ == Kind::kList) return fmt::format("{}[{}]", before, index_);
  if (before.empty()) return key_;
  return fmt::format("{}{}{}", before, key_.starts_with('-') ? " " : ".", key_);
}

std::string Source::written(std::string_view but) const {
  // A plan goes where an experiment does not, and its comments with it.
  constexpr std::array<std::string_view, 5> kSecret = {"auth", "password", "passwd", "secret",
                                                       "token"};
  const bool is_secret = std::any_of(kSecret.begin(), kSecret.end(), [this](std::string_view word) {
    return key_.find(word) != std::string::npos;
  });
  if (is_secret) return "not shown";
  switch (kind_) {
    case Kind::kNull:
      return "null";
    case Kind::kScalar:
      return quoted_where_needed(text_, true, false);
    default:
      break;
  }
  std::string out = kind_ == Kind::kMap ? "{" : "[";
  for (const auto& part : parts_) {
    if (!but.empty() && part->key_ == but) continue;
    if (out.size() > 1) out += ", ";
    if (kind_ == Kind::kMap) out += quoted_where_needed(part->key_, true, false) + ": ";
    out += part->written();
  }
  return out + (kind_ == Kind::kMap ? "}" : "]");
}

void Source::take() {
  taken_ = true;
  for (const auto& part : parts_) part->take();
}

void Source::give_back() {
  taken_ = false;
  for (const auto& part : parts_) part->give_back();
}

void Source::leave(std::string why, Note::Kind weight) { why_ = Note{weight, std::move(why)}; }

void Source::mark_told() {
  told_ = true;
  for (const auto& part : parts_) part->mark_told();
}

void tell_rest(Source& source, Draft& at, std::span<const Reason> reasons) {
  if (source.told() || source.taken()) return;
  // All of it in one note where it has one fate: nothing of it was read, or why it was left was
  // said of it as a whole.
  const bool whole = source.is_leaf() || source.why() || !is_touched(source);
  const Reason* known = source.why() ? nullptr : reason_for(source, reasons);
  const bool known_itself = known != nullptr && known->key == source.key();
  const bool is_root = source.parent() == nullptr;
  if (!whole || (is_root && !source.why())) {
    for (const auto& part : source.parts()) tell_rest(*part, at, reasons);
    return;
  }
  Note note{Note::Kind::kLost, "this importer knows no such field"};
  if (source.kind() != Source::Kind::kScalar && source.is_leaf()) {
    note = {Note::Kind::kSaid, "empty"};
  } else if (source.why()) {
    note = *source.why();
  } else if (known != nullptr) {
    note = {known->weight, std::string(known->why)};
  }
  // A map of which each field has a reason of its own is told field by field.
  if (!source.why() && !known_itself && !source.is_leaf()) {
    const bool differ =
        std::any_of(source.parts().begin(), source.parts().end(), [&](const auto& part) {
          const Reason* own = reason_for(*part, reasons);
          return own != nullptr && own->key == part->key();
        });
    if (differ) {
      for (const auto& part : source.parts()) tell_rest(*part, at, reasons);
      return;
    }
  }
  const std::string path = source.path();
  at.note({note.kind, fmt::format("{}{}{} ({})", path, path.empty() ? "" : ": ", source.written(),
                                  note.text)});
  source.mark_told();
}

bool read_json(std::string_view text, Source& into) {
  std::string wrong;
  std::size_t at = 0;
  Source read;
  if (!parse_json(text, read, wrong, at)) return false;
  return parse_json(text, into, wrong, at);
}

void read_document(Diagnostics& diagnostics, Source& into) {
  constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
  if (diagnostics.text.starts_with(kByteOrderMark)) {
    diagnostics.text.erase(0, kByteOrderMark.size());
  }
  if (diagnostics.text.size() > plan::kLargestPlan) {
    diagnostics.error({}, fmt::format("{} bytes are too many", diagnostics.text.size()),
                      "an experiment has at most 1 MiB");
    diagnostics.text.clear();
    return;
  }
  const auto first = diagnostics.text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos &&
      (diagnostics.text[first] == '{' || diagnostics.text[first] == '[')) {
    std::string wrong;
    std::size_t at = 0;
    if (parse_json(diagnostics.text, into, wrong, at)) return;
    diagnostics.error(at == 0 ? Place{} : place_of(diagnostics.text, at), wrong);
    return;
  }
  const plan::YamlTree tree = plan::read_yaml(diagnostics);
  if (diagnostics.has_errors() || tree.root == nullptr) return;
  if (tree.root->kind != plan::YamlNode::Kind::kMapping) return;
  into.become(Source::Kind::kMap);
  for (const plan::YamlNode::Entry& entry : tree.root->entries) {
    copy(*entry.value, entry.key->text, into);
  }
}

}  // namespace squall::importing
