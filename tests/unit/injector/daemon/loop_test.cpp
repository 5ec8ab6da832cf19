#include "injector/daemon/loop.h"

#include <doctest/doctest.h>

#include <atomic>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "tests/support/eventually.h"

namespace squall::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// A loop that a thread of its own runs.
class Running {
 public:
  Running() {
    std::promise<void> runs;
    thread_ = std::thread([this, &runs] {
      loop.post([&runs] { runs.set_value(); });
      loop.run();
    });
    runs.get_future().wait();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() {
    loop.stop();
    thread_.join();
  }

  std::thread::id thread() const { return thread_.get_id(); }

  Loop loop;

 private:
  std::thread thread_;
};

TEST_CASE("what is handed over to a loop that sleeps is done by who hands it over") {
  Running running;
  // The loop's thread may be about to fall asleep still, and then does it itself.
  const bool done_here = support::eventually(
      [&] {
        std::promise<std::thread::id> by;
        running.loop.hand_over([&by] { by.set_value(std::this_thread::get_id()); });
        return by.get_future().get() == std::this_thread::get_id();
      },
      seconds(10));
  CHECK(done_here);
}

TEST_CASE("what is handed over to a loop at work waits for its turn, and what follows for it") {
  Running running;
  std::promise<void> begun;
  std::promise<void> may_end;
  running.loop.post([&] {
    begun.set_value();
    may_end.get_future().wait();
  });
  begun.get_future().wait();
  std::vector<int> order;
  std::promise<void> done;
  running.loop.hand_over([&] { order.push_back(1); });
  running.loop.hand_over([&] { order.push_back(2); });
  CHECK(order.empty());
  may_end.set_value();
  running.loop.hand_over([&] {
    order.push_back(3);
    done.set_value();
  });
  done.get_future().wait();
  CHECK(order == std::vector<int>{1, 2, 3});
}

TEST_CASE("what is handed over to a loop that nobody runs waits until somebody does") {
  Loop loop;
  std::optional<std::thread::id> by;
  loop.hand_over([&] {
    by = std::this_thread::get_id();
    loop.stop();
  });
  CHECK_FALSE(by.has_value());
  std::thread runner([&] { loop.run(); });
  const std::thread::id expected = runner.get_id();
  runner.join();
  CHECK(by == expected);
}

TEST_CASE("a loop's work is never done by two threads at once, and what it holds ends in turn") {
  constexpr int kTimes = 2'000;
  /// Counts without an atomic: a sanitizer, or the sum, tells of two threads at once.
  struct Counted {
    explicit Counted(int& to) : sum(&to) {}
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    ~Counted() { ++*sum; }
    int* sum;
  };
  int sum = 0;
  std::atomic<int> seen = 0;
  {
    Running running;
    Timer timer(running.loop);
    int ticks = 0;
    std::function<void()> tick = [&] {
      ++sum;
      if (++ticks < kTimes) timer.at(monotonic_now(), tick);
    };
    running.loop.post([&] { timer.at(monotonic_now(), tick); });
    std::vector<std::thread> threads;
    for (const bool hands_over : {true, true, false}) {
      threads.emplace_back([&, hands_over] {
        for (int i = 0; i < kTimes; ++i) {
          std::function<void()> work = [counted = std::make_shared<Counted>(sum)] {};
          if (hands_over) {
            running.loop.hand_over(std::move(work));
          } else {
            running.loop.post(std::move(work));
          }
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    const bool all = support::eventually(
        [&] {
          running.loop.post([&] { seen = sum; });
          return seen == 4 * kTimes;
        },
        seconds(20));
    CHECK(all);
  }
}

}  // namespace
}  // namespace squall::daemon
