/// \file
/// What is measured, a function a file. Each adds its rows, or throws std::exception with why it
/// could not.
#pragma once

#include <filesystem>

#include "tests/bench/process.h"
#include "tests/bench/table.h"

namespace squall::bench {

struct Bench {
  std::filesystem::path bin;  ///< Where squall, squalld and squall-hold are.
  const TwoHosts& hosts;
  Table& table;
  bool quick = false;  ///< A tenth of the repetitions: to see that it runs.

  int times(int full) const { return quick ? (full + 9) / 10 : full; }
};

/// Inject and revert of a network and a cpu fault, beside tc by posix_spawn and tc -batch.
void measure_faults(Bench& bench);

/// How exactly a share of a core is burnt, beside stress-ng.
void measure_cpu(Bench& bench);

/// What the classifier costs a packet that it does not match.
void measure_match(Bench& bench);

/// squalld's memory and CPU ticks over ten idle seconds.
void measure_idle(Bench& bench);

/// validate of 1, 100 and 1,000 steps, a trivial run, and an abort.
void measure_validate(Bench& bench);
void measure_run(Bench& bench);
void measure_abort(Bench& bench);

/// Reports of a log of a million events, and what telling the log an event costs.
void measure_report(Bench& bench);

/// The way to netem beside tc's, in the lab, for which the bench starts itself there.
void measure_netem(Bench& bench);
void measure_netem_in_lab(Bench& bench);

/// How exactly the relay delays, how much it lets through, and what a fault takes from others.
void measure_relay(Bench& bench);
void measure_throughput(Bench& bench);

/// The load generator beside wrk, and what windows cost.
void measure_load(Bench& bench);

/// A thousand checks: their cost, their turns, and how soon a breach among them is acted on.
void measure_checks(Bench& bench);

}  // namespace squall::bench
