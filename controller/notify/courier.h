/// \file
/// Carries letters to receivers on a thread of its own, so that whatever a receiver does (it is
/// down, hangs, trickles), the run knows nothing of it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "controller/notify/receiver.h"
#include "controller/report/event_log.h"
#include "experiments/base/clock.h"

namespace squall::notify {

/// How patient the courier is.
struct Patience {
  Duration timeout = std::chrono::seconds(5);             ///< Of one attempt.
  std::size_t attempts = 5;                               ///< With one letter.
  Duration first_pause = std::chrono::milliseconds(250);  ///< Twice as long each time.
  std::size_t letters = 256;  ///< Waiting for one receiver; beyond it the oldest is given up.
  std::size_t events = 4096;  ///< Waiting for the thread; beyond it the newest is not told.
};

/// For the thread of the event log it listens to.
class Courier final : public report::Sink {
 public:
  explicit Courier(std::vector<std::unique_ptr<Receiver>> receivers, Patience patience = {});

  /// As finish() that waits for nobody.
  ~Courier() override;
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  /// Hands over and returns; never waits.
  void on(const v1::Event& event) override;

  /// Waits until all is delivered or given up, at most so long. Returns what was not delivered, one
  /// sentence per receiver. Nothing is told after it.
  std::vector<std::string> finish(Duration at_most);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace squall::notify
