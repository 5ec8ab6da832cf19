#include "injector/daemon/guardrails.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <optional>
#include <utility>

#include "experiments/base/clock.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/load.h"
#include "experiments/plan/yaml.h"

namespace squall::daemon {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;
using plan::YamlNode;

constexpr const char* kScript = "script";

const OneofDescriptor& kinds() { return *v1::Fault::descriptor()->FindOneofByName("kind"); }

const v1::LimitRules& limit_rules() {
  return v1::Guardrails::descriptor()
      ->FindFieldByNumber(v1::Guardrails::kStrongestFieldNumber)
      ->options()
      .GetExtension(v1::limits);
}

bool lists(const google::protobuf::RepeatedPtrField<std::string>& list, const std::string& word) {
  return std::find(list.begin(), list.end(), word) != list.end();
}

bool is_listed(const google::protobuf::RepeatedPtrField<std::string>& list,
               const FieldDescriptor& field) {
  return lists(list, field.containing_type()->name() + '.' + field.name());
}

bool is_given(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  return field.is_repeated() ? reflection.FieldSize(message, &field) > 0
                             : reflection.HasField(message, &field);
}

bool is_message(const FieldDescriptor& field) {
  return field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE;
}

/// Whether one of two fields stands instead of the other.
bool are_alternatives(const FieldDescriptor& one, const FieldDescriptor& other) {
  return lists(plan::rules_of(one).excludes(), other.name()) ||
         lists(plan::rules_of(other).excludes(), one.name());
}

/// Minutes since midnight, of 00:00 to 24:00.
std::optional<int> minutes_of(const std::string& text) {
  if (text.size() != 5 || text[2] != ':') return std::nullopt;
  for (const std::size_t i : {0, 1, 3, 4}) {
    if (text[i] < '0' || text[i] > '9') return std::nullopt;
  }
  const int hour = (text[0] - '0') * 10 + text[1] - '0';
  const int minute = (text[3] - '0') * 10 + text[4] - '0';
  if (minute > 59 || hour * 60 + minute > 24 * 60) return std::nullopt;
  return hour * 60 + minute;
}

/// Midnight, local time, so many days after that of `now`, and some minutes; they may be of the
/// next day.
std::time_t local_time(std::time_t now, int days, int minutes) {
  std::tm day{};
  ::localtime_r(&now, &day);
  day.tm_mday += days;
  day.tm_hour = minutes / 60;
  day.tm_min = minutes % 60;
  day.tm_sec = 0;
  day.tm_isdst = -1;
  return std::mktime(&day);
}

/// 0: Monday.
int weekday(std::time_t now, int days) {
  const std::time_t noon = local_time(now, days, 12 * 60);
  std::tm day{};
  ::localtime_r(&noon, &day);
  return (day.tm_wday + 6) % 7;
}

void remember_lines(const YamlNode& node, const std::string& path,
                    std::map<std::string, std::size_t>& lines) {
  for (const YamlNode::Entry& entry : node.entries) {
    const std::string below = path.empty() ? entry.key->text : path + '.' + entry.key->text;
    lines.emplace(below, entry.key->place.line);
    remember_lines(*entry.value, below, lines);
  }
  for (std::size_t i = 0; i < node.items.size(); ++i) {
    const std::string below = fmt::format("{}[{}]", path, i);
    lines.emplace(below, node.items[i]->place.line);
    remember_lines(*node.items[i], below, lines);
  }
}

std::string unfit(const struct stat& file) {
  if ((file.st_mode & (S_IWGRP | S_IWOTH)) == 0) return "";
  return "can be written by others than its owner; chmod go-w mends that";
}

void weigh_kinds(const YamlNode& root, const v1::Guardrails& rules, Diagnostics& diagnostics) {
  const std::vector<std::string> known = plan::choices(kinds());
  const YamlNode* given = root.find("kinds");
  for (int i = 0; i < rules.kinds_size(); ++i) {
    const std::string& kind = rules.kinds(i);
    if (std::find(known.begin(), known.end(), kind) != known.end()) continue;
    const std::string near = nearest(kind, known);
    diagnostics.error(given->items[static_cast<std::size_t>(i)]->place,
                      fmt::format("unknown fault \"{}\"", escape_controls(kind)),
                      near.empty() ? fmt::format("known here: {}", fmt::join(known, ", "))
                                   : fmt::format("did you mean \"{}\"?", near));
  }
  if (given == nullptr) return;
  const bool allows_scripts = lists(rules.kinds(), kScript);
  if (allows_scripts && rules.scripts().empty()) {
    diagnostics.error(root.find_key("kinds")->place,
                      "kinds names script, and no program is allowed",
                      "list under `scripts` those that may be run");
  }
  if (!allows_scripts && !rules.scripts().empty()) {
    diagnostics.error(root.find_key("scripts")->place,
                      "scripts allows programs, and kinds does not name script",
                      "add script to `kinds`, or leave `scripts` out");
  }
}

void weigh_quiet(const YamlNode& root, const v1::Guardrails& rules, Diagnostics& diagnostics) {
  const YamlNode* given = root.find("quiet");
  for (int i = 0; i < rules.quiet_size(); ++i) {
    const YamlNode& item = *given->items[static_cast<std::size_t>(i)];
    const auto read = [&](const char* key, const std::string& text) {
      const auto minutes = minutes_of(text);
      if (!minutes) {
        diagnostics.error(item.find(key)->place,
                          fmt::format("\"{}\" is no time of the day", escape_controls(text)),
                          "write 00:00 to 24:00, such as 08:30");
      }
      return minutes;
    };
    const auto from = read("from", rules.quiet(i).from());
    const auto to = read("to", rules.quiet(i).to());
    if (from && *from == 24 * 60) {
      diagnostics.error(item.find("from")->place, "no hours begin at 24:00", "write 00:00");
    } else if (from && to && *from == *to) {
      diagnostics.error(item.find("to")->place, "the quiet hours end when they begin",
                        "write 00:00 to 24:00 for a whole day");
    }
  }
}

}  // namespace

