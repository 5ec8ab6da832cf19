#include "controller/fleet/grpc_node.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <deque>
#include <functional>
#include <type_traits>
#include <utility>

#include "controller/fleet/wake.h"
#include "experiments/base/file.h"
#include "experiments/base/units.h"
#include "experiments/checks/kind.h"
#include "experiments/checks/wire.h"
#include "experiments/wire/poller.h"
#include "squall/v1/node.grpc.pb.h"

namespace squall::fleet {
namespace asio = boost::asio;
using wire::Mailbox;
using wire::Poller;
namespace {

/// How long a node that was reached may take to answer: it may have to read itself first.
constexpr Duration kAnswerWithin = std::chrono::seconds(10);
/// Every fault has ended by then, or is named.
constexpr Duration kHaltWithin = std::chrono::seconds(30);
/// How long the end of a stream is waited for, once everything on it has been said.
constexpr Duration kCloseWithin = std::chrono::milliseconds(500);

Status from_grpc(const grpc::Status& status) {
  return error(static_cast<StatusCode>(status.error_code()), status.error_message());
}

bool contains(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

/// gRPC tells how its own layers failed; a person wants to know what to do about it.
Status explain(const std::string& address, bool tls, const grpc::Status& status) {
  const std::string& text = status.error_message();
  const auto unreachable = [&](std::string_view why) {
    return error(StatusCode::kUnavailable, fmt::format("{} cannot be reached: {}", address, why));
  };
  const auto refused = [&](std::string_view why) {
    return error(StatusCode::kUnauthenticated,
                 fmt::format("{}: TLS handshake refused: {}", address, why));
  };
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return unreachable(
        fmt::format("no answer within {} s", kReachWithin / std::chrono::seconds(1)));
  }
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
    return in_context(address, from_grpc(status));
  }
  // "asn1 encoding routines": an authority of the same name, but with another key.
  if (contains(text, "certificate verify failed") || contains(text, "asn1 encoding routines")) {
    return refused("its certificate is not signed by our ca.pem, or has expired");
  }
  if (contains(text, "is not in peer certificate") || contains(text, "Peer name") ||
      contains(text, "Hostname Verification")) {
    return refused("its certificate is not for this name");
  }
  if (contains(text, "wrong version number")) return refused("it does not speak TLS");
  if (contains(text, "Ssl handshake failed") || contains(text, "handshak")) return refused(text);
  if (contains(text, "Connection refused")) {
    return unreachable("connection refused; is squalld running there?");
  }
  if (contains(text, "No such file")) return unreachable("there is no such socket");
  if (contains(text, "Permission denied")) return unreachable("permission denied");
  if (contains(text, "timed out")) return unreachable("no answer");
  if (contains(text, "No route to host")) return unreachable("no route to host");
  if (contains(text, "Network is unreachable")) return unreachable("network is unreachable");
  if (contains(text, "DNS resolution failed")) return unreachable("its name cannot be resolved");
  // With TLS 1.3 the client believes the handshake done before the server has seen, and refused,
  // its certificate; all that is left to see is the closed connection.
  if (tls && (contains(text, "Socket closed") || contains(text, "Connection reset") ||
              contains(text, "Broken pipe") || contains(text, "Stream removed"))) {
    return refused(
        "it closed the connection; our certificate is not signed by its ca.pem, or has expired");
  }
  return unreachable(text);
}

/// Why a lease was lost. What the node said itself is left as it is.
Status explain_loss(const grpc::Status& status) {
  if (status.ok()) return error(StatusCode::kUnavailable, "it ended the lease");
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return from_grpc(status);
  const std::string& text = status.error_message();
  std::string_view why = text;
  if (contains(text, "timed out") || contains(text, "timeout")) why = "it answers no more";
  if (contains(text, "Socket closed") || contains(text, "reset") || contains(text, "Broken pipe")) {
    why = "the connection was closed";
  }
  return error(StatusCode::kUnavailable, why);
}

/// A call of one question and one answer.
template <typename Reply>
struct Call : std::enable_shared_from_this<Call<Reply>> {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<Reply>> reader;
  Reply reply;
  grpc::Status status;
  bool over = false;
  Wake ended;

