#include "tests/fuzz/targets.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <google/protobuf/message.h>
#include <google/protobuf/stubs/logging.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>

#include "experiments/base/diagnostic.h"
#include "experiments/base/fd.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/describe.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/load.h"
#include "squall/v1/guardrails.pb.h"
#include "squall/v1/hold.pb.h"
#include "squall/v1/node.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::fuzz {
namespace {

namespace fs = std::filesystem;

// ---- what must be true

/// What a person is shown: never a byte that a terminal obeys.
std::string unfit_to_show(const std::string& text) {
  if (text == escape_controls(text, true)) return "";
  return "this would be shown with its controls: " + escape_controls(text);
}

std::string wrong_with(const Diagnostics& diagnostics) {
  for (const Diagnostic& found : diagnostics.found) {
    const std::string& text = diagnostics.text_of(found.place);
    const auto lines = static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')) + 1;
    if (found.summary.empty()) return "something is wrong, and nothing is said";
    if (found.place.line > lines) {
      return fmt::format("line {} of {}: {}", found.place.line, lines, found.summary);
    }
  }
  const std::string shown = format_diagnostics(diagnostics, false);
  if (shown.empty() != diagnostics.found.empty()) return "what was found is not what is shown";
  return unfit_to_show(shown);
}

std::string wrong_with(const v1::Fault& fault) {
  const std::string words = plan::in_words(fault);
  return words.empty() ? "a fault without words" : unfit_to_show(words);
}

std::string wrong_with(const google::protobuf::RepeatedPtrField<v1::Step>& steps) {
  for (const v1::Step& step : steps) {
    std::string wrong;
    if (step.has_fault()) wrong = wrong_with(step.fault());
    if (wrong.empty()) wrong = wrong_with(step.parallel().steps());
    if (wrong.empty()) wrong = wrong_with(step.repeat().steps());
    if (!wrong.empty()) return wrong;
  }
  return "";
}

std::string take_plan(std::string_view bytes) {
  // In no folder, or what it includes would be something else on another machine.
  const plan::Loaded loaded =
      plan::load(std::string(bytes), "/nowhere/plan.yaml",
                 {.set = {}, .params_files = {}, .unobserved = bytes.size() % 2 == 0});
  if (loaded.plan.has_value() == loaded.diagnostics.has_errors()) {
    return loaded.plan.has_value() ? "a plan in spite of errors" : "neither a plan nor an error";
  }
  if (std::string wrong = wrong_with(loaded.diagnostics); !wrong.empty()) return wrong;
  if (!loaded.plan) return "";
  if (const Status bounds = plan::check_bounds(*loaded.plan); !bounds.ok()) {
    return fmt::format("the plan is right, and on the wire it is not: {}",
                       std::string(bounds.message()));
  }
  return wrong_with(loaded.plan->method());
}

std::string take_guardrails(std::string_view bytes) {
  const Fd file(memfd_create("guardrails.yaml", MFD_CLOEXEC));
  if (!file.is_open() ||
      write(file.number(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return "no memory for a file";
  }
  v1::Guardrails guardrails;
  return wrong_with(plan::load_message_file(fmt::format("/proc/self/fd/{}", file.number()),
                                            "guardrails", {}, guardrails));
}

/// The bytes as one message, and the words of each fault in it once it keeps its bounds.
template <typename T, typename Faults>
std::string take_as(std::string_view bytes, Faults faults_of) {
  // What is not UTF-8 is told by protobuf itself, a line each time.
  const google::protobuf::LogSilencer quiet;
  T message;
  if (!message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return "";
  const Status bounds = plan::check_bounds(message);
  if (!bounds.ok()) return unfit_to_show(std::string(bounds.message()));
  for (const v1::Fault& fault : faults_of(message)) {
    if (std::string wrong = wrong_with(fault); !wrong.empty()) return wrong;
  }
  return "";
}

std::string take_message(std::string_view bytes) {
  using Faults = std::vector<v1::Fault>;
  std::string wrong = take_as<v1::PreflightRequest>(bytes, [](const auto& request) {
    return Faults(request.faults().begin(), request.faults().end());
  });
  if (!wrong.empty()) return wrong;
  wrong = take_as<v1::LeaseRequest>(bytes, [](const auto& request) {
    return request.has_inject() ? Faults{request.inject().fault()} : Faults{};
  });
  if (!wrong.empty()) return wrong;
  return take_as<v1::ToHolder>(
      bytes, [](const auto& to) { return to.has_start() ? Faults{to.start().fault()} : Faults{}; });
}

// ---- seeds

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// In the order of their names, so that what is made of them is the same each time.
std::vector<std::string> files_in(const fs::path& folder, std::string_view ending) {
  std::set<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().native().ends_with(ending)) paths.insert(entry.path());
  }
  std::vector<std::string> texts;
  for (const fs::path& path : paths) texts.push_back(read(path));
  return texts;
}

void append(std::vector<std::string>& to, std::vector<std::string> more) {
  std::move(more.begin(), more.end(), std::back_inserter(to));
}

/// A plan for the example of each kind, as `squall explain` shows them.
std::vector<std::string> plans_of_kinds() {
  std::vector<std::string> texts;
  const plan::OneofDescriptor& faults = *v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < faults.field_count(); ++i) {
    const v1::MessageRules& rules = plan::rules_of(*faults.field(i)->message_type());
    texts.push_back(fmt::format(
        "plan: t\nnodes: {{a: {{address: \"a:1\", labels: {{role: db}}}}, b: {{address: \"b:1\", "
        "labels: {{role: web}}}}}}\nmethod:\n  - on: all\n    {}\n{}",
        rules.example(), rules.at_once() ? "" : "    for: 1s\n"));
  }
  const plan::OneofDescriptor& checks = *v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < checks.field_count(); ++i) {
    texts.push_back(fmt::format(
        "plan: t\nnodes: {{local: {{}}}}\nmethod: [{{wait: 1s}}]\nsteady_state:\n  - name: x\n"
        "    expect: [latency < 1s]\n    {}\n",
        plan::rules_of(*checks.field(i)->message_type()).example()));
  }
  return texts;
}

