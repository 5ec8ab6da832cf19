/// \file
/// Which interfaces a network fault acts on, and what already stands there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "injector/network/classifier.h"
#include "injector/network/netlink.h"
#include "squall/v1/faults.pb.h"

namespace squall::network {

/// The interface that was named; else those that lead to the match's addresses, by the route to
/// each one's first; else, and for the name `all`, every one that is up, but lo and our own.
/// Errors: kNotFound for an unknown interface, or none; kFailedPrecondition for lo, which must be
/// named.
StatusOr<std::vector<Link>> choose_interfaces(Netlink& netlink, const std::string& name,
                                              const v1::Match& match);

/// One way of one interface, where a filter of ours is to stand.
struct Place {
  Link interface;
  bool ingress = false;
  std::uint32_t priority = 0;
  std::uint32_t neighbours_bits =
      0;  ///< What the handles of our other filters here say they changed.
  std::size_t owners_filters = 0;

  std::uint32_t hook() const { return ingress ? kClsactIngress : kClsactEgress; }
  std::string name() const { return interface.name + (ingress ? " ingress" : " egress"); }
};

/// The places of a fault, each with a free priority before all filters that are not ours.
/// Errors: kFailedPrecondition where another fault's match overlaps this one's: of two that match a
/// packet only the first would act. Its own filter (by its tag) does not count.
StatusOr<std::vector<Place>> find_places(Netlink& netlink, const std::vector<Link>& interfaces,
                                         v1::Direction direction, const Aim& aim,
                                         const std::string& tag);

}  // namespace squall::network
