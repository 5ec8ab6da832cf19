/// \file
/// network: delays or loses the packets that it matches, and no others.
///
/// A filter of ours on the interface's clsact redirects the matches to a device of ours that holds
/// them: an IFB under netem, or the relay's TAP. The interface's own qdiscs are never touched. The
/// match dies in the kernel at its deadline, whoever is dead by then. The order of undoing is the
/// filter first, then the device once it is empty.
#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/base/ids.h"
#include "experiments/fault/fault.h"
#include "injector/faults/fault.h"
#include "injector/faults/processes.h"
#include "injector/faults/sockets.h"
#include "injector/faults/spared.h"
#include "injector/faults/undo.h"
#include "injector/network/cgroup.h"
#include "injector/network/classifier.h"
#include "injector/network/effect.h"
#include "injector/network/engine.h"
#include "injector/network/interfaces.h"
#include "injector/network/lock.h"
#include "injector/network/netem.h"
#include "injector/network/netlink.h"
#include "injector/network/netns.h"
#include "injector/network/objects.h"
#include "injector/network/relay.h"
#include "injector/network/spared.h"
#include "injector/network/sweep.h"
#include "injector/network/sysctl.h"

namespace squall::hold {

using namespace squall::network;  // NOLINT: this file is the other half of that folder

namespace {

constexpr std::uint16_t kEthernet = 1;    // ARPHRD_ETHER
constexpr std::uint16_t kLoopback = 772;  // ARPHRD_LOOPBACK
constexpr Duration kSshEvery = std::chrono::seconds(5);
/// The first look at ssh's connections takes milliseconds, for which no fault waits.
constexpr Duration kSshFirst = std::chrono::milliseconds(10);
/// What processes have started meanwhile is looked for so often.
constexpr Duration kProcessesEvery = std::chrono::seconds(1);
constexpr Duration kReadBackEvery = std::chrono::milliseconds(100);
constexpr Duration kLockWithin = std::chrono::seconds(3);
constexpr std::uint32_t kIfbQueue = 32;
constexpr std::string_view kLetters =
    "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

bool has_ethernet_header(const Link& interface) {
  return interface.type == kEthernet || interface.type == kLoopback;
}

/// What a spare holder has made ahead of time.
struct Warm {
  std::unique_ptr<Classifier> classifier;
  std::optional<Netlink> netlink;
  Fd lock;  // of the holder's own namespace, as all that follows
  SshdPorts sshd;
  RelayParts relay;
};

Warm& warm() {
  static Warm instance;
  return instance;
}

/// Where and how, from the plan's words and the node's state.
struct Resolved {
  EngineChoice engine;
  std::vector<Link> interfaces;
};

/// A plan says in two ways which packets it means; from here on there is one.
v1::Network in_one(v1::Network wanted) {
  if (!wanted.has_from()) return wanted;
  wanted.mutable_to()->Swap(wanted.mutable_from());
  wanted.clear_from();
  wanted.set_direction(v1::INGRESS);
  return wanted;
}

/// The match with what its hosts stand for among its cidrs.
v1::Match with_addresses(v1::Match match, const Hosts& hosts) {
  for (const v1::HostAddresses& known : hosts) {
    if (std::find(match.hosts().begin(), match.hosts().end(), known.host()) == match.hosts().end())
      continue;
    for (const std::string& address : known.addresses()) {
      v1::Cidr& cidr = *match.add_cidrs();
      cidr.set_address(address);
      cidr.set_prefix(static_cast<std::uint32_t>(address.size() * 8));
    }
  }
  return match;
}

StatusOr<Aim> aim_of(const v1::Network& wanted, const Hosts& hosts, std::uint64_t seed) {
  v1::Scope group;
  group.set_cgroup(wanted.in().cgroup());
  group.set_unit(wanted.in().unit());
  StatusOr<Cgroup> cgroup = find_cgroup(group);
  if (!cgroup.ok()) return cgroup.status();
  Aim aim;
  aim.match = with_addresses(wanted.to(), hosts);
  aim.except = with_addresses(wanted.except(), hosts);
  aim.connections = wanted.connections();
  aim.packets = wanted.packets();
  aim.seed = static_cast<std::uint32_t>(seed ^ (seed >> 32));
  aim.cgroup = *std::move(cgroup);
  aim.processes = wanted.in().has_process();
  if (!wanted.in().process().container().empty()) {
    return error(StatusCode::kInvalidArgument,
                 "network.in.process.container: a container's packets are told apart in its own "
                 "network namespace; write in: {netns: PID}, of a process in it, or its cgroup");
  }
  if (Status apart = aim.processes ? can_mark_sockets() : ok(); !apart.ok()) {
    return in_context("network.in.process", apart);
  }
  return aim;
}

/// The namespace that the scope names; none: the node's own.
StatusOr<Fd> scope_of(const v1::Network& wanted) {
  if (wanted.in().netns().empty()) return Fd();
  return open_netns(wanted.in().netns());
}

StatusOr<std::optional<InNetns>> enter(const Fd& netns) {
  if (!netns.is_open()) return std::optional<InNetns>();
  StatusOr<InNetns> inside = InNetns::enter(netns);
  if (!inside.ok()) return inside.status();
  return std::optional<InNetns>(*std::move(inside));
}

/// Whether there is more to do than to lose packets, which the filter does alone: always, or by
/// chance where it is not netem that is to draw.
bool needs_device(const v1::Fault& fault, v1::Engine engine) {
  const Effect effect = effect_of(fault.network(), 0);
  if (engine == v1::RELAY) return !only_loses(effect);
  return fault.ramps_size() > 0 || !loses_all(effect);
}

StatusOr<Resolved> resolve(Netlink& netlink, const v1::Fault& fault, const v1::Match& match) {
  const v1::Network wanted = in_one(fault.network());
  const StatusOr<EngineChoice> engine = choose_engine(wanted);
  if (!engine.ok()) return engine.status();
  const StatusOr<std::vector<Link>> interfaces =
      choose_interfaces(netlink, wanted.interface(), match);
  if (!interfaces.ok()) return interfaces.status();
  for (const Link& interface : *interfaces) {
    if (const std::string why = why_protected_interface(interface.name); !why.empty()) {
      return error(StatusCode::kPermissionDenied,
                   "the interface " + interface.name + " cannot be touched: " + why);
    }
  }
  if (engine->engine == v1::RELAY && needs_device(fault, engine->engine)) {
    for (const Link& interface : *interfaces) {
      if (has_ethernet_header(interface)) continue;
      return error(StatusCode::kUnimplemented, "the relay cannot send on " + interface.name +
                                                   ", which is not an Ethernet device");
    }
  }
  return Resolved{*engine, *interfaces};
}

class Network final : public Fault {
 public:
  explicit Network(const v1::Start& start)
      : start_(start),
        wanted_(in_one(start.fault().network())),
        effect_(effect_of(wanted_, start.fault().seed())),
        now_(effect_at(fault_at(start.fault(), Duration::zero()))),
        tag_(object_tag(start.state_id(), start.fault().id())) {}