  explicit Call(Duration within) {
    context.set_deadline(std::chrono::system_clock::now() + within);
  }

  /// Waits for its end; gives it up if the waiting coroutine is cancelled.
  static asio::awaitable<grpc::Status> finish(std::shared_ptr<Call> call,
                                              std::shared_ptr<Mailbox> mailbox) {
    call->reader->StartCall();
    call->reader->Finish(&call->reply, &call->status, new Poller::Tag{mailbox, [call](bool) {
                                                                        call->over = true;
                                                                        call->ended.notify();
                                                                      }});
    while (!call->over) {
      const bool going = co_await call->ended.wait();
      if (going) continue;
      call->context.TryCancel();
      co_return grpc::Status(grpc::StatusCode::CANCELLED, "stopped");
    }
    co_return call->status;
  }
};

/// A stream both ways. All on the loop; every operation on its way keeps it alive.
template <typename Request, typename Event>
class Stream : public std::enable_shared_from_this<Stream<Request, Event>> {
 public:
  using Wire = grpc::ClientAsyncReaderWriter<Request, Event>;
  using Prepare = std::unique_ptr<Wire> (v1::Injector::Stub::*)(grpc::ClientContext*,
                                                                grpc::CompletionQueue*);

  Stream(std::shared_ptr<Mailbox> mailbox, std::function<void(const Event&)> event,
         std::function<void(const grpc::Status&)> ended)
      : mailbox_(std::move(mailbox)), event_(std::move(event)), ended_(std::move(ended)) {}

  void start(v1::Injector::Stub& stub, Prepare prepare, grpc::CompletionQueue& queue) {
    wire_ = (stub.*prepare)(&context_, &queue);
    wire_->StartCall(then(&Stream::started));
  }

  void send(Request request) {
    if (closing_ || dead_) return;
    queue_.push_back(std::move(request));
    write_next();
  }

  /// Whether such a request still waits to be sent.
  template <typename Predicate>
  bool waits(Predicate predicate) const {
    return std::any_of(queue_.begin(), queue_.end(), predicate);
  }

  /// Nothing more will be said; the node ends the stream.
  void close() {
    if (std::exchange(closing_, true)) return;
    write_next();
  }

  /// Nobody listens any more.
  void forget() {
    closing_ = true;
    event_ = nullptr;
    ended_ = nullptr;
  }

  void cancel() {
    forget();
    context_.TryCancel();
  }

  bool over() const { return over_; }
  Wake& ended() { return wake_; }

 private:
  Poller::Tag* then(void (Stream::*handler)(bool)) {
    return new Poller::Tag{mailbox_, [self = this->shared_from_this(), handler](bool done) {
                             (self.get()->*handler)(done);
                           }};
  }

  void started(bool done) {
    ready_ = done;
    if (!done) return finish();
    wire_->Read(&read_, then(&Stream::have_read));
    write_next();
  }

  void have_read(bool done) {
    if (!done) return finish();
    if (event_) event_(read_);
    read_.Clear();
    wire_->Read(&read_, then(&Stream::have_read));
  }

  void write_next() {
    if (!ready_ || writing_ || dead_) return;
    if (!queue_.empty()) {
      writing_ = true;
      wire_->Write(queue_.front(), then(&Stream::have_written));
    } else if (closing_ && !half_closed_) {
      half_closed_ = true;
      wire_->WritesDone(then(&Stream::have_closed));
    }
  }

  void have_written(bool) {
    writing_ = false;
    queue_.pop_front();
    write_next();
  }

  void have_closed(bool) {}

  void finish() {
    dead_ = true;
    wire_->Finish(&status_, then(&Stream::have_finished));
  }

