#include "injector/daemon/doctor.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "experiments/base/file.h"
#include "experiments/base/ids.h"
#include "injector/daemon/spawn.h"
#include "injector/daemon/state_dir.h"

namespace squall::daemon {
namespace {

constexpr Duration kPatience = std::chrono::seconds(10);

/// An object's undo as the fault wrote it and as it is found may differ in how long to wait.
bool is_same(const v1::Undo& a, const v1::Undo& b) {
  if (a.has_remove_link() && b.has_remove_link()) {
    return a.remove_link().netns_inode() == b.remove_link().netns_inode() &&
           a.remove_link().name() == b.remove_link().name() &&
           a.remove_link().tag() == b.remove_link().tag();
  }
  return a.SerializeAsString() == b.SerializeAsString();
}

bool has_undo(const v1::Undo& undo) { return undo.what_case() != v1::Undo::WHAT_NOT_SET; }

/// Of a filter or device, which bear a tag; what bears none is found only beside those that do.
/// What has no undo has its tag in its words.
bool is_of(const v1::Swept::Found& found, const std::string& state_id) {
  const v1::Undo& undo = found.undo();
  if (!has_undo(undo)) return found.words().find(object_tag(state_id, "")) != std::string::npos;
  const std::string& tag =
      undo.has_remove_filter() ? undo.remove_filter().tag() : undo.remove_link().tag();
  return tag.empty() || tag.starts_with(object_tag(state_id, ""));
}

bool is_of(const v1::Swept::Found& found, const std::string& state_id,
           const v1::LedgerOpened& fault) {
  if (!has_undo(found.undo())) return found.words().ends_with(object_tag(state_id, fault.fault()));
  return std::any_of(fault.undos().begin(), fault.undos().end(),
                     [&](const v1::Undo& undo) { return is_same(undo, found.undo()); });
}

/// Nothing where there is none yet. One that cannot be read must not pass for one that holds
/// nothing.
StatusOr<LedgerContent> read_ledger_file(const std::string& path) {
  const StatusOr<std::string> bytes = read_whole(path);
  if (bytes.status().code() == StatusCode::kNotFound) return LedgerContent();
  if (!bytes.ok()) return in_context("the ledger", bytes.status());
  return read_ledger(*bytes);
}

}  // namespace

bool Diagnosis::is_accounted_for() const {
  return orphans.empty() && std::none_of(objects.begin(), objects.end(), [](const Object& object) {
           return object.ours && object.owner.empty();
         });
}

StatusOr<Diagnosis> diagnose(const Options& options) {
  const StatusOr<StateDir::Seen> seen = StateDir::look(options.state_dir);
  if (!seen.ok()) return seen.status();
  Diagnosis diagnosis;
  diagnosis.daemon = seen->daemon;

  Loop loop;
  Holders holders(loop, options.hold);
  v1::ToHolder request;
  request.mutable_sweep()->set_state_id(seen->id);
  request.mutable_sweep()->set_only_look(true);
  const StatusOr<v1::FromHolder> answer = ask_now(loop, holders, request, kPatience);
  if (!answer.ok()) return answer.status();
  if (answer->swept().residue_size() > 0) {
    return error(StatusCode::kInternal, answer->swept().residue(0));
  }
  // After the objects: a fault that ends meanwhile leaves an owner without objects, not the
  // reverse.
  const StatusOr<LedgerContent> ledger = read_ledger_file(seen->ledger);
  if (!ledger.ok()) return ledger.status();
  std::vector<const v1::LedgerOpened*> held;
  for (const v1::LedgerOpened& opened : ledger->open) {
    const bool lives =
        opened.boot_id() == boot_id() &&
        open_process(static_cast<pid_t>(opened.holder_pid()), opened.holder_start_time()).ok();
    if (lives) {
      held.push_back(&opened);
    } else if (opened.boot_id() == boot_id()) {
      diagnosis.orphans.push_back(
          fmt::format("{} fault {} of run {}", opened.kind(), opened.fault(), opened.run()));
    }
  }
  for (const v1::Swept::Found& found : answer->swept().found()) {
    Object object;
    object.undo = found.undo();
    object.words = found.words();
    object.ours = is_of(found, seen->id);
    for (const v1::LedgerOpened* opened : held) {
      if (!is_of(found, seen->id, *opened)) continue;
      object.owner = fmt::format("{} fault {} of run {}, held by pid {}", opened->kind(),
                                 opened->fault(), opened->run(), opened->holder_pid());
    }
    diagnosis.objects.push_back(std::move(object));
  }
  return diagnosis;
}

StatusOr<std::vector<std::string>> sweep(const Options& options, std::vector<std::string>& left) {
  const StatusOr<Diagnosis> diagnosis = diagnose(options);
  if (!diagnosis.ok()) return diagnosis.status();
  Loop loop;
  Holders holders(loop, options.hold);
  std::vector<std::string> done;
  if (diagnosis->daemon.empty()) {
    const StatusOr<StateDir> state = StateDir::open(options.state_dir);
    if (!state.ok()) return state.status();
    StatusOr<Ledger> ledger = Ledger::open(state->ledger());
    if (!ledger.ok()) return ledger.status();
    done = recover(loop, holders, *ledger, state->id(), boot_id());
  } else {
    // The daemon's ledger is its own; what nobody answers for is not in it, or will be closed
    // there.
    v1::ToHolder request;
    for (const Object& object : diagnosis->objects) {
      if (object.ours && object.owner.empty() && has_undo(object.undo)) {
        *request.mutable_sweep()->add_undos() = object.undo;
      }
    }
    if (request.has_sweep()) {
      const StatusOr<v1::FromHolder> answer =
          ask_now(loop, holders, request, patience_for(request.sweep().undos()));
      if (!answer.ok()) return answer.status();
      for (const std::string& line : answer->swept().done()) done.push_back("swept " + line);
    }
  }
  const StatusOr<Diagnosis> after = diagnose(options);
  if (!after.ok()) return after.status();
  for (const Object& object : after->objects) {
    if (object.ours && object.owner.empty()) left.push_back(object.words);
  }
  // What is no object, a hidden file say, is known to the ledger alone.
  left.insert(left.end(), after->orphans.begin(), after->orphans.end());
  return done;
}

}  // namespace squall::daemon
