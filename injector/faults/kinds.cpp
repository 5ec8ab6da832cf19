/// \file
/// The fault kinds and the undos of this build, one line each.
#include <algorithm>

#include "injector/faults/fault.h"
#include "injector/faults/undo.h"

namespace squall::hold {

extern const FaultKind kClock;
extern const FaultKind kCpu;
extern const FaultKind kDisk;
extern const FaultKind kDns;
extern const FaultKind kExhaust;
extern const FaultKind kFiles;
extern const FaultKind kIo;
extern const FaultKind kKill;
extern const FaultKind kMemory;
extern const FaultKind kNetwork;
extern const FaultKind kPause;
extern const FaultKind kScript;
extern const FaultKind kService;

std::span<const FaultKind> fault_kinds() {
  static const FaultKind kinds[] = {
      kNetwork, kDns,     kKill,  kPause,   kCpu,   kMemory, kDisk,
      kIo,      kExhaust, kFiles, kService, kClock, kScript,
  };
  return kinds;
}

extern const UndoKind kRemoveClsact;
extern const UndoKind kRemoveFile;
extern const UndoKind kRemoveFilter;
extern const UndoKind kRemoveLink;
extern const UndoKind kRenameBack;
extern const UndoKind kRunProgram;
extern const UndoKind kSetDescriptorLimit;
extern const UndoKind kSetPidsMax;
extern const UndoKind kSetSysctl;
extern const UndoKind kStartUnit;
extern const UndoKind kTakeBackTime;
extern const UndoKind kThawCgroup;
extern const UndoKind kUnmount;

std::span<const UndoKind> undo_kinds() {
  static const UndoKind kinds[] = {
      kRemoveFilter,       kRemoveLink, kRemoveClsact, kSetSysctl,  kThawCgroup,
      kSetPidsMax,         kUnmount,    kRenameBack,   kRunProgram, kTakeBackTime,
      kSetDescriptorLimit, kStartUnit,  kRemoveFile,
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
