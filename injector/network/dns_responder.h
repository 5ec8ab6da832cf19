/// \file
/// Answers in the place of the servers that a node asks: by itself where the fault says so, with
/// their own answers otherwise, at once or late.
///
/// Each place of DnsRedirect has a port here, UDP and TCP, on the loopback. A query of UDP is
/// passed on from a socket of its own, so that its answer needs no other key than that socket; one
/// of TCP on a connection that belongs to the client's. Messages are passed on as the bytes they
/// are. All of it is bounded: where too many wait, the one that has waited longest is given up.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "injector/network/dns_redirect.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

struct DnsCounts {
  std::uint64_t matched = 0;
  std::uint64_t answered = 0;    ///< By itself.
  std::uint64_t unanswered = 0;  ///< As asked.
  std::uint64_t delayed = 0;
  std::uint64_t forwarded = 0;  ///< Matched or not.
  std::uint64_t overflow = 0;   ///< Given up because too many were waiting.
};

/// Made, driven and destroyed by one thread; runs one of its own between start() and its
/// destruction.
class DnsResponder {
 public:
  /// Binds its ports in the calling thread's network namespace. Nobody is sent there yet.
  /// Errors: kFailedPrecondition where the loopback interface is down.
  static StatusOr<std::unique_ptr<DnsResponder>> make(const v1::Dns& wanted);

  DnsResponder(const DnsResponder&) = delete;
  DnsResponder& operator=(const DnsResponder&) = delete;

  /// Stops the thread; what still waits is lost.
  ~DnsResponder();

  DnsPorts ports() const;

  /// Starts to answer; `redirect` says which server a port stands for, and outlives this.
  Status start(const DnsRedirect& redirect);

  /// Names are matched until then; later every query is passed on at once.
  void pulse(MonotonicTime deadline);

  /// From the next answer on it is held for so long.
  void set_delay(Duration delay);

  /// No name is matched any more, and every answer that was held is on its way, when it returns.
  void end_effect();

  /// Waits until nothing that was passed on waits for its answer, at most that long; and until what
  /// was answered last has had a quarter of a second to be read.
  void drain(Duration bound) const;

  DnsCounts counts() const;

  /// Whether the thread does its work.
  bool is_well() const;

 private:
  class Loop;
  explicit DnsResponder(std::unique_ptr<Loop> loop);

  std::unique_ptr<Loop> loop_;
  std::thread thread_;
};

}  // namespace squall::network
