/// \file
/// exhaust: leaves processes no descriptor to open, or a control group no process to start.
///
/// Both are limits that the kernel keeps whoever has set them, so every way back is in the ledger
/// before: the soft limit of each process (RLIMIT_NOFILE), and the group's pids.max. What somebody
/// else has set meanwhile is left alone.
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/processes/proc.h"
#include "injector/faults/fault.h"
#include "injector/faults/groups.h"
#include "injector/faults/processes.h"
#include "injector/faults/protected.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

constexpr const char* kPidsMax = "pids.max";

/// Nothing for a process that is gone.
std::optional<Stat> stat_of(std::uint32_t pid) {
  const auto process = ProcFolder::open(pid);
  return process ? process->stat() : std::nullopt;
}

/// As Stat::start_time.
std::uint64_t ticks_since_boot() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const auto per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  return static_cast<std::uint64_t>(now.tv_sec) * per_second +
         static_cast<std::uint64_t>(now.tv_nsec) * per_second / 1'000'000'000;
}

/// Sets it where one is given. Errors: kNotFound for a process that is gone, kPermissionDenied.
StatusOr<rlimit> descriptor_limit(std::uint32_t pid, const rlimit* wanted = nullptr) {
  rlimit before{};
  if (::prlimit(static_cast<pid_t>(pid), RLIMIT_NOFILE, wanted, &before) == 0) {
    if (wanted != nullptr) failpoint<"exhaust.limit_set">();
    return before;
  }
  const int problem = errno;
  const std::string what = "the limit of descriptors of process " + std::to_string(pid);
  if (problem == ESRCH) return error(StatusCode::kNotFound, what + " is gone with it");
  if (problem == EPERM) {
    return error(StatusCode::kPermissionDenied, what + " needs CAP_SYS_RESOURCE");
  }
  return from_errno(what, problem);
}

/// The soft limit under which exactly `leave` more can be opened: the kernel bounds the number of a
/// descriptor, not how many there are, and gives away the lowest that is free.
std::uint64_t limit_that_leaves(const std::vector<std::uint32_t>& in_use, std::uint64_t leave) {
  std::uint64_t limit = 0;
  std::uint64_t free = 0;
  for (const std::uint32_t number : in_use) {
    const std::uint64_t gap = number - limit;
    if (free + gap > leave || (gap > 0 && free == leave)) break;
    free += gap;
    limit = std::uint64_t{number} + 1;
  }
  return limit + (leave - free);
}

/// One process and what its limit is to be.
struct Squeezed {
  Target target;
  rlimit before;
  std::uint64_t ours = 0;
};

std::string in_words(const Squeezed& one) {
  return std::to_string(one.target.pid) + " (" + one.target.command + ")";
}

/// Errors: as select_processes; kFailedPrecondition for one that has less left already;
/// kPermissionDenied.
StatusOr<std::vector<Squeezed>> choose_processes(const v1::Exhaust& wanted) {
  StatusOr<std::vector<Target>> targets = select_processes(wanted.descriptors());
  if (!targets.ok()) return targets.status();
  std::vector<Squeezed> chosen;
  for (Target& target : *targets) {
    const std::string folder = "/proc/" + std::to_string(target.pid) + "/fd";
    if (::access(folder.c_str(), R_OK) != 0) {
      if (errno == ENOENT) continue;  // ended meanwhile
      return error(StatusCode::kPermissionDenied, folder + " needs CAP_SYS_PTRACE");
    }
    const StatusOr<rlimit> before = descriptor_limit(target.pid);
    if (before.status().code() == StatusCode::kNotFound) continue;  // likewise
    if (!before.ok()) return before.status();
    const auto process = ProcFolder::open(target.pid);
    if (!process) continue;  // likewise
    const std::uint64_t ours = limit_that_leaves(process->descriptor_numbers(), wanted.leave());
    Squeezed one{std::move(target), *before, ours};
    if (one.ours >= before->rlim_cur) {
      return error(StatusCode::kFailedPrecondition,
                   "exhaust: process " + in_words(one) + " has no more than " +
                       std::to_string(wanted.leave()) + " descriptors left already");
    }
    chosen.push_back(std::move(one));
  }
  if (chosen.empty()) {
    return error(StatusCode::kNotFound, "every process that was meant has ended");
  }
  return chosen;
}

