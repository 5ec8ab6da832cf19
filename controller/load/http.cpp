#include "controller/load/http.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <list>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#include "controller/load/arrivals.h"
#include "controller/load/request.h"
#include "controller/load/skimmer.h"
#include "experiments/base/units.h"
#include "experiments/checks/kind.h"
#include "experiments/checks/resolve.h"

namespace squall::load {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using Failure = boost::system::error_code;
using Plain = tcp::socket;
using Secure = asio::ssl::stream<tcp::socket>;

constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
constexpr Duration kDefaultTimeout = std::chrono::seconds(10);
constexpr std::uint32_t kDefaultConnections = 100;
/// What a name stood for is not asked again for each of a great many connections.
constexpr Duration kResolvedFor = std::chrono::seconds(1);
/// Who has waited for less is told of when he is answered: nearly every request would be among
/// those that are waited for, and be told twice.
constexpr Duration kWaits = std::chrono::milliseconds(100);
/// How often, and how soon, numbers are asked for again that there are none of yet.
constexpr int kTellAgain = 16;
constexpr Duration kTellAgainAfter = std::chrono::milliseconds(50);
/// How long an answer is looked for before it is waited for, while requests are late.
constexpr Duration kLooks = std::chrono::microseconds(50);
/// Beside its connections: what squall itself has open.
constexpr rlim_t kOtherFiles = 256;

std::string words_of(const Failure& failed) {
  if (failed == asio::error::eof || failed == asio::ssl::error::stream_truncated) {
    return "connection closed without an answer";
  }
  if (failed == asio::error::broken_pipe) return "connection reset";
  if (failed.category() == asio::error::get_ssl_category()) {
    // certificate verify failed (SSL routines)
    const std::string words = failed.message();
    return "TLS: " + words.substr(0, words.find(" ("));
  }
  if (failed.category() == boost::system::system_category()) {
    return checks::errno_words(failed.value());
  }
  return failed.message();
}

/// Raises the limit of open files as far as it may and has to be.
Status allow_files(std::size_t connections) {
  const rlim_t needed = connections + kOtherFiles;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return from_errno("the limit of open files", errno);
  if (limit.rlim_cur >= needed) return ok();
  if (limit.rlim_max < needed) {
    return error(StatusCode::kFailedPrecondition,
                 fmt::format("{} connections need {} open files, and {} are allowed (ulimit -n)",
                             connections, needed, limit.rlim_max));
  }
  limit.rlim_cur = needed;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return from_errno("the limit of open files", errno);
  return ok();
}

template <typename Stream>
class Traffic;

/// One connection, or the one that it will be when the first request is due on it.
template <typename Stream>
class Connection final : public std::enable_shared_from_this<Connection<Stream>> {
 public:
  using Place = typename std::list<std::shared_ptr<Connection>>::iterator;

  Connection(Traffic<Stream>& traffic, Stream stream)
      : traffic_(traffic), stream_(std::move(stream)) {}

  /// Sends a request, once there is a connection. `again`: one that was closed on it has had it
  /// before.
  void begin(MonotonicTime due, bool again) {
    due_ = due;
    sent_ = monotonic_now();
    again_ = again;
    busy_ = true;
    heard_ = false;
    parser_.emplace(traffic_.request().bodiless);
    if (is_connected_) return write();
    asio::co_spawn(stream_.get_executor(), connect(this->shared_from_this()), asio::detached);
  }

  /// Nothing comes of it any more.
  void give_up(const std::string& why) { fail(why); }

  void close() {
    is_closed_ = true;
    Failure ignored;
    stream_.lowest_layer().close(ignored);
  }

  MonotonicTime due() const { return due_; }
  MonotonicTime sent() const { return sent_; }

  Place place;  ///< In one of the traffic's lists.

 private:
  // By its own pointer, as the coroutine may outlive the connection's place in the traffic.
  static asio::awaitable<void> connect(std::shared_ptr<Connection> self) {
    // What fails at once would otherwise do so within the sending of the next, and that in it.
    co_await asio::post(asio::use_awaitable);
    const MonotonicTime deadline = self->sent_ + self->traffic_.timeout();
    const checks::Resolved resolved = co_await self->traffic_.addresses(deadline);
    if (self->is_closed_) co_return;
    if (!resolved.error.empty()) co_return self->fail(resolved.error);
    const auto [failed, reached] =
        co_await asio::async_connect(self->stream_.lowest_layer(), resolved.endpoints, kToken);
    if (self->is_closed_) co_return;
    if (failed) co_return self->fail(words_of(failed));
    Failure ignored;
    self->stream_.lowest_layer().set_option(tcp::no_delay(true), ignored);
    if constexpr (std::is_same_v<Stream, Secure>) {
      const auto [refused] =
          co_await self->stream_.async_handshake(asio::ssl::stream_base::client, kToken);
      if (self->is_closed_) co_return;
      if (refused) {
        const bool hung_up =
            refused == asio::error::eof || refused == asio::ssl::error::stream_truncated;
        co_return self->fail(hung_up ? "TLS: the connection was closed" : words_of(refused));
      }
    }
    self->is_connected_ = true;
    self->write();
    self->read();
  }

