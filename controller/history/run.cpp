#include "controller/history/run.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/sha.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>

#include "controller/report/event_log.h"
#include "experiments/base/fd.h"

namespace squall::history {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLog = "events.jsonl";
/// The key of the line that ends a run. In a text of a person's the quotes would be escaped.
constexpr std::string_view kEnd = "\"run_ended\":{";
constexpr std::int64_t kChunk = std::int64_t{64} << 10;
/// No line of ours is longer.
constexpr std::int64_t kLongestLine = std::int64_t{16} << 20;

/// What of a file lies between two places; shorter where it ends sooner.
StatusOr<std::string> read_at(const Fd& file, std::int64_t from, std::int64_t to) {
  std::string text(static_cast<std::size_t>(std::max<std::int64_t>(to - from, 0)), '\0');
  std::size_t got = 0;
  while (got < text.size()) {
    const ssize_t bytes = ::pread(file.number(), text.data() + got, text.size() - got,
                                  static_cast<off_t>(from + static_cast<std::int64_t>(got)));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes < 0) return from_errno("cannot read the log", errno);
    if (bytes == 0) break;
    got += static_cast<std::size_t>(bytes);
  }
  text.resize(got);
  return text;
}

/// From a place to the end of its line, without the newline.
StatusOr<std::string> line_at(const Fd& file, std::int64_t from) {
  std::string line;
  while (static_cast<std::int64_t>(line.size()) < kLongestLine) {
    const auto at = from + static_cast<std::int64_t>(line.size());
    const StatusOr<std::string> more = read_at(file, at, at + kChunk);
    if (!more.ok()) return more.status();
    const std::size_t end = more->find('\n');
    line += more->substr(0, end);
    if (end != std::string::npos || more->empty()) return line;
  }
  return error(StatusCode::kDataLoss, "a line of the log has no end");
}

/// The line that ends the run, found from behind: what people noted later comes after it. Empty:
/// there is none.
StatusOr<std::string> end_line(const Fd& file, std::int64_t size) {
  const auto overlap = static_cast<std::int64_t>(kEnd.size());
  for (std::int64_t end = size; end > 0; end -= kChunk) {
    // A key may lie across the border of two chunks.
    const std::int64_t from = std::max<std::int64_t>(end - kChunk, 0);
    const StatusOr<std::string> chunk = read_at(file, from, std::min(end + overlap, size));
    if (!chunk.ok()) return chunk.status();
    const std::size_t found = chunk->rfind(kEnd);
    if (found == std::string::npos) continue;
    const std::int64_t key = from + static_cast<std::int64_t>(found);
    // Before it stand only the times.
    const std::int64_t before = std::max<std::int64_t>(key - kChunk, 0);
    const StatusOr<std::string> head = read_at(file, before, key);
    if (!head.ok()) return head.status();
    const std::size_t newline = head->rfind('\n');
    const std::int64_t start =
        newline == std::string::npos ? before : before + static_cast<std::int64_t>(newline) + 1;
    return line_at(file, start);
  }
  return std::string();
}

std::string hex_of_sha256(std::string_view text) {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  std::string hex;
  for (const unsigned char byte : digest) hex += fmt::format("{:02x}", byte);
  return hex;
}

/// Of the plan that the run kept of itself; where that is gone, of what its log says of the plan.
std::string digest_of(const fs::path& folder, const v1::RunStarted& started) {
  std::ifstream file(folder / "plan.json", std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  // Its trees sort the keys, so that the same plan is the same text, however it was printed.
  const nlohmann::json kept = nlohmann::json::parse(text, nullptr, false);
  if (kept.is_object() && kept.contains("plan")) {
    return hex_of_sha256(
        kept["plan"].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  v1::Event told;
  *told.mutable_run_started() = started;
  told.mutable_run_started()->clear_run();
  told.mutable_run_started()->clear_seed();
  return hex_of_sha256(report::to_json_line(told));
}

/// 20261122-071549-k3x9: 2026-11-22T07:15:49Z. Empty for ids of another form.
std::string time_in(const std::string& id) {
  if (id.size() < 15 || id[8] != '-') return "";
  for (const std::size_t n : {0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14}) {
    if (std::isdigit(static_cast<unsigned char>(id[n])) == 0) return "";
  }
  return fmt::format("{}-{}-{}T{}:{}:{}Z", id.substr(0, 4), id.substr(4, 2), id.substr(6, 2),
                     id.substr(9, 2), id.substr(11, 2), id.substr(13, 2));
}

void take_end(const v1::RunEnded& ended, Run& run) {
  run.verdict = ended.verdict();
  run.exit_code = static_cast<int>(ended.exit_code());
  run.sentence = ended.sentence();
  run.duration_ms = ended.duration_ms();
  const v1::RunTimes& times = ended.times();
  if (times.has_to_detect_ms()) run.to_detect_ms = times.to_detect_ms();
  if (times.has_to_abort_ms()) run.to_abort_ms = times.to_abort_ms();
  if (!times.has_to_abort_ms() && ended.has_abort())
    run.to_abort_ms = ended.abort().effect_ended_ms();
  if (times.has_to_recover_ms()) run.to_recover_ms = times.to_recover_ms();
}

}  // namespace

StatusOr<Stamp> stamp_of(const fs::path& folder) {
  struct stat found {};
  const fs::path log = folder / kLog;
  if (::stat(log.c_str(), &found) != 0) return from_errno("cannot read " + log.string(), errno);
  if (!S_ISREG(found.st_mode)) {
    return error(StatusCode::kNotFound, log.string() + ": is no file");
  }
  return Stamp{found.st_size, found.st_mtim.tv_sec * 1'000'000'000 + found.st_mtim.tv_nsec};
}

StatusOr<Run> read_run(const fs::path& folder) {
  const StatusOr<Stamp> stamp = stamp_of(folder);
  if (!stamp.ok()) return stamp.status();
  const fs::path log = folder / kLog;
  const Fd file(::open(log.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file.is_open()) return from_errno("cannot read " + log.string(), errno);
  Run run;
  run.id = folder.filename();
  run.at = time_in(run.id);
  const StatusOr<std::string> first = line_at(file, 0);
  if (!first.ok() && first.status().code() != StatusCode::kDataLoss) return first.status();
  const auto beginning = first.ok() ? report::from_json_line(*first) : first.status();
  if (!beginning.ok() || !beginning->has_run_started()) return run;
  const v1::RunStarted& started = beginning->run_started();
  run.at = beginning->at();
  run.plan = started.plan();
  run.file = started.file();
  run.tags.assign(started.tags().begin(), started.tags().end());
  run.digest = digest_of(folder, started);
  const StatusOr<std::string> last = end_line(file, stamp->size);
  if (!last.ok() && last.status().code() != StatusCode::kDataLoss) return last.status();
  const auto end = last.ok() ? report::from_json_line(*last) : last.status();
  if (end.ok() && end->has_run_ended()) take_end(end->run_ended(), run);
  return run;
}

}  // namespace squall::history
