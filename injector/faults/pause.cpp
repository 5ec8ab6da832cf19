/// \file
/// pause: stops processes where they are; they go on from there when it ends.
///
/// Processes are stopped by ptrace: the kernel lets them go on when the holder ends, however it
/// ends, so there is nothing to undo. A control group is stopped by its freezer, which stays as it
/// was written: its way back is an undo.
#include <signal.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "injector/faults/fault.h"
#include "injector/faults/freezer.h"
#include "injector/faults/processes.h"
#include "injector/faults/protected.h"
#include "injector/faults/tracing.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

/// A thread that does not stop by then waits in the kernel for what may never come.
constexpr Duration kStopWithin = std::chrono::seconds(3);
/// Those that did not stop in time are let go when they do.
constexpr Duration kReleaseWithin = std::chrono::seconds(1);
constexpr Duration kStep = std::chrono::milliseconds(5);

StatusOr<Selection> select_to_trace(const v1::Fault& fault) {
  // First, for who may not trace others sees little of them.
  Status able = may_trace("processes are paused by ptrace", "pause their control group instead");
  if (!able.ok()) return able;
  StatusOr<Selection> selection =
      select_processes(fault.pause().process(), fault.pause().pick(), fault.seed());
  if (!selection.ok()) return selection;
  if (Status free = are_untraced(selection->targets); !free.ok()) return free;
  return selection;
}

