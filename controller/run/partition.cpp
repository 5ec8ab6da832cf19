#include "controller/run/partition.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "experiments/plan/forms.h"

namespace squall::run {
namespace {

/// What stands before the port; none for a unix socket and for the node that squall runs on.
std::optional<std::string> host_of(const std::string& address) {
  if (address.empty() || address.starts_with("unix:")) return std::nullopt;
  std::string host = address.substr(0, address.rfind(':'));
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  return host;
}

/// Adds a node's addresses to a match. False: nobody knows one.
bool add_addresses(const v1::Node& node, v1::Match& match) {
  match.mutable_cidrs()->MergeFrom(node.addresses());
  if (node.addresses_size() > 0) return true;
  const std::optional<std::string> host = host_of(node.address());
  if (!host) return false;
  v1::Cidr cidr;
  if (plan::read_cidr(*host, cidr)) {
    match.add_hosts(*host);
  } else {
    *match.add_cidrs() = cidr;
  }
  return true;
}

std::vector<std::size_t> shuffled(std::size_t count, Random& random) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t n = 0; n + 1 < count; ++n) {
    std::swap(order[n], order[n + random.below(count - n)]);
  }
  return order;
}

/// Each of the first from each of the others, and back.
void cut(std::vector<std::size_t>::const_iterator first,
         std::vector<std::size_t>::const_iterator middle,
         std::vector<std::size_t>::const_iterator last, Cuts& cuts) {
  for (auto one = first; one != middle; ++one) {
    for (auto other = middle; other != last; ++other) {
      cuts[*one].push_back(*other);
      cuts[*other].push_back(*one);
    }
  }
}

}  // namespace

Cuts cuts_of(v1::Shape shape, std::size_t count, Random& random) {
  Cuts cuts(count);
  const std::vector<std::size_t> order = shuffled(count, random);
  switch (shape) {
    case v1::HALVES:
      cut(order.begin(), order.begin() + static_cast<std::ptrdiff_t>((count + 1) / 2), order.end(),
          cuts);
      break;
    case v1::BRIDGE: {
      // The first sees both halves of the rest.
      const auto half = static_cast<std::ptrdiff_t>(count / 2);
      cut(order.begin() + 1, order.begin() + 1 + half, order.end(), cuts);
      break;
    }
    case v1::ISOLATE:
      cut(order.begin(), order.begin() + 1, order.end(), cuts);
      break;
    case v1::RING: {
      // A majority with itself in the middle: so many neighbours to either side.
      const std::size_t reach = (count / 2 + 1) / 2;
      for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t j = 0; j < count; ++j) {
          const std::size_t apart = i > j ? i - j : j - i;
          if (std::min(apart, count - apart) > reach) cuts[order[i]].push_back(order[j]);
        }
      }
      break;
    }
    default:
      break;
  }
  for (std::vector<std::size_t>& lost : cuts) std::sort(lost.begin(), lost.end());
  return cuts;
}

StatusOr<std::vector<Target>> part(const v1::Plan& plan, const std::vector<std::string>& names,
                                   const v1::Partition& partition,
                                   const std::vector<std::vector<std::size_t>>& groups,
                                   Random& random) {
  std::vector<Target> targets;
  const auto lose = [&](std::size_t node, const std::vector<std::size_t>& others,
                        v1::Direction direction) -> Status {
    Target& target = targets.emplace_back();
    target.node = node;
    v1::Network& network = *target.fault.mutable_network();
    network.set_loss(100);
    network.set_direction(direction);
    for (const std::size_t other : others) {
      if (add_addresses(plan.nodes().at(names[other]), *network.mutable_to())) continue;
      return error(
          StatusCode::kInvalidArgument,
          fmt::format("no other node knows an address of {}: give it `addresses`", names[other]));
    }
    return ok();
  };
  if (partition.between_size() == 0) {
    const std::vector<std::size_t>& nodes = groups.front();
    const Cuts cuts = cuts_of(partition.shape(), nodes.size(), random);
    for (std::size_t n = 0; n < nodes.size(); ++n) {
      if (cuts[n].empty()) continue;  // the bridge
      std::vector<std::size_t> others;
      for (const std::size_t other : cuts[n]) others.push_back(nodes[other]);
      if (Status lost = lose(nodes[n], others, v1::BOTH); !lost.ok()) return lost;
    }
    return targets;
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    std::vector<std::size_t> others;
    for (std::size_t h = 0; h < groups.size(); ++h) {
      // One way, what the first group sends is all that matters, wherever it is lost.
      const bool parted = h != g && (!partition.one_way() || g == 0 || h == 0);
      if (parted) others.insert(others.end(), groups[h].begin(), groups[h].end());
    }
    const v1::Direction direction = !partition.one_way() ? v1::BOTH
                                    : g == 0             ? v1::EGRESS
                                                         : v1::INGRESS;
    for (const std::size_t node : groups[g]) {
      if (Status lost = lose(node, others, direction); !lost.ok()) return lost;
    }
  }
  return targets;
}

}  // namespace squall::run
