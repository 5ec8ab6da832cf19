#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include <boost/asio/ip/udp.hpp>
#include <boost/asio/read.hpp>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "asking.h"
#include "tests/support/namespace.h"

namespace squall::checks {
namespace {

using namespace testing;
using asio::ip::udp;

v1::Check dns_check(const std::string& name, const std::string& server, Duration timeout = 10s) {
  v1::Check check;
  check.set_timeout(timeout.count());
  check.mutable_dns()->set_name(name);
  check.mutable_dns()->set_server(server);
  return check;
}

/// What an answer is made of.
struct Says {
  int code = 0;                           ///< RCODE.
  int type = 1;                           ///< Of its records.
  std::vector<std::string> records = {};  ///< Their data, in bytes.
  bool truncated = false;                 ///< Over UDP: come again over TCP.
};

std::string two_bytes(std::size_t number) {
  return {static_cast<char>(number >> 8U), static_cast<char>(number & 0xffU)};
}

/// The answer to `query`, in bytes; each record stands under the name that was asked for.
std::string reply_to(const std::string& query, const Says& says, bool may_be_cut) {
  const bool cut = says.truncated && may_be_cut;
  std::string reply = query.substr(0, 2);
  reply += static_cast<char>(0x80 | (cut ? 0x02 : 0));
  reply += static_cast<char>(says.code);
  reply += two_bytes(1) + two_bytes(cut ? 0 : says.records.size()) + two_bytes(0) + two_bytes(0);
  std::size_t end = 12;
  while (query[end] != 0) end += 1U + static_cast<unsigned char>(query[end]);
  reply += query.substr(12, end + 5 - 12);
  if (cut) return reply;
  for (const std::string& data : says.records) {
    reply += "\xc0\x0c" + two_bytes(static_cast<std::size_t>(says.type)) + two_bytes(1);
    reply += two_bytes(0) + two_bytes(60) + two_bytes(data.size()) + data;
  }
  return reply;
}

/// A name as it is sent: db.internal is 2 db 8 internal 0.
std::string labels(const std::string& name) {
  std::string sent;
  for (std::size_t at = 0; at < name.size();) {
    const std::size_t end = std::min(name.find('.', at), name.size());
    sent += static_cast<char>(end - at) + name.substr(at, end - at);
    at = end + 1;
  }
  return sent + '\0';
}

/// A name server on one loopback port, UDP and TCP, that gives every query the same answer. Port 0:
/// any that is free.
class NameServer {
 public:
  NameServer(asio::io_context& loop, Says says, const char* host = "127.0.0.1",
             std::uint16_t port = 0)
      : says_(std::move(says)), udp_(loop), tcp_(loop) {
    // A port that is free for the one may be somebody's for the other.
    constexpr int kTries = 100;
    for (int left = kTries; !bind(asio::ip::make_address_v4(host), port); --left) REQUIRE(left > 0);
    asio::co_spawn(loop, serve_udp(), asio::detached);
    asio::co_spawn(loop, accept(), asio::detached);
  }

  std::string address() const {
    return "127.0.0.1:" + std::to_string(udp_.local_endpoint().port());
  }
  int by_udp() const { return by_udp_; }
  int by_tcp() const { return by_tcp_; }

 private:
  bool bind(const asio::ip::address_v4& host, std::uint16_t port) {
    boost::system::error_code failed;
    udp_ = udp::socket(udp_.get_executor(), udp::endpoint(host, port));
    tcp_ = tcp::acceptor(tcp_.get_executor(), tcp::v4());
    tcp_.bind(tcp::endpoint(host, udp_.local_endpoint().port()), failed);
    if (!failed) tcp_.listen();
    return !failed;
  }

  asio::awaitable<void> serve_udp() {
    for (;;) {
      std::string query(512, '\0');
      udp::endpoint from;
      const auto [failed, length] =
          co_await udp_.async_receive_from(asio::buffer(query), from, kToken);
      if (failed) co_return;
      ++by_udp_;
      query.resize(length);
      const std::string reply = reply_to(query, says_, true);
      co_await udp_.async_send_to(asio::buffer(reply), from, kToken);
    }
  }

  asio::awaitable<void> accept() {
    for (;;) {
      auto [failed, taken] = co_await tcp_.async_accept(kToken);
      if (failed) co_return;
      ++by_tcp_;
      tcp::socket socket = std::move(taken);
      std::string length(2, '\0');
      co_await asio::async_read(socket, asio::buffer(length), kToken);
      std::string query(
          static_cast<unsigned char>(length[0]) * 256U + static_cast<unsigned char>(length[1]),
          '\0');
      co_await asio::async_read(socket, asio::buffer(query), kToken);
      const std::string reply = reply_to(query, says_, false);
      const std::string sent = two_bytes(reply.size()) + reply;
      co_await asio::async_write(socket, asio::buffer(sent), kToken);
    }
  }

