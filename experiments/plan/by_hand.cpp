#include "experiments/plan/by_hand.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <utility>

#include "experiments/plan/decode.h"
#include "experiments/plan/expand.h"
#include "experiments/plan/file.h"
#include "experiments/plan/rules.h"
#include "experiments/plan/words.h"
#include "experiments/plan/yaml.h"

namespace squall::plan {
namespace {

/// What a step may be instead of a fault.
constexpr std::array<std::string_view, 5> kNoFaults = {"wait", "parallel", "repeat", "ask",
                                                       "include"};

class Making {
 public:
  Making(const ByHand& said, const Given& given) : said_(said), given_(given) {}

  Loaded run() {
    const YamlNode* step = nullptr;
    if (said_.plan_file.empty()) {
      out_.file = "inject";
      out_.text = said_.fault;
      tree_ = read_yaml(out_);
      step = tree_.root;
      if (out_.has_errors()) return std::move(loaded_);
    } else {
      if (!read_plan()) return std::move(loaded_);
      step = read_beside("inject", said_.fault);
    }
    if (out_.has_errors() || !is_fault(step)) return std::move(loaded_);
    make_root(*step);
    if (out_.has_errors()) return std::move(loaded_);
    v1::Plan plan;
    const Values values = expand(tree_, given_, out_);
    const Tainted tainted = decode(tree_, plan, out_);
    weigh_plan(*tree_.root, tainted, true, plan, out_);
    for (const auto& [name, value] : values) {
      if (plan.params().contains(name)) (*plan.mutable_params())[name].set_value(value);
    }
    loaded_.nodes = {plan.nodes().begin(), plan.nodes().end()};
    if (plan.steady_state().empty() && !given_.unobserved && !out_.has_errors()) {
      out_.error(step->place, "no check: nothing would see what the fault does",
                 "add --check and --expect, or --plan with a plan that has checks, or say "
                 "--unobserved");
    }
    if (out_.has_errors()) return std::move(loaded_);
    // What the plan says of its own method and traffic is not said of this.
    v1::Step only = std::move(*plan.mutable_method(plan.method_size() - 1));
    plan.clear_method();
    plan.clear_hypothesis();
    plan.clear_expect();
    plan.clear_load();
    plan.set_plan(fmt::format("by hand: {}", in_words(only.fault())));
    *plan.add_method() = std::move(only);
    loaded_.plan = std::move(plan);
    return std::move(loaded_);
  }

 private:
  bool read_plan() {
    out_.file = said_.plan_file;
    if (const std::string wrong = read_file(said_.plan_file, nullptr, out_.text); !wrong.empty()) {
      out_.error({}, wrong);
      return false;
    }
    tree_ = read_yaml(out_);
    if (out_.has_errors()) return false;
    if (tree_.root != nullptr && tree_.root->is_mapping()) return true;
    out_.error(tree_.root != nullptr ? tree_.root->place : Place{}, "a plan is a mapping",
               "begin with `plan:` and its title");
    return false;
  }

  const YamlNode* read_beside(const std::string& name, const std::string& text) {
    out_.beside.push_back({name, text});
    return read_yaml_beside(out_, out_.beside.size(), tree_);
  }

  bool is_fault(const YamlNode* step) {
    const std::size_t file = said_.plan_file.empty() ? 0 : out_.beside.size();
    if (step == nullptr || !step->is_mapping() || step->entries.empty()) {
      out_.error(step != nullptr ? step->place : Place{.file = file},
                 "a fault is its kind and its fields",
                 "write 'network: {delay: 200ms}'; squall explain step names the kinds");
      return false;
    }
    for (const std::string_view word : kNoFaults) {
      const YamlNode* key = step->find_key(word);
      if (key == nullptr) continue;
      out_.error(key->place, fmt::format("`{}` is no fault", word),
                 "what takes more than one fault is a plan for squall run");
      return false;
    }
    return true;
  }

  // ---- the tree

  /// A text of the command line that is no YAML, or a part of it.
  const YamlNode& scalar(std::string_view text, std::size_t file, std::size_t column = 1) {
    YamlNode& node = tree_.nodes.emplace_back();
    node.kind = YamlNode::Kind::kScalar;
    node.plain = node.verbatim = true;
    node.open = false;
    node.place = {1, column, std::max<std::size_t>(text.size(), 1), file};
    node.begin = column - 1;
    node.text = text;
    if (escape_controls(text) != text) {
      out_.error(node.place, "control characters, or bytes that are not UTF-8",
                 "write it in letters");
    }
    return node;
  }

  const YamlNode& said(const std::string& option, const std::string& text) {
    out_.beside.push_back({option, text});
    return scalar(text, out_.beside.size());
  }

  YamlNode& made(YamlNode::Kind kind, const Place& place) {
    YamlNode& node = tree_.nodes.emplace_back();
    node.kind = kind;
    node.open = false;
    node.flow = true;  // it has no line of its own
    node.place = place;
    return node;
  }

  /// A word that nobody wrote stands where its value does.
  void put(YamlNode& mapping, std::string_view word, const YamlNode& value) {
    YamlNode& key = tree_.nodes.emplace_back(value);
    key = YamlNode{};
    key.kind = YamlNode::Kind::kScalar;
    key.plain = true;
    key.open = false;
    key.place = value.place;
    key.text = word;
    const auto known = std::find_if(mapping.entries.begin(), mapping.entries.end(),
                                    [&](const auto& entry) { return entry.key->text == word; });
    if (known == mapping.entries.end()) {
      mapping.entries.push_back({&key, &value});
    } else {
      known->value = &value;
    }
  }

