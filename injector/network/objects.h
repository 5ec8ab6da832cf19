/// \file
/// How what we make in the kernel is told from all else: names, tags, and the handles of filters.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace squall::network {

inline constexpr std::string_view kTagPrefix = "squall:";

/// A filter's handle says what else its fault changed beside it. So the last fault to leave puts it
/// back, and a scan can do so without a ledger.
inline constexpr std::uint32_t kHandle = 0x1;
inline constexpr std::uint32_t kMadeClsact = 0x2;
inline constexpr std::uint32_t kSetRouteLocalnet = 0x4;
inline constexpr std::uint32_t kSetAcceptLocal = 0x8;

/// sq + id, and a letter where one fault has several.
inline std::string device_name(std::string_view fault_id, std::string_view letter = "") {
  return "sq" + std::string(fault_id) + std::string(letter);
}

/// Whether the tag is of this state directory; an empty one means any.
inline bool is_tag(std::string_view tag, std::string_view state_id) {
  if (!tag.starts_with(kTagPrefix)) return false;
  return state_id.empty() || tag.substr(kTagPrefix.size()).starts_with(std::string(state_id) + ":");
}

/// The part of the tag after the last colon.
inline std::string_view fault_of(std::string_view tag) { return tag.substr(tag.rfind(':') + 1); }

/// net/ipv4/conf/INTERFACE/NAME, below /proc/sys.
inline std::string ipv4_setting(std::string_view interface, std::string_view name) {
  return "net/ipv4/conf/" + std::string(interface) + "/" + std::string(name);
}

}  // namespace squall::network
