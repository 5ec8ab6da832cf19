/// \file
/// io: makes what processes do with the files below a directory slow, or fail.
///
/// A thread of the holder follows the processes by ptrace from one system call to the next, and
/// holds those that it is to delay where they begin. The kernel lets go of them all when that
/// thread ends, however it ends: what is held is done then, unharmed. So there is nothing to undo,
/// and files that are open already are hit like others.
#include <errno.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "experiments/fault/fault.h"
#include "experiments/processes/proc.h"
#include "injector/faults/fault.h"
#include "injector/faults/file_calls.h"
#include "injector/faults/paths.h"
#include "injector/faults/processes.h"
#include "injector/faults/spared.h"
#include "injector/faults/tracing.h"

namespace squall::hold {
namespace {

/// A thread that does not stop by then waits in the kernel for what may never come.
constexpr Duration kStopWithin = std::chrono::seconds(3);
/// The kernel has let go of all within microseconds; this is only so that waiting for it ends.
constexpr Duration kReleaseWithin = std::chrono::seconds(1);
constexpr Duration kStep = std::chrono::microseconds(100);

int number_of(v1::FileError wanted) {
  switch (wanted) {
    case v1::FILE_ERROR_EIO:
      return EIO;
    case v1::FILE_ERROR_ENOSPC:
      return ENOSPC;
    case v1::FILE_ERROR_EROFS:
      return EROFS;
    case v1::FILE_ERROR_EACCES:
      return EACCES;
    case v1::FILE_ERROR_EDQUOT:
      return EDQUOT;
    case v1::FILE_ERROR_EMFILE:
      return EMFILE;
    default:
      return 0;
  }
}

/// What the kernel says of a call that a signal interrupted and that it may begin anew by itself.
/// Source: include/linux/errno.h.
bool is_to_be_begun_again(std::int64_t result) {
  return result == -512 || result == -513 || result == -514 || result == -516;
}

/// The directory's path, without doubles. Errors: as open_path(); kInvalidArgument for what is no
/// directory; kPermissionDenied for what protect() was told of.
StatusOr<std::string> find_directory(const std::string& wanted, struct stat& found) {
  std::string path = std::filesystem::path(wanted).lexically_normal().string();
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const StatusOr<Fd> directory = open_path(path);
  if (!directory.ok()) return in_context("io.path", directory.status());
  if (::fstat(directory->number(), &found) != 0) {
    return in_context("io.path", from_errno("looking at " + escape_controls(path), errno));
  }
  if (!S_ISDIR(found.st_mode)) {
    return error(StatusCode::kInvalidArgument,
                 "io.path: " + escape_controls(path) + " is not a directory");
  }
  if (const std::string why = why_protected_path(path); !why.empty()) {
    return error(StatusCode::kPermissionDenied,
                 "io.path: " + escape_controls(path) + " cannot be touched: " + why);
  }
  return path;
}

/// Whether the process means by the path what the node means by it. A name in a process's mounts is
/// what /proc shows for its files, whatever is there on the node.
bool sees_as_node(const Target& target, const std::string& path, const struct stat& found) {
  const std::string process = "/proc/" + std::to_string(target.pid);
  struct stat theirs {};
  struct stat ours {};
  if (::stat((process + "/ns/mnt").c_str(), &theirs) != 0 ||
      ::stat("/proc/self/ns/mnt", &ours) != 0 || theirs.st_ino == ours.st_ino) {
    return true;
  }
  return ::stat((process + "/root" + path).c_str(), &theirs) == 0 &&
         theirs.st_dev == found.st_dev && theirs.st_ino == found.st_ino;
}

/// Why the operations of a process cannot be hit as asked; empty: they can.
std::string why_not(const Target& target, const v1::Io& wanted, const std::string& path,
                    const struct stat& found) {
  const auto process = ProcFolder::open(target.pid);
  if (!process) return "";
  const auto descriptors = process->descriptors();
  if (std::find(descriptors.begin(), descriptors.end(), "anon_inode:[io_uring]") !=
      descriptors.end()) {
    return "uses io_uring, whose operations no tracer sees";
  }
  const std::string program = process->read("exe", 5).value_or("");
  if (program ==
      "\x7f"
      "ELF\x01") {
    return "is a program of 32 bits, whose system calls are others";
  }
  constexpr std::uint32_t kFilter = 2;  // SECCOMP_MODE_FILTER
  if (wanted.error() != v1::FILE_ERROR_NONE && process->status_number("Seccomp") == kFilter) {
    return "has a seccomp filter, which may end it for a call that is made to fail; a delay does "
           "it no harm";
  }
  if (!sees_as_node(target, path, found)) {
    return "has mounts of its own, and sees something else at " + escape_controls(path) +
           " than the node does";
  }
  return "";
}

struct Meant {
  Selection selection;
  std::string path;
};

/// Errors: as find_directory(), select_processes(), are_untraced(); kUnimplemented for an
/// architecture whose calls are not known, or a kernel that tells nothing of them;
/// kFailedPrecondition for a process whose operations cannot be hit.
StatusOr<Meant> select_to_follow(const v1::Fault& fault) {
  const v1::Io& wanted = fault.io();
  if (kCallsOf == 0) {
    return error(StatusCode::kUnimplemented,
                 "io: only the system calls of x86-64 and arm64 are known");
  }
  // First, for who may not trace others sees little of them.
  Status able = may_trace("operations on files are held by ptrace");
  if (able.ok()) able = in_context("io", tells_of_calls());
  if (!able.ok()) return able;
  struct stat found {};
  StatusOr<std::string> path = find_directory(wanted.path(), found);
  if (!path.ok()) return path.status();
  StatusOr<Selection> selection = select_processes(wanted.of(), v1::ProcessPick(), fault.seed());
  if (!selection.ok()) return selection.status();
  if (Status free = are_untraced(selection->targets); !free.ok()) return free;
  for (const Target& target : selection->targets) {
    const std::string why = why_not(target, wanted, *path, found);
    if (why.empty()) continue;
    return error(StatusCode::kFailedPrecondition,
                 "process " + std::to_string(target.pid) + " (" + target.command + ") " + why);
  }
  return Meant{*std::move(selection), *std::move(path)};
}

/// Which operations are meant, and which of those are to be hit.
class Aim {
 public:
  Aim(const v1::Io& wanted, std::uint64_t seed) : random_(seed) {
    for (const int operation : wanted.operations()) operations_.insert(operation);
    set_share(wanted);
  }

