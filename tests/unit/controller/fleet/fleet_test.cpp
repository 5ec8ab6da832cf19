#include "controller/fleet/fleet.h"

#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "controller/fleet/grpc_node.h"
#include "controller/fleet/wake.h"
#include "squall/v1/node.grpc.pb.h"
#include "tests/support/certificates.h"
#include "tests/support/eventually.h"

namespace squall::fleet {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;

/// A folder of this test's own, gone with it.
struct Folder {
  Folder() {
    std::string name = (fs::temp_directory_path() / "sqt-fleet-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  fs::path path;
};

/// A daemon that writes down what it is told.
class Daemon final : public v1::Injector::Service {
 public:
  Daemon(const std::string& address, std::shared_ptr<grpc::ServerCredentials> credentials) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, std::move(credentials), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    REQUIRE(server_);
  }
  ~Daemon() override { stop(); }

  void stop() {
    if (!server_) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  grpc::Status Describe(grpc::ServerContext*, const v1::DescribeRequest*,
                        v1::Description* reply) override {
    reply->set_version("fake");
    return grpc::Status::OK;
  }

  grpc::Status Lease(grpc::ServerContext*,
                     grpc::ServerReaderWriter<v1::LeaseEvent, v1::LeaseRequest>* stream) override {
    v1::LeaseRequest request;
    struct Joined {
      ~Joined() {
        if (thread.joinable()) thread.join();
      }
      std::thread thread;
    } flooding;
    std::thread& flood = flooding.thread;
    while (stream->Read(&request)) {
      {
        const std::lock_guard lock(mutex);
        told.push_back(request);
        at.push_back(monotonic_now());
      }
      if (request.has_open()) {
        if (!refuses.ok()) return refuses;
        v1::LeaseEvent event;
        event.mutable_opened()->add_recovered("a device of an earlier run");
        stream->Write(event);
        // Beside the reading, as a node's faults do.
        flood = std::thread([this, stream] {
          v1::LeaseEvent one;
          one.mutable_evidence();
          for (int n = 0; n < events; ++n) {
            one.set_fault(std::to_string(n));
            stream->Write(one);
          }
        });
      }
      if (request.has_revert_all()) {
        v1::LeaseEvent event;
        event.mutable_settled();
        stream->Write(event);
      }
      if (request.has_inject()) return {grpc::StatusCode::FAILED_PRECONDITION, "the lease lapsed"};
    }
    half_closed = true;
    return grpc::Status::OK;
  }

  grpc::Status Ask(grpc::ServerContext* context,
                   grpc::ServerReaderWriter<v1::AskReply, v1::AskRequest>* stream) override {
    if (cannot_ask) return Service::Ask(context, stream);
    ++streams;
    v1::AskRequest request;
    while (stream->Read(&request)) {
      {
        const std::lock_guard lock(mutex);
        asked.push_back(request);
      }
      if (!refuses_check.ok()) return refuses_check;
      if (hangs) continue;
      v1::AskReply reply;
      reply.mutable_sample()->set_latency(Duration(milliseconds(3)).count());
      reply.mutable_sample()->set_status(200);
      reply.mutable_sample()->set_output(std::string("caf\xe9", 4));
      (*reply.mutable_sample()->mutable_numbers())["value"] = 7.5;
      stream->Write(reply);
    }
    ++broken;
    return grpc::Status::OK;
  }

  int port = 0;
  int events = 0;
  bool cannot_ask = false;
  std::atomic<bool> hangs = false;
  grpc::Status refuses_check;
  std::vector<v1::AskRequest> asked;
  std::atomic<int> streams = 0;
  std::atomic<int> broken = 0;
  grpc::Status refuses;
  std::mutex mutex;
  std::vector<v1::LeaseRequest> told;
  std::vector<MonotonicTime> at;
  std::atomic<bool> half_closed = false;

 private:
  std::unique_ptr<grpc::Server> server_;
};

/// Runs a coroutine to its end on a loop of its own; fails the test after ten seconds.
template <typename Function>
void on_loop(asio::io_context& loop, Function function) {
  bool done = false;
  asio::co_spawn(loop, std::move(function), [&](const std::exception_ptr& thrown) {
    CHECK_FALSE(thrown);
    done = true;
    loop.stop();
  });
  loop.restart();
  loop.run_for(seconds(10));
  REQUIRE(done);
}

Status reach(Node& node) {
  asio::io_context loop;
  Status reached;
  on_loop(loop, [&]() -> asio::awaitable<void> {
    const auto description = co_await node.connect();
    reached = description.status();
  });
  return reached;
}

v1::Open open_for(Duration lease) {
  v1::Open open;
  open.set_run("20260101-000000-test");
  open.set_epoch(1);
  open.set_lease(lease.count());
  return open;
}

/// A TCP port of the loopback that is bound; listens if told to, but never accepts.
struct Port {
  explicit Port(bool listens) : fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    REQUIRE(bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0);
    REQUIRE(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
    if (listens) REQUIRE(listen(fd, 8) == 0);
    number = ntohs(address.sin_port);
  }
  ~Port() { close(fd); }
  Port(const Port&) = delete;
  Port& operator=(const Port&) = delete;
  int fd;
  int number = 0;
};

std::string at_port(int port, const std::string& host = "127.0.0.1") {
  return host + ":" + std::to_string(port);
}

std::shared_ptr<grpc::ServerCredentials> mutual_tls(const support::Authority& authority,
                                                    const support::Pair& pair) {
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = authority.pem();
  options.pem_key_cert_pairs.push_back({pair.key, pair.certificate});
  return grpc::SslServerCredentials(options);
}

Credentials client_of(const support::Authority& ours, const support::Authority& trusted) {
  const support::Pair pair = ours.issue("controller", "127.0.0.1");
  return {trusted.pem(), pair.certificate, pair.key};
}

}  // namespace

TEST_CASE("a node where nobody listens cannot be reached, and is told so at once") {
  const support::Authority authority;
  const Port port(false);
  const auto node = make_grpc_node("db-1", at_port(port.number), client_of(authority, authority));
  const MonotonicTime before = monotonic_now();
  const Status reached = reach(*node);
  CHECK(reached.code() == StatusCode::kUnavailable);
  CHECK(message_of(reached) ==
        at_port(port.number) + " cannot be reached: connection refused; is squalld running there?");
  CHECK(monotonic_now() - before < seconds(1));
}

TEST_CASE("a node that never answers is given up after three seconds") {
  const support::Authority authority;
  const Port port(true);
  const auto node = make_grpc_node("db-1", at_port(port.number), client_of(authority, authority));
  const MonotonicTime before = monotonic_now();
  const Status reached = reach(*node);
  CHECK(message_of(reached) == at_port(port.number) + " cannot be reached: no answer within 3 s");
  CHECK(monotonic_now() - before < milliseconds(3500));
}

TEST_CASE("a unix socket that is not there is told so") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "no.sock").string();
  const auto node = make_grpc_node("local", address, std::nullopt);
  CHECK(message_of(reach(*node)) == address + " cannot be reached: there is no such socket");
}

