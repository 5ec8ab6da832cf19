/// \file
/// One holder at a time changes what the faults of a network namespace share: its clsact qdiscs and
/// its loopback's settings. Without it one fault takes away what another has just found there.
#pragma once

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace squall::network {

/// The file that is locked, of the calling thread's network namespace: who will need it soon may
/// open it ahead of time.
StatusOr<Fd> open_lock();

/// The lock of the calling thread's network namespace, held while the descriptor is open: the
/// kernel lets go of it when its holder dies. It is an advisory lock (flock(2)) on the namespace's
/// own file in /proc, so that it is the same for every daemon there and leaves no file behind.
/// Errors: kUnavailable if another still has it after `bound`.
StatusOr<Fd> lock_namespace(Duration bound);

/// As above, of the namespace that the file of open_lock() is of.
StatusOr<Fd> lock_namespace(Fd file, Duration bound);

}  // namespace squall::network