  void set_share(const v1::Io& wanted) {
    if (wanted.has_percent()) share_ = wanted.percent() / 100;
  }

  void set_path(const std::string& path) { path_ = path; }

  /// What costs most is asked last: most calls are none of those that are meant.
  bool means(const TracedCall& call) const {
    if (call.architecture != kCallsOf) return false;
    const FileCall* files = find_file_call(call.number);
    if (files == nullptr) return false;
    return std::any_of(files->begin(), files->end(), [&](const FileArgument& file) {
      if (file.kind == FileArgument::kNone) return false;
      if (!operations_.empty() && !operations_.contains(file.operation)) return false;
      const auto path = path_of(call.tid, file, call.arguments);
      return path && is_within(*path, path_);
    });
  }

  /// The same for the same sequence of operations.
  bool draw() {
    if (share_ >= 1) return true;
    // 53 bits are what a double holds; the standard's distributions are not everywhere the same.
    return static_cast<double>(random_() >> 11U) * 0x1p-53 < share_;
  }

 private:
  std::set<int> operations_;  // empty: all
  std::string path_;
  std::atomic<double> share_ = 1;
  std::mt19937_64 random_;
};

class Io final : public Fault {
 public:
  explicit Io(const v1::Fault& wanted)
      : wanted_(wanted), errno_(number_of(wanted.io().error())), aim_(wanted.io(), wanted.seed()) {
    static_cast<void>(become(fault_at(wanted, Duration::zero())));
  }
  ~Io() override { end_tracer(); }

