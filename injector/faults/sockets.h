/// \file
/// The sockets of chosen processes, for a network fault that means these alone.
#pragma once

#include <set>
#include <string>

#include "experiments/base/status.h"
#include "injector/network/classifier.h"
#include "squall/v1/faults.pb.h"

namespace squall::hold {

/// Whether this node can tell the sockets of processes apart. Errors: kUnimplemented outside of the
/// first PID namespace, for the kernel's programs are told the numbers that hold there, before
/// Linux 5.14, and without cgroup v2.
Status can_mark_sockets();

/// The sockets that were marked, as /proc shows them: what is known is not looked at again.
using MarkedSockets = std::set<std::string>;

/// Marks what these processes have open, and means what they will make, and what no others will.
/// What ends or closes meanwhile is left out. Errors: as select_processes(); the first of those
/// that hold for one socket alone, while the others are marked.
Status mark_sockets(const v1::Process& wanted, network::Classifier& classifier,
                    MarkedSockets& marked);

}  // namespace squall::hold
