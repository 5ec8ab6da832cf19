#include <doctest/doctest.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/support/measure.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

using namespace squall::support;
using namespace std::chrono_literals;

TEST_CASE(
    "the lab is another kernel, with this machine's files read-only and a folder to write in") {
  utsname kernel{};
  REQUIRE(uname(&kernel) == 0);
  CHECK(std::filesystem::exists(std::filesystem::path("/usr/lib/uml/modules") / kernel.release));
  CHECK(access("/usr/bin", W_OK) != 0);
  std::ofstream probe(std::filesystem::temp_directory_path() / "probe");
  CHECK((probe << "written").flush().good());
}

TEST_CASE("the lab's kernel has netem, ifb, tun, IPv6, and no device that nobody asked for") {
  for (const char* module :
       {"sch_netem", "ifb", "tun", "ipv6", "cls_bpf", "act_mirred", "sch_ingress"}) {
    INFO(std::string(module));
    CHECK(std::filesystem::exists(std::filesystem::path("/sys/module") / module));
  }
  CHECK_FALSE(std::filesystem::exists("/sys/class/net/ifb0"));
}

TEST_CASE("netem's 300 ms measure 300 ms in the lab, from another namespace") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, 7000);
  // Netem delays the neighbours' discovery as well: have it over.
  for (const char* address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
    CHECK(answered(measure(hosts.client, address, 7000, 40)) == 40);
  }
  run({.argv = {"tc", "qdisc", "add", "dev", "eth0", "root", "netem", "delay", "300ms"},
       .where = &hosts.node,
       .environment = {},
       .descriptors = {}});
  for (const std::string address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
    INFO(address);
    const std::vector<Probe> probes = measure(hosts.client, address, 7000, 40);
    CHECK(answered(probes) == 40);
    CHECK(median_round_trip(probes) > 295ms);
    CHECK(median_round_trip(probes) < 310ms);  // the lab is slow, and the machine may be busy
  }
}
