#include "experiments/plan/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "experiments/base/units.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/file.h"
#include "experiments/plan/rules.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

namespace fs = std::filesystem;

bool is_number(std::string_view text) {
  return parse_count(text).ok() || (text.starts_with('-') && parse_count(text.substr(1)).ok());
}

bool is_boolean(std::string_view text) { return text == "true" || text == "false"; }

/// What a text without quotes looks like.
v1::Parameter::Type type_of(std::string_view text) {
  if (is_boolean(text)) return v1::Parameter::BOOLEAN;
  if (is_number(text)) return v1::Parameter::NUMBER;
  if (parse_duration(text).ok()) return v1::Parameter::DURATION;
  if (parse_percent(text).ok()) return v1::Parameter::PERCENT;
  if (parse_bytes(text).ok()) return v1::Parameter::BYTES;
  if (parse_rate(text).ok()) return v1::Parameter::RATE;
  return v1::Parameter::TEXT;
}

template <typename T>
std::optional<Problem> problem_in(const StatusOr<T>& value) {
  if (value.ok()) return std::nullopt;
  return problem_of(value.status());
}

std::optional<Problem> mistyped(std::string_view text, v1::Parameter::Type type) {
  switch (type) {
    case v1::Parameter::DURATION:
      return problem_in(parse_duration(text));
    case v1::Parameter::PERCENT:
      return problem_in(parse_percent(text));
    case v1::Parameter::BYTES:
      return problem_in(parse_bytes(text));
    case v1::Parameter::RATE:
      return problem_in(parse_rate(text));
    case v1::Parameter::NUMBER:
      if (is_number(text)) return std::nullopt;
      return Problem{fmt::format("\"{}\" is not a whole number", text), ""};
    case v1::Parameter::BOOLEAN:
      if (is_boolean(text)) return std::nullopt;
      return Problem{fmt::format("\"{}\" is neither true nor false", text), "write true or false"};
    default:
      return std::nullopt;
  }
}

struct Value {
  std::string text;
  bool plain = true;
  std::string from;  ///< In words: line 6, --set.
};

struct Parameter {
  const YamlNode* key = nullptr;
  v1::Parameter::Type type = v1::Parameter::TEXT;
  std::string example;  ///< Its default, where that says the type.
  std::vector<std::string> one_of;
  std::optional<Value> value;
  bool wrong = false;  ///< The value, which was told where it is given.
  bool used = false;
};

class Expansion {
 public:
  Expansion(YamlTree& tree, const Given& given, Diagnostics& diagnostics)
      : tree_(tree), given_(given), out_(diagnostics), folder_(diagnostics.file) {}

  Values run() {
    const std::size_t before = tree_.nodes.size();
    take_nodes();
    take_steps();
    declare();
    read_files();
    read_set();
    tree_.root = without_parameters(*tree_.root);
    finish();
    // Of a text alone the reader has seen to that.
    if (tree_.nodes.size() != before && !is_bounded(*tree_.root)) {
      tree_.root = without_value(*tree_.root);
    }
    Values values;
    for (const auto& [name, parameter] : parameters_) {
      if (parameter.value) values[name] = parameter.value->text;
    }
    return values;
  }

 private:
  // ---- other files

  /// The root of a file beside the plan; null if there is none. `named`: the value that names it,
  /// in a file of the folder `below` the plan's.
  const YamlNode* read(const YamlNode& named, const fs::path& below, fs::path& path) {
    if (named.kind != YamlNode::Kind::kScalar || named.text.empty()) return nullptr;
    path = (below / named.text).lexically_normal();
    const auto [known, fresh] = files_.try_emplace(path.native(), nullptr);
    if (!fresh) return known->second;
    if (named.text.find("${") != named.text.npos) {
      unreadable_.insert(path.native());
      out_.error(named.place, "a file's name has no parameters",
                 "which files belong to a plan is the same for every run");
      return nullptr;
    }
    if (path.is_absolute() || *path.begin() == "..") {
      unreadable_.insert(path.native());
      out_.error(named.place, "this file is not below the plan's folder",
                 "write its path from there, without a leading /");
      return nullptr;
    }
    std::string text;
    if (const std::string wrong = folder_.read_below(path.native(), text); !wrong.empty()) {
      unreadable_.insert(path.native());
      out_.error(named.place, fmt::format("{}: {}", folder_.shown(path.native()), wrong));
      return nullptr;
    }
    out_.beside.push_back({folder_.shown(path.native()), std::move(text)});
    known->second = read_yaml_beside(out_, out_.beside.size(), tree_);
    return known->second;
  }

