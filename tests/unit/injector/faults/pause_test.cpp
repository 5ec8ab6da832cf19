/// What a paused process does is counted by itself, in memory that it shares with the test.
#include <doctest/doctest.h>
#include <linux/capability.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ptrace.h>

#include <array>
#include <atomic>
#include <set>
#include <thread>

#include "injector/faults/processes.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/victim.h"

namespace squall::hold {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kThreads = 4;

struct Counters {
  std::array<std::atomic<std::uint64_t>, kThreads> steps;
  std::atomic<std::uint64_t> made;     // threads or processes
  std::atomic<std::uint64_t> handled;  // signals
  std::atomic<std::uint64_t> disorder;

  std::uint64_t sum() const {
    std::uint64_t all = made;
    for (const auto& one : steps) all += one;
    return all;
  }
};

void step_for_ever(std::atomic<std::uint64_t>& steps) {
  for (;;) {
    ++steps;
    support::yield_for(microseconds(200));
  }
}

/// As many threads as there are counters, beside the main thread.
void step_in_threads(Counters& counters) {
  for (auto& steps : counters.steps) std::thread([&steps] { step_for_ever(steps); }).detach();
}

bool stands(const Counters& counters) {
  const std::uint64_t before = counters.sum();
  support::yield_for(milliseconds(60));
  return counters.sum() == before;
}

bool every_thread_runs(const Counters& counters) {
  for (const auto& steps : counters.steps) {
    const std::uint64_t before = steps;
    if (!support::eventually([&] { return steps > before; }, kBound)) return false;
  }
  return true;
}

v1::Fault pause_named(const std::string& name) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(std::chrono::minutes(1)).count());
  fault.mutable_pause()->mutable_process()->set_name(name);
  return fault;
}

/// Pauses it once it has made so many more, and sees that nothing of it runs.
void check_stands(const Counters& counters, const std::string& name, std::uint64_t made) {
  const std::uint64_t before = counters.made;
  REQUIRE(support::eventually([&] { return counters.made > before + made; }, kBound));
  const auto fault = make_fault(pause_named(name));
  REQUIRE(fault->prepare().ok());
  const Status applied = fault->apply(MonotonicTime::max());
  REQUIRE_MESSAGE(applied.ok(), message_of(applied));
  CHECK(stands(counters));
  CHECK(fault->evidence().effect());
  CHECK(fault->end_effect().ok());
  CHECK(fault->clean_up().empty());
}

/// The states of all its threads, by /proc.
std::string states_of(std::uint32_t pid) {
  std::string states;
  const auto process = ProcFolder::open(pid);
  if (!process) return states;
  for (const std::uint32_t tid : process->threads()) {
    const auto stat = process->stat_of_thread(tid);
    if (stat) states += stat->state;
  }
  return states;
}

TEST_CASE("pause stops every thread of a process and lets it go on where it was") {
  const Shared<Counters> counters;
  Victim victim(unique_name("p"), [&] { step_in_threads(*counters); });
  Victim bystander(unique_name("q"), [&] {});
  REQUIRE(every_thread_runs(*counters));
  const auto fault = make_fault(pause_named(unique_name("p")));
  const auto undos = fault->prepare();
  REQUIRE(undos.ok());
  CHECK(undos->empty());
  CHECK(victim.tracer() == 0);
  const Status applied = fault->apply(MonotonicTime::max());
  REQUIRE_MESSAGE(applied.ok(), message_of(applied));
  CHECK(stands(*counters));
  CHECK(states_of(victim.pid()) == "ttttt");
  CHECK(states_of(bystander.pid()) == "S");
  const v1::Evidence evidence = fault->evidence();
  CHECK(evidence.effect());
  CHECK(evidence.pause().processes() == 1);
  CHECK(evidence.pause().threads() == 5);
  REQUIRE(evidence.pause().targets_size() == 1);
  CHECK(evidence.pause().targets(0).pid() == victim.pid());
  CHECK_FALSE(evidence.pause().targets(0).gone());
  CHECK(fault->pulse(MonotonicTime::max()).ok());
  CHECK(fault->end_effect().ok());
  CHECK(every_thread_runs(*counters));
  CHECK(fault->clean_up().empty());
  CHECK(victim.tracer() == 0);
  CHECK(fault->end_effect().ok());
}

