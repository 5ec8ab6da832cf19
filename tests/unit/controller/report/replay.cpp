/// \file
/// Replays a made-up run on the terminal, to look at the live view: `report_replay breached [SPEED
/// [UNTIL]]`. SPEED 2 is twice as fast; UNTIL, in seconds of the run, leaves the picture of that
/// moment standing.
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "controller/report/reports.h"
#include "controller/report/screen.h"
#include "told_runs.h"

int main(int argc, char** argv) {
  using namespace squall;
  const auto events = report::testing::run_named(argc > 1 ? argv[1] : "");
  if (events.empty()) {
    std::cerr << "usage: report_replay held|breached|residue|not_steady|refused|gameday|nasty "
                 "[SPEED [UNTIL]]\n";
    return 2;
  }
  const double speed = argc > 2 ? std::atof(argv[2]) : 1;
  const double until = argc > 3 ? std::atof(argv[3]) : 1e9;
  const auto screen = report::make_screen(STDERR_FILENO, report::style_of(STDERR_FILENO));
  const MonotonicTime start = monotonic_now();
  for (const v1::Event& event : events) {
    if (event.elapsed() > until) break;
    const auto passed = [&] {
      return std::chrono::duration<double>(monotonic_now() - start).count() * speed;
    };
    while (passed() < event.elapsed()) {
      poll(nullptr, 0, 10);
      screen->tick(monotonic_now());
    }
    screen->on(event);
  }
  screen->tick(monotonic_now());
  screen->finish();
  if (until < 1e9) return 0;
  std::cout << report::text_report(report::Story(events), report::style_of(STDOUT_FILENO),
                                   {{"log", "runs/20261122-071549-k3x9/events.jsonl"},
                                    {"json", "runs/20261122-071549-k3x9/report.json"},
                                    {"junit", "runs/20261122-071549-k3x9/junit.xml"}});
  return 0;
}
