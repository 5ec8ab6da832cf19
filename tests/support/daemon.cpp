#include "tests/support/daemon.h"

#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "squall/v1/node.grpc.pb.h"
#include "tests/support/eventually.h"
#include "tests/support/namespace.h"

namespace squall::support {
namespace {

/// Some hundred times what it takes; the lab is slow, and a broken case must end.
constexpr Duration kStartBound = std::chrono::seconds(30);

std::unique_ptr<v1::Injector::Stub> reach(const std::string& address) {
  grpc::ChannelArguments arguments;
  // A daemon that is started again is to be seen again at once.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  // Also the longest that a connection may take to be made; the lab is slow.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 20000);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Injector::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
}

Status from_grpc(const grpc::Status& status) {
  return error(static_cast<StatusCode>(status.error_code()), status.error_message());
}

Command squalld(const Namespace& where, const std::filesystem::path& state_dir,
                const std::vector<std::pair<std::string, std::string>>& environment) {
  Command command;
  command.argv = {binary("squalld"), "--state-dir", state_dir.native(), "--log-level", "debug"};
  command.where = &where;
  command.environment = environment;
  return command;
}

}  // namespace

Daemon::Daemon(const Namespace& where, const std::filesystem::path& state_dir,
               const std::vector<std::pair<std::string, std::string>>& environment)
    : address_("unix:" + (state_dir / "squalld.sock").native()),
      process_(squalld(where, state_dir, environment)) {
  // By its own word: another that was killed may have left a socket that still takes connections
  // for a moment, in a child that has yet to become a holder.
  const auto serves = [&] { return process_.err().find("event=serving ") != std::string::npos; };
  eventually([&] { return serves() || !process_.running(); }, kStartBound,
             std::chrono::milliseconds(10));
  const Status answer =
      serves() ? describe(kStartBound).status() : error(StatusCode::kUnavailable, "nobody listens");
  if (answer.ok()) return;
  std::string told = "squalld does not serve: " + message_of(answer);
  if (const std::optional<int> status = process_.wait(Duration::zero())) {
    told += "; it ended with status " + std::to_string(*status);
  }
  throw std::runtime_error(told + "; it said:\n" + process_.err());
}

StatusOr<v1::Description> Daemon::describe(Duration bound) const {
  const auto stub = reach(address_);
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + bound);
  v1::Description description;
  const grpc::Status status = stub->Describe(&context, v1::DescribeRequest(), &description);
  if (!status.ok()) return from_grpc(status);
  return description;
}

std::vector<Stranger> Daemon::holders() const {
  std::vector<Stranger> holders;
  for (const pid_t pid : children_of(process_.pid(), "squall-hold")) {
    try {
      holders.emplace_back(pid);
    } catch (const std::runtime_error&) {
      // It ended since.
    }
  }
  return holders;
}

class Controller::Stream {
 public:
  Stream(const std::string& address, Duration lease)
      : lease_(lease), stub_(reach(address)), rpc_(stub_->Lease(&context_)) {
    reader_ = std::thread([this] { read(); });
    renewer_ = std::thread([this] { keep_renewing(); });
  }

