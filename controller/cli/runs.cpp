// The command that lists the runs that were.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>

#include "controller/cli/commands.h"
#include "controller/fleet/local_node.h"
#include "controller/history/history.h"
#include "controller/report/story.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"

namespace squall::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kLost = "lost";
constexpr const char* kRunning = "running";
/// How far a title goes in the table.
constexpr std::size_t kLongestTitle = 48;

/// Whether the squall of a run still answers: while it goes on, it listens in the run's folder.
bool is_running(const fs::path& folder) {
  std::error_code none;
  for (fs::directory_iterator entry(folder, none), end; entry != end; entry.increment(none)) {
    if (entry->is_socket(none) && fleet::listens(entry->path())) return true;
  }
  return false;
}

std::string verdict_of(const history::Run& run, const fs::path& runs) {
  if (run.verdict) return report::verdict_text(*run.verdict);
  return is_running(runs / run.id) ? kRunning : kLost;
}

/// not-steady and "not steady" are one. None: no such verdict.
std::optional<v1::Verdict> parse_verdict(std::string word) {
  std::ranges::replace(word, '-', ' ');
  if (word == "internal") return v1::INTERNAL;
  for (int number = v1::Verdict_MIN; number <= v1::Verdict_MAX; ++number) {
    const auto verdict = static_cast<v1::Verdict>(number);
    if (report::verdict_text(verdict) == word) return verdict;
  }
  return std::nullopt;
}

std::string in_utc(std::time_t time) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}Z", fmt::gmtime(time));
}

/// As logs write times: of how long ago, or of a day or a time. Errors: kInvalidArgument.
StatusOr<std::string> parse_since(const std::string& text) {
  if (text.empty()) return text;
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  Duration ago{};
  if (const auto days = parse_count(std::string_view(text).substr(0, text.size() - 1));
      text.back() == 'd' && days.ok() && *days <= 100'000) {
    return in_utc(now - static_cast<std::time_t>(*days) * 24 * 60 * 60);
  }
  if (const auto duration = parse_duration(text); duration.ok()) {
    ago = *duration;
    return in_utc(now - std::chrono::duration_cast<std::chrono::seconds>(ago).count());
  }
  constexpr std::string_view kForm = "dddd-dd-ddTdd:dd:dd";
  bool fits = text.size() >= 4;
  for (std::size_t n = 0; n < std::min(text.size(), kForm.size()); ++n) {
    const bool digit = text[n] >= '0' && text[n] <= '9';
    fits = fits && (kForm[n] == 'd' ? digit : text[n] == kForm[n]);
  }
  if (fits) return text;
  return error(StatusCode::kInvalidArgument,
               "--since: write how long ago (24h, 7d), or a day or time in UTC (2026-11-22, "
               "2026-11-22T07:15)");
}

/// 2026-11-22 07:15:49
std::string short_time(const std::string& at) {
  std::string text = at.substr(0, 19);
  std::ranges::replace(text, 'T', ' ');
  return text;
}

std::string measured(const std::optional<double>& ms) {
  if (!ms) return "-";
  return format_measured(
      std::chrono::duration_cast<Duration>(std::chrono::duration<double, std::milli>(*ms)));
}

std::string title_of(const std::string& plan) {
  std::string title = escape_controls(plan.empty() ? "-" : plan);
  if (title.size() <= kLongestTitle) return title;
  std::size_t end = kLongestTitle - 3;
  // Not within a character.
  while (end > 0 && (static_cast<unsigned char>(title[end]) & 0xc0) == 0x80) --end;
  return title.substr(0, end) + "...";
}

