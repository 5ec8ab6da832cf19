#include "experiments/plan/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "experiments/base/units.h"
#include "experiments/plan/describe.h"
#include "experiments/plan/expectation.h"
#include "experiments/plan/forms.h"
#include "experiments/plan/yaml.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

using Json = nlohmann::ordered_json;

/// A text with one of these in it may stand for any scalar: what it will be is known only when the
/// parameters are.
constexpr std::string_view kParameter = R"(\$\{[A-Za-z0-9._-]{1,64}\})";

constexpr std::string_view kNumber = R"((?:0|[1-9][0-9]*)(?:\.[0-9]+)?)";
constexpr std::string_view kCount = "(?:0|[1-9][0-9]*)";
constexpr std::string_view kAddress = "[0-9a-fA-F]*[.:][0-9a-fA-F.:]*";  // of either family

/// A pattern for the whole text, or a parameter somewhere in it.
std::string whole(std::string_view pattern) {
  return fmt::format("^(?:{})$|{}", pattern, kParameter);
}

std::string any_of(const std::vector<std::string>& words) {
  return fmt::format("(?:{})", fmt::join(words, "|"));
}

/// A text that has the pattern. `what` is what an editor says of one that has not.
Json text_like(std::string_view pattern, std::string_view what) {
  return {{"type", "string"}, {"pattern", whole(pattern)}, {"errorMessage", what}};
}

/// The same where YAML may take the text for a number or a truth: 1000 is a user.
Json loosely(Json text) {
  text["type"] = {"string", "number", "boolean"};
  return text;
}

Json any_text() { return {{"type", {"string", "number", "boolean"}}}; }

/// A whole number, or in quotes, or a parameter.
Json count(std::int64_t least, std::int64_t most, std::string_view what) {
  return {{"type", {"integer", "string"}},
          {"minimum", least},
          {"maximum", most},
          {"pattern", whole(kCount)},
          {"errorMessage", what}};
}

/// The text that a plan has, as the value that YAML makes of it.
Json value_of(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::kNull:
      return nullptr;
    case YamlNode::Kind::kSequence: {
      Json items = Json::array();
      for (const YamlNode* item : node.items) items.push_back(value_of(*item));
      return items;
    }
    case YamlNode::Kind::kMapping: {
      Json entries = Json::object();
      for (const YamlNode::Entry& entry : node.entries) {
        entries[entry.key->text] = value_of(*entry.value);
      }
      return entries;
    }
    case YamlNode::Kind::kScalar:
      break;
  }
  if (node.plain && (node.text == "true" || node.text == "false")) return node.text == "true";
  const auto whole_number = parse_count(node.text);
  if (node.plain && whole_number.ok()) return *whole_number;
  return node.text;
}

Json value_of(const std::string& yaml) {
  Diagnostics ignored;
  ignored.text = yaml;
  const YamlTree tree = read_yaml(ignored);
  return tree.root == nullptr ? Json(yaml) : value_of(*tree.root);
}

/// Whether a key in a plan says as much as its field in the message: a word that is the default
/// leaves no trace there.
bool is_told_by_its_key(const FieldDescriptor& field) {
  return field.has_presence() || field.is_repeated() ||
         field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
}

/// What a key asks of the others beside it.
struct Demand {
  std::vector<std::string> needs;
  std::vector<std::string> excludes;
};

/// Makes the definitions as they are asked for. What a message, a form, a unit or a text looks like
/// is one function each.
class Generator {
 public:
  Json schema(const Descriptor& root) {
    Json schema = {{"$schema", "http://json-schema.org/draft-07/schema#"},
                   {"title", fmt::format("Squall's {}", noun_of(root))}};
    schema.update(mapping(root));
    for (auto& [name, definition] : definitions_) schema["definitions"][name] = definition;
    return schema;
  }

 private:
  /// A reference to a definition, which is made where it is first asked for.
  template <typename Make>
  Json defined(const std::string& name, Make make) {
    if (!definitions_.contains(name)) {
      definitions_[name] = nullptr;  // a step may hold steps
      Json made = make();
      definitions_[name] = std::move(made);
    }
    return {{"$ref", fmt::format("#/definitions/{}", name)}};
  }