  void have_finished(bool) {
    over_ = true;
    wake_.notify();
    event_ = nullptr;
    if (const auto ended = std::exchange(ended_, nullptr)) ended(status_);
  }

  std::shared_ptr<Mailbox> mailbox_;
  grpc::ClientContext context_;
  std::unique_ptr<Wire> wire_;
  Event read_;
  grpc::Status status_;
  std::function<void(const Event&)> event_;
  std::function<void(const grpc::Status&)> ended_;
  std::deque<Request> queue_;  ///< The first of them is being written.
  Wake wake_;
  bool ready_ = false;  ///< The call has begun.
  bool writing_ = false;
  bool closing_ = false;      ///< Nothing more will be said.
  bool half_closed_ = false;  ///< And the node was told so.
  bool dead_ = false;         ///< The node says nothing more.
  bool over_ = false;
};

class GrpcNode final : public Node, public Latch {
 public:
  GrpcNode(std::string name, std::string address, std::optional<Credentials> credentials)
      : name_(std::move(name)),
        address_(std::move(address)),
        credentials_(std::move(credentials)) {}

  ~GrpcNode() override {
    if (stream_) stream_->cancel();
    if (mailbox_) mailbox_->shut();
  }

  const std::string& name() const override { return name_; }
  std::string address() const override { return address_; }

  asio::awaitable<StatusOr<v1::Description>> connect() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    if (!mailbox_) mailbox_ = std::make_shared<Mailbox>(co_await asio::this_coro::executor);
    make_channel();
    v1::Description description;
    const grpc::Status status =
        co_await ask(&Stub::PrepareAsyncDescribe, {}, kReachWithin, description);
    if (!status.ok()) co_return explain(address_, tls(), status);
    co_return description;
  }

  asio::awaitable<StatusOr<v1::Description>> describe() override { co_return co_await connect(); }

  asio::awaitable<StatusOr<v1::RevertReply>> revert(v1::RevertRequest request) override {
    const auto described = co_await connect();
    if (!described.ok()) co_return described.status();
    v1::RevertReply reply;
    const grpc::Status status =
        co_await ask(&Stub::PrepareAsyncRevert, std::move(request), kHaltWithin, reply);
    if (!status.ok()) co_return in_context(address_, from_grpc(status));
    co_return reply;
  }

  asio::awaitable<StatusOr<v1::HaltReply>> halt(v1::HaltRequest request) override {
    const auto described = co_await connect();
    if (!described.ok()) co_return described.status();
    v1::HaltReply reply;
    const grpc::Status status =
        co_await ask(&Stub::PrepareAsyncHalt, std::move(request), kHaltWithin, reply);
    if (!status.ok()) co_return in_context(address_, from_grpc(status));
    co_return reply;
  }

  asio::awaitable<StatusOr<v1::ResumeReply>> resume(v1::ResumeRequest request) override {
    const auto described = co_await connect();
    if (!described.ok()) co_return described.status();
    v1::ResumeReply reply;
    const grpc::Status status =
        co_await ask(&Stub::PrepareAsyncResume, std::move(request), kAnswerWithin, reply);
    if (!status.ok()) co_return in_context(address_, from_grpc(status));
    co_return reply;
  }

  asio::awaitable<StatusOr<v1::PreflightReply>> preflight(v1::PreflightRequest request) override {
    co_await asio::this_coro::throw_if_cancelled(false);
    v1::PreflightReply reply;
    const grpc::Status status =
        co_await ask(&Stub::PrepareAsyncPreflight, std::move(request), kAnswerWithin, reply);
    if (!status.ok()) co_return from_grpc(status);
    co_return reply;
  }

  std::unique_ptr<RemoteCheck> check(const v1::Check& wanted) override {
    return std::make_unique<AskedThere>(*this, wanted);
  }

