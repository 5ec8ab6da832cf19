/// \file
/// A check asks; what it was told is a Sample. Judging samples against expectations is judge.h's.
#pragma once

#include <algorithm>
#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "experiments/checks/tally.h"
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

  /// Of a load: what it stands for. `asked` is then the tally's beginning, `latency` its median,
  /// and `error` set where nothing at all was answered.
  std::shared_ptr<const Tally> tally;
};

/// When the answer was there, or given up.
inline MonotonicTime arrival(const Sample& sample) {
  return sample.tally ? sample.tally->until : sample.asked + sample.latency;
}

/// No answer, a server's error, a program that says no, a state that is none to be in.
inline bool is_failure(const Sample& sample) {
  constexpr std::string_view kGoodStates[] = {"", "open", "serving", "noerror", "reply", "ok"};
  return !sample.error.empty() || (sample.status && *sample.status >= 500) ||
         (sample.exit && *sample.exit != 0) ||
         std::ranges::find(kGoodStates, sample.state) == std::end(kGoodStates);
}

class Check {
 public:
  virtual ~Check() = default;

  /// Asks once, within the check's timeout. Honours cancellation at once. Runs on the executor it
  /// is awaited on and never blocks it. What goes wrong with the target is in the Sample; throws
  /// only for a fault of our own.
  virtual boost::asio::awaitable<Sample> ask() = 0;

  /// What was asked before is not told by samples to come. Most tell of one asking each, whose time
  /// says that already.
  virtual void forget(MonotonicTime /*before*/) {}
};

/// The check that a plan describes.
std::unique_ptr<Check> make_check(const v1::Check& check);

}  // namespace squall::checks