/// Of one process, if it still has ours. Errors: kDataLoss.
Status give_back(std::uint32_t pid, const v1::SetDescriptorLimit& undo) {
  StatusOr<rlimit> limit = descriptor_limit(pid);
  if (limit.ok() && limit->rlim_cur == undo.ours()) {
    const rlimit before{std::min<rlim_t>(undo.before(), limit->rlim_max), limit->rlim_max};
    limit = descriptor_limit(pid, &before);
    if (limit.ok()) limit = descriptor_limit(pid);
  }
  if (limit.status().code() == StatusCode::kNotFound) return ok();
  if (!limit.ok()) return error(StatusCode::kDataLoss, message_of(limit.status()));
  if (limit->rlim_cur != undo.ours()) return ok();
  return error(StatusCode::kDataLoss, "process " + std::to_string(pid) +
                                          " still has the limit of " + std::to_string(undo.ours()) +
                                          " descriptors");
}

Status give_limit_back(const v1::Undo& undo) {
  const v1::SetDescriptorLimit& limit = undo.set_descriptor_limit();
  const std::optional<Stat> process = stat_of(limit.pid());
  if (!process || process->start_time != limit.start_time()) return ok();
  // Itself first: what it starts from then on inherits what it had before.
  Status undone = give_back(limit.pid(), limit);
  std::set<std::uint32_t> line{limit.pid()};
  for (bool more = true; more;) {
    more = false;
    for (const std::uint32_t pid : all_pids()) {
      const std::optional<Stat> other = stat_of(pid);
      if (!other || !line.contains(other->parent) || !line.insert(pid).second) continue;
      more = true;
      if (other->start_time < limit.since()) continue;
      if (const Status one = give_back(pid, limit); undone.ok()) undone = one;
    }
  }
  return undone;
}

std::string limit_in_words(const v1::Undo& undo) {
  return "the limit of descriptors of process " + std::to_string(undo.set_descriptor_limit().pid());
}

class Descriptors final : public Fault {
 public:
  explicit Descriptors(const v1::Exhaust& wanted) : wanted_(wanted) {}

  /// Errors: as choose_processes.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<std::vector<Squeezed>> chosen = choose_processes(wanted_);
    if (!chosen.ok()) return chosen.status();
    chosen_ = *std::move(chosen);
    const std::uint64_t now = ticks_since_boot();
    for (const Squeezed& one : chosen_) {
      v1::SetDescriptorLimit& undo = *undos_.emplace_back().mutable_set_descriptor_limit();
      undo.set_pid(one.target.pid);
      undo.set_start_time(one.target.start_time);
      undo.set_ours(one.ours);
      undo.set_before(one.before.rlim_cur);
      undo.set_since(now);
    }
    return undos_;
  }

  /// Errors: kNotFound if every process has ended; kPermissionDenied.
  Status apply(MonotonicTime) override {
    Status problem = error(StatusCode::kNotFound, "every process that was meant has ended");
    bool any = false;
    for (const Squeezed& one : chosen_) {
      const std::optional<Stat> now = stat_of(one.target.pid);
      if (!now || now->start_time != one.target.start_time) continue;
      const rlimit limit{one.ours, one.before.rlim_max};
      const StatusOr<rlimit> set = descriptor_limit(one.target.pid, &limit);
      if (set.status().code() == StatusCode::kPermissionDenied) return set.status();
      any = any || set.ok();
    }
    return any && evidence().effect() ? ok() : problem;
  }

  Status pulse(MonotonicTime) override { return ok(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    std::uint32_t processes = 0;
    for (const Squeezed& one : chosen_) {
      const std::optional<Stat> now = stat_of(one.target.pid);
      if (!now || now->start_time != one.target.start_time) continue;
      const StatusOr<rlimit> limit = descriptor_limit(one.target.pid);
      if (limit.ok() && limit->rlim_cur == one.ours) ++processes;
    }
    evidence.mutable_exhaust()->set_processes(processes);
    if (!chosen_.empty()) evidence.mutable_exhaust()->set_limit(chosen_.front().ours);
    evidence.set_effect(processes > 0);
    return evidence;
  }

  Status end_effect() override {
    for (const v1::Undo& undo : std::exchange(undos_, {})) {
      const Status undone = give_limit_back(undo);
      if (!undone.ok()) residue_.push_back(message_of(undone));
    }
    return ok();
  }

  std::vector<std::string> clean_up() override { return residue_; }

 private:
  v1::Exhaust wanted_;
  std::vector<Squeezed> chosen_;
  std::vector<v1::Undo> undos_;
  std::vector<std::string> residue_;
};