  Json message(const Descriptor& type) {
    return defined(type.name(), [&] { return written(type); });
  }

  /// How a message is written. A form that is new must be told here: there is no default on
  /// purpose, so that the compiler misses it.
  Json written(const Descriptor& type) {
    switch (rules_of(type).form()) {
      case v1::FORM_NONE:
        return mapping(type);
      case v1::CIDR:
        return text_like(fmt::format("{}(?:/[0-9]{{1,3}})?", kAddress),
                         "a network such as 10.0.0.0/8 or 2001:db8::/32, or one address");
      case v1::PORT_RANGE:
        return port_range();
      case v1::SELECTOR:
        return selector();
      case v1::PICK:
      case v1::PROCESS_PICK:
        return pick(*type.oneof_decl(0));
      case v1::QUORUM:
        return quorum();
      case v1::EXPECTATION:
        return expectation();
      case v1::LIST:
        return list(*type.field(0));
      case v1::ENVIRONMENT:
        return map(*type.field(0));
      case v1::PROTOCOL:
        return protocol();
      case v1::PARAMETER:
        return {{"anyOf", Json::array({any_text(), mapping(type)})}};
      case v1::Form_INT_MIN_SENTINEL_DO_NOT_USE_:
      case v1::Form_INT_MAX_SENTINEL_DO_NOT_USE_:
        break;
    }
    return false;
  }

  static Json port_range() {
    Json schema = count(1, 65535, "a port such as 443, or some such as 8000-8010");
    schema["pattern"] = whole("[1-9][0-9]{0,4}(?:-[1-9][0-9]{0,4})?");
    return schema;
  }

  static Json protocol() {
    const std::vector<std::string> words = protocol_words();
    Json schema =
        count(0, 255, fmt::format("{}, or a number from 0 to 255", fmt::join(words, ", ")));
    schema["pattern"] = whole(fmt::format("{}|{}", any_of(words), kCount));
    schema["examples"] = words;
    return schema;
  }

  /// A node's name, or labels; both may look like numbers.
  static Json selector() {
    return {{"type", {"string", "object", "number", "boolean"}},
            {"minLength", 1},
            {"minProperties", 1},
            {"additionalProperties", any_text()},
            {"errorMessage", "a node's name, labels such as {role: db}, or all"},
            {"examples", Json::array({"all"})}};
  }

  /// One of the choice's words, a number, or a share: as the choice's fields have it.
  static Json pick(const OneofDescriptor& how) {
    constexpr std::int64_t kMost = 4'194'304;  // of processes; of nodes there are fewer
    std::vector<std::string> words;
    for (int i = 0; i < how.field_count(); ++i) {
      if (how.field(i)->cpp_type() == FieldDescriptor::CPPTYPE_BOOL) {
        words.push_back(how.field(i)->name());
      }
    }
    Json schema = count(
        1, kMost, fmt::format("{}, a number, or a share such as 50%", fmt::join(words, ", ")));
    schema["pattern"] = whole(fmt::format("{}|[1-9][0-9]*|{} ?%", any_of(words), kNumber));
    schema["examples"] = words;
    schema["examples"].push_back(1);
    schema["examples"].push_back("50%");
    return schema;
  }

  static Json quorum() {
    Json schema = count(1, kMostVantagePoints, "all, majority, a number, or one such as 2 of 3");
    schema["pattern"] = whole("all|majority|[1-9][0-9]{0,5}(?: of [1-9][0-9]{0,5})?");
    schema["examples"] = {"all", "majority", "2 of 3"};
    return schema;
  }

  static Json expectation() {
    std::vector<std::string> operators = operator_words();
    // What is a word ends where the word does, and needs a blank before it.
    for (std::string& word : operators) {
      if (word.front() >= 'a' && word.front() <= 'z') word = fmt::format("\\b{}\\b", word);
    }
    return text_like(
        fmt::format("\\s*{}\\s*{}\\s*\\S[\\s\\S]*", any_of(metric_words()), any_of(operators)),
        "an expectation such as status == 200 or p99 < 300ms over 10s: metric, "
        "operator, quantity");
  }

