/// \file
/// Faults, and what they showed, in a few words, for screens, logs and reports.
#pragma once

#include <string>

#include "squall/v1/faults.pb.h"

namespace squall::plan {

/// A fault in a few words for screens and reports, from its set fields: network delay 300ms to
/// ports 5432.
std::string in_words(const v1::Fault& fault);

/// What was shown for it: 412 packets matched.
std::string in_words(const v1::Evidence& evidence);

}  // namespace squall::plan
