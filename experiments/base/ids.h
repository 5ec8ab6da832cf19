/// \file
/// The names that everything made by Squall bears, so that it can be found and removed by exactly
/// that name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace squall {

/// Characters of a fault's id: two fewer than fit beside "sq" and a letter into IFNAMSIZ.
inline constexpr std::size_t kFaultIdLength = 12;

/// A new fault id, 12 characters of a-z2-7, 60 bits from getrandom(2).
std::string new_fault_id();

/// Whether it is 12 characters of a-z2-7.
bool is_fault_id(std::string_view id);

/// A new run id, sortable by time: 20261122-071549-k3x9 (UTC).
std::string new_run_id();

/// Whether it is 1 to 64 letters, digits and '-'. Such an id is safe as the name of a folder.
bool is_run_id(std::string_view id);

/// A new state directory id, 8 characters of a-z2-7.
std::string new_state_id();

/// The mark of every kernel object: squall:STATE_ID:FAULT_ID, the alias of a device, the name of a
/// filter.
std::string object_tag(std::string_view state_id, std::string_view fault_id);

}  // namespace squall
