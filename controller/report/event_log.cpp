#include "controller/report/event_log.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <fstream>
#include <iterator>
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