  void take_nodes() {
    const YamlNode* nodes = tree_.root->find("nodes");
    if (nodes == nullptr || !nodes->is_mapping()) return;
    const YamlNode* from = nodes->find("from");
    if (from == nullptr || from->is_mapping() || from->kind == YamlNode::Kind::kNull) return;
    if (nodes->entries.size() > 1) {
      out_.error(nodes->find_key("from")->place, "nodes of another file, and some written here",
                 "write one or the other");
      put(tree_.root, "nodes", *without_value(*nodes));
      return;
    }
    fs::path path;
    const std::size_t before = out_.errors;
    const YamlNode* read_nodes = read(*from, "", path);
    if (read_nodes == nullptr || !read_nodes->is_mapping() || read_nodes->entries.empty()) {
      if (out_.errors == before) {
        out_.error(from->place, "this file holds no nodes",
                   "write a mapping in it: db-1: {address: 10.0.0.11:7411, labels: {role: db}}");
      }
      put(tree_.root, "nodes", *without_value(*nodes));
      return;
    }
    put(tree_.root, "nodes", *read_nodes);
  }

  void take_steps() {
    const YamlNode* method = tree_.root->find("method");
    if (method == nullptr) return;
    put(tree_.root, "method", *included(*method, ""));
  }

  /// A list of steps, in a file of the folder `below` the plan's, with those of other files in
  /// their places. The same node where there are none.
  const YamlNode* included(const YamlNode& list, const fs::path& below) {
    if (!list.is_sequence() || steps_ > kMostSteps) return &list;
    std::vector<const YamlNode*> items;
    bool changed = false;
    for (const YamlNode* item : list.items) {
      const YamlNode* path = item->find("include");
      if (path != nullptr && item->entries.size() > 1) {
        out_.error(item->find_key("include")->place, "`include` stands alone in its step",
                   "the steps of the other file say all that they need");
        path = nullptr;
      }
      if (path == nullptr) {
        items.push_back(step_with_included(*item, below));
        changed = changed || items.back() != item;
        continue;
      }
      if (const YamlNode* steps = included_file(*path, below)) {
        steps_ += 1 + steps->items.size();
        items.insert(items.end(), steps->items.begin(), steps->items.end());
        changed = true;
      } else {
        items.push_back(item);
      }
    }
    if (steps_ > kMostSteps) {
      if (std::exchange(too_many_, true)) return &list;
      out_.error(list.place, fmt::format("the files bring more than {} steps", kMostSteps),
                 "those of one that is included twice count twice");
      return &list;
    }
    if (!changed) return &list;
    YamlNode& whole = tree_.add(list);
    whole.items = std::move(items);
    return &whole;
  }

  const YamlNode* included_file(const YamlNode& named, const fs::path& below) {
    fs::path path;
    const std::size_t before = out_.errors;
    const YamlNode* steps = read(named, below, path);
    if (steps == nullptr || !steps->is_sequence()) {
      if (out_.errors == before && !unreadable_.contains(path.native()) && named.is_scalar() &&
          !named.text.empty()) {
        out_.error(named.place, "this file is not a list of steps",
                   "begin each step in it with \"- \", without a key around them");
      }
      return nullptr;
    }
    if (std::find(including_.begin(), including_.end(), path) != including_.end()) {
      out_.error(named.place, "this file includes itself", "it would go on for ever");
      return nullptr;
    }
    if (including_.size() >= kDeepestPlan) {
      out_.error(named.place, fmt::format("more than {} files within each other", kDeepestPlan));
      return nullptr;
    }
    including_.push_back(path);
    const YamlNode* whole = included(*steps, path.parent_path());
    including_.pop_back();
    return whole;
  }

  /// A step whose own lists may include.
  const YamlNode* step_with_included(const YamlNode& step, const fs::path& below) {
    const YamlNode* parallel = step.find("parallel");
    const YamlNode* repeat = step.find("repeat");
    if (parallel != nullptr) return with(step, "parallel", *included(*parallel, below));
    const YamlNode* steps = repeat != nullptr ? repeat->find("steps") : nullptr;
    if (steps == nullptr) return &step;
    return with(step, "repeat", *with(*repeat, "steps", *included(*steps, below)));
  }

  void put(const YamlNode*& mapping, std::string_view key, const YamlNode& value) {
    mapping = with(*mapping, key, value);
  }

