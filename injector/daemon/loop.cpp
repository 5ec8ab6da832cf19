#include "injector/daemon/loop.h"

#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <utility>

namespace squall::daemon {

namespace asio = boost::asio;
using boost::system::error_code;

struct Loop::Core {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> busy{context.get_executor()};
  asio::signal_set signals{context};
  std::function<void(int)> seen;
  std::mutex working;           // held by whoever runs the loop's work
  bool running = false;         // under it: run() is being called
  std::atomic<int> behind = 0;  // handed over, but left to run()

  void wait_for_signal() {
    signals.async_wait([this](const error_code& problem, int number) {
      if (problem) return;
      const std::lock_guard lock(working);
      wait_for_signal();
      const auto tell = seen;  // which may be replaced meanwhile
      tell(number);
    });
  }
};

namespace {

/// What it holds is the loop's as well, and must not end when other work may be running.
void run_and_drop(std::function<void()>& work) {
  const std::function<void()> now = std::move(work);
  now();
}

}  // namespace

Loop::Loop() : core_(std::make_unique<Core>()) {}
Loop::~Loop() = default;

void Loop::run() {
  const auto set_running = [this](bool running) {
    const std::lock_guard lock(core_->working);
    core_->running = running;
  };
  core_->context.restart();
  set_running(true);
  core_->context.run();
  set_running(false);
}

void Loop::stop() { core_->context.stop(); }

void Loop::post(std::function<void()> work) {
  asio::post(core_->context, [core = core_.get(), work = std::move(work)]() mutable {
    const std::lock_guard lock(core->working);
    run_and_drop(work);
  });
}

void Loop::hand_over(std::function<void()> work) {
  {
    const std::unique_lock lock(core_->working, std::try_to_lock);
    // Never before what was handed over earlier.
    if (lock.owns_lock() && core_->running && core_->behind == 0) return run_and_drop(work);
  }
  ++core_->behind;
  asio::post(core_->context, [core = core_.get(), work = std::move(work)]() mutable {
    const std::lock_guard lock(core->working);
    --core->behind;
    run_and_drop(work);
  });
}

asio::any_io_executor Loop::executor() { return core_->context.get_executor(); }

void Loop::on_signals(const std::vector<int>& numbers, std::function<void(int)> seen) {
  for (const int number : numbers) core_->signals.add(number);
  // One wait only: a signal completes every wait there is.
  const bool waiting = core_->seen != nullptr;
  core_->seen = std::move(seen);
  if (!waiting) core_->wait_for_signal();
}

struct Timer::State {
  explicit State(Loop& loop) : core(loop.core()), timer(core.context) {}
  Loop::Core& core;
  asio::steady_timer timer;
  std::function<void()> fire;
  std::uint64_t setting =
      0;  // which at() the waiting belongs to: a late one must not fire another's alarm
};

Timer::Timer(Loop& loop) : state_(std::make_shared<State>(loop)) {}
Timer::~Timer() { cancel(); }

void Timer::at(MonotonicTime when, std::function<void()> fire) {
  cancel();
  state_->fire = std::move(fire);
  state_->timer.expires_at(when);
  state_->timer.async_wait([state = state_, setting = state_->setting](const error_code&) {
    const std::lock_guard lock(state->core.working);
    if (setting != state->setting) return;
    ++state->setting;
    const auto due = std::move(state->fire);
    due();
  });
}

void Timer::cancel() {
  ++state_->setting;
  state_->fire = nullptr;
  state_->timer.cancel();
}

struct Watch::State : std::enable_shared_from_this<Watch::State> {
  State(Loop& loop, Fd owned, std::function<void()> call)
      : core(loop.core()),
        number(owned.number()),
        descriptor(std::move(owned)),
        stream(core.context),
        readable(std::move(call)) {
    stream.assign(number);
  }

  void wait() {
    stream.async_wait(asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const error_code& problem) {
                        const std::lock_guard lock(self->core.working);
                        if (problem || !self->alive) return;
                        self->readable();
                        if (self->alive) self->wait();
                      });
  }

  Loop::Core& core;
  int number;
  Fd descriptor;
  asio::posix::stream_descriptor stream;  // borrows the descriptor
  std::function<void()> readable;
  bool alive = true;
};

Watch::Watch(Loop& loop, Fd descriptor, std::function<void()> readable)
    : state_(std::make_shared<State>(loop, std::move(descriptor), std::move(readable))) {
  state_->wait();
}

Watch::~Watch() {
  state_->alive = false;
  // Now, and not when the cancelled wait comes round: the other end shall see it closed at once.
  state_->stream.release();
  state_->descriptor.reset();
}

int Watch::number() const { return state_->number; }

struct Worker::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void()>> waiting;
  bool ending = false;
  std::thread thread;

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [this] { return ending || !waiting.empty(); });
      if (waiting.empty()) return;
      const std::function<void()> next = std::move(waiting.front());
      waiting.pop_front();
      lock.unlock();
      next();
      lock.lock();
    }
  }
};

Worker::Worker() : state_(std::make_unique<State>()) {
  state_->thread = std::thread([state = state_.get()] { state->work(); });
}

Worker::~Worker() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  state_->changed.notify_one();
  state_->thread.join();
}

void Worker::post(std::function<void()> work) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->waiting.push_back(std::move(work));
  }
  state_->changed.notify_one();
}

}  // namespace squall::daemon
