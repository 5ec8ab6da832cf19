/// \file
/// What the kernel and tc make of netem's options, for many random sets of them.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "injector/network/netem.h"
#include "injector/network/netlink.h"
#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using namespace squall::network;  // NOLINT: this is a test of that folder
using Json = nlohmann::json;

constexpr std::size_t kSets = 300;
constexpr std::size_t kSetsAtOnce = 50;  // tc takes long to start in the lab
constexpr std::uint64_t kSeed = 20240607;

/// Sets of options as a plan may ask for them. The same ones on every machine: std's distributions
/// are each library's own.
class Plans {
 public:
  v1::Network next() {
    v1::Network wanted;
    if (one_of(4) > 0) add_delay(wanted);
    switch (one_of(4)) {
      case 0:
        wanted.set_loss(percent());
        if (yes()) wanted.set_loss_correlation(percent());
        break;
      case 1: {
        v1::GilbertElliott& model = *wanted.mutable_gilbert_elliott();
        model.set_p(percent());
        model.set_r(percent());
        if (yes()) model.set_loss_when_bad(percent());
        if (yes()) model.set_loss_when_good(percent());
        break;
      }
      case 2: {
        v1::FourState& model = *wanted.mutable_four_state();
        model.set_p13(percent() / 2);
        model.set_p31(percent() / 2);
        if (yes()) model.set_p32(percent() / 2);
        if (yes()) model.set_p23(percent());
        if (yes()) model.set_p14(percent() / 2);
        break;
      }
      default:
        break;
    }
    wanted.set_ecn(yes());
    if (yes()) wanted.set_duplicate(percent());
    if (wanted.has_duplicate() && yes()) wanted.set_duplicate_correlation(percent());
    if (yes()) wanted.set_corrupt(percent());
    if (wanted.has_corrupt() && yes()) wanted.set_corrupt_correlation(percent());
    if (yes()) add_rate(wanted);
    if (yes()) add_slot(*wanted.mutable_slot());
    if (yes()) wanted.set_limit(static_cast<std::uint32_t>(between(1, 100'000'000)));
    return wanted;
  }