std::vector<std::string> seeds_of_plan(const fs::path& root) {
  std::vector<std::string> texts = files_in(root / "tests/fuzz/corpus/plan", ".yaml");
  append(texts, files_in(root / "examples", ".yaml"));
  append(texts, files_in(root / "examples/checkout", ".yaml"));
  append(texts, files_in(root / "tests/unit/controller/import/examples", ".plan.yaml"));
  append(texts, plans_of_kinds());
  return texts;
}

std::vector<std::string> seeds_of_guardrails(const fs::path& root) {
  std::vector<std::string> texts = {read(root / "packaging/guardrails.yaml")};
  for (const plan::Page& page : plan::pages()) {
    if (page.type->file() == v1::Guardrails::descriptor()->file()) {
      texts.push_back(plan::rules_of(*page.type).example() + "\n");
    }
  }
  return texts;
}

void collect_faults(const google::protobuf::RepeatedPtrField<v1::Step>& steps,
                    std::vector<v1::Fault>& faults) {
  for (const v1::Step& step : steps) {
    if (step.has_fault()) faults.push_back(step.fault());
    collect_faults(step.parallel().steps(), faults);
    collect_faults(step.repeat().steps(), faults);
  }
}

/// Each fault of the plans as it comes to a node, and to a holder.
std::vector<std::string> seeds_of_message(const fs::path& root) {
  std::vector<v1::Fault> faults;
  for (const std::string& text : seeds_of_plan(root)) {
    const plan::Loaded loaded =
        plan::load(text, "/nowhere/plan.yaml", {.set = {}, .params_files = {}, .unobserved = true});
    if (loaded.plan) collect_faults(loaded.plan->method(), faults);
  }
  std::vector<std::string> messages;
  v1::PreflightRequest all;
  for (v1::Fault& fault : faults) {
    fault.set_id("run-1");
    *all.add_faults() = fault;
    v1::LeaseRequest inject;
    *inject.mutable_inject()->mutable_fault() = fault;
    messages.push_back(inject.SerializeAsString());
    v1::ToHolder start;
    *start.mutable_start()->mutable_fault() = fault;
    start.mutable_start()->set_state_id("a");
    messages.push_back(start.SerializeAsString());
  }
  messages.push_back(all.SerializeAsString());
  return messages;
}

}  // namespace

const std::vector<Target>& targets() {
  static const std::vector<Target> kTargets = {
      {"plan", take_plan, seeds_of_plan},
      {"message", take_message, seeds_of_message},
      {"guardrails", take_guardrails, seeds_of_guardrails},
  };
  return kTargets;
}

std::vector<std::string> words() {
  std::set<std::string> words = {"{",    "}",   "[",   "]",  ":",     ": ",   "- ",   "\n",  "\n  ",
                                 "\"",   "'",   "&a ", "*a", "!t ",   "<<: ", "#",    "|\n", "\t",
                                 "? ",   "-1",  "~",   "${", "}",     "$${",  "e400", "1s",  "50%",
                                 "\xff", "1Mi", "\\e", "%",  "...\n", "---\n"};
  for (const plan::Page& page : plan::pages()) {
    words.insert(page.word);
    for (const plan::FieldDescriptor* field : plan::fields_of(*page.type)) {
      words.insert(field->name());
      words.insert(plan::rules_of(*field).examples().begin(),
                   plan::rules_of(*field).examples().end());
    }
  }
  words.erase("");
  return {words.begin(), words.end()};
}

}  // namespace squall::fuzz
