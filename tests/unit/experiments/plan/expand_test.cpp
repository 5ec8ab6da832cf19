#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "experiments/plan/load.h"

namespace squall::plan {
namespace {

namespace fs = std::filesystem;

/// A folder of plans that is gone with the object.
class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "squall-plans-XXXXXX").native();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  const fs::path& path() const { return path_; }

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }

  /// Of plan.yaml, with the folder's own name out of sight.
  std::string mistakes(const Given& given = {}) const {
    std::string text =
        format_diagnostics(load_file((path_ / "plan.yaml").native(), given).diagnostics, false);
    const std::string folder = path_.native() + "/";
    for (auto at = text.find(folder); at != text.npos; at = text.find(folder)) {
      text.erase(at, folder.size());
    }
    return text;
  }

  v1::Plan plan(const Given& given = {}) const {
    const Loaded loaded = load_file((path_ / "plan.yaml").native(), given);
    REQUIRE_MESSAGE(loaded.plan.has_value(), format_diagnostics(loaded.diagnostics, false));
    return *loaded.plan;
  }

 private:
  fs::path path_;
};

Given with(std::vector<std::string> set) {
  return {.set = std::move(set), .params_files = {}, .unobserved = true};
}

/// Behind it stand the method's steps.
const std::string kHead = R"(plan: a plan
nodes:
  db-1: {address: 10.0.0.11:7411, labels: {role: db}}
  web-1: {address: 10.0.0.21:7411, labels: {role: web}}
)";

std::string mistakes(const std::string& text, const Given& given = with({})) {
  return format_diagnostics(load(text, "plan.yaml", given).diagnostics, false);
}

v1::Plan good(const std::string& text, const Given& given = with({})) {
  const Loaded loaded = load(text, "plan.yaml", given);
  REQUIRE_MESSAGE(loaded.plan.has_value(), format_diagnostics(loaded.diagnostics, false));
  return *loaded.plan;
}

}  // namespace

TEST_CASE("a parameter stands wherever a value does and --set wins over a file and a default") {
  const std::string text = kHead + R"(params:
  delay: 200ms
  role: {default: db, one_of: [db, web], help: who is slow}
  count: 1
  port: 5432
method:
  - name: "${role} is slow by ${delay}"
    on: {role: "${role}"}
    pick: ${count}
    network: {delay: "${delay}", to: {ports: ["${port}"]}}
    for: 60s
)";
  const v1::Plan plan = good(text);
  CHECK(plan.method(0).name() == "db is slow by 200ms");
  CHECK(plan.method(0).on().labels().at("role") == "db");
  CHECK(plan.method(0).pick().count() == 1);
  CHECK(plan.method(0).fault().network().delay() == 200'000'000);
  CHECK(plan.method(0).fault().network().to().ports(0).first() == 5432);
  CHECK(plan.params().at("delay").value() == "200ms");
  CHECK(good(text, with({"role=web", "delay=1s"})).method(0).name() == "web is slow by 1s");

  const Folder folder;
  folder.write("plan.yaml", text);
  folder.write("ours.yaml", "delay: 300ms\nrole: web\n");
  folder.write("theirs.yaml", "delay: 400ms\n");
  Given given = with({"role=db"});
  given.params_files = {folder.path() / "ours.yaml", folder.path() / "theirs.yaml"};
  CHECK(folder.plan(given).method(0).name() == "db is slow by 400ms");
}

TEST_CASE("$${ is how ${ itself is written") {
  const v1::Plan plan = good(kHead + R"(params: {name: shop}
method:
  - name: "$${name} is ${name} and $5 ${name}$"
    on: db-1
    kill: {process: {name: "${name}"}}
)");
  CHECK(plan.method(0).name() == "${name} is shop and $5 shop$");
}

