#include <doctest/doctest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "../report/told_runs.h"
#include "controller/notify/courier.h"
#include "controller/notify/receiver.h"
#include "receiving.h"
#include "tests/support/process.h"

namespace squall::notify {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using report::testing::run_named;
using testing::Asked;
using testing::Receiving;

constexpr Duration kBound = 20s;

/// What a server is told of a run.
std::vector<Asked> told(
    const std::vector<v1::Event>& events,
    const std::function<StatusOr<std::unique_ptr<Receiver>>(std::string)>& make) {
  Receiving server;
  auto receiver = make(server.url());
  REQUIRE_MESSAGE(receiver.ok(), message_of(receiver.status()));
  std::vector<std::unique_ptr<Receiver>> receivers;
  receivers.push_back(*std::move(receiver));
  Courier courier(std::move(receivers));
  for (const v1::Event& event : events) courier.on(event);
  REQUIRE(courier.finish(kBound).empty());
  return server.asked();
}

/// HMAC-SHA256 as the openssl program has it.
std::string openssl_hmac(const std::string& secret, const std::string& text) {
  std::string name = "/tmp/squall-hmac-XXXXXX";
  const int file = mkstemp(name.data());
  REQUIRE(file >= 0);
  close(file);
  std::ofstream(name, std::ios::binary) << text;
  support::Command command;
  command.argv = {"openssl", "dgst", "-sha256", "-hmac", secret, "-r", name};
  support::Process openssl(command);
  const auto status = openssl.wait(10s);
  unlink(name.c_str());
  REQUIRE(status == 0);
  return openssl.out().substr(0, 64);
}

std::ptrdiff_t characters(const std::string& text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

std::map<std::string, std::string> environment;
std::string value_of(const char* name) { return environment[name]; }

Collector collector_said(std::map<std::string, std::string> values) {
  environment = std::move(values);
  auto collector = collector_of(value_of);
  REQUIRE_MESSAGE(collector.ok(), message_of(collector.status()));
  return *std::move(collector);
}

std::string collector_refused(std::map<std::string, std::string> values) {
  environment = std::move(values);
  return message_of(collector_of(value_of).status());
}

}  // namespace

TEST_CASE("a webhook is told in JSON, signed as openssl would sign it") {
  const std::string secret = "it's a secret";
  const auto asked = told(run_named("breached"), [&](const std::string& url) {
    return make_webhook(url + "/h?k=v", secret);
  });
  REQUIRE(asked.size() == 4);
  for (const Asked& one : asked) {
    CHECK(one.method == "POST");
    CHECK(one.target == "/h?k=v");
    CHECK(one.header("Content-Type") == "application/json");
    const std::string signed_text = one.header("X-Squall-Timestamp") + "." + one.body;
    CHECK(one.header("X-Squall-Signature") == "sha256=" + openssl_hmac(secret, signed_text));
    const json body = json::parse(one.body);
    CHECK(one.header("X-Squall-Event") == body["event"]);
    CHECK(one.header("Idempotency-Key") == body["id"]);
    CHECK(body["run"] == "20261122-071549-k3x9");
    CHECK(body["tags"] == json::array({"checkout"}));
  }
  const json breach = json::parse(asked[1].body);
  CHECK(breach["phase"] == "method");
  CHECK(breach["verdict"].is_null());
  CHECK(breach["sentence"].get<std::string>().starts_with("check \""));
  CHECK(breach["details"]["expected"].is_string());
  const json end = json::parse(asked[3].body);
  CHECK(end["verdict"] == "breached");
  CHECK(end["details"]["exit_code"] == 1);
  CHECK(end["sentence"].get<std::string>().find("was breached") != std::string::npos);
}

TEST_CASE("a webhook without a secret is not signed") {
  const auto asked =
      told(run_named("held"), [](const std::string& url) { return make_webhook(url, ""); });
  REQUIRE(asked.size() == 2);
  CHECK(asked[0].header("X-Squall-Signature").empty());
  CHECK(json::parse(asked[1].body)["verdict"] == "held");
}

TEST_CASE("whatever a run is called, what receivers are told is JSON and within their bounds") {
  for (const char* name : {"held", "breached", "residue", "not_steady", "refused", "nasty"}) {
    auto events = run_named(name);
    auto& started = *events.front().mutable_run_started();
    started.set_plan("<!channel> & \xff " + std::string(5000, '&') + started.plan());
    events.back().mutable_run_ended()->set_sentence(std::string(5000, '<'));
    for (const auto& make : {+[](const std::string& url) { return make_slack(url); },
                             +[](const std::string& url) { return make_webhook(url, "s"); },
                             +[](const std::string& url) { return make_grafana(url, "t"); }}) {
      for (const Asked& one : told(events, make)) {
        const json body = json::parse(one.body, nullptr, false);
        REQUIRE_FALSE(body.is_discarded());
        if (!body.contains("blocks")) continue;
        CHECK(characters(body["blocks"][0]["text"]["text"]) <= 150);
        CHECK(characters(body["blocks"][1]["text"]["text"]) <= 3000);
        CHECK(body["text"].get<std::string>().find("<!channel>") == std::string::npos);
      }
    }
  }
}

TEST_CASE("Slack is told by a headline, a sentence and a line of context") {
  const auto asked =
      told(run_named("breached"), [](const std::string& url) { return make_slack(url); });
  REQUIRE(asked.size() == 4);
  const json end = json::parse(asked[3].body);
  CHECK(end["blocks"][0]["type"] == "header");
  CHECK(end["blocks"][0]["text"]["text"].get<std::string>().starts_with("✗ breached: "));
  CHECK(end["blocks"][1]["text"]["text"].get<std::string>().find("p99 &lt;") != std::string::npos);
  CHECK(end["blocks"][2]["elements"][0]["text"].get<std::string>().starts_with(
      "run 20261122-071549-k3x9 · "));
}

TEST_CASE("Grafana gets each fault and the run as regions, and each breach as a point") {
  const auto events = run_named("breached");
  const auto asked =
      told(events, [](const std::string& url) { return make_grafana(url + "/grafana/", "key"); });
  std::size_t faults = 0;
  std::size_t breaches = 0;
  for (const Asked& one : asked) {
    CHECK(one.target == "/grafana/api/annotations");
    CHECK(one.header("Authorization") == "Bearer key");
    const json body = json::parse(one.body);
    const auto tags = body["tags"].get<std::set<std::string>>();
    CHECK(tags.contains("squall"));
    CHECK(tags.contains("run:20261122-071549-k3x9"));
    // 2026-11-22T07:15:49Z
    CHECK(body["time"] >= 1795331749000);
    CHECK(body["time"] <= 1795331749000 + 3'600'000);
    if (body.contains("timeEnd")) CHECK(body["timeEnd"] >= body["time"]);
    faults += tags.contains("fault") ? 1 : 0;
    breaches += tags.contains("breach") ? 1 : 0;
    if (tags.contains("fault")) CHECK(body.contains("timeEnd"));
    if (tags.contains("breach")) CHECK_FALSE(body.contains("timeEnd"));
  }
  const auto applied = std::ranges::count_if(
      events, [](const v1::Event& event) { return event.has_fault_applied(); });
  CHECK(faults == static_cast<std::size_t>(applied));
  CHECK(breaches == 1);
  const json run = json::parse(asked.back().body);
  CHECK(run["tags"].get<std::set<std::string>>().contains("verdict:breached"));
  CHECK(run["time"] == 1795331749000);
}

TEST_CASE(
    "a run is one trace: every span has its parent, its times and an id that a log gives again") {
  const auto events = run_named("breached");
  const auto make = [](const std::string& url) {
    Collector collector;
    collector.url = url + "/v1/traces";
    collector.headers = {{"Authorization", "Bearer key"}};
    collector.attributes = {{"deployment.environment", "staging"}};
    return make_otlp(collector, "0.1.0");
  };
  const auto asked = told(events, make);
  std::map<std::string, json> spans;
  for (const Asked& one : asked) {
    CHECK(one.target == "/v1/traces");
    CHECK(one.header("Authorization") == "Bearer key");
    const json resource = json::parse(one.body)["resourceSpans"][0];
    CHECK(resource["resource"]["attributes"][0] ==
          json::parse(R"({"key": "service.name", "value": {"stringValue": "squall"}})"));
    for (const json& span : resource["scopeSpans"][0]["spans"]) {
      const std::string id = span["spanId"];
      CHECK_MESSAGE(!spans.contains(id), span["name"]);
      spans[id] = span;
    }
  }
  std::set<std::string> traces;
  std::set<std::string> names;
  std::size_t roots = 0;
  for (const auto& [id, span] : spans) {
    const std::string trace = span["traceId"];
    traces.insert(trace);
    names.insert(span["name"]);
    CHECK(id.size() == 16);
    CHECK(trace.size() == 32);
    CHECK(trace.find_first_not_of("0123456789abcdef") == std::string::npos);
    // 64-bit numbers are texts in JSON.
    const auto from = std::stoull(span["startTimeUnixNano"].get<std::string>());
    const auto to = std::stoull(span["endTimeUnixNano"].get<std::string>());
    CHECK(from >= 1795331749000000000U);
    CHECK(from <= to);
    if (!span.contains("parentSpanId")) {
      ++roots;
      CHECK(span["status"]["code"] == 2);
      continue;
    }
    REQUIRE_MESSAGE(spans.contains(span["parentSpanId"]), span["name"]);
  }
  CHECK(traces.size() == 1);
  CHECK(roots == 1);
  for (const char* phase : {"preflight", "steady", "method", "revert"})
    CHECK(names.contains(phase));
  const auto faults = std::ranges::count_if(
      spans, [](const auto& entry) { return entry.second.contains("events"); });
  CHECK(faults == std::ranges::count_if(
                      events, [](const v1::Event& event) { return event.has_fault_injecting(); }));
  CHECK(std::ranges::any_of(
      names, [](const std::string& name) { return name.starts_with("breach of "); }));
  const auto again = told(events, make);
  REQUIRE(again.size() == asked.size());
  for (std::size_t n = 0; n < asked.size(); ++n) CHECK(again[n].body == asked[n].body);
}

TEST_CASE("the environment says where traces go, as OpenTelemetry has it") {
  CHECK(collector_said({}).url.empty());
  CHECK(collector_said({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"}}).url ==
        "http://c:4318/v1/traces");
  CHECK(collector_said({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/x/"}}).url ==
        "http://c:4318/x/v1/traces");
  CHECK(collector_said({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318"},
                        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t:4318/own"}})
            .url == "http://t:4318/own");
  CHECK(collector_said({{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://c"}, {"OTEL_SDK_DISABLED", "TRUE"}})
            .url.empty());
  const Collector whole =
      collector_said({{"OTEL_EXPORTER_OTLP_ENDPOINT", "https://c"},
                      {"OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%3Db%2C%20c, x=y"},
                      {"OTEL_EXPORTER_OTLP_TIMEOUT", "2500"},
                      {"OTEL_RESOURCE_ATTRIBUTES", "service.name=gone,team=shop"},
                      {"OTEL_SERVICE_NAME", "gameday"}});
  CHECK(whole.headers ==
        std::vector<std::pair<std::string, std::string>>{{"api-key", "a=b, c"}, {"x", "y"}});
  CHECK(whole.timeout == 2500ms);
  CHECK(whole.service == "gameday");
  CHECK(whole.attributes == std::vector<std::pair<std::string, std::string>>{{"team", "shop"}});
}

TEST_CASE("what the environment says wrong is told by the variable's name, and no secret with it") {
  const std::string endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT";
  CHECK(collector_refused({{endpoint, "collector:4318"}}) ==
        "OTEL_EXPORTER_OTLP_ENDPOINT: a URL that begins with http:// or https:// is needed");
  CHECK(collector_refused({{endpoint, "http://c"}, {"OTEL_EXPORTER_OTLP_HEADERS", "SECRET"}}) ==
        "OTEL_EXPORTER_OTLP_HEADERS: name=value,name=value is needed");
  CHECK(collector_refused({{endpoint, "http://c"}, {"OTEL_EXPORTER_OTLP_TIMEOUT", "2s"}}) ==
        "OTEL_EXPORTER_OTLP_TIMEOUT: a number of milliseconds is needed");
  CHECK(collector_refused({{endpoint, "http://c"}, {"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"}}) ==
        "OTEL_EXPORTER_OTLP_PROTOCOL: squall speaks http/json, not grpc");
}

TEST_CASE("what is no URL is refused, and no name shows what of a URL may be a secret") {
  for (const char* wrong : {"", "hooks.example", "ftp://h/x", "http://", "https:///x",
                            "http://h/a b", "http://h/a\nb", "file:///etc/passwd"}) {
    CAPTURE(wrong);
    CHECK(make_webhook(wrong, "").status().code() == StatusCode::kInvalidArgument);
    CHECK(make_slack(wrong).status().code() == StatusCode::kInvalidArgument);
    CHECK(make_grafana(wrong, "").status().code() == StatusCode::kInvalidArgument);
  }
  const std::string url = "https://user:SECRET@hooks.example:8443/services/SECRET?k=SECRET#SECRET";
  CHECK((*make_webhook(url, "SECRET"))->name() == "webhook https://hooks.example:8443");
  CHECK((*make_slack(url))->name() == "Slack at https://hooks.example:8443");
  CHECK((*make_grafana(url, "SECRET"))->name() == "Grafana at https://hooks.example:8443");
}

}  // namespace squall::notify