 private:
  void add_delay(v1::Network& wanted) {
    wanted.set_delay(between(1'000, 60'000'000'000));
    if (yes()) {
      wanted.set_jitter(between(1'000, std::min<std::int64_t>(wanted.delay(), 2'147'000'000)));
      wanted.set_distribution(distribution());
      if (yes()) wanted.set_delay_correlation(percent());
    }
    if (yes()) {
      wanted.set_reorder(percent());
      if (yes()) wanted.set_reorder_correlation(percent());
      if (yes()) wanted.set_gap(static_cast<std::uint32_t>(between(1, 1'000'000)));
    }
  }

  void add_rate(v1::Network& wanted) {
    wanted.set_rate(static_cast<std::uint64_t>(between(8, 1'000'000'000'000)));
    if (yes()) wanted.set_packet_overhead(static_cast<std::int32_t>(between(1, 1520)) - 20);
    if (yes()) {
      wanted.set_cell_size(static_cast<std::uint32_t>(between(1, 65'535)));
      const std::int64_t off = std::min<std::int64_t>(wanted.cell_size(), 1500);
      if (yes()) wanted.set_cell_overhead(static_cast<std::int32_t>(between(1, 3000) - off));
    }
  }

  void add_slot(v1::Slot& slot) {
    if (yes()) {
      slot.set_min_delay(between(1'000, 60'000'000'000));
      if (yes()) slot.set_max_delay(slot.min_delay() + between(1, 2'147'000'000));
    } else {
      slot.set_delay(between(1'000, 60'000'000'000));
      if (yes()) {
        slot.set_jitter(between(1'000, std::min<std::int64_t>(slot.delay(), 1'073'000'000)));
        slot.set_distribution(distribution());
      }
    }
    if (yes()) slot.set_packets(static_cast<std::uint32_t>(between(1, 1'000'000)));
    if (yes()) slot.set_bytes(static_cast<std::uint32_t>(between(64, 1 << 30)));
  }

  std::uint64_t one_of(std::uint64_t count) { return random_() % count; }
  bool yes() { return one_of(2) == 0; }

  /// As often near the least as near the most.
  std::int64_t between(std::int64_t least, std::int64_t most) {
    const double share = static_cast<double>(random_() >> 11) / (1ull << 53);
    const double ratio = static_cast<double>(most) / static_cast<double>(least);
    const double value = static_cast<double>(least) * std::pow(ratio, share);
    return std::clamp(static_cast<std::int64_t>(value), least, most);
  }

  double percent() {
    return one_of(8) == 0 ? 100 : static_cast<double>(between(1, 1'000'000)) / 10'000;
  }

  v1::Distribution distribution() { return static_cast<v1::Distribution>(one_of(4)); }

  std::mt19937_64 random_{kSeed};
};

/// As the kernel keeps a share, in 32 bits.
void check_percent(double read, double asked) { CHECK(std::abs(read - asked) < 2.5e-8); }

void check_chance(const Chance& read, double percent, double correlation) {
  check_percent(read.percent, percent);
  check_percent(read.correlation, correlation);
}

/// What our own reader says against what the plan asked for.
void check_read(const Effect& read, const v1::Network& asked) {
  CHECK(read.delay == Duration(asked.delay()));
  CHECK(read.jitter == Duration(asked.jitter()));
  check_percent(read.delay_correlation, asked.delay_correlation());
  check_chance(read.loss, asked.loss(), asked.loss_correlation());
  CHECK(read.gilbert_elliott.has_value() == asked.has_gilbert_elliott());
  if (read.gilbert_elliott && asked.has_gilbert_elliott()) {
    const v1::GilbertElliott& model = asked.gilbert_elliott();
    check_percent(read.gilbert_elliott->p, model.p());
    check_percent(read.gilbert_elliott->r, model.r());
    check_percent(read.gilbert_elliott->loss_when_bad,
                  model.has_loss_when_bad() ? model.loss_when_bad() : 100);
    check_percent(read.gilbert_elliott->loss_when_good, model.loss_when_good());
  }
  CHECK(read.four_state.has_value() == asked.has_four_state());
  if (read.four_state && asked.has_four_state()) {
    const v1::FourState& model = asked.four_state();
    check_percent(read.four_state->p13, model.p13());
    check_percent(read.four_state->p31, model.p31());
    check_percent(read.four_state->p32, model.p32());
    check_percent(read.four_state->p23, model.has_p23() ? model.p23() : 100);
    check_percent(read.four_state->p14, model.p14());
  }
  CHECK(read.ecn == asked.ecn());
  check_chance(read.duplicate, asked.duplicate(), asked.duplicate_correlation());
  check_chance(read.corrupt, asked.corrupt(), asked.corrupt_correlation());
  check_chance(read.reorder, asked.reorder(), asked.reorder_correlation());
  CHECK(read.gap == (asked.has_gap() ? asked.gap() : asked.has_reorder() ? 1 : 0));
  CHECK(read.rate ==
        Rate{asked.rate() / 8, asked.packet_overhead(), asked.cell_size(), asked.cell_overhead()});
  CHECK(read.slot.has_value() == asked.has_slot());
  if (read.slot && asked.has_slot()) {
    const v1::Slot& slot = asked.slot();
    const bool has_table = slot.has_jitter() && slot.distribution() != v1::UNIFORM;
    const std::int64_t shortest =
        slot.has_delay() ? slot.delay() - slot.jitter() : slot.min_delay();
    const std::int64_t longest = slot.has_delay()       ? slot.delay() + slot.jitter()
                                 : slot.has_max_delay() ? slot.max_delay()
                                                        : slot.min_delay();
    CHECK(read.slot->min_delay == Duration(has_table ? 0 : shortest));
    CHECK(read.slot->max_delay == Duration(has_table ? 0 : longest));
    CHECK(read.slot->delay == Duration(has_table ? slot.delay() : 0));
    CHECK(read.slot->jitter == Duration(has_table ? slot.jitter() : 0));
    CHECK(read.slot->packets == slot.packets());
    CHECK(read.slot->bytes == slot.bytes());
  }
  if (asked.has_limit()) CHECK(read.limit == asked.limit());
}

/// tc prints six digits, of a delay whole microseconds of 64 ns steps.
void check_seconds(const Json& shown, std::int64_t ns, double step = 0) {
  const double asked = static_cast<double>(ns) / 1e9;
  CHECK(std::abs(shown.get<double>() - asked) <= step + asked * 1e-5);
}

void check_share(const Json& shown, double percent) {
  CHECK(std::abs(shown.get<double>() - percent / 100) <= 3e-10 + percent / 100 * 1e-5);
}

/// One of tc's objects of a share and its correlation, there only if it was asked for.
void check_shown_chance(const Json& options, const std::string& object, const std::string& name,
                        double percent, double correlation) {
  CAPTURE(object);
  CHECK(options.contains(object) == (percent > 0));
  if (!options.contains(object)) return;
  check_share(options[object][name], percent);
  check_share(options[object].value("correlation", Json(0.0)), correlation);
}

/// What tc says against what the plan asked for.
void check_shown(const Json& options, const v1::Network& asked) {
  constexpr double kDelayStep = 1.1e-6;
  CHECK(options.contains("delay") == asked.has_delay());
  if (options.contains("delay")) {
    const Json& delay = options["delay"];
    check_seconds(delay["delay"], asked.delay(), kDelayStep);
    check_seconds(delay.value("jitter", Json(0.0)), asked.jitter(), kDelayStep);
    check_share(delay.value("correlation", Json(0.0)), asked.delay_correlation());
  }
  check_shown_chance(options, "loss-random", "loss", asked.loss(), asked.loss_correlation());
  check_shown_chance(options, "duplicate", "duplicate", asked.duplicate(),
                     asked.duplicate_correlation());
  check_shown_chance(options, "corrupt", "corrupt", asked.corrupt(), asked.corrupt_correlation());
  check_shown_chance(options, "reorder", "reorder", asked.reorder(), asked.reorder_correlation());
  CHECK(options["gap"] == (asked.has_gap() ? asked.gap() : asked.has_reorder() ? 1 : 0));
  CHECK(options["ecn"] == asked.ecn());
  CHECK(options.contains("loss-gemodel") == asked.has_gilbert_elliott());
  if (options.contains("loss-gemodel")) {
    const v1::GilbertElliott& model = asked.gilbert_elliott();
    check_share(options["loss-gemodel"]["p"], model.p());
    check_share(options["loss-gemodel"]["r"], model.r());
    check_share(options["loss-gemodel"]["1-h"],
                model.has_loss_when_bad() ? model.loss_when_bad() : 100);
    check_share(options["loss-gemodel"]["1-k"], model.loss_when_good());
  }
  CHECK(options.contains("loss-state") == asked.has_four_state());
  if (options.contains("loss-state")) {
    const v1::FourState& model = asked.four_state();
    check_share(options["loss-state"]["p13"], model.p13());
    check_share(options["loss-state"]["p31"], model.p31());
    check_share(options["loss-state"]["p32"], model.p32());
    check_share(options["loss-state"]["p23"], model.has_p23() ? model.p23() : 100);
    check_share(options["loss-state"]["p14"], model.p14());
  }
  CHECK(options.contains("rate") == asked.has_rate());
  if (options.contains("rate")) {
    CHECK(options["rate"]["rate"] == asked.rate() / 8);
    CHECK(options["rate"]["packetoverhead"] == asked.packet_overhead());
    CHECK(options["rate"]["cellsize"] == asked.cell_size());
    CHECK(options["rate"]["celloverhead"] == asked.cell_overhead());
  }
  CHECK(options.contains("slot") == asked.has_slot());
  if (options.contains("slot")) {
    const Json& shown = options["slot"];
    const v1::Slot& slot = asked.slot();
    const bool has_table = slot.has_jitter() && slot.distribution() != v1::UNIFORM;
    CHECK(shown.contains("distribution") == has_table);
    if (shown.contains("distribution")) {
      check_seconds(shown["distribution"], slot.delay());
      check_seconds(shown["jitter"], slot.jitter());
    } else {
      check_seconds(shown["min-delay"], slot.min_delay() + slot.delay() - slot.jitter());
      const std::int64_t longest = slot.has_max_delay() ? slot.max_delay() : slot.min_delay();
      check_seconds(shown["max-delay"], longest + slot.delay() + slot.jitter());
    }
    CHECK(shown["packets"] == slot.packets());
    CHECK(shown["bytes"] == slot.bytes());
  }
  if (asked.has_limit()) CHECK(options["limit"] == asked.limit());
}

}  // namespace

TEST_CASE("random sets of options are to the kernel and to tc what the plan asked for") {
  if (expected_engine() != v1::NETEM) {
    MESSAGE("SKIPPED: this kernel has no netem");
    return;
  }
  Plans plans;
  std::size_t done = 0;
  while (done < kSets) {
    const Namespace where;
    std::vector<v1::Network> asked;
    where.run([&] {
      StatusOr<Netlink> netlink = Netlink::open();
      require_ok(netlink.status());
      for (std::size_t i = 0; i < kSetsAtOnce; ++i, ++done) {
        CAPTURE(done);
        asked.push_back(plans.next());
        CAPTURE(asked.back().ShortDebugString());
        const Effect effect = effect_of(asked.back(), done + 1);
        REQUIRE(netem_lacks(effect) == "");
        const std::string name = "set" + std::to_string(i);
        require_ok(netlink->add_ifb(name));
        const StatusOr<std::optional<Link>> link = netlink->find_link(name);
        require_ok(link.status());
        REQUIRE(link->has_value());
        require_ok(netlink->add_root_netem((*link)->index, encode_netem(effect)));
        const StatusOr<std::optional<Qdisc>> root = netlink->root_qdisc((*link)->index);
        require_ok(root.status());
        REQUIRE(root->has_value());
        const StatusOr<Effect> read = decode_netem((*root)->options);
        require_ok(read.status());
        CHECK(same_netem(*read, effect));
        CHECK(read->seed == (netem_takes_seeds() ? effect.seed : 0));
        check_read(*read, asked.back());
      }
    });
    Command tc;
    tc.argv = {"tc", "-j", "qdisc", "show"};
    tc.where = &where;
    std::size_t shown = 0;
    for (const Json& qdisc : Json::parse(run(tc))) {
      const std::string name = qdisc["dev"];
      if (!name.starts_with("set")) continue;
      CAPTURE(qdisc.dump());
      CHECK(qdisc["kind"] == "netem");
      check_shown(qdisc["options"], asked.at(std::stoul(name.substr(3))));
      ++shown;
    }
    CHECK(shown == kSetsAtOnce);
  }
  MESSAGE(done << " sets of options, seed " << kSeed);
}

}  // namespace squall::support
