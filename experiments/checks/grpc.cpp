/// \file
/// grpc: asks a service for its health, by the standard health protocol. The connection is kept for
/// as long as it answers; after anything else the next asking makes a new one, so that no back-off
/// of gRPC's stands between the target's return and its being seen.
/// Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
#include <fmt/format.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cctype>
#include <optional>
#include <string_view>

#include "experiments/base/diagnostic.h"
#include "experiments/base/file.h"
#include "experiments/checks/kind.h"
#include "experiments/wire/poller.h"
#include "grpc/health/v1/health.pb.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;
using Stub = ::grpc::TemplatedGenericStub<HealthCheckRequest, HealthCheckResponse>;

constexpr const char* kMethod = "/grpc.health.v1.Health/Check";

/// One question on its way. gRPC may hold it longer than who asked does, and longer than the loop.
struct Call {
  ::grpc::ClientContext context;
  std::unique_ptr<::grpc::ClientAsyncResponseReader<HealthCheckResponse>> reader;
  HealthCheckResponse response;
  ::grpc::Status status;
  bool over = false;
  asio::steady_timer* waiting = nullptr;  ///< In the frame of who asked.
};

/// Ends what a coroutine has begun, however that ends: its loop may end in the middle of it.
struct Ending {
  std::shared_ptr<wire::Poller> poller;  ///< Goes last: its end waits for every call's.
  std::shared_ptr<Call> call;
  std::shared_ptr<wire::Mailbox> mailbox;
  ~Ending() {
    mailbox->shut();
    call->waiting = nullptr;
    if (!call->over) call->context.TryCancel();
  }
};

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// gRPC tells how each of its layers failed; a person wants to know what the target did.
std::string unreachable_words(const std::string& text) {
  if (contains(text, "certificate verify failed")) return "TLS: certificate verify failed";
  if (contains(text, "is not in peer certificate") || contains(text, "Peer name") ||
      contains(text, "Hostname Verification")) {
    return "TLS: the certificate is not for this name";
  }
  if (contains(text, "wrong version number")) return "TLS: wrong version number";
  if (contains(text, "Ssl handshake failed") || contains(text, "SSL_ERROR")) {
    return "TLS: handshake failed";
  }
  if (contains(text, "Connection refused")) return "connection refused";
  if (contains(text, "No route to host")) return "no route to host";
  if (contains(text, "Network is unreachable")) return "network unreachable";
  if (contains(text, "DNS resolution failed")) return "cannot resolve name";
  // "OK": what came first was no frame of HTTP/2.
  if (contains(text, "http1.x server") || contains(text, "last error: OK")) {
    return "not a gRPC answer";
  }
  if (contains(text, "Connection reset")) return "connection reset";
  if (contains(text, "Socket closed") || contains(text, "Stream removed") ||
      contains(text, "GOAWAY")) {
    return "connection closed without an answer";
  }
  return escape_controls(text);
}

/// UNAUTHENTICATED: no token
std::string status_words(const ::grpc::Status& status) {
  const auto code = static_cast<StatusCode>(status.error_code());
  const std::string name = absl::StatusCodeToString(code);
  return status.error_message().empty()
             ? name
             : fmt::format("{}: {}", name, escape_controls(status.error_message()));
}

void take(const Call& call, Sample& sample) {
  switch (call.status.error_code()) {
    case ::grpc::StatusCode::OK: {
      const auto health = call.response.status();
      sample.state = health == HealthCheckResponse::SERVING       ? "serving"
                     : health == HealthCheckResponse::NOT_SERVING ? "not_serving"
                                                                  : "unknown";
      break;
    }
    case ::grpc::StatusCode::NOT_FOUND:
      sample.state = "unknown";
      break;
    case ::grpc::StatusCode::UNAVAILABLE:
      sample.state = "unreachable";
      sample.error = unreachable_words(call.status.error_message());
      break;
    case ::grpc::StatusCode::UNIMPLEMENTED:
      sample.state = "unknown";
      sample.error = "it does not speak the health protocol";
      break;
    default:
      sample.state = "unknown";
      sample.error = status_words(call.status);
  }
}

class Grpc final : public Check {
 public:
  explicit Grpc(const v1::Check& check) : wanted_(check.grpc()), timeout_(timeout_of(check)) {
    request_.set_service(wanted_.service());
  }

