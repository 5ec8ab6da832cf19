#include "experiments/plan/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/base/diagnostic.h"
#include "experiments/base/file.h"
#include "experiments/base/units.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/describe.h"
#include "experiments/plan/expectation.h"
#include "experiments/plan/forms.h"

namespace squall::plan {
namespace {

std::string indented(const std::string& text) {
  std::string out = "  ";
  for (const char c : text) {
    out += c;
    if (c == '\n') out += "  ";
  }
  return out;
}

/// Breaks between words so that no line is longer than the screen; `hang` blanks begin every line
/// but the first.
std::string wrapped(const std::string& text, std::size_t hang) {
  constexpr std::size_t kWidth = 100;
  std::string out;
  std::size_t column = hang;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    const std::string word = text.substr(at, end - at);
    if (!out.empty() && column + 1 + word.size() > kWidth) {
      out += '\n' + std::string(hang, ' ');
      column = hang;
    } else if (!out.empty()) {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
    at = end + 1;
  }
  return out;
}

/// (1us to 60s; default 1s; such as 200ms), behind a blank; empty where there is nothing to say.
std::string in_brackets(const FieldDescription& field) {
  std::vector<std::string> said = field.conditions;
  if (!field.default_value.empty()) said.push_back(fmt::format("default {}", field.default_value));
  if (!field.examples.empty()) {
    said.push_back(fmt::format("such as {}", fmt::join(field.examples, ", ")));
  }
  return said.empty() ? "" : fmt::format(" ({})", fmt::join(said, "; "));
}

std::string as_text(const Description& told) {
  std::string text = wrapped(fmt::format("{}: {}", told.word, told.help), 0) + "\n\n";
  std::size_t names = 0;
  std::size_t types = 0;
  for (const FieldDescription& field : told.fields) {
    names = std::max(names, field.name.size());
    types = std::max(types, field.type.size());
  }
  for (const FieldDescription& field : told.fields) {
    const std::size_t hang = 2 + names + 2 + types + 2;
    text += fmt::format("  {:<{}}  {:<{}}  {}\n", field.name, names, field.type, types,
                        wrapped(field.help + in_brackets(field), hang));
  }
  for (const std::string& rule : told.rules) text += fmt::format("\n{}\n", wrapped(rule, 0));
  if (!told.metrics.empty()) {
    text += fmt::format("\nMetrics\n  {}\n",
                        wrapped(fmt::format("{}", fmt::join(told.metrics, ", ")), 2));
  }
  if (!told.states.empty()) text += fmt::format("  state is {}\n", one_of(told.states));
  if (!told.example.empty()) text += fmt::format("\nExample\n{}\n", indented(told.example));
  return text;
}

/// What the answers of a check kind show, a load, or a run as a whole.
struct Metrics {
  std::string kind;
  std::string page;
  std::vector<std::string> names;
  std::vector<std::string> states;
};

std::vector<Metrics> metrics_of_all() {
  std::vector<Metrics> all;
  const OneofDescriptor& kinds = *v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    const v1::MessageRules& rules = rules_of(*kinds.field(i)->message_type());
    all.push_back({kinds.field(i)->name(),
                   word_of(*kinds.field(i)->message_type()),
                   {rules.metrics().begin(), rules.metrics().end()},
                   {rules.states().begin(), rules.states().end()}});
  }
  const auto& of_load = rules_of(*v1::HttpLoad::descriptor()).metrics();
  all.push_back(
      {"load", word_of(*v1::HttpLoad::descriptor()), {of_load.begin(), of_load.end()}, {}});
  const auto& of_run = rules_of(*v1::Plan::descriptor()).metrics();
  all.push_back({"the run", word_of(*v1::Plan::descriptor()), {of_run.begin(), of_run.end()}, {}});
  return all;
}

std::string as_text(const Grammar& grammar) {
  std::string text = fmt::format("expectation: {}\n\n  {}\n\n", grammar.help, grammar.form);
  std::size_t names = 0;
  for (const auto& [part, help] : grammar.parts) names = std::max(names, part.size());
  for (const auto& [part, help] : grammar.parts) {
    text += fmt::format("  {:<{}}  {}\n", part, names, wrapped(help, 2 + names + 2));
  }
  text += "\nMetrics\n";
  std::size_t kinds = 0;
  const std::vector<Metrics> metrics = metrics_of_all();
  for (const Metrics& of : metrics) kinds = std::max(kinds, of.kind.size());
  for (const Metrics& of : metrics) {
    const std::size_t hang = 2 + kinds + 2;
    text += fmt::format("  {:<{}}  {}\n", of.kind, kinds,
                        wrapped(fmt::format("{}", fmt::join(of.names, ", ")), hang));
    if (!of.states.empty()) {
      text += fmt::format("{}state is {}\n", std::string(hang, ' '), one_of(of.states));
    }
  }
  text += "\nExamples\n";
  for (const std::string& example : grammar.examples) text += fmt::format("  {}\n", example);
  return text;
}

/// `word`, and several of them one after the other; empty for none.
std::string in_code(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ", ";
    text += fmt::format("`{}`", word);
  }
  return text;
}

