#include "controller/cli/diagnostics_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace squall::cli {
namespace {

using Json = nlohmann::ordered_json;

Json position(std::size_t line, std::size_t column) { return {{"line", line}, {"column", column}}; }

Json entry(const Diagnostics& file, const Diagnostic& found) {
  Json json = {{"severity", found.severity == Severity::kError ? "error" : "warning"},
               {"summary", found.summary},
               {"detail", found.hint}};
  const Place& place = found.place;
  Json range = {{"filename", file.file_of(place)}};
  // What is wrong with a file as a whole has no place in it.
  range["start"] =
      position(std::max<std::size_t>(place.line, 1), std::max<std::size_t>(place.column, 1));
  range["end"] =
      position(std::max<std::size_t>(place.line, 1),
               std::max<std::size_t>(place.column, 1) + (place.line == 0 ? 0 : place.length));
  json["range"] = std::move(range);
  return json;
}

}  // namespace

std::string diagnostics_json(std::span<const Diagnostics> files) {
  std::size_t errors = 0;
  std::size_t warnings = 0;
  Json list = Json::array();
  for (const Diagnostics& file : files) {
    for (const Diagnostic& found : file.found) {
      ++(found.severity == Severity::kError ? errors : warnings);
      list.push_back(entry(file, found));
    }
  }
  Json json = {{"valid", errors == 0},
               {"error_count", errors},
               {"warning_count", warnings},
               {"diagnostics", std::move(list)}};
  // The counts are then of what is listed.
  const bool more =
      std::any_of(files.begin(), files.end(), [](const Diagnostics& file) { return file.more; });
  if (more) json["more_not_listed"] = true;
  // Bytes of the plan that are not UTF-8 are shown as such, rather than thrown at.
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace squall::cli
