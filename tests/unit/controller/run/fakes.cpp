#include "fakes.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <stdexcept>
#include <utility>

#include "controller/fleet/wake.h"

namespace squall::test {
namespace asio = boost::asio;

void FakeNode::after(Duration delay, std::function<void()> then) {
  if (delay == Duration::zero()) return asio::post(loop_, std::move(then));
  auto timer = std::make_shared<asio::steady_timer>(loop_, delay);
  timer->async_wait([timer, then = std::move(then)](const boost::system::error_code&) { then(); });
}

void FakeNode::say(v1::LeaseEvent event) {
  if (!lost_ && listener_.event) listener_.event(event);
}

void FakeNode::halt(const std::string& by, const std::string& reason) {
  v1::LeaseEvent event;
  event.mutable_halted()->set_by(by);
  event.mutable_halted()->set_reason(reason);
  asio::post(loop_, [this, event] { say(event); });
}

std::size_t FakeNode::acting() const {
  return static_cast<std::size_t>(std::count_if(held_.begin(), held_.end(), [](const auto& entry) {
    return entry.second.applied && !entry.second.over;
  }));
}

std::int64_t FakeNode::largest_delay() const {
  std::int64_t largest = 0;
  for (const auto& [id, held] : held_) {
    if (held.applied && !held.over) largest = std::max(largest, held.delay);
  }
  return largest;
}

asio::awaitable<StatusOr<v1::Description>> FakeNode::connect() {
  if (lost_ && stays_lost) co_return error(StatusCode::kUnavailable, "fake: no answer");
  if (!unreachable.ok()) co_return unreachable;
  v1::Description description;
  description.set_version(version);
  description.set_environment(environment);
  for (const std::string& kind : kinds) description.add_kinds(kind);
  co_return description;
}

asio::awaitable<StatusOr<v1::PreflightReply>> FakeNode::preflight(v1::PreflightRequest request) {
  v1::PreflightReply reply;
  for (int n = 0; n < request.faults_size(); ++n) *reply.add_faults() = looked;
  preflighted = std::move(request);
  co_return reply;
}

asio::awaitable<StatusOr<v1::Opened>> FakeNode::open(v1::Open, fleet::Listener listener) {
  if (!refuses_open.ok()) co_return refuses_open;
  ++opened;
  lost_ = false;
  barrier_ = settled_ = false;
  listener_ = std::move(listener);
  co_return v1::Opened();
}

void FakeNode::inject(const v1::Fault& fault) {
  told.push_back({"inject", fault.id(), monotonic_now()});
  held_[fault.id()] = {.delay = fault.network().delay()};
  after(apply_takes, [this, fault] {
    Held& held = held_.at(fault.id());
    if (held.over) return;
    v1::LeaseEvent event;
    event.set_fault(fault.id());
    if (fails_to_apply || barrier_) {
      held.over = true;
      event.mutable_failed()->set_message(barrier_ ? "everything was reverted" : "no such device");
      say(event);
      return settle_if_asked();
    }
    held.applied = true;
    event.mutable_applied()->mutable_evidence()->set_effect(shows_effect);
    say(event);
    const std::int64_t lasts = fault.has_for_() ? fault.for_() : fault.kill().grace();
    if (lasts == 0) return;
    after(Duration(lasts), [this, id = fault.id()] { end(id, v1::DURATION_OVER); });
  });
}

void FakeNode::revert_by(const std::string& by) {
  for (const auto& [id, held] : held_) {
    if (held.applied) end(id, v1::RELEASED, by);
  }
}

void FakeNode::end(const std::string& id, v1::EndReason reason, const std::string& by) {
  Held& held = held_.at(id);
  if (held.over) return;
  held.over = true;
  if (held.applied) {
    v1::LeaseEvent event;
    event.set_fault(id);
    event.mutable_effect_ended()->set_reason(reason);
    event.mutable_effect_ended()->set_by(by);
    event.mutable_effect_ended()->mutable_evidence()->set_effect(shows_effect);
    say(event);
  }
  v1::LeaseEvent event;
  event.set_fault(id);
  event.mutable_reverted();
  say(event);
  settle_if_asked();
}

void FakeNode::revert(const std::string& fault) {
  told.push_back({"revert", fault, monotonic_now()});
  after(revert_takes, [this, fault] { end(fault, v1::RELEASED); });
}

void FakeNode::revert_all() {
  told.push_back({"revert_all", "", monotonic_now()});
  barrier_ = true;
  after(revert_takes, [this] {
    for (const auto& [id, held] : held_) {
      if (held.applied) end(id, v1::RELEASED);
    }
    settle_if_asked();
  });
}

void FakeNode::settle_if_asked() {
  const bool busy =
      std::any_of(held_.begin(), held_.end(), [](const auto& entry) { return !entry.second.over; });
  if (!barrier_ || settled_ || !settles || busy) return;
  settled_ = true;
  v1::LeaseEvent event;
  for (const std::string& line : residue) event.mutable_settled()->add_residue(line);
  event.mutable_settled();
  say(event);
}

void FakeNode::lose(const std::string& why) {
  lost_ = true;
  // The node itself reverts what it holds.
  for (auto& [id, held] : held_) held.over = true;
  if (const auto lost = std::exchange(listener_.lost, nullptr)) {
    lost(error(StatusCode::kUnavailable, why));
  }
}

asio::awaitable<void> FakeNode::close() {
  closed = true;
  co_return;
}

namespace {

class FakeCheck final : public checks::Check {
 public:
  FakeCheck(Answers answers, std::function<bool()> held)
      : answers_(std::move(answers)), held_(std::move(held)) {}

