#include "experiments/plan/explain.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/expectation.h"
#include "experiments/plan/forms.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

struct Page {
  std::string word;
  const Descriptor* type;
};

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

/// Every message that a plan spells out as a mapping, in the order in which a plan comes to it.
void collect(const Descriptor& type, std::vector<Page>& pages) {
  const std::string word = lower_case(type.name());
  const bool known =
      std::any_of(pages.begin(), pages.end(), [&](const Page& page) { return page.type == &type; });
  if (known) return;
  const auto is_page = [](const Descriptor& one) {
    const v1::Form form = rules_of(one).form();
    return form == v1::FORM_NONE || form == v1::PARAMETER;
  };
  if (is_page(type) && !type.options().map_entry() && !rules_of(type).help().empty()) {
    pages.push_back({word, &type});
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (is_page(*field.message_type())) collect(*field.message_type(), pages);
  }
}

const std::vector<Page>& pages() {
  static const std::vector<Page> all = [] {
    std::vector<Page> found;
    collect(*v1::Plan::descriptor(), found);
    return found;
  }();
  return all;
}

/// What a field is written as.
std::string type_of(const FieldDescriptor& field) {
  std::string one;
  if (field.is_map()) {
    const FieldDescriptor& value = *field.message_type()->map_value();
    return fmt::format("names to {}s", type_of(value));
  }
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    switch (rules_of(*field.message_type()).form()) {
      case v1::CIDR:
        one = "network";
        break;
      case v1::PORT_RANGE:
        one = "port";
        break;
      case v1::PROTOCOL:
        one = "protocol";
        break;
      case v1::PROCESS_PICK:
        one = "pick";
        break;
      case v1::LIST:
        return fmt::format("list of {}", field.message_type()->field(0)->name());
      default:
        one = noun_of(*field.message_type());
        break;
    }
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    one = "word";
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
    one = "text";
  } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
    one = "true or false";
  } else {
    switch (rules_of(field).unit()) {
      case v1::DURATION:
        one = "duration";
        break;
      case v1::PERCENT:
        one = "percentage";
        break;
      case v1::BYTES:
        one = "size";
        break;
      case v1::RATE:
        one = "rate";
        break;
      default:
        one = "number";
        break;
    }
  }
  return field.is_repeated() ? fmt::format("list of {}s", one) : one;
}

/// What a field's value may be: required; 1us to 60s; default egress; such as 200ms.
std::string conditions_of(const FieldDescriptor& field) {
  const v1::FieldRules& rules = rules_of(field);
  std::vector<std::string> said;
  if (rules.required()) said.emplace_back("required");
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
    said.push_back(one_of(spellings(*field.enum_type())));
  }
  if (const std::string bounds = bounds_in_words(field); !bounds.empty()) said.push_back(bounds);
  if (!rules.not_over().empty()) said.push_back(fmt::format("at most `{}`", rules.not_over()));
  if (!rules.needs().empty()) said.push_back(fmt::format("only with `{}`", rules.needs()));
  for (const std::string& other : rules.excludes()) {
    said.push_back(fmt::format("not with `{}`", other));
  }
  for (const v1::Conflict& conflict : rules.conflicts()) {
    const std::string with =
        conflict.value().empty() ? conflict.with() : conflict.with() + ": " + conflict.value();
    said.push_back(conflict.is().empty() ? fmt::format("not with `{}`", with)
                                         : fmt::format("no {} with `{}`", conflict.is(), with));
  }
  if (!rules.shares_with().empty()) {
    said.push_back(fmt::format("with `{}` at most 100%", rules.shares_with()));
  }
  if (rules.within_for()) said.emplace_back("less than `for`");
  if (!rules.default_value().empty()) {
    said.push_back(fmt::format("default {}", rules.default_value()));
  }
  if (rules.examples_size() > 0) {
    said.push_back(fmt::format("such as {}", fmt::join(rules.examples(), ", ")));
  }
  if (said.empty()) return "";
  return fmt::format(" ({})", fmt::join(said, "; "));
}

std::string help_of(const FieldDescriptor& field) {
  const std::string& own = rules_of(field).help();
  if (!own.empty() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return own;
  return rules_of(*field.message_type()).help();
}

/// The fields of one level, those of inline messages included.
void fields_of(const Descriptor& type, std::vector<const FieldDescriptor*>& fields) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (rules_of(field).wire_only()) continue;
    if (rules_of(field).inline_fields()) {
      fields_of(*field.message_type(), fields);
    } else {
      fields.push_back(&field);
    }
  }
}

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

std::string page_of(const Page& page) {
  const v1::MessageRules& rules = rules_of(*page.type);
  std::string text = wrapped(fmt::format("{}: {}", page.word, rules.help()), 0) + "\n\n";
  std::vector<const FieldDescriptor*> fields;
  fields_of(*page.type, fields);
  std::size_t names = 0;
  std::size_t types = 0;
  for (const FieldDescriptor* field : fields) {
    names = std::max(names, field->name().size());
    types = std::max(types, type_of(*field).size());
  }
  for (const FieldDescriptor* field : fields) {
    const std::size_t hang = 2 + names + 2 + types + 2;
    text += fmt::format("  {:<{}}  {:<{}}  {}\n", field->name(), names, type_of(*field), types,
                        wrapped(help_of(*field) + conditions_of(*field), hang));
  }
  for (int i = 0; i < page.type->real_oneof_decl_count(); ++i) {
    const OneofDescriptor& choice = *page.type->oneof_decl(i);
    if (!rules_of(choice).required()) continue;
    std::vector<std::string> words = choices(choice);
    const FieldDescriptor* instead = page.type->FindFieldByName(rules_of(choice).or_field());
    for (int j = 0; instead != nullptr && j < instead->message_type()->real_oneof_decl_count();
         ++j) {
      const std::vector<std::string> more = choices(*instead->message_type()->oneof_decl(j));
      words.insert(words.end(), more.begin(), more.end());
    }
    text += fmt::format("\nExactly one of {}.\n", one_of(words));
  }
  if (rules.any_of_size() > 0) {
    text += fmt::format("\nAt least one of {}.\n",
                        one_of({rules.any_of().begin(), rules.any_of().end()}));
  }
  const auto& metrics = rules.metrics();
  if (!metrics.empty()) {
    text +=
        fmt::format("\nMetrics\n  {}\n", wrapped(fmt::format("{}", fmt::join(metrics, ", ")), 2));
    if (rules.states_size() > 0) {
      text +=
          fmt::format("  state is {}\n", one_of({rules.states().begin(), rules.states().end()}));
    }
  }
  if (rules.at_once()) {
    text += rules.lasting().empty()
                ? "\nDone at once: the step takes no `for`.\n"
                : fmt::format("\nDone at once: the step takes `for` only with {}.\n",
                              one_of({rules.lasting().begin(), rules.lasting().end()}));
  }
  if (!rules.example().empty()) text += fmt::format("\nExample\n{}\n", indented(rules.example()));
  return text;
}

/// Where a word stands that is a field and no page of its own.
std::string page_of_field(const std::string& word) {
  std::string text;
  for (const Page& page : pages()) {
    std::vector<const FieldDescriptor*> fields;
    fields_of(*page.type, fields);
    for (const FieldDescriptor* field : fields) {
      if (field->name() != word) continue;
      text += wrapped(fmt::format("{} in {}: {}, {}{}", word, page.word, type_of(*field),
                                  help_of(*field), conditions_of(*field)),
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
    if (page.word == wanted) return page_of(page);
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
