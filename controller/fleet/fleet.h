/// \file
/// Where nodes come from. Today the plan names them; a file or a registry would be another maker of
/// the same list.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "controller/fleet/local_node.h"
#include "controller/fleet/node.h"
#include "squall/v1/plan.pb.h"

namespace squall::fleet {

struct Options {
  std::string tls_dir;  ///< With ca.pem, cert.pem and key.pem; needed for nodes reached over TCP.
  LocalOptions local;
};

/// The plan's nodes, sorted by name; none is contacted yet. A node without an address is the local
/// one. Errors: kInvalidArgument for two local nodes, for TCP without `tls_dir`, for files there
/// that cannot be read.
StatusOr<std::vector<std::unique_ptr<Node>>> make_nodes(const v1::Plan& plan,
                                                        const Options& options);

}  // namespace squall::fleet
