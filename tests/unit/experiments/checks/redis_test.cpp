#include <signal.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "asking.h"
#include "tests/support/eventually.h"
#include "tests/support/folder.h"
#include "tests/support/process.h"

namespace squall::checks {
namespace {

using namespace testing;

bool is_installed() {
  if (std::filesystem::exists("/usr/bin/redis-server")) return true;
  MESSAGE("SKIPPED: there is no redis-server here");
  return false;
}

v1::Check redis_check(const std::string& address, const std::vector<std::string>& command = {},
                      const std::vector<std::string>& metrics = {}, Duration timeout = kBound) {
  v1::Check check;
  check.set_timeout(timeout.count());
  for (const std::string& metric : metrics) check.add_expect()->set_metric(metric);
  v1::Redis& redis = *check.mutable_redis();
  (address[0] == '/' ? *redis.mutable_unix() : *redis.mutable_address()) = address;
  redis.mutable_command()->Assign(command.begin(), command.end());
  return check;
}

Sample ask_once(const v1::Check& wanted) {
  asio::io_context loop;
  const auto check = make_check(wanted);
  return ask(loop, *check);
}

/// A server of its own on the loopback, and on a unix socket.
class RedisServer {
 public:
  explicit RedisServer(const RedisServer* primary = nullptr)
      : address_(closed_address()), primary_(primary) {
    start();
  }

  const std::string& address() const { return address_; }
  std::string socket() const { return folder_.path() / "redis.sock"; }
  void signal(int number) const { process_->signal(number); }
  void stop() { process_.reset(); }

  void start() {
    support::Command command;
    command.argv = {"redis-server",
                    "--bind",
                    "127.0.0.1",
                    "--port",
                    port(),
                    "--unixsocket",
                    socket(),
                    "--save",
                    "",
                    "--dir",
                    folder_.path().native(),
                    "--repl-diskless-sync-delay",
                    "0",
                    "--repl-ping-replica-period",
                    "1"};
    if (primary_ != nullptr) {
      const std::vector<std::string> replica{"--replicaof", "127.0.0.1", primary_->port()};
      command.argv.insert(command.argv.end(), replica.begin(), replica.end());
    }
    process_ = std::make_unique<support::Process>(command);
    const bool serves = support::eventually(
        [&] { return ask_once(redis_check(socket())).state == "ok"; }, kBound, 20ms);
    REQUIRE_MESSAGE(serves, process_->out());
  }

 private:
  std::string port() const { return address_.substr(address_.find(':') + 1); }

