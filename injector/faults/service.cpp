/// \file
/// service: stops a systemd unit and starts it again at the end, or restarts it.
///
/// A stop takes along what cannot be without the unit (Requires=, BindsTo=, PartOf=), so the ledger
/// names every unit that runs now and would not then, and each is started again.
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/base/failpoint.h"
#include "injector/faults/fault.h"
#include "injector/faults/spared.h"
#include "injector/faults/systemd.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

/// What systemd gives most services to stop and to start is 90 s; a fault has less.
constexpr Duration kPatience = std::chrono::seconds(50);

bool runs(const std::string& state) {
  return state == "active" || state == "reloading" || state == "activating";
}

/// Why no fault may stop it; empty: one may.
std::string why_spared(const std::string& unit) {
  for (const char* prefix : {"systemd-", "dbus", "ssh.", "ssh@", "sshd.", "sshd@", "user@"}) {
    if (unit.starts_with(prefix)) return "the node itself stands on it";
  }
  for (const char* suffix : {".service", ".socket", ".timer", ".path"}) {
    if (unit.ends_with(suffix)) return "";
  }
  return "only a .service, .socket, .timer or .path can be stopped and started again";
}

struct FoundUnit {
  std::string id;
  std::string path;
  std::vector<std::string> taken_along;  ///< Their names; they run now.
  std::vector<std::string> triggers;     ///< What may start it again meanwhile.
};

/// Every unit that runs and that a stop of this one stops too, in the order of their distance.
/// Source: systemd.unit(5).
StatusOr<std::vector<std::string>> find_dependents(Systemd& systemd, const FoundUnit& unit) {
  std::vector<std::string> found;
  std::set<std::string> seen{unit.id};
  std::vector<std::string> paths{unit.path};
  for (std::size_t next = 0; next < paths.size(); ++next) {
    const std::string path = paths[next];  // the vector grows
    for (const char* kind :
         {"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"}) {
      const StatusOr<std::vector<std::string>> names = systemd.list(path, kind);
      if (names.status().code() == StatusCode::kNotFound) continue;  // before systemd 249
      if (!names.ok()) return names.status();
      for (const std::string& name : *names) {
        if (!seen.insert(name).second) continue;
        const StatusOr<std::string> other = systemd.find(name);
        if (other.status().code() == StatusCode::kNotFound) continue;
        if (!other.ok()) return other.status();
        const StatusOr<std::string> state = systemd.text(*other, "ActiveState");
        if (!state.ok()) return state.status();
        if (!runs(*state)) continue;
        found.push_back(name);
        paths.push_back(*other);
      }
    }
  }
  return found;
}

/// Errors: kNotFound; kInvalidArgument for what may not be stopped; kFailedPrecondition for what
/// does not run, or refuses.
StatusOr<FoundUnit> find(Systemd& systemd, const std::string& name) {
  const std::string shown = escape_controls(name);
  const auto spared = [&](const std::string& why) {
    return error(StatusCode::kInvalidArgument,
                 "service.unit: " + shown + " cannot be touched: " + why);
  };
  const StatusOr<std::string> path = systemd.find(name);
  if (!path.ok()) return in_context("service.unit", path.status());
  const StatusOr<std::string> id = systemd.text(*path, "Id");
  if (!id.ok()) return id.status();
  // Both, for the name may be another one of the same unit.
  for (const std::string& one : {name, *id}) {
    if (const std::string why = why_spared(one); !why.empty()) return spared(why);
  }
  // And those that it does not go by here: the guardrails may know it by another.
  StatusOr<std::vector<std::string>> names = systemd.list(*path, "Names");
  if (!names.ok()) return names.status();
  names->push_back(name);
  for (const std::string& one : *names) {
    if (const std::string why = why_protected_unit(one); !why.empty()) return spared(why);
  }
  const StatusOr<std::string> own = systemd.unit_of(static_cast<std::uint32_t>(::getpid()));
  if (own.ok() && *own == *path) return spared("squalld runs in it");
  const StatusOr<std::string> state = systemd.text(*path, "ActiveState");
  if (!state.ok()) return state.status();
  if (*state != "active") {
    return error(StatusCode::kFailedPrecondition, "service.unit: " + shown + " is " + *state +
                                                      "; only what is active can be stopped");
  }
  const StatusOr<bool> refuses = systemd.flag(*path, "RefuseManualStop");
  const StatusOr<bool> never_again = systemd.flag(*path, "RefuseManualStart");
  if (!refuses.ok()) return refuses.status();
  if (!never_again.ok()) return never_again.status();
  if (*refuses || *never_again) {
    return error(StatusCode::kFailedPrecondition,
                 "service.unit: " + shown + " refuses to be " +
                     (*refuses ? "stopped (RefuseManualStop=yes)"
                               : "started again (RefuseManualStart=yes)"));
  }
  FoundUnit unit;
  unit.id = *id;
  unit.path = *path;
  StatusOr<std::vector<std::string>> along = find_dependents(systemd, unit);
  if (!along.ok()) return along.status();
  unit.taken_along = *std::move(along);
  for (const std::string& other : unit.taken_along) {
    const StatusOr<std::string> other_path = systemd.find(other);
    if (own.ok() && other_path.ok() && *other_path == *own) {
      return spared("squalld's own unit needs it");
    }
    // A target is only told that what it wanted is gone; it is started with the rest.
    if (const std::string why = why_protected_unit(other); !why.empty()) {
      return spared(escape_controls(other) + " would be stopped with it and is " + why);
    }
    if (!other.ends_with(".target") && !why_spared(other).empty()) {
      return spared(escape_controls(other) + " would be stopped with it");
    }
  }
  StatusOr<std::vector<std::string>> triggers = systemd.list(*path, "TriggeredBy");
  if (triggers.ok()) unit.triggers = *std::move(triggers);
  return unit;
}

