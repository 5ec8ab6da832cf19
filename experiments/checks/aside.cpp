#include "experiments/checks/aside.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <csignal>
#include <system_error>
#include <thread>
#include <utility>

#include "experiments/base/fd.h"

namespace squall::checks {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;

/// Shared by the thread and whoever waits. The thread touches nothing of the loop: it makes `ready`
/// readable, and that stays so.
struct Aside::Task {
  explicit Task(std::function<void()> wanted) : work(std::move(wanted)) {}

  void run() {
    try {
      work();
    } catch (...) {
      // The work's result says by itself that it is none.
    }
    done = true;
    const std::uint64_t one = 1;
    static_cast<void>(!write(ready.number(), &one, sizeof one));
  }

  std::function<void()> work;
  Fd ready{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::atomic<bool> done = false;
};

bool Aside::begin(std::function<void()> work) {
  auto task = std::make_shared<Task>(std::move(work));
  if (!task->ready.is_open()) return false;
  // Signals are for the program's own threads: one that is handled here would be missed there.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([task] { task->run(); }).detach();
    task_ = std::move(task);
  } catch (const std::system_error&) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return is_going();
}

asio::awaitable<Aside::Wait> Aside::wait(MonotonicTime deadline) {
  const std::shared_ptr<Task> task = task_;
  const auto executor = co_await asio::this_coro::executor;
  constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
  asio::steady_timer late(executor, deadline);
  bool timed_out = false;
  if (const int copy = fcntl(task->ready.number(), F_DUPFD_CLOEXEC, 3); copy >= 0) {
    asio::posix::stream_descriptor ready(executor, copy);
    const auto first =
        co_await (ready.async_wait(asio::posix::stream_descriptor::wait_read, kToken) ||
                  late.async_wait(kToken));
    timed_out = first.index() == 1 && !std::get<0>(std::get<1>(first));
  } else {
    // Without a descriptor, its end cannot be waited for; it may be seen at the deadline.
    const auto [cancelled] = co_await late.async_wait(kToken);
    timed_out = !cancelled;
  }
  if (task->done) {
    if (task_ == task) task_.reset();
    co_return Wait::kDone;
  }
  co_return timed_out ? Wait::kLate : Wait::kGivenUp;
}

}  // namespace squall::checks
