/// \file
/// The life of a holder: one request on its socket, answered; and if it is a fault, that fault held
/// until it must end.
#pragma once

#include <span>

#include "injector/faults/fault.h"

namespace squall::hold {

/// Serves the socket until the request is done or its other end is closed; returns the exit code of
/// the process.
///
/// A fault ends on release, at the end of its own duration, at the end of its lease, when the
/// socket's other end closes, and on SIGTERM, SIGINT or SIGHUP, whichever is first. The clock is
/// looked at before the socket is read, so pulses that queued up while the process was frozen
/// revive nothing. Blocks those signals in the calling thread.
///
/// A `spare`, started ahead of any request, first has every kind warm up; one that is waited for
/// must not lose that time.
int hold(int socket, std::span<const FaultKind> kinds, bool spare = false);

/// Has the kernel send SIGTERM to this process when the thread that spawned it ends, and ends it if
/// that has happened already. `socket` tells who made the pair.
void die_with_daemon(int socket);

}  // namespace squall::hold
