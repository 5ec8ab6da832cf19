#include "controller/report/event_log.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <ctime>
#include <deque>
#include <fstream>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "controller/report/event_reader.h"
#include "controller/report/json.h"
#include "experiments/base/fd.h"

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

/// Lines are written together where many wait, but never more than a run can afford to lose.
constexpr std::size_t kMostAtOnce = 256;

/// What is read at once, and the longest line that may be: no event comes near it.
constexpr std::size_t kReadBytes = std::size_t{1} << 20;
constexpr std::size_t kLongestLine = std::size_t{64} << 20;

/// Where a run takes a turn: what was told until then is worth a moment of waiting.
bool is_turn(const v1::Event& event) {
  return event.has_run_started() || event.has_phase_started() || event.has_abort_decided() ||
         event.has_run_ended();
}

}  // namespace

/// The thread that turns events into lines, and its queue.
class EventLog::Writer {
 public:
  explicit Writer(int descriptor) : descriptor_(descriptor) {
    // Signals are for the threads that wait for them.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this] { work(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  ~Writer() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    work_to_do_.notify_one();
    thread_.join();
  }

  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void put(const v1::Event& event) {
    std::unique_lock lock(mutex_);
    if (!status_.ok()) return;
    const bool room = written_.wait_for(lock, std::chrono::seconds(1), [this] {
      return told_ - done_ < kMostWaiting || !status_.ok();
    });
    if (!room) {
      status_ = error(StatusCode::kResourceExhausted,
                      "cannot write the event log: the disk does not keep up");
      return;
    }
    waiting_.push_back(event);
    ++told_;
    const bool sleeps = sleeping_;
    lock.unlock();
    if (sleeps) work_to_do_.notify_one();
  }

  /// False: the time was over first.
  bool wait(std::optional<Duration> at_most) {
    std::unique_lock lock(mutex_);
    const std::uint64_t until = told_;
    const auto is_written = [&] { return done_ >= until; };
    if (at_most) return written_.wait_for(lock, *at_most, is_written);
    written_.wait(lock, is_written);
    return true;
  }

  Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  void work() {
    std::deque<v1::Event> taken;
    std::string lines;
    std::unique_lock lock(mutex_);
    for (;;) {
      sleeping_ = true;
      work_to_do_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
      sleeping_ = false;
      if (waiting_.empty()) return;
      taken.swap(waiting_);
      while (!taken.empty()) {
        const bool can_write = status_.ok();
        lock.unlock();
        lines.clear();
        std::size_t count = 0;
        for (; !taken.empty() && count < kMostAtOnce; ++count) {
          if (can_write) lines += to_json_line(taken.front()) + "\n";
          taken.pop_front();
        }
        // After an error nothing more is written: half a line in the middle would make the whole
        // log unreadable.
        Status written = can_write ? write_all(descriptor_.number(), lines) : ok();
        lock.lock();
        if (status_.ok()) status_ = std::move(written);
        done_ += count;
        written_.notify_all();
      }
    }
  }

  Fd descriptor_;
  mutable std::mutex mutex_;
  std::condition_variable work_to_do_;
  std::condition_variable written_;
  std::deque<v1::Event> waiting_;
  std::uint64_t told_ = 0;
  std::uint64_t done_ = 0;
  bool sleeping_ = false;
  bool ending_ = false;
  Status status_;
  std::thread thread_;  // last: it uses all of the above
};

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
    : path_(std::move(path)), writer_(std::make_unique<Writer>(descriptor)) {}

EventLog::~EventLog() = default;

void EventLog::write(v1::Event event) {
  const MonotonicTime now = monotonic_now();
  if (!started_) start_ = now;
  started_ = true;
  event.set_at(wall_clock());
  // Whole microseconds: more would be noise, and eleven digits of it on every line.
  const auto passed = std::chrono::duration_cast<std::chrono::microseconds>(now - start_);
  event.set_elapsed(static_cast<double>(passed.count()) / 1e6);
  writer_->put(event);
  if (is_turn(event)) writer_->wait(kPatience);
  for (Sink* sink : sinks_) sink->on(event);
}

Status EventLog::flush() {
  writer_->wait(std::nullopt);
  return status();
}

Status EventLog::status() const { return writer_->status(); }

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
  v1::Event event;
  if (!EventReader().read(line, event)) return error(StatusCode::kDataLoss, "not an event");
  return event;
}

Status read_events(const std::filesystem::path& path,
                   const std::function<void(const v1::Event&)>& take) {
  const Fd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  if (!file.is_open()) return from_errno("cannot read " + path.string(), errno);
  EventReader reader;
  v1::Event event;
  std::size_t number = 0;
  const auto not_an_event = [&] {
    return error(StatusCode::kDataLoss,
                 fmt::format("{}: line {}: not an event", path.string(), number));
  };
  std::string buffer(kReadBytes, '\0');
  std::size_t kept = 0;  // of a line whose end is not read yet
  for (;;) {
    if (kept == buffer.size()) {
      if (kept >= kLongestLine) {
        ++number;
        return not_an_event();
      }
      buffer.resize(2 * kept);
    }
    const ssize_t got = ::read(file.number(), buffer.data() + kept, buffer.size() - kept);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return from_errno("cannot read " + path.string(), errno);
    const std::string_view read(buffer.data(), kept + static_cast<std::size_t>(got));
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = read.find('\n', begin)) != std::string_view::npos;
         begin = end + 1) {
      ++number;
      if (end == begin) continue;
      if (!reader.read(read.substr(begin, end - begin), event)) return not_an_event();
      take(event);
    }
    const std::string_view rest = read.substr(begin);
    if (got == 0) {
      // Without its newline a line may be torn.
      if (!rest.empty() && reader.read(rest, event)) take(event);
      return ok();
    }
    std::memmove(buffer.data(), rest.data(), rest.size());
    kept = rest.size();
  }
}

StatusOr<std::vector<v1::Event>> read_events(const std::filesystem::path& path) {
  std::vector<v1::Event> events;
  Status read = read_events(path, [&](const v1::Event& event) { events.push_back(event); });
  if (!read.ok()) return read;
  return events;
}

}  // namespace squall::report
