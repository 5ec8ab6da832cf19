#include "experiments/plan/load.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "experiments/base/fd.h"
#include "experiments/plan/decode.h"
#include "experiments/plan/rules.h"
#include "experiments/plan/yaml.h"

namespace squall::plan {
namespace {

using Unfit = std::function<std::string(const struct stat&)>;

/// The file's text, or why not.
std::string read_file(const std::string& path, const Unfit& unfit, std::string& text) {
  if (path.find('\0') != std::string::npos) return "has a NUL byte in its name";
  // Non-blocking, or a fifo without a writer would hold us here before we could see that it is one.
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  const auto failed = [](int number) { return std::generic_category().message(number); };
  if (!file.is_open()) return failed(errno);
  struct stat status {};
  if (fstat(file.number(), &status) != 0) return failed(errno);
  if (S_ISDIR(status.st_mode)) return "is a directory";
  if (!S_ISREG(status.st_mode)) return "is not a file";
  if (std::string why = unfit ? unfit(status) : ""; !why.empty()) return why;
  // The size is a guess, right for most: one byte more shows that there is no more.
  text.resize(std::min(static_cast<std::size_t>(status.st_size), kLargestPlan) + 1);
  std::size_t size = 0;
  for (;;) {
    const ssize_t got = read(file.number(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > kLargestPlan) return "is larger than 1 MiB, which no plan is";
    if (size == text.size()) text.resize(std::min(2 * size + 4096, kLargestPlan + 1));
  }
  text.resize(size);
  return "";
}

}  // namespace

Loaded load(std::string text, std::string file_name, bool unobserved) {
  Loaded loaded;
  Diagnostics& diagnostics = loaded.diagnostics;
  diagnostics.file = std::move(file_name);
  diagnostics.text = std::move(text);
  const YamlTree tree = read_yaml(diagnostics);
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
  const Tainted tainted = decode(tree, plan, diagnostics);
  weigh_plan(*tree.root, tainted, unobserved, plan, diagnostics);
  if (!diagnostics.has_errors()) loaded.plan = std::move(plan);
  return loaded;
}

Loaded load_file(const std::string& path, bool unobserved) {
  std::string text;
  const std::string wrong = read_file(path, nullptr, text);
  if (wrong.empty()) return load(std::move(text), path, unobserved);
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
