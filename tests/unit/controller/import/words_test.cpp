#include "controller/import/words.h"

#include <doctest/doctest.h>

#include <array>

namespace squall::importing {
namespace {

using Words = std::vector<std::string>;

Words words(std::string_view line) {
  const auto commands = split_line(line);
  REQUIRE(commands);
  REQUIRE(commands->size() <= 1);
  return commands->empty() ? Words() : commands->front().words;
}

TEST_CASE("words end at blanks and quotes hold them together") {
  CHECK(words("") == Words{});
  CHECK(words("  a\tb  c ") == Words{"a", "b", "c"});
  CHECK(words(R"(a 'b c' "d e" f\ g)") == Words{"a", "b c", "d e", "f g"});
  CHECK(words(R"(a'b'"c"d)") == Words{"abcd"});
  CHECK(words(R"('' "")") == Words{"", ""});
}

TEST_CASE("a quote in another is a character and a backslash escapes within the double ones only") {
  CHECK(words(R"('a"b' "c'd")") == Words{"a\"b", "c'd"});
  CHECK(words(R"("a\"b\\c\d" 'e\f')") == Words{R"(a"b\c\d)", R"(e\f)"});
}

TEST_CASE("nothing is expanded") {
  CHECK(words(R"($HOME `ls` $(ls) * ~ {a,b} "$x")") ==
        Words{"$HOME", "`ls`", "$(ls)", "*", "~", "{a,b}", "$x"});
}

TEST_CASE("a comment begins a word") {
  CHECK(words("a b # c 'd") == Words{"a", "b"});
  CHECK(words("a#b") == Words{"a#b"});
}

TEST_CASE("a line holds several commands") {
  const auto commands = split_line("a 1; b && c & d\ne");
  REQUIRE(commands);
  REQUIRE(commands->size() == 5);
  CHECK((*commands)[0].words == Words{"a", "1"});
  CHECK_FALSE((*commands)[1].in_background);
  CHECK((*commands)[2].in_background);
  CHECK_FALSE((*commands)[3].in_background);
  CHECK((*commands)[4].words == Words{"e"});
}

TEST_CASE("an open quote and a pipe are not read") {
  for (const char* line : {"'a", "\"a", "a \\", "a | b", "a > b", "a < b", "\"a\\"}) {
    CAPTURE(line);
    CHECK_FALSE(split_line(line));
  }
}

TEST_CASE("a program is called as it is wherever it lies") {
  CHECK(program_name("/usr/bin/tc") == "tc");
  CHECK(program_name("gaiaadm/pumba:0.9") == "pumba");
  CHECK(program_name("") == "");
}

TEST_CASE("flags are read under their long names and with either spelling of a value") {
  constexpr std::array<Flags::Alias, 1> kAliases = {{{"-t", "--time"}}};
  constexpr std::array<std::string_view, 1> kSwitches = {"--force"};
  const Words line = {"-t", "5", "--force", "web", "--size=7", "--", "-x"};
  Source said(Source::Kind::kMap);
  std::size_t at = 0;
  CHECK(read_flags(line, at, {.aliases = kAliases, .switches = kSwitches}, said) ==
        Words{"web", "-x"});
  CHECK(at == line.size());
  CHECK(said.written() == "{\"--time\": 5, \"--force\": true, \"--size\": 7}");

  Source until_word(Source::Kind::kMap);
  at = 0;
  read_flags(line, at, {.aliases = kAliases, .switches = kSwitches, .stop_at_word = true},
             until_word);
  CHECK(at == 3);
}

}  // namespace
}  // namespace squall::importing