  /// Errors: as select_to_follow().
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Meant> meant = select_to_follow(wanted_);
    if (!meant.ok()) return meant.status();
    targets_ = std::move(meant->selection.targets);
    aim_.set_path(meant->path);
    return std::vector<v1::Undo>();
  }

  /// Of the operations that begin from now on.
  Status become(const v1::Fault& now) override {
    delay_ = Duration(now.io().delay());
    aim_.set_share(now.io());
    return ok();
  }

  /// Errors: kResourceExhausted; as Tracing::stop().
  Status apply(MonotonicTime) override {
    news_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!news_.is_open()) return from_errno("eventfd", errno);
    std::promise<Status> begun;
    std::future<Status> answer = begun.get_future();
    try {
      tracer_ =
          std::thread([this, begun = std::move(begun)]() mutable { trace(std::move(begun)); });
    } catch (const std::system_error& problem) {
      return error(StatusCode::kResourceExhausted,
                   std::string("a thread cannot be started: ") + problem.what());
    }
    return answer.get();
  }

  Status pulse(MonotonicTime) override { return look_again(); }

  int watched() const override { return news_.number(); }

  /// Errors: kFailedPrecondition when there is nothing left to follow.
  Status look_again() override {
    if (!all_gone_) return ok();
    return error(StatusCode::kFailedPrecondition,
                 "every process whose operations were held has ended");
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::IoEvidence& io = *evidence.mutable_io();
    io.set_operations(operations_);
    io.set_delayed(delayed_);
    io.set_failed(failed_);
    evidence.set_effect(delayed_ + failed_ > 0);
    return evidence;
  }

  Status end_effect() override {
    end_tracer();
    return ok();
  }

  std::vector<std::string> clean_up() override {
    const MonotonicTime until = monotonic_now() + kReleaseWithin;
    while (!tracing_.residue().empty() && monotonic_now() < until) nap();
    return tracing_.residue();
  }

 private:
  /// One that is meant, and has begun.
  struct Operation {
    std::uint64_t number = 0;
    std::uint64_t instruction = 0;
    MonotonicTime began;
    std::optional<MonotonicTime> due;  // while it is kept
    Duration delay{};
    bool is_hit = false;
  };

  static void nap() {
    const timespec step{.tv_sec = 0, .tv_nsec = Duration(kStep).count()};
    ::nanosleep(&step, nullptr);
  }

  // --- the holder's thread ---

  /// The kernel lets go of all of them when the tracer is gone.
  void end_tracer() {
    if (!tracer_.joinable()) return;
    ending_ = true;
    while (!over_) {
      alarm_->ring();
      nap();
    }
    tracer_.join();
    // A joined thread has yet to come to its end in the kernel.
    const std::string task = "/proc/self/task/" + std::to_string(tracer_id_);
    const MonotonicTime until = monotonic_now() + kReleaseWithin;
    while (::access(task.c_str(), F_OK) == 0 && monotonic_now() < until) nap();
    alarm_.reset();
  }

  // --- the tracer's thread, which does all from here on ---

  void trace(std::promise<Status> begun) {
    tracer_id_ = ::gettid();
    ::prctl(PR_SET_TIMERSLACK, 1UL);  // delays are as long as asked, and no longer
    alarm_.emplace();
    const Status standing = tracing_.stop(targets_, monotonic_now() + kStopWithin);
    begun.set_value(standing);
    while (standing.ok() && !ending_) {
      if (const auto call = tracing_.next_call()) take(*call);
      let_go();
      if (!tracing_.is_empty()) continue;
      if (!all_gone_.exchange(true)) ::eventfd_write(news_.number(), 1);
      nap();
    }
    // Nobody is let go one by one: a signal that came to one between the look at it and that would
    // be lost, which by the end of its tracer it is not.
    over_ = true;
  }

  void take(const TracedCall& call) {
    switch (call.kind) {
      case TracedCall::kBegins:
        return begin(call);
      case TracedCall::kEnds:
        return end(call);
      case TracedCall::kGone:
        drop(call.tid);
        again_.erase(call.tid);
        return;
    }
  }