/// A group and what its limit is to be.
struct Closed {
  Group group;
  std::string before;
  std::uint64_t ours = 0;
};

/// Errors: as find_group; kFailedPrecondition for a group that must be able to start processes, or
/// has less left already.
StatusOr<Closed> choose_group(const v1::Exhaust& wanted) {
  if (!wanted.pids().netns().empty()) {
    return error(StatusCode::kInvalidArgument,
                 "exhaust.pids.netns: processes are counted in no network namespace; write a "
                 "cgroup or a unit");
  }
  StatusOr<Group> group = find_group(wanted.pids(), "pids");
  if (!group.ok()) return in_context("exhaust.pids", group.status());
  const Protection protection;
  std::string why;
  const StatusOr<std::uint32_t> spared = find_process(*group, [&](std::uint32_t pid) {
    why = protection.why_not_with(pid);
    return !why.empty();
  });
  if (!spared.ok()) return in_context("exhaust.pids", spared.status());
  if (!why.empty()) {
    return error(StatusCode::kFailedPrecondition,
                 "exhaust.pids: the control group " + group->path + " holds " + why);
  }
  StatusOr<std::string> before = read_key(*group, kPidsMax);
  if (!before.ok()) return in_context("exhaust.pids", before.status());
  const StatusOr<std::uint64_t> current = read_number(*group, "pids.current");
  if (!current.ok()) return in_context("exhaust.pids", current.status());
  const StatusOr<std::uint64_t> most = read_number(*group, kPidsMax);
  if (!most.ok()) return in_context("exhaust.pids", most.status());
  const std::uint64_t ours = *current + wanted.leave();
  if (ours >= *most) {
    return error(StatusCode::kFailedPrecondition,
                 "exhaust.pids: the control group " + group->path + " has no more than " +
                     std::to_string(wanted.leave()) +
                     " processes left already: " + std::to_string(*current) + " of " + *before);
  }
  return Closed{*std::move(group), *std::move(before), ours};
}

Status open_again(const v1::Undo& undo) {
  const v1::SetPidsMax& closed = undo.set_pids_max();
  const StatusOr<Group> group = open_group(closed.hierarchy(), closed.path());
  // With the group its limit is gone; another of the same name is not ours.
  if (group.status().code() == StatusCode::kNotFound) return ok();
  if (!group.ok()) return group.status();
  if (group->inode != closed.inode()) return ok();
  StatusOr<std::string> now = read_key(*group, kPidsMax);
  if (now.ok() && *now == closed.ours()) {
    const Status written = write_key(*group, kPidsMax, closed.before());
    now = written.ok() ? read_key(*group, kPidsMax) : written;
  }
  if (now.status().code() == StatusCode::kNotFound) return ok();
  if (!now.ok()) return error(StatusCode::kDataLoss, message_of(now.status()));
  if (*now != closed.ours()) return ok();
  return error(StatusCode::kDataLoss,
               "the control group " + closed.path() + " still reads " + kPidsMax + " " + *now);
}