TEST_CASE("every mistake about parameters is told where it is") {
  CHECK(mistakes(kHead + R"(params:
  delay: 200ms
  role: {default: dbs, one_of: [db, web]}
  must: {help: what every run says, type: duration}
  wrong: {default: 5s, type: percent}
  list: [1]
  unused: 1
  "a b": 1
  kind: {default: 1s, typ: duration}
method:
  - name: "${dealy} and ${delay"
    on: {role: "${role}"}
    network: {delay: "x ${delay}"}
    for: ${must}
  - {on: db-1, cpu: {load: "${wrong}"}, for: 5s}
  - {on: db-1, "${delay}": 5s}
)") == R"(plan.yaml:7:19: error: "dbs" is none of its values
    role: {default: dbs, one_of: [db, web]}
                    ^^^
  did you mean "db"?
plan.yaml:9:20: error: unknown unit "s"
    wrong: {default: 5s, type: percent}
                     ^^
  write 5%
plan.yaml:10:9: error: a parameter has no one value
    list: [1]
          ^
  write its default, or {help: what it is for} where every run must give it
plan.yaml:12:3: error: "a b" cannot be a name here
    "a b": 1
    ^^^^^
  write it with letters, digits and '.', '_' or '-'
plan.yaml:13:23: error: unknown key "typ"
    kind: {default: 1s, typ: duration}
                        ^^^
  did you mean "type"?
plan.yaml:15:12: error: there is no parameter "dealy"
    - name: "${dealy} and ${delay"
             ^^^^^^^^
  did you mean "delay"?
plan.yaml:15:25: error: this ${ is never closed
    - name: "${dealy} and ${delay"
                          ^^
  write ${name}, or $${ for the two characters themselves
plan.yaml:17:22: error: "x 200ms" is not a duration
      network: {delay: "x ${delay}"}
                       ^^^^^^^^^^^^
  write 200ms; delay is "200ms", as line 6 says
plan.yaml:18:10: error: must has no value
      for: ${must}
           ^^^^^^^
  give it one by --set must=VALUE, or a default in `params`
plan.yaml:20:16: error: a key is no parameter's
    - {on: db-1, "${delay}": 5s}
                 ^^^^^^^^^^
  ${name} stands for a value
plan.yaml:20:16: error: unknown key "${delay}"
    - {on: db-1, "${delay}": 5s}
                 ^^^^^^^^^^
  known here: name, on, pick, for, pulse, network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask, include
)");
}

TEST_CASE("what is given for a parameter must fit it") {
  const std::string text = kHead + R"(params: {delay: 200ms, role: {default: db, one_of: [db, web]}}
method:
  - {on: {role: "${role}"}, network: {delay: "${delay}"}, for: 5s}
)";
  CHECK(mistakes(text, with({"delay=300", "roll=web", "role=wbe", "delay", "=5"})) ==
        R"(--set:1:7: error: delay: 300 of what?
  delay=300
        ^^^
  write 300ms; its default is 200ms
--set:2:1: error: the plan has no parameter "roll"
  roll=web
  ^^^^
  did you mean "role"?
--set:3:6: error: role: "wbe" is none of its values
  role=wbe
       ^^^
  did you mean "web"?
--set:4:1: error: --set gives a parameter its value
  delay
  ^^^^^
  write --set name=value
--set:5:1: error: --set gives a parameter its value
  =5
  ^
  write --set name=value
)");
  CHECK(mistakes(text, with({"delay=1s", "delay=2s"})) ==
        R"(--set:2:1: error: a second value for the same parameter
  delay=2s
  ^^^^^
  give it one
)");
  CHECK(mistakes(text, with({"delay=61s"})) ==
        R"(plan.yaml:7:46: error: delay 61s is too large
    - {on: {role: "${role}"}, network: {delay: "${delay}"}, for: 5s}
                                               ^^^^^^^^^^
  write 1us to 60s; delay is "61s", by --set
)");
}

TEST_CASE("what is wrong in a text with parameters is pointed at within it") {
  CHECK(mistakes(kHead + R"(params: {most: 300ms, metric: p98}
steady_state:
  - name: shop
    http: {url: "http://127.0.0.1/"}
    expect: ["p99 < ${most} ovr 10s", "${metric} < 300ms", "p99 < ${most}0 over 10s"]
method: [{wait: 1s}]
)") == R"(plan.yaml:9:29: error: "ovr 10s" cannot follow here
      expect: ["p99 < ${most} ovr 10s", "${metric} < 300ms", "p99 < ${most}0 over 10s"]
                              ^^^^^^^
  did you mean "over"?
plan.yaml:9:40: error: unknown metric "p98"
      expect: ["p99 < ${most} ovr 10s", "${metric} < 300ms", "p99 < ${most}0 over 10s"]
                                         ^^^^^^^^^
  did you mean "p90"?
plan.yaml:9:67: error: "300ms0" is not a duration
      expect: ["p99 < ${most} ovr 10s", "${metric} < 300ms", "p99 < ${most}0 over 10s"]
                                                                    ^^^^^^^^
  p99 is a duration; write 200ms
)");
}

TEST_CASE("steps of other files stand where they are included") {
  const Folder folder;
  folder.write("plan.yaml", kHead + R"(params: {delay: 1s}
method:
  - wait: 1s
  - include: steps/slow.yaml
  - parallel:
      - include: steps/slow.yaml
      - wait: 3s
  - repeat: {times: 2, steps: [{include: steps/slow.yaml}]}
)");
  folder.write("steps/slow.yaml", R"(- {on: web-1, network: {delay: "${delay}"}, for: 5s}
- include: deeper/wait.yaml
)");
  folder.write("steps/deeper/wait.yaml", "- wait: 2s\n");
  const v1::Plan plan = folder.plan(with({}));
  REQUIRE(plan.method_size() == 5);
  CHECK(plan.method(1).fault().network().delay() == 1'000'000'000);
  CHECK(plan.method(2).wait() == 2'000'000'000);
  CHECK(plan.method(3).parallel().steps_size() == 3);
  CHECK(plan.method(4).repeat().steps_size() == 2);
}

TEST_CASE(
    "what is wrong with another file is told in it, and with its inclusion where that stands") {
  const Folder folder;
  folder.write("plan.yaml", kHead + R"(params: {delay: 1s}
method:
  - include: wrong.yaml
  - include: round.yaml
  - include: ../outside.yaml
  - include: /etc/passwd
  - include: missing.yaml
  - include: link.yaml
  - include: folder
  - include: nodes.yaml
  - {include: wrong.yaml, name: and more}
  - include: 5
)");
  folder.write("wrong.yaml",
               "- {on: web-2, network: {delay: \"${dely}\"}, for: 5s}\n- {wiat: 1s}\n");
  folder.write("round.yaml", "- include: again.yaml\n");
  folder.write("again.yaml", "- wait: 1s\n- include: round.yaml\n");
  folder.write("folder/x", "");
  folder.write("nodes.yaml", "db-1: {}\n");
  fs::create_symlink("/etc/hostname", folder.path() / "link.yaml");
  CHECK(folder.mistakes(with({})) ==
        R"(plan.yaml:9:14: error: this file is not below the plan's folder
    - include: ../outside.yaml
               ^^^^^^^^^^^^^^^
  write its path from there, without a leading /
plan.yaml:10:14: error: this file is not below the plan's folder
    - include: /etc/passwd
               ^^^^^^^^^^^
  write its path from there, without a leading /
plan.yaml:11:14: error: missing.yaml: No such file or directory
    - include: missing.yaml
               ^^^^^^^^^^^^
plan.yaml:12:14: error: link.yaml: leads out of the plan's folder, as every absolute link does
    - include: link.yaml
               ^^^^^^^^^
plan.yaml:13:14: error: folder: is a directory
    - include: folder
               ^^^^^^
plan.yaml:14:14: error: this file is not a list of steps
    - include: nodes.yaml
               ^^^^^^^^^^
  begin each step in it with "- ", without a key around them
plan.yaml:15:6: error: `include` stands alone in its step
    - {include: wrong.yaml, name: and more}
       ^^^^^^^
  the steps of the other file say all that they need
plan.yaml:16:14: error: 5: No such file or directory
    - include: 5
               ^
wrong.yaml:1:8: error: there is no node "web-2"
  - {on: web-2, network: {delay: "${dely}"}, for: 5s}
         ^^^^^
  did you mean "web-1"?
wrong.yaml:1:33: error: there is no parameter "dely"
  - {on: web-2, network: {delay: "${dely}"}, for: 5s}
                                  ^^^^^^^
  did you mean "delay"?
wrong.yaml:2:4: error: unknown key "wiat"
  - {wiat: 1s}
     ^^^^
  did you mean "wait"?
again.yaml:2:12: error: this file includes itself
  - include: round.yaml
             ^^^^^^^^^^
  it would go on for ever
)");
}

TEST_CASE("nodes may stand in a file of their own") {
  const Folder folder;
  folder.write("plan.yaml",
               "plan: a plan\nnodes: {from: fleet.yaml}\nmethod:\n"
               "  - {on: {role: db}, network: {delay: 1s}, for: 5s}\n");
  folder.write("fleet.yaml",
               "db-1: {address: 10.0.0.11:7411, labels: {role: db}}\n"
               "db-2: {address: 10.0.0.12:7411, labels: {role: db}}\n");
  CHECK(folder.plan(with({})).nodes_size() == 2);

  folder.write("fleet.yaml", "db-1: {address: 10.0.0.11, lables: {role: db}}\n");
  const std::string in_the_file = folder.mistakes(with({}));
  CHECK(in_the_file == R"(fleet.yaml:1:17: error: "10.0.0.11" has no port
  db-1: {address: 10.0.0.11, lables: {role: db}}
                  ^^^^^^^^^
  write host:port, such as 127.0.0.1:5432 or [::1]:5432
fleet.yaml:1:28: error: unknown key "lables"
  db-1: {address: 10.0.0.11, lables: {role: db}}
                             ^^^^^^
  did you mean "labels"?
)");
  folder.write("plan.yaml",
               "plan: a plan\nnodes: {from: fleet.yaml, db-9: {}}\nmethod: [{wait: 1s}]\n");
  const std::string in_both = folder.mistakes(with({}));
  CHECK(in_both == R"(plan.yaml:2:9: error: nodes of another file, and some written here
  nodes: {from: fleet.yaml, db-9: {}}
          ^^^^
  write one or the other
)");
}

TEST_CASE("no file of files takes more steps or values than a plan may have") {
  const Folder folder;
  std::string steps;
  for (int n = 0; n < 100; ++n) steps += "- wait: 1s\n";
  folder.write("100.yaml", steps);
  std::string many;
  for (int n = 0; n < 100; ++n) many += "- include: 100.yaml\n";
  folder.write("10000.yaml", many);
  folder.write("plan.yaml", kHead + "method:\n  - include: 10000.yaml\n  - include: 10000.yaml\n");
  CHECK(folder.mistakes(with({})).find("steps") != std::string::npos);
}

TEST_CASE("what parameters and files repeat is no more than a plan may be") {
  const std::string params = kHead + "params: {a: " + std::string(500'000, 'x') + "}\nmethod:\n";
  std::string one = "  - ask: \"";
  for (int i = 0; i < 10; ++i) one += "${a}";
  CHECK(mistakes(params + one + "\"\n").find("too much text") != std::string::npos);
  std::string many;
  for (int i = 0; i < 10; ++i) many += "  - ask: ${a}\n";
  CHECK(mistakes(params + many).find("too much text") != std::string::npos);
  std::string repeated = kHead + "environment: &a " + std::string(500'000, 'x') + "\nmethod:\n";
  for (int i = 0; i < 10; ++i) repeated += "  - ask: *a\n";
  CHECK(mistakes(repeated).find("the aliases repeat too much") != std::string::npos);

  const Folder folder;
  std::string ports = "- {on: db-1, network: {delay: 1ms, to: {ports: [";
  for (int port = 1; port < 20'000; ++port) ports += std::to_string(port) + ",";
  folder.write("ports.yaml", ports + "]}}, for: 1s}\n");
  std::string steps;
  for (int i = 0; i < 6; ++i) steps += "  - include: ports.yaml\n";
  folder.write("plan.yaml", kHead + "method:\n" + steps);
  CHECK(folder.mistakes(with({})).find("error: too many values\n") != std::string::npos);
}

TEST_CASE("among many parameters the nearest is not looked for") {
  std::string text = kHead + "params:\n";
  for (int i = 0; i < 5000; ++i) text += "  parameter" + std::to_string(i) + ": 1\n";
  text += "method:\n  - wait: ${parameter}\n";
  CHECK(mistakes(text) ==
        "plan.yaml:5007:11: error: there is no parameter \"parameter\"\n"
        "    - wait: ${parameter}\n            ^^^^^^^^^^^^\n  it declares 5000 others\n");
}

TEST_CASE("a ramp and a search are written where their number stands") {
  const v1::Plan plan = good(kHead + R"(steady_state:
  - {name: shop, tcp: {address: "127.0.0.1:80"}, expect: [state == open]}
method:
  - {on: db-1, network: {delay: {from: 0ms, to: 400ms, over: 60s}, loss: {from: 10%, to: 1%, over: 30s}}, for: 90s}
  - {on: db-1, network: {rate: {find: {from: 100mbit, to: 1mbit, resolution: 1mbit}}}, for: 10s}
  - {on: db-1, network: {loss: 1%}, pulse: {on: 5s, off: 10s}, for: 60s}
)");
  const v1::Fault& fault = plan.method(0).fault();
  REQUIRE(fault.ramps_size() == 2);
  CHECK(fault.ramps(0).field() == "delay");
  CHECK(fault.ramps(0).from() == 0);
  CHECK(fault.ramps(0).to() == 400e6);
  CHECK(fault.ramps(0).over() == 60'000'000'000);
  CHECK(fault.network().delay() == 400'000'000);
  CHECK(fault.network().loss() == 10);
  CHECK(plan.method(1).fault().search().field() == "rate");
  CHECK(plan.method(1).fault().search().resolution() == 1e6);
  CHECK(plan.method(1).fault().network().rate() == 100'000'000);
  CHECK(plan.method(2).fault().pulse().off() == 10'000'000'000);
}

TEST_CASE("every mistake about a number that changes is told where it is") {
  CHECK(mistakes(kHead + R"(steady_state:
  - {name: shop, tcp: {address: "127.0.0.1:80"}, expect: [state == open]}
method:
  - {on: db-1, network: {delay: {from: 0ms, to: 400ms}}, for: 90s}
  - {on: db-1, network: {delay: {from: 0, to: 400ms, over: 60s}}, for: 90s}
  - {on: db-1, network: {delay: {from: 0ms, too: 400ms, over: 60s}}, for: 90s}
  - {on: db-1, network: {delay: {from: 0ms, to: 2m, over: 60s}}, for: 90s}
  - {on: db-1, network: {delay: {from: 1s, to: 1s, over: 60s}}, for: 90s}
  - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 60s}}, for: 30s}
  - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 60s}, jitter: 10ms}, for: 90s}
  - {on: db-1, network: {rate: {from: 0bit, to: 1mbit, over: 60s}}, for: 90s}
  - {on: db-1, network: {delay: 1s, reorder: 1%, gap: {from: 1, to: 5, over: 1s}}, for: 90s}
  - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2s}}}, for: 90s}
  - {on: db-1, network: {delay: {find: 5ms}}, for: 90s}
  - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}, over: 1s}}, for: 90s}
  - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}}}, for: 90s}
  - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}}}, for: 90s}
  - {on: db-1, network: {delay: 1s}, pulse: {on: 10s, off: 1s}, for: 5s}
  - {on: db-1, kill: {process: {name: x}}, pulse: {on: 10s, off: 1s}}
  - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 1s}}, pulse: {on: 1s, off: 1s}, for: 5s}
  - {wait: 1s, pulse: {on: 1s, off: 1s}}
  - {parallel: [{on: db-1, cpu: {load: {find: {from: 1%, to: 9%, resolution: 1%}}}, for: 1s}]}
)") == R"(plan.yaml:8:33: error: a ramp needs `over`
    - {on: db-1, network: {delay: {from: 0ms, to: 400ms}}, for: 90s}
                                  ^
  such as {from: 0ms, to: 400ms, over: 60s}
plan.yaml:9:40: error: 0 of what?
    - {on: db-1, network: {delay: {from: 0, to: 400ms, over: 60s}}, for: 90s}
                                         ^
  write 0ms
plan.yaml:10:45: error: unknown key "too"
    - {on: db-1, network: {delay: {from: 0ms, too: 400ms, over: 60s}}, for: 90s}
                                              ^^^
  did you mean "to"?
plan.yaml:11:49: error: delay 2m is too large
    - {on: db-1, network: {delay: {from: 0ms, to: 2m, over: 60s}}, for: 90s}
                                                  ^^
  write 1us to 60s
plan.yaml:12:48: error: from and to are the same
    - {on: db-1, network: {delay: {from: 1s, to: 1s, over: 60s}}, for: 90s}
                                                 ^^
plan.yaml:13:33: error: the ramp of delay takes 1m, and the fault ends after 30s
    - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 60s}}, for: 30s}
                                  ^
  write a longer `for`, or a shorter `over`
