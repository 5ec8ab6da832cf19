/// The classifier on packets of our own making, by the kernel's own test run: what it finds in the
/// headers is the same whichever way it reads them.
#include "injector/network/classifier.h"

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <doctest/doctest.h>
#include <linux/pkt_cls.h>
#include <netinet/in.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "injector/network/emulation.h"

namespace squall::network {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr int kMatch = -1;
constexpr int kNoMatch = 0;
constexpr std::uint16_t kPort = 7001;

Bytes operator+(Bytes left, const Bytes& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

Bytes zeros(std::size_t count) { return Bytes(count, 0); }

/// From port 40000 to kPort, and room enough for either header.
Bytes transport() { return Bytes{0x9c, 0x40, kPort >> 8, kPort & 0xff} + zeros(16); }

Bytes ipv4(int protocol, std::uint16_t fragment, const Bytes& payload) {
  Bytes header = zeros(20);
  header[0] = 0x45;
  header[6] = static_cast<std::uint8_t>(fragment >> 8);
  header[7] = static_cast<std::uint8_t>(fragment);
  header[9] = static_cast<std::uint8_t>(protocol);
  return zeros(12) + Bytes{0x08, 0x00} + header + payload;
}

Bytes ipv6(int next, const Bytes& payload) {
  Bytes header = zeros(40);
  header[0] = 0x60;
  header[6] = static_cast<std::uint8_t>(next);
  return zeros(12) + Bytes{0x86, 0xdd} + header + payload;
}

/// An extension header of 8 bytes, and one of `units` more.
Bytes extension(int next, int units = 0) {
  return Bytes{static_cast<std::uint8_t>(next), static_cast<std::uint8_t>(units)} +
         zeros(6 + 8 * static_cast<std::size_t>(units));
}

/// Its offset is in units of 8 bytes.
Bytes fragment(int next, std::uint16_t offset) {
  const auto field = static_cast<std::uint16_t>(offset << 3);
  return Bytes{static_cast<std::uint8_t>(next), 0, static_cast<std::uint8_t>(field >> 8),
               static_cast<std::uint8_t>(field)} +
         zeros(4);
}

/// Which counts its length in units of 4 bytes, less two.
Bytes authentication(int next) { return Bytes{static_cast<std::uint8_t>(next), 4} + zeros(22); }

Bytes options(int count, int last, const Bytes& payload) {
  Bytes headers;
  for (int i = 1; i < count; ++i) headers = headers + extension(IPPROTO_DSTOPTS);
  return headers + extension(last) + payload;
}

Aim aimed_at(int protocol, bool with_ports) {
  Aim aim;
  aim.match.add_protocols()->set_number(static_cast<std::uint32_t>(protocol));
  if (with_ports) {
    aim.match.add_ports()->set_first(kPort);
    aim.match.mutable_ports(0)->set_last(kPort);
  }
  return aim;
}

std::unique_ptr<Classifier> load(const Aim& aim) {
  StatusOr<std::unique_ptr<Classifier>> loaded = Classifier::load();
  REQUIRE_MESSAGE(loaded.ok(), message_of(loaded.status()));
  REQUIRE((*loaded)->set_aim(aim, {}).ok());
  (*loaded)->set_deadline(monotonic_now() + std::chrono::hours(1));
  return *std::move(loaded);
}

int run(const Classifier& classifier, Classifier::Program program, const Bytes& frame) {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.data_in = frame.data();
  options.data_size_in = static_cast<std::uint32_t>(frame.size());
  REQUIRE(::bpf_prog_test_run_opts(classifier.program_fd(program), &options) == 0);
  return static_cast<int>(options.retval);
}

/// By these chances what goes to kPort by UDP.
Aim losing(const Effect& effect) {
  Aim aim = aimed_at(IPPROTO_UDP, true);
  aim.loses = true;
  aim.losses = effect;
  return aim;
}

struct Case {
  const char* what;
  Bytes frame;
  bool is_hit;
};

/// Every way, whichever way the headers are read.
void check(Aim aim, const std::vector<Case>& cases) {
  for (const bool ethernet : {false, true}) {
    aim.ethernet = ethernet;
    const std::unique_ptr<Classifier> classifier = load(aim);
    for (const Case& one : cases) {
      for (const auto program : {Classifier::Program::kEgress, Classifier::Program::kIngress}) {
        CAPTURE(ethernet);
        CAPTURE(one.what);
        CHECK(run(*classifier, program, one.frame) == (one.is_hit ? kMatch : kNoMatch));
      }
    }
  }
}

}  // namespace

TEST_CASE("a port is found behind whatever headers stand before it") {
  const Bytes udp = transport();
  check(aimed_at(IPPROTO_UDP, true),
        {{"IPv4", ipv4(IPPROTO_UDP, 0, udp), true},
         {"IPv4, don't fragment", ipv4(IPPROTO_UDP, 0x4000, udp), true},
         {"IPv4, a first fragment", ipv4(IPPROTO_UDP, 0x2000, udp), true},
         {"IPv4, a later fragment", ipv4(IPPROTO_UDP, 0x2001, udp), false},
         {"IPv4, another protocol", ipv4(IPPROTO_TCP, 0, udp), false},
         {"IPv4, cut off before its ports", ipv4(IPPROTO_UDP, 0, zeros(2)), false},
         {"IPv6", ipv6(IPPROTO_UDP, udp), true},
         {"IPv6, another protocol", ipv6(IPPROTO_TCP, udp), false},
         {"hop-by-hop options", ipv6(IPPROTO_HOPOPTS, extension(IPPROTO_UDP) + udp), true},
         {"long options", ipv6(IPPROTO_DSTOPTS, extension(IPPROTO_UDP, 3) + udp), true},
         {"a routing header", ipv6(IPPROTO_ROUTING, extension(IPPROTO_UDP, 2) + udp), true},
         {"an authentication header", ipv6(IPPROTO_AH, authentication(IPPROTO_UDP) + udp), true},
         {"a first fragment", ipv6(IPPROTO_FRAGMENT, fragment(IPPROTO_UDP, 0) + udp), true},
         {"a later fragment", ipv6(IPPROTO_FRAGMENT, fragment(IPPROTO_UDP, 1) + udp), false},
         {"six headers", ipv6(IPPROTO_DSTOPTS, options(6, IPPROTO_UDP, udp)), true},
         {"seven headers", ipv6(IPPROTO_DSTOPTS, options(7, IPPROTO_UDP, udp)), false},
         {"a header behind the end", ipv6(IPPROTO_DSTOPTS, extension(IPPROTO_UDP, 200)), false}});
}

TEST_CASE("neighbour discovery is never hit, and the rest of ICMPv6 is") {
  const auto icmp = [](std::uint8_t type) { return Bytes{type, 0} + zeros(18); };
  check(aimed_at(IPPROTO_ICMPV6, false),
        {{"an echo request", ipv6(IPPROTO_ICMPV6, icmp(128)), true},
         {"the type before", ipv6(IPPROTO_ICMPV6, icmp(132)), true},
         {"a router's solicitation", ipv6(IPPROTO_ICMPV6, icmp(133)), false},
         {"a redirect", ipv6(IPPROTO_ICMPV6, icmp(137)), false},
         {"the type behind", ipv6(IPPROTO_ICMPV6, icmp(138)), true},
         {"behind options", ipv6(IPPROTO_HOPOPTS, extension(IPPROTO_ICMPV6) + icmp(135)), false},
         {"an echo request behind options",
          ipv6(IPPROTO_HOPOPTS, extension(IPPROTO_ICMPV6) + icmp(128)), true},
         {"cut off before its type", ipv6(IPPROTO_ICMPV6, {}), false}});
}

TEST_CASE(
    "what is aimed at to be lost is dropped and counted, and all else goes on to the owner's "
    "filters") {
  Aim aim = aimed_at(IPPROTO_UDP, true);
  aim.loses = true;
  const std::unique_ptr<Classifier> classifier = load(aim);
  const Bytes hit = ipv4(IPPROTO_UDP, 0, transport());
  CHECK(run(*classifier, Classifier::Program::kEgress, hit) == TC_ACT_SHOT);
  CHECK(run(*classifier, Classifier::Program::kIngress, hit) == TC_ACT_SHOT);
  const Bytes other = ipv4(IPPROTO_TCP, 0, transport());
  CHECK(run(*classifier, Classifier::Program::kEgress, other) == TC_ACT_UNSPEC);
  CHECK(run(*classifier, Classifier::Program::kIngress, other) == TC_ACT_UNSPEC);
  const StatusOr<Losses> losses = classifier->losses();
  REQUIRE(losses.ok());
  CHECK(losses->packets == 2);
  CHECK(losses->lost == 2);
  // The kernel's count has Ethernet's header in it.
  CHECK(losses->bytes == 2 * hit.size());
}

TEST_CASE("of one seed the classifier loses the same packets as the relay, by every model") {
  Effect random;
  random.seed = 7;
  random.loss.percent = 30;
  Effect correlated = random;
  correlated.loss.correlation = 50;
  Effect gilbert;
  gilbert.seed = 8;
  gilbert.gilbert_elliott =
      GilbertElliott{.p = 20, .r = 30, .loss_when_bad = 90, .loss_when_good = 10};
  Effect four;
  four.seed = 9;
  four.four_state = FourState{.p13 = 20, .p31 = 30, .p32 = 20, .p23 = 40, .p14 = 10};
  for (const Effect& effect : {random, correlated, gilbert, four}) {
    constexpr int kPackets = 2000;
    Emulation emulation(effect, monotonic_now());
    const std::unique_ptr<Classifier> classifier = load(losing(effect));
    const Bytes hit = ipv4(IPPROTO_UDP, 0, transport());
    std::uint64_t lost = 0;
    int differing = 0;
    for (int i = 0; i < kPackets; ++i) {
      const bool is_lost = emulation.is_lost();
      const int told = run(*classifier, Classifier::Program::kEgress, hit);
      differing += told == (is_lost ? TC_ACT_SHOT : TC_ACT_UNSPEC) ? 0 : 1;
      lost += is_lost ? 1 : 0;
    }
    CHECK(differing == 0);
    const StatusOr<Losses> losses = classifier->losses();
    REQUIRE(losses.ok());
    CHECK(losses->packets == kPackets);
    CHECK(losses->lost == lost);
    CHECK(losses->marked == 0);
  }
}

TEST_CASE("a loss that changes takes the next numbers of the same sequence") {
  Effect effect;
  effect.seed = 7;
  effect.loss.percent = 10;
  Emulation emulation(effect, monotonic_now());
  const std::unique_ptr<Classifier> classifier = load(losing(effect));
  const Bytes hit = ipv4(IPPROTO_UDP, 0, transport());
  for (const double percent : {10.0, 60.0, 0.0, 100.0}) {
    effect.loss.percent = percent;
    emulation.become(effect);
    classifier->set_losses(effect);
    int differing = 0;
    for (int i = 0; i < 500; ++i) {
      const int told = run(*classifier, Classifier::Program::kIngress, hit);
      differing += told == (emulation.is_lost() ? TC_ACT_SHOT : TC_ACT_UNSPEC) ? 0 : 1;
    }
    CAPTURE(percent);
    CHECK(differing == 0);
  }
}

TEST_CASE("what knows ECN is marked by the classifier instead of lost") {
  Effect effect;
  effect.loss.percent = 100;
  effect.ecn = true;
  const std::unique_ptr<Classifier> classifier = load(losing(effect));
  Bytes frame = ipv4(IPPROTO_UDP, 0, transport());
  CHECK(run(*classifier, Classifier::Program::kEgress, frame) == TC_ACT_SHOT);
  frame[15] = 0x02;  // ECT(0), behind Ethernet's header
  CHECK(run(*classifier, Classifier::Program::kEgress, frame) == TC_ACT_UNSPEC);
  const StatusOr<Losses> losses = classifier->losses();
  REQUIRE(losses.ok());
  CHECK(losses->packets == 2);
  CHECK(losses->lost == 1);
  CHECK(losses->marked == 1);
}

}  // namespace squall::network
