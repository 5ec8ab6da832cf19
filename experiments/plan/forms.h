/// \file
/// The short ways of writing a message (options.proto, Form): 10.0.0.0/8, 8000-8010, 50%, all. Text
/// in, message out.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/plan/declared.h"
#include "squall/v1/faults.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {

std::optional<Problem> read_cidr(std::string_view text, v1::Cidr& cidr);
std::optional<Problem> read_port_range(std::string_view text, v1::PortRange& range);
std::optional<Problem> read_protocol(std::string_view text, v1::Protocol& protocol);
std::optional<Problem> read_process_pick(std::string_view text, v1::ProcessPick& pick);
std::optional<Problem> read_pick(std::string_view text, v1::Pick& pick);
std::optional<Problem> read_quorum(std::string_view text, v1::Quorum& quorum);
inline constexpr std::uint32_t kMostVantagePoints = 10'000;

/// 10.0.0.0/8, or the address alone where the prefix is whole.
std::string format_cidr(const v1::Cidr& cidr);

/// 443 or 8000-8010.
std::string format_port_range(const v1::PortRange& range);

/// tcp, or the number of one that has no word here.
std::string format_protocol(const v1::Protocol& protocol);

/// The protocols that have a word.
std::vector<std::string> protocol_words();

/// What no text could have said, in a message of one of these forms that came over the wire.
std::optional<Problem> bad_form(const Message& message);

}  // namespace squall::plan
