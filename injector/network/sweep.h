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
/// left alone. Reads back. It is done in the network namespace that the undo names, and there is
/// nothing to do once that is gone. Errors: kDataLoss for what is still there afterwards.
Status run_undo(const v1::Undo& undo);

/// Returns once every packet that a processor was taking from a match to its device has arrived
/// there: a device that reads as empty before may yet get one. The kernel carries packets inside of
/// RCU's read sections, and membarrier(2)'s MEMBARRIER_CMD_GLOBAL waits for the end of those that
/// there are (net/core/dev.c, __dev_queue_xmit; kernel/sched/membarrier.c); some tens of
/// milliseconds. Where the kernel refuses it (nohz_full), it returns at once.
void await_packets_in_flight();

/// Every object that bears the state directory's tag (squall:STATE_ID:…), in this network namespace
/// and in every other that may be entered, as the undos that remove them, filters first. An empty
/// state id means any of Squall's, in this namespace alone. Errors: kInternal when the kernel could
/// not be read; that is never taken for "none".
StatusOr<std::vector<v1::Undo>> find_tagged(const std::string& state_id);

}  // namespace squall::network
