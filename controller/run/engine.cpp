#include "controller/run/engine.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <exception>
#include <map>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>

#include "controller/fleet/wake.h"
#include "controller/report/story.h"
#include "controller/run/loads.h"
#include "controller/run/preflight.h"
#include "controller/run/together.h"
#include "controller/run/verdict.h"
#include "controller/run/watch.h"
#include "experiments/base/ids.h"
#include "experiments/base/units.h"
#include "experiments/checks/judge.h"
#include "experiments/fault/fault.h"
#include "experiments/plan/declared.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/forms.h"
#include "experiments/plan/load.h"

namespace squall::run {
namespace asio = boost::asio;
namespace {

/// How long a node may take to say that a fault is applied.
constexpr Duration kAnswerWithin = std::chrono::seconds(10);
/// What a fault that waits for its targets' ends may take beyond that.
constexpr Duration kDoneWithin = std::chrono::seconds(2);
/// How long beyond the lease, and beyond what a fault still has queued, a node may take to end it.
constexpr Duration kSettleWithin = std::chrono::seconds(5);
/// Between two attempts to reach a node that was lost.
constexpr Duration kReachAgain = std::chrono::milliseconds(200);

const char* in_words(v1::EndReason reason) {
  switch (reason) {
    case v1::RELEASED:
      return "reverted";
    case v1::DURATION_OVER:
      return "its time was up";
    case v1::LEASE_LAPSED:
      return "the lease lapsed";
    case v1::DAEMON_GONE:
      return "squalld was gone";
    case v1::TERMINATED:
      return "its holder was told to end";
    case v1::OBJECTS_GONE:
      return "what it acted with was removed by somebody else";
    default:
      return "unknown";
  }
}

/// Whether a person ended it, from outside its run.
bool is_by_hand(const v1::FaultEnded& ended) {
  return ended.reason() == v1::RELEASED && !ended.by().empty();
}

std::string reason_of(const v1::FaultEnded& ended) {
  return is_by_hand(ended) ? std::string(report::kRevertedBy) + ended.by()
                           : in_words(ended.reason());
}

/// Of host:port; none for a unix socket, or for the node that squall runs on.
std::optional<std::uint32_t> port_of(const std::string& address) {
  if (address.empty() || address.starts_with("unix:")) return std::nullopt;
  const auto port = parse_count(std::string_view(address).substr(address.rfind(':') + 1));
  if (!port.ok()) return std::nullopt;
  return static_cast<std::uint32_t>(*port);
}

/// How far the faults of one step are. Shared with the faults, which may outlive a step that is
/// cut.
struct Progress {
  std::size_t applying = 0;  ///< Not yet applied, nor failed.
  std::size_t acting = 0;    ///< Effect not ended.
  bool is_one = false;       ///< Its faults are parts of one.
  bool enough = false;       ///< What they were injected for is known: they may end.
  bool effect = false;       ///< Seen of any of them.
  fleet::Wake changed;
};

struct Held {
  std::size_t node = 0;
  std::string id;
  std::string words;
  std::shared_ptr<Progress> progress;
  v1::Evidence evidence;  ///< The latest.
  bool effect = false;    ///< Seen at any time.
  bool applied = false;
  bool told_to_end = false;
  bool effect_ended = false;
  MonotonicTime effect_ended_at;
  bool over = false;  ///< Reverted and verified, or failed.
};

struct Site {
  fleet::Node* node = nullptr;
  std::uint64_t epoch = 0;
  bool open = false;
  bool lost = false;
  bool settled = false;
  Status why_lost;
  MonotonicTime lost_at;
  std::size_t injected = 0;
  bool acts = false;  ///< It is a target of the method.
  fleet::Wake changed;
};

/// One number after another is tried.
struct Searching {
  std::shared_ptr<Progress> attempt;  ///< Null between two.
  std::string broke;                  ///< In words, what the attempt broke.
};

/// Says what a breach means as long as it lives, also when what it lives in throws.
class SearchScope {
 public:
  SearchScope(Searching*& current, Searching& ours) : current_(current) { current_ = &ours; }
  SearchScope(const SearchScope&) = delete;
  SearchScope& operator=(const SearchScope&) = delete;
  ~SearchScope() { current_ = nullptr; }

 private:
  Searching*& current_;
};

struct Decision {
  MonotonicTime seen;
  MonotonicTime made;
};

}  // namespace

class Engine::Run {
 public:
  explicit Run(Parts parts)
      : parts_(std::move(parts)),
        lease_(parts_.plan.has_lease() ? Duration(parts_.plan.lease()) : std::chrono::seconds(5)),
        within_(parts_.plan.recovery().has_within() ? Duration(parts_.plan.recovery().within())
                                                    : std::chrono::seconds(30)),
        watch_(parts_.plan, watch_parts()),
        loads_(parts_.plan, parts_.make_load) {
    loads_.show(watch_);
    for (fleet::Node* node : parts_.nodes) {
      sites_.push_back(std::make_unique<Site>());
      sites_.back()->node = node;
    }
    for (const Step* step : acting_steps(parts_.schedule)) {
      for (const Target& target : step->targets) {
        sites_[target.node]->acts = true;
        longest_queue_ = std::max(longest_queue_, Duration(target.fault.network().delay() +
                                                           target.fault.network().jitter()));
      }
    }
  }

  asio::awaitable<v1::RunEnded> run() {
    using namespace asio::experimental::awaitable_operators;
    co_await asio::this_coro::throw_if_cancelled(false);
    started_ = monotonic_now();
    tell_start();
    enter(v1::PREFLIGHT);
    co_await (guarded(preflight()) || decided());
    if (findings_.none()) start_loads(co_await asio::this_coro::executor);
    // The phases end by themselves, and only then are the checks told to stop asking.
    if (findings_.none()) co_await (phases() || watch_.ask_all() || watch_loads());
    co_await (loads_.end(left_, parts_.tell) || left());
    co_return conclude_run();
  }

  void halt(std::string words) {
    if (interrupted_ || phase_ == v1::VERDICT) return;
    interrupted_ = true;
    findings_.interrupted.push_back(std::move(words));
    decide("interrupted", findings_.interrupted.back(), monotonic_now());
    wake_everyone();
  }