  StatusOr<std::vector<v1::Undo>> prepare() override;
  Status make_ready() override;
  Status apply(MonotonicTime deadline) override;
  Status pulse(MonotonicTime deadline) override;
  int watched() const override { return monitor_ ? monitor_->descriptor() : -1; }
  Status look_again() override;
  Status resolved(const Hosts& hosts) override;
  Status become(const v1::Fault& now) override;
  v1::Evidence evidence() override;
  Status end_effect() override;
  std::vector<std::string> clean_up() override;

 private:
  const std::string& id() const { return start_.fault().id(); }
  bool needs_device() const { return hold::needs_device(start_.fault(), engine_.engine); }
  bool is_relay() const { return engine_.engine == v1::RELAY; }

  /// A filter that is to stand, and where its packets go.
  struct Standpoint {
    Place place;
    std::uint32_t handle = kHandle;
    std::string device;
    std::uint32_t device_index = 0;
  };

  /// With room for all that it will ever hold.
  Effect effect_at(const v1::Fault& fault) const {
    Effect effect = effect_of(in_one(fault.network()), fault.seed());
    effect.limit = effect_.limit;
    return effect;
  }

  Status prepare_loopback();
  Status read_back_netem();
  Status make_ifb();
  Status make_relay();
  Status mark_sockets();
  Status add_filter(const Standpoint& standpoint);
  Status start_monitor();
  Status read_back();
  Status still_stands();
  struct Counts {
    std::uint64_t packets = 0;
    std::uint64_t bytes = 0;
    std::uint64_t refused = 0;
    std::uint64_t dropped = 0;
  };
  void read_counters();
  void see(const Counts& counts);
  void set_deadline(MonotonicTime deadline);

