#include "injector/daemon/node.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/base/failpoint.h"
#include "experiments/base/ids.h"
#include "experiments/base/units.h"
#include "experiments/fault/fault.h"
#include "experiments/plan/load.h"
#include "experiments/plan/words.h"
#include "injector/daemon/log.h"

namespace squall::daemon {
namespace {

constexpr Duration kShortestLease = std::chrono::seconds(1);
constexpr Duration kLongestLease = std::chrono::seconds(60);
constexpr std::size_t kMostFaults = 256;
/// For everything a holder does before its fault lives.
constexpr Duration kApplyPatience = std::chrono::seconds(10);
/// For a service to stop or to start.
constexpr Duration kServicePatience = std::chrono::seconds(60);
/// For reading the node.
constexpr Duration kReadPatience = std::chrono::seconds(10);
/// How soon a fault follows a name that stands for something else.
constexpr Duration kResolveEvery = std::chrono::seconds(5);
/// No holder is given less than this to end its effect, however short the lease.
constexpr Duration kEndPatience = std::chrono::seconds(2);
/// Of a person's name, in bytes.
constexpr std::size_t kLongestName = 256;

/// Whether a line of a fingerprint bears a fault's id: a device in its name, what has attributes,
/// such as a filter, in their bytes, which are written as hexadecimal digits.
bool bears(const std::string& line, const std::string& id) {
  if (line.find(id) != std::string::npos) return true;
  std::string digits;
  for (const char letter : id) digits += fmt::format("{:02x}", letter);
  return line.find(digits) != std::string::npos;
}

std::string kind_name(const v1::Fault& fault) {
  const auto* kind = kind_of(fault);
  return kind == nullptr ? "" : kind->name();
}

v1::ToHolder release() {
  v1::ToHolder message;
  message.mutable_release();
  return message;
}

/// What is asked about one of the faults of a preflight.
v1::Look look_of(const v1::PreflightRequest& request, int asked) {
  v1::Look look;
  *look.mutable_fault() = request.faults(asked);
  if (request.together_size() != request.faults_size()) return look;
  for (int other = 0; other < request.faults_size(); ++other) {
    if (other == asked || request.together(other) != request.together(asked)) continue;
    *look.add_beside() = request.faults(other);
  }
  return look;
}

v1::ToHolder read_request() {
  v1::ToHolder message;
  message.mutable_read();
  return message;
}

/// Those before it in a preflight that may live at the same time as it.
std::size_t beside(const v1::PreflightRequest& request, int asked) {
  if (request.together_size() != request.faults_size()) return 0;
  const auto& together = request.together();
  return static_cast<std::size_t>(
      std::count(together.begin(), together.begin() + asked, together[asked]));
}

/// What no fault may touch, for a request to a holder. `Message`: Start or Look.
template <typename Message>
void spare(const NodeFacts& facts, Message& message) {
  message.mutable_spared_ports()->Assign(facts.spared_ports.begin(), facts.spared_ports.end());
  message.mutable_spared_ports()->MergeFrom(facts.guardrails.spared_ports());
  message.mutable_spared_paths()->Assign(facts.spared_paths.begin(), facts.spared_paths.end());
  *message.mutable_spared() = facts.guardrails.spared();
}

/// How long somebody else's part of it may take, each way: a program's or a service's.
Duration others_part(const v1::Fault& fault) {
  if (fault.has_script()) return Duration(fault.script().timeout());
  return fault.has_service() ? kServicePatience : Duration::zero();
}

}  // namespace

v1::Halted to_message(const Halt& halt) {
  v1::Halted message;
  message.set_by(halt.by);
  message.set_at(halt.at);
  message.set_reason(halt.reason);
  return message;
}

/// One fault, from its request until nothing is left of it; after that, its answers.
struct Node::HeldFault {
  enum class State {
    kStarting,   // waiting for a holder
    kPreparing,  // the holder finds out what it will change
    kWriting,    // its undos are on their way to the disk
    kApplying,
    kHeld,
    kEnding,    // told to release
    kCleaning,  // touches nothing any more
    kSweeping,  // another holder undoes what this one left
    kGone,
  };

  HeldFault(Loop& loop, std::shared_ptr<Lease> owner, v1::Fault wanted, MonotonicTime at)
      : lease(std::move(owner)),
        fault(std::move(wanted)),
        id(fault.id()),
        arrived(at),
        limit(loop),
        names_due(loop) {}

  std::weak_ptr<Lease> lease;
  v1::Fault fault;
  std::string id;
  State state = State::kStarting;
  std::unique_ptr<HolderProcess> holder;
  MonotonicTime arrived;
  std::optional<MonotonicTime> applied_at;
  std::optional<MonotonicTime> revert_asked;
  std::string reverted_by;  // where that was not its run
  google::protobuf::RepeatedPtrField<v1::Undo> undos;
  bool journaled = false;
  bool applied = false;
  bool told_end = false;
  bool pulse_open = false;  // one is unanswered
  std::string late;         // what the holder was killed for
  std::optional<Status> failure;
  std::vector<std::string> residue;
  std::vector<v1::LeaseEvent> answers;  // told again if the request is repeated
  std::vector<std::function<void()>> when_gone;
  Hosts hosts;                 // what the names in it stand for
  bool hosts_changed = false;  // and the holder does not know yet
  Timer limit;
  Timer names_due;

  bool is_live() const { return state != State::kGone; }
};

/// One (run, epoch).
struct Node::Lease {
  enum class State { kWaiting, kReading, kOpen, kSettling, kSettled };

  explicit Lease(Loop& loop) : lapse(loop) {}

