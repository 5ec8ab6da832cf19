#include "controller/cli/run_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "controller/report/event_log.h"
#include "experiments/base/clock.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/fd.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using Socket = asio::local::stream_protocol::socket;

constexpr const char* kSocketName = "run.sock";
constexpr const char* kReply = "taken";
/// With what cannot be shown escaped.
constexpr std::size_t kLongestEscaped = 4 * kLongestNote;
/// Of a note with its name and kind, on the wire.
constexpr std::size_t kLongestMessage = 3 * kLongestEscaped;
/// How long somebody who connects may take to say what he has to say.
constexpr Duration kSaidWithin = std::chrono::seconds(2);
/// How long a run may take to take a note, the moments in which it begins and ends included.
constexpr Duration kTakenWithin = std::chrono::seconds(5);
/// How long a run may take to revert everything and end.
constexpr Duration kEndedWithin = std::chrono::seconds(30);
/// How long others may have the folder of a run that begins.
constexpr Duration kLookedAtWithin = std::chrono::seconds(1);
constexpr int kAgainMs = 20;
constexpr std::size_t kMostAtOnce = 16;

/// Open, whoever's it is.
StatusOr<Fd> open_folder(const fs::path& folder) {
  Fd opened(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.is_open()) return from_errno(folder.native(), errno);
  return opened;
}

/// The socket in it, whose path may be longer than a socket's name can be.
sockaddr_un address_in(const Fd& folder) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  fmt::format_to_n(address.sun_path, sizeof(address.sun_path) - 1, "/proc/self/fd/{}/{}",
                   folder.number(), kSocketName);
  return address;
}

/// Errors: kInvalidArgument.
Status check_note(const v1::Noted& note, std::size_t longest) {
  const std::string& kind = note.kind();
  if (!kind.empty() && kind != "detected" && kind != "mitigated" && kind != "recovered") {
    return error(StatusCode::kInvalidArgument,
                 "a note is of no other kind than detected, mitigated or recovered");
  }
  if (kind.empty() && note.text().find_first_not_of(" \t\r\n") == std::string::npos) {
    return error(StatusCode::kInvalidArgument, "the note says nothing");
  }
  if (note.text().size() > longest || note.by().size() > longest) {
    return error(
        StatusCode::kInvalidArgument,
        fmt::format("a note has at most {} bytes, and this has {}", longest, note.text().size()));
  }
  return ok();
}

v1::Noted made_safe(v1::Noted note) {
  note.set_by(escape_controls(note.by()));
  note.set_text(escape_controls(note.text()));
  return note;
}

v1::HaltRequest made_safe(v1::HaltRequest request) {
  request.set_by(escape_controls(request.by()));
  request.set_reason(escape_controls(request.reason()));
  return request;
}

/// What is said begins with which of them it is.
constexpr char kNote = 'n';
constexpr char kHalt = 'h';

enum class Handing { kTaken, kRefused, kNobody };