plan.yaml:14:73: error: jitter is more than delay, which is 0s
    - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 60s}, jitter: 10ms}, for: 90s}
                                                                          ^^^^
  write at most 0s
plan.yaml:15:39: error: rate 0bit is too small
    - {on: db-1, network: {rate: {from: 0bit, to: 1mbit, over: 60s}}, for: 90s}
                                        ^^^^
  write 8bit to 1000gbit
plan.yaml:16:55: error: gap cannot change while the fault lasts
    - {on: db-1, network: {delay: 1s, reorder: 1%, gap: {from: 1, to: 5, over: 1s}}, for: 90s}
                                                        ^
  of network these can: delay, jitter, delay_correlation, loss, loss_correlation, duplicate, duplicate_correlation, corrupt, corrupt_correlation, reorder, reorder_correlation, rate
plan.yaml:17:72: error: the resolution is coarser than the whole range
    - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2s}}}, for: 90s}
                                                                         ^^
  write at most 1s
plan.yaml:18:40: error: find is a mapping
    - {on: db-1, network: {delay: {find: 5ms}}, for: 90s}
                                         ^^^
  write find: {from: 0ms, to: 1s, resolution: 10ms}
plan.yaml:19:34: error: a search and a ramp of one number
    - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}, over: 1s}}, for: 90s}
                                   ^^^^
  write {find: {from: 0ms, to: 1s, resolution: 10ms}} alone