/// Errors: kDataLoss when it does not run afterwards.
Status start_again(const v1::StartUnit& undo) {
  const std::string shown = escape_controls(undo.unit());
  const auto left = [&](const std::string& why) {
    return error(StatusCode::kDataLoss, shown + " does not run again: " + why);
  };
  StatusOr<Systemd> systemd = Systemd::connect();
  if (!systemd.ok()) return left(message_of(systemd.status()));
  const StatusOr<std::string> path = systemd->find(undo.unit());
  if (path.status().code() == StatusCode::kNotFound) return ok();  // removed meanwhile
  if (!path.ok()) return left(message_of(path.status()));
  StatusOr<std::string> state = systemd->text(*path, "ActiveState");
  if (state.ok() && runs(*state)) return ok();
  const Status started =
      systemd->run(undo.unit(), Systemd::Job::kStart, monotonic_now() + Duration(undo.timeout()));
  failpoint<"service.started">();
  if (!started.ok()) return left(message_of(started));
  state = systemd->text(*path, "ActiveState");
  if (!state.ok()) return left(message_of(state.status()));
  return runs(*state) ? ok() : left("it is " + *state + " after its start");
}

Status run(const v1::Undo& undo) { return start_again(undo.start_unit()); }

std::string words_of(const v1::Undo& undo) {
  return "stopped unit " + escape_controls(undo.start_unit().unit());
}

class Service final : public Fault {
 public:
  explicit Service(const v1::Service& wanted) : wanted_(wanted) {}

  /// Errors: kFailedPrecondition without systemd, and as find().
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Systemd> systemd = Systemd::connect();
    if (!systemd.ok()) return in_context("service", systemd.status());
    const StatusOr<FoundUnit> unit = find(*systemd, wanted_.unit());
    if (!unit.ok()) return unit.status();
    systemd_.emplace(*std::move(systemd));
    path_ = unit->path;
    std::vector<std::string> names{unit->id};
    names.insert(names.end(), unit->taken_along.begin(), unit->taken_along.end());
    for (const std::string& name : names) {
      v1::StartUnit& start = *undos_.emplace_back().mutable_start_unit();
      start.set_unit(name);
      start.set_timeout(kPatience.count());
    }
    return undos_;
  }

  /// Errors: kDeadlineExceeded for a unit that takes too long.
  Status apply(MonotonicTime deadline) override {
    begun_ = true;
    const bool stops = wanted_.action() == v1::STOP;
    const Status done =
        systemd_->run(wanted_.unit(), stops ? Systemd::Job::kStop : Systemd::Job::kRestart,
                      std::min(deadline, monotonic_now() + kPatience));
    failpoint<"service.stopped">();
    if (!done.ok()) return in_context("service", done);
    const std::string state = state_now();
    acted_ = stops ? !runs(state) : runs(state);
    if (acted_) return ok();
    return error(StatusCode::kInternal, "service: " + escape_controls(wanted_.unit()) + " is " +
                                            state + " after its " + (stops ? "stop" : "restart"));
  }

  /// A unit that somebody else starts again is an answer to the fault, not its end.
  Status pulse(MonotonicTime) override { return ok(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    evidence.set_effect(acted_);
    evidence.mutable_service()->set_state(state_now());
    evidence.mutable_service()->set_stops(acted_ ? 1 : 0);
    return evidence;
  }

  Status end_effect() override {
    if (!std::exchange(begun_, false)) return ended_;
    for (const v1::Undo& undo : undos_) {
      if (const Status started = run(undo); ended_.ok()) ended_ = started;
    }
    return ended_;
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  std::string state_now() {
    const StatusOr<std::string> state = systemd_->text(path_, "ActiveState");
    return state.ok() ? *state : "unknown: " + message_of(state.status());
  }

  v1::Service wanted_;
  std::optional<Systemd> systemd_;
  std::string path_;
  std::vector<v1::Undo> undos_;
  bool begun_ = false;
  bool acted_ = false;
  Status ended_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Service>(start.fault().service());
}

v1::Looked look(const v1::Look& request) {
  StatusOr<Systemd> systemd = Systemd::connect();
  if (!systemd.ok()) return refused(in_context("service", systemd.status()));
  const StatusOr<FoundUnit> unit = find(*systemd, request.fault().service().unit());
  if (!unit.ok()) return refused(unit.status());
  v1::Looked looked;
  for (const std::string& name : unit->taken_along) looked.add_notes("stops " + name + " as well");
  for (const std::string& name : unit->triggers) looked.add_notes(name + " may start it again");
  return looked;
}

}  // namespace

extern const FaultKind kService;
const FaultKind kService{
    .kind = v1::Fault::kService, .name = "service", .make = make, .look = look};

extern const UndoKind kStartUnit;
const UndoKind kStartUnit{.what = v1::Undo::kStartUnit, .run = run, .in_words = words_of};

}  // namespace squall::hold
