#include "experiments/plan/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/base/diagnostic.h"
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

/// (1us to 60s; such as 200ms), behind a blank; empty where there is nothing to say.
std::string in_brackets(const std::vector<std::string>& conditions) {
  return conditions.empty() ? "" : fmt::format(" ({})", fmt::join(conditions, "; "));
}

std::string as_text(const Description& told) {
  std::string text = wrapped(fmt::format("{}: {}", told.word, told.help), 0) + "\n\n";
  std::size_t names = 0;
  std::size_t types = 0;
  for (const Description::Field& field : told.fields) {
    names = std::max(names, field.name.size());
    types = std::max(types, field.type.size());
  }
  for (const Description::Field& field : told.fields) {
    const std::size_t hang = 2 + names + 2 + types + 2;
    text += fmt::format("  {:<{}}  {:<{}}  {}\n", field.name, names, field.type, types,
                        wrapped(field.help + in_brackets(field.conditions), hang));
  }
  for (const std::string& rule : told.rules) text += fmt::format("\n{}\n", rule);
  if (!told.metrics.empty()) {
    text += fmt::format("\nMetrics\n  {}\n",
                        wrapped(fmt::format("{}", fmt::join(told.metrics, ", ")), 2));
  }
  if (!told.states.empty()) text += fmt::format("  state is {}\n", one_of(told.states));
  if (!told.example.empty()) text += fmt::format("\nExample\n{}\n", indented(told.example));
  return text;
}

/// Where a word stands that is a field and no page of its own.
std::string page_of_field(const std::string& word) {
  std::string text;
  for (const Page& page : pages()) {
    for (const Description::Field& field : describe(page).fields) {
      if (field.name != word) continue;
      text += wrapped(fmt::format("{} in {}: {}, {}{}", word, page.word, field.type, field.help,
                                  in_brackets(field.conditions)),
                      2) +
              "\n";
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
  words.emplace_back("expectation");
  return words;
}

StatusOr<std::string> explain(const std::string& word) {
  const std::string wanted = lower_case(word);
  for (const Page& page : pages()) {
    if (page.word == wanted) return as_text(describe(page));
  }
  if (wanted == "expectation" || wanted == "expect") return explain_expectations();
  if (std::string text = page_of_field(wanted); !text.empty()) return text;
  const std::vector<std::string> known = explainable();
  const std::string near = nearest(wanted, known);
  return error(StatusCode::kNotFound,
               near.empty() ? fmt::format("no word \"{}\"; known are {}", escape_controls(word),
                                          fmt::join(known, ", "))
                            : fmt::format("no word \"{}\"; did you mean \"{}\"?",
                                          escape_controls(word), near));
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
