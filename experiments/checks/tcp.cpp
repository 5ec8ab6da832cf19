/// \file
/// tcp: opens a connection and closes it again. The state tells a port without a listener (refused)
/// from a node without a route (unreachable) and from silence (timeout), because each points to
/// another culprit.
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>

#include "experiments/checks/kind.h"
#include "experiments/checks/resolve.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;

class Tcp final : public Check {
 public:
  explicit Tcp(const v1::Check& check)
      : timeout_(timeout_of(check)), resolver_(check.tcp().address()) {}

  asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    const MonotonicTime deadline = sample.asked + timeout_;
    const Resolved resolved = co_await resolver_.resolve(deadline, timeout_);
    if (!resolved.error.empty()) {
      sample.error = resolved.error;
      sample.state = monotonic_now() >= deadline ? "timeout" : "unreachable";
    } else {
      co_await connect(resolved.endpoints, deadline, sample);
    }
    sample.latency = monotonic_now() - sample.asked;
    co_return sample;
  }

 private:
  asio::awaitable<void> connect(const std::vector<asio::ip::tcp::endpoint>& endpoints,
                                MonotonicTime deadline, Sample& sample) {
    const auto executor = co_await asio::this_coro::executor;
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    for (const auto& endpoint : endpoints) {
      asio::ip::tcp::socket socket(executor);
      asio::steady_timer late(executor, deadline);
      const auto first =
          co_await (socket.async_connect(endpoint, kToken) || late.async_wait(kToken));
      if (first.index() == 1) {
        const bool cancelled = static_cast<bool>(std::get<0>(std::get<1>(first)));
        sample.error = cancelled ? kCancelled : timeout_words(timeout_);
        sample.state = "timeout";
        co_return;
      }
      const boost::system::error_code failed = std::get<0>(std::get<0>(first));
      if (!failed) {
        sample.error.clear();
        sample.state = "open";
        co_return;
      }
      if (failed == asio::error::operation_aborted) {
        sample.error = kCancelled;
        sample.state = "timeout";
        co_return;
      }
      sample.error = errno_words(failed.value());
      const bool refused = failed.value() == ECONNREFUSED || failed.value() == ECONNRESET;
      sample.state = refused ? "refused" : failed.value() == ETIMEDOUT ? "timeout" : "unreachable";
    }
  }

  Duration timeout_;
  Resolver resolver_;
};

}  // namespace

const CheckKind kTcp{.which = v1::Check::kTcp, .make = [](const v1::Check& check) {
                       return std::unique_ptr<Check>(new Tcp(check));
                     }};

}  // namespace squall::checks
