#include "controller/import/draft.h"

#include <doctest/doctest.h>

namespace squall::importing {
namespace {

TEST_CASE("short values are written in brackets and long ones below each other") {
  Draft root = Draft::map();
  root.map_at("short").set("a", Draft::word("1"));
  Draft& list = root.list_at("long");
  for (int n = 0; n < 3; ++n) list.add(Draft::text(std::string(40, 'x')));
  CHECK(write(root).text == "short: {a: 1}\nlong:\n  - " + std::string(40, 'x') + "\n  - " +
                                std::string(40, 'x') + "\n  - " + std::string(40, 'x') + "\n");
}

TEST_CASE("a note stands above what it is about") {
  Draft root = Draft::map();
  Draft& step = root.list_at("method").add(Draft::map());
  step.set("name", Draft::text("slow")).say("of the name");
  step.lose("of the step");
  step.map_at("network").set("delay", Draft::word("1s")).decide("of the delay");
  CHECK(write(root).text ==
        "method:\n"
        "  # not mapped: of the step\n"
        "  # of the name\n"
        "  - name: slow\n"
        "    network:\n"
        "      # to decide: of the delay\n"
        "      delay: 1s\n");
}

TEST_CASE("what is nothing but notes is written where it would stand") {
  Draft root = Draft::map();
  root.list_at("method").add(Draft()).lose("gone");
  CHECK(write(root).text == "# not mapped: gone\nmethod: []\n");
  root.find("method")->add(Draft::map()).set("wait", Draft::word("1s"));
  CHECK(write(root).text == "method:\n  # not mapped: gone\n  - wait: 1s\n");
}

TEST_CASE("an example is a comment as a whole") {
  Draft root = Draft::map();
  Draft& example = root.list_at("checks");
  example.make_example();
  example.add(Draft::map()).set("name", Draft::text("x"));
  root.set("lease", Draft::word("5s"));
  const Page page = write(root);
  CHECK(page.text == "# checks:\n#   - name: x\nlease: 5s\n");
  CHECK(page.owners[0] == nullptr);
  CHECK(page.owners[1] == nullptr);
  CHECK(page.owners[2] == root.find("lease"));
}

TEST_CASE("texts are in quotes where YAML or a person would take them for something else") {
  CHECK(quoted_where_needed("plain text", false, true) == "plain text");
  CHECK(quoted_where_needed("a, b", false, true) == "a, b");
  CHECK(quoted_where_needed("a, b", true, true) == "\"a, b\"");
  for (const char* text : {"",   " a", "a ", "a: b", "a:", "a #b", "- a",  "*a", "&a",  "!a",  "{a",
                           "[a", "%a", "@a", "`a",   "#a", "'a",   "null", "~",  "...", "...x"}) {
    CAPTURE(text);
    CHECK(quoted_where_needed(text, false, true) == "\"" + std::string(text) + "\"");
  }
  for (const char* text : {"true", "No", "12", "1.5", "1e5", "10:30"}) {
    CAPTURE(text);
    CHECK(quoted_where_needed(text, false, true) == "\"" + std::string(text) + "\"");
    CHECK(quoted_where_needed(text, false, false) == text);
  }
  CHECK(quoted_where_needed("a\"b\\c\nd\te\x1b", false, true) == R"("a\"b\\c\nd\te\x1b")");
  CHECK(quoted_where_needed("\xE2\x80\xAE", false, true) == R"("\u202e")");
}

TEST_CASE("a long note is wrapped at blanks and stays a comment") {
  Draft root = Draft::map();
  std::string words;
  for (int n = 0; n < 40; ++n) words += "word\n";
  root.set("a", Draft::word("1")).say(words + std::string(200, 'x'));
  const std::string text = write(root).text;
  std::size_t lines = 0;
  for (std::size_t at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    if (text.compare(at, 1, "a") != 0) CHECK(text.compare(at, 2, "# ") == 0);
    ++lines;
  }
  CHECK(lines >= 2);
}

}  // namespace
}  // namespace squall::importing
