#include "injector/network/netem.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "injector/network/classifier.h"
#include "injector/network/distribution.h"

namespace squall::network {
namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
  std::vector<std::byte> result;
  for (const int value : values) result.push_back(static_cast<std::byte>(value));
  return result;
}

Aim aimed_at(std::initializer_list<std::pair<std::string, std::uint32_t>> cidrs,
             std::initializer_list<std::pair<std::uint32_t, std::uint32_t>> ports) {
  Aim aim;
  v1::Match& result = aim.match;
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
  return aim;
}

/// With something of every attribute; what excludes another is left out.
Effect everything() {
  Effect effect;
  effect.delay = std::chrono::milliseconds(50);
  effect.jitter = std::chrono::milliseconds(10);
  effect.distribution = v1::NORMAL;
  effect.delay_correlation = 1;
  effect.gilbert_elliott = GilbertElliott{2, 3, 4, 5};
  effect.ecn = true;
  effect.duplicate = {6, 7};
  effect.corrupt = {8, 9};
  effect.reorder = {10, 11};
  effect.gap = 12;
  effect.rate = {5'000'000'000, 13, 14, 15};
  effect.slot = Slots{.delay = std::chrono::milliseconds(2),
                      .jitter = std::chrono::milliseconds(1),
                      .distribution = v1::PARETO,
                      .packets = 16,
                      .bytes = 17};
  effect.limit = 18;
  effect.seed = 19;
  return effect;
}

}  // namespace

TEST_CASE("netem's settings are written byte for byte as its kernel module reads them") {
  Effect effect;
  effect.delay = std::chrono::seconds(300);
  effect.jitter = std::chrono::milliseconds(1);
  effect.loss.percent = 50;
  effect.limit = 0x01020304;
  CHECK(encode_netem(effect) ==
        bytes({0,  0, 0,  0,                                               // latency
               4,  3, 2,  1,                                               // limit
               0,  0, 0,  0x80,                                            // loss
               0,  0, 0,  0,                                               // gap
               0,  0, 0,  0,                                               // duplicate
               0,  0, 0,  0,                                               // jitter
               12, 0, 10, 0,    0x00, 0xb8, 0x64, 0xd9, 0x45, 0, 0, 0,     // TCA_NETEM_LATENCY64
               12, 0, 11, 0,    0x40, 0x42, 0x0f, 0,    0,    0, 0, 0}));  // TCA_NETEM_JITTER64
}

