/// \file
/// The picture of a run: time from left to right and to scale; phases, faults as bands on their
/// nodes, checks as curves beside their bounds, and what happened at which moment.
#pragma once

#include <string>

#include "controller/report/story.h"

namespace squall::report {

/// An svg element for the page of html_report(), which has its style. Bounded in size: of many
/// checks, nodes and faults the broken ones come first, and what is left out is told.
std::string timeline_svg(const Story& story);

/// Numbers of an expectation's metric as people read them: 12.3ms, 0.5%, 42.
std::string number_text(const ExpectationStory* metric, double number);

/// From the run's begin: 3.55s, 12:03.
std::string elapsed_text(double seconds);

}  // namespace squall::report
