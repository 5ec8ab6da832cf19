/// \file
/// exec: runs a program and takes its exit code and its standard output for the answer. An argv,
/// never a shell.
///
/// The program leads a session and process group of its own, held by pidfd. Whatever it started is
/// ended with it, when it exits as well as when it is late, so that a check asked ten times a
/// second can leave nothing behind. (What makes itself a session of its own gets away.)
///
/// The kernel ends it, though not what it started, where nobody is left to: at once if the thread
/// that asks dies, and soon after its time is up if that is frozen.
#include <fcntl.h>
#include <re2/re2.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
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
#include <cstddef>
#include <cstdlib>
#include <memory>
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
/// How long after its time a program is left to a loop that is late.
constexpr Duration kFrozenFor = std::chrono::seconds(1);

/// The first number in a program's output.
std::optional<double> number_in(const std::string& output) {
  static const RE2 kNumber(R"(([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))");
  double number = 0;
  if (!RE2::PartialMatch(output, kNumber, &number) || !std::isfinite(number)) return std::nullopt;
  return number;
}

/// Where execvp(3) would look for it, but that none of them is read by a shell.
std::vector<std::string> places_of(const std::string& program) {
  if (program.find('/') != std::string::npos) return {program};
  const char* path = std::getenv("PATH");
  const std::string folders = path != nullptr ? path : "/usr/bin:/bin";
  std::vector<std::string> places;
  for (std::size_t at = 0; at <= folders.size();) {
    const std::size_t end = std::min(folders.find(':', at), folders.size());
    places.push_back(end == at ? program : folders.substr(at, end - at) + '/' + program);
    at = end + 1;
  }
  return places;
}

/// What a child needs to become the program. It lives in its parent's memory until then, which is
/// what makes the start of a program as quick in a large process as in a small one; so it allocates
/// nothing and calls nothing that is not async-signal-safe.
struct Launch {
  std::vector<char*> places, argv, environment;
  int output = -1;
  pid_t parent = 0;
  itimerval patience{};
  int failed = 0;  ///< Its errno, where it could not.
};

/// Source: clone(2), prctl(2), and execve(2): a parent's death signal and a timer outlive it.
int become(void* argument) {
  Launch& launch = *static_cast<Launch*>(argument);
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != launch.parent) _exit(127);
  setitimer(ITIMER_REAL, &launch.patience, nullptr);
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) sigaction(number, &by_default, nullptr);
  // In this order it is right whichever of the three is closed here.
  const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  dup2(null, STDIN_FILENO);
  dup2(null, STDERR_FILENO);
  dup2(launch.output, STDOUT_FILENO);
  for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) fcntl(number, F_SETFD, 0);
  syscall(SYS_close_range, 3U, ~0U, 0U);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  int failed = ENOENT;
  for (char* place : launch.places) {
    if (place == nullptr) break;
    execve(place, launch.argv.data(), launch.environment.data());
    // As execvp(3): what may not be run here may be elsewhere, and is what is told if it is not.
    if (errno == EACCES) failed = EACCES;
    if (errno == ENOENT || errno == ENOTDIR || errno == EACCES) continue;
    failed = errno;
    break;
  }
  launch.failed = failed;
  _exit(127);
}

/// Its pid, or -1 with errno set.
pid_t start_child(Launch& launch) {
  constexpr std::size_t kStack = 64 * 1024;
  const auto stack = std::make_unique<std::byte[]>(kStack);
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  // A handler that ran in the child would do so in our memory.
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = clone(become, stack.get() + kStack, CLONE_VM | CLONE_VFORK | SIGCHLD, &launch);
  const int why = pid < 0 ? errno : launch.failed;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (pid > 0 && why != 0) waitpid(pid, nullptr, 0);
  errno = why;
  return why == 0 ? pid : -1;
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

    std::vector<std::string> places = places_of(run_[0]);
    Launch launch;
    launch.places = pointers(places);
    launch.argv = pointers(run_);
    launch.environment = pointers(environment_);
    launch.output = ends[1];
    launch.parent = getpid();
    const auto patience =
        std::chrono::duration_cast<std::chrono::microseconds>(timeout_ + kFrozenFor).count();
    launch.patience.it_value = {.tv_sec = patience / 1'000'000, .tv_usec = patience % 1'000'000};
    const pid_t pid = start_child(launch);
    const int failed = errno;
    close(ends[1]);
    if (pid < 0) {
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
