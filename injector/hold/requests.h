/// \file
/// What squall-hold does besides holding: looking, sweeping and reading the node, each one question
/// and one answer.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "injector/faults/fault.h"
#include "squall/v1/hold.pb.h"

namespace squall::hold {

/// The kind of a fault among the given ones, or null.
const FaultKind* find_kind(std::span<const FaultKind> kinds, const v1::Fault& fault);

/// What the fault would do on this node. Reads only.
v1::Looked look(std::span<const FaultKind> kinds, const v1::Look& request);

/// Runs the undos in their order; then, if the request names a state directory, removes what still
/// bears its tag (only that of the fault, if it names one) and reads back.
v1::Swept sweep(const v1::Sweep& request);

/// Removes whatever bears a tag of Squall, of any state directory, or of the one given. For a
/// person at the command line.
v1::Swept sweep_tagged(const std::string& state_id);

/// The node's fingerprint, sorted. Errors: kInternal when the kernel could not be read completely.
StatusOr<std::vector<std::string>> read_node();

/// The same as messages that each fit on the socket, the last without `more`.
std::vector<v1::Fingerprint> in_parts(std::vector<std::string> lines);

}  // namespace squall::hold
