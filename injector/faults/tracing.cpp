#include "injector/faults/tracing.h"

#include <elf.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/user.h>
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

constexpr std::uintptr_t kOptions = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                                    PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;

/// Source: ptrace(2), PTRACE_O_TRACESYSGOOD. It is no signal, and so none is lost with it.
constexpr int kAtCall = SIGTRAP | 0x80;

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
    kSignal,    // it stopped with a signal that it has yet to get
    kCall,      // it stopped at the beginning or the end of a system call
    kEnded,     // and is buried
    kReplaced,  // by its own exec it has the number of its process now; or it ended unseen
    kNobody,    // is traced
  };
  Kind kind = kNothing;
  std::uint32_t tid = 0;
  int event = 0;
  int signal = 0;
};

/// A stop is looked at and left as it is (WNOWAIT): were this process killed between taking a
/// signal's stop and passing the signal on, the signal would be lost.
Told told_of(idtype_t which, std::uint32_t tid, int how) {
  siginfo_t told{};
  if (::waitid(which, tid, &told, WEXITED | WSTOPPED | WNOWAIT | __WALL | how) != 0) {
    if (errno != ECHILD) return {};
    return {.kind = which == P_PID ? Told::kReplaced : Told::kNobody, .tid = tid};
  }
  if (told.si_pid == 0) return {};
  const auto found = static_cast<std::uint32_t>(told.si_pid);
  if (told.si_code != CLD_TRAPPED && told.si_code != CLD_STOPPED) {
    ::waitid(P_PID, found, &told, WEXITED | WNOHANG | __WALL);
    return {.kind = Told::kEnded, .tid = found};
  }
  const int event = told.si_status >> 8;
  const int signal = told.si_status & 0xff;
  if (event == PTRACE_EVENT_EXEC) {
    // Until it is taken nothing can be asked for. Source: kernel/ptrace.c, ptrace_freeze_traced.
    ::waitid(P_PID, found, &told, WSTOPPED | WNOHANG | __WALL);
  }
  if (event != 0) return {.kind = Told::kStopped, .tid = found, .event = event, .signal = signal};
  const Told::Kind kind = signal == kAtCall ? Told::kCall : Told::kSignal;
  return {.kind = kind, .tid = found, .signal = signal};
}

Told told_of(std::uint32_t tid) { return told_of(P_PID, tid, WNOHANG); }

/// Of all that this very thread traces, waited for: the kernel hands the processor from the one to
/// the other, which by way of a signal it does not.
Told wait_for_any() { return told_of(P_ALL, 0, __WNOTHREAD); }

bool is_stop_signal(int signal) {
  return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/// Makes the call that a thread is about to do none, which has failed. In this order, for what the
/// kernel does not do any more leaves the result as it is. Source: ptrace(2), PTRACE_SET_SYSCALL;
/// arch/x86/entry/common.c, do_syscall_64; arch/arm64/kernel/syscall.c, el0_svc_common.
bool skip_call([[maybe_unused]] std::uint32_t tid, [[maybe_unused]] int errno_value) {
#if defined(__x86_64__)
  user_regs_struct registers{};
  const auto pid = static_cast<pid_t>(tid);
  if (::ptrace(PTRACE_GETREGS, pid, nullptr, &registers) != 0) return false;
  registers.orig_rax = ~0ULL;
  registers.rax = static_cast<unsigned long long>(-std::int64_t{errno_value});
  return ::ptrace(PTRACE_SETREGS, pid, nullptr, &registers) == 0;
#elif defined(__aarch64__)
  const auto pid = static_cast<pid_t>(tid);
  user_regs_struct registers{};
  iovec all{.iov_base = &registers, .iov_len = sizeof registers};
  int none = -1;
  iovec number{.iov_base = &none, .iov_len = sizeof none};
  if (::ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, &all) != 0 ||
      ::ptrace(PTRACE_SETREGSET, pid, NT_ARM_SYSTEM_CALL, &number) != 0) {
    return false;
  }
  registers.regs[0] = static_cast<unsigned long long>(-std::int64_t{errno_value});
  return ::ptrace(PTRACE_SETREGSET, pid, NT_PRSTATUS, &all) == 0;
#else
  return false;
#endif
}

}  // namespace

Alarm::Alarm() : thread_(::pthread_self()) {
  struct sigaction action {};
  action.sa_handler = [](int) {};  // and no SA_RESTART
  ::sigaction(SIGRTMIN, &action, &before_);
  sigset_t ours;
  sigemptyset(&ours);
  sigaddset(&ours, SIGRTMIN);
  ::pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = SIGRTMIN;
  event._sigev_un._tid = ::gettid();  // its name in timer_create(2) is not in every C library
  ::timer_create(CLOCK_MONOTONIC, &event, &timer_);
}

