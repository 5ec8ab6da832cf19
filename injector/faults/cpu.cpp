/// \file
/// cpu: burns a closed-loop share of chosen cores.
///
/// One thread for each core, pinned to it, measures its own processor time
/// (CLOCK_THREAD_CPUTIME_ID) and corrects every 5 ms slice by what the slices before it missed, so
/// the share holds under contention and frequency changes. Held by this process alone: its death is
/// the undo.
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <system_error>
#include <thread>

#include "injector/faults/fault.h"

namespace squall::hold {
namespace {

constexpr Duration kSlice = std::chrono::milliseconds(5);
/// What contention kept from a burner is made up for later, but no more than this much of it: when
/// the others stop, the load shall be what was asked for, not all of the core for a long while.
constexpr Duration kLargestDebt = std::chrono::milliseconds(100);

Duration clock_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// One core's thread.
class Burner {
 public:
  Burner(int core, double share, const std::atomic<std::int64_t>& deadline_ns)
      : core_(core), share_(share), deadline_ns_(deadline_ns), thread_([this] { burn(); }) {}
  Burner(const Burner&) = delete;
  Burner& operator=(const Burner&) = delete;
  ~Burner() { stop(); }

  /// Returns when it burns no more; within one slice.
  void stop() {
    ending_.store(true, std::memory_order_relaxed);
    if (thread_.joinable()) thread_.join();
  }

  Duration burnt() const { return Duration(burnt_ns_.load(std::memory_order_relaxed)); }

 private:
  void burn() {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(static_cast<unsigned>(core_), &only);
    // Refused only if the core went offline since it was chosen; the load is then burnt elsewhere.
    ::pthread_setaffinity_np(::pthread_self(), sizeof only, &only);

    MonotonicTime slice_end = monotonic_now();
    Duration owed = Duration::zero();  // processor time that should have been burnt by now
    for (;;) {
      slice_end += kSlice;
      const MonotonicTime now = monotonic_now();
      if (ending_.load(std::memory_order_relaxed) ||
          to_ns(now) >= deadline_ns_.load(std::memory_order_relaxed)) {
        return;
      }
      // A burner that was stopped for a while (SIGSTOP, a frozen machine) starts afresh.
      if (now - slice_end > kLargestDebt) slice_end = now + kSlice;
      owed += std::chrono::duration_cast<Duration>(kSlice * share_);
      const Duration burnt = burn_until(owed, slice_end);
      owed = std::min(owed, burnt + kLargestDebt);
      const std::int64_t wake = to_ns(slice_end);
      const timespec until{.tv_sec = wake / 1'000'000'000, .tv_nsec = wake % 1'000'000'000};
      while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
      }
    }
  }

  /// Burns until that much is burnt in all, or the slice is over. Returns what is burnt in all.
  Duration burn_until(Duration owed, MonotonicTime slice_end) {
    Duration burnt = clock_of(CLOCK_THREAD_CPUTIME_ID);
    while (burnt < owed && monotonic_now() < slice_end) {
      for (volatile int spin = 0; spin < 500;) spin = spin + 1;
      burnt = clock_of(CLOCK_THREAD_CPUTIME_ID);
    }
    burnt_ns_.store(burnt.count(), std::memory_order_relaxed);
    return burnt;
  }

  int core_;
  double share_;
  const std::atomic<std::int64_t>& deadline_ns_;
  std::atomic<bool> ending_ = false;
  std::atomic<std::int64_t> burnt_ns_ = 0;
  std::thread thread_;
};

StatusOr<std::vector<int>> choose_cores(const v1::Cpu& wanted) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return from_errno("sched_getaffinity", errno);
  }
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(static_cast<unsigned>(core), &allowed)) cores.push_back(core);
  }
  if (!wanted.has_cores()) return cores;
  if (wanted.cores() == 0 || wanted.cores() > cores.size()) {
    return error(StatusCode::kInvalidArgument, "cpu.cores: " + std::to_string(wanted.cores()) +
                                                   " cores, but this node may use " +
                                                   std::to_string(cores.size()));
  }
  cores.resize(wanted.cores());
  return cores;
}

class Cpu final : public Fault {
 public:
  explicit Cpu(const v1::Cpu& wanted) : wanted_(wanted) {}

  /// Errors: kInvalidArgument for more cores than this node may use.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<std::vector<int>> cores = choose_cores(wanted_);
    if (!cores.ok()) return cores.status();
    cores_ = *std::move(cores);
    return std::vector<v1::Undo>();
  }

  Status apply(MonotonicTime deadline) override {
    deadline_ns_.store(to_ns(deadline), std::memory_order_relaxed);
    applied_ = monotonic_now();
    try {
      for (const int core : cores_) {
        burners_.push_back(std::make_unique<Burner>(core, wanted_.load() / 100.0, deadline_ns_));
      }
    } catch (const std::system_error& problem) {
      return error(StatusCode::kResourceExhausted,
                   std::string("a thread cannot be started: ") + problem.what());
    }
    // Read back that it acts; on a crowded node the first slice may be late, and then a pulse will
    // show it.
    const MonotonicTime patience = applied_ + kLargestDebt;
    while (!evidence().effect() && monotonic_now() < patience) {
      const timespec pause{.tv_sec = 0, .tv_nsec = 200'000};
      ::nanosleep(&pause, nullptr);
    }
    return ok();
  }

  Status pulse(MonotonicTime deadline) override {
    // The burners look at it themselves: past it they stop, even if this thread never runs again.
    deadline_ns_.store(to_ns(deadline), std::memory_order_relaxed);
    return ok();
  }

  v1::Evidence evidence() override {
    Duration burnt = Duration::zero();
    for (const auto& burner : burners_) burnt += burner->burnt();
    const Duration elapsed = (ended_ ? *ended_ : monotonic_now()) - applied_;
    v1::Evidence evidence;
    evidence.set_effect(burnt > Duration::zero());
    evidence.mutable_cpu()->set_cores(static_cast<std::uint32_t>(burners_.size()));
    if (!burners_.empty() && elapsed > Duration::zero()) {
      evidence.mutable_cpu()->set_achieved(100.0 * static_cast<double>(burnt.count()) /
                                           static_cast<double>(elapsed.count()) /
                                           static_cast<double>(burners_.size()));
    }
    return evidence;
  }

  Status end_effect() override {
    // All of them at once, before waiting for the first.
    deadline_ns_.store(to_ns(MonotonicTime::min()), std::memory_order_relaxed);
    for (const auto& burner : burners_) burner->stop();
    if (!ended_) ended_ = monotonic_now();
    return ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  v1::Cpu wanted_;
  std::vector<int> cores_;
  std::atomic<std::int64_t> deadline_ns_ = 0;
  MonotonicTime applied_;
  std::optional<MonotonicTime> ended_;
  std::vector<std::unique_ptr<Burner>> burners_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Cpu>(start.fault().cpu());
}

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const auto cores = choose_cores(request.fault().cpu());
  if (!cores.ok()) return refused(cores.status());
  looked.add_notes("on " + std::to_string(cores->size()) +
                   (cores->size() == 1 ? " core" : " cores"));
  return looked;
}

}  // namespace

extern const FaultKind kCpu;
const FaultKind kCpu{.kind = v1::Fault::kCpu, .name = "cpu", .make = make, .look = look};

}  // namespace squall::hold
