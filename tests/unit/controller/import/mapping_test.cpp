#include "controller/import/mapping.h"

#include <doctest/doctest.h>

#include <array>

#include "controller/import/programs.h"

namespace squall::importing {
namespace {

using Text = std::optional<std::string>;

TEST_CASE("durations of every tool come out in the plan's spelling") {
  CHECK(go_duration("1m30s") == Text("90s"));
  CHECK(go_duration("1.5h") == Text("90m"));
  CHECK(go_duration("100ms") == Text("100ms"));
  CHECK(go_duration("0s") == Text(""));
  for (const char* wrong : {"", "5", "-5s", "s", "5x", "1e3s", "999999999999h", "1..5s"}) {
    CAPTURE(wrong);
    CHECK_FALSE(go_duration(wrong));
  }
  CHECK(milliseconds("3000") == Text("3s"));
  CHECK(seconds("0.5") == Text("500ms"));
  CHECK_FALSE(seconds("5s"));
  CHECK(iso_duration("PT1M30S") == Text("90s"));
  CHECK_FALSE(iso_duration("P1D"));
  CHECK_FALSE(iso_duration("PT5"));
  CHECK(tc_time("100") == Text("100us"));
  CHECK(tc_time("100ms") == Text("100ms"));
}

TEST_CASE("shares keep their digits and nothing is what asks for nothing") {
  CHECK(percentage("25") == Text("25%"));
  CHECK(percentage("0.5%") == Text("0.5%"));
  CHECK(percentage("0") == Text(""));
  CHECK_FALSE(percentage("-1"));
  CHECK_FALSE(percentage("1,5"));
  CHECK(probability("0.07") == Text("7%"));
  CHECK_FALSE(probability("1.5"));
}

TEST_CASE("sizes and rates are of 1000 or of 1024 as the tool has it") {
  CHECK(decimal_size("256MB") == Text("256MB"));
  CHECK(decimal_size("256MiB") == Text("256MiB"));
  CHECK(binary_size("256M") == Text("256MiB"));
  CHECK(mebibytes("512") == Text("512MiB"));
  CHECK(tc_rate("100kbit") == Text("100kbit"));
  CHECK(tc_rate("1mbps") == Text("8mbit"));
  CHECK(mesh_rate("1mbps") == Text("8388608bit"));
  CHECK_FALSE(mesh_rate("1mbit"));
  CHECK_FALSE(decimal_size("99999999999TB"));
}

TEST_CASE("signals are known by number and by name") {
  CHECK(signal_name("9") == Text("KILL"));
  CHECK(signal_name("SIGTERM") == Text("TERM"));
  CHECK(signal_name("hup") == Text("HUP"));
  CHECK_FALSE(signal_name("STOP"));
}

TEST_CASE("a field is taken when it converts and left with a reason when it does not") {
  Source from(Source::Kind::kMap);
  Source& right = from.add("latency", Source::Kind::kScalar, "90ms");
  Source& wrong = from.add("jitter", Source::Kind::kScalar, "some");
  Source& unused = from.add("correlation", Source::Kind::kScalar, "5");
  constexpr std::array<Rule, 3> kRules = {
      {{"latency", "delay", go_duration, "a duration"},
       {"jitter", "jitter", go_duration, "a duration"},
       {"correlation", "delay_correlation", percentage, "a percentage", "jitter"}}};
  Draft to = Draft::map();
  put(from, to, kRules);
  CHECK(write(to).text == "delay: 90ms\n");
  CHECK(right.taken());
  CHECK_FALSE(wrong.taken());
  CHECK(wrong.why()->text == "not a duration");
  CHECK(unused.why()->text == "does nothing without jitter");
}

TEST_CASE("a pattern matches the very text it was made of") {
  CHECK(as_pattern("shop-worker (v2) $x.y") == R"(shop-worker \(v2\) \$x\.y)");
}

std::string steps(const std::vector<std::string>& words) {
  auto meant = meaning_of(words, "here");
  if (!meant) return "unknown";
  if (meant->undoes) return "undoes";
  Draft root = Draft::map();
  for (Draft& step : meant->steps) root.list_at("steps").add(std::move(step));
  return write(root).text;
}

TEST_CASE("tc's netem is read word by word") {
  CHECK(steps({"tc",    "qdisc", "add",  "dev",   "eth0",         "root",   "netem",
               "delay", "100ms", "20ms", "25%",   "distribution", "normal", "loss",
               "1%",    "25%",   "rate", "1mbit", "limit",        "500"}) ==
        "steps:\n"
        "  - network:\n"
        "      delay: 100ms\n"
        "      jitter: 20ms\n"
        "      delay_correlation: 25%\n"
        "      distribution: normal\n"
        "      loss: 1%\n"
        "      loss_correlation: 25%\n"
        "      rate: 1mbit\n"
        "      limit: 500\n"
        "      interface: eth0\n");
  CHECK(steps({"/sbin/tc", "qdisc", "add", "dev", "eth0", "root", "netem", "loss", "gemodel", "1%",
               "10%"}) ==
        "steps:\n  - network: {gilbert_elliott: {p: 1%, r: 10%}, interface: eth0}\n");
  CHECK(steps({"sudo", "tc", "qdisc", "del", "dev", "eth0", "root"}) == "undoes");
  CHECK(steps({"tc", "qdisc", "add", "dev", "eth0", "root", "netem", "slot", "1ms"}) == "unknown");
  CHECK(steps({"tc", "filter", "show"}) == "unknown");
}

TEST_CASE("programs that end processes and stop services are faults") {
  CHECK(steps({"pkill", "-9", "-x", "nginx"}) ==
        "steps:\n  - kill: {process: {name: nginx}, signal: KILL}\n");
  CHECK(steps({"pkill", "-STOP", "-f", "java .*cart"}) ==
        "steps:\n  - pause: {process: {cmdline: java .*cart}}\n");
  CHECK(steps({"killall", "-s", "HUP", "nginx"}) ==
        "steps:\n  - kill: {process: {name: nginx}, signal: HUP}\n");
  CHECK(steps({"systemctl", "stop", "nginx"}) == "steps:\n  - service: {unit: nginx.service}\n");
  CHECK(steps({"systemctl", "start", "nginx"}) == "undoes");
  CHECK(steps({"kill", "web"}) == "unknown");
  CHECK(steps({"rm", "-rf", "/"}) == "unknown");
}

}  // namespace
}  // namespace squall::importing
