#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <optional>
#include <set>
#include <utility>

#include "controller/notify/notice.h"
#include "controller/notify/receiver.h"

namespace squall::notify {
namespace {

constexpr std::size_t kTraceIdBytes = 16;
constexpr std::size_t kSpanIdBytes = 8;
/// enum SpanKind and StatusCode of trace.proto.
constexpr int kInternal = 1;
constexpr int kOk = 1;
constexpr int kError = 2;

std::string id_of(const std::string& words, std::size_t bytes) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(words.data()), words.size(), digest.data());
  std::string hex;
  for (std::size_t n = 0; n < bytes; ++n) hex += fmt::format("{:02x}", digest[n]);
  return hex;
}

Json attribute(const std::string& key, Json value) {
  return {{"key", key}, {"value", std::move(value)}};
}
Json text(const std::string& key, const std::string& value) {
  return attribute(key, {{"stringValue", value}});
}
Json number(const std::string& key, double value) {
  return attribute(key, {{"doubleValue", value}});
}

/// As W3C Baggage has it: key=value,key=value, values with %XX. None for anything else.
std::optional<std::vector<std::pair<std::string, std::string>>> parse_pairs(
    const std::string& list) {
  std::vector<std::pair<std::string, std::string>> pairs;
  const auto trimmed = [](const std::string& text) {
    const std::size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string::npos) return std::string();
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
  };
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    const std::string pair = trimmed(list.substr(at, end - at));
    at = end + 1;
    if (pair.empty()) continue;
    const std::size_t equals = pair.find('=');
    if (equals == 0 || equals == std::string::npos) return std::nullopt;
    const std::string coded = trimmed(pair.substr(equals + 1));
    std::string value;
    for (std::size_t n = 0; n < coded.size(); ++n) {
      unsigned int byte = 0;
      const char* const digits = coded.data() + n + 1;
      const bool is_code = coded[n] == '%' && n + 2 < coded.size() &&
                           std::from_chars(digits, digits + 2, byte, 16).ptr == digits + 2;
      value += is_code ? static_cast<char>(byte) : coded[n];
      if (is_code) n += 2;
    }
    pairs.emplace_back(trimmed(pair.substr(0, equals)), value);
  }
  return pairs;
}

class Otlp final : public Receiver {
 public:
  Otlp(Collector collector, std::string version)
      : collector_(std::move(collector)), version_(std::move(version)) {}

  std::string name() const override { return "OTLP collector " + shown(collector_.url); }

  std::vector<Letter> hear(const v1::Event& event, const report::Story& story) override {
    Json spans = Json::array();
    switch (event.event_case()) {
      case v1::Event::kPhaseStarted:
        // The one before it is over.
        if (story.phases.size() > 1)
          spans.push_back(phase_span(story, story.phases.size() - 2, event.elapsed()));
        break;
      case v1::Event::kFaultReverted:
        add_fault(event.fault_reverted().fault(), event, story, spans);
        break;
      case v1::Event::kFaultFailed:
        add_fault(event.fault_failed().fault(), event, story, spans);
        break;
      case v1::Event::kCheckHeldAgain:
        for (const report::CheckStory& check : story.checks)
          add_breaches(check, event, story, spans);
        break;
      case v1::Event::kRunEnded:
        for (const report::FaultStory& fault : story.faults)
          add_fault(fault.id, event, story, spans);
        for (const report::CheckStory& check : story.checks)
          add_breaches(check, event, story, spans);
        if (!story.phases.empty())
          spans.push_back(phase_span(story, story.phases.size() - 1, event.elapsed()));
        spans.push_back(run_span(event, story));
        break;
      default:
        break;
    }
    if (spans.empty()) return {};
    Json resource = Json::array();
    resource.push_back(text("service.name", collector_.service));
    resource.push_back(text("service.version", version_));
    for (const auto& [key, value] : collector_.attributes) resource.push_back(text(key, value));
    Json scope_spans = Json::array();
    scope_spans.push_back(
        {{"scope", {{"name", "squall"}, {"version", version_}}}, {"spans", std::move(spans)}});
    Json resource_spans = Json::array();
    resource_spans.push_back({{"resource", {{"attributes", std::move(resource)}}},
                              {"scopeSpans", std::move(scope_spans)}});
    return {{"spans", fmt::format("{}-{}", story.run.run(), ++told_),
             dump({{"resourceSpans", std::move(resource_spans)}})}};
  }

