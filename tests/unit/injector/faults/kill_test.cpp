#include <doctest/doctest.h>
#include <signal.h>

#include <string>

#include "injector/faults/fault.h"
#include "injector/faults/processes.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/victim.h"

namespace squall::hold {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

v1::Fault kill_named(const std::string& name, v1::Signal signal = v1::SIGNAL_KILL) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.mutable_kill()->mutable_process()->set_name(name);
  fault.mutable_kill()->set_signal(signal);
  return fault;
}

void ignore(int number) { ::signal(number, SIG_IGN); }

TEST_CASE("kill ends every process of that name and of no other") {
  Victim first(unique_name("a"));
  Victim second(unique_name("a"));
  Victim other(unique_name("b"));
  const auto fault = make_fault(kill_named(unique_name("a")));
  const auto undos = fault->prepare();
  REQUIRE(undos.ok());
  CHECK(undos->empty());
  CHECK_FALSE(first.ended_by().has_value());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  const v1::Evidence evidence = fault->evidence();
  CHECK(evidence.effect());
  REQUIRE(evidence.kill().victims_size() == 2);
  for (const auto& victim : evidence.kill().victims()) {
    CHECK(victim.gone());
    CHECK(victim.start_time() > 0);
  }
  CHECK(first.ended_by() == SIGKILL);
  CHECK(second.ended_by() == SIGKILL);
  CHECK_FALSE(other.ended_by().has_value());
}

TEST_CASE("kill sends the signal that was asked for") {
  const std::pair<v1::Signal, int> signals[] = {
      {v1::SIGNAL_KILL, SIGKILL}, {v1::SIGNAL_TERM, SIGTERM}, {v1::SIGNAL_INT, SIGINT},
      {v1::SIGNAL_HUP, SIGHUP},   {v1::SIGNAL_QUIT, SIGQUIT}, {v1::SIGNAL_USR1, SIGUSR1},
      {v1::SIGNAL_USR2, SIGUSR2}, {v1::SIGNAL_ABRT, SIGABRT}};
  for (const auto& [word, number] : signals) {
    CAPTURE(number);
    Victim victim(unique_name("t"), [number = number] {
      if (number != SIGKILL) ::signal(number, SIG_DFL);
    });
    v1::Fault wanted;
    wanted.mutable_kill()->mutable_process()->set_pid(victim.pid());
    wanted.mutable_kill()->set_signal(word);
    const auto fault = make_fault(wanted);
    REQUIRE(fault->prepare().ok());
    REQUIRE(fault->apply(MonotonicTime::max()).ok());
    CHECK(fault->evidence().effect());
    CHECK(fault->is_done());
    CHECK(victim.ends_by_signal() == number);
  }
}

TEST_CASE(
    "a target that ended before it was signalled is told, and no other process is signalled") {
  auto victim = std::make_unique<Victim>(unique_name("g"));
  const auto fault = make_fault(kill_named(unique_name("g")));
  REQUIRE(fault->prepare().ok());
  victim.reset();
  CHECK(fault->apply(MonotonicTime::max()).code() == StatusCode::kNotFound);
  CHECK_FALSE(fault->evidence().effect());
}

TEST_CASE("a look at kill lists its targets and touches none") {
  Victim victim(unique_name("l"));
  const v1::Looked looked = look_at(kill_named(unique_name("l")));
  REQUIRE(looked.targets_size() == 1);
  CHECK(looked.targets(0).pid() == victim.pid());
  CHECK_FALSE(looked.targets(0).command().empty());
  CHECK_FALSE(victim.ended_by().has_value());
}

TEST_CASE("of those that match kill ends those that are picked") {
  Victim first(unique_name("k"));
  Victim second(unique_name("k"));
  Victim third(unique_name("k"));
  v1::Fault wanted = kill_named(unique_name("k"));
  wanted.mutable_kill()->mutable_pick()->set_count(2);
  wanted.set_seed(4);
  CHECK(look_at(wanted).targets_size() == 2);
  CHECK(look_at(wanted).notes(0) == "2 of the 3 that match");
  const auto fault = make_fault(wanted);
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  CHECK(fault->evidence().kill().victims_size() == 2);
  int ended = 0;
  for (Victim* victim : {&first, &second, &third}) ended += victim->ended_by() ? 1 : 0;
  CHECK(ended == 2);
}

TEST_CASE("S32: a number that went to another process is never signalled") {
  auto victim = std::make_unique<Victim>(unique_name("g"));
  const auto number = static_cast<pid_t>(victim->pid());
  const auto fault = make_fault(kill_named(unique_name("g")));
  REQUIRE(fault->prepare().ok());
  victim.reset();
  Victim innocent(
      unique_name("g"), [] {}, number);
  REQUIRE(innocent.pid() == static_cast<std::uint32_t>(number));
  CHECK(fault->apply(MonotonicTime::max()).code() == StatusCode::kNotFound);
  CHECK_FALSE(innocent.ended_by().has_value());
}

TEST_CASE("whatever has not ended when the grace is over gets SIGKILL") {
  const support::Namespace where;
  Victim obedient(unique_name("b"), inside(where));
  Victim stubborn(unique_name("b"), [&] {
    inside(where)();
    ignore(SIGTERM);
  });
  v1::Fault fault = kill_named(unique_name("b"), v1::SIGNAL_TERM);
  constexpr Duration kGrace = milliseconds(300);
  fault.mutable_kill()->set_grace(kGrace.count());
  const std::uint32_t insisted = stubborn.pid();
  support::Holder holder(where);
  const MonotonicTime begun = monotonic_now();
  const v1::Evidence applied = holder.inject(fault, seconds(30));
  CHECK(applied.effect());
  CHECK(applied.kill().victims_size() == 2);
  CHECK(obedient.ends_by_signal() == SIGTERM);
  CHECK(stubborn.ends_by_signal() == SIGKILL);
  CHECK(monotonic_now() - begun >= kGrace);
  const auto over = holder.hear(kBound);
  REQUIRE(over.has_value());
  REQUIRE(over->has_effect_ended());
  CHECK(over->effect_ended().reason() == v1::DURATION_OVER);
  CHECK(over->effect_ended().evidence().effect());
  for (const auto& victim : over->effect_ended().evidence().kill().victims()) {
    CHECK(victim.gone());
    CHECK(victim.insisted() == (victim.pid() == insisted));
  }
}