  v1::Start start_;
  v1::Network wanted_;
  Effect effect_;  // at its largest
  Effect now_;
  Fd scope_;  // the namespace where all of it happens; none: the holder's own
  Aim aim_;
  Fd lock_;
  std::string tag_;
  std::uint64_t netns_ = 0;
  std::optional<Netlink> netlink_;
  std::optional<Monitor> monitor_;
  std::vector<std::uint32_t> watched_interfaces_;
  std::unique_ptr<Classifier> classifier_;
  std::unique_ptr<Relay> relay_;  // after classifier_: its thread moves the deadline
  EngineChoice engine_;
  std::vector<Standpoint> standpoints_;
  std::vector<v1::SetSysctl> settings_;
  std::vector<v1::Undo> undos_;
  std::set<std::uint32_t> clsact_to_add_;
  std::uint32_t ifb_ = 0;
  SshdPorts sshd_;
  bool sshd_due_ = false;
  bool just_applied_ = false;
  MonotonicTime ssh_due_{};
  MonotonicTime processes_due_{};
  MarkedSockets marked_sockets_;
  MonotonicTime stood_{};  // when all was last read back as it should be
  v1::NetworkEvidence seen_;
  bool applied_ = false;
};

StatusOr<std::vector<v1::Undo>> Network::prepare() {
  StatusOr<Fd> scope = scope_of(wanted_);
  if (!scope.ok()) return scope.status();
  scope_ = *std::move(scope);
  const auto inside = enter(scope_);
  if (!inside.ok()) return inside.status();
  StatusOr<Aim> aim = aim_of(wanted_, start_.hosts(), start_.fault().seed());
  if (!aim.ok()) return aim.status();
  aim_ = *std::move(aim);
  // Until it is applied: what is found here now must still be so then.
  StatusOr<Fd> lock = warm().lock.is_open() && !scope_.is_open()
                          ? lock_namespace(std::move(warm().lock), kLockWithin)
                          : lock_namespace(kLockWithin);
  if (!lock.ok()) return lock.status();
  lock_ = *std::move(lock);
  // The locked file is the namespace's own.
  const StatusOr<std::uint64_t> netns = number_of(lock_);
  if (!netns.ok()) return netns.status();
  netns_ = *netns;
  if (warm().netlink && !scope_.is_open()) {
    netlink_ = std::exchange(warm().netlink, std::nullopt);
  } else {
    StatusOr<Netlink> netlink = Netlink::open();
    if (!netlink.ok()) return netlink.status();
    netlink_.emplace(*std::move(netlink));
  }
  const StatusOr<Resolved> resolved = resolve(*netlink_, start_.fault(), aim_.match);
  if (!resolved.ok()) return resolved.status();
  engine_ = resolved->engine;
  const StatusOr<std::vector<Place>> places =
      find_places(*netlink_, resolved->interfaces, wanted_.direction(), aim_, tag_);
  if (!places.ok()) return places.status();
  const StatusOr<std::vector<Qdisc>> qdiscs = netlink_->qdiscs();
  if (!qdiscs.ok()) return qdiscs.status();

  if (is_relay() && needs_device() && places->size() > kLetters.size()) {
    return error(StatusCode::kResourceExhausted,
                 "the relay carries at most " + std::to_string(kLetters.size()) +
                     " ways, this fault asks for " + std::to_string(places->size()));
  }
  std::set<std::uint32_t> made_clsact;
  for (const v1::RemoveClsact& ours : start_.our_clsact()) {
    // Another namespace's interfaces have the same numbers.
    if (ours.netns_inode() == netns_) made_clsact.insert(ours.ifindex());
  }
  for (const Place& place : *places) {
    const std::uint32_t index = place.interface.index;
    const bool has = std::any_of(qdiscs->begin(), qdiscs->end(), [&](const Qdisc& qdisc) {
      return qdisc.ifindex == index && qdisc.kind == "clsact";
    });
    // "ingress" takes the same place and has no egress half.
    for (const Qdisc& qdisc : *qdiscs) {
      if (qdisc.ifindex == index && qdisc.kind == "ingress") {
        return error(StatusCode::kFailedPrecondition,
                     "the interface " + place.interface.name +
                         " has an ingress qdisc of its owner, beside which no clsact can be");
      }
    }
    if (!has || (place.neighbours_bits & kMadeClsact) != 0) made_clsact.insert(index);
    Standpoint standpoint;
    standpoint.place = place;
    if (made_clsact.contains(index)) {
      standpoint.handle |= kMadeClsact;
      clsact_to_add_.insert(index);
    }
    if (needs_device()) {
      standpoint.device = is_relay() ? device_name(id(), kLetters.substr(standpoints_.size(), 1))
                                     : device_name(id());
    }
    standpoints_.push_back(std::move(standpoint));
  }
  if (is_relay() && needs_device()) {
    const Status prepared = prepare_loopback();
    if (!prepared.ok()) return prepared;
  }

  for (const Standpoint& standpoint : standpoints_) {
    v1::RemoveFilter& remove = *undos_.emplace_back().mutable_remove_filter();
    remove.set_netns_inode(netns_);
    remove.set_ifindex(standpoint.place.interface.index);
    remove.set_parent(standpoint.place.hook());
    remove.set_priority(standpoint.place.priority);
    remove.set_tag(tag_);
  }
  std::set<std::string> devices;
  for (const Standpoint& standpoint : standpoints_) {
    if (!standpoint.device.empty()) devices.insert(standpoint.device);
  }
  for (const std::string& device : devices) {
    v1::RemoveLink& remove = *undos_.emplace_back().mutable_remove_link();
    remove.set_netns_inode(netns_);
    remove.set_name(device);
    remove.set_tag(tag_);
    remove.set_drain(longest_stay(effect_).count());
  }
  for (const std::uint32_t index : clsact_to_add_) {
    v1::RemoveClsact& remove = *undos_.emplace_back().mutable_remove_clsact();
    remove.set_netns_inode(netns_);
    remove.set_ifindex(index);
  }
  for (const v1::SetSysctl& setting : settings_) {
    *undos_.emplace_back().mutable_set_sysctl() = setting;
  }

  sshd_ = std::move(warm().sshd);
  const bool is_warm =
      warm().classifier &&
      (!aim_.processes || warm().classifier->program_fd(Classifier::Program::kSocket) >= 0);
  if (is_warm) {
    classifier_ = std::move(warm().classifier);
  } else {
    std::set<Classifier::Program> programs;
    if (aim_.processes) programs.insert(Classifier::Program::kSocket);
    for (const Standpoint& standpoint : standpoints_) {
      programs.insert(standpoint.place.ingress ? Classifier::Program::kIngress
                                               : Classifier::Program::kEgress);
      if (standpoint.place.ingress && is_relay() && needs_device())
        programs.insert(Classifier::Program::kReenter);
    }
    StatusOr<std::unique_ptr<Classifier>> loaded = Classifier::load(programs);
    if (!loaded.ok()) return loaded.status();
    classifier_ = *std::move(loaded);
  }
  return undos_;
}

/// What the relay sends on lo comes in anew, without the route it had, and IPv4 then takes it for
/// forged unless told.
Status Network::prepare_loopback() {
  const std::pair<std::string_view, std::uint32_t> needs[] = {{"route_localnet", kSetRouteLocalnet},
                                                              {"accept_local", kSetAcceptLocal}};
  for (const auto& [name, bit] : needs) {
    bool wanted = false;
    for (Standpoint& standpoint : standpoints_) {
      if (!standpoint.place.interface.is_loopback()) continue;
      const std::string setting = ipv4_setting(standpoint.place.interface.name, name);
      const StatusOr<std::string> now = read_sysctl(setting);
      if (!now.ok()) return now.status();
      // Another fault's doing, even of one that is leaving, is put back by the last of us to leave;
      // the owner's stays.
      const bool ours =
          (standpoint.place.neighbours_bits & bit) != 0 ||
          std::any_of(start_.our_settings().begin(), start_.our_settings().end(),
                      [&](const v1::SetSysctl& other) {
                        return other.netns_inode() == netns_ && other.name() == setting;
                      });
      if (*now != "0" && !ours) continue;
      standpoint.handle |= bit;
      if (std::exchange(wanted, true)) continue;
      v1::SetSysctl& undo = settings_.emplace_back();
      undo.set_netns_inode(netns_);
      undo.set_name(setting);
      undo.set_ours("1");
      undo.set_before("0");
    }
  }
  return ok();
}

Status Network::make_ifb() {
  const std::string name = device_name(id());
  if (Status made = netlink_->add_ifb(name); !made.ok()) return made;
  const StatusOr<std::optional<Link>> link = netlink_->find_link(name);
  if (!link.ok()) return link.status();
  if (!link->has_value()) return error(StatusCode::kInternal, "the device " + name + " is gone");
  ifb_ = (*link)->index;
  LinkSettings settings;
  settings.alias = tag_;
  settings.queue_length = kIfbQueue;
  settings.mtu = 0;
  for (Standpoint& standpoint : standpoints_) {
    standpoint.device_index = ifb_;
    settings.mtu = std::max(*settings.mtu, standpoint.place.interface.mtu);
  }
  if (Status set = netlink_->set_link(ifb_, settings); !set.ok()) return in_context(name, set);
  if (Status set = netlink_->add_root_netem(ifb_, encode_netem(now_)); !set.ok()) {
    return in_context(name, set);
  }
  if (Status up = netlink_->set_up(ifb_); !up.ok()) return in_context(name, up);
  return read_back_netem();
}

Status Network::read_back_netem() {
  const std::string name = device_name(id());
  const StatusOr<std::optional<Qdisc>> root = netlink_->root_qdisc(ifb_);
  if (!root.ok()) return root.status();
  if (!root->has_value() || (*root)->kind != "netem") {
    return error(StatusCode::kInternal, "the netem of " + name + " is not there");
  }
  const StatusOr<Effect> read = decode_netem((*root)->options);
  if (!read.ok()) return read.status();
  if (!same_netem(*read, now_)) {
    return error(StatusCode::kInternal, "the netem of " + name + " does not read as it was set");
  }
  return ok();
}

Status Network::make_relay() {
  for (const v1::SetSysctl& setting : settings_) {
    if (Status set = write_sysctl(setting.name(), setting.ours()); !set.ok()) return set;
  }
  relay_ =
      std::make_unique<Relay>(effect_, scope_.is_open() ? RelayParts() : std::move(warm().relay));
  relay_->become(now_);
  for (Standpoint& standpoint : standpoints_) {
    const Place& place = standpoint.place;
    const StatusOr<std::uint32_t> tap =
        relay_->add_port(*netlink_, standpoint.device, tag_, place.interface, place.ingress,
                         relay_mark(id(), place.ingress));
    if (!tap.ok()) return tap.status();
    standpoint.device_index = *tap;
    if (!place.ingress) continue;
    // Our own device: its clsact goes with it.
    if (Status added = netlink_->add_clsact(*tap); !added.ok()) return added;
    NewFilter reenter;
    reenter.ifindex = *tap;
    reenter.parent = kClsactIngress;
    reenter.priority = 1;
    reenter.program_fd = classifier_->program_fd(Classifier::Program::kReenter);
    reenter.name = tag_;
    reenter.redirect_to = place.interface.index;
    reenter.to_ingress = true;
    if (Status added = netlink_->add_filter(reenter); !added.ok()) return added;
    classifier_->set_reenter(relay_mark(id(), true), place.interface.is_loopback());
  }
  const Status started = relay_->start(*classifier_);
  failpoint<"network.relay_started">();
  return started;
}

/// The sockets of the processes that are meant: those to come first, so that none is missed.
Status Network::mark_sockets() {
  const StatusOr<Fd> root = open_cgroup_root();
  if (!root.ok()) return root.status();
  if (Status marking = classifier_->mark_new_sockets(root->number(), tag_); !marking.ok()) {
    return marking;
  }
  failpoint<"network.sockets_watched">();
  processes_due_ = monotonic_now() + kProcessesEvery;
  return in_context("network.in",
                    hold::mark_sockets(wanted_.in().process(), *classifier_, marked_sockets_));
}

Status Network::add_filter(const Standpoint& standpoint) {
  const Place& place = standpoint.place;
  if (clsact_to_add_.contains(place.interface.index)) {
    const Status added = netlink_->add_clsact(place.interface.index);
    if (!added.ok() && added.code() != StatusCode::kAlreadyExists) {
      return in_context(place.interface.name, added);
    }
  }
  NewFilter filter;
  filter.ifindex = place.interface.index;
  filter.parent = place.hook();
  filter.priority = place.priority;
  filter.handle = standpoint.handle;
  filter.program_fd = classifier_->program_fd(place.ingress ? Classifier::Program::kIngress
                                                            : Classifier::Program::kEgress);
  filter.name = tag_;
  filter.redirect_to = standpoint.device_index;
  return in_context(place.name(), netlink_->add_filter(filter));
}

Status Network::make_ready() {
  const auto inside = enter(scope_);
  if (!inside.ok()) return inside.status();
  // Those of when the holder was made, if it was made ahead of time: what has changed since is seen
  // by squalld's first pulse, which it sends as soon as it hears that the fault is there.
  sshd_due_ = sshd_.is_read() && !scope_.is_open();
  std::vector<std::uint16_t> spared = sshd_due_ ? sshd_.known() : sshd_.read();
  spared.push_back(kSshPort);
  for (const std::uint32_t port : start_.spared_ports()) {
    spared.push_back(static_cast<std::uint16_t>(port));
  }
  aim_.ethernet = std::all_of(standpoints_.begin(), standpoints_.end(), [](const auto& standpoint) {
    return has_ethernet_header(standpoint.place.interface);
  });
  aim_.loses = !needs_device();
  const bool always = start_.fault().ramps_size() == 0 && loses_all(now_);
  if (aim_.loses && !always) aim_.losses = now_;
  return classifier_->set_aim(aim_, spared);
}

Status Network::apply(MonotonicTime deadline) {
  const auto inside = enter(scope_);
  if (!inside.ok()) return inside.status();
  const Fd lock = std::move(lock_);
  if (Status made = !needs_device() ? ok() : is_relay() ? make_relay() : make_ifb(); !made.ok()) {
    return made;
  }
  if (aim_.processes) {
    if (Status marked = mark_sockets(); !marked.ok()) return marked;
  }
  // The filters match nothing yet: at the end the effect starts everywhere at once.
  for (const Standpoint& standpoint : standpoints_) {
    if (Status added = add_filter(standpoint); !added.ok()) return added;
  }
  if (Status monitored = start_monitor(); !monitored.ok()) return monitored;
  if (Status read = read_back(); !read.ok()) return read;
  applied_ = true;
  just_applied_ = true;
  ssh_due_ = monotonic_now() + kSshFirst;
  set_deadline(deadline);
  failpoint<"network.effect_begun">();
  return ok();
}

/// Before what was made is read back, so that there is no moment in which it could go unnoticed.
Status Network::start_monitor() {
  StatusOr<Monitor> monitor = Monitor::open();
  if (!monitor.ok()) return monitor.status();
  monitor_.emplace(*std::move(monitor));
  for (const Standpoint& standpoint : standpoints_) {
    watched_interfaces_.push_back(standpoint.place.interface.index);
    if (needs_device()) watched_interfaces_.push_back(standpoint.device_index);
  }
  return ok();
}

Status Network::read_back() {
  if (aim_.processes && !classifier_->marks_new_sockets()) {
    return error(StatusCode::kFailedPrecondition,
                 "the program that marks the processes' new sockets is no longer attached");
  }
  for (const Standpoint& standpoint : standpoints_) {
    const Place& place = standpoint.place;
    const StatusOr<std::vector<Filter>> filters =
        netlink_->filters(place.interface.index, place.hook(), place.priority);
    if (!filters.ok()) return filters.status();
    const bool stands = std::any_of(filters->begin(), filters->end(), [&](const Filter& filter) {
      return filter.priority == place.priority && filter.name == tag_ &&
             (!needs_device() ||
              (filter.actions.size() == 1 && filter.actions[0].target == standpoint.device_index));
    });
    if (!stands) {
      return error(StatusCode::kFailedPrecondition,
                   "the filter on " + place.name() + " does not read as set");
    }
    if (!needs_device()) continue;
    const StatusOr<std::optional<Link>> device = netlink_->find_link(standpoint.device_index);
    if (!device.ok()) return device.status();
    if (!device->has_value() || (*device)->alias != tag_ || !(*device)->is_up()) {
      return error(StatusCode::kFailedPrecondition,
                   "the device of " + place.name() + " is gone, or not as it was made");
    }
  }
  stood_ = monotonic_now();
  return ok();
}

void Network::set_deadline(MonotonicTime deadline) {
  if (relay_) {
    relay_->pulse(deadline);
  } else {
    classifier_->set_deadline(deadline);
  }
}

Status Network::pulse(MonotonicTime deadline) {
  if (!applied_) return ok();
  const auto inside = enter(scope_);
  if (!inside.ok()) return inside.status();
  if (monotonic_now() - stood_ >= kReadBackEvery) {
    if (Status standing = still_stands(); !standing.ok()) return standing;
  }
  set_deadline(deadline);
  if (std::exchange(just_applied_, false)) return ok();  // who asked for the fault still waits
  if (aim_.processes && monotonic_now() >= processes_due_) {
    processes_due_ = monotonic_now() + kProcessesEvery;
    // None is there any more, or more than fit: the sockets that were marked are meant still.
    static_cast<void>(hold::mark_sockets(wanted_.in().process(), *classifier_, marked_sockets_));
  }
  // An sshd that was started in the meantime is spared as well, and a session on another port.
  const bool ssh_is_due = monotonic_now() >= ssh_due_;
  if (std::exchange(sshd_due_, false) || ssh_is_due) {
    for (const std::uint16_t port : sshd_.read()) classifier_->spare(port);
  }
  if (ssh_is_due) {
    ssh_due_ = monotonic_now() + kSshEvery;
    // More than fit: those that did are spared.
    static_cast<void>(classifier_->spare_connections(ssh_connections()));
  }
  return ok();
}

/// What cannot be read is not gone.
Status Network::still_stands() {
  Status standing = read_back();
  const bool is_gone = standing.code() == StatusCode::kFailedPrecondition ||
                       standing.code() == StatusCode::kNotFound;
  return is_gone ? standing : ok();
}

Status Network::look_again() {
  return monitor_->heard_of(watched_interfaces_) && applied_ ? still_stands() : ok();
}

Status Network::resolved(const Hosts& hosts) {
  aim_.match = with_addresses(wanted_.to(), hosts);
  aim_.except = with_addresses(wanted_.except(), hosts);
  return applied_ ? classifier_->set_addresses(aim_) : ok();
}

Status Network::become(const v1::Fault& now) {
  if (!applied_) return ok();
  now_ = effect_at(now);
  if (!needs_device()) {
    classifier_->set_losses(now_);
    return ok();
  }
  if (relay_) {
    relay_->become(now_);
    return ok();
  }
  // A seed would let netem draw the same numbers again at each step.
  now_.seed = 0;
  if (Status set = netlink_->change_root_netem(ifb_, encode_netem(now_)); !set.ok()) return set;
  return read_back_netem();
}

/// Counters only grow: where something can no longer be read, what was last seen of it stays.
void Network::read_counters() {
  if (!netlink_ || !classifier_) return;
  if (!needs_device()) {
    const StatusOr<Losses> losses = classifier_->losses();
    if (!losses.ok()) return;
    seen_.set_marked_packets(losses->marked);
    see({.packets = losses->packets, .bytes = losses->bytes, .dropped = losses->lost});
    return;
  }
  Counts counts;
  for (const Standpoint& standpoint : standpoints_) {
    const Place& place = standpoint.place;
    const StatusOr<std::vector<Filter>> filters =
        netlink_->filters(place.interface.index, place.hook(), place.priority);
    if (!filters.ok()) return;
    for (const Filter& filter : *filters) {
      if (filter.name != tag_ || filter.actions.empty()) continue;
      counts.packets += filter.actions[0].packets;
      counts.bytes += filter.actions[0].bytes;
      counts.refused += filter.actions[0].overlimits;
    }
    if (relay_) {
      const StatusOr<std::optional<Link>> tap = netlink_->find_link(standpoint.device_index);
      if (tap.ok() && tap->has_value()) counts.refused += (*tap)->tx_dropped;
    }
  }
  if (relay_) {
    const RelayCounts relayed = relay_->counts();
    // As with netem: what has no room where a size was asked for is lost as asked.
    const bool is_bounded = wanted_.has_limit() || wanted_.has_rate();
    counts.dropped = relayed.dropped + (is_bounded ? relayed.overflow : 0);
    counts.refused += relayed.refused + (is_bounded ? 0 : relayed.overflow);
    seen_.set_marked_packets(relayed.marked);
    seen_.set_duplicated_packets(relayed.duplicated);
    seen_.set_corrupted_packets(relayed.corrupted);
    seen_.set_reordered_packets(relayed.reordered);
  } else if (ifb_ != 0) {
    const StatusOr<std::optional<Qdisc>> netem = netlink_->root_qdisc(ifb_);
    if (netem.ok() && netem->has_value()) {
      const std::uint64_t drops = (*netem)->drops;
      // With ecn, netem counts what it marks as well.
      if (wanted_.has_limit() || wanted_.has_rate()) {
        // What a line of that rate, or a queue of that size, has no room for is lost as asked.
        counts.dropped = drops;
        counts.refused -= std::min(counts.refused, drops);
      } else {
        // netem counts both kinds of loss as one; to its caller it admits only those of a full
        // queue.
        counts.dropped = drops - std::min(drops, counts.refused);
      }
    }
  }
  see(counts);
}

void Network::see(const Counts& counts) {
  seen_.set_matched_packets(std::max(seen_.matched_packets(), counts.packets));
  seen_.set_matched_bytes(std::max(seen_.matched_bytes(), counts.bytes));
  seen_.set_dropped_packets(std::max(seen_.dropped_packets(), counts.dropped));
  seen_.set_overflow_packets(std::max(seen_.overflow_packets(), counts.refused));
}

v1::Evidence Network::evidence() {
  // Read by the socket, which is of the right namespace for good.
  if (applied_) read_counters();
  v1::Evidence evidence;
  evidence.set_effect(seen_.matched_packets() > 0);
  v1::NetworkEvidence& network = *evidence.mutable_network();
  network = seen_;
  network.set_engine(engine_.engine);
  std::set<std::string> names;
  for (const Standpoint& standpoint : standpoints_) names.insert(standpoint.place.interface.name);
  for (const std::string& name : names) network.add_interfaces(name);
  return evidence;
}

Status Network::end_effect() {
  if (relay_) relay_->end_effect();
  // One store, as at a lapsed deadline. The filters, which now let every packet pass, are removed
  // with all the rest: nobody waits for that who waits for the effect to end.
  if (classifier_) classifier_->end();
  failpoint<"network.effect_ended">();
  applied_ = false;
  return ok();
}

std::vector<std::string> Network::clean_up() {
  lock_.reset();  // of a fault that never came to be applied
  std::vector<std::string> residue;
  if (relay_) {
    await_packets_in_flight();
    if (!relay_->drain(longest_stay(effect_))) {
      residue.push_back("packets were still queued in the relay when its time was up");
    }
    relay_.reset();
    failpoint<"network.relay_gone">();
  }
  for (const v1::Undo& undo : undos_) {
    const Status undone = run_undo(undo);
    if (!undone.ok()) residue.push_back(message_of(undone));
  }
  return residue;
}

std::unique_ptr<Fault> make_network(const v1::Start& start) {
  return std::make_unique<Network>(start);
}

/// Told before anything is injected. Source: capabilities(7), bpf(2).
Status may_change_the_network() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return from_errno("capget", errno);
  const auto has = [&](unsigned capability) {
    return (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability)) != 0;
  };
  if (has(CAP_NET_ADMIN) && (has(CAP_BPF) || has(CAP_SYS_ADMIN))) return ok();
  return error(
      StatusCode::kPermissionDenied,
      "squalld may not change the network here: it needs CAP_NET_ADMIN and CAP_BPF, or root");
}

