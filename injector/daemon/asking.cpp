#include "injector/daemon/asking.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <exception>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "experiments/checks/wire.h"
#include "experiments/plan/load.h"
#include "injector/daemon/log.h"

namespace squall::daemon {
namespace asio = boost::asio;
namespace {

/// How long a check may take to give up, which it should do at once.
constexpr Duration kPatience = std::chrono::seconds(1);

std::string words_of(const std::exception_ptr& thrown) {
  try {
    std::rethrow_exception(thrown);
  } catch (const std::exception& failed) {
    return failed.what();
  } catch (...) {
    return "unknown";
  }
}

}  // namespace

/// Where the checks are. Its functions are called from the daemon's loop, its answers come on the
/// thread.
class Asking::Room {
 public:
  using Answer = std::function<void(StatusOr<checks::Sample>)>;

  Room() : thread_([this] { loop_.run(); }) {}
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  ~Room() {
    loop_.post([this] {
      leaving_ = true;
      for (auto& [number, one] : checks_) give_up(one);
      std::erase_if(checks_, [](const auto& entry) { return !entry.second.busy; });
      if (checks_.empty()) return loop_.stop();
      patience_.at(monotonic_now() + kPatience, [this] { loop_.stop(); });
    });
    thread_.join();
    if (checks_.empty()) return;
    // Its coroutine still refers to a check that does not honour its cancellation. That is a
    // mistake of ours, but no reason for squalld not to end.
    log(LogLevel::kError, fmt::format("event=checks_left count={}", checks_.size()));
    static_cast<void>(new std::map<std::uint64_t, One>(std::move(checks_)));
  }

  /// `check` is looked at for the first question of a number only.
  void ask(std::uint64_t number, v1::Check check, Answer answer) {
    loop_.post([this, number, check = std::move(check), answer = std::move(answer)] {
      begin(number, check, answer);
    });
  }

  void give_up(std::uint64_t number) {
    loop_.post([this, number] {
      const auto found = checks_.find(number);
      if (found == checks_.end()) return;
      give_up(found->second);
      if (!found->second.busy) checks_.erase(found);
    });
  }

 private:
  struct One {
    std::unique_ptr<checks::Check> check;
    std::optional<asio::cancellation_signal> cancel;  ///< Of the question that is asked.
    bool busy = false;
    bool over = false;  ///< Nobody waits for its answer.
  };

  void begin(std::uint64_t number, const v1::Check& wanted, const Answer& answer) {
    One& one = checks_[number];
    try {
      if (!one.check) one.check = checks::make_check(wanted);
      one.cancel.emplace();
      asio::co_spawn(
          loop_.executor(), one.check->ask(),
          asio::bind_cancellation_slot(
              one.cancel->slot(),
              [this, number, answer](const std::exception_ptr& thrown, checks::Sample sample) {
                ended(number, thrown, std::move(sample), answer);
              }));
      one.busy = true;
    } catch (const std::exception& failed) {
      answer(error(StatusCode::kUnimplemented, failed.what()));
    }
  }

  void ended(std::uint64_t number, const std::exception_ptr& thrown, checks::Sample sample,
             const Answer& answer) {
    One& one = checks_.at(number);
    one.busy = false;
    if (one.over) {
      // Not from within the coroutine that has just ended.
      return loop_.post([this, number] {
        checks_.erase(number);
        if (leaving_ && checks_.empty()) loop_.stop();
      });
    }
    if (thrown) return answer(error(StatusCode::kInternal, words_of(thrown)));
    answer(std::move(sample));
  }

  static void give_up(One& one) {
    if (std::exchange(one.over, true) || !one.busy) return;
    one.cancel->emit(asio::cancellation_type::terminal);
  }

  // The checks go before the loop that their sockets are of.
  Loop loop_;
  Timer patience_{loop_};
  std::map<std::uint64_t, One> checks_;
  bool leaving_ = false;
  std::thread thread_;
};

Asking::Asking(Loop& loop, const Guardrails& guardrails) : loop_(loop), guardrails_(guardrails) {}

Asking::~Asking() = default;

void Asking::received(AskStream& stream, const v1::AskRequest& request) {
  const auto found = asked_.find(&stream);
  if (found == asked_.end()) {
    const Status taken = take(stream, request);
    return taken.ok() ? ask(stream, request.check()) : refuse(stream, taken);
  }
  if (request.has_check()) {
    return refuse(stream,
                  error(StatusCode::kInvalidArgument, "check: in the first request of a stream"));
  }
  if (found->second.busy) {
    return refuse(stream, error(StatusCode::kFailedPrecondition,
                                "asked again before the last question was answered"));
  }
  ask(stream, {});
}

Status Asking::take(AskStream& stream, const v1::AskRequest& request) {
  if (stopped_) return error(StatusCode::kUnavailable, "squalld is ending");
  if (!request.has_check()) return error(StatusCode::kInvalidArgument, "check: missing");
  if (Status bounds = plan::check_bounds(request.check()); !bounds.ok()) return bounds;
  if (Status allowed = guardrails_.allow(request.check()); !allowed.ok()) return allowed;
  const std::string client = stream.client();
  const auto theirs = static_cast<std::size_t>(std::count_if(
      asked_.begin(), asked_.end(), [&](const auto& one) { return one.second.client == client; }));
  if (theirs >= kMostChecksOfOne) {
    return error(StatusCode::kResourceExhausted,
                 fmt::format("{} checks are asked for this client already", theirs));
  }
  if (asked_.size() >= kMostChecks) {
    return error(StatusCode::kResourceExhausted,
                 fmt::format("{} checks are asked from this node already", asked_.size()));
  }
  asked_[&stream] = {.number = ++last_number_, .client = client};
  log(LogLevel::kInfo, fmt::format("event=check_taken check={} client={}",
                                   quoted(request.check().name()), quoted(client)));
  return ok();
}

void Asking::ask(AskStream& stream, const v1::Check& check) {
  Asked& asked = asked_.at(&stream);
  asked.busy = true;
  if (!room_) room_ = std::make_unique<Room>();
  room_->ask(asked.number, check,
             [this, &stream, number = asked.number](StatusOr<checks::Sample> sample) {
               loop_.post([this, &stream, number, sample = std::move(sample)] {
                 answered(stream, number, sample);
               });
             });
}

void Asking::answered(AskStream& stream, std::uint64_t number,
                      const StatusOr<checks::Sample>& sample) {
  const auto found = asked_.find(&stream);
  // Another stream may be where one was that is gone.
  if (found == asked_.end() || found->second.number != number) return;
  if (!sample.ok()) return refuse(stream, sample.status());
  found->second.busy = false;
  v1::AskReply reply;
  *reply.mutable_sample() = checks::to_message(*sample);
  stream.tell(std::move(reply));
}

void Asking::refuse(AskStream& stream, const Status& why) {
  log(LogLevel::kWarn, "event=ask_refused why=" + quoted(message_of(why)));
  forget(stream);
  stream.finish(why);
}

void Asking::forget(AskStream& stream) {
  const auto found = asked_.find(&stream);
  if (found == asked_.end()) return;
  room_->give_up(found->second.number);
  asked_.erase(found);
}

void Asking::ended(AskStream& stream) {
  forget(stream);
  stream.finish(ok());
}

void Asking::broken(AskStream& stream) { forget(stream); }

void Asking::stop() {
  stopped_ = true;
  while (!asked_.empty()) {
    AskStream& stream = *asked_.begin()->first;
    forget(stream);
    stream.finish(error(StatusCode::kUnavailable, "squalld is ending"));
  }
}

}  // namespace squall::daemon
