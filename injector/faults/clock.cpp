/// \file
/// clock: sets the node's wall clock ahead or back.
///
/// The kernel adds the offset and takes it away again (ADJ_SETOFFSET), so that the time that passes
/// meanwhile counts on, and not a nanosecond is lost between reading and setting. Whether the
/// offset is in the clock is read from its distance to CLOCK_BOOTTIME, which nothing sets.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>

#include "experiments/base/failpoint.h"
#include "experiments/base/units.h"
#include "injector/faults/fault.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

Duration now_of(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

/// CLOCK_REALTIME minus CLOCK_BOOTTIME, as near as it can be read.
Duration wall_minus_boot() {
  Duration distance{};
  Duration narrowest = Duration::max();
  for (int i = 0; i < 5; ++i) {
    const Duration before = now_of(CLOCK_BOOTTIME);
    const Duration wall = now_of(CLOCK_REALTIME);
    const Duration took = now_of(CLOCK_BOOTTIME) - before;
    if (took >= narrowest) continue;
    narrowest = took;
    distance = wall - before - took / 2;
  }
  return distance;
}

/// Source: clock_adjtime(2): the seconds carry the sign, the nanoseconds never do.
Status shift_clock(Duration offset) {
  const auto seconds = std::chrono::floor<std::chrono::seconds>(offset);
  timex change{};
  change.modes = ADJ_SETOFFSET | ADJ_NANO;
  change.time.tv_sec = seconds.count();
  change.time.tv_usec = (offset - seconds).count();
  if (::clock_adjtime(CLOCK_REALTIME, &change) >= 0) {
    failpoint<"clock.shifted">();
    return ok();
  }
  return from_errno("setting the clock", errno);
}

/// Whether our offset is in a clock that is this far from CLOCK_BOOTTIME: whether that is nearer to
/// where we have set it than to where it was. What a time daemon does by and by moves both clocks
/// alike; only who sets the clock changes the distance, and most likely puts it right.
bool has_offset(const v1::TakeBackTime& ours, Duration distance) {
  const Duration moved = distance - Duration(ours.before());
  return std::abs((moved - Duration(ours.offset())).count()) < std::abs(moved.count());
}

Status take_back(const v1::TakeBackTime& ours) {
  if (!has_offset(ours, wall_minus_boot())) return ok();
  const Status shifted = shift_clock(-Duration(ours.offset()));
  if (!shifted.ok()) return error(StatusCode::kDataLoss, message_of(shifted));
  if (!has_offset(ours, wall_minus_boot())) return ok();
  return error(StatusCode::kDataLoss, "the wall clock is still set " +
                                          format_duration(Duration(std::abs(ours.offset()))) +
                                          (ours.offset() > 0 ? " ahead" : " back"));
}

Status run(const v1::Undo& undo) { return take_back(undo.take_back_time()); }

std::string words_of(const v1::Undo& undo) {
  const std::int64_t offset = undo.take_back_time().offset();
  return "wall clock set " + format_duration(Duration(std::abs(offset))) +
         (offset > 0 ? " ahead" : " back");
}

bool may_set_clock() {
  __user_cap_header_struct version{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3]{};
  return ::syscall(SYS_capget, &version, sets) == 0 &&
         (sets[CAP_TO_INDEX(CAP_SYS_TIME)].effective & CAP_TO_MASK(CAP_SYS_TIME)) != 0;
}

/// Errors: kFailedPrecondition without the right to; kInvalidArgument for a time that the clock
/// cannot show.
Status check(Duration offset) {
  if (!may_set_clock()) {
    return error(StatusCode::kFailedPrecondition,
                 "squalld may not set this clock: it needs CAP_SYS_TIME, which containers lack");
  }
  // The kernel keeps the wall clock from showing a time before it booted.
  if (now_of(CLOCK_REALTIME) + offset < now_of(CLOCK_BOOTTIME)) {
    return error(StatusCode::kInvalidArgument,
                 "clock.back: further back than 1970 on the day that this node booted");
  }
  return ok();
}

Duration offset_of(const v1::Clock& wanted) {
  return wanted.has_ahead() ? Duration(wanted.ahead()) : -Duration(wanted.back());
}

class Clock final : public Fault {
 public:
  explicit Clock(const v1::Clock& wanted) : offset_(offset_of(wanted)) {}

  /// Errors: kFailedPrecondition, kInvalidArgument.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    if (const Status may = check(offset_); !may.ok()) return may;
    v1::TakeBackTime& ours = *undo_.mutable_take_back_time();
    ours.set_before(wall_minus_boot().count());
    ours.set_offset(offset_.count());
    return std::vector<v1::Undo>{undo_};
  }

  Status apply(MonotonicTime) override {
    const v1::TakeBackTime& ours = undo_.take_back_time();
    if (Status shifted = shift_clock(offset_); !shifted.ok()) return shifted;
    acted_ = has_offset(ours, wall_minus_boot());
    if (acted_) return ok();
    return error(StatusCode::kInternal, "the clock was set, and does not show it");
  }

  /// Errors: kFailedPrecondition when somebody else has put the clock right.
  Status pulse(MonotonicTime) override {
    if (has_offset(undo_.take_back_time(), wall_minus_boot())) return ok();
    return error(StatusCode::kFailedPrecondition,
                 "somebody else, a time daemon perhaps, has put the clock back");
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    evidence.set_effect(acted_);
    evidence.mutable_clock()->set_offset(
        (wall_minus_boot() - Duration(undo_.take_back_time().before())).count());
    return evidence;
  }

  Status end_effect() override {
    return undo_.has_take_back_time() ? take_back(undo_.take_back_time()) : ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  Duration offset_;
  v1::Undo undo_;
  bool acted_ = false;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Clock>(start.fault().clock());
}

v1::Looked look(const v1::Look& request) {
  const Status may = check(offset_of(request.fault().clock()));
  if (!may.ok()) return refused(may);
  v1::Looked looked;
  looked.add_notes("the wall clock of the whole machine, its containers' too");
  timex state{};
  if (::clock_adjtime(CLOCK_REALTIME, &state) >= 0 && (state.status & STA_UNSYNC) == 0) {
    looked.add_notes("a time daemon keeps this clock and may put it right before the fault ends");
  }
  return looked;
}

}  // namespace

extern const FaultKind kClock;
const FaultKind kClock{.kind = v1::Fault::kClock, .name = "clock", .make = make, .look = look};

extern const UndoKind kTakeBackTime;
const UndoKind kTakeBackTime{.what = v1::Undo::kTakeBackTime, .run = run, .in_words = words_of};

}  // namespace squall::hold
