#include "tests/support/postgres.h"

#include <signal.h>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <string>
#include <vector>

#include "asking.h"
#include "tests/support/eventually.h"

namespace squall::checks {
namespace {

using namespace testing;
using support::PostgresServer;

bool is_installed() {
  if (support::has_postgres()) return true;
  MESSAGE("SKIPPED: there is no PostgreSQL here");
  return false;
}

std::string url_of(const PostgresServer& server, const std::string& more = "&user=postgres") {
  return "postgresql:///postgres?host=" + server.folder().native() + more;
}

v1::Check postgres_check(const std::string& url, const std::string& query,
                         const std::vector<std::string>& metrics = {}, Duration timeout = kBound) {
  v1::Check check;
  check.set_timeout(timeout.count());
  for (const std::string& metric : metrics) check.add_expect()->set_metric(metric);
  check.mutable_postgres()->set_url(url);
  check.mutable_postgres()->set_query(query);
  return check;
}

Sample ask_once(const v1::Check& wanted) {
  asio::io_context loop;
  const auto check = make_check(wanted);
  return ask(loop, *check);
}

Sample ask_server(const PostgresServer& server, const std::string& query,
                  const std::vector<std::string>& metrics = {}) {
  return ask_once(postgres_check(url_of(server), query, metrics));
}

TEST_CASE("a postgres check tells the first column of the first row and how many rows there are") {
  if (!is_installed()) return;
  const PostgresServer server;
  const Sample sample = ask_server(server, "select n, 'x' from generate_series(5, 7) n", {"value"});
  CHECK(sample.error == "");
  CHECK(sample.state == "ok");
  CHECK(sample.numbers.at("value") == 5);
  CHECK(sample.numbers.at("count") == 3);
  CHECK(sample.numbers.count("lag") == 0);
  CHECK(sample.output == "5");
  CHECK(sample.no_data == "");
  CHECK(sample.latency > 0ns);
  CHECK(ask_server(server, "").numbers.at("value") == 1);
  CHECK(ask_server(server, "select -1.5e3").numbers.at("value") == -1500);
  CHECK(ask_server(server, "select generate_series(1, 200000)").numbers.at("count") == 200000);

  const auto no_value = [&](const std::string& query) {
    const Sample told = ask_server(server, query, {"value"});
    CHECK(told.error == "");
    CHECK(told.numbers.count("value") == 0);
    return told.no_data;
  };
  CHECK(no_value("select 1 where false") == "no rows");
  CHECK(no_value("select null") == "null");
  CHECK(no_value("select 'NaN'::float") == "\"NaN\" is not a number");
  CHECK(no_value("select '12 apples'") == "\"12 apples\" is not a number");
  CHECK(ask_server(server, "select 1 where false", {"text"}).no_data == "no rows");
  // Where nothing is expected of it, it need not be one.
  CHECK(ask_server(server, "select 1 where false", {"count"}).no_data == "");
  CHECK(ask_server(server, "select 'ready'", {"text"}).no_data == "");
}

TEST_CASE("a check's session is read-only unless the URL says otherwise, and takes one statement") {
  if (!is_installed()) return;
  const PostgresServer server;
  const Sample refused = ask_server(server, "create table t (n int)");
  CHECK(refused.state == "error");
  CHECK(refused.error == "cannot execute CREATE TABLE in a read-only transaction");
  const std::string writes =
      url_of(server, "&user=postgres&options=-c%20default_transaction_read_only%3Doff");
  CHECK(ask_once(postgres_check(writes, "create table t (n int)")).error == "");
  CHECK(ask_server(server, "select count(*) from t").numbers.at("value") == 0);
  const std::string unset = url_of(server, "&user=postgres&options=");
  CHECK(ask_once(postgres_check(unset, "drop table t")).error == "");
  CHECK(ask_server(server, "select 1; select 2").error ==
        "cannot insert multiple commands into a prepared statement");
  CHECK(ask_server(server, "copy pg_class to stdout").error == "what copies is no question");
  CHECK(ask_server(server, "selec 1").error == "syntax error at or near \"selec\"");
}

TEST_CASE("a query that takes too long is given up, by the server too") {
  if (!is_installed()) return;
  const PostgresServer server;
  const std::string slow = "select 'this one', pg_sleep(3600)";
  asio::io_context loop;
  const auto check = make_check(postgres_check(url_of(server), slow, {}, 500ms));
  for (int round = 0; round < 2; ++round) {
    const Sample sample = ask(loop, *check);
    CHECK(sample.error == "timeout after 500ms");
    CHECK(sample.state == "timeout");
    CHECK(sample.latency >= 500ms);
    CHECK(sample.latency < 10s);
  }
  const auto left =
      "select count(*) from pg_stat_activity where query like 'select ''this one%' and state = "
      "'active'";
  CHECK(support::eventually([&] { return server.ask(left).out == "0\n"; }, kBound, 50ms));
}

TEST_CASE("the connection is kept, and made anew once it is lost") {
  if (!is_installed()) return;
  PostgresServer server;
  asio::io_context loop;
  const auto check = make_check(postgres_check(url_of(server), "select pg_backend_pid()"));
  const std::string first = ask(loop, *check).output;
  CHECK(ask(loop, *check).output == first);
  REQUIRE(server.ask("select pg_terminate_backend(" + first + ")").out == "t\n");
  const Sample anew = ask(loop, *check);
  CHECK(anew.error == "");
  CHECK(anew.output != first);

  server.stop();
  for (int round = 0; round < 2; ++round) {
    const Sample gone = ask(loop, *check);
    CHECK(gone.error == "connection refused");
    CHECK(gone.state == "refused");
  }
  server.start();
  CHECK(ask(loop, *check).state == "ok");
}

TEST_CASE("a server that is frozen is told by the timeout, and answers again once it runs on") {
  if (!is_installed()) return;
  const PostgresServer server;
  asio::io_context loop;
  const auto check = make_check(postgres_check(url_of(server), "select 1", {}, 5s));
  CHECK(ask(loop, *check).state == "ok");
  server.signal(SIGSTOP);
  const auto frozen = make_check(postgres_check(url_of(server), "select 1", {}, 300ms));
  for (int round = 0; round < 2; ++round) {
    const Sample sample = ask(loop, *frozen);
    CHECK(sample.error == "timeout after 300ms");
    CHECK(sample.state == "timeout");
  }
  server.signal(SIGCONT);
  CHECK(ask(loop, *check).state == "ok");
  CHECK(support::eventually([&] { return ask(loop, *frozen).state == "ok"; }, kBound, 10ms));
}

TEST_CASE("a wrong password is an error, and no password stands in any") {
  if (!is_installed()) return;
  const PostgresServer server;
  REQUIRE(server.ask("create role locked login password 'right'").status == 0);
  const auto with = [&](const std::string& password) {
    const std::string user = "&user=locked" + (password.empty() ? "" : "&password=" + password);
    return ask_once(postgres_check(url_of(server, user), "select 1"));
  };
  CHECK(with("right").error == "");
  const Sample wrong = with("wr0ng");
  CHECK(wrong.state == "error");
  CHECK(wrong.error == "password authentication failed for user \"locked\"");
  const Sample none = with("");
  CHECK(none.state == "error");
  CHECK(none.error == "fe_sendauth: no password supplied");
  // What libpq cannot read, it would repeat.
  const Sample unread = with("wr0ng%zz");
  CHECK(unread.state == "error");
  CHECK(unread.error == "libpq cannot read the URL");
}

/// Asks until a lag is told that fits; the last sample otherwise.
template <typename Fits>
Sample lag_that(Fits fits, const std::string& url) {
  asio::io_context loop;
  const auto check = make_check(postgres_check(url, "select 1", {"lag"}));
  Sample sample;
  support::eventually(
      [&] {
        sample = ask(loop, *check);
        CHECK(sample.error == "");
        return sample.numbers.count("lag") > 0 && fits(sample.numbers.at("lag"));
      },
      kBound, 20ms);
  return sample;
}

TEST_CASE("the lag of a replica is told by itself and by its primary") {
  if (!is_installed()) return;
  const PostgresServer primary;
  CHECK(ask_server(primary, "select 1", {"lag"}).no_data == "it has no replicas");
  const auto replica = primary.replica();
  const auto is_none = [](double lag) { return lag == 0; };
  const auto is_some = [](double lag) { return lag > 100e6; };  // ns

  // Each table is new: there is something to replay.
  int tables = 0;
  const auto insert = [&] {
    const std::string table = "create table t" + std::to_string(tables++) + " ()";
    CHECK(primary.ask(table).status == 0);
  };
  insert();
  CHECK(lag_that(is_none, url_of(*replica)).numbers.at("lag") == 0);
  // Of what it last had to replay, for a while.
  CHECK(lag_that([](double lag) { return lag >= 0; }, url_of(primary)).numbers.at("lag") < 60e9);

  // To whom it is not shown.
  REQUIRE(primary.ask("create role plain login").status == 0);
  const Sample hidden =
      ask_once(postgres_check(url_of(primary, "&user=plain"), "select 1", {"lag"}));
  CHECK(hidden.error == "");
  CHECK(hidden.no_data ==
        "of a replica nothing is shown: it is starting, or the user is not of pg_monitor");

  // While it does not replay what it receives.
  REQUIRE(replica->ask("select pg_wal_replay_pause()").status == 0);
  insert();
  CHECK(lag_that(is_some, url_of(*replica)).numbers.at("lag") > 100e6);
  CHECK(lag_that(is_some, url_of(primary)).numbers.at("lag") > 100e6);
  REQUIRE(replica->ask("select pg_wal_replay_resume()").status == 0);
  CHECK(lag_that(is_none, url_of(*replica)).numbers.at("lag") == 0);

  // While it is frozen.
  replica->signal(SIGSTOP);
  insert();
  CHECK(lag_that(is_some, url_of(primary)).numbers.at("lag") > 100e6);
  replica->signal(SIGCONT);
  CHECK(lag_that(is_none, url_of(*replica)).numbers.at("lag") == 0);

  // Once it has lost its primary.
  REQUIRE(replica->ask("alter system set primary_conninfo = ''").status == 0);
  REQUIRE(replica->ask("select pg_reload_conf()").status == 0);
  CHECK(lag_that(is_some, url_of(*replica)).numbers.at("lag") > 100e6);
}

TEST_CASE("what is no PostgreSQL server is told as what it is") {
  const auto ask_at = [](const std::string& address, Duration timeout = kBound) {
    return ask_once(
        postgres_check("postgresql://me@" + address + "/shop", "select 1", {}, timeout));
  };
  SUBCASE("nobody") {
    const Sample sample = ask_at(closed_address());
    CHECK(sample.state == "refused");
    CHECK(sample.error == "connection refused");
  }
  SUBCASE("no name") {
    const Sample sample = ask_at(std::string(64, 'n') + ".invalid");
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "cannot resolve name");
  }
  SUBCASE("no socket") {
    const Sample sample = ask_at("%2Fno%2Fsuch%2Ffolder");
    CHECK(sample.state == "refused");
  }
  asio::io_context loop;
  const auto ask_fake = [&](Server::Serve serve, Duration timeout) {
    const Server fake(loop, std::move(serve));
    const std::string port = fake.address().substr(fake.address().find(':'));
    const auto check = make_check(
        postgres_check("postgresql://me@localhost" + port + "/shop", "select 1", {}, timeout));
    return ask(loop, *check);
  };
  SUBCASE("somebody who hangs up") {
    const Sample sample = ask_fake([](tcp::socket) -> asio::awaitable<void> { co_return; }, kBound);
    CHECK(sample.state == "refused");
  }
  SUBCASE("somebody who says something else") {
    const Sample sample = ask_fake(
        [](tcp::socket taken) -> asio::awaitable<void> {
          tcp::socket socket = std::move(taken);
          const std::string answer = "HTTP/1.1 400 Bad Request\r\n\r\n";
          co_await asio::async_write(socket, asio::buffer(answer), kToken);
          char byte = 0;
          while (!std::get<0>(co_await socket.async_read_some(asio::buffer(&byte, 1), kToken))) {
          }
        },
        kBound);
    CHECK(sample.state == "error");
    CHECK(sample.error != "");
  }
  SUBCASE("somebody who says nothing") {
    const Sample sample = ask_fake(
        [](tcp::socket taken) -> asio::awaitable<void> {
          tcp::socket socket = std::move(taken);
          char byte = 0;
          while (!std::get<0>(co_await socket.async_read_some(asio::buffer(&byte, 1), kToken))) {
          }
        },
        200ms);
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 200ms");
  }
}

TEST_CASE("of several servers the first that answers is asked") {
  if (!is_installed()) return;
  const PostgresServer server;
  const std::string closed = closed_address();
  const std::string port = closed.substr(closed.find(':') + 1);
  const std::string url = "postgresql:///postgres?user=postgres&host=localhost," +
                          server.folder().native() + "&port=" + port + ",5432";
  const Sample sample = ask_once(postgres_check(url, "select 7"));
  CHECK(sample.error == "");
  CHECK(sample.output == "7");
}

TEST_CASE("a postgres asking that is cancelled ends at once") {
  if (!is_installed()) return;
  const PostgresServer server;
  asio::io_context loop;
  const auto check = make_check(postgres_check(url_of(server), "select pg_sleep(3600)"));
  asio::cancellation_signal stop;
  std::optional<Sample> answer;
  asio::co_spawn(loop, check->ask(),
                 asio::bind_cancellation_slot(
                     stop.slot(), [&](std::exception_ptr, Sample sample) { answer = sample; }));
  run_until(loop, [&] {
    return server.ask("select count(*) from pg_stat_activity where state = 'active'").out == "2\n";
  });
  CHECK_FALSE(answer.has_value());
  stop.emit(asio::cancellation_type::terminal);
  run_until(loop, [&] { return answer.has_value(); });
  CHECK(answer->error == "cancelled");
}

}  // namespace
}  // namespace squall::checks