  void interrupt(std::string_view by) {
    if (phase_ == v1::VERDICT) return;
    if (interrupted_) {
      left_ = true;
    } else {
      interrupted_ = true;
      findings_.interrupted.push_back(fmt::format("stopped by {}", by));
      decide("interrupted", findings_.interrupted.back(), monotonic_now());
    }
    wake_everyone();
  }

 private:
  // ---- phases
  // ------------------------------------------------------------------------------------

  asio::awaitable<void> phases() {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await guarded(steady());
    if (!decision_ && findings_.none()) co_await guarded(method());
    if (!faults_.empty()) {
      co_await guarded(revert());
      if (!interrupted_ && findings_.internal.empty()) co_await guarded(recovery());
    }
  }

  /// Before the steady state is proven: with them it must hold.
  void start_loads(const asio::any_io_executor& loop) {
    for (const std::string& problem : loads_.start(loop)) {
      findings_.not_injected.push_back(problem);
    }
  }

  /// What was to hold under a load was not shown to where that has ended.
  asio::awaitable<void> watch_loads() {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await loads_.watch([this](const std::string& sentence) {
      if (decision_) return;
      findings_.not_injected.push_back(sentence);
      decide("load failed", sentence, monotonic_now());
    });
  }

  asio::awaitable<void> preflight() {
    const auto wanted = questions_about(parts_.schedule, sites_.size());
    co_await for_each(0, sites_.size(),
                      [&](std::size_t n) { return guarded(make_ready(*sites_[n], wanted[n])); });
  }

  asio::awaitable<void> make_ready(Site& site, const std::vector<Question>& wanted) {
    co_await asio::this_coro::throw_if_cancelled(false);
    const auto unfit = [&](const std::string& why) {
      if (!decision_)
        findings_.not_injected.push_back(fmt::format("node {}: {}", site.node->name(), why));
    };
    const auto described = co_await site.node->connect();
    if (!described.ok()) co_return unfit(message_of(described.status()));
    if (const std::string why = wrong_environment(parts_.plan, site.node->name(), *described);
        !why.empty()) {
      findings_.refused.push_back(why);
      co_return;
    }
    const auto opened = co_await open(site);
    if (!opened.ok()) co_return unfit(in_place(site, message_of(opened.status())));
    v1::Event event;
    auto& connected = *event.mutable_node_connected();
    connected.set_node(site.node->name());
    connected.set_address(site.node->address());
    connected.set_kernel(described->kernel());
    connected.set_netem(described->netem());
    *connected.mutable_recovered() = opened->recovered();
    parts_.tell(std::move(event));

    const auto not_asked = co_await watch_.try_from(*site.node);
    for (const auto& [check, why] : not_asked) {
      if (why.code() == StatusCode::kUnimplemented && why.message().empty()) {
        unfit(fmt::format("its squalld {} cannot ask", described->version()));
        break;
      }
      unfit(fmt::format("it does not ask \"{}\": {}", check, message_of(why)));
    }
    for (const Question& question : wanted) {
      if (knows(*described, *question.fault)) continue;
      unfit(fmt::format("its squalld {} does not know the fault {}", described->version(),
                        kind_of(*question.fault)->name()));
    }
    if (wanted.empty()) co_return;
    const auto reply = co_await site.node->preflight(request_of(wanted));
    if (!reply.ok()) co_return unfit(in_place(site, "preflight: " + message_of(reply.status())));
    if (static_cast<std::size_t>(reply->faults_size()) != wanted.size()) {
      co_return unfit(in_place(site, "preflight: it did not answer for every fault"));
    }
    for (int n = 0; n < reply->faults_size(); ++n) {
      const Question& asked = wanted[static_cast<std::size_t>(n)];
      tell_preflighted(site, *asked.step, *asked.fault, reply->faults(n));
    }
  }

  asio::awaitable<StatusOr<v1::Opened>> open(Site& site) {
    fleet::Listener listener;
    listener.event = [this, &site](const v1::LeaseEvent& event) {
      guarded_call([&] { on_event(site, event); });
    };
    listener.lost = [this, &site](const Status& why) { guarded_call([&] { on_lost(site, why); }); };
    v1::Open wanted;
    wanted.set_run(parts_.run);
    wanted.set_epoch(++site.epoch);
    wanted.set_lease(lease_.count());
    wanted.set_environment(parts_.plan.environment());
    for (const auto& [name, node] : parts_.plan.nodes()) {
      if (const auto port = port_of(node.address())) wanted.add_control_ports(*port);
    }
    auto opened = co_await site.node->open(std::move(wanted), std::move(listener));
    site.open = opened.ok();
    if (site.open) {
      site.lost = false;
      watch_.reached(*site.node);
    }
    co_return opened;
  }

  asio::awaitable<void> steady() {
    enter(v1::STEADY);
    const bool steady = co_await watch_.proven(monotonic_now() + watch_.time_to_prove(),
                                               [this] { return decision_.has_value(); });
    if (steady || decision_) co_return;
    for (const Watch::Shortfall& one : watch_.shortfalls(monotonic_now())) {
      findings_.not_steady.push_back(
          fmt::format("check \"{}\" did not hold before the method: {}; nothing was injected",
                      one.check, one.words));
    }
  }

  asio::awaitable<void> method() {
    using namespace asio::experimental::awaitable_operators;
    enter(v1::METHOD);
    // Boost 1.81's || waits for the first success and then for the loser to finish: neither side
    // throws, and every await in them honours cancellation.
    co_await (walk() || decided());
  }

  /// Not part of what an abort cancels: once begun it ends with every node settled, or named.
  asio::awaitable<void> revert() {
    enter(v1::REVERT);
    if (!decision_) revert_everywhere();
    const MonotonicTime deadline = monotonic_now() + lease_ + kSettleWithin + longest_queue_;
    co_await for_each(0, sites_.size(),
                      [&](std::size_t n) { return guarded(settle(*sites_[n], deadline)); });
    reverted_at_ = monotonic_now();
  }

