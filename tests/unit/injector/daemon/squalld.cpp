#include "tests/unit/injector/daemon/squalld.h"

#include <doctest/doctest.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <mutex>
#include <thread>

#include "experiments/base/ids.h"
#include "squall/v1/node.grpc.pb.h"
#include "tests/support/eventually.h"

namespace squall::support {
namespace {

constexpr Duration kBound = std::chrono::seconds(10);

std::unique_ptr<v1::Injector::Stub> stub_of(const Squalld& daemon) {
  // A pool of its own, or gRPC would hand out the connection of an earlier daemon.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Injector::NewStub(
      grpc::CreateCustomChannel(daemon.address(), grpc::InsecureChannelCredentials(), arguments));
}

Status to_status(const grpc::Status& status) {
  return error(static_cast<StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

Squalld::Squalld() {
  std::string name = (std::filesystem::temp_directory_path() / "squalld-test-XXXXXX").string();
  REQUIRE(::mkdtemp(name.data()) != nullptr);
  folder_ = name;
}

Squalld::~Squalld() {
  process_.reset();
  std::filesystem::remove_all(folder_);
}

void Squalld::start(const std::vector<std::string>& options, const Namespace* where) {
  Command command;
  command.argv = {binary("squalld"), "--state-dir", folder_};
  command.argv.insert(command.argv.end(), options.begin(), options.end());
  command.where = where;
  process_.reset();
  process_.emplace(command);
  const bool serves = eventually(
      [&] {
        return process_->err().find("event=serving") != std::string::npos || !process_->running();
      },
      kBound);
  INFO(process_->err());
  REQUIRE(serves);
  REQUIRE(process_->running());
}

std::vector<pid_t> Squalld::holders() const { return children_of(process_->pid(), "squall-hold"); }

v1::Description Squalld::describe() const {
  grpc::ClientContext context;
  v1::Description description;
  const grpc::Status status =
      stub_of(*this)->Describe(&context, v1::DescribeRequest(), &description);
  INFO(status.error_message());
  REQUIRE(status.ok());
  return description;
}

StatusOr<v1::PreflightReply> Squalld::preflight(const v1::PreflightRequest& request) const {
  grpc::ClientContext context;
  v1::PreflightReply reply;
  const grpc::Status status = stub_of(*this)->Preflight(&context, request, &reply);
  if (!status.ok()) return to_status(status);
  return reply;
}

StatusOr<v1::RevertReply> Squalld::revert(const std::string& fault, const std::string& by) const {
  grpc::ClientContext context;
  v1::RevertRequest request;
  request.set_fault(fault);
  request.set_by(by);
  v1::RevertReply reply;
  const grpc::Status status = stub_of(*this)->Revert(&context, request, &reply);
  if (!status.ok()) return to_status(status);
  return reply;
}

void Squalld::halt(const std::string& reason) const {
  grpc::ClientContext context;
  v1::HaltRequest request;
  request.set_by("somebody");
  request.set_reason(reason);
  v1::HaltReply reply;
  const grpc::Status status = stub_of(*this)->Halt(&context, request, &reply);
  INFO(status.error_message());
  REQUIRE(status.ok());
}

struct Session::Wire {
  std::unique_ptr<v1::Injector::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LeaseRequest, v1::LeaseEvent>> stream;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<v1::LeaseEvent> events;
  std::string passed_over;
  bool over = false;
  bool renewing = true;
  std::optional<Status> status;
  std::thread reader;

  Status end() {
    if (!status) {
      reader.join();
      status = to_status(stream->Finish());
    }
    return *status;
  }
};

Session::Session(const Squalld& daemon) : wire_(std::make_unique<Wire>()) {
  wire_->stub = stub_of(daemon);
  wire_->stream = wire_->stub->Lease(&wire_->context);
  wire_->reader = std::thread([wire = wire_.get()] {
    v1::LeaseEvent event;
    while (wire->stream->Read(&event)) {
      const std::lock_guard lock(wire->mutex);
      wire->events.push_back(event);
      wire->changed.notify_one();
    }
    const std::lock_guard lock(wire->mutex);
    wire->over = true;
    wire->changed.notify_one();
  });
}

Session::~Session() {
  wire_->context.TryCancel();
  // What it was told does not matter any more.
  static_cast<void>(wire_->end());
}

v1::Opened Session::open(const std::string& run, std::uint64_t epoch, Duration lease) {
  v1::LeaseRequest request;
  request.mutable_open()->set_run(run);
  request.mutable_open()->set_epoch(epoch);
  request.mutable_open()->set_lease(lease.count());
  send(request);
  const auto event = next(v1::LeaseEvent::kOpened);
  REQUIRE(event.has_value());
  return event->opened();
}

void Session::send(const v1::LeaseRequest& request) { wire_->stream->Write(request); }

void Session::renew() {
  v1::LeaseRequest request;
  request.mutable_renew();
  send(request);
}

void Session::inject(const v1::Fault& fault) {
  v1::LeaseRequest request;
  *request.mutable_inject()->mutable_fault() = fault;
  send(request);
}

void Session::revert(const std::string& fault) {
  v1::LeaseRequest request;
  request.mutable_revert()->set_fault(fault);
  send(request);
}

void Session::revert_all() {
  v1::LeaseRequest request;
  request.mutable_revert_all();
  send(request);
}

std::optional<v1::LeaseEvent> Session::next(
    const std::function<bool(const v1::LeaseEvent&)>& wanted) {
  const MonotonicTime until = monotonic_now() + kBound;
  std::unique_lock lock(wire_->mutex);
  while (monotonic_now() < until) {
    while (!wire_->events.empty()) {
      v1::LeaseEvent event = std::move(wire_->events.front());
      wire_->events.pop_front();
      if (wanted(event)) return event;
      wire_->passed_over += event.ShortDebugString() + '\n';
    }
    if (wire_->over) break;
    wire_->changed.wait_for(lock, std::chrono::milliseconds(200));
    if (wire_->renewing && wire_->events.empty()) {
      lock.unlock();
      renew();
      lock.lock();
    }
  }
  MESSAGE("only this was told: " << wire_->passed_over);
  return std::nullopt;
}

std::optional<v1::LeaseEvent> Session::next(v1::LeaseEvent::EventCase wanted,
                                            const std::string& fault) {
  return next([&](const v1::LeaseEvent& event) {
    return event.event_case() == wanted && (fault.empty() || event.fault() == fault);
  });
}

void Session::stop_renewing() { wire_->renewing = false; }

void Session::break_off() { wire_->context.TryCancel(); }

Status Session::finish() {
  wire_->stream->WritesDone();
  return wire_->end();
}

Status Session::last_word() { return wire_->end(); }

struct Asking::Wire {
  std::unique_ptr<v1::Injector::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::AskRequest, v1::AskReply>> stream;
  bool over = false;

  Status end() {
    over = true;
    return to_status(stream->Finish());
  }
};

Asking::Asking(const Squalld& daemon) : wire_(std::make_unique<Wire>()) {
  wire_->stub = stub_of(daemon);
  wire_->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  wire_->stream = wire_->stub->Ask(&wire_->context);
}

Asking::~Asking() {
  if (wire_->over) return;
  wire_->context.TryCancel();
  static_cast<void>(wire_->end());
}

void Asking::send(const v1::Check& check) {
  v1::AskRequest request;
  *request.mutable_check() = check;
  wire_->stream->Write(request);
}

void Asking::send() { wire_->stream->Write(v1::AskRequest()); }

StatusOr<v1::Sample> Asking::answer() {
  v1::AskReply reply;
  if (wire_->stream->Read(&reply)) return reply.sample();
  const Status last = wire_->end();
  return last.ok() ? error(StatusCode::kAborted, "the stream ended without a word") : last;
}

void Asking::break_off() { wire_->context.TryCancel(); }

Status Asking::finish() {
  wire_->stream->WritesDone();
  v1::AskReply late;
  while (wire_->stream->Read(&late)) {
  }
  return wire_->end();
}

v1::Fault small_fault(Duration lasts) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(lasts.count());
  fault.mutable_cpu()->set_load(1);
  fault.mutable_cpu()->set_cores(1);
  return fault;
}

}  // namespace squall::support
