/// \file
/// One run as its log tells it, from the log's first line and its end alone: what an index over a
/// thousand runs can afford to read.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"

namespace squall::history {

struct Run {
  std::string id;
  std::string at;  ///< Of its first event: RFC 3339, UTC; without one, what its id says.
  std::string plan;
  std::string file;
  std::vector<std::string> tags;
  std::string digest;                  ///< Two runs of one digest walked the same plan.
  std::optional<v1::Verdict> verdict;  ///< None: the log has no end. It goes on, or was lost.
  int exit_code = 0;
  std::string sentence;
  std::optional<double> duration_ms, to_detect_ms, to_abort_ms, to_recover_ms;

  friend bool operator==(const Run&, const Run&) = default;
};

/// By which it is known whether a log was read already: it only ever grows.
struct Stamp {
  std::int64_t size = 0;
  std::int64_t changed_ns = 0;  ///< Its mtime.

  friend bool operator==(const Stamp&, const Stamp&) = default;
};

/// Of a run's folder. Errors: kNotFound without a log in it.
StatusOr<Stamp> stamp_of(const std::filesystem::path& folder);

/// A log whose lines cannot be read is a run of which only the id is known. Errors: kNotFound
/// without a log in the folder; those of reading it.
StatusOr<Run> read_run(const std::filesystem::path& folder);

}  // namespace squall::history
