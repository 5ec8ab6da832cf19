/// \file
/// Reads lines of the event log. Apart, as a log may have a million of them: each is turned into
/// the contract's wire form by tables made from the contract itself, and that is parsed by its
/// generated code into a message that is used again and again. No tree is built, no field is set by
/// reflection.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "squall/v1/events.pb.h"

namespace squall::report {

/// For one thread.
class EventReader {
 public:
  EventReader();
  ~EventReader();
  EventReader(const EventReader&) = delete;
  EventReader& operator=(const EventReader&) = delete;

  /// What the line says, in `event`, whose earlier content is gone. Fields and names of enums that
  /// this version does not know are passed over. False for what is no event: what to_json_line()
  /// never wrote.
  bool read(std::string_view line, v1::Event& event);

 private:
  class Rules;
  const Rules& rules_;
  std::string wire_;
  std::string scratch_;
};

}  // namespace squall::report
