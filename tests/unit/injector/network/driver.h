/// \file
/// A network fault driven in the test's own process, in a namespace of its own: what a holder does,
/// without the holder.
#pragma once

#include <poll.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "injector/faults/fault.h"
#include "injector/network/sweep.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/measure.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

namespace squall::support {

inline void require_ok(const Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

/// One fault, held in `where` for as long as the object lives.
class Held {
 public:
  /// Prepared, not yet applied. Throws std::runtime_error when it is refused.
  /// `beside`: another fault that its daemon knows of. `hosts`: what the names in it stand for.
  Held(const Namespace& where, const v1::Fault& fault, std::vector<std::uint32_t> spared = {},
       const Held* beside = nullptr, const hold::Hosts& hosts = {})
      : where_(where) {
    where_.run([&] {
      v1::Start start;
      *start.mutable_fault() = fault;
      start.set_state_id(kStateId);
      *start.mutable_hosts() = hosts;
      start.mutable_spared_ports()->Add(spared.begin(), spared.end());
      for (const v1::Undo& undo : beside ? beside->undos() : std::vector<v1::Undo>()) {
        if (undo.has_remove_clsact()) *start.add_our_clsact() = undo.remove_clsact();
        if (undo.has_set_sysctl()) *start.add_our_settings() = undo.set_sysctl();
      }
      fault_ = hold::find_kind(fault)->make(start);
      StatusOr<std::vector<v1::Undo>> undos = fault_->prepare();
      require_ok(undos.status());
      undos_ = *std::move(undos);
      require_ok(fault_->make_ready());
    });
  }

  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held() {
    if (!fault_) return;
    static_cast<void>(end());
    static_cast<void>(clean_up());
  }

  void apply(Duration lease) {
    require_ok(where_.run([&] { return fault_->apply(monotonic_now() + lease); }));
  }
  Status pulse(Duration lease) {
    return where_.run([&] { return fault_->pulse(monotonic_now() + lease); });
  }
  Status resolved(const hold::Hosts& hosts) {
    return where_.run([&] { return fault_->resolved(hosts); });
  }
  Status become(const v1::Fault& now) {
    return where_.run([&] { return fault_->become(now); });
  }
  /// Whether it noticed, by itself, that something happened, and what it found then.
  std::optional<Status> noticed(Duration bound) {
    pollfd waiting{.fd = fault_->watched(), .events = POLLIN, .revents = 0};
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(bound);
    if (poll(&waiting, 1, static_cast<int>(ms.count())) != 1) return std::nullopt;
    return where_.run([&] { return fault_->look_again(); });
  }
  v1::Evidence evidence() {
    return where_.run([&] { return fault_->evidence(); });
  }
  Status end() {
    return where_.run([&] { return fault_->end_effect(); });
  }
  std::vector<std::string> clean_up() {
    return where_.run([&] { return fault_->clean_up(); });
  }
  const std::vector<v1::Undo>& undos() const { return undos_; }

 private:
  const Namespace& where_;
  std::unique_ptr<hold::Fault> fault_;
  std::vector<v1::Undo> undos_;
};

/// Prepared and applied, with a lease that outlives any test.
inline std::unique_ptr<Held> inject(const Namespace& where, const v1::Fault& fault,
                                    std::vector<std::uint32_t> spared = {}) {
  auto held = std::make_unique<Held>(where, fault, std::move(spared));
  held->apply(std::chrono::minutes(5));
  return held;
}

/// Runs a program of the host's owner to its end.
inline void run_in(const Namespace& where, std::vector<std::string> argv) {
  Command command;
  command.argv = std::move(argv);
  command.where = &where;
  run(command);
}

/// The quickest answer: what the path itself takes, whoever else wants the processor. Throws if
/// there was none.
inline double quickest_ms(const std::vector<Probe>& probes) {
  std::optional<Duration> best;
  for (const Probe& probe : probes) {
    if (probe.round_trip && (!best || *probe.round_trip < *best)) best = probe.round_trip;
  }
  if (!best) throw std::runtime_error("not one probe was answered");
  return to_ms(*best);
}

/// The fingerprint once it stands still: the kernel adds the routes of new IPv6 addresses a little
/// later.
inline std::vector<std::string> settled_fingerprint(const Namespace& where) {
  std::vector<std::string> last = fingerprint_of(where);
  for (int same = 0; same < 20;) {
    yield_for(std::chrono::milliseconds(5));
    std::vector<std::string> next = fingerprint_of(where);
    same = next == last ? same + 1 : 0;
    last = std::move(next);
  }
  return last;
}

/// What `squall plan` would be told.
inline v1::Looked look(const Namespace& where, const v1::Look& request) {
  return where.run([&] { return hold::find_kind(request.fault())->look(request); });
}

inline v1::Looked look(const Namespace& where, const v1::Fault& fault) {
  v1::Look request;
  *request.mutable_fault() = fault;
  return look(where, request);
}

}  // namespace squall::support
