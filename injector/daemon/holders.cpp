#include "injector/daemon/holders.h"

#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "injector/daemon/log.h"
#include "injector/hold/channel.h"

namespace squall::daemon {
namespace {

constexpr Duration kRetirement = std::chrono::seconds(1);
/// A spare that starts takes processor time from what is being applied or read: it waits until
/// nothing has been asked of a holder during this.
constexpr Duration kLull = std::chrono::milliseconds(20);

std::string how_it_ended(const siginfo_t& info) {
  if (info.si_code == CLD_EXITED) return "exited with code " + std::to_string(info.si_status);
  return "was killed by signal " + std::to_string(info.si_status);
}

}  // namespace

Duration patience_for(const google::protobuf::RepeatedPtrField<v1::Undo>& undos) {
  constexpr Duration kReadPatience = std::chrono::seconds(10);
  constexpr Duration kLongestDrain = std::chrono::minutes(10);
  std::int64_t longest = 0;
  for (const v1::Undo& undo : undos) {
    longest = std::max({longest, undo.remove_link().drain(), undo.run_program().timeout(),
                        undo.start_unit().timeout()});
  }
  return std::clamp(Duration(longest), Duration::zero(), kLongestDrain) + kReadPatience;
}

HolderProcess::HolderProcess(Loop& loop, Spawned spawned)
    : pid_(spawned.pid), start_time_(spawned.start_time) {
  socket_ = std::make_unique<Watch>(loop, std::move(spawned.socket), [this] { read_all(); });
  pidfd_ = std::make_unique<Watch>(loop, std::move(spawned.pidfd), [this] { ended(); });
}

// Not killed: where the daemon goes in haste, its holders must still undo.
HolderProcess::~HolderProcess() = default;

void HolderProcess::hang_up() {
  silent_ = true;
  socket_.reset();
}

Status HolderProcess::send(const v1::ToHolder& message) {
  if (!socket_) return error(StatusCode::kUnavailable, "the holder is gone");
  return hold::send_message(socket_->number(), message);
}

bool HolderProcess::has_ended() const {
  if (gone_) return true;
  pollfd end{.fd = pidfd_->number(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, 0) == 1;
}

void HolderProcess::kill() {
  if (!gone_) ::syscall(SYS_pidfd_send_signal, pidfd_->number(), SIGKILL, nullptr, 0);
}

void HolderProcess::read_all() {
  while (!silent_) {
    v1::FromHolder message;
    const StatusOr<hold::Received> received = hold::receive_message(socket_->number(), message);
    if (received.ok() && *received == hold::Received::kNothing) return;
    if (received.ok() && *received == hold::Received::kMessage) {
      const auto tell = on_message;  // which may replace on_message
      if (tell) tell(message);
      continue;
    }
    // Closed, or nonsense: whatever it is now, it is no holder any more. Its end is told by the
    // pidfd.
    hang_up();
    kill();
  }
}

void HolderProcess::ended() {
  siginfo_t info{};
  const bool waited =
      ::waitid(P_PIDFD, static_cast<id_t>(pidfd_->number()), &info, WEXITED | WNOHANG) == 0;
  if (waited ? info.si_pid == 0 : errno != ECHILD) return;
  if (socket_) read_all();  // what it still said before it died
  gone_ = true;
  socket_.reset();
  pidfd_.reset();
  if (on_gone) {
    const auto tell = on_gone;
    tell(waited ? how_it_ended(info) : "ended");
  }
}

struct Holders::Retired {
  Retired(Loop& loop, std::unique_ptr<HolderProcess> kept) : holder(std::move(kept)), limit(loop) {}
  std::unique_ptr<HolderProcess> holder;
  Timer limit;
};

struct Holders::Question {
  Question(Loop& loop, Answered call) : limit(loop), answered(std::move(call)) {}
  std::unique_ptr<HolderProcess> holder;
  Timer limit;
  Answered answered;
  v1::FromHolder answer;
};

Holders::Holders(Loop& loop, std::string program)
    : loop_(loop),
      program_(std::move(program)),
      spawner_(std::make_unique<Worker>()),
      lull_(loop) {}

Holders::~Holders() { *alive_ = false; }

void Holders::spawn(bool spare, Taken taken) {
  spawner_->post(
      [this, alive = alive_, &loop = loop_, program = program_, spare, taken = std::move(taken)] {
        auto spawned = std::make_shared<StatusOr<Spawned>>(spawn_holder(program, spare));
        loop.post([this, alive, &loop, spawned, taken] {
          if (!*alive) return;
          if (!spawned->ok()) {
            taken(spawned->status());
          } else {
            taken(std::make_unique<HolderProcess>(loop, *std::move(*spawned)));
          }
        });
      });
}

void Holders::keep_spare() {
  lull_.at(monotonic_now() + kLull, [this] { start_spare(); });
}

void Holders::start_spare() {
  if (spare_ || spawning_spare_) return;
  spawning_spare_ = true;
  spawn(true, [this](StatusOr<std::unique_ptr<HolderProcess>> holder) {
    spawning_spare_ = false;
    if (!holder.ok()) {
      log(LogLevel::kError, "event=no_spare why=" + quoted(message_of(holder.status())));
      return;
    }
    spare_ = *std::move(holder);
  });
}

void Holders::take(Taken taken) {
  keep_spare();
  if (spare_ && !spare_->has_ended()) return taken(std::move(spare_));
  spare_.reset();
  spawn(false, std::move(taken));
}

void Holders::ask(const v1::ToHolder& request, Duration patience, Answered answered) {
  if (!spare_) keep_spare();
  auto question = std::make_shared<Question>(loop_, std::move(answered));
  questions_.push_back(question);
  const auto finish = [this, weak = std::weak_ptr(question)](StatusOr<v1::FromHolder> answer) {
    const auto asked = weak.lock();
    if (!asked || !asked->answered) return;
    const Answered tell = std::exchange(asked->answered, nullptr);
    asked->limit.cancel();
    questions_.remove(asked);
    if (asked->holder) retire(std::move(asked->holder));
    tell(std::move(answer));
  };
  question->limit.at(monotonic_now() + patience, [finish] {
    finish(error(StatusCode::kDeadlineExceeded, "the holder did not answer in time"));
  });
  spawn(false, [this, question, finish, request](StatusOr<std::unique_ptr<HolderProcess>> holder) {
    if (!holder.ok()) return finish(holder.status());
    if (!question->answered) return retire(*std::move(holder));  // too late
    question->holder = *std::move(holder);
    question->holder->on_message = [question = question.get(), finish](const v1::FromHolder& part) {
      question->answer.MergeFrom(part);
      if (part.has_fingerprint() && part.fingerprint().more()) return;
      if (part.has_failed()) {
        finish(error(static_cast<StatusCode>(part.failed().code()), part.failed().message()));
      } else {
        finish(question->answer);
      }
    };
    question->holder->on_gone = [finish](const std::string& how) {
      finish(error(StatusCode::kInternal, "the holder " + how));
    };
    if (const Status sent = question->holder->send(request); !sent.ok()) finish(sent);
  });
}

void Holders::retire(std::unique_ptr<HolderProcess> holder) {
  holder->hang_up();
  retired_.emplace_front(loop_, std::move(holder));
  const auto place = retired_.begin();
  const auto drop = [this, place] {
    // Not now: this may be called from within the holder.
    place->limit.cancel();
    loop_.post([this, alive = alive_, place] {
      if (*alive) retired_.erase(place);
    });
  };
  if (place->holder->is_gone()) return drop();
  place->holder->on_gone = [drop](const std::string&) { drop(); };
  place->limit.at(monotonic_now() + kRetirement, [place] { place->holder->kill(); });
}

}  // namespace squall::daemon
