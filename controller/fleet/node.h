/// \file
/// A node as the run engine sees it: what can be asked of it, and what it tells. The engine knows
/// no gRPC, and its tests need none.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "experiments/checks/check.h"
#include "squall/v1/node.pb.h"

namespace squall::fleet {

/// Called on the loop, in the order in which the node spoke.
struct Listener {
  std::function<void(const v1::LeaseEvent&)> event;

  /// The lease is broken and will not come back: the node reverts by itself. Called at most once
  /// for each open(), and not after close().
  std::function<void(const Status&)> lost;
};

/// A check that a node asks. What keeps the node from answering, its silence included, is in the
/// sample's error. Does not outlive its node.
class RemoteCheck : public checks::Check {
 public:
  /// Why the node does not ask it, however often it is told to, as of the latest ask():
  /// kUnimplemented for a squalld that cannot, kPermissionDenied with the rule of its guardrails,
  /// kInvalidArgument. Else ok.
  virtual Status refused() const = 0;
};

/// How much later than the check's timeout a node's answer may be: it says itself what was late.
inline constexpr Duration kAnswerGrace = std::chrono::milliseconds(250);

/// For the loop's thread alone. Coroutines honour cancellation at once: they then return
/// kCancelled.
class Node {
 public:
  Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  virtual ~Node() = default;

  virtual const std::string& name() const = 0;

  /// Where it is reached, as people write it: host:port or unix:/path. Known once connected.
  virtual std::string address() const = 0;

  /// Reaches the node and asks what it is; again after it was lost. Takes at most kReachWithin.
  /// Errors: kUnavailable or kUnauthenticated, with the address and what was wrong with it.
  virtual boost::asio::awaitable<StatusOr<v1::Description>> connect() = 0;

  /// What the faults would do there, one answer each in their order. Errors: as the node says.
  virtual boost::asio::awaitable<StatusOr<v1::PreflightReply>> preflight(
      v1::PreflightRequest request) = 0;

  /// The check, to be asked from there. May be made before connect(); needs no lease, and works
  /// again once a node that was lost is reached again.
  virtual std::unique_ptr<RemoteCheck> check(const v1::Check& wanted) = 0;

  /// Opens the lease that `wanted` describes and keeps renewing it, every third of it, until
  /// close(). Its epoch grows with every call of a run. Errors: kFailedPrecondition for an epoch
  /// that is over; kUnavailable.
  virtual boost::asio::awaitable<StatusOr<v1::Opened>> open(v1::Open wanted, Listener listener) = 0;

  /// Commands on the open lease: sent at once, in order, answered by events; nothing where there is
  /// no lease.
  virtual void inject(const v1::Fault& fault) = 0;
  virtual void revert(const std::string& fault) = 0;
  virtual void revert_all() = 0;

  /// Ends the lease and what was started for it. Faults still held are reverted by the node.
  virtual boost::asio::awaitable<void> close() = 0;
};

/// How long a node may take to be reached.
inline constexpr Duration kReachWithin = std::chrono::seconds(3);

}  // namespace squall::fleet
