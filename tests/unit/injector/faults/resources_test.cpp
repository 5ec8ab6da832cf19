/// \file
/// cpu and memory as a node feels them: held by a squall-hold of their own, measured from outside
/// by the kernel's account, in control groups of the test's own, and ended by whatever may end
/// them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/faults/scenes.h"

namespace squall::support {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBound = 15s;
constexpr std::uint64_t kMiB = 1U << 20U;

v1::Fault minute() {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(1min).count());
  return fault;
}

v1::Fault cpu(double load, std::uint32_t cores) {
  v1::Fault fault = minute();
  fault.mutable_cpu()->set_load(load);
  fault.mutable_cpu()->set_cores(cores);
  return fault;
}

v1::Fault memory(std::uint64_t size, std::uint64_t keep_free = 64 * kMiB) {
  v1::Fault fault = minute();
  fault.mutable_memory()->set_size(size);
  fault.mutable_memory()->set_keep_free(keep_free);
  return fault;
}

/// The process in which a holder acts.
pid_t child_of(pid_t holder) {
  std::vector<pid_t> children;
  REQUIRE(
      eventually([&] { return !(children = children_of(holder, "squall-hold")).empty(); }, kBound));
  REQUIRE(children.size() == 1);
  return children.front();
}

/// How much of one core a process burns over a while, in percent.
double share_of(pid_t pid, Duration over) {
  const std::optional<Duration> before = processor_time(pid);
  const MonotonicTime begun = monotonic_now();
  yield_for(over);
  const std::optional<Duration> after = processor_time(pid);
  if (!before || !after) return 0;
  return to_ms(*after - *before) / to_ms(monotonic_now() - begun) * 100;
}

std::uint64_t in_meminfo(const std::string& word) {
  std::ifstream file("/proc/meminfo");
  std::string name, rest;
  for (std::uint64_t value = 0; file >> name >> value; std::getline(file, rest)) {
    if (name == word) return value << 10U;
  }
  throw std::runtime_error("no " + word + " in /proc/meminfo");
}

/// Takes memory in a control group until somebody is killed for it; killed with this object.
class Hog {
 public:
  Hog(const ControlGroup& group, std::uint64_t size) {
    int gate[2];
    REQUIRE(::pipe2(gate, O_CLOEXEC) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::close(gate[1]);
      char byte = 0;
      const bool begin = ::read(gate[0], &byte, 1) == 0;
      void* const taken = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
      if (!begin || taken == MAP_FAILED) ::_exit(1);
      for (;;) ::pause();
    }
    ::close(gate[0]);
    group.write("cgroup.procs", std::to_string(pid_));
    ::close(gate[1]);
  }
  Hog(const Hog&) = delete;
  Hog& operator=(const Hog&) = delete;
  ~Hog() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
};

TEST_CASE("cpu of one core burns its share on that core and on no other") {
  v1::Fault fault = cpu(30, 1);
  fault.mutable_cpu()->clear_cores();
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  REQUIRE(::sched_getaffinity(0, sizeof allowed, &allowed) == 0);
  unsigned last = CPU_SETSIZE - 1;
  while (!CPU_ISSET(last, &allowed)) --last;
  fault.mutable_cpu()->add_on_cores(last);
  const Namespace node;
  Holder holder(node);
  CHECK(holder.inject(fault, 1min).cpu().cores() == 1);
  // Of its threads, the one that burns.
  std::vector<std::string> ran_on;
  for (const auto& task : std::filesystem::directory_iterator(
           "/proc/" + std::to_string(holder.process().pid()) + "/task")) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("Cpus_allowed_list:")) ran_on.push_back(line.substr(19));
    }
  }
  CHECK(std::count(ran_on.begin(), ran_on.end(), std::to_string(last)) >= 1);
  const double burnt = share_of(holder.process().pid(), 2s);
  CHECK(burnt <= 31);
  CHECK(burnt >= 15);  // beside other load, what is fair
  CHECK(holder.release().empty());
}

TEST_CASE("cpu of the total burns that share of all cores together, wherever it is to be had") {
  v1::Fault fault = cpu(40, 1);
  fault.mutable_cpu()->clear_cores();
  fault.mutable_cpu()->set_of(v1::TOTAL);
  const Namespace node;
  Holder holder(node);
  const std::uint32_t cores = holder.inject(fault, 1min).cpu().cores();
  const double burnt = share_of(holder.process().pid(), 2s) / cores;
  CHECK(burnt <= 41);
  CHECK(burnt >= 20);
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->cpu().achieved() <= 41);
  CHECK(evidence->cpu().achieved() >= 20);
}