  asio::awaitable<checks::Sample> ask() override {
    checks::Sample sample;
    sample.asked = monotonic_now();
    const std::int64_t status = answers_ ? answers_(sample.asked) : 200;
    if (status == 0) throw std::runtime_error("the check's own code broke");
    if (status < 0) {
      asio::steady_timer never(co_await asio::this_coro::executor, MonotonicTime::max());
      co_await never.async_wait(asio::use_awaitable);
    }
    while (held_ && held_()) {
      asio::steady_timer soon(co_await asio::this_coro::executor, std::chrono::milliseconds(1));
      co_await soon.async_wait(asio::use_awaitable);
    }
    sample.latency = std::chrono::microseconds(100);
    sample.status = status;
    co_return sample;
  }

 private:
  Answers answers_;
  std::function<bool()> held_;
};

class FakeTraffic final : public load::Load {
 public:
  FakeTraffic(FakeLoad& told, std::string name) : told_(told), name_(std::move(name)) {}

  Status start(const asio::any_io_executor&) override {
    told_.begun = told_.refuses.ok();
    return told_.refuses;
  }

  std::unique_ptr<checks::Check> numbers() override { return std::make_unique<Numbers>(told_); }

  asio::awaitable<std::string> failed() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    fleet::Wake never;
    for (;;) {
      if (told_.dies && told_.dies()) co_return "it died";
      const bool going = co_await never.wait(monotonic_now() + std::chrono::milliseconds(5));
      if (!going) co_return "";
    }
  }

  asio::awaitable<v1::LoadEnded> end(bool in_haste) override {
    told_.ended = true;
    told_.in_haste = in_haste;
    v1::LoadEnded ended;
    ended.set_load(name_);
    co_return ended;
  }

 private:
  class Numbers final : public checks::Check {
   public:
    explicit Numbers(FakeLoad& told) : told_(told), since_(monotonic_now()) {}

    asio::awaitable<checks::Sample> ask() override {
      checks::Sample sample;
      auto tally = std::make_shared<checks::Tally>();
      tally->from = sample.asked = std::exchange(since_, monotonic_now());
      tally->until = since_;
      tally->answered.add(told_.is ? told_.is() : std::chrono::milliseconds(10), 100);
      sample.tally = std::move(tally);
      co_return sample;
    }

    void forget(MonotonicTime before) override { since_ = before; }

   private:
    FakeLoad& told_;
    MonotonicTime since_;
  };

  FakeLoad& told_;
  std::string name_;
};

}  // namespace

namespace {

class FakeRemoteCheck final : public fleet::RemoteCheck {
 public:
  FakeRemoteCheck(Answers answers, const Status& refuses, std::size_t& asked)
      : check_(std::move(answers), nullptr), refuses_(refuses), asked_(asked) {}

  asio::awaitable<checks::Sample> ask() override {
    ++asked_;
    return check_.ask();
  }
  Status refused() const override { return refuses_; }

 private:
  FakeCheck check_;
  const Status& refuses_;
  std::size_t& asked_;
};

}  // namespace

std::unique_ptr<fleet::RemoteCheck> FakeNode::check(const v1::Check& wanted) {
  // Looked up when it is asked: a test says what is answered after the run was made, too.
  return std::make_unique<FakeRemoteCheck>(
      [this, name = wanted.name()](MonotonicTime now) -> std::int64_t {
        const auto found = answers.find(name);
        return found == answers.end() ? 200 : found->second(now);
      },
      refuses_to_ask, asked);
}

