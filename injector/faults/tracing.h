/// \file
/// Processes held where they are by ptrace. The kernel lets go of them when the thread that holds
/// them ends, however it ends.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "injector/faults/proc.h"
#include "injector/faults/processes.h"

namespace squall::hold {

/// Whether this process may trace at all. Errors: kFailedPrecondition with what stands in the way.
Status may_trace();

/// Whether nobody else traces one of these. Errors: kFailedPrecondition with who does.
Status are_untraced(std::span<const Target> targets);

/// All threads of some processes, stopped. All calls come from one thread, for the kernel takes
/// ptrace's requests from no other. The signals of a target are neither lost nor answered: what
/// comes meanwhile waits for its end, and a stop by SIGSTOP is the same after it as before.
///
/// Source: ptrace(2), "Attaching and detaching", "PTRACE_EVENT_STOP".
class Tracing {
 public:
  Tracing() = default;
  Tracing(const Tracing&) = delete;
  Tracing& operator=(const Tracing&) = delete;
  ~Tracing() { release(); }

  /// Stops them all, with every thread and process that they make until they stand. Errors:
  /// kFailedPrecondition for one that may not be traced, or does not stop within the time (it waits
  /// in the kernel, uninterruptibly); some are then stopped all the same.
  Status stop(std::span<const Target> targets, MonotonicTime by);

  /// Buries those that were killed meanwhile, or nobody else would learn of their end.
  void bury();

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

  /// Those that are still traced by this process, as /proc shows them, each a sentence.
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

  std::map<std::uint32_t, ProcFolder> processes_;
  std::map<std::uint32_t, Thread> threads_;
};

}  // namespace squall::hold
