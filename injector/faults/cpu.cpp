/// \file
/// cpu: burns a closed-loop share of chosen cores, of each or of all together.
///
/// One thread for each core measures its own processor time (CLOCK_THREAD_CPUTIME_ID) and in every
/// 5 ms slice burns what is still due, so the share holds under contention and frequency changes.
/// Spinning is the load: it is what a busy program looks like to the scheduler, to a quota and to
/// the other thread of a core. Held by this process alone, or by a child of it in a control group:
/// its death is the undo.
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "experiments/base/failpoint.h"
#include "injector/faults/child.h"
#include "injector/faults/fault.h"
#include "injector/faults/groups.h"

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

/// What a thread burns by, in memory that a child shares with its holder; a cache line for itself.
struct alignas(64) Meter {
  std::atomic<std::int64_t> burnt_ns;
  std::atomic<std::int64_t> forgiven_ns;  ///< Of the group whose first thread this is.
};

/// The same for all threads.
struct alignas(64) Reins {
  std::atomic<std::int64_t> deadline_ns;
  std::atomic<bool> ending;
};

/// A share of the processor time, from which to which, over how long.
struct Load {
  double from = 0;
  double to = 0;
  Duration over{};
};

Load load_of(const v1::Fault& fault) {
  for (const v1::Ramp& ramp : fault.ramps()) {
    return {ramp.from() / 100, ramp.to() / 100, Duration(ramp.over())};
  }
  return {0, fault.cpu().load() / 100, Duration(fault.cpu().ramp())};
}

/// Threads that together burn one share: one thread, or all of them.
struct Share {
  Load load;
  double cores;  ///< That it is a share of.
  std::span<Meter> meters;

  Duration burnt() const {
    Duration sum = Duration::zero();
    for (const Meter& meter : meters) {
      sum += Duration(meter.burnt_ns.load(std::memory_order_relaxed));
    }
    return sum;
  }

  /// What is to be burnt in all, that long after the beginning.
  Duration due(Duration since) const {
    const double changing = static_cast<double>(std::min(since, load.over).count());
    const double changed = static_cast<double>(since.count()) - changing;
    double area = load.from * changing + load.to * changed;
    if (load.over > Duration::zero()) {
      area +=
          (load.to - load.from) * changing * changing / 2 / static_cast<double>(load.over.count());
    }
    return Duration(static_cast<std::int64_t>(cores * area));
  }
};

/// One thread.
class Burner {
 public:
  Burner(const cpu_set_t& where, const Share& share, Meter& own, const Reins& reins,
         MonotonicTime begun)
      : where_(where), share_(share), own_(own), reins_(reins), begun_(begun), thread_([this] {
          burn();
        }) {}
  Burner(const Burner&) = delete;
  Burner& operator=(const Burner&) = delete;

  /// Returns when it burns no more; within one slice of its being told to end.
  ~Burner() { thread_.join(); }

 private:
  void burn() {
    // Refused only if the cores went offline since they were chosen; the load is then burnt
    // elsewhere.
    ::pthread_setaffinity_np(::pthread_self(), sizeof where_, &where_);
    ::prctl(PR_SET_TIMERSLACK, 1);
    MonotonicTime slice_end = begun_;
    while (!reins_.ending.load(std::memory_order_relaxed)) {
      // One that was late for all of a slice, or stopped for a while, begins a slice of its own.
      slice_end = std::max(slice_end + kSlice, monotonic_now());
      const Duration due = share_.due(slice_end - begun_);
      if (to_ns(slice_end) < reins_.deadline_ns.load(std::memory_order_relaxed)) {
        burn_until(due, slice_end);
      }
      forgive(due);
      const timespec until{.tv_sec = to_ns(slice_end) / 1'000'000'000,
                           .tv_nsec = to_ns(slice_end) % 1'000'000'000};
      while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
      }
    }
  }

  void burn_until(Duration due, MonotonicTime slice_end) {
    while (share_.burnt() + forgiven() < due && monotonic_now() < slice_end) {
      for (volatile int spin = 0; spin < 500;) spin = spin + 1;
      own_.burnt_ns.store(clock_of(CLOCK_THREAD_CPUTIME_ID).count(), std::memory_order_relaxed);
    }
  }

