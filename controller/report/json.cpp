#include "controller/report/json.h"

#include <map>
#include <stdexcept>
#include <string>
#include <utility>

namespace squall::report {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

/// Works for a field as a whole (index -1) and for an element of a repeated one.
Json value_of(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& at = *message.GetReflection();
  const bool one = index < 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? at.GetInt32(message, &field) : at.GetRepeatedInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? at.GetInt64(message, &field) : at.GetRepeatedInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? at.GetUInt32(message, &field) : at.GetRepeatedUInt32(message, &field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? at.GetUInt64(message, &field) : at.GetRepeatedUInt64(message, &field, index);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? at.GetDouble(message, &field) : at.GetRepeatedDouble(message, &field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return one ? at.GetFloat(message, &field) : at.GetRepeatedFloat(message, &field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? at.GetBool(message, &field) : at.GetRepeatedBool(message, &field, index);
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? at.GetString(message, &field) : at.GetRepeatedString(message, &field, index);
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number =
          one ? at.GetEnumValue(message, &field) : at.GetRepeatedEnumValue(message, &field, index);
      const auto* known = field.enum_type()->FindValueByNumber(number);
      if (known == nullptr) return number;  // of a later version
      return known->name();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return to_json(one ? at.GetMessage(message, &field)
                         : at.GetRepeatedMessage(message, &field, index));
  }
  throw std::logic_error("a field type that no event has: " + field.full_name());
}

}  // namespace

Json to_json(const Message& message) {
  Json json = Json::object();
  const Reflection& at = *message.GetReflection();
  const auto& descriptor = *message.GetDescriptor();
  for (int number = 0; number < descriptor.field_count(); ++number) {
    const FieldDescriptor& field = *descriptor.field(number);
    if (field.is_map()) {
      std::map<std::string, Json> sorted;
      for (int index = 0; index < at.FieldSize(message, &field); ++index) {
        const Message& entry = at.GetRepeatedMessage(message, &field, index);
        const auto& type = *field.message_type();
        sorted[value_of(entry, *type.map_key(), -1)] = value_of(entry, *type.map_value(), -1);
      }
      for (auto& [key, value] : sorted) json[field.name()][key] = std::move(value);
      continue;
    }
    if (field.is_repeated()) {
      const int size = at.FieldSize(message, &field);
      if (size == 0) continue;
      Json list = Json::array();
      for (int index = 0; index < size; ++index) list.push_back(value_of(message, field, index));
      json[field.name()] = std::move(list);
      continue;
    }
    const bool text = field.cpp_type() == FieldDescriptor::CPPTYPE_STRING;
    if ((field.has_presence() || text) && !at.HasField(message, &field)) continue;
    json[field.name()] = value_of(message, field, -1);
  }
  return json;
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string dump_indented(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace squall::report