  Json mapping(const Descriptor& type) {
    const v1::MessageRules& rules = rules_of(type);
    Json schema = {{"type", "object"}};
    if (!rules.help().empty()) schema["description"] = rules.help();
    Json required = Json::array();
    Json properties = Json::object();
    std::map<std::string, Demand> demands;
    for (const FieldDescriptor* field : fields_of(type)) {
      properties[field->name()] = property(*field);
      // What an inline message requires it requires only where it is there at all.
      if (rules_of(*field).required() && field->containing_type() == &type) {
        required.push_back(field->name());
      }
      demand(*field, demands);
    }
    Json all = Json::array();
    if (rules.any_of_size() > 0)
      all.push_back(at_least_one({rules.any_of().begin(), rules.any_of().end()}));
    for (const Choice& choice : choices_of(type)) {
      if (choice.required) all.push_back(at_least_one(choice.words));
      for (const std::string& word : choice.words) {
        for (const std::string& other : choice.words) {
          if (other != word) demands[word].excludes.push_back(other);
        }
      }
    }
    Json conditions = duration_of_faults(type, demands);
    for (Json& condition : conditions) all.push_back(std::move(condition));
    // Nothing at all is as good as an empty mapping where nothing must be in it.
    if (required.empty() && all.empty()) schema["type"] = {"object", "null"};
    schema["properties"] = std::move(properties);
    schema["additionalProperties"] = false;
    if (!required.empty()) schema["required"] = std::move(required);
    if (!all.empty()) schema["allOf"] = std::move(all);
    if (!demands.empty()) schema["dependencies"] = dependencies(demands);
    if (const Json example = example_of(type); example.is_object()) {
      schema["examples"] = Json::array({example});
    }
    return schema;
  }

  static void demand(const FieldDescriptor& field, std::map<std::string, Demand>& demands) {
    const v1::FieldRules& rules = rules_of(field);
    if (!is_told_by_its_key(field)) return;
    const Descriptor& type = *field.containing_type();
    if (const FieldDescriptor* other = type.FindFieldByName(rules.needs());
        other != nullptr && rules_of(*other).default_value().empty()) {
      demands[field.name()].needs.push_back(other->name());
    }
    for (const std::string& name : rules.excludes()) {
      const FieldDescriptor* other = type.FindFieldByName(name);
      if (other == nullptr || !is_told_by_its_key(*other)) continue;
      demands[field.name()].excludes.push_back(name);
    }
  }

  /// `for` stands beside a fault's kind, and whether it must is the kind's to say.
  static std::vector<Json> duration_of_faults(const Descriptor& type,
                                              std::map<std::string, Demand>& demands) {
    std::vector<Json> conditions;
    for (int i = 0; i < type.field_count(); ++i) {
      const FieldDescriptor& inside = *type.field(i);
      if (!rules_of(inside).inline_fields() || inside.message_type() != v1::Fault::descriptor()) {
        continue;
      }
      const OneofDescriptor& kinds = *v1::Fault::descriptor()->FindOneofByName("kind");
      for (int j = 0; j < kinds.field_count(); ++j) {
        const FieldDescriptor& kind = *kinds.field(j);
        const v1::MessageRules& rules = rules_of(*kind.message_type());
        if (!rules.at_once()) {
          demands[kind.name()].needs.emplace_back("for");
        } else if (rules.lasting().empty()) {
          demands[kind.name()].excludes.emplace_back("for");
        } else {
          const std::vector<std::string> lasting(rules.lasting().begin(), rules.lasting().end());
          Json lasts = at_least_one(lasting);
          lasts["type"] = "object";
          conditions.push_back({{"if", with({kind.name(), "for"})},
                                {"then", {{"properties", {{kind.name(), std::move(lasts)}}}}}});
        }
      }
      // What describes the fault has nothing to describe where another choice was made.
      for (int j = 0; j < type.real_oneof_decl_count(); ++j) {
        const OneofDescriptor& choice = *type.oneof_decl(j);
        if (rules_of(choice).or_field() != inside.name()) continue;
        for (const std::string& word : choices(choice)) {
          for (const FieldDescriptor* beside : fields_of(*inside.message_type())) {
            if (beside->real_containing_oneof() != nullptr) continue;
            demands[word].excludes.push_back(beside->name());
          }
        }
      }
    }
    return conditions;
  }

