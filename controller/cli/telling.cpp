#include "controller/cli/telling.h"

#include <cstdlib>
#include <utility>

#include "controller/notify/receiver.h"
#include "experiments/base/diagnostic.h"

namespace squall::cli {
namespace {

/// A run that is over is not kept for receivers that do not answer.
constexpr Duration kLastMoment = std::chrono::seconds(2);

std::string value_of(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

using Receivers = std::vector<std::unique_ptr<notify::Receiver>>;

Status add(const char* option, StatusOr<std::unique_ptr<notify::Receiver>> made,
           Receivers& receivers) {
  if (!made.ok()) return in_context(option, made.status());
  receivers.push_back(*std::move(made));
  return ok();
}

}  // namespace

StatusOr<Telling> Telling::make(const Invocation& said) {
  Receivers receivers;
  for (const std::string& url : said.webhooks) {
    const Status added =
        add("--webhook", notify::make_webhook(url, value_of("SQUALL_WEBHOOK_SECRET")), receivers);
    if (!added.ok()) return added;
  }
  if (!said.slack.empty()) {
    const Status added = add("--slack", notify::make_slack(said.slack), receivers);
    if (!added.ok()) return added;
  }
  if (!said.grafana.empty()) {
    const Status added =
        add("--grafana", notify::make_grafana(said.grafana, value_of("SQUALL_GRAFANA_TOKEN")),
            receivers);
    if (!added.ok()) return added;
  }
  // It is set for all programs of a machine, and so not one of them fails for it.
  auto collector = notify::collector_of(value_of);
  if (!collector.ok()) {
    complain("no traces are sent: " + escape_controls(message_of(collector.status())));
  } else if (!collector->url.empty()) {
    const Status added =
        add("OTLP", notify::make_otlp(*std::move(collector), SQUALL_VERSION), receivers);
    if (!added.ok()) return added;
  }
  Telling telling;
  if (!receivers.empty()) {
    telling.courier_ = std::make_unique<notify::Courier>(std::move(receivers));
  }
  if (said.metrics.empty()) return telling;
  telling.metrics_ = std::make_unique<notify::Metrics>(SQUALL_VERSION);
  auto endpoint =
      metrics::Endpoint::start(said.metrics, said.tls_dir, telling.metrics_->registry());
  if (!endpoint.ok()) return in_context("--metrics", endpoint.status());
  telling.endpoint_ = *std::move(endpoint);
  return telling;
}

void Telling::listen(report::EventLog& log) {
  if (courier_) log.tell(*courier_);
  if (metrics_) log.tell(*metrics_);
}

void Telling::finish() {
  if (!courier_) return;
  for (const std::string& undelivered : courier_->finish(kLastMoment)) {
    complain(escape_controls(undelivered));
  }
}

}  // namespace squall::cli
