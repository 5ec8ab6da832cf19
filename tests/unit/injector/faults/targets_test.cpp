/// Faults of processes on programs as they run in life.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <filesystem>
#include <fstream>

#include "injector/faults/processes.h"
#include "tests/support/holder.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/victim.h"

namespace squall::hold {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint16_t kPort = 6380;

/// A folder below $TMPDIR, removed with this object.
class Folder {
 public:
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "sqtXXXXXX";
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A connection to a port of the node; -1 if nobody listens.
class Connection {
 public:
  Connection(const support::Namespace& where, std::uint16_t port)
      : fd_(where.run([] { return ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0); })) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_.number(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      fd_.reset();
    }
  }

  bool is_open() const { return fd_.is_open(); }

  void say(const std::string& words) const {
    CHECK(::send(fd_.number(), words.data(), words.size(), MSG_NOSIGNAL) == std::ssize(words));
  }

  /// What comes within the time; empty if nothing does.
  std::string hear(Duration within) const {
    pollfd waiting{.fd = fd_.number(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, static_cast<int>(to_ms(within))) != 1) return "";
    std::array<char, 4096> text{};
    const ssize_t size = ::recv(fd_.number(), text.data(), text.size(), 0);
    return size > 0 ? std::string(text.data(), static_cast<std::size_t>(size)) : "";
  }

 private:
  Fd fd_;
};

bool is_installed(const char* program) {
  for (const char* folder : {"/usr/bin/", "/usr/sbin/"}) {
    if (::access((folder + std::string(program)).c_str(), X_OK) == 0) return true;
  }
  MESSAGE("SKIPPED: there is no " << program << " here");
  return false;
}

TEST_CASE("a paused redis answers nothing and all that it was asked afterwards") {
  if (!is_installed("redis-server")) return;
  const support::Namespace node;
  const Folder folder;
  support::Command command;
  command.argv = {"redis-server",
                  "--port",
                  std::to_string(kPort),
                  "--bind",
                  "127.0.0.1",
                  "--save",
                  "",
                  "--dir",
                  folder.path().native()};
  command.where = &node;
  support::Process redis(command);
  std::optional<Connection> client;
  const auto answers = [&] {
    client.emplace(node, kPort);
    if (!client->is_open()) return false;
    client->say("PING\r\n");
    return client->hear(kBound) == "+PONG\r\n";
  };
  REQUIRE_MESSAGE(support::eventually(answers, kBound, milliseconds(20)), redis.out());
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(seconds(60)).count());
  fault.mutable_pause()->mutable_process()->set_port(kPort);
  support::Holder holder(node);
  const v1::Evidence evidence = holder.inject(fault, seconds(60));
  CHECK(evidence.effect());
  CHECK(evidence.pause().processes() == 1);
  CHECK(evidence.pause().threads() > 1);  // it frees and saves in threads of its own
  client->say("PING\r\n");
  CHECK(client->hear(milliseconds(300)) == "");
  const Connection another(node, kPort);  // the kernel takes it for it
  CHECK(another.is_open());
  another.say("PING\r\n");
  CHECK(another.hear(milliseconds(100)) == "");
  CHECK(holder.release().empty());
  CHECK(client->hear(kBound) == "+PONG\r\n");
  CHECK(another.hear(kBound) == "+PONG\r\n");
  CHECK(redis.running());
}

TEST_CASE("killed workers of nginx are started again by its master and kill says how soon") {
  if (!is_installed("nginx")) return;
  const support::Namespace node;
  const Folder folder;
  const std::string home = folder.path().native();
  std::ofstream(folder.path() / "nginx.conf")
      << "daemon off; user root; worker_processes 3; pid " << home << "/pid; error_log " << home
      << "/log;\nevents {}\nhttp { access_log off; client_body_temp_path " << home
      << "/a; proxy_temp_path " << home << "/b; fastcgi_temp_path " << home
      << "/c; uwsgi_temp_path " << home << "/d; scgi_temp_path " << home
      << "/e; server { listen 127.0.0.1:" << kPort << "; return 200 hello; } }\n";
  support::Command command;
  command.argv = {"nginx", "-p", home, "-c", home + "/nginx.conf", "-e", home + "/log"};
  command.where = &node;
  support::Process nginx(command);
  const auto workers = [&] { return support::children_of(nginx.pid(), "nginx"); };
  const auto answers = [&] {
    const Connection client(node, kPort);
    if (!client.is_open()) return false;
    client.say("GET / HTTP/1.0\r\n\r\n");
    return client.hear(kBound).find("hello") != std::string::npos;
  };
  REQUIRE_MESSAGE(support::eventually(answers, kBound, milliseconds(20)), nginx.err());
  REQUIRE(support::eventually([&] { return workers().size() == 3; }, kBound));
  const std::vector<pid_t> before = workers();
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(seconds(60)).count());
  fault.mutable_kill()->mutable_process()->set_children_of("nginx");
  fault.mutable_kill()->mutable_pick()->set_count(2);
  fault.mutable_kill()->set_respawn(v1::WATCH);
  support::Holder holder(node);
  const v1::Evidence applied = holder.inject(fault, seconds(60));
  CHECK(applied.effect());
  CHECK(applied.kill().victims_size() == 2);
  std::optional<v1::Evidence> seen;
  CHECK(support::eventually(
      [&] { return (seen = holder.pulse(seconds(60))) && seen->kill().has_respawn_time(); }, kBound,
      milliseconds(20)));
  REQUIRE(seen.has_value());
  CHECK(seen->kill().respawned() == 2);
  CHECK(Duration(seen->kill().respawn_time()) < kBound);
  MESSAGE("nginx had its workers again after " << to_ms(Duration(seen->kill().respawn_time()))
                                               << " ms");
  const std::vector<pid_t> after = workers();
  CHECK(after.size() == 3);
  CHECK(after != before);
  CHECK(answers());
  CHECK(holder.release().empty());
  CHECK(workers() == after);
}

}  // namespace
}  // namespace squall::hold
