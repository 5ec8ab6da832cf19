/// \file
/// What every check kind shares: its registry line, its timeout and the words for a late answer.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

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
extern const CheckKind kLog;
extern const CheckKind kPostgres;
extern const CheckKind kProcess;
extern const CheckKind kPrometheus;
extern const CheckKind kRedis;
extern const CheckKind kTcp;

/// The check's `timeout`; where the plan is silent, its `every`; where that is silent too, 1s.
Duration timeout_of(const v1::Check& check);

/// timeout after 200ms
std::string timeout_words(Duration timeout);

/// Why a server gave no answer; without an error, it gave one.
struct Failure {
  std::string error;
  std::string state;
  bool is_lost = false;  ///< The connection is of no use any more.

  explicit operator bool() const { return !error.empty(); }
};

/// Whether an expectation is of that metric: one that costs a question of its own is asked for only
/// then.
bool expects(const v1::Check& check, std::string_view metric);

/// A number, if that is all the text is, and a finite one.
std::optional<double> number_from(std::string_view text);

/// What a server says, as a check tells it: its first line, no more of it than a person reads, and
/// nothing that a terminal would obey.
std::string told_by_server(std::string_view words);

/// The most of an answer's text that a sample keeps.
inline constexpr std::size_t kKeptText = 64 * 1024;

/// From an errno: connection refused, no route to host.
std::string errno_words(int errno_value);

/// The error of a sample whose asking was cancelled. Nobody judges it, as who cancelled is not
/// waiting for it.
inline constexpr const char* kCancelled = "cancelled";

}  // namespace squall::checks
