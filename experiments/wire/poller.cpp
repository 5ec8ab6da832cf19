#include "experiments/wire/poller.h"

#include <absl/synchronization/mutex.h>
#include <grpc/support/log.h>

#include <cstdlib>

namespace squall::wire {

void search_no_deadlocks() { absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); }

std::shared_ptr<Poller> Poller::shared() {
  static std::mutex mutex;
  static std::weak_ptr<Poller> running;
  const std::lock_guard lock(mutex);
  auto poller = running.lock();
  if (!poller) running = poller = std::make_shared<Poller>();
  return poller;
}

Poller::Poller() : thread_([this] { poll(); }) {
  search_no_deadlocks();
  // What it would say on standard error, it also says in the status. For its own debugging its
  // environment still holds.
  if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function([](gpr_log_func_args*) {});
}

Poller::~Poller() {
  queue_.Shutdown();
  thread_.join();
}

void Poller::poll() {
  void* handed_back = nullptr;
  bool done = false;
  while (queue_.Next(&handed_back, &done)) {
    const std::shared_ptr<Tag> tag(static_cast<Tag*>(handed_back));
    tag->mailbox->post([tag, done] { tag->complete(done); });
  }
}

}  // namespace squall::wire
