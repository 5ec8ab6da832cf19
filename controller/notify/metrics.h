/// \file
/// A running squall's own numbers, for a Prometheus server to ask: docs/observability.md lists
/// them.
#pragma once

#include <memory>
#include <string>

#include "controller/report/event_log.h"

namespace prometheus {
class Registry;
}

namespace squall::notify {

/// Counts what the event log is told.
class Metrics final : public report::Sink {
 public:
  explicit Metrics(const std::string& version);
  ~Metrics() override;
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void on(const v1::Event& event) override;

  std::shared_ptr<const prometheus::Registry> registry() const;

 private:
  struct Numbers;
  std::unique_ptr<Numbers> numbers_;
};

}  // namespace squall::notify