  asio::awaitable<void> settle(Site& site, MonotonicTime deadline) {
    using namespace asio::experimental::awaitable_operators;
    co_await asio::this_coro::throw_if_cancelled(false);
    if (site.injected == 0) co_return;
    while (!site.settled && !site.lost && !left_ && monotonic_now() < deadline) {
      const bool going = co_await site.changed.wait(deadline);
      if (!going) break;
    }
    if (!site.settled && site.lost && !left_) co_await (reclaim(site) || left());
    if (!site.settled) tell_unproven(site);
  }

  /// A node that was lost reverts by itself within the lease. Whether it did is asked of it over a
  /// new lease, until well after it must have.
  asio::awaitable<void> reclaim(Site& site) {
    co_await asio::this_coro::throw_if_cancelled(false);
    const MonotonicTime deadline = site.lost_at + lease_ + kSettleWithin + longest_queue_;
    while (!site.settled && monotonic_now() < deadline) {
      site.lost = false;
      const auto described = co_await site.node->connect();
      Status reached = described.status();
      if (reached.ok()) {
        const auto opened = co_await open(site);
        reached = opened.status();
      }
      if (reached.ok()) {
        site.node->revert_all();
        while (!site.settled && !site.lost && monotonic_now() < deadline) {
          const bool going = co_await site.changed.wait(deadline);
          if (!going) co_return;
        }
        if (site.settled) co_return;
      }
      const bool going =
          co_await site.changed.wait(std::min(deadline, monotonic_now() + kReachAgain));
      if (!going) co_return;
    }
  }

  asio::awaitable<void> recovery() {
    enter(v1::RECOVERY);
    watch_.judge_from(reverted_at_);
    watch_.ask_now();
    const bool recovered =
        co_await watch_.proven(reverted_at_ + within_, [this] { return interrupted_; });
    if (recovered) {
      recovered_after_ = monotonic_now() - reverted_at_;
      v1::Event event;
      event.mutable_recovered()->set_after_ms(to_ms(*recovered_after_));
      parts_.tell(std::move(event));
      co_return;
    }
    if (interrupted_) co_return;
    for (const Watch::Shortfall& one : watch_.shortfalls(monotonic_now())) {
      findings_.breached.push_back(
          fmt::format("check \"{}\" did not hold again within {} of the last revert: {}", one.check,
                      format_duration(within_), one.words));
    }
  }

  v1::RunEnded conclude_run() {
    enter(v1::VERDICT);
    const v1::RunTimes times = times_of_run();
    const auto expected = expectations_of_run(times);
    const Conclusion conclusion = conclude(findings_, held_sentence());
    v1::Event event;
    auto& ended = *event.mutable_run_ended();
    ended.set_verdict(conclusion.verdict);
    ended.set_exit_code(conclusion.exit_code);
    ended.set_sentence(conclusion.sentence);
    ended.set_duration_ms(to_ms(monotonic_now() - started_));
    if (decision_ && reverted_at_ != MonotonicTime() && decision_->made <= reverted_at_) {
      const auto since_seen = [this](MonotonicTime time) { return to_ms(time - decision_->seen); };
      const bool all_ended =
          std::ranges::all_of(faults_, [](const auto& known) { return known.second.effect_ended; });
      const bool all_settled = std::ranges::all_of(
          sites_, [](const auto& site) { return site->injected == 0 || site->settled; });
      auto& abort = *ended.mutable_abort();
      abort.set_decided_ms(since_seen(decision_->made));
      if (all_ended && last_effect_end_ > decision_->made)
        abort.set_effect_ended_ms(since_seen(last_effect_end_));
      if (all_settled && last_settled_ > decision_->made)
        abort.set_verified_clean_ms(since_seen(last_settled_));
    }
    *ended.mutable_times() = times;
    *ended.mutable_expect() = {expected.begin(), expected.end()};
    const v1::RunEnded result = ended;
    parts_.tell(std::move(event));
    return result;
  }

  /// What happened of detection, abort and recovery, and how long each took.
  v1::RunTimes times_of_run() const {
    v1::RunTimes times;
    if (first_applied_ && first_breach_ && *first_breach_ >= *first_applied_)
      times.set_to_detect_ms(to_ms(*first_breach_ - *first_applied_));
    const bool all_ended =
        std::ranges::all_of(faults_, [](const auto& known) { return known.second.effect_ended; });
    if (decision_ && all_ended && last_effect_end_ > decision_->made)
      times.set_to_abort_ms(to_ms(last_effect_end_ - decision_->seen));
    if (recovered_after_) times.set_to_recover_ms(to_ms(*recovered_after_));
    return times;
  }

  /// Holds what the plan expects of the run as a whole against its times. What did not happen took
  /// no time: where nothing was breached there was nothing to detect.
  std::vector<v1::RunExpectation> expectations_of_run(const v1::RunTimes& times) {
    std::vector<v1::RunExpectation> all;
    for (const v1::Expectation& wanted : parts_.plan.expect()) {
      const std::string& metric = wanted.metric();
      const bool detects = metric == "time_to_detect";
      const bool aborts = metric == "time_to_abort";
      const bool happened = detects  ? times.has_to_detect_ms()
                            : aborts ? times.has_to_abort_ms()
                                     : times.has_to_recover_ms();
      const double ms = detects  ? times.to_detect_ms()
                        : aborts ? times.to_abort_ms()
                                 : times.to_recover_ms();
      v1::RunExpectation& one = all.emplace_back();
      one.set_expectation(wanted.text());
      one.set_holds(!happened || checks::accepts(wanted, ms * 1e6));
      const Duration took(static_cast<std::int64_t>(ms * 1e6));
      one.set_observed(
          fmt::format("{} {}", metric, happened ? format_measured(took) : "did not happen"));
      if (one.holds()) continue;
      findings_.breached.push_back(fmt::format("the run as a whole: observed {}, expected {}",
                                               one.observed(), one.expectation()));
    }
    return all;
  }

  // ---- the abort
  // ---------------------------------------------------------------------------------

