#include "injector/faults/processes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <filesystem>
#include <random>
#include <set>

#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/victim.h"

namespace squall::hold {
namespace {

v1::Process named(const std::string& name) {
  v1::Process wanted;
  wanted.set_name(name);
  return wanted;
}

std::set<std::uint32_t> pids(const StatusOr<std::vector<Target>>& found) {
  std::set<std::uint32_t> numbers;
  if (!found.ok()) return numbers;
  for (const Target& target : *found) numbers.insert(target.pid);
  return numbers;
}

/// A TCP socket that listens on a port of its own choice.
struct Listener {
  int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::uint16_t port = 0;

  Listener() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(::listen(fd, 1) == 0);
    REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    port = ntohs(address.sin_port);
  }
};

/// Never touches anything: a program of that file, found by `wanted` from a real holder.
v1::Looked look_through_holder(const support::Namespace& where, const v1::Process& wanted) {
  support::Holder holder(where);
  v1::ToHolder message;
  *message.mutable_look()->mutable_fault()->mutable_kill()->mutable_process() = wanted;
  holder.say(message);
  const auto answer = holder.hear(kBound);
  REQUIRE(answer.has_value());
  return answer->looked();
}

/// Every kind of selector that matches this process and, but for pid, perhaps others.
std::vector<v1::Process> selectors_of(std::uint32_t pid) {
  std::vector<v1::Process> wanted;
  const auto process = ProcFolder::open(pid);
  REQUIRE(process.has_value());
  const auto stat = process->stat();
  REQUIRE(stat.has_value());
  wanted.emplace_back().set_pid(pid);
  wanted.emplace_back().set_name(stat->name);
  const std::string arguments = process->arguments().value_or("");
  if (!arguments.empty()) wanted.emplace_back().set_cmdline("^" + arguments.substr(0, 1));
  wanted.emplace_back().set_user(std::to_string(process->status_number("Uid", 1).value_or(0)));
  if (const auto parent = ProcFolder::open(stat->parent)) {
    wanted.emplace_back().set_children_of(parent->name().value_or(""));
  }
  // All that it is, together: still it is spared.
  v1::Process all;
  for (const v1::Process& one : wanted) all.MergeFrom(one);
  wanted.push_back(all);
  return wanted;
}

TEST_CASE("a process is found by the port it listens on") {
  const Listener listener;
  Victim server(unique_name("p"));  // inherits it
  Victim bystander(unique_name("q"), [&] { ::close(listener.fd); });
  ::close(listener.fd);
  v1::Process wanted;
  wanted.set_port(listener.port);
  CHECK(pids(select_processes(wanted)) == std::set{server.pid()});
}

TEST_CASE("a process is found by a pattern in its arguments joined by blanks") {
  const std::string mark = std::to_string(::getpid());  // a number, for sleep adds them up
  support::Command command;
  command.argv = {"sleep", "1000", "1000"};
  const support::Process one(command);
  command.argv = {"sleep", "1000", mark};
  const support::Process other(command);
  v1::Process wanted;
  wanted.set_cmdline("s[l]eep 1000 " + mark + "$");
  std::set<std::uint32_t> found;
  CHECK(support::eventually(
      [&] {
        found = pids(select_processes(wanted));
        return found.contains(static_cast<std::uint32_t>(other.pid()));
      },
      kBound));
  CHECK_FALSE(found.contains(static_cast<std::uint32_t>(one.pid())));
  wanted.set_cmdline("^" + mark);
  CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
  wanted.set_cmdline("a(b");
  CHECK(message_of(select_processes(wanted).status()) == "process.cmdline: missing ): a(b");
}

TEST_CASE("a process is found by its effective user and not by its real one") {
  constexpr uid_t kNobody = 65534;
  Victim user(unique_name("u"), [] {
    if (::setresuid(0, kNobody, 0) != 0) ::_exit(1);
  });
  Victim root(unique_name("u"));
  v1::Process wanted = named(unique_name("u"));
  for (const char* nobody : {"nobody", "65534"}) {
    wanted.set_user(nobody);
    CHECK(pids(select_processes(wanted)) == std::set{user.pid()});
  }
  wanted.set_user("root");
  CHECK(pids(select_processes(wanted)) == std::set{root.pid()});
  wanted.set_user("no-such-user");
  CHECK(
      message_of(select_processes(wanted).status()) ==
      "process.user: no user no-such-user in /etc/passwd; one of a directory is named by its uid");
}

TEST_CASE("a process is found by its parent") {
  Victim parent(unique_name("par"), [] {
    if (!fork_child()) return;
    for (;;) ::pause();
  });
  const auto children = support::children_of(static_cast<pid_t>(parent.pid()), unique_name("par"));
  REQUIRE(children.size() == 1);
  v1::Process wanted;
  wanted.set_children_of(unique_name("par"));
  CHECK(pids(select_processes(wanted)) == std::set{static_cast<std::uint32_t>(children[0])});
  // All that is given must hold.
  wanted.set_name(unique_name("x"));
  CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
}

TEST_CASE("a process is found by its control group or one above it") {
  const OwnGroup group(unique_name("g"));
  Victim inside(unique_name("c"));
  Victim outside(unique_name("c"));
  group.take(inside.pid());
  v1::Process wanted = named(unique_name("c"));
  wanted.set_cgroup(group.path());
  CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
  wanted.set_cgroup(group.path() + "/");
  CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
  wanted.set_cgroup(group.path().substr(0, group.path().size() - 1));
  CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
}

TEST_CASE("a process is found by its unit and not by one whose name its own begins with") {
  const OwnGroup unit(unique_name("u") + ".service");
  Victim inside(unique_name("s"));
  Victim outside(unique_name("s"));
  unit.take(inside.pid());
  v1::Process wanted = named(unique_name("s"));
  wanted.set_unit(unit.path().substr(1));
  CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
  wanted.set_unit(unit.path().substr(2));
  CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
  wanted.set_unit(unit.path().substr(1, unit.path().size() - 2));
  CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
}

TEST_CASE("a container's processes are found by its id though they have a network of their own") {
  const std::string id = std::to_string(1000000 + ::getpid()) + std::string(57, 'a');
  const std::string other = id.substr(0, 20) + std::string(44, 'b');
  struct Named {
    const char* engine;
    std::string group;
  };
  const auto in_new_network = [] {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
  };
  // As Docker, containerd and Podman call them. The group's own name carries this test's pid, so
  // the container's part comes below it.
  for (const Named& one : {Named{"docker with systemd", "docker-" + id + ".scope"},
                           Named{"docker or kubelet without", id},
                           Named{"containerd", "cri-containerd-" + id + ".scope"},
                           Named{"podman", "libpod-" + id + ".scope"}}) {
    CAPTURE(one.engine);
    const OwnGroup engine(unique_name("e"));
    const OwnGroup group(engine, one.group);
    const OwnGroup second(engine, "docker-" + other + ".scope");
    const OwnGroup watcher(engine, "libpod-conmon-" + id + ".scope");
    Victim inside(unique_name("i"), in_new_network);
    Victim elsewhere(unique_name("i"), in_new_network);
    Victim conmon(unique_name("i"), in_new_network);
    group.take(inside.pid());
    second.take(elsewhere.pid());
    watcher.take(conmon.pid());
    v1::Process wanted = named(unique_name("i"));
    CHECK(select_processes(wanted).status().code() == StatusCode::kNotFound);
    wanted.set_container(id);
    CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
    wanted.set_container(id.substr(0, 24));
    CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
    wanted.set_container(id.substr(0, 12));
    CHECK(message_of(select_processes(wanted).status()) ==
          "process.container: " + id.substr(0, 12) + " may be " + id + " or " + other +
              "; write more of the id");
  }
}

TEST_CASE("in a container a port is one of its own network") {
  const std::string id = std::to_string(1000000 + ::getpid()) + std::string(57, 'c');
  const OwnGroup engine(unique_name("e"));
  const OwnGroup group(engine, "docker-" + id + ".scope");
  const Listener here;
  Shared<std::atomic<std::uint16_t>> port;
  Victim inside(unique_name("n"), [&] {
    ::close(here.fd);
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
    const support::Namespace loopback;  // whose loopback is up
    if (::setns(loopback.fd(), CLONE_NEWNET) != 0) ::_exit(1);
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(here.port);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener, 1) != 0) {
      ::_exit(1);
    }
  });
  Victim mute(unique_name("n"), [&] { ::close(here.fd); });
  group.take(inside.pid());
  group.take(mute.pid());
  v1::Process wanted;
  wanted.set_container(id);
  wanted.set_port(here.port);
  CHECK(pids(select_processes(wanted)) == std::set{inside.pid()});
  ::close(here.fd);
}