  asio::awaitable<StatusOr<v1::Opened>> open(v1::Open wanted, Listener listener) override {
    co_await asio::this_coro::throw_if_cancelled(false);
    if (stream_) stream_->cancel();
    listener_ = std::move(listener);
    const auto opening = std::make_shared<Opening>();
    stream_ = std::make_shared<Lease>(
        mailbox_,
        [this, opening](const v1::LeaseEvent& event) {
          if (!event.has_opened()) {
            if (listener_.event) listener_.event(event);
            return;
          }
          opening->opened = event.opened();
          opening->changed.notify();
        },
        [this, opening](const grpc::Status& status) {
          renewal_.reset();
          Status why = explain_loss(status);
          const Duration silent = monotonic_now() - renewed_at_;
          if (silent > lease_) {
            why =
                error(why.code(), fmt::format("this controller stood still for {}, longer than the "
                                              "lease ({})",
                                              format_measured(silent), message_of(why)));
          }
          if (!opening->opened) {
            opening->failed = why;
            opening->changed.notify();
          } else if (const auto lost = std::exchange(listener_.lost, nullptr)) {
            lost(why);
          }
        });
    stream_->start(*stub_, &Stub::PrepareAsyncLease, poller_->queue());
    lease_ = Duration(wanted.lease());
    v1::LeaseRequest request;
    *request.mutable_open() = std::move(wanted);
    stream_->send(std::move(request));
    renewed_at_ = monotonic_now();
    // The node counts from the arrival of this first word, so renewing starts now.
    renewal_ = std::make_shared<asio::steady_timer>(co_await asio::this_coro::executor);
    renew_at(renewal_, renewed_at_ + lease_ / 3, lease_ / 3);

    const MonotonicTime deadline = monotonic_now() + kAnswerWithin;
    while (!opening->opened && opening->failed.ok()) {
      const bool going = co_await opening->changed.wait(deadline);
      if (opening->opened || !opening->failed.ok()) break;
      if (going && monotonic_now() < deadline) continue;
      renewal_.reset();
      stream_->cancel();
      if (!going) co_return error(StatusCode::kCancelled, "stopped");
      co_return error(StatusCode::kUnavailable, "the lease was not opened in time");
    }
    if (!opening->failed.ok()) co_return opening->failed;
    co_return *opening->opened;
  }

  void inject(const v1::Fault& fault) override {
    v1::LeaseRequest request;
    *request.mutable_inject()->mutable_fault() = fault;
    send(std::move(request));
  }

  void revert(const std::string& fault) override {
    v1::LeaseRequest request;
    request.mutable_revert()->set_fault(fault);
    send(std::move(request));
  }

  void revert_all() override {
    v1::LeaseRequest request;
    request.mutable_revert_all();
    send(std::move(request));
  }

  asio::awaitable<void> close() override {
    co_await asio::this_coro::throw_if_cancelled(false);
    listener_ = {};
    renewal_.reset();
    if (!stream_) co_return;
    const auto stream = std::exchange(stream_, nullptr);
    stream->close();
    const MonotonicTime deadline = monotonic_now() + kCloseWithin;
    while (!stream->over() && monotonic_now() < deadline) {
      const bool going = co_await stream->ended().wait(deadline);
      if (!going) break;
    }
    if (!stream->over()) stream->cancel();
    stream->forget();
  }

 private:
  struct Opening {
    std::optional<v1::Opened> opened;
    Status failed;
    Wake changed;
  };

  using Stub = v1::Injector::Stub;
  using Lease = Stream<v1::LeaseRequest, v1::LeaseEvent>;

  /// One question at a time on a stream of its own, which is made anew when it broke, when an
  /// answer was given up and when the node was reached again.
  class AskedThere final : public RemoteCheck {
   public:
    AskedThere(const GrpcNode& node, const v1::Check& wanted) : node_(node), wanted_(wanted) {
      // They are the controller's to heed.
      wanted_.clear_from();
      wanted_.clear_of();
    }
    ~AskedThere() override { drop(); }