  /// From here on nothing is injected, and every node has been told to revert before this returns.
  /// `first` is what led to it, told before it but after the nodes.
  void decide(const char* cause, const std::string& words, MonotonicTime seen,
              std::vector<v1::Event> first = {}) {
    if (decision_) return;
    decision_ = Decision{seen, monotonic_now()};
    watch_.stop_looking();
    revert_everywhere();
    for (v1::Event& event : first) parts_.tell(std::move(event));
    v1::Event event;
    event.mutable_abort_decided()->set_cause(cause);
    event.mutable_abort_decided()->set_words(words);
    parts_.tell(std::move(event));
    wake_everyone();
  }

  void revert_everywhere() {
    for (const auto& site : sites_) {
      if (site->open && !site->lost) site->node->revert_all();
    }
    for (auto& [id, held] : faults_) held.told_to_end = true;
  }

  asio::awaitable<void> decided() {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await until([this] { return decision_.has_value(); });
  }

  asio::awaitable<void> left() {
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await until([this] { return left_; });
  }

  /// Until it is so, or until cancelled. (g++ 12 miscompiles a co_await inside a condition: the
  /// negated result lands on the frame's resume pointer. So each is given a name first, here and
  /// everywhere.)
  template <typename Condition>
  asio::awaitable<void> until(Condition condition) {
    while (!condition()) {
      const bool going = co_await decided_.wait();
      if (!going) co_return;
    }
  }

  void wake_everyone() {
    decided_.notify();
    watch_.notify();
    for (const auto& site : sites_) site->changed.notify();
  }

  void internal(const std::string& what) {
    findings_.internal.push_back("a fault of squall's own: " + what);
    decide("internal", findings_.internal.back(), monotonic_now());
  }

  /// A fault did not do what it was for.
  void unmet(const std::string& sentence) {
    if (decision_) return;
    findings_.not_injected.push_back(sentence);
    decide("fault failed", sentence, monotonic_now());
  }

  // ---- the walk
  // ----------------------------------------------------------------------------------

  asio::awaitable<void> walk() { co_await take_in_turn(parts_.schedule); }

  /// Whether the walk may go on. Never throws.
  asio::awaitable<bool> take(const Step& step) {
    co_await asio::this_coro::throw_if_cancelled(false);
    const bool cancelled = co_await fleet::is_cancelled();
    if (decision_ || cancelled) co_return false;
    bool done = false;
    try {
      // What has no name is of the schedule's own making.
      if (!step.name.empty()) tell_step(step);
      switch (step.form) {
        case Step::Form::kFault:
          done = co_await act(step);
          break;
        case Step::Form::kWait:
          done = co_await pause(step.lasts);
          break;
        case Step::Form::kAsk:
          done = co_await ask(step);
          break;
        case Step::Form::kTogether:
          done = co_await take_together(step.steps);
          break;
        case Step::Form::kInTurn:
          done = co_await take_in_turn(step.steps);
          break;
        case Step::Form::kSearch:
          done = co_await search(step);
          break;
      }
      v1::Event event;
      event.mutable_step_ended()->set_place(step.place);
      if (!step.name.empty()) parts_.tell(std::move(event));
    } catch (const std::exception& failed) {
      done = false;
      internal(failed.what());
    }
    co_return done && !decision_;
  }

  asio::awaitable<bool> take_in_turn(const std::vector<Step>& steps) {
    co_await asio::this_coro::throw_if_cancelled(false);
    for (const Step& step : steps) {
      const bool goes_on = co_await take(step);
      if (!goes_on) co_return false;
    }
    co_return true;
  }

  /// The largest of the numbers, counted from the mild end, with which the steady state holds. By
  /// halves, so that none harsher is tried than has to be.
  asio::awaitable<bool> search(const Step& step) {
    const v1::Fault& fault = step.targets.front().fault;
    const v1::Search& wanted = fault.search();
    const v1::Unit unit = plan::rules_of(*field_of(fault, wanted.field())).unit();
    const std::size_t count = numbers_of(wanted);
    Searching searching;
    std::string broke;
    // Nothing injected is what the steady state was proven with.
    std::size_t holds = wanted.from() == 0 ? 1 : 0;
    std::size_t breaks = count + 1;
    while (breaks - holds > 1) {
      const std::size_t middle = holds + (breaks - holds) / 2;
      const double number = number_at(wanted, middle - 1);
      searching.broke.clear();
      bool done = false;
      {
        const SearchScope scope(searching_, searching);
        done = co_await attempt(step, number);
      }
      if (!done) co_return false;
      v1::Event event;
      auto& told = *event.mutable_attempted();
      told.set_place(step.place);
      told.set_value(plan::format_number(number, unit));
      told.set_held(searching.broke.empty());
      told.set_words(searching.broke);
      parts_.tell(std::move(event));
      if (searching.broke.empty()) {
        holds = middle;
      } else {
        breaks = middle;
        broke = searching.broke;
      }
      if (searching.broke.empty()) continue;
      const bool recovered = co_await recovered_from(number, unit);
      if (!recovered) co_return false;
    }
    const auto number = [&](std::size_t n) {
      return n == 0 || n > count ? "" : plan::format_number(number_at(wanted, n - 1), unit);
    };
    v1::Event event;
    auto& found = *event.mutable_found();
    found.set_place(step.place);
    found.set_field(fmt::format("{} {}", kind_of(fault)->name(), wanted.field()));
    found.set_holds(number(holds));
    found.set_breaks(number(breaks));
    found.set_resolution(plan::format_number(wanted.resolution(), unit));
    if (found.breaks().empty()) {
      found.set_words(
          fmt::format("{} holds up to {}, the most that was tried", found.field(), found.holds()));
    } else if (holds == 0 || (holds == 1 && wanted.from() == 0)) {
      found.set_words(fmt::format("{} breaks at {} already, the least that was tried: {}",
                                  found.field(), found.breaks(), broke));
    } else {
      found.set_words(fmt::format("{} holds up to {} and breaks at {}: {}", found.field(),
                                  found.holds(), found.breaks(), broke));
    }
    answer_ = found.words();
    const bool none = holds == 0;
    parts_.tell(std::move(event));
    if (none) {
      findings_.breached.push_back(answer_);
      decide("breach", answer_, monotonic_now());
    }
    co_return !decision_;
  }