  /// The mapping with another value for a key that it has.
  const YamlNode* with(const YamlNode& mapping, std::string_view key, const YamlNode& value) {
    if (mapping.find(key) == &value) return &mapping;
    YamlNode& changed = tree_.add(mapping);
    for (YamlNode::Entry& entry : changed.entries) {
      if (entry.key->text == key) entry.value = &value;
    }
    return &changed;
  }

  /// Whether it is no more than a plan may be, with all that stands in it now; tells where it goes
  /// beyond.
  bool is_bounded(const YamlNode& node) {
    bytes_ += node.text.size();
    if (++values_ > kMostValues) {
      out_.error(
          node.place, "too many values",
          fmt::format("a plan has at most {} values, as often as files are included", kMostValues));
      return false;
    }
    if (bytes_ > kMostText) {
      out_.error(node.place, "too much text", kMostTextHint);
      return false;
    }
    const auto is_right = [this](const YamlNode* one) { return is_bounded(*one); };
    return std::all_of(node.items.begin(), node.items.end(), is_right) &&
           std::all_of(node.entries.begin(), node.entries.end(), [&](const YamlNode::Entry& entry) {
             return is_bounded(*entry.key) && is_bounded(*entry.value);
           });
  }

  // ---- parameters

  /// What is wrong with a declaration in itself is the decoder's to tell.
  void declare() {
    const YamlNode* params = tree_.root->find("params");
    if (params == nullptr || !params->is_mapping()) return;
    for (const YamlNode::Entry& entry : params->entries) {
      const auto [made, fresh] = parameters_.try_emplace(entry.key->text);
      if (!fresh) continue;
      Parameter& parameter = made->second;
      parameter.key = entry.key;
      const bool written_out = entry.value->is_mapping();
      const YamlNode* fallback = written_out ? entry.value->find("default") : entry.value;
      if (fallback != nullptr && !fallback->is_scalar()) fallback = nullptr;
      if (fallback != nullptr) {
        parameter.value = Value{fallback->text, fallback->plain,
                                fmt::format("as line {} says", fallback->place.line)};
        if (fallback->plain) parameter.type = type_of(fallback->text);
        parameter.example = fallback->text;
      }
      if (!written_out) continue;
      if (const YamlNode* type = entry.value->find("type")) {
        const auto* named = value_named(*v1::Parameter::Type_descriptor(), type->text);
        if (named != nullptr && named->number() != v1::Parameter::AS_DEFAULT) {
          parameter.type = static_cast<v1::Parameter::Type>(named->number());
          parameter.example = "";
        }
      }
      if (const YamlNode* one_of = entry.value->find("one_of")) {
        for (const YamlNode* word : one_of->items) parameter.one_of.push_back(word->text);
      }
      if (fallback == nullptr) continue;
      if (const auto wrong = unfit(parameter, fallback->text)) {
        out_.error(fallback->place, wrong->summary, wrong->hint);
        parameter.wrong = true;
      }
    }
  }

  static std::optional<Problem> unfit(const Parameter& parameter, const std::string& text) {
    if (auto problem = mistyped(text, parameter.type)) {
      if (!parameter.example.empty() && parameter.example != text) {
        problem->hint += fmt::format("{}its default is {}", problem->hint.empty() ? "" : "; ",
                                     parameter.example);
      }
      return problem;
    }
    const auto& known = parameter.one_of;
    if (known.empty() || std::find(known.begin(), known.end(), text) != known.end()) {
      return std::nullopt;
    }
    return Problem{fmt::format("\"{}\" is none of its values", text),
                   suggestion(text, known, fmt::format("it may be {}", one_of(known)))};
  }