TEST_CASE("cpu with a ramp rises from nothing to its load") {
  v1::Fault fault = cpu(80, 1);
  fault.mutable_cpu()->set_ramp(Duration(4s).count());
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  const MonotonicTime begun = monotonic_now();
  const Duration before = processor_time(holder.process().pid()).value();
  REQUIRE(eventually([&] { return monotonic_now() - begun >= 2s; }, kBound));
  // The area below a line that has risen half way: never more, however crowded the machine.
  const double since = to_ms(monotonic_now() - begun) / 1000;
  const double burnt = to_ms(processor_time(holder.process().pid()).value() - before) / 1000;
  CHECK(burnt <= 0.8 * since * since / 2 / 4 + 0.06);
  CHECK(burnt >= 0.1);
  REQUIRE(eventually([&] { return monotonic_now() - begun >= 4500ms; }, kBound));
  const double risen = share_of(holder.process().pid(), 1s);
  CHECK(risen >= 35);
}

TEST_CASE("cpu whose load falls burns the area below the line") {
  v1::Fault fault = cpu(80, 1);
  add_ramp(fault, "load", 80, 0, 2s);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  const MonotonicTime begun = monotonic_now();
  const Duration before = processor_time(holder.process().pid()).value();
  REQUIRE(eventually([&] { return monotonic_now() - begun >= 2500ms; }, kBound));
  const double burnt = to_ms(processor_time(holder.process().pid()).value() - before) / 1000;
  CHECK(burnt <= 0.8 * 2 / 2 + 0.1);
  CHECK(burnt >= 0.3);
  CHECK(share_of(holder.process().pid(), 1s) < 5);
}

TEST_CASE("cpu in a control group stays within the group's quota, in a process of its own") {
  const ControlGroup group("cpu");
  if (group.is_v2()) {
    group.write("cpu.max", "20000 100000");
  } else {
    group.write("cpu.cfs_period_us", "100000");
    group.write("cpu.cfs_quota_us", "20000");
  }
  v1::Fault fault = cpu(90, 1);
  fault.mutable_cpu()->mutable_in()->set_cgroup(group.path());
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  const pid_t child = child_of(holder.process().pid());
  CHECK(group.read("cgroup.procs") == std::to_string(child) + "\n");
  const double burnt = share_of(child, 3s);
  CHECK(burnt <= 24);  // the quota's periods and the window need not begin together
  CHECK(burnt >= 10);
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->effect());
  CHECK(evidence->cpu().achieved() <= 26);
  CHECK(holder.release().empty());
  CHECK(group.read("cgroup.procs").empty());
}

TEST_CASE("cpu tells when what burns in a control group is killed by another") {
  const ControlGroup group("cpu");
  v1::Fault fault = cpu(20, 1);
  fault.mutable_cpu()->mutable_in()->set_cgroup(group.path());
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  ::kill(child_of(holder.process().pid()), SIGKILL);
  std::optional<v1::FromHolder> told;
  while ((told = holder.hear(kBound)) && !told->has_failed()) {
  }
  REQUIRE(told.has_value());
  CHECK(told->failed().message() ==
        "what burnt in the control group " + group.path() + " was killed by signal 9");
}

TEST_CASE("cpu is over whatever happens to those who hold it") {
  const Namespace node;
  pid_t holder = 0;
  std::optional<Duration> last;
  const auto burns = [&] {
    const std::optional<Duration> before = processor_time(holder);
    yield_for(50ms);
    const std::optional<Duration> after = processor_time(holder);
    return before && after && *after - *before > 5ms;
  };
  v1::Fault fault = cpu(60, 1);
  SUBCASE("one load") {}
  SUBCASE("a load that changes") { add_ramp(fault, "load", 60, 40, 1min); }
  check_ends(
      fault, node, [&](pid_t pid) { holder = pid; }, burns);
}

TEST_CASE("cpu in a control group is over whatever happens to those who hold it") {
  const Namespace node;
  const ControlGroup group("cpu");
  v1::Fault fault = cpu(60, 1);
  fault.mutable_cpu()->mutable_in()->set_cgroup(group.path());
  pid_t child = 0;
  const auto burns = [&] {
    const std::optional<Duration> before = processor_time(child);
    yield_for(50ms);
    const std::optional<Duration> after = processor_time(child);
    return before && after && *after - *before > 5ms;
  };
  check_ends(
      fault, node, [&](pid_t holder) { child = child_of(holder); }, burns);
}