  /// The fault with this number, for as long as the step's `for` says or until a check is breached.
  asio::awaitable<bool> attempt(const Step& step, double number) {
    Step attempt = step;
    attempt.form = Step::Form::kFault;
    attempt.lasts = Duration(step.targets.front().fault.for_());
    for (Target& target : attempt.targets) {
      target.fault = attempt_at(target.fault, number);
      target.fault.set_id(new_fault_id());
    }
    attempt.name = plan::in_words(attempt.targets.front().fault);
    watch_.judge_from(monotonic_now());
    tell_step(attempt);
    const bool done = co_await act(attempt);
    searching_->attempt = nullptr;
    v1::Event event;
    event.mutable_step_ended()->set_place(step.place);
    parts_.tell(std::move(event));
    co_return done;
  }

  /// Every check holds again, so that the next attempt says something.
  asio::awaitable<bool> recovered_from(double number, v1::Unit unit) {
    const MonotonicTime begun = monotonic_now();
    watch_.judge_from(begun);
    watch_.ask_now();
    Searching between;
    bool recovered = false;
    {
      const SearchScope scope(searching_, between);
      recovered = co_await watch_.proven(begun + within_, [this] { return decision_.has_value(); });
    }
    if (recovered || decision_) co_return recovered && !decision_;
    const std::string sentence =
        fmt::format("the checks did not hold again within {} of the attempt with {}",
                    format_duration(within_), plan::format_number(number, unit));
    findings_.breached.push_back(sentence);
    decide("breach", sentence, monotonic_now());
    co_return false;
  }

  /// A no is a person's wish that the run ends.
  asio::awaitable<bool> ask(const Step& step) {
    v1::Event asked;
    asked.mutable_asked()->set_place(step.place);
    asked.mutable_asked()->set_question(step.name);
    parts_.tell(std::move(asked));
    Answer answer{false, "nobody was there to be asked"};
    if (parts_.ask) answer = co_await parts_.ask(step.name);
    const bool cancelled = co_await fleet::is_cancelled();
    if (decision_ || cancelled) co_return false;
    v1::Event told;
    told.mutable_answered()->set_place(step.place);
    told.mutable_answered()->set_yes(answer.yes);
    told.mutable_answered()->set_by(answer.by);
    parts_.tell(std::move(told));
    if (answer.yes) co_return true;
    interrupted_ = true;
    findings_.interrupted.push_back(
        fmt::format("\"{}\" was answered with no: {}", step.name, answer.by));
    decide("interrupted", findings_.interrupted.back(), monotonic_now());
    co_return false;
  }

  asio::awaitable<bool> take_together(std::span<const Step> steps) {
    using namespace asio::experimental::awaitable_operators;
    co_await asio::this_coro::throw_if_cancelled(false);
    if (steps.size() == 1) co_return co_await take(steps.front());
    // Halves, so that ten thousand steps are no deeper than fourteen.
    const std::size_t half = steps.size() / 2;
    const auto [first, second] =
        co_await (take_together(steps.first(half)) && take_together(steps.subspan(half)));
    co_return first&& second;
  }

  asio::awaitable<bool> pause(Duration duration) {
    const MonotonicTime end = monotonic_now() + duration;
    fleet::Wake never;
    while (monotonic_now() < end) {
      const bool going = co_await never.wait(end);
      if (!going) co_return false;
    }
    co_return true;
  }

  asio::awaitable<bool> act(const Step& step) {
    const auto progress = std::make_shared<Progress>();
    progress->applying = progress->acting = step.targets.size();
    progress->is_one = step.parts;
    if (searching_) searching_->attempt = progress;
    for (const Target& target : step.targets) inject(step, target, progress);

    const MonotonicTime answer = monotonic_now() + kAnswerWithin;
    while (progress->applying > 0 && !decision_) {
      const bool going = co_await progress->changed.wait(answer);
      if (!going) co_return false;
      if (progress->applying > 0 && monotonic_now() >= answer) {
        unmet(silent(step, "was not applied", kAnswerWithin));
      }
    }
    const Duration until_done = plan::time_until_done(step.targets.front().fault);
    const MonotonicTime end =
        monotonic_now() + step.lasts +
        (until_done > Duration::zero() ? until_done + kDoneWithin : Duration::zero());
    while (progress->acting > 0 && !decision_ && !progress->enough && monotonic_now() < end) {
      const bool going = co_await progress->changed.wait(end);
      if (!going) co_return false;
    }
    if (decision_) co_return false;
    for (const Target& target : step.targets) {
      Held& held = faults_.at(target.fault.id());
      if (held.effect_ended || held.over) continue;
      held.told_to_end = true;
      sites_[held.node]->node->revert(held.id);
    }
    const Duration patience = lease_ + kSettleWithin;
    const MonotonicTime settled = monotonic_now() + patience;
    while (progress->acting > 0 && !decision_) {
      const bool going = co_await progress->changed.wait(settled);
      if (!going) co_return false;
      if (progress->acting > 0 && monotonic_now() >= settled) {
        unmet(silent(step, "did not end", patience));
      }
    }
    co_return !decision_;
  }

  /// The only place from which a fault is sent.
  void inject(const Step& step, const Target& target, const std::shared_ptr<Progress>& progress) {
    if (decision_) return;
    Site& site = *sites_[target.node];
    Held held;
    held.node = target.node;
    held.id = target.fault.id();
    held.words = plan::in_words(target.fault);
    held.progress = progress;
    v1::Event event;
    auto& injecting = *event.mutable_fault_injecting();
    injecting.set_fault(held.id);
    injecting.set_node(site.node->name());
    injecting.set_step(step.name);
    injecting.set_kind(step.parts ? "partition" : kind_of(target.fault)->name());
    injecting.set_words(held.words);
    injecting.set_lasts_ms(to_ms(step.lasts));
    // Its time is that of the sending, and not of when the sending was done.
    parts_.tell(std::move(event));
    if (decision_) return;
    faults_.emplace(held.id, std::move(held));
    ++site.injected;
    site.node->inject(target.fault);
  }