  std::string run;
  std::uint64_t epoch = 0;
  Duration length{};
  MonotonicTime end;
  LeaseStream* stream = nullptr;
  State state = State::kWaiting;
  bool barrier = false;  // nothing is injected any more
  bool over = false;     // and nothing renewed
  Status last_word;
  google::protobuf::RepeatedField<std::uint32_t> control_ports;
  std::optional<std::vector<std::string>> before;
  bool shared = false;  // another run held faults here meanwhile
  std::map<std::string, std::shared_ptr<HeldFault>> faults;
  std::vector<std::pair<v1::LeaseRequest, MonotonicTime>> deferred;
  Timer lapse;

  bool has_live_faults() const {
    return std::any_of(faults.begin(), faults.end(),
                       [](const auto& entry) { return entry.second->is_live(); });
  }
};

Node::Node(Loop& loop, Holders& holders, Journal& journal, Metrics& metrics, NodeFacts facts)
    : loop_(loop),
      holders_(holders),
      journal_(journal),
      metrics_(metrics),
      resolver_(loop),
      facts_(std::move(facts)) {
  metrics_.halted(facts_.halted.has_value());
}

Node::~Node() = default;

// Leases.

void Node::received(LeaseStream& stream, const v1::LeaseRequest& request, MonotonicTime arrived) {
  const auto found = std::find_if(leases_.begin(), leases_.end(),
                                  [&](const auto& lease) { return lease->stream == &stream; });
  if (found != leases_.end()) return handle(std::shared_ptr(*found), request, arrived);
  if (!request.has_open()) {
    return stream.finish(error(StatusCode::kInvalidArgument, "open: must be the first message"));
  }
  open(stream, request.open(), arrived);
}

void Node::open(LeaseStream& stream, const v1::Open& open, MonotonicTime arrived) {
  const auto refuse_open = [&](StatusCode code, const std::string& why) {
    log(LogLevel::kWarn, "event=lease_refused why=" + quoted(why));
    stream.finish(error(code, why));
  };
  if (stopped_) return refuse_open(StatusCode::kUnavailable, "squalld is ending");
  if (!is_run_id(open.run())) {
    return refuse_open(StatusCode::kInvalidArgument,
                       "open.run: 1 to 64 letters, digits and '-' are needed");
  }
  if (Duration(open.lease()) < kShortestLease || Duration(open.lease()) > kLongestLease) {
    return refuse_open(StatusCode::kInvalidArgument, "open.lease: 1s to 60s are needed");
  }
  if (!facts_.environment.empty() && open.environment() != facts_.environment) {
    return refuse_open(StatusCode::kFailedPrecondition,
                       fmt::format("this node's environment is \"{}\", the plan names \"{}\"",
                                   facts_.environment, open.environment()));
  }
  if (facts_.halted) return refuse_open(StatusCode::kFailedPrecondition, in_words(*facts_.halted));
  const auto known = facts_.epochs.find(open.run());
  if (known != facts_.epochs.end() && known->second >= open.epoch()) {
    return refuse_open(
        StatusCode::kFailedPrecondition,
        fmt::format("epoch {} of run {} is over on this node", open.epoch(), open.run()));
  }
  remember_epoch(facts_.epochs, open.run(), open.epoch());
  journal_.lease(open.run(), open.epoch());

  auto lease = std::make_shared<Lease>(loop_);
  lease->run = open.run();
  lease->epoch = open.epoch();
  lease->length = Duration(open.lease());
  lease->end = arrived + lease->length;
  lease->stream = &stream;
  lease->control_ports = open.control_ports();
  log(LogLevel::kInfo, fmt::format("event=lease_opened run={} epoch={} lease={}", lease->run,
                                   lease->epoch, format_duration(lease->length)));
  const auto others = leases_;
  leases_.push_back(lease);
  metrics_.lease_opened();
  arm(lease);
  bool waits = false;
  for (const auto& other : others) {
    if (other->run != lease->run) continue;
    waits = true;
    end_lease(other,
              error(StatusCode::kFailedPrecondition,
                    fmt::format("replaced by epoch {} of run {}", open.epoch(), open.run())));
  }
  // Still there: its faults are being reverted, and the node is read for the new one when they are
  // gone.
  waits = waits && std::any_of(leases_.begin(), leases_.end(), [&](const auto& other) {
            return other != lease && other->run == lease->run;
          });
  if (!waits && lease->state == Lease::State::kWaiting) begin(lease);
}

void Node::begin(const std::shared_ptr<Lease>& lease) {
  lease->state = Lease::State::kReading;
  lease->shared = !live_faults().empty();
  holders_.ask(read_request(), kReadPatience, [this, lease](StatusOr<v1::FromHolder> answer) {
    if (answer.ok()) {
      const auto& lines = answer->fingerprint().lines();
      lease->before.emplace(lines.begin(), lines.end());
    } else {
      log(LogLevel::kError, fmt::format("event=node_unread run={} why={}", lease->run,
                                        quoted(message_of(answer.status()))));
    }
    opened(lease);
  });
}

void Node::opened(const std::shared_ptr<Lease>& lease) {
  lease->state = Lease::State::kOpen;
  if (lease->stream != nullptr) {
    v1::LeaseEvent event;
    event.mutable_opened()->mutable_recovered()->Assign(facts_.recovered.begin(),
                                                        facts_.recovered.end());
    facts_.recovered.clear();
    tell(*lease, std::move(event));
  }
  for (const auto& [request, arrived] : std::exchange(lease->deferred, {})) {
    handle(lease, request, arrived);
  }
  settle(lease);
}

void Node::handle(const std::shared_ptr<Lease>& lease, const v1::LeaseRequest& request,
                  MonotonicTime arrived) {
  // The clock before the message: what queued up while this process was frozen revives nothing.
  if (!lease->over && monotonic_now() >= lease->end) {
    metrics_.lease_lapsed();
    end_lease(lease, error(StatusCode::kFailedPrecondition,
                           "the lease lapsed: no renewal for " + format_duration(lease->length)));
  }
  switch (request.request_case()) {
    case v1::LeaseRequest::kRenew:
      if (!lease->over) renew(lease, arrived);
      return;
    case v1::LeaseRequest::kRevertAll:
      log(LogLevel::kInfo, "event=revert_all run=" + lease->run);
      return revert_all(lease, arrived);
    case v1::LeaseRequest::kOpen:
      return end_lease(lease, error(StatusCode::kInvalidArgument, "open: only the first message"));
    case v1::LeaseRequest::REQUEST_NOT_SET:
      return end_lease(lease, error(StatusCode::kInvalidArgument, "request: required"));
    case v1::LeaseRequest::kInject:
    case v1::LeaseRequest::kRevert:
      break;
  }
  if (!lease->over && !lease->barrier &&
      (lease->state == Lease::State::kWaiting || lease->state == Lease::State::kReading)) {
    lease->deferred.emplace_back(request, arrived);
    return;
  }
  if (request.has_inject()) return inject(lease, request.inject(), arrived);

  const auto found = lease->faults.find(request.revert().fault());
  if (found == lease->faults.end()) {
    return refuse(*lease, request.revert().fault(),
                  error(StatusCode::kNotFound, "this run has no such fault on this node"));
  }
  if (found->second->is_live()) return revert(std::shared_ptr(found->second), arrived);
  for (const v1::LeaseEvent& answer : found->second->answers) tell(*lease, answer);
}

void Node::renew(const std::shared_ptr<Lease>& lease, MonotonicTime arrived) {
  lease->end = std::max(lease->end, arrived + lease->length);
  arm(lease);
  for (const auto& [id, fault] : lease->faults) pulse(fault);
}

void Node::arm(const std::shared_ptr<Lease>& lease) {
  lease->lapse.at(lease->end, [this, weak = std::weak_ptr(lease)] {
    const auto lapsed = weak.lock();
    if (!lapsed || lapsed->over) return;
    log(LogLevel::kWarn,
        fmt::format("event=lease_lapsed run={} epoch={}", lapsed->run, lapsed->epoch));
    metrics_.lease_lapsed();
    end_lease(lapsed, error(StatusCode::kFailedPrecondition,
                            "the lease lapsed: no renewal for " + format_duration(lapsed->length)));
  });
}

void Node::inject(const std::shared_ptr<Lease>& lease, const v1::Inject& request,
                  MonotonicTime arrived) {
  const v1::Fault& wanted = request.fault();
  if (!is_fault_id(wanted.id())) {
    return end_lease(lease, error(StatusCode::kInvalidArgument,
                                  "inject.fault.id: 12 characters of a-z and 2-7 are needed"));
  }
  if (const auto known = lease->faults.find(wanted.id()); known != lease->faults.end()) {
    for (const v1::LeaseEvent& answer : known->second->answers) tell(*lease, answer);
    return;
  }
  if (lease->over || stopped_) {
    return refuse(*lease, wanted.id(), error(StatusCode::kFailedPrecondition, "the lease is over"));
  }
  if (lease->barrier) {
    return refuse(*lease, wanted.id(),
                  error(StatusCode::kFailedPrecondition,
                        "everything was reverted: nothing is injected on this stream any more"));
  }
  if (const Status bounds = plan::check_bounds(request); !bounds.ok()) {
    return refuse(*lease, wanted.id(), bounds);
  }
  const Status allowed = facts_.guardrails.allow(wanted, live_faults().size(), wall_now());
  if (!allowed.ok()) return refuse(*lease, wanted.id(), allowed);
  for (const auto& other : leases_) {
    if (other->faults.contains(wanted.id())) {
      return refuse(*lease, wanted.id(),
                    error(StatusCode::kAlreadyExists, "another run has a fault with this id"));
    }
  }
  if (live_faults().size() >= kMostFaults) {
    return refuse(*lease, wanted.id(),
                  error(StatusCode::kResourceExhausted,
                        fmt::format("this node holds {} faults already", kMostFaults)));
  }
  for (const auto& other : leases_) {
    if (other != lease) other->shared = true;
  }
  auto fault = std::make_shared<HeldFault>(loop_, lease, wanted, arrived);
  lease->faults.emplace(fault->id, fault);
  resolve(fault);
}

void Node::ended(LeaseStream& stream) {
  const auto found = std::find_if(leases_.begin(), leases_.end(),
                                  [&](const auto& lease) { return lease->stream == &stream; });
  if (found == leases_.end()) return stream.finish(ok());
  const std::shared_ptr<Lease> lease = *found;
  if (!lease->barrier) log(LogLevel::kWarn, "event=stream_ended run=" + lease->run);
  end_lease(lease, ok());
}

void Node::broken(LeaseStream& stream) {
  const auto found = std::find_if(leases_.begin(), leases_.end(),
                                  [&](const auto& lease) { return lease->stream == &stream; });
  if (found == leases_.end()) return;
  const std::shared_ptr<Lease> lease = *found;
  lease->stream = nullptr;
  end_lease(lease, ok());
}

void Node::end_lease(const std::shared_ptr<Lease>& lease, const Status& why) {
  if (lease->over) return;
  lease->over = true;
  lease->last_word = why;
  lease->lapse.cancel();
  revert_all(lease, monotonic_now());
}

void Node::revert_all(const std::shared_ptr<Lease>& lease, MonotonicTime asked) {
  lease->barrier = true;
  for (const auto& [request, arrived] : std::exchange(lease->deferred, {})) {
    handle(lease, request, arrived);  // refused now
  }
  for (const auto& [id, fault] : lease->faults) {
    if (fault->is_live()) revert(fault, asked);
  }
  settle(lease);
}

void Node::settle(const std::shared_ptr<Lease>& lease) {
  if (!lease->barrier || lease->has_live_faults()) return;
  if (lease->state == Lease::State::kWaiting || lease->state == Lease::State::kSettled) {
    if (lease->over) forget(lease);
    return;
  }
  if (lease->state != Lease::State::kOpen) return;  // being read; that ends here again
  lease->state = Lease::State::kSettling;
  holders_.ask(read_request(), kReadPatience, [this, lease](StatusOr<v1::FromHolder> answer) {
    lease->state = Lease::State::kSettled;
    v1::LeaseEvent event;
    v1::Settled& settled = *event.mutable_settled();
    // Of the whole run: a lease that only takes the place of a lost one has no faults of its own.
    std::set<std::string> ours;
    for (const auto& [id, fault] : lease->faults) ours.insert(id);
    for (const auto& [id, residue] : left_behind_[lease->run]) {
      ours.insert(id);
      for (const std::string& line : residue) settled.add_residue(id + ": " + line);
    }
    if (left_behind_[lease->run].empty()) left_behind_.erase(lease->run);
    if (!answer.ok()) {
      settled.add_residue("unknown: the node could not be read: " + message_of(answer.status()));
    } else if (!lease->before) {
      settled.add_residue("unknown: the node could not be read before the first fault");
    } else {
      const std::set<std::string> before(lease->before->begin(), lease->before->end());
      const auto& lines = answer->fingerprint().lines();
      const std::set<std::string> after(lines.begin(), lines.end());
      for (const std::string& line : after) {
        for (const std::string& id : ours) {
          if (bears(line, id)) settled.add_residue(line);
        }
      }
      // While other runs hold faults here, differences prove nothing about others.
      std::vector<std::string> gone, fresh;
      std::set_difference(before.begin(), before.end(), after.begin(), after.end(),
                          std::back_inserter(gone));
      std::set_difference(after.begin(), after.end(), before.begin(), before.end(),
                          std::back_inserter(fresh));
      const auto add = [&](const char* sign, const std::vector<std::string>& changed) {
        for (const std::string& line : changed) {
          const bool told = std::any_of(ours.begin(), ours.end(),
                                        [&](const std::string& id) { return bears(line, id); });
          if (!told && !lease->shared) settled.add_changed_by_others(sign + line);
        }
      };
      add("- ", gone);
      add("+ ", fresh);
    }
    log(settled.residue().empty() ? LogLevel::kInfo : LogLevel::kError,
        fmt::format("event=settled run={} residue={} changed_by_others={}", lease->run,
                    settled.residue_size(), settled.changed_by_others_size()));
    for (const std::string& line : settled.residue()) {
      log(LogLevel::kError, fmt::format("event=residue run={} what={}", lease->run, quoted(line)));
    }
    tell(*lease, std::move(event));
    if (lease->over) forget(lease);
  });
}

void Node::forget(const std::shared_ptr<Lease>& lease) {
  const auto place = std::find(leases_.begin(), leases_.end(), lease);
  if (place == leases_.end()) return;
  leases_.erase(place);
  metrics_.lease_forgotten();
  lease->lapse.cancel();
  if (LeaseStream* stream = std::exchange(lease->stream, nullptr)) stream->finish(lease->last_word);
  const auto same_run = [&](const auto& other) { return other->run == lease->run; };
  if (std::count_if(leases_.begin(), leases_.end(), same_run) == 1) {
    const std::shared_ptr<Lease> next = *std::find_if(leases_.begin(), leases_.end(), same_run);
    if (next->state == Lease::State::kWaiting) begin(next);
  }
  if (!leases_.empty()) return;
  for (auto& quiet : std::exchange(when_quiet_, {})) loop_.post(std::move(quiet));
  if (stopped_) loop_.post(stopped_);
}

void Node::tell(Lease& lease, v1::LeaseEvent event) {
  if (lease.stream == nullptr) return;
  event.set_at(to_ns(monotonic_now()));
  lease.stream->tell(std::move(event));
}

void Node::refuse(Lease& lease, const std::string& id, const Status& why) {
  log(LogLevel::kWarn, fmt::format("event=refused run={} fault={} why={}", lease.run, quoted(id),
                                   quoted(message_of(why))));
  metrics_.fault_refused();
  v1::LeaseEvent event;
  event.set_fault(id);
  event.mutable_failed()->set_code(static_cast<int>(why.code()));
  event.mutable_failed()->set_message(message_of(why));
  tell(lease, std::move(event));
}

std::vector<std::shared_ptr<Node::HeldFault>> Node::live_faults() const {
  std::vector<std::shared_ptr<HeldFault>> live;
  for (const auto& lease : leases_) {
    for (const auto& [id, fault] : lease->faults) {
      if (fault->is_live()) live.push_back(fault);
    }
  }
  return live;
}

/// The wall clock as it is without what a clock fault here has made of it: no plan sets the clock
/// out of the quiet hours.
std::time_t Node::wall_now() {
  using Wall = std::chrono::system_clock;
  const auto live = live_faults();
  const MonotonicTime now = monotonic_now();
  if (std::none_of(live.begin(), live.end(),
                   [](const auto& fault) { return fault->fault.has_clock(); })) {
    wall_offset_ = Wall::now().time_since_epoch() - Duration(to_ns(now));
  }
  return Wall::to_time_t(Wall::time_point(Duration(to_ns(now)) + wall_offset_));
}

std::uint32_t Node::faults() const { return static_cast<std::uint32_t>(live_faults().size()); }

void Node::halt(const v1::HaltRequest& request,
                std::function<void(StatusOr<v1::HaltReply>)> answer) {
  if (request.reason().empty()) {
    return answer(error(StatusCode::kInvalidArgument, "halt.reason: missing"));
  }
  const Halt halted{.by = escape_controls(request.by()),
                    .at = fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(wall_now())),
                    .reason = escape_controls(request.reason())};
  facts_.halted = halted;
  metrics_.halted(true);
  // What cannot be kept still holds as long as this process does.
  const Status kept = facts_.keep_halted ? facts_.keep_halted(facts_.halted) : ok();
  log(LogLevel::kWarn, fmt::format("event=halted by={} reason={} leases={}", quoted(halted.by),
                                   quoted(halted.reason), leases_.size()));
  const auto ended = leases_;
  const std::uint32_t faults = this->faults();
  for (const auto& lease : ended) {
    v1::LeaseEvent event;
    *event.mutable_halted() = to_message(halted);
    tell(*lease, std::move(event));
    end_lease(lease, error(StatusCode::kFailedPrecondition,
                           fmt::format("halted by {}: {}", halted.by, halted.reason)));
  }
  const auto quiet = [ended, kept, faults, answer = std::move(answer)] {
    v1::HaltReply reply;
    reply.set_faults(faults);
    for (const auto& lease : ended) {
      reply.add_runs(lease->run);
      for (const auto& [id, fault] : lease->faults) {
        for (const std::string& line : fault->residue) reply.add_residue(id + ": " + line);
      }
    }
    if (!kept.ok()) {
      reply.add_residue("it holds only until squalld ends: " + message_of(kept));
    }
    answer(reply);
  };
  if (leases_.empty()) return quiet();
  when_quiet_.emplace_back(quiet);
}

