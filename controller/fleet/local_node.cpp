#include "controller/fleet/local_node.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "controller/fleet/grpc_node.h"
#include "controller/fleet/wake.h"
#include "experiments/base/fd.h"
#include "experiments/base/file.h"
#include "experiments/base/state.h"

namespace squall::fleet {
namespace asio = boost::asio;
namespace fs = std::filesystem;
namespace {

/// How long a private daemon may take until it listens, its sweep of an earlier run included.
constexpr Duration kStartWithin = std::chrono::seconds(10);
/// How long it may take to revert and end, before it is killed (its holders then undo by
/// themselves).
constexpr Duration kEndWithin = std::chrono::seconds(5);

/// Errors: kFailedPrecondition, with who halted this machine.
Status check_not_halted(const fs::path& state) {
  const std::optional<Halt> halt = read_halt(local_latch(state));
  return halt ? error(StatusCode::kFailedPrecondition, "this machine: " + in_words(*halt)) : ok();
}

/// A state directory that this process alone uses, as long as `lock` is open.
struct PrivateState {
  fs::path folder;
  Fd lock;
};

/// One directory per network namespace, as a ledger speaks of one namespace's objects, and as many
/// of those as there are runs at once.
StatusOr<PrivateState> take_private_state(const fs::path& state) {
  struct stat netns {};
  if (stat("/proc/self/ns/net", &netns) != 0) return from_errno("/proc/self/ns/net", errno);
  for (int n = 1; n <= 64; ++n) {
    PrivateState taken;
    taken.folder = state / kLocalFolder / fmt::format("{}-{}", netns.st_ino, n);
    std::error_code failed;
    fs::create_directories(taken.folder, failed);
    if (failed) return from_errno(taken.folder.native(), failed.value());
    const fs::path path = taken.folder / "squall.lock";
    taken.lock = Fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!taken.lock.is_open()) return from_errno(path.native(), errno);
    if (flock(taken.lock.number(), LOCK_EX | LOCK_NB) == 0) return taken;
    if (errno != EWOULDBLOCK) return from_errno(path.native(), errno);
  }
  return error(StatusCode::kResourceExhausted, "64 other runs use this node");
}

StatusOr<fs::path> find_squalld() {
  std::error_code failed;
  const fs::path folder = fs::read_symlink("/proc/self/exe", failed).parent_path();
  for (const fs::path& candidate : {folder / "squalld", folder / "../sbin/squalld"}) {
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return error(StatusCode::kNotFound,
               fmt::format("squalld is not running here, nor is there a squalld in {} to start",
                           folder.native()));
}

/// The last line that a daemon wrote, for people.
std::string tail_of(const fs::path& log) {
  const std::string text = read_whole(log).value_or("");
  const std::size_t end = text.find_last_not_of("\n ");
  if (end == std::string::npos) return fmt::format("its log {} is empty", log.native());
  const std::size_t start = text.rfind('\n', end) + 1;  // npos + 1 is 0
  return text.substr(start, end - start + 1);
}

/// A child process, held by its pidfd.
struct Child {
  pid_t pid = -1;
  Fd pidfd;
};

/// Starts `program` with its output in `log`. It is told to end when the calling thread does.
StatusOr<Child> spawn(const fs::path& program, const std::vector<std::string>& arguments,
                      const fs::path& log) {
  const Fd output(open(log.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!output.is_open()) return from_errno(log.native(), errno);
  const Fd input(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!input.is_open()) return from_errno("/dev/null", errno);
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  // Everything between fork and exec is async-signal-safe: gRPC may have threads already.
  const pid_t parent = getpid();
  Child child;
  child.pid = fork();
  if (child.pid < 0) return from_errno("fork", errno);
  if (child.pid == 0) {
    // A session of its own: Ctrl-C and the terminal's end are for squall, which then reverts.
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(1);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
    dup2(input.number(), STDIN_FILENO);
    dup2(output.number(), STDOUT_FILENO);
    dup2(output.number(), STDERR_FILENO);
    syscall(SYS_close_range, 3U, ~0U, 0U);
    execv(program.c_str(), argv.data());
    _exit(127);
  }
  child.pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0)));
  if (!child.pidfd.is_open()) {
    const int why = errno;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, nullptr, 0);
    return from_errno("pidfd_open", why);
  }
  return child;
}