  asio::awaitable<Sample> ask() override {
    const auto executor = co_await asio::this_coro::executor;
    Sample sample;
    sample.asked = monotonic_now();
    if (!poller_) poller_ = wire::Poller::shared();
    // Of askings at once, one that fails does not take the connection from the others.
    std::shared_ptr<Stub> stub = stub_;
    if (!stub) stub_ = stub = connect(sample.error);
    if (!stub) {
      sample.latency = monotonic_now() - sample.asked;
      co_return sample;
    }

    asio::steady_timer wake(executor, sample.asked + timeout_);
    const Ending ending{poller_, std::make_shared<Call>(),
                        std::make_shared<wire::Mailbox>(executor)};
    const std::shared_ptr<Call>& call = ending.call;
    call->waiting = &wake;
    call->context.set_deadline(std::chrono::system_clock::now() + timeout_);
    call->reader = stub->PrepareUnaryCall(&call->context, kMethod, request_, &poller_->queue());
    call->reader->StartCall();
    call->reader->Finish(&call->response, &call->status,
                         new wire::Poller::Tag{ending.mailbox, [call](bool) {
                                                 call->over = true;
                                                 if (call->waiting) call->waiting->cancel();
                                               }});
    const auto [woken] = co_await wake.async_wait(asio::as_tuple(asio::use_awaitable));
    sample.latency = monotonic_now() - sample.asked;
    const bool too_late =
        call->over ? call->status.error_code() == ::grpc::StatusCode::DEADLINE_EXCEEDED : !woken;
    if (too_late) {
      sample.state = "timeout";
      sample.error = timeout_words(timeout_);
    } else if (call->over) {
      take(*call, sample);
    } else {
      sample.state = "timeout";
      sample.error = kCancelled;
    }
    if (!sample.error.empty() && stub_ == stub) stub_.reset();
    co_return sample;
  }

 private:
  /// Null with `error` set where the plan's files cannot be used.
  std::shared_ptr<Stub> connect(std::string& error) const {
    ::grpc::ChannelArguments arguments;
    // A proxy of the environment is for the web; the address is meant as it stands.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // Each connection stands alone: no back-off left over from another's.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    if (!wanted_.tls().server_name().empty()) {
      arguments.SetSslTargetNameOverride(wanted_.tls().server_name());
    }
    const auto credentials = this->credentials(error);
    if (!credentials) return nullptr;
    return std::make_shared<Stub>(
        ::grpc::CreateCustomChannel("dns:///" + wanted_.address(), credentials, arguments));
  }

  std::shared_ptr<::grpc::ChannelCredentials> credentials(std::string& error) const {
    if (!wanted_.has_tls()) return ::grpc::InsecureChannelCredentials();
    ::grpc::SslCredentialsOptions files;
    for (const auto& [path, text] : {std::pair(&wanted_.tls().ca(), &files.pem_root_certs),
                                     std::pair(&wanted_.tls().cert(), &files.pem_cert_chain),
                                     std::pair(&wanted_.tls().key(), &files.pem_private_key)}) {
      if (path->empty()) continue;
      auto read = read_pem(*path);
      if (!read.ok()) {
        error = "TLS: " + message_of(read.status());
        return nullptr;
      }
      *text = *std::move(read);
    }
    if (!wanted_.tls().insecure()) return ::grpc::SslCredentials(files);
    namespace tls = ::grpc::experimental;
    tls::TlsChannelCredentialsOptions options;
    options.set_verify_server_certs(false);
    options.set_check_call_host(false);
    options.set_certificate_verifier(tls::ExternalCertificateVerifier::Create<AnyCertificate>());
    if (!files.pem_cert_chain.empty()) {
      options.set_certificate_provider(std::make_shared<tls::StaticDataCertificateProvider>(
          std::vector{tls::IdentityKeyCertPair{files.pem_private_key, files.pem_cert_chain}}));
      options.watch_identity_key_cert_pairs();
    }
    return tls::TlsCredentials(options);
  }

  class AnyCertificate final : public ::grpc::experimental::ExternalCertificateVerifier {
   public:
    bool Verify(::grpc::experimental::TlsCustomVerificationCheckRequest*,
                std::function<void(::grpc::Status)>, ::grpc::Status*) override {
      return true;
    }
    void Cancel(::grpc::experimental::TlsCustomVerificationCheckRequest*) override {}
  };

  v1::Grpc wanted_;
  HealthCheckRequest request_;
  Duration timeout_;
  std::shared_ptr<wire::Poller> poller_;
  std::shared_ptr<Stub> stub_;  ///< Null: there is no connection that answers.
};

}  // namespace

const CheckKind kGrpc{.which = v1::Check::kGrpc, .make = [](const v1::Check& check) {
                        return std::unique_ptr<Check>(new Grpc(check));
                      }};

}  // namespace squall::checks