TEST_CASE("threads that are made while the process is being stopped are stopped too") {
  const Shared<Counters> counters;
  // Each thread makes the next and ends: whoever lists them is always late.
  Victim victim(unique_name("c"), [&] {
    static Counters* shared = &*counters;
    struct Chain {
      static void* run(void*) {
        ++shared->made;
        pthread_t next;
        pthread_attr_t detached;
        ::pthread_attr_init(&detached);
        ::pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
        while (::pthread_create(&next, &detached, &run, nullptr) != 0) {
        }
        return nullptr;
      }
    };
    for (int i = 0; i < 3; ++i) {
      pthread_t first;
      ::pthread_create(&first, nullptr, &Chain::run, nullptr);
    }
  });
  for (int round = 0; round < 5; ++round) check_stands(*counters, unique_name("c"), 100);
}

TEST_CASE("a child that is made while its parent is being stopped is stopped with it") {
  const Shared<Counters> counters;
  // The children have another name, so that none of them is a target by itself.
  Victim victim(unique_name("f"), [&] {
    ::signal(SIGCHLD, SIG_IGN);
    std::thread([&] {
      for (;;) {
        if (!fork_child()) continue;
        ::prctl(PR_SET_NAME, "sqt-child");
        for (int i = 0; i < 20; ++i) {
          ++counters->made;
          support::yield_for(milliseconds(1));
        }
        ::_exit(0);
      }
    }).detach();
  });
  (void)victim;
  REQUIRE(support::eventually([&] { return counters->made > 100; }, kBound));
  const auto fault = make_fault(pause_named(unique_name("f")));
  REQUIRE(fault->prepare().ok());
  const Status applied = fault->apply(MonotonicTime::max());
  REQUIRE_MESSAGE(applied.ok(), message_of(applied));
  // Children from before are not meant, and end; then nobody is made.
  CHECK(support::eventually([&] { return stands(*counters); }, kBound));
  CHECK(fault->end_effect().ok());
  const std::uint64_t before = counters->made;
  CHECK(support::eventually([&] { return counters->made > before; }, kBound));
  CHECK(fault->clean_up().empty());
}

TEST_CASE("a process that is being replaced by another program is stopped all the same") {
  const Shared<Counters> counters;
  // Threads of its children do it: an exec gives them the number of their process.
  Victim victim(unique_name("x"), [&] {
    ::signal(SIGCHLD, SIG_IGN);
    for (int i = 0; i < 2; ++i) {
      std::thread([&] {
        for (;;) {
          ++counters->made;
          if (!fork_child()) {
            support::yield_for(milliseconds(1));
            continue;
          }
          std::thread([] { ::execlp("true", "true", nullptr); }).join();
          ::_exit(0);
        }
      }).detach();
    }
  });
  (void)victim;
  for (int round = 0; round < 20; ++round) check_stands(*counters, unique_name("x"), 5);
}

/// Counts SIGRTMIN, each with the number that follows the one before.
void count_signals(Counters& counters) {
  static Counters* shared = nullptr;
  shared = &counters;
  struct sigaction action {};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t* told, void*) {
    if (told->si_value.sival_int != static_cast<int>(shared->handled)) ++shared->disorder;
    ++shared->handled;
  };
  ::sigaction(SIGRTMIN, &action, nullptr);
}

bool send_number(std::uint32_t pid, int number) {
  sigval value{};
  value.sival_int = number;
  return ::sigqueue(static_cast<pid_t>(pid), SIGRTMIN, value) == 0;
}

