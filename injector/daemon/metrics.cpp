#include "injector/daemon/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>

namespace squall::daemon {
namespace {

using prometheus::Family;

/// From what the kernel needs for a map's update to what a service needs to start.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10};

double seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

template <typename Builder>
auto& family(Builder builder, const char* name, const char* help, prometheus::Registry& registry) {
  return builder.Name(name).Help(help).Register(registry);
}

}  // namespace

struct Metrics::Numbers {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();

  prometheus::Gauge& leases =
      family(prometheus::BuildGauge(), "squalld_leases_active",
             "Leases of runs that are open or whose faults are being reverted.", *registry)
          .Add({});
  prometheus::Counter& lapses =
      family(prometheus::BuildCounter(), "squalld_lease_lapses_total",
             "Leases that ended because no renewal came in time.", *registry)
          .Add({});
  prometheus::Gauge& is_halted =
      family(prometheus::BuildGauge(), "squalld_halted",
             "1 while nothing begins on this node, by squall halt.", *registry)
          .Add({});
  prometheus::Counter& refused =
      family(prometheus::BuildCounter(), "squalld_faults_refused_total",
             "Faults that were refused before anything was changed.", *registry)
          .Add({});
  prometheus::Counter& residue =
      family(prometheus::BuildCounter(), "squalld_residue_total",
             "Things that reverted faults left behind, and a second try as well.", *registry)
          .Add({});
  Family<prometheus::Gauge>& active = family(prometheus::BuildGauge(), "squalld_faults_active",
                                             "Faults that are held now.", *registry);
  Family<prometheus::Counter>& injected =
      family(prometheus::BuildCounter(), "squalld_faults_injected_total",
             "Faults that were applied.", *registry);
  Family<prometheus::Counter>& failed =
      family(prometheus::BuildCounter(), "squalld_faults_failed_total",
             "Faults that could not be applied, or did not end as they should have.", *registry);
  Family<prometheus::Histogram>& apply_seconds =
      family(prometheus::BuildHistogram(), "squalld_fault_apply_seconds",
             "From the request of a fault until it is applied.", *registry);
  Family<prometheus::Histogram>& end_seconds =
      family(prometheus::BuildHistogram(), "squalld_fault_end_seconds",
             "From being told to end a fault until it touches nothing any more.", *registry);
};

Metrics::Metrics(const std::string& version, const std::vector<std::string>& kinds)
    : numbers_(std::make_unique<Numbers>()) {
  family(prometheus::BuildGauge(), "squalld_build_info", "1, with the version of this squalld.",
         *numbers_->registry)
      .Add({{"version", version}})
      .Set(1);
  // What was never counted cannot be told from what is not counted.
  for (const std::string& kind : kinds) {
    numbers_->active.Add({{"kind", kind}});
    numbers_->injected.Add({{"kind", kind}});
    numbers_->failed.Add({{"kind", kind}});
  }
}

Metrics::~Metrics() = default;

void Metrics::lease_opened() { numbers_->leases.Increment(); }
void Metrics::lease_lapsed() { numbers_->lapses.Increment(); }
void Metrics::lease_forgotten() { numbers_->leases.Decrement(); }
void Metrics::halted(bool is_halted) { numbers_->is_halted.Set(is_halted ? 1 : 0); }
void Metrics::fault_refused() { numbers_->refused.Increment(); }

void Metrics::fault_applied(const std::string& kind, Duration took) {
  numbers_->active.Add({{"kind", kind}}).Increment();
  numbers_->injected.Add({{"kind", kind}}).Increment();
  numbers_->apply_seconds.Add({{"kind", kind}}, kSeconds).Observe(seconds(took));
}

void Metrics::fault_ended(const std::string& kind, Duration took) {
  numbers_->end_seconds.Add({{"kind", kind}}, kSeconds).Observe(seconds(took));
}

void Metrics::fault_gone(const std::string& kind, bool applied, bool failed, std::size_t residue) {
  if (applied) numbers_->active.Add({{"kind", kind}}).Decrement();
  if (failed) numbers_->failed.Add({{"kind", kind}}).Increment();
  numbers_->residue.Increment(static_cast<double>(residue));
}

std::shared_ptr<const prometheus::Registry> Metrics::registry() const { return numbers_->registry; }

}  // namespace squall::daemon
