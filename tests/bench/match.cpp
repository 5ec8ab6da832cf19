/// \file
/// What a fault costs the packets that it does not mean: the classifier's time for each, by the
/// kernel's own count, however much it is asked to match.
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <netinet/in.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "injector/network/classifier.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

using network::Aim;
using network::Classifier;

/// A frame with a TCP header, from port 40000 to port 443.
using Frame = std::vector<std::uint8_t>;

constexpr std::array<std::uint8_t, 4> kPorts = {0x9c, 0x40, 0x01, 0xbb};

Frame frame_of(int family) {
  const bool is_ipv4 = family == AF_INET;
  const std::size_t network = 14;
  const std::size_t transport = network + (is_ipv4 ? 20 : 40);
  Frame frame(transport + 20 + 64, 0);
  frame[12] = is_ipv4 ? 0x08 : 0x86;
  frame[13] = is_ipv4 ? 0x00 : 0xdd;
  std::uint8_t* header = frame.data() + network;
  if (is_ipv4) {
    header[0] = 0x45;
    header[9] = IPPROTO_TCP;
    ::inet_pton(AF_INET, "192.0.2.1", header + 12);
    // Next to the last of the networks below: as deep in the trie as a packet gets without a match.
    ::inet_pton(AF_INET, "10.15.160.1", header + 16);
  } else {
    header[0] = 0x60;
    header[6] = IPPROTO_TCP;
    ::inet_pton(AF_INET6, "2001:db8::1", header + 8);
    ::inet_pton(AF_INET6, "fd00:0:fa0::1", header + 24);
  }
  std::memcpy(frame.data() + transport, kPorts.data(), kPorts.size());
  return frame;
}

void add_port(v1::Match& match, std::uint32_t port) {
  v1::PortRange& range = *match.add_ports();
  range.set_first(port);
  range.set_last(port);
}

/// 10.0.0.0/24 and those after it, and as many of IPv6.
void add_networks(v1::Match& match, int of_each_family) {
  for (int i = 0; i < of_each_family; ++i) {
    const auto high = static_cast<char>(i >> 8);
    const auto low = static_cast<char>(i & 0xff);
    v1::Cidr& four = *match.add_cidrs();
    four.set_address(std::string{10, high, low, 0});
    four.set_prefix(24);
    v1::Cidr& six = *match.add_cidrs();
    six.set_address(std::string{'\xfd', 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    six.set_prefix(48);
  }
}

/// Nanoseconds for each of many runs, by the kernel (bpf(2), BPF_PROG_TEST_RUN).
double cost(const Classifier& classifier, Classifier::Program program, const Frame& frame) {
  bpf_test_run_opts options{};
  options.sz = sizeof options;
  options.data_in = frame.data();
  options.data_size_in = static_cast<std::uint32_t>(frame.size());
  options.repeat = 10'000;  // a millisecond: seldom cut short by what else the machine does
  if (::bpf_prog_test_run_opts(classifier.program_fd(program), &options) != 0) {
    throw std::runtime_error("the kernel cannot time a program");
  }
  if (options.retval != 0) throw std::runtime_error("a packet matched that should not");
  return options.duration;
}

void must_be(const Status& status) {
  if (!status.ok()) throw std::runtime_error(message_of(status));
}

}  // namespace

void measure_match(Bench& bench) {
  const auto load = [](const Aim& aim) {
    StatusOr<std::unique_ptr<Classifier>> classifier = Classifier::load();
    must_be(classifier.status());
    must_be((*classifier)->set_aim(aim, {}));
    return *std::move(classifier);
  };
  // As good as no program: what the measuring itself takes.
  const std::unique_ptr<Classifier> idle = load({});
  std::vector<double> empty;
  const auto measure = [&](const std::string& what, const Aim& aim, int family) {
    const std::unique_ptr<Classifier> classifier = load(aim);
    classifier->set_deadline(monotonic_now() + std::chrono::hours(1));
    const Frame frame = frame_of(family);
    std::vector<double> costs;
    for (int i = 0; i < bench.times(300); ++i) {
      empty.push_back(cost(*idle, Classifier::Program::kEgress, frame));
      costs.push_back(cost(*classifier, Classifier::Program::kEgress, frame) - empty.back());
    }
    bench.table.add({.section = "match", .what = what, .unit = "ns/packet", .at_most = 80},
                    std::move(costs));
  };
  Aim one;
  one.ethernet = true;
  add_port(one.match, 5432);
  measure("not matched: one port asked", one, AF_INET);
  measure("not matched: one port asked, IPv6", one, AF_INET6);
  one.ethernet = false;
  measure("not matched: one port asked, no Ethernet", one, AF_INET);
  Aim many;
  many.ethernet = true;
  add_networks(many.match, 4000);
  // The port matches, and then no address does.
  for (std::uint32_t port = 1; port <= 1000; ++port) add_port(many.match, port);
  measure("not matched: one of 1000 ports, 8000 networks", many, AF_INET);
  measure("not matched: one of 1000 ports, 8000 networks, IPv6", many, AF_INET6);
  // All that can be asked holds but the last: the longest way through.
  Aim excepted;
  excepted.ethernet = true;
  add_port(excepted.match, 443);
  add_port(excepted.except, 443);
  measure("matched but excepted", excepted, AF_INET);
  bench.table.add(
      {.section = "match", .what = "the measuring itself, which is taken off", .unit = "ns/packet"},
      std::move(empty));
}

}  // namespace squall::bench
