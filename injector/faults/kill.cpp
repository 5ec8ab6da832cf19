/// \file
/// kill: ends processes by a signal.
///
/// Targets are held by pidfd from the moment they are chosen, so a number that is given to another
/// process is never signalled. Done at once: there is nothing to undo, and nothing is held.
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "injector/faults/fault.h"
#include "injector/faults/processes.h"

namespace squall::hold {
namespace {

/// How long a signalled process is given to be gone before the evidence is written.
constexpr Duration kGrace = std::chrono::seconds(1);

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

bool is_gone(const Target& target) {
  pollfd end{.fd = target.pidfd.number(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, 0) == 1;
}

class Kill final : public Fault {
 public:
  explicit Kill(const v1::Kill& wanted) : wanted_(wanted) {}

  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<std::vector<Target>> targets = select_processes(wanted_.process());
    if (!targets.ok()) return targets.status();
    targets_ = *std::move(targets);
    return std::vector<v1::Undo>();
  }

  /// Errors: kPermissionDenied; kNotFound if every target was gone before it was signalled.
  Status apply(MonotonicTime) override {
    Status problem = error(StatusCode::kNotFound, "every target ended before it was signalled");
    for (Target& target : targets_) {
      if (::syscall(SYS_pidfd_send_signal, target.pidfd.number(), number_of(wanted_.signal()),
                    nullptr, 0) == 0) {
        signalled_.push_back(std::move(target));
      } else if (errno != ESRCH) {
        problem = from_errno("signalling " + std::to_string(target.pid), errno);
        spared_.push_back(std::move(target));
      }
    }
    if (signalled_.empty()) return problem;
    if (is_deadly(wanted_.signal())) wait_for_ends();
    return ok();
  }

  Status pulse(MonotonicTime) override { return ok(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    bool all_gone = true;
    for (const std::vector<Target>* targets : {&signalled_, &spared_}) {
      for (const Target& target : *targets) {
        v1::KillEvidence::Victim* victim = evidence.mutable_kill()->add_victims();
        victim->set_pid(target.pid);
        victim->set_start_time(target.start_time);
        victim->set_command(target.command);
        victim->set_gone(is_gone(target));
        all_gone = all_gone && victim->gone();
      }
    }
    // A process may catch any other signal, and that it was delivered is then all that can be
    // shown.
    const bool delivered = !signalled_.empty() && spared_.empty();
    evidence.set_effect(delivered && (all_gone || wanted_.signal() != v1::SIGNAL_KILL));
    return evidence;
  }

  Status end_effect() override { return ok(); }
  std::vector<std::string> clean_up() override { return {}; }

 private:
  void wait_for_ends() const {
    const MonotonicTime until = monotonic_now() + kGrace;
    for (const Target& target : signalled_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
      pollfd end{.fd = target.pidfd.number(), .events = POLLIN, .revents = 0};
      ::poll(&end, 1, static_cast<int>(std::max<long>(left.count(), 0)));
    }
  }

  v1::Kill wanted_;
  std::vector<Target> targets_;
  std::vector<Target> signalled_;
  std::vector<Target> spared_;  // the kernel refused to signal them
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Kill>(start.fault().kill());
}

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const auto targets = select_processes(request.fault().kill().process());
  if (!targets.ok()) return refused(targets.status());
  for (const Target& target : *targets) {
    v1::KillEvidence::Victim* victim = looked.add_targets();
    victim->set_pid(target.pid);
    victim->set_start_time(target.start_time);
    victim->set_command(target.command);
  }
  return looked;
}

}  // namespace

extern const FaultKind kKill;
const FaultKind kKill{
    .kind = v1::Fault::kKill, .name = "kill", .make = make, .look = look, .at_once = true};

}  // namespace squall::hold
