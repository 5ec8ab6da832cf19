#include "tests/bench/node.h"

#include <grpcpp/grpcpp.h>

#include <stdexcept>

#include "experiments/base/ids.h"
#include "squall/v1/node.grpc.pb.h"

namespace squall::bench {

namespace {

/// The socket is made for its owner alone, so no TLS.
std::unique_ptr<v1::Injector::Stub> connect(const std::string& address) {
  return v1::Injector::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
}

}  // namespace

Daemon::Daemon(const std::filesystem::path& bin)
    : process_({bin / "squalld", "--state-dir", folder_.path()}) {
  grpc::ClientContext context;
  context.set_wait_for_ready(true);
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  v1::Description description;
  const grpc::Status status = connect(address())->Describe(&context, {}, &description);
  if (!status.ok()) throw std::runtime_error("squalld does not answer: " + status.error_message());
}

std::string Daemon::address() const { return "unix:" + (folder_.path() / "squalld.sock").string(); }

struct Lease::Stream {
  std::unique_ptr<v1::Injector::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::LeaseRequest, v1::LeaseEvent>> stream;

  void send(const v1::LeaseRequest& request) {
    if (!stream->Write(request)) throw std::runtime_error("the lease is broken");
  }
};

Lease::Lease(const Daemon& daemon) : stream_(std::make_unique<Stream>()) {
  stream_->stub = connect(daemon.address());
  stream_->stream = stream_->stub->Lease(&stream_->context);
  v1::LeaseRequest request;
  v1::Open& open = *request.mutable_open();
  open.set_run(new_run_id());
  open.set_epoch(1);
  open.set_lease(60'000'000'000);
  stream_->send(request);
  until(v1::LeaseEvent::kOpened);
}

Lease::~Lease() {
  stream_->stream->WritesDone();
  v1::LeaseEvent event;
  while (stream_->stream->Read(&event)) {
  }
  stream_->stream->Finish();
}

void Lease::inject(const v1::Fault& fault) {
  v1::LeaseRequest request;
  *request.mutable_inject()->mutable_fault() = fault;
  stream_->send(request);
}

void Lease::revert(const std::string& fault) {
  v1::LeaseRequest request;
  request.mutable_revert()->set_fault(fault);
  stream_->send(request);
}

void Lease::renew() {
  v1::LeaseRequest request;
  request.mutable_renew();
  stream_->send(request);
}

v1::LeaseEvent Lease::until(v1::LeaseEvent::EventCase wanted) {
  v1::LeaseEvent event;
  while (stream_->stream->Read(&event)) {
    if (event.event_case() == wanted) return event;
    if (event.has_failed())
      throw std::runtime_error("the fault failed: " + event.failed().message());
  }
  throw std::runtime_error("the lease ended: " + stream_->stream->Finish().error_message());
}

}  // namespace squall::bench