/// Says it to the run that listens in the folder, and what came of it.
Handing hand_over(const Fd& folder, const std::string& message, std::string& why) {
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_in(folder);
  timeval bound{};
  bound.tv_sec = std::chrono::duration_cast<std::chrono::seconds>(kSaidWithin).count();
  setsockopt(socket.number(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
  setsockopt(socket.number(), SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
  // POSIX wants this cast.
  if (connect(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    why = errno == EACCES ? "its socket is for its owner alone" : "";
    return errno == EACCES ? Handing::kRefused : Handing::kNobody;
  }
  if (send(socket.number(), message.data(), message.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(message.size())) {
    return Handing::kNobody;
  }
  shutdown(socket.number(), SHUT_WR);
  std::string reply;
  std::array<char, 256> part{};
  for (ssize_t got = 0; (got = recv(socket.number(), part.data(), part.size(), 0)) > 0;) {
    reply.append(part.data(), static_cast<std::size_t>(got));
  }
  if (reply == kReply) return Handing::kTaken;
  why = reply;
  return reply.empty() ? Handing::kNobody : Handing::kRefused;
}

}  // namespace

bool goes_on(const fs::path& folder) {
  const auto opened = open_folder(folder);
  return opened.ok() && flock(opened->number(), LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
}

/// Shared with the coroutines, which the loop may keep for longer.
struct RunSocket::Listening {
  Listening(asio::io_context& loop, Fd locked, Told into)
      : folder(std::move(locked)), acceptor(loop), told(std::move(into)) {}

  static asio::awaitable<void> accept(std::shared_ptr<Listening> self) {
    while (self->acceptor.is_open()) {
      auto [failed, socket] =
          co_await self->acceptor.async_accept(asio::as_tuple(asio::use_awaitable));
      if (failed == asio::error::operation_aborted) co_return;
      std::erase_if(self->open, [](const auto& one) { return one.expired(); });
      if (failed || self->open.size() >= kMostAtOnce) {
        // Too many at once, of theirs or of ours: those that wait may try again.
        asio::steady_timer later(self->acceptor.get_executor(), std::chrono::milliseconds(50));
        co_await later.async_wait(asio::as_tuple(asio::use_awaitable));
        continue;
      }
      const auto conversation = std::make_shared<Socket>(std::move(socket));
      self->open.push_back(conversation);
      asio::co_spawn(self->acceptor.get_executor(), serve(self, conversation), asio::detached);
    }
  }

  static asio::awaitable<void> serve(std::shared_ptr<Listening> self,
                                     std::shared_ptr<Socket> socket) {
    asio::steady_timer bound(self->acceptor.get_executor(), kSaidWithin);
    bound.async_wait([socket](const boost::system::error_code& cancelled) {
      boost::system::error_code ignored;
      if (!cancelled) socket->cancel(ignored);
    });
    std::string message(kLongestMessage, '\0');
    const auto [ended, length] = co_await asio::async_read(*socket, asio::buffer(message),
                                                           asio::as_tuple(asio::use_awaitable));
    message.resize(length);
    const Status taken = ended == asio::error::eof
                             ? self->take(message)
                             : error(StatusCode::kInvalidArgument, "this is nothing to tell a run");
    const std::string reply = taken.ok() ? kReply : message_of(taken);
    // At once, before the loop may be stopped: who is not answered says it again. So short a word
    // always has room.
    boost::system::error_code ignored;
    socket->write_some(asio::buffer(reply), ignored);
  }

  Status take(const std::string& message) {
    const std::string content = message.empty() ? "" : message.substr(1);
    v1::Noted note;
    v1::HaltRequest halt;
    if (message.starts_with(kNote) && note.ParseFromString(content)) {
      Status fit = check_note(note, kLongestEscaped);
      if (fit.ok()) told.note(made_safe(std::move(note)));
      return fit;
    }
    if (message.starts_with(kHalt) && halt.ParseFromString(content)) {
      told.halt(made_safe(std::move(halt)));
      return ok();
    }
    return error(StatusCode::kInvalidArgument, "this is nothing to tell a run");
  }

  Fd folder;  ///< Locked as long as it is open.
  asio::local::stream_protocol::acceptor acceptor;
  Told told;
  std::vector<std::weak_ptr<Socket>> open;  ///< Conversations.
};

StatusOr<std::unique_ptr<RunSocket>> RunSocket::start(asio::io_context& loop,
                                                      const fs::path& folder, Told told) {
  auto opened = open_folder(folder);
  if (!opened.ok()) return opened.status();
  // Who only looks whether a run goes on has it for a moment.
  const MonotonicTime deadline = monotonic_now() + kLookedAtWithin;
  bool locked = false;
  while (!(locked = flock(opened->number(), LOCK_EX | LOCK_NB) == 0) &&
         monotonic_now() < deadline) {
    poll(nullptr, 0, kAgainMs);
  }
  if (!locked) {
    return error(StatusCode::kFailedPrecondition, "another process has " + folder.string());
  }
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = address_in(*opened);
  // Before it has a name, so that nobody else's note is ever let in.
  if (fchmod(socket.number(), 0600) != 0 ||
      bind(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      listen(socket.number(), static_cast<int>(kMostAtOnce)) != 0) {
    return from_errno((folder / kSocketName).string(), errno);
  }
  const auto listening = std::make_shared<Listening>(loop, *std::move(opened), std::move(told));
  listening->acceptor.assign(asio::local::stream_protocol(), socket.release());
  asio::co_spawn(loop, Listening::accept(listening), asio::detached);
  return std::unique_ptr<RunSocket>(new RunSocket(listening));
}

RunSocket::RunSocket(std::shared_ptr<Listening> listening) : listening_(std::move(listening)) {}

RunSocket::~RunSocket() {
  unlinkat(listening_->folder.number(), kSocketName, 0);
  boost::system::error_code ignored;
  listening_->acceptor.close(ignored);
  // Who was not answered tries again, and need not wait for it.
  for (const auto& one : listening_->open) {
    if (const auto conversation = one.lock()) conversation->close(ignored);
  }
  listening_->folder = Fd();
}

Status keep_note(const fs::path& folder, const v1::Noted& note) {
  if (const Status fit = check_note(note, kLongestNote); !fit.ok()) return fit;
  const v1::Noted safe = made_safe(note);
  const fs::path log = folder / "events.jsonl";
  std::error_code failed;
  if (!fs::is_regular_file(log, failed)) {
    return error(StatusCode::kNotFound, fmt::format("there is no run in {}", folder.string()));
  }
  const MonotonicTime deadline = monotonic_now() + kTakenWithin;
  std::string why;
  // It may end, or begin, at any moment: whoever has the lock writes.
  for (;;) {
    auto opened = open_folder(folder);
    if (!opened.ok()) return opened.status();
    const bool locked = flock(opened->number(), LOCK_EX | LOCK_NB) == 0;
    // An empty log is that of a run that is about to begin.
    if (locked && (fs::file_size(log, failed) > 0 || monotonic_now() >= deadline)) {
      v1::Event event;
      *event.mutable_noted() = safe;
      return report::append_event(log, std::move(event));
    }
    if (locked) {
      opened->reset();
      poll(nullptr, 0, kAgainMs);
      continue;
    }
    const Handing handing = hand_over(*opened, kNote + safe.SerializeAsString(), why);
    if (handing == Handing::kTaken) return ok();
    if (handing == Handing::kRefused || monotonic_now() >= deadline) break;
    poll(nullptr, 0, kAgainMs);
  }
  return error(StatusCode::kUnavailable, why.empty() ? "the run goes on, but takes no note"
                                                     : "the run does not take it: " + why);
}

Status halt_run(const fs::path& folder, const v1::HaltRequest& request) {
  const std::string message = kHalt + made_safe(request).SerializeAsString();
  const MonotonicTime deadline = monotonic_now() + kEndedWithin;
  bool told = false;
  std::string why;
  while (goes_on(folder)) {
    const auto opened = open_folder(folder);
    if (!opened.ok()) return opened.status();
    if (!told) {
      const Handing handing = hand_over(*opened, message, why);
      told = handing == Handing::kTaken;
      if (handing == Handing::kRefused) return error(StatusCode::kUnavailable, why);
    }
    if (monotonic_now() >= deadline) {
      return error(StatusCode::kUnavailable,
                   told ? "it was told to, and has not ended yet" : "it does not listen");
    }
    poll(nullptr, 0, kAgainMs);
  }
  return ok();
}

}  // namespace squall::cli
