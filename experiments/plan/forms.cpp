#include "experiments/plan/forms.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <utility>

#include "experiments/base/units.h"

namespace squall::plan {
namespace {

constexpr std::uint64_t kLastPort = 65535;

/// The address with all bits behind the prefix zero.
std::string network_of(std::string address, std::uint32_t prefix) {
  for (std::size_t i = 0; i < address.size(); ++i) {
    const std::size_t first_bit = i * 8;
    if (first_bit >= prefix) {
      address[i] = 0;
    } else if (prefix - first_bit < 8) {
      const auto keep = static_cast<unsigned char>(0xFF00U >> (prefix - first_bit));
      address[i] = static_cast<char>(static_cast<unsigned char>(address[i]) & keep);
    }
  }
  return address;
}

constexpr std::pair<std::string_view, std::uint32_t> kProtocols[] = {
    {"tcp", IPPROTO_TCP}, {"udp", IPPROTO_UDP}, {"icmp", IPPROTO_ICMP}, {"icmpv6", IPPROTO_ICMPV6}};
constexpr std::uint32_t kLastProtocol = 255;

std::optional<Problem> read_port(std::string_view text, std::uint32_t& port) {
  const auto number = parse_count(text);
  if (!number.ok()) {
    return Problem{fmt::format("\"{}\" is not a port", text), "write 443 or 8000-8010"};
  }
  if (*number < 1 || *number > kLastPort) {
    return Problem{fmt::format("there is no port {}", text), "write a number from 1 to 65535"};
  }
  port = static_cast<std::uint32_t>(*number);
  return std::nullopt;
}

}  // namespace

std::optional<Problem> read_cidr(std::string_view text, v1::Cidr& cidr) {
  const std::string hint = "write 10.0.0.0/8, 2001:db8::/32 or one address";
  const auto slash = text.find('/');
  const std::string address(text.substr(0, slash));
  std::array<char, sizeof(in6_addr)> bytes{};
  std::size_t size = 0;
  // inet_pton takes no octal and no short forms, so 010.1.1.1 and 10.1 are refused here.
  if (address.find('\0') == std::string::npos) {
    if (inet_pton(AF_INET, address.c_str(), bytes.data()) == 1) size = sizeof(in_addr);
    if (size == 0 && inet_pton(AF_INET6, address.c_str(), bytes.data()) == 1) {
      size = sizeof(in6_addr);
    }
  }
  if (size == 0) return Problem{fmt::format("\"{}\" is not an IP address", address), hint};
  const auto whole = static_cast<std::uint32_t>(size * 8);
  std::uint32_t prefix = whole;
  if (slash != std::string_view::npos) {
    const auto number = parse_count(text.substr(slash + 1));
    if (!number.ok()) {
      return Problem{fmt::format("\"{}\" is not a prefix length", text.substr(slash + 1)), hint};
    }
    if (*number > whole) {
      return Problem{fmt::format("/{} is longer than {} address", *number,
                                 whole == 32 ? "an IPv4" : "an IPv6"),
                     fmt::format("write a prefix from /0 to /{}", whole)};
    }
    prefix = static_cast<std::uint32_t>(*number);
  }
  cidr.set_address(network_of(std::string(bytes.data(), size), prefix));
  cidr.set_prefix(prefix);
  if (cidr.address() != std::string_view(bytes.data(), size)) {
    return Problem{fmt::format("{} has bits behind its prefix", text),
                   fmt::format("write {} for the network, or {} for the one address",
                               format_cidr(cidr), address)};
  }
  return std::nullopt;
}

std::optional<Problem> read_port_range(std::string_view text, v1::PortRange& range) {
  const auto dash = text.find('-');
  std::uint32_t first = 0;
  if (auto problem = read_port(text.substr(0, dash), first)) return problem;
  std::uint32_t last = first;
  if (dash != std::string_view::npos) {
    if (auto problem = read_port(text.substr(dash + 1), last)) return problem;
    if (last < first) {
      return Problem{fmt::format("{} runs backwards", text),
                     fmt::format("write {}-{}", last, first)};
    }
  }
  range.set_first(first);
  range.set_last(last);
  return std::nullopt;
}

std::optional<Problem> read_protocol(std::string_view text, v1::Protocol& protocol) {
  for (const auto& [word, number] : kProtocols) {
    if (text == word) {
      protocol.set_number(number);
      return std::nullopt;
    }
  }
  const auto number = parse_count(text);
  if (!number.ok() || *number > kLastProtocol) {
    return Problem{fmt::format("\"{}\" is not a protocol", text),
                   "write tcp, udp, icmp, icmpv6, or a number from 0 to 255"};
  }
  protocol.set_number(static_cast<std::uint32_t>(*number));
  return std::nullopt;
}

std::optional<Problem> read_process_pick(std::string_view text, v1::ProcessPick& pick) {
  const std::string hint = "write all, 1, 50%, oldest or newest";
  if (text == "all") {
    pick.set_all(true);
  } else if (text == "oldest") {
    pick.set_oldest(true);
  } else if (text == "newest") {
    pick.set_newest(true);
  } else if (text.ends_with('%')) {
    const auto percent = parse_percent(text);
    if (!percent.ok() || *percent <= 0) {
      return Problem{fmt::format("\"{}\" is not a share of the processes", text),
                     "write a percentage above 0% and up to 100%"};
    }
    pick.set_percent(*percent);
  } else {
    constexpr std::uint64_t kMostProcesses = 4'194'304;  // PID_MAX_LIMIT, linux/threads.h
    const auto count = parse_count(text);
    if (!count.ok() || *count < 1 || *count > kMostProcesses) {
      return Problem{fmt::format("\"{}\" is not a number of processes", text), hint};
    }
    pick.set_count(static_cast<std::uint32_t>(*count));
  }
  return std::nullopt;
}

std::optional<Problem> read_pick(std::string_view text, v1::Pick& pick) {
  if (text == "all") {
    pick.set_all(true);
  } else if (text == "minority") {
    pick.set_minority(true);
  } else if (text == "majority") {
    pick.set_majority(true);
  } else if (!text.empty() && text.back() == '%') {
    const auto percent = parse_percent(text);
    if (!percent.ok() || *percent <= 0) {
      return Problem{fmt::format("\"{}\" is not a share of the nodes", text),
                     "write a percentage above 0% and up to 100%"};
    }
    pick.set_percent(*percent);
  } else {
    constexpr std::uint64_t kMostNodes = 1'000'000;
    const auto count = parse_count(text);
    if (!count.ok() || *count < 1 || *count > kMostNodes) {
      return Problem{fmt::format("\"{}\" is not a number of nodes", text),
                     "write all, 1, 50%, minority or majority"};
    }
    pick.set_count(static_cast<std::uint32_t>(*count));
  }
  return std::nullopt;
}

std::optional<Problem> read_quorum(std::string_view text, v1::Quorum& quorum) {
  if (text == "all") {
    quorum.set_all(true);
    return std::nullopt;
  }
  if (text == "majority") {
    quorum.set_majority(true);
    return std::nullopt;
  }
  constexpr std::string_view kOf = " of ";
  const auto of = text.find(kOf);
  const auto count = parse_count(text.substr(0, of));
  const auto among = of == std::string_view::npos ? StatusOr<std::uint64_t>(0)
                                                  : parse_count(text.substr(of + kOf.size()));
  if (!count.ok() || !among.ok() || *count < 1 || *count > kMostVantagePoints ||
      *among > kMostVantagePoints) {
    return Problem{fmt::format("\"{}\" is not a number of nodes", text),
                   "write all, majority, 2, or 2 of 3"};
  }
  if (of != std::string_view::npos && *count > *among) {
    return Problem{fmt::format("{} of {} is more than all of them", *count, *among),
                   fmt::format("write {} of {}, or all", *among, *among)};
  }
  quorum.set_count(static_cast<std::uint32_t>(*count));
  quorum.set_among(static_cast<std::uint32_t>(*among));
  return std::nullopt;
}

std::string format_cidr(const v1::Cidr& cidr) {
  const bool is_ipv4 = cidr.address().size() == sizeof(in_addr);
  const bool is_ipv6 = cidr.address().size() == sizeof(in6_addr);
  if (!is_ipv4 && !is_ipv6) return "?";
  std::array<char, INET6_ADDRSTRLEN> text{};
  inet_ntop(is_ipv4 ? AF_INET : AF_INET6, cidr.address().data(), text.data(), text.size());
  if (cidr.prefix() == cidr.address().size() * 8) return text.data();
  return fmt::format("{}/{}", text.data(), cidr.prefix());
}

std::string format_port_range(const v1::PortRange& range) {
  if (range.first() == range.last()) return std::to_string(range.first());
  return fmt::format("{}-{}", range.first(), range.last());
}

std::string format_protocol(const v1::Protocol& protocol) {
  for (const auto& [word, number] : kProtocols) {
    if (protocol.number() == number) return std::string(word);
  }
  return std::to_string(protocol.number());
}

std::vector<std::string> protocol_words() {
  std::vector<std::string> words;
  for (const auto& [word, number] : kProtocols) words.emplace_back(word);
  return words;
}

std::optional<Problem> bad_form(const Message& message) {
  using google::protobuf::DynamicCastToGenerated;
  if (const auto* cidr = DynamicCastToGenerated<v1::Cidr>(&message)) {
    const std::size_t size = cidr->address().size();
    if (size != sizeof(in_addr) && size != sizeof(in6_addr)) {
      return Problem{fmt::format("an address has 4 or 16 bytes, not {}", size), ""};
    }
    if (cidr->prefix() > size * 8) {
      return Problem{fmt::format("/{} is longer than the address", cidr->prefix()), ""};
    }
    if (network_of(cidr->address(), cidr->prefix()) != cidr->address()) {
      return Problem{"has bits behind its prefix", ""};
    }
  } else if (const auto* range = DynamicCastToGenerated<v1::PortRange>(&message)) {
    if (range->first() < 1 || range->first() > range->last() || range->last() > kLastPort) {
      return Problem{fmt::format("{}-{} is not a range of ports", range->first(), range->last()),
                     ""};
    }
  } else if (const auto* protocol = DynamicCastToGenerated<v1::Protocol>(&message)) {
    if (protocol->number() > kLastProtocol) {
      return Problem{fmt::format("there is no protocol {}", protocol->number()), ""};
    }
  } else if (const auto* pick = DynamicCastToGenerated<v1::Pick>(&message)) {
    const bool no_node = (pick->has_count() && pick->count() == 0) ||
                         (pick->has_percent() && !(pick->percent() > 0 && pick->percent() <= 100));
    if (no_node || pick->how_case() == v1::Pick::HOW_NOT_SET) return Problem{"picks no node", ""};
  }
  return std::nullopt;
}

}  // namespace squall::plan
