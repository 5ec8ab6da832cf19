/// \file
/// All runs of a folder, by an SQLite index beside them (index.sqlite). It is only an index: every
/// row is what the run's log says, so that it is made anew whenever it is missing, damaged or of
/// another version, and brought up to date by whoever asks it.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "controller/history/run.h"
#include "controller/history/sqlite.h"
#include "experiments/base/status.h"

namespace squall::history {

/// Which runs are meant; what is empty lets all through.
struct Filter {
  std::string plan = {};  ///< Found somewhere in the plan's title or its file, in any case.
  std::optional<v1::Verdict> verdict = {};
  bool without_end = false;            ///< Only those whose logs have none.
  std::string since = {};              ///< RFC 3339 in UTC, or the beginning of one: 2026-11-22.
  std::vector<std::string> tags = {};  ///< All of them.
  std::size_t limit = 0;               ///< The latest ones; 0: all.
};

class History {
 public:
  /// Of a folder of runs, as their logs are now. Where the index cannot be kept, all logs are read
  /// for this once, and `why_not_kept` says why. Errors: those of reading the folder.
  static StatusOr<History> open(const std::filesystem::path& runs);

  /// Forgets everything and reads every log again.
  Status rebuild();

  /// The latest first.
  StatusOr<std::vector<Run>> runs(const Filter& filter);

  const Status& why_not_kept() const { return why_not_kept_; }

 private:
  History(Database index, std::filesystem::path folder, bool is_kept)
      : index_(std::move(index)), folder_(std::move(folder)), is_kept_(is_kept) {}

  static StatusOr<History> make(const std::filesystem::path& runs);
  Status refresh(bool all);
  StatusOr<std::vector<Run>> select(const Filter& filter);
  Status keep_in_memory(const Status& why);

  Database index_;
  std::filesystem::path folder_;
  bool is_kept_;
  Status why_not_kept_;
};

/// Takes the run that has just ended into the index beside it. What fails here is no loss: the next
/// to open the index finds that the run is missing from it.
Status remember(const std::filesystem::path& folder);

/// The runs of one plan, by its title.
struct PlanRecord {
  std::string plan;
  std::size_t runs = 0;
  std::size_t held = 0;
  std::size_t breached = 0;
  /// How often the verdict changed between held and breached although the plan had not changed: a
  /// plan that does is flaky, or what it tests is.
  std::size_t flips = 0;
  Run last;
};

/// `runs`: the latest first, as History::runs() has them. The plan that ran last comes first.
std::vector<PlanRecord> by_plan(std::span<const Run> runs);

}  // namespace squall::history
