/// \file
/// The fault kinds of this build, one line each.
#include <algorithm>

#include "injector/faults/fault.h"

namespace squall::hold {

extern const FaultKind kCpu;
extern const FaultKind kDns;
extern const FaultKind kKill;
extern const FaultKind kNetwork;

std::span<const FaultKind> fault_kinds() {
  static const FaultKind kinds[] = {
      kNetwork,
      kKill,
      kCpu,
      kDns,
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
