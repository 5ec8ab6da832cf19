#include "controller/run/schedule.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "controller/run/partition.h"
#include "experiments/base/ids.h"
#include "experiments/base/units.h"
#include "experiments/fault/fault.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/rules.h"

namespace squall::run {
namespace {

/// How many attempts a search takes at most.
std::int64_t attempts_of(const v1::Search& search) {
  return static_cast<std::int64_t>(std::bit_width(numbers_of(search)));
}

/// Any number will do that is not 0.
constexpr std::uint64_t kOfFaults = 0x9e3779b97f4a7c15;
/// A double holds each of them, and so does a report.
constexpr std::uint64_t kMostSeeds = std::uint64_t{1} << 53;

bool matches(const v1::Plan& plan, const v1::Selector& on, const std::string& name) {
  if (on.all()) return true;
  if (!on.node().empty()) return on.node() == name;
  // Where there is one node only, there is nothing to select.
  if (on.labels().empty()) return plan.nodes_size() == 1;
  const auto& labels = plan.nodes().at(name).labels();
  return std::all_of(on.labels().begin(), on.labels().end(), [&labels](const auto& wanted) {
    const auto found = labels.find(wanted.first);
    return found != labels.end() && found->second == wanted.second;
  });
}

class Scheduler {
 public:
  Scheduler(const v1::Plan& plan, std::uint64_t seed)
      : plan_(plan), names_(node_names(plan)), random_(seed), seeds_(seed ^ kOfFaults) {}

  template <typename Steps>
  StatusOr<std::vector<Step>> steps(const Steps& declared, const std::string& place) {
    std::vector<Step> made;
    for (int n = 0; n < declared.size(); ++n) {
      auto one = step(declared[n], fmt::format("{}[{}]", place, n));
      if (!one.ok()) return one.status();
      made.push_back(*std::move(one));
    }
    return made;
  }

 private:
  /// A plan that was resolved elsewhere may say anything.
  Status count(std::size_t steps) {
    steps_ += steps;
    if (steps_ <= plan::kMostSteps) return ok();
    return error(StatusCode::kInvalidArgument,
                 fmt::format("more than {} steps, those of a `repeat` counted as often as they are "
                             "walked, and each turn of a `pulse`",
                             plan::kMostSteps));
  }

  StatusOr<Step> step(const v1::Step& declared, const std::string& place) {
    if (Status few = count(1); !few.ok()) return few;
    Step made;
    made.place = place;
    made.name = declared.name();
    const auto call = [&made](const std::string& words) {
      if (made.name.empty()) made.name = words;
    };
    switch (declared.other_case()) {
      case v1::Step::kWait:
        made.form = Step::Form::kWait;
        made.lasts = Duration(declared.wait());
        call("wait");
        return made;
      case v1::Step::kAsk:
        made.form = Step::Form::kAsk;
        made.name = declared.ask();
        return made;
      case v1::Step::kParallel: {
        auto inner = steps(declared.parallel().steps(), place + ".parallel");
        if (!inner.ok()) return inner.status();
        together(*std::move(inner), made);
        call(fmt::format("{} steps together", made.steps.size()));
        return made;
      }
      case v1::Step::kRepeat: {
        const Status done = repeat(declared.repeat(), made);
        if (!done.ok()) return done;
        call(fmt::format("{} times", declared.repeat().times()));
        return made;
      }
      default:
        break;
    }
    if (made.name.empty()) made.name = plan::in_words(declared.fault());
    if (declared.fault().has_pulse()) return pulsing(declared, std::move(made));
    return fault(declared, declared.fault(), std::move(made));
  }

  static void together(std::vector<Step> steps, Step& made) {
    made.form = Step::Form::kTogether;
    made.steps = std::move(steps);
    for (const Step& one : made.steps) made.lasts = std::max(made.lasts, one.lasts);
  }

  static void in_turn(std::vector<Step> steps, Step& made) {
    made.form = Step::Form::kInTurn;
    made.steps = std::move(steps);
    made.lasts = length_of(made.steps);
  }

