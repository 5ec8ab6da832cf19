/// \file
/// A check asks; what it was told is a Sample. Judging samples against expectations is judge.h's.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/checks.pb.h"

namespace squall::checks {

/// One question and its answer. An unhealthy answer is a value, not an error; what could not ask
/// has `error` set.
struct Sample {
  MonotonicTime asked;  ///< When the question went out.
  Duration latency{};   ///< Until the whole answer was there, or until it was given up.
  std::string error;    ///< Empty: answered. Else why not: connection refused, timeout after 200ms.
  std::optional<std::int64_t> status;  ///< http: the status code.
  std::string state;                   ///< tcp: open, refused, unreachable, timeout; by kind.
  std::optional<std::int64_t> exit;    ///< exec: the exit code.
  std::string output;                  ///< http: the body, exec: stdout; at most 64 KiB are kept.
  std::map<std::string, double> numbers;  ///< Other metrics, by their names, in base units.
  std::string no_data;                    ///< Answered, but with nothing to judge: why.
};

class Check {
 public:
  virtual ~Check() = default;

  /// Asks once, within the check's timeout. Honours cancellation at once. Runs on the executor it
  /// is awaited on and never blocks it. What goes wrong with the target is in the Sample; throws
  /// only for a fault of our own.
  virtual boost::asio::awaitable<Sample> ask() = 0;
};

/// The check that a plan describes.
std::unique_ptr<Check> make_check(const v1::Check& check);

}  // namespace squall::checks