  static Json at_least_one(const std::vector<std::string>& words) {
    Json alternatives = Json::array();
    for (const std::string& word : words) alternatives.push_back(with({word}));
    return {{"anyOf", std::move(alternatives)}};
  }

  /// That these keys are there. They are named among the properties as well: strict validators want
  /// that, and an editor takes alternatives without properties for one and the same.
  static Json with(const std::vector<std::string>& words) {
    Json schema = {{"required", words}, {"properties", Json::object()}};
    for (const std::string& word : words) schema["properties"][word] = true;
    return schema;
  }

  static Json dependencies(const std::map<std::string, Demand>& demands) {
    Json schema = Json::object();
    for (const auto& [word, demand] : demands) {
      if (!demand.needs.empty()) schema[word] = with(demand.needs);
      if (demand.excludes.empty()) continue;
      schema[word]["patternProperties"] = {{fmt::format("^{}$", any_of(demand.excludes)), false}};
      schema[word]["errorMessage"] = fmt::format("cannot stand beside `{}`", word);
    }
    return schema;
  }

  /// The example without the key that it stands below.
  static Json example_of(const Descriptor& type) {
    Json example = value_of(rules_of(type).example());
    const std::vector<const FieldDescriptor*> fields = fields_of(type);
    const auto is_field = [&](const std::string& key) {
      return std::any_of(fields.begin(), fields.end(),
                         [&](const FieldDescriptor* field) { return field->name() == key; });
    };
    while (!example.empty() &&
           (example.is_array() || (example.is_object() && !is_field(example.begin().key())))) {
      example = Json(example.front());
    }
    return example;
  }

  Json property(const FieldDescriptor& field) {
    const v1::FieldRules& rules = rules_of(field);
    Json schema = value(field);
    FieldDescription told = describe(field);
    if (!told.default_value.empty()) {
      told.conditions.push_back(fmt::format("default {}", told.default_value));
    }
    schema["description"] = told.conditions.empty() ? told.help
                                                    : fmt::format("{} ({})", told.help,
                                                                  fmt::join(told.conditions, "; "));
    if (!rules.default_value().empty()) schema["default"] = value_of(rules.default_value());
    Json examples = Json::array();
    for (const std::string& example : rules.examples()) {
      Json one = value_of(example);
      examples.push_back(
          field.is_repeated() && !field.is_map() && !one.is_array() ? Json::array({one}) : one);
    }
    if (!examples.empty()) schema["examples"] = std::move(examples);
    return schema;
  }

  Json value(const FieldDescriptor& field) {
    if (field.is_map()) return map(field);
    if (field.is_repeated()) return list(field);
    return one(field);
  }

  Json list(const FieldDescriptor& field) {
    return {{"type", "array"}, {"minItems", 1}, {"items", one(field)}};
  }

  Json map(const FieldDescriptor& field) {
    const v1::TextForm form = rules_of(field).text();
    const FieldDescriptor& value = *field.message_type()->map_value();
    Json schema = {{"type", "object"}, {"minProperties", 1}, {"additionalProperties", one(value)}};
    if (value.message_type() == v1::Node::descriptor()) {
      // Those of another file, or one that is called so.
      const Json file = {{"type", "string"}, {"description", "a file with the nodes"}};
      schema["properties"]["from"]["anyOf"] = Json::array({file, one(value)});
    }
    if (form == v1::NAME) schema["propertyNames"] = {{"pattern", "^[A-Za-z0-9._-]{1,64}$"}};
    if (form == v1::HEADER) {
      schema["propertyNames"] = {{"pattern", R"(^[A-Za-z0-9!#$%&'*+.^_`|~-]+$)"}};
    }
    return schema;
  }