TEST_CASE("over mTLS a node answers those whom its ca.pem signed") {
  const support::Authority authority;
  Daemon daemon("127.0.0.1:0", mutual_tls(authority, authority.issue("db-1", "127.0.0.1")));
  const auto node = make_grpc_node("db-1", at_port(daemon.port), client_of(authority, authority));
  CHECK(message_of(reach(*node)) == "");
}

TEST_CASE("what TLS refuses is told in words") {
  const support::Authority authority;
  const support::Authority stranger("a stranger");
  const support::Authority renewed;  // of the same name, with another key
  SUBCASE("a node that we do not trust") {
    for (const support::Authority* trusted : {&stranger, &renewed}) {
      Daemon daemon("127.0.0.1:0", mutual_tls(authority, authority.issue("db-1", "127.0.0.1")));
      const auto node =
          make_grpc_node("db-1", at_port(daemon.port), client_of(authority, *trusted));
      const Status reached = reach(*node);
      CHECK(reached.code() == StatusCode::kUnauthenticated);
      CHECK(message_of(reached) ==
            at_port(daemon.port) +
                ": TLS handshake refused: its certificate is not signed by our "
                "ca.pem, or has expired");
    }
  }
  SUBCASE("a node that does not trust us") {
    Daemon daemon("127.0.0.1:0", mutual_tls(authority, authority.issue("db-1", "127.0.0.1")));
    const auto node = make_grpc_node("db-1", at_port(daemon.port), client_of(stranger, authority));
    const Status reached = reach(*node);
    CHECK(reached.code() == StatusCode::kUnauthenticated);
    CHECK(message_of(reached) == at_port(daemon.port) +
                                     ": TLS handshake refused: it closed the connection; our "
                                     "certificate is not signed by its ca.pem, or has expired");
  }
  SUBCASE("a node whose certificate is another's") {
    Daemon daemon("127.0.0.1:0", mutual_tls(authority, authority.issue("db-1", "10.99.0.1")));
    const auto node = make_grpc_node("db-1", at_port(daemon.port), client_of(authority, authority));
    const Status reached = reach(*node);
    CHECK(reached.code() == StatusCode::kUnauthenticated);
    CHECK(message_of(reached) ==
          at_port(daemon.port) + ": TLS handshake refused: its certificate is not for this name");
  }
  SUBCASE("a node that speaks no TLS") {
    Daemon daemon("127.0.0.1:0", grpc::InsecureServerCredentials());
    const auto node = make_grpc_node("db-1", at_port(daemon.port), client_of(authority, authority));
    const Status reached = reach(*node);
    CHECK(reached.code() == StatusCode::kUnauthenticated);
    CHECK(message_of(reached) ==
          at_port(daemon.port) + ": TLS handshake refused: it does not speak TLS");
  }
}

