#include "injector/faults/tracing.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <optional>
#include <utility>

#include "experiments/base/failpoint.h"

namespace squall::hold {
namespace {

constexpr Duration kStep = std::chrono::milliseconds(1);

constexpr std::uintptr_t kOptions = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;

long ask(__ptrace_request request, std::uint32_t tid, std::uintptr_t value = 0) {
  return ::ptrace(request, static_cast<pid_t>(tid), nullptr, value);
}

std::string name_of(std::uint32_t pid) {
  const auto process = ProcFolder::open(pid);
  return std::to_string(pid) + (process ? " (" + process->name().value_or("?") + ")" : "");
}

std::uint32_t tracer_of(const ProcFolder& process) {
  return process.status_number("TracerPid").value_or(0);
}

Status refused(std::uint32_t pid, const std::string& why) {
  return error(StatusCode::kFailedPrecondition, "process " + name_of(pid) + " " + why);
}

/// What the kernel tells a tracer of one of its threads.
struct Told {
  enum Kind {
    kNothing,
    kStopped,
    kSignal,  // it stopped with a signal that it has yet to get
    kEnded,   // and is buried
  };
  Kind kind = kNothing;
  int event = 0;
  int signal = 0;
};

/// A stop is looked at and left as it is (WNOWAIT): were this process killed between taking a
/// signal's stop and passing the signal on, the signal would be lost.
Told told_of(std::uint32_t tid) {
  siginfo_t told{};
  if (::waitid(P_PID, tid, &told, WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL) != 0) {
    // Another thread's exec took its place.
    return {.kind = errno == ECHILD ? Told::kEnded : Told::kNothing};
  }
  if (told.si_pid == 0) return {};
  if (told.si_code != CLD_TRAPPED && told.si_code != CLD_STOPPED) {
    ::waitid(P_PID, tid, &told, WEXITED | WNOHANG | __WALL);
    return {.kind = Told::kEnded};
  }
  const int event = told.si_status >> 8;
  const int signal = told.si_status & 0xff;
  return {.kind = event == 0 ? Told::kSignal : Told::kStopped, .event = event, .signal = signal};
}

}  // namespace

Status may_trace() {
  // Source: capabilities(7); Documentation/admin-guide/LSM/Yama.rst.
  constexpr std::uint64_t kSysPtrace = std::uint64_t{1} << 19U;
  const auto self = ProcFolder::open(static_cast<std::uint32_t>(::getpid()));
  const std::string status = self ? self->read("status").value_or("") : "";
  if (const auto at = status.find("CapEff:\t"); at != std::string::npos) {
    const auto held = to_number(std::string_view(status).substr(at + 8, 16), 16);
    if (held && (*held & kSysPtrace) == 0) {
      return error(StatusCode::kFailedPrecondition,
                   "processes are paused by ptrace, and squalld lacks CAP_SYS_PTRACE");
    }
  }
  std::ifstream yama("/proc/sys/kernel/yama/ptrace_scope");
  if (int scope = 0; yama >> scope && scope == 3) {
    return error(StatusCode::kFailedPrecondition,
                 "kernel.yama.ptrace_scope is 3: until the next boot nobody may trace here, and "
                 "processes are paused by ptrace; pause their control group instead");
  }
  return ok();
}

Status are_untraced(std::span<const Target> targets) {
  for (const Target& target : targets) {
    const auto process = ProcFolder::open(target.pid);
    const std::uint32_t tracer = process ? tracer_of(*process) : 0;
    if (tracer != 0) return refused(target.pid, "is traced by process " + name_of(tracer));
  }
  return ok();
}

Status Tracing::stop(std::span<const Target> targets, MonotonicTime by) {
  for (const Target& target : targets) {
    // Opened after the pidfd: if that one still lives, the folder is its own.
    add_process(target.pid);
    if (has_ended(target)) processes_.erase(target.pid);
  }
  // Who stands makes no threads any more, and what one makes until it stands is held from its first
  // moment. But who has a list of threads may always be late: only the kernel's count says that
  // nobody is missing.
  for (bool all = false; !all;) {
    for (const std::uint32_t pid : this->processes()) {
      const ProcFolder& process = processes_.at(pid);
      for (const std::uint32_t tid : process.threads()) {
        if (threads_.contains(tid)) continue;
        if (Status seized = seize(process, tid); !seized.ok()) return seized;
      }
    }
    if (Status settled = settle(by); !settled.ok()) return settled;
    all = true;
    for (const auto& [pid, process] : processes_) {
      if (holds_all_of(process)) continue;
      all = false;
      if (monotonic_now() >= by) return refused(pid, "makes threads faster than they are stopped");
    }
  }
  return ok();
}

bool Tracing::holds_all_of(const ProcFolder& process) const {
  const auto stat = process.stat();
  if (!stat) return true;
  const auto held = std::count_if(threads_.begin(), threads_.end(), [&](const auto& entry) {
    return entry.second.process == process.pid() && entry.second.stopped;
  });
  const bool is_main_dead = stat->is_dead() && !threads_.contains(process.pid());
  return stat->threads <= static_cast<std::uint32_t>(held) + (is_main_dead ? 1 : 0);
}

void Tracing::add_process(std::uint32_t pid) {
  if (auto process = ProcFolder::open(pid)) processes_.emplace(pid, *std::move(process));
}

Status Tracing::seize(const ProcFolder& process, std::uint32_t tid) {
  const auto stat = process.stat_of_thread(tid);
  if (!stat || stat->is_dead()) return ok();
  if (ask(PTRACE_SEIZE, tid, kOptions) != 0) {
    const int problem = errno;
    if (problem == ESRCH) return ok();  // ended meanwhile
    const auto thread = ProcFolder::open(tid);
    const std::uint32_t tracer = thread ? tracer_of(*thread) : 0;
    if (tracer == static_cast<std::uint32_t>(::getpid())) {
      threads_[tid].process = process.pid();  // made by one that is held, and so held itself
      return ok();
    }
    if (tracer != 0) return refused(process.pid(), "is traced by process " + name_of(tracer));
    const auto now = process.stat_of_thread(tid);
    if (!now || now->is_dead()) return ok();  // one that is ending may not be traced any more
    return in_context("process " + name_of(process.pid()), from_errno("PTRACE_SEIZE", problem));
  }
  // Between the list and the seizing the number may have gone to a thread of another process. What
  // is seized keeps its number; if the process still has it, it is the right one.
  threads_[tid] = {.process = process.pid(), .stray = !process.stat_of_thread(tid)};
  failpoint<"tracing.seized">();
  ask(PTRACE_INTERRUPT, tid);
  return ok();
}

/// Waits until all that is held stands.
Status Tracing::settle(MonotonicTime by) {
  for (;;) {
    std::vector<std::uint32_t> ended;
    std::vector<std::uint32_t> waiting;
    for (const auto& [tid, thread] : threads_) {
      if (!thread.stopped) waiting.push_back(tid);
    }
    for (const std::uint32_t tid : waiting) look_at(tid, ended);
    for (const std::uint32_t tid : ended) threads_.erase(tid);
    const auto running = std::find_if(threads_.begin(), threads_.end(),
                                      [](const auto& entry) { return !entry.second.stopped; });
    if (running == threads_.end()) return ok();
    if (monotonic_now() >= by) {
      const std::uint32_t pid = running->second.process;
      const auto process = processes_.find(pid);
      const auto stat = process == processes_.end()
                            ? std::nullopt
                            : process->second.stat_of_thread(running->first);
      return refused(
          pid,
          "does not stop: its thread " + std::to_string(running->first) + " is in state " +
              (stat ? stat->state : '?') +
              (stat && stat->state == 'D' ? ", a wait in the kernel that nothing interrupts" : ""));
    }
    const timespec step{.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
    ::nanosleep(&step, nullptr);
  }
}

void Tracing::look_at(std::uint32_t tid, std::vector<std::uint32_t>& ended) {
  const Told told = told_of(tid);
  if (told.kind == Told::kEnded) ended.push_back(tid);
  // A signal was on its way to it before it stood: it has it, and stands right after.
  if (told.kind == Told::kSignal) ask(PTRACE_CONT, tid, static_cast<std::uintptr_t>(told.signal));
  if (told.kind != Told::kStopped) return;
  if (told.event != PTRACE_EVENT_STOP) adopt_child_of(tid);
  Thread& thread = threads_[tid];
  thread.stopped = true;
  if (thread.stray && ask(PTRACE_DETACH, tid) == 0) ended.push_back(tid);
}

void Tracing::adopt_child_of(std::uint32_t tid) {
  unsigned long made = 0;
  if (::ptrace(PTRACE_GETEVENTMSG, static_cast<pid_t>(tid), nullptr, &made) != 0) return;
  const auto child = static_cast<std::uint32_t>(made);
  const auto folder = ProcFolder::open(child);
  const std::uint32_t process = folder ? folder->status_number("Tgid").value_or(child) : child;
  add_process(process);
  threads_[child].process = process;
}

void Tracing::bury() {
  // The end of the other threads lets the main thread's be seen.
  for (bool found = true; found;) {
    std::vector<std::uint32_t> ended;
    for (const auto& [tid, thread] : threads_) {
      if (told_of(tid).kind == Told::kEnded) ended.push_back(tid);
    }
    for (const std::uint32_t tid : ended) threads_.erase(tid);
    found = !ended.empty();
  }
}

bool Tracing::release() {
  std::vector<std::uint32_t> released;
  for (const auto& [tid, thread] : threads_) {
    const Told told = told_of(tid);
    const auto signal = static_cast<std::uintptr_t>(told.kind == Told::kSignal ? told.signal : 0);
    if (ask(PTRACE_DETACH, tid, signal) == 0) released.push_back(tid);
  }
  for (const std::uint32_t tid : released) threads_.erase(tid);
  bury();
  return threads_.empty();
}

std::vector<std::uint32_t> Tracing::processes() const {
  std::vector<std::uint32_t> pids;
  for (const auto& [pid, process] : processes_) pids.push_back(pid);
  return pids;
}

Tracing::Standing Tracing::standing() const {
  Standing standing;
  for (const auto& [pid, process] : processes_) {
    std::uint32_t stopped = 0;
    std::uint32_t running = 0;
    for (const std::uint32_t tid : process.threads()) {
      const auto stat = process.stat_of_thread(tid);
      if (!stat || stat->is_dead()) continue;
      ++(stat->state == 't' ? stopped : running);
    }
    standing.threads += stopped;
    standing.running += running;
    if (stopped > 0 && running == 0) ++standing.processes;
  }
  return standing;
}

std::vector<std::string> Tracing::residue() const {
  std::vector<std::string> found;
  for (const auto& [pid, process] : processes_) {
    for (const std::uint32_t tid : process.threads()) {
      const auto thread = ProcFolder::open(tid);
      if (thread && tracer_of(*thread) == static_cast<std::uint32_t>(::getpid())) {
        found.push_back("thread " + std::to_string(tid) + " of process " + name_of(pid) +
                        " is still traced");
      }
    }
  }
  return found;
}

}  // namespace squall::hold