  checks::Request request(const Letter& letter) const override {
    checks::Request request;
    request.url = collector_.url;
    request.method = "POST";
    request.headers = {{"Content-Type", "application/json"}};
    request.headers.insert(request.headers.end(), collector_.headers.begin(),
                           collector_.headers.end());
    request.body = letter.body;
    request.timeout = collector_.timeout;
    return request;
  }

 private:
  /// `key`: what of the run it is, so that the same log gives the same ids.
  static std::string span_id(const report::Story& story, const std::string& key) {
    return id_of(story.run.run() + "/" + key, kSpanIdBytes);
  }

  static Json span(const report::Story& story, const std::string& key, const std::string& parent,
                   const std::string& title, double from, double to) {
    Json json = {{"traceId", id_of(story.run.run(), kTraceIdBytes)},
                 {"spanId", span_id(story, key)}};
    if (!parent.empty()) json["parentSpanId"] = span_id(story, parent);
    json["name"] = title;
    json["kind"] = kInternal;
    json["startTimeUnixNano"] = std::to_string(unix_ns(story, from));
    json["endTimeUnixNano"] = std::to_string(unix_ns(story, std::max(from, to)));
    return json;
  }

  static void set_status(Json& json, bool good, const std::string& why) {
    json["status"] = {{"code", good ? kOk : kError}};
    if (!good && !why.empty()) json["status"]["message"] = why;
  }

  static Json phase_span(const report::Story& story, std::size_t place, double to) {
    const auto& [phase, began] = story.phases[place];
    return span(story, fmt::format("phase/{}", place), "run", report::phase_text(phase),
                began.elapsed, to);
  }

  /// The phase in which it began is its parent.
  static std::string phase_at(const report::Story& story, double elapsed) {
    std::string key = "run";
    for (std::size_t n = 0; n < story.phases.size(); ++n) {
      if (story.phases[n].second.elapsed <= elapsed) key = fmt::format("phase/{}", n);
    }
    return key;
  }

  void add_fault(const std::string& id, const v1::Event& event, const report::Story& story,
                 Json& spans) {
    for (const report::FaultStory& fault : story.faults) {
      if (fault.id != id || !sent_.insert("fault/" + id).second) continue;
      const double from = fault.injecting.elapsed;
      const double to = fault.reverted ? fault.reverted->elapsed
                        : fault.failed ? fault.failed->elapsed
                                       : event.elapsed();
      Json json = span(story, "fault/" + id, phase_at(story, from),
                       fmt::format("{} on {}", fault.words, fault.node), from, to);
      Json attributes = Json::array();
      attributes.push_back(text("squall.fault.id", id));
      attributes.push_back(text("squall.fault.kind", fault.kind));
      attributes.push_back(text("squall.node", fault.node));
      if (!fault.step.empty()) attributes.push_back(text("squall.step", fault.step));
      if (!fault.evidence_words.empty())
        attributes.push_back(text("squall.fault.evidence", fault.evidence_words));
      json["attributes"] = std::move(attributes);
      Json moments = Json::array();
      const auto moment = [&](const char* title, const std::optional<report::Moment>& when) {
        if (!when) return;
        moments.push_back(
            {{"timeUnixNano", std::to_string(unix_ns(story, when->elapsed))}, {"name", title}});
      };
      moment("applied", fault.applied);
      moment("effect ended", fault.effect_ended);
      moment("reverted", fault.reverted);
      json["events"] = std::move(moments);
      const bool good = !fault.failed && fault.residue.empty();
      set_status(json, good, fault.failed ? fault.failure : "it left something behind");
      spans.push_back(std::move(json));
    }
  }

  void add_breaches(const report::CheckStory& check, const v1::Event& event,
                    const report::Story& story, Json& spans) {
    for (std::size_t n = 0; n < check.breaches.size(); ++n) {
      const report::BreachStory& breach = check.breaches[n];
      if (!breach.held_again && !event.has_run_ended()) continue;
      const std::string key = fmt::format("breach/{}/{}", check.name, n);
      if (!sent_.insert(key).second) continue;
      const double from = breach.moment.elapsed - breach.since_ms / 1e3;
      Json json =
          span(story, key, phase_at(story, breach.moment.elapsed), "breach of " + check.name, from,
               breach.held_again ? breach.held_again->elapsed : event.elapsed());
      json["attributes"] = Json::array({text("squall.check", check.name),
                                        text("squall.expected", breach.expectation),
                                        text("squall.observed", breach.observed)});
      set_status(json, false, breach.observed);
      spans.push_back(std::move(json));
    }
  }

