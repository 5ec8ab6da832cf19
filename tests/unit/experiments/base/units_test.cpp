#include "experiments/base/units.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

namespace squall {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

template <typename T>
std::string told(const StatusOr<T>& value) {
  return value.ok() ? "nothing" : message_of(value.status());
}

TEST_CASE("a number per second has its unit and comes back as it was written") {
  CHECK(parse_per_second("1000/s").value() == 1000);
  CHECK(parse_per_second("0.5/s").value() == 0.5);
  CHECK(parse_per_second("20 /s").value() == 20);
  CHECK(format_per_second(1000) == "1000/s");
  CHECK(format_per_second(0.5) == "0.5/s");
  CHECK(message_of(parse_per_second("100").status()) == "100 of what? write 100/s");
  CHECK(message_of(parse_per_second("100rps").status()) ==
        "\"rps\" is not a unit here; write 100/s");
  CHECK(message_of(parse_per_second("-1/s").status()) == "\"-1/s\" has a sign; write 1/s");
  CHECK(message_of(parse_per_second("1e3/s").status()) ==
        "\"1e3/s\" has an exponent; write it out, as 1000/s");
}

TEST_CASE("a duration is a number and its unit") {
  CHECK(*parse_duration("200ms") == milliseconds(200));
  CHECK(*parse_duration("200 ms") == milliseconds(200));
  CHECK(*parse_duration("1.5s") == milliseconds(1500));
  CHECK(*parse_duration("2m") == minutes(2));
  CHECK(*parse_duration("1h") == hours(1));
  CHECK(*parse_duration("100us") == microseconds(100));
  CHECK(*parse_duration("50ns") == Duration(50));
  CHECK(*parse_duration("0s") == Duration::zero());
  CHECK(*parse_duration("0.000000001s") == Duration(1));
  CHECK(*parse_duration("1.50000000000000000000s") == milliseconds(1500));
  CHECK(*parse_duration("9223372036854775807ns") ==
        Duration(std::numeric_limits<std::int64_t>::max()));
}

TEST_CASE("what is no duration is refused with what would be right") {
  CHECK(told(parse_duration("")) == "a duration is missing; write 200ms");
  CHECK(told(parse_duration("100")) == "100 of what? write 100ms");
  CHECK(told(parse_duration("100 ")) == "100 of what? write 100ms");
  CHECK(told(parse_duration("1e400s")) == "\"1e400s\" has an exponent; write it out, as 200ms");
  CHECK(told(parse_duration("NaN")) == "\"NaN\" is not a duration; write 200ms");
  CHECK(told(parse_duration("inf")) == "\"inf\" is not a duration; write 200ms");
  CHECK(told(parse_duration(".5s")) == "\".5s\" begins with a point; write 0.5s");
  CHECK(told(parse_duration(".5e3")) == "\".5e3\" is not a duration; write 200ms");
  CHECK(told(parse_duration("0x10")) == "\"0x10\" is not a duration; write 200ms");
  CHECK(told(parse_duration("-1ms")) == "\"-1ms\" has a sign; write 1ms");
  CHECK(told(parse_duration("+1ms")) == "\"+1ms\" has a sign; write 1ms");
  CHECK(told(parse_duration("010ms")) == "\"010ms\" has a leading zero; write 10ms");
  CHECK(told(parse_duration("00ms")) == "\"00ms\" has a leading zero; write 0ms");
  CHECK(told(parse_duration("1:30")) == "\"1:30\" is not a duration; write 200ms");
  CHECK(told(parse_duration("1,5s")) == "\"1,5s\" is not a duration; write 200ms");
  CHECK(told(parse_duration("1.s")) == "\"1.s\" is not a duration; write 200ms");
  CHECK(told(parse_duration("1s 2s")) == "\"1s 2s\" is not a duration; write 200ms");
  CHECK(told(parse_duration("5  s")) == "\"5  s\" is not a duration; write 200ms");
  CHECK(told(parse_duration("200 parsecs")) ==
        "unknown unit \"parsecs\"; write 200 with ns, us, ms, s, m or h");
  CHECK(told(parse_duration("5 sec")) == "\"sec\" is not a unit here; write 5s");
  CHECK(told(parse_duration("5\xC2\xB5s")) == "\"\xC2\xB5s\" is not a unit here; write 5us");
  CHECK(told(parse_duration("0.1ns")) ==
        "\"0.1ns\" is finer than 1ns; write whole multiples of 1ns");
  CHECK(told(parse_duration("9223372036854775808ns")) ==
        "\"9223372036854775808ns\" is too large; write at most 9223372036854775807ns");
  CHECK(told(parse_duration("99999999999999999999999999999999999h")) ==
        "\"99999999999999999999999999999999999h\" is too large; write at most 2562047h");
  CHECK(told(parse_duration(std::string(1000, '9'))).size() < 2200);
}

TEST_CASE("a percentage is of the whole") {
  CHECK(*parse_percent("1%") == 1.0);
  CHECK(*parse_percent("0.5%") == 0.5);
  CHECK(*parse_percent("100%") == 100.0);
  CHECK(*parse_percent("0%") == 0.0);
  CHECK(told(parse_percent("100.1%")) == "\"100.1%\" is more than the whole; write at most 100%");
  CHECK(told(parse_percent("1")) == "1 of what? write 1%");
  CHECK(told(parse_percent("-1%")) == "\"-1%\" has a sign; write 1%");
  CHECK(told(parse_percent("5 percent")) == "\"percent\" is not a unit here; write 5%");
  CHECK(told(parse_percent("5ms")) == "unknown unit \"ms\"; write 5%");
  CHECK(told(parse_percent("1e2%")) == "\"1e2%\" has an exponent; write it out, as 1%");
}

TEST_CASE("sizes count in powers of 1024 and of 1000, each under its own name") {
  CHECK(*parse_bytes("512B") == 512);
  CHECK(*parse_bytes("64KiB") == 65536);
  CHECK(*parse_bytes("64MiB") == 67108864);
  CHECK(*parse_bytes("1.5GiB") == 1610612736);
  CHECK(*parse_bytes("1kB") == 1000);
  CHECK(*parse_bytes("1GB") == 1000000000);
  CHECK(told(parse_bytes("64M")) == "\"M\" is not a unit here; write 64MiB");
  CHECK(told(parse_bytes("64")) == "64 of what? write 64MiB");
  CHECK(told(parse_bytes("0.5B")) == "\"0.5B\" is finer than 1B; write whole multiples of 1B");
  CHECK(told(parse_bytes("99999999999GiB")) ==
        "\"99999999999GiB\" is too large; write at most 17179869183GiB");
}

TEST_CASE("rates are bits per second as tc has them") {
  CHECK(*parse_rate("10bit") == 10);
  CHECK(*parse_rate("10kbit") == 10'000);
  CHECK(*parse_rate("10mbit") == 10'000'000);
  CHECK(*parse_rate("1.5gbit") == 1'500'000'000);
  CHECK(told(parse_rate("10Mbps")) == "\"Mbps\" is not a unit here; write 10mbit");
}

TEST_CASE("a count is digits alone") {
  CHECK(*parse_count("0") == 0);
  CHECK(*parse_count("18446744073709551615") == std::numeric_limits<std::uint64_t>::max());
  CHECK(told(parse_count("18446744073709551616")) ==
        "\"18446744073709551616\" is too large; write at most 18446744073709551615");
  CHECK(told(parse_count("010")) == "\"010\" has a leading zero; write 10");
  CHECK(told(parse_count("00")) == "\"00\" has a leading zero; write 0");
  for (const char* text : {"-1", "+1", "1.0", "1e3", "0x10", "1:30", " 1", "1 ", "NaN"}) {
    CHECK_MESSAGE(!parse_count(text).ok(), text);
  }
}

TEST_CASE("a duration is written the shortest exact way") {
  CHECK(format_duration(Duration::zero()) == "0s");
  CHECK(format_duration(milliseconds(200)) == "200ms");
  CHECK(format_duration(milliseconds(1500)) == "1.5s");
  CHECK(format_duration(seconds(120)) == "2m");
  CHECK(format_duration(seconds(90)) == "90s");
  CHECK(format_duration(hours(1)) == "1h");
  CHECK(format_duration(Duration(1)) == "1ns");
  CHECK(format_duration(microseconds(1500)) == "1.5ms");
  CHECK(format_duration(milliseconds(-200)) == "-200ms");
}

TEST_CASE("what is written is read back to the same value") {
  for (const std::int64_t ns :
       {std::int64_t{1}, std::int64_t{999}, std::int64_t{1'000}, std::int64_t{123'456'789},
        std::int64_t{3'600'000'000'001}, std::int64_t{86'399'999'999'999},
        std::numeric_limits<std::int64_t>::max()}) {
    CHECK(parse_duration(format_duration(Duration(ns)))->count() == ns);
  }
  for (const std::uint64_t bytes :
       {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{1000}, std::uint64_t{1024},
        std::uint64_t{1536}, std::uint64_t{67108864}, std::uint64_t{123456789012345},
        std::numeric_limits<std::uint64_t>::max()}) {
    CHECK(*parse_bytes(format_bytes(bytes)) == bytes);
    CHECK(*parse_rate(format_rate(bytes)) == bytes);
  }
  for (const double percent : {0.0, 0.0001, 0.1, 33.333333333333336, 99.9, 100.0}) {
    CHECK(*parse_percent(format_percent(percent)) == percent);
  }
}

TEST_CASE("a measured time has three digits that matter") {
  CHECK(format_measured(Duration(0)) == "0ns");
  CHECK(format_measured(Duration(480)) == "480ns");
  CHECK(format_measured(microseconds(480)) == "480us");
  CHECK(format_measured(Duration(12'345'678)) == "12.3ms");
  CHECK(format_measured(milliseconds(1200)) == "1.20s");
  CHECK(format_measured(Duration(999'600)) == "1.00ms");
  CHECK(format_measured(Duration(9'996)) == "10.0us");
  CHECK(format_measured(seconds(1234)) == "1234s");
  CHECK(format_measured(milliseconds(-20)) == "-20.0ms");
}

}  // namespace
}  // namespace squall