void Node::revert(const v1::RevertRequest& request,
                  std::function<void(StatusOr<v1::RevertReply>)> answer) {
  auto meant = live_faults();
  if (!request.fault().empty()) {
    std::erase_if(meant, [&](const auto& fault) { return fault->id != request.fault(); });
    if (meant.empty()) {
      return answer(error(StatusCode::kNotFound,
                          fmt::format("no fault {} is held here", request.fault().substr(0, 64))));
    }
  }
  const std::string by =
      request.by().empty() ? "somebody" : escape_controls(request.by().substr(0, kLongestName));
  struct Waiting {
    std::size_t faults = 0;
    v1::RevertReply reply;
    std::function<void(StatusOr<v1::RevertReply>)> answer;
  };
  const auto waiting = std::make_shared<Waiting>();
  waiting->faults = meant.size();
  waiting->answer = std::move(answer);
  waiting->reply.set_faults(static_cast<std::uint32_t>(meant.size()));
  if (meant.empty()) return waiting->answer(waiting->reply);
  for (const auto& fault : meant) {
    // Who was first is told to the run; a revert that it asked for itself is its own.
    if (!fault->revert_asked) fault->reverted_by = by;
    log(LogLevel::kWarn,
        fmt::format("event=reverted_by_hand fault={} by={}", fault->id, quoted(by)));
    fault->when_gone.emplace_back([waiting, weak = std::weak_ptr(fault)] {
      if (const auto gone = weak.lock()) {
        for (const std::string& line : gone->residue) {
          waiting->reply.add_residue(gone->id + ": " + line);
        }
      }
      if (--waiting->faults == 0) waiting->answer(waiting->reply);
    });
  }
  const MonotonicTime now = monotonic_now();
  for (const auto& fault : meant) revert(fault, now);
}

