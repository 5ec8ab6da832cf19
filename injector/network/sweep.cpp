#include "injector/network/sweep.h"

#include <linux/membarrier.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include "experiments/base/clock.h"
#include "experiments/base/ids.h"
#include "injector/network/lock.h"
#include "injector/network/netem.h"
#include "injector/network/netlink.h"
#include "injector/network/netns.h"
#include "injector/network/objects.h"
#include "injector/network/sysctl.h"

namespace squall::network {
namespace {

constexpr std::uint32_t kHooks[] = {kClsactEgress, kClsactIngress};
constexpr Duration kDrainStep = std::chrono::milliseconds(1);
constexpr Duration kLockWithin = std::chrono::seconds(3);
/// Where the queue's own settings cannot be read.
constexpr Duration kUnknownDrain = std::chrono::seconds(2);

Status still_there(const std::string& what) {
  return error(StatusCode::kDataLoss, what + " is still there after its removal");
}

void pause_for(Duration time) {
  const timespec limit{.tv_sec = 0, .tv_nsec = time.count()};
  ppoll(nullptr, 0, &limit, nullptr);
}

StatusOr<std::optional<Filter>> find_filter(Netlink& netlink, const v1::RemoveFilter& wanted) {
  StatusOr<std::vector<Filter>> filters =
      netlink.filters(wanted.ifindex(), wanted.parent(), wanted.priority());
  if (!filters.ok()) return filters.status();
  for (Filter& filter : *filters) {
    if (filter.priority == wanted.priority() && filter.kind == "bpf" && !wanted.tag().empty() &&
        filter.name == wanted.tag()) {
      return std::optional<Filter>(std::move(filter));
    }
  }
  return std::optional<Filter>();
}

Status remove_filter(Netlink& netlink, const v1::RemoveFilter& wanted) {
  const StatusOr<std::optional<Filter>> found = find_filter(netlink, wanted);
  if (!found.ok()) return found.status();
  if (!found->has_value()) return ok();
  const Status removed = netlink.delete_filter(**found);
  // Only what is read afterwards counts: somebody else may have been quicker.
  const StatusOr<std::optional<Filter>> left = find_filter(netlink, wanted);
  if (!left.ok()) return left.status();
  if (!left->has_value()) return ok();
  return removed.ok() ? still_there("the filter " + wanted.tag()) : removed;
}

bool is_ours(const Link& link, const v1::RemoveLink& wanted) {
  if (wanted.tag().empty()) return false;  // of anybody's device
  if (link.alias == wanted.tag()) return true;
  // Between its making and its naming a device bears the fault's id in its name alone.
  return link.alias.empty() && !link.is_up() && (link.kind == "ifb" || link.kind == "tun") &&
         link.name.starts_with(device_name(fault_of(wanted.tag())));
}

StatusOr<std::optional<Link>> find_our_link(Netlink& netlink, const v1::RemoveLink& wanted) {
  StatusOr<std::optional<Link>> found = netlink.find_link(wanted.name());
  if (!found.ok() || !found->has_value()) return found;
  return is_ours(**found, wanted) ? found : std::optional<Link>();
}

/// Until its queue is empty, and what left it is through the device as well: an IFB counts as
/// received what comes out of its queue, and as sent what it has handed back, which on a busy
/// machine is later.
Status drain(Netlink& netlink, const Link& ifb, Duration bound) {
  await_packets_in_flight();
  const MonotonicTime end = monotonic_now() + bound;
  int empty_reads = 0;
  while (empty_reads < 2 && monotonic_now() < end) {
    const StatusOr<std::optional<Qdisc>> root = netlink.root_qdisc(ifb.index);
    if (!root.ok()) return root.status();
    const StatusOr<std::optional<Link>> counts = netlink.find_link(ifb.index);
    if (!counts.ok()) return counts.status();
    if (!root->has_value() || !counts->has_value()) return ok();
    const bool empty = (*root)->queued == 0 && (*counts)->rx_packets == (*counts)->tx_packets;
    empty_reads = empty ? empty_reads + 1 : 0;
    if (empty_reads < 2) pause_for(kDrainStep);
  }
  return ok();
}

Status remove_link(Netlink& netlink, const v1::RemoveLink& wanted) {
  const StatusOr<std::optional<Link>> found = find_our_link(netlink, wanted);
  if (!found.ok()) return found.status();
  if (!found->has_value()) return ok();
  // A TAP's queue was its process; there is nothing left to wait for.
  if ((*found)->kind == "ifb") {
    const Status drained = drain(netlink, **found, Duration(wanted.drain()));
    if (!drained.ok()) return drained;
  }
  const Status removed = netlink.delete_link((*found)->index);
  const StatusOr<std::optional<Link>> left = find_our_link(netlink, wanted);
  if (!left.ok()) return left.status();
  if (!left->has_value()) return ok();
  return removed.ok() ? still_there("the device " + wanted.name()) : removed;
}

Status remove_clsact(Netlink& netlink, const v1::RemoveClsact& wanted) {
  const StatusOr<bool> there = netlink.has_clsact(wanted.ifindex());
  if (!there.ok()) return there.status();
  if (!*there) return ok();
  for (const std::uint32_t hook : kHooks) {
    const StatusOr<std::vector<Filter>> filters = netlink.filters(wanted.ifindex(), hook);
    if (!filters.ok()) return filters.status();
    // Somebody else's now: another fault's, which will remove it, or the owner's, who may keep it.
    if (!filters->empty()) return ok();
  }
  const Status removed = netlink.delete_clsact(wanted.ifindex());
  const StatusOr<bool> left = netlink.has_clsact(wanted.ifindex());
  if (!left.ok()) return left.status();
  if (!*left) return ok();
  return removed.ok() ? still_there("the clsact of interface " + std::to_string(wanted.ifindex()))
                      : removed;
}

/// Whether a filter of ours that still stands on the setting's interface needs it as it is.
StatusOr<bool> is_needed(Netlink& netlink, const std::string& setting) {
  const std::pair<std::string_view, std::uint32_t> needs[] = {{"route_localnet", kSetRouteLocalnet},
                                                              {"accept_local", kSetAcceptLocal}};
  for (const auto& [name, bit] : needs) {
    if (setting != ipv4_setting("lo", name)) continue;
    const StatusOr<std::optional<Link>> loopback = netlink.find_link("lo");
    if (!loopback.ok()) return loopback.status();
    if (!loopback->has_value()) return false;
    for (const std::uint32_t hook : kHooks) {
      const StatusOr<std::vector<Filter>> filters = netlink.filters((*loopback)->index, hook);
      if (!filters.ok()) return filters.status();
      const auto needing = [bit = bit](const Filter& filter) {
        return is_tag(filter.name, "") && (filter.handle & bit) != 0;
      };
      if (std::any_of(filters->begin(), filters->end(), needing)) return true;
    }
  }
  return false;
}

Status set_sysctl(Netlink& netlink, const v1::SetSysctl& wanted) {
  const StatusOr<std::string> now = read_sysctl(wanted.name());
  if (!now.ok()) return now.status().code() == StatusCode::kNotFound ? ok() : now.status();
  if (*now != wanted.ours()) return ok();
  const StatusOr<bool> needed = is_needed(netlink, wanted.name());
  if (!needed.ok()) return needed.status();
  if (*needed) return ok();
  const Status written = write_sysctl(wanted.name(), wanted.before());
  if (!written.ok()) return written;
  const StatusOr<std::string> left = read_sysctl(wanted.name());
  if (!left.ok()) return left.status();
  if (*left == wanted.before()) return ok();
  return error(StatusCode::kDataLoss,
               wanted.name() + " reads " + *left + " after " + wanted.before() + " was written");
}

std::uint64_t netns_of(const v1::Undo& undo) {
  switch (undo.what_case()) {
    case v1::Undo::kRemoveFilter:
      return undo.remove_filter().netns_inode();
    case v1::Undo::kRemoveLink:
      return undo.remove_link().netns_inode();
    case v1::Undo::kRemoveClsact:
      return undo.remove_clsact().netns_inode();
    case v1::Undo::kSetSysctl:
      return undo.set_sysctl().netns_inode();
    default:  // not the network's
      break;
  }
  return 0;
}

/// In the namespace that it names.
Status run_here(const v1::Undo& undo) {
  StatusOr<Netlink> netlink = Netlink::open();
  if (!netlink.ok()) return netlink.status();
  switch (undo.what_case()) {
    case v1::Undo::kRemoveFilter:
      return remove_filter(*netlink, undo.remove_filter());
    case v1::Undo::kRemoveLink:
      return remove_link(*netlink, undo.remove_link());
    case v1::Undo::kRemoveClsact: {
      // Not had in time: that the way back is taken weighs more than who might be in the way.
      const StatusOr<Fd> lock = lock_namespace(kLockWithin);
      return remove_clsact(*netlink, undo.remove_clsact());
    }
    case v1::Undo::kSetSysctl: {
      const StatusOr<Fd> lock = lock_namespace(kLockWithin);
      return set_sysctl(*netlink, undo.set_sysctl());
    }
    default:  // not the network's
      break;
  }
  return error(StatusCode::kUnimplemented, "an undo of another version");
}

/// How long a packet may stay in a netem of ours.
Duration drain_of(const std::vector<Qdisc>& qdiscs, std::uint32_t ifindex) {
  for (const Qdisc& qdisc : qdiscs) {
    if (qdisc.ifindex != ifindex || qdisc.kind != "netem") continue;
    const StatusOr<Effect> effect = decode_netem(qdisc.options);
    if (effect.ok()) return longest_stay(*effect);
  }
  return kUnknownDrain;
}

}  // namespace

void await_packets_in_flight() { ::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0); }

