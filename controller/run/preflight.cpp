#include "controller/run/preflight.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <exception>
#include <set>
#include <utility>

#include "controller/fleet/wake.h"
#include "experiments/fault/fault.h"

namespace squall::run {
namespace asio = boost::asio;
namespace {

asio::awaitable<void> ask(const v1::Plan& plan, fleet::Node& node, NodePreview& told) {
  const auto described = co_await node.connect();
  told.address = node.address();
  told.reached = described.status();
  if (!described.ok()) co_return;
  told.description = *described;
  told.refused = wrong_environment(plan, told.name, *described);
  told.answers.resize(told.asked.size());
  if (told.asked.empty() || !told.refused.empty()) co_return;
  const auto reply = co_await node.preflight(request_of(told.asked));
  if (!reply.ok()) {
    told.reached = in_context("preflight", reply.status());
    co_return;
  }
  const auto count = std::min(told.asked.size(), static_cast<std::size_t>(reply->faults_size()));
  for (std::size_t n = 0; n < count; ++n) told.answers[n] = reply->faults(static_cast<int>(n));
  if (count == told.asked.size()) co_return;
  told.reached = error(StatusCode::kInternal, "preflight: it did not answer for every fault");
}

}  // namespace

std::vector<std::vector<Question>> questions_about(std::span<const Step> schedule,
                                                   std::size_t nodes) {
  std::vector<std::vector<Question>> questions(nodes);
  std::set<std::string> known;
  std::uint32_t together = 0;
  for (const Moment& moment : moments_of(schedule)) {
    std::string faults;
    for (const Step* step : moment) {
      for (const Target& target : step->targets) {
        v1::Fault anonymous = target.fault;
        anonymous.clear_id();
        anonymous.clear_seed();
        faults += fmt::format("{} {} ", target.node, anonymous.SerializeAsString());
      }
    }
    if (!known.insert(std::move(faults)).second) continue;
    ++together;
    for (const Step* step : moment) {
      for (const Target& target : step->targets) {
        questions[target.node].push_back({step, &target.fault, together});
      }
    }
  }
  return questions;
}

v1::PreflightRequest request_of(const std::vector<Question>& questions) {
  v1::PreflightRequest request;
  for (const Question& question : questions) {
    v1::Fault& fault = *request.add_faults();
    fault = *question.fault;
    fault.clear_search();
    request.add_together(question.together);
  }
  return request;
}

std::string wrong_environment(const v1::Plan& plan, const std::string& node,
                              const v1::Description& description) {
  if (description.environment().empty() || description.environment() == plan.environment()) {
    return "";
  }
  return fmt::format("node {} is of the environment \"{}\", the plan names \"{}\"", node,
                     description.environment(), plan.environment());
}

bool knows(const v1::Description& description, const v1::Fault& fault) {
  const auto* kind = kind_of(fault);
  const auto& kinds = description.kinds();
  return kind != nullptr && std::find(kinds.begin(), kinds.end(), kind->name()) != kinds.end();
}

asio::awaitable<std::vector<NodePreview>> preview(const v1::Plan& plan,
                                                  std::span<const Step> schedule,
                                                  std::span<fleet::Node* const> nodes) {
  auto questions = questions_about(schedule, nodes.size());
  std::vector<NodePreview> previews(nodes.size());
  std::size_t waiting = nodes.size();
  fleet::Wake answered;
  const auto executor = co_await asio::this_coro::executor;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    previews[n].name = nodes[n]->name();
    previews[n].asked = std::move(questions[n]);
    asio::co_spawn(
        executor, ask(plan, *nodes[n], previews[n]), [&, n](const std::exception_ptr& thrown) {
          if (thrown) {
            previews[n].reached = error(StatusCode::kInternal, "a fault of squall's own");
          }
          --waiting;
          answered.notify();
        });
  }
  while (waiting > 0) {
    const bool going = co_await answered.wait();
    if (!going) break;
  }
  co_return previews;
}

}  // namespace squall::run
