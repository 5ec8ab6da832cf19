/// \file
/// kill: ends processes by a signal.
///
/// Targets are held by pidfd from the moment they are chosen, so a number that is given to another
/// process is never signalled. There is nothing to undo: what is held for a while is the patience
/// with those that may end by themselves, and the watch for those that take their place.
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <set>
#include <utility>

#include "experiments/base/failpoint.h"
#include "injector/faults/fault.h"
#include "injector/faults/processes.h"

namespace squall::hold {
namespace {

/// How long a signalled process is given to be gone before the evidence is written.
constexpr Duration kGoneWithin = std::chrono::seconds(1);
/// Between two looks for those that take the targets' place, or longer: the looks shall not take
/// more than a twentieth of a processor.
constexpr Duration kLookEvery = std::chrono::milliseconds(10);
constexpr int kShareOfLooks = 20;

int number_of(v1::Signal signal) {
  switch (signal) {
    case v1::SIGNAL_TERM:
      return SIGTERM;
    case v1::SIGNAL_INT:
      return SIGINT;
    case v1::SIGNAL_HUP:
      return SIGHUP;
    case v1::SIGNAL_QUIT:
      return SIGQUIT;
    case v1::SIGNAL_USR1:
      return SIGUSR1;
    case v1::SIGNAL_USR2:
      return SIGUSR2;
    case v1::SIGNAL_ABRT:
      return SIGABRT;
    default:
      return SIGKILL;
  }
}

/// Signals that a process is expected to end at; HUP, USR1 and USR2 mean something else to most
/// servers.
bool is_deadly(v1::Signal signal) {
  return signal != v1::SIGNAL_HUP && signal != v1::SIGNAL_USR1 && signal != v1::SIGNAL_USR2;
}

StatusOr<Selection> select(const v1::Fault& fault) {
  return select_processes(fault.kill().process(), fault.kill().pick(), fault.seed());
}

/// A process for as long as the node runs.
using Identity = std::pair<std::uint32_t, std::uint64_t>;

Identity identity_of(const Target& target) { return {target.pid, target.start_time}; }

class Kill final : public Fault {
 public:
  explicit Kill(const v1::Fault& fault) : fault_(fault), wanted_(fault.kill()) {}

  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Selection> selection = select(fault_);
    if (!selection.ok()) return selection.status();
    for (const auto* targets : {&selection->targets, &selection->unpicked}) {
      for (const Target& target : *targets) known_.insert(identity_of(target));
    }
    chosen_ = std::move(selection->targets);
    return std::vector<v1::Undo>();
  }

  /// Errors: kPermissionDenied; kNotFound if every target was gone before it was signalled.
  Status apply(MonotonicTime) override {
    Status problem = error(StatusCode::kNotFound, "every target ended before it was signalled");
    std::size_t signalled = 0;
    struck_ = monotonic_now();
    for (Target& target : chosen_) {
      const bool sent = signal(target, number_of(wanted_.signal()));
      if (!sent && errno == ESRCH) continue;
      if (sent) {
        failpoint<"kill.signalled">();
        ++signalled;
      } else {
        problem = from_errno("signalling " + std::to_string(target.pid), errno);
      }
      fates_.push_back({.signalled = sent});
      victims_.push_back(std::move(target));
    }
    chosen_.clear();
    if (signalled == 0) return problem;
    if (wanted_.has_grace()) {
      wait_until_ = struck_ + Duration(wanted_.grace());
    } else if (is_deadly(wanted_.signal())) {
      wait_for_ends(monotonic_now() + kGoneWithin);
    }
    if (wanted_.respawn() == v1::WATCH) look_at_ = monotonic_now();
    return watch();
  }

  Status pulse(MonotonicTime) override { return ok(); }

  int watched() const override { return watched_.number(); }

  Status look_again() override {
    std::array<epoll_event, 64> told{};
    const int count = ::epoll_wait(watched_.number(), told.data(), std::ssize(told), 0);
    for (int i = 0; i < count; ++i) {
      // An end stays readable: told once, it is no news any more.
      const int number = told[static_cast<std::size_t>(i)].data.fd;
      if (number != timer_.number()) {
        ::epoll_ctl(watched_.number(), EPOLL_CTL_DEL, number, nullptr);
      }
    }
    const MonotonicTime now = monotonic_now();
    if (wait_until_ && all_gone()) wait_until_.reset();
    if (wait_until_ && now >= *wait_until_) insist();
    if (look_at_ && now >= *look_at_) look_for_others();
    arm();
    return ok();
  }