/// A cell of a table: a bar would end it.
std::string cell(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string in_fence(const std::string& language, const std::string& text) {
  return fmt::format("\n```{}\n{}{}```\n", language, text, text.ends_with('\n') ? "" : "\n");
}

constexpr const char* kOrigin =
    "<!-- Told from the declarations in api/squall/v1/ by ./dev docs; not written by hand. -->\n";

std::string as_markdown(const Description& told) {
  std::string text = fmt::format("{}# {}\n\n{}\n", kOrigin, told.word, told.help);
  if (!told.example.empty()) text += in_fence("yaml", told.example);
  text +=
      "\n| key | what it is | written as | default | such as |\n| --- | --- | --- | --- | --- |\n";
  for (const FieldDescription& field : told.fields) {
    std::vector<std::string> written = field.conditions;
    written.insert(written.begin(), field.page.empty()
                                        ? field.type
                                        : fmt::format("[{}]({}.md)", field.type, field.page));
    text += fmt::format("| `{}` | {} | {} | {} | {} |\n", field.name, cell(field.help),
                        cell(fmt::format("{}", fmt::join(written, "; "))),
                        field.default_value.empty() ? "" : in_code({field.default_value}),
                        cell(in_code(field.examples)));
  }
  for (const std::string& rule : told.rules) text += fmt::format("\n{}\n", rule);
  if (!told.metrics.empty()) {
    text += fmt::format("\nMetrics, for its [expectations](expectation.md): {}.\n",
                        in_code(told.metrics));
  }
  if (!told.states.empty()) text += fmt::format("\n`state` is {}.\n", one_of(told.states));
  return text;
}

std::string as_markdown(const Grammar& grammar) {
  std::string text =
      fmt::format("{}# expectation\n\n{}\n\n`{}`\n", kOrigin, grammar.help, grammar.form);
  text += "\n| part | what it is |\n| --- | --- |\n";
  for (const auto& [part, help] : grammar.parts) {
    text += fmt::format("| {} | {} |\n", part, cell(help));
  }
  text += "\n| check | metrics |\n| --- | --- |\n";
  for (const Metrics& of : metrics_of_all()) {
    text += fmt::format("| [{}]({}.md) | {}{} |\n", of.kind, of.page, in_code(of.names),
                        of.states.empty() ? "" : "; `state` is " + one_of(of.states));
  }
  std::string examples;
  for (const std::string& example : grammar.examples) examples += example + '\n';
  return text + in_fence("text", examples);
}

/// The hand-written page on what a message's file declares, if there is one, as a link from a page
/// of the reference.
std::string further(const Page& page, const Handwritten& handwritten) {
  std::string family = page.type->file()->name();
  family = family.substr(family.rfind('/') + 1);
  family = family.substr(0, family.rfind('.'));
  const std::string heading = fmt::format("\n## {}\n", page.word);
  for (const std::string& name :
       {fmt::format("faults/{}.md", page.word), fmt::format("faults/{}.md", family),
        fmt::format("{}.md", family)}) {
    const auto found = handwritten.find(name);
    if (found == handwritten.end()) continue;
    const bool has_section = lower_case(found->second).find(heading) != std::string::npos;
    return fmt::format("../{}{}", name, has_section ? "#" + page.word : "");
  }
  return "";
}

constexpr const char* kTable = "\n| | |\n| --- | --- |\n";

/// A page in a table of pages.
std::string row_of(const std::string& word, const std::string& help) {
  return fmt::format("| [{0}]({0}.md) | {1} |\n", word, cell(help));
}

/// The field of a choice of kinds whose message this is; null: none is.
const FieldDescriptor* kind_with(const OneofDescriptor& kinds, const Descriptor& type) {
  for (int i = 0; i < kinds.field_count(); ++i) {
    if (kinds.field(i)->message_type() == &type) return kinds.field(i);
  }
  return nullptr;
}

/// The kinds of a choice as rows of a table, each with a link to its page.
std::string rows_of(const OneofDescriptor& kinds) {
  std::string text = kTable;
  for (const Page& page : pages()) {
    const FieldDescriptor* kind = kind_with(kinds, *page.type);
    if (kind == nullptr) continue;
    text += fmt::format("| [{}]({}.md) | {} |\n", kind->name(), page.word,
                        cell(rules_of(*page.type).help()));
  }
  return text;
}

/// What else a word that has a page stands for in a plan, in a sentence that names the other page
/// as `link` has it: a check may be called as a fault is, and its page then bears another word.
std::string namesake(const std::string& word, const char* link) {
  const OneofDescriptor& checks = *v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < checks.field_count(); ++i) {
    const std::string other = word_of(*checks.field(i)->message_type());
    if (checks.field(i)->name() == other) continue;
    if (word == checks.field(i)->name()) {
      return fmt::format("\nA check is called {} as well: {}.\n", word,
                         fmt::format(fmt::runtime(link), other));
    }
    if (word == other) {
      return fmt::format("\nIn a plan it is called {}, as is a fault: {}.\n",
                         checks.field(i)->name(),
                         fmt::format(fmt::runtime(link), checks.field(i)->name()));
    }
  }
  return "";
}

