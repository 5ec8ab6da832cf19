#include "tests/bench/table.h"

#include <sys/utsname.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

namespace squall::bench {

bool Row::reached() const {
  return (!at_most || median <= *at_most) && (!at_least || median >= *at_least);
}

double quantile(std::vector<double>& samples, double share) {
  std::sort(samples.begin(), samples.end());
  const auto rank =
      static_cast<std::size_t>(std::ceil(share * static_cast<double>(samples.size())));
  return samples[std::clamp<std::size_t>(rank, 1, samples.size()) - 1];
}

void Table::add(Row row) { rows_.push_back(std::move(row)); }

void Table::add(Row row, std::vector<double> samples) {
  if (samples.empty()) return missing(row.section, row.what + ": no samples");
  row.samples = samples.size();
  row.median = quantile(samples, 0.5);
  if (samples.size() > 1) row.p99 = quantile(samples, 0.99);
  add(std::move(row));
}

void Table::add_json(const std::string& text) {
  const nlohmann::json root = nlohmann::json::parse(text);
  const auto maybe = [](const nlohmann::json& row, const char* key) {
    return row.contains(key) ? std::optional(row[key].get<double>()) : std::nullopt;
  };
  for (const nlohmann::json& row : root.at("rows")) {
    add({.section = row.at("section"),
         .what = row.at("what"),
         .unit = row.at("unit"),
         .median = row.at("median"),
         .p99 = maybe(row, "p99"),
         .samples = row.at("samples"),
         .at_most = maybe(row, "at_most"),
         .at_least = maybe(row, "at_least")});
  }
  for (const nlohmann::json& none : root.at("missing")) missing(none.at("section"), none.at("why"));
}

void Table::missing(const std::string& section, const std::string& why) {
  missing_.emplace_back(section, why);
}

void Table::print() const {
  std::printf("\n%-9s %-52s %9s %9s %5s  %s\n", "section", "what", "median", "p99", "n", "target");
  for (const Row& row : rows_) {
    char p99[32] = "";
    if (row.p99) std::snprintf(p99, sizeof p99, "%.3g", *row.p99);
    std::printf("%-9s %-52s %9.3g %9s %5zu  ", row.section.c_str(),
                (row.what + " (" + row.unit + ")").c_str(), row.median, p99, row.samples);
    if (row.at_most) std::printf("<= %g  ", *row.at_most);
    if (row.at_least) std::printf(">= %g  ", *row.at_least);
    if (row.at_most || row.at_least) std::printf("%s", row.reached() ? "ok" : "MISS");
    std::printf("\n");
  }
  for (const auto& [section, why] : missing_) {
    std::printf("%-9s not measured: %s\n", section.c_str(), why.c_str());
  }
}

std::string Table::json() const {
  utsname system{};
  ::uname(&system);
  nlohmann::ordered_json root = {{"kernel", system.release},
                                 {"cores", std::thread::hardware_concurrency()},
                                 {"rows", nlohmann::ordered_json::array()},
                                 {"missing", nlohmann::ordered_json::array()}};
  for (const Row& row : rows_) {
    nlohmann::ordered_json out = {{"section", row.section},
                                  {"what", row.what},
                                  {"unit", row.unit},
                                  {"median", row.median},
                                  {"samples", row.samples}};
    if (row.p99) out["p99"] = *row.p99;
    if (row.at_most) out["at_most"] = *row.at_most;
    if (row.at_least) out["at_least"] = *row.at_least;
    if (row.at_most || row.at_least) out["reached"] = row.reached();
    root["rows"].push_back(std::move(out));
  }
  for (const auto& [section, why] : missing_) {
    root["missing"].push_back({{"section", section}, {"why", why}});
  }
  return root.dump(2) + "\n";
}

bool Table::reached() const {
  return missing_.empty() &&
         std::all_of(rows_.begin(), rows_.end(), [](const Row& row) { return row.reached(); });
}

}  // namespace squall::bench