    asio::awaitable<checks::Sample> ask() override {
      co_await asio::this_coro::throw_if_cancelled(false);
      const MonotonicTime asked = monotonic_now();
      if (!node_.stub_) co_return failed(asked, "is not connected");
      if (stream_ && (stub_ != node_.stub_ || answer_->ended)) drop();
      v1::AskRequest request;
      if (!stream_) {
        begin();
        *request.mutable_check() = wanted_;
      }
      stream_->send(std::move(request));
      const Duration within = checks::timeout_of(wanted_) + kAnswerGrace;
      const auto answer = answer_;
      while (!answer->sample && !answer->ended) {
        const bool going = co_await answer->changed.wait(asked + within);
        if (answer->sample || answer->ended) break;
        if (going && monotonic_now() < asked + within) continue;
        drop();
        checks::Sample sample = failed(asked, "was not waited for");
        if (going) {
          sample.error =
              fmt::format("no answer from {} within {}", node_.name_, format_duration(within));
        }
        co_return sample;
      }
      if (answer->sample) {
        refused_ = ok();
        checks::Sample sample = checks::from_message(*std::move(answer->sample), asked);
        answer->sample.reset();
        answer->heard = true;
        co_return sample;
      }
      drop();
      const grpc::Status& status = *answer->ended;
      const Status said = from_grpc(status);
      const bool is_final = said.code() == StatusCode::kUnimplemented ||
                            said.code() == StatusCode::kPermissionDenied ||
                            said.code() == StatusCode::kInvalidArgument;
      refused_ = is_final ? said : ok();
      const bool is_word = !status.ok() && status.error_code() != grpc::StatusCode::UNAVAILABLE;
      const bool was_reached = answer->heard || status.ok();
      const std::string why =
          message_of(is_word       ? said
                     : was_reached ? explain_loss(status)
                                   : explain(node_.address_, node_.tls(), status));
      co_return failed(asked, "does not ask: " + (why.empty() ? "its squalld cannot" : why));
    }

    Status refused() const override { return refused_; }

   private:
    using Wire = Stream<v1::AskRequest, v1::AskReply>;

    /// Shared with the stream, which may end later than this.
    struct Answer {
      std::optional<v1::Sample> sample;
      std::optional<grpc::Status> ended;
      bool heard = false;  ///< It has answered before.
      Wake changed;
    };

    void begin() {
      stub_ = node_.stub_;
      answer_ = std::make_shared<Answer>();
      stream_ = std::make_shared<Wire>(
          node_.mailbox_,
          [answer = answer_](const v1::AskReply& reply) {
            answer->sample = reply.sample();
            answer->changed.notify();
          },
          [answer = answer_](const grpc::Status& status) {
            answer->ended = status;
            answer->changed.notify();
          });
      stream_->start(*stub_, &Stub::PrepareAsyncAsk, node_.poller_->queue());
    }

    /// The node gives up what it asks as soon as it sees the stream broken.
    void drop() {
      if (stream_) stream_->cancel();
      stream_.reset();
    }

    checks::Sample failed(MonotonicTime asked, const std::string& words) const {
      checks::Sample sample;
      sample.asked = asked;
      sample.latency = monotonic_now() - asked;
      sample.error = fmt::format("{} {}", node_.name_, words);
      return sample;
    }

    const GrpcNode& node_;
    v1::Check wanted_;
    Status refused_;
    std::shared_ptr<Stub> stub_;
    std::shared_ptr<Wire> stream_;
    std::shared_ptr<Answer> answer_;
  };

  template <typename Request, typename Reply>
  using Prepare = std::unique_ptr<grpc::ClientAsyncResponseReader<Reply>> (Stub::*)(
      grpc::ClientContext*, const Request&, grpc::CompletionQueue*);