std::string open_again_in_words(const v1::Undo& undo) {
  return std::string(kPidsMax) + " of the control group " + undo.set_pids_max().path();
}

class Pids final : public Fault {
 public:
  explicit Pids(const v1::Exhaust& wanted) : wanted_(wanted) {}

  /// Errors: as choose_group.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Closed> closed = choose_group(wanted_);
    if (!closed.ok()) return closed.status();
    closed_.emplace(*std::move(closed));
    v1::SetPidsMax& undo = *undo_.mutable_set_pids_max();
    undo.set_hierarchy(closed_->group.hierarchy);
    undo.set_path(closed_->group.path);
    undo.set_inode(closed_->group.inode);
    undo.set_ours(std::to_string(closed_->ours));
    undo.set_before(closed_->before);
    return std::vector<v1::Undo>{undo_};
  }

  /// Errors: kNotFound for a group that is gone; kPermissionDenied.
  Status apply(MonotonicTime) override {
    const Status written = write_key(closed_->group, kPidsMax, std::to_string(closed_->ours));
    if (!written.ok()) return in_context("exhaust.pids", written);
    return look();
  }

  Status pulse(MonotonicTime) override { return look(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    const StatusOr<std::uint64_t> current = read_number(closed_->group, "pids.current");
    evidence.mutable_exhaust()->set_processes(
        static_cast<std::uint32_t>(current.ok() ? *current : 0));
    evidence.mutable_exhaust()->set_limit(closed_->ours);
    evidence.set_effect(look().ok());
    return evidence;
  }

  Status end_effect() override {
    const Status undone = open_again(undo_);
    if (!undone.ok()) residue_ = {message_of(undone)};
    return ok();
  }

  std::vector<std::string> clean_up() override { return residue_; }

 private:
  Status look() const {
    const StatusOr<std::string> now = read_key(closed_->group, kPidsMax);
    if (now.ok() && *now == undo_.set_pids_max().ours()) return ok();
    return error(StatusCode::kFailedPrecondition,
                 now.ok() ? "the control group " + closed_->group.path + " reads " + kPidsMax +
                                " " + *now + ", which somebody else has set"
                          : "the control group " + closed_->group.path + " is gone");
  }

  v1::Exhaust wanted_;
  std::optional<Closed> closed_;
  v1::Undo undo_;
  std::vector<std::string> residue_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  const v1::Exhaust& wanted = start.fault().exhaust();
  if (wanted.has_pids()) return std::make_unique<Pids>(wanted);
  return std::make_unique<Descriptors>(wanted);
}

v1::Looked look(const v1::Look& request) {
  const v1::Exhaust& wanted = request.fault().exhaust();
  v1::Looked looked;
  if (wanted.has_pids()) {
    const StatusOr<Closed> closed = choose_group(wanted);
    if (!closed.ok()) return refused(closed.status());
    looked.add_notes("at most " + std::to_string(closed->ours) +
                     " processes in the control group " + closed->group.path + ", instead of " +
                     closed->before);
    return looked;
  }
  const StatusOr<std::vector<Squeezed>> chosen = choose_processes(wanted);
  if (!chosen.ok()) return refused(chosen.status());
  for (const Squeezed& one : *chosen) {
    v1::KillEvidence::Victim& target = *looked.add_targets();
    target.set_pid(one.target.pid);
    target.set_start_time(one.target.start_time);
    target.set_command(one.target.command);
  }
  return looked;
}

}  // namespace

extern const FaultKind kExhaust;
const FaultKind kExhaust{
    .kind = v1::Fault::kExhaust, .name = "exhaust", .make = make, .look = look};

extern const UndoKind kSetDescriptorLimit;
const UndoKind kSetDescriptorLimit{
    .what = v1::Undo::kSetDescriptorLimit, .run = give_limit_back, .in_words = limit_in_words};

extern const UndoKind kSetPidsMax;
const UndoKind kSetPidsMax{
    .what = v1::Undo::kSetPidsMax, .run = open_again, .in_words = open_again_in_words};

}  // namespace squall::hold
