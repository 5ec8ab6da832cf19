#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "asking.h"
#include "tests/support/certificates.h"

namespace squall::checks {
namespace {

using namespace testing;

v1::Check grpc_check(const std::string& address, const std::string& service = "",
                     Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_grpc()->set_address(address);
  check.mutable_grpc()->set_service(service);
  return check;
}

/// gRPC's own server with its own health service; or without one.
class HealthServer {
 public:
  explicit HealthServer(
      std::shared_ptr<grpc::ServerCredentials> credentials = grpc::InsecureServerCredentials(),
      int port = 0, bool with_health = true)
      : port_(port) {
    grpc::EnableDefaultHealthCheckService(with_health);
    grpc::ServerBuilder builder;
    builder.RegisterCallbackGenericService(&nothing_);
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), credentials, &port_);
    server_ = builder.BuildAndStart();
    REQUIRE(server_ != nullptr);
  }
  ~HealthServer() { server_->Shutdown(std::chrono::system_clock::now()); }
  HealthServer(const HealthServer&) = delete;
  HealthServer& operator=(const HealthServer&) = delete;

  int port() const { return port_; }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  grpc::HealthCheckServiceInterface& health() { return *server_->GetHealthCheckService(); }

 private:
  int port_;
  grpc::CallbackGenericService nothing_;  ///< Knows no method; none would be no server.
  std::unique_ptr<grpc::Server> server_;
};

TEST_CASE("a grpc check tells what a service says of its health") {
  asio::io_context loop;
  HealthServer server;
  server.health().SetServingStatus("cart.v1.Cart", true);
  server.health().SetServingStatus("mail.v1.Mail", false);
  const auto state_of = [&](const std::string& service) {
    const Sample sample = ask(loop, *make_check(grpc_check(server.address(), service)));
    CHECK(sample.error == "");
    CHECK(sample.latency > 0ns);
    return sample.state;
  };
  CHECK(state_of("") == "serving");
  CHECK(state_of("cart.v1.Cart") == "serving");
  CHECK(state_of("mail.v1.Mail") == "not_serving");
  CHECK(state_of("no.such.Service") == "unknown");

  const auto check = make_check(grpc_check(server.address(), "cart.v1.Cart"));
  CHECK(ask(loop, *check).state == "serving");
  server.health().SetServingStatus("cart.v1.Cart", false);
  CHECK(ask(loop, *check).state == "not_serving");
}

TEST_CASE("a grpc server that was down is seen again by the first asking after its return") {
  asio::io_context loop;
  auto server = std::make_unique<HealthServer>();
  const int port = server->port();
  const auto check = make_check(grpc_check(server->address()));
  CHECK(ask(loop, *check).state == "serving");
  server.reset();
  const Sample down = ask(loop, *check);
  CHECK(down.state == "unreachable");
  CHECK(down.error == "connection refused");
  for (int round = 0; round < 5; ++round) CHECK(ask(loop, *check).error == "connection refused");
  server = std::make_unique<HealthServer>(grpc::InsecureServerCredentials(), port);
  CHECK(ask(loop, *check).state == "serving");
}

TEST_CASE("a grpc check says in words why there is no answer") {
  asio::io_context loop;
  SUBCASE("it never answers") {
    Server silent(loop, [](tcp::socket taken) -> asio::awaitable<void> {
      tcp::socket socket = std::move(taken);
      std::string buffer;
      co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), "never", kToken);
    });
    const Sample sample = ask(loop, *make_check(grpc_check(silent.address(), "", 200ms)));
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 200ms");
    CHECK(sample.latency >= 195ms);
  }
  SUBCASE("it has no such name") {
    const Sample sample =
        ask(loop, *make_check(grpc_check(std::string(64, 'n') + ".invalid:80", "", 5s)));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "cannot resolve name");
  }
  SUBCASE("it speaks HTTP/1") {
    Server web(loop, answering("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"));
    const Sample sample = ask(loop, *make_check(grpc_check(web.address())));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "not a gRPC answer");
  }
  SUBCASE("it has no health service") {
    HealthServer server(grpc::InsecureServerCredentials(), 0, false);
    const Sample sample = ask(loop, *make_check(grpc_check(server.address())));
    CHECK(sample.state == "unknown");
    CHECK(sample.error == "it does not speak the health protocol");
  }
}