Alarm::~Alarm() {
  ::timer_delete(timer_);
  ::sigaction(SIGRTMIN, &before_, nullptr);
}

void Alarm::set(MonotonicTime time) {
  if (time == time_) return;
  time_ = time;
  itimerspec alarm{};
  if (time != MonotonicTime::max()) {
    const std::int64_t ns = std::max<std::int64_t>(1, to_ns(time));
    alarm.it_value = {.tv_sec = ns / 1'000'000'000, .tv_nsec = ns % 1'000'000'000};
    alarm.it_interval = {.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
  }
  ::timer_settime(timer_, TIMER_ABSTIME, &alarm, nullptr);
}

void Alarm::ring() const { ::pthread_kill(thread_, SIGRTMIN); }

Status may_trace(std::string_view what, std::string_view instead) {
  // Source: capabilities(7); Documentation/admin-guide/LSM/Yama.rst.
  constexpr std::uint64_t kSysPtrace = std::uint64_t{1} << 19U;
  const auto self = ProcFolder::open(static_cast<std::uint32_t>(::getpid()));
  const std::string status = self ? self->read("status").value_or("") : "";
  if (const auto at = status.find("CapEff:\t"); at != std::string::npos) {
    const auto held = to_number(std::string_view(status).substr(at + 8, 16), 16);
    if (held && (*held & kSysPtrace) == 0) {
      return error(StatusCode::kFailedPrecondition,
                   std::string(what) + ", and squalld lacks CAP_SYS_PTRACE");
    }
  }
  std::ifstream yama("/proc/sys/kernel/yama/ptrace_scope");
  if (int scope = 0; yama >> scope && scope == 3) {
    std::string why =
        "kernel.yama.ptrace_scope is 3: until the next boot nobody may trace here, and ";
    why += what;
    if (!instead.empty()) why.append("; ").append(instead);
    return error(StatusCode::kFailedPrecondition, why);
  }
  return ok();
}

Status tells_of_calls() {
  // Only of a thread that stands is anything told: a child of our own.
  const pid_t child = ::fork();
  if (child < 0) return from_errno("fork", errno);
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  const auto tid = static_cast<std::uint32_t>(child);
  Status told = ok();
  siginfo_t stopped{};
  if (ask(PTRACE_SEIZE, tid) != 0 || ask(PTRACE_INTERRUPT, tid) != 0 ||
      ::waitid(P_PID, tid, &stopped, WSTOPPED | WEXITED | WNOWAIT | __WALL) != 0) {
    told = from_errno("tracing a child", errno);
  } else {
    __ptrace_syscall_info call{};
    if (::ptrace(PTRACE_GET_SYSCALL_INFO, child, sizeof call, &call) <= 0) {
      told = error(StatusCode::kUnimplemented,
                   "this kernel tells a tracer nothing of system calls (PTRACE_GET_SYSCALL_INFO, "
                   "Linux 5.3)");
    }
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, __WALL);
  return told;
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
  tracer_ = static_cast<std::uint32_t>(::gettid());
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
  const Standing now = standing();
  if (now.processes == 0) {
    return error(StatusCode::kNotFound, "every target ended before it was stopped");
  }
  if (now.running > 0) {
    return error(StatusCode::kInternal, std::to_string(now.running) +
                                            " threads are not stopped, though they were told to");
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
  long seized = ask(PTRACE_SEIZE, tid, kOptions);
  // A main thread that another's exec ends may not be traced, and a moment later has its number.
  for (int i = 0; i < 3 && seized != 0 && errno == EPERM; ++i) {
    const timespec step{.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
    const auto thread = ProcFolder::open(tid);
    if (thread && tracer_of(*thread) != 0) {
      errno = EPERM;
      break;
    }
    ::nanosleep(&step, nullptr);
    seized = ask(PTRACE_SEIZE, tid, kOptions);
  }
  if (seized != 0) {
    const int problem = errno;
    if (problem == ESRCH) return ok();  // ended meanwhile
    const auto thread = ProcFolder::open(tid);
    const std::uint32_t tracer = thread ? tracer_of(*thread) : 0;
    if (tracer == tracer_) {
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
  if (told.kind == Told::kEnded || told.kind == Told::kReplaced) ended.push_back(tid);
  if (told.kind == Told::kReplaced) {
    // Who had that number stood perhaps, and is no more; this one has yet to stand.
    const auto main = threads_.find(threads_[tid].process);
    if (main != threads_.end()) main->second.stopped = false;
  }
  // A signal was on its way to it before it stood: it has it, and stands right after.
  if (told.kind == Told::kSignal) ask(PTRACE_CONT, tid, static_cast<std::uintptr_t>(told.signal));
  if (told.kind != Told::kStopped) return;
  if (told.event == PTRACE_EVENT_EXEC) {
    // It stands right after; what was asked of it before, this stop has taken back.
    ask(PTRACE_INTERRUPT, tid);
    ask(PTRACE_CONT, tid);
    return;
  }
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
      const Told::Kind told = told_of(tid).kind;
      if (told == Told::kEnded || told == Told::kReplaced) ended.push_back(tid);
    }
    for (const std::uint32_t tid : ended) threads_.erase(tid);
    found = !ended.empty();
  }
}

std::optional<TracedCall> Tracing::next_call() {
  for (;;) {
    if (!gone_.empty()) {
      const std::uint32_t tid = gone_.front();
      gone_.pop_front();
      return TracedCall{.kind = TracedCall::kGone, .tid = tid};
    }
    const Told told = wait_for_any();
    switch (told.kind) {
      case Told::kNobody:
        threads_.clear();
        return std::nullopt;
      case Told::kNothing:
        return std::nullopt;
      case Told::kEnded:
      case Told::kReplaced:
        forget(told.tid);
        break;
      case Told::kSignal:
      case Told::kStopped:
        pass_on(told.tid, told.event, told.signal);
        break;
      case Told::kCall:
        if (auto call = call_of(told.tid)) return call;
        go_on(told.tid);
        break;
    }
  }
}

void Tracing::pass_on(std::uint32_t tid, int event, int signal) {
  if (event == 0) {
    ask(PTRACE_SYSCALL, tid, static_cast<std::uintptr_t>(signal));
    return;
  }
  // What is made by one that is traced is so from its first moment, and stands there.
  if (!threads_.contains(tid)) {
    const auto folder = ProcFolder::open(tid);
    const std::uint32_t process = folder ? folder->status_number("Tgid").value_or(tid) : tid;
    if (!processes_.contains(process)) add_process(process);
    threads_[tid].process = process;
  }
  if (event == PTRACE_EVENT_EXEC) replace_by_exec(tid);
  // One that a signal stopped stays so until another lets it go on.
  const bool stays = event == PTRACE_EVENT_STOP && is_stop_signal(signal);
  ask(stays ? PTRACE_LISTEN : PTRACE_SYSCALL, tid);
}

/// A thread that does an exec gets the number of its process, and the number that it had is no
/// thread's.
void Tracing::replace_by_exec(std::uint32_t tid) {
  unsigned long former = 0;
  ::ptrace(PTRACE_GETEVENTMSG, static_cast<pid_t>(tid), nullptr, &former);
  gone_.push_back(tid);
  if (former == 0 || former == tid) return;
  threads_.erase(static_cast<std::uint32_t>(former));
  gone_.push_back(static_cast<std::uint32_t>(former));
}

void Tracing::forget(std::uint32_t tid) {
  gone_.push_back(tid);
  const auto thread = threads_.find(tid);
  if (thread == threads_.end()) return;
  const std::uint32_t process = thread->second.process;
  threads_.erase(thread);
  const bool is_last = std::none_of(threads_.begin(), threads_.end(), [&](const auto& entry) {
    return entry.second.process == process;
  });
  if (is_last) processes_.erase(process);
}

/// Nothing for one that was killed meanwhile.
std::optional<TracedCall> Tracing::call_of(std::uint32_t tid) const {
  __ptrace_syscall_info info{};
  if (::ptrace(PTRACE_GET_SYSCALL_INFO, static_cast<pid_t>(tid), sizeof info, &info) <= 0) {
    return std::nullopt;
  }
  TracedCall call{.tid = tid, .architecture = info.arch, .instruction = info.instruction_pointer};
  if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
    call.kind = TracedCall::kBegins;
    call.number = info.entry.nr;
    std::copy(std::begin(info.entry.args), std::end(info.entry.args), call.arguments.begin());
    return call;
  }
  if (info.op != PTRACE_SYSCALL_INFO_EXIT) return std::nullopt;
  call.kind = TracedCall::kEnds;
  call.result = info.exit.rval;
  return call;
}

bool Tracing::keep(std::uint32_t tid) {
  siginfo_t taken{};
  return ::waitid(P_PID, tid, &taken, WSTOPPED | WNOHANG | __WALL) == 0 && taken.si_pid != 0;
}

void Tracing::go_on(std::uint32_t tid) { ask(PTRACE_SYSCALL, tid); }

bool Tracing::go_on_with(std::uint32_t tid, int errno_value) {
  const bool skipped = skip_call(tid, errno_value);
  go_on(tid);
  return skipped;
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
      if (thread && tracer_of(*thread) == tracer_) {
        found.push_back("thread " + std::to_string(tid) + " of process " + name_of(pid) +
                        " is still traced");
      }
    }
  }
  return found;
}

}  // namespace squall::hold
