#include "experiments/plan/expectation.h"

#include <doctest/doctest.h>

#include <string>

namespace squall::plan {
namespace {

v1::Expectation read(const std::string& text) {
  v1::Expectation expectation;
  const auto problem = read_expectation(text, expectation);
  REQUIRE_MESSAGE(!problem, text, ": ", problem ? problem->problem.summary : "");
  CHECK(expectation.text() == text);
  return expectation;
}

TEST_CASE("every operator is read") {
  CHECK(read("latency < 1s").op() == v1::LESS);
  CHECK(read("latency <= 1s").op() == v1::LESS_OR_EQUAL);
  CHECK(read("latency > 1s").op() == v1::GREATER);
  CHECK(read("latency >= 1s").op() == v1::GREATER_OR_EQUAL);
  CHECK(read("status == 200").op() == v1::EQUAL);
  CHECK(read("status != 500").op() == v1::NOT_EQUAL);
  CHECK(read("status between 200 and 299").op() == v1::BETWEEN);
  CHECK(read("status in [200, 204]").op() == v1::IN);
  CHECK(read("body matches ^ok$").op() == v1::MATCHES);
  CHECK(read("body contains ok").op() == v1::CONTAINS);
}

TEST_CASE("quantities come in their base units") {
  const v1::Expectation latency = read("p99 < 1.5ms");
  CHECK(latency.values(0).number() == 1.5e6);
  CHECK(latency.values(0).unit() == v1::DURATION);
  CHECK(read("p99<300ms").values(0).number() == 300e6);
  CHECK(read("p99 < 300 ms over 10 s").over() == 10'000'000'000);
  const v1::Expectation share = read("error_rate <= 0.5%");
  CHECK(share.values(0).number() == 0.5);
  CHECK(share.values(0).unit() == v1::PERCENT);
  CHECK(read("value > -1.5").values(0).number() == -1.5);
  CHECK(read("rate > 100/s").values(0).number() == 100);
  const v1::Expectation between = read("latency between 1ms and 2s");
  CHECK(between.values(0).number() == 1e6);
  CHECK(between.values(1).number() == 2e9);
  CHECK(read("status in [200,201 , 204]").values_size() == 3);
}

TEST_CASE("a multiple of the baseline is read") {
  for (const char* text : {"p99 < 1.5 x baseline", "p99 < 1.5x baseline"}) {
    const v1::Expectation expectation = read(text);
    CHECK(expectation.values(0).times_baseline());
    CHECK(expectation.values(0).number() == 1.5);
    CHECK(expectation.values(0).unit() == v1::DURATION);
  }
  const v1::Expectation both = read("value between 0.5 x baseline and 2 x baseline for 1s");
  CHECK(both.values_size() == 2);
}

TEST_CASE("a window and a patience may follow") {
  const v1::Expectation expectation = read("p99 < 300ms over 10s for 2s");
  CHECK(expectation.over() == 10'000'000'000);
  CHECK(expectation.for_() == 2'000'000'000);
  CHECK_FALSE(read("p99 < 300ms").has_over());
  CHECK_FALSE(read("p99 < 300ms").has_for_());
  CHECK(read("status == 200 for 0s").for_() == 0);
}

TEST_CASE("a text goes on to the end, or to its patience, or to its quote") {
  CHECK(read("body contains thank you for shopping").values(0).text() == "thank you for shopping");
  CHECK(read("body contains all over again").values(0).text() == "all over again");
  const v1::Expectation patient = read("body contains thank you for 5s");
  CHECK(patient.values(0).text() == "thank you");
  CHECK(patient.for_() == 5'000'000'000);
  CHECK(read("body contains \"thank you for 5s\"").values(0).text() == "thank you for 5s");
  CHECK(read("stdout == 'a b' for 1s").values(0).text() == "a b");
  CHECK(read("state in [open, \"refused\"]").values(1).text() == "refused");
  CHECK(read("stdout matches ^(a+)+$").values(0).text() == "^(a+)+$");
}

TEST_CASE("patterns that would take for ever or have no end are refused or harmless") {
  v1::Expectation expectation;
  CHECK(read_expectation("body matches (?=x)", expectation).has_value());
  CHECK(read_expectation("body matches (a", expectation).has_value());
  CHECK(read_expectation("body matches ((a{1000}){1000}){1000}", expectation).has_value());
  CHECK(read_expectation("body matches a\\1", expectation).has_value());
}

TEST_CASE("a problem is placed at its word") {
  v1::Expectation expectation;
  const auto problem = read_expectation("p99 < 300", expectation);
  REQUIRE(problem);
  CHECK(problem->offset == 6);
  CHECK(problem->length == 3);
  CHECK(problem->problem.summary == "300 of what?");
}

TEST_CASE("no text brings the reader down") {
  for (const char* text : {"",
                           " ",
                           "<",
                           "p99",
                           "p99 ",
                           "p99 in",
                           "p99 in [",
                           "p99 in []",
                           "p99 in ]",
                           "status in [,]",
                           "p99 < 1ms over",
                           "p99 < 1ms for",
                           "p99 < x",
                           "p99 < x baseline",
                           "p99 < 1 x",
                           "p99 between",
                           "p99 between 1ms and",
                           "body ==",
                           "body == \"",
                           "body contains \" for 1s",
                           "p99 < 1ms over 0s",
                           "p99 < 1ms over 2h",
                           "\xff\xff < 1",
                           "p99 \xff 1"}) {
    v1::Expectation expectation;
    const auto problem = read_expectation(text, expectation);
    if (problem) CHECK_FALSE(problem->problem.summary.empty());
  }
}

}  // namespace
}  // namespace squall::plan
