#include "experiments/plan/describe.h"

#include <fmt/format.h>

#include <algorithm>

#include "experiments/base/units.h"
#include "squall/v1/guardrails.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

bool is_spelt_out(const Descriptor& type) {
  const v1::Form form = rules_of(type).form();
  return (form == v1::FORM_NONE || form == v1::PARAMETER) && !type.options().map_entry();
}

void collect(const Descriptor& type, std::vector<Page>& pages) {
  const bool known =
      std::any_of(pages.begin(), pages.end(), [&](const Page& page) { return page.type == &type; });
  if (known) return;
  if (is_spelt_out(type) && !rules_of(type).help().empty()) {
    pages.push_back({word_of(type), &type});
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    const Descriptor& below = *field.message_type();
    if (is_spelt_out(below) || below.options().map_entry()) collect(below, pages);
  }
}

/// What one value of a field is written as, whether or not there may be several.
std::string type_of_one(const FieldDescriptor& field) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_MESSAGE:
      break;
    case FieldDescriptor::CPPTYPE_ENUM:
      return "word";
    case FieldDescriptor::CPPTYPE_STRING:
      return "text";
    case FieldDescriptor::CPPTYPE_BOOL:
      return "true or false";
    default:
      switch (rules_of(field).unit()) {
        case v1::DURATION:
          return "duration";
        case v1::PERCENT:
          return "percentage";
        case v1::BYTES:
          return "size";
        case v1::RATE:
          return "rate";
        case v1::PER_SECOND:
          return "number per second";
        default:
          return "number";
      }
  }
  switch (rules_of(*field.message_type()).form()) {
    case v1::CIDR:
      return "network";
    case v1::PORT_RANGE:
      return "port";
    case v1::PROTOCOL:
      return "protocol";
    case v1::PROCESS_PICK:
      return "pick";
    case v1::LIST:
      return fmt::format("list of {}", field.message_type()->field(0)->name());
    default:
      return noun_of(*field.message_type());
  }
}

void collect_fields(const Descriptor& type, std::vector<const FieldDescriptor*>& fields) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (rules_of(field).wire_only()) continue;
    if (rules_of(field).inline_fields()) {
      collect_fields(*field.message_type(), fields);
    } else {
      fields.push_back(&field);
    }
  }
}

std::string several(const std::string& noun) { return noun.ends_with('s') ? noun : noun + 's'; }

std::string type_of(const FieldDescriptor& field) {
  if (field.options().HasExtension(v1::limits)) return "kinds to bounds";
  if (field.is_map()) {
    return fmt::format("names to {}", several(type_of_one(*field.message_type()->map_value())));
  }
  const std::string one = type_of_one(field);
  return field.is_repeated() ? fmt::format("list of {}", several(one)) : one;
}

std::string help_of(const FieldDescriptor& field) {
  const std::string& own = rules_of(field).help();
  if (!own.empty() || field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return own;
  return rules_of(*field.message_type()).help();
}

std::vector<std::string> conditions_of(const FieldDescriptor& field) {
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
  if (rules.ramps()) said.emplace_back("may be a ramp");
  return said;
}

/// The page on the messages that a field holds.
std::string page_on(const FieldDescriptor& field) {
  const FieldDescriptor& value = field.is_map() ? *field.message_type()->map_value() : field;
  if (value.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) return "";
  const Descriptor* type = value.message_type();
  switch (rules_of(*type).form()) {
    case v1::EXPECTATION:
      return word_of(*type);
    case v1::LIST:
      return page_on(*type->field(0));
    default:
      break;
  }
  const auto found = std::find_if(pages().begin(), pages().end(),
                                  [&](const Page& page) { return page.type == type; });
  return found == pages().end() ? "" : found->word;
}

}  // namespace

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

const std::vector<Page>& pages() {
  static const std::vector<Page> all = [] {
    std::vector<Page> found;
    collect(*v1::Plan::descriptor(), found);
    collect(*v1::Guardrails::descriptor(), found);
    return found;
  }();
  return all;
}

std::string word_of(const Descriptor& message) {
  std::string word = noun_of(message);
  std::replace(word.begin(), word.end(), ' ', '_');
  return word;
}

std::vector<const FieldDescriptor*> fields_of(const Descriptor& message) {
  std::vector<const FieldDescriptor*> fields;
  collect_fields(message, fields);
  return fields;
}

std::vector<Choice> choices_of(const Descriptor& message) {
  std::vector<Choice> found;
  for (int i = 0; i < message.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& choice = *message.oneof_decl(i);
    Choice made{choices(choice), rules_of(choice).required()};
    const FieldDescriptor* instead = message.FindFieldByName(rules_of(choice).or_field());
    if (instead != nullptr) {
      for (const Choice& inner : choices_of(*instead->message_type())) {
        made.words.insert(made.words.end(), inner.words.begin(), inner.words.end());
      }
    }
    found.push_back(std::move(made));
  }
  return found;
}

