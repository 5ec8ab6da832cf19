/// \file
/// What is wrong with plans, for editors and pipelines: the shape of `terraform validate -json`.
#pragma once

#include <span>
#include <string>

#include "experiments/base/diagnostic.h"

namespace squall::cli {

/// {"valid", "error_count", "warning_count", "diagnostics": [{severity, summary, detail, range:
/// {filename, start: {line, column}, end}}]}, of all files together.
std::string diagnostics_json(std::span<const Diagnostics> files);

}  // namespace squall::cli
