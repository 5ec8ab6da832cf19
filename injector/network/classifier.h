/// \file
/// The door to libbpf: one loaded classifier object, its match, and its deadline.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/faults.pb.h"

struct classifier;

namespace squall::network {

struct Lost {
  std::uint64_t packets = 0;
  std::uint64_t bytes = 0;
};

/// The verified programs and maps of one fault. Until set_deadline() nothing matches.
///
/// A deadline may be set by several threads; the last store holds. Everything else belongs to one
/// thread.
class Classifier {
 public:
  /// Which of the object's programs.
  enum class Program { kEgress, kIngress, kLoseEgress, kLoseIngress, kReenter };

  /// Loads and verifies; takes milliseconds, so a spare holder does it ahead of time.
  /// Errors: kPermissionDenied without CAP_BPF and CAP_NET_ADMIN; kUnimplemented for a kernel
  /// without BPF.
  static StatusOr<std::unique_ptr<Classifier>> load();

  Classifier(const Classifier&) = delete;
  Classifier& operator=(const Classifier&) = delete;
  ~Classifier();

  /// Which packets, before the filter stands. Errors: kInvalidArgument for more CIDRs than the
  /// tries hold.
  Status set_match(const v1::Match& match, std::span<const std::uint16_t> spared_tcp_ports);

  /// Spares one more TCP port, at once.
  void spare(std::uint16_t port);

  /// What `reenter` does to packets: their mark, and whether they are for this host in any case.
  void set_reenter(std::uint32_t mark, bool for_this_host);

  /// From then on nothing matches; the epoch itself: nothing from now on.
  void set_deadline(MonotonicTime deadline);

  int program_fd(Program program) const;

  /// The kernel's own number of the program, 0 if it cannot be read.
  std::uint32_t program_id(Program program) const;

  /// What lose_egress and lose_ingress have dropped.
  StatusOr<Lost> lost() const;

 private:
  explicit Classifier(struct classifier* object) : object_(object) {}

  struct classifier* object_;
};

/// The mark under which the relay of this fault sends, for one way.
std::uint32_t relay_mark(std::string_view fault_id, bool ingress);

/// What a filter that stands in the kernel is asked, by whichever process.
struct Standing {
  v1::Match match;
  MonotonicTime deadline;  ///< The epoch: it does not match yet.
};

/// By its program's id. Errors: kNotFound for a program that is gone or not ours.
StatusOr<Standing> read_standing(std::uint32_t program_id);

/// Whether some packet could match both.
bool may_overlap(const v1::Match& a, const v1::Match& b);

}  // namespace squall::network
