/// \file
/// DNS messages as they are on the wire: the question read, a few answers written, everything else
/// left as the bytes it is. Whatever the bytes are, reading ends, and within them.
///
/// Source: RFC 1035, 4.1; RFC 6891, 6.1 (EDNS); RFC 9460 (HTTPS, SVCB).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace squall::network {

using DnsMessage = std::vector<std::uint8_t>;
using DnsBytes = std::span<const std::uint8_t>;

inline constexpr std::uint16_t kDnsA = 1;
inline constexpr std::uint16_t kDnsAaaa = 28;
inline constexpr std::uint16_t kDnsSvcb = 64;
inline constexpr std::uint16_t kDnsHttps = 65;
inline constexpr std::uint16_t kDnsAny = 255;

enum class DnsCode : std::uint8_t { kNoError = 0, kServfail = 2, kNxdomain = 3 };

/// What is asked, in a query or in an answer to it.
struct DnsQuestion {
  std::string name;  ///< Lower case, dots between the labels, none at the end; the root is empty.
  std::uint16_t type = 0;
  std::size_t end = 0;  ///< Where it ends in the message.
};

/// The one question of a message that is about the Internet (class IN). Nothing for any other
/// message: none or several questions, a name that is cut off, too long or compressed, another
/// operation than a query.
std::optional<DnsQuestion> read_question(DnsBytes message);

/// Whether it is an answer.
bool is_answer(DnsBytes message);

/// What ties an answer to its query; 0 for what has none.
std::uint16_t id_of(DnsBytes message);

/// Of either family, 4 or 16 bytes in network order; empty for a text that is none.
DnsMessage parse_address(const std::string& text);

/// Whether a name, as a question has it, is meant by a pattern, as a plan writes it: an exact name,
/// "*." and a domain for every name below it, or "*"; upper or lower case, with or without a dot at
/// the end.
bool matches_pattern(std::string_view name, std::string_view pattern);

/// The answer to a query with this code and no records.
DnsMessage make_answer(DnsBytes query, const DnsQuestion& question, DnsCode code);

/// The answer that the name has those of the addresses that are of the family asked for, as many as
/// fit into 512 bytes; they may be kept for `ttl` seconds.
DnsMessage make_answer(DnsBytes query, const DnsQuestion& question,
                       const std::vector<DnsMessage>& addresses, std::uint32_t ttl);

}  // namespace squall::network
