/// \file
/// The exhaust fault as those feel it who run out: processes that open files, and a control group
/// in which processes are started.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/faults/scenes.h"

namespace squall::support {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBound = 15s;

/// A process that does what it is told by one letter and answers with one number.
class Victim {
 public:
  /// In the namespace, with a name of its own; `prepare` runs in it first.
  Victim(const Namespace& where, const std::string& name, const std::function<void()>& prepare) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_NAME, name.c_str());
      if (::setns(where.fd(), CLONE_NEWNET) != 0) ::_exit(1);
      // Numbers as a server has them, whatever the test has open.
      ::dup2(ends[1], 3);
      ::close_range(4, ~0U, 0);
      prepare();
      serve();
    }
    ::close(ends[1]);
    socket_ = ends[0];
    CHECK(ask('?') == 0);
  }
  Victim(const Victim&) = delete;
  Victim& operator=(const Victim&) = delete;
  ~Victim() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::close(socket_);
  }

  pid_t pid() const { return pid_; }

  /// How many more files it could open, until there was an error; it closes them again.
  int can_open() const { return ask('o'); }
  /// How many more processes it could start; they end again.
  int can_start() const { return ask('s'); }
  /// Starts one that lives on.
  pid_t start() const { return ask('c'); }

  std::uint64_t limit(pid_t pid = 0) const {
    rlimit limit{};
    if (::prlimit(pid == 0 ? pid_ : pid, RLIMIT_NOFILE, nullptr, &limit) != 0) return 0;
    return limit.rlim_cur;
  }

 private:
  int ask(char letter) const {
    REQUIRE(::send(socket_, &letter, 1, MSG_NOSIGNAL) == 1);
    int answer = -1;
    REQUIRE(::recv(socket_, &answer, sizeof answer, 0) == sizeof answer);
    return answer;
  }

  [[noreturn]] static void serve() {
    char letter = 0;
    while (::recv(3, &letter, 1, 0) == 1) {
      int answer = 0;
      if (letter == 'o') answer = open_all();
      if (letter == 's') answer = start_all();
      if (letter == 'c') answer = start_one();
      if (::send(3, &answer, sizeof answer, 0) < 0) break;
    }
    ::_exit(0);
  }

  static int open_all() {
    std::vector<int> files;
    int file = 0;
    while (files.size() < 5000 && (file = ::open("/dev/null", O_RDONLY)) >= 0)
      files.push_back(file);
    const bool was_limit = errno == EMFILE;
    for (const int one : files) ::close(one);
    return was_limit ? static_cast<int>(files.size()) : -1;
  }

  static int start_all() {
    std::vector<pid_t> children;
    pid_t child = 0;
    while (children.size() < 50 && (child = ::fork()) >= 0) {
      if (child == 0) {
        for (;;) ::pause();
      }
      children.push_back(child);
    }
    for (const pid_t one : children) {
      ::kill(one, SIGKILL);
      ::waitpid(one, nullptr, 0);
    }
    return static_cast<int>(children.size());
  }

  static pid_t start_one() {
    const pid_t child = ::fork();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) ::pause();
    }
    return child;
  }

  pid_t pid_ = -1;
  int socket_ = -1;
};

std::string unique_name(const std::string& what) {
  return "sqe" + std::to_string(::getpid()) + what;
}

void limit_to(rlim_t soft) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = soft;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

v1::Fault minute() {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(1min).count());
  return fault;
}

v1::Fault descriptors(const std::string& name, std::uint32_t leave) {
  v1::Fault fault = minute();
  fault.mutable_exhaust()->mutable_descriptors()->set_name(name);
  fault.mutable_exhaust()->set_leave(leave);
  return fault;
}

v1::Fault pids(const std::string& path, std::uint32_t leave) {
  v1::Fault fault = minute();
  fault.mutable_exhaust()->mutable_pids()->set_cgroup(path);
  fault.mutable_exhaust()->set_leave(leave);
  return fault;
}

TEST_CASE("exhaust leaves exactly so many descriptors, however scattered those in use are") {
  const Namespace node;
  const Victim packed(node, unique_name("p"), [] { limit_to(300); });
  const Victim scattered(node, unique_name("p"), [] {
    limit_to(300);
    for (const int number : {5, 6, 40, 41, 99}) ::dup2(3, number);
  });
  for (const std::uint32_t leave : {0U, 1U, 3U, 4U, 60U}) {
    CAPTURE(leave);
    CHECK(packed.can_open() == 296);
    CHECK(scattered.can_open() == 291);
    Holder holder(node);
    const v1::Evidence evidence = holder.inject(descriptors(unique_name("p"), leave), 1min);
    CHECK(evidence.effect());
    CHECK(evidence.exhaust().processes() == 2);
    CHECK(packed.can_open() == static_cast<int>(leave));
    CHECK(scattered.can_open() == static_cast<int>(leave));
    CHECK(holder.release().empty());
    CHECK(packed.limit() == 300);
    CHECK(scattered.limit() == 300);
  }
}

