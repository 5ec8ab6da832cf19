#include "injector/hold/holder.h"

#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/base/fd.h"
#include "experiments/fault/fault.h"
#include "injector/faults/spared.h"
#include "injector/hold/channel.h"
#include "injector/hold/requests.h"

namespace squall::hold {
namespace {

/// How late a holder may be to end its fault before the kernel ends the holder.
constexpr Duration kGrace = std::chrono::milliseconds(500);
/// Between two steps of a number that changes.
constexpr Duration kStep = std::chrono::milliseconds(100);
/// How long an answer may wait for room on the socket. Never before the effect has ended.
constexpr Duration kPatience = std::chrono::seconds(1);
constexpr MonotonicTime kNever = MonotonicTime::max();

timespec to_timespec(MonotonicTime time) {
  const std::int64_t ns = to_ns(time);
  return {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
}

/// Ends this process at a time by the kernel alone, also if it is stopped then: what lives by its
/// holder, as a trace does, must not outlive its lease when everybody who could end it is frozen.
/// Source: timer_create(2); SIGKILL is the one signal that a stopped process does not put off.
class LastResort {
 public:
  LastResort() {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    armed_ = ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
  }
  LastResort(const LastResort&) = delete;
  LastResort& operator=(const LastResort&) = delete;
  ~LastResort() {
    if (armed_) ::timer_delete(timer_);
  }

  bool is_there() const { return armed_; }

  /// kNever: not at all.
  void at(MonotonicTime time) const {
    itimerspec alarm{};
    if (time != kNever) alarm.it_value = to_timespec(time);
    ::timer_settime(timer_, TIMER_ABSTIME, &alarm, nullptr);
  }

 private:
  timer_t timer_{};
  bool armed_ = false;
};

/// What a fault's start takes of the heap and of the stack, touched ahead of time: each page costs
/// a fault of the processor's at its first touch, and glibc would give the heap's end back after
/// each message and take it anew for the next.
[[gnu::noinline]] void touch_memory() {
  constexpr std::size_t kPiece = 64 * 1024;  // small enough to come from the heap
  constexpr std::size_t kPieces = 6;
  constexpr std::size_t kPage = 4096;
  ::mallopt(M_TRIM_THRESHOLD, 2 * kPieces * kPiece);
  ::mallopt(M_ARENA_MAX, 1);  // what is touched here is for every thread
  const auto touch = [](volatile char* start, std::size_t size) {
    for (std::size_t i = 0; i < size; i += kPage) start[i] = 0;
  };
  std::array<std::unique_ptr<char[]>, kPieces> heap;
  for (std::unique_ptr<char[]>& piece : heap) {
    piece = std::make_unique<char[]>(kPiece);
    touch(piece.get(), kPiece);
  }
  // A message is received on the stack.
  char stack[2 * kMaxMessage];
  touch(stack, sizeof stack);
}

enum class Wake { kMessage, kDeadline, kEnd, kSignal, kWatched };

class Holder {
 public:
  Holder(int socket, std::span<const FaultKind> kinds) : socket_(socket), kinds_(kinds) {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int number : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&ending, number);
    // Before a fault starts threads of its own, which inherit the mask.
    pthread_sigmask(SIG_BLOCK, &ending, nullptr);
    signals_.reset(::signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
    timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  }

  int run(bool spare) {
    if (!signals_.is_open() || !timer_.is_open() || !last_resort_.is_there()) return EXIT_FAILURE;
    if (spare) warm_up();
    v1::ToHolder request;
    if (wait(kNever, request) != Wake::kMessage) return EXIT_SUCCESS;
    switch (request.what_case()) {
      case v1::ToHolder::kStart:
        return hold(request.start());
      case v1::ToHolder::kLook: {
        v1::FromHolder answer;
        *answer.mutable_looked() = look(kinds_, request.look());
        return say(answer, kPatience);
      }
      case v1::ToHolder::kSweep: {
        v1::FromHolder answer;
        *answer.mutable_swept() = sweep(request.sweep());
        return say(answer, kPatience);
      }
      case v1::ToHolder::kRead:
        return read();
      default:
        return EXIT_SUCCESS;  // a release or a stray message before any fault: nothing to end
    }
  }

 private:
  void warm_up() const {
    for (const FaultKind& kind : kinds_) {
      if (kind.warm_up != nullptr) kind.warm_up();
    }
    rehearse();
    touch_memory();
    // All pages in memory: neither a fault's start nor its end waits for one, on a node short of
    // memory least of all. Refused: it is slower.
    ::mlockall(MCL_CURRENT);
  }

  /// Says to itself what will be said, and looks at it: protobuf makes what it knows of a type when
  /// that is first needed, which would be half a millisecond of a fault's start.
  void rehearse() const {
    const StatusOr<Pair> own = make_pair();
    if (!own.ok()) return;
    for (const FaultKind& kind : kinds_) {
      v1::ToHolder said;
      v1::Fault& fault = *said.mutable_start()->mutable_fault();
      fault.GetReflection()->MutableMessage(&fault,
                                            fault.GetDescriptor()->FindFieldByNumber(kind.kind));
      v1::ToHolder heard;
      if (!send_message(own->daemon.number(), said).ok() ||
          !receive_message(own->holder.number(), heard).ok()) {
        return;
      }
      static_cast<void>(names_nothing_protected(heard.start().fault()));
    }
    v1::FromHolder told;
    told.mutable_undos()->add_undos();
    send_message(own->holder.number(), told).IgnoreError();
    told.mutable_applied()->mutable_evidence();
    send_message(own->holder.number(), told).IgnoreError();
  }

  int read() {
    StatusOr<std::vector<std::string>> lines = read_node();
    if (!lines.ok()) {
      v1::FromHolder answer;
      answer.mutable_failed()->set_code(static_cast<int>(lines.status().code()));
      answer.mutable_failed()->set_message(message_of(lines.status()));
      return say(answer, kPatience);
    }
    for (v1::Fingerprint& part : in_parts(*std::move(lines))) {
      v1::FromHolder answer;
      *answer.mutable_fingerprint() = std::move(part);
      if (say(answer, kPatience) != EXIT_SUCCESS) return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
  }

  int hold(const v1::Start& start) {
    lease_end_ = from_ns(start.lease_end());
    protect(start.spared());
    if (const Status allowed = names_nothing_protected(start.fault()); !allowed.ok()) {
      return fail(allowed, {});
    }
    const FaultKind* kind = find_kind(kinds_, start.fault());
    if (kind == nullptr) {
      return fail(error(StatusCode::kUnimplemented, "this node knows no such fault kind"), {});
    }
    const bool at_once = kind->at_once && !start.fault().has_for_();
    if (!kind->at_once && !start.fault().has_for_()) {
      return fail(error(StatusCode::kInvalidArgument,
                        "fault.for: required, for a " + std::string(kind->name) + " fault lasts"),
                  {});
    }
    const std::unique_ptr<Fault> fault = kind->make(start);
    const StatusOr<std::vector<v1::Undo>> undos = fault->prepare();
    if (!undos.ok()) return fail(undos.status(), {});
    failpoint<"holder.prepared">();
    v1::FromHolder told;
    told.mutable_undos()->mutable_undos()->Assign(undos->begin(), undos->end());
    if (say(told, kPatience) != EXIT_SUCCESS) return EXIT_FAILURE;
    failpoint<"holder.undos_told">();
    if (const Status ready = fault->make_ready(); !ready.ok()) return fail(ready, {});

    v1::ToHolder request;
    const Wake wake = wait(lease_end_, request);
    if (wake != Wake::kMessage || !request.has_go()) {
      return tell_end(reason_of(wake), v1::Evidence(), {});  // nothing was changed
    }

    failpoint<"holder.go_heard">();
    const Duration lasts = at_once ? Duration::max() : Duration(start.fault().for_());
    const auto end_of = [&](MonotonicTime from) {
      return lasts > kNever - from ? kNever : from + lasts;
    };
    fault_end_ = end_of(monotonic_now());
    if (const Status applied = fault->apply(deadline()); !applied.ok()) {
      const Status ended = fault->end_effect();
      return fail(applied, residue_of(ended, fault->clean_up()));
    }
    failpoint<"holder.applied">();
    fault_end_ = end_of(monotonic_now());
    if (!at_once) last_resort_.at(deadline() + kGrace);
    Status standing = fault->pulse(deadline());
    told.Clear();
    *told.mutable_applied()->mutable_evidence() = fault->evidence();
    say(told);
    failpoint<"holder.applied_told">();

    const v1::EndReason reason =
        !standing.ok() ? v1::OBJECTS_GONE : hold_on(*fault, start.fault(), at_once, standing);
    last_resort_.at(kNever);
    // Before the effect ends: what the kernel counted goes with the objects that counted it.
    const v1::Evidence last = fault->evidence();
    failpoint<"holder.end_decided">();
    const Status ended = fault->end_effect();
    failpoint<"holder.effect_ended">();
    v1::FromHolder over;
    over.mutable_effect_ended()->set_reason(reason);
    *over.mutable_effect_ended()->mutable_evidence() = last;
    say(over);
    failpoint<"holder.end_told">();
    const std::vector<std::string> residue = residue_of(ended, fault->clean_up());
    failpoint<"holder.cleaned_up">();
    if (!standing.ok()) return fail(standing, residue);
    v1::FromHolder released;
    released.mutable_released()->mutable_residue()->Assign(residue.begin(), residue.end());
    return say(released, kPatience);
  }

  /// Pulses until the fault must end, and sets anew what changes. `standing`: what was found wrong,
  /// if that is why.
  v1::EndReason hold_on(Fault& fault, const v1::Fault& wanted, bool at_once, Status& standing) {
    const MonotonicTime begun = monotonic_now();
    const MonotonicTime unchanging = begun + longest_ramp(wanted);
    MonotonicTime changes = unchanging == begun ? kNever : begun + kStep;
    for (;;) {
      if (at_once && fault.is_done()) return v1::DURATION_OVER;
      v1::ToHolder request;
      const Wake wake = wait(std::min(deadline(), changes), request, fault.watched());
      const MonotonicTime now = monotonic_now();
      if (wake == Wake::kDeadline && now < deadline()) {
        standing = fault.become(fault_at(wanted, now - begun));
        if (!standing.ok()) return v1::OBJECTS_GONE;
        // From now on: however long it took, messages and signals are looked at in between.
        changes = now >= unchanging ? kNever : monotonic_now() + kStep;
        continue;
      }
      if (wake == Wake::kWatched) {
        standing = fault.look_again();
        if (!standing.ok()) return v1::OBJECTS_GONE;
        continue;
      }
      if (wake != Wake::kMessage) return reason_of(wake);
      if (request.has_release()) return v1::RELEASED;
      if (!request.has_pulse()) continue;
      lease_end_ = std::max(lease_end_, from_ns(request.pulse().lease_end()));
      if (request.pulse().hosts_size() > 0) standing = fault.resolved(request.pulse().hosts());
      if (standing.ok()) standing = fault.pulse(deadline());
      if (!standing.ok()) return v1::OBJECTS_GONE;
      if (!at_once) last_resort_.at(deadline() + kGrace);
      v1::FromHolder told;
      *told.mutable_evidence() = fault.evidence();
      say(told);
      failpoint<"holder.pulsed">();
    }
  }

  /// Waits for the next message, but looks at the clock first, then at the signals, and only then
  /// at the socket.
  Wake wait(MonotonicTime until, v1::ToHolder& message, int watched = -1) {
    itimerspec alarm{};
    if (until != kNever) alarm.it_value = to_timespec(until);
    ::timerfd_settime(timer_.number(), TFD_TIMER_ABSTIME, &alarm, nullptr);
    for (;;) {
      pollfd waiting[] = {{.fd = socket_, .events = POLLIN, .revents = 0},
                          {.fd = signals_.number(), .events = POLLIN, .revents = 0},
                          {.fd = timer_.number(), .events = POLLIN, .revents = 0},
                          {.fd = watched, .events = POLLIN, .revents = 0}};
      ::poll(waiting, 4, -1);
      if (monotonic_now() >= until) return Wake::kDeadline;
      if (waiting[1].revents != 0) return Wake::kSignal;
      const StatusOr<Received> received = receive_message(socket_, message);
      if (!received.ok()) return Wake::kEnd;  // a daemon that talks nonsense is as good as gone
      if (*received == Received::kMessage) return Wake::kMessage;
      if (*received == Received::kEnd) return Wake::kEnd;
      if (waiting[3].revents != 0) return Wake::kWatched;
    }
  }

  MonotonicTime deadline() const { return std::min(lease_end_, fault_end_); }

  v1::EndReason reason_of(Wake wake) const {
    switch (wake) {
      case Wake::kDeadline:
        return fault_end_ <= lease_end_ ? v1::DURATION_OVER : v1::LEASE_LAPSED;
      case Wake::kEnd:
        return v1::DAEMON_GONE;
      case Wake::kSignal:
        return v1::TERMINATED;
      case Wake::kMessage:
      case Wake::kWatched:
        break;
    }
    return v1::RELEASED;
  }

  static std::vector<std::string> residue_of(const Status& ended, std::vector<std::string> found) {
    if (!ended.ok()) found.insert(found.begin(), "the effect was not ended: " + message_of(ended));
    return found;
  }

  int fail(const Status& why, const std::vector<std::string>& residue) {
    v1::FromHolder told;
    told.mutable_failed()->set_code(static_cast<int>(why.code()));
    told.mutable_failed()->set_message(message_of(why));
    told.mutable_failed()->mutable_residue()->Assign(residue.begin(), residue.end());
    return say(told, kPatience);
  }

  int tell_end(v1::EndReason reason, const v1::Evidence& last,
               const std::vector<std::string>& residue) {
    v1::FromHolder over;
    over.mutable_effect_ended()->set_reason(reason);
    *over.mutable_effect_ended()->mutable_evidence() = last;
    say(over, kPatience);
    v1::FromHolder released;
    released.mutable_released()->mutable_residue()->Assign(residue.begin(), residue.end());
    return say(released, kPatience);
  }

  /// A daemon that does not listen must never keep the fault from ending: what cannot be said is
  /// not said.
  int say(const v1::FromHolder& message, Duration patience = Duration::zero()) {
    return send_message(socket_, message, patience).ok() ? EXIT_SUCCESS : EXIT_FAILURE;
  }

  int socket_;
  std::span<const FaultKind> kinds_;
  Fd signals_;
  Fd timer_;
  LastResort last_resort_;
  MonotonicTime lease_end_ = kNever;
  MonotonicTime fault_end_ = kNever;
};

}  // namespace

int hold(int socket, std::span<const FaultKind> kinds, bool spare) {
  return Holder(socket, kinds).run(spare);
}

void die_with_daemon(int socket) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  // The daemon may have died before the line above; then nobody would ever send the signal.
  ucred maker{};
  socklen_t size = sizeof maker;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &maker, &size) == 0 && maker.pid > 0 &&
      ::getppid() != maker.pid) {
    std::exit(EXIT_SUCCESS);
  }
}

}  // namespace squall::hold
