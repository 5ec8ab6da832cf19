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

struct Watch::Watched {
  explicit Watched(const v1::Check& wanted)
      : declared(wanted),
        judge(wanted),
        every(std::max(Duration(wanted.every()), Duration(1))),
        timeout(wanted.timeout()),
        held_again_after(wanted.held_again_after()) {}

  v1::Check declared;
  std::string kind;      ///< http, tcp, exec.
  bool is_load = false;  ///< Its numbers.
  std::unique_ptr<checks::Check> check;
  checks::Judge judge;
  Duration every;
  Duration timeout;
  Duration held_again_after;
  Duration begins_after{};  ///< When it is asked for the first time, after the others began.
  fleet::Wake ask_now;
  MonotonicTime since;                         ///< What was asked before is not judged.
  std::optional<MonotonicTime> holding_since;  ///< On end, by its answers.
  bool breached = false;                       ///< And told so.

  /// Whether it has held for long enough to be believed.
  bool settled(MonotonicTime now) const {
    return holding_since && now - *holding_since >= held_again_after;
  }
};

namespace {

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
    watched_.push_back(std::make_unique<Watched>(check));
    watched_.back()->kind = kind_of(check);
    watched_.back()->check = parts_.make_check(check);
    const auto group = static_cast<std::int64_t>((watched_.size() - 1) / kTogether);
    watched_.back()->begins_after = (group * kApart) % watched_.back()->every;
  }
}

Watch::~Watch() = default;

void Watch::add(const v1::Load& load, std::unique_ptr<checks::Check> numbers) {
  watched_.push_back(std::make_unique<Watched>(check_of(load)));
  watched_.back()->kind = "http";
  watched_.back()->is_load = true;
  // It has nothing to tell before it has gone on for a while.
  watched_.back()->begins_after = watched_.back()->every;
  watched_.back()->check = std::move(numbers);
}

void Watch::describe(v1::RunStarted& start) const {
  for (const auto& watched : watched_) {
    auto& line = *start.add_checks();
    line.set_name(watched->declared.name());
    line.set_kind(watched->kind);
    line.set_load(watched->is_load);
    for (const auto& expectation : watched->declared.expect()) line.add_expect(expectation.text());
    line.set_every_ms(to_ms(watched->every));
  }
}

asio::awaitable<void> Watch::ask_all() {
  co_await asio::this_coro::throw_if_cancelled(false);
  co_await for_each(0, watched_.size(), [this](std::size_t n) { return ask(*watched_[n]); });
  // Where there is nothing to ask, or nothing can ask any more, the phases still go on.
  fleet::Wake never;
  bool going = true;
  while (going) going = co_await never.wait();
}

asio::awaitable<void> Watch::ask(Watched& watched) {
  co_await asio::this_coro::throw_if_cancelled(false);
  std::string thrown;
  try {
    MonotonicTime due = monotonic_now() + watched.begins_after;
    for (;;) {
      const bool going = co_await watched.ask_now.wait(due);
      if (!going) co_return;
      // Its turns stay where they are, however late one of them is, and whatever is asked between
      // two.
      const MonotonicTime now = monotonic_now();
      if (now >= due) due += (1 + (now - due) / watched.every) * watched.every;
      // In a coroutine of its own: how a check meets its cancellation is its own affair.
      const checks::Sample sample = co_await asio::co_spawn(
          co_await asio::this_coro::executor, watched.check->ask(), asio::use_awaitable);
      const bool cancelled = co_await fleet::is_cancelled();
      if (cancelled) co_return;
      judge(watched, sample, monotonic_now());
    }
  } catch (const std::exception& failed) {
    thrown = failed.what();
  }
  const bool cancelled = co_await fleet::is_cancelled();
  if (cancelled) co_return;
  parts_.on_internal(fmt::format("check \"{}\": {}", watched.declared.name(), thrown));
}

