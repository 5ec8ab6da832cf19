#include "injector/network/netem.h"

#include <doctest/doctest.h>

#include <array>

#include "injector/network/classifier.h"

namespace squall::network {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

v1::Match match(std::initializer_list<std::pair<std::string, std::uint32_t>> cidrs,
                std::initializer_list<std::pair<std::uint32_t, std::uint32_t>> ports) {
  v1::Match result;
  for (const auto& [address, prefix] : cidrs) {
    v1::Cidr& cidr = *result.add_cidrs();
    cidr.set_address(address);
    cidr.set_prefix(prefix);
  }
  for (const auto& [first, last] : ports) {
    v1::PortRange& range = *result.add_ports();
    range.set_first(first);
    range.set_last(last);
  }
  return result;
}

}  // namespace

TEST_CASE("netem's settings are written byte for byte as its kernel module reads them") {
  NetemSettings settings;
  settings.delay = std::chrono::seconds(300);
  settings.jitter = std::chrono::milliseconds(1);
  settings.loss = 50;
  settings.limit = 0x01020304;
  CHECK(encode_netem(settings) ==
        bytes({0,  0, 0,  0,                                               // latency
               4,  3, 2,  1,                                               // limit
               0,  0, 0,  0x80,                                            // loss
               0,  0, 0,  0,                                               // gap
               0,  0, 0,  0,                                               // duplicate
               0,  0, 0,  0,                                               // jitter
               12, 0, 10, 0,    0x00, 0xb8, 0x64, 0xd9, 0x45, 0, 0, 0,     // TCA_NETEM_LATENCY64
               12, 0, 11, 0,    0x40, 0x42, 0x0f, 0,    0,    0, 0, 0}));  // TCA_NETEM_JITTER64
}

TEST_CASE("what is written is read back the same, from 1 us to 60 s and from 0.0001 % to 100 %") {
  for (const std::int64_t ns : {0L, 1'000L, 999'999'999L, 60'000'000'000L, 86'400'000'000'000L}) {
    for (const double loss : {0.0, 0.0001, 1.0, 49.9, 50.0, 99.9, 100.0}) {
      NetemSettings settings;
      settings.delay = Duration(ns);
      settings.jitter = Duration(ns / 3);
      settings.loss = loss;
      settings.limit = netem_limit(settings.delay);
      const StatusOr<NetemSettings> read = decode_netem(encode_netem(settings));
      REQUIRE(read.ok());
      CHECK(same_netem(*read, settings));
      CHECK(read->loss == doctest::Approx(loss).epsilon(1e-4));
    }
  }
}

TEST_CASE("netem's settings cut off anywhere are an error, never a value") {
  NetemSettings settings;
  settings.delay = std::chrono::milliseconds(50);
  const std::vector<std::byte> whole = encode_netem(settings);
  // Without its last attribute, the jitter, it is still whole.
  const std::size_t without_jitter = whole.size() - 12;
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const bool readable = length >= without_jitter && length < without_jitter + 4;
    CHECK(decode_netem(std::span(whole).first(length)).ok() == readable);
  }
}

TEST_CASE("a queue is sized for 250,000 packets a second of delay") {
  CHECK(netem_limit(std::chrono::milliseconds(1)) == 100'000);
  CHECK(netem_limit(std::chrono::seconds(1)) == 250'000);
  CHECK(netem_limit(std::chrono::seconds(60)) == 15'000'000);
}

TEST_CASE("two matches overlap where some packet could be both") {
  const std::string ten("\x0a\x00\x00\x00", 4);
  const std::string ten_one("\x0a\x01\x00\x00", 4);
  const std::string six(16, '\0');
  CHECK(may_overlap({}, {}));
  CHECK(may_overlap(match({}, {{80, 80}}), {}));
  CHECK(may_overlap(match({}, {{80, 90}}), match({}, {{90, 99}})));
  CHECK_FALSE(may_overlap(match({}, {{80, 89}}), match({}, {{90, 99}})));
  CHECK(may_overlap(match({{ten, 8}}, {}), match({{ten_one, 16}}, {})));
  CHECK_FALSE(may_overlap(match({{ten, 16}}, {}), match({{ten_one, 16}}, {})));
  CHECK_FALSE(may_overlap(match({{ten, 0}}, {}), match({{six, 0}}, {})));
  CHECK_FALSE(may_overlap(match({{ten, 8}}, {{80, 80}}), match({{ten, 8}}, {{81, 81}})));
}

TEST_CASE("a standing filter's match is read back from the kernel as it was asked") {
  const StatusOr<std::unique_ptr<Classifier>> classifier = Classifier::load();
  REQUIRE_MESSAGE(classifier.ok(), message_of(classifier.status()));
  const v1::Match asked =
      match({{std::string("\x0a\x00\x00\x00", 4), 8}, {std::string(16, '\1'), 128}},
            {{1, 1}, {80, 90}, {65535, 65535}});
  const std::array<std::uint16_t, 1> spared = {22};
  REQUIRE((*classifier)->set_match(asked, spared).ok());
  const MonotonicTime deadline = monotonic_now();
  (*classifier)->set_deadline(deadline);
  const StatusOr<Standing> read =
      read_standing((*classifier)->program_id(Classifier::Program::kEgress));
  REQUIRE_MESSAGE(read.ok(), message_of(read.status()));
  CHECK(read->match.SerializeAsString() == asked.SerializeAsString());
  CHECK(read->deadline == deadline);
}

TEST_CASE("a relay's mark says its way, and faults differ in it") {
  CHECK((relay_mark("aaaaaaaaaaaa", false) & 0xffff8000) == 0x53510000);
  CHECK((relay_mark("aaaaaaaaaaaa", true) & 0xffff8000) == 0x53518000);
  CHECK(relay_mark("aaaaaaaaaaaa", false) != relay_mark("aaaaaaaaaaab", false));
}

}  // namespace squall::network