std::vector<v1::HeldFault> Node::held() const {
  std::vector<v1::HeldFault> held;
  const MonotonicTime now = monotonic_now();
  for (const auto& fault : live_faults()) {
    v1::HeldFault& one = held.emplace_back();
    one.set_fault(fault->id);
    if (const auto lease = fault->lease.lock()) one.set_run(lease->run);
    one.set_words(plan::in_words(fault->fault));
    if (!fault->fault.has_for_()) continue;
    const Duration lasts(fault->fault.for_());
    const Duration passed = fault->applied_at ? now - *fault->applied_at : Duration::zero();
    one.set_remaining(std::max(lasts - passed, Duration(1)).count());
  }
  return held;
}

StatusOr<v1::ResumeReply> Node::resume(const v1::ResumeRequest& request) {
  if (request.reason().empty()) {
    return error(StatusCode::kInvalidArgument, "resume.reason: missing");
  }
  v1::ResumeReply reply;
  if (!facts_.halted) return reply;
  const Status forgotten = facts_.keep_halted ? facts_.keep_halted(std::nullopt) : ok();
  if (!forgotten.ok()) return forgotten;
  *reply.mutable_was() = to_message(*std::exchange(facts_.halted, std::nullopt));
  metrics_.halted(false);
  log(LogLevel::kInfo,
      fmt::format("event=resumed by={} reason={}", quoted(request.by()), quoted(request.reason())));
  return reply;
}