std::string rows_of(const std::vector<Description>& pages) {
  std::string text = kTable;
  for (const Description& page : pages) text += row_of(page.word, page.help);
  return text;
}

std::string index_page() {
  const OneofDescriptor& faults = *v1::Fault::descriptor()->FindOneofByName("kind");
  const OneofDescriptor& checks = *v1::Check::descriptor()->FindOneofByName("kind");
  std::string others = kTable;
  for (const Page& page : pages()) {
    if (kind_with(faults, *page.type) != nullptr || kind_with(checks, *page.type) != nullptr) {
      continue;
    }
    others += row_of(page.word, rules_of(*page.type).help());
  }
  return fmt::format(
      "{}# Reference\n\nEvery word of the plan language, as `squall explain` tells it. "
      "[The plan language](../plan-language.md) says how they go together.\n"
      "\n## Faults\n{}\n## Checks\n{}\nWhat they are held to: [expectation](expectation.md).\n"
      "\n## Values\n{}\n## All the rest\n{}",
      kOrigin, rows_of(faults), rows_of(checks), rows_of(describe_values()), others);
}

std::string line_of(const std::string& page, const FieldDescription& field) {
  return wrapped(fmt::format("{} in {}: {}, {}{}", field.name, page, field.type, field.help,
                             in_brackets(field)),
                 2) +
         "\n";
}

