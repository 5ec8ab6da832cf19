/// \file
/// The daemon's core: leases and the faults that live under them. Knows neither gRPC nor the
/// kernel; all on the loop.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/state.h"
#include "experiments/base/status.h"
#include "injector/daemon/guardrails.h"
#include "injector/daemon/holders.h"
#include "injector/daemon/journal.h"
#include "injector/daemon/loop.h"
#include "injector/daemon/metrics.h"
#include "injector/daemon/resolver.h"
#include "injector/daemon/stream.h"
#include "squall/v1/node.pb.h"

namespace squall::daemon {

/// One controller's. The node forgets it after finish() or ended().
using LeaseStream = Stream<v1::LeaseEvent>;

/// What the node knows about itself.
struct NodeFacts {
  std::string state_id;
  std::string boot_id;
  std::string environment;                  ///< Label that a plan must name; empty: none.
  std::vector<std::uint32_t> spared_ports;  ///< TCP ports no fault may match: the daemon's own.
  std::vector<std::string> spared_paths;    ///< No fault may touch them: what squalld needs.
  Guardrails guardrails;
  std::vector<std::string> recovered;  ///< What was swept at the start; told to the first lease.
  std::map<std::string, std::uint64_t> epochs;  ///< Over for ever, from the ledger.
  std::optional<Halt> halted;                   ///< Since before the start.
  /// Keeps it on disk, or forgets it, before it is acted upon.
  std::function<Status(const std::optional<Halt>&)> keep_halted;
};

/// As the wire tells it.
v1::Halted to_message(const Halt& halt);

class Node {
 public:
  Node(Loop& loop, Holders& holders, Journal& journal, Metrics& metrics, NodeFacts facts);
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;
  ~Node();

  /// One message of a stream, the first of which must be `open`. `arrived`: when it was read from
  /// the wire.
  void received(LeaseStream& stream, const v1::LeaseRequest& request, MonotonicTime arrived);

  /// Nothing more will be read from the stream: every fault of its lease is reverted at once. It
  /// may still be told.
  void ended(LeaseStream& stream);

  /// The stream is gone and must not be told anything any more.
  void broken(LeaseStream& stream);

  /// What the faults would do here. Errors: kInvalidArgument with the field's path.
  void preflight(const v1::PreflightRequest& request,
                 std::function<void(StatusOr<v1::PreflightReply>)> answer);

  /// Ends every lease and opens none any more, until resume(); answers when no fault is left.
  /// Errors: kInvalidArgument without a reason; of keeping it.
  void halt(const v1::HaltRequest& request, std::function<void(StatusOr<v1::HaltReply>)> answer);
  StatusOr<v1::ResumeReply> resume(const v1::ResumeRequest& request);
  const std::optional<Halt>& halted() const { return facts_.halted; }

  /// Ends one fault, or all, whoever's, and tells their runs who asked; answers when they are gone.
  /// Errors: kNotFound where it is not held.
  void revert(const v1::RevertRequest& request,
              std::function<void(StatusOr<v1::RevertReply>)> answer);

  /// As they were given; as long as the node lives.
  const Guardrails& guardrails() const { return facts_.guardrails; }

  /// Faults held now.
  std::uint32_t faults() const;
  std::vector<v1::HeldFault> held() const;

  /// Refuses everything from now on, reverts every fault, and calls back when none is left.
  void stop(std::function<void()> stopped);

 private:
  struct Lease;
  struct HeldFault;

  void open(LeaseStream& stream, const v1::Open& open, MonotonicTime arrived);
  void begin(const std::shared_ptr<Lease>& lease);
  void opened(const std::shared_ptr<Lease>& lease);
  void handle(const std::shared_ptr<Lease>& lease, const v1::LeaseRequest& request,
              MonotonicTime arrived);
  void renew(const std::shared_ptr<Lease>& lease, MonotonicTime arrived);
  void inject(const std::shared_ptr<Lease>& lease, const v1::Inject& request,
              MonotonicTime arrived);
  void arm(const std::shared_ptr<Lease>& lease);
  void end_lease(const std::shared_ptr<Lease>& lease, const Status& why);
  void revert_all(const std::shared_ptr<Lease>& lease, MonotonicTime asked);
  void settle(const std::shared_ptr<Lease>& lease);
  void forget(const std::shared_ptr<Lease>& lease);
  void tell(Lease& lease, v1::LeaseEvent event);

  void resolve(const std::shared_ptr<HeldFault>& fault);
  void start(const std::shared_ptr<HeldFault>& fault);
  void resolve_again(const std::shared_ptr<HeldFault>& fault);
  void hosts_are(const std::shared_ptr<HeldFault>& fault, const Hosts& hosts);
  void heard(const std::shared_ptr<HeldFault>& fault, const v1::FromHolder& message);
  void journaled(const std::shared_ptr<HeldFault>& fault, const Status& status);
  void pulse(const std::shared_ptr<HeldFault>& fault);
  void revert(const std::shared_ptr<HeldFault>& fault, MonotonicTime asked);
  void expect(const std::shared_ptr<HeldFault>& fault, Duration patience, const std::string& what);
  void lost(const std::shared_ptr<HeldFault>& fault, const std::string& how);
  void sweep(const std::shared_ptr<HeldFault>& fault);
  void close(const std::shared_ptr<HeldFault>& fault);
  void refuse(Lease& lease, const std::string& id, const Status& why);

  std::vector<std::shared_ptr<HeldFault>> live_faults() const;
  std::time_t wall_now();

  Loop& loop_;
  Holders& holders_;
  Journal& journal_;
  Metrics& metrics_;
  Resolver resolver_;
  NodeFacts facts_;
  Duration wall_offset_{};  ///< Of the wall clock from the monotonic one, while no fault moves it.
  std::vector<std::shared_ptr<Lease>> leases_;
  /// By run and fault, for as long as this daemon lives: what was left, no later sweep mends.
  std::map<std::string, std::map<std::string, std::vector<std::string>>> left_behind_;
  std::function<void()> stopped_;
  std::vector<std::function<void()>> when_quiet_;  ///< Each once, when no lease is left.
};

}  // namespace squall::daemon