  Duration forgiven() const {
    return Duration(share_.meters.front().forgiven_ns.load(std::memory_order_relaxed));
  }

  void forgive(Duration due) {
    const Duration debt = due - share_.burnt() - forgiven();
    const Duration most = kLargestDebt * share_.meters.size();
    if (debt <= most) return;
    share_.meters.front().forgiven_ns.store((forgiven() + debt - most).count(),
                                            std::memory_order_relaxed);
  }

  cpu_set_t where_;
  Share share_;
  Meter& own_;
  const Reins& reins_;
  MonotonicTime begun_;
  std::thread thread_;
};

std::string in_words(const std::vector<unsigned>& cores) {
  std::string words;
  for (const unsigned core : cores) words += (words.empty() ? "" : ", ") + std::to_string(core);
  return words;
}

/// Errors: kInvalidArgument for cores that this node has not, or may not use.
StatusOr<std::vector<unsigned>> choose_cores(const v1::Cpu& wanted) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return from_errno("sched_getaffinity", errno);
  }
  std::vector<unsigned> cores;
  for (unsigned core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  if (wanted.on_cores_size() > 0) {
    std::vector<unsigned> chosen(wanted.on_cores().begin(), wanted.on_cores().end());
    std::sort(chosen.begin(), chosen.end());
    if (const auto twice = std::adjacent_find(chosen.begin(), chosen.end());
        twice != chosen.end()) {
      return error(StatusCode::kInvalidArgument,
                   "cpu.on_cores: core " + std::to_string(*twice) + " stands there twice");
    }
    for (const unsigned core : chosen) {
      if (std::binary_search(cores.begin(), cores.end(), core)) continue;
      return error(StatusCode::kInvalidArgument, "cpu.on_cores: " + std::to_string(core) +
                                                     ", but this node may use " + in_words(cores));
    }
    return chosen;
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

/// The group that it is burnt in; none for the node as a whole. Errors: as find_group.
StatusOr<std::optional<Group>> choose_group(const v1::Cpu& wanted) {
  if (!wanted.has_in()) return std::optional<Group>();
  if (!wanted.in().netns().empty()) {
    return error(StatusCode::kInvalidArgument,
                 "cpu.in.netns: processor time is of no network namespace; write a cgroup or a "
                 "unit");
  }
  StatusOr<Group> group = find_group(wanted.in(), "cpu");
  if (!group.ok()) return in_context("cpu.in", group.status());
  return std::optional<Group>(*std::move(group));
}

class Cpu final : public Fault {
 public:
  explicit Cpu(const v1::Fault& fault)
      : fault_(fault), wanted_(fault.cpu()), load_(load_of(fault)) {}
  ~Cpu() override { stop(); }

  /// Errors: as choose_cores and choose_group.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<std::vector<unsigned>> cores = choose_cores(wanted_);
    if (!cores.ok()) return cores.status();
    StatusOr<std::optional<Group>> group = choose_group(wanted_);
    if (!group.ok()) return group.status();
    StatusOr<SharedMemory> shared =
        SharedMemory::map(sizeof(Reins) + cores->size() * sizeof(Meter));
    if (!shared.ok()) return shared.status();
    cores_ = *std::move(cores);
    group_ = *std::move(group);
    shared_.emplace(*std::move(shared));
    reins_ = new (shared_->start()) Reins();
    meters_ = {reinterpret_cast<Meter*>(reins_ + 1), cores_.size()};
    for (Meter& meter : meters_) new (&meter) Meter();
    return std::vector<v1::Undo>();
  }

  Status apply(MonotonicTime deadline) override {
    reins_->deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    applied_ = monotonic_now();
    if (Status started = group_ ? start_child() : start_threads(); !started.ok()) {
      return started;
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
    // The burners look at it themselves: past it they burn nothing, even if this thread never runs
    // again.
    reins_->deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    return look_again();
  }

  int watched() const override { return child_ ? child_->ended() : -1; }

  Status look_again() override {
    if (!child_ || child_->how().empty()) return ok();
    return error(StatusCode::kFailedPrecondition,
                 "what burnt in the control group " + group_->path + " " + child_->how());
  }

  /// The burners know the whole course.
  Status become(const v1::Fault&) override { return ok(); }

  v1::Evidence evidence() override {
    const Duration burnt = Share{.load = {}, .cores = 0, .meters = meters_}.burnt();
    const Duration elapsed = (ended_ ? *ended_ : monotonic_now()) - applied_;
    v1::Evidence evidence;
    evidence.set_effect(burnt > Duration::zero());
    evidence.mutable_cpu()->set_cores(static_cast<std::uint32_t>(cores_.size()));
    if (!cores_.empty() && elapsed > Duration::zero()) {
      evidence.mutable_cpu()->set_achieved(100.0 * static_cast<double>(burnt.count()) /
                                           static_cast<double>(elapsed.count()) /
                                           static_cast<double>(cores_.size()));
    }
    return evidence;
  }

  Status end_effect() override {
    stop();
    if (!ended_) ended_ = monotonic_now();
    return ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  Status start_threads() {
    try {
      start_burners();
    } catch (const std::system_error& problem) {
      return error(StatusCode::kResourceExhausted,
                   std::string("a thread cannot be started: ") + problem.what());
    }
    return ok();
  }

  Status start_child() {
    StatusOr<Child> child = Child::start([this] {
      if (start_threads().ok()) ::pause();
      ::_exit(EXIT_FAILURE);  // the threads cannot all be had, or a signal was meant for another
    });
    if (!child.ok()) return child.status();
    child_.emplace(*std::move(child));
    if (const Status moved = move_into(*group_, static_cast<std::uint32_t>(child_->pid()));
        !moved.ok()) {
      return in_context("cpu.in", moved);
    }
    child_->go();
    return ok();
  }

  void start_burners() {
    cpu_set_t all;
    CPU_ZERO(&all);
    for (const unsigned core : cores_) CPU_SET(core, &all);
    for (std::size_t i = 0; i < cores_.size(); ++i) {
      if (wanted_.of() == v1::TOTAL) {
        const Share share{load_, static_cast<double>(cores_.size()), meters_};
        burners_.push_back(std::make_unique<Burner>(all, share, meters_[i], *reins_, applied_));
        failpoint<"cpu.burner_started">();
        continue;
      }
      cpu_set_t only;
      CPU_ZERO(&only);
      CPU_SET(cores_[i], &only);
      const Share share{load_, 1, meters_.subspan(i, 1)};
      burners_.push_back(std::make_unique<Burner>(only, share, meters_[i], *reins_, applied_));
      failpoint<"cpu.burner_started">();
    }
  }

  void stop() {
    if (reins_ == nullptr) return;
    // All of them at once, before waiting for the first.
    reins_->deadline_ns.store(0, std::memory_order_relaxed);
    reins_->ending.store(true, std::memory_order_relaxed);
    if (child_) child_->end();
    burners_.clear();
  }

  v1::Fault fault_;
  v1::Cpu wanted_;
  Load load_;
  std::vector<unsigned> cores_;
  std::optional<Group> group_;
  std::optional<SharedMemory> shared_;
  Reins* reins_ = nullptr;
  std::span<Meter> meters_;
  MonotonicTime applied_;
  std::optional<MonotonicTime> ended_;
  std::optional<Child> child_;
  std::vector<std::unique_ptr<Burner>> burners_;
};

std::unique_ptr<Fault> make(const v1::Start& start) { return std::make_unique<Cpu>(start.fault()); }

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const auto cores = choose_cores(request.fault().cpu());
  if (!cores.ok()) return refused(cores.status());
  const auto group = choose_group(request.fault().cpu());
  if (!group.ok()) return refused(group.status());
  looked.add_notes("on " + std::to_string(cores->size()) +
                   (cores->size() == 1 ? " core" : " cores"));
  if (*group) looked.add_notes("in the control group " + (*group)->path);
  return looked;
}

}  // namespace

extern const FaultKind kCpu;
const FaultKind kCpu{.kind = v1::Fault::kCpu, .name = "cpu", .make = make, .look = look};

}  // namespace squall::hold