  bool is_done() const override { return !wait_until_; }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::KillEvidence& kill = *evidence.mutable_kill();
    tell(victims_, *kill.mutable_victims());
    bool delivered = !victims_.empty();
    bool all_gone = true;
    for (std::size_t i = 0; i < victims_.size(); ++i) {
      v1::KillEvidence::Victim& victim = *kill.mutable_victims(static_cast<int>(i));
      victim.set_gone(has_ended(victims_[i]));
      victim.set_insisted(fates_[i].insisted);
      delivered = delivered && fates_[i].signalled;
      all_gone = all_gone && victim.gone();
    }
    // A process may catch any other signal, and that it was delivered is then all that can be
    // shown. Once it got SIGKILL for it, it must be gone.
    const bool may_live =
        wanted_.signal() != v1::SIGNAL_KILL && (!wanted_.has_grace() || !insisted_);
    evidence.set_effect(delivered && (all_gone || may_live));
    kill.set_respawned(others_);
    if (respawn_time_) kill.set_respawn_time(respawn_time_->count());
    return evidence;
  }

  Status end_effect() override {
    wait_until_.reset();
    look_at_.reset();
    return ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  struct Fate {
    bool signalled = false;  // else the kernel refused it
    bool insisted = false;
  };

  static bool signal(const Target& target, int number) {
    return ::syscall(SYS_pidfd_send_signal, target.pidfd.number(), number, nullptr, 0) == 0;
  }

  bool all_gone() const { return std::all_of(victims_.begin(), victims_.end(), has_ended); }

  void wait_for_ends(MonotonicTime until) const {
    for (std::size_t i = 0; i < victims_.size(); ++i) {
      if (fates_[i].signalled) ends_by(victims_[i], until);
    }
  }

  /// The grace is over; or that which those are given who got SIGKILL for it.
  void insist() {
    wait_until_.reset();
    if (std::exchange(insisted_, true)) return;
    for (std::size_t i = 0; i < victims_.size(); ++i) {
      if (has_ended(victims_[i])) continue;
      if (signal(victims_[i], SIGKILL)) fates_[i].insisted = true;
    }
    wait_until_ = monotonic_now() + kGoneWithin;
  }

  void look_for_others() {
    const MonotonicTime begun = monotonic_now();
    const StatusOr<std::vector<Target>> standing = select_processes(wanted_.process());
    const MonotonicTime now = monotonic_now();
    std::uint32_t others = 0;
    if (standing.ok()) {
      for (const Target& target : *standing) others += known_.contains(identity_of(target)) ? 0 : 1;
    }
    const auto places = static_cast<std::uint32_t>(victims_.size());
    others_ = std::min(others, places);
    // Seen by a look that began before they were gone, the others may stand beside them.
    if (!respawn_time_ && others_ == places && all_gone()) respawn_time_ = now - struck_;
    look_at_ = now + std::max(kLookEvery, kShareOfLooks * (now - begun));
  }

  /// Wakes the holder at what is due, and at the targets' ends while those are waited for.
  Status watch() {
    if (!wait_until_ && !look_at_) return ok();
    watched_.reset(::epoll_create1(EPOLL_CLOEXEC));
    timer_.reset(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!watch_one(timer_.number())) return from_errno("epoll", errno);
    if (wait_until_) {
      for (const Target& victim : victims_) {
        if (!watch_one(victim.pidfd.number())) return from_errno("epoll", errno);
      }
    }
    arm();
    return ok();
  }

  bool watch_one(int number) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = number;
    return ::epoll_ctl(watched_.number(), EPOLL_CTL_ADD, number, &event) == 0;
  }

  void arm() const {
    const std::optional<MonotonicTime> due = wait_until_ && look_at_
                                                 ? std::min(wait_until_, look_at_)
                                             : wait_until_ ? wait_until_
                                                           : look_at_;
    itimerspec alarm{};
    if (due) {
      const std::int64_t ns = to_ns(*due);
      alarm.it_value = {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
    }
    ::timerfd_settime(timer_.number(), TFD_TIMER_ABSTIME, &alarm, nullptr);
  }

  v1::Fault fault_;
  v1::Kill wanted_;
  std::vector<Target> chosen_;
  std::vector<Target> victims_;
  std::vector<Fate> fates_;   // of each victim
  std::set<Identity> known_;  // all that matched before
  MonotonicTime struck_;
  std::optional<MonotonicTime> wait_until_;  // for the targets' ends
  bool insisted_ = false;
  std::optional<MonotonicTime> look_at_;
  std::optional<Duration> respawn_time_;
  std::uint32_t others_ = 0;
  Fd timer_;
  Fd watched_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Kill>(start.fault());
}

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const StatusOr<Selection> selection = select(request.fault());
  if (!selection.ok()) return refused(selection.status());
  tell(*selection, looked);
  return looked;
}

}  // namespace

extern const FaultKind kKill;
const FaultKind kKill{
    .kind = v1::Fault::kKill, .name = "kill", .make = make, .look = look, .at_once = true};

}  // namespace squall::hold