/// Of two filters that match a packet only the first acts on it: faults that live at the same time
/// must not mean the same packets.
Status meets_none(Netlink& netlink, const v1::Look& asked, const v1::Network& wanted,
                  const Aim& aim, const std::vector<Link>& interfaces) {
  for (const v1::Fault& fault : asked.beside()) {
    if (!fault.has_network()) continue;
    const v1::Network other = in_one(fault.network());
    if (other.in().netns() != wanted.in().netns()) continue;
    const bool one_way = wanted.direction() != v1::BOTH && other.direction() != v1::BOTH;
    if (one_way && other.direction() != wanted.direction()) continue;
    // What is wrong with the other by itself is told when it is looked at.
    const StatusOr<Aim> other_aim = aim_of(other, asked.hosts(), fault.seed());
    if (!other_aim.ok() || !may_overlap(aim, *other_aim)) continue;
    const StatusOr<Resolved> resolved = resolve(netlink, fault, other_aim->match);
    if (!resolved.ok()) continue;
    for (const Link& interface : interfaces) {
      const auto same = [&](const Link& link) { return link.index == interface.index; };
      if (std::none_of(resolved->interfaces.begin(), resolved->interfaces.end(), same)) continue;
      return error(StatusCode::kFailedPrecondition,
                   "another network fault of the same time may match the same packets on " +
                       interface.name +
                       ", and only one of them would act; write them as one fault, or give them "
                       "different addresses, ports or protocols");
    }
  }
  return ok();
}

