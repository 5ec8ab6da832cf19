/// \file
/// Processes traced by ptrace: held where they are, or followed from one system call to the next.
/// The kernel lets go of them when the thread that traces them ends, however it ends.
#pragma once

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "experiments/processes/proc.h"
#include "injector/faults/processes.h"

namespace squall::hold {

/// Whether this process may trace at all. `what`: what is done by it, for errors; `instead`: what
/// could be done without. Errors: kFailedPrecondition with what stands in the way.
Status may_trace(std::string_view what, std::string_view instead = "");

/// Whether this kernel tells a tracer of system calls. Errors: kUnimplemented.
Status tells_of_calls();

/// Whether nobody else traces one of these. Errors: kFailedPrecondition with who does.
Status are_untraced(std::span<const Target> targets);

/// Breaks off the waits of the thread that makes it, at a time that it sets or when another thread
/// wants it to. One at a time: the signal is the process's.
class Alarm {
 public:
  Alarm();
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;
  ~Alarm();

  /// MonotonicTime::max(): never. A wait that has yet to begin at that time is broken off within a
  /// millisecond, for it goes on.
  void set(MonotonicTime time);

  /// Any thread, as often as it takes: a wait that has yet to begin is not broken off by one.
  void ring() const;

 private:
  struct sigaction before_ {};
  pthread_t thread_;
  timer_t timer_{};
  MonotonicTime time_ = MonotonicTime::max();
};

/// A thread that stands at a system call, or has ended.
struct TracedCall {
  enum Kind {
    kBegins,
    kEnds,
    kGone,  ///< Whatever it was at is over; the number may be another thread's.
  };
  Kind kind = kGone;
  std::uint32_t tid = 0;
  std::uint32_t architecture = 0;            ///< AUDIT_ARCH_*
  std::uint64_t instruction = 0;             ///< Where it is in its program.
  std::uint64_t number = 0;                  ///< Of the call that begins.
  std::array<std::uint64_t, 6> arguments{};  ///< Likewise.
  std::int64_t result = 0;                   ///< Of the call that ends, or -errno.
};

/// All threads of some processes, stopped, or followed after that. All calls but residue() come
/// from one thread, for the kernel takes ptrace's requests from no other. The signals of a target
/// are not lost: what comes while it stands waits for its end, and a stop by SIGSTOP is the same
/// after it as before.
///
/// Source: ptrace(2), "Attaching and detaching", "PTRACE_EVENT_STOP", "Syscall-stops".
class Tracing {
 public:
  Tracing() = default;
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;
  ~Tracing() { release(); }

  /// Stops them all, with every thread and process that they make until they stand, as /proc says.
  /// Errors: kFailedPrecondition for one that may not be traced, or does not stop within the time
  /// (it waits in the kernel, uninterruptibly); some are then stopped all the same. kNotFound if
  /// every one has ended.
  Status stop(std::span<const Target> targets, MonotonicTime by);

  /// Buries those that were killed meanwhile, or nobody else would learn of their end.
  void bury();

  /// After stop(), from the first call on: lets all of them go on, each until its next system call
  /// begins or ends; so also the threads and processes that they make. Waits for the next thread
  /// that stands there, which has to be told to go on, or whose end was seen. Nothing when a signal
  /// breaks the wait off, or nobody is left.
  std::optional<TracedCall> next_call();

  /// A thread that stands at a call stays there, and is no longer next. False if it was killed.
  bool keep(std::uint32_t tid);

  /// To its next stop. A thread that was killed meanwhile is none.
  void go_on(std::uint32_t tid);

  /// As go_on(), for one that stands at the beginning of a call: it is not done, and returns the
  /// errno, also if this thread ends at once. False if it could not be, and nothing is changed.
  bool go_on_with(std::uint32_t tid, int errno_value);

  bool is_empty() const { return threads_.empty(); }

  /// Lets all of them go on. False while there is one that has not stopped yet: it cannot be let go
  /// before it does, but by the end of this thread.
  bool release();

  /// The processes that are held, those included that a target made while it was being stopped.
  std::vector<std::uint32_t> processes() const;

  struct Standing {
    std::uint32_t processes = 0;  ///< None of whose threads runs.
    std::uint32_t threads = 0;    ///< Stopped by a tracer, as /proc shows them.
    std::uint32_t running = 0;    ///< Not.
  };

  /// Read from /proc, of all that lives.
  Standing standing() const;

  /// Those that are still traced by the thread that stopped them, as /proc shows them, each a
  /// sentence.
  std::vector<std::string> residue() const;

 private:
  struct Thread {
    std::uint32_t process = 0;
    bool stopped = false;
    bool stray = false;  // of another process: let go as soon as it can be
  };

  Status seize(const ProcFolder& process, std::uint32_t tid);
  Status settle(MonotonicTime by);
  void look_at(std::uint32_t tid, std::vector<std::uint32_t>& ended);
  void adopt_child_of(std::uint32_t tid);
  void add_process(std::uint32_t pid);
  bool holds_all_of(const ProcFolder& process) const;
  void pass_on(std::uint32_t tid, int event, int signal);
  void replace_by_exec(std::uint32_t tid);
  void forget(std::uint32_t tid);
  std::optional<TracedCall> call_of(std::uint32_t tid) const;

  std::uint32_t tracer_ = 0;  // this thread, as /proc names it
  std::map<std::uint32_t, ProcFolder> processes_;
  std::map<std::uint32_t, Thread> threads_;
  std::deque<std::uint32_t> gone_;  // and not yet told
};

}  // namespace squall::hold
