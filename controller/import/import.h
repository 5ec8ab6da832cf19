/// \file
/// Another chaos tool's experiment in, a plan of Squall's out, with a comment at each thing that
/// did not map. Nothing of the source is dropped without a word; no sockets, no clock, nothing is
/// run.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/diagnostic.h"

namespace squall::importing {

struct Imported {
  /// Why there is no plan, with the place in the source.
  Diagnostics diagnostics;
  /// YAML. Every error that `squall validate` finds in it stands below a comment that says what a
  /// person has to decide.
  std::optional<std::string> plan;
  std::size_t not_mapped = 0;  ///< Comments on what has no place in the plan.
  std::size_t to_decide = 0;   ///< Comments on what a person must say.

  bool is_complete() const { return plan && not_mapped + to_decide == 0; }
};

/// What a source may be said to be: chaostoolkit, chaosmesh, pumba, chaosblade, fis.
std::vector<std::string> format_names();

/// Formats are told by their content, unless `from` says which one it is. Never throws.
Imported import_text(std::string text, std::string file_name, std::string_view from = "");

/// At most 1 MiB, of a regular file.
Imported import_file(const std::string& path, std::string_view from = "");

/// The words of one command line, with or without the program's own name.
Imported import_command(std::span<const std::string> words, std::string_view from);

}  // namespace squall::importing
