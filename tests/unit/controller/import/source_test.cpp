#include "controller/import/source.h"

#include <doctest/doctest.h>

#include <array>

namespace squall::importing {
namespace {

constexpr std::array<Reason, 2> kReasons = {
    {{"labels", "of Kubernetes", Note::Kind::kSaid}, {"limit", "no bucket here"}}};

std::string rest_of(Source& root) {
  Draft at = Draft::map();
  tell_rest(root, at, kReasons);
  return write(at).text;
}

void read(const std::string& text, Source& root) { REQUIRE(read_json(text, root)); }

TEST_CASE("what nobody took is told with its path and its value") {
  Source root;
  read(R"({"spec": {"delay": {"latency": "90ms", "odd": [1, {"a": null}]}, "limit": 7}})", root);
  root.find({"spec", "delay", "latency"})->take();
  CHECK(rest_of(root) ==
        "# not mapped: spec.delay.odd: [1, {a: null}] (this importer knows no such field)\n"
        "# not mapped: spec.limit: 7 (no bucket here)\n");
  CHECK(rest_of(root) == "");
}

TEST_CASE("what was taken is not told and what was left is told with its reason") {
  Source root;
  read(R"({"a": {"b": 1, "c": 2}, "labels": {"x": "y"}})", root);
  root.find({"a", "b"})->take();
  root.find({"a", "c"})->leave("not a colour");
  CHECK(rest_of(root) ==
        "# not mapped: a.c: 2 (not a colour)\n"
        "# labels: {x: y} (of Kubernetes)\n");
}

TEST_CASE("what was given back is told as a whole") {
  Source root;
  read(R"({"a": {"b": 1, "c": 2}})", root);
  root.find({"a", "b"})->take();
  root.find("a")->give_back();
  root.find("a")->leave("came to nothing");
  CHECK(rest_of(root) == "# not mapped: a: {b: 1, c: 2} (came to nothing)\n");
}

TEST_CASE("a secret is told without its value") {
  Source root;
  read(R"({"secrets": {"token": "hunter2"}})", root);
  root.find("secrets")->leave("not ours");
  CHECK(rest_of(root) == "# not mapped: secrets: not shown (not ours)\n");
}

TEST_CASE("JSON and YAML make the same tree") {
  for (const char* text :
       {R"({"a": [1, 2.5, true, null, "x"], "b": {}})", "a: [1, 2.5, true, null, x]\nb: {}\n"}) {
    Diagnostics diagnostics;
    diagnostics.text = text;
    Source root;
    read_document(diagnostics, root);
    CHECK_FALSE(diagnostics.has_errors());
    CHECK(root.written() == "{a: [1, 2.5, true, null, x], b: {}}");
  }
}

TEST_CASE("what is wrong with JSON is told with its place") {
  Diagnostics diagnostics;
  diagnostics.file = "x.json";
  diagnostics.text = "{\n  \"a\": nil\n}\n";
  Source root;
  read_document(diagnostics, root);
  CHECK(
      format_diagnostics(diagnostics, false).starts_with("x.json:2:9: error: this is not JSON: "));
}

}  // namespace
}  // namespace squall::importing