FieldDescription describe(const FieldDescriptor& field) {
  const v1::FieldRules& rules = rules_of(field);
  return {.name = field.name(),
          .type = type_of(field),
          .page = page_on(field),
          .help = help_of(field),
          .conditions = conditions_of(field),
          .default_value = rules.default_value(),
          .examples = {rules.examples().begin(), rules.examples().end()}};
}

Description describe(const Page& page) {
  const v1::MessageRules& rules = rules_of(*page.type);
  Description told;
  told.word = page.word;
  told.help = rules.help();
  for (const FieldDescriptor* field : fields_of(*page.type)) {
    told.fields.push_back(describe(*field));
  }
  for (const Choice& choice : choices_of(*page.type)) {
    if (choice.required) {
      told.rules.push_back(fmt::format("Exactly one of {}.", one_of(choice.words)));
    }
  }
  if (rules.any_of_size() > 0) {
    told.rules.push_back(
        fmt::format("At least one of {}.", one_of({rules.any_of().begin(), rules.any_of().end()})));
  }
  if (rules.at_once()) {
    told.rules.push_back(
        rules.lasting().empty()
            ? "Done at once: the step takes no `for`."
            : fmt::format("Done at once: the step takes `for` only with {}.",
                          one_of({rules.lasting().begin(), rules.lasting().end()})));
  }
  if (!rules.undo().empty()) told.rules.push_back(fmt::format("How it ends: {}.", rules.undo()));
  told.metrics = {rules.metrics().begin(), rules.metrics().end()};
  told.states = {rules.states().begin(), rules.states().end()};
  told.example = rules.example();
  return told;
}

namespace {

FieldDescription part(std::string name, std::string type, std::string help,
                      std::vector<std::string> conditions, std::vector<std::string> examples = {}) {
  FieldDescription told;
  told.name = std::move(name);
  told.type = std::move(type);
  told.help = std::move(help);
  told.conditions = std::move(conditions);
  told.examples = std::move(examples);
  return told;
}

FieldDescription unit(const char* name, const char* help,
                      const std::vector<std::string_view>& units, const char* example) {
  return part(name, fmt::format("{}", fmt::join(units, " ")), help, {}, {example});
}

/// cpu: load; memory: size.
std::string fields_that_ramp() {
  std::vector<std::string> kinds;
  const OneofDescriptor& all = *v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < all.field_count(); ++i) {
    std::vector<std::string> names;
    for (const FieldDescriptor* field : fields_of(*all.field(i)->message_type())) {
      if (rules_of(*field).ramps()) names.push_back(field->name());
    }
    if (names.empty()) continue;
    kinds.push_back(fmt::format("{}: {}", all.field(i)->name(), fmt::join(names, ", ")));
  }
  return fmt::format("{}", fmt::join(kinds, "; "));
}

Description quantity() {
  Description told;
  told.word = "quantity";
  told.help = "a number with its unit, nothing or one blank between them; there is no default unit";
  told.fields = {
      unit("duration", "how long", duration_units(), "1.5s"),
      unit("percentage", "a share, 0% to 100%", percent_units(), "0.5%"),
      unit("size", "bytes; KiB, MiB and GiB are powers of 1024, kB, MB and GB of 1000",
           byte_units(), "64MiB"),
      unit("rate", "bits per second, powers of 1000, as tc(8) has them", rate_units(), "10mbit"),
      unit("number per second", "how often", per_second_units(), "1000/s")};
  told.rules = {"A count stands without a unit: digits alone, without a leading zero."};
  told.example = "- network: {delay: 1.5s, loss: 0.5%, rate: 10mbit}\n  for: 1m";
  return told;
}

Description ramp() {
  Description told;
  told.word = "ramp";
  told.help = "a number that changes evenly while the fault lasts, in the place of one number";
  told.fields = {
      part("from", "quantity", "what it is at first; 0 where it begins with nothing", {"required"},
           {"0ms"}),
      part("to", "quantity", "what it becomes, and stays", {"required"}, {"400ms"}),
      part("over", "duration", "how long it takes", {"required", "at most `for`"}, {"60s"})};
  told.rules = {fmt::format("These may be ramps. {}.", fields_that_ramp()),
                "`cpu` has a `ramp` as well: from nothing to its load."};
  told.example = "- network: {delay: {from: 0ms, to: 400ms, over: 60s}}\n  for: 2m";
  return told;
}

Description find() {
  Description told;
  told.word = "find";
  told.help = "a number that the run looks for: the first at which the steady state breaks";
  told.fields = {
      part("from", "quantity", "the mild end; 0 is the node without the fault", {"required"},
           {"0ms"}),
      part("to", "quantity", "the wild end; it may be the smaller one", {"required"}, {"1s"}),
      part("resolution", "quantity", "how close to the answer is close enough", {"required"},
           {"10ms"})};
  told.rules = {"Any number of a fault's kind can be looked for.",
                "One step of a method looks for one number. Between two attempts every check holds "
                "again."};
  told.example = "- network: {delay: {find: {from: 0ms, to: 1s, resolution: 10ms}}}\n  for: 5s";
  return told;
}

}  // namespace

std::vector<Description> describe_values() { return {quantity(), ramp(), find()}; }

}  // namespace squall::plan
