/// \file
/// What a person sees while a run goes on: a live view on a terminal, plain timestamped lines
/// everywhere else. Driven by the run's events alone; knows neither the engine nor the nodes.
#pragma once

#include <memory>

#include "controller/report/event_log.h"
#include "controller/report/style.h"
#include "experiments/base/clock.h"

namespace squall::report {

class Screen : public Sink {
 public:
  /// Redraws what moves with time: countdowns, spinners. Call it about ten times a second; draws no
  /// more often than that.
  virtual void tick(MonotonicTime now) = 0;

  /// Leaves the terminal as it was, with the last picture on it; nothing is drawn after. Called
  /// again, does nothing.
  virtual void finish() = 0;
};

/// The live view where `style.live`, else plain lines. Writes to `descriptor`, usually standard
/// error; an error of writing (closed terminal) is passed over, as the log has everything. The
/// destructor finishes.
std::unique_ptr<Screen> make_screen(int descriptor, const Style& style);

}  // namespace squall::report