/// Files that go with the object.
class Folder {
 public:
  Folder() { REQUIRE(mkdtemp(path_.data()) != nullptr); }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ + "/" + name) << text;
    return path_ + "/" + name;
  }

 private:
  std::string path_ = "/tmp/squall-grpc-XXXXXX";
};

TEST_CASE("a grpc check speaks TLS as the plan says") {
  asio::io_context loop;
  const support::Authority authority;
  const support::Authority other("another authority");
  const support::Pair pair = authority.issue("shop", "127.0.0.1");
  const support::Pair client = authority.issue("squall", "127.0.0.1");
  const Folder folder;
  const std::string ca = folder.write("ca.pem", authority.pem());
  const std::string other_ca = folder.write("other.pem", other.pem());
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = authority.pem();
  options.pem_key_cert_pairs.push_back({pair.key, pair.certificate});
  HealthServer server(grpc::SslServerCredentials(options));

  v1::Check check = grpc_check(server.address());
  v1::Tls& tls = *check.mutable_grpc()->mutable_tls();
  tls.set_cert(folder.write("cert.pem", client.certificate));
  tls.set_key(folder.write("key.pem", client.key));
  const auto asked = [&] { return ask(loop, *make_check(check)); };
  SUBCASE("with both certificates right") {
    tls.set_ca(ca);
    const Sample sample = asked();
    CHECK(sample.error == "");
    CHECK(sample.state == "serving");
  }
  SUBCASE("with another authority") {
    tls.set_ca(other_ca);
    const Sample sample = asked();
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "TLS: certificate verify failed");
  }
  SUBCASE("with another name") {
    tls.set_ca(ca);
    tls.set_server_name("cart.internal");
    CHECK(asked().error == "TLS: the certificate is not for this name");
  }
  SUBCASE("with any certificate taken") {
    tls.set_insecure(true);
    const Sample sample = asked();
    CHECK(sample.error == "");
    CHECK(sample.state == "serving");
  }
  SUBCASE("without a file") {
    tls.set_ca("/no/such/ca.pem");
    const Sample sample = asked();
    CHECK(sample.state == "");
    CHECK(sample.error.starts_with("TLS: "));
    CHECK(sample.error.find("/no/such/ca.pem") != std::string::npos);
  }
  SUBCASE("to a server without TLS") {
    HealthServer plain;
    check.mutable_grpc()->set_address(plain.address());
    tls.set_ca(ca);
    CHECK(asked().error.starts_with("TLS: "));
  }
}

TEST_CASE("a grpc asking that is cancelled ends at once, and a loop may end in the middle of one") {
  auto loop = std::make_unique<asio::io_context>();
  Server silent(*loop, [](tcp::socket taken) -> asio::awaitable<void> {
    tcp::socket socket = std::move(taken);
    std::string buffer;
    co_await asio::async_read_until(socket, asio::dynamic_buffer(buffer), "never", kToken);
  });
  const auto check = make_check(grpc_check(silent.address(), "", 60s));
  asio::cancellation_signal stop;
  std::optional<Sample> answer;
  asio::co_spawn(*loop, check->ask(),
                 asio::bind_cancellation_slot(
                     stop.slot(), [&](std::exception_ptr, Sample sample) { answer = sample; }));
  run_until(*loop, [&] { return silent.accepted() == 1; });
  stop.emit(asio::cancellation_type::terminal);
  run_until(*loop, [&] { return answer.has_value(); });
  CHECK(answer->error == "cancelled");
  const auto another = begin(*loop, *check);
  run_until(*loop, [&] { return silent.accepted() == 2; });
  CHECK_FALSE(another->has_value());
}

TEST_CASE("one grpc check is asked many times at once") {
  asio::io_context loop;
  HealthServer server;
  const auto check = make_check(grpc_check(server.address()));
  std::vector<std::shared_ptr<std::optional<Sample>>> answers;
  for (int index = 0; index < 50; ++index) answers.push_back(begin(loop, *check));
  for (const auto& answer : answers) {
    run_until(loop, [&] { return answer->has_value(); });
    CHECK((*answer)->state == "serving");
  }
}

}  // namespace
}  // namespace squall::checks
