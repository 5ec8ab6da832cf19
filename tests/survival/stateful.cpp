/// \file
/// Everything that may happen to faults, in any order: whatever it was, in the end the node is as
/// it was, and no fault has outlived its lease. RC_PARAMS="seed=N" repeats a failure, and shrinks
/// it to the fewest steps that show it.
#include <doctest/doctest.h>
#include <rapidcheck.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <ostream>
#include <sstream>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/survival/samples.h"

namespace squall::survival {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kLease = seconds(1);
/// On top of the lease, on a machine that is busy with something else: a program to start, a holder
/// that does not answer to be waited for, a sweep.
constexpr Duration kSlack = seconds(15);
constexpr Duration kBound = seconds(30);
/// Most faults are applied by then; those that are not meet the next step halfway.
constexpr Duration kMoment = milliseconds(100);
constexpr int kLives = 12;
constexpr int kMostSteps = 14;

enum class Step {
  kInject,      // the next kind
  kRevert,      // the fault that was injected last
  kAbort,       // all of them, and the lease takes no more
  kVanish,      // the controller is gone
  kFallSilent,  // the controller is there, and renews no more
  kKillHolders,
  kKillDaemon,
  kKillAll,  // at once
  kFreezeDaemon,
  kFreezeHolders,
  kThaw,
  kStart,  // a daemon, where there is none, and a lease, where none is open
};

const std::map<Step, const char*> kWords{
    {Step::kInject, "inject"},
    {Step::kRevert, "revert"},
    {Step::kAbort, "abort"},
    {Step::kVanish, "vanish"},
    {Step::kFallSilent, "fall silent"},
    {Step::kKillHolders, "kill holders"},
    {Step::kKillDaemon, "kill daemon"},
    {Step::kKillAll, "kill all"},
    {Step::kFreezeDaemon, "freeze daemon"},
    {Step::kFreezeHolders, "freeze holders"},
    {Step::kThaw, "thaw"},
    {Step::kStart, "start"},
};

// Found by rapidcheck.
[[maybe_unused]] void showValue(Step step, std::ostream& out) { out << kWords.at(step); }

class World {
 public:
  World() {
    for (const SampleKind& sample : samples()) {
      if (sample.make != nullptr && sample.kind != "kill") targets_.push_back(sample.make(node_));
    }
    before_ = look();
    start();
  }

  void take(Step step) {
    switch (step) {
      case Step::kInject:
        return inject();
      case Step::kRevert:
        if (controller_ && !injected_.empty()) controller_->revert(injected_);
        return;
      case Step::kAbort:
        if (controller_) controller_->revert_all();
        return;
      case Step::kVanish:
        controller_.reset();
        return;
      case Step::kFallSilent:
        if (controller_) controller_->fall_silent();
        return;
      case Step::kKillHolders:
        return signal_holders(SIGKILL);
      case Step::kKillDaemon:
        return kill_daemon();
      case Step::kKillAll:
        // Stopped first, or it would see its holders die and sweep.
        if (daemon_) daemon_->process().signal(SIGSTOP);
        signal_holders(SIGKILL);
        return kill_daemon();
      case Step::kFreezeDaemon:
        if (daemon_) daemon_->process().signal(SIGSTOP);
        frozen_ = daemon_.has_value();
        return;
      case Step::kFreezeHolders:
        return signal_holders(SIGSTOP);
      case Step::kThaw:
        return thaw();
      case Step::kStart:
        return start();
    }
  }

  /// Nobody renews from here on. Returns what is wrong in the end, empty if nothing is.
  std::string end() {
    controller_.reset();
    const MonotonicTime silent = monotonic_now();
    // Who sleeps for good is swept by whoever is awake, or by the next daemon.
    if (frozen_) thaw();
    if (!daemon_) daemon_.emplace(node_, state_.path(), takes_all());
    const auto same = [&] { return look() == before_; };
    if (!eventually(same, kLease + kSlack - (monotonic_now() - silent), milliseconds(20))) {
      return "a fault outlived its lease:\n" + difference(before_, look());
    }
    // Who wakes up late must not do it again, nor undo it once more.
    thaw();
    for (const Stranger& holder : known_) holder.ends(milliseconds(200));
    kill_daemon();
    daemon_.emplace(node_, state_.path(), takes_all());
    return same() ? "" : "not the same after another start:\n" + difference(before_, look());
  }