  void make_root(const YamlNode& fault) {
    YamlNode& step = tree_.add(fault);
    if (!said_.on.empty()) add(step, "on", selector());
    if (!said_.lasts.empty()) add(step, "for", said("--for", said_.lasts));

    const bool has_plan = !said_.plan_file.empty();
    YamlNode& root =
        has_plan ? tree_.add(*tree_.root) : made(YamlNode::Kind::kMapping, fault.place);
    if (!has_plan) put(root, "plan", title(fault.place));
    if (!said_.nodes.empty() || !has_plan) put(root, "nodes", nodes(fault.place));

    const YamlNode* known = root.find("steady_state");
    if (!said_.checks.empty()) {
      YamlNode& checks = known != nullptr && known->is_sequence()
                             ? tree_.add(*known)
                             : made(YamlNode::Kind::kSequence, fault.place);
      for (const YamlNode* check : checks.items) {
        if (const YamlNode* name = check->find("name")) names_.insert(name->text);
      }
      for (const ByHand::Check& check : said_.checks) {
        if (const YamlNode* read = this->check(check)) checks.items.push_back(read);
      }
      put(root, "steady_state", checks);
    }
    // Behind the plan's own steps, so that these are no less right than they are.
    const YamlNode* steps = root.find("method");
    YamlNode& method = steps != nullptr && steps->is_sequence()
                           ? tree_.add(*steps)
                           : made(YamlNode::Kind::kSequence, fault.place);
    method.items.push_back(&step);
    put(root, "method", method);
    tree_.root = &root;
  }

  void add(YamlNode& step, std::string_view word, const YamlNode& value) {
    if (step.find_key(word) == nullptr) return put(step, word, value);
    out_.error(value.place, fmt::format("`{}` is said with the fault already", word),
               "say it once");
  }

  const YamlNode& title(const Place& place) {
    YamlNode& node = made(YamlNode::Kind::kScalar, place);
    node.text = "by hand";
    return node;
  }

  const YamlNode& nodes(const Place& place) {
    YamlNode& nodes = made(YamlNode::Kind::kMapping, place);
    if (said_.nodes.empty()) put(nodes, "local", made(YamlNode::Kind::kMapping, place));
    for (std::size_t n = 0; n < said_.nodes.size(); ++n) {
      const YamlNode& address = said("--node", said_.nodes[n]);
      YamlNode& node = made(YamlNode::Kind::kMapping, address.place);
      put(node, "address", address);
      put(nodes, fmt::format("node-{}", n + 1), node);
    }
    return nodes;
  }

  /// web-1, or role=web,zone=a
  const YamlNode& selector() {
    const YamlNode& whole = said("--on", said_.on);
    const std::string_view text = said_.on;
    if (text.find('=') == text.npos) return whole;
    YamlNode& labels = made(YamlNode::Kind::kMapping, whole.place);
    std::size_t at = 0;
    while (at <= text.size()) {
      const std::size_t end = std::min(text.find(',', at), text.size());
      const std::string_view part = text.substr(at, end - at);
      const std::size_t equals = part.find('=');
      if (equals == 0 || equals == part.npos || equals + 1 == part.size()) {
        const Place place{1, at + 1, std::max<std::size_t>(part.size(), 1), whole.place.file};
        out_.error(place, "labels are written role=web,zone=a");
        return whole;
      }
      const YamlNode& key = scalar(part.substr(0, equals), whole.place.file, at + 1);
      const YamlNode& value = scalar(part.substr(equals + 1), whole.place.file, at + equals + 2);
      if (labels.find_key(key.text) != nullptr) {
        out_.error(key.place, fmt::format("a second value for the label {}", key.text));
        return whole;
      }
      labels.entries.push_back({&key, &value});
      at = end + 1;
    }
    return labels;
  }

  const YamlNode* check(const ByHand::Check& wanted) {
    const YamlNode* read = read_beside("--check", wanted.text);
    if (out_.has_errors()) return nullptr;
    if (read == nullptr || !read->is_mapping() || read->entries.empty()) {
      out_.error(read != nullptr ? read->place : Place{.file = out_.beside.size()},
                 "a check is its kind and its fields",
                 "write 'http: {url: \"http://127.0.0.1:8080/\"}'; squall explain check");
      return nullptr;
    }
    YamlNode& check = tree_.add(*read);
    if (check.find_key("name") == nullptr) {
      YamlNode& name = made(YamlNode::Kind::kScalar, check.place);
      name.text = unused(check.entries.front().key->text);
      put(check, "name", name);
    }
    if (wanted.expect.empty()) return &check;
    const YamlNode* known = check.find("expect");
    YamlNode& expect = known != nullptr && known->is_sequence()
                           ? tree_.add(*known)
                           : made(YamlNode::Kind::kSequence, check.place);
    for (const std::string& one : wanted.expect) expect.items.push_back(&said("--expect", one));
    put(check, "expect", expect);
    return &check;
  }

  /// http, http 2
  std::string unused(const std::string& word) {
    std::string name = word;
    for (int n = 2; !names_.insert(name).second; ++n) name = fmt::format("{} {}", word, n);
    return name;
  }

  const ByHand& said_;
  const Given& given_;
  Loaded loaded_;
  Diagnostics& out_ = loaded_.diagnostics;
  YamlTree tree_;
  std::set<std::string> names_;  ///< Of checks.
};

}  // namespace

Loaded load_by_hand(const ByHand& said, const Given& given) { return Making(said, given).run(); }

}  // namespace squall::plan