/// Where a word stands that is a field and no page of its own.
std::string page_of_field(const std::string& word) {
  std::string text;
  for (const Page& page : pages()) {
    for (const FieldDescription& field : describe(page).fields) {
      if (field.name != word) continue;
      text += line_of(page.word, field);
    }
  }
  for (const Description& value : describe_values()) {
    for (const FieldDescription& part : value.fields) {
      if (part.name == word) text += line_of(value.word, part);
    }
  }
  return text;
}

/// A number of a fault's kind that does not stay what it is: 0ms to 400ms over 60s. Empty if it
/// does.
std::string course_of(const v1::Fault& fault, const FieldDescriptor& field) {
  const v1::Unit unit = rules_of(field).unit();
  for (const v1::Ramp& ramp : fault.ramps()) {
    if (ramp.field() != field.name()) continue;
    return fmt::format("{} to {} over {}", format_number(ramp.from(), unit),
                       format_number(ramp.to(), unit), format_duration(Duration(ramp.over())));
  }
  const v1::Search& search = fault.search();
  if (!fault.has_search() || search.field() != field.name()) return "";
  return fmt::format("looked for from {} to {}", format_number(search.from(), unit),
                     format_number(search.to(), unit));
}

/// A message as its set fields, each with its name. `fault`: whose kind it is.
void tell(const Message& message, std::string& out, const v1::Fault* fault = nullptr) {
  using google::protobuf::DynamicCastToGenerated;
  if (const auto* cidr = DynamicCastToGenerated<v1::Cidr>(&message)) {
    out += ' ' + format_cidr(*cidr);
    return;
  }
  if (const auto* range = DynamicCastToGenerated<v1::PortRange>(&message)) {
    out += ' ' + format_port_range(*range);
    return;
  }
  if (const auto* protocol = DynamicCastToGenerated<v1::Protocol>(&message)) {
    out += ' ' + format_protocol(*protocol);
    return;
  }
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (rules_of(*field).wire_only() || field->is_map()) continue;
    out += ' ' + field->name();
    if (field->is_repeated()) {
      for (int i = 0; i < reflection.FieldSize(message, field); ++i) {
        if (i > 0) out += ',';
        if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
          tell(reflection.GetRepeatedMessage(message, field, i), out);
        } else if (field->type() == FieldDescriptor::TYPE_STRING) {
          out += ' ' + escape_controls(reflection.GetRepeatedString(message, field, i));
        } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
          out += ' ' + spelling(*reflection.GetRepeatedEnum(message, field, i));
        } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_UINT32) {
          out += ' ' + std::to_string(reflection.GetRepeatedUInt32(message, field, i));
        }
      }
      continue;
    }
    if (fault != nullptr) {
      if (const std::string course = course_of(*fault, *field); !course.empty()) {
        out += ' ' + course;
        continue;
      }
    }
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        tell(reflection.GetMessage(message, field), out);
        break;
      case FieldDescriptor::CPPTYPE_ENUM:
        out += ' ' + spelling(*reflection.GetEnum(message, field));
        break;
      case FieldDescriptor::CPPTYPE_STRING:
        out += ' ' + escape_controls(reflection.GetString(message, field));
        break;
      case FieldDescriptor::CPPTYPE_BOOL:
        break;  // its name says it
      default:
        out += ' ' + format_number(number_in(message, *field), rules_of(*field).unit());
        break;
    }
  }
}

/// "packets matched" of just one: "packet matched".
std::string of_one(const std::string& several) {
  const auto end = std::min(several.find(' '), several.size());
  std::string noun = several.substr(0, end);
  if (noun.ends_with("sses")) {
    noun.resize(noun.size() - 2);
  } else if (noun.ends_with("s")) {
    noun.pop_back();
  }
  return noun + several.substr(end);
}