StatusOr<Guardrails> Guardrails::load(const std::string& path) {
  Guardrails guardrails;
  guardrails.file_ = std::filesystem::path(path).filename().string();
  plan::Beyond beyond;
  beyond.unfit = unfit;
  beyond.weigh = [&](const YamlNode& root, Diagnostics& diagnostics) {
    weigh_kinds(root, guardrails.rules_, diagnostics);
    weigh_quiet(root, guardrails.rules_, diagnostics);
    remember_lines(root, "", guardrails.lines_);
  };
  const Diagnostics diagnostics =
      plan::load_message_file(path, "guardrails", beyond, guardrails.rules_);
  if (diagnostics.has_errors()) {
    std::string text = format_diagnostics(diagnostics, false);
    while (text.ends_with('\n')) text.pop_back();
    return error(StatusCode::kInvalidArgument,
                 "the guardrails are wrong, and without them nothing is served\n" + text);
  }
  const v1::Protect& protect = guardrails.rules_.protect();
  const auto tell = [&](const char* list, const auto& names, auto set) {
    for (int i = 0; i < names.size(); ++i) {
      v1::Spared& one = *guardrails.spared_.Add();
      (one.*set)(names[i]);
      one.set_rule(guardrails.place_of(fmt::format("protect.{}[{}]", list, i)));
    }
  };
  using S = v1::Spared;
  using Set = void (S::*)(const std::string&);
  tell("processes", protect.processes(), static_cast<Set>(&S::set_process<const std::string&>));
  tell("units", protect.units(), static_cast<Set>(&S::set_unit<const std::string&>));
  tell("interfaces", protect.interfaces(), static_cast<Set>(&S::set_interface<const std::string&>));
  tell("paths", protect.paths(), static_cast<Set>(&S::set_path<const std::string&>));
  return guardrails;
}

std::string Guardrails::place_of(const std::string& rule) const {
  const auto line = lines_.find(rule);
  return line == lines_.end() ? file_ : fmt::format("{}:{}", file_, line->second);
}

Status Guardrails::refuse(StatusCode code, const std::string& rule, const std::string& why) const {
  return error(code, escape_controls(fmt::format("{}: {}", place_of(rule), why)));
}

Status Guardrails::allow(const v1::Fault& fault, std::size_t beside, std::time_t now) const {
  if (Status kind = allow_kind(fault); !kind.ok()) return kind;
  if (rules_.has_longest() && fault.for_() > rules_.longest()) {
    return refuse(StatusCode::kPermissionDenied, "longest",
                  fmt::format("longest is {}, the fault asks for {}",
                              format_duration(Duration(rules_.longest())),
                              format_duration(Duration(fault.for_()))));
  }
  for (const v1::Fault& most : rules_.strongest()) {
    if (most.kind_case() != fault.kind_case()) continue;
    const FieldDescriptor& kind = *kind_of(most);
    const Status strength =
        allow_strength(most.GetReflection()->GetMessage(most, &kind),
                       fault.GetReflection()->GetMessage(fault, &kind), "strongest." + kind.name());
    if (!strength.ok()) return strength;
  }
  if (Status spared = spare(fault, ""); !spared.ok()) return spared;
  if (rules_.has_faults() && beside >= rules_.faults()) {
    return refuse(StatusCode::kFailedPrecondition, "faults",
                  fmt::format("faults is {}, and this one would be one more", rules_.faults()));
  }
  return allow_time(fault, now);
}