/// A squalld of this run alone.
class PrivateDaemon {
 public:
  explicit PrivateDaemon(PrivateState state) : state_(std::move(state)) {}

  ~PrivateDaemon() {
    // Reached without stop() only when the run is left in haste: the daemon reverts on its own.
    if (child_.pid > 0) kill(child_.pid, SIGTERM);
  }

  PrivateDaemon(const PrivateDaemon&) = delete;
  PrivateDaemon& operator=(const PrivateDaemon&) = delete;

  fs::path socket_path() const { return state_.folder / "squalld.sock"; }

  bool has_ended() { return reap(WNOHANG); }

  /// May be called again once it has ended.
  asio::awaitable<Status> start(fs::path program) {
    if (socket_path().native().size() >= sizeof(sockaddr_un::sun_path)) {
      co_return error(StatusCode::kInvalidArgument,
                      fmt::format("{} is too long for a socket's name; set SQUALL_STATE_DIR to a "
                                  "shorter path",
                                  socket_path().native()));
    }
    std::error_code ignored;
    fs::remove(socket_path(), ignored);
    const fs::path log = state_.folder / "squalld.log";
    auto child = spawn(
        program,
        {"--state-dir", state_.folder.native(), "--listen", "unix:" + socket_path().native()}, log);
    if (!child.ok()) co_return child.status();
    child_ = *std::move(child);

    asio::steady_timer timer(co_await asio::this_coro::executor);
    const MonotonicTime deadline = monotonic_now() + kStartWithin;
    while (!listens(socket_path())) {
      if (reap(WNOHANG)) {
        co_return error(StatusCode::kFailedPrecondition,
                        fmt::format("the squalld started for this run ended: {}", tail_of(log)));
      }
      if (monotonic_now() > deadline) {
        co_return error(
            StatusCode::kUnavailable,
            fmt::format("the squalld started for this run does not listen: {}", tail_of(log)));
      }
      timer.expires_after(std::chrono::milliseconds(1));
      co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
      const bool cancelled = co_await is_cancelled();
      if (cancelled) co_return error(StatusCode::kCancelled, "stopped");
    }
    co_return ok();
  }

  asio::awaitable<void> stop() {
    if (child_.pid <= 0) co_return;
    kill(child_.pid, SIGTERM);
    const auto executor = co_await asio::this_coro::executor;
    asio::posix::stream_descriptor ended(executor, child_.pidfd.release());
    asio::steady_timer bound(executor, kEndWithin);
    bound.async_wait([&ended](const boost::system::error_code& cancelled) {
      if (!cancelled) ended.cancel();
    });
    co_await ended.async_wait(asio::posix::stream_descriptor::wait_read,
                              asio::as_tuple(asio::use_awaitable));
    bound.cancel();
    if (!reap(WNOHANG)) {
      kill(child_.pid, SIGKILL);
      reap(0);
    }
  }

 private:
  /// Whether the child has ended. No other code of this program waits for it, so that the pid is
  /// its own until here.
  bool reap(int flags) {
    if (child_.pid <= 0) return true;
    if (waitpid(child_.pid, nullptr, flags) != child_.pid) return false;
    child_.pid = -1;
    return true;
  }

  PrivateState state_;
  Child child_;
};

/// Asked through whichever daemon the node has at that time.
class LocalCheck final : public RemoteCheck {
 public:
  /// `inner`: the node's own, as it stands at each question; null while there is none.
  LocalCheck(const std::shared_ptr<Node>& inner, const std::string& name, const v1::Check& wanted)
      : inner_(inner), name_(name), wanted_(wanted) {}

