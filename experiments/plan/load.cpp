#include "experiments/plan/load.h"

#include <fmt/format.h>

#include <utility>

#include "experiments/plan/decode.h"
#include "experiments/plan/expand.h"
#include "experiments/plan/file.h"
#include "experiments/plan/rules.h"
#include "experiments/plan/yaml.h"

namespace squall::plan {

Loaded load(std::string text, std::string file_name, const Given& given) {
  Loaded loaded;
  Diagnostics& diagnostics = loaded.diagnostics;
  diagnostics.file = std::move(file_name);
  diagnostics.text = std::move(text);
  YamlTree tree = read_yaml(diagnostics);
  if (tree.root == nullptr) {
    if (!diagnostics.has_errors()) {
      diagnostics.error({}, "the plan is empty", "begin with `plan:` and its title");
    }
    return loaded;
  }
  if (tree.root->kind != YamlNode::Kind::kMapping) {
    const bool empty = tree.root->kind == YamlNode::Kind::kNull;
    diagnostics.error(empty ? Place{} : tree.root->place,
                      empty ? "the plan is empty" : "a plan is a mapping",
                      "begin with `plan:` and its title");
    return loaded;
  }
  v1::Plan plan;
  const Values values = expand(tree, given, diagnostics);
  const Tainted tainted = decode(tree, plan, diagnostics);
  weigh_plan(*tree.root, tainted, given.unobserved, plan, diagnostics);
  for (const auto& [name, value] : values) {
    if (plan.params().contains(name)) (*plan.mutable_params())[name].set_value(value);
  }
  loaded.nodes = {plan.nodes().begin(), plan.nodes().end()};
  if (!diagnostics.has_errors()) loaded.plan = std::move(plan);
  return loaded;
}

Loaded load_file(const std::string& path, const Given& given) {
  std::string text;
  const std::string wrong = read_file(path, nullptr, text);
  if (wrong.empty()) return load(std::move(text), path, given);
  Loaded loaded;
  loaded.diagnostics.file = path;
  loaded.diagnostics.error({}, wrong, "");
  return loaded;
}

Diagnostics load_message_file(const std::string& path, const std::string& called,
                              const Beyond& beyond, Message& message) {
  Diagnostics diagnostics;
  diagnostics.file = path;
  if (const std::string wrong = read_file(path, beyond.unfit, diagnostics.text); !wrong.empty()) {
    diagnostics.error({}, wrong);
    return diagnostics;
  }
  const YamlTree tree = read_yaml(diagnostics);
  if (diagnostics.has_errors()) return diagnostics;
  if (tree.root == nullptr || tree.root->kind == YamlNode::Kind::kNull) {
    diagnostics.error({}, fmt::format("the {} are empty", called));
    return diagnostics;
  }
  decode(tree, message, diagnostics);
  if (!diagnostics.has_errors() && beyond.weigh) beyond.weigh(*tree.root, diagnostics);
  return diagnostics;
}

}  // namespace squall::plan