Status Guardrails::allow_kind(const v1::Fault& fault) const {
  const FieldDescriptor* kind = kind_of(fault);
  if (kind == nullptr) return ok();  // refused as no fault at all
  if (!rules_.kinds().empty() && !lists(rules_.kinds(), kind->name())) {
    return refuse(StatusCode::kPermissionDenied, "kinds",
                  fmt::format("kinds does not name {}", kind->name()));
  }
  if (!fault.has_script()) return ok();
  if (rules_.scripts().empty()) {
    return error(
        StatusCode::kPermissionDenied,
        "this node takes no script faults; its guardrails can allow programs by `scripts`");
  }
  for (const auto* words : {&fault.script().run(), &fault.script().undo()}) {
    if (words->empty()) continue;
    if (Status allowed = allow_program(words->Get(0)); !allowed.ok()) return allowed;
  }
  return ok();
}

Status Guardrails::allow_program(const std::string& program) const {
  if (lists(rules_.scripts(), program)) return ok();
  return refuse(StatusCode::kPermissionDenied, "scripts",
                fmt::format("scripts does not list {}", program));
}

Status Guardrails::allow(const v1::Check& check) const {
  // What root asks of a container engine's socket, say, is done as root.
  if (!check.http().unix().empty() || !check.redis().unix().empty()) {
    return error(StatusCode::kPermissionDenied,
                 "a unix socket would be asked as squalld's user: a node asks by address alone");
  }
  if (!check.has_exec()) return ok();
  if (rules_.scripts().empty()) {
    return error(StatusCode::kPermissionDenied,
                 "this node runs no programs for checks; its guardrails can allow them by "
                 "`scripts`");
  }
  if (Status allowed = allow_program(check.exec().run(0)); !allowed.ok()) return allowed;
  if (check.exec().env().empty()) return ok();
  // LD_PRELOAD alone would make another program of it.
  return refuse(StatusCode::kPermissionDenied, "scripts",
                "scripts lists programs, and no `env` for them");
}

Status Guardrails::allow_strength(const Message& most, const Message& fault,
                                  const std::string& path) const {
  const auto& type = *most.GetDescriptor();
  const auto refuse_unnamed = [&](const FieldDescriptor& field) {
    return refuse(
        StatusCode::kPermissionDenied, path,
        fmt::format("{} names no {}, so that no fault may ask for it", path, field.name()));
  };
  // What a fault does is one of these. Where some are named, no other serves to get round them.
  const auto& effects = plan::rules_of(type).any_of();
  const bool named = std::any_of(effects.begin(), effects.end(), [&](const std::string& name) {
    return is_given(most, *type.FindFieldByName(name));
  });
  for (const std::string& name : effects) {
    const FieldDescriptor& field = *type.FindFieldByName(name);
    if (named && plan::can_be_bounded(field) && is_given(fault, field) && !is_given(most, field)) {
      return refuse_unnamed(field);
    }
  }
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (!is_given(most, field)) continue;
    const std::string below = path + '.' + field.name();
    if (is_message(field)) {
      if (!is_given(fault, field)) continue;
      const Status inside = allow_strength(most.GetReflection()->GetMessage(most, &field),
                                           fault.GetReflection()->GetMessage(fault, &field), below);
      if (!inside.ok()) return inside;
      continue;
    }
    if (Status value = allow_value(most, fault, field, below); !value.ok()) return value;
    for (int j = 0; j < type.field_count(); ++j) {
      const FieldDescriptor& other = *type.field(j);
      const bool counts = other.is_repeated() ? other.cpp_type() == FieldDescriptor::CPPTYPE_UINT32
                                              : plan::can_be_bounded(other);
      if (counts && are_alternatives(field, other) && is_given(fault, other) &&
          !is_given(most, other)) {
        return refuse_unnamed(other);
      }
    }
  }
  return ok();
}

Status Guardrails::allow_value(const Message& most, const Message& fault,
                               const FieldDescriptor& field, const std::string& path) const {
  const auto& type = *field.containing_type();
  const v1::Unit unit = plan::rules_of(field).unit();
  const double bound = number_in(most, field);
  const std::string rule = fmt::format("{} is {}", path, plan::format_number(bound, unit));
  if (!is_given(fault, field)) {
    if (!is_listed(limit_rules().absent_is_strongest(), field)) return ok();
    for (int i = 0; i < type.field_count(); ++i) {
      if (are_alternatives(field, *type.field(i)) && is_given(fault, *type.field(i))) return ok();
    }
    return refuse(StatusCode::kPermissionDenied, path,
                  fmt::format("{}, the fault names no {}", rule, field.name()));
  }
  const double asked = number_in(fault, field);
  const bool less = is_listed(limit_rules().less_is_stronger(), field);
  // Written so that what is no number exceeds every bound.
  if (less ? asked >= bound : asked <= bound) return ok();
  return refuse(StatusCode::kPermissionDenied, path,
                fmt::format("{}{}, the fault asks for {}", rule, less ? " at least" : "",
                            plan::format_number(asked, unit)));
}