  void write() {
    is_writing_ = true;
    asio::async_write(stream_, asio::buffer(traffic_.request().bytes),
                      [self = this->shared_from_this()](const Failure& failed, std::size_t) {
                        self->is_writing_ = false;
                        // What is to be said of it is read: an answer may be there all the same.
                        if (failed && !self->is_closed_ && !self->is_reading_) self->lost(failed);
                      });
  }

  /// Also while nothing is asked, so that a connection that the other side closes is not used
  /// again.
  void read() {
    is_reading_ = true;
    stream_.async_read_some(
        asio::buffer(buffer_.data() + filled_, buffer_.size() - filled_),
        [self = this->shared_from_this()](const Failure& failed, std::size_t length) {
          self->is_reading_ = false;
          if (self->is_closed_) return;
          if (failed) return self->lost(failed);
          self->take(length);
        });
  }

  void take(std::size_t length) {
    // Nobody asked; what the next answer is could not be told any more.
    if (!busy_) return traffic_.gone(*this);
    heard_ = true;
    filled_ += length;
    std::size_t used = 0;
    while (used < filled_) {
      Failure failed;
      const std::size_t taken =
          parser_->put(asio::buffer(buffer_.data() + used, filled_ - used), failed);
      used += taken;
      if (failed == http::error::need_more) break;
      if (failed) return fail("not an HTTP answer");
      if (parser_->is_done()) {
        // An interim answer: the one that counts is still to come.
        const bool interim = parser_->status() / 100 == 1 && parser_->status() != 101;
        if (!interim) return answered(parser_->keep_alive() && used == filled_ && !is_writing_);
        parser_.emplace(traffic_.request().bodiless);
      } else if (taken == 0) {
        break;
      }
    }
    std::memmove(buffer_.data(), buffer_.data() + used, filled_ - used);
    filled_ -= used;
    if (filled_ == buffer_.size()) return fail("the head of an answer is larger than 8 KiB");
    read();
  }

  void lost(const Failure& failed) {
    if (!busy_) return traffic_.gone(*this);
    const bool ended = failed == asio::error::eof || failed == asio::ssl::error::stream_truncated;
    if (ended && heard_) {
      // The end of the connection is the end of an answer that did not say its length.
      Failure cut;
      parser_->put_eof(cut);
      if (!cut && parser_->is_done()) return answered(false);
      return fail("answer cut short");
    }
    // It was closed while it was idle, and the news crossed the request.
    if (served_ && !heard_ && !again_ && traffic_.request().repeatable) {
      busy_ = false;
      return traffic_.ask_again(*this);
    }
    fail(words_of(failed));
  }

  void answered(bool stays) {
    busy_ = false;
    served_ = true;
    filled_ = 0;
    if (stays) read();
    traffic_.answered(*this, parser_->status(), stays);
  }

  void fail(const std::string& why) {
    busy_ = false;
    traffic_.failed(*this, why);
  }

  Traffic<Stream>& traffic_;
  Stream stream_;
  std::optional<Skimmer> parser_;
  std::array<char, 8192> buffer_;
  std::size_t filled_ = 0;
  MonotonicTime due_;
  MonotonicTime sent_;
  bool is_connected_ = false;
  bool is_closed_ = false;
  bool is_reading_ = false;
  bool is_writing_ = false;
  bool busy_ = false;
  bool heard_ = false;   ///< Anything of the answer.
  bool served_ = false;  ///< An answer before this one.
  bool again_ = false;
};

/// Everything but start(), numbers(), failed() and end() is of its own thread.
template <typename Stream>
class Traffic final : public HttpTraffic {
 public:
  using One = Connection<Stream>;

  Traffic(std::string name, const v1::HttpLoad& load)
      : name_(std::move(name)),
        load_(load),
        arrivals_(load),
        most_(load.connections() != 0 ? load.connections() : kDefaultConnections),
        timeout_(load.has_timeout() ? Duration(load.timeout()) : kDefaultTimeout) {}

