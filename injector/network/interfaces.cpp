#include "injector/network/interfaces.h"

#include <algorithm>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string_view>

#include "injector/network/objects.h"

namespace squall::network {
namespace {

constexpr std::uint32_t kHighestPriority = 0x7fff;

bool is_ours(const Link& link) { return is_tag(link.alias, ""); }

StatusOr<std::vector<Link>> by_name(Netlink& netlink, const std::string& name) {
  const StatusOr<std::optional<Link>> found = netlink.find_link(name);
  if (!found.ok()) return found.status();
  if (!found->has_value()) return error(StatusCode::kNotFound, "no interface " + name);
  if (is_ours(**found)) {
    return error(StatusCode::kFailedPrecondition,
                 "the interface " + name + " is a device of another fault");
  }
  if (!(*found)->is_up()) {
    return error(StatusCode::kFailedPrecondition, "the interface " + name + " is down");
  }
  return std::vector<Link>{**found};
}

StatusOr<std::vector<Link>> by_routes(Netlink& netlink, const v1::Match& match) {
  std::vector<Link> interfaces;
  std::set<std::uint32_t> seen;
  for (const v1::Cidr& cidr : match.cidrs()) {
    const auto address = std::as_bytes(std::span(cidr.address()));
    const StatusOr<std::uint32_t> index = netlink.route_to(address);
    if (!index.ok()) return index.status();
    if (!seen.insert(*index).second) continue;
    const StatusOr<std::optional<Link>> found = netlink.find_link(*index);
    if (!found.ok()) return found.status();
    if (!found->has_value()) return error(StatusCode::kUnavailable, "the interface went away");
    if ((*found)->is_loopback()) {
      return error(StatusCode::kFailedPrecondition,
                   "the cidrs lead to lo, which must be named: interface: lo");
    }
    interfaces.push_back(**found);
  }
  return interfaces;
}

StatusOr<std::vector<Link>> all_that_are_up(Netlink& netlink) {
  StatusOr<std::vector<Link>> links = netlink.links();
  if (!links.ok()) return links.status();
  std::erase_if(*links, [](const Link& link) {
    return !link.is_up() || link.is_loopback() || is_ours(link);
  });
  if (links->empty()) {
    return error(StatusCode::kNotFound,
                 "no interface but lo is up; lo must be named: interface: lo");
  }
  return links;
}

StatusOr<Place> find_place(Netlink& netlink, const Link& interface, bool ingress, const Aim& aim,
                           const std::string& tag) {
  Place place;
  place.interface = interface;
  place.ingress = ingress;
  const StatusOr<std::vector<Filter>> filters = netlink.filters(interface.index, place.hook());
  if (!filters.ok()) return filters.status();

  std::set<std::uint32_t> used;
  std::uint32_t first_of_owner = kHighestPriority + 1;
  for (const Filter& filter : *filters) {
    used.insert(filter.priority);
    if (filter.kind != "bpf" || !is_tag(filter.name, "")) {
      ++place.owners_filters;
      first_of_owner = std::min(first_of_owner, filter.priority);
      continue;
    }
    if (filter.name == tag) continue;
    const StatusOr<Standing> other = read_standing(filter.program);
    if (!other.ok()) {
      if (other.status().code() == StatusCode::kNotFound) continue;
      return other.status();
    }
    place.neighbours_bits |= filter.handle;
    // Past its deadline it matches nothing any more; its daemon will sweep it.
    if (other->deadline != MonotonicTime{} && other->deadline <= monotonic_now()) continue;
    if (may_overlap(aim, other->aim)) {
      return error(StatusCode::kFailedPrecondition,
                   "the fault " + std::string(fault_of(filter.name)) + " already acts on " +
                       place.name() + " and may match the same packets");
    }
  }
  // Before the owner's, which may end the walk. Each fault starts its search elsewhere, so that two
  // at once seldom meet.
  const std::uint32_t end = first_of_owner > 1 ? first_of_owner : kHighestPriority + 1;
  const std::uint32_t start = static_cast<std::uint32_t>(std::hash<std::string>()(tag) % (end - 1));
  for (std::uint32_t step = 0; step < end - 1; ++step) {
    const std::uint32_t candidate = 1 + (start + step) % (end - 1);
    if (used.contains(candidate)) continue;
    place.priority = candidate;
    return place;
  }
  return error(StatusCode::kResourceExhausted, "no priority is free on " + place.name());
}

}  // namespace

StatusOr<std::vector<Link>> choose_interfaces(Netlink& netlink, const std::string& name,
                                              const v1::Match& match) {
  if (!name.empty() && name != "all") return by_name(netlink, name);
  if (name.empty() && !match.cidrs().empty()) return by_routes(netlink, match);
  return all_that_are_up(netlink);
}

StatusOr<std::vector<Place>> find_places(Netlink& netlink, const std::vector<Link>& interfaces,
                                         v1::Direction direction, const Aim& aim,
                                         const std::string& tag) {
  std::vector<Place> places;
  for (const Link& interface : interfaces) {
    for (const bool ingress : {false, true}) {
      if (direction == (ingress ? v1::EGRESS : v1::INGRESS)) continue;
      StatusOr<Place> place = find_place(netlink, interface, ingress, aim, tag);
      if (!place.ok()) return place.status();
      places.push_back(*std::move(place));
    }
  }
  return places;
}

}  // namespace squall::network
