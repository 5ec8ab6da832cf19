/// \file
/// A fault's kind and its numbers: those that change while it lasts, and those that are looked for.
/// No kind is known by name. Apart from the plan, for a holder needs it and has no YAML.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "squall/v1/faults.pb.h"

namespace squall {

/// The field of the fault's kind; null where it has none.
const google::protobuf::FieldDescriptor* kind_of(const v1::Fault& fault);

/// Its message. The fault has a kind.
const google::protobuf::Message& kind_in(const v1::Fault& fault);

/// A field that is one number, whatever its type and its unit.
double number_in(const google::protobuf::Message& message,
                 const google::protobuf::FieldDescriptor& field);

/// Whether the field's type holds it.
bool holds_number(const google::protobuf::FieldDescriptor& field, double number);

/// Sets it, or adds to one that is several; the nearest that its type holds.
void set_number(google::protobuf::Message& message, const google::protobuf::FieldDescriptor& field,
                double number);

/// The fault as it is so long after it was applied, without ramps.
v1::Fault fault_at(const v1::Fault& fault, Duration since);

/// How long it goes on changing.
Duration longest_ramp(const v1::Fault& fault);

/// The fault at its beginning and at the end of each of its ramps; itself alone where it has none.
/// All that a straight line can break, it breaks at one of these.
std::vector<v1::Fault> corners_of(const v1::Fault& fault);

/// The fault that a search tries, with this number in place of what is looked for.
v1::Fault attempt_at(const v1::Fault& fault, double number);

/// How many numbers a search may try, one resolution apart from the mild end to the harsh one, both
/// included.
std::size_t numbers_of(const v1::Search& search);

/// The nth of them, from 0.
double number_at(const v1::Search& search, std::size_t n);

/// The field that a ramp or a search is about: its name and its kind's. Null where there is none.
const google::protobuf::FieldDescriptor* field_of(const v1::Fault& fault, const std::string& name);

}  // namespace squall