Status Guardrails::spare(const Message& fault, const std::string& path) const {
  const v1::Protect& protect = rules_.protect();
  const auto names = [&](const std::string& list, int i, const auto& name, const std::string& by) {
    return refuse(StatusCode::kPermissionDenied, fmt::format("protect.{}[{}]", list, i),
                  fmt::format("protect.{} has {}, which the fault names as {}", list, name, by));
  };
  const auto check = [&](const std::string& list,
                         const google::protobuf::RepeatedPtrField<std::string>& spared,
                         const std::string& name, const std::string& by) {
    const auto found = std::find(spared.begin(), spared.end(), name);
    if (found == spared.end()) return ok();
    return names(list, static_cast<int>(found - spared.begin()), name, by);
  };
  std::vector<const FieldDescriptor*> fields;
  fault.GetReflection()->ListFields(fault, &fields);
  for (const FieldDescriptor* field : fields) {
    const auto& reflection = *fault.GetReflection();
    const std::string by = path.empty() ? field->name() : path + '.' + field->name();
    const auto* process = google::protobuf::DynamicCastToGenerated<v1::Process>(&fault);
    const int many = field->is_repeated() ? reflection.FieldSize(fault, field) : 1;
    for (int i = 0; i < many; ++i) {
      Status status;
      if (is_message(*field)) {
        // What is to pass untouched may well be what is protected.
        if (field->name() == "except") continue;
        const Message& inner = field->is_repeated() ? reflection.GetRepeatedMessage(fault, field, i)
                                                    : reflection.GetMessage(fault, field);
        if (const auto* range = google::protobuf::DynamicCastToGenerated<v1::PortRange>(&inner)) {
          for (int j = 0; j < protect.ports_size() && status.ok(); ++j) {
            const std::uint32_t port = protect.ports(j);
            if (range->first() <= port && port <= range->last()) {
              status = names("ports", j, port, by);
            }
          }
        } else {
          status = spare(inner, by);
        }
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string text = field->is_repeated()
                                     ? reflection.GetRepeatedString(fault, field, i)
                                     : reflection.GetString(fault, field);
        switch (plan::rules_of(*field).text()) {
          case v1::UNIT_NAME:
            status = check("units", protect.units(), text, by);
            break;
          case v1::INTERFACE:
            status = check("interfaces", protect.interfaces(), text, by);
            break;
          case v1::ABSOLUTE_PATH:
            status = check("paths", protect.paths(), text, by);
            break;
          default:
            break;
        }
        if (process != nullptr && field->number() == v1::Process::kNameFieldNumber) {
          status = check("processes", protect.processes(), text, by);
        }
      } else if (process != nullptr && field->number() == v1::Process::kPortFieldNumber) {
        for (int j = 0; j < protect.ports_size() && status.ok(); ++j) {
          if (protect.ports(j) == process->port()) status = names("ports", j, process->port(), by);
        }
      }
      if (!status.ok()) return status;
    }
  }
  return ok();
}

Status Guardrails::allow_time(const v1::Fault& fault, std::time_t now) const {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::time_t until = now + (fault.for_() + kSecond - 1) / kSecond;
  for (int i = 0; i < rules_.quiet_size(); ++i) {
    const v1::QuietHours& quiet = rules_.quiet(i);
    const int from = *minutes_of(quiet.from());
    const int to = *minutes_of(quiet.to());
    // No fault lasts longer than a day.
    for (int day = -1; day <= 2; ++day) {
      const auto& days = quiet.days();
      if (!days.empty() && std::find(days.begin(), days.end(), weekday(now, day)) == days.end()) {
        continue;
      }
      const std::time_t begin = local_time(now, day, from);
      const std::time_t end = local_time(now, to > from ? day : day + 1, to);
      if (now >= end || (begin > now && begin >= until)) continue;
      return refuse(StatusCode::kFailedPrecondition, fmt::format("quiet[{}]", i),
                    fmt::format("the quiet hours from {} to {} {}", quiet.from(), quiet.to(),
                                now >= begin ? "are now" : "begin before the fault would end"));
    }
  }
  return ok();
}

}  // namespace squall::daemon