TEST_CASE("signals that come during the pause are delivered after it and all of them") {
  const Shared<Counters> counters;
  Victim victim(unique_name("s"), [&] { count_signals(*counters); });
  const auto fault = make_fault(pause_named(unique_name("s")));
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  constexpr int kSignals = 50;
  for (int i = 0; i < kSignals; ++i) REQUIRE(send_number(victim.pid(), i));
  support::yield_for(milliseconds(50));
  CHECK(counters->handled == 0);
  CHECK(fault->evidence().effect());
  CHECK(fault->end_effect().ok());
  CHECK(support::eventually([&] { return counters->handled == kSignals; }, kBound));
  CHECK(counters->disorder == 0);
}

TEST_CASE("no signal is lost or comes twice however often a process is paused meanwhile") {
  const Shared<Counters> counters;
  Victim victim(unique_name("r"), [&] {
    count_signals(*counters);
    sigset_t counted;
    sigemptyset(&counted);
    sigaddset(&counted, SIGRTMIN);
    ::pthread_sigmask(SIG_BLOCK, &counted, nullptr);  // by the main thread alone, in their order
    step_in_threads(*counters);
    ::pthread_sigmask(SIG_UNBLOCK, &counted, nullptr);
  });
  constexpr int kSignals = 4000;
  const std::uint32_t pid = victim.pid();
  Victim sender(unique_name("sender"), [&] {
    std::thread([pid] {
      for (int i = 0; i < kSignals;) {
        if (send_number(pid, i)) ++i;
        support::yield_for(microseconds(50));
      }
    }).detach();
  });
  (void)sender;
  int rounds = 0;
  while (counters->handled < kSignals && rounds < 2000) {
    const auto fault = make_fault(pause_named(unique_name("r")));
    REQUIRE(fault->prepare().ok());
    const Status applied = fault->apply(MonotonicTime::max());
    REQUIRE_MESSAGE(applied.ok(), message_of(applied));
    CHECK(fault->end_effect().ok());
    CHECK(fault->clean_up().empty());
    ++rounds;
  }
  CHECK(rounds > 10);
  CHECK(support::eventually([&] { return counters->handled == kSignals; }, kBound));
  CHECK(counters->disorder == 0);
  CHECK(every_thread_runs(*counters));
}

TEST_CASE("a stop by a signal is after the pause what it would be without one") {
  const Shared<Counters> counters;
  Victim victim(unique_name("t"), [&] { step_in_threads(*counters); });
  const auto is = [&](const char* states) {
    return support::eventually([&] { return states_of(victim.pid()) == states; }, kBound);
  };
  const auto fault = make_fault(pause_named(unique_name("t")));
  const auto pause = [&] {
    REQUIRE(fault->prepare().ok());
    const Status applied = fault->apply(MonotonicTime::max());
    REQUIRE_MESSAGE(applied.ok(), message_of(applied));
    CHECK(is("ttttt"));
  };
  const auto end = [&] {
    CHECK(fault->end_effect().ok());
    CHECK(fault->clean_up().empty());
  };
  SUBCASE("stopped before and so after it") {
    victim.signal(SIGSTOP);
    REQUIRE(is("TTTTT"));
    pause();
    end();
    CHECK(is("TTTTT"));
    CHECK(stands(*counters));
    victim.signal(SIGCONT);
    CHECK(every_thread_runs(*counters));
  }
  SUBCASE("stopped before and told to go on meanwhile") {
    victim.signal(SIGSTOP);
    REQUIRE(is("TTTTT"));
    pause();
    victim.signal(SIGCONT);
    CHECK(stands(*counters));
    CHECK(states_of(victim.pid()) == "ttttt");
    end();
    CHECK(every_thread_runs(*counters));
  }
  SUBCASE("told to stop meanwhile") {
    pause();
    victim.signal(SIGSTOP);
    CHECK(states_of(victim.pid()) == "ttttt");
    end();
    CHECK(is("TTTTT"));
    CHECK(stands(*counters));
    victim.signal(SIGCONT);
    CHECK(every_thread_runs(*counters));
  }
  SUBCASE("told to stop and to go on meanwhile") {
    pause();
    victim.signal(SIGSTOP);
    victim.signal(SIGCONT);
    end();
    CHECK(every_thread_runs(*counters));
  }
}