Status run_undo(const v1::Undo& undo) {
  const StatusOr<std::uint64_t> here = current_netns();
  if (!here.ok()) return here.status();
  if (undo.what_case() == v1::Undo::WHAT_NOT_SET || netns_of(undo) == *here) return run_here(undo);
  const StatusOr<Fd> netns = find_netns(netns_of(undo));
  // With the namespace everything in it is gone.
  if (netns.status().code() == StatusCode::kNotFound) return ok();
  if (!netns.ok()) return netns.status();
  const StatusOr<InNetns> inside = InNetns::enter(*netns);
  return inside.ok() ? run_here(undo) : inside.status();
}

namespace {

StatusOr<std::vector<v1::Undo>> find_tagged_here(const std::string& state_id) {
  const StatusOr<std::uint64_t> netns = current_netns();
  if (!netns.ok()) return netns.status();
  StatusOr<Netlink> netlink = Netlink::open();
  if (!netlink.ok()) return netlink.status();
  const StatusOr<std::vector<Link>> links = netlink->links();
  if (!links.ok()) return links.status();
  const StatusOr<std::vector<Qdisc>> qdiscs = netlink->qdiscs();
  if (!qdiscs.ok()) return qdiscs.status();

  std::vector<v1::Undo> undos;
  std::vector<v1::Undo> devices;
  std::set<std::uint32_t> our_devices;
  for (const Link& link : *links) {
    if (!is_tag(link.alias, state_id)) continue;
    our_devices.insert(link.index);
    v1::RemoveLink& device = *devices.emplace_back().mutable_remove_link();
    device.set_netns_inode(*netns);
    device.set_name(link.name);
    device.set_tag(link.alias);
    device.set_drain(drain_of(*qdiscs, link.index).count());
  }
  std::set<std::uint32_t> our_clsact;
  std::uint32_t loopback_settings = 0;
  for (const Qdisc& qdisc : *qdiscs) {
    if (qdisc.kind != "clsact" || our_devices.contains(qdisc.ifindex)) continue;
    for (const std::uint32_t hook : kHooks) {
      const StatusOr<std::vector<Filter>> filters = netlink->filters(qdisc.ifindex, hook);
      if (!filters.ok()) return filters.status();
      for (const Filter& filter : *filters) {
        if (filter.kind != "bpf" || !is_tag(filter.name, state_id)) continue;
        v1::RemoveFilter& remove = *undos.emplace_back().mutable_remove_filter();
        remove.set_netns_inode(*netns);
        remove.set_ifindex(filter.ifindex);
        remove.set_parent(filter.parent);
        remove.set_priority(filter.priority);
        remove.set_tag(filter.name);
        if ((filter.handle & kMadeClsact) != 0) our_clsact.insert(filter.ifindex);
        loopback_settings |= filter.handle & (kSetRouteLocalnet | kSetAcceptLocal);
      }
    }
  }
  std::move(devices.begin(), devices.end(), std::back_inserter(undos));
  for (const std::uint32_t ifindex : our_clsact) {
    v1::RemoveClsact& remove = *undos.emplace_back().mutable_remove_clsact();
    remove.set_netns_inode(*netns);
    remove.set_ifindex(ifindex);
  }
  const auto put_back = [&](std::uint32_t bit, std::string_view name) {
    if ((loopback_settings & bit) == 0) return;
    v1::SetSysctl& setting = *undos.emplace_back().mutable_set_sysctl();
    setting.set_netns_inode(*netns);
    setting.set_name(ipv4_setting("lo", name));
    setting.set_ours("1");
    setting.set_before("0");
  };
  put_back(kSetRouteLocalnet, "route_localnet");
  put_back(kSetAcceptLocal, "accept_local");
  return undos;
}

}  // namespace

StatusOr<std::vector<v1::Undo>> find_tagged(const std::string& state_id) {
  StatusOr<std::vector<v1::Undo>> undos = find_tagged_here(state_id);
  if (!undos.ok() || state_id.empty()) return undos;
  for (const std::uint64_t other : other_netns()) {
    // Gone since it was listed, or not ours to enter: then nothing of ours was made in it.
    const StatusOr<Fd> netns = find_netns(other);
    if (!netns.ok()) continue;
    const StatusOr<InNetns> inside = InNetns::enter(*netns);
    if (!inside.ok()) continue;
    StatusOr<std::vector<v1::Undo>> found = find_tagged_here(state_id);
    if (!found.ok()) return found;
    std::move(found->begin(), found->end(), std::back_inserter(*undos));
  }
  return undos;
}

}  // namespace squall::network
