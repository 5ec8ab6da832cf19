#include <fmt/format.h>

#include "experiments/base/diagnostic.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/forms.h"
#include "experiments/plan/load.h"

namespace squall::plan {
namespace {

/// Deeper than any contract nests; a plan's parallel steps may, so the wire is held to this.
constexpr int kDeepest = 64;

/// Stops at the first thing wrong: a program sent this, and a program wants one reason.
class Walk {
 public:
  Status message(const Message& message, const std::string& path, int depth) {
    if (depth > kDeepest) return wrong(path, "nested too deeply");
    const Descriptor& type = *message.GetDescriptor();
    for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
      const OneofDescriptor& choice = *type.oneof_decl(i);
      const v1::OneofRules& rules = rules_of(choice);
      const auto& reflection = *message.GetReflection();
      const FieldDescriptor* instead = type.FindFieldByName(rules.or_field());
      const bool has_choice = reflection.HasOneof(message, &choice);
      const bool has_instead = instead != nullptr && reflection.HasField(message, instead);
      if (rules.required() && !has_choice && !has_instead) {
        std::vector<std::string> words = choices(choice);
        if (instead != nullptr) words.push_back(instead->name());
        return wrong(
            path, fmt::format("no {}; one of {} is required",
                              rules.noun().empty() ? choice.name() : rules.noun(), one_of(words)));
      }
      if (has_choice && has_instead) {
        return wrong(path, fmt::format("{} beside another {}", instead->name(), rules.noun()));
      }
    }
    for (int i = 0; i < type.field_count(); ++i) {
      if (const Status status = field(message, *type.field(i), path, depth); !status.ok()) {
        return status;
      }
    }
    if (const auto problem = bad_form(message)) return wrong(path, in_words(*problem));
    if (const auto* fault = google::protobuf::DynamicCastToGenerated<v1::Fault>(&message)) {
      if (const Status status = ramps(*fault, path); !status.ok()) return status;
    }
    for (const Finding& finding : contradictions(message, noun_of(type))) {
      return wrong(finding.field.empty() ? path : below(path, finding.field),
                   in_words({finding.summary, finding.hint}));
    }
    return ok();
  }

 private:
  /// What the numbers say together must be right all the time.
  static Status ramps(const v1::Fault& fault, const std::string& path) {
    if (const auto problem = bad_search(fault)) return wrong(path, in_words(*problem));
    if (fault.ramps().empty()) return ok();
    if (const auto problem = bad_ramps(fault)) return wrong(path, in_words(*problem));
    for (const v1::Fault& corner : corners_of(fault)) {
      const std::string& kind = kind_of(corner)->name();
      for (const Finding& finding : contradictions(kind_in(corner), kind)) {
        return wrong(below(below(path, kind), finding.field),
                     in_words({finding.summary, finding.hint}));
      }
    }
    return ok();
  }

  static std::string below(const std::string& path, const std::string& name) {
    return path.empty() ? name : fmt::format("{}.{}", path, name);
  }

  static std::string in_words(const Problem& problem) {
    return problem.hint.empty() ? problem.summary
                                : fmt::format("{}; {}", problem.summary, problem.hint);
  }

  static Status wrong(const std::string& path, const std::string& what) {
    return error(StatusCode::kInvalidArgument,
                 escape_controls(fmt::format("{}: {}", path.empty() ? "message" : path, what)));
  }

  Status field(const Message& message, const FieldDescriptor& field, const std::string& parent,
               int depth) {
    const auto& reflection = *message.GetReflection();
    if (field.is_repeated()) return repeated(message, field, parent, depth);
    const bool has_presence = field.has_presence();
    const bool present = reflection.HasField(message, &field);
    if (!present && rules_of(field).required())
      return wrong(below(parent, field.name()), "missing");
    if (!present && has_presence) return ok();
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_MESSAGE:
        return this->message(reflection.GetMessage(message, &field), below(parent, field.name()),
                             depth + 1);
      case FieldDescriptor::CPPTYPE_ENUM:
        return known(field, reflection.GetEnumValue(message, &field), below(parent, field.name()));
      default:
        break;
    }
    std::optional<Problem> problem;
    if (is_one_number(field)) {
      problem = out_of_bounds(number_in(message, field), field);
    } else if (field.type() == FieldDescriptor::TYPE_STRING) {
      std::string scratch;
      problem = misshapen(reflection.GetStringReference(message, &field, &scratch), field);
    }
    if (!problem) return ok();
    return wrong(below(parent, field.name()), in_words(*problem));
  }

  Status repeated(const Message& message, const FieldDescriptor& field, const std::string& parent,
                  int depth) {
    const auto& reflection = *message.GetReflection();
    const int size = reflection.FieldSize(message, &field);
    if (size == 0 && rules_of(field).required()) {
      return wrong(below(parent, field.name()), "missing");
    }
    for (int i = 0; i < size; ++i) {
      const std::string path = fmt::format("{}[{}]", below(parent, field.name()), i);
      Status status = ok();
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        status = this->message(reflection.GetRepeatedMessage(message, &field, i), path, depth + 1);
      } else if (field.type() == FieldDescriptor::TYPE_STRING) {
        std::string scratch;
        const auto& text = reflection.GetRepeatedStringReference(message, &field, i, &scratch);
        if (const auto problem = misshapen(text, field)) status = wrong(path, in_words(*problem));
      } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_ENUM) {
        status = known(field, reflection.GetRepeatedEnumValue(message, &field, i), path);
      }
      if (!status.ok()) return status;
    }
    return ok();
  }

  static Status known(const FieldDescriptor& field, int number, const std::string& path) {
    if (field.enum_type()->FindValueByNumber(number) != nullptr) return ok();
    return wrong(path, fmt::format("{} is not known; it may be {}", number,
                                   one_of(spellings(*field.enum_type()))));
  }
};

}  // namespace

Status check_bounds(const google::protobuf::Message& message) {
  // The path begins with the message's own name, as the caller knows it: fault.network.delay.
  std::string name = message.GetDescriptor()->name();
  for (char& c : name) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return Walk().message(message, name, 0);
}

}  // namespace squall::plan
