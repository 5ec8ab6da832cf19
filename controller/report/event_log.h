/// \file
/// The event log of a run: one line of JSON per event, written as it happens, so that a crash keeps
/// all that was told until then. It is the only source of every screen and every report; screens
/// listen here, reports read the file.
#pragma once

#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"

namespace squall::report {

/// Told of every event of a run, in order, on the thread that tells the log.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void on(const v1::Event& event) = 0;
};

/// Writes runs/<id>/events.jsonl. For one thread; what takes time, the words and the disk, is done
/// on another, which the log has of its own.
class EventLog {
 public:
  /// Makes the folder, where it is missing, and a new file in it.
  /// Errors: kAlreadyExists where the folder has a log already; else as from_errno.
  static StatusOr<std::unique_ptr<EventLog>> create(const std::filesystem::path& folder);

  /// Waits until all is written.
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  /// Fills in `at` and `elapsed`, has the line written, in order and without being waited for, then
  /// tells every sink. Where a run takes a turn (its start, its end, a phase, an abort) what was
  /// told so far is waited for, so that it outlives a crash; but for kPatience at most, as no disk
  /// may hold an abort up. A log that cannot be written any more (disk full, or so slow that
  /// kMostWaiting events wait for it) does not stop a run: the sinks are told all the same, and
  /// status() keeps the first error.
  void write(v1::Event event);

  /// Waits until all that was told is written, or cannot be. Returns status().
  Status flush();

  /// From now on `sink` is told too. Lifetime: `sink` outlives the log.
  void tell(Sink& sink);

  const std::filesystem::path& path() const { return path_; }

  /// Of what has been written by now; flush() waits for the rest.
  Status status() const;

  static constexpr Duration kPatience = std::chrono::milliseconds(50);
  static constexpr std::size_t kMostWaiting = 65536;

 private:
  class Writer;

  EventLog(int descriptor, std::filesystem::path path);

  std::filesystem::path path_;
  std::unique_ptr<Writer> writer_;
  std::vector<Sink*> sinks_;
  bool started_ = false;
  MonotonicTime start_;
};

/// Adds to the log of a run that is over: `at` is now, `elapsed` what the wall clock says since its
/// first event. A last line that was torn by a crash is removed. Nobody else writes to it
/// meanwhile. Errors: kDataLoss where no run begins in it; else as from_errno.
Status append_event(const std::filesystem::path& path, v1::Event event);

/// Reads a log back, one event after another; `take` is told of each, which it may not keep: the
/// next one takes its place. A last line that was torn by a crash is left out; any other bad line
/// is an error. Errors: kNotFound; kDataLoss with the line's number.
Status read_events(const std::filesystem::path& path,
                   const std::function<void(const v1::Event&)>& take);

/// All of them at once, of a log that is known to be short.
StatusOr<std::vector<v1::Event>> read_events(const std::filesystem::path& path);

/// One event as a line of JSON, without its newline: names as in the contract, 64-bit counts as
/// numbers.
std::string to_json_line(const v1::Event& event);

/// Errors: kDataLoss for what to_json_line() never wrote.
StatusOr<v1::Event> from_json_line(std::string_view line);

}  // namespace squall::report