  void begin(const TracedCall& call) {
    if (!aim_.means(call) || is_the_same_again(call)) return tracing_.go_on(call.tid);
    ++operations_;
    Operation& operation = begun_[call.tid];
    operation = {.number = call.number,
                 .instruction = call.instruction,
                 .began = monotonic_now(),
                 .due = std::nullopt,
                 .delay = delay_,
                 .is_hit = aim_.draw()};
    if (!operation.is_hit || operation.delay == Duration::zero() || !tracing_.keep(call.tid)) {
      return go_on(call.tid, operation);
    }
    operation.due = operation.began + operation.delay;
    due_.emplace(*operation.due, call.tid);
  }

  void go_on(std::uint32_t tid, const Operation& operation) {
    if (operation.is_hit && errno_ != 0) {
      tracing_.go_on_with(tid, errno_);
    } else {
      tracing_.go_on(tid);
    }
  }

  /// Counted is what was: the time that it took, and what it came back with.
  void end(const TracedCall& call) {
    const auto found = begun_.find(call.tid);
    if (found != begun_.end()) {
      const Operation& operation = found->second;
      if (operation.is_hit && operation.delay > Duration::zero() &&
          monotonic_now() - operation.began >= operation.delay) {
        ++delayed_;
      }
      if (operation.is_hit && errno_ != 0 && call.result == -errno_) ++failed_;
      if (is_to_be_begun_again(call.result)) {
        again_[call.tid] = {operation.number, operation.instruction};
      }
      begun_.erase(found);
    }
    tracing_.go_on(call.tid);
  }

  /// Whether the kernel begins a call anew that a signal interrupted: it was counted, and had its
  /// delay.
  bool is_the_same_again(const TracedCall& call) {
    const auto found = again_.find(call.tid);
    if (found == again_.end()) return false;
    const auto interrupted = found->second;
    again_.erase(found);
    return interrupted == std::pair(call.number, call.instruction);
  }

  void let_go() {
    while (!due_.empty() && due_.begin()->first <= monotonic_now()) {
      const std::uint32_t tid = due_.begin()->second;
      due_.erase(due_.begin());
      Operation& operation = begun_[tid];
      operation.due.reset();
      go_on(tid, operation);
    }
    alarm_->set(due_.empty() ? MonotonicTime::max() : due_.begin()->first);
  }

  void drop(std::uint32_t tid) {
    const auto found = begun_.find(tid);
    if (found == begun_.end()) return;
    if (found->second.due) due_.erase({*found->second.due, tid});
    begun_.erase(found);
  }

  v1::Fault wanted_;
  std::atomic<Duration> delay_{};
  int errno_;  // 0: none
  std::vector<Target> targets_;
  Fd news_;
  std::thread tracer_;
  std::atomic<pid_t> tracer_id_ = 0;
  std::atomic<bool> ending_ = false;
  std::atomic<bool> over_ = false;  // but for the thread's end

  std::optional<Alarm> alarm_;
  Aim aim_;
  Tracing tracing_;
  std::unordered_map<std::uint32_t, Operation> begun_;  // by thread
  std::unordered_map<std::uint32_t, std::pair<std::uint64_t, std::uint64_t>> again_;
  std::set<std::pair<MonotonicTime, std::uint32_t>> due_;

  // Told by the one thread, read by the other.
  std::atomic<std::uint64_t> operations_ = 0;
  std::atomic<std::uint64_t> delayed_ = 0;
  std::atomic<std::uint64_t> failed_ = 0;
  std::atomic<bool> all_gone_ = false;
};

std::unique_ptr<Fault> make(const v1::Start& start) { return std::make_unique<Io>(start.fault()); }

v1::Looked look(const v1::Look& request) {
  v1::Looked looked;
  const StatusOr<Meant> meant = select_to_follow(request.fault());
  if (!meant.ok()) return refused(meant.status());
  tell(meant->selection, looked);
  looked.add_notes(
      "traced meanwhile, so that each of their system calls takes microseconds longer");
  return looked;
}

}  // namespace

extern const FaultKind kIo;
const FaultKind kIo{.kind = v1::Fault::kIo, .name = "io", .make = make, .look = look};

}  // namespace squall::hold
