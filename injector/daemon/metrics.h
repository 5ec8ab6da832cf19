/// \file
/// What a node counts of itself, for a Prometheus server to ask: docs/observability.md lists it.
/// Counted on the loop, asked on another thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/clock.h"

namespace prometheus {
class Registry;
}

namespace squall::daemon {

class Metrics {
 public:
  /// `kinds`: of faults; each is told from the start, as 0.
  Metrics(const std::string& version, const std::vector<std::string>& kinds);
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;
  ~Metrics();

  void lease_opened();
  void lease_lapsed();
  void lease_forgotten();
  void halted(bool is_halted);

  void fault_applied(const std::string& kind, Duration took);
  void fault_refused();
  /// From being told to end it until it touched nothing any more.
  void fault_ended(const std::string& kind, Duration took);
  /// `applied`: it had been. `failed`: it was not reverted as it should have been, or never
  /// applied.
  void fault_gone(const std::string& kind, bool applied, bool failed, std::size_t residue);

  std::shared_ptr<const prometheus::Registry> registry() const;

 private:
  struct Numbers;
  std::unique_ptr<Numbers> numbers_;
};

}  // namespace squall::daemon
