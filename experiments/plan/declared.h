/// \file
/// What the contracts declare about a field, a message or a choice, read by reflection. Decoding,
/// bounds checks and explanations all ask here; no kind is known by name.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "experiments/fault/fault.h"
#include "squall/v1/faults.pb.h"
#include "squall/v1/options.pb.h"

namespace squall::plan {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;

const v1::FieldRules& rules_of(const FieldDescriptor& field);
const v1::MessageRules& rules_of(const Descriptor& message);
const v1::OneofRules& rules_of(const OneofDescriptor& choice);

/// A number as its message carries it, for comparing: nanoseconds, percent, bytes, bits per second
/// or a plain count. Every declared bound is below 2^53, so that a double holds it exactly.
StatusOr<double> parse_number(std::string_view text, v1::Unit unit, bool may_be_negative = false);

/// The plan's spelling of such a number.
std::string format_number(double number, v1::Unit unit);

/// What is wrong with a value, and what would be right.
struct Problem {
  std::string summary;
  std::string hint;
};

/// A unit's complaint in its two halves: "100 of what?" and "write 100ms".
Problem problem_of(const Status& status);

/// Whether a number keeps the field's declared bounds. Not a number, and a negative duration, never
/// do.
std::optional<Problem> out_of_bounds(double number, const FieldDescriptor& field);

/// Whether a text has the form that its field declares, and no control characters but tab and line
/// end.
std::optional<Problem> misshapen(std::string_view text, const FieldDescriptor& field);

/// The same for the keys and the values of a map with texts.
std::optional<Problem> misshapen_key(std::string_view key, const FieldDescriptor& map);
std::optional<Problem> misshapen_value(std::string_view value, const FieldDescriptor& map);

/// What is allowed, but had better not be: credentials in a URL.
std::optional<Problem> doubtful(std::string_view text, const FieldDescriptor& field);

/// The field's bounds in words: 1us to 60s; at least 2; empty where there are none.
std::string bounds_in_words(const FieldDescriptor& field);

/// How a plan writes a value of an enum: without the prefix that its type's name repeats
/// (SIGNAL_KILL: KILL), in lower case unless it had such a prefix.
std::string spelling(const EnumValueDescriptor& value);

/// All of them, in the order of their numbers; what stands for "none" is left out.
std::vector<std::string> spellings(const EnumDescriptor& type);

/// The value that a plan writes so, upper or lower case alike; null if there is none.
const EnumValueDescriptor* value_named(const EnumDescriptor& type, std::string_view word);

/// The names of a choice's fields.
std::vector<std::string> choices(const OneofDescriptor& choice);

/// network, kill or cpu.
std::string one_of(const std::vector<std::string>& words);

/// Whether it is the message of a fault's kind.
bool is_fault_kind(const Descriptor& type);

/// Whether it is one number, in whatever unit.
bool is_one_number(const FieldDescriptor& field);

/// Whether more of a field can be told from less: a number, or a message with one in it.
bool can_be_bounded(const FieldDescriptor& field, int levels = 3);

/// One rule of a message across its fields that is broken.
struct Finding {
  std::string field;  ///< The field it is told at; empty: the message itself.
  std::string summary;
  std::string hint;
};

/// What the fields of one message say together that none of them says alone, as its declaration
/// forbids it; not for the messages inside it. Called for what a plan says and for what comes over
/// the wire alike.
/// `called` is what the message is called where it stands.
std::vector<Finding> contradictions(const Message& message, std::string_view called);

/// Whether any message of the type has any: most have no such rule.
bool can_contradict(const Descriptor& type);

/// Whether a number may be one end of a ramp or a search: within the field's bounds, or nothing at
/// all.
std::optional<Problem> bad_end(double number, const FieldDescriptor& field);

/// What is wrong with what a fault looks for, from a plan or over the wire.
std::optional<Problem> bad_search(const v1::Fault& fault);

/// What is wrong with a fault's ramps, from a plan or over the wire.
std::optional<Problem> bad_ramps(const v1::Fault& fault);

/// How long a fault that is done at once may take until it is; 0 for one that lasts, whose end is
/// said by `for`.
Duration time_until_done(const v1::Fault& fault);

/// What a message is called where no field's name says it better: its type's name in lower case.
std::string noun_of(const Descriptor& message);

}  // namespace squall::plan