TEST_CASE("each option of netem has its own attribute, byte for byte") {
  const auto options = [](const Effect& effect) {
    std::vector<std::byte> whole = encode_netem(effect);
    constexpr std::size_t kDelays = 24;  // as in every effect, and last
    return std::vector<std::byte>(whole.begin() + 4, whole.end() - kDelays);
  };
  Effect effect;
  effect.gap = 7;
  CHECK_MESSAGE(options(effect) == bytes({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,  //
                                          0, 0, 0, 0, 0, 0, 0, 0}),
                "a gap alone would reorder everything");
  effect = {};
  effect.delay_correlation = 25;
  effect.loss = {100, 50};
  effect.duplicate = {75, 100};
  CHECK(options(effect) == bytes({0,    0,    0,    0,        // limit
                                  0xff, 0xff, 0xff, 0xff,     // loss
                                  0,    0,    0,    0,        // gap
                                  0xff, 0xff, 0xff, 0xbf,     // duplicate
                                  0,    0,    0,    0,        // jitter
                                  16,   0,    1,    0,        // TCA_NETEM_CORR
                                  0,    0,    0,    0x40,     // of the delay
                                  0,    0,    0,    0x80,     // of the loss
                                  0xff, 0xff, 0xff, 0xff}));  // of the duplicate
  effect = {};
  effect.reorder = {25, 50};
  effect.corrupt = {75, 25};
  effect.ecn = true;
  CHECK(options(effect) == bytes({0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,  // a gap, without which
                                                                       // nothing is reordered
                                  0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 3, 0, 0, 0, 0, 0x40, 0, 0, 0,
                                  0x80,  // TCA_NETEM_REORDER
                                  12, 0, 4, 0, 0xff, 0xff, 0xff, 0xbf, 0, 0, 0, 0x40,  // _CORRUPT
                                  8, 0, 7, 0, 1, 0, 0, 0}));                           // _ECN
  effect = {};
  effect.gilbert_elliott = GilbertElliott{25, 50, 75, 100};
  CHECK(options(effect) ==
        bytes({0,    0,    0,    0,    0, 0, 0, 0, 0,  0, 0, 0,
               0,    0,    0,    0,    0, 0, 0, 0, 24, 0, 5, 0x80,  // TCA_NETEM_LOSS, nested
               20,   0,    2,    0,                                 // NETEM_LOSS_GE
               0,    0,    0,    0x40,                              // p
               0,    0,    0,    0x80,                              // r
               0,    0,    0,    0x40,                              // h, the share that is not lost
               0xff, 0xff, 0xff, 0xff}));                           // 1-k
  effect = {};
  effect.four_state = FourState{50, 25, 75, 100, 50};
  CHECK(options(effect) ==
        bytes({0,    0,    0,    0,    0, 0, 0, 0, 0,  0, 0, 0,
               0,    0,    0,    0,    0, 0, 0, 0, 28, 0, 5, 0x80,  // TCA_NETEM_LOSS, nested
               24,   0,    1,    0,                                 // NETEM_LOSS_GI
               0,    0,    0,    0x80,                              // p13
               0,    0,    0,    0x40,                              // p31
               0xff, 0xff, 0xff, 0xbf,                              // p32
               0xff, 0xff, 0xff, 0x7f,     // p14: with p13 no more than all
               0xff, 0xff, 0xff, 0xff}));  // p23
  effect = {};
  effect.rate = {0x01020304, -2, 48, 5};
  CHECK(options(effect) ==
        bytes({0,    0,    0,    0,    0, 0, 0, 0, 0,  0, 0, 0,
               0,    0,    0,    0,    0, 0, 0, 0, 20, 0, 6, 0,  // TCA_NETEM_RATE
               4,    3,    2,    1,                              // bytes per second
               0xfe, 0xff, 0xff, 0xff,                           // packet_overhead
               48,   0,    0,    0,    5, 0, 0, 0}));            // cell_size, cell_overhead
  effect.rate = {0x0102030405, 0, 0, 0};
  CHECK(options(effect) ==
        bytes({0,  0, 0, 0, 0,    0,    0,    0,    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
               12, 0, 8, 0, 5,    4,    3,    2,    1, 0, 0, 0,  // TCA_NETEM_RATE64
               20, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  effect = {};
  effect.seed = 0x0102030405060708;
  CHECK(options(effect) == bytes({0, 0, 0, 0,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                                  0, 0, 0, 12, 0, 14, 0, 8, 7, 6, 5, 4, 3, 2, 1}));  // _PRNG_SEED
}

TEST_CASE("a slot without a table is its shortest and longest time, with one it is both moments") {
  Effect effect;
  Slots& slot = effect.slot.emplace();
  slot.delay = Duration(3);
  slot.jitter = Duration(2);
  slot.packets = 4;
  slot.bytes = 5;
  const auto attribute = [&] {
    const std::vector<std::byte> whole = encode_netem(effect);
    return std::vector<std::byte>(whole.end() - 24 - 44, whole.end() - 24);
  };
  CHECK(attribute() == bytes({44, 0, 12, 0,                                      // TCA_NETEM_SLOT
                              1,  0, 0,  0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0,  // from, to
                              4,  0, 0,  0, 5, 0, 0, 0,                          // packets, bytes
                              0,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  slot.distribution = v1::PARETO;
  CHECK(attribute() == bytes({44, 0, 12, 0,                                         //
                              0,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,     //
                              4,  0, 0,  0, 5, 0, 0, 0,                             //
                              3,  0, 0,  0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}));  // mean, jitter
  // The kernel takes a slot that has neither times nor a jitter for none.
  slot.jitter = Duration(0);
  CHECK(attribute() == bytes({44, 0, 12, 0,                                      //
                              3,  0, 0,  0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0,  //
                              4,  0, 0,  0, 5, 0, 0, 0,                          //
                              0,  0, 0,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST_CASE("a distribution is sent as its whole table, and only where something varies") {
  Effect effect;
  effect.delay = std::chrono::milliseconds(1);
  const std::size_t without = encode_netem(effect).size();
  effect.distribution = v1::NORMAL;
  CHECK(encode_netem(effect).size() == without);
  effect.jitter = std::chrono::milliseconds(1);
  const std::vector<std::byte> whole = encode_netem(effect);
  CHECK(whole.size() == without + 4 + 2 * kDistributionEntries);
  const auto table = std::as_bytes(table_of(v1::NORMAL));
  CHECK(std::vector<std::byte>(whole.begin() + 24, whole.begin() + 28) ==
        bytes({0x04, 0x20, 2, 0}));  // TCA_NETEM_DELAY_DIST
  CHECK(std::equal(table.begin(), table.end(), whole.begin() + 28));
}

TEST_CASE("what is written is read back the same, from 1 us to 60 s and from 0.0001 % to 100 %") {
  for (const std::int64_t ns : {0L, 1'000L, 999'999'999L, 60'000'000'000L, 86'400'000'000'000L}) {
    for (const double percent : {0.0, 0.0001, 1.0, 49.9, 50.0, 99.9, 100.0}) {
      Effect effect;
      effect.delay = Duration(ns);
      effect.jitter = Duration(ns / 3);
      effect.delay_correlation = percent;
      effect.loss = {percent, 100 - percent};
      effect.duplicate = {percent, percent / 2};
      effect.corrupt = {percent, percent / 3};
      effect.limit = 1000;
      const StatusOr<Effect> read = decode_netem(encode_netem(effect));
      REQUIRE(read.ok());
      CHECK(same_netem(*read, effect));
      CHECK(read->loss.percent == doctest::Approx(percent).epsilon(1e-4));
      CHECK(read->delay == effect.delay);
      CHECK(read->jitter == effect.jitter);
    }
  }
}

TEST_CASE("two netems are the same only where all that the kernel tells is") {
  const Effect whole = everything();
  CHECK(same_netem(whole, whole));
  const auto differs = [&](auto change) {
    Effect other = whole;
    change(other);
    return !same_netem(whole, other) && !same_netem(other, whole);
  };
  CHECK(differs([](Effect& effect) { effect.delay += Duration(1); }));
  CHECK(differs([](Effect& effect) { effect.jitter += Duration(1); }));
  CHECK(differs([](Effect& effect) { effect.delay_correlation += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.gilbert_elliott->p += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.gilbert_elliott->loss_when_bad -= 0.001; }));
  CHECK(differs([](Effect& effect) { effect.gilbert_elliott.reset(); }));
  CHECK(differs([](Effect& effect) { effect.ecn = false; }));
  CHECK(differs([](Effect& effect) { effect.duplicate.percent += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.duplicate.correlation += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.corrupt.percent += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.reorder.correlation += 0.001; }));
  CHECK(differs([](Effect& effect) { effect.gap += 1; }));
  CHECK(differs([](Effect& effect) { effect.rate.bytes_per_second += 1; }));
  CHECK(differs([](Effect& effect) { effect.rate.cell_overhead += 1; }));
  CHECK(differs([](Effect& effect) { effect.slot->delay += Duration(1); }));
  CHECK(differs([](Effect& effect) { effect.slot->packets += 1; }));
  CHECK(differs([](Effect& effect) { effect.slot.reset(); }));
  CHECK(differs([](Effect& effect) { effect.limit += 1; }));
  CHECK(differs([](Effect& effect) { effect.seed += 1; }));
  CHECK_MESSAGE(!differs([](Effect& effect) { effect.seed = 0; }), "a kernel before 6.7");
}

TEST_CASE("netem's settings cut off anywhere are an error, never a value") {
  for (const Effect& effect : {Effect(), everything()}) {
    const std::vector<std::byte> whole = encode_netem(effect);
    CHECK(decode_netem(whole).ok());
    for (std::size_t length = 0; length < whole.size(); ++length) {
      CHECK_FALSE(decode_netem(std::span(whole).first(length)).ok());
    }
  }
}

TEST_CASE("an attribute of another size than its own is an error, and an unknown one is not") {
  const std::vector<std::byte> whole = encode_netem(Effect());
  std::vector<std::byte> longer = whole;
  for (const std::byte byte : bytes({6, 0, 99, 0, 1, 2, 0, 0})) longer.push_back(byte);
  CHECK(decode_netem(longer).ok());
  longer[whole.size() + 2] = std::byte{7};  // TCA_NETEM_ECN
  CHECK(decode_netem(longer).status().message() ==
        "netem's options are of a form that is not known");
}

TEST_CASE("what netem cannot do is said before it is asked") {
  const auto lacks = [](auto change) {
    Effect effect;
    change(effect);
    return netem_lacks(effect);
  };
  using std::chrono::milliseconds;
  CHECK(netem_lacks(everything()) == "");
  CHECK(lacks([](Effect& effect) { effect.jitter = milliseconds(2147); }) == "");
  CHECK(lacks([](Effect& effect) { effect.jitter = milliseconds(2148); }) ==
        "netem's jitter ends at 2.147s");
  CHECK(lacks([](Effect& effect) {
          effect.slot = Slots{.delay = milliseconds(3000),
                              .jitter = milliseconds(2148),
                              .distribution = v1::NORMAL};
        }) == "netem's jitter of a slot ends at 2.147s");
  CHECK(lacks([](Effect& effect) {
          effect.slot = Slots{.delay = milliseconds(3000), .jitter = milliseconds(1074)};
        }) == "netem's shortest and longest slot are at most 2.147s apart");
  CHECK(lacks([](Effect& effect) { effect.rate = {1000, -20, 0, 0}; }) == "");
  CHECK(lacks([](Effect& effect) {
          effect.rate = {1000, -21, 0, 0};
        }) == "netem's packet_overhead takes off at most 20 bytes");
  CHECK(lacks([](Effect& effect) {
          effect.rate = {1000, 0, 48, -49};
        }) == "netem's cell_overhead takes off at most the cell itself");
}

TEST_CASE("whoever asks netem for what it does in its own way is told so") {
  Effect effect;
  effect.delay = std::chrono::milliseconds(10);
  effect.loss = {100, 25};
  CHECK(netem_notes(effect).empty());
  effect.loss = {1, 25};
  CHECK(netem_notes(effect) ==
        std::vector<std::string>{
            "by netem's rule correlated numbers keep to the middle: what has a correlation hits "
            "fewer packets than asked, above 50% more; gilbert_elliott and four_state keep their "
            "share"});
  effect = {};
  effect.jitter = std::chrono::milliseconds(1);
  effect.delay_correlation = 25;
  CHECK(netem_notes(effect) ==
        std::vector<std::string>{
            "by netem's rule delays do not show their correlation: they are taken from "
            "the remainder of a number that does"});
  effect.delay_correlation = 0;
  effect.seed = 42;
  CHECK(netem_notes(effect) ==
        (netem_takes_seeds()
             ? std::vector<std::string>()
             : std::vector<std::string>{
                   "netem of this kernel draws its own random numbers: the seed does not make it "
                   "repeatable (it would as of Linux 6.7)"}));
  effect.jitter = Duration(0);
  CHECK(netem_notes(effect).empty());
}

TEST_CASE("two matches overlap where some packet could be both") {
  const std::string ten("\x0a\x00\x00\x00", 4);
  const std::string ten_one("\x0a\x01\x00\x00", 4);
  const std::string six(16, '\0');
  CHECK(may_overlap({}, {}));
  CHECK(may_overlap(aimed_at({}, {{80, 80}}), {}));
  CHECK(may_overlap(aimed_at({}, {{80, 90}}), aimed_at({}, {{90, 99}})));
  CHECK_FALSE(may_overlap(aimed_at({}, {{80, 89}}), aimed_at({}, {{90, 99}})));
  CHECK(may_overlap(aimed_at({{ten, 8}}, {}), aimed_at({{ten_one, 16}}, {})));
  CHECK_FALSE(may_overlap(aimed_at({{ten, 16}}, {}), aimed_at({{ten_one, 16}}, {})));
  CHECK_FALSE(may_overlap(aimed_at({{ten, 0}}, {}), aimed_at({{six, 0}}, {})));
  CHECK_FALSE(may_overlap(aimed_at({{ten, 8}}, {{80, 80}}), aimed_at({{ten, 8}}, {{81, 81}})));
}

TEST_CASE("a standing filter's match is read back from the kernel as it was asked") {
  const StatusOr<std::unique_ptr<Classifier>> classifier = Classifier::load();
  REQUIRE_MESSAGE(classifier.ok(), message_of(classifier.status()));
  const Aim asked =
      aimed_at({{std::string("\x0a\x00\x00\x00", 4), 8}, {std::string(16, '\1'), 128}},
               {{1, 1}, {80, 90}, {65535, 65535}});
  const std::array<std::uint16_t, 1> spared = {22};
  REQUIRE((*classifier)->set_aim(asked, spared).ok());
  const MonotonicTime deadline = monotonic_now();
  (*classifier)->set_deadline(deadline);
  const StatusOr<Standing> read =
      read_standing((*classifier)->program_id(Classifier::Program::kEgress));
  REQUIRE_MESSAGE(read.ok(), message_of(read.status()));
  CHECK(read->aim.match.SerializeAsString() == asked.match.SerializeAsString());
  CHECK(read->deadline == deadline);
}

TEST_CASE("a relay's mark says its way, and faults differ in it") {
  CHECK((relay_mark("aaaaaaaaaaaa", false) & 0xffff8000) == 0x53510000);
  CHECK((relay_mark("aaaaaaaaaaaa", true) & 0xffff8000) == 0x53518000);
  CHECK(relay_mark("aaaaaaaaaaaa", false) != relay_mark("aaaaaaaaaaab", false));
}

}  // namespace squall::network
