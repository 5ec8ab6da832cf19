/// \file
/// Messages of the contract as JSON, and the only door to nlohmann-json's trees in this folder.
///
/// Not protobuf's own printer: that writes 64-bit counts as strings and leaves out whatever is
/// zero, and a log line in which "matched_packets" is missing when nothing matched has to be read
/// with the contract beside it.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace squall::report {

using Json = nlohmann::ordered_json;

/// Names and order as in the contract, enums by name, numbers as numbers. Empty texts and lists are
/// left out.
Json to_json(const google::protobuf::Message& message);

/// One line. What is not UTF-8 is replaced, so that every line can be read back.
std::string dump(const Json& json);

/// The same over several lines, for files that people open.
std::string dump_indented(const Json& json);

}  // namespace squall::report
