/// \file
/// Who else is told of a run while it goes on: receivers by HTTP, and those who ask for metrics.
/// What the command line and the environment said of them, and nothing about how.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/notify/courier.h"
#include "controller/notify/metrics.h"
#include "controller/report/event_log.h"
#include "experiments/base/status.h"
#include "experiments/metrics/endpoint.h"

namespace squall::cli {

class Telling {
 public:
  /// Contacts nobody yet, but listens where metrics are to be served. Errors: kInvalidArgument for
  /// what cannot be told to; kFailedPrecondition for an address that is taken.
  static StatusOr<Telling> make(const Invocation& said);

  /// From now on they are told what the log is told. Lifetime: this outlives the log.
  void listen(report::EventLog& log);

  /// Waits a moment for what is still on its way, and says on standard error what was not
  /// delivered.
  void finish();

 private:
  std::unique_ptr<notify::Courier> courier_;
  std::unique_ptr<notify::Metrics> metrics_;
  std::unique_ptr<metrics::Endpoint> endpoint_;
};

}  // namespace squall::cli