World::World(std::size_t count) {
  plan.set_plan("a test");
  plan.set_lease(Duration(std::chrono::seconds(1)).count());
  plan.mutable_recovery()->set_within(Duration(std::chrono::milliseconds(300)).count());
  for (std::size_t n = 1; n <= count; ++n) {
    const std::string name = "node-" + std::to_string(n);
    nodes.push_back(std::make_unique<FakeNode>(loop, name));
    (*plan.mutable_nodes())[name].set_address("fake:" + name);
  }
}

v1::Check& World::add_check(const std::string& name, Duration every) {
  v1::Check& check = *plan.add_steady_state();
  check.set_name(name);
  check.set_every(every.count());
  check.set_timeout(every.count());
  check.mutable_http()->set_url("http://fake/");
  v1::Expectation& expectation = *check.add_expect();
  expectation.set_text("status == 200");
  expectation.set_metric("status");
  expectation.set_op(v1::EQUAL);
  expectation.add_values()->set_number(200);
  return check;
}

v1::Load& World::add_load(const std::string& name) {
  v1::Load& load = *plan.add_load();
  load.set_name(name);
  load.mutable_http()->set_url("http://fake/");
  load.mutable_http()->set_rate(100);
  v1::Expectation& expectation = *load.add_expect();
  expectation.set_text("p99 < 300ms");
  expectation.set_metric("p99");
  expectation.set_op(v1::LESS);
  expectation.add_values()->set_number(300e6);
  return load;
}

v1::Step& World::add_fault(Duration lasts, const std::string& on) {
  v1::Step& step = *plan.add_method();
  step.mutable_fault()->set_for_(lasts.count());
  step.mutable_fault()->mutable_network()->set_delay(1'000'000);
  if (on.empty()) {
    step.mutable_on()->set_all(true);
  } else {
    step.mutable_on()->set_node(on);
  }
  return step;
}

v1::Step& World::add_kill(const std::string& on) {
  v1::Step& step = *plan.add_method();
  step.mutable_fault()->mutable_kill()->mutable_process()->set_name("victim");
  if (on.empty()) {
    step.mutable_on()->set_all(true);
  } else {
    step.mutable_on()->set_node(on);
  }
  return step;
}

v1::Step& World::add_wait(Duration lasts) {
  v1::Step& step = *plan.add_method();
  step.set_wait(lasts.count());
  return step;
}

v1::RunEnded World::run() {
  run::Parts parts;
  parts.plan = plan;
  parts.run = "20260101-000000-test";
  parts.file = "test.yaml";
  parts.seed = seed;
  parts.version = "test";
  auto schedule = run::make_schedule(plan, seed);
  REQUIRE_MESSAGE(schedule.ok(), message_of(schedule.status()));
  parts.schedule = *std::move(schedule);
  for (const auto& node : nodes) parts.nodes.push_back(node.get());
  parts.make_check = [this](const v1::Check& check) -> std::unique_ptr<checks::Check> {
    const auto found = answers.find(check.name());
    return std::make_unique<FakeCheck>(found == answers.end() ? Answers() : found->second,
                                       holds_answers);
  };
  parts.make_load = [this](const v1::Load& load) -> std::unique_ptr<load::Load> {
    return std::make_unique<FakeTraffic>(loads[load.name()], load.name());
  };
  parts.ask = ask;
  parts.tell = [this](v1::Event event) {
    events.push_back(event);
    if (on_event) on_event(event);
  };
  engine = std::make_unique<run::Engine>(std::move(parts));
  std::optional<v1::RunEnded> ended;
  asio::co_spawn(loop, engine->run(), [&](const std::exception_ptr& thrown, v1::RunEnded result) {
    CHECK_FALSE(thrown);
    ended = std::move(result);
    loop.stop();
  });
  loop.run_for(std::chrono::seconds(20));
  REQUIRE(ended);
  return *ended;
}

std::vector<v1::Event> World::of(v1::Event::EventCase kind) const {
  std::vector<v1::Event> found;
  std::copy_if(events.begin(), events.end(), std::back_inserter(found),
               [kind](const v1::Event& event) { return event.event_case() == kind; });
  return found;
}

std::string World::phases() const {
  static const char* const kNames[] = {"preflight", "steady",   "method",
                                       "revert",    "recovery", "verdict"};
  std::string walked;
  for (const v1::Event& event : of(v1::Event::kPhaseStarted)) {
    walked += (walked.empty() ? "" : " ") + std::string(kNames[event.phase_started().phase()]);
  }
  return walked;
}

std::vector<Command> World::told() const {
  std::vector<Command> all;
  for (const auto& node : nodes) all.insert(all.end(), node->told.begin(), node->told.end());
  std::stable_sort(all.begin(), all.end(),
                   [](const Command& a, const Command& b) { return a.at < b.at; });
  return all;
}

}  // namespace squall::test