TEST_CASE("cpu refuses cores that are not there and scopes that have no processors") {
  const Namespace node;
  v1::Fault fault = cpu(50, 1);
  fault.mutable_cpu()->clear_cores();
  fault.mutable_cpu()->add_on_cores(0);
  fault.mutable_cpu()->add_on_cores(0);
  CHECK(why_refused(fault, node) == "cpu.on_cores: core 0 stands there twice");
  fault.mutable_cpu()->set_on_cores(1, 4095);
  CHECK(why_refused(fault, node).starts_with("cpu.on_cores: 4095, but this node may use 0"));

  fault = cpu(50, 1);
  fault.mutable_cpu()->mutable_in()->set_netns("blue");
  CHECK(why_refused(fault, node) ==
        "cpu.in.netns: processor time is of no network namespace; write a cgroup or a unit");
  fault.mutable_cpu()->mutable_in()->clear_netns();
  fault.mutable_cpu()->mutable_in()->set_cgroup("/squall-nowhere");
  CHECK(why_refused(fault, node).starts_with("cpu.in: there is no control group /squall-nowhere"));
  fault.mutable_cpu()->mutable_in()->clear_cgroup();
  fault.mutable_cpu()->mutable_in()->set_unit("squall-nowhere.service");
  CHECK(why_refused(fault, node) ==
        "cpu.in: no control group of the unit squall-nowhere.service: it is not running, or not "
        "known here");
}

TEST_CASE("S34: while all cores are burnt, leases are renewed and an abort is quick") {
  v1::Fault fault = cpu(100, 1);
  fault.mutable_cpu()->clear_cores();
  const Namespace node;
  MidFault scene(fault, node);
  const auto evidence = [](const v1::LeaseEvent& event) { return event.has_evidence(); };
  REQUIRE(scene.controller().wait_for(evidence, kBound).has_value());
  // Three leases long it lives by renewals alone.
  const MonotonicTime begun = monotonic_now();
  REQUIRE(eventually([&] { return monotonic_now() - begun > 3 * kLease; }, kBound));
  CHECK(processor_time(scene.holder()).has_value());
  const MonotonicTime struck = monotonic_now();
  scene.strike(Blow::kReverted);
  const auto ended = [](const v1::LeaseEvent& event) { return event.has_effect_ended(); };
  REQUIRE(scene.controller().wait_for(ended, kBound).has_value());
  CHECK(monotonic_now() - struck < 1s);
}

TEST_CASE("memory holds what was asked for, resident by the kernel's word, and gives it all back") {
  const ControlGroup group("memory");
  constexpr std::uint64_t kSize = 48 * kMiB;
  v1::Fault fault = memory(kSize);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  const std::string charged = group.is_v2() ? "memory.current" : "memory.usage_in_bytes";
  const std::uint64_t before = group.number(charged);
  const Namespace node;
  Holder holder(node);
  CHECK(holder.inject(fault, 1min).effect());
  const pid_t child = child_of(holder.process().pid());
  std::optional<v1::Evidence> evidence;
  REQUIRE(eventually(
      [&] {
        evidence = holder.pulse(1min);
        return evidence && evidence->memory().held() == kSize;
      },
      kBound));
  CHECK(evidence->effect());
  CHECK(evidence->memory().kept_back() == 0);
  // The kernel counts a process's pages roughly.
  CHECK(evidence->memory().resident() + kMiB >= kSize);
  CHECK(resident_memory(child) + kMiB >= kSize);
  CHECK(group.number(charged) - before >= kSize - kMiB);
  std::ifstream score("/proc/" + std::to_string(child) + "/oom_score_adj");
  int adjusted = 0;
  score >> adjusted;
  CHECK(adjusted == 1000);
  CHECK(holder.release().empty());
  CHECK(resident_memory(child) == 0);
  CHECK(eventually([&] { return group.number(charged) < before + kMiB; }, kBound));
}

