/// \file
/// From what a run found to its verdict, exit code and sentence. No clock, no nodes: a plain
/// function, so that the order of the verdicts is a plain test.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "squall/v1/events.pb.h"

namespace squall::run {

/// Everything found that speaks against a run, each a sentence without a full stop, in the order in
/// which it was found; but the breach that aborted the run stands before all others.
struct Findings {
  std::vector<std::string> internal;
  std::vector<std::string> residue;
  std::vector<std::string> interrupted;
  std::vector<std::string> not_injected;
  std::vector<std::string> refused;
  std::vector<std::string> not_steady;
  std::vector<std::string> breached;

  bool none() const;
};

struct Conclusion {
  v1::Verdict verdict = v1::HELD;
  std::uint32_t exit_code = 0;
  std::string sentence;
};

/// The gravest of the findings decides, 70 > 5 > 130 > 4 > 2 > 3 > 1; the sentence begins with its
/// first one. Without any it is `held`.
Conclusion conclude(const Findings& findings, const std::string& held);

/// Of `squall run`.
std::uint32_t exit_code(v1::Verdict verdict);

}  // namespace squall::run
