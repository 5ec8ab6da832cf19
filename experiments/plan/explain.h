/// \file
/// What a word of the plan language means, told from the declarations alone.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"

namespace squall::plan {

/// Every word that explain() knows: plan, step, the fault kinds, the check kinds, expectation.
std::vector<std::string> explainable();

/// The page of one word: what it does, its fields with unit, bounds and default, an example.
/// Errors: kNotFound, naming the nearest word.
StatusOr<std::string> explain(const std::string& word);

/// A fault in a few words for screens and reports, from its set fields: network delay 300ms to
/// ports 5432.
std::string in_words(const v1::Fault& fault);

/// What was shown for it: 412 packets matched.
std::string in_words(const v1::Evidence& evidence);

}  // namespace squall::plan
