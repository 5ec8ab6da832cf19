#include "injector/daemon/server.h"

#include <grpcpp/grpcpp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <deque>
#include <functional>
#include <thread>
#include <utility>

#include "experiments/base/file.h"
#include "experiments/wire/poller.h"
#include "injector/daemon/log.h"
#include "squall/v1/node.grpc.pb.h"

namespace squall::daemon {
namespace {

constexpr int kLargestMessage = 1 << 20;
/// A client that is dead or cut off is noticed within the sum of these; the lease would notice
/// later.
constexpr int kKeepaliveMs = 2000;
constexpr int kKeepaliveTimeoutMs = 1000;
constexpr int kShortestPingMs = 500;

grpc::Status to_grpc(const Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message_of(status));
}

/// What a completion queue hands back. Part of the loop's work.
class Tag {
 public:
  Tag() = default;
  Tag(const Tag&) = delete;
  Tag& operator=(const Tag&) = delete;
  virtual ~Tag() = default;
  virtual void complete(bool done, MonotonicTime at) = 0;
};

template <typename Call>
class TagOf final : public Tag {
 public:
  using Handler = void (Call::*)(bool, MonotonicTime);
  TagOf(Call& call, Handler handler) : call_(call), handler_(handler) {}
  void complete(bool done, MonotonicTime at) override { (call_.*handler_)(done, at); }

 private:
  Call& call_;
  Handler handler_;
};

}  // namespace

// The asynchronous rather than the callback interface: the callback interface of gRPC 1.51 polls on
// threads of its own, which wake every second and then sleep for 100 ms with an abort on the wire.
struct Server::Calls {
  Calls(Loop& to, Node& core, Asking& asks) : loop(to), node(core), asking(asks) {}

  Loop& loop;
  Node& node;
  Asking& asking;
  std::function<v1::Description()> describe;
  v1::Injector::AsyncService service;
  std::unique_ptr<grpc::ServerCompletionQueue> queue;
  std::unique_ptr<grpc::Server> server;
  std::uint16_t port = 0;
  std::string socket;
  bool ending = false;
  int last_words = 0;  // that are still being said
  std::function<void()> all_said;
  std::thread poller;

  void poll() {
    void* tag = nullptr;
    bool done = false;
    while (queue->Next(&tag, &done)) {
      loop.hand_over(
          [tag, done, at = monotonic_now()] { static_cast<Tag*>(tag)->complete(done, at); });
    }
    loop.post([this] { loop.stop(); });
  }
};

namespace {

/// What a stream is asked for with, and who answers on it.
struct LeaseService {
  using Request = v1::LeaseRequest;
  using Event = v1::LeaseEvent;
  /// A client that renews but never reads is cut off before its events fill the memory.
  static constexpr std::size_t kMostUnsent = 10'000;
  static constexpr auto kWait = &v1::Injector::AsyncService::RequestLease;

  static void received(Server::Calls& calls, LeaseStream& stream, const Request& request,
                       MonotonicTime at) {
    calls.node.received(stream, request, at);
  }
  static void ended(Server::Calls& calls, LeaseStream& stream) { calls.node.ended(stream); }
  static void broken(Server::Calls& calls, LeaseStream& stream) { calls.node.broken(stream); }
};

struct AskService {
  using Request = v1::AskRequest;
  using Event = v1::AskReply;
  /// Of answers that may be 64 KiB each.
  static constexpr std::size_t kMostUnsent = 16;
  static constexpr auto kWait = &v1::Injector::AsyncService::RequestAsk;

  static void received(Server::Calls& calls, AskStream& stream, const Request& request,
                       MonotonicTime) {
    calls.asking.received(stream, request);
  }
  static void ended(Server::Calls& calls, AskStream& stream) { calls.asking.ended(stream); }
  static void broken(Server::Calls& calls, AskStream& stream) { calls.asking.broken(stream); }
};

/// A stream from the moment one is waited for. Deletes itself when the last of its operations has
/// come back.
template <typename Service>
class StreamCall final : public Stream<typename Service::Event> {
 public:
  using Request = typename Service::Request;
  using Event = typename Service::Event;

  explicit StreamCall(Server::Calls& calls) : calls_(calls), wire_(&context_) {
    ++pending_;
    (calls_.service.*Service::kWait)(&context_, &wire_, calls_.queue.get(), calls_.queue.get(),
                                     &accepted_);
  }

  std::string client() const override {
    std::string names;
    for (const auto& name : context_.auth_context()->GetPeerIdentity()) {
      names.append(names.empty() ? "" : " ").append(name.data(), name.size());
    }
    return names;
  }

  void tell(Event event) override {
    if (gone_ || finishing_) return;
    if (unsent_.size() >= Service::kMostUnsent) {
      log(LogLevel::kWarn, "event=stream_cut why=\"the client does not read\"");
      gone_ = true;
      return context_.TryCancel();  // the write that is stuck comes back and tells the node
    }
    unsent_.push_back(std::move(event));
    if (unsent_.size() == 1) write();
  }