void Node::stop(std::function<void()> stopped) {
  stopped_ = std::move(stopped);
  if (leases_.empty()) return loop_.post(stopped_);
  for (const auto& lease : std::vector(leases_)) {
    end_lease(lease, error(StatusCode::kUnavailable, "squalld is ending"));
  }
}

// Faults.

void Node::resolve(const std::shared_ptr<HeldFault>& fault) {
  resolver_.resolve(host_names(fault->fault), [this, fault](const StatusOr<Hosts>& hosts) {
    if (!hosts.ok()) fault->failure = hosts.status();
    if (!hosts.ok() || fault->revert_asked) return close(fault);
    fault->hosts = *hosts;
    start(fault);
  });
}

/// What a name stands for may change while the fault lives. Where nobody can say, what was known
/// last is meant.
void Node::resolve_again(const std::shared_ptr<HeldFault>& fault) {
  if (fault->hosts.empty()) return;
  fault->names_due.at(monotonic_now() + kResolveEvery, [this, weak = std::weak_ptr(fault)] {
    const auto due = weak.lock();
    if (!due || due->state != HeldFault::State::kHeld) return;
    resolver_.resolve(host_names(due->fault), [this, weak](const StatusOr<Hosts>& hosts) {
      const auto held = weak.lock();
      if (!held || held->state != HeldFault::State::kHeld) return;
      if (hosts.ok()) hosts_are(held, *hosts);
      resolve_again(held);
    });
  });
}

