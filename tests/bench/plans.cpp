/// \file
/// squall as a whole process: how long it takes to validate, to run a trivial plan, and to abort.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

namespace fs = std::filesystem;

constexpr std::uint16_t kPort = 7008;
constexpr double kMethodMs = 100;

/// Listens on the far host while it lives.
class Listener {
 public:
  explicit Listener(const TwoHosts& hosts) : fd_(hosts.far_socket(SOCK_STREAM)) {
    const int on = 1;
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(kPort);
    ::inet_pton(AF_INET, TwoHosts::kFar, &name.sin_addr);
    if (::bind(fd_, reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0 ||
        ::listen(fd_, SOMAXCONN) < 0) {  // nobody accepts: its queue holds them all
      throw std::runtime_error("cannot listen on the far host");
    }
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() { ::close(fd_); }

 private:
  int fd_;
};

std::string plan(const std::string& nodes, const std::string& every, const std::string& method) {
  return "plan: bench\nnodes: {" + nodes +
         "}\nsteady_state:\n"
         "  - name: the far host answers\n"
         "    tcp: {address: \"10.78.0.2:7008\"}\n"
         "    every: " +
         every +
         "\n    expect: [state == open]\n"
         "method:\n" +
         method + "recovery: {within: 100ms}\n";
}

/// The only run's log below a folder.
std::string log_of(const fs::path& runs) {
  std::error_code none;
  for (const auto& run : fs::directory_iterator(runs, none)) {
    if (!run.is_directory(none)) continue;  // the index of all runs
    std::ifstream in(run.path() / "events.jsonl");
    return {std::istreambuf_iterator<char>(in), {}};
  }
  return "";
}

nlohmann::json last_event(const std::string& log) {
  const std::size_t end = log.rfind('\n');
  if (end == std::string::npos) throw std::runtime_error("the run has no log");
  const std::size_t start = log.rfind('\n', end - 1);
  return nlohmann::json::parse(log.substr(start == std::string::npos ? 0 : start + 1));
}

}  // namespace

void measure_validate(Bench& bench) {
  const Folder folder;
  struct Case {
    const char* what;
    int written;   ///< Steps that stand in the file,
    int repeated;  ///< each walked so often.
    std::optional<double> at_most;
  };
  for (const Case& one :
       {Case{"1 step", 1, 1, {}}, Case{"100 steps", 100, 1, {}}, Case{"1000 steps", 1000, 1, 30},
        Case{"10000 steps by repeat", 100, 100, 150}}) {
    std::string text =
        "plan: bench\nnodes: {local: {}}\n"
        "steady_state:\n  - {name: a program starts, exec: {run: [\"true\"]}, expect: [exit == "
        "0]}\n"
        "method:\n";
    // The step of the repetition is one itself.
    const int written = one.repeated > 1 ? one.written - 1 : one.written;
    if (one.repeated > 1)
      text += fmt::format("  - repeat:\n      times: {}\n      steps:\n", one.repeated);
    for (int i = 0; i < written; ++i) {
      text +=
          fmt::format("{}- {{name: step {}, on: local, cpu: {{load: 50%, cores: 1}}, for: 1s}}\n",
                      one.repeated > 1 ? "        " : "  ", i);
    }
    const std::string file = folder.write("plan.yaml", text);
    const auto measure = [&](const std::string& what, const std::vector<std::string>& argv,
                             std::optional<double> at_most) {
      std::vector<double> times;
      for (int i = 0; i < bench.times(50); ++i) times.push_back(to_ms(timed(argv)));
      bench.table.add({.section = "validate", .what = what, .unit = "ms", .at_most = at_most},
                      std::move(times));
    };
    measure(fmt::format("{}, whole process", one.what), {bench.bin / "squall", "validate", file},
            one.at_most);
    if (one.written < 100) continue;
    measure(fmt::format("{}, Python's yaml.safe_load alone", one.what),
            {"/usr/bin/python3", "-c", "import sys, yaml; yaml.safe_load(open(sys.argv[1]))", file},
            {});
  }
}

void measure_run(Bench& bench) {
  const Listener listener(bench.hosts);
  const Daemon daemon(bench.bin);
  struct Case {
    const char* what;
    std::string node;
  };
  for (const Case& one :
       {Case{"trivial plan beyond its 100 ms, own daemon", "{}"},
        Case{"the same, daemon already there", "{address: \"" + daemon.address() + "\"}"}}) {
    std::vector<double> times;
    for (int i = 0; i < bench.times(20); ++i) {
      const Folder folder;
      ::setenv("SQUALL_STATE_DIR", (folder.path() / "state").c_str(), 1);
      const std::string file =
          folder.write("plan.yaml", plan("here: " + one.node, "20ms", "  - wait: 100ms\n"));
      times.push_back(
          to_ms(timed({bench.bin / "squall", "run", file, "--runs-dir", folder.path() / "runs"})) -
          kMethodMs);
    }
    bench.table.add({.section = "run", .what = one.what, .unit = "ms", .at_most = 60},
                    std::move(times));
  }
}

namespace {

/// A check is breached while each of the nodes holds a fault; how long the run took to see to it.
void measure_abort(Bench& bench, std::size_t count) {
  std::vector<std::unique_ptr<Daemon>> daemons;
  std::string nodes;
  std::string steps;
  for (std::size_t n = 0; n < count; ++n) {
    daemons.push_back(std::make_unique<Daemon>(bench.bin));
    nodes +=
        fmt::format("{}n{}: {{address: \"{}\"}}", n == 0 ? "" : ", ", n, daemons.back()->address());
    // One network for all: each has a port of its own to match, the first of them the check's.
    steps += fmt::format(
        "      - {{on: n{}, network: {{delay: 1ms, interface: eth0, to: {{ports: [{}]}}}}, for: "
        "30s}}\n",
        n, kPort + n);
  }
  std::vector<double> decided;
  std::vector<double> ended;
  std::vector<double> clean;
  for (int i = 0; i < bench.times(20); ++i) {
    const Folder folder;
    const std::string file =
        folder.write("plan.yaml", plan(nodes, "100ms", "  - parallel:\n" + steps));
    std::optional<Listener> listener(std::in_place, bench.hosts);
    Process squall({bench.bin / "squall", "run", file, "--runs-dir", folder.path() / "runs"});
    // Until the faults are there and checks have gone through the first.
    const MonotonicTime limit = monotonic_now() + std::chrono::seconds(10);
    for (;;) {
      const std::string log = log_of(folder.path() / "runs");
      std::size_t applied = 0;
      std::size_t at = 0;
      while ((at = log.find("\"fault_applied\"", at)) != std::string::npos && ++applied < count)
        ++at;
      if (applied == count && log.find("\"check_asked\"", at) != std::string::npos) break;
      if (monotonic_now() > limit)
        throw std::runtime_error("the faults were not applied within 10 s");
      ::poll(nullptr, 0, 10);
    }
    listener.reset();
    const int code = squall.wait();
    const nlohmann::json event = last_event(log_of(folder.path() / "runs"));
    if (code != 1)
      throw std::runtime_error("the run exited with " + std::to_string(code) + ": " + event.dump());
    const nlohmann::json& abort = event.at("run_ended").at("abort");
    const double decision = abort.value("decided_ms", 0.0);
    decided.push_back(decision);
    ended.push_back(abort.value("effect_ended_ms", 0.0) - decision);
    clean.push_back(abort.value("verified_clean_ms", 0.0) - decision);
  }
  const std::string where = count == 1 ? "1 node" : fmt::format("{} nodes", count);
  bench.table.add(
      {.section = "abort", .what = where + ": breach seen → decided", .unit = "ms", .at_most = 5},
      std::move(decided));
  bench.table.add(
      {.section = "abort", .what = where + ": decided → effect ended", .unit = "ms", .at_most = 50},
      std::move(ended));
  bench.table.add({.section = "abort", .what = where + ": decided → verified clean", .unit = "ms"},
                  std::move(clean));
}

}  // namespace

void measure_abort(Bench& bench) {
  for (const std::size_t nodes : {1U, 10U}) measure_abort(bench, nodes);
}

}  // namespace squall::bench