  void finish(const Status& status) override {
    forgotten_ = true;
    finishing_ = true;
    last_word_ = status;
    if (!ended_) {
      speaking_ = true;
      ++calls_.last_words;
    }
    if (unsent_.empty()) end();
  }

 private:
  void accepted(bool done, MonotonicTime) {
    --pending_;
    if (done && !calls_.ending) {
      new StreamCall(calls_);
      read();
    } else {
      ended_ = true;
    }
    leave();
  }

  void read() {
    if (ended_ || calls_.ending) return;
    ++pending_;
    wire_.Read(&request_, &read_);
  }

  void have_read(bool done, MonotonicTime at) {
    --pending_;
    if (done) {
      if (!forgotten_) Service::received(calls_, *this, request_, at);
      read();
    } else if (!forgotten_) {
      Service::ended(calls_, *this);
    }
    leave();
  }

  void write() {
    if (calls_.ending) return;
    ++pending_;
    wire_.Write(unsent_.front(), &written_);
  }

  void have_written(bool done, MonotonicTime) {
    --pending_;
    unsent_.pop_front();
    if (!done) {
      gone_ = true;
      unsent_.clear();
      if (!std::exchange(forgotten_, true)) Service::broken(calls_, *this);
      end();
    } else if (!unsent_.empty()) {
      write();
    } else if (finishing_) {
      end();
    }
    leave();
  }

  void end() {
    if (std::exchange(ended_, true) || calls_.ending) return;
    ++pending_;
    wire_.Finish(to_grpc(last_word_), &finished_);
  }

  void have_finished(bool, MonotonicTime) {
    --pending_;
    if (std::exchange(speaking_, false) && --calls_.last_words == 0 && calls_.all_said) {
      calls_.all_said();
    }
    leave();
  }

  void leave() {
    if (pending_ > 0 || !(ended_ || calls_.ending)) return;
    if (!std::exchange(forgotten_, true)) Service::broken(calls_, *this);
    delete this;
  }

  Server::Calls& calls_;
  grpc::ServerContext context_;
  grpc::ServerAsyncReaderWriter<Event, Request> wire_;
  Request request_;
  std::deque<Event> unsent_;  // the first of them is being written
  Status last_word_;
  int pending_ = 0;         // operations that have not come back
  bool forgotten_ = false;  // by who answers
  bool finishing_ = false;  // the last word is known
  bool speaking_ = false;   // and counted among those that are still being said
  bool gone_ = false;       // nobody listens
  bool ended_ = false;      // the last word is being said
  TagOf<StreamCall> accepted_{*this, &StreamCall::accepted};
  TagOf<StreamCall> read_{*this, &StreamCall::have_read};
  TagOf<StreamCall> written_{*this, &StreamCall::have_written};
  TagOf<StreamCall> finished_{*this, &StreamCall::have_finished};
};

/// A call of one question and one answer.
template <typename Request, typename Reply>
class PlainCall {
 public:
  using Writer = grpc::ServerAsyncResponseWriter<Reply>;
  /// How the service is asked for the next such call.
  using Ask = void (v1::Injector::AsyncService::*)(grpc::ServerContext*, Request*, Writer*,
                                                   grpc::CompletionQueue*,
                                                   grpc::ServerCompletionQueue*, void*);
  using Answer = std::function<void(StatusOr<Reply>)>;
  using Serve = std::function<void(const Request&, Answer)>;

  PlainCall(Server::Calls& calls, Ask ask, Serve serve)
      : calls_(calls), writer_(&context_), ask_(ask), serve_(std::move(serve)) {
    auto* queue = calls_.queue.get();
    (calls_.service.*ask_)(&context_, &request_, &writer_, queue, queue, &accepted_);
  }

 private:
  void have_accepted(bool done, MonotonicTime) {
    if (!done || calls_.ending) {
      delete this;
      return;
    }
    new PlainCall(calls_, ask_, serve_);
    serve_(request_, [this](StatusOr<Reply> reply) {
      if (calls_.ending) {
        delete this;
      } else if (reply.ok()) {
        writer_.Finish(*reply, grpc::Status::OK, &finished_);
      } else {
        writer_.FinishWithError(to_grpc(reply.status()), &finished_);
      }
    });
  }

  void have_finished(bool, MonotonicTime) { delete this; }

