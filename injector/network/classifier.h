/// \file
/// The door to libbpf: one loaded classifier object, its match, and its deadline.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "injector/network/cgroup.h"
#include "injector/network/effect.h"
#include "squall/v1/faults.pb.h"

struct bpf_link;
struct classifier;

namespace squall::network {

/// Whom a fault is aimed at.
struct Aim {
  v1::Match match;         ///< Its hosts' addresses are among its cidrs.
  v1::Match except;        ///< As well.
  double connections = 0;  ///< Percent that are hit; 0: all of them.
  double packets = 0;      ///< Percent.
  std::uint32_t seed = 0;  ///< Which connections.
  Cgroup cgroup;           ///< Only sockets of its processes, and of the groups' below it.
  bool processes = false;  ///< Only sockets that were marked.
  bool ethernet = false;   ///< Every interface has Ethernet's header, which is then quick to read.
  bool loses = false;      ///< What it hits is dropped, by filters without an action.
  std::optional<Effect> losses;  ///< Not all that it hits, but what this loses; of one that loses.
};

/// One end of a TCP connection and the other, IPv4 addresses as ::ffff:a.b.c.d.
struct Connection {
  struct End {
    std::array<std::uint8_t, 16> address{};
    std::uint16_t port = 0;

    friend auto operator<=>(const End&, const End&) = default;
  };
  End source;
  End destination;

  friend auto operator<=>(const Connection&, const Connection&) = default;
};

/// Of an aim that loses. A GSO packet counts for what it will be cut into.
struct Losses {
  std::uint64_t packets = 0;  ///< That matched.
  std::uint64_t bytes = 0;
  std::uint64_t lost = 0;    ///< Of the packets.
  std::uint64_t marked = 0;  ///< Instead.
};

/// The verified programs and maps of one fault. Until set_deadline() nothing matches.
///
/// A deadline may be set by several threads; the last store holds. Everything else belongs to one
/// thread.
class Classifier {
 public:
  /// Which of the object's programs.
  enum class Program { kEgress, kIngress, kReenter, kSocket };

  /// Loads and verifies these programs, or all but kSocket; takes milliseconds for each, so a spare
  /// holder does it ahead of time, and who has none loads what it needs alone. Errors:
  /// kPermissionDenied without CAP_BPF and CAP_NET_ADMIN; kUnimplemented for a kernel without BPF.
  static StatusOr<std::unique_ptr<Classifier>> load(const std::set<Program>& programs = {});

  Classifier(const Classifier&) = delete;
  Classifier& operator=(const Classifier&) = delete;
  ~Classifier();

  /// Which packets, before the filter stands. Errors: kInvalidArgument for more CIDRs than the
  /// tries hold.
  Status set_aim(const Aim& aim, std::span<const std::uint16_t> spared_tcp_ports);

  /// The addresses anew, while the filter stands: what stays is never without its entry. Errors: as
  /// set_aim().
  Status set_addresses(const Aim& aim);

  /// Loses by these chances from now on, while the filter stands; the sequence goes on.
  void set_losses(const Effect& effect);

  /// Spares one more TCP port, at once.
  void spare(std::uint16_t port);

  /// Spares these connections, each the one way that it is named, and no others any more. What does
  /// not fit is told as kResourceExhausted; the others are spared.
  Status spare_connections(const std::set<Connection>& connections);

  /// Has the kernel mark the sockets that meant processes make from now on, until this object ends:
  /// by kSocket on a control group, the root's for all, with the fault's tag. Errors:
  /// kFailedPrecondition where the group's owner lets no program be beside his.
  Status mark_new_sockets(int cgroup, std::string_view tag);

  /// Whether it still does, by the kernel's word.
  bool marks_new_sockets() const;

  /// Whose new sockets are to be marked, by the kernel's numbers of the processes, and nobody
  /// else's any more. Errors: kResourceExhausted for more than fit; the others are meant.
  Status mean_processes(const std::set<std::uint32_t>& processes);

  /// Marks a socket, and what it will accept, by a descriptor of it. Errors: kInvalidArgument for
  /// what is none.
  Status mark_socket(int socket);

  /// What `reenter` does to packets: their mark, and whether they are for this host in any case.
  void set_reenter(std::uint32_t mark, bool for_this_host);

  /// From then on nothing matches.
  void set_deadline(MonotonicTime deadline);

  /// Nothing matches from now on. Whoever looks at the filter sees that it is past its deadline,
  /// and does not take it for one that is yet to match.
  void end();

  /// Below 0 for one that was not loaded.
  int program_fd(Program program) const;

  /// The kernel's own number of the program, 0 if it cannot be read.
  std::uint32_t program_id(Program program) const;

  StatusOr<Losses> losses() const;

 private:
  explicit Classifier(struct classifier* object) : object_(object) {}

  struct classifier* object_;
  struct bpf_link* new_sockets_ = nullptr;
  std::map<std::string, std::uint8_t> addresses_;  // what the tries hold, by their keys' bytes
  std::set<Connection> spared_;
  std::set<std::uint32_t> processes_;
};

/// The mark under which the relay of this fault sends, for one way.
std::uint32_t relay_mark(std::string_view fault_id, bool ingress);

/// What a filter that stands in the kernel is asked, by whichever process.
struct Standing {
  Aim aim;                 ///< Without its exceptions and shares.
  MonotonicTime deadline;  ///< The epoch: it does not match yet.
};

/// By its program's id. Errors: kNotFound for a program that is gone or not ours.
StatusOr<Standing> read_standing(std::uint32_t program_id);

/// Whether some packet could be aimed at by both. Exceptions and shares are taken for none.
bool may_overlap(const Aim& a, const Aim& b);

}  // namespace squall::network