TEST_CASE("exhaust touches no other process") {
  const Namespace node;
  const Victim meant(node, unique_name("m"), [] { limit_to(300); });
  const Victim other(node, unique_name("n"), [] { limit_to(300); });
  Holder holder(node);
  holder.inject(descriptors(unique_name("m"), 0), 1min);
  CHECK(meant.can_open() == 0);
  CHECK(other.can_open() == 296);
}

TEST_CASE("exhaust gives back also what was started meanwhile and inherited its limit") {
  const Namespace node;
  const Victim victim(node, unique_name("f"), [] { limit_to(300); });
  const pid_t older = victim.start();
  Holder holder(node);
  holder.inject(descriptors(unique_name("f"), 5), 1min);
  const std::uint64_t ours = victim.limit();
  CHECK(ours < 300);
  const pid_t younger = victim.start();
  CHECK(victim.limit(younger) == ours);
  CHECK(holder.release().empty());
  CHECK(victim.limit() == 300);
  CHECK(victim.limit(younger) == 300);
  CHECK(victim.limit(older) == 300);
}

TEST_CASE("a limit that somebody else has set meanwhile is left alone") {
  const Namespace node;
  const Victim victim(node, unique_name("o"), [] { limit_to(300); });
  Holder holder(node);
  holder.inject(descriptors(unique_name("o"), 5), 1min);
  rlimit theirs{};
  REQUIRE(::prlimit(victim.pid(), RLIMIT_NOFILE, nullptr, &theirs) == 0);
  theirs.rlim_cur = 123;
  REQUIRE(::prlimit(victim.pid(), RLIMIT_NOFILE, &theirs, nullptr) == 0);
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK_FALSE(evidence->effect());
  CHECK(holder.release().empty());
  CHECK(victim.limit() == 123);
}

TEST_CASE("what another process with the same number has is never touched") {
  const Namespace node;
  const Victim victim(node, unique_name("r"), [] { limit_to(300); });
  std::vector<v1::Undo> undos;
  {
    Holder holder(node);
    holder.inject(descriptors(unique_name("r"), 5), 1min);
    undos = holder.undos();
    holder.process().signal(SIGKILL);
  }
  REQUIRE(undos.size() == 1);
  const std::uint64_t ours = victim.limit();
  CHECK(ours == undos[0].set_descriptor_limit().ours());
  const std::uint64_t started = undos[0].set_descriptor_limit().start_time();
  undos[0].mutable_set_descriptor_limit()->set_start_time(started + 1);
  CHECK(sweep(node, undos).residue().empty());
  CHECK(victim.limit() == ours);
  undos[0].mutable_set_descriptor_limit()->set_start_time(started);
  CHECK(sweep(node, undos).residue().empty());
  CHECK(victim.limit() == 300);
  // Twice does no harm.
  CHECK(sweep(node, undos).residue().empty());
  CHECK(victim.limit() == 300);
}

TEST_CASE("exhaust of descriptors is undone whatever happens to those who hold it") {
  const Namespace node;
  const Victim victim(node, unique_name("e"), [] { limit_to(300); });
  check_ends(
      descriptors(unique_name("e"), 2), node, [](pid_t) {}, [&] { return victim.limit() != 300; },
      false);
}

