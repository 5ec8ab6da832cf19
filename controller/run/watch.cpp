#include "controller/run/watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <utility>

#include "controller/run/together.h"
#include "experiments/base/units.h"

namespace squall::run {
namespace asio = boost::asio;

/// How often a load's numbers are asked.
constexpr Duration kEverySecond = std::chrono::seconds(1);
/// A thousand checks that are asked at the same moment would measure how long they wait for one
/// another; each asked at a moment of its own would wake the loop a thousand times. So some are
/// asked together, and the next a little later.
constexpr std::size_t kTogether = 10;
constexpr Duration kApart = std::chrono::milliseconds(10);

/// A check as asked by one node, or by squall itself.
struct Watch::Vantage {
  explicit Vantage(const v1::Check& wanted) : judge(wanted) {}

  const fleet::Node* node = nullptr;     ///< Null: squall itself.
  fleet::RemoteCheck* remote = nullptr;  ///< The check below, where a node asks it.
  std::unique_ptr<checks::Check> check;
  checks::Judge judge;
  fleet::Wake ask_now;
  bool lost = false;

  // By its latest news.
  bool holds = false;
  std::optional<checks::Breach> breach;

  bool stands(MonotonicTime now) const { return judge.ready(now) && judge.holds(now); }

  /// What is said of it, and by whom: p99 412ms from web-1
  std::string placed(const std::string& words) const {
    return node == nullptr ? words : fmt::format("{} from {}", words, node->name());
  }
};

struct Watch::Watched {
  explicit Watched(const v1::Check& wanted)
      : declared(wanted),
        every(std::max(Duration(wanted.every()), Duration(1))),
        timeout(wanted.timeout()),
        held_again_after(wanted.held_again_after()) {}

  v1::Check declared;
  std::string kind;                                ///< http, tcp, exec.
  bool is_load = false;                            ///< Its numbers.
  std::vector<std::unique_ptr<Vantage>> vantages;  ///< One at least.
  Duration every;
  Duration timeout;
  Duration held_again_after;
  Duration begins_after{};  ///< When it is asked for the first time, after the others began.
  MonotonicTime since;      ///< What was asked before is not judged.
  std::optional<MonotonicTime> holding_since;  ///< On end, by its answers.
  bool breached = false;                       ///< And told so.

  Vantage& ask_from(std::unique_ptr<checks::Check> check) {
    Vantage& vantage = *vantages.emplace_back(std::make_unique<Vantage>(declared));
    vantage.check = std::move(check);
    return vantage;
  }

  /// From how many of its vantage points it must hold.
  std::size_t needed() const {
    const v1::Quorum& of = declared.of();
    if (of.has_count()) return std::min<std::size_t>(of.count(), vantages.size());
    return of.has_majority() && of.majority() ? vantages.size() / 2 + 1 : vantages.size();
  }

  template <typename Predicate>
  std::size_t count(Predicate predicate) const {
    return static_cast<std::size_t>(
        std::count_if(vantages.begin(), vantages.end(),
                      [&](const auto& vantage) { return predicate(*vantage); }));
  }

  /// From how many of them it holds, by answers enough to say so.
  std::size_t standing(MonotonicTime now) const {
    return count([now](const Vantage& vantage) { return vantage.stands(now); });
  }

  /// Whether each of them has answers enough to say how it stands.
  bool is_ready(MonotonicTime now) const {
    return count([now](const Vantage& vantage) { return vantage.judge.ready(now); }) ==
           vantages.size();
  }

  /// (2 of 3 must hold, 1 does). Empty where one alone asks.
  std::string tally(std::size_t hold) const {
    if (vantages.size() == 1) return "";
    return fmt::format(" ({} of {} must hold, {})", needed(), vantages.size(),
                       hold == 0   ? "none does"
                       : hold == 1 ? "1 does"
                                   : fmt::format("{} do", hold));
  }

  /// In the words of whose news it is, where that is against it.
  std::optional<checks::Breach> breach(const Vantage& news) const {
    const auto unbreached = count([](const Vantage& one) { return !one.breach; });
    if (unbreached >= needed()) return std::nullopt;
    const Vantage* told = &news;
    if (!news.breach) {
      told = std::find_if(vantages.begin(), vantages.end(), [](const auto& one) {
               return one->breach.has_value();
             })->get();
    }
    checks::Breach breach = *told->breach;
    breach.observed = told->placed(breach.observed) + tally(unbreached);
    return breach;
  }

