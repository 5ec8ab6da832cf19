#include "controller/history/history.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "experiments/base/ids.h"

namespace squall::history {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFile = "index.sqlite";
/// Of the table below.
constexpr std::int64_t kVersion = 1;
/// Others write for milliseconds.
constexpr Duration kPatience = std::chrono::seconds(2);
/// At the end of a run, which nobody shall feel.
constexpr Duration kLittlePatience = std::chrono::milliseconds(250);

constexpr const char* kTable = R"(
  CREATE TABLE IF NOT EXISTS run(
    id TEXT PRIMARY KEY, at TEXT, plan TEXT, file TEXT, tags TEXT, digest TEXT,
    verdict INTEGER, exit_code INTEGER, sentence TEXT,
    duration_ms REAL, to_detect_ms REAL, to_abort_ms REAL, to_recover_ms REAL,
    log_size INTEGER, log_changed_ns INTEGER))";
constexpr const char* kColumns =
    "id, at, plan, file, tags, digest, verdict, exit_code, sentence, duration_ms, to_detect_ms, "
    "to_abort_ms, to_recover_ms";

/// One run as a row.
struct Row {
  Run run;
  Stamp stamp;
};

StatusOr<std::int64_t> version_of(Database& index) {
  auto asked = index.prepare("PRAGMA user_version");
  if (!asked.ok()) return asked.status();
  const auto row = asked->step();
  if (!row.ok()) return row.status();
  return asked->number(0);
}