  Server::Calls& calls_;
  grpc::ServerContext context_;
  Request request_;
  Writer writer_;
  Ask ask_;
  Serve serve_;
  TagOf<PlainCall> accepted_{*this, &PlainCall::have_accepted};
  TagOf<PlainCall> finished_{*this, &PlainCall::have_finished};
};

StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials_of(const Listen& listen) {
  if (listen.address.starts_with("unix:")) return grpc::InsecureServerCredentials();
  if (listen.tls_dir.empty()) {
    return error(StatusCode::kInvalidArgument,
                 "TLS needed: to listen on " + listen.address +
                     ", give --tls-dir DIR with ca.pem, cert.pem and key.pem");
  }
  const auto ca = read_pem(listen.tls_dir + "/ca.pem");
  const auto cert = read_pem(listen.tls_dir + "/cert.pem");
  const auto key = read_pem(listen.tls_dir + "/key.pem");
  for (const auto* part : {&ca, &cert, &key}) {
    if (!part->ok()) return part->status();
  }
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = *ca;
  options.pem_key_cert_pairs.push_back({*key, *cert});
  return grpc::SslServerCredentials(options);
}

/// gRPC removes a socket that is in its way, even one that is served.
Status check_socket_is_free(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return error(StatusCode::kInvalidArgument, "unix:" + path + ": a path of 1 to " +
                                                   std::to_string(sizeof address.sun_path - 1) +
                                                   " bytes is needed");
  }
  path.copy(address.sun_path, path.size());
  const Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // POSIX wants this cast.
  if (::connect(probe.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return error(StatusCode::kFailedPrecondition, "unix:" + path + " is served by another process");
  }
  return ok();
}

}  // namespace

StatusOr<std::uint16_t> port_of(const std::string& address) {
  if (address.starts_with("unix:")) return std::uint16_t{0};
  const auto colon = address.rfind(':');
  const std::string digits = colon == std::string::npos ? "" : address.substr(colon + 1);
  const bool numeric = !digits.empty() && digits.size() <= 5 &&
                       digits.find_first_not_of("0123456789") == std::string::npos;
  const unsigned long port = numeric ? std::stoul(digits) : 65536;
  if (colon == 0 || port > 65535) {
    return error(StatusCode::kInvalidArgument,
                 "\"" + address + "\" is neither unix:/path nor host:port");
  }
  return static_cast<std::uint16_t>(port);
}

StatusOr<std::unique_ptr<Server>> Server::start(Loop& loop, Node& node, Asking& asking,
                                                const Listen& listen,
                                                std::function<v1::Description()> describe) {
  if (const auto port = port_of(listen.address); !port.ok()) return port.status();
  const auto credentials = credentials_of(listen);
  if (!credentials.ok()) return credentials.status();
  std::string socket;
  if (listen.address.starts_with("unix:")) {
    socket = listen.address.substr(5);
    if (const Status free = check_socket_is_free(socket); !free.ok()) return free;
  }

  wire::search_no_deadlocks();
  std::unique_ptr<Server> server(new Server());
  server->calls_ = std::make_unique<Calls>(loop, node, asking);
  Calls& calls = *server->calls_;
  calls.describe = std::move(describe);
  calls.socket = socket;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen.address, *credentials, &port);
  builder.RegisterService(&calls.service);
  builder.SetMaxReceiveMessageSize(kLargestMessage);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kShortestPingMs);
  calls.queue = builder.AddCompletionQueue();
  calls.server = builder.BuildAndStart();
  if (!calls.server) {
    return error(StatusCode::kFailedPrecondition, "cannot listen on " + listen.address);
  }
  calls.port = socket.empty() ? static_cast<std::uint16_t>(port) : std::uint16_t{0};
  calls.poller = std::thread([&calls] { calls.poll(); });

  new StreamCall<LeaseService>(calls);
  new StreamCall<AskService>(calls);
  using Service = v1::Injector::AsyncService;
  new PlainCall<v1::DescribeRequest, v1::Description>(
      calls, &Service::RequestDescribe,
      [&calls](const auto&, const auto& answer) { answer(calls.describe()); });
  new PlainCall<v1::PreflightRequest, v1::PreflightReply>(
      calls, &Service::RequestPreflight,
      [&calls](const auto& request, const auto& answer) { calls.node.preflight(request, answer); });
  new PlainCall<v1::RevertRequest, v1::RevertReply>(
      calls, &Service::RequestRevert,
      [&calls](const auto& request, const auto& answer) { calls.node.revert(request, answer); });
  new PlainCall<v1::HaltRequest, v1::HaltReply>(
      calls, &Service::RequestHalt,
      [&calls](const auto& request, const auto& answer) { calls.node.halt(request, answer); });
  new PlainCall<v1::ResumeRequest, v1::ResumeReply>(
      calls, &Service::RequestResume,
      [&calls](const auto& request, const auto& answer) { answer(calls.node.resume(request)); });
  return server;
}

Server::Server() = default;

Server::~Server() {
  if (!calls_ || !calls_->server) return;
  // What was reverted must be heard: one write at a time goes out, and only while the loop runs. A
  // second signal stops it as well.
  if (calls_->last_words > 0) {
    calls_->all_said = [this] { calls_->loop.stop(); };
    Timer patience(calls_->loop);
    patience.at(monotonic_now() + std::chrono::seconds(1), calls_->all_said);
    calls_->loop.run();
    calls_->all_said = nullptr;
  }
  calls_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  calls_->ending = true;
  calls_->queue->Shutdown();
  calls_->loop
      .run();  // every operation comes back and frees its call; the poller then stops the loop
  calls_->poller.join();
  if (!calls_->socket.empty()) ::unlink(calls_->socket.c_str());
}

std::uint16_t Server::port() const { return calls_->port; }

}  // namespace squall::daemon