  support::TemporaryFolder folder_;
  std::string address_;
  const RedisServer* primary_;
  std::unique_ptr<support::Process> process_;
};

/// $REDISCLI_AUTH while it lives.
struct Password {
  explicit Password(const std::string& password) { ::setenv("REDISCLI_AUTH", password.c_str(), 1); }
  Password(const Password&) = delete;
  Password& operator=(const Password&) = delete;
  ~Password() { ::unsetenv("REDISCLI_AUTH"); }
};

TEST_CASE("a redis check tells numbers, texts, lists and what is not there") {
  if (!is_installed()) return;
  const RedisServer server;
  const auto reply = [&](const std::vector<std::string>& command) {
    return ask_once(redis_check(server.address(), command, {"value"}));
  };
  const Sample pong = ask_once(redis_check(server.address()));
  CHECK(pong.error == "");
  CHECK(pong.state == "ok");
  CHECK(pong.output == "PONG");
  CHECK(pong.no_data == "");
  CHECK(pong.latency > 0ns);

  CHECK(reply({"RPUSH", "orders", "first", "second"}).numbers.at("value") == 2);
  const Sample length = reply({"LLEN", "orders"});
  CHECK(length.numbers.at("value") == 2);
  CHECK(length.output == "2");
  const Sample list = reply({"LRANGE", "orders", "0", "-1"});
  CHECK(list.numbers.at("count") == 2);
  CHECK(list.output == "first");
  CHECK(list.no_data == "a list");
  CHECK(reply({"LRANGE", "none", "0", "-1"}).numbers.at("count") == 0);
  CHECK(reply({"SET", "depth", "-1.5"}).no_data == "\"OK\" is not a number");
  CHECK(reply({"GET", "depth"}).numbers.at("value") == -1.5);
  CHECK(reply({"GET", "none"}).no_data == "nil");
  CHECK(ask_once(redis_check(server.address(), {"GET", "none"}, {"text"})).no_data == "nil");
  CHECK(ask_once(redis_check(server.address(), {"GET", "depth"}, {"text"})).no_data == "");
  const Sample wrong = reply({"LLEN", "depth"});
  CHECK(wrong.state == "error");
  CHECK(wrong.error == "WRONGTYPE Operation against a key holding the wrong kind of value");
  // An error of one command is not the end of the connection.
  asio::io_context loop;
  const auto check = make_check(redis_check(server.socket(), {"CLIENT", "ID"}));
  const double id = ask(loop, *check).numbers.at("value");
  CHECK(ask(loop, *check).numbers.at("value") == id);
}

TEST_CASE("a redis server that dies is refused, and asked again once it is back") {
  if (!is_installed()) return;
  RedisServer server;
  asio::io_context loop;
  for (const std::string& address : {server.address(), server.socket()}) {
    const auto check = make_check(redis_check(address));
    CHECK(ask(loop, *check).state == "ok");
    server.stop();
    for (int round = 0; round < 2; ++round) {
      const Sample gone = ask(loop, *check);
      CHECK(gone.state == "refused");
      CHECK(gone.error == "connection refused");
    }
    server.start();
    CHECK(ask(loop, *check).state == "ok");
  }
}

TEST_CASE("a redis server that is frozen is told by the timeout") {
  if (!is_installed()) return;
  const RedisServer server;
  asio::io_context loop;
  const auto check = make_check(redis_check(server.address(), {}, {}, 300ms));
  CHECK(support::eventually([&] { return ask(loop, *check).state == "ok"; }, kBound, 10ms));
  server.signal(SIGSTOP);
  for (int round = 0; round < 2; ++round) {
    const Sample sample = ask(loop, *check);
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 300ms");
    CHECK(sample.latency >= 300ms);
  }
  server.signal(SIGCONT);
  CHECK(support::eventually([&] { return ask(loop, *check).state == "ok"; }, kBound, 10ms));
}

TEST_CASE("a redis check logs in with the password of the environment, and tells it nobody") {
  if (!is_installed()) return;
  const RedisServer server;
  const std::string user = "shop";
  REQUIRE(ask_once(redis_check(server.address(),
                               {"ACL", "SETUSER", "shop", "on", ">s3cret", "~*", "+@all"}))
              .error == "");
  REQUIRE(
      ask_once(redis_check(server.address(), {"CONFIG", "SET", "requirepass", "0ther"})).error ==
      "");
  const auto as = [&](const std::string& name) {
    v1::Check check = redis_check(server.address());
    check.mutable_redis()->set_user(name);
    return ask_once(check);
  };
  CHECK(as("").error == "NOAUTH Authentication required.");
  CHECK(as("shop").error == "REDISCLI_AUTH has no password for shop");
  {
    const Password right("s3cret");
    CHECK(as("shop").error == "");
    CHECK(as("").error == "login refused: WRONGPASS");
  }
  const Password other("0ther");
  CHECK(as("").error == "");
  CHECK(as("shop").error == "login refused: WRONGPASS");
  CHECK(as("shop").state == "error");
}

/// Asks until a lag is told that fits.
template <typename Fits>
bool has_lag(const std::string& address, Fits fits) {
  asio::io_context loop;
  const auto check = make_check(redis_check(address, {}, {"lag"}));
  return support::eventually(
      [&] {
        const Sample sample = ask(loop, *check);
        CHECK(sample.error == "");
        return sample.numbers.count("lag") > 0 && fits(sample.numbers.at("lag"));
      },
      kBound, 50ms);
}

TEST_CASE("the lag of a redis replica is told by itself and by its primary") {
  if (!is_installed()) return;
  RedisServer primary;
  CHECK(ask_once(redis_check(primary.address(), {}, {"lag"})).no_data == "it has no replicas");
  const RedisServer replica(&primary);
  const auto is_small = [](double lag) { return lag < 10e9; };
  CHECK(has_lag(replica.address(), is_small));
  CHECK(has_lag(primary.address(), is_small));

  replica.signal(SIGSTOP);
  CHECK(has_lag(primary.address(), [](double lag) { return lag >= 3e9; }));
  replica.signal(SIGCONT);
  CHECK(has_lag(primary.address(), [](double lag) { return lag < 3e9; }));

  primary.stop();
  asio::io_context loop;
  const auto check = make_check(redis_check(replica.address(), {}, {"lag"}));
  CHECK(support::eventually(
      [&] { return ask(loop, *check).no_data == "the link to its primary is down"; }, kBound,
      50ms));
}

/// Says it, whatever is asked, and then no more.
Server::Serve saying(std::string text, int times = 1) {
  return [text = std::move(text), times](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    const std::string answer = text;
    const int rounds = times;
    for (int round = 0; round < rounds; ++round) {
      const auto [failed, written] =
          co_await asio::async_write(socket, asio::buffer(answer), kToken);
      if (failed) co_return;
    }
    char byte = 0;
    bool ended = false;
    while (!ended) {
      const auto [failed, length] = co_await socket.async_read_some(asio::buffer(&byte, 1), kToken);
      ended = static_cast<bool>(failed);
    }
  };
}

TEST_CASE("what is no redis server is told as what it is") {
  asio::io_context loop;
  const auto ask_fake = [&](Server::Serve serve, Duration timeout = kBound) {
    const Server fake(loop, std::move(serve));
    const std::string port = fake.address().substr(fake.address().find(':'));
    const auto check = make_check(redis_check("localhost" + port, {}, {}, timeout));
    return ask(loop, *check);
  };
  SUBCASE("somebody who says something else") {
    const Sample sample = ask_fake(saying("HTTP/1.1 400 Bad Request\r\n\r\n"));
    CHECK(sample.state == "error");
    CHECK(sample.error == "not what a Redis server says");
  }
  SUBCASE("somebody who hangs up") {
    const Sample sample = ask_fake([](tcp::socket) -> asio::awaitable<void> { co_return; });
    CHECK(sample.state == "refused");
  }
  SUBCASE("somebody who does not come to the end") {
    const Sample sample = ask_fake(saying("$5\r\nab"), 200ms);
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 200ms");
  }
  SUBCASE("somebody who has more to say than can be wanted") {
    const Sample sample = ask_fake(saying("$500000000\r\n" + std::string(1'000'000, 'x'), 20));
    CHECK(sample.state == "error");
    CHECK(sample.error == "an answer of more than 10 MB");
  }
  SUBCASE("somebody who repeats what he was told") {
    const Password password("s3cret");
    const Sample sample =
        ask_fake(saying("-ERR unknown command `AUTH`, with args beginning with: `s3cret`\r\n"));
    CHECK(sample.state == "error");
    CHECK(sample.error == "login refused: ERR");
  }
  SUBCASE("nobody") {
    CHECK(ask_once(redis_check(closed_address())).state == "refused");
    CHECK(ask_once(redis_check("/no/such.sock")).state == "refused");
    const Sample sample = ask_once(redis_check(std::string(64, 'n') + ".invalid:6379"));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "cannot resolve name");
  }
}

}  // namespace
}  // namespace squall::checks