TEST_CASE("a process that is traced already is refused with who traces it") {
  Victim victim(unique_name("v"));
  const std::uint32_t pid = victim.pid();
  Victim tracer(unique_name("g"), [pid] {
    if (::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) ::_exit(1);
  });
  const std::string why = "process " + std::to_string(pid) + " (" + unique_name("v") +
                          ") is traced by process " + std::to_string(tracer.pid()) + " (" +
                          unique_name("g") + ")";
  const auto fault = make_fault(pause_named(unique_name("v")));
  CHECK(message_of(fault->prepare().status()) == why);
  CHECK(look_at(pause_named(unique_name("v"))).message() == why);
  CHECK(victim.tracer() == tracer.pid());
}

TEST_CASE("a process that somebody traces since it was chosen is refused and the others let go") {
  const Shared<Counters> counters;
  Victim free(unique_name("w"), [&] { step_in_threads(*counters); });
  Victim victim(unique_name("w"));
  const std::uint32_t pid = victim.pid();
  const auto fault = make_fault(pause_named(unique_name("w")));
  REQUIRE(fault->prepare().ok());
  Victim tracer(unique_name("g"), [pid] {
    if (::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) != 0) ::_exit(1);
  });
  CHECK(message_of(fault->apply(MonotonicTime::max())) ==
        "process " + std::to_string(pid) + " (" + unique_name("w") + ") is traced by process " +
            std::to_string(tracer.pid()) + " (" + unique_name("g") + ")");
  CHECK(fault->end_effect().ok());
  CHECK(fault->clean_up().empty());
  CHECK(every_thread_runs(*counters));
  CHECK(free.tracer() == 0);
}

TEST_CASE("a squalld that may not trace is told so by a look") {
  Victim victim(unique_name("y"));
  Shared<std::array<char, 200>> said;
  const pid_t child = ::fork();
  if (child == 0) {
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    std::array<__user_cap_data_struct, 2> held{};
    ::syscall(SYS_capget, &header, held.data());
    held[0].effective &= ~(1U << CAP_SYS_PTRACE);
    ::syscall(SYS_capset, &header, held.data());
    const std::string message = look_at(pause_named(unique_name("y"))).message();
    message.copy(said->data(), said->size() - 1);
    ::_exit(0);
  }
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(std::string(said->data()) ==
        "processes are paused by ptrace, and squalld lacks CAP_SYS_PTRACE");
}

TEST_CASE("a number that went to another process is never stopped") {
  auto victim = std::make_unique<Victim>(unique_name("i"));
  const auto number = static_cast<pid_t>(victim->pid());
  const auto fault = make_fault(pause_named(unique_name("i")));
  REQUIRE(fault->prepare().ok());
  victim.reset();
  const Shared<Counters> counters;
  Victim innocent(
      unique_name("i"), [&] { step_in_threads(*counters); }, number);
  REQUIRE(innocent.pid() == static_cast<std::uint32_t>(number));
  CHECK(message_of(fault->apply(MonotonicTime::max())) ==
        "every target ended before it was stopped");
  CHECK(innocent.tracer() == 0);
  CHECK(every_thread_runs(*counters));
}

TEST_CASE("of those that match pause stops those that are picked") {
  Victim first(unique_name("k"));
  Victim second(unique_name("k"));
  v1::Fault wanted = pause_named(unique_name("k"));
  wanted.mutable_pause()->mutable_pick()->set_count(1);
  CHECK(look_at(wanted).targets_size() == 1);
  const auto fault = make_fault(wanted);
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  CHECK(states_of(first.pid()) + states_of(second.pid()) != "tt");
  CHECK((states_of(first.pid()) == "t" || states_of(second.pid()) == "t"));
  CHECK(fault->end_effect().ok());
}

