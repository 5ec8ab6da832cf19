#include "experiments/plan/decode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "experiments/base/units.h"
#include "experiments/plan/expectation.h"
#include "experiments/plan/forms.h"
#include "squall/v1/guardrails.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

/// A field that a plan may write at one level: one of the message, or of a message that is inline
/// there.
struct Slot {
  const FieldDescriptor* field;
  const FieldDescriptor* inside;  ///< The inline message's field, or null.
  bool tells_when_absent;         ///< Silence about it is a mistake, or has a meaning.
};

/// A choice as a plan sees it: the fields of an inline message's choice count among those that it
/// may stand instead of.
struct Group {
  const OneofDescriptor* choice;
  std::vector<std::string> words;
};

/// Each may hold a pattern, and reading a pattern takes its time.
constexpr std::size_t kMostExpectations = 10'000;

constexpr std::size_t kNoGroup = static_cast<std::size_t>(-1);

/// What may stand in one mapping.
struct Level {
  const Descriptor* type = nullptr;
  std::vector<Slot> slots;
  std::vector<std::string> words;     ///< Of the slots.
  std::vector<std::size_t> group_of;  ///< Of the slots: an index into groups, or kNoGroup.
  std::vector<Group> groups;
  std::vector<const FieldDescriptor*> insides;  ///< Of the slots, each once.
  bool can_contradict = false;
};

const OneofDescriptor* outermost_choice(const Descriptor& type, const Slot& slot) {
  const OneofDescriptor* choice = slot.field->real_containing_oneof();
  if (choice == nullptr || slot.inside == nullptr) return choice;
  for (int i = 0; i < type.real_oneof_decl_count(); ++i) {
    const OneofDescriptor& outer = *type.oneof_decl(i);
    if (rules_of(outer).or_field() == slot.inside->name()) return &outer;
  }
  return choice;
}

/// Whether a message is worth having though nobody wrote it: recovery, with how long it may take.
bool has_only_defaults(const FieldDescriptor& field) {
  if (field.cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE || field.is_repeated()) return false;
  if (field.real_containing_oneof() != nullptr) return false;
  const Descriptor& type = *field.message_type();
  if (rules_of(type).form() != v1::FORM_NONE || type.field_count() == 0) return false;
  for (int i = 0; i < type.field_count(); ++i) {
    if (rules_of(*type.field(i)).default_value().empty()) return false;
  }
  return true;
}

Level level_of(const Descriptor& type) {
  Level level;
  level.type = &type;
  level.can_contradict = can_contradict(type);
  const auto take = [&](const FieldDescriptor& field, const FieldDescriptor* inside) {
    const v1::FieldRules& rules = rules_of(field);
    if (rules.wire_only()) return;
    const bool tells = rules.required() || !rules.default_value().empty() ||
                       !rules.default_from().empty() || has_only_defaults(field);
    level.slots.push_back({&field, inside, tells});
    level.words.push_back(field.name());
  };
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    if (!rules_of(field).inline_fields()) {
      take(field, nullptr);
      continue;
    }
    level.insides.push_back(&field);
    for (int j = 0; j < field.message_type()->field_count(); ++j) {
      take(*field.message_type()->field(j), &field);
    }
  }
  for (std::size_t i = 0; i < level.slots.size(); ++i) {
    const OneofDescriptor* choice = outermost_choice(type, level.slots[i]);
    const auto found = std::find_if(level.groups.begin(), level.groups.end(),
                                    [&](const Group& group) { return group.choice == choice; });
    level.group_of.push_back(
        choice == nullptr ? kNoGroup : static_cast<std::size_t>(found - level.groups.begin()));
    if (choice == nullptr) continue;
    if (found == level.groups.end()) level.groups.push_back({choice, {}});
    level.groups[level.group_of[i]].words.push_back(level.words[i]);
  }
  return level;
}

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

/// A text from the plan for a message, cut where it would fill the screen.
std::string shown(std::string_view text) {
  constexpr std::size_t kLongest = 60;
  if (text.size() <= kLongest) return fmt::format("\"{}\"", text);
  return fmt::format("\"{}...\"", text.substr(0, kLongest));
}

/// The words of a level as a hint, or the nearest of them.
std::string known_words(std::string_view word, const std::vector<std::string>& known) {
  const std::string near = nearest(word, known);
  if (!near.empty()) return fmt::format("did you mean \"{}\"?", near);
  return fmt::format("known here: {}", fmt::join(known, ", "));
}

class Decoder {
 public:
  Decoder(Diagnostics& diagnostics, Tainted& tainted) : out_(diagnostics), tainted_(tainted) {}

  /// `where` is the key that the value belongs to, for what is missing from it; `called` is its
  /// name, or the type's.
  void message(const YamlNode& node, Message& message, const Place& where,
               const std::string& called) {
    const std::size_t before = told();
    if (node.told) {
      tainted_.insert(&node);
      return;
    }
    switch (rules_of(*message.GetDescriptor()).form()) {
      case v1::FORM_NONE:
        mapping(node, message, where, called);
        break;
      case v1::LIST:
        repeated(node, message, *message.GetDescriptor()->field(0), where, called);
        break;
      case v1::ENVIRONMENT:
        map(node, message, *message.GetDescriptor()->field(0), where);
        break;
      case v1::SELECTOR:
        selector(node, static_cast<v1::Selector&>(message), where);
        break;
      case v1::PARAMETER:
        parameter(node, message, where, called);
        break;
      default:
        short_form(node, message, where);
        break;
    }
    if (told() != before) tainted_.insert(&node);
  }