  /// Without a name: nobody asked for it.
  static Step wait(Duration lasts) {
    Step made;
    made.form = Step::Form::kWait;
    made.lasts = lasts;
    return made;
  }

  /// Each time with choices of its own, and not sooner than `every` after the last time began.
  Status repeat(const v1::Repeat& declared, Step& made) {
    std::vector<Step> times;
    for (std::uint32_t n = 0; n < declared.times(); ++n) {
      Step& time = times.emplace_back();
      time.place = fmt::format("{}.repeat[{}]", made.place, n);
      time.name = fmt::format("{} of {}", n + 1, declared.times());
      auto inner = steps(declared.steps(), time.place);
      if (!inner.ok()) return inner.status();
      if (!declared.has_every() || n + 1 == declared.times()) {
        in_turn(*std::move(inner), time);
        continue;
      }
      std::vector<Step> beside(1);
      in_turn(*std::move(inner), beside.front());
      beside.push_back(wait(Duration(declared.every())));
      together(std::move(beside), time);
    }
    in_turn(std::move(times), made);
    return ok();
  }

  /// The same fault on the same nodes, again and again, for as long as the step lasts.
  StatusOr<Step> pulsing(const v1::Step& declared, Step made) {
    const v1::Fault::Pulse& pulse = declared.fault().pulse();
    v1::Fault once = declared.fault();
    once.clear_pulse();
    Step first;
    first.place = made.place;
    first.name = made.name;
    auto chosen = fault(declared, once, std::move(first));
    if (!chosen.ok()) return chosen;
    std::vector<Step> turns;
    Duration left(declared.fault().for_());
    while (left > Duration::zero()) {
      if (Status few = count(2); !few.ok()) return few;
      Step& turn = turns.emplace_back(*chosen);
      turn.lasts = std::min(left, Duration(pulse.on()));
      for (Target& target : turn.targets) {
        target.fault.set_for_(turn.lasts.count());
        number(target.fault);
      }
      left -= turn.lasts;
      if (left <= Duration(pulse.off())) {
        if (left > Duration::zero()) turns.push_back(wait(left));
        break;
      }
      turns.push_back(wait(Duration(pulse.off())));
      left -= Duration(pulse.off());
    }
    in_turn(std::move(turns), made);
    return made;
  }

  void number(v1::Fault& fault) {
    fault.set_id(new_fault_id());
    fault.set_seed(1 + seeds_.below(kMostSeeds));
  }

  StatusOr<Step> fault(const v1::Step& declared, const v1::Fault& wanted, Step made) {
    // Of the method itself: method[3].
    const bool is_first = !wanted.has_search() || !std::exchange(searched_, true);
    if (!is_first || (wanted.has_search() && made.place.find('.') != std::string::npos)) {
      return error(StatusCode::kInvalidArgument,
                   fmt::format("{} ({}): one number is looked for, by a step of the method itself",
                               made.name, made.place));
    }
    made.form = wanted.has_search() ? Step::Form::kSearch : Step::Form::kFault;
    if (wanted.has_for_()) made.lasts = Duration(wanted.for_());
    if (wanted.has_search()) made.lasts *= attempts_of(wanted.search());
    auto targets = wanted.has_partition() ? parted(declared) : picked(declared, made.why);
    if (!targets.ok())
      return in_context(fmt::format("{} ({})", made.name, made.place), targets.status());
    made.targets = *std::move(targets);
    made.parts = wanted.has_partition();
    if (made.parts) made.why = in_words(wanted.partition());
    for (Target& target : made.targets) {
      target.fault.clear_pulse();
      number(target.fault);
    }
    return made;
  }

  /// `why`: these, in words.
  StatusOr<std::vector<Target>> picked(const v1::Step& declared, std::string& why) {
    const auto nodes = selected(declared, why);
    if (!nodes.ok()) return nodes.status();
    std::vector<Target> targets;
    for (const std::size_t node : *nodes) targets.push_back({node, declared.fault()});
    return targets;
  }