/// Two targets in a namespace of their own, held by squall-hold.
struct Held {
  support::Namespace where;
  Shared<Counters> counters;
  Shared<Counters> others;
  std::optional<Victim> victim;
  std::optional<Victim> other;
  std::optional<support::Holder> holder;

  explicit Held(Duration lease = seconds(60)) {
    for (auto* one : {&victim, &other}) {
      const Shared<Counters>& counted = one == &victim ? counters : others;
      one->emplace(unique_name("h"), [&] {
        inside(where)();
        step_in_threads(*counted);
      });
    }
    holder.emplace(where);
    const v1::Evidence evidence = holder->inject(pause_named(unique_name("h")), lease);
    CHECK(evidence.effect());
    CHECK(evidence.pause().processes() == 2);
    CHECK(evidence.pause().threads() == 10);
    CHECK(holder->undos().empty());
    CHECK(stands(*counters));
    CHECK(stands(*others));
  }

  void check_running() const {
    CHECK(every_thread_runs(*counters));
    CHECK(every_thread_runs(*others));
    CHECK(victim->tracer() == 0);
  }
};

TEST_CASE("what is paused goes on when the fault is released") {
  Held scene;
  CHECK(scene.holder->release().empty());
  scene.check_running();
}

TEST_CASE("what is paused goes on when its holder is killed") {
  Held scene;
  scene.holder->process().signal(SIGKILL);
  scene.check_running();
}

TEST_CASE("what is paused goes on when a frozen holder is killed") {
  Held scene;
  scene.holder->process().signal(SIGSTOP);
  CHECK(stands(*scene.counters));
  scene.holder->process().signal(SIGKILL);
  scene.check_running();
}

TEST_CASE("what is paused goes on when squalld is gone") {
  Held scene;
  scene.holder->hang_up();
  scene.check_running();
  CHECK(scene.holder->process().wait(kBound).has_value());
}

TEST_CASE("what is paused goes on when the lease lapses") {
  Held scene(short_lease());
  scene.check_running();
  CHECK(scene.holder->process().wait(kBound).has_value());
}

TEST_CASE("signals that came during the pause are not lost with a killed holder") {
  const support::Namespace where;
  const Shared<Counters> counters;
  Victim victim(unique_name("e"), [&] {
    inside(where)();
    count_signals(*counters);
  });
  support::Holder holder(where);
  holder.inject(pause_named(unique_name("e")), seconds(60));
  for (int i = 0; i < 20; ++i) REQUIRE(send_number(victim.pid(), i));
  holder.process().signal(SIGKILL);
  CHECK(support::eventually([&] { return counters->handled == 20; }, kBound));
  CHECK(counters->disorder == 0);
}

TEST_CASE("the end of a paused process is told to its parent at once") {
  Held scene;
  scene.victim->signal(SIGKILL);
  CHECK(scene.victim->ends_by_signal() == SIGKILL);
  const auto evidence = scene.holder->pulse(seconds(60));
  REQUIRE(evidence.has_value());
  CHECK(evidence->pause().processes() == 1);
  CHECK(evidence->pause().targets(0).gone() != evidence->pause().targets(1).gone());
  CHECK(stands(*scene.others));
  CHECK(scene.holder->release().empty());
  CHECK(every_thread_runs(*scene.others));
}

TEST_CASE("a pause of which nobody is left ends and says so") {
  Held scene;
  scene.victim->signal(SIGKILL);
  scene.other->signal(SIGKILL);
  std::optional<v1::FromHolder> told;
  while ((told = scene.holder->hear(kBound)) && !told->has_failed()) {
  }
  REQUIRE(told.has_value());
  CHECK(told->failed().message() == "every paused process has ended, killed by somebody else");
  CHECK(told->failed().residue().empty());
}

}  // namespace
}  // namespace squall::hold