void Watch::judge(Watched& watched, const checks::Sample& sample, MonotonicTime seen) {
  // Asked before the method began, or before the last revert: it speaks of neither.
  if (sample.asked < watched.since) return;
  watched.judge.add(sample);
  v1::Event event;
  auto& asked = *event.mutable_check_asked();
  asked.set_check(watched.declared.name());
  asked.set_answered(sample.error.empty());
  asked.set_holds(watched.judge.holds(seen));
  asked.set_latency_ms(to_ms(sample.latency));
  asked.set_observed(watched.judge.observed());
  asked.set_error(sample.error);
  for (const checks::Finding& finding : watched.judge.findings(seen)) {
    auto& line = *asked.add_findings();
    line.set_observed(finding.observed);
    line.set_holds(finding.holds);
    if (finding.number) line.set_number(*finding.number);
  }
  if (!asked.holds()) {
    watched.holding_since.reset();
  } else if (!watched.holding_since) {
    watched.holding_since = seen;
  }
  // Counted from here an abort has no time that nobody sees.
  const MonotonicTime there = std::min(checks::arrival(sample), seen);
  std::optional<checks::Breach> breach;
  if (looking_) breach = watched.judge.breached(seen);
  std::vector<v1::Event> told;
  told.push_back(std::move(event));
  if (parts_.is_searched_for(watched.declared)) {
    if (breach) parts_.on_searched({watched.declared, *breach, sample.asked, there});
  } else if (breach && !watched.breached) {
    watched.breached = true;
    told.push_back(breach_event(watched.declared, *breach));
    parts_.on_breach({watched.declared, *breach, sample.asked, there}, std::exchange(told, {}));
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
    watched->judge.start_watching(now);
    watched->since = now;
    watched->check->forget(now);
  }
}

void Watch::judge_from(MonotonicTime time) {
  for (const auto& watched : watched_) {
    watched->judge.restart(time);
    watched->since = time;
    watched->check->forget(time);
    watched->holding_since.reset();
  }
}

void Watch::ask_now() {
  for (const auto& watched : watched_) watched->ask_now.notify();
}

Duration Watch::time_to_prove() const {
  Duration longest{};
  for (const auto& watched : watched_) {
    // Three answers at its own pace are what a window needs before it says anything.
    const Duration asks = std::max(3 * watched->every, watched->judge.longest_count());
    longest = std::max(longest, asks + watched->timeout);
  }
  return longest;
}

/// Before the method there is nothing that it could hold again after.
bool Watch::stands(const Watched& watched, MonotonicTime now) const {
  const bool again = phase_ == v1::METHOD || phase_ == v1::RECOVERY;
  return watched.judge.ready(now) && watched.judge.holds(now) && (!again || watched.settled(now));
}

asio::awaitable<bool> Watch::proven(MonotonicTime deadline, std::function<bool()> stop) {
  for (;;) {
    if (stop()) co_return false;
    const MonotonicTime now = monotonic_now();
    const bool all = std::all_of(watched_.begin(), watched_.end(),
                                 [&](const auto& watched) { return stands(*watched, now); });
    if (all) co_return true;
    if (now >= deadline) co_return false;
    const bool going = co_await judged_.wait(deadline);
    if (!going) co_return false;
  }
}

std::vector<Watch::Shortfall> Watch::shortfalls(MonotonicTime now) const {
  std::vector<Shortfall> all;
  for (const auto& watched : watched_) {
    if (stands(*watched, now)) continue;
    const std::string& name = watched->declared.name();
    const auto findings = watched->judge.findings(now);
    const auto against = std::find_if(findings.begin(), findings.end(),
                                      [](const auto& finding) { return !finding.holds; });
    if (against != findings.end()) {
      const auto& expected = watched->declared.expect(static_cast<int>(against - findings.begin()));
      all.push_back(
          {name, fmt::format("observed {}, expected {}", against->observed, expected.text())});
    } else if (watched->judge.ready(now) && watched->holding_since) {
      all.push_back({name, fmt::format("it has held for {} only, of {} that it must",
                                       format_measured(now - *watched->holding_since),
                                       format_duration(watched->held_again_after))});
    } else {
      all.push_back(
          {name, fmt::format("too few answers to say, the last: {}", watched->judge.observed())});
    }
  }
  return all;
}

}  // namespace squall::run