 private:
  /// A message being decoded, for knowing where else a word would have been right.
  struct Open {
    const Level* level;
    std::string key;  ///< That it stands below.
  };

  const Level& level(const Descriptor& type) {
    const auto [found, fresh] = levels_.try_emplace(&type);
    if (fresh) found->second = level_of(type);
    return found->second;
  }

  static Place place_in(const YamlNode& node, const Place& where) {
    // A list's item has no key of its own; its first word stands for it.
    if (node.kind == YamlNode::Kind::kMapping && !node.flow && !node.entries.empty()) {
      return node.entries.front().key->place;
    }
    return where;
  }

  void mapping(const YamlNode& node, Message& message, const Place& where,
               const std::string& called) {
    const Descriptor& type = *message.GetDescriptor();
    const Level& here = level(type);
    if (node.kind == YamlNode::Kind::kScalar || node.kind == YamlNode::Kind::kSequence) {
      const v1::MessageRules& rules = rules_of(type);
      const bool short_example =
          !rules.example().empty() && rules.example().find('\n') == std::string::npos;
      out_.error(node.place, fmt::format("{} is a mapping", called),
                 short_example ? fmt::format("write {}", rules.example())
                               : fmt::format("known in it: {}", fmt::join(here.words, ", ")));
      return;
    }
    open_.push_back({&here, ""});
    std::vector<const YamlNode::Entry*> given(here.slots.size());
    const std::size_t before = out_.errors;
    for (const YamlNode::Entry& entry : node.entries) {
      const auto slot = std::find_if(here.slots.begin(), here.slots.end(), [&](const Slot& known) {
        return known.field->name() == entry.key->text;
      });
      if (slot == here.slots.end()) {
        unknown_key(*entry.key);
        continue;
      }
      const auto index = static_cast<std::size_t>(slot - here.slots.begin());
      if (given[index] != nullptr) continue;  // told as a duplicate key
      if (bounding_ && !can_be_bounded(*slot->field)) {
        out_.error(
            entry.key->place, fmt::format("{} has no more and no less", entry.key->text),
            fmt::format("of {} may be bounded: {}", called, fmt::join(bounded_words(here), ", ")));
        continue;
      }
      given[index] = &entry;
    }
    if (!bounding_) choose(node, here, given, place_in(node, where));
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (given[i] == nullptr) continue;
      open_.back().key = here.slots[i].field->name();
      value(*given[i]->value, target(message, here.slots[i]), *here.slots[i].field,
            given[i]->key->place);
    }
    if (bounding_ && node.entries.empty()) {
      out_.error(where, fmt::format("{} bounds nothing", called),
                 fmt::format("known in it: {}", fmt::join(bounded_words(here), ", ")));
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
      if (given[i] == nullptr && here.slots[i].tells_when_absent && !bounding_)
        absent(message, here.slots[i], place_in(node, where), called);
    }
    open_.pop_back();
    const bool tainted = std::any_of(given.begin(), given.end(), [this](const auto* entry) {
      return entry != nullptr && tainted_.contains(entry->value);
    });
    if (tainted) tainted_.insert(&node);
    if (out_.errors != before || bounding_ || tainted) {
      if (!is_fault_kind(*message.GetDescriptor())) {
        courses_.clear();
        search_ = {};
      }
      return;
    }
    if (here.can_contradict) weigh(message, node, place_in(node, where), called);
    for (const FieldDescriptor* field : here.insides) {
      if (!message.GetReflection()->HasField(message, field)) continue;
      Message& inside = *message.GetReflection()->MutableMessage(&message, field);
      if (auto* fault = google::protobuf::DynamicCastToGenerated<v1::Fault>(&inside)) {
        take_courses(*fault, node);
      }
      weigh(inside, node, place_in(node, where), called);
      break;
    }
  }

  /// Goes up with all that is told, kept or not.
  std::size_t told() const { return out_.errors + out_.warnings; }

  static Message& target(Message& message, const Slot& slot) {
    if (slot.inside == nullptr) return message;
    return *message.GetReflection()->MutableMessage(&message, slot.inside);
  }

  /// What the fields say together.
  void weigh(const Message& message, const YamlNode& node, const Place& where,
             const std::string& called) {
    for (Finding& finding : contradictions(message, called)) {
      const YamlNode* key = node.find_key(finding.field);
      const YamlNode* value = node.find(finding.field);
      Place place = where;
      if (key != nullptr) place = key->place;
      if (value != nullptr && value->kind == YamlNode::Kind::kScalar) place = value->place;
      out_.error(place, std::move(finding.summary), std::move(finding.hint));
    }
  }

  /// Choices: no more than one, and one where one must be.
  void choose(const YamlNode& node, const Level& here,
              const std::vector<const YamlNode::Entry*>& given, const Place& where) {
    struct Taken {
      const YamlNode* key = nullptr;
      const OneofDescriptor* choice = nullptr;
      bool more = false;
    };
    if (here.groups.empty()) return;
    std::vector<Taken> taken(here.groups.size());
    // In the plan's order, so that the second is the one too many.
    for (const YamlNode::Entry& entry : node.entries) {
      for (std::size_t i = 0; i < here.slots.size(); ++i) {
        if (given[i] != &entry) continue;
        if (here.group_of[i] == kNoGroup) continue;
        const OneofDescriptor* choice = here.slots[i].field->real_containing_oneof();
        Taken& first = taken[here.group_of[i]];
        if (first.key == nullptr) {
          first = {entry.key, choice};
          continue;
        }
        first.more = true;
        const std::string level_noun = noun_of(*here.type);
        const std::string own_noun = rules_of(*choice).noun();
        const std::string both = fmt::format("{} and {}", first.key->text, entry.key->text);
        out_.error(entry.key->place,
                   first.choice == choice && own_noun != level_noun
                       ? fmt::format("two {}s in one {}: {}", own_noun, level_noun, both)
                       : fmt::format("{} in one {}", both, level_noun),
                   fmt::format("each needs a {} of its own", level_noun));
      }
    }
    for (std::size_t number = 0; number < here.groups.size(); ++number) {
      const OneofDescriptor* group = here.groups[number].choice;
      const Taken& found = taken[number];
      if (!rules_of(*group).required()) continue;
      if (found.key == nullptr) {
        // An unknown word may well be the misspelt choice; that is told already.
        const bool unknown = std::any_of(
            node.entries.begin(), node.entries.end(), [&](const YamlNode::Entry& entry) {
              return std::find(here.words.begin(), here.words.end(), entry.key->text) ==
                     here.words.end();
            });
        if (unknown) continue;
        const std::string level_noun = noun_of(*here.type);
        const std::string own_noun = rules_of(*group).noun();
        out_.error(where,
                   own_noun == level_noun ? fmt::format("the {} does nothing", level_noun)
                                          : fmt::format("the {} has no {}", level_noun, own_noun),
                   fmt::format("write {}", one_of(here.groups[number].words)));
        continue;
      }
      // What describes the inline message has nothing to describe where another choice was made.
      for (std::size_t i = 0; i < here.slots.size(); ++i) {
        const Slot& slot = here.slots[i];
        if (given[i] == nullptr || slot.inside == nullptr ||
            slot.field->real_containing_oneof() != nullptr) {
          continue;
        }
        if (rules_of(*group).or_field() == slot.inside->name() && found.choice == group &&
            !found.more) {
          out_.error(given[i]->key->place,
                     fmt::format("`{}` is a {}'s, and this {} has none", slot.field->name(),
                                 slot.inside->name(), noun_of(*here.type)),
                     fmt::format("leave `{}` out", slot.field->name()));
        }
      }
    }
  }

  void unknown_key(const YamlNode& key) {
    const std::string& word = key.text;
    if (key.plain && word == "<<") return;  // told already
    out_.error(key.place, fmt::format("unknown key {}", shown(word)),
               [&] { return where_known(word); });
  }

  /// Where an unknown word would have been right, or what is known here.
  std::string where_known(const std::string& word) {
    const Level& here = *open_.back().level;
    const auto has = [&](const Level& other) {
      return std::find(other.words.begin(), other.words.end(), word) != other.words.end();
    };
    std::string hint;
    for (std::size_t i = open_.size() - 1; i-- > 0 && hint.empty();) {
      if (has(*open_[i].level)) {
        hint = fmt::format("`{}` belongs to the {}, beside `{}`", word,
                           noun_of(*open_[i].level->type), open_[i].key);
      }
    }
    for (const Slot& slot : here.slots) {
      if (!hint.empty() || slot.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
      const Level& below = level(*slot.field->message_type());
      if (rules_of(*below.type).form() != v1::FORM_NONE || slot.field->is_map()) continue;
      if (has(below)) {
        hint = slot.field->is_repeated()
                   ? fmt::format("`{}` belongs to a {}, inside `{}`", word, noun_of(*below.type),
                                 slot.field->name())
                   : fmt::format("`{}` belongs inside `{}`", word, slot.field->name());
      }
      for (const Slot& deeper : below.slots) {
        if (!hint.empty() || deeper.field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
        if (deeper.field->is_repeated()) continue;
        const Level& lowest = level(*deeper.field->message_type());
        if (rules_of(*lowest.type).form() == v1::FORM_NONE && !slot.field->is_repeated() &&
            has(lowest)) {
          hint = fmt::format("`{}` belongs inside `{}`, inside `{}`", word, deeper.field->name(),
                             slot.field->name());
        }
      }
    }
    return hint.empty() ? known_words(word, here.words) : hint;
  }

  /// A field that the plan is silent about: required, or with a value of its own then.
  void absent(Message& message, const Slot& slot, const Place& where, const std::string& called) {
    const FieldDescriptor& field = *slot.field;
    const v1::FieldRules& rules = rules_of(field);
    if (rules.required()) {
      out_.error(where, fmt::format("{} needs `{}`", called, field.name()),
                 rules.help().empty() ? "" : fmt::format("{}: {}", field.name(), rules.help()));
      return;
    }
    const auto& reflection = *message.GetReflection();
    if (slot.inside != nullptr && !reflection.HasField(message, slot.inside)) return;
    Message& owner = target(message, slot);
    if (!rules.default_value().empty()) {
      YamlNode text;
      text.kind = YamlNode::Kind::kScalar;
      text.plain = true;
      text.text = rules.default_value();
      text.place = where;
      scalar(text, owner, field);
    } else if (!rules.default_from().empty()) {
      const FieldDescriptor* other = owner.GetDescriptor()->FindFieldByName(rules.default_from());
      const bool same = other != nullptr && other->cpp_type() == FieldDescriptor::CPPTYPE_INT64 &&
                        field.cpp_type() == FieldDescriptor::CPPTYPE_INT64;
      if (same && owner.GetReflection()->HasField(owner, other)) {
        owner.GetReflection()->SetInt64(&owner, &field,
                                        owner.GetReflection()->GetInt64(owner, other));
      }
    } else {
      YamlNode nothing;
      nothing.kind = YamlNode::Kind::kMapping;
      nothing.place = where;
      this->message(nothing, *owner.GetReflection()->MutableMessage(&owner, &field), where,
                    field.name());
    }
  }

  void value(const YamlNode& node, Message& message, const FieldDescriptor& field,
             const Place& where) {
    const std::size_t before = told();
    if (node.told) {
      tainted_.insert(&node);
      return;
    }
    if (field.options().HasExtension(v1::limits)) {
      limits(node, message, field, where);
    } else if (field.is_map()) {
      map(node, message, field, where);
    } else if (field.is_repeated()) {
      repeated(node, message, field, where, field.name());
    } else if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      this->message(node, *message.GetReflection()->MutableMessage(&message, &field), where,
                    field.name());
    } else {
      scalar(node, message, field);
    }
    if (told() != before) tainted_.insert(&node);
  }

  /// By kind, what faults of it may ask for at most: each a message of its own, of which only the
  /// numbers are there.
  void limits(const YamlNode& node, Message& message, const FieldDescriptor& field,
              const Place& where) {
    if (node.kind != YamlNode::Kind::kMapping || node.entries.empty()) {
      out_.error(node.kind == YamlNode::Kind::kMapping || node.kind == YamlNode::Kind::kNull
                     ? where
                     : node.place,
                 fmt::format("{} is a mapping of fault kinds to their bounds", field.name()),
                 fmt::format("write {}: {{network: {{delay: 2s}}}}", field.name()));
      return;
    }
    const OneofDescriptor& kinds = *field.message_type()->oneof_decl(0);
    std::unordered_set<std::string_view> seen;
    for (const YamlNode::Entry& entry : node.entries) {
      if (!seen.insert(entry.key->text).second) continue;  // told as a duplicate key
      const FieldDescriptor* kind = field.message_type()->FindFieldByName(entry.key->text);
      if (kind == nullptr || kind->real_containing_oneof() != &kinds) {
        out_.error(entry.key->place,
                   fmt::format("unknown {} {}", rules_of(kinds).noun(), shown(entry.key->text)),
                   known_words(entry.key->text, choices(kinds)));
        continue;
      }
      Message& fault = *message.GetReflection()->AddMessage(&message, &field);
      bounding_ = true;
      this->message(*entry.value, *fault.GetReflection()->MutableMessage(&fault, kind),
                    entry.key->place, kind->name());
      bounding_ = false;
    }
  }

  /// Of the words of a level, those that have a more and a less.
  static std::vector<std::string> bounded_words(const Level& level) {
    std::vector<std::string> words;
    for (const Slot& slot : level.slots) {
      if (can_be_bounded(*slot.field)) words.push_back(slot.field->name());
    }
    return words;
  }

  static std::string example_of(const FieldDescriptor& field) {
    const v1::FieldRules& rules = rules_of(field);
    if (rules.examples_size() > 0) return rules.examples(0);
    if (!rules.default_value().empty()) return rules.default_value();
    return "";
  }

  static std::string write_example(const FieldDescriptor& field) {
    const std::string example = example_of(field);
    return example.empty() ? "" : fmt::format("write {}: {}", field.name(), example);
  }

  void repeated(const YamlNode& node, Message& message, const FieldDescriptor& field,
                const Place& where, const std::string& name) {
    if (node.kind != YamlNode::Kind::kSequence) {
      if (node.kind == YamlNode::Kind::kNull) {
        out_.error(where, fmt::format("{} has no value", name), "it is a list");
      } else {
        out_.error(node.place, fmt::format("{} is a list", name),
                   node.kind == YamlNode::Kind::kScalar
                       ? fmt::format("write {}: [{}]", name, node.text.substr(0, 60))
                       : "begin each of its items with \"- \"");
      }
      return;
    }
    if (node.items.empty()) {
      out_.error(
          where, fmt::format("{} is empty", name),
          rules_of(field).required() ? "give it an item" : "give it an item, or leave it out");
      return;
    }
    if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE &&
        rules_of(*field.message_type()).form() == v1::EXPECTATION) {
      expected_ += node.items.size();
      if (expected_ > kMostExpectations) {
        out_.error(where, fmt::format("more than {} expectations", kMostExpectations),
                   "a plan has no more, in all of its checks");
        return;
      }
    }
    const std::string item_called = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE
                                        ? fmt::format("a {}", noun_of(*field.message_type()))
                                        : "";
    std::unordered_set<std::string_view> seen;
    for (const YamlNode* item : node.items) {
      if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        this->message(*item, *message.GetReflection()->AddMessage(&message, &field), item->place,
                      item_called);
      } else if (!item->told) {
        scalar(*item, message, field);
        if (field.cpp_type() != FieldDescriptor::CPPTYPE_STRING &&
            !seen.insert(item->text).second) {
          out_.error(item->place, fmt::format("{} stands there twice", shown(item->text)), "");
        }
      }
    }
  }

  void map(const YamlNode& node, Message& message, const FieldDescriptor& field,
           const Place& where) {
    if (node.kind != YamlNode::Kind::kMapping) {
      out_.error(node.kind == YamlNode::Kind::kNull ? where : node.place,
                 fmt::format("{} is a mapping of names to values", field.name()),
                 write_example(field));
      return;
    }
    if (node.entries.empty()) {
      out_.error(where, fmt::format("{} is empty", field.name()),
                 rules_of(field).required() ? write_example(field)
                                            : fmt::format("leave `{}` out", field.name()));
      return;
    }
    const FieldDescriptor& key = *field.message_type()->map_key();
    const FieldDescriptor& value = *field.message_type()->map_value();
    open_.push_back({&kNoLevel, field.name()});
    std::unordered_set<std::string_view> seen;
    for (const YamlNode::Entry& entry : node.entries) {
      if (!seen.insert(entry.key->text).second) continue;  // told as a duplicate key
      if (const auto problem = misshapen_key(entry.key->text, field)) {
        out_.error(entry.key->place, problem->summary, problem->hint);
        continue;
      }
      if (entry.value->told) continue;
      Message& pair = *message.GetReflection()->AddMessage(&message, &field);
      pair.GetReflection()->SetString(&pair, &key, entry.key->text);
      open_.back().key = entry.key->text;
      if (value.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        this->message(*entry.value, *pair.GetReflection()->MutableMessage(&pair, &value),
                      entry.key->place, fmt::format("a {}", noun_of(*value.message_type())));
        continue;
      }
      if (entry.value->kind != YamlNode::Kind::kScalar) {
        out_.error(
            entry.value->kind == YamlNode::Kind::kNull ? entry.key->place : entry.value->place,
            fmt::format("{} is not a text", shown(entry.key->text)),
            entry.value->kind == YamlNode::Kind::kNull ? "write \"\" for an empty one" : "");
        continue;
      }
      if (const auto problem = misshapen_value(entry.value->text, field)) {
        out_.error(entry.value->place, problem->summary, problem->hint);
        continue;
      }
      pair.GetReflection()->SetString(&pair, &value, entry.value->text);
    }
    open_.pop_back();
  }

  void selector(const YamlNode& node, v1::Selector& selector, const Place& where) {
    const std::string hint = "write a node's name, labels as {role: db}, or all";
    switch (node.kind) {
      case YamlNode::Kind::kNull:
        out_.error(where, "selects nothing", hint);
        return;
      case YamlNode::Kind::kSequence:
        out_.error(node.place, "a selector is not a list",
                   "write one node's name, or labels that all the nodes bear");
        return;
      case YamlNode::Kind::kScalar:
        if (node.text.empty()) {
          out_.error(node.place, "selects nothing", hint);
        } else if (node.text == "all") {
          selector.set_all(true);
        } else {
          selector.set_node(node.text);
        }
        return;
      case YamlNode::Kind::kMapping:
        break;
    }
    if (node.entries.empty()) {
      out_.error(node.place, "an empty selector", "write `all` for every node");
      return;
    }
    if (const YamlNode* all = node.find("all")) {
      const bool is_true =
          all->kind == YamlNode::Kind::kScalar && all->plain && all->text == "true";
      if (!is_true) {
        out_.error(all->place, "all can only be true", "write {all: true}");
      } else if (node.entries.size() > 1) {
        out_.error(node.find_key("all")->place, "all nodes, and labels as well",
                   "write one or the other");
      } else {
        selector.set_all(true);
      }
      return;
    }
    for (const YamlNode::Entry& entry : node.entries) {
      if (entry.value->told) tainted_.insert(&node);
      if (entry.value->kind != YamlNode::Kind::kScalar) {
        out_.error(entry.key->place, fmt::format("label {} has no value", shown(entry.key->text)),
                   "write {role: db}");
        continue;
      }
      selector.mutable_labels()->insert({entry.key->text, entry.value->text});
    }
  }

  /// Its default alone, or all that is to be said about it.
  void parameter(const YamlNode& node, Message& message, const Place& where,
                 const std::string& called) {
    if (node.kind == YamlNode::Kind::kScalar) {
      static_cast<v1::Parameter&>(message).set_default_(node.text);
    } else if (node.kind == YamlNode::Kind::kMapping) {
      mapping(node, message, where, called);
    } else {
      out_.error(node.kind == YamlNode::Kind::kNull ? where : node.place,
                 fmt::format("{} has no one value", called),
                 "write its default, or {help: what it is for} where every run must give it");
    }
  }

  /// As read_expectation, but each of the first thousand texts is read once: a pattern may take a
  /// millisecond, and checks often expect the same.
  std::optional<ProblemAt> expectation_of(const std::string& text, v1::Expectation& expectation) {
    constexpr std::size_t kMostRemembered = 1000;
    const auto known = expectations_.find(text);
    if (known != expectations_.end()) {
      expectation = known->second.read;
      return known->second.problem;
    }
    auto problem = read_expectation(text, expectation);
    if (expectations_.size() < kMostRemembered) expectations_[text] = {expectation, problem};
    return problem;
  }

  void short_form(const YamlNode& node, Message& message, const Place& where) {
    if (node.kind != YamlNode::Kind::kScalar) {
      const bool is_expectation = rules_of(*message.GetDescriptor()).form() == v1::EXPECTATION;
      out_.error(node.kind == YamlNode::Kind::kNull ? where : node.place,
                 fmt::format("{} is written as one text", noun_of(*message.GetDescriptor())),
                 is_expectation ? "put it in quotes if it holds \": \", brackets or \"#\"" : "");
      return;
    }
    if (rules_of(*message.GetDescriptor()).form() == v1::EXPECTATION) {
      auto& expectation = static_cast<v1::Expectation&>(message);
      if (const auto wrong = expectation_of(node.text, expectation)) {
        out_.error(node.within(wrong->offset, wrong->length), wrong->problem.summary,
                   wrong->problem.hint);
      }
      return;
    }
    std::optional<Problem> problem;
    switch (rules_of(*message.GetDescriptor()).form()) {
      case v1::CIDR:
        problem = read_cidr(node.text, static_cast<v1::Cidr&>(message));
        break;
      case v1::PORT_RANGE:
        problem = read_port_range(node.text, static_cast<v1::PortRange&>(message));
        break;
      case v1::PROTOCOL:
        problem = read_protocol(node.text, static_cast<v1::Protocol&>(message));
        break;
      case v1::PROCESS_PICK:
        problem = read_process_pick(node.text, static_cast<v1::ProcessPick&>(message));
        break;
      case v1::QUORUM:
        problem = read_quorum(node.text, static_cast<v1::Quorum&>(message));
        break;
      case v1::PICK:
        problem = read_pick(node.text, static_cast<v1::Pick&>(message));
        break;
      default:
        problem = Problem{"this form is not known", ""};
        break;
    }
    if (problem) out_.error(node.place, std::move(problem->summary), std::move(problem->hint));
  }

  /// One value, set or added.
  void scalar(const YamlNode& node, Message& message, const FieldDescriptor& field) {
    if (node.kind == YamlNode::Kind::kNull) {
      out_.error(node.place, fmt::format("{} has no value", field.name()), write_example(field));
      return;
    }
    if (node.kind == YamlNode::Kind::kMapping && !bounding_ && is_one_number(field) &&
        is_fault_kind(*field.containing_type())) {
      return course(node, message, field);
    }
    if (node.kind != YamlNode::Kind::kScalar) {
      out_.error(node.place, fmt::format("{} is one value", field.name()), write_example(field));
      return;
    }
    const auto& reflection = *message.GetReflection();
    const auto put = [&](auto set, auto add, auto what) {
      if (field.is_repeated()) {
        (reflection.*add)(&message, &field, what);
      } else {
        (reflection.*set)(&message, &field, what);
      }
    };
    using R = google::protobuf::Reflection;
    switch (field.cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        if (text_is_right(node, field)) put(&R::SetString, &R::AddString, node.text);
        return;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (!node.plain || (node.text != "true" && node.text != "false")) {
          out_.error(node.place, fmt::format("{} is neither true nor false", shown(node.text)),
                     "write true or false");
          return;
        }
        put(&R::SetBool, &R::AddBool, node.text == "true");
        return;
      case FieldDescriptor::CPPTYPE_ENUM: {
        const EnumValueDescriptor* value = value_named(*field.enum_type(), node.text);
        if (value == nullptr) {
          const std::vector<std::string> known = spellings(*field.enum_type());
          std::string near = nearest(node.text, known);
          // SIGKILL for KILL: longer than a slip, and still plain.
          for (const std::string& word : known) {
            if (near.empty() && lower_case(node.text).ends_with(lower_case(word))) near = word;
          }
          out_.error(node.place, fmt::format("unknown {} {}", field.name(), shown(node.text)),
                     near.empty() ? fmt::format("it may be {}", one_of(known))
                                  : fmt::format("did you mean \"{}\"?", near));
          return;
        }
        put(&R::SetEnumValue, &R::AddEnumValue, value->number());
        return;
      }
      case FieldDescriptor::CPPTYPE_UINT64:
        if (rules_of(field).unit() == v1::UNIT_NONE) {  // a seed has all 64 bits; a double has 53
          const auto whole = parse_count(node.text);
          if (!whole.ok()) {
            tell(node, problem_of(whole.status()));
          } else if (const auto bad = out_of_bounds(static_cast<double>(*whole), field)) {
            tell(node, *bad);
          } else {
            put(&R::SetUInt64, &R::AddUInt64, *whole);
          }
          return;
        }
        break;
      default:
        break;
    }
    const auto read = parse_number(node.text, rules_of(field).unit(),
                                   field.cpp_type() == FieldDescriptor::CPPTYPE_INT32);
    if (!read.ok()) {
      Problem problem = problem_of(read.status());
      // The declared example knows the magnitude better than the unit does.
      out_.error(node.place, std::move(problem.summary), std::move(problem.hint));
      return;
    }
    if (auto problem = out_of_bounds(*read, field)) {
      out_.error(node.place, fmt::format("{} {}", field.name(), problem->summary),
                 std::move(problem->hint));
      return;
    }
    if (holds_number(field, *read)) return set_number(message, field, *read);
    out_.error(
        node.place, fmt::format("{} {} is too large", field.name(), node.text),
        bounds_in_words(field).empty() ? "" : fmt::format("write {}", bounds_in_words(field)));
  }

  /// A number that changes while the fault lasts, or that is looked for. The field itself has the
  /// larger end, which is what the node is asked about.
  void course(const YamlNode& node, Message& message, const FieldDescriptor& field) {
    const YamlNode* find = node.find("find");
    if (find != nullptr && node.entries.size() > 1) {
      out_.error(node.find_key("find")->place, "a search and a ramp of one number",
                 "write {find: {from: 0ms, to: 1s, resolution: 10ms}} alone");
      return;
    }
    if (find == nullptr && !rules_of(field).ramps()) {
      out_.error(node.place, fmt::format("{} cannot change while the fault lasts", field.name()),
                 [&] { return what_ramps(*field.containing_type()); });
      return;
    }
    const YamlNode& written = find == nullptr ? node : *find;
    if (!written.is_mapping()) {
      out_.error(written.place, "find is a mapping",
                 "write find: {from: 0ms, to: 1s, resolution: 10ms}");
      return;
    }
    const std::string last = find == nullptr ? "over" : "resolution";
    const std::vector<std::string> words = {"from", "to", last};
    const std::size_t before = out_.errors;
    for (const YamlNode::Entry& entry : written.entries) {
      if (std::find(words.begin(), words.end(), entry.key->text) != words.end()) continue;
      out_.error(entry.key->place, fmt::format("unknown key {}", shown(entry.key->text)),
                 known_words(entry.key->text, words));
    }
    // An unknown word may well be the misspelt one.
    if (out_.errors != before) return;
    std::map<std::string, double> numbers;
    for (const std::string& word : words) {
      const YamlNode* value = written.find(word);
      if (value == nullptr || !value->is_scalar()) {
        out_.error(value == nullptr ? written.place : value->place,
                   fmt::format("a {} needs `{}`", find == nullptr ? "ramp" : "search", word),
                   find == nullptr ? "such as {from: 0ms, to: 400ms, over: 60s}"
                                   : "such as {find: {from: 0ms, to: 1s, resolution: 10ms}}");
        continue;
      }
      if (value->told) {
        tainted_.insert(&node);
        return;
      }
      const v1::Unit unit = word == "over" ? v1::DURATION : rules_of(field).unit();
      const auto read =
          parse_number(value->text, unit, field.cpp_type() == FieldDescriptor::CPPTYPE_INT32);
      if (!read.ok()) {
        tell(*value, problem_of(read.status()));
        continue;
      }
      numbers[word] = *read;
      if (word == last) {
        if (*read <= 0) out_.error(value->place, fmt::format("{} is nothing", word));
      } else if (const auto problem = bad_end(*read, field)) {
        out_.error(value->place, fmt::format("{} {}", field.name(), problem->summary),
                   problem->hint);
      }
    }
    if (out_.errors != before) return;
    const double from = numbers["from"];
    const double to = numbers["to"];
    if (from == to) {
      out_.error(written.find("to")->place, "from and to are the same", "");
      return;
    }
    if (find != nullptr && numbers[last] > std::abs(to - from)) {
      out_.error(written.find(last)->place, "the resolution is coarser than the whole range",
                 fmt::format("write at most {}",
                             format_number(std::abs(to - from), rules_of(field).unit())));
      return;
    }
    set_number(message, field, std::max(from, to));
    if (find == nullptr) {
      v1::Ramp& ramp = courses_.emplace_back(v1::Ramp(), &node).first;
      ramp.set_field(field.name());
      ramp.set_from(from);
      ramp.set_to(to);
      ramp.set_over(static_cast<std::int64_t>(numbers[last]));
      return;
    }
    if (search_.second != nullptr) {
      out_.error(node.place, "two numbers of one fault are looked for", "look for one of them");
      return;
    }
    search_.second = &node;
    search_.first.set_field(field.name());
    search_.first.set_from(from);
    search_.first.set_to(to);
    search_.first.set_resolution(numbers[last]);
  }

  static std::string what_ramps(const Descriptor& kind) {
    std::vector<std::string> words;
    for (int i = 0; i < kind.field_count(); ++i) {
      if (rules_of(*kind.field(i)).ramps()) words.push_back(kind.field(i)->name());
    }
    return words.empty()
               ? "write one value"
               : fmt::format("of {} these can: {}", noun_of(kind), fmt::join(words, ", "));
  }

  /// Gives the fault whose kind was just read its ramps and its search, and tells what is wrong
  /// with them there.
  void take_courses(v1::Fault& fault, const YamlNode& node) {
    if (courses_.empty() && search_.second == nullptr) return;
    const auto courses = std::exchange(courses_, {});
    const auto [search, searched] = std::exchange(search_, {});
    for (const auto& [ramp, written] : courses) *fault.add_ramps() = ramp;
    if (searched != nullptr) {
      *fault.mutable_search() = search;
      if (const auto problem = bad_search(fault)) {
        return out_.error(searched->place, problem->summary, problem->hint);
      }
    }
    if (const auto problem = bad_ramps(fault)) {
      return out_.error(courses.front().second->place, problem->summary, problem->hint);
    }
    const std::string& kind = kind_of(fault)->name();
    const YamlNode* written = node.find(kind);
    if (written == nullptr) return;
    std::vector<v1::Fault> corners = corners_of(fault);
    if (searched != nullptr) {
      for (const double end : {search.from(), search.to()}) {
        if (end != 0) corners.push_back(attempt_at(fault, end));
      }
    }
    for (const v1::Fault& corner : corners) {
      weigh(kind_in(corner), *written, written->place, kind);
    }
  }

  void tell(const YamlNode& node, const Problem& problem) {
    out_.error(node.place, problem.summary, problem.hint);
  }

  bool text_is_right(const YamlNode& node, const FieldDescriptor& field) {
    const bool says_all = rules_of(field).required() || field.real_containing_oneof() != nullptr;
    if (node.text.empty() && says_all && !field.is_repeated()) {
      out_.error(node.place, fmt::format("{} is empty", field.name()), write_example(field));
      return false;
    }
    auto doubt = doubtful(node.text, field);
    if (doubt) hide(node);
    if (auto problem = misshapen(node.text, field)) {
      out_.error(node.place, std::move(problem->summary), std::move(problem->hint));
      return false;
    }
    if (doubt) out_.warning(node.place, std::move(doubt->summary), std::move(doubt->hint));
    return true;
  }

  /// Stars for what stands between :// and @ in a URL, and for its parameter password, so that no
  /// terminal and no log shows it.
  void hide(const YamlNode& node) {
    if (!hidden_.insert(&node).second) return;
    std::string& text = node.place.file == 0 ? out_.text : out_.beside[node.place.file - 1].text;
    const std::string_view shown = std::string_view(text).substr(node.begin, node.place.length);
    const auto star = [&](std::size_t from, std::size_t to) {
      for (std::size_t at = from; at < to; ++at) text[node.begin + at] = '*';
    };
    constexpr std::string_view kPassword = "password=";
    const std::size_t from = shown.find("://");
    const std::size_t to = shown.rfind('@');
    for (std::size_t at = shown.find(kPassword); at != std::string_view::npos;) {
      const std::size_t begin = at + kPassword.size();
      star(begin, std::min(shown.find_first_of("&\"'", begin), shown.size()));
      at = shown.find(kPassword, begin);
    }
    if (to == std::string_view::npos) return;
    const bool is_quoted = shown.starts_with('"') || shown.starts_with('\'');
    star(from != std::string_view::npos ? from + 3 : is_quoted ? 1 : 0, to);
  }

  static inline const Level kNoLevel{};

  struct Expected {
    v1::Expectation read;
    std::optional<ProblemAt> problem;
  };

  Diagnostics& out_;
  Tainted& tainted_;
  std::unordered_map<std::string, Expected> expectations_;
  std::size_t expected_ = 0;  ///< All of the plan, each as often as it is written.
  std::unordered_set<const YamlNode*> hidden_;  ///< Whose credentials are starred.
  std::unordered_map<const Descriptor*, Level> levels_;
  std::vector<Open> open_;
  /// Of the fault that is being read, each with where it is written.
  std::vector<std::pair<v1::Ramp, const YamlNode*>> courses_;
  std::pair<v1::Search, const YamlNode*> search_{};
  bool bounding_ = false;  ///< Bounds are read: nothing is required, nothing has a default.
};

}  // namespace

Tainted decode(const YamlTree& tree, Message& message, Diagnostics& diagnostics) {
  Tainted tainted;
  Decoder(diagnostics, tainted)
      .message(*tree.root, message, tree.root->place,
               fmt::format("the {}", noun_of(*message.GetDescriptor())));
  return tainted;
}

}  // namespace squall::plan