plan.yaml:21:33: error: a second number is looked for
    - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}}}, for: 90s}
                                  ^
  what one run finds is one number: make a plan of each
plan.yaml:22:38: error: the fault lasts 5s, and a pulse of it 10s
    - {on: db-1, network: {delay: 1s}, pulse: {on: 10s, off: 1s}, for: 5s}
                                       ^^^^^
  write a longer `for`, or a shorter `on`
plan.yaml:23:44: error: kill is done at once and cannot come and go
    - {on: db-1, kill: {process: {name: x}}, pulse: {on: 10s, off: 1s}}
                                             ^^^^^
  leave `pulse` out, or put the step into a `repeat`
plan.yaml:24:65: error: a fault that comes and goes, with a number that changes
    - {on: db-1, network: {delay: {from: 0ms, to: 1s, over: 1s}}, pulse: {on: 1s, off: 1s}, for: 5s}
                                                                  ^^^^^
  give the number one value, or leave `pulse` out
plan.yaml:25:16: error: `pulse` is a fault's, and this step has none
    - {wait: 1s, pulse: {on: 1s, off: 1s}}
                 ^^^^^
  leave `pulse` out
plan.yaml:26:40: error: a number is looked for among other steps
    - {parallel: [{on: db-1, cpu: {load: {find: {from: 1%, to: 9%, resolution: 1%}}}, for: 1s}]}
                                         ^
  make it a step of the method itself
)");
}