template <std::size_t Columns>
std::string table_of(const std::vector<std::array<std::string, Columns>>& rows) {
  std::array<std::size_t, Columns> widths{};
  // Characters, not bytes; that some are wider is for the terminal to bear.
  const auto width = [](const std::string& text) {
    return static_cast<std::size_t>(std::ranges::count_if(
        text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
  };
  for (const auto& row : rows) {
    for (std::size_t n = 0; n < Columns; ++n) widths[n] = std::max(widths[n], width(row[n]));
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t n = 0; n < Columns; ++n) {
      line += row[n] + std::string(widths[n] - width(row[n]) + 2, ' ');
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string table_of_runs(const std::vector<history::Run>& runs, const fs::path& folder) {
  std::vector<std::array<std::string, 6>> rows = {
      {"RUN", "BEGAN (UTC)", "PLAN", "VERDICT", "TOOK", "ABORTED IN"}};
  for (const history::Run& run : runs) {
    rows.push_back({run.id, short_time(run.at), title_of(run.plan), verdict_of(run, folder),
                    measured(run.duration_ms), measured(run.to_abort_ms)});
  }
  return table_of(rows);
}

std::string table_of_plans(const std::vector<history::PlanRecord>& records,
                           const fs::path& folder) {
  std::vector<std::array<std::string, 7>> rows = {
      {"PLAN", "RUNS", "HELD", "BREACHED", "FLIPS", "LAST", "ITS VERDICT"}};
  for (const history::PlanRecord& record : records) {
    rows.push_back({title_of(record.plan), fmt::format("{}", record.runs),
                    fmt::format("{}", record.held), fmt::format("{}", record.breached),
                    fmt::format("{}{}", record.flips, record.flips > 0 ? " (flaky)" : ""),
                    short_time(record.last.at), verdict_of(record.last, folder)});
  }
  return table_of(rows);
}

Json number_or_null(const std::optional<double>& number) {
  return number ? Json(*number) : Json(nullptr);
}

Json json_of(const history::Run& run, const fs::path& folder) {
  return {{"run", run.id},
          {"at", run.at},
          {"plan", run.plan},
          {"file", run.file},
          {"tags", run.tags},
          {"verdict", verdict_of(run, folder)},
          {"exit_code", run.verdict ? Json(run.exit_code) : Json(nullptr)},
          {"sentence", run.sentence},
          {"duration_ms", number_or_null(run.duration_ms)},
          {"to_detect_ms", number_or_null(run.to_detect_ms)},
          {"to_abort_ms", number_or_null(run.to_abort_ms)},
          {"to_recover_ms", number_or_null(run.to_recover_ms)},
          {"plan_digest", run.digest},
          {"folder", (folder / run.id).string()}};
}

std::string in_json(const char* key, Json list) {
  const Json whole = {{key, std::move(list)}};
  return whole.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

}  // namespace

int runs(const Invocation& said) {
  const Invocation::Runs& asked = said.runs;
  const fs::path folder(runs_folder(said));
  history::Filter filter;
  filter.plan = asked.plan;
  filter.tags = asked.tags;
  filter.limit = asked.limit;
  const bool open_end = asked.verdict == kLost || asked.verdict == kRunning;
  filter.without_end = open_end;
  if (!asked.verdict.empty() && !open_end) {
    filter.verdict = parse_verdict(asked.verdict);
    if (!filter.verdict) {
      complain("--verdict: " + escape_controls(asked.verdict) +
               " is none; there are held, breached, refused, not-steady, not-injected, residue, "
               "internal, interrupted, lost and running");
      return kRefused;
    }
  }
  const auto since = parse_since(asked.since);
  if (!since.ok()) {
    complain(message_of(since.status()));
    return kRefused;
  }
  filter.since = *since;
  const bool plans = asked.by == "plan";
  // Whether a plan is flaky is seen in all of its runs; and which of those without an end go on,
  // the index does not know.
  if (plans || open_end) filter.limit = 0;

  std::error_code none;
  std::vector<history::Run> found;
  if (fs::is_directory(folder, none)) {
    auto history = history::History::open(folder);
    if (!history.ok()) {
      complain(message_of(history.status()));
      return kRefused;
    }
    if (asked.rebuild) {
      if (const Status built = history->rebuild(); !built.ok()) {
        complain(message_of(built));
        return kRefused;
      }
    }
    auto listed = history->runs(filter);
    if (!listed.ok()) {
      complain(message_of(listed.status()));
      return kInternal;
    }
    found = *std::move(listed);
    if (!history->why_not_kept().ok()) {
      complain("every log was read, for the index beside them cannot be used: " +
               message_of(history->why_not_kept()));
    }
  }
  if (open_end) {
    std::erase_if(found, [&](const history::Run& run) {
      return is_running(folder / run.id) != (asked.verdict == kRunning);
    });
    if (!plans && asked.limit > 0 && found.size() > asked.limit) found.resize(asked.limit);
  }
  const bool json = said.output == "json";
  if (found.empty() && !json) {
    complain("no such run in " + folder.string());
    return kSuccess;
  }
  if (!plans) {
    Json list = Json::array();
    for (const history::Run& run : found) {
      if (json) list.push_back(json_of(run, folder));
    }
    print(json ? in_json("runs", std::move(list)) : table_of_runs(found, folder));
    return kSuccess;
  }
  std::vector<history::PlanRecord> records = history::by_plan(found);
  if (asked.limit > 0 && records.size() > asked.limit) records.resize(asked.limit);
  Json list = Json::array();
  for (const history::PlanRecord& record : records) {
    if (!json) break;
    list.push_back({{"plan", record.plan},
                    {"runs", record.runs},
                    {"held", record.held},
                    {"breached", record.breached},
                    {"flips", record.flips},
                    {"flaky", record.flips > 0},
                    {"last", json_of(record.last, folder)}});
  }
  print(json ? in_json("plans", std::move(list)) : table_of_plans(records, folder));
  return kSuccess;
}

}  // namespace squall::cli
