#include "experiments/fault/fault.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace squall {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::OneofDescriptor;

namespace {

/// Of a whole type.
template <typename T>
T nearest_to(double number) {
  // 2^63 and 2^64 are doubles, the largest whole numbers below them are not.
  if (number >= static_cast<double>(std::numeric_limits<T>::max())) {
    return std::numeric_limits<T>::max();
  }
  if (number <= static_cast<double>(std::numeric_limits<T>::min())) {
    return std::numeric_limits<T>::min();
  }
  return static_cast<T>(number);
}

/// Of the field with this name in the fault's kind.
void put(v1::Fault& fault, const std::string& name, double number) {
  const FieldDescriptor* field = field_of(fault, name);
  if (field == nullptr) return;
  Message& kind = *fault.GetReflection()->MutableMessage(&fault, kind_of(fault));
  set_number(kind, *field, number);
}

}  // namespace

const FieldDescriptor* kind_of(const v1::Fault& fault) {
  const OneofDescriptor& kinds = *v1::Fault::descriptor()->FindOneofByName("kind");
  return fault.GetReflection()->GetOneofFieldDescriptor(fault, &kinds);
}

const Message& kind_in(const v1::Fault& fault) {
  return fault.GetReflection()->GetMessage(fault, kind_of(fault));
}

double number_in(const Message& message, const FieldDescriptor& field) {
  const auto& reflection = *message.GetReflection();
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return reflection.GetInt32(message, &field);
    case FieldDescriptor::CPPTYPE_INT64:
      return static_cast<double>(reflection.GetInt64(message, &field));
    case FieldDescriptor::CPPTYPE_UINT32:
      return reflection.GetUInt32(message, &field);
    case FieldDescriptor::CPPTYPE_UINT64:
      return static_cast<double>(reflection.GetUInt64(message, &field));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return static_cast<double>(reflection.GetFloat(message, &field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection.GetDouble(message, &field);
    default:
      return 0;
  }
}

bool holds_number(const FieldDescriptor& field, double number) {
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return number == nearest_to<std::int32_t>(number);
    case FieldDescriptor::CPPTYPE_UINT32:
      return number == nearest_to<std::uint32_t>(number);
    default:
      return true;
  }
}

void set_number(Message& message, const FieldDescriptor& field, double number) {
  using R = google::protobuf::Reflection;
  const auto put = [&](auto set, auto add, auto value) {
    const auto& reflection = *message.GetReflection();
    if (field.is_repeated()) {
      (reflection.*add)(&message, &field, value);
    } else {
      (reflection.*set)(&message, &field, value);
    }
  };
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return put(&R::SetInt32, &R::AddInt32, nearest_to<std::int32_t>(number));
    case FieldDescriptor::CPPTYPE_INT64:
      return put(&R::SetInt64, &R::AddInt64, nearest_to<std::int64_t>(number));
    case FieldDescriptor::CPPTYPE_UINT32:
      return put(&R::SetUInt32, &R::AddUInt32, nearest_to<std::uint32_t>(number));
    case FieldDescriptor::CPPTYPE_UINT64:
      return put(&R::SetUInt64, &R::AddUInt64, nearest_to<std::uint64_t>(number));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return put(&R::SetFloat, &R::AddFloat, static_cast<float>(number));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return put(&R::SetDouble, &R::AddDouble, number);
    default:
      return;
  }
}

const FieldDescriptor* field_of(const v1::Fault& fault, const std::string& name) {
  const FieldDescriptor* kind = kind_of(fault);
  return kind == nullptr ? nullptr : kind->message_type()->FindFieldByName(name);
}

v1::Fault fault_at(const v1::Fault& fault, Duration since) {
  v1::Fault now = fault;
  now.clear_ramps();
  for (const v1::Ramp& ramp : fault.ramps()) {
    const double part =
        std::clamp(static_cast<double>(since.count()) / static_cast<double>(ramp.over()), 0.0, 1.0);
    put(now, ramp.field(), std::lerp(ramp.from(), ramp.to(), part));
  }
  return now;
}

Duration longest_ramp(const v1::Fault& fault) {
  Duration longest{};
  for (const v1::Ramp& ramp : fault.ramps()) longest = std::max(longest, Duration(ramp.over()));
  return longest;
}

std::vector<v1::Fault> corners_of(const v1::Fault& fault) {
  std::vector<v1::Fault> corners = {fault_at(fault, Duration::zero())};
  for (const v1::Ramp& ramp : fault.ramps()) {
    corners.push_back(fault_at(fault, Duration(ramp.over())));
  }
  return corners;
}

v1::Fault attempt_at(const v1::Fault& fault, double number) {
  v1::Fault attempt = fault;
  attempt.clear_search();
  put(attempt, fault.search().field(), number);
  return attempt;
}

std::size_t numbers_of(const v1::Search& search) {
  const double whole = std::abs(search.to() - search.from()) / search.resolution();
  constexpr double kRounding = 1e-9;
  return 1 + static_cast<std::size_t>(std::ceil(whole - kRounding));
}

double number_at(const v1::Search& search, std::size_t n) {
  const double far = static_cast<double>(n) * search.resolution();
  if (far >= std::abs(search.to() - search.from())) return search.to();
  return search.from() < search.to() ? search.from() + far : search.from() - far;
}

}  // namespace squall
