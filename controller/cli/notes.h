/// \file
/// What people note of a run: taken on a socket in its folder while it goes on, appended to its log
/// when it is over. Whether it goes on is known by a lock on the folder, which no killed run keeps.
#pragma once

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <functional>
#include <memory>

#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"

namespace squall::cli {

/// Bytes of the longest note.
inline constexpr std::size_t kLongestNote = 4096;

/// Whether the run that has this folder goes on, in whichever process.
bool goes_on(const std::filesystem::path& folder);

/// For the loop's thread alone; it outlives the loop's last run.
class NoteTaker {
 public:
  /// Listens in the folder from now on, with a socket for its owner alone. `take` is called with
  /// notes that are safe to show. Errors: kFailedPrecondition where another process has the folder;
  /// else as from_errno.
  static StatusOr<std::unique_ptr<NoteTaker>> start(boost::asio::io_context& loop,
                                                    const std::filesystem::path& folder,
                                                    std::function<void(v1::Noted)> take);
  NoteTaker(const NoteTaker&) = delete;
  NoteTaker& operator=(const NoteTaker&) = delete;

  /// Removes the socket; from now on the run does not go on.
  ~NoteTaker();

 private:
  struct Listening;
  explicit NoteTaker(std::shared_ptr<Listening> listening);
  std::shared_ptr<Listening> listening_;
};

/// Hands the note to the run, or appends it to the log of one that is over. Waits for neither
/// longer than a few seconds. Errors: kInvalidArgument for a note that says nothing or too much;
/// kNotFound where there is no run; kUnavailable for one that goes on and does not take it.
Status keep_note(const std::filesystem::path& folder, const v1::Noted& note);

}  // namespace squall::cli