void Node::hosts_are(const std::shared_ptr<HeldFault>& fault, const Hosts& hosts) {
  for (int i = 0; i < std::min(hosts.size(), fault->hosts.size()); ++i) {
    if (hosts[i].SerializeAsString() == fault->hosts[i].SerializeAsString()) continue;
    fault->hosts_changed = true;
    v1::LeaseEvent event;
    event.set_fault(fault->id);
    *event.mutable_host_changed() = hosts[i];
    log(LogLevel::kInfo, fmt::format("event=host_changed fault={} host={} addresses={}", fault->id,
                                     quoted(hosts[i].host()), hosts[i].addresses_size()));
    if (const auto lease = fault->lease.lock()) tell(*lease, std::move(event));
  }
  if (!fault->hosts_changed) return;
  fault->hosts = hosts;
  pulse(fault);
}

void Node::start(const std::shared_ptr<HeldFault>& fault) {
  holders_.take([this, fault](StatusOr<std::unique_ptr<HolderProcess>> holder) {
    if (!holder.ok()) {
      fault->failure = in_context("no holder", holder.status());
      return close(fault);
    }
    fault->holder = *std::move(holder);
    if (fault->revert_asked) return close(fault);
    fault->holder->on_message = [this, weak = std::weak_ptr(fault)](const v1::FromHolder& message) {
      if (const auto held = weak.lock()) heard(held, message);
    };
    fault->holder->on_gone = [this, weak = std::weak_ptr(fault)](const std::string& how) {
      if (const auto held = weak.lock()) lost(held, "the holder " + how);
    };
    const auto lease = fault->lease.lock();
    v1::ToHolder message;
    v1::Start& start = *message.mutable_start();
    *start.mutable_fault() = fault->fault;
    start.set_state_id(facts_.state_id);
    for (const auto& other : live_faults()) {
      for (const v1::Undo& undo : other->undos) {
        if (undo.has_remove_clsact()) *start.add_our_clsact() = undo.remove_clsact();
        if (undo.has_set_sysctl()) *start.add_our_settings() = undo.set_sysctl();
      }
    }
    spare(facts_, start);
    start.mutable_spared_ports()->MergeFrom(lease->control_ports);
    *start.mutable_hosts() = fault->hosts;
    start.set_lease_end(to_ns(lease->end));
    fault->state = HeldFault::State::kPreparing;
    const Status sent = fault->holder->send(message);
    failpoint<"node.start_sent">();
    // The alarm after the message, here and below: the holder need not wait for it.
    expect(fault, kApplyPatience, "did not say what it would change");
    if (!sent.ok()) lost(fault, message_of(sent));
  });
}

void Node::heard(const std::shared_ptr<HeldFault>& fault, const v1::FromHolder& message) {
  using State = HeldFault::State;
  const auto lease = fault->lease.lock();
  if (!lease || fault->state == State::kGone || fault->state == State::kSweeping) return;
  v1::LeaseEvent event;
  event.set_fault(fault->id);
  const MonotonicTime now = monotonic_now();
  switch (message.what_case()) {
    case v1::FromHolder::kUndos: {
      if (fault->state != State::kPreparing) return;  // a release is on its way to it
      fault->state = State::kWriting;
      fault->limit.cancel();
      fault->undos = message.undos().undos();
      fault->journaled = true;
      v1::LedgerOpened record;
      record.set_fault(fault->id);
      record.set_run(lease->run);
      record.set_kind(kind_name(fault->fault));
      record.set_boot_id(facts_.boot_id);
      record.set_holder_pid(static_cast<std::uint32_t>(fault->holder->pid()));
      record.set_holder_start_time(fault->holder->start_time());
      *record.mutable_undos() = fault->undos;
      journal_.opened(std::move(record),
                      [this, fault](const Status& status) { journaled(fault, status); });
      failpoint<"node.undos_heard">();
      return;
    }
    case v1::FromHolder::kApplied:
      failpoint<"node.applied_heard">();
      fault->applied = true;
      fault->applied_at = now;
      *event.mutable_applied()->mutable_evidence() = message.applied().evidence();
      event.mutable_applied()->set_took((now - fault->arrived).count());
      fault->answers.push_back(event);
      tell(*lease, std::move(event));
      metrics_.fault_applied(kind_name(fault->fault), now - fault->arrived);
      log(LogLevel::kInfo,
          fmt::format("event=applied run={} fault={} pid={} took_ms={:.3f}", lease->run, fault->id,
                      fault->holder->pid(), to_ms(now - fault->arrived)));
      if (message.applied().evidence().has_script()) {
        const v1::ScriptEvidence& script = message.applied().evidence().script();
        log(LogLevel::kInfo, fmt::format("event=script fault={} exit={} output={}", fault->id,
                                         script.exit(), quoted(script.output())));
      }
      if (fault->state == State::kApplying) {
        fault->state = State::kHeld;
        fault->limit.cancel();
        pulse(fault);  // the lease may have been renewed meanwhile
        resolve_again(fault);
      }
      return;
    case v1::FromHolder::kEvidence:
      fault->pulse_open = false;
      if (fault->state == State::kHeld) fault->limit.cancel();
      *event.mutable_evidence() = message.evidence();
      return tell(*lease, std::move(event));
    case v1::FromHolder::kEffectEnded: {
      failpoint<"node.end_heard">();
      fault->state = State::kCleaning;
      expect(fault, patience_for(fault->undos), "did not finish cleaning up");
      if (!fault->applied && !fault->revert_asked) return;
      v1::FaultEnded& over = *event.mutable_effect_ended();
      over.set_reason(message.effect_ended().reason());
      *over.mutable_evidence() = message.effect_ended().evidence();
      if (fault->revert_asked) over.set_took((now - *fault->revert_asked).count());
      if (over.reason() == v1::RELEASED) over.set_by(fault->reverted_by);
      fault->told_end = true;
      const std::string words =
          fmt::format("event=effect_ended run={} fault={} reason={} took_ms={:.3f}", lease->run,
                      fault->id, v1::EndReason_Name(over.reason()), to_ms(Duration(over.took())));
      tell(*lease, std::move(event));
      if (fault->revert_asked) {
        metrics_.fault_ended(kind_name(fault->fault), now - *fault->revert_asked);
      }
      return log(LogLevel::kInfo, words);
    }
    case v1::FromHolder::kReleased:
    case v1::FromHolder::kFailed: {
      const auto& residue =
          message.has_failed() ? message.failed().residue() : message.released().residue();
      if (message.has_failed()) {
        fault->failure =
            error(static_cast<StatusCode>(message.failed().code()), message.failed().message());
      }
      // A second try from outside, by another process that starts from the undos alone.
      return residue.empty() ? close(fault) : sweep(fault);
    }
    default:
      return;
  }
}

