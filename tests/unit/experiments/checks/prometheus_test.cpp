#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "asking.h"
#include "experiments/checks/judge.h"
#include "tests/support/process.h"

namespace squall::checks {
namespace {

using namespace testing;

v1::Check prometheus_check(const std::string& url, const std::string& query,
                           Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_prometheus()->set_url(url);
  check.mutable_prometheus()->set_query(query);
  v1::Expectation& wanted = *check.add_expect();
  wanted.set_text("value < 100");
  wanted.set_metric("value");
  wanted.set_op(v1::LESS);
  wanted.add_values()->set_number(100);
  return check;
}

/// A 200 with this body, as Prometheus would send it.
std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

/// The program `prometheus` on a loopback port of its own, with data in a folder of its own, which
/// scrapes the metrics that the test gives.
class RealPrometheus {
 public:
  explicit RealPrometheus(asio::io_context& loop)
      : loop_(loop), target_(loop, [this](tcp::socket taken) { return expose(std::move(taken)); }) {
    REQUIRE(mkdtemp(folder_.data()) != nullptr);
    const std::string port = address_.substr(address_.find(':'));
    std::ofstream(folder_ + "/prometheus.yml")
        << "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\n"
        << "scrape_configs: [{job_name: shop, static_configs: [{targets: [\"" << target_.address()
        << "\"]}]}]\n";
    process_.emplace(
        support::Command{.argv = {"prometheus", "--config.file=" + folder_ + "/prometheus.yml",
                                  "--storage.tsdb.path=" + folder_ + "/data",
                                  "--web.listen-address=" + address_, "--log.level=error"},
                         .environment = {},
                         .descriptors = {}});
  }
  ~RealPrometheus() {
    process_.reset();
    std::filesystem::remove_all(folder_);
  }
  RealPrometheus(const RealPrometheus&) = delete;
  RealPrometheus& operator=(const RealPrometheus&) = delete;

  std::string url() const { return "http://" + address_; }

  /// What the target shows from its next scrape on.
  void show(std::string metrics) { metrics_ = std::move(metrics); }

  Sample ask_for(const std::string& query) {
    return ask(loop_, *make_check(prometheus_check(url(), query)));
  }

  /// Asks until the answer is such; the last one.
  template <typename Condition>
  Sample ask_until(const std::string& query, Condition condition) {
    const MonotonicTime deadline = monotonic_now() + kBound;
    Sample sample = ask_for(query);
    while (!condition(sample) && monotonic_now() < deadline) {
      loop_.restart();
      loop_.run_for(20ms);
      sample = ask_for(query);
    }
    return sample;
  }

 private:
  asio::awaitable<void> expose(tcp::socket taken) {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    while (!(co_await read_head(socket, buffer)).empty()) {
      const std::string answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " +
                                 std::to_string(metrics_.size()) + "\r\n\r\n" + metrics_;
      const auto [failed, written] =
          co_await asio::async_write(socket, asio::buffer(answer), kToken);
      if (failed) co_return;
    }
  }

