#include "controller/notify/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "controller/report/story.h"

namespace squall::notify {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

const Histogram::BucketBoundaries kSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                              0.1,    0.25,  0.5,    1,     2.5,  5,     10};

double of_ms(double ms) { return ms / 1e3; }

/// A kind or a cause as a label: ours are plain words.
std::string label(const std::string& word) {
  const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || c == '_' || c == ' '; };
  return !word.empty() && std::ranges::all_of(word, plain) ? word : "other";
}

}  // namespace

struct Metrics::Numbers {
  Family<Counter>& counters(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry);
  }
  Family<Gauge>& gauges(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry);
  }
  Histogram& histogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, kSeconds);
  }
  Counter& counter(const char* name, const char* help) { return counters(name, help).Add({}); }
  Gauge& gauge(const char* name, const char* help) { return gauges(name, help).Add({}); }

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();

  Gauge& started =
      gauge("squall_run_start_timestamp_seconds", "When the run began, since 1970; 0 before it.");
  Family<Gauge>& phase = gauges("squall_phase", "1 for the phase in which the run is.");
  Family<Gauge>& verdict =
      gauges("squall_verdict", "1 for the verdict of the run, once it is over.");
  Counter& asked = counter("squall_checks_asked_total", "Askings of checks, vantage points apart.");
  Counter& unanswered =
      counter("squall_checks_unanswered_total", "Askings of checks that had no answer.");
  Histogram& latency =
      histogram("squall_check_latency_seconds", "How long the answers of checks took.");
  Counter& breaches =
      counter("squall_check_breaches_total", "Expectations that counted as breached.");
  Gauge& breached = gauge("squall_checks_breached",
                          "Checks that are breached now: they have not held again since.");
  Family<Counter>& aborts = counters("squall_aborts_total", "Decisions to abort the run.");
  Family<Gauge>& faults = gauges("squall_faults_active", "Faults whose effect has not ended.");
  Family<Counter>& injected =
      counters("squall_faults_injected_total", "Faults that were applied, on every node.");
  Counter& failed = counter("squall_faults_failed_total", "Faults that failed.");
  Histogram& end_took =
      histogram("squall_fault_end_seconds", "How long the ends of faults took on their nodes.");
  Counter& residue = counter("squall_residue_total", "Things that faults left behind.");
  Counter& nodes_lost = counter("squall_nodes_lost_total", "Nodes that were lost in mid-run.");
  Counter& notes = counter("squall_notes_total", "Observations that people noted.");
  Counter& load_sent = counter("squall_load_requests_total", "Requests of loads that are over.");
  Counter& load_failed =
      counter("squall_load_failures_total",
              "Requests of loads that are over which had no answer, or a server's error for one.");

  std::map<std::string, std::string> acting;  // of faults: their kinds
  std::map<std::string, std::string> kinds;   // of those that are being injected
  std::set<std::string> checks_breached;

  void acts(const std::string& fault) {
    const std::string kind = label(kinds[fault]);
    if (!acting.emplace(fault, kind).second) return;
    faults.Add({{"kind", kind}}).Increment();
    injected.Add({{"kind", kind}}).Increment();
  }

  void acts_no_more(const std::string& fault) {
    const auto found = acting.find(fault);
    if (found == acting.end()) return;
    faults.Add({{"kind", found->second}}).Decrement();
    acting.erase(found);
  }
};

Metrics::Metrics(const std::string& version) : numbers_(std::make_unique<Numbers>()) {
  numbers_->gauges("squall_build_info", "1, with the version of this squall.")
      .Add({{"version", version}})
      .Set(1);
  for (int phase = v1::Phase_MIN; phase <= v1::Phase_MAX; ++phase) {
    numbers_->phase.Add({{"phase", report::phase_text(static_cast<v1::Phase>(phase))}});
  }
  for (int verdict = v1::Verdict_MIN; verdict <= v1::Verdict_MAX; ++verdict) {
    numbers_->verdict.Add({{"verdict", report::verdict_text(static_cast<v1::Verdict>(verdict))}});
  }
}

Metrics::~Metrics() = default;

void Metrics::on(const v1::Event& event) {
  Numbers& numbers = *numbers_;
  switch (event.event_case()) {
    case v1::Event::kRunStarted:
      numbers.started.SetToCurrentTime();
      break;
    case v1::Event::kPhaseStarted:
      for (int phase = v1::Phase_MIN; phase <= v1::Phase_MAX; ++phase) {
        numbers.phase.Add({{"phase", report::phase_text(static_cast<v1::Phase>(phase))}})
            .Set(phase == event.phase_started().phase() ? 1 : 0);
      }
      break;
    case v1::Event::kNodeLost:
      numbers.nodes_lost.Increment();
      break;
    case v1::Event::kCheckAsked:
      numbers.asked.Increment();
      if (event.check_asked().answered()) {
        numbers.latency.Observe(of_ms(event.check_asked().latency_ms()));
      } else {
        numbers.unanswered.Increment();
      }
      break;
    case v1::Event::kCheckBreached:
      numbers.breaches.Increment();
      numbers.checks_breached.insert(event.check_breached().check());
      numbers.breached.Set(static_cast<double>(numbers.checks_breached.size()));
      break;
    case v1::Event::kCheckHeldAgain:
      numbers.checks_breached.erase(event.check_held_again().check());
      numbers.breached.Set(static_cast<double>(numbers.checks_breached.size()));
      break;
    case v1::Event::kAbortDecided:
      numbers.aborts.Add({{"cause", label(event.abort_decided().cause())}}).Increment();
      break;
    case v1::Event::kFaultInjecting:
      numbers.kinds[event.fault_injecting().fault()] = event.fault_injecting().kind();
      break;
    case v1::Event::kFaultApplied:
      numbers.acts(event.fault_applied().fault());
      break;
    case v1::Event::kFaultEffectEnded:
      numbers.acts_no_more(event.fault_effect_ended().fault());
      if (event.fault_effect_ended().took_ms() > 0)
        numbers.end_took.Observe(of_ms(event.fault_effect_ended().took_ms()));
      break;
    case v1::Event::kFaultReverted:
      numbers.acts_no_more(event.fault_reverted().fault());
      numbers.residue.Increment(event.fault_reverted().residue_size());
      break;
    case v1::Event::kFaultFailed:
      numbers.acts_no_more(event.fault_failed().fault());
      numbers.failed.Increment();
      numbers.residue.Increment(event.fault_failed().residue_size());
      break;
    case v1::Event::kNoted:
      numbers.notes.Increment();
      break;
    case v1::Event::kLoadEnded:
      numbers.load_sent.Increment(static_cast<double>(event.load_ended().sent()));
      numbers.load_failed.Increment(static_cast<double>(event.load_ended().failed()));
      break;
    case v1::Event::kRunEnded:
      numbers.verdict.Add({{"verdict", report::verdict_text(event.run_ended().verdict())}}).Set(1);
      break;
    default:
      break;
  }
}

std::shared_ptr<const prometheus::Registry> Metrics::registry() const { return numbers_->registry; }

}  // namespace squall::notify