TEST_CASE("a plan that looks for a number needs a check that says when it is found") {
  CHECK(mistakes(kHead + R"(method:
  - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}}}, for: 90s}
)") == R"(plan.yaml:6:33: error: a number is looked for, and no check says when it is found
    - {on: db-1, network: {delay: {find: {from: 0ms, to: 1s, resolution: 2ms}}}, for: 90s}
                                  ^
  add `steady_state:` with what must break
)");
}

TEST_CASE("a bare parameter within brackets is pointed at") {
  CHECK(mistakes(kHead + "params: {d: 1s}\nmethod:\n  - {wait: ${d}}\n") ==
        R"(plan.yaml:7:12: error: a text with ${ in it needs quotes within brackets
    - {wait: ${d}}
             ^^^^^
  write "${name}"
)");
}

TEST_CASE("files that include each other many times are refused in time") {
  const Folder folder;
  folder.write("plan.yaml", kHead + "method:\n  - include: 0.yaml\n");
  for (int n = 0; n < 40; ++n) {
    const std::string next = "- include: " + std::to_string(n + 1) + ".yaml\n";
    folder.write(std::to_string(n) + ".yaml", next + next);
  }
  folder.write("40.yaml", "[]\n");
  CHECK(folder.mistakes(with({})).find("more than 10000 steps") != std::string::npos);
}