  // ---- the nodes' word
  // ---------------------------------------------------------------------------

  void on_event(Site& site, const v1::LeaseEvent& event) {
    if (event.has_settled()) return on_settled(site, event.settled());
    if (event.has_halted()) return on_halted(site, event.halted());
    const auto found = faults_.find(event.fault());
    if (found == faults_.end()) return;
    Held& held = found->second;
    // A revert that crosses a fault's own end is answered twice; what is over stays over.
    if (held.over) return;
    v1::Event told;
    if (event.has_applied()) {
      note(held, event.applied().evidence());
      if (!first_applied_) first_applied_ = monotonic_now();
      fill(*told.mutable_fault_applied(), site, held, event.applied().took(), "");
      parts_.tell(std::move(told));
      applied(held);
    } else if (event.has_evidence()) {
      note(held, event.evidence());
      fill(*told.mutable_fault_evidence(), site, held, 0, "");
      parts_.tell(std::move(told));
    } else if (event.has_effect_ended()) {
      if (event.effect_ended().has_evidence()) note(held, event.effect_ended().evidence());
      fill(*told.mutable_fault_effect_ended(), site, held, event.effect_ended().took(),
           reason_of(event.effect_ended()));
      parts_.tell(std::move(told));
      const auto reason = event.effect_ended().reason();
      const bool too_soon =
          !held.told_to_end && reason != v1::DURATION_OVER && reason != v1::RELEASED;
      // It was not given its time: what it showed until then says nothing.
      if (is_by_hand(event.effect_ended())) {
        held.effect = held.progress->effect = true;
        by_hand_.push_back(fmt::format("{} on {} was {}", held.words, site.node->name(),
                                       reason_of(event.effect_ended())));
      }
      effect_ended(site, held, too_soon ? in_words(reason) : "");
    } else if (event.has_host_changed()) {
      on_host_changed(site, held, event.host_changed());
    } else if (event.has_reverted()) {
      on_reverted(site, held, event.reverted());
    } else if (event.has_failed()) {
      on_failed(site, held, event.failed());
    }
  }

  void on_host_changed(const Site& site, const Held& held, const v1::HostAddresses& now) {
    v1::Event told;
    v1::HostChanged& line = *told.mutable_host_changed();
    line.set_fault(held.id);
    line.set_node(site.node->name());
    line.set_host(now.host());
    for (const std::string& address : now.addresses()) {
      v1::Cidr cidr;
      cidr.set_address(address);
      cidr.set_prefix(static_cast<std::uint32_t>(address.size() * 8));
      line.add_addresses(plan::format_cidr(cidr));
    }
    parts_.tell(std::move(told));
  }

  void on_reverted(Site& site, Held& held, const v1::FaultReverted& reverted) {
    v1::Event told;
    auto& line = *told.mutable_fault_reverted();
    line.set_fault(held.id);
    line.set_node(site.node->name());
    *line.mutable_residue() = reverted.residue();
    line.set_took_ms(to_ms(Duration(reverted.took())));
    parts_.tell(std::move(told));
    effect_ended(site, held, held.told_to_end ? "" : "its holder died");
    held.over = true;
    left_behind(site, reverted.residue());
  }

  void on_failed(Site& site, Held& held, const v1::FaultFailed& failed) {
    v1::Event told;
    auto& line = *told.mutable_fault_failed();
    line.set_fault(held.id);
    line.set_node(site.node->name());
    line.set_message(failed.message());
    *line.mutable_residue() = failed.residue();
    parts_.tell(std::move(told));
    held.over = true;
    applied(held);
    if (!held.effect_ended) note_end(held);
    held.progress->changed.notify();
    unmet(fmt::format("{} failed on {}: {}", held.words, site.node->name(), failed.message()));
    left_behind(site, failed.residue());
  }

  /// What is stopped on one node is stopped on all.
  void on_halted(const Site& site, const v1::Halted& halted) {
    halt(fmt::format("halted on {} by {}: {}", site.node->name(), halted.by(), halted.reason()));
  }

  void on_settled(Site& site, const v1::Settled& settled) {
    if (site.settled) return;
    v1::Event told;
    auto& line = *told.mutable_node_settled();
    line.set_node(site.node->name());
    *line.mutable_residue() = settled.residue();
    *line.mutable_changed_by_others() = settled.changed_by_others();
    parts_.tell(std::move(told));
    site.settled = true;
    last_settled_ = monotonic_now();
    for (auto& [id, held] : faults_) {
      if (sites_[held.node].get() != &site || held.over) continue;
      effect_ended(site, held, "");
      held.over = true;
    }
    left_behind(site, settled.residue());
    site.changed.notify();
  }

  void on_lost(Site& site, const Status& why) {
    site.open = false;
    site.lost = true;
    site.changed.notify();
    watch_.lost(*site.node);
    // A node whose end is proven has nothing more to say, nor has one that a new lease is tried on.
    if (site.settled || site.epoch > 1) return;
    site.why_lost = why;
    site.lost_at = monotonic_now();
    v1::Event told;
    told.mutable_node_lost()->set_node(site.node->name());
    told.mutable_node_lost()->set_reason(message_of(why));
    parts_.tell(std::move(told));
    // Of one that only asks, the checks say what its silence means.
    if (decision_ || (!site.acts && watch_.asks_from(*site.node))) return;
    const std::string sentence = fmt::format("node {} ({}) was lost: {}", site.node->name(),
                                             site.node->address(), message_of(why));
    findings_.not_injected.push_back(sentence);
    decide("node lost", sentence, monotonic_now());
  }

  void note(Held& held, const v1::Evidence& evidence) {
    held.evidence = evidence;
    held.effect = held.effect || evidence.effect();
    held.progress->effect = held.progress->effect || held.effect;
  }

  void applied(Held& held) {
    if (std::exchange(held.applied, true)) return;
    --held.progress->applying;
    held.progress->changed.notify();
  }

