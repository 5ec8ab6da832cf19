#include "controller/cli/notes.h"

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
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/cli/outside.h"
#include "controller/report/event_log.h"
#include "controller/report/story.h"
#include "experiments/base/clock.h"
#include "experiments/base/diagnostic.h"
#include "experiments/base/fd.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using Socket = asio::local::stream_protocol::socket;

constexpr const char* kSocketName = "notes.sock";
constexpr const char* kReply = "taken";
/// With what cannot be shown escaped.
constexpr std::size_t kLongestEscaped = 4 * kLongestNote;
/// Of a note with its name and kind, on the wire.
constexpr std::size_t kLongestMessage = 3 * kLongestEscaped;
/// How long somebody who connects may take to say what he has to say.
constexpr Duration kSaidWithin = std::chrono::seconds(2);
/// How long a run may take to take a note, the moments in which it begins and ends included.
constexpr Duration kTakenWithin = std::chrono::seconds(5);
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

enum class Handing { kTaken, kRefused, kNobody };

/// Says it to the run that listens in the folder, and what came of it.
Handing hand_over(const Fd& folder, const v1::Noted& note, std::string& why) {
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
  const std::string message = note.SerializeAsString();
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
struct NoteTaker::Listening {
  Listening(asio::io_context& loop, Fd locked, std::function<void(v1::Noted)> into)
      : folder(std::move(locked)), acceptor(loop), take(std::move(into)) {}

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
    v1::Noted note;
    Status taken = ended == asio::error::eof && note.ParseFromString(message)
                       ? check_note(note, kLongestEscaped)
                       : error(StatusCode::kInvalidArgument, "this is no note");
    if (taken.ok()) self->take(made_safe(std::move(note)));
    const std::string reply = taken.ok() ? kReply : message_of(taken);
    // At once, before the loop may be stopped: who is not answered says it again. So short a word
    // always has room.
    boost::system::error_code ignored;
    socket->write_some(asio::buffer(reply), ignored);
  }

  Fd folder;  ///< Locked as long as it is open.
  asio::local::stream_protocol::acceptor acceptor;
  std::function<void(v1::Noted)> take;
  std::vector<std::weak_ptr<Socket>> open;  ///< Conversations.
};

StatusOr<std::unique_ptr<NoteTaker>> NoteTaker::start(asio::io_context& loop,
                                                      const fs::path& folder,
                                                      std::function<void(v1::Noted)> take) {
  auto opened = open_folder(folder);
  if (!opened.ok()) return opened.status();
  if (flock(opened->number(), LOCK_EX | LOCK_NB) != 0) {
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
  const auto listening = std::make_shared<Listening>(loop, *std::move(opened), std::move(take));
  listening->acceptor.assign(asio::local::stream_protocol(), socket.release());
  asio::co_spawn(loop, Listening::accept(listening), asio::detached);
  return std::unique_ptr<NoteTaker>(new NoteTaker(listening));
}

NoteTaker::NoteTaker(std::shared_ptr<Listening> listening) : listening_(std::move(listening)) {}

NoteTaker::~NoteTaker() {
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
    const auto opened = open_folder(folder);
    if (!opened.ok()) return opened.status();
    if (flock(opened->number(), LOCK_EX | LOCK_NB) == 0) {
      v1::Event event;
      *event.mutable_noted() = safe;
      return report::append_event(log, std::move(event));
    }
    const Handing handing = hand_over(*opened, safe, why);
    if (handing == Handing::kTaken) return ok();
    if (handing == Handing::kRefused || monotonic_now() >= deadline) break;
    poll(nullptr, 0, kAgainMs);
  }
  return error(StatusCode::kUnavailable, why.empty() ? "the run goes on, but takes no note"
                                                     : "the run does not take it: " + why);
}

int note(const Invocation& said) {
  const fs::path named = run_folder(said, said.run);
  if (named.empty()) {
    complain("there is no run yet in " + runs_folder(said));
    return kRefused;
  }
  v1::Noted note;
  note.set_by(who());
  note.set_kind(said.kind);
  note.set_text(said.text);
  const fs::path folder = named.filename() == "events.jsonl" ? named.parent_path() : named;
  const Status kept = keep_note(folder, note);
  if (!kept.ok()) {
    complain(escape_controls(message_of(kept)));
    return kept.code() == StatusCode::kUnavailable ? kUnreachable
           : kept.code() == StatusCode::kInvalidArgument || kept.code() == StatusCode::kNotFound
               ? kRefused
               : kInternal;
  }
  std::printf("noted of %s: %s\n", escape_controls(folder.filename().string()).c_str(),
              escape_controls(report::note_text({{}, "", note.kind(), note.text()})).c_str());
  return kSuccess;
}

}  // namespace squall::cli
