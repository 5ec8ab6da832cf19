/// \file
/// Many coroutines at once, for the run engine and its watch.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/this_coro.hpp>
#include <cstddef>

namespace squall::run {

/// Awaits make(first) … make(last - 1) together, done when the last is. In halves, so that ten
/// thousand are no deeper than fourteen.
template <typename Make>
boost::asio::awaitable<void> for_each(std::size_t first, std::size_t last, Make make) {
  using namespace boost::asio::experimental::awaitable_operators;
  co_await boost::asio::this_coro::throw_if_cancelled(false);
  if (first == last) co_return;
  if (last - first == 1) {
    co_await make(first);
    co_return;
  }
  const std::size_t half = first + (last - first) / 2;
  co_await (for_each(first, half, make) && for_each(half, last, make));
}

}  // namespace squall::run