  StatusOr<std::vector<Target>> parted(const v1::Step& declared) {
    const v1::Partition& partition = declared.fault().partition();
    std::vector<std::vector<std::size_t>> groups;
    const auto add_group = [&](const auto& belongs) {
      std::vector<std::size_t>& group = groups.emplace_back();
      for (std::size_t n = 0; n < names_.size(); ++n) {
        if (belongs(names_[n])) group.push_back(n);
      }
    };
    for (const v1::Selector& one : partition.between()) {
      add_group([&](const std::string& name) { return matches(one, name); });
    }
    if (groups.empty()) {
      add_group([&](const std::string& name) {
        return !declared.has_on() || matches(declared.on(), name);
      });
    }
    auto targets = part(plan_, names_, partition, groups, random_);
    if (!targets.ok()) return targets;
    for (Target& target : *targets) target.fault.set_for_(declared.fault().for_());
    return targets;
  }

  StatusOr<std::vector<std::size_t>> selected(const v1::Step& declared, std::string& why) {
    const v1::Selector& on = declared.on();
    std::vector<std::size_t> nodes;
    for (std::size_t n = 0; n < names_.size(); ++n) {
      if (matches(on, names_[n])) nodes.push_back(n);
    }
    if (nodes.empty()) return error(StatusCode::kInvalidArgument, "`on` matches no node");
    const auto count = picked_count(declared.pick(), nodes.size());
    if (!count.ok()) return count.status();
    why = in_words(on, *count, nodes.size());
    if (*count == nodes.size()) return nodes;
    // The first steps of a Fisher-Yates shuffle; then in the nodes' own order again.
    for (std::size_t n = 0; n < *count; ++n) {
      std::swap(nodes[n], nodes[n + random_.below(nodes.size() - n)]);
    }
    nodes.resize(*count);
    std::sort(nodes.begin(), nodes.end());
    return nodes;
  }

  static std::string in_words(const v1::Partition& partition) {
    if (partition.between_size() > 0) {
      return fmt::format("the nodes of its {} groups", partition.between_size());
    }
    return "each by the partition's shape, drawn by the seed";
  }

  /// Why a step acts on as many nodes as it does, and on these.
  static std::string in_words(const v1::Selector& on, std::size_t picked, std::size_t matching) {
    if (!on.node().empty()) return "named by the step";
    std::vector<std::string> labels;
    for (const auto& [label, value] : on.labels()) {
      labels.push_back(fmt::format("{}={}", label, value));
    }
    std::sort(labels.begin(), labels.end());
    const std::string which =
        labels.empty() ? "" : fmt::format(" with {}", fmt::join(labels, ", "));
    const std::string nodes = matching == 1 ? "node" : "nodes";
    if (picked == matching) {
      return fmt::format("{} {}{}", matching == 1 ? "the one" : fmt::format("all {}", matching),
                         nodes, which);
    }
    return fmt::format("{} of {} {}{}, drawn by the seed", picked, matching, nodes, which);
  }

  bool matches(const v1::Selector& on, const std::string& name) const {
    return run::matches(plan_, on, name);
  }

