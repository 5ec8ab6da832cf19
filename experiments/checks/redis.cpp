/// \file
/// redis: asks a Redis server a command, and where an expectation is of it, how far it or its
/// replicas lag behind. hiredis writes the command and reads the reply; the connection is Asio's,
/// kept for the next ask, and made anew once it is lost.
#include <hiredis/hiredis.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/checks/kind.h"
#include "experiments/checks/resolve.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
using Socket = asio::generic::stream_protocol::socket;
using Endpoint = asio::generic::stream_protocol::endpoint;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr std::size_t kLongestReply = 10'000'000;

struct FreeReader {
  void operator()(redisReader* reader) const { redisReaderFree(reader); }
};
struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

std::string text_of(const redisReply& reply) {
  return reply.str == nullptr ? "" : std::string(reply.str, static_cast<std::size_t>(reply.len));
}

/// What stands behind a name in INFO's answer, a line each; nothing where it is not there.
std::optional<std::string_view> field_of(std::string_view info, std::string_view name) {
  for (std::size_t at = 0; at < info.size();) {
    const std::string_view line = info.substr(at, info.find_first_of("\r\n", at) - at);
    if (line.starts_with(name) && line.substr(name.size(), 1) == ":") {
      return line.substr(name.size() + 1);
    }
    at += line.size() + 1;
  }
  return std::nullopt;
}

/// What stands behind a name in a list such as ip=10.0.0.1,port=6379,state=online,lag=1.
std::string_view part_of(std::string_view list, std::string_view name) {
  while (!list.empty()) {
    const std::string_view part = list.substr(0, list.find(','));
    if (part.starts_with(name) && part.substr(name.size(), 1) == "=") {
      return part.substr(name.size() + 1);
    }
    list.remove_prefix(std::min(part.size() + 1, list.size()));
  }
  return "";
}

/// The lag that INFO's section `replication` tells, in nanoseconds, or else why it tells none.
/// Source: redis.io, INFO, "replication".
std::optional<double> lag_in(std::string_view info, std::string& why) {
  constexpr double kSecond = 1e9;
  if (field_of(info, "role") == "slave") {
    why = "the link to its primary is down";
    if (field_of(info, "master_link_status") != "up") return std::nullopt;
    const auto since = number_from(field_of(info, "master_last_io_seconds_ago").value_or(""));
    if (since && *since >= 0) return *since * kSecond;
    return std::nullopt;
  }
  std::optional<double> largest;
  why = "it has no replicas";
  for (int n = 0;; ++n) {
    const auto replica = field_of(info, "slave" + std::to_string(n));
    if (!replica) return largest;
    const auto lag = number_from(part_of(*replica, "lag"));
    if (part_of(*replica, "state") != "online" || !lag || *lag < 0) {
      why = "a replica is not in step yet";
      return std::nullopt;
    }
    largest = std::max(largest.value_or(0), *lag * kSecond);
  }
}

class Redis final : public Check {
 public:
  explicit Redis(const v1::Check& check)
      : unix_(check.redis().unix()),
        command_(check.redis().command().begin(), check.redis().command().end()),
        user_(check.redis().user()),
        timeout_(timeout_of(check)),
        needs_lag_(expects(check, "lag")),
        needs_text_(expects(check, "text")),
        needs_value_(expects(check, "value")),
        resolver_(check.redis().address()) {
    if (command_.empty()) command_ = {"PING"};
    if (const char* password = std::getenv("REDISCLI_AUTH")) password_ = password;
  }

  asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    deadline_ = sample.asked + timeout_;
    const bool was_kept = socket_.has_value();
    Failure failure = co_await converse(sample);
    // What was lost since the last ask says nothing of the server as it is now.
    if (failure.is_lost && failure.state != "timeout" && was_kept) {
      hang_up();
      failure = co_await converse(sample);
    }
    if (failure.is_lost) hang_up();
    sample.error = failure.error;
    sample.state = failure ? failure.state : "ok";
    sample.latency = monotonic_now() - sample.asked;
    co_return sample;
  }

 private:
  void hang_up() {
    socket_.reset();
    reader_.reset();
  }

  asio::awaitable<Failure> converse(Sample& sample) {
    Failure failure;
    if (!socket_) failure = co_await connect();
    if (failure) co_return failure;
    Reply reply;
    failure = co_await ask_for(command_, reply);
    if (failure) co_return failure;
    tell(*reply, sample);
    if (!needs_lag_) co_return failure;
    const std::vector<std::string> info{"INFO", "replication"};
    failure = co_await ask_for(info, reply);
    if (failure) co_return failure;
    std::string why;
    if (const auto lag = lag_in(text_of(*reply), why)) {
      sample.numbers["lag"] = *lag;
    } else {
      sample.no_data += (sample.no_data.empty() ? "" : "; ") + why;
    }
    co_return failure;
  }

  void tell(const redisReply& reply, Sample& sample) const {
    std::string why;
    switch (reply.type) {
      case REDIS_REPLY_INTEGER:
        sample.numbers["value"] = static_cast<double>(reply.integer);
        sample.output = std::to_string(reply.integer);
        break;
      case REDIS_REPLY_ARRAY:
        sample.numbers["count"] = static_cast<double>(reply.elements);
        if (reply.elements > 0) sample.output = text_of(*reply.element[0]).substr(0, kKeptText);
        why = "a list";
        break;
      case REDIS_REPLY_NIL:
        why = "nil";
        break;
      default: {
        const std::string text = text_of(reply);
        sample.output = text.substr(0, kKeptText);
        if (const auto number = number_from(text)) {
          sample.numbers["value"] = *number;
        } else {
          why = "\"" + told_by_server(text) + "\" is not a number";
        }
      }
    }
    const bool is_nil = reply.type == REDIS_REPLY_NIL;
    if (needs_value_ || (needs_text_ && is_nil)) sample.no_data = why;
  }

  Failure out_of_time(const boost::system::error_code& timer) const {
    return {timer ? kCancelled : timeout_words(timeout_), "timeout", true};
  }

  static Failure failed_with(const boost::system::error_code& failed) {
    if (failed == asio::error::operation_aborted) return {kCancelled, "timeout", true};
    if (failed == asio::error::eof) return {"connection closed", "refused", true};
    switch (failed.value()) {
      case ECONNREFUSED:
      case ENOENT:  // no socket: nobody has made one
        return {errno_words(ECONNREFUSED), "refused", true};
      case ECONNRESET:
      case EPIPE:
        return {errno_words(ECONNRESET), "refused", true};
      case ETIMEDOUT:
        return {errno_words(ETIMEDOUT), "timeout", true};
      default:
        return {errno_words(failed.value()), "unreachable", true};
    }
  }

  asio::awaitable<Failure> connect() {
    std::vector<Endpoint> endpoints;
    if (unix_.empty()) {
      const Resolved resolved = co_await resolver_.resolve(deadline_, timeout_);
      if (!resolved.error.empty()) {
        const bool is_late = monotonic_now() >= deadline_;
        co_return Failure{resolved.error, is_late ? "timeout" : "unreachable", true};
      }
      endpoints.assign(resolved.endpoints.begin(), resolved.endpoints.end());
    } else {
      // sockaddr_un, unix(7).
      constexpr std::size_t kLongestPath = 107;
      if (unix_.size() > kLongestPath) {
        co_return Failure{errno_words(ENAMETOOLONG), "unreachable", true};
      }
      endpoints.emplace_back(asio::local::stream_protocol::endpoint(unix_));
    }
    const auto executor = co_await asio::this_coro::executor;
    Failure failure;
    for (const Endpoint& endpoint : endpoints) {
      Socket socket(executor);
      asio::steady_timer late(executor, deadline_);
      const auto first =
          co_await (socket.async_connect(endpoint, kToken) || late.async_wait(kToken));
      if (first.index() == 1) co_return out_of_time(std::get<0>(std::get<1>(first)));
      const boost::system::error_code failed = std::get<0>(std::get<0>(first));
      failure = failed ? failed_with(failed) : Failure();
      if (failure.error == kCancelled) co_return failure;
      if (failed) continue;
      socket_.emplace(std::move(socket));
      reader_.reset(redisReaderCreate());
      co_return co_await log_in();
    }
    co_return failure;
  }

  asio::awaitable<Failure> log_in() {
    if (password_.empty() && user_.empty()) co_return Failure();
    if (password_.empty()) {
      co_return Failure{"REDISCLI_AUTH has no password for " + told_by_server(user_), "error",
                        true};
    }
    std::vector<std::string> login{"AUTH"};
    if (!user_.empty()) login.push_back(user_);
    login.push_back(password_);
    Reply reply;
    Failure failure = co_await ask_for(login, reply);
    if (failure && failure.state == "error") {
      // What else it says may repeat the password: one that knows no AUTH does.
      const auto code = failure.error.substr(0, failure.error.find(' '));
      failure = {"login refused: " + code, "error", true};
    }
    co_return failure;
  }

  asio::awaitable<Failure> ask_for(const std::vector<std::string>& words, Reply& reply) {
    std::vector<const char*> texts;
    std::vector<std::size_t> lengths;
    for (const std::string& word : words) {
      texts.push_back(word.data());
      lengths.push_back(word.size());
    }
    char* formatted = nullptr;
    const int size = redisFormatCommandArgv(&formatted, static_cast<int>(words.size()),
                                            texts.data(), lengths.data());
    if (size < 0) co_return Failure{"out of memory", "error", true};
    const std::string request(formatted, static_cast<std::size_t>(size));
    std::free(formatted);

    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer late(executor, deadline_);
    const auto sent = co_await (asio::async_write(*socket_, asio::buffer(request), kToken) ||
                                late.async_wait(kToken));
    if (sent.index() == 1) co_return out_of_time(std::get<0>(std::get<1>(sent)));
    const boost::system::error_code unsent = std::get<0>(std::get<0>(sent));
    if (unsent) co_return failed_with(unsent);

    std::size_t all = 0;
    std::vector<char> buffer(16 * 1024);
    for (;;) {
      void* found = nullptr;
      if (redisReaderGetReply(reader_.get(), &found) != REDIS_OK) {
        co_return Failure{"not what a Redis server says", "error", true};
      }
      if (found != nullptr) {
        reply.reset(static_cast<redisReply*>(found));
        if (reply->type != REDIS_REPLY_ERROR) co_return Failure();
        co_return Failure{told_by_server(text_of(*reply)), "error"};
      }
      const auto heard = co_await (socket_->async_read_some(asio::buffer(buffer), kToken) ||
                                   late.async_wait(kToken));
      if (heard.index() == 1) co_return out_of_time(std::get<0>(std::get<1>(heard)));
      const auto [failed, length] = std::get<0>(heard);
      if (failed) co_return failed_with(failed);
      all += length;
      if (all > kLongestReply) co_return Failure{"an answer of more than 10 MB", "error", true};
      redisReaderFeed(reader_.get(), buffer.data(), length);
    }
  }

  std::string unix_;
  std::vector<std::string> command_;
  std::string user_;
  std::string password_;
  Duration timeout_;
  bool needs_lag_;
  bool needs_text_;
  bool needs_value_;
  MonotonicTime deadline_;
  Resolver resolver_;
  std::optional<Socket> socket_;
  std::unique_ptr<redisReader, FreeReader> reader_;
};

}  // namespace

const CheckKind kRedis{.which = v1::Check::kRedis, .make = [](const v1::Check& check) {
                         return std::unique_ptr<Check>(new Redis(check));
                       }};

}  // namespace squall::checks