  ~Traffic() override { stop(); }

  Status start(const asio::any_io_executor& loop) override {
    died_ = std::make_shared<Died>(loop);
    auto request = make_request(load_);
    if (!request.ok()) return request.status();
    request_ = *std::move(request);
    if (Status allowed = allow_files(most_); !allowed.ok()) return allowed;
    if constexpr (std::is_same_v<Stream, Secure>) {
      if (Status ready = prepare_tls(); !ready.ok()) return ready;
    }
    resolver_.emplace(request_.host, request_.port);
    begun_ = told_at_ = since_ = next_due_ = monotonic_now();
    asio::post(loop_, [this] { pump(); });
    // Signals are for the program's own threads.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    Status started = ok();
    try {
      thread_ = std::thread([this] { work(); });
    } catch (const std::system_error&) {
      started = error(StatusCode::kResourceExhausted, "out of threads");
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return started;
  }

  std::unique_ptr<checks::Check> numbers() override { return std::make_unique<Numbers>(*this); }

  asio::awaitable<std::string> failed() override {
    const std::shared_ptr<Died> died = died_;
    co_await died->never.async_wait(kToken);
    co_return died->why;
  }

  asio::awaitable<v1::LoadEnded> end(bool) override {
    stop();
    co_return whole();
  }

  const checks::Histogram& service_times() const override { return service_; }

  const Request& request() const { return request_; }
  Duration timeout() const { return timeout_; }

  asio::awaitable<checks::Resolved> addresses(MonotonicTime deadline) {
    if (!resolved_.endpoints.empty() && monotonic_now() < resolved_at_ + kResolvedFor) {
      co_return resolved_;
    }
    checks::Resolved found = co_await resolver_->resolve(deadline, timeout_);
    if (found.error.empty()) {
      resolved_ = found;
      resolved_at_ = monotonic_now();
    }
    co_return found;
  }

  void answered(One& connection, int status, bool stays) {
    const MonotonicTime now = monotonic_now();
    const bool failed = status >= 500;
    const Duration latency = now - connection.due();
    latency_.add(latency);
    service_.add(now - connection.sent());
    failed_ += failed ? 1 : 0;
    if (connection.due() >= since_) {
      tally_.answered.add(latency);
      tally_.failed += failed ? 1 : 0;
    }
    if (stays) {
      idle_.splice(idle_.end(), busy_, connection.place);
    } else {
      remove(connection, busy_);
    }
    pump();
  }

  void failed(One& connection, const std::string& why) {
    ++failed_;
    if (connection.due() >= since_) {
      ++tally_.unanswered;
      ++tally_.failed;
      tally_.error = why;
    }
    last_error_ = why;
    remove(connection, busy_);
    pump();
  }

  /// One that was idle.
  void gone(One& connection) {
    remove(connection, idle_);
    pump();
  }

  void ask_again(One& connection) {
    const MonotonicTime due = connection.due();
    remove(connection, busy_);
    send(open(), due, true);
  }

 private:
  using Connections = std::list<std::shared_ptr<One>>;

  /// Of the loop that start() was given.
  struct Died {
    explicit Died(const asio::any_io_executor& loop) : never(loop, MonotonicTime::max()) {}
    asio::steady_timer never;
    std::string why;
  };

  /// What a watch asks for the load's numbers.
  class Numbers final : public checks::Check {
   public:
    explicit Numbers(Traffic& traffic) : traffic_(traffic) {}

    /// Where nothing has been answered since it was asked last, as just after forget(), waits a
    /// while for the first answer: that there is none yet says nothing.
    asio::awaitable<checks::Sample> ask() override {
      asio::steady_timer soon(co_await asio::this_coro::executor);
      for (int again = kTellAgain;; --again) {
        // On the traffic's own thread, so that nothing is shared and nothing locked.
        checks::Sample sample =
            co_await asio::co_spawn(traffic_.loop_, traffic_.tell(), asio::use_awaitable);
        const bool silent = sample.error.empty() && sample.tally->answered.count() == 0;
        if (!silent || again == 0) co_return sample;
        soon.expires_after(kTellAgainAfter);
        const auto [cancelled] = co_await soon.async_wait(kToken);
        if (cancelled) co_return sample;
      }
    }

    void forget(MonotonicTime before) override {
      asio::post(traffic_.loop_, [&traffic = traffic_, before] { traffic.count_from(before); });
    }

   private:
    Traffic& traffic_;
  };

  void work() {
    const auto until_stopped = asio::make_work_guard(loop_);
    for (;;) {
      try {
        while (!loop_.stopped()) {
          if (!keeps_looking()) loop_.run_one();
          if (loop_.poll() > 0) last_heard_ = monotonic_now();
        }
        return;
      } catch (const std::exception& failed) {
        // It goes on, so that whoever asks it is still answered.
        asio::post(died_->never.get_executor(), [died = died_, why = std::string(failed.what())] {
          died->why = why;
          died->never.cancel();
        });
      }
    }
  }

  /// While requests wait for a connection, an answer is moments away: to sleep and be woken for
  /// each takes longer than to look again, from the server's core above all.
  bool keeps_looking() const {
    if (busy_.size() < most_) return false;
    const MonotonicTime now = monotonic_now();
    return next_due_ <= now && now < last_heard_ + kLooks;
  }

  void stop() {
    loop_.stop();
    if (thread_.joinable()) thread_.join();
    if (ended_ == MonotonicTime()) ended_ = monotonic_now();
  }

  Status prepare_tls() {
    const v1::Tls& tls = load_.tls();
    std::string what = "the system's authorities";
    try {
      context_.emplace(asio::ssl::context::tls_client);
      if (tls.ca().empty()) {
        context_->set_default_verify_paths();
      } else {
        what = tls.ca();
        context_->load_verify_file(tls.ca());
      }
      if (!tls.cert().empty()) {
        what = tls.cert();
        context_->use_certificate_chain_file(tls.cert());
        what = tls.key();
        context_->use_private_key_file(tls.key(), asio::ssl::context::pem);
      }
    } catch (const boost::system::system_error& refused) {
      return error(StatusCode::kInvalidArgument,
                   fmt::format("{}: {}", what, refused.code().message()));
    }
    server_name_ = tls.server_name().empty() ? request_.host : tls.server_name();
    Failure is_name;
    asio::ip::make_address(server_name_, is_name);
    is_named_ = static_cast<bool>(is_name);
    return ok();
  }

  Stream make_stream() {
    if constexpr (std::is_same_v<Stream, Secure>) {
      Secure stream(loop_, *context_);
      // A server is asked for a name's certificate by that name, and never by an address (RFC 6066,
      // section 3).
      if (is_named_) {
        // SSL_set_tlsext_host_name(), which is a macro with a cast of C's.
        SSL_ctrl(stream.native_handle(), SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name,
                 server_name_.data());
      }
      Failure ignored;
      if (load_.tls().insecure()) {
        stream.set_verify_mode(asio::ssl::verify_none, ignored);
      } else {
        stream.set_verify_mode(asio::ssl::verify_peer, ignored);
        stream.set_verify_callback(asio::ssl::host_name_verification(server_name_), ignored);
      }
      return stream;
    } else {
      return Plain(loop_);
    }
  }

  /// Sends what is due, as far as there are connections for it: the others are sent when one is
  /// free, late.
  void pump() {
    while (next_due_ <= monotonic_now()) {
      auto place = idle_.begin();
      if (place != idle_.end()) {
        // The one that has been idle for longest, so that all users take their turns.
        busy_.splice(busy_.end(), idle_, place);
      } else if (busy_.size() < most_) {
        place = open();
      } else {
        return;
      }
      ++sent_;
      send(place, std::exchange(next_due_, begun_ + arrivals_.due(++next_)), false);
    }
    if (is_armed_) return;
    // What is due later only ever moves on: a timer that fires too soon is set again, and none has
    // to be moved for each request.
    is_armed_ = true;
    pace_.expires_at(next_due_);
    pace_.async_wait([this](const Failure& cancelled) {
      if (cancelled) return;
      is_armed_ = false;
      pump();
    });
  }

  typename Connections::iterator open() {
    busy_.push_back(std::make_shared<One>(*this, make_stream()));
    return std::prev(busy_.end());
  }

  /// One of the busy ones, the last of them: they stand in the order in which they give up.
  void send(typename Connections::iterator place, MonotonicTime due, bool again) {
    (*place)->place = place;
    (*place)->begin(due, again);
    if (!is_watching_) watch_late();
  }

  void watch_late() {
    is_watching_ = !busy_.empty();
    if (!is_watching_) return;
    late_.expires_at(busy_.front()->sent() + timeout_);
    late_.async_wait([this](const Failure& cancelled) {
      if (cancelled) return;
      const MonotonicTime now = monotonic_now();
      // Each that is given up makes room for one that is sent only now.
      while (!busy_.empty() && busy_.front()->sent() + timeout_ <= now) {
        busy_.front()->give_up(checks::timeout_words(timeout_));
      }
      watch_late();
    });
  }

  void remove(One& connection, Connections& from) {
    connection.close();
    from.erase(connection.place);
  }

  /// From here on; what was due before is told in the whole only.
  void count_from(MonotonicTime time) {
    since_ = told_at_ = time;
    tally_ = {};
  }

  asio::awaitable<checks::Sample> tell() {
    checks::Sample sample;
    const MonotonicTime now = monotonic_now();
    auto tally = std::make_shared<checks::Tally>(std::exchange(tally_, {}));
    tally->from = std::exchange(told_at_, now);
    tally->until = now;
    add_waiting(*tally, now);
    sample.asked = tally->from;
    sample.latency = tally->answered.percentile(50);
    if (tally->answered.count() == 0) sample.error = tally->error;
    if (tally->answered.count() == 0 && sample.error.empty() && tally->waiting.count() > 0) {
      sample.error = "no answer for " + format_measured(tally->waiting.percentile(100));
    }
    sample.tally = std::move(tally);
    co_return sample;
  }

  /// A server that answers nothing tells of nothing either; how long it has not is known all the
  /// same.
  void add_waiting(checks::Tally& tally, MonotonicTime now) const {
    const MonotonicTime until = now - kWaits;
    for (const auto& connection : busy_) {
      const MonotonicTime due = connection->due();
      if (due >= since_ && due <= until) tally.waiting.add(now - due);
    }
    // Those that are not even sent lie evenly, a thousand steps tell them all.
    constexpr std::uint64_t kSteps = 1000;
    const std::uint64_t last = arrivals_.by(until - begun_);
    std::uint64_t first = std::max(next_, arrivals_.by(since_ - Duration(1) - begun_));
    while (first < last) {
      const std::uint64_t count = std::min(last - first, 1 + (last - next_) / kSteps);
      tally.waiting.add(now - begun_ - arrivals_.due(first + count / 2), count);
      first += count;
    }
  }

  v1::LoadEnded whole() const {
    v1::LoadEnded ended;
    const double seconds = std::max(static_cast<double>((ended_ - begun_).count()) / 1e9, 1e-9);
    const auto ms = [this](double percent) { return to_ms(latency_.percentile(percent)); };
    ended.set_load(name_);
    ended.set_sent(sent_);
    ended.set_answered(latency_.count());
    ended.set_failed(failed_);
    ended.set_wanted_per_second(arrivals_.mean_rate(ended_ - begun_));
    ended.set_rate(static_cast<double>(latency_.count()) / seconds);
    ended.set_p50_ms(ms(50));
    ended.set_p90_ms(ms(90));
    ended.set_p99_ms(ms(99));
    ended.set_p999_ms(ms(99.9));
    ended.set_max_ms(ms(100));
    ended.set_words(fmt::format("{} request{}, {:.1f}/s, p99 {}, {} failed{}", sent_,
                                sent_ == 1 ? "" : "s", ended.rate(),
                                format_measured(latency_.percentile(99)), failed_,
                                last_error_.empty() ? "" : " (" + last_error_ + ")"));
    return ended;
  }

  std::string name_;
  v1::HttpLoad load_;
  Arrivals arrivals_;
  std::size_t most_;
  Duration timeout_;
  Request request_;

  std::optional<asio::ssl::context> context_;
  std::string server_name_;
  bool is_named_ = false;

  asio::io_context loop_{1};
  asio::steady_timer pace_{loop_};
  asio::steady_timer late_{loop_};
  bool is_armed_ = false;
  bool is_watching_ = false;
  std::optional<checks::Resolver> resolver_;
  checks::Resolved resolved_;
  MonotonicTime resolved_at_;

  Connections idle_;
  Connections busy_;  ///< In the order of sending.
  MonotonicTime last_heard_;
  MonotonicTime begun_;
  MonotonicTime ended_;
  std::uint64_t next_ = 0;  ///< The number of the request that is sent next.
  MonotonicTime next_due_;
  std::uint64_t sent_ = 0;

  checks::Tally tally_;  ///< Since it was told last.
  MonotonicTime told_at_;
  MonotonicTime since_;
  checks::Histogram latency_;  ///< Of the whole.
  checks::Histogram service_;
  std::uint64_t failed_ = 0;
  std::string last_error_;

  std::shared_ptr<Died> died_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<HttpTraffic> make_http_load(const std::string& name, const v1::HttpLoad& load) {
  if (load.url().starts_with("https:")) return std::make_unique<Traffic<Secure>>(name, load);
  return std::make_unique<Traffic<Plain>>(name, load);
}

}  // namespace squall::load