  /// One value of a field.
  Json one(const FieldDescriptor& field) {
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return message(*field.message_type());
      case FieldDescriptor::CPPTYPE_ENUM:
        return word(*field.enum_type());
      case FieldDescriptor::CPPTYPE_STRING:
        return text(rules_of(field).text());
      case FieldDescriptor::CPPTYPE_BOOL:
        return {{"type", {"boolean", "string"}},
                {"pattern", kParameter},
                {"errorMessage", "true or false"}};
      default:
        return number(field);
    }
  }

  /// One value, or where a fault's kind has it, one that changes or is looked for.
  Json number(const FieldDescriptor& field) {
    if (!is_one_number(field) || !is_fault_kind(*field.containing_type())) return one_number(field);
    const Json over = quantity("duration", duration_units(), "200ms");
    const auto ends = [&](const char* third, const Json& value, const char* help) -> Json {
      return {
          {"type", "object"},
          {"description", help},
          {"properties", {{"from", one_number(field)}, {"to", one_number(field)}, {third, value}}},
          {"required", {"from", "to", third}},
          {"additionalProperties", false}};
    };
    Json alternatives = Json::array();
    if (rules_of(field).ramps()) {
      alternatives.push_back(
          ends("over", over, "a ramp: from one value to another while it lasts"));
    }
    Json search = with({"find"});
    search["type"] = "object";
    search["description"] = "a search: the value at which the steady state breaks";
    search["properties"]["find"] =
        ends("resolution", one_number(field), "between which, and how exactly");
    search["additionalProperties"] = false;
    alternatives.push_back(std::move(search));
    // By its form, so that an editor tells what is wrong with the one that is meant.
    return {{"if", {{"type", "object"}}},
            {"then", {{"anyOf", std::move(alternatives)}}},
            {"else", one_number(field)}};
  }

  Json one_number(const FieldDescriptor& field) {
    switch (rules_of(field).unit()) {
      case v1::DURATION:
        return quantity("duration", duration_units(), "200ms");
      case v1::PERCENT:
        return quantity("percentage", percent_units(), "1%");
      case v1::BYTES:
        return quantity("size", byte_units(), "64MiB");
      case v1::RATE:
        return quantity("rate", rate_units(), "10mbit");
      case v1::PER_SECOND:
        return quantity("number per second", per_second_units(), "1000/s");
      case v1::UNIT_NONE:
      case v1::Unit_INT_MIN_SENTINEL_DO_NOT_USE_:
      case v1::Unit_INT_MAX_SENTINEL_DO_NOT_USE_:
        break;
    }
    return plain_number(field);
  }

  Json quantity(const std::string& name, const std::vector<std::string_view>& units,
                std::string_view example) {
    return defined(name, [&] {
      return text_like(fmt::format("{} ?(?:{})", kNumber, fmt::join(units, "|")),
                       units.size() == 1 ? fmt::format("a {} such as {}", name, example)
                                         : fmt::format("a {} such as {}, its unit one of {}", name,
                                                       example, fmt::join(units, ", ")));
    });
  }

  static Json plain_number(const FieldDescriptor& field) {
    const v1::FieldRules& rules = rules_of(field);
    const bool may_be_negative = field.cpp_type() == FieldDescriptor::CPPTYPE_INT32;
    const std::string bounds = bounds_in_words(field);
    Json schema = {{"type", {"integer", "string"}}};
    const auto bound = [&](const char* keyword, const std::string& text) {
      const auto limit = parse_number(text, v1::UNIT_NONE, true);
      if (limit.ok()) schema[keyword] = static_cast<std::int64_t>(*limit);
    };
    bound("minimum", rules.min().empty() && !may_be_negative ? "0" : rules.min());
    bound("maximum", rules.max());
    schema["pattern"] = whole(fmt::format("{}{}", may_be_negative ? "-?" : "", kCount));
    schema["errorMessage"] =
        bounds.empty() ? "a whole number" : fmt::format("a whole number, {}", bounds);
    return schema;
  }

  Json word(const EnumDescriptor& type) {
    return defined(type.name(), [&]() -> Json {
      const std::vector<std::string> known = spellings(type);
      // Upper and lower case are alike, but only one is proposed.
      std::string in_any_case;
      for (const char c : fmt::format("{}", fmt::join(known, "|"))) {
        const std::string lower = lower_case(std::string(1, c));
        const bool is_letter = lower[0] >= 'a' && lower[0] <= 'z';
        in_any_case += is_letter
                           ? fmt::format("[{}{}]", lower, static_cast<char>(lower[0] - 'a' + 'A'))
                           : lower;
      }
      return {{"anyOf",
               {{{"enum", known}},
                {{"type", "string"},
                 {"pattern", whole(in_any_case)},
                 {"errorMessage", one_of(known)}}}}};
    });
  }

  /// A text. What has no pattern here is judged by squall alone. No default, as above.
  static Json text(v1::TextForm form) {
    switch (form) {
      case v1::INTERFACE:
        return loosely(text_like(R"([^/:\s]{1,15})", "an interface as `ip link` shows it: eth0"));
      case v1::COMMAND_NAME:
        return loosely(text_like(R"([\s\S]{1,15})", "a program's name, at most 15 bytes of it"));
      case v1::HOST_PORT:
        return text_like(R"([^/@?#\s]+:[1-9][0-9]{0,4})", "host:port, such as 127.0.0.1:5432");
      case v1::NODE_ADDRESS:
        return text_like(R"(unix:/[\s\S]*|[^/@?#\s]+:[1-9][0-9]{0,4})", "host:port or unix:/path");
      case v1::HTTP_URL:
        return text_like(R"([hH][tT][tT][pP][sS]?://[^\s]+)",
                         "a URL such as http://host:port/path");
      case v1::HTTP_METHOD:
        return text_like("[A-Za-z-]+", "GET, HEAD, POST");
      case v1::HOST_NAME:
        return text_like("[A-Za-z0-9_.-]{1,253}", "a host's name, such as db.internal");
      case v1::CGROUP_PATH:
        return text_like(R"(/[\s\S]+)",
                         "a control group's path, such as /system.slice/nginx.service");
      case v1::UNIT_NAME:
        return loosely(
            text_like(R"([^/\s]*\.[^/\s]*)", "a unit with its type, such as nginx.service"));
      case v1::NETNS_NAME:
        return loosely(
            text_like(R"([^\s]+)", "a name as `ip netns` shows it, a whole path, or a pid"));
      case v1::DNS_PATTERN:
        return text_like(R"(\*|(?:\*\.)?[A-Za-z0-9_.-]{1,253})",
                         "a name such as api.example.com, \"*.internal\", or \"*\"");
      case v1::IP_ADDRESS:
        return text_like(kAddress, "an address such as 10.9.9.9 or \"2001:db8::9\"");
      case v1::USER:
        return loosely(text_like(R"([^/:\s-][^/:\s]*)", "a user's name or uid"));
      case v1::CONTAINER:
        return loosely(
            text_like("[0-9a-f]{12,64}", "a container's id, or at least its first 12 digits"));
      case v1::ABSOLUTE_PATH:
      case v1::DATA_PATH:
        return text_like(R"(/[\s\S]*)", "a path from the root, such as /var/lib/shop");
      case v1::JSON_POINTER:
        return text_like(R"((?:/[\s\S]*)?)", "a JSON Pointer such as /queue/depth");
      case v1::POSTGRES_URL:
        return text_like(R"(postgres(?:ql)?://[^\s]*)",
                         "a URL such as postgresql://shop@db-1:5432/shop");
      case v1::TEXT_ANY:
      case v1::NAME:
      case v1::HEADER:
      case v1::REGEX:
      case v1::TextForm_INT_MIN_SENTINEL_DO_NOT_USE_:
      case v1::TextForm_INT_MAX_SENTINEL_DO_NOT_USE_:
        break;
    }
    return any_text();
  }

  std::map<std::string, Json> definitions_;
};

}  // namespace

std::string json_schema() { return Generator().schema(*v1::Plan::descriptor()).dump(2) + "\n"; }

}  // namespace squall::plan