v1::Looked look(const v1::Look& asked) {
  v1::Looked looked;
  const v1::Network wanted = in_one(asked.fault().network());
  if (Status may = may_change_the_network(); !may.ok()) return refused(may);
  const StatusOr<Fd> scope = scope_of(wanted);
  if (!scope.ok()) return refused(scope.status());
  const auto inside = enter(*scope);
  if (!inside.ok()) return refused(inside.status());
  const StatusOr<Aim> aim = aim_of(wanted, asked.hosts(), asked.fault().seed());
  if (!aim.ok()) return refused(aim.status());
  StatusOr<Netlink> netlink = Netlink::open();
  if (!netlink.ok()) return refused(netlink.status());
  const StatusOr<Resolved> resolved = resolve(*netlink, asked.fault(), aim->match);
  if (!resolved.ok()) return refused(resolved.status());
  if (const Status alone = meets_none(*netlink, asked, wanted, *aim, resolved->interfaces);
      !alone.ok()) {
    return refused(alone);
  }
  if (aim->processes) {
    const StatusOr<Selection> selection =
        select_processes(wanted.in().process(), v1::ProcessPick(), 0);
    if (!selection.ok()) return refused(in_context("network.in", selection.status()));
    tell(*selection, looked);
  }
  looked.set_engine(resolved->engine.engine);
  looked.set_engine_reason(resolved->engine.reason);
  for (const Link& interface : resolved->interfaces) looked.add_interfaces(interface.name);
  // The relay goes by netem's rules, but takes every seed.
  const bool is_netem = resolved->engine.engine == v1::NETEM;
  for (const std::string& note :
       netem_notes(effect_of(wanted, is_netem ? asked.fault().seed() : 0)))
    looked.add_notes(note);
  const StatusOr<std::vector<Place>> places =
      find_places(*netlink, resolved->interfaces, wanted.direction(), *aim, "");
  if (!places.ok()) return refused(places.status());
  for (const Place& place : *places) {
    if (place.owners_filters == 0) continue;
    looked.add_notes(
        place.name() + " has " + std::to_string(place.owners_filters) +
        " filters of its owner, which the packets that match do not pass while the fault lives");
  }
  return looked;
}