/// Errors: kDataLoss, also for an index of another version.
StatusOr<Database> open_index(const std::string& path, Duration patience = kPatience) {
  StatusOr<Database> index = Database::open(path, patience);
  if (!index.ok()) return index;
  // Nothing in it is worth a wait for the disk: what a power cut takes is read again.
  Status status = index->run("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
  if (!status.ok()) return status;
  const auto version = version_of(*index);
  if (!version.ok()) return version.status();
  if (*version == kVersion) return index;
  if (*version != 0) return error(StatusCode::kDataLoss, "the index is of another version");
  status = index->run(
      fmt::format("BEGIN IMMEDIATE; {}; PRAGMA user_version = {}; COMMIT", kTable, kVersion));
  if (!status.ok()) return status;
  return index;
}

/// Errors: kDataLoss where its pages do not fit together.
Status check(Database& index) {
  auto asked = index.prepare("PRAGMA quick_check(1)");
  if (!asked.ok()) return asked.status();
  const auto row = asked->step();
  if (!row.ok()) return row.status();
  if (asked->text(0) == "ok") return ok();
  return error(StatusCode::kDataLoss, "the index is damaged: " + asked->text(0));
}

void remove_index(const fs::path& path) {
  std::error_code ignored;  // what cannot be removed cannot be made anew either, which is told
  for (const char* const part : {"", "-wal", "-shm"}) fs::remove(path.string() + part, ignored);
}

std::string joined(const std::vector<std::string>& tags) {
  return nlohmann::json(tags).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::vector<std::string> tags_in(const std::string& text) {
  const auto list = nlohmann::json::parse(text, nullptr, false);
  return list.is_array() ? list.get<std::vector<std::string>>() : std::vector<std::string>();
}

Status write(Statement& insert, const Row& row) {
  const Run& run = row.run;
  int n = 0;
  for (const std::string& text :
       {run.id, run.at, run.plan, run.file, joined(run.tags), run.digest}) {
    insert.bind(++n, text);
  }
  if (run.verdict) insert.bind(++n, std::int64_t{*run.verdict});
  if (!run.verdict) insert.bind(++n, std::optional<double>());
  insert.bind(++n, std::int64_t{run.exit_code});
  insert.bind(++n, run.sentence);
  for (const auto& number :
       {run.duration_ms, run.to_detect_ms, run.to_abort_ms, run.to_recover_ms}) {
    insert.bind(++n, number);
  }
  insert.bind(++n, row.stamp.size);
  insert.bind(++n, row.stamp.changed_ns);
  return insert.step().status();
}

/// All of it, or nothing.
Status write_all(Database& index, const std::vector<Row>& rows,
                 const std::vector<std::string>& gone) {
  if (rows.empty() && gone.empty()) return ok();
  if (Status begun = index.run("BEGIN IMMEDIATE"); !begun.ok()) return begun;
  const Status written = [&]() -> Status {
    auto insert =
        index.prepare(fmt::format("INSERT OR REPLACE INTO run({}, log_size, log_changed_ns) "
                                  "VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                                  kColumns));
    if (!insert.ok()) return insert.status();
    for (const Row& row : rows) {
      if (Status one = write(*insert, row); !one.ok()) return one;
    }
    auto forget = index.prepare("DELETE FROM run WHERE id = ?");
    if (!forget.ok()) return forget.status();
    for (const std::string& id : gone) {
      forget->bind(1, id);
      if (Status one = forget->step().status(); !one.ok()) return one;
    }
    return ok();
  }();
  const Status ended = index.run(written.ok() ? "COMMIT" : "ROLLBACK");
  return written.ok() ? ended : written;
}

StatusOr<Row> read_row(const fs::path& folder) {
  // First the stamp: a log that grows while it is read will be read again.
  const StatusOr<Stamp> stamp = stamp_of(folder);
  if (!stamp.ok()) return stamp.status();
  StatusOr<Run> run = read_run(folder);
  if (!run.ok()) return run.status();
  return Row{*std::move(run), *stamp};
}

/// % and _ are nothing special in what a person looks for.
std::string like(const std::string& words) {
  std::string pattern = "%";
  for (const char c : words) {
    if (c == '%' || c == '_' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern + "%";
}

}  // namespace

StatusOr<History> History::make(const fs::path& runs) {
  StatusOr<Database> index = open_index(runs / kFile);
  if (!index.ok()) return index.status();
  if (Status sound = check(*index); !sound.ok()) return sound;
  History history(*std::move(index), runs, true);
  if (Status read = history.refresh(false); !read.ok()) return read;
  return history;
}

StatusOr<History> History::open(const fs::path& runs) {
  std::error_code failed;
  if (!fs::is_directory(runs, failed)) {
    return error(StatusCode::kNotFound, runs.string() + ": there is no such folder");
  }
  StatusOr<History> history = make(runs);
  if (history.status().code() == StatusCode::kDataLoss) {
    remove_index(runs / kFile);
    history = make(runs);
  }
  if (history.ok()) return history;
  const Status why = history.status();
  StatusOr<Database> index = open_index(":memory:");
  if (!index.ok()) return index.status();
  History once(*std::move(index), runs, false);
  once.why_not_kept_ = why;
  if (Status read = once.refresh(true); !read.ok()) return read;
  return once;
}

Status History::keep_in_memory(const Status& why) {
  StatusOr<Database> index = open_index(":memory:");
  if (!index.ok()) return index.status();
  index_ = *std::move(index);
  is_kept_ = false;
  why_not_kept_ = why;
  return refresh(true);
}

Status History::rebuild() {
  const Status read = refresh(true);
  return read.ok() || !is_kept_ ? read : keep_in_memory(read);
}

Status History::refresh(bool all) {
  std::map<std::string, Stamp> known;
  {
    auto asked = index_.prepare("SELECT id, log_size, log_changed_ns FROM run");
    if (!asked.ok()) return asked.status();
    for (auto row = asked->step();; row = asked->step()) {
      if (!row.ok()) return row.status();
      if (!*row) break;
      known[asked->text(0)] = {asked->number(1), asked->number(2)};
    }
  }
  std::vector<Row> rows;
  std::set<std::string> there;
  std::error_code failed;
  for (fs::directory_iterator entry(folder_, failed), end; entry != end; entry.increment(failed)) {
    const fs::path& folder = entry->path();
    const std::string id = folder.filename();
    if (!is_run_id(id)) continue;
    const StatusOr<Stamp> stamp = stamp_of(folder);
    if (!stamp.ok()) continue;  // another folder, or one that is being removed
    there.insert(id);
    const auto found = known.find(id);
    if (!all && found != known.end() && found->second == *stamp) continue;
    StatusOr<Row> row = read_row(folder);
    if (row.ok()) rows.push_back(*std::move(row));
    if (!row.ok()) there.erase(id);
  }
  if (failed) return from_errno("cannot read " + folder_.string(), failed.value());
  std::vector<std::string> gone;
  for (const auto& [id, stamp] : known) {
    if (!there.contains(id)) gone.push_back(id);
  }
  return write_all(index_, rows, gone);
}

StatusOr<std::vector<Run>> History::runs(const Filter& filter) {
  StatusOr<std::vector<Run>> found = select(filter);
  if (found.ok() || !is_kept_) return found;
  if (Status read = keep_in_memory(found.status()); !read.ok()) return read;
  return select(filter);
}

StatusOr<std::vector<Run>> History::select(const Filter& filter) {
  std::string where = "WHERE 1";
  std::vector<std::string> texts;
  if (!filter.plan.empty()) {
    where += " AND (plan LIKE ? ESCAPE '\\' OR file LIKE ? ESCAPE '\\')";
    texts.insert(texts.end(), {like(filter.plan), like(filter.plan)});
  }
  if (filter.verdict) where += fmt::format(" AND verdict = {}", int{*filter.verdict});
  if (filter.without_end) where += " AND verdict IS NULL";
  if (!filter.since.empty()) {
    where += " AND at >= ?";
    texts.push_back(filter.since);
  }
  for (const std::string& tag : filter.tags) {
    where += " AND EXISTS (SELECT 1 FROM json_each(run.tags) WHERE value = ?)";
    texts.push_back(tag);
  }
  if (filter.limit > 0) where += fmt::format(" ORDER BY at DESC, id DESC LIMIT {}", filter.limit);
  if (filter.limit == 0) where += " ORDER BY at DESC, id DESC";
  auto asked = index_.prepare(fmt::format("SELECT {} FROM run {}", kColumns, where));
  if (!asked.ok()) return asked.status();
  for (std::size_t n = 0; n < texts.size(); ++n) asked->bind(static_cast<int>(n) + 1, texts[n]);
  std::vector<Run> runs;
  for (auto row = asked->step();; row = asked->step()) {
    if (!row.ok()) return row.status();
    if (!*row) return runs;
    Run& run = runs.emplace_back();
    run.id = asked->text(0);
    run.at = asked->text(1);
    run.plan = asked->text(2);
    run.file = asked->text(3);
    run.tags = tags_in(asked->text(4));
    run.digest = asked->text(5);
    if (!asked->is_null(6)) run.verdict = static_cast<v1::Verdict>(asked->number(6));
    run.exit_code = static_cast<int>(asked->number(7));
    run.sentence = asked->text(8);
    run.duration_ms = asked->real(9);
    run.to_detect_ms = asked->real(10);
    run.to_abort_ms = asked->real(11);
    run.to_recover_ms = asked->real(12);
  }
}

Status remember(const fs::path& folder) {
  StatusOr<Row> row = read_row(folder);
  if (!row.ok()) return row.status();
  StatusOr<Database> index = open_index(folder.parent_path() / kFile, kLittlePatience);
  if (!index.ok()) return index.status();
  return write_all(*index, {*std::move(row)}, {});
}

std::vector<PlanRecord> by_plan(std::span<const Run> runs) {
  std::vector<PlanRecord> records;
  std::map<std::string, std::size_t> places;
  std::map<std::string, const Run*> judged;  // of each plan, the one seen last: a later one
  for (const Run& run : runs) {
    const auto [place, is_new] = places.try_emplace(run.plan, records.size());
    if (is_new) {
      records.emplace_back().plan = run.plan;
      records.back().last = run;
    }
    PlanRecord& record = records[place->second];
    ++record.runs;
    const bool held = run.verdict == v1::HELD;
    const bool breached = run.verdict == v1::BREACHED;
    record.held += held ? 1 : 0;
    record.breached += breached ? 1 : 0;
    if (!held && !breached) continue;
    const Run*& later = judged[run.plan];
    if (later != nullptr && later->digest == run.digest && later->verdict != run.verdict) {
      ++record.flips;
    }
    later = &run;
  }
  return records;
}

}  // namespace squall::history