TEST_CASE("memory is of chance: its pages do not compress") {
  const Namespace node;
  Holder holder(node);
  holder.inject(memory(8 * kMiB), 1min);
  const pid_t child = child_of(holder.process().pid());
  REQUIRE(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        return evidence && evidence->memory().held() == 8 * kMiB;
      },
      kBound));
  // The largest of its private mappings.
  std::ifstream maps("/proc/" + std::to_string(child) + "/maps");
  std::uint64_t begin = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(" rw-p 00000000 00:00 0") == std::string::npos) continue;
    const std::uint64_t from = std::stoull(line, nullptr, 16);
    const std::uint64_t to = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    if (to - from >= 8 * kMiB) begin = from;
  }
  REQUIRE(begin != 0);
  std::ifstream content("/proc/" + std::to_string(child) + "/mem", std::ios::binary);
  content.seekg(static_cast<std::streamoff>(begin));
  std::vector<unsigned char> bytes(4 * kMiB);
  content.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  REQUIRE(content.good());
  std::vector<double> counts(256);
  for (const unsigned char byte : bytes) ++counts[byte];
  double entropy = 0;
  for (const double count : counts) {
    const double share = count / static_cast<double>(bytes.size());
    if (share > 0) entropy -= share * std::log2(share);
  }
  CHECK(entropy > 7.99);
}

TEST_CASE("memory with a rate grows no faster than that") {
  v1::Fault fault = memory(192 * kMiB);
  fault.mutable_memory()->set_rate(8 * kMiB);
  const Namespace node;
  Holder holder(node);
  const MonotonicTime begun = monotonic_now();
  holder.inject(fault, 1min);
  CHECK(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        const double most = 8e0 * kMiB * to_ms(monotonic_now() - begun) / 1000;
        REQUIRE(evidence.has_value());
        CHECK(static_cast<double>(evidence->memory().held()) <= most);
        if (evidence->memory().held() < 12 * kMiB) return false;
        // Nor much slower, though the machine be slow.
        CHECK(most <= 4e0 * 12 * kMiB);
        return true;
      },
      kBound));
}

TEST_CASE("memory whose size falls is given back as it does") {
  // Little, and slowly: also a machine that gives memory slowly comes near the size before it
  // falls.
  v1::Fault fault = memory(12 * kMiB);
  add_ramp(fault, "size", 12 * kMiB, 4 * kMiB, 5s);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  std::uint64_t most = 0;
  std::uint64_t held = 0;
  REQUIRE(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        if (evidence) held = evidence->memory().held();
        most = std::max(most, held);
        return most > 8 * kMiB && held <= 5 * kMiB;
      },
      kBound));
  CHECK(held >= 3 * kMiB);
  CHECK(resident_memory(child_of(holder.process().pid())) <= 7 * kMiB);
  CHECK(holder.release().empty());
}

TEST_CASE("memory to a share of a control group's limit stops there") {
  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(200 * kMiB));
  v1::Fault fault = memory(0, 20 * kMiB);
  fault.mutable_memory()->clear_size();
  fault.mutable_memory()->set_to(50);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  const std::string charged = group.is_v2() ? "memory.current" : "memory.usage_in_bytes";
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  REQUIRE(eventually([&] { return group.number(charged) >= 98 * kMiB; }, kBound));
  yield_for(200ms);
  CHECK(group.number(charged) <= 103 * kMiB);

  // What others take counts: with them, it is more than the half, and nothing is added.
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->memory().kept_back() == 0);
}

TEST_CASE("memory to a share that falls is given back as it does") {
  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(64 * kMiB));
  v1::Fault fault = memory(0, 8 * kMiB);
  fault.mutable_memory()->clear_size();
  fault.mutable_memory()->set_to(50);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  add_ramp(fault, "to", 50, 20, 5s);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  std::uint64_t most = 0;
  CHECK(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        const std::uint64_t held = evidence ? evidence->memory().held() : 0;
        most = std::max(most, held);
        return most > 20 * kMiB && held < 14 * kMiB && held > 8 * kMiB;
      },
      kBound));
  CHECK(holder.release().empty());
}

TEST_CASE("memory to more than the reserve leaves is capped and told") {
  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(128 * kMiB));
  v1::Fault fault = memory(0, 64 * kMiB);
  fault.mutable_memory()->clear_size();
  fault.mutable_memory()->set_to(90);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  const std::string charged = group.is_v2() ? "memory.current" : "memory.usage_in_bytes";
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  std::optional<v1::Evidence> evidence;
  REQUIRE(eventually(
      [&] {
        evidence = holder.pulse(1min);
        return evidence && evidence->memory().held() >= 48 * kMiB;
      },
      kBound));
  CHECK(evidence->memory().kept_back() >= 40 * kMiB);
  CHECK(group.number(charged) <= 65 * kMiB);
}