TEST_CASE("a lease is renewed every third of it, also while the loop has much to do") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  daemon.events = 20'000;
  asio::io_context loop;
  const auto node = make_grpc_node("local", address, std::nullopt);
  std::size_t heard = 0;
  bool in_order = true;
  on_loop(loop, [&]() -> asio::awaitable<void> {
    CHECK((co_await node->connect()).ok());
    Listener listener;
    listener.event = [&](const v1::LeaseEvent& event) {
      in_order = in_order && event.fault() == std::to_string(heard);
      ++heard;
    };
    const auto opened = co_await node->open(open_for(milliseconds(600)), std::move(listener));
    CHECK(opened.ok());
    if (opened.ok()) CHECK(opened->recovered(0) == "a device of an earlier run");
    Wake never;
    const MonotonicTime end = monotonic_now() + milliseconds(2000);
    // Work that is always ready: a timer that waits for its turn would never come.
    std::function<void()> busy = [&] {
      if (monotonic_now() < end) asio::post(loop, busy);
    };
    busy();
    while (monotonic_now() < end) co_await never.wait(end);
    const MonotonicTime patience = end + seconds(20);
    while (heard < 20'000 && monotonic_now() < patience) {
      co_await never.wait(monotonic_now() + milliseconds(10));
    }
    co_await node->close();
  });
  CHECK(heard == 20'000);
  CHECK(in_order);
  const std::lock_guard lock(daemon.mutex);
  REQUIRE(daemon.told.size() >= 6);
  CHECK(daemon.told[0].has_open());
  for (std::size_t n = 1; n < daemon.told.size(); ++n) {
    CHECK(daemon.told[n].has_renew());
    CHECK(daemon.at[n] - daemon.at[n - 1] < milliseconds(600));
  }
}

