#include "experiments/base/diagnostic.h"

#include <doctest/doctest.h>

#include <string>

namespace squall {
namespace {

TEST_CASE("a diagnostic shows its place, its line, a caret and what would be right") {
  Diagnostics diagnostics{.file = "plan.yaml", .text = "plan: a\nlease: 100\n", .found = {}};
  diagnostics.error({2, 8, 3}, "100 of what?", "write 100ms");
  CHECK(format_diagnostics(diagnostics, false) ==
        "plan.yaml:2:8: error: 100 of what?\n"
        "  lease: 100\n"
        "         ^^^\n"
        "  write 100ms\n");
  CHECK(diagnostics.has_errors());
}

TEST_CASE("diagnostics come in the order of their places, a file's own first") {
  Diagnostics diagnostics{.file = "p", .text = "a\nb\n", .found = {}};
  diagnostics.error({2, 1, 1}, "second");
  diagnostics.warning({1, 1, 1}, "first");
  diagnostics.error({}, "the whole");
  CHECK(format_diagnostics(diagnostics, false) ==
        "p: error: the whole\n"
        "p:1:1: warning: first\n  a\n  ^\n"
        "p:2:1: error: second\n  b\n  ^\n");
}

TEST_CASE("warnings alone are no errors") {
  Diagnostics diagnostics;
  diagnostics.warning({}, "careful");
  CHECK_FALSE(diagnostics.has_errors());
}

TEST_CASE("a caret stands right under letters of several bytes") {
  Diagnostics diagnostics{.file = "p", .text = "\xC3\xA9\xC3\xA9: x", .found = {}};
  diagnostics.error({1, 7, 1}, "here");
  CHECK(format_diagnostics(diagnostics, false) ==
        "p:1:7: error: here\n  \xC3\xA9\xC3\xA9: x\n      ^\n");
}

TEST_CASE("a caret never points past its line") {
  Diagnostics diagnostics{.file = "p", .text = "ab\ncd", .found = {}};
  diagnostics.error({1, 9, 50}, "here");
  diagnostics.error({7, 1, 1}, "nowhere");
  CHECK(format_diagnostics(diagnostics, false) ==
        "p:1:9: error: here\n  ab\n    ^\np:7:1: error: nowhere\n");
}

TEST_CASE("a line too long for a screen is shown around its caret") {
  Diagnostics diagnostics{.file = "p", .text = std::string(5000, 'x'), .found = {}};
  diagnostics.error({1, 2000, 4}, "here");
  const std::string told = format_diagnostics(diagnostics, false);
  CHECK(told.size() < 400);
  CHECK(told.find("  ...xxx") != std::string::npos);
  CHECK(told.find("xxx...\n") != std::string::npos);
  CHECK(told.find("^^^^\n") != std::string::npos);
}

TEST_CASE("what a terminal would obey is shown, not sent") {
  Diagnostics diagnostics{.file = "p\n", .text = "a\x1b[31m: b", .found = {}};
  diagnostics.error({1, 8, 1}, "bad \x07 bell");
  CHECK(format_diagnostics(diagnostics, false) ==
        "p\\x0a:1:8: error: bad \\x07 bell\n  a\\x1b[31m: b\n            ^\n");
  CHECK(escape_controls("\xC2\x9B"
                        "31m") == "\\xc2\\x9b31m");
  CHECK(escape_controls("a\xE2\x80\xAE"
                        "b") == "a\\xe2\\x80\\xaeb");
  CHECK(escape_controls("\xff\xc3") == "\\xff\\xc3");
  CHECK(escape_controls("a\nb", true) == "a\nb");
  CHECK(escape_controls("a\nb") == "a\\x0ab");
  CHECK(escape_controls("\xE2\x9C\x93 \xF0\x9F\x98\x80") == "\xE2\x9C\x93 \xF0\x9F\x98\x80");
}

TEST_CASE("colour is there only when asked for") {
  Diagnostics diagnostics{.file = "p", .text = "a", .found = {}};
  diagnostics.error({1, 1, 1}, "x");
  CHECK(format_diagnostics(diagnostics, false).find('\033') == std::string::npos);
  CHECK(format_diagnostics(diagnostics, true).find("\033[1;31merror:") != std::string::npos);
}

TEST_CASE("a flood of diagnostics ends in their number") {
  Diagnostics diagnostics{.file = "p", .text = "a", .found = {}};
  for (std::size_t i = 0; i < 1000; ++i) diagnostics.error({1, i, 1}, "x");
  CHECK(format_diagnostics(diagnostics, false).ends_with("p: 800 more not shown\n"));
  diagnostics.error({1, 2000, 1}, "x");
  CHECK(format_diagnostics(diagnostics, false).ends_with("p: more than 800 more not shown\n"));
  CHECK(diagnostics.found.size() == Diagnostics::kMostKept);
}

TEST_CASE("what is told again of a place is kept once, and errors find room beside warnings") {
  Diagnostics diagnostics{.file = "p", .text = "a", .found = {}};
  for (std::size_t i = 0; i < 3000; ++i) diagnostics.warning({1, i, 1}, "x");
  CHECK_FALSE(diagnostics.has_errors());
  diagnostics.error({1, 1, 1}, "y");
  diagnostics.error({1, 1, 1}, "y");
  CHECK(diagnostics.has_errors());
  CHECK(diagnostics.found.size() == Diagnostics::kMostKept + 1);
}

TEST_CASE("the nearest word is a slip away, or there is none") {
  const std::vector<std::string> known = {"delay", "jitter", "loss", "to", "steady_state"};
  CHECK(nearest("dealy", known) == "delay");
  CHECK(nearest("DELAY", known) == "delay");
  CHECK(nearest("jiter", known) == "jitter");
  CHECK(nearest("steady-state", known) == "steady_state");
  CHECK(nearest("los", known) == "loss");
  CHECK(nearest("duplicate", known).empty());
  CHECK(nearest("", known).empty());
  CHECK(nearest(std::string(100'000, 'x'), known).empty());
}

TEST_CASE("only whole characters are UTF-8") {
  CHECK(utf8_length("a", 0) == 1);
  CHECK(utf8_length("\xC3\xA9", 0) == 2);
  CHECK(utf8_length("\xE2\x9C\x93", 0) == 3);
  CHECK(utf8_length("\xF0\x9F\x98\x80", 0) == 4);
  CHECK(utf8_length("\xC0\x80", 0) == 0);          // overlong
  CHECK(utf8_length("\xED\xA0\x80", 0) == 0);      // a surrogate
  CHECK(utf8_length("\xF4\x90\x80\x80", 0) == 0);  // past the last
  CHECK(utf8_length("\xE2\x9C", 0) == 0);          // cut off
  CHECK(utf8_length("", 0) == 0);
}

}  // namespace
}  // namespace squall