  const v1::Plan& plan_;
  std::size_t steps_ = 0;
  bool searched_ = false;
  std::vector<std::string> names_;
  Random random_;
  Random seeds_;  // of its own, so that what is picked does not depend on how many faults there are
};

void add_acting(const Step& step, std::vector<const Step*>& acting) {
  if (!step.targets.empty()) acting.push_back(&step);
  for (const Step& part : step.steps) add_acting(part, acting);
}

/// More than so many are not told apart: a look at each would take too long.
constexpr std::size_t kMostProducts = 64;

std::vector<Moment> moments_together(const std::vector<Step>& steps) {
  std::vector<std::vector<Moment>> branches;
  std::size_t product = 1;
  std::size_t longest = 1;
  for (const Step& step : steps) {
    std::vector<Moment> branch = moments_of({&step, 1});
    if (branch.empty()) continue;
    product = std::min(product * branch.size(), kMostProducts + 1);
    longest = std::max(longest, branch.size());
    branches.push_back(std::move(branch));
  }
  if (branches.empty()) return {};
  std::vector<Moment> moments;
  const bool all = product <= kMostProducts;
  for (std::size_t n = 0; n < (all ? product : longest); ++n) {
    Moment& moment = moments.emplace_back();
    std::size_t rest = n;
    for (const std::vector<Moment>& branch : branches) {
      const Moment& part = branch[rest % branch.size()];
      if (all) rest /= branch.size();
      moment.insert(moment.end(), part.begin(), part.end());
    }
  }
  return moments;
}

}  // namespace

std::vector<Moment> moments_of(std::span<const Step> steps) {
  std::vector<Moment> moments;
  for (const Step& step : steps) {
    std::vector<Moment> inner;
    if (!step.targets.empty()) {
      inner.push_back({&step});
    } else if (step.form == Step::Form::kTogether) {
      inner = moments_together(step.steps);
    } else {
      inner = moments_of(step.steps);
    }
    moments.insert(moments.end(), inner.begin(), inner.end());
  }
  return moments;
}

std::uint64_t Random::below(std::uint64_t bound) {
  // Numbers past the last whole multiple of `bound` would make the low results likelier.
  const std::uint64_t limit = std::mt19937_64::max() - std::mt19937_64::max() % bound;
  std::uint64_t drawn = engine_();
  while (drawn >= limit) drawn = engine_();
  return drawn % bound;
}

StatusOr<std::size_t> picked_count(const v1::Pick& pick, std::size_t count) {
  std::size_t picked = count;
  switch (pick.how_case()) {
    case v1::Pick::kCount:
      picked = pick.count();
      break;
    case v1::Pick::kPercent:
      picked = static_cast<std::size_t>(
          std::ceil(pick.percent() / 100.0 * static_cast<double>(count) - 1e-9));
      picked = std::clamp<std::size_t>(picked, 1, count);
      break;
    case v1::Pick::kMinority:
      picked = (count - 1) / 2;
      break;
    case v1::Pick::kMajority:
      picked = count / 2 + 1;
      break;
    case v1::Pick::kAll:
    case v1::Pick::HOW_NOT_SET:
      break;
  }
  if (picked == 0) {
    return error(StatusCode::kInvalidArgument,
                 fmt::format("`pick` takes none of the {} node{} that `on` matches", count,
                             count == 1 ? "" : "s"));
  }
  if (picked > count) {
    return error(StatusCode::kInvalidArgument,
                 fmt::format("`pick` takes {} nodes, but `on` matches only {}", picked, count));
  }
  return picked;
}

std::vector<std::string> node_names(const v1::Plan& plan) {
  std::vector<std::string> names;
  for (const auto& [name, node] : plan.nodes()) names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<std::size_t> vantage_points(const v1::Plan& plan, const v1::Check& check) {
  std::vector<std::size_t> asking;
  if (!check.has_from()) return asking;
  const std::vector<std::string> names = node_names(plan);
  for (std::size_t n = 0; n < names.size(); ++n) {
    if (matches(plan, check.from(), names[n])) asking.push_back(n);
  }
  return asking;
}

StatusOr<std::vector<Step>> make_schedule(const v1::Plan& plan, std::uint64_t seed) {
  return Scheduler(plan, seed).steps(plan.method(), "method");
}

Duration length_of(std::span<const Step> steps) {
  Duration total{};
  for (const Step& step : steps) total += step.lasts;
  return total;
}

std::vector<const Step*> acting_steps(std::span<const Step> steps) {
  std::vector<const Step*> acting;
  for (const Step& step : steps) add_acting(step, acting);
  return acting;
}

std::vector<const Step*> acting_steps(const Step& step) {
  std::vector<const Step*> acting;
  add_acting(step, acting);
  return acting;
}

}  // namespace squall::run
