/// \file
/// The method with every choice made: which fault on which node. Made before anything is contacted,
/// from the plan and the seed alone, so that a run can be told ahead and walked again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/plan.pb.h"

namespace squall::run {

/// Random numbers that are the same for a seed on every machine, which the standard's distributions
/// are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// Uniform in [0, bound). `bound` is not 0.
  std::uint64_t below(std::uint64_t bound);

 private:
  std::mt19937_64 engine_;
};

/// How many of `count` nodes a pick takes. Errors: kInvalidArgument for none and for more than
/// there are.
StatusOr<std::size_t> picked_count(const v1::Pick& pick, std::size_t count);

struct Target {
  std::size_t node = 0;  ///< Index into the plan's nodes, sorted by name.
  v1::Fault fault;       ///< With its id.
};

/// Either a fault on its targets, or a wait, or steps that run together.
struct Step {
  std::string name;   ///< As the plan has it, or in words what it does.
  std::string place;  ///< method[1].parallel[0]
  Duration lasts{};   ///< 0 for what is done at once.
  std::vector<Target> targets;
  bool parts = false;  ///< A partition: its targets' faults are one, and what one shows all did.
  std::vector<Step> parallel;
};

/// The plan's nodes, sorted.
std::vector<std::string> node_names(const v1::Plan& plan);

/// Errors: kInvalidArgument, naming the step, for one that selects no node.
StatusOr<std::vector<Step>> make_schedule(const v1::Plan& plan, std::uint64_t seed);

/// How long the steps last if nothing ends them sooner.
Duration length_of(const std::vector<Step>& steps);

/// The steps with targets, those inside parallel ones too, in the plan's order.
std::vector<const Step*> acting_steps(const std::vector<Step>& steps);

/// The same of one step.
std::vector<const Step*> acting_steps(const Step& step);

}  // namespace squall::run
