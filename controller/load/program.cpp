#include "controller/load/program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/units.h"
#include "experiments/checks/child.h"
#include "experiments/checks/kind.h"

namespace squall::load {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using checks::Child;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr Duration kGrace = std::chrono::seconds(2);

/// The name as a part of a file's.
std::string file_name(std::string name) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
  std::ranges::replace_if(
      name, [&](char c) { return kPlain.find(c) == std::string_view::npos; }, '_');
  constexpr std::size_t kLongest = 100;
  return "load-" + name.substr(0, kLongest) + ".log";
}

/// Where execvp(3) would look; the program as it stands where it names a place.
std::vector<std::string> places_of(const std::string& program,
                                   const std::vector<std::string>& environment) {
  if (program.find('/') != std::string::npos) return {program};
  std::vector<std::string> places;
  for (const std::string& variable : environment) {
    if (!variable.starts_with("PATH=")) continue;
    std::string_view rest = std::string_view(variable).substr(5);
    while (true) {
      const auto colon = rest.find(':');
      const std::string folder(rest.substr(0, colon));
      places.push_back((folder.empty() ? "." : folder) + "/" + program);
      if (colon == std::string_view::npos) return places;
      rest.remove_prefix(colon + 1);
    }
  }
  return places;
}

class Program final : public Load {
 public:
  Program(const v1::Load& load, const fs::path& folder)
      : name_(load.name()),
        run_(load.run().argv().begin(), load.run().argv().end()),
        environment_(checks::environment_with({load.env().begin(), load.env().end()})),
        log_(folder / file_name(load.name())) {}

  Status start(const asio::any_io_executor& loop) override {
    if (run_.empty()) return error(StatusCode::kInvalidArgument, "nothing to run");
    begun_ = monotonic_now();
    const Fd output(
        open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0644));
    if (!output.is_open()) return from_errno(log_.native(), errno);
    const Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!input.is_open()) return from_errno("/dev/null", errno);
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return from_errno("a pipe", errno);
    const Fd refusal(ends[0]);
    Fd refused(ends[1]);

    // Not posix_spawn(3), which cannot ask for a signal when squall dies. Everything between
    // fork and exec is async-signal-safe: there are threads already.
    const std::vector<std::string> places = places_of(run_.front(), environment_);
    const std::vector<char*> argv = checks::pointers(run_);
    const std::vector<char*> environment = checks::pointers(environment_);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) return from_errno("fork", errno);
    if (pid == 0) {
      setsid();
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(127);  // it died before the line above
      for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      dup2(input.number(), STDIN_FILENO);
      dup2(output.number(), STDOUT_FILENO);
      dup2(output.number(), STDERR_FILENO);
      int why = ENOENT;
      for (const std::string& place : places) {
        execve(place.c_str(), argv.data(), environment.data());
        if (errno != ENOENT && errno != ENOTDIR) why = errno;
      }
      static_cast<void>(!write(refused.number(), &why, sizeof why));
      _exit(127);
    }
    refused = Fd();
    // Ends without a word when exec closes the other end.
    int why = 0;
    ssize_t got = 0;
    while ((got = read(refusal.number(), &why, sizeof why)) < 0 && errno == EINTR) {
    }
    const int pidfd = checks::open_pidfd(pid);
    if (got == static_cast<ssize_t>(sizeof why) || pidfd < 0) {
      if (pidfd < 0) why = errno;
      if (pidfd >= 0) close(pidfd);
      kill(-pid, SIGKILL);
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
      return error(StatusCode::kFailedPrecondition,
                   fmt::format("cannot run {}: {}", run_.front(), checks::errno_words(why)));
    }
    child_ = std::make_shared<Child>(pid, Child::Descriptor(loop, pidfd));
    return ok();
  }

  std::unique_ptr<checks::Check> numbers() override { return nullptr; }

  asio::awaitable<std::string> failed() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    const std::shared_ptr<Child> child = child_;
    const bool is_over = co_await child->wait();
    if (!is_over) co_return "";
    note_end();
    if (exit_ != 0) co_return how_it_ended();
    asio::steady_timer never(co_await asio::this_coro::executor, MonotonicTime::max());
    co_await never.async_wait(kToken);
    co_return "";
  }

  asio::awaitable<v1::LoadEnded> end(bool in_haste) override {
    using namespace asio::experimental::awaitable_operators;
    co_await asio::this_coro::throw_if_cancelled(false);
    const std::shared_ptr<Child> child = child_;
    v1::LoadEnded ended;
    ended.set_load(name_);
    if (child && !is_over_) {
      // It may have ended by itself a moment ago.
      child->signal_group(in_haste ? SIGKILL : SIGTERM);
      asio::steady_timer grace(co_await asio::this_coro::executor, kGrace);
      const auto first = co_await (child->wait() || grace.async_wait(kToken));
      if (first.index() == 0 && std::get<0>(first)) {
        child->signal_group(SIGKILL);  // what it leaves of its group
        child->reap();
      } else {
        child->abandon();
      }
    }
    if (exit_) ended.set_exit(*exit_);
    ended.set_words(is_over_ ? how_it_ended()
                             : fmt::format("{} ran for {}, until it was ended", run_.front(),
                                           format_measured(monotonic_now() - begun_)));
    co_return ended;
  }

 private:
  void note_end() {
    is_over_ = true;
    ended_ = monotonic_now();
    child_->signal_group(SIGKILL);
    exit_ = child_->reap();
  }

  std::string how_it_ended() const {
    const std::string after = format_measured(ended_ - begun_);
    if (!exit_) return fmt::format("{} ended after {}", run_.front(), after);
    constexpr int kSignalled = 128;
    if (*exit_ > kSignalled) {
      return fmt::format("{} was ended after {} by signal {} (its output: {})", run_.front(), after,
                         *exit_ - kSignalled, log_.native());
    }
    return fmt::format("{} ended after {} with exit {} (its output: {})", run_.front(), after,
                       *exit_, log_.native());
  }

  std::string name_;
  std::vector<std::string> run_;
  std::vector<std::string> environment_;
  fs::path log_;
  MonotonicTime begun_;
  MonotonicTime ended_;
  std::shared_ptr<Child> child_;
  bool is_over_ = false;  ///< By itself.
  std::optional<int> exit_;
};

}  // namespace

std::unique_ptr<Load> make_program(const v1::Load& load, const fs::path& folder) {
  return std::make_unique<Program>(load, folder);
}

}  // namespace squall::load
