/// \file
/// Who is told of a run beside the person at the terminal: a webhook, Slack, Grafana, a collector
/// of traces. Each says what it is told and how; the courier carries it there.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "controller/report/story.h"
#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "experiments/checks/fetch.h"
#include "squall/v1/events.pb.h"

namespace squall::notify {

/// One message to one receiver.
struct Letter {
  std::string event;  ///< What it is about, in a word of the contract's: run_ended.
  std::string id;     ///< The same in every attempt, so that the receiver can tell a repetition.
  std::string body;
};

/// Used on the courier's thread alone.
class Receiver {
 public:
  Receiver() = default;
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;
  virtual ~Receiver() = default;

  /// As it may be shown to anybody: what it is, and its host.
  virtual std::string name() const = 0;

  /// What it is to be told because of an event. `story`: of the run up to it, though without what
  /// checks answered.
  virtual std::vector<Letter> hear(const v1::Event& event, const report::Story& story) = 0;

  /// One attempt; without a timeout of its own it has the courier's.
  virtual checks::Request request(const Letter& letter) const = 0;
};

/// Generic JSON, signed where there is a secret: see docs/observability.md. Errors, of each of
/// these: kInvalidArgument for what is no http or https URL; no message repeats the URL, which may
/// hold a secret.
StatusOr<std::unique_ptr<Receiver>> make_webhook(const std::string& url, const std::string& secret);

/// An incoming webhook of Slack's. Source: https://docs.slack.dev/block-kit
StatusOr<std::unique_ptr<Receiver>> make_slack(const std::string& url);

/// Annotations of a Grafana, by its root URL. Source: Grafana's HTTP API, annotations.
StatusOr<std::unique_ptr<Receiver>> make_grafana(const std::string& url, const std::string& token);

/// What the environment says of a collector of traces; `value_of` is getenv(3), or a test's.
/// Source: OpenTelemetry specification, OTLP exporter configuration.
struct Collector {
  std::string url;  ///< Empty: there is none.
  std::vector<std::pair<std::string, std::string>> headers;
  std::string service = "squall";
  std::vector<std::pair<std::string, std::string>> attributes;  ///< Of the resource.
  Duration timeout = std::chrono::seconds(10);
};
using ValueOf = std::string (*)(const char* name);
/// Errors: kInvalidArgument, with the variable's name.
StatusOr<Collector> collector_of(ValueOf value_of);

/// Traces by OTLP over HTTP in JSON: one per run, with a span per phase, fault and breach. Source:
/// OpenTelemetry protocol specification 1.x, opentelemetry/proto/trace/v1.
StatusOr<std::unique_ptr<Receiver>> make_otlp(Collector collector, const std::string& version);

}  // namespace squall::notify