  void note_end(Held& held) {
    held.effect_ended = true;
    held.effect_ended_at = last_effect_end_ = monotonic_now();
    --held.progress->acting;
  }

  /// `too_soon`: why it ended before anybody asked for it, or empty.
  void effect_ended(Site& site, Held& held, const std::string& too_soon) {
    applied(held);
    if (held.effect_ended) return;
    note_end(held);
    held.progress->changed.notify();
    if (decision_) return;
    if (!too_soon.empty()) {
      unmet(fmt::format("{} ended too soon on {}: {}", held.words, site.node->name(), too_soon));
    } else if (held.progress->enough) {
      // It was not given its time.
    } else if (held.progress->is_one ? held.progress->acting == 0 && !held.progress->effect
                                     : !held.effect) {
      const std::string shown = plan::in_words(held.evidence);
      unmet(fmt::format("{} showed no effect on {}{}", held.words, site.node->name(),
                        shown.empty() ? "" : ": " + shown));
    }
  }

  template <typename Residue>
  void left_behind(const Site& site, const Residue& residue) {
    for (const std::string& sentence : residue) {
      const std::string told = fmt::format("left on {}: {}", site.node->name(), sentence);
      // A fault's own residue is read again when the node settles.
      auto& known = findings_.residue;
      if (std::find(known.begin(), known.end(), told) == known.end()) known.push_back(told);
    }
    if (!residue.empty()) decide("residue", findings_.residue.front(), monotonic_now());
  }

  // ---- the checks
  // --------------------------------------------------------------------------------

  WatchParts watch_parts() {
    WatchParts wanted;
    wanted.make_check = parts_.make_check;
    wanted.vantage_points = [this](const v1::Check& check) {
      std::vector<fleet::Node*> nodes;
      for (const std::size_t n : vantage_points(parts_.plan, check)) {
        nodes.push_back(parts_.nodes[n]);
      }
      return nodes;
    };
    wanted.tell = parts_.tell;
    wanted.on_breach = [this](const Breached& breached, std::vector<v1::Event> first) {
      on_breach(breached, std::move(first));
    };
    wanted.is_searched_for = [this](const v1::Check& check) {
      return searching_ != nullptr && check.on_breach() == v1::ABORT;
    };
    wanted.on_searched = [this](const Breached& breached) { on_searched(breached); };
    wanted.on_internal = [this](const std::string& what) { internal(what); };
    return wanted;
  }

  void on_breach(const Breached& breached, std::vector<v1::Event> first) {
    if (!first_breach_) first_breach_ = breached.seen;
    const bool aborts = breached.check.on_breach() == v1::ABORT;
    auto& known = findings_.breached;
    // What aborts is what the verdict names first.
    const auto found =
        known.insert(aborts ? known.begin() : known.end(), breach_sentence(breached));
    // An abort does not wait for the log's lines.
    if (aborts) return decide("breach", *found, breached.seen, std::move(first));
    for (v1::Event& one : first) parts_.tell(std::move(one));
  }

  void on_searched(const Breached& breached) {
    if (searching_->attempt == nullptr || !searching_->broke.empty()) return;
    searching_->broke = fmt::format("check \"{}\": observed {}, expected {}", breached.check.name(),
                                    breached.breach.observed, breached.breach.expectation);
    searching_->attempt->enough = true;
    searching_->attempt->changed.notify();
  }

  // ---- words
  // -------------------------------------------------------------------------------------

  /// Names every fault that acted at any time since the breaching answer was asked for: what acted
  /// then may be over by the time the answer is in.
  std::string breach_sentence(const Breached& breached) const {
    std::string sentence =
        fmt::format("check \"{}\" was breached {} into the method: observed {}, expected {}",
                    breached.check.name(), format_measured(breached.seen - method_started_),
                    breached.breach.observed, breached.breach.expectation);
    std::vector<std::pair<std::string, std::vector<std::string>>> acting;
    for (const auto& [id, held] : faults_) {
      if (!held.applied || (held.effect_ended && held.effect_ended_at < breached.asked)) continue;
      auto found = std::find_if(acting.begin(), acting.end(),
                                [&held](const auto& known) { return known.first == held.words; });
      if (found == acting.end()) found = acting.insert(acting.end(), {held.words, {}});
      found->second.push_back(sites_[held.node]->node->name());
    }
    for (std::size_t n = 0; n < acting.size(); ++n) {
      auto& [words, nodes] = acting[n];
      std::sort(nodes.begin(), nodes.end());
      sentence += fmt::format("{}{} on {}", n == 0 ? ", under " : " and ", words,
                              nodes.size() > 5 ? fmt::format("{} nodes", nodes.size())
                                               : fmt::format("{}", fmt::join(nodes, ", ")));
    }
    return sentence;
  }

  std::string held_sentence() const {
    if (!answer_.empty()) return answer_;
    std::string sentence = watch_.empty()
                               ? "the method went through; nothing was observed"
                               : "every check held throughout, and again after the last revert";
    if (!by_hand_.empty()) sentence += "; " + by_hand_.front();
    if (by_hand_.size() > 1) sentence += fmt::format(" (and {} more)", by_hand_.size() - 1);
    return sentence;
  }

  static std::string in_place(const Site& site, const std::string& what) {
    return fmt::format("{}: {}", site.node->address(), what);
  }

  std::string silent(const Step& step, const char* what, Duration within) const {
    std::vector<std::string> nodes;
    for (const Target& target : step.targets) {
      const Held& held = faults_.at(target.fault.id());
      if (held.applied && held.effect_ended) continue;
      nodes.push_back(sites_[held.node]->node->name());
    }
    return fmt::format("{} {} within {} on {}", step.name, what, format_duration(within),
                       fmt::join(nodes, ", "));
  }