TEST_CASE(
    "commands arrive in the order they were given, and closing ends the stream in good order") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("local", address, std::nullopt);
  bool lost = false;
  on_loop(loop, [&]() -> asio::awaitable<void> {
    CHECK((co_await node->connect()).ok());
    Wake changed;
    bool settled = false;
    Listener listener;
    listener.event = [&](const v1::LeaseEvent& event) {
      settled = event.has_settled();
      changed.notify();
    };
    listener.lost = [&](const Status&) { lost = true; };
    CHECK((co_await node->open(open_for(seconds(5)), std::move(listener))).ok());
    node->revert("one");
    node->revert("two");
    node->revert_all();
    const MonotonicTime deadline = monotonic_now() + seconds(5);
    while (!settled && monotonic_now() < deadline) co_await changed.wait(deadline);
    CHECK(settled);
    co_await node->close();
  });
  CHECK_FALSE(lost);
  CHECK(daemon.half_closed);
  const std::lock_guard lock(daemon.mutex);
  REQUIRE(daemon.told.size() == 4);
  CHECK(daemon.told[1].revert().fault() == "one");
  CHECK(daemon.told[2].revert().fault() == "two");
  CHECK(daemon.told[3].has_revert_all());
}

TEST_CASE("a lease that the node ends is told as lost, once, with the node's reason") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("local", address, std::nullopt);
  std::vector<std::string> lost;
  on_loop(loop, [&]() -> asio::awaitable<void> {
    CHECK((co_await node->connect()).ok());
    Wake changed;
    Listener listener;
    listener.lost = [&](const Status& why) {
      lost.push_back(message_of(why));
      changed.notify();
    };
    CHECK((co_await node->open(open_for(seconds(5)), std::move(listener))).ok());
    node->inject({});
    const MonotonicTime deadline = monotonic_now() + seconds(5);
    while (lost.empty() && monotonic_now() < deadline) co_await changed.wait(deadline);
    // Commands to nobody do no harm.
    node->revert_all();
    co_await node->close();
  });
  CHECK(lost == std::vector<std::string>{"the lease lapsed"});
}

TEST_CASE("a lease that is refused says why") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  daemon.refuses = {grpc::StatusCode::FAILED_PRECONDITION, "epoch 1 is over"};
  asio::io_context loop;
  const auto node = make_grpc_node("local", address, std::nullopt);
  Status refused;
  on_loop(loop, [&]() -> asio::awaitable<void> {
    CHECK((co_await node->connect()).ok());
    refused = (co_await node->open(open_for(seconds(5)), {})).status();
    co_await node->close();
  });
  CHECK(refused.code() == StatusCode::kFailedPrecondition);
  CHECK(message_of(refused) == "epoch 1 is over");
}

TEST_CASE("the local node is the daemon that runs already") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "squalld.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  LocalOptions options;
  options.state = folder.path;
  options.squalld = "/nonexistent/squalld";
  const auto node = make_local_node("local", options);
  CHECK(message_of(reach(*node)) == "");
  CHECK(node->address() == address);
}

TEST_CASE("a private daemon that ends at once is told with its last word") {
  const Folder folder;
  LocalOptions options;
  options.state = folder.path;
  options.squalld = "/bin/cat";  // knows no --state-dir, and says so
  const auto node = make_local_node("local", options);
  const Status reached = reach(*node);
  CHECK(reached.code() == StatusCode::kFailedPrecondition);
  CHECK(message_of(reached) ==
        "the local node: the squalld started for this run ended: Try '/bin/cat --help' for more "
        "information.");
}