TEST_CASE("a process of another network namespace is not of this node") {
  Victim away(unique_name("n"), [] {
    if (::unshare(CLONE_NEWNET) != 0) ::_exit(1);
  });
  const auto found = select_processes(named(unique_name("n")));
  CHECK(found.status().code() == StatusCode::kNotFound);
  CHECK(message_of(found.status()) == "no process with name " + unique_name("n") + " on this node");
}

TEST_CASE("an empty selector matches nothing and not everything") {
  CHECK(select_processes(v1::Process()).status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("a dead process that nobody has waited for is no target") {
  Victim dead(unique_name("z"));
  dead.signal(SIGKILL);
  CHECK(support::eventually([&] { return dead.state() == 'Z'; }, kBound));
  CHECK(select_processes(named(unique_name("z"))).status().code() == StatusCode::kNotFound);
}

TEST_CASE("S33: whatever selector matches what must live it is spared") {
  for (const std::string name : {"squall", "squalld", "squall-hold", "sshd", "sshd-session",
                                 "systemd", "systemd-journal", "dbus-daemon", "dbus-broker"}) {
    CAPTURE(name);
    const Listener listener;
    const OwnGroup unit(unique_name("p") + ".service");
    Victim spared(name);
    ::close(listener.fd);
    unit.take(spared.pid());
    std::vector<v1::Process> wanted = selectors_of(spared.pid());
    wanted.emplace_back().set_port(listener.port);
    wanted.emplace_back().set_unit(unit.path().substr(1));
    wanted.emplace_back().set_cgroup(unit.path());
    for (const v1::Process& one : wanted) {
      CAPTURE(one.ShortDebugString());
      const auto found = select_processes(one);
      CHECK_FALSE(pids(found).contains(spared.pid()));
      if (found.ok()) continue;  // it was not the only one
      CHECK(found.status().code() == StatusCode::kNotFound);
      CHECK(message_of(found.status()).find("that may be touched: ") != std::string::npos);
    }
  }
}

TEST_CASE("PID 1 and this process and its ancestors and kernel threads are spared") {
  std::set<std::uint32_t> protect{1, static_cast<std::uint32_t>(::getpid()),
                                  static_cast<std::uint32_t>(::getppid())};
  const auto kthreadd = ProcFolder::open(2);
  if (kthreadd && kthreadd->stat() && kthreadd->stat()->is_kernel_thread()) protect.insert(2);
  for (const std::uint32_t pid : protect) {
    for (const v1::Process& one : selectors_of(pid)) {
      CAPTURE(one.ShortDebugString());
      CHECK_FALSE(pids(select_processes(one)).contains(pid));
    }
  }
  v1::Process one;
  const std::string parent = std::to_string(::getppid());
  one.set_pid(static_cast<std::uint32_t>(::getppid()));
  CHECK(message_of(select_processes(one).status()) ==
        "no process with pid " + parent + " on this node that may be touched: " + parent + " is " +
            (parent == "1" ? "PID 1" : "squall's own or its ancestor"));
}

/// squall-hold, started by that path, is not found by the name that it has from there.
void check_spared(const std::filesystem::path& path) {
  const support::Namespace where;
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  {
    support::Command command;
    command.argv = {path.native()};
    command.where = &where;
    command.descriptors = {{ends[1], 3}};
    const support::Process renamed(command);
    const auto pid = static_cast<std::uint32_t>(renamed.pid());
    const auto process = ProcFolder::open(pid);
    REQUIRE(process.has_value());
    CHECK(support::eventually([&] { return process->name() == path.filename(); }, kBound));
    CHECK(look_through_holder(where, named(path.filename())).message() ==
          "no process with name " + path.filename().native() +
              " on this node that may be touched: " + std::to_string(pid) + " is squall's own");
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("a program of Squall's is spared under the name of a link to it") {
  const auto link = std::filesystem::temp_directory_path() / unique_name("r");
  std::filesystem::create_symlink(std::filesystem::absolute(support::binary("squall-hold")), link);
  check_spared(link);
  std::filesystem::remove(link);
}

TEST_CASE("a program of Squall's is spared under another name of its file") {
  const auto program = std::filesystem::absolute(support::binary("squall-hold"));
  const auto other = program.parent_path() / unique_name("r");
  std::error_code refused;
  std::filesystem::create_hard_link(program, other, refused);
  if (refused) {
    MESSAGE("SKIPPED: its folder cannot be written here");
    return;
  }
  check_spared(other);
  std::filesystem::remove(other);
}

TEST_CASE("a look says whom it would hit and whom it spares and why") {
  const OwnGroup group(unique_name("g"));
  Victim hit(unique_name("l"));
  Victim spared("sshd");
  group.take(hit.pid());
  group.take(spared.pid());
  v1::Fault fault;
  fault.mutable_kill()->mutable_process()->set_cgroup(group.path());
  const v1::Looked looked = look_at(fault);
  CHECK(looked.code() == 0);
  REQUIRE(looked.targets_size() == 1);
  CHECK(looked.targets(0).pid() == hit.pid());
  CHECK_FALSE(looked.targets(0).command().empty());
  REQUIRE(looked.notes_size() == 1);
  CHECK(looked.notes(0).starts_with("spares " + std::to_string(spared.pid()) + " "));
  CHECK(looked.notes(0).ends_with(": it is sshd"));
}

TEST_CASE("a pick takes as many as it says and the same for the same seed") {
  std::vector<std::unique_ptr<Victim>> victims;
  for (int i = 0; i < 10; ++i) victims.push_back(std::make_unique<Victim>(unique_name("k")));
  const auto picked = [](const v1::ProcessPick& pick, std::uint64_t seed) {
    const auto selection = select_processes(named(unique_name("k")), pick, seed);
    REQUIRE_MESSAGE(selection.ok(), message_of(selection.status()));
    CHECK(selection->targets.size() + selection->unpicked.size() == 10);
    std::set<std::uint32_t> found;
    for (const Target& target : selection->targets) found.insert(target.pid);
    return found;
  };
  v1::ProcessPick pick;
  CHECK(picked(pick, 1).size() == 10);
  pick.set_all(true);
  CHECK(picked(pick, 1).size() == 10);
  pick.set_count(3);
  CHECK(picked(pick, 1).size() == 3);
  CHECK(picked(pick, 1) == picked(pick, 1));
  std::set<std::uint32_t> ever;
  for (std::uint64_t seed = 0; seed < 40; ++seed) ever.merge(picked(pick, seed));
  CHECK(ever.size() == 10);
  for (const auto& [percent, count] : std::initializer_list<std::pair<double, std::size_t>>{
           {30, 3}, {31, 4}, {0.1, 1}, {100, 10}}) {
    pick.set_percent(percent);
    CHECK(picked(pick, 1).size() == count);
  }
  pick.set_oldest(true);
  CHECK(picked(pick, 1).size() == 1);
  pick.set_newest(true);
  CHECK(picked(pick, 1).size() == 1);
  pick.set_count(11);
  CHECK(message_of(select_processes(named(unique_name("k")), pick, 1).status()) ==
        "pick: 11 processes are to be picked, and only 10 match");
}

TEST_CASE("a seed draws the same of the same processes on every machine") {
  // As the draw is defined: mt19937_64, and Fisher and Yates from the front.
  std::vector<std::unique_ptr<Victim>> victims;
  std::vector<std::uint32_t> by_age;
  for (int i = 0; i < 5; ++i) {
    victims.push_back(std::make_unique<Victim>(unique_name("d")));
    by_age.push_back(victims.back()->pid());
  }
  v1::ProcessPick pick;
  pick.set_count(2);
  const auto selection = select_processes(named(unique_name("d")), pick, 42);
  REQUIRE(selection.ok());
  std::set<std::uint32_t> found;
  for (const Target& target : selection->targets) found.insert(target.pid);
  std::mt19937_64 engine(42);
  std::sort(by_age.begin(), by_age.end());
  std::swap(by_age[0], by_age[engine() % 5]);
  std::swap(by_age[1], by_age[1 + engine() % 4]);
  CHECK(found == std::set(by_age.begin(), by_age.begin() + 2));
}

TEST_CASE("the oldest and the newest are those that began first and last") {
  // Two clock ticks apart, by which the kernel tells the age of processes.
  const auto tick = std::chrono::milliseconds(20);
  Victim oldest(unique_name("o"));
  support::yield_for(tick);
  Victim middle(unique_name("o"));
  support::yield_for(tick);
  Victim newest(unique_name("o"));
  v1::ProcessPick pick;
  pick.set_oldest(true);
  auto selection = select_processes(named(unique_name("o")), pick, 7);
  REQUIRE(selection.ok());
  REQUIRE(selection->targets.size() == 1);
  CHECK(selection->targets[0].pid == oldest.pid());
  pick.set_newest(true);
  selection = select_processes(named(unique_name("o")), pick, 7);
  REQUIRE(selection.ok());
  REQUIRE(selection->targets.size() == 1);
  CHECK(selection->targets[0].pid == newest.pid());
}

}  // namespace
}  // namespace squall::hold