  /// The end of what was injected on a node could not be seen.
  void tell_unproven(const Site& site) {
    std::vector<std::string> words;
    for (const auto& [id, held] : faults_) {
      if (sites_[held.node].get() == &site && !held.over) words.push_back(held.words);
    }
    if (words.empty()) words.emplace_back("what was injected");
    const MonotonicTime last_word =
        site.lost_at != MonotonicTime() ? site.lost_at : monotonic_now();
    const auto lease_end =
        std::chrono::system_clock::now() + (last_word + lease_ - monotonic_now());
    const char* why = left_
                          ? "the run was left before it was told"
                          : (site.why_lost.ok() ? "the node did not answer" : "the node was lost");
    findings_.residue.push_back(fmt::format(
        "the end of {} on {} ({}) is not proven: {}; the lease ends it by {:%H:%M:%S} UTC; to make "
        "sure, start squalld there anew: it first undoes what was left",
        fmt::join(words, " and "), site.node->name(), site.node->address(), why,
        fmt::gmtime(std::chrono::system_clock::to_time_t(
            std::chrono::time_point_cast<std::chrono::system_clock::duration>(lease_end) +
            std::chrono::seconds(1)))));
  }

  // ---- events
  // ------------------------------------------------------------------------------------

  void enter(v1::Phase phase) {
    phase_ = phase;
    const MonotonicTime now = monotonic_now();
    if (phase == v1::METHOD) method_started_ = now;
    watch_.enter(phase, now);
    v1::Event event;
    event.mutable_phase_started()->set_phase(phase);
    parts_.tell(std::move(event));
  }

  void tell_start() {
    v1::Event event;
    auto& start = *event.mutable_run_started();
    start.set_run(parts_.run);
    start.set_plan(parts_.plan.plan());
    start.set_file(parts_.file);
    start.set_hypothesis(parts_.plan.hypothesis());
    *start.mutable_tags() = parts_.plan.tags();
    start.set_seed(parts_.seed);
    start.set_lease_ms(to_ms(lease_));
    for (const auto& site : sites_) start.add_nodes(site->node->name());
    watch_.describe(start);
    start.set_version(parts_.version);
    start.set_method_ms(to_ms(length_of(parts_.schedule)));
    for (const auto& [name, parameter] : parts_.plan.params()) {
      (*start.mutable_params())[name] = plan::shown_value(name, parameter.value());
    }
    parts_.tell(std::move(event));
  }

  void tell_step(const Step& step) {
    v1::Event event;
    auto& started = *event.mutable_step_started();
    started.set_step(step.name);
    started.set_place(step.place);
    started.set_lasts_ms(to_ms(step.lasts));
    for (const Target& target : step.targets) started.add_nodes(sites_[target.node]->node->name());
    parts_.tell(std::move(event));
  }

  void tell_preflighted(const Site& site, const Step& step, const v1::Fault& fault,
                        const v1::Looked& looked) {
    const bool refused = looked.code() != 0;
    v1::Event event;
    auto& line = *event.mutable_preflighted();
    line.set_node(site.node->name());
    line.set_step(step.name);
    line.set_fault(plan::in_words(fault));
    line.set_refused(refused);
    line.set_message(looked.message());
    *line.mutable_notes() = looked.notes();
    if (looked.engine() != v1::AUTO)
      line.set_engine(looked.engine() == v1::NETEM ? "netem" : "relay");
    line.set_engine_reason(looked.engine_reason());
    *line.mutable_interfaces() = looked.interfaces();
    for (const auto& target : looked.targets()) {
      line.add_targets(fmt::format("{} {}", target.pid(), target.command()));
    }
    parts_.tell(std::move(event));
    if (!refused) return;
    findings_.not_injected.push_back(fmt::format("node {} refuses {}: {}", site.node->name(),
                                                 plan::in_words(fault), looked.message()));
  }

  void fill(v1::FaultActed& line, const Site& site, const Held& held, std::int64_t took,
            const std::string& reason) const {
    line.set_fault(held.id);
    line.set_node(site.node->name());
    *line.mutable_evidence() = held.evidence;
    line.set_words(plan::in_words(held.evidence));
    line.set_took_ms(to_ms(Duration(took)));
    line.set_reason(reason);
  }

  // ---- coroutines
  // --------------------------------------------------------------------------------

  /// Runs it to its end; what it throws is a fault of our own, and aborts.
  asio::awaitable<void> guarded(asio::awaitable<void> work) {
    co_await asio::this_coro::throw_if_cancelled(false);
    std::string thrown;
    try {
      co_await std::move(work);
      co_return;
    } catch (const std::exception& failed) {
      thrown = failed.what();
    }
    const bool cancelled = co_await fleet::is_cancelled();
    if (!cancelled) internal(thrown);
  }

  template <typename Function>
  void guarded_call(Function function) {
    try {
      function();
    } catch (const std::exception& failed) {
      internal(failed.what());
    }
  }

  Parts parts_;
  Duration lease_;
  Duration within_;
  Duration longest_queue_{};  ///< The longest that a packet may still wait when its fault ends.
  std::vector<std::unique_ptr<Site>> sites_;
  Watch watch_;
  Loads loads_;
  std::map<std::string, Held> faults_;  ///< By id; everything ever injected.
  Findings findings_;

  v1::Phase phase_ = v1::PREFLIGHT;
  std::optional<Decision> decision_;  ///< The barrier.
  Searching* searching_ = nullptr;
  std::string answer_;                ///< Of a search.
  std::vector<std::string> by_hand_;  ///< Faults that a person ended, and who.
  bool interrupted_ = false;
  bool left_ = false;

  MonotonicTime started_;
  MonotonicTime method_started_;
  MonotonicTime reverted_at_;
  std::optional<MonotonicTime> first_applied_;
  std::optional<MonotonicTime> first_breach_;
  std::optional<Duration> recovered_after_;
  MonotonicTime last_effect_end_;
  MonotonicTime last_settled_;

  fleet::Wake decided_;
};

Engine::Engine(Parts parts) : run_(std::make_unique<Run>(std::move(parts))) {}

Engine::~Engine() = default;

asio::awaitable<v1::RunEnded> Engine::run() { return run_->run(); }

void Engine::interrupt(std::string_view by) { run_->interrupt(by); }

void Engine::halt(const std::string& by, const std::string& reason) {
  run_->halt(fmt::format("halted by {}: {}", by, reason));
}

}  // namespace squall::run