  ~Stream() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    context_.TryCancel();
    renewer_.join();
    reader_.join();
  }

  void send(const v1::LeaseRequest& request) {
    // gRPC takes one write at a time. One on a broken stream is told by the stream's end.
    const std::lock_guard lock(writing_);
    rpc_->Write(request);
  }

  void fall_silent() {
    const std::lock_guard lock(mutex_);
    silent_ = true;
  }

  void vanish() { context_.TryCancel(); }

  std::optional<v1::LeaseEvent> wait_for(const std::function<bool(const v1::LeaseEvent&)>& fits,
                                         Duration bound) const {
    std::unique_lock lock(mutex_);
    std::size_t seen = 0;
    std::optional<v1::LeaseEvent> found;
    changed_.wait_until(lock, monotonic_now() + bound, [&] {
      for (; seen < events_.size() && !found; ++seen) {
        if (fits(events_[seen])) found = events_[seen];
      }
      return found || status_;
    });
    return found;
  }

  std::vector<v1::LeaseEvent> events() const {
    const std::lock_guard lock(mutex_);
    return events_;
  }

  std::optional<Status> ended(Duration bound) const {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, monotonic_now() + bound, [&] { return status_.has_value(); });
    return status_;
  }

 private:
  void read() {
    v1::LeaseEvent event;
    while (rpc_->Read(&event)) {
      {
        const std::lock_guard lock(mutex_);
        events_.push_back(event);
      }
      changed_.notify_all();
    }
    const Status status = from_grpc(rpc_->Finish());
    {
      const std::lock_guard lock(mutex_);
      status_ = status;
    }
    changed_.notify_all();
  }

  void keep_renewing() {
    v1::LeaseRequest renewal;
    renewal.mutable_renew();
    std::unique_lock lock(mutex_);
    while (!changed_.wait_until(lock, monotonic_now() + lease_ / 3,
                                [&] { return over_ || status_.has_value(); })) {
      if (silent_) continue;
      lock.unlock();
      send(renewal);
      lock.lock();
    }
  }

  Duration lease_;
  std::unique_ptr<v1::Injector::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LeaseRequest, v1::LeaseEvent>> rpc_;
  std::mutex writing_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  std::vector<v1::LeaseEvent> events_;
  std::optional<Status> status_;
  bool silent_ = false;
  bool over_ = false;
  std::thread reader_;
  std::thread renewer_;
};

Controller::Controller(const std::string& address, const std::string& run, std::uint64_t epoch,
                       Duration lease)
    : stream_(std::make_unique<Stream>(address, lease)) {
  v1::LeaseRequest request;
  request.mutable_open()->set_run(run);
  request.mutable_open()->set_epoch(epoch);
  request.mutable_open()->set_lease(lease.count());
  stream_->send(request);
  const auto opened = [](const v1::LeaseEvent& event) { return event.has_opened(); };
  if (!wait_for(opened, std::chrono::seconds(10))) {
    const std::optional<Status> status = ended(Duration::zero());
    throw std::runtime_error("no lease: " +
                             (status ? message_of(*status) : std::string("no answer")));
  }
}

Controller::~Controller() = default;

void Controller::send_inject(const v1::Fault& fault) {
  v1::LeaseRequest request;
  *request.mutable_inject()->mutable_fault() = fault;
  stream_->send(request);
}

v1::FaultApplied Controller::inject(const v1::Fault& fault) {
  send_inject(fault);
  const std::optional<v1::LeaseEvent> answer = wait_for(
      [&](const v1::LeaseEvent& event) {
        return event.fault() == fault.id() && (event.has_applied() || event.has_failed());
      },
      std::chrono::seconds(10));
  if (!answer) {
    const std::optional<Status> status = ended(Duration::zero());
    throw std::runtime_error("the fault is not applied: " +
                             (status ? message_of(*status) : std::string("no answer")));
  }
  if (answer->has_failed()) throw std::runtime_error(answer->failed().message());
  return answer->applied();
}

void Controller::revert(const std::string& fault) {
  v1::LeaseRequest request;
  request.mutable_revert()->set_fault(fault);
  stream_->send(request);
}

void Controller::revert_all() {
  v1::LeaseRequest request;
  request.mutable_revert_all();
  stream_->send(request);
}

void Controller::fall_silent() { stream_->fall_silent(); }

void Controller::renew() {
  v1::LeaseRequest request;
  request.mutable_renew();
  stream_->send(request);
}

void Controller::vanish() { stream_->vanish(); }

std::optional<v1::LeaseEvent> Controller::wait_for(
    const std::function<bool(const v1::LeaseEvent&)>& fits, Duration bound) const {
  return stream_->wait_for(fits, bound);
}

std::vector<v1::LeaseEvent> Controller::events() const { return stream_->events(); }

std::optional<Status> Controller::ended(Duration bound) const { return stream_->ended(bound); }

}  // namespace squall::support
