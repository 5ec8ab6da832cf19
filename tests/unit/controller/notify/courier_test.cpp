#include "controller/notify/courier.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "../report/told_runs.h"
#include "receiving.h"
#include "tests/support/eventually.h"

namespace squall::notify {
namespace {

using namespace std::chrono_literals;
using report::testing::breached_run;
using testing::Manner;
using testing::Receiving;

/// Nothing here takes that long.
constexpr Duration kBound = 20s;
/// To hand a run over: not even a slow machine needs this for some hundred events.
constexpr Duration kAtOnce = 2s;

std::vector<std::unique_ptr<Receiver>> webhook_at(const std::string& url,
                                                  const std::string& secret = "") {
  auto receiver = make_webhook(url, secret);
  REQUIRE(receiver.ok());
  std::vector<std::unique_ptr<Receiver>> receivers;
  receivers.push_back(*std::move(receiver));
  return receivers;
}

Duration tell(Courier& courier, const std::vector<v1::Event>& events) {
  const MonotonicTime begun = monotonic_now();
  for (const v1::Event& event : events) courier.on(event);
  return monotonic_now() - begun;
}

std::vector<std::string> words_told(const Receiving& server) {
  std::vector<std::string> words;
  for (const auto& asked : server.asked()) {
    words.push_back(nlohmann::json::parse(asked.body)["event"]);
  }
  return words;
}

}  // namespace

TEST_CASE("a receiver is told of the run's beginning, breach, abort and end, in their order") {
  Receiving server;
  Courier courier(webhook_at(server.url()));
  tell(courier, breached_run());
  CHECK(courier.finish(kBound).empty());
  CHECK(words_told(server) ==
        std::vector<std::string>{"run_started", "breach", "abort", "run_ended"});
}

TEST_CASE("what fails in passing is tried again under the same id, and nothing is told twice") {
  Receiving server([](std::size_t n) {
    return Manner{n == 0 ? Manner::kReset : Manner::kAnswer, n == 1 ? 503U : n == 2 ? 429U : 204U};
  });
  Courier courier(webhook_at(server.url()), {.first_pause = 5ms});
  tell(courier, breached_run());
  CHECK(courier.finish(kBound).empty());
  const auto asked = server.asked();
  REQUIRE(asked.size() == 7);
  for (std::size_t n = 1; n < 4; ++n) CHECK(asked[n].body == asked[0].body);
  CHECK(asked[0].header("Idempotency-Key") == "20261122-071549-k3x9-1");
  CHECK(asked[3].header("Idempotency-Key") == "20261122-071549-k3x9-1");
  CHECK(asked[4].header("Idempotency-Key") == "20261122-071549-k3x9-2");
}

TEST_CASE("what is refused for good is not tried again, and told at the end") {
  Receiving server([](std::size_t n) { return Manner{.status = n == 0 ? 404U : 200U}; });
  Courier courier(webhook_at(server.url() + "/services/T0/SECRET?token=SECRET"));
  tell(courier, breached_run());
  const auto undelivered = courier.finish(kBound);
  CHECK(server.asked().size() == 4);
  REQUIRE(undelivered.size() == 1);
  CHECK(undelivered[0] ==
        "webhook " + server.url() + ": 1 of 4 messages was not delivered: answered 404");
}

TEST_CASE("no receiver delays a run, whatever it does, and at the end none longer than it may") {
  Manner manner;
  std::string why;
  SUBCASE("it hangs") {
    manner.what = Manner::kHang;
    why = "no answer yet";
  }
  SUBCASE("it resets") {
    manner.what = Manner::kReset;
    why = "connection";
  }
  SUBCASE("it is slow") {
    manner.after = 3s;
    why = "no answer yet";
  }
  SUBCASE("it fails") {
    manner.status = 500;
    why = "answered 500";
  }
  Receiving server([&](std::size_t) { return manner; });
  Courier courier(webhook_at(server.url()));
  CHECK(tell(courier, breached_run()) < kAtOnce);
  REQUIRE(support::eventually([&] { return !server.asked().empty(); }, kBound));
  const MonotonicTime begun = monotonic_now();
  const auto undelivered = courier.finish(300ms);
  CHECK(monotonic_now() - begun < kAtOnce);
  REQUIRE(undelivered.size() == 1);
  CHECK_MESSAGE(
      undelivered[0].find("4 of 4 messages were not delivered: " + why) != std::string::npos,
      undelivered[0]);
}

TEST_CASE("a receiver that is not there is told of at the end") {
  std::string url;
  {
    const Receiving gone;
    url = gone.url();
  }
  Courier courier(webhook_at(url));
  CHECK(tell(courier, breached_run()) < kAtOnce);
  const auto undelivered = courier.finish(100ms);
  REQUIRE(undelivered.size() == 1);
  CHECK(undelivered[0].ends_with("4 of 4 messages were not delivered: connection refused"));
}

TEST_CASE("one receiver that hangs keeps nothing from another") {
  Receiving hanging([](std::size_t) { return Manner{.what = Manner::kHang}; });
  Receiving well;
  auto receivers = webhook_at(hanging.url());
  receivers.push_back(std::move(webhook_at(well.url()).front()));
  Courier courier(std::move(receivers));
  tell(courier, breached_run());
  CHECK(support::eventually([&] { return well.asked().size() == 4; }, kBound));
  CHECK(courier.finish(10ms).size() == 1);
}

TEST_CASE("for a receiver that does not keep up, the oldest are given up and the end is kept") {
  Receiving server([](std::size_t n) { return n == 0 ? Manner{.after = 500ms} : Manner(); });
  Courier courier(webhook_at(server.url()), {.letters = 3});
  const auto events = breached_run();
  tell(courier, events);
  for (int n = 0; n < 50; ++n) {
    v1::Event note;
    note.mutable_noted()->set_text(std::to_string(n));
    courier.on(note);
  }
  courier.on(events.back());
  const auto undelivered = courier.finish(kBound);
  REQUIRE(undelivered.size() == 1);
  CHECK(undelivered[0].find(" of 55 messages were not delivered") != std::string::npos);
  CHECK(words_told(server).front() == "run_started");
  CHECK(words_told(server).back() == "run_ended");
}

TEST_CASE("of what comes a thousand times a second nothing is handed over") {
  Receiving server;
  Courier courier(webhook_at(server.url()), {.events = 10});
  v1::Event asked;
  asked.mutable_check_asked()->set_check("up");
  tell(courier, std::vector<v1::Event>(10'000, asked));
  CHECK(courier.finish(kBound).empty());
  CHECK(server.asked().empty());
}

TEST_CASE("what comes faster than it can be taken is counted, not kept") {
  Receiving server;
  Courier courier(webhook_at(server.url()), {.events = 0});
  tell(courier, breached_run());
  const auto undelivered = courier.finish(kBound);
  REQUIRE(undelivered.size() == 1);
  CHECK(undelivered[0].ends_with(" events of the run were told to no receiver"));
}

}  // namespace squall::notify
