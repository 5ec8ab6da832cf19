#include "controller/report/event_log.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iterator>
#include <optional>
#include <system_error>

#include "controller/report/json.h"

namespace squall::report {
namespace {

std::string wall_clock() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  std::tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec,
                     now.tv_nsec / 1000);
}

/// Of what wall_clock() wrote.
std::optional<std::chrono::microseconds> wall_time(const std::string& at) {
  std::tm utc{};
  const char* rest = strptime(at.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (rest == nullptr) return std::nullopt;
  int micros = 0;
  if (*rest == '.') std::from_chars(rest + 1, at.c_str() + at.size(), micros);
  return std::chrono::seconds(timegm(&utc)) + std::chrono::microseconds(micros);
}

Status write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return from_errno("cannot write the event log", errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return ok();
}

}  // namespace

StatusOr<std::unique_ptr<EventLog>> EventLog::create(const std::filesystem::path& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder, failed);
  if (failed) return from_errno("cannot make " + folder.string(), failed.value());
  std::filesystem::path path = folder / "events.jsonl";
  const int descriptor =
      open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return from_errno("cannot make " + path.string(), errno);
  return std::unique_ptr<EventLog>(new EventLog(descriptor, std::move(path)));
}

EventLog::EventLog(int descriptor, std::filesystem::path path)
    : descriptor_(descriptor), path_(std::move(path)) {}

EventLog::~EventLog() { close(descriptor_); }

void EventLog::write(v1::Event event) {
  const MonotonicTime now = monotonic_now();
  if (!started_) start_ = now;
  started_ = true;
  event.set_at(wall_clock());
  // Whole microseconds: more would be noise, and eleven digits of it on every line.
  const auto passed = std::chrono::duration_cast<std::chrono::microseconds>(now - start_);
  event.set_elapsed(static_cast<double>(passed.count()) / 1e6);
  // After an error nothing more is written: half a line in the middle would make the whole log
  // unreadable.
  if (status_.ok()) status_ = write_all(descriptor_, to_json_line(event) + "\n");
  for (Sink* sink : sinks_) sink->on(event);
}

void EventLog::tell(Sink& sink) { sinks_.push_back(&sink); }

Status append_event(const std::filesystem::path& path, v1::Event event) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return from_errno("cannot read " + path.string(), errno);
  std::string line;
  std::getline(file, line);
  const StatusOr<v1::Event> first = from_json_line(line);
  const auto began = first.ok() ? wall_time(first->at()) : std::nullopt;
  if (file.eof() || !began)
    return error(StatusCode::kDataLoss, path.string() + ": no run begins in it");
  // No line of the end is longer than this, but for those of a run that found very much to tell.
  constexpr std::streamoff kEnd = 1 << 20;
  file.seekg(0, std::ios::end);
  const std::streamoff size = file.tellg();
  const std::streamoff from = std::max<std::streamoff>(size - kEnd, 0);
  std::string end(static_cast<std::size_t>(size - from), '\0');
  file.seekg(from);
  file.read(end.data(), static_cast<std::streamsize>(end.size()));
  const std::size_t whole = end.rfind('\n') + 1;  // npos + 1 is 0
  if (!file || whole == 0)
    return error(StatusCode::kDataLoss, path.string() + ": its end is unreadable");
  const std::size_t before = whole < 2 ? 0 : end.rfind('\n', whole - 2) + 1;
  const StatusOr<v1::Event> last =
      from_json_line(std::string_view(end).substr(before, whole - before - 1));

  event.set_at(wall_clock());
  const double since = std::chrono::duration<double>(*wall_time(event.at()) - *began).count();
  // A clock that was set back puts nothing before what was told already.
  event.set_elapsed(std::max(since, last.ok() ? last->elapsed() : 0.0));
  const int descriptor = open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor < 0) return from_errno("cannot write " + path.string(), errno);
  Status written;
  if (whole < end.size() && ftruncate(descriptor, from + static_cast<std::streamoff>(whole)) != 0) {
    written = from_errno("cannot write " + path.string(), errno);
  }
  if (written.ok()) written = write_all(descriptor, to_json_line(event) + "\n");
  close(descriptor);
  return written;
}

std::string to_json_line(const v1::Event& event) { return dump(to_json(event)); }

StatusOr<v1::Event> from_json_line(std::string_view line) {
  google::protobuf::util::JsonParseOptions options;
  options.ignore_unknown_fields = true;  // a log of a later version is still a log
  v1::Event event;
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(line.data(), line.size()), &event, options);
  if (!parsed.ok()) return error(StatusCode::kDataLoss, "not an event");
  return event;
}

StatusOr<std::vector<v1::Event>> read_events(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return from_errno("cannot read " + path.string(), errno);
  std::vector<v1::Event> events;
  std::string line;
  for (std::size_t number = 1; std::getline(file, line); ++number) {
    const bool torn = file.eof();  // the newline is missing
    if (line.empty()) continue;
    StatusOr<v1::Event> event = from_json_line(line);
    if (event.ok()) {
      events.push_back(*std::move(event));
    } else if (!torn) {
      return in_context(fmt::format("{}: line {}", path.string(), number), event.status());
    }
  }
  return events;
}

}  // namespace squall::report