  asio::awaitable<checks::Sample> ask() override {
    if (!inner_) {
      checks::Sample sample;
      sample.asked = monotonic_now();
      sample.error = fmt::format("{} is not connected", name_);
      co_return sample;
    }
    if (!check_ || asked_of_ != inner_) {
      check_ = inner_->check(wanted_);
      asked_of_ = inner_;
    }
    co_return co_await check_->ask();
  }

  Status refused() const override { return check_ ? check_->refused() : ok(); }

 private:
  const std::shared_ptr<Node>& inner_;
  std::string name_;
  v1::Check wanted_;
  std::shared_ptr<Node> asked_of_;  // outlives the check below
  std::unique_ptr<RemoteCheck> check_;
};

class LocalNode final : public Node {
 public:
  LocalNode(std::string name, LocalOptions options)
      : name_(std::move(name)), options_(std::move(options)) {}

  const std::string& name() const override { return name_; }

  std::string address() const override { return inner_ ? inner_->address() : "local"; }

  asio::awaitable<StatusOr<v1::Description>> connect() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    // A private daemon that died is started again: its first act is to sweep what it left.
    if (!inner_ || (daemon_ && daemon_->has_ended())) {
      fs::path socket_path = options_.state / "squalld.sock";
      if (daemon_ || !listens(socket_path)) {
        const Status started = co_await start();
        if (!started.ok()) co_return in_context("the local node", started);
        socket_path = daemon_->socket_path();
        // Again, now that squall halt finds it: whoever came before found nobody listening.
        const Status free = check_not_halted(options_.state);
        if (!free.ok()) {
          co_await daemon_->stop();
          daemon_.reset();
          co_return in_context("the local node", free);
        }
      }
      inner_ = make_grpc_node(name_, "unix:" + socket_path.native(), std::nullopt);
    }
    co_return co_await inner_->connect();
  }

  asio::awaitable<StatusOr<v1::PreflightReply>> preflight(v1::PreflightRequest request) override {
    co_return co_await inner_->preflight(std::move(request));
  }

  std::unique_ptr<RemoteCheck> check(const v1::Check& wanted) override {
    return std::make_unique<LocalCheck>(inner_, name_, wanted);
  }

  asio::awaitable<StatusOr<v1::Opened>> open(v1::Open wanted, Listener listener) override {
    co_return co_await inner_->open(std::move(wanted), std::move(listener));
  }

  void inject(const v1::Fault& fault) override {
    if (inner_) inner_->inject(fault);
  }
  void revert(const std::string& fault) override {
    if (inner_) inner_->revert(fault);
  }
  void revert_all() override {
    if (inner_) inner_->revert_all();
  }

  asio::awaitable<void> close() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    if (inner_) co_await inner_->close();
    if (daemon_) co_await daemon_->stop();
    daemon_.reset();
    inner_.reset();
  }

 private:
  asio::awaitable<Status> start() {
    if (Status free = check_not_halted(options_.state); !free.ok()) co_return free;
    fs::path program = options_.squalld;
    if (program.empty()) {
      auto found = find_squalld();
      if (!found.ok()) co_return found.status();
      program = *std::move(found);
    }
    if (!daemon_) {
      auto state = take_private_state(options_.state);
      if (!state.ok()) co_return state.status();
      daemon_ = std::make_unique<PrivateDaemon>(*std::move(state));
    }
    const Status started = co_await daemon_->start(program);
    if (!started.ok()) daemon_.reset();
    co_return started;
  }

  std::string name_;
  LocalOptions options_;
  std::unique_ptr<PrivateDaemon> daemon_;
  std::shared_ptr<Node> inner_;
};

}  // namespace

fs::path local_latch(const fs::path& state) { return state / kLocalFolder / kHaltedFile; }

bool listens(const fs::path& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string& path = socket_path.native();
  if (path.size() >= sizeof(address.sun_path)) return false;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const Fd end(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!end.is_open()) return false;
  return connect(end.number(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

std::unique_ptr<Node> make_local_node(std::string name, LocalOptions options) {
  return std::make_unique<LocalNode>(std::move(name), std::move(options));
}

}  // namespace squall::fleet
