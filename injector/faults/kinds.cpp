/// \file
/// The fault kinds and the undos of this build, one line each.
#include <algorithm>

#include "injector/faults/fault.h"
#include "injector/faults/undo.h"

namespace squall::hold {

extern const FaultKind kCpu;
extern const FaultKind kDisk;
extern const FaultKind kDns;
extern const FaultKind kExhaust;
extern const FaultKind kKill;
extern const FaultKind kMemory;
extern const FaultKind kNetwork;

std::span<const FaultKind> fault_kinds() {
  static const FaultKind kinds[] = {
      kNetwork, kKill, kCpu, kDns, kMemory, kDisk, kExhaust,
  };
  return kinds;
}

extern const UndoKind kRemoveClsact;
extern const UndoKind kRemoveFile;
extern const UndoKind kRemoveFilter;
extern const UndoKind kRemoveLink;
extern const UndoKind kSetDescriptorLimit;
extern const UndoKind kSetPidsMax;
extern const UndoKind kSetSysctl;

std::span<const UndoKind> undo_kinds() {
  static const UndoKind kinds[] = {
      kRemoveFilter,       kRemoveLink, kRemoveClsact, kSetSysctl,
      kSetDescriptorLimit, kSetPidsMax, kRemoveFile,
  };
  return kinds;
}

const FaultKind* find_kind(const v1::Fault& fault) {
  const auto kinds = fault_kinds();
  const auto found = std::find_if(kinds.begin(), kinds.end(), [&](const FaultKind& kind) {
    return kind.kind == fault.kind_case();
  });
  return found == kinds.end() ? nullptr : &*found;
}

}  // namespace squall::hold
