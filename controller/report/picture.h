/// \file
/// A moment of a run as lines for a terminal: pure, so that what a room full of people looks at is
/// tested as text.
#pragma once

#include <string>
#include <vector>

#include "controller/report/story.h"
#include "controller/report/style.h"

namespace squall::report {

/// The live view, `elapsed` seconds into the run: at most `style.height` - 1 lines of at most
/// `style.width` columns.
std::vector<std::string> picture(const Story& story, double elapsed, const Style& style);

/// The event as one line for a log without a terminal; empty where it is not worth one. `story` has
/// taken it already.
std::string plain_line(const Story& story, const v1::Event& event, const Style& style);

}  // namespace squall::report
