/// \file
/// What the nodes are asked before anything is done to them, and what they answer: the first phase
/// of a run, and all there is to `squall plan`.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "controller/fleet/node.h"
#include "controller/run/schedule.h"
#include "squall/v1/node.pb.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// About one fault on one node. Those with the same number may live at the same time.
struct Question {
  const Step* step = nullptr;
  const v1::Fault* fault = nullptr;
  std::uint32_t together = 0;
};

/// For each of `nodes` nodes, in the schedule's order. The same faults again, later in the method,
/// would only be told the same again, and are left out.
std::vector<std::vector<Question>> questions_about(std::span<const Step> schedule,
                                                   std::size_t nodes);

v1::PreflightRequest request_of(const std::vector<Question>& questions);

/// Why a node that is of this description cannot take part in the plan; empty: it can.
std::string wrong_environment(const v1::Plan& plan, const std::string& node,
                              const v1::Description& description);

/// Whether its squalld knows the fault's kind.
bool knows(const v1::Description& description, const v1::Fault& fault);

/// A node that was asked.
struct NodePreview {
  std::string name;
  std::string address;
  Status reached;  ///< Not ok: nothing else is known of it.
  v1::Description description;
  std::string refused;  ///< Why it takes part in nothing; empty: it does.
  std::vector<Question> asked;
  std::vector<v1::Looked> answers;  ///< In that order, as many.
};

/// Asks all nodes at once; changes nothing on any of them. `schedule` outlives the result, `nodes`
/// are sorted as its indices are, and stay connected. Never throws.
boost::asio::awaitable<std::vector<NodePreview>> preview(const v1::Plan& plan,
                                                         std::span<const Step> schedule,
                                                         std::span<fleet::Node* const> nodes);

}  // namespace squall::run
