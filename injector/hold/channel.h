/// \file
/// Protobuf messages as datagrams on the socketpair between squalld and squall-hold. Both programs
/// use it, so it is a library of its own.
#pragma once

#include <cstddef>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"

namespace google::protobuf {
class MessageLite;
}

namespace squall::hold {

/// Nothing larger is sent or read: the default socket buffer holds it.
inline constexpr std::size_t kMaxMessage = 128 * 1024;

/// The two ends of a SOCK_SEQPACKET pair, both close-on-exec; the daemon's end does not block.
struct Pair {
  Fd daemon;
  Fd holder;
};
StatusOr<Pair> make_pair();

/// Sends one message, waiting at most `patience` for room.
/// Errors: kUnavailable when the other end is gone; kResourceExhausted when there is no room, or it
/// is too large.
Status send_message(int socket, const google::protobuf::MessageLite& message,
                    Duration patience = Duration::zero());

enum class Received {
  kMessage,
  kNothing,  ///< None is waiting.
  kEnd,      ///< The other end is closed and all it sent was read.
};

/// Reads the next message without waiting. Errors: kDataLoss for bytes that are no such message;
/// kInternal.
StatusOr<Received> receive_message(int socket, google::protobuf::MessageLite& message);

}  // namespace squall::hold
