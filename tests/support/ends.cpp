#include "tests/support/ends.h"

#include <signal.h>

#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>

#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

/// Only so that a broken case ends.
constexpr Duration kBound = seconds(30);

bool in_the_lab() { return std::getenv("SQUALL_LAB") != nullptr; }

/// One fault in mid-life.
struct Scene {
  Namespace node;
  TemporaryFolder state;
  std::optional<Daemon> daemon;
  std::optional<Controller> controller;
  v1::Fault fault;
  std::vector<Stranger> holders;  // the fault's and the spare one

  void signal_holders(int number) const {
    for (const Stranger& holder : holders) holder.signal(number);
  }
};

struct End {
  const char* words;
  std::function<void(Scene&)> provoke;
  Duration lasts = minutes(5);
  std::function<void(Scene&)> afterwards = nullptr;
};

const std::vector<End>& ends() {
  static const std::vector<End> all{
      {"released", [](Scene& scene) { scene.controller->revert(scene.fault.id()); }},
      {"its own duration over", [](Scene&) {}, seconds(3)},
      {"the controller silent", [](Scene& scene) { scene.controller->fall_silent(); }},
      {"the controller gone", [](Scene& scene) { scene.controller->vanish(); }},
      {"the holder killed", [](Scene& scene) { scene.signal_holders(SIGKILL); }},
      {"the holder frozen", [](Scene& scene) { scene.signal_holders(SIGSTOP); }, minutes(5),
       [](Scene& scene) { scene.signal_holders(SIGCONT); }},
      {"squalld told to end", [](Scene& scene) { scene.daemon->process().signal(SIGTERM); }},
      {"squalld killed", [](Scene& scene) { scene.daemon->process().signal(SIGKILL); }},
      {"squalld frozen", [](Scene& scene) { scene.daemon->process().signal(SIGSTOP); }, minutes(5),
       [](Scene& scene) { scene.daemon->process().signal(SIGCONT); }},
      {"squalld and the holders killed and squalld started again",
       [](Scene& scene) {
         scene.daemon->process().signal(SIGSTOP);
         scene.signal_holders(SIGKILL);
         scene.daemon->process().signal(SIGKILL);
         if (!scene.daemon->process().wait(kBound)) {
           throw std::runtime_error("squalld does not die");
         }
         scene.daemon.emplace(scene.node, scene.state.path());
       }},
  };
  return all;
}

/// Throws std::runtime_error with what did not go as it must.
void live_through(const End& end, const WatchedFault& watched) {
  const auto require = [](bool holds, const char* what) {
    if (!holds) throw std::runtime_error(what);
  };
  require(watched.restored(), "not as it should be before the fault");
  Scene scene;
  scene.daemon.emplace(scene.node, scene.state.path());
  scene.controller.emplace(scene.daemon->address(), "ends", 1, seconds(in_the_lab() ? 4 : 2));
  scene.fault = watched.fault;
  scene.fault.set_id(new_fault_id());
  scene.fault.set_for_(end.lasts.count());
  scene.controller->inject(scene.fault);
  scene.holders = scene.daemon->holders();
  require(watched.acts(), "the fault does not act");
  require(!watched.restored(), "nothing is changed, though the fault acts");
  end.provoke(scene);
  require(eventually(watched.restored, kBound, milliseconds(20)), "not restored");
  require(!watched.acts(), "restored, and still it acts");
  if (end.afterwards == nullptr) return;
  end.afterwards(scene);
  // Whoever wakes up must not do it again, nor undo it once more.
  for (const Stranger& holder : scene.holders) holder.ends(seconds(2));
  require(eventually(watched.restored, kBound, milliseconds(20)), "not restored after waking up");
  require(!watched.acts(), "it acts again after waking up");
}

}  // namespace

std::vector<std::string> endings_that_fail(const WatchedFault& watched) {
  std::vector<std::string> failed;
  for (const End& end : ends()) {
    try {
      live_through(end, watched);
    } catch (const std::exception& problem) {
      failed.push_back(std::string(end.words) + ": " + problem.what());
    }
  }
  return failed;
}

}  // namespace squall::support
