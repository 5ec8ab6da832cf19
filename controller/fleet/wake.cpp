#include "controller/fleet/wake.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace squall::fleet {
namespace asio = boost::asio;

asio::awaitable<bool> is_cancelled() {
  const auto state = co_await asio::this_coro::cancellation_state;
  co_return state.cancelled() != asio::cancellation_type::none;
}

asio::awaitable<bool> Wake::wait(MonotonicTime deadline) {
  // A cancelled coroutine would otherwise be thrown out of its next wait, and those that wait here
  // have something to put in order first.
  co_await asio::this_coro::throw_if_cancelled(false);
  const bool cancelled = co_await is_cancelled();
  if (cancelled) co_return false;
  asio::steady_timer timer(co_await asio::this_coro::executor, deadline);
  waiting_.push_back(&timer);
  co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
  std::erase(waiting_, &timer);
  const bool cancelled_meanwhile = co_await is_cancelled();
  co_return !cancelled_meanwhile;
}

void Wake::notify() {
  // Cancelling only posts the handlers: nobody runs, and so nobody changes the list, in here.
  for (auto* timer : waiting_) timer->cancel();
  waiting_.clear();
}

}  // namespace squall::fleet
