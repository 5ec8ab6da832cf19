/// \file
/// postgres: asks a PostgreSQL server a query, and where an expectation is of it, how far its
/// replicas, or itself as one of them, lag behind.
///
/// The connection is kept for the next ask, and made anew once it is lost. Each session is
/// read-only and gives up a query that takes longer than the check waits, unless the URL's
/// `options` say otherwise. libpq looks up names while everything waits, so it is given addresses.
#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "experiments/checks/kind.h"
#include "experiments/checks/pq.h"
#include "experiments/checks/resolve.h"

namespace squall::checks {
namespace {

namespace asio = boost::asio;
using namespace asio::experimental::awaitable_operators;
using Descriptor = asio::posix::stream_descriptor;

/// Seconds, or null and why.
///
/// A replica that has replayed all that it has received may be far behind if nobody sends, so it
/// must have a receiver. A primary's replay_lag stands still once a replica does: one that has not
/// replayed everything is as late as its last word. Source: PostgreSQL's documentation, "The
/// Statistics Collector", pg_stat_replication; "Recovery Information Functions".
constexpr const char* kLag = R"(
with replicas as (
  select replay_lsn is null as hidden, extract(epoch from greatest(
      coalesce(replay_lag, interval '0'),
      case when replay_lsn < pg_current_wal_lsn() then clock_timestamp() - reply_time end)) as lag
    from pg_stat_replication
   where not pg_is_in_recovery() and state is distinct from 'backup')
select case
    when not pg_is_in_recovery()
      then (select case when not bool_or(hidden) then max(lag) end from replicas)
    when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()
         and exists (select from pg_stat_wal_receiver) then 0
    else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp()) end,
  case
    when pg_is_in_recovery() then 'it has replayed nothing yet'
    when not exists (select from replicas) then 'it has no replicas'
    else 'of a replica nothing is shown: it is starting, or the user is not of pg_monitor' end)";

struct Disconnect {
  void operator()(PGconn* connection) const { pq().finish(connection); }
};
struct Clear {
  void operator()(PGresult* result) const { pq().clear(result); }
};
struct FreeOptions {
  void operator()(PQconninfoOption* options) const { pq().conninfo_free(options); }
};

/// A query's answer.
struct Rows {
  std::size_t count = 0;
  /// Of the first row, at most two columns; null has none.
  std::array<std::optional<std::string>, 2> first;
};

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts{""};
  for (const char c : list) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// libpq has words alone for why a connection was not made: of several servers, the last one's.
Failure not_connected(const std::string& words) {
  if (const auto fatal = words.rfind("FATAL:  "); fatal != words.npos) {
    return {told_by_server(words.substr(fatal + 8)), "error", true};
  }
  const auto says = [&](int problem) {
    return words.find(std::generic_category().message(problem)) != words.npos;
  };
  // No socket: nobody has made one.
  if (says(ECONNREFUSED) || says(ENOENT)) return {errno_words(ECONNREFUSED), "refused", true};
  if (says(ECONNRESET)) return {errno_words(ECONNRESET), "refused", true};
  for (const int problem : {EHOSTUNREACH, ENETUNREACH}) {
    if (says(problem)) return {errno_words(problem), "unreachable", true};
  }
  if (says(ETIMEDOUT)) return {errno_words(ETIMEDOUT), "timeout", true};
  if (words.find("server closed the connection") != words.npos) {
    return {"connection closed", "refused", true};
  }
  const auto failed = words.rfind("failed: ");
  return {told_by_server(failed == words.npos ? words : words.substr(failed + 8)), "error", true};
}

class Postgres final : public Check {
 public:
  explicit Postgres(const v1::Check& check)
      : url_(check.postgres().url()),
        query_(check.postgres().query().empty() ? "select 1" : check.postgres().query()),
        timeout_(timeout_of(check)),
        needs_lag_(expects(check, "lag")),
        needs_text_(expects(check, "text")),
        needs_value_(expects(check, "value")) {}

  asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    deadline_ = sample.asked + timeout_;
    const bool was_kept = connection_ != nullptr;
    Failure failure = co_await converse(sample);
    // What was lost since the last ask says nothing of the server as it is now.
    if (failure.is_lost && failure.state != "timeout" && was_kept) {
      connection_.reset();
      failure = co_await converse(sample);
    }
    if (failure.is_lost) connection_.reset();
    sample.error = failure.error;
    sample.state = failure ? failure.state : "ok";
    sample.latency = monotonic_now() - sample.asked;
    co_return sample;
  }

 private:
  using Options = std::map<std::string, std::string>;

  asio::awaitable<Failure> converse(Sample& sample) {
    Failure failure;
    if (!connection_) failure = co_await connect();
    if (failure) co_return failure;
    Rows rows;
    failure = co_await query(query_, rows);
    if (failure) co_return failure;
    sample.numbers["count"] = static_cast<double>(rows.count);
    tell_value(rows, sample);
    if (!needs_lag_) co_return failure;
    Rows lag;
    failure = co_await query(kLag, lag);
    if (failure) co_return failure;
    const auto seconds = number_from(lag.first[0].value_or(""));
    if (seconds) {
      sample.numbers["lag"] = std::max(*seconds, 0.0) * 1e9;
    } else {
      sample.no_data += (sample.no_data.empty() ? "" : "; ") + lag.first[1].value_or("");
    }
    co_return failure;
  }

  void tell_value(const Rows& rows, Sample& sample) const {
    const std::optional<std::string>& value = rows.first[0];
    if (!value) {
      if (needs_value_ || needs_text_) sample.no_data = rows.count == 0 ? "no rows" : "null";
      return;
    }
    sample.output = value->substr(0, kKeptText);
    if (const auto number = number_from(*value)) {
      sample.numbers["value"] = *number;
    } else if (needs_value_) {
      sample.no_data = "\"" + told_by_server(*value) + "\" is not a number";
    }
  }

  /// Waits for the connection's socket, which libpq may change in between.
  asio::awaitable<Failure> wait(Descriptor::wait_type what) {
    const auto executor = co_await asio::this_coro::executor;
    const int copy = ::fcntl(pq().socket(connection_.get()), F_DUPFD_CLOEXEC, 3);
    if (copy < 0) co_return Failure{"out of descriptors", "error", true};
    constexpr auto kToken = asio::as_tuple(asio::use_awaitable);
    Descriptor socket(executor, copy);
    asio::steady_timer late(executor, deadline_);
    const auto first = co_await (socket.async_wait(what, kToken) || late.async_wait(kToken));
    if (first.index() == 0 && !std::get<0>(std::get<0>(first))) co_return Failure();
    const bool timed_out = first.index() == 1 && !std::get<0>(std::get<1>(first));
    co_return Failure{timed_out ? timeout_words(timeout_) : kCancelled, "timeout", true};
  }

  asio::awaitable<Failure> connect() {
    if (!pq().error.empty()) co_return Failure{pq().error, "error", true};
    Options options;
    // libpq's own words would repeat what it cannot read, a password perhaps.
    if (!read_url(options)) co_return Failure{"libpq cannot read the URL", "error", true};
    const Failure unknown = co_await resolve(options);
    if (unknown) co_return unknown;

    std::vector<const char*> names;
    std::vector<const char*> values;
    for (const auto& [name, value] : options) {
      names.push_back(name.c_str());
      values.push_back(value.c_str());
    }
    names.push_back(nullptr);
    values.push_back(nullptr);
    connection_.reset(pq().connect_start_params(names.data(), values.data(), 0));
    if (!connection_) co_return Failure{"out of memory", "error", true};
    // The default writes to our standard error.
    pq().set_notice_receiver(
        connection_.get(), [](void*, const PGresult*) {}, nullptr);
    if (pq().status(connection_.get()) == CONNECTION_BAD) {
      co_return not_connected(pq().error_message(connection_.get()));
    }
    PostgresPollingStatusType next = PGRES_POLLING_WRITING;
    while (next != PGRES_POLLING_OK) {
      const bool writes = next == PGRES_POLLING_WRITING;
      const Failure failure =
          co_await wait(writes ? Descriptor::wait_write : Descriptor::wait_read);
      if (failure) co_return failure;
      next = pq().connect_poll(connection_.get());
      if (next == PGRES_POLLING_FAILED) {
        co_return not_connected(pq().error_message(connection_.get()));
      }
    }
    pq().setnonblocking(connection_.get(), 1);
    co_return Failure();
  }

  bool read_url(Options& options) const {
    char* words = nullptr;
    const std::unique_ptr<PQconninfoOption, FreeOptions> parsed(
        pq().conninfo_parse(url_.c_str(), &words));
    if (words != nullptr) pq().freemem(words);
    if (!parsed) return false;
    for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
      if (option->val != nullptr) options[option->keyword] = option->val;
    }
    options.try_emplace("fallback_application_name", "squall");
    options.try_emplace("client_encoding", "UTF8");
    options.try_emplace("gssencmode", "disable");  // it asks name servers while everything waits
    // A pooler may refuse a session that sets anything.
    if (const auto given = options.find("options");
        given != options.end() && given->second.empty()) {
      return true;
    }
    std::string& session = options.try_emplace("options", environment("PGOPTIONS")).first->second;
    const auto add = [&](std::string_view name, const std::string& value) {
      if (session.find(name) == session.npos) session += fmt::format(" -c {}={}", name, value);
    };
    add("default_transaction_read_only", "on");
    const auto limit = std::chrono::ceil<std::chrono::milliseconds>(timeout_);
    add("statement_timeout", std::to_string(limit.count()));
    return true;
  }

  /// Puts addresses beside the names of the servers; where a name has several, it stands as often.
  asio::awaitable<Failure> resolve(Options& options) {
    std::string& listed = options.try_emplace("host", environment("PGHOST")).first->second;
    const bool has_addresses = options.contains("hostaddr") || !environment("PGHOSTADDR").empty();
    if (listed.empty() || has_addresses) {
      if (listed.empty()) options.erase("host");
      co_return Failure();
    }
    const std::vector<std::string> hosts = split(listed);
    const std::vector<std::string> ports = split(options["port"]);
    if (ports.size() != 1 && ports.size() != hosts.size()) {
      co_return Failure{"the URL has more ports than servers", "error", true};
    }
    std::vector<std::array<std::string, 3>> servers;
    std::string error;
    for (std::size_t n = 0; n < hosts.size(); ++n) {
      const std::string& host = hosts[n];
      const std::string& port = ports[ports.size() == 1 ? 0 : n];
      if (host.empty() || host.front() == '/' || host.front() == '@') {
        servers.push_back({host, "", port});
        continue;
      }
      Resolver& resolver = resolvers_.try_emplace(host, host, "5432").first->second;
      const Resolved resolved = co_await resolver.resolve(deadline_, timeout_);
      if (!resolved.error.empty()) error = resolved.error;
      for (const auto& endpoint : resolved.endpoints) {
        servers.push_back({host, endpoint.address().to_string(), port});
      }
    }
    if (servers.empty()) {
      co_return Failure{error, monotonic_now() >= deadline_ ? "timeout" : "unreachable", true};
    }
    constexpr std::array<const char*, 3> kNames = {"host", "hostaddr", "port"};
    for (std::size_t which = 0; which < kNames.size(); ++which) {
      std::string list;
      for (const auto& server : servers) {
        list += (&server == &servers.front() ? "" : ",") + server[which];
      }
      options[kNames[which]] = list;
    }
    co_return Failure();
  }

  /// Row by row, so that an answer of any length takes no memory.
  asio::awaitable<Failure> query(const std::string& sql, Rows& rows) {
    PGconn* const connection = connection_.get();
    if (pq().send_query_params(connection, sql.c_str(), 0, nullptr, nullptr, nullptr, nullptr, 0) ==
        0) {
      co_return lost();
    }
    pq().set_single_row_mode(connection);
    for (int left = pq().flush(connection); left != 0; left = pq().flush(connection)) {
      if (left < 0) co_return lost();
      const Failure late = co_await wait(Descriptor::wait_write);
      if (late) co_return late;
    }
    Failure failure;
    for (;;) {
      while (pq().is_busy(connection) != 0) {
        const Failure late = co_await wait(Descriptor::wait_read);
        if (late) co_return late;
        if (pq().consume_input(connection) == 0) co_return lost();
      }
      const std::unique_ptr<PGresult, Clear> result(pq().get_result(connection));
      if (!result) break;
      if (Failure found = take(*result, rows)) failure = std::move(found);
      if (failure.is_lost) break;
    }
    co_return failure;
  }

  Failure lost() const {
    Failure failure = not_connected(pq().error_message(connection_.get()));
    failure.is_lost = true;
    return failure;
  }

  Failure take(const PGresult& result, Rows& rows) const {
    switch (pq().result_status(&result)) {
      case PGRES_SINGLE_TUPLE:
        if (rows.count++ > 0) return {};
        for (int column = 0; column < std::min(pq().nfields(&result), 2); ++column) {
          if (pq().getisnull(&result, 0, column) != 0) continue;
          const auto length = static_cast<std::size_t>(pq().getlength(&result, 0, column));
          rows.first.at(static_cast<std::size_t>(column)) =
              std::string(pq().getvalue(&result, 0, column), length);
        }
        return {};
      case PGRES_TUPLES_OK:
      case PGRES_COMMAND_OK:
        return {};
      case PGRES_EMPTY_QUERY:
        return {"the query is empty", "error"};
      case PGRES_COPY_IN:
      case PGRES_COPY_OUT:
      case PGRES_COPY_BOTH:
        return {"what copies is no question", "error", true};
      default:
        break;
    }
    const char* const primary = pq().result_error_field(&result, PG_DIAG_MESSAGE_PRIMARY);
    const char* const code = pq().result_error_field(&result, PG_DIAG_SQLSTATE);
    const bool is_lost = pq().status(connection_.get()) == CONNECTION_BAD;
    if (primary == nullptr) return lost();
    constexpr std::string_view kCanceled = "57014";
    // By the server's own clock a moment before ours.
    if (code != nullptr && code == kCanceled && monotonic_now() >= deadline_) {
      return {timeout_words(timeout_), "timeout", is_lost};
    }
    return {told_by_server(primary), "error", is_lost};
  }

  std::string url_;
  std::string query_;
  Duration timeout_;
  bool needs_lag_;
  bool needs_text_;
  bool needs_value_;
  MonotonicTime deadline_;
  std::map<std::string, Resolver> resolvers_;
  std::unique_ptr<PGconn, Disconnect> connection_;
};

}  // namespace

const CheckKind kPostgres{.which = v1::Check::kPostgres, .make = [](const v1::Check& check) {
                            return std::unique_ptr<Check>(new Postgres(check));
                          }};

}  // namespace squall::checks