/// Whether a server on the loopback answers a new connection.
bool answers(const Namespace& where, std::uint16_t port) {
  return where.run([&] {
    const Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval bound{.tv_sec = 0, .tv_usec = 300'000};
    ::setsockopt(socket.number(), SOL_SOCKET, SO_RCVTIMEO, &bound, sizeof bound);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char byte = 0;
    return ::connect(socket.number(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
           ::send(socket.number(), "PING\r\n", 6, MSG_NOSIGNAL) == 6 &&
           ::recv(socket.number(), &byte, 1, 0) == 1 && byte == '+';
  });
}

TEST_CASE("redis without descriptors takes no connection, and takes them again afterwards") {
  const Namespace node;
  Command command;
  command.argv = {"redis-server", "--port", "7379",        "--bind", "127.0.0.1", "--save", "",
                  "--dir",        "/",      "--daemonize", "no"};
  command.where = &node;
  Process redis(command);
  REQUIRE(eventually([&] { return answers(node, 7379); }, kBound));
  v1::Fault fault = minute();
  fault.mutable_exhaust()->mutable_descriptors()->set_port(7379);
  Holder holder(node);
  CHECK(holder.inject(fault, 1min).exhaust().processes() == 1);
  CHECK_FALSE(answers(node, 7379));
  CHECK_FALSE(answers(node, 7379));
  CHECK(holder.release().empty());
  CHECK(eventually([&] { return answers(node, 7379); }, kBound));
}

TEST_CASE("exhaust refuses processes that have no more left, and none at all") {
  const Namespace node;
  const Victim victim(node, unique_name("l"), [] { limit_to(10); });
  CHECK(victim.can_open() == 6);
  CHECK(why_refused(descriptors(unique_name("l"), 6), node)
            .starts_with("exhaust: process " + std::to_string(victim.pid()) + " ("));
  CHECK(why_refused(descriptors(unique_name("x"), 6), node) ==
        "no process with name " + unique_name("x") + " on this node");
  CHECK(victim.limit() == 10);
}

TEST_CASE("exhaust leaves a control group exactly so many processes to start") {
  const ControlGroup group("pids");
  const Namespace node;
  const Victim victim(node, unique_name("g"), [] {});
  group.write("cgroup.procs", std::to_string(victim.pid()));
  const std::string before = group.read("pids.max");
  CHECK(victim.can_start() == 50);
  for (const std::uint32_t leave : {0U, 1U, 7U}) {
    CAPTURE(leave);
    Holder holder(node);
    const v1::Evidence evidence = holder.inject(pids(group.path(), leave), 1min);
    CHECK(evidence.effect());
    CHECK(evidence.exhaust().processes() == 1);
    CHECK(evidence.exhaust().limit() == 1 + leave);
    CHECK(victim.can_start() == static_cast<int>(leave));
    CHECK(holder.release().empty());
    CHECK(group.read("pids.max") == before);
  }
  CHECK(victim.can_start() == 50);
}

TEST_CASE("exhaust of processes is undone whatever happens to those who hold it") {
  const Namespace node;
  const ControlGroup group("pids");
  group.write("pids.max", "500");
  const std::string before = group.read("pids.max");
  check_ends(
      pids(group.path(), 3), node, [](pid_t) {}, [&] { return group.read("pids.max") != before; },
      false);
}

TEST_CASE("a pids.max that somebody else has set, or of another group, is left alone") {
  std::vector<v1::Undo> undos;
  const Namespace node;
  const ControlGroup group("pids");
  {
    Holder holder(node);
    holder.inject(pids(group.path(), 3), 1min);
    undos = holder.undos();
    group.write("pids.max", "77");
    std::optional<v1::FromHolder> told;
    v1::ToHolder pulse;
    pulse.mutable_pulse()->set_lease_end(to_ns(monotonic_now() + 1min));
    holder.say(pulse);
    while ((told = holder.hear(kBound)) && !told->has_failed()) {
    }
    REQUIRE(told.has_value());
    CHECK(told->failed().message() ==
          "the control group " + group.path() + " reads pids.max 77, which somebody else has set");
  }
  CHECK(group.read("pids.max") == "77\n");
  REQUIRE(undos.size() == 1);
  group.write("pids.max", "3");
  undos[0].mutable_set_pids_max()->set_inode(undos[0].set_pids_max().inode() + 1);
  CHECK(sweep(node, undos).residue().empty());
  CHECK(group.read("pids.max") == "3\n");
}

TEST_CASE("exhaust refuses groups that must be able to start processes, and scopes without") {
  const Namespace node;
  const std::pair<const char*, const char*> spared[] = {
      {"squalld", "squall's own"}, {"sshd", "sshd"}, {"systemd", "systemd"}};
  for (const auto& [name, why] : spared) {
    const ControlGroup group("pids");
    const Victim victim(node, name, [] {});
    group.write("cgroup.procs", std::to_string(victim.pid()));
    CHECK(why_refused(pids(group.path(), 0), node) ==
          "exhaust.pids: the control group " + group.path() +
              " holds what must live: " + std::to_string(victim.pid()) + " is " + why);
  }
  CHECK(why_refused(pids("/squall-nowhere", 0), node)
            .starts_with("exhaust.pids: there is no control group /squall-nowhere"));
  v1::Fault fault = minute();
  fault.mutable_exhaust()->mutable_pids()->set_netns("blue");
  CHECK(why_refused(fault, node) ==
        "exhaust.pids.netns: processes are counted in no network namespace; write a cgroup or a "
        "unit");
  const ControlGroup narrow("pids");
  narrow.write("pids.max", "4");
  CHECK(why_refused(pids(narrow.path(), 4), node) ==
        "exhaust.pids: the control group " + narrow.path() +
            " has no more than 4 processes left already: 0 of 4");
}

}  // namespace
}  // namespace squall::support
