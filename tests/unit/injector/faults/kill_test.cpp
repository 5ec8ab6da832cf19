#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <optional>
#include <string>

#include "injector/faults/fault.h"
#include "injector/faults/processes.h"

namespace squall::hold {
namespace {

/// A child with a name of its own that waits for its end. Killed with this object.
class Victim {
 public:
  explicit Victim(
      const std::string& name, const std::function<void()>& prepare = [] {}) {
    int ready[2];
    REQUIRE(::pipe2(ready, O_CLOEXEC) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::signal(SIGTERM, SIG_DFL);  // doctest's own would report a crash
      ::prctl(PR_SET_NAME, name.c_str());
      prepare();
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char byte = 0;
    CHECK(::read(ready[0], &byte, 1) == 1);
    ::close(ready[0]);
    ::close(ready[1]);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }

  /// The signal that ended it; nothing if it lives.
  std::optional<int> ended_by() {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
    pid_ = -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }

 private:
  pid_t pid_ = -1;
};

std::string unique_name(const std::string& what) {
  return "sqt" + std::to_string(::getpid()) + what;
}

v1::Start kill_named(const std::string& name) {
  v1::Start start;
  start.mutable_fault()->mutable_kill()->mutable_process()->set_name(name);
  return start;
}

std::unique_ptr<Fault> make(const v1::Start& start) {
  return find_kind(start.fault())->make(start);
}

TEST_CASE("kill ends every process of that name and of no other") {
  Victim first(unique_name("a"));
  Victim second(unique_name("a"));
  Victim other(unique_name("b"));
  const auto fault = make(kill_named(unique_name("a")));
  const auto undos = fault->prepare();
  REQUIRE(undos.ok());
  CHECK(undos->empty());
  CHECK_FALSE(first.ended_by().has_value());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  const v1::Evidence evidence = fault->evidence();
  CHECK(evidence.effect());
  REQUIRE(evidence.kill().victims_size() == 2);
  for (const auto& victim : evidence.kill().victims()) {
    CHECK(victim.gone());
    CHECK(victim.start_time() > 0);
  }
  CHECK(first.ended_by() == SIGKILL);
  CHECK(second.ended_by() == SIGKILL);
  CHECK_FALSE(other.ended_by().has_value());
}

TEST_CASE("kill sends the signal that was asked for") {
  Victim victim(unique_name("t"));
  v1::Start start;
  start.mutable_fault()->mutable_kill()->mutable_process()->set_pid(victim.pid());
  start.mutable_fault()->mutable_kill()->set_signal(v1::SIGNAL_TERM);
  const auto fault = make(start);
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  CHECK(fault->evidence().effect());
  CHECK(victim.ended_by() == SIGTERM);
}

TEST_CASE("a process is found by the port it listens on") {
  std::uint16_t port = 0;
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), size) == 0);
  REQUIRE(::listen(listener, 1) == 0);
  REQUIRE(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  port = ntohs(address.sin_port);
  Victim server(unique_name("p"));  // inherits it
  Victim bystander(unique_name("q"), [&] { ::close(listener); });
  ::close(listener);
  v1::Process wanted;
  wanted.set_port(port);
  const auto found = select_processes(wanted);
  REQUIRE(found.ok());
  REQUIRE(found->size() == 1);
  CHECK((*found)[0].pid == server.pid());
}

TEST_CASE("a process of another network namespace is not of this node") {
  Victim away(unique_name("n"), [] {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
  });
  v1::Process wanted;
  wanted.set_name(unique_name("n"));
  const auto found = select_processes(wanted);
  CHECK(found.status().code() == StatusCode::kNotFound);
  CHECK(message_of(found.status()) == "no process with name " + unique_name("n") + " on this node");
}

TEST_CASE("squall's own, sshd, systemd, PID 1 and the ancestors are never touched") {
  for (const std::string name :
       {"squall", "squalld", "squall-hold", "sshd", "sshd-session", "systemd"}) {
    Victim spared(name);
    v1::Process wanted;
    wanted.set_pid(spared.pid());
    const auto found = select_processes(wanted);
    CHECK(found.status().code() == StatusCode::kNotFound);
    CHECK(message_of(found.status())
              .find("that may be touched: " + std::to_string(spared.pid()) + " is ") !=
          std::string::npos);
  }
  for (const pid_t pid : {pid_t{1}, ::getpid(), ::getppid()}) {
    v1::Process wanted;
    wanted.set_pid(static_cast<std::uint32_t>(pid));
    CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
  }
}

TEST_CASE("a kernel thread is never touched") {
  v1::Process wanted;
  wanted.set_name("kthreadd");
  const auto found = select_processes(wanted);
  CHECK(found.status().code() == StatusCode::kNotFound);
}

TEST_CASE("an empty selector matches nothing, not everything") {
  CHECK(select_processes(v1::Process()).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE(
    "a target that ended before it was signalled is told, and no other process is signalled") {
  auto victim = std::make_unique<Victim>(unique_name("g"));
  const auto fault = make(kill_named(unique_name("g")));
  REQUIRE(fault->prepare().ok());
  victim.reset();
  CHECK(fault->apply(MonotonicTime::max()).code() == StatusCode::kNotFound);
  CHECK_FALSE(fault->evidence().effect());
}

TEST_CASE("a look at kill lists its targets and touches none") {
  Victim victim(unique_name("l"));
  v1::Look look;
  *look.mutable_fault() = kill_named(unique_name("l")).fault();
  const v1::Looked looked = find_kind(look.fault())->look(look);
  REQUIRE(looked.targets_size() == 1);
  CHECK(looked.targets(0).pid() == victim.pid());
  CHECK_FALSE(looked.targets(0).command().empty());
  CHECK_FALSE(victim.ended_by().has_value());
}

}  // namespace
}  // namespace squall::hold
