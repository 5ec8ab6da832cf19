/// \file
/// What a second terminal has to say to a run: it listens on a socket in its folder while it goes
/// on; afterwards notes are appended to its log. Whether it goes on is known by a lock on the
/// folder, which no killed run keeps.
#pragma once

#include <boost/asio/io_context.hpp>
#include <filesystem>
#include <functional>
#include <memory>

#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"
#include "squall/v1/node.pb.h"

namespace squall::cli {

/// Bytes of the longest note.
inline constexpr std::size_t kLongestNote = 4096;

/// Whether the run that has this folder goes on, in whichever process.
bool goes_on(const std::filesystem::path& folder);

/// Called on the loop, with texts that are safe to show.
struct Told {
  std::function<void(v1::Noted)> note;
  std::function<void(v1::HaltRequest)> halt;
};

/// For the loop's thread alone; it outlives the loop's last run.
class RunSocket {
 public:
  /// Listens in the folder from now on, with a socket for its owner alone. Errors:
  /// kFailedPrecondition where another process has the folder; else as from_errno.
  static StatusOr<std::unique_ptr<RunSocket>> start(boost::asio::io_context& loop,
                                                    const std::filesystem::path& folder, Told told);
  RunSocket(const RunSocket&) = delete;
  RunSocket& operator=(const RunSocket&) = delete;

  /// Removes the socket; from now on the run does not go on.
  ~RunSocket();

 private:
  struct Listening;
  explicit RunSocket(std::shared_ptr<Listening> listening);
  std::shared_ptr<Listening> listening_;
};

/// Hands the note to the run, or appends it to the log of one that is over. Waits for neither
/// longer than a few seconds. Errors: kInvalidArgument for a note that says nothing or too much;
/// kNotFound where there is no run; kUnavailable for one that goes on and does not take it.
Status keep_note(const std::filesystem::path& folder, const v1::Noted& note);

/// Tells the run to revert everything, and returns when it is over; at once where it is already.
/// Errors: kUnavailable for one that does not listen, or has not ended in time.
Status halt_run(const std::filesystem::path& folder, const v1::HaltRequest& request);

}  // namespace squall::cli