  Says says_;
  udp::socket udp_;
  tcp::acceptor tcp_;
  int by_udp_ = 0;
  int by_tcp_ = 0;
};

TEST_CASE("a dns check tells the records there are, sorted, and how many") {
  asio::io_context loop;
  const auto asked = [&](v1::DnsRecord record, Says says) {
    NameServer server(loop, std::move(says));
    v1::Check check = dns_check("db.internal", server.address());
    check.mutable_dns()->set_record(record);
    const Sample sample = ask(loop, *make_check(check));
    CHECK(sample.error == "");
    CHECK(sample.state == "noerror");
    CHECK(sample.latency > 0ns);
    CHECK(server.by_udp() == 1);
    return std::pair(sample.output, sample.numbers.at("count"));
  };
  using Told = std::pair<std::string, double>;
  CHECK(asked(v1::DNS_RECORD_A, {.records = {"\x0a\x09\x09\x0c", "\x0a\x09\x09\x0b"}}) ==
        Told("10.9.9.11, 10.9.9.12", 2));
  CHECK(asked(v1::DNS_RECORD_AAAA,
              {.type = 28,
               .records = {std::string("\x20\x01\x0d\xb8", 4) + std::string(12, '\1')}}) ==
        Told("2001:db8:101:101:101:101:101:101", 1));
  CHECK(asked(v1::DNS_RECORD_CNAME, {.type = 5, .records = {labels("cart.internal")}}) ==
        Told("cart.internal", 1));
  CHECK(asked(v1::DNS_RECORD_MX, {.type = 15,
                                  .records = {two_bytes(20) + labels("late.internal"),
                                              two_bytes(10) + labels("mail.internal")}}) ==
        Told("10 mail.internal, 20 late.internal", 2));
  CHECK(asked(v1::DNS_RECORD_NS, {.type = 2, .records = {labels("ns.internal")}}) ==
        Told("ns.internal", 1));
  CHECK(asked(v1::DNS_RECORD_PTR, {.type = 12, .records = {labels("db-1.internal")}}) ==
        Told("db-1.internal", 1));
  CHECK(asked(v1::DNS_RECORD_SRV, {.type = 33,
                                   .records = {two_bytes(1) + two_bytes(5) + two_bytes(5432) +
                                               labels("db-1.internal")}}) ==
        Told("1 5 5432 db-1.internal", 1));
  CHECK(asked(v1::DNS_RECORD_TXT,
              {.type = 16, .records = {std::string("\x05") + "v=spf" + "\x03" + "1 x"}}) ==
        Told("v=spf1 x", 1));
  // A name there is, without records of this type: what a CNAME leads to is not asked for here.
  CHECK(asked(v1::DNS_RECORD_A, {.type = 5, .records = {labels("cart.internal")}}) == Told("", 0));
}

TEST_CASE("what a name server says is the state, and no error") {
  asio::io_context loop;
  const auto state_of = [&](int code) {
    NameServer server(loop, {.code = code});
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", server.address())));
    CHECK(sample.error == "");
    CHECK(sample.numbers.at("count") == 0);
    return sample.state;
  };
  CHECK(state_of(0) == "noerror");
  CHECK(state_of(2) == "servfail");
  CHECK(state_of(3) == "nxdomain");
  CHECK(state_of(5) == "refused");

  NameServer odd(loop, {.code = 4});
  const Sample sample = ask(loop, *make_check(dns_check("db.internal", odd.address())));
  CHECK(sample.state == "");
  CHECK(sample.error == "the server answered with code 4");
}

TEST_CASE("a dns check asks over TCP where the plan or the answer says so") {
  asio::io_context loop;
  NameServer server(loop, {.records = {"\x0a\x09\x09\x09"}});
  v1::Check check = dns_check("db.internal", server.address());
  check.mutable_dns()->set_tcp(true);
  CHECK(ask(loop, *make_check(check)).output == "10.9.9.9");
  CHECK(server.by_udp() == 0);
  CHECK(server.by_tcp() == 1);

  NameServer cutting(loop, {.records = {"\x0a\x09\x09\x09"}, .truncated = true});
  CHECK(ask(loop, *make_check(dns_check("db.internal", cutting.address()))).output == "10.9.9.9");
  CHECK(cutting.by_udp() == 1);
  CHECK(cutting.by_tcp() == 1);
}

TEST_CASE("a dns check says in words why there is no answer") {
  asio::io_context loop;
  SUBCASE("nobody listens") {
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", closed_address())));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "connection refused");
  }
  SUBCASE("nobody listens, over TCP") {
    v1::Check check = dns_check("db.internal", closed_address());
    check.mutable_dns()->set_tcp(true);
    const Sample sample = ask(loop, *make_check(check));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "connection refused");
  }
  SUBCASE("the server never answers") {
    udp::socket silent(loop, udp::endpoint(asio::ip::address_v4::loopback(), 0));
    const std::string address = "127.0.0.1:" + std::to_string(silent.local_endpoint().port());
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", address, 150ms)));
    CHECK(sample.state == "timeout");
    CHECK(sample.error == "timeout after 150ms");
    CHECK(sample.latency >= 150ms);
  }
  SUBCASE("the server closes the connection") {
    Server closing(loop, [](tcp::socket) -> asio::awaitable<void> { co_return; });
    v1::Check check = dns_check("db.internal", closing.address());
    check.mutable_dns()->set_tcp(true);
    const Sample sample = ask(loop, *make_check(check));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error.starts_with("connection "));
  }
  SUBCASE("the server has no such name") {
    const std::string nowhere = std::string(64, 'n') + ".invalid:53";
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", nowhere)));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "cannot resolve name");
  }
  SUBCASE("the server sends rubbish, which is not taken for an answer") {
    udp::socket rubbish(loop, udp::endpoint(asio::ip::address_v4::loopback(), 0));
    std::string query(512, '\0');
    udp::endpoint from;
    rubbish.async_receive_from(asio::buffer(query), from, [&](auto, std::size_t) {
      rubbish.send_to(asio::buffer(std::string("rubbish")), from);
      rubbish.send_to(asio::buffer(std::string(400, '\xff')), from);
    });
    const std::string address = "127.0.0.1:" + std::to_string(rubbish.local_endpoint().port());
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", address, 150ms)));
    CHECK(sample.error != "");
    CHECK(sample.numbers.empty());
  }
}

