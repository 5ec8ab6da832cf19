#include "injector/hold/requests.h"

#include <algorithm>
#include <cstddef>
#include <set>
#include <utility>

#include "experiments/base/failpoint.h"
#include "experiments/base/ids.h"
#include "injector/faults/spared.h"
#include "injector/faults/undo.h"
#include "injector/hold/channel.h"
#include "injector/network/fingerprint.h"

namespace squall::hold {
namespace {

void run_all(const std::vector<v1::Undo>& undos, v1::Swept& swept) {
  for (const v1::Undo& undo : undos) {
    const Status status = run_undo(undo);
    failpoint<"sweep.undone">();
    if (status.ok()) {
      swept.add_done(in_words(undo));
    } else {
      swept.add_residue(in_words(undo) + ": " + message_of(status));
    }
  }
}

/// Removes what is tagged and wanted, then reads back.
template <typename Wanted>
void sweep_found(const std::string& state_id, Wanted wanted, v1::Swept& swept) {
  StatusOr<std::vector<v1::Undo>> found = find_tagged(state_id);
  if (found.ok()) {
    std::erase_if(*found, [&](const v1::Undo& undo) { return !wanted(undo); });
    if (found->empty()) return;
    run_all(*found, swept);
    found = find_tagged(state_id);
  }
  if (!found.ok()) {
    swept.add_residue("unknown: the node could not be searched: " + message_of(found.status()));
    return;
  }
  for (const v1::Undo& undo : *found) {
    if (wanted(undo)) swept.add_residue(in_words(undo) + " is still there");
  }
}

/// In every namespace what bears this state directory's tag, and in this one what bears another's.
void look_for_tagged(const std::string& state_id, v1::Swept& swept) {
  std::set<std::string> known;
  for (const std::string& id : {state_id, std::string()}) {
    const StatusOr<std::vector<v1::Undo>> found = find_tagged(id);
    if (!found.ok()) {
      swept.add_residue("unknown: the node could not be searched: " + message_of(found.status()));
      return;
    }
    for (const v1::Undo& undo : *found) {
      if (!known.insert(undo.SerializeAsString()).second) continue;
      v1::Swept::Found& one = *swept.add_found();
      *one.mutable_undo() = undo;
      one.set_words(in_words(undo));
    }
    for (const FaultKind& kind : fault_kinds()) {
      if (kind.find_held == nullptr) continue;
      const StatusOr<std::vector<std::string>> held = kind.find_held(id);
      if (!held.ok()) {
        swept.add_residue("unknown: the node could not be searched: " + message_of(held.status()));
        return;
      }
      for (const std::string& words : *held) {
        if (known.insert(words).second) swept.add_found()->set_words(words);
      }
    }
  }
}

}  // namespace

const FaultKind* find_kind(std::span<const FaultKind> kinds, const v1::Fault& fault) {
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const FaultKind& kind) {
    return kind.kind == fault.kind_case();
  });
  return found == kinds.end() ? nullptr : &*found;
}

v1::Looked look(std::span<const FaultKind> kinds, const v1::Look& request) {
  protect(request.spared());
  if (const Status allowed = names_nothing_protected(request.fault()); !allowed.ok()) {
    return refused(allowed);
  }
  if (const FaultKind* kind = find_kind(kinds, request.fault())) return kind->look(request);
  v1::Looked looked;
  looked.set_code(static_cast<int>(StatusCode::kUnimplemented));
  looked.set_message("this node knows no such fault kind");
  return looked;
}

v1::Swept sweep(const v1::Sweep& request) {
  v1::Swept swept;
  if (request.only_look()) {
    look_for_tagged(request.state_id(), swept);
    return swept;
  }
  run_all({request.undos().begin(), request.undos().end()}, swept);
  if (!request.state_id().empty()) {
    const std::string tag = object_tag(request.state_id(), request.fault_id());
    sweep_found(
        request.state_id(),
        [&](const v1::Undo& undo) { return request.fault_id().empty() || tag_of(undo) == tag; },
        swept);
  }
  return swept;
}

v1::Swept sweep_tagged(const std::string& state_id) {
  v1::Swept swept;
  sweep_found(
      state_id, [](const v1::Undo&) { return true; }, swept);
  return swept;
}

StatusOr<std::vector<std::string>> read_node() { return network::fingerprint(); }

std::vector<v1::Fingerprint> in_parts(std::vector<std::string> lines) {
  std::vector<v1::Fingerprint> parts(1);
  std::size_t bytes = 0;
  for (std::string& line : lines) {
    // Room for the frame around each line; a single line never comes near the bound.
    const std::size_t size = line.size() + 16;
    if (bytes + size > kMaxMessage / 2) {
      parts.back().set_more(true);
      parts.emplace_back();
      bytes = 0;
    }
    bytes += size;
    parts.back().add_lines(std::move(line));
  }
  return parts;
}

}  // namespace squall::hold