  /// Whether it has held for long enough to be believed.
  bool settled(MonotonicTime now) const {
    return holding_since && now - *holding_since >= held_again_after;
  }
};

namespace {

/// In a coroutine of its own: how a check meets its cancellation is its own affair.
asio::awaitable<checks::Sample> once(checks::Check& check) {
  co_return co_await asio::co_spawn(co_await asio::this_coro::executor, check.ask(),
                                    asio::use_awaitable);
}

std::string kind_of(const v1::Check& check) {
  const auto* kind = check.GetReflection()->GetOneofFieldDescriptor(
      check, v1::Check::descriptor()->FindOneofByName("kind"));
  return kind == nullptr ? "" : kind->name();
}

/// What a load's numbers are held against.
v1::Check check_of(const v1::Load& load) {
  v1::Check check;
  check.set_name(load.name());
  *check.mutable_expect() = load.expect();
  check.set_on_breach(load.on_breach());
  // A rare request is not asked for before it can be there.
  const auto between = static_cast<std::int64_t>(1e9 / std::max(load.http().rate(), 1e-3));
  check.set_every(std::max(between, Duration(kEverySecond).count()));
  check.set_timeout(load.http().timeout());
  return check;
}

v1::Event breach_event(const v1::Check& check, const checks::Breach& breach) {
  v1::Event event;
  auto& line = *event.mutable_check_breached();
  line.set_check(check.name());
  line.set_expectation(breach.expectation);
  line.set_observed(breach.observed);
  line.set_aborts(check.on_breach() == v1::ABORT);
  line.set_since_ms(to_ms(breach.since));
  return event;
}

}  // namespace

Watch::Watch(const v1::Plan& plan, WatchParts parts) : parts_(std::move(parts)) {
  for (const v1::Check& check : plan.steady_state()) {
    Watched& watched = *watched_.emplace_back(std::make_unique<Watched>(check));
    watched.kind = kind_of(check);
    const auto group = static_cast<std::int64_t>((watched_.size() - 1) / kTogether);
    watched.begins_after = (group * kApart) % watched.every;
    for (fleet::Node* node : parts_.vantage_points(check)) {
      auto remote = node->check(check);
      fleet::RemoteCheck* asked = remote.get();
      Vantage& vantage = watched.ask_from(std::move(remote));
      vantage.node = node;
      vantage.remote = asked;
    }
    if (watched.vantages.empty()) watched.ask_from(parts_.make_check(check));
  }
}

Watch::~Watch() = default;

void Watch::add(const v1::Load& load, std::unique_ptr<checks::Check> numbers) {
  Watched& watched = *watched_.emplace_back(std::make_unique<Watched>(check_of(load)));
  watched.kind = "http";
  watched.is_load = true;
  // It has nothing to tell before it has gone on for a while.
  watched.begins_after = watched.every;
  watched.ask_from(std::move(numbers));
}

void Watch::describe(v1::RunStarted& start) const {
  for (const auto& watched : watched_) {
    auto& line = *start.add_checks();
    line.set_name(watched->declared.name());
    line.set_kind(watched->kind);
    line.set_load(watched->is_load);
    for (const auto& expectation : watched->declared.expect()) line.add_expect(expectation.text());
    line.set_every_ms(to_ms(watched->every));
    for (const auto& vantage : watched->vantages) {
      if (vantage->node != nullptr) line.add_from(vantage->node->name());
    }
  }
}

bool Watch::asks_from(const fleet::Node& node) const {
  return std::any_of(watched_.begin(), watched_.end(), [&](const auto& watched) {
    return std::any_of(watched->vantages.begin(), watched->vantages.end(),
                       [&](const auto& vantage) { return vantage->node == &node; });
  });
}

asio::awaitable<std::vector<std::pair<std::string, Status>>> Watch::try_from(
    const fleet::Node& node) {
  co_await asio::this_coro::throw_if_cancelled(false);
  std::vector<std::pair<std::string, fleet::RemoteCheck*>> asked;
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) {
      if (vantage->node == &node) asked.emplace_back(watched->declared.name(), vantage->remote);
    }
  }
  co_await for_each(0, asked.size(), [&asked](std::size_t n) -> asio::awaitable<void> {
    co_await once(*asked[n].second);
  });
  std::vector<std::pair<std::string, Status>> refused;
  for (const auto& [name, check] : asked) {
    if (Status why = check->refused(); !why.ok()) refused.emplace_back(name, std::move(why));
  }
  co_return refused;
}

