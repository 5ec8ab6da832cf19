/// \file
/// squall's load beside wrk, each on a core of its own against nginx on another: what both reach at
/// saturation, how long a request takes, and what a window's sample costs. And a
/// thousand checks: what they take, whether their turns stay where they are, and how soon one that
/// breaks is acted on.
///
/// What is compared is what both measure: the rate at saturation with as many connections, and the
/// time from the sending of a request to the end of its answer. wrk knows no other; squall's own
/// latency counts from when the request was due, and at saturation is the queue's.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "controller/load/http.h"
#include "experiments/checks/judge.h"
#include "tests/bench/node.h"
#include "tests/bench/sections.h"

namespace squall::bench {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

constexpr int kPort = 7009;
constexpr std::uint32_t kConnections = 50;
constexpr double kCommonRate = 5000;

std::string url() { return fmt::format("http://127.0.0.1:{}/index.html", kPort); }

/// The core that the servers are on, and the one for whoever asks them.
struct Cores {
  Cores() {
    cpu_set_t all;
    CPU_ZERO(&all);
    if (::sched_getaffinity(0, sizeof all, &all) != 0) return;
    std::vector<int> cores;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      if (CPU_ISSET(core, &all)) cores.push_back(core);
    }
    server = cores.front();
    client = cores.back();
  }
  int server = 0;
  int client = 0;
};

