#include "injector/network/dns_message.h"

#include <arpa/inet.h>

#include <algorithm>

namespace squall::network {
namespace {

constexpr std::size_t kHeader = 12;
constexpr std::size_t kLongestName = 255;
constexpr std::size_t kLongestLabel = 63;
constexpr std::size_t kFixedOfQuestion = 4;  // type and class
constexpr std::size_t kLargestAnswer = 512;  // what every client takes by UDP
constexpr std::uint16_t kInternet = 1;

// The header's third and fourth byte.
constexpr std::uint8_t kIsAnswer = 0x80;
constexpr std::uint8_t kOperation = 0x78;
constexpr std::uint8_t kRecursionDesired = 0x01;
constexpr std::uint8_t kRecursionAvailable = 0x80;
constexpr std::uint8_t kCheckingDisabled = 0x10;

constexpr std::uint16_t kOpt = 41;
constexpr std::size_t kSizeOfOpt = 11;  // without options
constexpr std::uint16_t kUdpPayload = 1232;
constexpr std::uint8_t kDnssecOk = 0x80;  // in the third byte of an OPT record's TTL

constexpr std::uint16_t kNameOfQuestion = 0xc000 | kHeader;  // a pointer to it

char lower(std::uint8_t byte) {
  return static_cast<char>(byte >= 'A' && byte <= 'Z' ? byte - 'A' + 'a' : byte);
}

std::uint16_t number_at(DnsBytes message, std::size_t at) {
  return static_cast<std::uint16_t>(message[at] << 8 | message[at + 1]);
}

void append(DnsMessage& message, std::uint16_t number) {
  message.push_back(static_cast<std::uint8_t>(number >> 8));
  message.push_back(static_cast<std::uint8_t>(number & 0xff));
}

/// Whether the query has an OPT record, and with it the DO bit. It is looked for where every client
/// puts it: first behind the question.
struct Edns {
  bool present = false;
  bool dnssec_ok = false;
};

Edns read_edns(DnsBytes query, std::size_t at) {
  if (number_at(query, 6) != 0 || number_at(query, 8) != 0 || number_at(query, 10) == 0) return {};
  if (query.size() - at < kSizeOfOpt || query[at] != 0 || number_at(query, at + 1) != kOpt) {
    return {};
  }
  return {.present = true, .dnssec_ok = (query[at + 7] & kDnssecOk) != 0};
}

/// The header and the question of an answer; the counts of records are still to be set.
DnsMessage begin_answer(DnsBytes query, const DnsQuestion& question, DnsCode code) {
  const auto end = query.begin() + static_cast<std::ptrdiff_t>(question.end);
  DnsMessage answer(query.begin(), end);
  answer[2] = static_cast<std::uint8_t>(kIsAnswer | (query[2] & kRecursionDesired));
  answer[3] = static_cast<std::uint8_t>(kRecursionAvailable | (query[3] & kCheckingDisabled) |
                                        static_cast<std::uint8_t>(code));
  std::fill(answer.begin() + 6, answer.begin() + kHeader, std::uint8_t{0});
  return answer;
}

/// A client that sent an OPT record and gets none takes the server for one that knows no EDNS, and
/// some remember that longer than the fault lasts.
void end_answer(DnsMessage& answer, const Edns& edns) {
  if (!edns.present) return;
  answer[11] = 1;
  answer.push_back(0);
  append(answer, kOpt);
  append(answer, kUdpPayload);
  append(answer, 0);
  append(answer, edns.dnssec_ok ? kDnssecOk << 8 : 0);
  append(answer, 0);
}

}  // namespace

std::optional<DnsQuestion> read_question(DnsBytes message) {
  if (message.size() < kHeader) return std::nullopt;
  if ((message[2] & kOperation) != 0 || number_at(message, 4) != 1) return std::nullopt;
  DnsQuestion question;
  std::size_t at = kHeader;
  for (;;) {
    if (at >= message.size()) return std::nullopt;
    const std::size_t length = message[at++];
    if (length == 0) break;
    if (length > kLongestLabel || length > message.size() - at) return std::nullopt;
    if (at - kHeader + length >= kLongestName) return std::nullopt;
    if (!question.name.empty()) question.name += '.';
    for (const std::uint8_t byte : message.subspan(at, length)) {
      // A dot within a label is none between labels; no pattern has the other.
      question.name += byte == '.' ? '\\' : lower(byte);
    }
    at += length;
  }
  if (message.size() - at < kFixedOfQuestion) return std::nullopt;
  question.type = number_at(message, at);
  if (number_at(message, at + 2) != kInternet) return std::nullopt;
  question.end = at + kFixedOfQuestion;
  return question;
}

bool is_answer(DnsBytes message) {
  return message.size() >= kHeader && (message[2] & kIsAnswer) != 0;
}

std::uint16_t id_of(DnsBytes message) { return message.size() < 2 ? 0 : number_at(message, 0); }

DnsMessage parse_address(const std::string& text) {
  DnsMessage address(sizeof(in6_addr));
  if (::inet_pton(AF_INET6, text.c_str(), address.data()) == 1) return address;
  address.resize(sizeof(in_addr));
  if (::inet_pton(AF_INET, text.c_str(), address.data()) == 1) return address;
  return {};
}

bool matches_pattern(std::string_view name, std::string_view pattern) {
  if (pattern == "*") return true;
  if (pattern.ends_with('.')) pattern.remove_suffix(1);
  const bool below = pattern.starts_with("*.");
  if (below) {
    pattern.remove_prefix(1);  // the dot must be there, and something before it
    if (name.size() <= pattern.size()) return false;
    name.remove_prefix(name.size() - pattern.size());
  }
  return std::equal(name.begin(), name.end(), pattern.begin(), pattern.end(),
                    [](char a, char b) { return a == lower(static_cast<std::uint8_t>(b)); });
}

DnsMessage make_answer(DnsBytes query, const DnsQuestion& question, DnsCode code) {
  DnsMessage answer = begin_answer(query, question, code);
  end_answer(answer, read_edns(query, question.end));
  return answer;
}

DnsMessage make_answer(DnsBytes query, const DnsQuestion& question,
                       const std::vector<DnsMessage>& addresses, std::uint32_t ttl) {
  constexpr std::size_t kFixedOfRecord = 12;
  const Edns edns = read_edns(query, question.end);
  const std::size_t room = kLargestAnswer - (edns.present ? kSizeOfOpt : 0);
  DnsMessage answer = begin_answer(query, question, DnsCode::kNoError);
  for (const DnsMessage& address : addresses) {
    const std::uint16_t type = address.size() == sizeof(in_addr) ? kDnsA : kDnsAaaa;
    if (question.type != type && question.type != kDnsAny) continue;
    if (answer.size() + kFixedOfRecord + address.size() > room) break;
    append(answer, kNameOfQuestion);
    append(answer, type);
    append(answer, kInternet);
    append(answer, static_cast<std::uint16_t>(ttl >> 16));
    append(answer, static_cast<std::uint16_t>(ttl & 0xffff));
    append(answer, static_cast<std::uint16_t>(address.size()));
    answer.insert(answer.end(), address.begin(), address.end());
    ++answer[7];  // at most 31 of them fit
  }
  end_answer(answer, edns);
  return answer;
}

}  // namespace squall::network