  /// Asks, and takes the reply if there is one.
  template <typename Request, typename Reply>
  asio::awaitable<grpc::Status> ask(Prepare<Request, Reply> prepare,
                                    std::type_identity_t<Request> request, Duration within,
                                    Reply& reply) {
    const auto call = std::make_shared<Call<Reply>>(within);
    call->reader = (stub_.get()->*prepare)(&call->context, request, &poller_->queue());
    grpc::Status status = co_await Call<Reply>::finish(call, mailbox_);
    if (status.ok()) reply = std::move(call->reply);
    co_return status;
  }

  bool tls() const { return !address_.starts_with("unix:"); }

  void make_channel() {
    grpc::ChannelArguments arguments;
    // A hung peer is seen after 3 s, which no closed connection would tell.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 1000);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    // A proxy of the environment is for the web; a daemon's address is meant as it stands.
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    // Each attempt stands alone: no back-off left over from the one before.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    std::string target = address_;
    if (tls()) {
      target = "dns:///" + address_;
      grpc::SslCredentialsOptions options;
      if (credentials_) {
        options.pem_root_certs = credentials_->ca;
        options.pem_cert_chain = credentials_->certificate;
        options.pem_private_key = credentials_->key;
      }
      credentials = grpc::SslCredentials(options);
    }
    stub_ = v1::Injector::NewStub(grpc::CreateCustomChannel(target, credentials, arguments));
  }

  /// Each renewal is due one interval after the last one was, however late that one ran.
  void renew_at(const std::shared_ptr<asio::steady_timer>& timer, MonotonicTime due,
                Duration interval) {
    timer->expires_at(due);
    timer->async_wait([this, weak = std::weak_ptr(timer), due,
                       interval](const boost::system::error_code& failed) {
      const auto alive = weak.lock();
      if (failed || !alive) return;
      const MonotonicTime now = monotonic_now();
      // The lapse is the node's to tell; until then a late word is better than none.
      if (now - renewed_at_ <= lease_) renewed_at_ = now;
      renew();
      renew_at(alive, std::max(due + interval, monotonic_now()), interval);
    });
  }

  /// Renewals that queue up behind a stuck connection say nothing more than one does.
  void renew() {
    const auto is_renewal = [](const v1::LeaseRequest& queued) { return queued.has_renew(); };
    if (!stream_ || stream_->waits(is_renewal)) return;
    v1::LeaseRequest request;
    request.mutable_renew();
    stream_->send(std::move(request));
  }

  void send(v1::LeaseRequest request) {
    if (stream_) stream_->send(std::move(request));
  }

  std::string name_;
  std::string address_;
  std::optional<Credentials> credentials_;
  std::shared_ptr<Poller> poller_ = Poller::shared();
  std::shared_ptr<Mailbox> mailbox_;
  std::shared_ptr<v1::Injector::Stub> stub_;
  std::shared_ptr<Lease> stream_;
  std::shared_ptr<asio::steady_timer> renewal_;
  Listener listener_;
  Duration lease_{};
  MonotonicTime renewed_at_;  ///< The last time that was within the lease.
};

}  // namespace

StatusOr<Credentials> read_credentials(const std::string& folder) {
  Credentials read;
  for (auto [name, field] :
       {std::pair{"ca.pem", &Credentials::ca}, std::pair{"cert.pem", &Credentials::certificate},
        std::pair{"key.pem", &Credentials::key}}) {
    auto text = read_pem(folder + "/" + name);
    if (!text.ok()) return text.status();
    read.*field = *std::move(text);
  }
  return read;
}

std::unique_ptr<Node> make_grpc_node(std::string name, std::string address,
                                     std::optional<Credentials> credentials) {
  return std::make_unique<GrpcNode>(std::move(name), std::move(address), std::move(credentials));
}

std::unique_ptr<Latch> make_latch(std::string address, std::optional<Credentials> credentials) {
  std::string name = address;
  return std::make_unique<GrpcNode>(std::move(name), std::move(address), std::move(credentials));
}

}  // namespace squall::fleet