  static Json run_span(const v1::Event& event, const report::Story& story) {
    const v1::RunEnded& ended = event.run_ended();
    Json json = span(story, "run", "", story.run.plan(), story.started ? story.started->elapsed : 0,
                     event.elapsed());
    Json attributes = Json::array();
    attributes.push_back(text("squall.run", story.run.run()));
    attributes.push_back(text("squall.plan.file", story.run.file()));
    attributes.push_back(text("squall.verdict", report::verdict_text(ended.verdict())));
    if (ended.times().has_to_detect_ms())
      attributes.push_back(number("squall.time_to_detect_ms", ended.times().to_detect_ms()));
    if (ended.times().has_to_abort_ms())
      attributes.push_back(number("squall.time_to_abort_ms", ended.times().to_abort_ms()));
    if (ended.times().has_to_recover_ms())
      attributes.push_back(number("squall.time_to_recover_ms", ended.times().to_recover_ms()));
    json["attributes"] = std::move(attributes);
    set_status(json, ended.verdict() == v1::HELD, ended.sentence());
    return json;
  }

  Collector collector_;
  std::string version_;
  std::set<std::string> sent_;  ///< Of faults and breaches, by the keys of their spans.
  std::uint64_t told_ = 0;
};

}  // namespace

StatusOr<Collector> collector_of(ValueOf value_of) {
  Collector collector;
  // What is said of traces alone wins.
  const auto said = [&](const std::string& word) {
    const std::string own = value_of(("OTEL_EXPORTER_OTLP_TRACES_" + word).c_str());
    return own.empty() ? value_of(("OTEL_EXPORTER_OTLP_" + word).c_str()) : own;
  };
  const auto wrong = [](const std::string& word, const std::string& why) {
    return error(StatusCode::kInvalidArgument, word + ": " + why);
  };
  std::string disabled = value_of("OTEL_SDK_DISABLED");
  std::ranges::transform(disabled, disabled.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (disabled == "true" || value_of("OTEL_TRACES_EXPORTER") == "none") return Collector();
  collector.url = value_of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
  if (collector.url.empty()) {
    collector.url = value_of("OTEL_EXPORTER_OTLP_ENDPOINT");
    if (collector.url.empty()) return Collector();
    collector.url += collector.url.ends_with('/') ? "v1/traces" : "/v1/traces";
  }
  if (said("PROTOCOL") == "grpc")
    return wrong("OTEL_EXPORTER_OTLP_PROTOCOL", "squall speaks http/json, not grpc");
  if (const Status fits = check_url(collector.url); !fits.ok())
    return wrong("OTEL_EXPORTER_OTLP_ENDPOINT", message_of(fits));
  const auto headers = parse_pairs(said("HEADERS"));
  if (!headers) return wrong("OTEL_EXPORTER_OTLP_HEADERS", "name=value,name=value is needed");
  collector.headers = *headers;
  if (const std::string service = value_of("OTEL_SERVICE_NAME"); !service.empty())
    collector.service = service;
  const auto attributes = parse_pairs(value_of("OTEL_RESOURCE_ATTRIBUTES"));
  if (!attributes) return wrong("OTEL_RESOURCE_ATTRIBUTES", "name=value,name=value is needed");
  for (const auto& [key, value] : *attributes) {
    const bool named = key == "service.name";
    if (named && value_of("OTEL_SERVICE_NAME").empty()) collector.service = value;
    if (!named) collector.attributes.emplace_back(key, value);
  }
  if (const std::string ms = said("TIMEOUT"); !ms.empty()) {
    std::uint32_t count = 0;
    const auto [stop, failed] = std::from_chars(ms.data(), ms.data() + ms.size(), count);
    if (failed != std::errc() || stop != ms.data() + ms.size() || count == 0)
      return wrong("OTEL_EXPORTER_OTLP_TIMEOUT", "a number of milliseconds is needed");
    collector.timeout = std::chrono::milliseconds(count);
  }
  return collector;
}

StatusOr<std::unique_ptr<Receiver>> make_otlp(Collector collector, const std::string& version) {
  if (Status fits = check_url(collector.url); !fits.ok()) return fits;
  return std::make_unique<Otlp>(std::move(collector), version);
}

}  // namespace squall::notify