TEST_CASE("a grace that nobody needs is not waited for") {
  const support::Namespace where;
  Victim obedient(unique_name("o"), inside(where));
  v1::Fault fault = kill_named(unique_name("o"), v1::SIGNAL_TERM);
  fault.mutable_kill()->set_grace(Duration(seconds(60)).count());
  support::Holder holder(where);
  holder.inject(fault, seconds(30));
  const auto over = holder.hear(kBound);
  REQUIRE(over.has_value());
  REQUIRE(over->has_effect_ended());
  CHECK(over->effect_ended().evidence().kill().victims(0).gone());
  CHECK_FALSE(over->effect_ended().evidence().kill().victims(0).insisted());
  CHECK(obedient.ends_by_signal() == SIGTERM);
}

TEST_CASE("nobody gets SIGKILL any more once the fault has ended") {
  const support::Namespace where;
  Victim stubborn(unique_name("s"), [&] {
    inside(where)();
    ignore(SIGTERM);
  });
  v1::Fault fault = kill_named(unique_name("s"), v1::SIGNAL_TERM);
  const Duration grace = 2 * short_lease();
  fault.mutable_kill()->set_grace(grace.count());
  support::Holder holder(where);
  const MonotonicTime begun = monotonic_now();
  SUBCASE("by its release") {
    holder.inject(fault, seconds(30));
    CHECK(holder.release().empty());
  }
  SUBCASE("by its lease") { holder.inject(fault, short_lease() / 2); }
  SUBCASE("by the end of squalld") {
    holder.inject(fault, seconds(30));
    holder.hang_up();
  }
  SUBCASE("by the end of its holder") {
    holder.inject(fault, seconds(30));
    holder.process().signal(SIGKILL);
  }
  CHECK(holder.process().wait(kBound).has_value());
  CHECK(monotonic_now() - begun < grace);
  support::yield_for(begun + grace + milliseconds(300) - monotonic_now());
  CHECK_FALSE(stubborn.ended_by().has_value());
}

/// A supervisor that starts its worker again when it ends, `after` that.
class Supervisor {
 public:
  Supervisor(const support::Namespace& where, const std::string& worker, Duration after)
      : process_(unique_name("sup"), [&where, worker, after] {
          inside(where)();
          if (fork_child()) supervise(worker, after);
        }) {}

 private:
  [[noreturn]] static void supervise(const std::string& worker, Duration after) {
    for (;;) {
      if (fork_child()) {
        ::prctl(PR_SET_NAME, worker.c_str());
        for (;;) ::pause();
      }
      ::waitpid(-1, nullptr, 0);
      support::yield_for(after);
    }
  }

  Victim process_;
};

std::size_t count(const support::Namespace& where, const std::string& name) {
  return where.run([&] {
    v1::Process wanted;
    wanted.set_name(name);
    const auto found = select_processes(wanted);
    return found.ok() ? found->size() : 0;
  });
}

TEST_CASE("kill sees others take the place of those it ended and says how soon") {
  const support::Namespace where;
  constexpr Duration kAfter = milliseconds(250);
  const std::string worker = unique_name("w");
  const Supervisor one(where, worker, kAfter);
  const Supervisor other(where, worker, kAfter);
  REQUIRE(support::eventually([&] { return count(where, worker) == 2; }, kBound));
  v1::Fault fault = kill_named(worker);
  fault.mutable_kill()->set_respawn(v1::WATCH);
  fault.set_for_(Duration(seconds(60)).count());
  support::Holder holder(where);
  const v1::Evidence applied = holder.inject(fault, seconds(60));
  CHECK_FALSE(applied.kill().has_respawn_time());
  std::optional<v1::Evidence> seen;
  CHECK(support::eventually(
      [&] { return (seen = holder.pulse(seconds(60))) && seen->kill().has_respawn_time(); }, kBound,
      milliseconds(20)));
  REQUIRE(seen.has_value());
  CHECK(seen->kill().respawned() == 2);
  CHECK(Duration(seen->kill().respawn_time()) >= kAfter);
  CHECK(Duration(seen->kill().respawn_time()) < kAfter + seconds(2));
  CHECK(seen->effect());
  CHECK(holder.release().empty());
  CHECK(count(where, worker) == 2);  // it has touched nothing since
}

TEST_CASE("kill says that nobody took the place of those it ended") {
  const support::Namespace where;
  Victim alone(unique_name("x"), inside(where));
  v1::Fault fault = kill_named(unique_name("x"));
  fault.mutable_kill()->set_respawn(v1::WATCH);
  fault.set_for_(Duration(milliseconds(300)).count());
  support::Holder holder(where);
  holder.inject(fault, seconds(30));
  const auto over = holder.hear(kBound);
  REQUIRE(over.has_value());
  REQUIRE(over->has_effect_ended());
  const v1::KillEvidence& kill = over->effect_ended().evidence().kill();
  CHECK(kill.respawned() == 0);
  CHECK_FALSE(kill.has_respawn_time());
}

}  // namespace
}  // namespace squall::hold