  static std::string suggestion(const std::string& word, const std::vector<std::string>& known,
                                const std::string& otherwise) {
    const std::string near = nearest(word, known);
    return near.empty() ? otherwise : fmt::format("did you mean \"{}\"?", near);
  }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, parameter] : parameters_) names.push_back(name);
    return names;
  }

  std::string no_such(const std::string& name) const {
    if (parameters_.empty()) {
      return "the plan declares none in `params`; $${ stands for ${ itself";
    }
    // Comparing with thousands takes longer than a person waits for a hint.
    constexpr std::size_t kMostCompared = 200;
    if (parameters_.size() > kMostCompared) {
      return fmt::format("it declares {} others", parameters_.size());
    }
    const std::vector<std::string> known = names();
    return suggestion(name, known, fmt::format("it declares {}", fmt::join(known, ", ")));
  }

  void give(const std::string& name, const Place& at_name, Value value, const Place& at_value) {
    const auto found = parameters_.find(name);
    if (found == parameters_.end()) {
      out_.error(at_name, fmt::format("the plan has no parameter \"{}\"", name),
                 [&] { return no_such(name); });
      return;
    }
    const auto wrong = unfit(found->second, value.text);
    if (wrong) out_.error(at_value, fmt::format("{}: {}", name, wrong->summary), wrong->hint);
    found->second.wrong = wrong.has_value();
    found->second.value = std::move(value);
  }

  void read_files() {
    for (const std::string& file : given_.params_files) {
      Source& source = out_.beside.emplace_back(Source{file, ""});
      const std::size_t number = out_.beside.size();
      if (const std::string wrong = read_file(file, nullptr, source.text); !wrong.empty()) {
        out_.error({.file = number}, wrong);
        continue;
      }
      const std::size_t before = out_.errors;
      const YamlNode* root = read_yaml_beside(out_, number, tree_);
      if (root == nullptr && out_.errors != before) continue;
      if (root == nullptr || !root->is_mapping()) {
        out_.error({.file = number}, "this is not a mapping of parameters to their values",
                   "write a line for each: delay: 300ms");
        continue;
      }
      for (const YamlNode::Entry& entry : root->entries) {
        if (!entry.value->is_scalar()) {
          out_.error(entry.key->place, fmt::format("\"{}\" has not one value", entry.key->text),
                     "");
          continue;
        }
        give(entry.key->text, entry.key->place,
             {entry.value->text, entry.value->plain, fmt::format("by {}", file)},
             entry.value->place);
      }
    }
  }

  /// Each --set is a line of a text of its own, so that what is wrong can be pointed at.
  void read_set() {
    if (given_.set.empty()) return;
    Source& source = out_.beside.emplace_back(Source{"--set", ""});
    for (const std::string& said : given_.set) source.text += escape_controls(said) + "\n";
    std::unordered_set<std::string> names;
    for (std::size_t n = 0; n < given_.set.size(); ++n) {
      const std::string& said = given_.set[n];
      const std::size_t equals = said.find('=');
      const Place name{n + 1, 1, std::max<std::size_t>(std::min(equals, said.size()), 1),
                       out_.beside.size()};
      if (equals == 0 || equals == said.npos) {
        out_.error(name, "--set gives a parameter its value", "write --set name=value");
        continue;
      }
      if (!names.insert(said.substr(0, equals)).second) {
        out_.error(name, "a second value for the same parameter", "give it one");
        continue;
      }
      const Place value{n + 1, equals + 2, std::max<std::size_t>(said.size() - equals - 1, 1),
                        out_.beside.size()};
      give(said.substr(0, equals), name, {said.substr(equals + 1), true, "by --set"}, value);
    }
  }

  // ---- ${name}

  const YamlNode* without_parameters(const YamlNode& root) {
    const bool any = out_.text.find("${") != out_.text.npos ||
                     std::any_of(out_.beside.begin(), out_.beside.end(), [](const Source& source) {
                       return source.text.find("${") != source.text.npos;
                     });
    if (!any) return &root;
    YamlNode& whole = tree_.add(root);
    for (YamlNode::Entry& entry : whole.entries) {
      if (entry.key->text != "params") entry.value = filled(*entry.value);
    }
    return &whole;
  }

  const YamlNode* filled(const YamlNode& node) {
    if (node.kind == YamlNode::Kind::kNull) return &node;
    const auto known = filled_.find(&node);
    if (known != filled_.end()) return known->second;
    const YamlNode* result = &node;
    if (node.is_scalar()) {
      if (node.text.find("${") != node.text.npos) result = filled_scalar(node);
    } else {
      YamlNode copy = node;
      bool changed = false;
      for (YamlNode::Entry& entry : copy.entries) {
        const YamlNode* value = filled(*entry.value);
        changed = changed || value != entry.value;
        entry.value = value;
        if (entry.key->text.find("${") != entry.key->text.npos) {
          out_.error(entry.key->place, "a key is no parameter's", "${name} stands for a value");
        }
      }
      for (const YamlNode*& item : copy.items) {
        const YamlNode* value = filled(*item);
        changed = changed || value != item;
        item = value;
      }
      if (changed) result = &(tree_.add(node) = std::move(copy));
    }
    filled_[&node] = result;
    return result;
  }

  const YamlNode* filled_scalar(const YamlNode& node) {
    YamlNode copy = node;
    copy.text.clear();
    std::vector<std::string> remarks;
    const std::string_view text = node.text;
    std::size_t at = 0;
    // All that is wrong with one text is told, and all that it uses is used.
    bool wrong = false;
    while (at < text.size()) {
      const std::size_t next = std::min(text.find("${", at), text.size());
      const bool escaped = next < text.size() && next > at && text[next - 1] == '$';
      if (next == text.size() || escaped) {
        // $${ is how ${ itself is written.
        const std::size_t end = escaped ? next - 1 : next;
        copy.text += text.substr(at, end - at);
        at = end;
        if (escaped) {
          copy.stands.push_back({copy.text.size(), copy.text.size() + 2, at, at + 3});
          copy.text += "${";
          at += 3;
        }
        continue;
      }
      copy.text += text.substr(at, next - at);
      const std::size_t close = text.find('}', next);
      if (close == text.npos) {
        out_.error(node.within(next, 2), "this ${ is never closed",
                   "write ${name}, or $${ for the two characters themselves");
        return without_value(node);
      }
      at = close + 1;
      const std::string name(text.substr(next + 2, close - next - 2));
      const auto found = parameters_.find(name);
      if (found == parameters_.end()) {
        out_.error(node.within(next, close + 1 - next),
                   fmt::format("there is no parameter \"{}\"", name),
                   [&] { return no_such(name); });
        unset_ = true;
        wrong = true;
        continue;
      }
      Parameter& parameter = found->second;
      parameter.used = true;
      if (!parameter.value) {
        out_.error(node.within(next, close + 1 - next), fmt::format("{} has no value", name),
                   fmt::format("give it one by --set {}=VALUE, or a default in `params`", name));
        wrong = true;
        continue;
      }
      wrong = wrong || parameter.wrong;
      if (wrong) continue;
      const Value& value = *parameter.value;
      filled_bytes_ += value.text.size();
      if (filled_bytes_ > kMostText) {
        out_.error(node.within(next, close + 1 - next), "too much text", kMostTextHint);
        return without_value(node);
      }
      if (value.text.size() < kLongestRemark && value.text.find("://") == value.text.npos) {
        remarks.push_back(
            fmt::format("{} is \"{}\", {}", name, shown_value(name, value.text), value.from));
      }
      const bool whole = next == 0 && close + 1 == text.size();
      if (whole) copy.plain = value.plain;
      copy.stands.push_back(
          {copy.text.size(), copy.text.size() + value.text.size(), next, close + 1});
      copy.text += value.text;
    }
    if (wrong) return without_value(node);
    // What the text is about is still where it was, and so are its quotes.
    if (copy.plain != node.plain) {
      copy.verbatim = false;
      copy.lines.clear();
    }
    if (!remarks.empty()) out_.remarks[node.place] = fmt::format("{}", fmt::join(remarks, ", "));
    return &(tree_.add(node) = std::move(copy));
  }

  const YamlNode* without_value(const YamlNode& node) {
    YamlNode& copy = tree_.add(node);
    copy.told = true;
    return &copy;
  }

  void finish() {
    for (const auto& [name, parameter] : parameters_) {
      if (parameter.used || unset_) continue;
      out_.warning(parameter.key->place, fmt::format("nothing in the plan uses {}", name),
                   fmt::format("write ${{{}}} where its value belongs", name));
    }
  }

  static constexpr std::size_t kLongestRemark = 60;

  YamlTree& tree_;
  const Given& given_;
  Diagnostics& out_;
  Folder folder_;
  std::unordered_map<std::string, const YamlNode*> files_;
  std::unordered_set<std::string> unreadable_;  ///< Told.
  std::vector<fs::path> including_;
  std::size_t steps_ = 0;  ///< That files brought.
  bool too_many_ = false;
  std::size_t values_ = 0;
  std::size_t bytes_ = 0;
  std::size_t filled_bytes_ = 0;  ///< That parameters brought.
  std::map<std::string, Parameter> parameters_;
  std::unordered_map<const YamlNode*, const YamlNode*> filled_;
  bool unset_ = false;  ///< A name was misspelt, perhaps that of one that is not used.
};

}  // namespace

std::string shown_value(const std::string& name, const std::string& value) {
  std::string lower = name;
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  for (const std::string_view word : {"pass", "pw", "secret", "token", "key", "credential"}) {
    if (lower.find(word) != lower.npos) return "***";
  }
  const bool is_url = value.find("://") != value.npos;
  const bool is_secret = value.find('@') != value.npos || value.find("password=") != value.npos;
  return is_url && is_secret ? "***" : value;
}

Values expand(YamlTree& tree, const Given& given, Diagnostics& diagnostics) {
  return Expansion(tree, given, diagnostics).run();
}

}  // namespace squall::plan