/// Its tracees' ends are told by SIGCHLD, which is blocked and read from a descriptor meanwhile.
class ChildSignals {
 public:
  ChildSignals() {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    ::pthread_sigmask(SIG_BLOCK, &child, &before_);
    told_.reset(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  ChildSignals(const ChildSignals&) = delete;
  ChildSignals& operator=(const ChildSignals&) = delete;
  ~ChildSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  int number() const { return told_.number(); }

  void forget() const {
    signalfd_siginfo signal{};
    while (::read(told_.number(), &signal, sizeof signal) == sizeof signal) {
    }
  }

 private:
  sigset_t before_{};
  Fd told_;
};

/// By ptrace.
class PausedProcesses final : public Fault {
 public:
  explicit PausedProcesses(const v1::Fault& wanted) : wanted_(wanted) {}

  /// Errors: as may_trace(), select_processes() and are_untraced().
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Selection> selection = select_to_trace(wanted_);
    if (!selection.ok()) return selection.status();
    targets_ = std::move(selection->targets);
    return std::vector<v1::Undo>();
  }

  /// Errors: as Tracing::stop().
  Status apply(MonotonicTime) override {
    children_.emplace();
    return tracing_.stop(targets_, monotonic_now() + kStopWithin);
  }

  Status pulse(MonotonicTime) override { return look_again(); }

  int watched() const override { return children_ ? children_->number() : -1; }

  /// Errors: kFailedPrecondition when there is nothing left that is paused.
  Status look_again() override {
    if (!children_) return ok();
    children_->forget();
    tracing_.bury();
    if (std::any_of(targets_.begin(), targets_.end(),
                    [](const Target& target) { return !has_ended(target); })) {
      return ok();
    }
    return error(StatusCode::kFailedPrecondition,
                 "every paused process has ended, killed by somebody else");
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::PauseEvidence& pause = *evidence.mutable_pause();
    const Tracing::Standing standing = tracing_.standing();
    pause.set_processes(standing.processes);
    pause.set_threads(standing.threads);
    tell(targets_, *pause.mutable_targets());
    for (std::size_t i = 0; i < targets_.size(); ++i) {
      pause.mutable_targets(static_cast<int>(i))->set_gone(has_ended(targets_[i]));
    }
    evidence.set_effect(standing.processes > 0 && standing.running == 0);
    return evidence;
  }

  Status end_effect() override {
    tracing_.release();
    return ok();
  }

  std::vector<std::string> clean_up() override {
    const MonotonicTime until = monotonic_now() + kReleaseWithin;
    while (!tracing_.release() && monotonic_now() < until) {
      const timespec step{.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
      ::nanosleep(&step, nullptr);
    }
    return tracing_.residue();
  }

 private:
  v1::Fault wanted_;
  std::vector<Target> targets_;
  std::optional<ChildSignals> children_;
  Tracing tracing_;
};

struct Group {
  Freezer freezer;
  std::vector<std::uint32_t> processes;
};

/// The group, if it may be frozen and is not already. Errors: kNotFound for one that is not there,
/// or empty; kFailedPrecondition for one that holds what must live, or is frozen.
StatusOr<Group> find_group(const v1::Pause& wanted) {
  StatusOr<Freezer> freezer = Freezer::open(wanted);
  if (!freezer.ok()) return freezer.status();
  const std::string words = freezer->in_words();
  StatusOr<std::vector<std::uint32_t>> processes = freezer->processes();
  if (!processes.ok()) return processes.status();
  if (processes->empty()) {
    return error(StatusCode::kNotFound, words + " holds no process");
  }
  const Protection protection;
  for (const std::uint32_t pid : *processes) {
    if (const std::string why = protection.why_not_with(pid); !why.empty()) {
      return error(StatusCode::kFailedPrecondition, words + " holds " + why);
    }
  }
  const StatusOr<std::string> state = freezer->state();
  if (!state.ok()) return state.status();
  const StatusOr<bool> frozen = freezer->is_frozen();
  if (!frozen.ok()) return frozen.status();
  if (*state != freezer->thawed() || *frozen) {
    return error(StatusCode::kFailedPrecondition,
                 words + " is frozen already, " +
                     (*state != freezer->thawed() ? "by somebody else" : "with one above it"));
  }
  return Group{*std::move(freezer), *std::move(processes)};
}

/// By the freezer.
class FrozenGroup final : public Fault {
 public:
  explicit FrozenGroup(const v1::Fault& wanted) : wanted_(wanted.pause()) {}

  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Group> group = find_group(wanted_);
    if (!group.ok()) return group.status();
    freezer_ = std::move(group->freezer);
    StatusOr<Fd> lock = freezer_->lock();
    if (!lock.ok()) return lock.status();
    lock_ = *std::move(lock);
    const StatusOr<std::string> before = freezer_->state();
    if (!before.ok()) return before.status();
    std::vector<v1::Undo> undos(1);
    *undos[0].mutable_thaw_cgroup() = freezer_->undo(*before);
    undo_ = undos[0];
    return undos;
  }

  /// Errors: kFailedPrecondition if it was frozen meanwhile, or does not freeze.
  Status apply(MonotonicTime) override {
    const StatusOr<std::string> now = freezer_->state();
    if (!now.ok()) return now.status();
    if (*now != undo_.thaw_cgroup().before()) {
      return error(StatusCode::kFailedPrecondition,
                   freezer_->in_words() + " was frozen by somebody else meanwhile");
    }
    frozen_ = written_ = true;
    if (Status written = freezer_->write(freezer_->frozen()); !written.ok()) return written;
    if (Status stands = freezer_->wait_until_frozen(monotonic_now() + kStopWithin); !stands.ok()) {
      return stands;
    }
    return freezer_->watch();
  }

  Status pulse(MonotonicTime) override { return look_again(); }

  int watched() const override { return freezer_ ? freezer_->watched() : -1; }

  /// One that comes into it runs for a moment: that alone is nobody's doing. Errors:
  /// kFailedPrecondition when somebody thawed or removed it.
  Status look_again() override {
    if (!frozen_) return ok();
    const StatusOr<bool> stands = freezer_->is_frozen();
    const StatusOr<std::string> state = freezer_->state();
    for (const Status& problem : {stands.status(), state.status()}) {
      if (!problem.ok()) return error(StatusCode::kFailedPrecondition, message_of(problem));
    }
    if (*state == freezer_->frozen() || *state == "FREEZING") return ok();
    return error(StatusCode::kFailedPrecondition,
                 freezer_->in_words() + " was thawed by somebody else");
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::PauseEvidence& pause = *evidence.mutable_pause();
    if (!freezer_) return evidence;
    const StatusOr<bool> stands = freezer_->is_frozen();
    const auto processes = freezer_->processes();
    const auto threads = freezer_->threads();
    if (!stands.ok() || !*stands || !processes.ok() || !threads.ok()) return evidence;
    pause.set_processes(static_cast<std::uint32_t>(processes->size()));
    pause.set_threads(static_cast<std::uint32_t>(threads->size()));
    evidence.set_effect(!processes->empty());
    return evidence;
  }

  Status end_effect() override {
    if (!std::exchange(frozen_, false)) return ok();
    return run_undo(undo_);
  }

  std::vector<std::string> clean_up() override {
    lock_.reset();
    if (!written_) return {};
    const StatusOr<std::string> now = freezer_->state();
    if (now.status().code() == StatusCode::kNotFound) return {};
    if (!now.ok()) return {message_of(now.status())};
    if (*now == undo_.thaw_cgroup().before()) return {};
    return {freezer_->in_words() + " still reads " + *now};
  }

 private:
  v1::Pause wanted_;
  std::optional<Freezer> freezer_;
  Fd lock_;
  v1::Undo undo_;
  bool frozen_ = false;
  bool written_ = false;  // ever
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  if (start.fault().pause().has_process()) {
    return std::make_unique<PausedProcesses>(start.fault());
  }
  return std::make_unique<FrozenGroup>(start.fault());
}

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const v1::Pause& wanted = request.fault().pause();
  if (wanted.has_process()) {
    const StatusOr<Selection> selection = select_to_trace(request.fault());
    if (!selection.ok()) return refused(selection.status());
    tell(*selection, looked);
    return looked;
  }
  const StatusOr<Group> group = find_group(wanted);
  if (!group.ok()) return refused(group.status());
  looked.add_notes("all of " + group->freezer.in_words() + ", and of those below it");
  std::vector<Target> targets;
  for (const std::uint32_t pid : group->processes) {
    if (auto target = target_of(pid)) targets.push_back(*std::move(target));
  }
  tell(targets, *looked.mutable_targets());
  return looked;
}

}  // namespace

extern const FaultKind kPause;
const FaultKind kPause{.kind = v1::Fault::kPause, .name = "pause", .make = make, .look = look};

}  // namespace squall::hold
