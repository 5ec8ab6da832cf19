/// \file
/// dns: names that fail to resolve, resolve late, or elsewhere.
///
/// What the node's sockets send to port 53 is redirected to a responder in this process, which
/// answers for the names that are meant and passes everything else on to the server that was asked.
/// No packet is rewritten: the address that a program gives to connect() or sendto() is, by eBPF
/// programs whose links die with this process and that do nothing past their deadline. So there is
/// nothing to undo.

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/ids.h"
#include "experiments/fault/fault.h"
#include "injector/faults/fault.h"
#include "injector/network/cgroup.h"
#include "injector/network/cgroup_programs.h"
#include "injector/network/dns_message.h"
#include "injector/network/dns_redirect.h"
#include "injector/network/dns_responder.h"
#include "injector/network/lock.h"

namespace squall::hold {

using namespace squall::network;  // NOLINT: this file is the other half of that folder

namespace {

constexpr Duration kLockWithin = std::chrono::seconds(3);
/// What was passed on before the end is given this long to be answered; clients then ask again.
constexpr Duration kDrainWithin = std::chrono::seconds(1);

/// The control group whose sockets are meant.
struct Group {
  std::string path;  ///< From the root on.
  Fd folder;
};

StatusOr<Group> open_group(const v1::Dns& wanted) {
  if (!wanted.in().netns().empty()) {
    return error(StatusCode::kUnimplemented,
                 "dns.in.netns: a dns fault is of the network namespace that squalld runs in");
  }
  StatusOr<std::string> path = cgroup_path(wanted.in());
  if (!path.ok()) return path.status();
  StatusOr<Fd> folder = open_cgroup(*path);
  if (!folder.ok()) return folder.status();
  return Group{*std::move(path), *std::move(folder)};
}

class Dns final : public Fault {
 public:
  explicit Dns(const v1::Start& start)
      : fault_(start.fault()), tag_(object_tag(start.state_id(), start.fault().id())) {}

  /// Errors: kNotFound for a control group that is not there; kUnimplemented for a kernel that has
  /// no programs on control groups.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Group> group = open_group(fault_.dns());
    if (!group.ok()) return group.status();
    group_ = *std::move(group);
    StatusOr<std::unique_ptr<DnsRedirect>> redirect = DnsRedirect::load();
    if (!redirect.ok()) return redirect.status();
    redirect_ = *std::move(redirect);
    return std::vector<v1::Undo>();
  }

  Status apply(MonotonicTime deadline) override {
    StatusOr<std::unique_ptr<DnsResponder>> responder =
        DnsResponder::make(fault_at(fault_, Duration::zero()).dns());
    if (!responder.ok()) return responder.status();
    responder_ = *std::move(responder);
    if (Status started = responder_->start(*redirect_); !started.ok()) return started;
    // Two that are applied at once must learn of each other, one of them first.
    const StatusOr<Fd> lock = lock_namespace(kLockWithin);
    if (!lock.ok()) return lock.status();
    if (Status attached = redirect_->attach(group_.folder.number(), responder_->ports(), tag_);
        !attached.ok()) {
      return attached;
    }
    applied_ = true;
    return pulse(deadline);
  }

  Status pulse(MonotonicTime deadline) override {
    if (!applied_) return ok();
    if (!responder_->is_well()) {
      return error(StatusCode::kFailedPrecondition, "the responder has stopped");
    }
    if (Status attached = redirect_->check_attached(); !attached.ok()) return attached;
    responder_->pulse(deadline);
    redirect_->set_deadline(deadline);
    return ok();
  }

  Status become(const v1::Fault& now) override {
    if (applied_) responder_->set_delay(Duration(now.dns().delay()));
    return ok();
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::DnsEvidence& dns = *evidence.mutable_dns();
    if (responder_) counts_ = responder_->counts();
    evidence.set_effect(counts_.matched > 0);
    dns.set_matched_queries(counts_.matched);
    dns.set_answered_queries(counts_.answered);
    dns.set_unanswered_queries(counts_.unanswered);
    dns.set_delayed_answers(counts_.delayed);
    dns.set_forwarded_queries(counts_.forwarded);
    dns.set_overflow_queries(counts_.overflow);
    if (redirect_) dns.set_passed_queries(redirect_->passed());
    return evidence;
  }

  Status end_effect() override {
    applied_ = false;
    if (redirect_) redirect_->set_deadline(MonotonicTime{});
    if (responder_) responder_->end_effect();
    return ok();
  }

  std::vector<std::string> clean_up() override {
    // While the programs stand, answers that come yet look like the server's.
    if (responder_) {
      responder_->drain(kDrainWithin);
      counts_ = responder_->counts();
      responder_.reset();
    }
    if (!redirect_) return {};
    redirect_->detach();
    return redirect_->residue();
  }

 private:
  v1::Fault fault_;
  std::string tag_;
  Group group_;
  std::unique_ptr<DnsRedirect> redirect_;
  std::unique_ptr<DnsResponder> responder_;  // after redirect_: its thread reads that one's table
  DnsCounts counts_;
  bool applied_ = false;
};

std::unique_ptr<Fault> make(const v1::Start& start) { return std::make_unique<Dns>(start); }

v1::Looked look(const v1::Look& asked) {
  v1::Looked looked;
  const StatusOr<Group> group = open_group(asked.fault().dns());
  if (!group.ok()) return refused(group.status());
  // Loaded and thrown away: the kernel itself says whether it can, and whether we may.
  const StatusOr<std::unique_ptr<DnsRedirect>> redirect = DnsRedirect::load();
  if (!redirect.ok()) return refused(redirect.status());
  looked.add_notes("queries of the sockets in the control group " + group->path);
  return looked;
}

}  // namespace

extern const FaultKind kDns;
const FaultKind kDns{.kind = v1::Fault::kDns,
                     .name = "dns",
                     .make = make,
                     .look = look,
                     // A network fault's as well, which may have one.
                     .find_held = find_tagged_programs};

}  // namespace squall::hold
