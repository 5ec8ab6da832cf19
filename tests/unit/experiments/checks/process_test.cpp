#include "tests/support/process.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>

#include "asking.h"
#include "tests/support/eventually.h"
#include "tests/support/folder.h"

namespace squall::checks {
namespace {

using namespace testing;
namespace fs = std::filesystem;

std::string unique_name(const std::string& what) {
  return "sqc" + std::to_string(::getpid()) + what;
}

v1::Check process_check(const v1::Process& wanted, const std::string& metric = "count") {
  v1::Check check;
  check.set_timeout(Duration(10s).count());
  check.add_expect()->set_metric(metric);
  *check.mutable_process() = wanted;
  return check;
}

v1::Process named(const std::string& name) {
  v1::Process wanted;
  wanted.set_name(name);
  return wanted;
}

/// A program that sleeps, under a name of its own; the arguments are seconds.
class Sleeper {
 public:
  Sleeper(const fs::path& folder, const std::string& name, const std::string& seconds = "1000")
      : process_(command(folder / name, seconds)) {
    // It has its name once it has been started.
    CHECK(support::eventually(
        [&] {
          std::ifstream in("/proc/" + std::to_string(process_.pid()) + "/comm");
          std::string found;
          return std::getline(in, found) && found == name.substr(0, 15);
        },
        kBound));
  }

 private:
  static support::Command command(const fs::path& link, const std::string& seconds) {
    if (!fs::exists(link)) fs::create_symlink("/bin/sleep", link);
    support::Command made;
    made.argv = {link.native(), "1000", seconds};
    return made;
  }

  support::Process process_;
};

Sample ask_once(const v1::Check& wanted) {
  asio::io_context loop;
  const auto check = make_check(wanted);
  return ask(loop, *check);
}

double count_of(const v1::Process& wanted) {
  const Sample sample = ask_once(process_check(wanted));
  CHECK(sample.error == "");
  return sample.numbers.at("count");
}

/// Whether it holds in a process without privileges.
bool holds_for_nobody(const std::function<bool()>& condition) {
  const pid_t nobody = ::fork();
  REQUIRE(nobody >= 0);
  if (nobody == 0) {
    constexpr uid_t kNobody = 65534;
    if (::setresuid(kNobody, kNobody, kNobody) != 0) ::_exit(2);
    ::_exit(condition() ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(nobody, &status, 0) == nobody);
  return status == 0;
}

TEST_CASE("a process check counts those that match, and sums what memory they use") {
  const support::TemporaryFolder folder;
  const std::string name = unique_name("a");
  const v1::Check wanted = process_check(named(name));
  const Sample none = ask_once(wanted);
  CHECK(none.error == "");
  CHECK(none.no_data == "");
  CHECK(none.numbers.at("count") == 0);
  CHECK(none.numbers.at("rss") == 0);

  const Sleeper first(folder.path(), name);
  const Sample one = ask_once(wanted);
  CHECK(one.numbers.at("count") == 1);
  CHECK(one.numbers.at("rss") > 100'000);
  CHECK(one.numbers.at("rss") < 100'000'000);
  {
    const Sleeper second(folder.path(), name);
    const Sample two = ask_once(wanted);
    CHECK(two.numbers.at("count") == 2);
    CHECK(two.numbers.at("rss") > one.numbers.at("rss"));
  }
  CHECK(count_of(named(name)) == 1);
}

TEST_CASE("the share of the CPUs is that between two asks, and no data at the first") {
  const std::string name = unique_name("b");
  asio::io_context loop;
  const auto check = make_check(process_check(named(name), "cpu"));
  const Sample first = ask(loop, *check);
  CHECK(first.numbers.count("cpu") == 0);
  CHECK(first.no_data == "what they use of the CPUs is known by the second ask");
  CHECK(ask(loop, *check).numbers.at("cpu") == 0);

  // Started between two asks: all that it has used counts.
  const pid_t busy = ::fork();
  REQUIRE(busy >= 0);
  if (busy == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, name.c_str());
    for (std::atomic<unsigned> turns = 0;;) turns.fetch_add(1);
  }
  double share = 0;
  CHECK(support::eventually(
      [&] {
        const Sample sample = ask(loop, *check);
        CHECK(sample.no_data == "");
        share = sample.numbers.at("cpu");
        return share > 0;
      },
      kBound, 100ms));
  CHECK(share <= 100);
  ::kill(busy, SIGSTOP);
  CHECK(support::eventually(
      [&] {
        const Sample sample = ask(loop, *check);
        return sample.numbers.at("count") == 1 && sample.numbers.at("cpu") == 0;
      },
      kBound, 20ms));
  ::kill(busy, SIGKILL);
  ::waitpid(busy, nullptr, 0);
}

TEST_CASE("who asks and Squall's own programs are counted only where they are meant") {
  const support::TemporaryFolder folder;
  std::ifstream in("/proc/self/cmdline");
  std::string arguments{std::istreambuf_iterator<char>(in), {}};
  arguments.pop_back();
  std::replace(arguments.begin(), arguments.end(), '\0', ' ');
  v1::Process self;
  self.set_cmdline("^\\Q" + arguments + "\\E$");
  CHECK(count_of(self) == 0);
  self.set_pid(static_cast<std::uint32_t>(::getpid()));
  CHECK(count_of(self) == 1);

  const std::string seconds = std::to_string(::getpid());
  v1::Process sleepers;
  sleepers.set_cmdline(" 1000 " + seconds + "$");
  const Sleeper holder(folder.path(), "squall-hold", seconds);
  CHECK(count_of(sleepers) == 0);
  const Sleeper other(folder.path(), unique_name("c"), seconds);
  CHECK(count_of(sleepers) == 1);
  sleepers.set_name("squall-hold");
  CHECK(count_of(sleepers) == 1);
}

TEST_CASE("what must live is counted as well as what a fault may touch") {
  const support::TemporaryFolder folder;
  const std::string seconds = std::to_string(::getpid());
  const Sleeper spared(folder.path(), "sshd", seconds);
  v1::Process wanted;
  wanted.set_cmdline(" 1000 " + seconds + "$");
  CHECK(count_of(wanted) == 1);
}

TEST_CASE("a process check that cannot be asked says why") {
  v1::Process wanted;
  wanted.set_user("no-such-user");
  CHECK(ask_once(process_check(wanted)).error ==
        "process.user: no user no-such-user in /etc/passwd; one of a directory is named by its "
        "uid");
}

TEST_CASE("whoever is not root counts the processes of others too") {
  const support::TemporaryFolder folder;
  const std::string name = unique_name("d");
  const Sleeper sleeper(folder.path(), name);
  CHECK(holds_for_nobody([&] {
    const Sample sample = ask_once(process_check(named(name)));
    return sample.error.empty() && sample.numbers.at("count") == 1;
  }));
}

TEST_CASE("whoever is not root is not told that nobody has a port open that somebody has") {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  REQUIRE(::bind(listener, generic, length) == 0);
  REQUIRE(::listen(listener, 1) == 0);
  REQUIRE(::getsockname(listener, generic, &length) == 0);
  v1::Process wanted;
  wanted.set_port(ntohs(address.sin_port));
  CHECK(count_of(wanted) == 1);

  const std::string words =
      "port " + std::to_string(wanted.port()) + " is listened on, and by whom only root can see";
  CHECK(holds_for_nobody([&] {
    ::close(listener);
    return ask_once(process_check(wanted)).error == words;
  }));
  ::close(listener);
}

}  // namespace
}  // namespace squall::checks