TEST_CASE("a reply that lies about its length is read no further than it goes") {
  asio::io_context loop;
  // Each answer is cut in the middle of its record, or points to where there is nothing.
  for (const std::string& data :
       {std::string(), std::string("\x0a"), std::string("\xc0\xff"), std::string("\x3f\x61")}) {
    for (const auto& [record, type] :
         {std::pair(v1::DNS_RECORD_A, 1), std::pair(v1::DNS_RECORD_CNAME, 5),
          std::pair(v1::DNS_RECORD_MX, 15), std::pair(v1::DNS_RECORD_SRV, 33),
          std::pair(v1::DNS_RECORD_TXT, 16)}) {
      NameServer server(loop, {.type = type, .records = {data}});
      v1::Check check = dns_check("db.internal", server.address());
      check.mutable_dns()->set_record(record);
      const Sample sample = ask(loop, *make_check(check));
      CHECK(sample.state == "noerror");
      CHECK(sample.numbers.at("count") <= 1);
    }
  }
}

/// Runs it where /etc/resolv.conf is this text, on a thread of its own, as its mounts are.
void with_resolv_conf(const support::Namespace& where, const std::string& text,
                      const std::function<void()>& then) {
  std::string path = "/tmp/squall-resolv-XXXXXX";
  const int file = mkstemp(path.data());
  REQUIRE(file >= 0);
  REQUIRE(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  close(file);
  std::string failed;
  std::thread([&] {
    const bool ready = unshare(CLONE_NEWNS) == 0 &&
                       mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                       mount(path.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) == 0;
    if (!ready) {
      failed = "no resolv.conf of its own";
      return;
    }
    try {
      where.run(then);
    } catch (const std::exception& thrown) {
      failed = thrown.what();
    }
  }).join();
  std::filesystem::remove(path);
  CHECK(failed == "");
}

TEST_CASE("without a server those of resolv.conf are asked, the next where one refuses") {
  const support::Namespace alone;
  with_resolv_conf(alone, "nameserver 127.0.0.1\nnameserver 127.0.0.2\n", [] {
    asio::io_context loop;
    NameServer second(loop, {.records = {"\x0a\x09\x09\x09"}}, "127.0.0.2", 53);
    const auto check = make_check(dns_check("db.internal", ""));
    CHECK(ask(loop, *check).output == "10.9.9.9");
    CHECK(second.by_udp() == 1);
    NameServer first(loop, {.code = 3}, "127.0.0.1", 53);
    CHECK(ask(loop, *check).state == "nxdomain");
    CHECK(second.by_udp() == 1);
  });
  with_resolv_conf(alone, "nameserver 192.0.2.1\n", [] {
    asio::io_context loop;
    const Sample sample = ask(loop, *make_check(dns_check("db.internal", "")));
    CHECK(sample.state == "unreachable");
    CHECK(sample.error == "network unreachable");
  });
}

TEST_CASE("a dns asking that is cancelled ends at once") {
  asio::io_context loop;
  udp::socket silent(loop, udp::endpoint(asio::ip::address_v4::loopback(), 0));
  const std::string address = "127.0.0.1:" + std::to_string(silent.local_endpoint().port());
  const auto check = make_check(dns_check("db.internal", address, 60s));
  CHECK(ask_and_cancel(loop, *check).error == "cancelled");
}

TEST_CASE("one dns check is asked many times at once") {
  asio::io_context loop;
  NameServer server(loop, {.records = {"\x0a\x09\x09\x09"}});
  const auto check = make_check(dns_check("db.internal", server.address()));
  std::vector<std::shared_ptr<std::optional<Sample>>> answers;
  for (int index = 0; index < 100; ++index) answers.push_back(begin(loop, *check));
  for (const auto& answer : answers) {
    run_until(loop, [&] { return answer->has_value(); });
    CHECK((*answer)->output == "10.9.9.9");
  }
}

}  // namespace
}  // namespace squall::checks