void warm_up() {
  using Program = Classifier::Program;
  StatusOr<std::unique_ptr<Classifier>> loaded =
      Classifier::load({Program::kEgress, Program::kIngress, Program::kReenter, Program::kSocket});
  // A kernel without programs on control groups.
  if (!loaded.ok()) loaded = Classifier::load();
  if (loaded.ok()) {
    warm().classifier = *std::move(loaded);
    // The first time, libbpf counts the processors.
    static_cast<void>(warm().classifier->losses());
  }
  StatusOr<Netlink> netlink = Netlink::open();
  if (netlink.ok()) warm().netlink.emplace(*std::move(netlink));
  StatusOr<Fd> lock = open_lock();
  if (lock.ok()) warm().lock = *std::move(lock);
  warm().sshd.read();
  const StatusOr<EngineChoice> engine = choose_engine(v1::Network());
  if (engine.ok() && engine->engine == v1::RELAY) warm().relay = RelayParts::make();
}

std::string words_of_filter(const v1::Undo& undo) {
  return "filter " + undo.remove_filter().tag() + " on interface " +
         std::to_string(undo.remove_filter().ifindex());
}

std::string words_of_link(const v1::Undo& undo) { return "link " + undo.remove_link().name(); }

std::string words_of_clsact(const v1::Undo& undo) {
  return "clsact on interface " + std::to_string(undo.remove_clsact().ifindex());
}

std::string words_of_sysctl(const v1::Undo& undo) { return "sysctl " + undo.set_sysctl().name(); }

}  // namespace

extern const UndoKind kRemoveFilter;
const UndoKind kRemoveFilter{.what = v1::Undo::kRemoveFilter,
                             .run = network::run_undo,
                             .in_words = words_of_filter,
                             .find_tagged = network::find_tagged};

extern const UndoKind kRemoveLink;
const UndoKind kRemoveLink{
    .what = v1::Undo::kRemoveLink, .run = network::run_undo, .in_words = words_of_link};

extern const UndoKind kRemoveClsact;
const UndoKind kRemoveClsact{
    .what = v1::Undo::kRemoveClsact, .run = network::run_undo, .in_words = words_of_clsact};

extern const UndoKind kSetSysctl;
const UndoKind kSetSysctl{
    .what = v1::Undo::kSetSysctl, .run = network::run_undo, .in_words = words_of_sysctl};

extern const FaultKind kNetwork;
const FaultKind kNetwork{.kind = v1::Fault::kNetwork,
                         .name = "network",
                         .make = make_network,
                         .look = look,
                         .warm_up = warm_up};

}  // namespace squall::hold