void Node::journaled(const std::shared_ptr<HeldFault>& fault, const Status& status) {
  if (fault->state != HeldFault::State::kWriting) return;
  v1::ToHolder message;
  if (!status.ok()) {
    fault->journaled = false;
    fault->failure = error(StatusCode::kFailedPrecondition,
                           "refused, for its undos cannot be written: " + message_of(status));
  }
  const bool goes = status.ok() && !fault->revert_asked;
  if (goes) {
    fault->state = HeldFault::State::kApplying;
    message.mutable_go();
  } else {
    fault->state = HeldFault::State::kEnding;
    message = release();
  }
  const Status sent = fault->holder->send(message);
  failpoint<"node.go_sent">();
  if (goes) {
    expect(fault, kApplyPatience + others_part(fault->fault), "did not finish applying");
  } else {
    expect(fault, kEndPatience, "did not go when told to");
  }
  if (!sent.ok()) lost(fault, message_of(sent));
}

void Node::pulse(const std::shared_ptr<HeldFault>& fault) {
  const auto lease = fault->lease.lock();
  if (!lease || lease->over || fault->state != HeldFault::State::kHeld) return;
  v1::ToHolder message;
  message.mutable_pulse()->set_lease_end(to_ns(lease->end));
  if (fault->hosts_changed) *message.mutable_pulse()->mutable_hosts() = fault->hosts;
  // One that cannot be sent is one that will not be answered.
  const Status sent = fault->holder->send(message);
  if (sent.ok()) fault->hosts_changed = false;
  if (!sent.ok()) log(LogLevel::kDebug, "event=pulse_unsent fault=" + fault->id);
  if (std::exchange(fault->pulse_open, true)) return;
  expect(fault, lease->length / 3, "left a pulse unanswered");
}

void Node::revert(const std::shared_ptr<HeldFault>& fault, MonotonicTime asked) {
  using State = HeldFault::State;
  if (fault->revert_asked) return;
  fault->revert_asked = asked;
  const State state = fault->state;
  if (state != State::kPreparing && state != State::kApplying && state != State::kHeld) return;
  fault->state = State::kEnding;
  const Status sent = fault->holder->send(release());
  failpoint<"node.release_sent">();
  const auto lease = fault->lease.lock();
  expect(
      fault,
      std::max(kEndPatience, lease ? lease->length / 3 : kEndPatience) + others_part(fault->fault),
      "did not end its effect when told to");
  if (sent.code() == StatusCode::kResourceExhausted) {
    fault->late = "does not read what it is told";
    fault->holder->kill();
  }
}

void Node::expect(const std::shared_ptr<HeldFault>& fault, Duration patience,
                  const std::string& what) {
  fault->limit.at(monotonic_now() + patience, [weak = std::weak_ptr(fault), patience, what] {
    const auto held = weak.lock();
    if (!held || !held->holder) return;
    held->late = fmt::format("{} within {}", what, format_duration(patience));
    held->holder->kill();  // its end is told next
  });
}

void Node::lost(const std::shared_ptr<HeldFault>& fault, const std::string& how) {
  using State = HeldFault::State;
  if (fault->state == State::kGone || fault->state == State::kSweeping) return;
  if (fault->holder && !fault->holder->is_gone()) {
    // Two at once must not touch the node: it dies first, and its end is told here again.
    if (fault->late.empty()) fault->late = "does not listen";
    return fault->holder->kill();
  }
  const std::string why =
      fault->late.empty() ? how : "the holder " + fault->late + " and was killed";
  log(LogLevel::kError, fmt::format("event=holder_lost fault={} why={}", fault->id, quoted(why)));
  if (!fault->failure) fault->failure = error(StatusCode::kInternal, why);
  sweep(fault);
}