TEST_CASE("what is secret by its name or is a URL with credentials is not shown") {
  CHECK(shown_value("delay", "1s") == "1s");
  CHECK(shown_value("db_password", "x") == "***");
  CHECK(shown_value("API_Token", "x") == "***");
  CHECK(shown_value("url", "http://shop/") == "http://shop/");
  CHECK(shown_value("url", "http://u:p@shop/") == "***");
  CHECK(shown_value("db", "postgresql://db-1/shop?user=me&password=x") == "***");
}

TEST_CASE("a pulse has no more turns than a plan may have steps") {
  CHECK(mistakes(kHead + R"(method:
  - {on: db-1, network: {loss: 1%}, pulse: {on: 10ms, off: 10ms}, for: 24h}
)") == R"(plan.yaml:5:1: error: more than 10000 steps
  method:
  ^^^^^^
  those of a `repeat` count as often as they are walked, and each turn of a `pulse`
)");
}

TEST_CASE("every mistake about repeated and asking steps is told where it is") {
  CHECK(mistakes(kHead + R"(method:
  - repeat: {times: 0, steps: [{wait: 1s}]}
  - repeat: {times: 10000, steps: [{wait: 1s}, {wait: 1s}]}
  - repeat: {steps: []}
  - {repeat: {times: 2, steps: [{wait: 1s}]}, on: db-1}
  - {ask: "", for: 3s}
  - {ask: ready?, wait: 1s}
  - include: ""
)") == R"(plan.yaml:5:1: error: more than 10000 steps
  method:
  ^^^^^^
  those of a `repeat` count as often as they are walked, and each turn of a `pulse`
plan.yaml:6:21: error: times 0 is too small
    - repeat: {times: 0, steps: [{wait: 1s}]}
                      ^
  write 1 to 10000
plan.yaml:8:5: error: repeat needs `times`
    - repeat: {steps: []}
      ^^^^^^
  times: how often
plan.yaml:8:14: error: steps is empty
    - repeat: {steps: []}
               ^^^^^
  give it an item
plan.yaml:9:47: error: `on` says where a fault goes, and this step has none of its own
    - {repeat: {times: 2, steps: [{wait: 1s}]}, on: db-1}
                                                ^^
  write it in the steps below `repeat`
plan.yaml:10:11: error: ask is empty
    - {ask: "", for: 3s}
            ^^
  write ask: has the pager gone off?
plan.yaml:10:15: error: `for` is a fault's, and this step has none
    - {ask: "", for: 3s}
                ^^^
  leave `for` out
plan.yaml:11:19: error: ask and wait in one step
    - {ask: ready?, wait: 1s}
                    ^^^^
  each needs a step of its own
plan.yaml:12:14: error: include is empty
    - include: ""
               ^^
  write include: steps/slow-database.yaml
)");
}

}  // namespace squall::plan
