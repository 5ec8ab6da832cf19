#include "injector/daemon/loop.h"

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

  void wait_for_signal() {
    signals.async_wait([this](const error_code& problem, int number) {
      if (problem) return;
      wait_for_signal();
      const auto tell = seen;  // which may be replaced meanwhile
      tell(number);
    });
  }
};

Loop::Loop() : core_(std::make_unique<Core>()) {}
Loop::~Loop() = default;

void Loop::run() {
  core_->context.restart();
  core_->context.run();
}
void Loop::stop() { core_->context.stop(); }
void Loop::post(std::function<void()> work) { asio::post(core_->context, std::move(work)); }

void Loop::on_signals(const std::vector<int>& numbers, std::function<void(int)> seen) {
  for (const int number : numbers) core_->signals.add(number);
  // One wait only: a signal completes every wait there is.
  const bool waiting = core_->seen != nullptr;
  core_->seen = std::move(seen);
  if (!waiting) core_->wait_for_signal();
}

struct Timer::State {
  explicit State(Loop& loop) : timer(loop.core().context) {}
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
      : number(owned.number()),
        descriptor(std::move(owned)),
        stream(loop.core().context),
        readable(std::move(call)) {
    stream.assign(number);
  }

  void wait() {
    stream.async_wait(asio::posix::stream_descriptor::wait_read,
                      [self = shared_from_this()](const error_code& problem) {
                        if (problem || !self->alive) return;
                        self->readable();
                        if (self->alive) self->wait();
                      });
  }

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