void Watch::set_lost(const fleet::Node& node, bool lost) {
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) {
      if (vantage->node == &node) vantage->lost = lost;
    }
  }
}

asio::awaitable<void> Watch::ask_all() {
  co_await asio::this_coro::throw_if_cancelled(false);
  std::vector<std::pair<Watched*, Vantage*>> all;
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) all.emplace_back(watched.get(), vantage.get());
  }
  co_await for_each(0, all.size(),
                    [this, &all](std::size_t n) { return ask(*all[n].first, *all[n].second); });
  // Where there is nothing to ask, or nothing can ask any more, the phases still go on.
  fleet::Wake never;
  bool going = true;
  while (going) going = co_await never.wait();
}

asio::awaitable<void> Watch::ask(Watched& watched, Vantage& vantage) {
  co_await asio::this_coro::throw_if_cancelled(false);
  std::string thrown;
  try {
    MonotonicTime due = monotonic_now() + watched.begins_after;
    for (;;) {
      const bool going = co_await vantage.ask_now.wait(due);
      if (!going) co_return;
      // Its turns stay where they are, however late one of them is, and whatever is asked between
      // two.
      const MonotonicTime now = monotonic_now();
      if (now >= due) due += (1 + (now - due) / watched.every) * watched.every;
      if (vantage.lost) {
        // Its silence counts as well, and no answer brings it up.
        look(watched, vantage, now, now, now, {});
        continue;
      }
      const checks::Sample sample = co_await once(*vantage.check);
      const bool cancelled = co_await fleet::is_cancelled();
      if (cancelled) co_return;
      // Cut off with the node, it says nothing of what was asked about.
      if (!vantage.lost) judge(watched, vantage, sample, monotonic_now());
    }
  } catch (const std::exception& failed) {
    thrown = failed.what();
  }
  const bool cancelled = co_await fleet::is_cancelled();
  if (cancelled) co_return;
  parts_.on_internal(fmt::format("check \"{}\": {}", watched.declared.name(), thrown));
}

void Watch::judge(Watched& watched, Vantage& vantage, const checks::Sample& sample,
                  MonotonicTime seen) {
  // Asked before the method began, or before the last revert: it speaks of neither.
  if (sample.asked < watched.since) return;
  vantage.judge.add(sample);
  v1::Event event;
  auto& asked = *event.mutable_check_asked();
  asked.set_check(watched.declared.name());
  if (vantage.node != nullptr) asked.set_from(vantage.node->name());
  asked.set_answered(sample.error.empty());
  asked.set_holds(vantage.judge.holds(seen));
  asked.set_latency_ms(to_ms(sample.latency));
  asked.set_observed(vantage.judge.observed());
  asked.set_error(sample.error);
  for (const checks::Finding& finding : vantage.judge.findings(seen)) {
    auto& line = *asked.add_findings();
    line.set_observed(finding.observed);
    line.set_holds(finding.holds);
    if (finding.number) line.set_number(*finding.number);
  }
  std::vector<v1::Event> told;
  told.push_back(std::move(event));
  // Counted from here an abort has no time that nobody sees.
  const MonotonicTime there = std::min(checks::arrival(sample), seen);
  look(watched, vantage, sample.asked, there, seen, std::move(told));
}

/// How the check stands as a whole, now that there is news, or none, from one of its vantage
/// points.
void Watch::look(Watched& watched, Vantage& vantage, MonotonicTime asked, MonotonicTime there,
                 MonotonicTime seen, std::vector<v1::Event> told) {
  vantage.holds = vantage.judge.holds(seen);
  vantage.breach = looking_ ? vantage.judge.breached(seen) : std::nullopt;
  if (watched.count([](const Vantage& one) { return one.holds; }) < watched.needed()) {
    watched.holding_since.reset();
  } else if (!watched.holding_since) {
    watched.holding_since = seen;
  }
  const std::optional<checks::Breach> breach = watched.breach(vantage);
  if (parts_.is_searched_for(watched.declared)) {
    if (breach) parts_.on_searched({watched.declared, *breach, asked, there});
  } else if (breach && !watched.breached) {
    watched.breached = true;
    told.push_back(breach_event(watched.declared, *breach));
    parts_.on_breach({watched.declared, *breach, asked, there}, std::exchange(told, {}));
  } else if (watched.breached && !breach && watched.settled(seen) &&
             (phase_ == v1::METHOD || phase_ == v1::RECOVERY)) {
    watched.breached = false;
    told.emplace_back().mutable_check_held_again()->set_check(watched.declared.name());
  }
  for (v1::Event& one : told) parts_.tell(std::move(one));
  judged_.notify();
}

