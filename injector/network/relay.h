/// \file
/// The engine for kernels without sch_netem: matched packets are redirected to a TAP device of
/// ours, held in a timer queue by one thread, and sent on by the interface they were meant for.
///
/// Packets keep their offloads on the whole way (virtio headers), so that a 64 KiB TCP burst is one
/// read and one write, and one packet to the effect, as it is to netem. Only where bits are to be
/// flipped the kernel cuts them up and completes their checksums first: a checksum that is computed
/// later would hide the flip. While the fault lives, the thread moves the kernel's deadline to at
/// most 200 ms ahead, every 50 ms: should it freeze or die, matched packets are blacked out for
/// that long at most, then pass untouched.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "injector/network/classifier.h"
#include "injector/network/effect.h"
#include "injector/network/netlink.h"

namespace squall::network {

/// In packets; a GSO frame counts for what it is cut into, as the kernel counts it.
struct RelayCounts {
  std::uint64_t dropped = 0;  ///< As asked.
  std::uint64_t marked = 0;   ///< Instead.
  std::uint64_t duplicated = 0;
  std::uint64_t corrupted = 0;
  std::uint64_t reordered = 0;
  std::uint64_t overflow = 0;  ///< The queue was full.
  std::uint64_t refused = 0;   ///< By the interface.
};

/// What every relay needs and what takes long to make, so that it may be made ahead of time: a
/// thread that waits, and an open /dev/net/tun. What is not among the parts, the relay makes.
class RelayParts {
 public:
  /// For a relay in the network namespace that the caller is in. What cannot be made now is left
  /// out.
  static RelayParts make();

  RelayParts();
  RelayParts(RelayParts&&) noexcept;
  RelayParts& operator=(RelayParts&&) noexcept;
  ~RelayParts();

 private:
  friend class Relay;
  class Thread;

  Fd tun_;
  std::unique_ptr<Thread> thread_;
};

/// Made, driven and destroyed by one thread; runs one of its own between start() and its
/// destruction.
class Relay {
 public:
  static constexpr Duration kKernelDeadline = std::chrono::milliseconds(200);
  static constexpr Duration kRenewal = std::chrono::milliseconds(50);

  explicit Relay(const Effect& effect, RelayParts parts = RelayParts());
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  /// Stops the thread and removes the devices; what is still queued is lost.
  ~Relay();

  /// Makes the TAP for one way of one interface, set up and bearing the tag. Before start().
  /// Errors: kNotFound without /dev/net/tun; those of Netlink.
  StatusOr<std::uint32_t> add_port(Netlink& netlink, const std::string& name,
                                   const std::string& tag, const Link& interface, bool ingress,
                                   std::uint32_t mark);

  /// Starts to carry packets. Nothing is matched before the first pulse().
  Status start(Classifier& classifier);

  /// Lets the effect last until `deadline`.
  void pulse(MonotonicTime deadline);

  /// What arrives from now on has this effect, of the same kinds as the first.
  void become(const Effect& effect);

  /// Nothing more is matched, by the time it returns.
  void end_effect();

  /// Waits until everything that was taken has been sent on. Returns whether it was, within the
  /// bound.
  bool drain(Duration bound);

  RelayCounts counts() const;

 private:
  struct Port;
  class Queue;

  /// Written by the thread, read by any.
  struct Counters {
    std::atomic<std::uint64_t> dropped = 0;
    std::atomic<std::uint64_t> marked = 0;
    std::atomic<std::uint64_t> duplicated = 0;
    std::atomic<std::uint64_t> corrupted = 0;
    std::atomic<std::uint64_t> reordered = 0;
    std::atomic<std::uint64_t> overflow = 0;
    std::atomic<std::uint64_t> refused = 0;
  };

  void run();
  void renew();
  void take_next_effect();
  bool read_port(Port& port, std::uint32_t number);
  void send_due(MonotonicTime now);

  Effect effect_;
  std::vector<Port> ports_;
  std::unique_ptr<Queue> queue_;
  Fd wake_;
  Classifier* classifier_ = nullptr;

  std::mutex deadline_mutex_;
  MonotonicTime deadline_{};
  bool ended_ = false;

  std::mutex effect_mutex_;
  std::optional<Effect> next_effect_;
  std::atomic<bool> has_next_effect_ = false;

  std::mutex idle_mutex_;
  std::condition_variable idle_changed_;
  std::uint64_t idle_passes_ =
      0;  ///< Times that the thread found nothing to read and nothing to send.

  std::atomic<bool> stop_ = false;
  Counters counters_;
  RelayParts parts_;  // last: its thread uses all the others
  bool started_ = false;
};

}  // namespace squall::network