TEST_CASE("memory is given back when others need it") {
  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(256 * kMiB));
  v1::Fault fault = memory(128 * kMiB, 96 * kMiB);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  const pid_t child = child_of(holder.process().pid());
  REQUIRE(eventually([&] { return resident_memory(child) >= 127 * kMiB; }, kBound));
  const Hog hog(group, 64 * kMiB);
  CHECK(eventually([&] { return resident_memory(hog.pid()) >= 63 * kMiB; }, kBound));
  CHECK(eventually([&] { return resident_memory(child) <= 97 * kMiB; }, kBound));
  std::optional<v1::Evidence> evidence;
  CHECK(eventually(
      [&] {
        evidence = holder.pulse(1min);
        return evidence && evidence->memory().held() <= 97 * kMiB;
      },
      kBound));
  REQUIRE(evidence.has_value());
  CHECK(evidence->memory().kept_back() >= 31 * kMiB);
}

TEST_CASE("S34: memory is the first that the OOM killer takes, and that is told as its death") {
  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(128 * kMiB));
  v1::Fault fault = memory(64 * kMiB, 32 * kMiB);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  const Namespace node;
  MidFault scene(fault, node);
  const pid_t child = child_of(scene.holder());
  const Stranger taken(child);
  const auto is_full = [](const v1::LeaseEvent& event) {
    return event.has_evidence() && event.evidence().memory().held() == 64 * kMiB;
  };
  REQUIRE(scene.controller().wait_for(is_full, kBound).has_value());
  // It would give way in time; a stopped one cannot.
  taken.signal(SIGSTOP);
  Hog hog(group, 96 * kMiB);
  CHECK(taken.ends(kBound));
  const auto told = scene.controller().wait_for(
      [](const v1::LeaseEvent& event) { return event.has_failed(); }, kBound);
  REQUIRE(told.has_value());
  CHECK(told->failed().message() ==
        "the process that held 64MiB was taken by the kernel's OOM killer");
  CHECK(told->failed().residue().empty());
  // The other one has what it needed, and squalld goes on.
  CHECK(eventually([&] { return resident_memory(hog.pid()) >= 95 * kMiB; }, kBound));
  CHECK(scene.daemon().describe(5s).ok());
}

TEST_CASE("memory is over whatever happens to those who hold it") {
  const Namespace node;
  const std::uint64_t before = in_meminfo("MemAvailable:");
  REQUIRE(before > 256 * kMiB);
  v1::Fault fault = memory(8 * kMiB);
  SUBCASE("of one size") {}
  SUBCASE("whose size changes") { add_ramp(fault, "size", 8 * kMiB, 7 * kMiB, 1min); }
  pid_t child = 0;
  check_ends(
      fault, node, [&](pid_t holder) { child = child_of(holder); },
      [&] { return resident_memory(child) >= 6 * kMiB; });
}

TEST_CASE("memory beyond the reserve is refused with what can be had") {
  const Namespace node;
  const std::uint64_t total = in_meminfo("MemTotal:");
  const std::string all = why_refused(memory(2 * total), node);
  CHECK(all.starts_with("memory.size: "));
  CHECK(all.find(" cannot be had: of ") != std::string::npos);
  CHECK(all.find(" available 64MiB must stay free (keep_free), so at most ") != std::string::npos);

  v1::Fault fault = memory(0, 2 * total);
  fault.mutable_memory()->clear_size();
  fault.mutable_memory()->set_to(100);
  CHECK(why_refused(fault, node).starts_with("memory.to: nothing to be had: of "));

  const ControlGroup group("memory");
  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", std::to_string(64 * kMiB));
  fault = memory(48 * kMiB, 32 * kMiB);
  fault.mutable_memory()->mutable_in()->set_cgroup(group.path());
  CHECK(why_refused(fault, node) ==
        "memory.size: 48MiB cannot be had: of 64MiB available in the control "
        "group " +
            group.path() + " 32MiB must stay free (keep_free), so at most 32MiB");

  group.write(group.is_v2() ? "memory.max" : "memory.limit_in_bytes", group.is_v2() ? "max" : "-1");
  fault.mutable_memory()->clear_size();
  fault.mutable_memory()->set_to(50);
  CHECK(why_refused(fault, node) == "memory.to: the control group " + group.path() +
                                        " has no limit to be a share of; write a size");
  fault.mutable_memory()->mutable_in()->clear_cgroup();
  fault.mutable_memory()->mutable_in()->set_netns("blue");
  CHECK(why_refused(fault, node) ==
        "memory.in.netns: memory is of no network namespace; write a cgroup or a unit");
}

}  // namespace
}  // namespace squall::support