 private:
  std::vector<std::string> look() const {
    Fingerprint lines = fingerprint_of(node_);
    for (const auto& target : targets_) lines = lines + target->fingerprint();
    return lines;
  }

  void start() {
    if (frozen_) return;
    if (!daemon_) daemon_.emplace(node_, state_.path(), takes_all());
    if (controller_ && !controller_->ended(Duration::zero())) return;
    controller_.emplace(daemon_->address(), "run-" + std::to_string(++runs_), 1, kLease);
  }

  void inject() {
    if (!controller_) return;
    v1::Fault fault = targets_[next_++ % targets_.size()]->fault();
    fault.set_id(new_fault_id());
    injected_ = fault.id();
    controller_->send_inject(fault);
    controller_->wait_for(
        [&](const v1::LeaseEvent& event) {
          return event.fault() == fault.id() && (event.has_applied() || event.has_failed());
        },
        kMoment);
  }

  void signal_holders(int number) {
    if (!daemon_) return;
    for (Stranger& holder : daemon_->holders()) {
      holder.signal(number);
      known_.push_back(std::move(holder));
    }
  }

  void kill_daemon() {
    if (!daemon_) return;
    daemon_->process().signal(SIGKILL);
    daemon_->process().wait(kBound);
    daemon_.reset();
    frozen_ = false;
  }

  void thaw() {
    if (daemon_) daemon_->process().signal(SIGCONT);
    frozen_ = false;
    for (const Stranger& holder : known_) holder.signal(SIGCONT);
  }

  Namespace node_;
  TemporaryFolder state_;
  std::vector<std::unique_ptr<Sample>> targets_;
  std::vector<std::string> before_;
  std::optional<Daemon> daemon_;
  std::optional<Controller> controller_;
  std::vector<Stranger> known_;
  std::string injected_;
  std::size_t next_ = 0;
  int runs_ = 0;
  bool frozen_ = false;
};

rc::Gen<std::vector<Step>> steps() {
  // Faults more often than what befalls them.
  return rc::gen::resize(kMostSteps,
                         rc::gen::container<std::vector<Step>>(rc::gen::weightedElement<Step>({
                             {10, Step::kInject},
                             {2, Step::kRevert},
                             {1, Step::kAbort},
                             {1, Step::kVanish},
                             {1, Step::kFallSilent},
                             {2, Step::kKillHolders},
                             {1, Step::kKillDaemon},
                             {2, Step::kKillAll},
                             {1, Step::kFreezeDaemon},
                             {2, Step::kFreezeHolders},
                             {1, Step::kThaw},
                             {4, Step::kStart},
                         })));
}

TEST_CASE("whatever happens in whichever order the node reads the same in the end") {
  rc::detail::TestParams params = rc::detail::configuration().testParams;
  params.maxSuccess = kLives;
  // Shrinking takes minutes: for who repeats a failure.
  params.disableShrinking = std::getenv("RC_PARAMS") == nullptr;
  std::string wrong;
  const auto result = rc::detail::checkTestable(
      [&] {
        World world;
        for (const Step step : *steps()) world.take(step);
        wrong = world.end();
        RC_ASSERT(wrong.empty());
      },
      rc::detail::TestMetadata(), params);
  std::ostringstream told;
  rc::detail::printResultMessage(result, told);
  INFO("seed " << params.seed << "\n" << told.str() << wrong);
  CHECK(result.template is<rc::detail::SuccessResult>());
}

}  // namespace
}  // namespace squall::survival
