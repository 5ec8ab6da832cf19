/// \file
/// exec: runs a program and takes its exit code and its standard output for the answer. An argv,
/// never a shell.
///
/// The program leads a session and process group of its own, held by pidfd. Whatever it started is
/// ended with it, when it exits as well as when it is late, so that a check asked ten times a
/// second can leave nothing behind. (What makes itself a session of its own gets away.)
#include <fcntl.h>
#include <re2/re2.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <vector>

#include "experiments/checks/child.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
using Descriptor = asio::posix::stream_descriptor;

constexpr std::size_t kKept = 64 * 1024;

/// File actions and attributes of posix_spawn(3), freed at the end.
struct SpawnPlan {
  SpawnPlan() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnPlan() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

/// The first number in a program's output.
std::optional<double> number_in(const std::string& output) {
  static const RE2 kNumber(R"(([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))");
  double number = 0;
  if (!RE2::PartialMatch(output, kNumber, &number) || !std::isfinite(number)) return std::nullopt;
  return number;
}

/// Takes what is in the pipe now. False at its end, or where it would have to be waited for.
bool read_some(int pipe, std::string& output) {
  std::array<char, 4096> buffer;
  const ssize_t length = read(pipe, buffer.data(), buffer.size());
  if (length <= 0) return length < 0 && errno == EINTR;
  output.append(buffer.data(), std::min(static_cast<std::size_t>(length), kKept - output.size()));
  return true;
}

/// Reads until the pipe ends, keeping 64 KiB; reads on past those, so that no program hangs in a
/// full pipe.
asio::awaitable<void> drain(Descriptor& pipe, std::string& output) {
  constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
  std::array<char, 4096> buffer;
  for (;;) {
    const auto [failed, length] = co_await pipe.async_read_some(asio::buffer(buffer), kToken);
    output.append(buffer.data(), std::min(length, kKept - output.size()));
    if (failed == asio::error::operation_aborted) co_return;
    if (failed) break;
  }
  // Its end says nothing of the program, which is what is waited for.
  asio::steady_timer never(co_await asio::this_coro::executor, MonotonicTime::max());
  co_await never.async_wait(kToken);
}

class Exec final : public Check {
 public:
  explicit Exec(const v1::Check& check)
      : run_(check.exec().run().begin(), check.exec().run().end()), timeout_(timeout_of(check)) {
    environment_ = environment_with({check.exec().env().begin(), check.exec().env().end()});
  }

  asio::awaitable<Sample> ask() override {
    const auto executor = co_await asio::this_coro::executor;
    Sample sample;
    sample.asked = monotonic_now();
    Descriptor pipe(executor);
    const std::shared_ptr<Child> child = start(executor, pipe, sample.error);
    if (!child) {
      sample.latency = monotonic_now() - sample.asked;
      co_return sample;
    }

    asio::steady_timer late(executor, sample.asked + timeout_);
    const auto first = co_await (child->wait() || drain(pipe, sample.output) ||
                                 late.async_wait(asio::as_tuple(asio::use_awaitable)));
    sample.latency = monotonic_now() - sample.asked;
    if (first.index() == 0 && std::get<0>(first)) {
      child->signal_group(SIGKILL);
      sample.exit = child->reap();
      // What it wrote before its end is in the pipe, complete. Bounded, as a stranger that escaped
      // may write on for ever.
      for (int reads = 0; reads < 64 && read_some(pipe.native_handle(), sample.output); ++reads) {
      }
      if (!sample.exit) sample.error = "its exit code went to another";
      if (const auto number = number_in(sample.output)) sample.numbers["value"] = *number;
      co_return sample;
    }
    child->abandon();
    const bool timed_out = first.index() == 2 && !std::get<0>(std::get<2>(first));
    sample.error = timed_out ? timeout_words(timeout_) : kCancelled;
    co_return sample;
  }

 private:
  /// Null with `error` set where it could not be started.
  std::shared_ptr<Child> start(const asio::any_io_executor& executor, Descriptor& pipe,
                               std::string& error) {
    if (run_.empty()) {
      error = "nothing to run";
      return nullptr;
    }
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
      error = "cannot run " + run_[0] + ": " + errno_words(errno);
      return nullptr;
    }
    // Where a program runs with a standard descriptor closed, the pipe's end would be overwritten
    // below.
    if (ends[1] < 3) {
      const int higher = fcntl(ends[1], F_DUPFD_CLOEXEC, 3);
      close(ends[1]);
      ends[1] = higher;
    }
    pipe.assign(ends[0]);
    pipe.non_blocking(true);

    SpawnPlan plan;
    posix_spawn_file_actions_addopen(&plan.actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&plan.actions, ends[1], 1);
    posix_spawn_file_actions_addopen(&plan.actions, 2, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&plan.actions, 3);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&plan.attributes, &none);
    posix_spawnattr_setsigdefault(&plan.attributes, &all);
    posix_spawnattr_setflags(&plan.attributes,
                             POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

    pid_t pid = 0;
    const int failed = posix_spawnp(&pid, run_[0].c_str(), &plan.actions, &plan.attributes,
                                    pointers(run_).data(), pointers(environment_).data());
    close(ends[1]);
    if (failed != 0) {
      error = "cannot run " + run_[0] + ": " + errno_words(failed);
      return nullptr;
    }
    const int pidfd = open_pidfd(pid);
    if (pidfd < 0) {
      error = "cannot run " + run_[0] + ": " + errno_words(errno);
      kill(-pid, SIGKILL);
      waitpid(pid, nullptr, 0);  // it is dead already, or as good as
      return nullptr;
    }
    return std::make_shared<Child>(pid, Descriptor(executor, pidfd));
  }

  std::vector<std::string> run_;
  std::vector<std::string> environment_;
  Duration timeout_;
};

}  // namespace

const CheckKind kExec{.which = v1::Check::kExec, .make = [](const v1::Check& check) {
                        return std::unique_ptr<Check>(new Exec(check));
                      }};

}  // namespace squall::checks