/// The calling thread, and what it starts, are on one core as long as it lives.
class OnCore {
 public:
  explicit OnCore(int core) {
    CPU_ZERO(&before_);
    ::sched_getaffinity(0, sizeof before_, &before_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    ::sched_setaffinity(0, sizeof one, &one);
  }
  OnCore(const OnCore&) = delete;
  OnCore& operator=(const OnCore&) = delete;
  ~OnCore() { ::sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

bool answers(int port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(static_cast<std::uint16_t>(port));
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const bool reached = ::connect(fd, reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0;
  ::close(fd);
  return reached;
}

/// nginx with one worker and a file of some 600 bytes, on loopback.
class Nginx {
 public:
  explicit Nginx(const Cores& cores) : process_(start(cores)) {
    const MonotonicTime limit = monotonic_now() + std::chrono::seconds(10);
    while (!answers(kPort)) {
      if (monotonic_now() > limit) throw std::runtime_error("nginx does not answer");
      ::poll(nullptr, 0, 10);
    }
  }

 private:
  Process start(const Cores& cores) const {
    folder_.write("index.html", std::string(612, 'x'));
    const std::string folder = folder_.path();
    const std::string file = folder_.write(
        "nginx.conf",
        fmt::format("daemon off; user root; pid {0}/nginx.pid; error_log stderr;\n"
                    "worker_processes 1; events {{ worker_connections 4096; }}\n"
                    "http {{ access_log off; keepalive_requests 1000000000;\n"
                    "  client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;\n"
                    "  fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n"
                    "  server {{ listen 127.0.0.1:{1} backlog=4096; root {0};\n"
                    "  location /served {{ stub_status; }} }} }}\n",
                    folder, kPort));
    const OnCore here(cores.server);
    return Process({"nginx", "-e", "stderr", "-p", folder, "-c", file});
  }

  Folder folder_;
  Process process_;
};

/// How many requests nginx has served, by its own count.
double served() {
  const std::string told =
      output_of({"curl", "--silent", fmt::format("http://127.0.0.1:{}/served", kPort)});
  // server accepts handled requests\n 4 4 17 \nReading: ...
  std::istringstream words(told.substr(told.find("requests") + 8));
  double accepted = 0;
  double handled = 0;
  double requests = 0;
  if (!(words >> accepted >> handled >> requests)) throw std::runtime_error("nginx says: " + told);
  return requests;
}

struct Figures {
  double rate = 0;
  double p50_ms = 0;  ///< From the sending.
  double p99_ms = 0;
  v1::LoadEnded whole = {};
};

Figures by_squall(const Cores& cores, std::uint32_t connections, double rate, int seconds) {
  v1::HttpLoad wanted;
  wanted.set_url(url());
  wanted.set_rate(rate);
  wanted.set_connections(connections);
  asio::io_context loop(1);
  const auto load = load::make_http_load("bench", wanted);
  {
    const OnCore here(cores.client);  // where its thread stays
    const Status started = load->start(loop.get_executor());
    if (!started.ok()) throw std::runtime_error(message_of(started));
  }
  Figures figures;
  const auto wait = [&]() -> asio::awaitable<void> {
    asio::steady_timer over(loop, std::chrono::seconds(seconds));
    co_await over.async_wait(asio::use_awaitable);
    figures.whole = co_await load->end(false);
  };
  asio::co_spawn(loop, wait(), asio::detached);
  loop.run();
  if (figures.whole.failed() > 0) throw std::runtime_error(figures.whole.words());
  figures.rate = figures.whole.rate();
  figures.p50_ms = to_ms(load->service_times().percentile(50));
  figures.p99_ms = to_ms(load->service_times().percentile(99));
  return figures;
}

/// 1.23ms and the like, in ms.
double in_ms(const std::string& text) {
  std::size_t end = 0;
  const double number = std::stod(text, &end);
  const std::string unit = text.substr(end);
  return unit == "us" ? number / 1000 : unit == "ms" ? number : number * 1000;
}

Figures by_wrk(const Cores& cores, int connections, int seconds) {
  const std::vector<std::string> argv = {
      // The same words as squall sends: a server reads every header.
      "wrk",
      "-t1",
      fmt::format("-c{}", connections),
      fmt::format("-d{}s", seconds),
      "--latency",
      "-HUser-Agent: squall",
      url()};
  std::string text;
  {
    const OnCore here(cores.client);
    text = output_of(argv);
  }
  std::map<std::string, std::string> said;
  std::istringstream words(text);
  for (std::string word, value; words >> word;) {
    if (word == "50%" || word == "99%" || word == "Requests/sec:") words >> said[word];
  }
  if (said.size() != 3) throw std::runtime_error("wrk says: " + text);
  return {.rate = std::stod(said["Requests/sec:"]),
          .p50_ms = in_ms(said["50%"]),
          .p99_ms = in_ms(said["99%"])};
}

/// In turns, so that what else the machine does meets both.
void measure_beside_wrk(Bench& bench) {
  const Cores cores;
  const Nginx nginx(cores);
  const int seconds = bench.quick ? 1 : 5;
  std::vector<double> wrk;
  std::vector<double> squall;
  std::vector<double> beside;
  std::vector<double> counted;
  std::vector<double> wrk_p50;
  std::vector<double> squall_p50;
  for (int round = 0; round < bench.times(6); ++round) {
    const Figures theirs = by_wrk(cores, kConnections, seconds);
    const double before = served();
    const Figures ours = by_squall(cores, kConnections, 1e6, seconds);
    counted.push_back(100 * static_cast<double>(ours.whole.answered()) / (served() - before));
    wrk.push_back(theirs.rate);
    squall.push_back(ours.rate);
    beside.push_back(100 * ours.rate / theirs.rate);
    wrk_p50.push_back(theirs.p50_ms);
    squall_p50.push_back(ours.p50_ms);
  }
  const auto row = [](const char* what, const char* unit) {
    return Row{.section = "load", .what = what, .unit = unit};
  };
  bench.table.add(row("wrk -t1 -c50, at saturation", "/s"), std::move(wrk));
  Row reached = row("squall, 50 connections, at saturation", "/s");
  reached.at_least = 20'000;
  bench.table.add(reached, std::move(squall));
  Row share = row("its rate beside wrk's", "%");
  share.at_least = 95;
  bench.table.add(share, std::move(beside));
  Row truth = row("its answers beside what nginx has served", "%");
  truth.at_least = 99.9;
  bench.table.add(truth, std::move(counted));
  bench.table.add(row("wrk, p50 from the sending, at saturation", "ms"), std::move(wrk_p50));
  bench.table.add(row("squall, the same", "ms"), std::move(squall_p50));

  std::vector<double> alone;
  std::vector<double> ours_alone;
  for (int round = 0; round < bench.times(4); ++round) {
    const Figures theirs = by_wrk(cores, 1, seconds);
    alone.push_back(theirs.p50_ms);
    ours_alone.push_back(by_squall(cores, 1, 1e6, seconds).p50_ms);
  }
  bench.table.add(row("wrk -c1, p50 from the sending", "ms"), std::move(alone));
  bench.table.add(row("squall, 1 connection, the same", "ms"), std::move(ours_alone));

  std::vector<double> due_p50;
  std::vector<double> due_p99;
  std::vector<double> kept;
  for (int round = 0; round < bench.times(4); ++round) {
    const Figures ours = by_squall(cores, kConnections, kCommonRate, seconds);
    due_p50.push_back(ours.whole.p50_ms());
    due_p99.push_back(ours.whole.p99_ms());
    kept.push_back(100 * ours.rate / kCommonRate);
  }
  bench.table.add(row("squall at 5,000/s, p50 from when it was due", "ms"), std::move(due_p50));
  bench.table.add(row("the same, p99", "ms"), std::move(due_p99));
  Row rate = row("the rate that was asked for, kept to", "%");
  rate.at_least = 99;
  bench.table.add(rate, std::move(kept));
}

v1::Check two_windows() {
  v1::Check check;
  check.set_every(Duration(std::chrono::seconds(1)).count());
  for (const char* metric : {"p99", "error_rate"}) {
    v1::Expectation& one = *check.add_expect();
    one.set_metric(metric);
    one.set_op(v1::LESS);
    one.set_over(Duration(std::chrono::seconds(10)).count());
    one.add_values()->set_number(1e12);
  }
  return check;
}

/// Judged after each sample, as a check's are.
double judged_us(double rate, int count) {
  checks::Judge judge(two_windows());
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(13, 1);
  const MonotonicTime start = from_ns(1'000'000'000'000);
  checks::Sample sample;
  sample.status = 200;
  Duration took{};
  for (int n = 0; n < count; ++n) {
    sample.asked = start + Duration(static_cast<std::int64_t>(n * 1e9 / rate));
    sample.latency = Duration(static_cast<std::int64_t>(latency(random)));
    const MonotonicTime before = monotonic_now();
    judge.add(sample);
    const auto breach = judge.breached(sample.asked + sample.latency);
    took += monotonic_now() - before;
    if (breach) throw std::runtime_error("a window is wrong");
  }
  return to_ms(took) * 1000 / count;
}

void measure_windows(Bench& bench) {
  const auto row = [](const char* what) {
    return Row{.section = "load", .what = what, .unit = "us"};
  };
  bench.table.add([&] {
    Row one = row("a sample judged by p99 and error_rate over 10s, at 100/s");
    one.median = judged_us(100, 20'000);
    return one;
  }());
  bench.table.add([&] {
    Row one = row("the same at 20,000/s, each by itself");
    one.median = judged_us(20'000, 600'000);
    one.at_most = 50;  // all of a core
    return one;
  }());
  checks::Judge judge(two_windows());
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> latency(13, 1);
  std::vector<double> times;
  for (int second = 0; second < 60; ++second) {
    const auto tally = std::make_shared<checks::Tally>();
    tally->from = from_ns(1'000'000'000'000) + std::chrono::seconds(second);
    tally->until = tally->from + std::chrono::seconds(1);
    for (int n = 0; n < 20'000; ++n) {
      tally->answered.add(Duration(static_cast<std::int64_t>(latency(random))));
    }
    checks::Sample sample;
    sample.asked = tally->from;
    sample.tally = tally;
    const MonotonicTime before = monotonic_now();
    judge.add(sample);
    static_cast<void>(judge.breached(tally->until));
    times.push_back(to_ms(monotonic_now() - before) * 1000);
  }
  bench.table.add(row("a second's 20,000 samples, judged together"), std::move(times));
}

/// Listens on loopback, and takes nobody in, as long as it lives.
class Listener {
 public:
  explicit Listener(std::uint16_t port) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int on = 1;
    ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in name{};
    name.sin_family = AF_INET;
    name.sin_port = htons(port);
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::bind(fd_, reinterpret_cast<const sockaddr*>(&name), sizeof name) < 0 ||
        ::listen(fd_, SOMAXCONN) < 0) {
      throw std::runtime_error("cannot listen");
    }
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  ~Listener() { ::close(fd_); }

 private:
  int fd_;
};

constexpr int kChecks = 1000;
constexpr std::uint16_t kBreaks = 7010;

/// A thousand http checks a second, one by tcp that can be made to break, and a fault that an abort
/// has to end.
std::string thousand(const std::string& node) {
  std::string text = "plan: bench\nnodes: {here: {address: \"" + node + "\"}}\nsteady_state:\n";
  for (int n = 0; n < kChecks; ++n) {
    text += fmt::format(
        "  - {{name: check {}, http: {{url: \"{}\"}}, every: 1s, expect: [status == 200, p99 < 1s "
        "over 10s]}}\n",
        n, url());
  }
  text += fmt::format(
      "  - {{name: breaks, tcp: {{address: \"127.0.0.1:{}\"}}, every: 200ms, expect: [state == "
      "open]}}\n",
      kBreaks);
  return text +
         "method:\n  - {on: here, network: {delay: 1ms, interface: eth0, to: {ports: [7008]}}, "
         "for: 60s}\nrecovery: {within: 100ms}\n";
}

/// The only run's events so far, as far as they are whole.
std::vector<nlohmann::json> events_of(const fs::path& runs) {
  std::vector<nlohmann::json> events;
  std::error_code none;
  for (const auto& run : fs::directory_iterator(runs, none)) {
    std::ifstream in(run.path() / "events.jsonl");
    for (std::string line; std::getline(in, line) && !in.eof();) {
      events.push_back(nlohmann::json::parse(line));
    }
  }
  return events;
}

bool has_begun(const fs::path& runs) {
  for (const nlohmann::json& event : events_of(runs)) {
    if (event.contains("fault_applied")) return true;
  }
  return false;
}

/// A run of the thousand, from its fault's effect on.
class Watching {
 public:
  Watching(Bench& bench, const Daemon& daemon)
      : file_(folder_.write("plan.yaml", thousand(daemon.address()))),
        process_({bench.bin / "squall", "run", file_, "--runs-dir", runs()}) {
    const MonotonicTime limit = monotonic_now() + std::chrono::seconds(30);
    while (!has_begun(runs())) {
      if (monotonic_now() > limit) throw std::runtime_error("the fault was not applied in 30 s");
      ::poll(nullptr, 0, 200);
    }
  }

  pid_t pid() const { return process_.pid(); }
  int wait() { return process_.wait(); }
  fs::path runs() const { return folder_.path() / "runs"; }

 private:
  Folder folder_;
  std::string file_;
  Process process_;
};

/// How far each check's turns have moved from where they were, in ms, over all of its run.
std::vector<double> drift(const std::vector<nlohmann::json>& events, double& asked_ms) {
  struct Turns {
    double first = 0;
    double last = 0;
    int count = 0;
  };
  std::map<std::string, Turns> all;
  std::vector<double> latencies;
  for (const nlohmann::json& event : events) {
    if (event.contains("abort_decided")) break;  // after which all are asked out of turn
    const auto found = event.find("check_asked");
    if (found == event.end() || found->at("check") == "breaks") continue;
    const double latency = found->at("latency_ms").get<double>();
    // When it was asked, as the log has when it was answered.
    const double at = 1000 * event.at("elapsed").get<double>() - latency;
    latencies.push_back(latency);
    Turns& turns = all[found->at("check")];
    if (turns.count == 0) turns.first = at;
    turns.last = at;
    ++turns.count;
  }
  std::vector<double> moved;
  for (const auto& [name, turns] : all) {
    moved.push_back(std::abs(turns.last - turns.first - 1000.0 * (turns.count - 1)));
  }
  asked_ms = quantile(latencies, 0.5);
  return moved;
}

}  // namespace

void measure_load(Bench& bench) {
  measure_windows(bench);
  measure_beside_wrk(bench);
}

void measure_checks(Bench& bench) {
  const Cores cores;
  const Nginx nginx(cores);
  const Daemon daemon(bench.bin);
  const auto row = [](const char* what, const char* unit) {
    return Row{.section = "checks", .what = what, .unit = unit};
  };
  {
    std::optional<Listener> listener(std::in_place, kBreaks);
    Watching watching(bench, daemon);
    const int ms = bench.quick ? 3'000 : 20'000;
    const long before = ticks(watching.pid());
    ::poll(nullptr, 0, ms);
    const auto used = static_cast<double>(ticks(watching.pid()) - before);
    const auto a_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
    listener.reset();
    watching.wait();
    Row cost = row("1,000 http checks at 1 s, share of one core", "%");
    cost.median = 100 * (used / a_second) / (ms / 1000.0);
    cost.at_most = 10;
    bench.table.add(cost);
    Row latency = row("what they measure, p50", "ms");
    std::vector<double> moved = drift(events_of(watching.runs()), latency.median);
    bench.table.add(latency);
    Row turns = row("their turns have moved by, at the end", "ms");
    turns.at_most = 50;
    bench.table.add(turns, std::move(moved));
  }
  std::vector<double> decided;
  for (int round = 0; round < bench.times(20); ++round) {
    std::optional<Listener> listener(std::in_place, kBreaks);
    Watching watching(bench, daemon);
    listener.reset();
    const int code = watching.wait();
    const nlohmann::json last = events_of(watching.runs()).back();
    if (code != 1) throw std::runtime_error("the run exited with " + std::to_string(code));
    decided.push_back(last.at("run_ended").at("abort").value("decided_ms", 0.0));
  }
  const double worst = quantile(decided, 0.99);
  bench.table.add(row("the failing sample's end → decided, among 1,000", "ms"), std::move(decided));
  Row p99 = row("its p99", "ms");
  p99.median = worst;
  p99.at_most = 5;
  bench.table.add(p99);
}

}  // namespace squall::bench
