/// \file
/// Reports of a long run, and what an event of a run costs the one that tells it.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "controller/report/event_log.h"
#include "experiments/base/fd.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

constexpr int kChecks = 10;
constexpr int kFaults = 100;

/// As a run of ten checks writes it that lasts a day: nearly all of it is answers and evidence.
void write_log(const std::string& path, int events) {
  std::ofstream out(path, std::ios::binary);
  int written = 0;
  const auto put = [&](const std::string& event) {
    const int micros = written * 100;
    out << fmt::format(R"({{"at":"2026-11-22T07:{:02}:{:02}.{:06}Z","elapsed":{:.6f},{}}})",
                       micros / 60'000'000 % 60, micros / 1'000'000 % 60, micros % 1'000'000,
                       written / 1e4, event)
        << "\n";
    ++written;
  };
  std::string checks;
  for (int n = 0; n < kChecks; ++n) {
    checks += fmt::format(
        R"({}{{"name":"shop {} answers","kind":"http","expect":["status == 200","p99 < 300ms over 10s"],"every_ms":100.0}})",
        n == 0 ? "" : ",", n);
  }
  put(fmt::format(
      R"("run_started":{{"run":"20261122-071549-k3x9","plan":"a long run","file":"plan.yaml","seed":42,"lease_ms":5000.0,"nodes":["web-1"],"checks":[{}],"version":"0.1.0","method_ms":0.0}})",
      checks));
  put(R"("phase_started":{"phase":"METHOD"})");
  for (int n = 0; written < events - 2; ++n) {
    if (n % 7 == 6) {
      put(fmt::format(
          R"("fault_evidence":{{"fault":"fault{}","node":"web-1","evidence":{{"effect":true,"network":{{"engine":"NETEM","matched_packets":{},"matched_bytes":{},"dropped_packets":0,"overflow_packets":0}}}},"words":"{} packets matched","took_ms":0.0}})",
          n % kFaults, n, n * 512L, n));
      continue;
    }
    const double latency = 2 + (n * 7919 % 1000) / 250.0;
    put(fmt::format(
        R"("check_asked":{{"check":"shop {} answers","answered":true,"holds":true,"latency_ms":{},"observed":"200 in {:.2f}ms","findings":[{{"observed":"status 200","holds":true,"number":200.0}},{{"observed":"p99 {:.1f}ms","holds":true,"number":{}}}]}})",
        n % kChecks, latency, latency, latency * 2, latency * 2));
  }
  put(R"("phase_started":{"phase":"VERDICT"})");
  put(R"("run_ended":{"verdict":"HELD","exit_code":0,"sentence":"every check held throughout","duration_ms":100000000.0})");
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path);
}

v1::Event answer() {
  v1::Event event;
  v1::CheckAsked& asked = *event.mutable_check_asked();
  asked.set_check("shop answers");
  asked.set_answered(true);
  asked.set_holds(true);
  asked.set_latency_ms(3.25);
  asked.set_observed("200 in 3.25ms");
  for (const char* observed : {"status 200", "p99 6.5ms"}) {
    v1::CheckAsked::Finding& finding = *asked.add_findings();
    finding.set_observed(observed);
    finding.set_holds(true);
    finding.set_number(6.5);
  }
  return event;
}

/// How long each call takes, a millisecond apart as on a busy run's loop.
std::vector<double> microseconds_of(int times, const std::function<void()>& call) {
  std::vector<double> took;
  for (int n = 0; n < times; ++n) {
    const MonotonicTime start = monotonic_now();
    call();
    took.push_back(to_ms(monotonic_now() - start) * 1000);
    ::poll(nullptr, 0, 1);
  }
  return took;
}

void measure_event_log(Bench& bench) {
  const Folder folder;
  auto log = report::EventLog::create(folder.path() / "run");
  if (!log.ok()) throw std::runtime_error(message_of(log.status()));
  const v1::Event event = answer();
  bench.table.add({.section = "report", .what = "event log: told → returned", .unit = "us"},
                  microseconds_of(bench.times(2000), [&] { (*log)->write(event); }));
  if (!(*log)->flush().ok()) throw std::runtime_error("the event log was not written");
  const Fd file(::open((folder.path() / "beside.jsonl").c_str(),
                       O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  bench.table.add(
      {.section = "report", .what = "the same by write(2), on the caller's thread", .unit = "us"},
      microseconds_of(bench.times(2000), [&] {
        const std::string line = report::to_json_line(event) + "\n";
        if (::write(file.number(), line.data(), line.size()) < 0)
          throw std::runtime_error("cannot write");
      }));
}

}  // namespace

void measure_report(Bench& bench) {
  const Folder folder;
  const int events = bench.times(1'000'000);
  const std::string log = (folder.path() / "events.jsonl").string();
  write_log(log, events);
  const auto measure = [&](const std::string& what, const std::vector<std::string>& argv,
                           bool has_target) {
    const Usage used = usage_of(argv);
    Row time{.section = "report", .what = fmt::format("{}, {} events", what, events), .unit = "s"};
    time.median = to_ms(used.took) / 1000;
    Row memory{.section = "report", .what = what + ", peak memory", .unit = "MiB"};
    memory.median = static_cast<double>(used.peak_bytes) / (1 << 20);
    if (has_target) time.at_most = 3;
    if (has_target) memory.at_most = 200;
    bench.table.add(time);
    bench.table.add(memory);
  };
  for (const char* format : {"json", "html"}) {
    measure(fmt::format("squall report --format {}", format),
            {bench.bin / "squall", "report", log, "--format", format}, true);
  }
  measure("Python's json.loads of each line alone",
          {"/usr/bin/python3", "-c",
           "import json, sys\nfor line in open(sys.argv[1]): json.loads(line)", log},
          false);
  measure_event_log(bench);
}

}  // namespace squall::bench
