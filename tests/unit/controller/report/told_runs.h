/// \file
/// Runs that never were, told as events with times of their own: what the screens and the reports
/// are tested on.
#pragma once

#include <string>
#include <vector>

#include "squall/v1/events.pb.h"

namespace squall::report::testing {

/// A back end is killed, the steady state holds; exit 0.
std::vector<v1::Event> held_run();

/// The back ends become slow, p99 is breached, all is reverted and recovers; exit 1.
std::vector<v1::Event> breached_run();

/// A node is lost in mid-fault and another leaves something behind; exit 5.
std::vector<v1::Event> residue_run();

/// The steady state does not hold to begin with; exit 3.
std::vector<v1::Event> not_steady_run();

/// One node refuses at preflight; exit 4.
std::vector<v1::Event> refused_run();

/// A GameDay: a load, a check from two nodes of which one breaks, a question, people's notes, and
/// expectations of the run itself; exit 1.
std::vector<v1::Event> gameday_run();

/// Names and answers full of what neither a terminal nor XML can carry.
std::vector<v1::Event> nasty_run();

/// By the names above, without `_run`. Empty for any other.
std::vector<v1::Event> run_named(const std::string& name);

}  // namespace squall::report::testing