void Node::sweep(const std::shared_ptr<HeldFault>& fault) {
  fault->state = HeldFault::State::kSweeping;
  fault->limit.cancel();
  if (fault->holder) holders_.retire(std::move(fault->holder));
  if (!fault->journaled || fault->undos.empty()) return close(fault);
  v1::ToHolder message;
  *message.mutable_sweep()->mutable_undos() = fault->undos;
  message.mutable_sweep()->set_state_id(facts_.state_id);
  message.mutable_sweep()->set_fault_id(fault->id);
  failpoint<"node.sweep_begun">();
  holders_.ask(message, patience_for(fault->undos), [this, fault](StatusOr<v1::FromHolder> answer) {
    failpoint<"node.sweep_ended">();
    if (!answer.ok()) {
      fault->residue.push_back("unknown: the sweep failed: " + message_of(answer.status()));
    } else {
      const auto& residue = answer->swept().residue();
      fault->residue.assign(residue.begin(), residue.end());
    }
    close(fault);
  });
}

void Node::close(const std::shared_ptr<HeldFault>& fault) {
  fault->state = HeldFault::State::kGone;
  fault->limit.cancel();
  if (fault->holder) holders_.retire(std::move(fault->holder));
  // What is left stays in the ledger: the next start tries again.
  if (fault->journaled && fault->residue.empty()) journal_.closed(fault->id);
  failpoint<"node.fault_closed">();
  if (const auto lease = fault->lease.lock(); lease && !fault->residue.empty()) {
    left_behind_[lease->run][fault->id] = fault->residue;
  }
  const bool failed = fault->failure && !(fault->applied && fault->revert_asked);
  metrics_.fault_gone(kind_name(fault->fault), fault->applied, failed, fault->residue.size());
  fault->undos.Clear();
  fault->fault.Clear();

  const auto gone = [&] {
    for (auto& answer : std::exchange(fault->when_gone, {})) answer();
  };
  const auto lease = fault->lease.lock();
  if (!lease) return gone();
  const MonotonicTime now = monotonic_now();
  const auto took = [&] { return fault->revert_asked ? (now - *fault->revert_asked).count() : 0; };
  v1::LeaseEvent event;
  event.set_fault(fault->id);
  if (failed) {
    event.mutable_failed()->set_code(static_cast<int>(fault->failure->code()));
    event.mutable_failed()->set_message(message_of(*fault->failure));
    event.mutable_failed()->mutable_residue()->Assign(fault->residue.begin(), fault->residue.end());
    log(LogLevel::kWarn, fmt::format("event=failed run={} fault={} why={}", lease->run, fault->id,
                                     quoted(message_of(*fault->failure))));
  } else {
    if (!std::exchange(fault->told_end, true)) {
      v1::LeaseEvent over;
      over.set_fault(fault->id);
      over.mutable_effect_ended()->set_took(took());
      over.mutable_effect_ended()->set_by(fault->reverted_by);
      tell(*lease, std::move(over));
    }
    event.mutable_reverted()->mutable_residue()->Assign(fault->residue.begin(),
                                                        fault->residue.end());
    event.mutable_reverted()->set_took(took());
    log(LogLevel::kInfo,
        fmt::format("event=reverted run={} fault={} residue={} took_ms={:.3f}", lease->run,
                    fault->id, fault->residue.size(), to_ms(Duration(took()))));
  }
  fault->answers.push_back(event);
  tell(*lease, std::move(event));
  settle(lease);
  gone();
}

void Node::preflight(const v1::PreflightRequest& request,
                     std::function<void(StatusOr<v1::PreflightReply>)> answer) {
  if (const Status bounds = plan::check_bounds(request); !bounds.ok()) return answer(bounds);
  if (static_cast<std::size_t>(request.faults_size()) > kMostFaults) {
    return answer(error(StatusCode::kInvalidArgument,
                        fmt::format("faults: at most {} at once", kMostFaults)));
  }
  /// One after another: a preflight is never urgent, and a fork for each at once would be felt.
  struct Looking {
    v1::PreflightRequest request;
    v1::PreflightReply reply;
    std::function<void(StatusOr<v1::PreflightReply>)> answer;
    std::function<void()> next;
  };
  auto looking = std::make_shared<Looking>();
  looking->request = request;
  looking->answer = std::move(answer);
  looking->next = [this, looking] {
    const int done = looking->reply.faults_size();
    if (done == looking->request.faults_size()) {
      looking->answer(std::move(looking->reply));
      loop_.post([looking] { looking->next = nullptr; });  // not while it runs
      return;
    }
    const auto refused = [looking](const Status& why) {
      v1::Looked& entry = *looking->reply.add_faults();
      entry.set_code(static_cast<int>(why.code()));
      entry.set_message(message_of(why));
      looking->next();
    };
    const v1::Look look = look_of(looking->request, done);
    const Status allowed =
        facts_.guardrails.allow(look.fault(), beside(looking->request, done), wall_now());
    if (!allowed.ok()) return refused(allowed);
    resolver_.resolve(
        host_names(look), [this, looking, look, refused](const StatusOr<Hosts>& hosts) {
          if (!hosts.ok()) return refused(hosts.status());
          v1::ToHolder message;
          *message.mutable_look() = look;
          *message.mutable_look()->mutable_hosts() = *hosts;
          spare(facts_, *message.mutable_look());
          holders_.ask(message, kReadPatience,
                       [looking, refused, hosts = *hosts](StatusOr<v1::FromHolder> looked) {
                         if (!looked.ok()) return refused(looked.status());
                         v1::Looked& entry = *looking->reply.add_faults();
                         entry = looked->looked();
                         *entry.mutable_hosts() = hosts;
                         looking->next();
                       });
        });
  };
  looking->next();
}

}  // namespace squall::daemon