void Watch::enter(v1::Phase phase, MonotonicTime now) {
  phase_ = phase;
  looking_ = phase == v1::METHOD;
  if (phase != v1::METHOD) return;
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) {
      vantage->judge.start_watching(now);
      vantage->check->forget(now);
      vantage->breach.reset();
    }
    watched->since = now;
  }
}

void Watch::judge_from(MonotonicTime time) {
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) {
      vantage->judge.restart(time);
      vantage->check->forget(time);
      vantage->holds = false;
      vantage->breach.reset();
    }
    watched->since = time;
    watched->holding_since.reset();
  }
}

void Watch::ask_now() {
  for (const auto& watched : watched_) {
    for (const auto& vantage : watched->vantages) vantage->ask_now.notify();
  }
}

Duration Watch::time_to_prove() const {
  Duration longest{};
  for (const auto& watched : watched_) {
    // Three answers at its own pace are what a window needs before it says anything.
    const Duration asks =
        std::max(3 * watched->every, watched->vantages.front()->judge.longest_count());
    longest = std::max(longest, asks + watched->timeout);
  }
  return longest;
}

/// Before the method there is nothing that it could hold again after.
bool Watch::stands(const Watched& watched, MonotonicTime now) const {
  const bool again = phase_ == v1::METHOD || phase_ == v1::RECOVERY;
  return watched.standing(now) >= watched.needed() && (!again || watched.settled(now));
}

asio::awaitable<bool> Watch::proven(MonotonicTime deadline, std::function<bool()> stop) {
  for (;;) {
    if (stop()) co_return false;
    const MonotonicTime now = monotonic_now();
    const bool all = std::all_of(watched_.begin(), watched_.end(),
                                 [&](const auto& watched) { return stands(*watched, now); });
    // Baselines are learnt until then, and each vantage point has its own.
    const bool learning = phase_ == v1::STEADY &&
                          !std::all_of(watched_.begin(), watched_.end(),
                                       [&](const auto& watched) { return watched->is_ready(now); });
    if (all && !learning) co_return true;
    if (now >= deadline) co_return all;
    const bool going = co_await judged_.wait(deadline);
    if (!going) co_return false;
  }
}

std::vector<Watch::Shortfall> Watch::shortfalls(MonotonicTime now) const {
  std::vector<Shortfall> all;
  for (const auto& watched : watched_) {
    if (!stands(*watched, now)) all.push_back({watched->declared.name(), shortfall(*watched, now)});
  }
  return all;
}

std::string Watch::shortfall(const Watched& watched, MonotonicTime now) const {
  const std::size_t holding = watched.standing(now);
  if (holding >= watched.needed() && watched.holding_since) {
    return fmt::format("it has held for {} only, of {} that it must",
                       format_measured(now - *watched.holding_since),
                       format_duration(watched.held_again_after));
  }
  const Vantage* silent = nullptr;
  for (const auto& vantage : watched.vantages) {
    if (vantage->stands(now)) continue;
    const auto findings = vantage->judge.findings(now);
    const auto against = std::find_if(findings.begin(), findings.end(),
                                      [](const auto& finding) { return !finding.holds; });
    if (against != findings.end()) {
      const auto& expected = watched.declared.expect(static_cast<int>(against - findings.begin()));
      return fmt::format("observed {}{}, expected {}", vantage->placed(against->observed),
                         watched.tally(holding), expected.text());
    }
    if (silent == nullptr) silent = vantage.get();
  }
  if (silent == nullptr) silent = watched.vantages.front().get();
  return fmt::format("too few answers to say, the last: {}{}",
                     silent->placed(silent->judge.observed()), watched.tally(holding));
}

}  // namespace squall::run
