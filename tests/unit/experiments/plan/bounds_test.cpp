#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>

#include "experiments/plan/load.h"

namespace squall::plan {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

v1::Fault slow() {
  v1::Fault fault;
  fault.set_for_(kSecond);
  fault.mutable_network()->set_delay(kSecond / 10);
  return fault;
}

/// The message where it is refused for what the plan is to be mended for; else what went otherwise.
std::string told(const google::protobuf::Message& message) {
  const Status status = check_bounds(message);
  if (status.ok()) return "ok";
  if (status.code() != StatusCode::kInvalidArgument) return status.ToString();
  return message_of(status);
}

TEST_CASE("a fault within its bounds is taken") { CHECK(told(slow()) == "ok"); }

TEST_CASE("a number out of its declared bounds is named with its path") {
  v1::Fault fault = slow();
  fault.mutable_network()->set_delay(61 * kSecond);
  CHECK(told(fault) == "fault.network.delay: 61s is too large; write 1us to 60s");
  fault.mutable_network()->set_delay(0);
  CHECK(told(fault) == "fault.network.delay: 0s is too small; write 1us to 60s");
  fault.mutable_network()->set_delay(-kSecond);
  CHECK(told(fault) == "fault.network.delay: is negative");
  fault.mutable_network()->set_delay(std::numeric_limits<std::int64_t>::min());
  CHECK(told(fault) == "fault.network.delay: is negative");
  fault = slow();
  fault.set_for_(std::numeric_limits<std::int64_t>::max());
  CHECK(told(fault).rfind("fault.for: ", 0) == 0);
}

TEST_CASE("what is not a number is out of every bound") {
  v1::Fault fault = slow();
  fault.mutable_network()->set_loss(std::nan(""));
  CHECK(told(fault) == "fault.network.loss: is not a number");
  fault.mutable_network()->set_loss(std::numeric_limits<double>::infinity());
  CHECK(told(fault) == "fault.network.loss: is not a number");
}

TEST_CASE("a required choice and a required field are missed") {
  CHECK(told(v1::Fault()) ==
        "fault: no fault; one of network, kill, cpu, partition, pause, memory, disk, io, exhaust, "
        "service, dns, clock, files or script is required");
  v1::Fault fault;
  fault.mutable_kill();
  CHECK(told(fault) == "fault.kill.process: missing");
  fault.mutable_kill()->mutable_process();
  CHECK(told(fault) ==
        "fault.kill.process: process needs name, cmdline, pid, port, unit, cgroup, container, user "
        "or children_of; write process: {name: nginx}");
  fault = v1::Fault();
  fault.set_for_(kSecond);
  fault.mutable_cpu();
  CHECK(told(fault) == "fault.cpu.load: missing");
}

TEST_CASE("ramps and searches that no plan could say are refused") {
  v1::Fault fault = slow();
  v1::Search& search = *fault.mutable_search();
  search.set_field("nope");
  CHECK(told(fault) == "fault: nope cannot be looked for");
  search.set_field("delay");
  search.set_to(1e9);
  CHECK(told(fault) ==
        "fault: the resolution does not divide what delay is looked for in; write at most 1s");
  search.set_resolution(1e-300);
  CHECK(told(fault) ==
        "fault: the resolution is finer than a millionth of the range; write a larger one");
  search.set_resolution(1e6);
  CHECK(told(fault) == "ok");
  search.set_to(1e300);
  CHECK(told(fault) != "ok");
  fault = slow();
  v1::Ramp& ramp = *fault.add_ramps();
  ramp.set_field("delay");
  ramp.set_to(5e9);
  ramp.set_over(1000);
  CHECK(told(fault) == "fault: delay is less than where its ramp goes");
  fault = v1::Fault();
  fault.set_for_(kSecond);
  fault.mutable_cpu()->set_load(80);
  fault.mutable_cpu()->set_ramp(kSecond / 2);
  v1::Ramp& load = *fault.add_ramps();
  load.set_field("load");
  load.set_to(80);
  load.set_over(1000);
  CHECK(told(fault) ==
        "fault: load rises in two ways; it says itself from where it goes to where: leave `ramp` "
        "out");
}

TEST_CASE("numbers that no enum has are refused") {
  v1::Fault fault = slow();
  fault.mutable_network()->set_direction(static_cast<v1::Direction>(77));
  CHECK(told(fault) ==
        "fault.network.direction: 77 is not known; it may be egress, ingress or both");
}

TEST_CASE("a fault that lasts says how long, and one that does not keeps silent") {
  v1::Fault fault = slow();
  fault.clear_for_();
  CHECK(told(fault) ==
        "fault.network: network does not say how long it lasts; write `for: 60s` beside `network`");
  fault = v1::Fault();
  fault.mutable_kill()->mutable_process()->set_name("nginx");
  CHECK(told(fault) == "ok");
  fault.set_for_(kSecond);
  CHECK(told(fault) ==
        "fault.for: kill is done at once and does not last; leave `for` out; only with respawn it "
        "lasts");
}

TEST_CASE("fields that contradict each other are refused") {
  v1::Fault fault = slow();
  fault.mutable_network()->set_jitter(kSecond);
  CHECK(told(fault) ==
        "fault.network.jitter: jitter is more than delay, which is 100ms; write at most 100ms");
  fault.mutable_network()->clear_delay();
  fault.mutable_network()->set_loss(1);
  CHECK(told(fault) == "fault.network.jitter: jitter without delay; give a delay as well");
}

TEST_CASE("addresses and ports that no text could have said are refused") {
  v1::Fault fault = slow();
  v1::Cidr& cidr = *fault.mutable_network()->mutable_to()->add_cidrs();
  CHECK(told(fault) == "fault.network.to.cidrs[0]: an address has 4 or 16 bytes, not 0");
  cidr.set_address(std::string("\x0a\0\0\1", 4));
  cidr.set_prefix(33);
  CHECK(told(fault) == "fault.network.to.cidrs[0]: /33 is longer than the address");
  cidr.set_prefix(8);
  CHECK(told(fault) == "fault.network.to.cidrs[0]: has bits behind its prefix");
  cidr.set_prefix(32);
  CHECK(told(fault) == "ok");
  v1::PortRange& range = *fault.mutable_network()->mutable_to()->add_ports();
  CHECK(told(fault) == "fault.network.to.ports[0]: 0-0 is not a range of ports");
  range.set_first(10);
  range.set_last(9);
  CHECK(told(fault) == "fault.network.to.ports[0]: 10-9 is not a range of ports");
  range.set_last(65536);
  CHECK(told(fault) == "fault.network.to.ports[0]: 10-65536 is not a range of ports");
}

TEST_CASE("texts keep their form, and what they hold is escaped") {
  v1::Fault fault = slow();
  fault.mutable_network()->set_interface("a/b");
  CHECK(told(fault).rfind("fault.network.interface: \"a/b\" cannot be an interface's name", 0) ==
        0);
  fault.mutable_network()->set_interface(std::string("a\0b", 3));
  CHECK(told(fault) == "fault.network.interface: the control character \\x00 cannot stand here");
  fault.mutable_network()->set_interface("sixteen-bytes-xx");
  CHECK(told(fault).find("at most 15 bytes") != std::string::npos);
}

TEST_CASE("a step is a fault or something else, never both") {
  v1::Step step;
  CHECK(told(step) ==
        "step: no step; one of wait, parallel, repeat, ask, include or fault is required");
  *step.mutable_fault() = slow();
  CHECK(told(step) == "ok");
  step.set_wait(kSecond);
  CHECK(told(step) == "step: fault beside another step");
}

TEST_CASE("steps within steps within steps end somewhere") {
  v1::Step step;
  v1::Step* inner = &step;
  for (int i = 0; i < 80; ++i) inner = inner->mutable_parallel()->add_steps();
  inner->set_wait(kSecond);
  CHECK(told(step).find("nested too deeply") != std::string::npos);
}

}  // namespace
}  // namespace squall::plan
