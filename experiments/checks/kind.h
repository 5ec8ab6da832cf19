/// \file
/// What every check kind shares: its registry line, its timeout and the words for a late answer.
#pragma once

#include <memory>
#include <string>

#include "experiments/checks/check.h"

namespace squall::checks {

/// A check kind: its file ends in one of these, and kinds.cpp lists them all.
struct CheckKind {
  v1::Check::KindCase which;
  std::unique_ptr<Check> (*make)(const v1::Check& check);
};

extern const CheckKind kDns;
extern const CheckKind kExec;
extern const CheckKind kGrpc;
extern const CheckKind kHttp;
extern const CheckKind kIcmp;
extern const CheckKind kPrometheus;
extern const CheckKind kTcp;

/// The check's `timeout`; where the plan is silent, its `every`; where that is silent too, 1s.
Duration timeout_of(const v1::Check& check);

/// timeout after 200ms
std::string timeout_words(Duration timeout);

/// From an errno: connection refused, no route to host.
std::string errno_words(int errno_value);

/// The error of a sample whose asking was cancelled. Nobody judges it, as who cancelled is not
/// waiting for it.
inline constexpr const char* kCancelled = "cancelled";

}  // namespace squall::checks
