/// \file
/// Squall dies at every failpoint of every kind, once for each passage, and is started again. Which
/// there are is found out by living through each story without dying: a new kind, and a new point,
/// need no new test.
#include <doctest/doctest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "tests/support/daemon.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/survival/samples.h"

namespace squall::survival {
namespace {

using namespace support;
using std::chrono::seconds;

constexpr Duration kLease = seconds(4);
/// Only so that a broken case ends.
constexpr Duration kBound = seconds(30);

/// What happens to a fault that was applied. Who dies at a point does so on the way, or never comes
/// that far.
enum class Story {
  kReverted,
  kSwept,      // its holder dies, and the daemon sweeps
  kRecovered,  // all die, and the next daemon sweeps; only that one meets failpoints
};

constexpr std::pair<Story, const char*> kStories[] = {
    {Story::kReverted, "reverted"}, {Story::kSwept, "swept"}, {Story::kRecovered, "recovered"}};

/// The most often that one process passed each point.
using Passages = std::map<std::string, int>;

struct Life {
  const SampleKind* sample = nullptr;
  Story story = Story::kReverted;
  std::string point;  ///< Empty: nobody dies of one.
  int passage = 0;

  Passages passed;
  std::string refused;  ///< Why this node does not take the fault.
  std::vector<std::string> wrong;
};

Passages read_notes(const std::filesystem::path& file) {
  std::map<std::pair<std::string, std::string>, int> by_process;
  std::ifstream notes(file);
  for (std::string process, point; notes >> process >> point;) ++by_process[{process, point}];
  Passages most;
  for (const auto& [key, times] : by_process) {
    int& known = most[key.second];
    known = std::max(known, times);
  }
  return most;
}

std::string state_id_of(const TemporaryFolder& state) {
  std::string id;
  std::getline(std::ifstream(state.path() / "state-id"), id);
  return id;
}

using Environment = std::vector<std::pair<std::string, std::string>>;

class Scene {
 public:
  explicit Scene(Life& life) : life_(life), sample_(life.sample->make(node_)) {}

  void play() {
    const std::vector<std::string> network = fingerprint_of(node_);
    const Fingerprint targets = sample_->fingerprint();
    armed_.emplace_back("SQUALL_FAILPOINT_NOTES", notes_);
    if (!life_.point.empty()) {
      armed_.emplace_back("SQUALL_FAILPOINT", life_.point + ":" + std::to_string(life_.passage));
    }
    if (life_.story == Story::kRecovered) {
      die_in_mid_fault();
      start_armed();
    } else {
      begin_and_end();
    }
    if (!life_.refused.empty()) return;
    life_.passed = read_notes(notes_);
    const Daemon last(node_, state_.path(), plain_);
    if (const auto now = fingerprint_of(node_); now != network) {
      wrong("the node differs:\n" + difference(network, now));
    }
    if (const Fingerprint now = sample_->fingerprint(); now != targets) {
      wrong("the targets differ:\n" + difference(targets, now));
    }
    Command sweep;
    sweep.argv = {binary("squall-hold"), "--sweep", "--state-id", state_id_of(state_)};
    sweep.where = &node_;
    if (const std::string found = run(sweep); !found.empty()) {
      wrong("another sweep found:\n" + found);
    }
  }

 private:
  void wrong(const std::string& what) { life_.wrong.push_back(what); }

  v1::Fault fault() const {
    v1::Fault fault = sample_->fault();
    fault.set_id(new_fault_id());
    return fault;
  }

  /// Applied and ended, or as far as it comes.
  void begin_and_end() {
    try {
      Daemon daemon(node_, state_.path(), armed_);
      Controller controller(daemon.address(), "run", 1, kLease);
      const v1::Fault wanted = fault();
      controller.send_inject(wanted);
      const auto begun = controller.wait_for(
          [](const v1::LeaseEvent& event) { return event.has_applied() || event.has_failed(); },
          kBound);
      if (life_.point.empty() && begun && begun->has_failed()) {
        life_.refused = begun->failed().message();
        return;
      }
      if (begun && begun->has_applied()) {
        if (life_.story == Story::kSwept) {
          for (const Stranger& holder : daemon.holders()) holder.signal(SIGKILL);
        } else {
          controller.revert(wanted.id());
        }
      }
      const auto over = controller.wait_for(
          [](const v1::LeaseEvent& event) { return event.has_reverted() || event.has_failed(); },
          kBound);
      if (life_.point.empty() && !over) wrong("it does not end by itself");
    } catch (const std::runtime_error& died) {
      if (life_.point.empty()) throw;
    }
  }

