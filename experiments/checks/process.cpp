/// \file
/// process: counts the processes that match, and what they use of the node's memory and of its
/// CPUs. They match as those of a fault do, but nobody is spared: what must live is counted too.
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/checks/aside.h"
#include "experiments/checks/kind.h"
#include "experiments/processes/conditions.h"
#include "experiments/processes/ourselves.h"

namespace squall::checks {
namespace {

/// As /proc/PID/stat counts, also while the machine sleeps.
double ticks_since_boot(double ticks_per_second) {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return (static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9) *
         ticks_per_second;
}

/// One walk over the processes of the node. Shared with the thread that makes it.
struct Walk {
  std::string error = "the processes could not be read";
  MonotonicTime at;
  double ticks_since_boot = 0;
  std::uint64_t pages = 0;
  /// The CPU time that each has used, in ticks, by its pid and when it was started.
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t> used;

  void make(const v1::Process& wanted, double ticks_per_second) {
    StatusOr<ProcessConditions> conditions =
        ProcessConditions::make(wanted, Unseen::kOutsideContainers);
    if (!conditions.ok()) {
      error = message_of(conditions.status());
      return;
    }
    const std::vector<std::uint32_t> pids =
        wanted.has_pid() ? std::vector<std::uint32_t>{wanted.pid()} : all_pids();
    at = monotonic_now();
    ticks_since_boot = checks::ticks_since_boot(ticks_per_second);
    // Whoever looks for others by their arguments, or by what they belong to, does not mean the
    // plan's own name in the arguments of squall and of the shell that it was started from.
    const bool may_be_ours =
        wanted.has_pid() || wanted.has_port() || !wanted.name().empty() || !wanted.unit().empty();
    const Ourselves ourselves;
    for (const std::uint32_t pid : pids) {
      const auto process = ProcFolder::open(pid);
      const auto stat = process ? conditions->fits(*process) : std::nullopt;
      if (!stat) continue;
      const bool is_ours = ourselves.is_in_line(pid) || ourselves.is_program(*process, *stat);
      if (is_ours && !may_be_ours) continue;
      pages += stat->resident;
      used[{pid, stat->start_time}] = stat->cpu_time;
    }
    const Status one = conditions->one_container();
    error = message_of(one);
    if (pids.empty()) error = "/proc cannot be read";
    if (used.empty() && conditions->found_listeners() && ::geteuid() != 0) {
      error = "port " + std::to_string(wanted.port()) +
              " is listened on, and by whom only root can see";
    }
  }
};

class Processes final : public Check {
 public:
  explicit Processes(const v1::Check& check)
      : wanted_(check.process()), timeout_(timeout_of(check)), needs_cpu_(expects(check, "cpu")) {}

  boost::asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    sample.error = co_await walk(sample.asked + timeout_);
    sample.latency = monotonic_now() - sample.asked;
    if (!sample.error.empty()) co_return sample;
    sample.numbers["count"] = static_cast<double>(walk_->used.size());
    sample.numbers["rss"] =
        static_cast<double>(walk_->pages) * static_cast<double>(::sysconf(_SC_PAGESIZE));
    if (const auto share = cpu_share()) {
      sample.numbers["cpu"] = *share;
    } else if (needs_cpu_) {
      sample.no_data = "what they use of the CPUs is known by the second ask";
    }
    before_ = walk_;
    co_return sample;
  }

 private:
  /// The error, or empty with `walk_` made.
  boost::asio::awaitable<std::string> walk(MonotonicTime deadline) {
    if (!aside_.is_going()) {
      walk_ = std::make_shared<Walk>();
      if (!aside_.begin([walk = walk_, wanted = wanted_, ticks = ticks_per_second_] {
            walk->make(wanted, ticks);
          })) {
        co_return "out of threads or descriptors";
      }
    }
    const Aside::Wait waited = co_await aside_.wait(deadline);
    if (waited == Aside::Wait::kLate) co_return timeout_words(timeout_);
    if (waited == Aside::Wait::kGivenUp) co_return kCancelled;
    co_return walk_->error;
  }

  /// Of all CPUs of the node since the last walk, in percent. What a process used that ended in
  /// between is not known any more.
  std::optional<double> cpu_share() const {
    if (!before_) return std::nullopt;
    const double seconds = std::chrono::duration<double>(walk_->at - before_->at).count();
    if (seconds <= 0) return std::nullopt;
    std::uint64_t ticks = 0;
    for (const auto& [process, used] : walk_->used) {
      const auto known = before_->used.find(process);
      if (known != before_->used.end()) {
        ticks += used - std::min(used, known->second);
      } else if (static_cast<double>(process.second) >= before_->ticks_since_boot) {
        ticks += used;  // it has been started since
      }
    }
    const double cpus = static_cast<double>(std::max(::sysconf(_SC_NPROCESSORS_ONLN), 1L));
    const double share = 100 * static_cast<double>(ticks) / ticks_per_second_ / (seconds * cpus);
    return std::min(share, 100.0);  // a tick is a hundredth of a second, and is counted whole
  }

  v1::Process wanted_;
  Duration timeout_;
  bool needs_cpu_;
  double ticks_per_second_ = static_cast<double>(::sysconf(_SC_CLK_TCK));
  Aside aside_;
  std::shared_ptr<Walk> walk_;          ///< The latest that was begun.
  std::shared_ptr<const Walk> before_;  ///< The latest that was answered with.
};

}  // namespace

const CheckKind kProcess{.which = v1::Check::kProcess, .make = [](const v1::Check& check) {
                           return std::unique_ptr<Check>(new Processes(check));
                         }};

}  // namespace squall::checks
