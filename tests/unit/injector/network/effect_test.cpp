#include "injector/network/effect.h"

#include <doctest/doctest.h>

namespace squall::network {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::uint32_t limit_of(const v1::Network& wanted) { return effect_of(wanted, 0).limit; }

v1::Network delay_of(Duration delay) {
  v1::Network wanted;
  wanted.set_delay(delay.count());
  return wanted;
}

}  // namespace

TEST_CASE("what a plan leaves out has netem's own defaults") {
  v1::Network wanted;
  wanted.mutable_gilbert_elliott()->set_p(1);
  wanted.mutable_gilbert_elliott()->set_r(2);
  CHECK(effect_of(wanted, 0).gilbert_elliott == GilbertElliott{1, 2, 100, 0});
  wanted.mutable_gilbert_elliott()->set_loss_when_bad(0);
  CHECK(effect_of(wanted, 0).gilbert_elliott == GilbertElliott{1, 2, 0, 0});
  wanted.Clear();
  wanted.mutable_four_state()->set_p13(1);
  wanted.mutable_four_state()->set_p31(2);
  CHECK(effect_of(wanted, 0).four_state == FourState{1, 2, 0, 100, 0});
  wanted = delay_of(milliseconds(1));
  wanted.set_gap(5);
  CHECK(effect_of(wanted, 0).gap == 0);
  wanted.set_reorder(25);
  CHECK(effect_of(wanted, 0).gap == 5);
  wanted.clear_gap();
  CHECK(effect_of(wanted, 0).gap == 1);
  wanted.mutable_slot()->set_min_delay(1000);
  CHECK(effect_of(wanted, 0).slot->max_delay == Duration(1000));
}

TEST_CASE("a rate is in bytes, and never none once it is asked for") {
  v1::Network wanted;
  wanted.set_packet_overhead(20);
  CHECK(effect_of(wanted, 0).rate == Rate());
  wanted.set_rate(10'000'000);
  CHECK(effect_of(wanted, 0).rate == Rate{1'250'000, 20, 0, 0});
  wanted.set_rate(1'000'000'000'000);
  CHECK(effect_of(wanted, 0).rate.bytes_per_second == 125'000'000'000);
  wanted.set_rate(7);
  CHECK(effect_of(wanted, 0).rate.bytes_per_second == 1);
}

TEST_CASE("a queue is sized for 250,000 packets a second of delay") {
  CHECK(limit_of(delay_of(milliseconds(1))) == 100'000);
  CHECK(limit_of(delay_of(seconds(1))) == 250'000);
  CHECK(limit_of(delay_of(seconds(60))) == 15'000'000);
  v1::Network wanted = delay_of(seconds(1));
  wanted.set_jitter(Duration(milliseconds(500)).count());
  CHECK(limit_of(wanted) == 375'000);
  // A table reaches four times as far.
  wanted.set_distribution(v1::PARETO);
  CHECK(limit_of(wanted) == 750'000);
  wanted.set_limit(7);
  CHECK(limit_of(wanted) == 7);
}

TEST_CASE("a queue in front of a slow line holds what the line carries while packets are held") {
  v1::Network wanted = delay_of(seconds(1));
  wanted.set_rate(1'000'000);
  CHECK_MESSAGE(limit_of(wanted) == 1953, "125,000 bytes in packets of 64");
  wanted.set_rate(8'000);
  CHECK_MESSAGE(limit_of(wanted) == 1000, "the least");
  wanted.set_rate(1'000'000'000'000);
  CHECK_MESSAGE(limit_of(wanted) == 250'000, "never more than without a rate");
}

TEST_CASE("how long a packet may stay counts its delay, its slot and the queue before it") {
  v1::Network wanted = delay_of(milliseconds(50));
  wanted.set_jitter(Duration(milliseconds(10)).count());
  CHECK(longest_delay(effect_of(wanted, 0)) == milliseconds(60));
  CHECK(longest_stay(effect_of(wanted, 0)) == milliseconds(50 + 4 * 10 + 100));
  wanted.set_distribution(v1::NORMAL);
  CHECK(longest_delay(effect_of(wanted, 0)) == milliseconds(90));
  CHECK(longest_stay(effect_of(wanted, 0)) == milliseconds(50 + 4 * 10 + 100));
  wanted.mutable_slot()->set_min_delay(Duration(milliseconds(5)).count());
  wanted.mutable_slot()->set_max_delay(Duration(milliseconds(7)).count());
  CHECK(longest_delay(effect_of(wanted, 0)) == milliseconds(97));
  wanted.clear_slot();

  wanted.set_limit(10);
  wanted.set_rate(8 * 65'536);
  CHECK(longest_stay(effect_of(wanted, 0)) == milliseconds(190) + seconds(10));
  wanted.set_rate(8);
  CHECK_MESSAGE(longest_stay(effect_of(wanted, 0)) == milliseconds(190) + seconds(60),
                "nobody waits longer than a minute for what a line has no time for");
}

TEST_CASE("only a plain loss of everything needs no queue") {
  v1::Network wanted;
  wanted.set_loss(100);
  CHECK(loses_all(effect_of(wanted, 5)));
  const auto with = [&](auto change) {
    v1::Network more = wanted;
    change(more);
    return loses_all(effect_of(more, 5));
  };
  CHECK(with([](v1::Network& more) { more.set_limit(10); }));
  CHECK_FALSE(with([](v1::Network& more) { more.set_loss(99.9999); }));
  CHECK_FALSE(with([](v1::Network& more) { more.set_ecn(true); }));
  CHECK_FALSE(with([](v1::Network& more) { more.set_duplicate(1); }));
  CHECK_FALSE(with([](v1::Network& more) { more.set_delay(1000); }));
  CHECK_FALSE(with([](v1::Network& more) { more.set_rate(8000); }));
}

TEST_CASE("a seed matters only where something is drawn by chance") {
  v1::Network wanted = delay_of(milliseconds(1));
  CHECK_FALSE(draws_by_chance(effect_of(wanted, 0)));
  wanted.set_duplicate(100);
  CHECK_FALSE(draws_by_chance(effect_of(wanted, 0)));
  wanted.set_duplicate(50);
  CHECK(draws_by_chance(effect_of(wanted, 0)));
  wanted = delay_of(milliseconds(1));
  wanted.set_jitter(1000);
  CHECK(draws_by_chance(effect_of(wanted, 0)));
}

}  // namespace squall::network
