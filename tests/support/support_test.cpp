#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "tests/support/eventually.h"
#include "tests/support/measure.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

using namespace squall::support;
using namespace std::chrono_literals;

TEST_CASE(
    "a client in one namespace measures an echo in another, over IPv4 and IPv6, UDP and TCP") {
  const TwoHosts hosts;
  const Echo echo(hosts.node, 7000);
  for (const std::string address : {TwoHosts::kNode4, TwoHosts::kNode6}) {
    INFO(address);
    const std::vector<Probe> probes = measure(hosts.client, address, 7000, 20);
    CHECK(answered(probes) == probes.size());
    CHECK(median_round_trip(probes) > 0ns);
    CHECK(median_round_trip(probes) < 20ms);
    CHECK(tcp_round_trips(hosts.client, address, 7000, 3).size() == 4);
  }
}

TEST_CASE("the third host is reached through the node's second interface") {
  const ThreeHosts hosts;
  const Echo echo(hosts.other, 7000);
  CHECK(answered(measure(hosts.node, ThreeHosts::kOther4, 7000, 3)) == 3);
  CHECK(answered(measure(hosts.node, ThreeHosts::kOther6, 7000, 3)) == 3);
}

TEST_CASE("a probe that nobody answers is lost, and the stream sees when the answers begin") {
  const TwoHosts hosts;
  Stream stream(hosts.client, TwoHosts::kNode4, 7000);
  CHECK(stream.is_disturbed({}, 50ms, 3s));
  const squall::MonotonicTime before = squall::monotonic_now();
  const Echo echo(hosts.node, 7000);
  CHECK(stream.passes_untouched(before, 50ms, 3s));
  const std::vector<Probe> probes = stream.finish(1s);  // the last one is still on its way
  CHECK_FALSE(probes.front().round_trip.has_value());
  const std::optional<squall::MonotonicTime> from = untouched_from(probes, 50ms);
  REQUIRE(from.has_value());
  CHECK(*from > before - 20ms);
  CHECK(*from < before + 500ms);
}

TEST_CASE("a namespace with a name is found there while it lives, and leaves nothing behind") {
  const std::string name = "sqt" + std::to_string(getpid());
  const std::filesystem::path path = "/run/netns/" + name;
  {
    const Namespace named(name);
    struct stat status {};
    REQUIRE(stat(path.c_str(), &status) == 0);
    CHECK(status.st_ino == named.inode());
  }
  CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("a process runs in its namespace, its output is kept, its end is seen") {
  const TwoHosts hosts;
  const std::string addresses = run({.argv = {"ip", "-brief", "address"},
                                     .where = &hosts.node,
                                     .environment = {},
                                     .descriptors = {}});
  CHECK(addresses.find(TwoHosts::kNode4) != std::string::npos);

  Process sleeper(
      {.argv = {"sleep", "60"}, .where = nullptr, .environment = {}, .descriptors = {}});
  CHECK(sleeper.running());
  CHECK(eventually(
      [&] { return children_of(getpid(), "sleep") == std::vector<pid_t>{sleeper.pid()}; }, 5s));
  const Stranger same(sleeper.pid());
  CHECK_FALSE(same.ends(0s));
  same.signal(SIGTERM);
  CHECK(same.ends(5s));
  CHECK(sleeper.wait(5s) == 128 + SIGTERM);
  CHECK(children_of(getpid(), "sleep").empty());
}

TEST_CASE("a program that fails is told with what it said") {
  CHECK_THROWS_WITH_AS(
      run({.argv = {"ls", "/nowhere"},
           .where = nullptr,
           .environment = {{"LC_ALL", "C"}},
           .descriptors = {}}),
      "ls /nowhere ended with status 2: ls: cannot access '/nowhere': No such file or directory\n",
      std::runtime_error);
}
