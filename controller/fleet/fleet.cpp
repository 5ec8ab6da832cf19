#include "controller/fleet/fleet.h"

#include <fmt/format.h>

#include <map>
#include <optional>
#include <utility>

#include "controller/fleet/grpc_node.h"

namespace squall::fleet {

StatusOr<std::vector<std::unique_ptr<Node>>> make_nodes(const v1::Plan& plan,
                                                        const Options& options) {
  const std::map<std::string, v1::Node> sorted(plan.nodes().begin(), plan.nodes().end());
  std::vector<std::unique_ptr<Node>> nodes;
  std::optional<Credentials> credentials;
  std::string local;
  for (const auto& [name, node] : sorted) {
    if (node.address().empty()) {
      if (!local.empty()) {
        return error(
            StatusCode::kInvalidArgument,
            fmt::format("{} and {} are both without an address, but there is only one node "
                        "that squall itself runs on",
                        local, name));
      }
      local = name;
      nodes.push_back(make_local_node(name, options.local));
      continue;
    }
    if (node.address().starts_with("unix:")) {
      nodes.push_back(make_grpc_node(name, node.address(), std::nullopt));
      continue;
    }
    if (options.tls_dir.empty()) {
      return error(
          StatusCode::kInvalidArgument,
          fmt::format("node {} is reached over TCP, which takes mTLS: name the folder with "
                      "ca.pem, cert.pem and key.pem by --tls-dir",
                      name));
    }
    if (!credentials) {
      auto read = read_credentials(options.tls_dir);
      if (!read.ok()) return in_context("--tls-dir", read.status());
      credentials = *std::move(read);
    }
    nodes.push_back(make_grpc_node(name, node.address(), credentials));
  }
  return nodes;
}

}  // namespace squall::fleet