  void die_in_mid_fault() {
    Daemon daemon(node_, state_.path(), plain_);
    Controller controller(daemon.address(), "run", 1, kLease);
    controller.inject(fault());
    daemon.process().signal(SIGSTOP);
    for (const Stranger& holder : daemon.holders()) {
      holder.signal(SIGKILL);
      if (!holder.ends(kBound)) wrong("a holder does not die");
    }
  }

  void start_armed() {
    try {
      const Daemon daemon(node_, state_.path(), armed_);
    } catch (const std::runtime_error& died) {
      if (life_.point.empty()) throw;
    }
  }

  Life& life_;
  Namespace node_;
  TemporaryFolder state_;
  TemporaryFolder folder_;
  std::filesystem::path notes_ = folder_.path() / "notes";
  const Environment& plain_ = takes_all();
  Environment armed_ = plain_;
  std::unique_ptr<Sample> sample_;
};

/// Whether there is time for every passage of a point by every sample, not for the first by one of
/// each kind alone. See `dev`.
bool is_long() { return std::getenv("SQUALL_SURVIVE") != nullptr; }

/// A few at a time: each waits most of its life.
void live(std::vector<Life>& lives) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < 4; ++worker) {
    workers.emplace_back([&] {
      for (std::size_t i = next++; i < lives.size(); i = next++) {
        try {
          Scene(lives[i]).play();
        } catch (const std::exception& problem) {
          lives[i].wrong.push_back(problem.what());
        }
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
}

void report(const std::vector<Life>& lives) {
  for (const Life& life : lives) {
    for (const std::string& what : life.wrong) {
      std::string words = life.sample->kind + " (" + life.sample->words + "), " +
                          kStories[static_cast<int>(life.story)].second;
      if (!life.point.empty())
        words += ", dead at " + life.point + ":" + std::to_string(life.passage);
      FAIL_CHECK(words << ": " << what);
    }
  }
}

std::set<std::string> all_points() {
  std::set<std::string> points;
  for (const char* program : {"squalld", "squall-hold"}) {
    Command list;
    list.argv = {binary(program), "--failpoints"};
    std::istringstream lines(run(list));
    for (std::string line; std::getline(lines, line);) points.insert(line);
  }
  return points;
}

TEST_CASE("there is a sample of every kind") {
  for (const hold::FaultKind& kind : hold::fault_kinds()) {
    INFO(std::string(kind.name));
    CHECK(std::any_of(samples().begin(), samples().end(),
                      [&](const SampleKind& sample) { return sample.kind == kind.name; }));
  }
}

TEST_CASE("S06: whoever dies at whichever failpoint, the next squalld leaves nothing behind") {
  std::vector<Life> whole;
  std::set<std::string> not_here;
  for (const SampleKind& sample : samples()) {
    if (sample.not_here != nullptr) {
      not_here.insert(sample.kind);
      continue;
    }
    for (const auto& [story, words] : kStories) {
      Life& life = whole.emplace_back();
      life.sample = &sample;
      life.story = story;
    }
  }
  live(whole);
  report(whole);

  std::vector<Life> cut_short;
  std::map<const SampleKind*, Passages> reverted;
  std::set<std::tuple<std::string, Story, std::string>> tried;
  for (const Life& life : whole) {
    if (!life.refused.empty()) {
      MESSAGE(life.sample->kind << " is refused here: " << life.refused);
      not_here.insert(life.sample->kind);
    }
    if (life.story == Story::kReverted) reverted[life.sample] = life.passed;
    for (const auto& [point, times] : life.passed) {
      const bool known = !tried.emplace(life.sample->kind, life.story, point).second;
      if (known && !is_long()) continue;
      // Who is armed from the start dies at its first passage, whatever comes later.
      if (life.story == Story::kSwept && reverted[life.sample].contains(point)) continue;
      for (int passage = 1; passage <= times; ++passage) {
        if (passage > 1 && !is_long()) break;
        Life& shorter = cut_short.emplace_back();
        shorter.sample = life.sample;
        shorter.story = life.story;
        shorter.point = point;
        shorter.passage = passage;
      }
    }
  }
  live(cut_short);
  report(cut_short);
  MESSAGE(cut_short.size() << " deaths");

  std::set<std::string> never = all_points();
  CHECK_FALSE(never.empty());
  for (const Life& life : cut_short) {
    // How often a process passes a point is not the same each time.
    const auto passed = life.passed.find(life.point);
    const bool died = passed != life.passed.end() && passed->second >= life.passage;
    if (died && life.wrong.empty()) never.erase(life.point);
  }
  // Every file system here makes nameless files; the lab's tests of the kind use one that does not.
  never.erase("disk.named");
  std::erase_if(never, [&](const std::string& point) {
    return not_here.contains(point.substr(0, point.find('.')));
  });
  for (const std::string& point : never) FAIL_CHECK("nobody passed " << point);
}

}  // namespace
}  // namespace squall::survival
