#include "controller/run/loads.h"

#include <fmt/format.h>

#include <boost/asio/this_coro.hpp>
#include <utility>

#include "controller/fleet/wake.h"
#include "controller/run/together.h"

namespace squall::run {
namespace asio = boost::asio;

Loads::Loads(const v1::Plan& plan, const Make& make) {
  for (const v1::Load& load : plan.load()) all_.push_back({load, make(load)});
}

void Loads::show(Watch& watch) const {
  for (const One& one : all_) {
    if (auto numbers = one.load->numbers()) watch.add(one.declared, std::move(numbers));
  }
}

std::vector<std::string> Loads::start(const asio::any_io_executor& loop) {
  std::vector<std::string> problems;
  for (One& one : all_) {
    const Status started = one.load->start(loop);
    one.begun = started.ok();
    if (one.begun) continue;
    problems.push_back(fmt::format("load \"{}\": {}", one.declared.name(), message_of(started)));
  }
  return problems;
}

asio::awaitable<void> Loads::watch(std::function<void(const std::string&)> on_failed) {
  co_await asio::this_coro::throw_if_cancelled(false);
  const auto watch_one = [&](std::size_t n) -> asio::awaitable<void> {
    co_await asio::this_coro::throw_if_cancelled(false);
    const std::string why = co_await all_[n].load->failed();
    if (!why.empty()) on_failed(fmt::format("load \"{}\": {}", all_[n].declared.name(), why));
  };
  co_await for_each(0, all_.size(), watch_one);
  fleet::Wake never;
  bool going = true;
  while (going) going = co_await never.wait();
}

asio::awaitable<void> Loads::end(bool in_haste, std::function<void(v1::Event)> tell) {
  co_await asio::this_coro::throw_if_cancelled(false);
  const auto end_one = [&](std::size_t n) -> asio::awaitable<void> {
    co_await asio::this_coro::throw_if_cancelled(false);
    if (!std::exchange(all_[n].begun, false)) co_return;
    v1::Event event;
    *event.mutable_load_ended() = co_await all_[n].load->end(in_haste);
    tell(std::move(event));
  };
  co_await for_each(0, all_.size(), end_one);
}

}  // namespace squall::run
