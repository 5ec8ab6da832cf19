#include "controller/notify/courier.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <csignal>
#include <deque>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "controller/fleet/wake.h"

namespace squall::notify {
namespace {

namespace asio = boost::asio;

/// Whether any receiver has a use for it. What checks answer, and what faults show, comes a
/// thousand times a second.
bool is_told(const v1::Event& event) {
  switch (event.event_case()) {
    case v1::Event::kCheckAsked:
    case v1::Event::kFaultEvidence:
    case v1::Event::kPreflighted:
    case v1::Event::kHostChanged:
    case v1::Event::EVENT_NOT_SET:
      return false;
    default:
      return true;
  }
}

/// Whether asking again may help. Source: RFC 9110, 15.
bool is_passing(const checks::Answer& answer) {
  if (!answer.error.empty()) return true;
  return answer.status >= 500 || answer.status == 408 || answer.status == 425 ||
         answer.status == 429;
}

}  // namespace

struct Courier::State {
  /// One receiver and what waits for it.
  struct Mailbox {
    std::unique_ptr<Receiver> receiver;
    checks::Fetcher fetcher;
    std::deque<Letter> letters;
    fleet::Wake wake;
    asio::cancellation_signal cancel;
    std::size_t sent = 0;  ///< Delivered.
    std::size_t lost = 0;
    std::string why;  ///< The latest that was lost, or is not delivered yet.
  };

  State(std::vector<std::unique_ptr<Receiver>> receivers, Patience wanted)
      : patience(wanted), work(asio::make_work_guard(loop)), deadline(loop) {
    for (auto& receiver : receivers) {
      auto& box = boxes.emplace_back(std::make_unique<Mailbox>());
      box->receiver = std::move(receiver);
    }
  }

  void start() {
    open = boxes.size();
    for (auto& box : boxes) {
      asio::co_spawn(loop, deliver(*box),
                     asio::bind_cancellation_slot(
                         box->cancel.slot(), [this, &box = *box](const std::exception_ptr& thrown) {
                           if (thrown) box.why = "a fault of squall's own";
                           if (--open > 0) return;
                           work.reset();
                           deadline.cancel();
                         }));
    }
    // The run's signals are for the run's thread.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = std::thread([this] { loop.run(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  /// On the courier's thread, as all below.
  void take(const v1::Event& event) {
    story.take(event);
    for (auto& box : boxes) {
      std::vector<Letter> letters;
      try {
        letters = box->receiver->hear(event, story);
      } catch (const std::exception& failed) {
        ++box->lost;
        box->why = fmt::format("a fault of squall's own: {}", failed.what());
      }
      for (Letter& letter : letters) box->letters.push_back(std::move(letter));
      while (box->letters.size() > patience.letters) {
        // Not the first, which is on its way.
        box->letters.erase(box->letters.begin() + 1);
        ++box->lost;
      }
      if (!letters.empty()) box->wake.notify();
    }
  }

  asio::awaitable<void> deliver(Mailbox& box) {
    co_await asio::this_coro::throw_if_cancelled(false);
    for (;;) {
      while (box.letters.empty()) {
        if (closing) co_return;
        const bool going = co_await box.wake.wait();
        if (!going) co_return;
      }
      const bool going = co_await deliver_first(box);
      if (!going) co_return;
      box.letters.pop_front();
    }
  }

  /// False: cancelled, and it is not known whether it arrived.
  asio::awaitable<bool> deliver_first(Mailbox& box) {
    Duration pause = patience.first_pause;
    for (std::size_t attempt = 1;; ++attempt) {
      checks::Request request = box.receiver->request(box.letters.front());
      if (request.timeout == Duration::zero()) request.timeout = patience.timeout;
      const checks::Answer answer = co_await box.fetcher.fetch(std::move(request));
      const bool cancelled = co_await fleet::is_cancelled();
      if (answer.error.empty() && answer.status / 100 == 2) {
        ++box.sent;
        co_return true;
      }
      if (cancelled) {
        if (box.why.empty()) box.why = "no answer yet";
        co_return false;
      }
      box.why = answer.error.empty() ? fmt::format("answered {}", answer.status) : answer.error;
      if (!is_passing(answer) || attempt == patience.attempts) {
        ++box.lost;
        co_return true;
      }
      const MonotonicTime again = monotonic_now() + pause;
      pause *= 2;
      // New letters wake it as well, and change nothing about the pause.
      while (monotonic_now() < again) {
        const bool going = co_await box.wake.wait(again);
        if (!going) co_return false;
      }
    }
  }

  void close(Duration at_most) {
    closing = true;
    for (auto& box : boxes) box->wake.notify();
    deadline.expires_after(at_most);
    deadline.async_wait([this](const boost::system::error_code& all_done) {
      if (all_done) return;
      for (auto& box : boxes) box->cancel.emit(asio::cancellation_type::terminal);
    });
  }

  Patience patience;
  std::vector<std::unique_ptr<Mailbox>> boxes;
  report::Story story;
  bool closing = false;
  std::size_t open = 0;
  std::atomic<std::size_t> events_waiting = 0;
  std::atomic<std::size_t> events_lost = 0;
  // Last, so that nothing on the loop outlives what it uses.
  asio::io_context loop{1};
  asio::executor_work_guard<asio::io_context::executor_type> work;
  asio::steady_timer deadline;
  std::thread thread;
};

Courier::Courier(std::vector<std::unique_ptr<Receiver>> receivers, Patience patience)
    : state_(std::make_unique<State>(std::move(receivers), patience)) {
  state_->start();
}

Courier::~Courier() { finish(Duration::zero()); }

void Courier::on(const v1::Event& event) {
  if (!state_->thread.joinable() || !is_told(event)) return;
  if (state_->events_waiting.load() >= state_->patience.events) {
    ++state_->events_lost;
    return;
  }
  ++state_->events_waiting;
  asio::post(state_->loop, [state = state_.get(), event] {
    --state->events_waiting;
    state->take(event);
  });
}

std::vector<std::string> Courier::finish(Duration at_most) {
  std::vector<std::string> undelivered;
  if (!state_->thread.joinable()) return undelivered;
  asio::post(state_->loop, [state = state_.get(), at_most] { state->close(at_most); });
  state_->thread.join();
  for (const auto& box : state_->boxes) {
    const std::size_t lost = box->lost + box->letters.size();
    if (lost == 0) continue;
    undelivered.push_back(fmt::format(
        "{}: {} of {} messages {} not delivered{}", box->receiver->name(), lost, lost + box->sent,
        lost == 1 ? "was" : "were", box->why.empty() ? "" : ": " + box->why));
  }
  if (const std::size_t lost = state_->events_lost; lost > 0) {
    undelivered.push_back(fmt::format("{} events of the run were told to no receiver", lost));
  }
  return undelivered;
}

}  // namespace squall::notify