  asio::io_context& loop_;
  std::string metrics_ = "queue_depth 42.5\nmany{i=\"1\"} 1\nmany{i=\"2\"} 2\nmany{i=\"3\"} 3\n";
  Server target_;
  std::string address_ = closed_address();
  std::string folder_ = "/tmp/squall-prometheus-XXXXXX";
  std::optional<support::Process> process_;
};

TEST_CASE("S22: what a Prometheus server cannot tell is no data, told as which, and a breach") {
  asio::io_context loop;
  RealPrometheus prometheus(loop);
  const Sample value =
      prometheus.ask_until("queue_depth", [](const Sample& now) { return !now.numbers.empty(); });
  CHECK(value.error == "");
  CHECK(value.no_data == "");
  REQUIRE(value.numbers.contains("value"));
  CHECK(value.numbers.at("value") == 42.5);
  CHECK(prometheus.ask_for("scalar(queue_depth) * 2").numbers.at("value") == 85);
  CHECK(prometheus.ask_for("sum(many) # + & = %").numbers.at("value") == 6);

  const auto reason = [&](const std::string& query) {
    const Sample sample = prometheus.ask_for(query);
    CHECK(sample.error == "");
    CHECK(sample.numbers.empty());
    return sample.no_data;
  };
  CHECK(reason("no_such_metric") == "empty result: no such series now, or it went stale");
  CHECK(reason("0 / 0") == "NaN");
  CHECK(reason("vector(0) / 0") == "NaN");
  CHECK(reason("1 / 0") == "+Inf");
  CHECK(reason("-1 / vector(0)") == "-Inf");
  CHECK(reason("many") == "3 series; one is wanted");
  CHECK(reason("queue_depth[1m]") ==
        "the result is a range of values; a scalar or one series is wanted");
  CHECK(reason("\"text\"") == "the result is a string; a scalar or one series is wanted");
  CHECK(reason("max(").starts_with("status 400: invalid parameter \"query\": 1:5: parse error: "));
  CHECK(reason("queue_depth * on() many").starts_with("status 422: "));

  prometheus.show("up_again 1\n");
  const Sample stale =
      prometheus.ask_until("queue_depth", [](const Sample& now) { return now.numbers.empty(); });
  CHECK(stale.no_data == "empty result: no such series now, or it went stale");

  v1::Check check = prometheus_check(prometheus.url(), "queue_depth");
  check.set_every(std::chrono::nanoseconds(100ms).count());
  check.set_timeout(std::chrono::nanoseconds(100ms).count());
  Judge judge(check);
  judge.add(value);
  CHECK(judge.holds(value.asked + value.latency));
  judge.start_watching(stale.asked - 1s);
  judge.add(stale);
  CHECK_FALSE(judge.holds(stale.asked + stale.latency));
  const auto breach = judge.breached(stale.asked + stale.latency);
  REQUIRE(breach.has_value());
  CHECK(breach->observed.starts_with("no data for "));
  CHECK(breach->observed.ends_with(" (empty result: no such series now, or it went stale)"));
}

TEST_CASE("S22: a Prometheus that is not one, or not ready, gives no data in its own words") {
  asio::io_context loop;
  const auto reason = [&](const std::string& answer) {
    Server server(loop, answering(answer));
    const Sample sample = ask(loop, *make_check(prometheus_check(server.url(), "up")));
    CHECK(sample.error == "");
    CHECK(sample.numbers.empty());
    return sample.no_data;
  };
  CHECK(reason("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 19\r\n\r\nService "
               "Unavailable") == "status 503");
  CHECK(reason("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n") ==
        "status 302");
  CHECK(reason(ok("")) == "the answer is no JSON");
  CHECK(reason(ok("<html>")) == "the answer is no JSON");
  CHECK(reason(ok("[1, 2]")) == "the answer is not that of a Prometheus server");
  CHECK(reason(ok("{}")) == "the answer is not that of a Prometheus server");
  CHECK(reason(ok(R"({"status": "error", "errorType": "timeout", "error": "too\nlong"})")) ==
        "error: too\\x0along");
  CHECK(reason(ok(R"({"status": "success", "data": 3})")) ==
        "the answer is not that of a Prometheus server");
  CHECK(reason(ok(R"({"status": "success", "data": {"resultType": "vector", "result": [3]}})")) ==
        "the answer has no value where one should be");
  CHECK(reason(ok(R"({"status":"success","data":{"resultType":"scalar","result":[0,"1e999"]}})")) ==
        "\"1e999\" is no number");
  CHECK(reason(ok(R"({"status":"success","data":{"resultType":"vector","result":[{"metric":{},)"
                  R"("histogram":[0,{}]}]}})")) == "the series is a histogram; a number is wanted");
  CHECK(reason(ok(std::string(60'000, '['))) == "the answer is no JSON");
  CHECK(reason(ok(R"({"status":"success","data":{"resultType":"vector","result":[)" +
                  std::string(100'000, ' '))) ==
        "many series: the answer is longer than 64 KiB; one is wanted");
}

TEST_CASE("a Prometheus that cannot be reached is an error") {
  asio::io_context loop;
  const Sample sample =
      ask(loop, *make_check(prometheus_check("http://" + closed_address(), "up")));
  CHECK(sample.error == "connection refused");
  CHECK(sample.no_data == "");
}

TEST_CASE("a query is asked below the server's path, with the plan's headers") {
  asio::io_context loop;
  std::string head;
  std::string body;
  Server server(loop, [&](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    head = co_await read_head(socket, buffer);
    while (buffer.find("%29") == std::string::npos) {
      char bytes[64];
      const auto [failed, length] = co_await socket.async_read_some(asio::buffer(bytes), kToken);
      if (failed) co_return;
      buffer.append(bytes, length);
    }
    body = buffer;
    const std::string answer =
        ok(R"({"status":"success","data":{"resultType":"scalar","result":[0,"-1.5e3"]}})");
    co_await asio::async_write(socket, asio::buffer(answer), kToken);
  });
  v1::Check check = prometheus_check(server.url() + "metrics/?tenant=a", "max by (job) (up + 1)");
  (*check.mutable_prometheus()->mutable_headers())["X-Scope-OrgID"] = "shop";
  const Sample sample = ask(loop, *make_check(check));
  CHECK(sample.numbers.at("value") == -1500);
  CHECK(head.starts_with("POST /metrics/api/v1/query?tenant=a HTTP/1.1\r\n"));
  CHECK(head.find("Content-Type: application/x-www-form-urlencoded\r\n") != std::string::npos);
  CHECK(head.find("X-Scope-OrgID: shop\r\n") != std::string::npos);
  CHECK(body == "query=max%20by%20%28job%29%20%28up%20%2B%201%29");
}

}  // namespace
}  // namespace squall::checks