TEST_CASE("a private daemon that ends in silence is told with where its log would be") {
  const Folder folder;
  LocalOptions options;
  options.state = folder.path;
  options.squalld = "/bin/true";
  const auto node = make_local_node("local", options);
  const std::string told = message_of(reach(*node));
  struct stat netns {};
  REQUIRE(stat("/proc/self/ns/net", &netns) == 0);
  const auto log = folder.path / "local" / (std::to_string(netns.st_ino) + "-1") / "squalld.log";
  CHECK(told == "the local node: the squalld started for this run ended: its log " + log.string() +
                    " is empty");
}

TEST_CASE("nodes come sorted by name, and those over TCP need a --tls-dir") {
  v1::Plan plan;
  (*plan.mutable_nodes())["b"].set_address("unix:/b");
  (*plan.mutable_nodes())["a"];
  (*plan.mutable_nodes())["c"].set_address("10.0.0.1:7411");
  CHECK(message_of(make_nodes(plan, {}).status()) ==
        "node c is reached over TCP, which takes mTLS: name the folder with ca.pem, cert.pem and "
        "key.pem by --tls-dir");
  const Folder folder;
  Options options;
  options.tls_dir = folder.path.string();
  CHECK(message_of(make_nodes(plan, options).status()) ==
        "--tls-dir: " + (folder.path / "ca.pem").string() + ": No such file or directory");
  std::filesystem::create_directory(folder.path / "ca.pem");
  CHECK(message_of(make_nodes(plan, options).status()) ==
        "--tls-dir: " + (folder.path / "ca.pem").string() + ": Is a directory");
  plan.mutable_nodes()->erase("c");
  const auto nodes = make_nodes(plan, options);
  REQUIRE(nodes.ok());
  REQUIRE(nodes->size() == 2);
  CHECK((*nodes)[0]->name() == "a");
  CHECK((*nodes)[1]->address() == "unix:/b");
  (*plan.mutable_nodes())["d"];
  CHECK(
      message_of(make_nodes(plan, options).status()) ==
      "a and d are both without an address, but there is only one node that squall itself runs on");
}

namespace {

v1::Check http_check() {
  v1::Check check;
  check.set_name("shop");
  check.set_every(Duration(milliseconds(100)).count());
  check.set_timeout(Duration(milliseconds(100)).count());
  check.mutable_from()->set_all(true);
  check.mutable_of()->set_count(1);
  check.mutable_http()->set_url("http://127.0.0.1/");
  return check;
}

checks::Sample ask(asio::io_context& loop, checks::Check& check) {
  checks::Sample answer;
  on_loop(loop, [&]() -> asio::awaitable<void> { answer = co_await check.ask(); });
  return answer;
}

void connect(asio::io_context& loop, Node& node) {
  on_loop(loop, [&]() -> asio::awaitable<void> {
    const auto description = co_await node.connect();
    CHECK(description.ok());
  });
}

}  // namespace

TEST_CASE("a check is asked from a node on one stream, which the first question opens") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("web-1", address, std::nullopt);
  auto check = node->check(http_check());
  CHECK(ask(loop, *check).error == "web-1 is not connected");
  connect(loop, *node);
  CHECK(daemon.streams == 0);
  for (int n = 0; n < 3; ++n) {
    const MonotonicTime before = monotonic_now();
    const checks::Sample sample = ask(loop, *check);
    CHECK(sample.error == "");
    CHECK(sample.asked >= before);
    CHECK(sample.latency == milliseconds(3));
    CHECK(sample.status == 200);
    CHECK(sample.output == "caf\xe9");
    CHECK(sample.numbers.at("value") == 7.5);
  }
  CHECK(check->refused().ok());
  CHECK(daemon.streams == 1);
  {
    const std::lock_guard lock(daemon.mutex);
    REQUIRE(daemon.asked.size() == 3);
    CHECK(daemon.asked[0].check().http().url() == "http://127.0.0.1/");
    CHECK_FALSE(daemon.asked[0].check().has_from());
    CHECK_FALSE(daemon.asked[0].check().has_of());
    CHECK_FALSE(daemon.asked[1].has_check());
  }
  check.reset();
  loop.restart();
  loop.poll();
  CHECK(support::eventually([&] { return daemon.broken == 1; }, seconds(10)));
}

