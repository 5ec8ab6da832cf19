/// \file
/// What the lab's two sides hand each other through the results folder: the job in, one result per
/// case out.
///
/// `job` holds one value a line: the working directory, the seconds a case may take, the program,
/// and then every case's name. Case N leaves `N.out` (its output) and `N.status` (its exit status,
/// or 128 + the signal that ended it); `guest` holds what process 1 had to say; `done` is written
/// last.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace squall::lab {

struct Job {
  std::filesystem::path directory;
  int seconds_per_case = 60;
  std::filesystem::path program;
  std::vector<std::string> cases;
};

/// Throws std::runtime_error when the file cannot be written.
void write_job(const std::filesystem::path& results, const Job& job);

/// Nothing when there is no complete job.
std::optional<Job> read_job(const std::filesystem::path& results);

std::filesystem::path output_file(const std::filesystem::path& results, std::size_t index);
std::filesystem::path status_file(const std::filesystem::path& results, std::size_t index);

/// What the case exited with; nothing if it has not ended.
std::optional<int> status_of(const std::filesystem::path& results, std::size_t index);

/// doctest reads a comma in --test-case= as the end of a name, unless escaped.
std::string escape_commas(const std::string& name);
std::string unescape_commas(const std::string& name);

}  // namespace squall::lab
