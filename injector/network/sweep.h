/// \file
/// The way back for everything a network fault changes, from its data alone: used by the holder at
/// the end, and by a sweep when the holder is dead.
#pragma once

#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "squall/v1/undo.pb.h"

namespace squall::network {

/// Carries out one undo. Idempotent: what is already gone is success, what is no longer ours is
/// left alone. Reads back. Errors: kDataLoss for what is still there afterwards;
/// kFailedPrecondition if called in another network namespace than the one the undo names.
Status run_undo(const v1::Undo& undo);

/// Every object in this network namespace that bears the state directory's tag (squall:STATE_ID:…),
/// as the undos that remove them, filters first. An empty state id means any of Squall's. Errors:
/// kInternal when the kernel could not be read; that is never taken for "none".
StatusOr<std::vector<v1::Undo>> find_tagged(const std::string& state_id);

}  // namespace squall::network