TEST_CASE("a node that hangs is not waited for longer than the check's timeout and a little") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("web-1", address, std::nullopt);
  connect(loop, *node);
  const auto check = node->check(http_check());
  daemon.hangs = true;
  const checks::Sample sample = ask(loop, *check);
  CHECK(sample.error == "no answer from web-1 within 350ms");
  CHECK(sample.latency >= milliseconds(350));
  // What it may still say is of the question before.
  CHECK(support::eventually([&] { return daemon.broken == 1; }, seconds(10)));
  daemon.hangs = false;
  CHECK(ask(loop, *check).error == "");
  CHECK(daemon.streams == 2);
}

TEST_CASE("what a node refuses to ask is told, and told to be final") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("web-1", address, std::nullopt);
  connect(loop, *node);
  const auto check = node->check(http_check());
  SUBCASE("by a rule of its guardrails") {
    daemon.refuses_check = {grpc::StatusCode::PERMISSION_DENIED, "guardrails.yaml:3: not this"};
    CHECK(ask(loop, *check).error == "web-1 does not ask: guardrails.yaml:3: not this");
    CHECK(check->refused().code() == StatusCode::kPermissionDenied);
  }
  SUBCASE("for it is too old") {
    daemon.cannot_ask = true;
    CHECK(ask(loop, *check).error == "web-1 does not ask: its squalld cannot");
    CHECK(check->refused().code() == StatusCode::kUnimplemented);
    CHECK(message_of(check->refused()) == "");
  }
  SUBCASE("but not for now only") {
    daemon.refuses_check = {grpc::StatusCode::RESOURCE_EXHAUSTED, "256 checks are asked already"};
    CHECK(ask(loop, *check).error == "web-1 does not ask: 256 checks are asked already");
    CHECK(check->refused().ok());
  }
}

TEST_CASE("a check is asked again from a node that was lost and is reached again") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  std::optional<Daemon> daemon;
  daemon.emplace(address, grpc::InsecureServerCredentials());
  asio::io_context loop;
  const auto node = make_grpc_node("web-1", address, std::nullopt);
  connect(loop, *node);
  const auto check = node->check(http_check());
  CHECK(ask(loop, *check).error == "");
  daemon.reset();
  std::string lost;
  CHECK(support::eventually(
      [&] {
        lost = ask(loop, *check).error;
        return lost.find("cannot be reached") != std::string::npos;
      },
      seconds(10)));
  CHECK(lost.starts_with("web-1 does not ask: " + address + " cannot be reached: "));
  CHECK(check->refused().ok());
  daemon.emplace(address, grpc::InsecureServerCredentials());
  connect(loop, *node);
  CHECK(ask(loop, *check).error == "");
}

TEST_CASE("a question that nobody waits for any more is given up") {
  const Folder folder;
  const std::string address = "unix:" + (folder.path / "d.sock").string();
  Daemon daemon(address, grpc::InsecureServerCredentials());
  daemon.hangs = true;
  asio::io_context loop;
  const auto node = make_grpc_node("web-1", address, std::nullopt);
  connect(loop, *node);
  v1::Check slow = http_check();
  slow.set_timeout(Duration(std::chrono::minutes(1)).count());
  const auto check = node->check(slow);
  const MonotonicTime before = monotonic_now();
  on_loop(loop, [&]() -> asio::awaitable<void> {
    using namespace asio::experimental::awaitable_operators;
    asio::steady_timer soon(loop, milliseconds(50));
    co_await (check->ask() || soon.async_wait(asio::use_awaitable));
  });
  CHECK(monotonic_now() - before < seconds(5));
  CHECK(support::eventually([&] { return daemon.broken == 1; }, seconds(10)));
}

}  // namespace squall::fleet
