/// \file
/// http: asks a URL. An answer of any status is an answer; what is expected of it is the judge's to
/// say.
#include "experiments/checks/fetch.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

class Http final : public Check {
 public:
  explicit Http(const v1::Check& check) {
    const v1::Http& wanted = check.http();
    request_.url = wanted.url();
    if (!wanted.method().empty()) request_.method = wanted.method();
    request_.headers.assign(wanted.headers().begin(), wanted.headers().end());
    request_.body = wanted.body();
    request_.timeout = timeout_of(check);
  }

  boost::asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    Answer answer = co_await fetcher_.fetch(request_);
    sample.latency = answer.latency;
    sample.error = std::move(answer.error);
    if (sample.error.empty()) sample.status = answer.status;
    sample.output = std::move(answer.body);
    co_return sample;
  }

 private:
  Request request_;
  Fetcher fetcher_;
};

}  // namespace

const CheckKind kHttp{.which = v1::Check::kHttp, .make = [](const v1::Check& check) {
                        return std::unique_ptr<Check>(new Http(check));
                      }};

}  // namespace squall::checks