/// The message of the kind that is chosen, and its name.
const FieldDescriptor* kind_of(const Message& message) {
  const OneofDescriptor& kinds = *message.GetDescriptor()->FindOneofByName("kind");
  return message.GetReflection()->GetOneofFieldDescriptor(message, &kinds);
}

}  // namespace

std::vector<std::string> explainable() {
  std::vector<std::string> words;
  for (const Page& page : pages()) words.push_back(page.word);
  for (const Description& value : describe_values()) words.push_back(value.word);
  words.emplace_back("expectation");
  return words;
}

StatusOr<std::string> explain(const std::string& word) {
  const std::string wanted = lower_case(word);
  for (const Page& page : pages()) {
    if (page.word == wanted) {
      return as_text(describe(page)) + namesake(wanted, "squall explain {}");
    }
  }
  for (const Description& value : describe_values()) {
    if (value.word == wanted) return as_text(value);
  }
  if (wanted == "expectation" || wanted == "expect") return as_text(expectation_grammar());
  if (std::string text = page_of_field(wanted); !text.empty()) return text;
  const std::vector<std::string> known = explainable();
  const std::string near = nearest(wanted, known);
  return error(StatusCode::kNotFound,
               near.empty() ? fmt::format("no word \"{}\"; known are {}", escape_controls(word),
                                          fmt::join(known, ", "))
                            : fmt::format("no word \"{}\"; did you mean \"{}\"?",
                                          escape_controls(word), near));
}

Handwritten read_handwritten(const std::filesystem::path& docs) {
  namespace fs = std::filesystem;
  Handwritten found;
  for (const fs::path& folder : {docs, docs / "faults"}) {
    std::error_code failed;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder, failed)) {
      if (entry.path().extension() != ".md") continue;
      auto text = read_whole(entry.path());
      if (text.ok()) found[entry.path().lexically_relative(docs).string()] = *std::move(text);
    }
  }
  return found;
}

std::map<std::string, std::string> reference(const Handwritten& handwritten) {
  std::map<std::string, std::string> files;
  for (const Page& page : pages()) {
    std::string text = as_markdown(describe(page)) + namesake(page.word, "[{0}]({0}.md)");
    const std::string more = further(page, handwritten);
    if (!more.empty()) text += fmt::format("\nMore about it: [{}]({}).\n", more.substr(3), more);
    files[page.word + ".md"] = std::move(text);
  }
  for (const Description& value : describe_values()) {
    files[value.word + ".md"] = as_markdown(value);
  }
  files["expectation.md"] = as_markdown(expectation_grammar());
  files["README.md"] = index_page();
  return files;
}

std::string in_words(const v1::Fault& fault) {
  const FieldDescriptor* kind = kind_of(fault);
  if (kind == nullptr) return "no fault";
  std::string text = kind->name();
  tell(fault.GetReflection()->GetMessage(fault, kind), text, &fault);
  return text;
}

std::string in_words(const v1::Evidence& evidence) {
  const FieldDescriptor* kind = kind_of(evidence);
  if (kind == nullptr) return "nothing shown";
  const Message& shown = evidence.GetReflection()->GetMessage(evidence, kind);
  const auto& reflection = *shown.GetReflection();
  std::vector<std::string> said;
  for (int i = 0; i < shown.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& field = *shown.GetDescriptor()->field(i);
    const v1::FieldRules& rules = rules_of(field);
    if (rules.help().empty()) continue;
    const double number =
        field.is_repeated() ? reflection.FieldSize(shown, &field) : number_in(shown, field);
    if (number == 0 && !said.empty()) continue;  // the first is told even if it is nothing
    const std::string amount = rules.unit() == v1::PERCENT ? fmt::format("{:.1f}%", number)
                                                           : format_number(number, rules.unit());
    said.push_back(fmt::format("{} {}", amount, number == 1 ? of_one(rules.help()) : rules.help()));
  }
  return fmt::format("{}", fmt::join(said, ", "));
}

}  // namespace squall::plan
