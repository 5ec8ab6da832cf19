/// \file
/// Checks that are asked from this node. Knows no gRPC. The checks live on a thread of their own:
/// however many there are and however much they are answered, no lease waits for them.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "experiments/base/status.h"
#include "experiments/checks/check.h"
#include "injector/daemon/guardrails.h"
#include "injector/daemon/loop.h"
#include "injector/daemon/stream.h"
#include "squall/v1/node.pb.h"

namespace squall::daemon {

using AskStream = Stream<v1::AskReply>;

/// How many checks may be asked from a node at once, of one client and of all.
inline constexpr std::size_t kMostChecksOfOne = 256;
inline constexpr std::size_t kMostChecks = 1024;

/// All on the loop. A node that is halted or drained still answers: asking changes nothing.
class Asking {
 public:
  /// Both outlive it.
  Asking(Loop& loop, const Guardrails& guardrails);
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

  /// Gives up everything that is still asked, and ends every program that a check has started. The
  /// loop must not run afterwards.
  ~Asking();

  /// One message of a stream; the first says which check. Refuses by the stream's last word:
  /// kInvalidArgument with the field's path, kPermissionDenied with the rule, kResourceExhausted
  /// for too many, kFailedPrecondition for a question before the last one's answer, kUnimplemented
  /// for a check that this squalld cannot ask, kUnavailable once it is ending.
  void received(AskStream& stream, const v1::AskRequest& request);

  /// Nothing more will be read from the stream: what is asked is given up at once.
  void ended(AskStream& stream);

  /// The stream is gone and must not be told anything any more.
  void broken(AskStream& stream);

  /// Ends every stream, and refuses each from now on.
  void stop();

 private:
  class Room;

  /// A check that somebody asks.
  struct Asked {
    std::uint64_t number = 0;
    std::string client;
    bool busy = false;  ///< Its answer is not in.
  };

  Status take(AskStream& stream, const v1::AskRequest& request);
  void ask(AskStream& stream, const v1::Check& check);
  void answered(AskStream& stream, std::uint64_t number, const StatusOr<checks::Sample>& sample);
  void refuse(AskStream& stream, const Status& why);
  void forget(AskStream& stream);

  Loop& loop_;
  const Guardrails& guardrails_;
  std::map<AskStream*, Asked> asked_;
  std::uint64_t last_number_ = 0;
  bool stopped_ = false;
  std::unique_ptr<Room> room_;  ///< From the first question on.
};

}  // namespace squall::daemon
