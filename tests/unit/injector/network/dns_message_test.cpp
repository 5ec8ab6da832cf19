#include "injector/network/dns_message.h"

#include <doctest/doctest.h>

#include <random>
#include <string>

namespace squall::network {
namespace {

/// Header, question "Db.Internal" A IN, and an OPT record with the DO bit.
DnsMessage query() {
  return {0x12, 0x34, 0x01, 0x10, 0,    1,   0,   0,    0,   0,   0,   1,       // header: RD, CD
          2,    'D',  'b',  8,    'I',  'n', 't', 'e',  'r', 'n', 'a', 'l', 0,  // name
          0,    1,    0,    1,                                                  // A IN
          0,    0,    41,   0x04, 0xd0, 0,   0,   0x80, 0,   0,   0};           // OPT
}

constexpr std::size_t kEndOfQuestion = 29;

DnsMessage with_name(const DnsMessage& name) {
  DnsMessage message = query();
  message.resize(12);
  message[11] = 0;
  message.insert(message.end(), name.begin(), name.end());
  const DnsMessage type_and_class = {0, 1, 0, 1};
  message.insert(message.end(), type_and_class.begin(), type_and_class.end());
  return message;
}

/// `labels` of that length each.
DnsMessage long_name(std::size_t labels, std::uint8_t length) {
  DnsMessage name;
  for (std::size_t i = 0; i < labels; ++i) {
    name.push_back(length);
    name.insert(name.end(), length, 'a');
  }
  name.push_back(0);
  return name;
}

TEST_CASE("a question is read in lower case, with its type and its end") {
  const auto question = read_question(query());
  REQUIRE(question.has_value());
  CHECK(question->name == "db.internal");
  CHECK(question->type == kDnsA);
  CHECK(question->end == kEndOfQuestion);
  CHECK_FALSE(is_answer(query()));
  CHECK(id_of(query()) == 0x1234);
}

TEST_CASE(
    "a query cut off anywhere before its question's end is none, and none is read past its end") {
  const DnsMessage whole = query();
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    INFO(length);
    // Of its own size on the heap, so that a sanitizer sees a byte too far.
    const DnsMessage cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    const auto question = read_question(cut);
    CHECK(question.has_value() == (length >= kEndOfQuestion));
    if (question) {
      const DnsMessage answer = make_answer(cut, *question, DnsCode::kNxdomain);
      CHECK(answer.size() == (length == whole.size() ? whole.size() : kEndOfQuestion));
    }
    static_cast<void>(is_answer(cut));
    static_cast<void>(id_of(cut));
  }
}

TEST_CASE("names that a question cannot have are refused") {
  CHECK(read_question(with_name({0}))->name == "");
  CHECK(read_question(with_name({3, 'a', '.', 'b', 0}))->name == "a\\b");
  CHECK_FALSE(read_question(with_name({0xc0, 12})).has_value());
  CHECK_FALSE(read_question(with_name({1, 'a', 0xc0, 12})).has_value());
  CHECK_FALSE(read_question(with_name({64, 'a', 0})).has_value());
  CHECK(read_question(with_name(long_name(4, 62))).has_value());         // 253 bytes
  CHECK(read_question(with_name(long_name(127, 1))).has_value());        // 255, the most
  CHECK_FALSE(read_question(with_name(long_name(128, 1))).has_value());  // 257
  CHECK_FALSE(read_question(with_name(long_name(200, 63))).has_value());
}

TEST_CASE("only one question, of class IN, by the operation QUERY is looked at") {
  DnsMessage message = query();
  message[5] = 2;
  CHECK_FALSE(read_question(message).has_value());
  message[5] = 0;
  CHECK_FALSE(read_question(message).has_value());
  message = query();
  message[2] |= 0x28;  // UPDATE
  CHECK_FALSE(read_question(message).has_value());
  message = query();
  message[kEndOfQuestion - 1] = 3;  // CHAOS
  CHECK_FALSE(read_question(message).has_value());
}

TEST_CASE("whatever the bytes are, reading and answering them ends") {
  std::mt19937 random(20261122);
  int read = 0;
  for (int round = 0; round < 50'000; ++round) {
    DnsMessage message = query();
    const std::size_t changes = 1 + random() % 4;
    for (std::size_t i = 0; i < changes; ++i) {
      message[random() % message.size()] = static_cast<std::uint8_t>(random());
    }
    message.resize(random() % (message.size() + 1));
    const auto question = read_question(message);
    if (!question) continue;
    ++read;
    CHECK(question->end <= message.size());
    CHECK(make_answer(message, *question, DnsCode::kServfail).size() <= 512);
    CHECK(make_answer(message, *question, {parse_address("10.9.9.9")}, 5).size() <= 512);
  }
  CHECK(read > 1000);
}

TEST_CASE("an answer repeats id, question and EDNS, and says what it is") {
  const DnsMessage asked = query();
  const auto question = read_question(asked);
  REQUIRE(question.has_value());
  DnsMessage expected = asked;
  expected[2] = 0x81;  // an answer; RD as asked
  expected[3] = 0x93;  // RA, CD as asked, NXDOMAIN
  CHECK(make_answer(asked, *question, DnsCode::kNxdomain) == expected);
  CHECK(is_answer(expected));
  expected[3] = 0x92;
  CHECK(make_answer(asked, *question, DnsCode::kServfail) == expected);

  DnsMessage plain = asked;
  plain.resize(kEndOfQuestion);
  plain[11] = 0;
  expected = plain;
  expected[2] = 0x81;
  expected[3] = 0x93;
  CHECK(make_answer(plain, *question, DnsCode::kNxdomain) == expected);
}

TEST_CASE("an answer has the addresses of the family asked for, byte by byte") {
  DnsMessage asked = query();
  asked.resize(kEndOfQuestion);
  asked[11] = 0;
  const std::vector<DnsMessage> addresses = {parse_address("10.9.9.9"),
                                             parse_address("2001:db8::9")};
  const auto question = read_question(asked);
  DnsMessage expected = asked;
  expected[2] = 0x81;
  expected[3] = 0x90;
  expected[7] = 1;
  for (const int byte : {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 9, 9, 9}) {
    expected.push_back(static_cast<std::uint8_t>(byte));
  }
  CHECK(make_answer(asked, *question, addresses, 5) == expected);

  asked[kEndOfQuestion - 3] = kDnsHttps;
  const DnsMessage none = make_answer(asked, *read_question(asked), addresses, 5);
  CHECK(none.size() == asked.size());
  CHECK(none[7] == 0);
}

TEST_CASE("of more addresses than 512 bytes hold, as many are told as fit") {
  const std::vector<DnsMessage> many(100, parse_address("10.9.9.9"));
  const DnsMessage asked = query();
  const DnsMessage answer = make_answer(asked, *read_question(asked), many, 5);
  CHECK(answer.size() <= 512);
  CHECK(answer.size() > 512 - 16);
  CHECK(answer[7] == (512 - asked.size()) / 16);
  CHECK(answer[11] == 1);
}

TEST_CASE("addresses are read, and what is none is empty") {
  CHECK(parse_address("10.9.9.9") == DnsMessage{10, 9, 9, 9});
  CHECK(parse_address("2001:db8::9").size() == 16);
  CHECK(parse_address("10.9.9").empty());
  CHECK(parse_address("").empty());
}

TEST_CASE("a pattern is a name, a domain's names, or every name") {
  struct Case {
    const char* name;
    const char* pattern;
    bool matches;
  };
  const Case cases[] = {
      {"api.example.com", "api.example.com", true},
      {"api.example.com", "API.Example.COM.", true},
      {"api.example.com", "example.com", false},
      {"api.example.com", "*.example.com", true},
      {"a.b.example.com", "*.Example.com.", true},
      {"example.com", "*.example.com", false},
      {".example.com", "*.example.com", false},
      {"badexample.com", "*.example.com", false},
      {"com", "*.example.com", false},
      {"example.com.evil", "*.example.com", false},
      {"", "*", true},
      {"", "example.com", false},
      {"anything.at.all", "*", true},
      {"a\\internal", "*.internal", false},
  };
  for (const Case& each : cases) {
    INFO(each.name, " ", each.pattern);
    CHECK(matches_pattern(each.name, each.pattern) == each.matches);
  }
}

}  // namespace
}  // namespace squall::network
