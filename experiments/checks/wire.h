/// \file
/// A Sample on its way from the node that asked to the controller that judges it.
#pragma once

#include "experiments/checks/check.h"
#include "squall/v1/checks.pb.h"

namespace squall::checks {

/// Texts are made what the wire can carry: what is not UTF-8 in them is escaped, but in `output`,
/// which is bytes there.
v1::Sample to_message(const Sample& sample);

/// `asked`: when it was asked for by the clock of whoever reads it, as a node's means nothing here.
/// No more of it is kept than of a sample of our own, whatever the node sent.
Sample from_message(v1::Sample message, MonotonicTime asked);

}  // namespace squall::checks
