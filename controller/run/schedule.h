/// \file
/// The method with every choice made: which fault on which node. Made before anything is contacted,
/// from the plan and the seed alone, so that a run can be told ahead and walked again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
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

/// A step of the method, with every choice made.
struct Step {
  enum class Form {
    kFault,     ///< On its targets, for as long as it lasts.
    kWait,      ///< As long as it lasts.
    kAsk,       ///< Until a person says yes; `name` is the question.
    kTogether,  ///< Its steps at once, done with the last.
    kInTurn,    ///< Its steps one after another.
    kSearch,    ///< The fault on its targets, with one number after another.
  };
  Form form = Form::kFault;
  std::string name;   ///< As the plan has it, or in words what it does.
  std::string place;  ///< method[1].parallel[0]
  std::string why;    ///< These targets, in words: 1 of 2 nodes with role=db, drawn by the seed.
  Duration lasts{};   ///< 0 for what is done at once, and for what nobody knows ahead.
  std::vector<Target> targets;
  bool parts = false;  ///< A partition: its targets' faults are one, and what one shows all did.
  std::vector<Step> steps;
};

/// The plan's nodes, sorted.
std::vector<std::string> node_names(const v1::Plan& plan);

/// The nodes that ask a check, by their indices; none where squall itself does, or where `from`
/// matches no node.
std::vector<std::size_t> vantage_points(const v1::Plan& plan, const v1::Check& check);

/// The same for a seed but for the faults' ids, which no two runs share. Errors: kInvalidArgument,
/// naming the step, for one that selects no node.
StatusOr<std::vector<Step>> make_schedule(const v1::Plan& plan, std::uint64_t seed);

/// How long the steps last if nothing ends them sooner.
Duration length_of(std::span<const Step> steps);

/// Steps with targets that may act at the same time.
using Moment = std::vector<const Step*>;

/// Every set of them, in the plan's order; where there would be more than 64 within steps that run
/// together, a part of them.
std::vector<Moment> moments_of(std::span<const Step> steps);

/// The steps with targets, those inside others too, in the plan's order.
std::vector<const Step*> acting_steps(std::span<const Step> steps);

/// The same of one step.
std::vector<const Step*> acting_steps(const Step& step);

}  // namespace squall::run
