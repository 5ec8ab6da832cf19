#include <doctest/doctest.h>

#include <string>

#include "experiments/plan/load.h"

// Whole texts: what a person reads is what is tested.

namespace squall::plan {
namespace {

std::string told(const std::string& text) {
  return format_diagnostics(load(text, "plan.yaml").diagnostics, false);
}

TEST_CASE("five mistakes in one file are told at once, each with its place") {
  CHECK(told(R"(plan: five mistakes
nodes: {local: {}}
steady_state:
  - name: shop
    http: {url: "http://127.0.0.1/"}
    expect: [status = 200]
method:
  - on: lcal
    network: {dealy: 200ms}
    for: 10s
  - wait: 100
  - kill: {process: {pid: 1}}
)") ==
        R"(plan.yaml:6:21: error: unknown operator "="
      expect: [status = 200]
                      ^
  did you mean ==?
plan.yaml:8:9: error: there is no node "lcal"
    - on: lcal
          ^^^^
  did you mean "local"?
plan.yaml:9:15: error: unknown key "dealy"
      network: {dealy: 200ms}
                ^^^^^
  did you mean "delay"?
plan.yaml:11:11: error: 100 of what?
    - wait: 100
            ^^^
  write 100ms
plan.yaml:12:27: error: pid 1 is too small
    - kill: {process: {pid: 1}}
                            ^
  write 2 to 4194304
)");
}

TEST_CASE("what is wrong with a dns fault is told where it stands") {
  CHECK(told(R"(plan: names
nodes: {local: {}}
steady_state:
  - name: shop
    http: {url: "http://127.0.0.1/"}
    expect: [status == 200]
method:
  - {dns: {names: ["*.internal"]}, for: 10s}
  - {dns: {answer: nxdomain}, for: 10s}
  - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
  - {dns: {names: ["*"], answer: refused}, for: 10s}
  - {dns: {names: ["*"], addresses: [10.9.9, 10.0.0.0/8]}, for: 10s}
  - {dns: {names: ["*"], answer: servfail, addresses: [10.9.9.9]}, for: 10s}
  - {dns: {names: ["*"], delay: 2m}, for: 10s}
  - dns: {names: ["*"], answer: timeout}
  - {dns: {names: [""], answer: timeout}, for: 10s}
)") ==
        R"(plan.yaml:8:6: error: dns needs answer, delay or addresses
    - {dns: {names: ["*.internal"]}, for: 10s}
       ^^^
  write dns: {names: ["*.internal"], answer: nxdomain}
plan.yaml:9:6: error: dns needs `names`
    - {dns: {answer: nxdomain}, for: 10s}
       ^^^
  names: the names, each exact, or `*.` and a domain for all below it, or `*` for every name
plan.yaml:10:20: error: "api.*" has a `*` where none can stand
    - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
                     ^^^^^^^
  write a name such as api.example.com, "*.internal", or "*"
plan.yaml:10:29: error: "*example.com" has a `*` where none can stand
    - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
                              ^^^^^^^^^^^^^^
  write a name such as api.example.com, "*.internal", or "*"
plan.yaml:10:45: error: "a b" is not a name, nor a pattern of names
    - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
                                              ^^^^^
  write a name such as api.example.com, "*.internal", or "*"
plan.yaml:10:52: error: "10.0.0.1" is an address, which nobody looks up
    - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
                                                     ^^^^^^^^^^
  write a name such as api.example.com, "*.internal", or "*"
plan.yaml:10:64: error: "a..b" is not a name, nor a pattern of names
    - {dns: {names: ["api.*", "*example.com", "a b", "10.0.0.1", "a..b"], answer: nxdomain}, for: 10s}
                                                                 ^^^^^^
  write a name such as api.example.com, "*.internal", or "*"
plan.yaml:11:34: error: unknown answer "refused"
    - {dns: {names: ["*"], answer: refused}, for: 10s}
                                   ^^^^^^^
  it may be forward, nxdomain, servfail or timeout
plan.yaml:12:38: error: "10.9.9" is not an address
    - {dns: {names: ["*"], addresses: [10.9.9, 10.0.0.0/8]}, for: 10s}
                                       ^^^^^^
  write one such as 10.9.9.9 or "2001:db8::9"
plan.yaml:12:46: error: "10.0.0.0/8" is not an address
    - {dns: {names: ["*"], addresses: [10.9.9, 10.0.0.0/8]}, for: 10s}
                                               ^^^^^^^^^^
  write one such as 10.9.9.9 or "2001:db8::9"
plan.yaml:13:44: error: addresses beside answer
    - {dns: {names: ["*"], answer: servfail, addresses: [10.9.9.9]}, for: 10s}
                                             ^^^^^^^^^
  give one of them
plan.yaml:14:33: error: delay 2m is too large
    - {dns: {names: ["*"], delay: 2m}, for: 10s}
                                  ^^
  write 1ms to 60s
plan.yaml:15:5: error: dns does not say how long it lasts
    - dns: {names: ["*"], answer: timeout}
      ^^^
  write `for: 60s` beside `dns`
plan.yaml:16:20: error: an empty text cannot stand here
    - {dns: {names: [""], answer: timeout}, for: 10s}
                     ^^
)");
}

TEST_CASE("every form of a dns fault that the documentation shows is a plan") {
  CHECK(told(R"(plan: names
nodes: {local: {}}
steady_state:
  - name: shop
    http: {url: "http://127.0.0.1/"}
    expect: [status == 200]
method:
  - {dns: {names: ["api.example.com", "*.internal", "_sip._tcp.example.com."], answer: nxdomain}, for: 10s}
  - {dns: {names: ["*"], delay: 2s}, for: 10s}
  - {dns: {names: [db.internal], addresses: [10.9.9.9, "2001:db8::9"], delay: 1ms}, for: 10s}
  - {dns: {names: ["*"], answer: timeout, in: {cgroup: /system.slice}}, for: 10s}
)") == "");
}

TEST_CASE("duplicate keys are told") {
  CHECK(told(R"(plan: a
plan: b
nodes: {local: {}}
steady_state: [{name: a, tcp: {address: "h:1"}, expect: [state == open]}]
method: [{wait: 1s, wait: 2s}]
)") ==
        R"(plan.yaml:2:1: error: "plan" is given twice
  plan: b
  ^^^^
  it stands in line 1 already
plan.yaml:5:21: error: "wait" is given twice
  method: [{wait: 1s, wait: 2s}]
                      ^^^^
  it stands in line 5 already
)");
}

TEST_CASE("a file is one document") {
  CHECK(told(R"(plan: a
---
plan: b
)") ==
        R"(plan.yaml:2:1: error: a second document
  ---
  ^
  one file is one plan
)");
}

TEST_CASE("an unclosed quote is told where it opens") {
  CHECK(told(R"(plan: "abc
nodes: {}
)") ==
        R"(plan.yaml:1:7: error: this quote is never closed
  plan: "abc
        ^^^^
)");
}

TEST_CASE("a key without its colon is told whole") {
  CHECK(told(R"(plan: a
nodes
method: []
)") ==
        R"(plan.yaml:2:1: error: a key needs a colon and a blank behind it
  nodes
  ^^^^^
)");
}

TEST_CASE("behind letters of several bytes the place is still right") {
  CHECK(told("plan: \"\u00e9\u00e9 \\q\"\n") ==
        "plan.yaml:1:13: error: \"\\q\" is not an escape\n"
        "  plan: \"\u00e9\u00e9 \\q\"\n"
        "            ^^\n"
        "  write \\\\ for a backslash, or put the text in single quotes\n");
}

TEST_CASE("an unclosed bracket is told where it opens") {
  CHECK(
      told(R"(plan: a
nodes: {local: {}
method: []
)") ==
      R"(plan.yaml:2:8: error: this { is never closed, or something in it is not separated by a comma
  nodes: {local: {}
         ^
  close it with }
)");
}

TEST_CASE("a tab that indents is told") {
  CHECK(told(R"(nodes:
	local: {}
)") ==
        R"(plan.yaml:2:1: error: a tab indents this line
  \x09local: {}
  ^^^^
  indent with blanks
)");
}

TEST_CASE("an alias to what it stands in is refused") {
  CHECK(told(R"(plan: &a {b: *a}
)") ==
        R"(plan.yaml:1:14: error: an alias to what it stands in
  plan: &a {b: *a}
               ^^
  it would go on for ever
)");
}

TEST_CASE("an alias to nothing is refused") {
  CHECK(told(R"(plan: *nope
)") ==
        R"(plan.yaml:1:7: error: nothing before this is marked &nope
  plan: *nope
        ^^^^^
  an alias repeats what an anchor marked further up
)");
}

TEST_CASE("tags and merge keys are refused") {
  CHECK(told(R"(plan: !foo a
nodes: &n {local: {}}
steady_state: []
method: [{<<: *n}]
)") ==
        R"(plan.yaml:1:7: error: a plan has no tags
  plan: !foo a
        ^^^^
  write the value alone
plan.yaml:3:1: error: steady_state is empty
  steady_state: []
  ^^^^^^^^^^^^
  give it an item, or leave it out
plan.yaml:4:11: error: merge keys are not supported
  method: [{<<: *n}]
            ^^
  write the keys out, or alias a whole value
)");
}

TEST_CASE("a value that YAML would take for something else wants quotes") {
  CHECK(told(R"(plan: a: b
)") ==
        R"(plan.yaml:1:8: error: a mapping cannot begin here
  plan: a: b
         ^
  put a value that holds ": " in quotes; else look at the indentation, and at the line above
)");
}

TEST_CASE("numbers without a unit, and units that are none, are told") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - wait: 100
  - wait: 010ms
  - wait: -1ms
  - wait: 1e400s
  - wait: .5s
  - wait: NaN
  - wait: 0x10ms
  - wait: 1:30
  - wait: 200 parsecs
  - wait: 5 sec
  - wait: 0s
  - wait: 25h
  - wait: ~
  - wait: [1s]
  - wait: 200MS
)") ==
        R"(plan.yaml:8:11: error: 100 of what?
    - wait: 100
            ^^^
  write 100ms
plan.yaml:9:11: error: "010ms" has a leading zero
    - wait: 010ms
            ^^^^^
  write 10ms
plan.yaml:10:11: error: "-1ms" has a sign
    - wait: -1ms
            ^^^^
  write 1ms
plan.yaml:11:11: error: "1e400s" has an exponent
    - wait: 1e400s
            ^^^^^^
  write it out, as 200ms
plan.yaml:12:11: error: ".5s" begins with a point
    - wait: .5s
            ^^^
  write 0.5s
plan.yaml:13:11: error: "NaN" is not a duration
    - wait: NaN
            ^^^
  write 200ms
plan.yaml:14:11: error: "0x10ms" is not a duration
    - wait: 0x10ms
            ^^^^^^
  write 200ms
plan.yaml:15:11: error: "1:30" is not a duration
    - wait: 1:30
            ^^^^
  write 200ms
plan.yaml:16:11: error: unknown unit "parsecs"
    - wait: 200 parsecs
            ^^^^^^^^^^^
  write 200 with ns, us, ms, s, m or h
plan.yaml:17:11: error: "sec" is not a unit here
    - wait: 5 sec
            ^^^^^
  write 5s
plan.yaml:18:11: error: wait 0s is too small
    - wait: 0s
            ^^
  write 1ms to 24h
plan.yaml:19:11: error: wait 25h is too large
    - wait: 25h
            ^^^
  write 1ms to 24h
plan.yaml:20:11: error: wait has no value
    - wait: ~
            ^
  write wait: 10s
plan.yaml:21:11: error: wait is one value
    - wait: [1s]
            ^
  write wait: 10s
plan.yaml:22:11: error: "MS" is not a unit here
    - wait: 200MS
            ^^^^^
  write 200ms
)");
}

TEST_CASE("percentages keep their bounds") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {network: {loss: 1}, for: 1s}
  - {network: {loss: 0%}, for: 1s}
  - {network: {loss: 101%}, for: 1s}
  - {network: {loss: 0.00000001%}, for: 1s}
  - {network: {loss: NaN%}, for: 1s}
)") ==
        R"(plan.yaml:8:22: error: 1 of what?
    - {network: {loss: 1}, for: 1s}
                       ^
  write 1%
plan.yaml:9:22: error: loss 0% is too small
    - {network: {loss: 0%}, for: 1s}
                       ^^
  write 0.0001% to 100%
plan.yaml:10:22: error: "101%" is more than the whole
    - {network: {loss: 101%}, for: 1s}
                       ^^^^
  write at most 100%
plan.yaml:11:22: error: loss 0.00000001% is too small
    - {network: {loss: 0.00000001%}, for: 1s}
                       ^^^^^^^^^^^
  write 0.0001% to 100%
plan.yaml:12:22: error: "NaN%" is not a percentage
    - {network: {loss: NaN%}, for: 1s}
                       ^^^^
  write 1%
)");
}

TEST_CASE("known words at the wrong level are sent to the right one") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
for: 10s
timeout: 1s
method:
  - {delay: 1ms, for: 1s}
  - {network: {delay: 1ms, ports: [1], for: 5s}}
  - {ports: [1]}
  - {network: {delay: 1ms, to: {ports: [1], for: 2s}}, for: 1s}
)") ==
        R"(plan.yaml:7:1: error: unknown key "for"
  for: 10s
  ^^^
  `for` belongs to a step, inside `method`
plan.yaml:8:1: error: unknown key "timeout"
  timeout: 1s
  ^^^^^^^
  `timeout` belongs to a check, inside `steady_state`
plan.yaml:10:6: error: unknown key "delay"
    - {delay: 1ms, for: 1s}
       ^^^^^
  `delay` belongs inside `network`
plan.yaml:11:28: error: unknown key "ports"
    - {network: {delay: 1ms, ports: [1], for: 5s}}
                             ^^^^^
  `ports` belongs inside `to`
plan.yaml:11:40: error: unknown key "for"
    - {network: {delay: 1ms, ports: [1], for: 5s}}
                                         ^^^
  `for` belongs to the step, beside `network`
plan.yaml:12:6: error: unknown key "ports"
    - {ports: [1]}
       ^^^^^
  `ports` belongs inside `to`, inside `network`
plan.yaml:13:45: error: unknown key "for"
    - {network: {delay: 1ms, to: {ports: [1], for: 2s}}, for: 1s}
                                              ^^^
  `for` belongs to the step, beside `network`
)");
}

TEST_CASE("words of other versions are unknown here") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
params: {a: 1}
watch: [{name: x}]
method:
  - gremlin: {size: 1GiB}
  - ask: has it
  - repeat: {times: 3}
)") ==
        R"(plan.yaml:7:10: warning: nothing in the plan uses a
  params: {a: 1}
           ^
  write ${a} where its value belongs
plan.yaml:8:1: error: unknown key "watch"
  watch: [{name: x}]
  ^^^^^
  known here: plan, hypothesis, environment, tags, nodes, steady_state, method, recovery, lease, seed, params, expect, load
plan.yaml:10:5: error: unknown key "gremlin"
    - gremlin: {size: 1GiB}
      ^^^^^^^
  known here: name, on, pick, for, pulse, network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask, include
plan.yaml:12:5: error: repeat needs `steps`
    - repeat: {times: 3}
      ^^^^^^
  steps: the steps, one after another
)");
}

TEST_CASE("a step does exactly one thing") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {}
  - name: x
  - {cpu: {load: 1%}, kill: {process: {name: x}}}
  - {wait: 1s, network: {delay: 1s}, for: 1s}
  - {wait: 1s, for: 2s}
  - hello
  - network: fast
    for: 1s
  - parallel: []
  - parallel: {wait: 1s}
  - {wait: 1s, on: local, pick: 1}
  - {on: local, parallel: [{wait: 1s}]}
)") ==
        R"(plan.yaml:8:5: error: the step does nothing
    - {}
      ^
  write network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask or include
plan.yaml:9:5: error: the step does nothing
    - name: x
      ^^^^
  write network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask or include
plan.yaml:10:23: error: two faults in one step: cpu and kill
    - {cpu: {load: 1%}, kill: {process: {name: x}}}
                        ^^^^
  each needs a step of its own
plan.yaml:11:16: error: wait and network in one step
    - {wait: 1s, network: {delay: 1s}, for: 1s}
                 ^^^^^^^
  each needs a step of its own
plan.yaml:12:16: error: `for` is a fault's, and this step has none
    - {wait: 1s, for: 2s}
                 ^^^
  leave `for` out
plan.yaml:13:5: error: a step is a mapping
    - hello
      ^^^^^
  known in it: name, on, pick, for, pulse, network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask, include
plan.yaml:14:14: error: network is a mapping
    - network: fast
               ^^^^
  write network: {delay: 200ms, jitter: 20ms, to: {ports: [5432]}}
plan.yaml:16:5: error: parallel is empty
    - parallel: []
      ^^^^^^^^
  give it an item, or leave it out
plan.yaml:17:15: error: parallel is a list
    - parallel: {wait: 1s}
                ^
  begin each of its items with "- "
plan.yaml:18:16: error: `on` says where a fault goes, and this step has none of its own
    - {wait: 1s, on: local, pick: 1}
                 ^^
  leave `on` out
plan.yaml:18:27: error: `pick` says where a fault goes, and this step has none of its own
    - {wait: 1s, on: local, pick: 1}
                            ^^^^
  leave `pick` out
plan.yaml:19:6: error: `on` says where a fault goes, and this step has none of its own
    - {on: local, parallel: [{wait: 1s}]}
       ^^
  write it in the steps below `parallel`
)");
}

TEST_CASE("a lasting fault says how long, and one that is done at once does not") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - network: {delay: 1s}
  - {cpu: {cores: 1}, for: 5s}
  - {kill: {process: {name: x}}, for: 5s}
)") ==
        R"(plan.yaml:8:5: error: network does not say how long it lasts
    - network: {delay: 1s}
      ^^^^^^^
  write `for: 60s` beside `network`
plan.yaml:9:6: error: cpu needs `load`
    - {cpu: {cores: 1}, for: 5s}
       ^^^
  load: share of each chosen core that is burnt, or of all of them together
plan.yaml:10:39: error: kill is done at once and does not last
    - {kill: {process: {name: x}}, for: 5s}
                                        ^^
  leave `for` out; only with respawn it lasts
)");
}

TEST_CASE("words of a list are suggested") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {network: {delay: 1ms, direction: ingres}, for: 1s}
  - {network: {delay: 1ms, direction: sideways}, for: 1s}
  - kill: {process: {name: x}, signal: SIGKILL}
  - kill: {process: {name: x}, signal: 9}
)") ==
        R"(plan.yaml:8:39: error: unknown direction "ingres"
    - {network: {delay: 1ms, direction: ingres}, for: 1s}
                                        ^^^^^^
  did you mean "ingress"?
plan.yaml:9:39: error: unknown direction "sideways"
    - {network: {delay: 1ms, direction: sideways}, for: 1s}
                                        ^^^^^^^^
  it may be egress, ingress or both
plan.yaml:10:40: error: unknown signal "SIGKILL"
    - kill: {process: {name: x}, signal: SIGKILL}
                                         ^^^^^^^
  did you mean "KILL"?
plan.yaml:11:40: error: unknown signal "9"
    - kill: {process: {name: x}, signal: 9}
                                         ^
  it may be KILL, TERM, INT, HUP, QUIT, USR1, USR2 or ABRT
)");
}

TEST_CASE("processes are named so that they cannot be everything") {
  CHECK(
      told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - kill: {process: {}}
  - kill: {}
  - kill: {process: {pid: 1}}
  - kill: {process: {pid: -1}}
  - kill: {process: {pid: 4294967296}}
  - kill: {process: {name: averyverylongname}}
  - kill: {process: {port: 0}}
)") ==
      R"(plan.yaml:8:12: error: process needs name, cmdline, pid, port, unit, cgroup, container, user or children_of
    - kill: {process: {}}
             ^^^^^^^
  write process: {name: nginx}
plan.yaml:9:5: error: kill needs `process`
    - kill: {}
      ^^^^
  process: which processes
plan.yaml:10:27: error: pid 1 is too small
    - kill: {process: {pid: 1}}
                            ^
  write 2 to 4194304
plan.yaml:11:27: error: "-1" is not a whole number
    - kill: {process: {pid: -1}}
                            ^^
  write digits only
plan.yaml:12:27: error: pid 4294967296 is too large
    - kill: {process: {pid: 4294967296}}
                            ^^^^^^^^^^
  write 2 to 4194304
plan.yaml:13:28: error: the kernel keeps 15 bytes of a program's name; "averyverylongname" has 17
    - kill: {process: {name: averyverylongname}}
                             ^^^^^^^^^^^^^^^^^
  write "averyverylongna"
plan.yaml:14:28: error: port 0 is too small
    - kill: {process: {port: 0}}
                             ^
  write 1 to 65535
)");
}

TEST_CASE("networks and ports are what they can be") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {network: {delay: 1s, to: {cidrs: [10.0.0.1/8]}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: [300.1.1.1]}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: ["::1/129"]}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: [10.0.0.0/33]}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: [010.0.0.1]}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: ["fe80::1/64"]}}, for: 1s}
  - {network: {delay: 1s, to: {ports: [0, 65536]}}, for: 1s}
  - {network: {delay: 1s, to: {ports: [20-10, http]}}, for: 1s}
  - {network: {delay: 1s, to: {ports: 5432}}, for: 1s}
  - {network: {delay: 1s, to: {}}, for: 1s}
  - {network: {delay: 1s, to: {cidrs: []}}, for: 1s}
  - {network: {delay: 1s, to: 5432}, for: 1s}
)") ==
        R"(plan.yaml:8:40: error: 10.0.0.1/8 has bits behind its prefix
    - {network: {delay: 1s, to: {cidrs: [10.0.0.1/8]}}, for: 1s}
                                         ^^^^^^^^^^
  write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address
plan.yaml:9:40: error: "300.1.1.1" is not an IP address
    - {network: {delay: 1s, to: {cidrs: [300.1.1.1]}}, for: 1s}
                                         ^^^^^^^^^
  write 10.0.0.0/8, 2001:db8::/32 or one address
plan.yaml:10:40: error: /129 is longer than an IPv6 address
    - {network: {delay: 1s, to: {cidrs: ["::1/129"]}}, for: 1s}
                                         ^^^^^^^^^
  write a prefix from /0 to /128
plan.yaml:11:40: error: /33 is longer than an IPv4 address
    - {network: {delay: 1s, to: {cidrs: [10.0.0.0/33]}}, for: 1s}
                                         ^^^^^^^^^^^
  write a prefix from /0 to /32
plan.yaml:12:40: error: "010.0.0.1" is not an IP address
    - {network: {delay: 1s, to: {cidrs: [010.0.0.1]}}, for: 1s}
                                         ^^^^^^^^^
  write 10.0.0.0/8, 2001:db8::/32 or one address
plan.yaml:13:40: error: fe80::1/64 has bits behind its prefix
    - {network: {delay: 1s, to: {cidrs: ["fe80::1/64"]}}, for: 1s}
                                         ^^^^^^^^^^^^
  write fe80::/64 for the network, or fe80::1 for the one address
plan.yaml:14:40: error: there is no port 0
    - {network: {delay: 1s, to: {ports: [0, 65536]}}, for: 1s}
                                         ^
  write a number from 1 to 65535
plan.yaml:14:43: error: there is no port 65536
    - {network: {delay: 1s, to: {ports: [0, 65536]}}, for: 1s}
                                            ^^^^^
  write a number from 1 to 65535
plan.yaml:15:40: error: 20-10 runs backwards
    - {network: {delay: 1s, to: {ports: [20-10, http]}}, for: 1s}
                                         ^^^^^
  write 10-20
plan.yaml:15:47: error: "http" is not a port
    - {network: {delay: 1s, to: {ports: [20-10, http]}}, for: 1s}
                                                ^^^^
  write 443 or 8000-8010
plan.yaml:16:39: error: ports is a list
    - {network: {delay: 1s, to: {ports: 5432}}, for: 1s}
                                        ^^^^
  write ports: [5432]
plan.yaml:17:27: error: to needs hosts, cidrs, ports or protocols
    - {network: {delay: 1s, to: {}}, for: 1s}
                            ^^
  write to: {cidrs: [10.0.0.0/8], ports: [443, 8000-8010]}
plan.yaml:18:32: error: cidrs is empty
    - {network: {delay: 1s, to: {cidrs: []}}, for: 1s}
                                 ^^^^^
  give it an item, or leave it out
plan.yaml:19:31: error: to is a mapping
    - {network: {delay: 1s, to: 5432}, for: 1s}
                                ^^^^
  write to: {cidrs: [10.0.0.0/8], ports: [443, 8000-8010]}
)");
}

TEST_CASE("netem's options, whom they hit and who is parted are what they can be") {
  CHECK(told(R"(plan: t
nodes: {a: {address: "10.0.0.1:7411", labels: {role: db}}, b: {address: "10.0.0.2:7411", labels: {role: db}}, c: {address: "10.0.0.3:7411"}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {on: a, network: {loss: 1%, gilbert_elliott: {p: 1%, r: 10%}}, for: 1s}
  - {on: a, network: {delay: 1s, distribution: normal}, for: 1s}
  - {on: a, network: {delay: 1s, jitter: 1s, distribution: bell}, for: 1s}
  - {on: a, network: {reorder: 5%, delay: 1ms, gap: 0}, for: 1s}
  - {on: a, network: {rate: 10}, for: 1s}
  - {on: a, network: {rate: 10mbit, packet_overhead: -2000}, for: 1s}
  - {on: a, network: {delay: 1s, cell_size: 48}, for: 1s}
  - {on: a, network: {delay: 1s, to: {hosts: [10.0.0.1, "a b"], protocols: [sctp, 256]}}, for: 1s}
  - {on: a, network: {delay: 1s, from: {ports: [1]}, to: {ports: [2]}}, for: 1s}
  - {on: a, network: {delay: 1s, connections: 10%, packets: 5%}, for: 1s}
  - {on: a, network: {delay: 1s, in: {cgroup: system.slice, unit: nginx}}, for: 1s}
  - {on: a, network: {slot: {min_delay: 1ms, delay: 2ms}}, for: 1s}
  - {partition: {between: [a]}, for: 1s}
  - {partition: {between: [a, {role: db}]}, for: 1s}
  - {partition: {between: [a, nobody]}, for: 1s}
  - {partition: {shape: ring}, for: 1s}
  - {partition: {shape: halves, between: [a, b]}, for: 1s}
  - {on: a, partition: {between: [a, b]}, for: 1s}
  - {partition: {shape: halves}}
)") == R"(plan.yaml:8:29: error: loss beside gilbert_elliott
    - {on: a, network: {loss: 1%, gilbert_elliott: {p: 1%, r: 10%}}, for: 1s}
                              ^^
  give one of them
plan.yaml:9:48: error: distribution without jitter
    - {on: a, network: {delay: 1s, distribution: normal}, for: 1s}
                                                 ^^^^^^
  give a jitter as well
plan.yaml:10:60: error: unknown distribution "bell"
    - {on: a, network: {delay: 1s, jitter: 1s, distribution: bell}, for: 1s}
                                                             ^^^^
  it may be uniform, normal, pareto or paretonormal
plan.yaml:11:53: error: gap 0 is too small
    - {on: a, network: {reorder: 5%, delay: 1ms, gap: 0}, for: 1s}
                                                      ^
  write 1 to 1000000
plan.yaml:12:29: error: 10 of what?
    - {on: a, network: {rate: 10}, for: 1s}
                              ^^
  write 10mbit
plan.yaml:13:54: error: packet_overhead -2000 is too small
    - {on: a, network: {rate: 10mbit, packet_overhead: -2000}, for: 1s}
                                                       ^^^^^
  write -1500 to 1500
plan.yaml:14:45: error: cell_size without rate
    - {on: a, network: {delay: 1s, cell_size: 48}, for: 1s}
                                              ^^
  give a rate as well
plan.yaml:15:47: error: "10.0.0.1" is not a host name
    - {on: a, network: {delay: 1s, to: {hosts: [10.0.0.1, "a b"], protocols: [sctp, 256]}}, for: 1s}
                                                ^^^^^^^^
  write a name such as db.internal; addresses go into `cidrs`
plan.yaml:15:57: error: "a b" is not a host name
    - {on: a, network: {delay: 1s, to: {hosts: [10.0.0.1, "a b"], protocols: [sctp, 256]}}, for: 1s}
                                                          ^^^^^
  write a name such as db.internal; addresses go into `cidrs`
plan.yaml:15:77: error: "sctp" is not a protocol
    - {on: a, network: {delay: 1s, to: {hosts: [10.0.0.1, "a b"], protocols: [sctp, 256]}}, for: 1s}
                                                                              ^^^^
  write tcp, udp, icmp, icmpv6, or a number from 0 to 255
plan.yaml:15:83: error: "256" is not a protocol
    - {on: a, network: {delay: 1s, to: {hosts: [10.0.0.1, "a b"], protocols: [sctp, 256]}}, for: 1s}
                                                                                    ^^^
  write tcp, udp, icmp, icmpv6, or a number from 0 to 255
plan.yaml:16:34: error: from beside to
    - {on: a, network: {delay: 1s, from: {ports: [1]}, to: {ports: [2]}}, for: 1s}
                                   ^^^^
  give one of them
plan.yaml:17:47: error: connections beside packets
    - {on: a, network: {delay: 1s, connections: 10%, packets: 5%}, for: 1s}
                                                ^^^
  give one of them
plan.yaml:18:47: error: "system.slice" is not the path of a control group
    - {on: a, network: {delay: 1s, in: {cgroup: system.slice, unit: nginx}}, for: 1s}
                                                ^^^^^^^^^^^^
  write it from the root, such as /system.slice/nginx.service
plan.yaml:18:67: error: "nginx" is not a unit's name
    - {on: a, network: {delay: 1s, in: {cgroup: system.slice, unit: nginx}}, for: 1s}
                                                                    ^^^^^
  write it with its type, such as nginx.service
plan.yaml:19:41: error: min_delay beside delay
    - {on: a, network: {slot: {min_delay: 1ms, delay: 2ms}}, for: 1s}
                                          ^^^
  give one of them
plan.yaml:20:27: error: a partition is between two groups, and this is one
    - {partition: {between: [a]}, for: 1s}
                            ^
  write between: [one, other]
plan.yaml:21:31: error: the node a is in two of the groups
    - {partition: {between: [a, {role: db}]}, for: 1s}
                                ^
  no node can be parted from itself
plan.yaml:22:31: error: there is no node "nobody"
    - {partition: {between: [a, nobody]}, for: 1s}
                                ^^^^^^
  there are a, b, c
plan.yaml:23:6: error: a ring needs 4 nodes, and there are 3
    - {partition: {shape: ring}, for: 1s}
       ^^^^^^^^^
plan.yaml:24:33: error: between beside shape
    - {partition: {shape: halves, between: [a, b]}, for: 1s}
                                  ^^^^^^^
  give one of them
plan.yaml:25:6: error: `on` beside `between`
    - {on: a, partition: {between: [a, b]}, for: 1s}
       ^^
  `between` says which nodes are meant: leave `on` out
plan.yaml:26:6: error: partition does not say how long it lasts
    - {partition: {shape: halves}}
       ^^^^^^^^^
  write `for: 60s` beside `partition`
)");
}

TEST_CASE("what a network fault does is not nothing and no contradiction") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {network: {delay: 1s, interface: a/b}, for: 1s}
  - {network: {delay: 1s, interface: averylonginterface}, for: 1s}
  - {network: {delay: 1s, interface: a b}, for: 1s}
  - {network: {delay: 1s, jitter: 2s}, for: 1s}
  - {network: {jitter: 2s, loss: 1%}, for: 1s}
  - {network: {delay: 61s}, for: 1s}
  - {network: {to: {ports: [1]}}, for: 1s}
)") ==
        R"(plan.yaml:8:38: error: "a/b" cannot be an interface's name
    - {network: {delay: 1s, interface: a/b}, for: 1s}
                                       ^^^
  write it as `ip link` shows it, such as eth0
plan.yaml:9:38: error: an interface's name has at most 15 bytes; "averylonginterface" has 18
    - {network: {delay: 1s, interface: averylonginterface}, for: 1s}
                                       ^^^^^^^^^^^^^^^^^^
plan.yaml:10:38: error: "a b" cannot be an interface's name
    - {network: {delay: 1s, interface: a b}, for: 1s}
                                       ^^^
  write it as `ip link` shows it, such as eth0
plan.yaml:11:35: error: jitter is more than delay, which is 1s
    - {network: {delay: 1s, jitter: 2s}, for: 1s}
                                    ^^
  write at most 1s
plan.yaml:12:24: error: jitter without delay
    - {network: {jitter: 2s, loss: 1%}, for: 1s}
                         ^^
  give a delay as well
plan.yaml:13:23: error: delay 61s is too large
    - {network: {delay: 61s}, for: 1s}
                        ^^^
  write 1us to 60s
plan.yaml:14:6: error: network needs delay, loss, gilbert_elliott, four_state, duplicate, corrupt, rate or slot
    - {network: {to: {ports: [1]}}, for: 1s}
       ^^^^^^^
  write network: {delay: 200ms, jitter: 20ms, to: {ports: [5432]}}
)");
}

TEST_CASE("fields that are right alone and not together are told") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {network: {four_state: {p13: 60%, p14: 50%, p31: 20%}}, for: 1s}
  - {network: {four_state: {p13: 60%, p31: 80%, p32: 30%}}, for: 1s}
  - {kill: {process: {name: a}, grace: 1s}}
  - {kill: {process: {name: a}, signal: TERM, respawn: watch, grace: 5s}, for: 5s}
  - {kill: {process: {pid: 12}, respawn: watch}, for: 5s}
)") ==
        R"(plan.yaml:8:34: error: p13 and p14 are 110% together
    - {network: {four_state: {p13: 60%, p14: 50%, p31: 20%}}, for: 1s}
                                   ^^^
  write at most 50%
plan.yaml:9:44: error: p31 and p32 are 110% together
    - {network: {four_state: {p13: 60%, p31: 80%, p32: 30%}}, for: 1s}
                                             ^^^
  write at most 70%
plan.yaml:10:40: error: grace: nothing is left to wait for after KILL
    - {kill: {process: {name: a}, grace: 1s}}
                                         ^^
  write signal: TERM
plan.yaml:11:80: error: kill lasts no longer than its grace, which is 5s
    - {kill: {process: {name: a}, signal: TERM, respawn: watch, grace: 5s}, for: 5s}
                                                                                 ^^
  write a longer `for`
plan.yaml:12:42: error: respawn: what takes the place of a process has another pid
    - {kill: {process: {pid: 12}, respawn: watch}, for: 5s}
                                           ^^^^^
  choose it by name, port or unit
)");
}

TEST_CASE("steps name nodes that there are") {
  CHECK(told(R"(plan: t
nodes:
  db-1: {address: "a:1", labels: {role: db, zone: a}}
  db-2: {address: "b:1", labels: {role: db, zone: a}}
  web: {address: "c:1", labels: {role: web, zone: b}}
steady_state: [{name: up, tcp: {address: "h:1"}, expect: [state == open]}]
method:
  - {on: db-3, kill: {process: {name: x}}}
  - {on: elsewhere, kill: {process: {name: x}}}
  - {on: {}, kill: {process: {name: x}}}
  - {kill: {process: {name: x}}}
  - {on: {rol: db}, kill: {process: {name: x}}}
  - {on: {role: dbb}, kill: {process: {name: x}}}
  - {on: {role: db, zone: b}, kill: {process: {name: x}}}
  - {on: {role: db}, pick: 3, kill: {process: {name: x}}}
  - {on: all, pick: 0%, kill: {process: {name: x}}}
  - {on: [a, b], pick: some, kill: {process: {name: x}}}
  - {on: {all: yes}, kill: {process: {name: x}}}
  - parallel: [{on: nobody, kill: {process: {name: x}}}]
)") ==
        R"(plan.yaml:8:10: error: there is no node "db-3"
    - {on: db-3, kill: {process: {name: x}}}
           ^^^^
  did you mean "db-1"?
plan.yaml:9:10: error: there is no node "elsewhere"
    - {on: elsewhere, kill: {process: {name: x}}}
           ^^^^^^^^^
  there are db-1, db-2, web
plan.yaml:10:10: error: an empty selector
    - {on: {}, kill: {process: {name: x}}}
           ^
  write `all` for every node
plan.yaml:11:6: error: on which of the nodes?
    - {kill: {process: {name: x}}}
       ^^^^
  write `on: db-1`, or labels, or `on: all`
plan.yaml:12:11: error: no node has a label "rol"
    - {on: {rol: db}, kill: {process: {name: x}}}
            ^^^
  did you mean "role"?
plan.yaml:13:17: error: no node has the label role: dbb
    - {on: {role: dbb}, kill: {process: {name: x}}}
                  ^^^
  did you mean "db"?
plan.yaml:14:10: error: no node has all these labels at once
    - {on: {role: db, zone: b}, kill: {process: {name: x}}}
           ^
plan.yaml:15:28: error: 3 nodes are to be picked, and only 2 match
    - {on: {role: db}, pick: 3, kill: {process: {name: x}}}
                             ^
plan.yaml:16:21: error: "0%" is not a share of the nodes
    - {on: all, pick: 0%, kill: {process: {name: x}}}
                      ^^
  write a percentage above 0% and up to 100%
plan.yaml:17:10: error: a selector is not a list
    - {on: [a, b], pick: some, kill: {process: {name: x}}}
           ^
  write one node's name, or labels that all the nodes bear
plan.yaml:17:24: error: "some" is not a number of nodes
    - {on: [a, b], pick: some, kill: {process: {name: x}}}
                         ^^^^
  write all, 1, 50%, minority or majority
plan.yaml:18:16: error: all can only be true
    - {on: {all: yes}, kill: {process: {name: x}}}
                 ^^^
  write {all: true}
plan.yaml:19:21: error: there is no node "nobody"
    - parallel: [{on: nobody, kill: {process: {name: x}}}]
                      ^^^^^^
  there are db-1, db-2, web
)");
}

TEST_CASE("nodes have addresses, each its own") {
  CHECK(told(R"(plan: t
nodes:
  a b: {}
  c: {address: x}
  d: {address: "h:0"}
  e: {address: "unix:rel"}
  f: {address: "[::1]:7411"}
  g: {address: "[::1]:7411"}
  h: {labels: {role: [db]}}
  i: {adress: "h:1"}
  j: 10.0.0.1:1
  k: {}
  l:
steady_state: [{name: up, tcp: {address: "h:1"}, expect: [state == open]}]
method: [{wait: 1s}]
)") ==
        R"(plan.yaml:3:3: error: "a b" cannot be a name here
    a b: {}
    ^^^
  write it with letters, digits and '.', '_' or '-'
plan.yaml:4:16: error: "x" has no port
    c: {address: x}
                 ^
  write host:port, such as 127.0.0.1:5432 or [::1]:5432
plan.yaml:5:16: error: "0" is not a port
    d: {address: "h:0"}
                 ^^^^^
  write a number from 1 to 65535
plan.yaml:6:16: error: "unix:rel" is not a whole path
    e: {address: "unix:rel"}
                 ^^^^^^^^^^
  write unix:/path
plan.yaml:8:16: error: "g" has the address of "f"
    g: {address: "[::1]:7411"}
                 ^^^^^^^^^^^^
  two names for one node would count it twice
plan.yaml:9:22: error: "role" is not a text
    h: {labels: {role: [db]}}
                       ^
plan.yaml:10:7: error: unknown key "adress"
    i: {adress: "h:1"}
        ^^^^^^
  did you mean "address"?
plan.yaml:11:6: error: a node is a mapping
    j: 10.0.0.1:1
       ^^^^^^^^^^
  write db-1: {address: 10.0.0.11:7411, labels: {role: db}}
plan.yaml:13:3: error: a second node without an address, beside "k"
    l:
    ^
  only one node can be the machine that squall itself runs on; give this one an address
)");
}

TEST_CASE("what is required is asked for") {
  CHECK(told(R"(hypothesis: x
)") ==
        R"(plan.yaml:1:1: error: the plan needs `plan`
  hypothesis: x
  ^^^^^^^^^^
  plan: the title
plan.yaml:1:1: error: the plan needs `nodes`
  hypothesis: x
  ^^^^^^^^^^
  nodes: where faults are injected, by name
plan.yaml:1:1: error: the plan needs `method`
  hypothesis: x
  ^^^^^^^^^^
  method: the steps, one after another
plan.yaml:1:1: error: no steady state: nothing would see what the faults do
  hypothesis: x
  ^^^^^^^^^^
  add `steady_state:` with at least one check, or run with --unobserved
)");
}

TEST_CASE("a plan without checks is refused") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
method: [{wait: 1s}]
)") ==
        R"(plan.yaml:3:1: error: no steady state: nothing would see what the faults do
  method: [{wait: 1s}]
  ^^^^^^
  add `steady_state:` with at least one check, or run with --unobserved
)");
}

TEST_CASE("checks can be asked") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    http: {url: "ftp://x/"}
    expect: [status == 200]
  - name: a
    http: {url: "http://x/"}
    expect: [status == 200]
    timeout: 2s
  - http: {url: "http://x/", timeout: 1s, headers: {"a b": c, x: "1\r\n2"}}
    expect: []
    every: 1ms
  - name: b
    http: {url: "shop"}
    tcp: {address: "x"}
    on_breach: stop
  - name: c
    expect: state == open
    tcp: {address: "x:99999"}
  - name: d
    exec: {run: "pg_isready -q"}
    expect: [exit == 0]
  - name: e
    exec: {run: [""]}
    expect: [exit == 0]
    no_data: yes
  - graphite: {url: "http://x", query: y}
    name: f
    expect: [value > 1]
method:
  - wait: 1s
)") ==
        R"(plan.yaml:5:17: error: "ftp" is not a scheme that can be asked
      http: {url: "ftp://x/"}
                  ^^^^^^^^^^
  write http:// or https://
plan.yaml:7:11: error: a second check is called "a"
    - name: a
            ^
  the first stands in line 4
plan.yaml:10:14: error: timeout is more than every, which is 1s
      timeout: 2s
               ^^
  write at most 1s
plan.yaml:11:5: error: a check needs `name`
    - http: {url: "http://x/", timeout: 1s, headers: {"a b": c, x: "1\r\n2"}}
      ^^^^
  name: what the report calls it
plan.yaml:11:30: error: unknown key "timeout"
    - http: {url: "http://x/", timeout: 1s, headers: {"a b": c, x: "1\r\n2"}}
                               ^^^^^^^
  `timeout` belongs to the check, beside `http`
plan.yaml:11:53: error: "a b" cannot be a name here
    - http: {url: "http://x/", timeout: 1s, headers: {"a b": c, x: "1\r\n2"}}
                                                      ^^^^^
  write it with letters, digits and '-'
plan.yaml:11:66: error: a header has one line
    - http: {url: "http://x/", timeout: 1s, headers: {"a b": c, x: "1\r\n2"}}
                                                                   ^^^^^^^^
plan.yaml:12:5: error: expect is empty
      expect: []
      ^^^^^^
  give it an item
plan.yaml:13:12: error: every 1ms is too small
      every: 1ms
             ^^^
  write 10ms to 1h
plan.yaml:14:5: error: a check needs `expect`
    - name: b
      ^^^^
  expect: what must hold, all of it
plan.yaml:15:17: error: "shop" is not a URL
      http: {url: "shop"}
                  ^^^^^^
  write http://host:port/path
plan.yaml:16:5: error: two check kinds in one check: http and tcp
      tcp: {address: "x"}
      ^^^
  each needs a check of its own
plan.yaml:16:20: error: "x" has no port
      tcp: {address: "x"}
                     ^^^
  write host:port, such as 127.0.0.1:5432 or [::1]:5432
plan.yaml:17:16: error: unknown on_breach "stop"
      on_breach: stop
                 ^^^^
  it may be abort or note
plan.yaml:19:13: error: expect is a list
      expect: state == open
              ^^^^^^^^^^^^^
  write expect: [state == open]
plan.yaml:20:20: error: "99999" is not a port
      tcp: {address: "x:99999"}
                     ^^^^^^^^^
  write a number from 1 to 65535
plan.yaml:22:17: error: run is a list
      exec: {run: "pg_isready -q"}
                  ^^^^^^^^^^^^^^^
  write run: [pg_isready -q]
plan.yaml:25:17: error: run names no program
      exec: {run: [""]}
                  ^
  write run: [program, argument]
plan.yaml:27:14: error: unknown no_data "yes"
      no_data: yes
               ^^^
  it may be breach or ok
plan.yaml:28:5: error: unknown key "graphite"
    - graphite: {url: "http://x", query: y}
      ^^^^^^^^
  known here: name, every, timeout, expect, on_breach, no_data, from, of, held_again_after, http, tcp, exec, grpc, dns, icmp, prometheus, process, log, postgres, redis
)");
}

TEST_CASE("checks over the network are told wrong where they are") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    http: {url: "http://x/", value: depth, resolve: shop, unix: x.sock}
    expect: [value < 10]
  - name: b
    http: {url: "http://x/"}
    expect: [status == 200, value < 10, p99 < 1s]
  - name: c
    http: {url: "http://x/", unix: /x.sock, resolve: 127.0.0.1}
    expect: [status == 200]
  - name: d
    http: {url: "https://x/", tls: {cert: /c.pem}}
    expect: [status == 200]
  - name: e
    http: {url: "http://x/", follow: true, tls: {ca: ca.pem, server_name: 10.0.0.1}}
    expect: [status == 200]
  - name: f
    http: {url: "http://x/", tls: {insecure: true}}
    expect: [status == 200, count > 1]
  - name: g
    prometheus: {url: "ftp://x/", query: ""}
    expect: [value > 1s, value > 5%, status == 200]
  - name: h
    prometheus: {url: "https://x/", query: up}
    expect: [value matches 1, value > 1 over 1s]
  - name: i
    grpc: {address: cart, service: cart.v1.Cart}
    expect: [state == servin, latency < 300]
  - name: j
    dns: {name: 10.0.0.1, record: ANY, server: "127.0.0.1"}
    expect: [state == ok, count < 1s, text < 3]
  - name: k
    icmp: {host: "db-1:5432"}
    expect: [state == open]
  - name: l
    icmp: {host: http://x}
    expect: [value > 1]
method:
  - wait: 1s
)") ==
        R"(plan.yaml:5:37: error: "depth" is not a JSON Pointer
      http: {url: "http://x/", value: depth, resolve: shop, unix: x.sock}
                                      ^^^^^
  write /depth
plan.yaml:5:53: error: "shop" is not an address
      http: {url: "http://x/", value: depth, resolve: shop, unix: x.sock}
                                                      ^^^^
  write one such as 10.9.9.9 or "2001:db8::9"
plan.yaml:5:65: error: "x.sock" is not a whole path
      http: {url: "http://x/", value: depth, resolve: shop, unix: x.sock}
                                                                  ^^^^^^
  write it from the root, without . and .., such as /var/lib/shop
plan.yaml:9:29: error: which number of the answer is its `value`?
      expect: [status == 200, value < 10, p99 < 1s]
                              ^^^^^
  add value: /queue/depth, a JSON Pointer, to `http`
plan.yaml:11:54: error: resolve beside unix
      http: {url: "http://x/", unix: /x.sock, resolve: 127.0.0.1}
                                                       ^^^^^^^^^
  give one of them
plan.yaml:14:43: error: cert without key
      http: {url: "https://x/", tls: {cert: /c.pem}}
                                            ^^^^^^
  give a key as well
plan.yaml:17:54: error: "ca.pem" is not a whole path
      http: {url: "http://x/", follow: true, tls: {ca: ca.pem, server_name: 10.0.0.1}}
                                                       ^^^^^^
  write it from the root, without . and .., such as /var/lib/shop
plan.yaml:17:75: error: "10.0.0.1" is not a host name
      http: {url: "http://x/", follow: true, tls: {ca: ca.pem, server_name: 10.0.0.1}}
                                                                            ^^^^^^^^
  write a name such as db.internal
plan.yaml:20:30: error: an http URL is asked without TLS
      http: {url: "http://x/", tls: {insecure: true}}
                               ^^^
  write https:// in its `url`
plan.yaml:21:29: error: http has no metric "count"
      expect: [status == 200, count > 1]
                              ^^^^^
  it may be status, latency, body, value, error_rate, rate, p50, p90, p95, p99 or p999
plan.yaml:23:23: error: "ftp" is not a scheme that can be asked
      prometheus: {url: "ftp://x/", query: ""}
                        ^^^^^^^^^^
  write http:// or https://
plan.yaml:23:42: error: query is empty
      prometheus: {url: "ftp://x/", query: ""}
                                           ^^
  write query: max(queue_depth)
plan.yaml:24:22: error: value is a number; "1s" is not
      expect: [value > 1s, value > 5%, status == 200]
                       ^^
  write it as value < 100
plan.yaml:24:34: error: value is a number; "5%" is not
      expect: [value > 1s, value > 5%, status == 200]
                                   ^^
  write it as value < 100
plan.yaml:24:38: error: prometheus has no metric "status"
      expect: [value > 1s, value > 5%, status == 200]
                                       ^^^^^^
  it may be value, latency, error_rate, rate, p50, p90, p95, p99 or p999
plan.yaml:27:20: error: value is a number, which "matches" does not compare
      expect: [value matches 1, value > 1 over 1s]
                     ^^^^^^^
  write it as value < 100
plan.yaml:27:41: error: value is of one answer and has no window
      expect: [value matches 1, value > 1 over 1s]
                                          ^^^^^^^
  leave it out; `for 1s` says how long it must be false
plan.yaml:29:21: error: "cart" has no port
      grpc: {address: cart, service: cart.v1.Cart}
                      ^^^^
  write host:port, such as 127.0.0.1:5432 or [::1]:5432
plan.yaml:30:23: error: grpc has no state "servin"
      expect: [state == servin, latency < 300]
                        ^^^^^^
  did you mean "serving"?
plan.yaml:30:41: error: 300 of what?
      expect: [state == servin, latency < 300]
                                          ^^^
  latency is a duration; write 300ms
plan.yaml:32:17: error: "10.0.0.1" is not a host name
      dns: {name: 10.0.0.1, record: ANY, server: "127.0.0.1"}
                  ^^^^^^^^
  write a name such as db.internal
plan.yaml:32:35: error: unknown record "ANY"
      dns: {name: 10.0.0.1, record: ANY, server: "127.0.0.1"}
                                    ^^^
  it may be A, AAAA, CNAME, MX, NS, PTR, SRV or TXT
plan.yaml:32:48: error: "127.0.0.1" has no port
      dns: {name: 10.0.0.1, record: ANY, server: "127.0.0.1"}
                                                 ^^^^^^^^^^^
  write host:port, such as 127.0.0.1:5432 or [::1]:5432
plan.yaml:33:23: error: dns has no state "ok"
      expect: [state == ok, count < 1s, text < 3]
                        ^^
  it may be noerror, nxdomain, servfail, refused, unreachable or timeout
plan.yaml:33:35: error: count is a number; "1s" is not
      expect: [state == ok, count < 1s, text < 3]
                                    ^^
  write it as count >= 4
plan.yaml:33:44: error: text is a text, which "<" does not compare
      expect: [state == ok, count < 1s, text < 3]
                                             ^
  write it as text == ready
plan.yaml:35:18: error: an echo request has no port
      icmp: {host: "db-1:5432"}
                   ^^^^^^^^^^^
  write host: db-1
plan.yaml:36:23: error: icmp has no state "open"
      expect: [state == open]
                        ^^^^
  it may be reply, unreachable or timeout
plan.yaml:38:18: error: "http://x" is not a host
      icmp: {host: http://x}
                   ^^^^^^^^
  write a name or an address, such as db-1
plan.yaml:39:14: error: icmp has no metric "value"
      expect: [value > 1]
               ^^^^^
  it may be state, latency, error_rate, rate, p50, p90, p95, p99 or p999
)");
}

TEST_CASE("credentials in a URL are warned of and not shown") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    http: {url: "http://user:secret@x/"}
    expect: [status == 200]
method:
  - wait: 1s
)") ==
        R"(plan.yaml:5:17: warning: the URL carries credentials, which the event log would keep
      http: {url: "http://***********@x/"}
                  ^^^^^^^^^^^^^^^^^^^^^^^
  send them as a header, or ask an address that needs none
)");
}

TEST_CASE("loads, vantage points and what is expected of the run are told wrong where they are") {
  CHECK(told(R"(plan: t
nodes:
  a: {address: "a:1", labels: {role: web}}
  b: {address: "b:1", labels: {role: web}}
  c: {address: "c:1", labels: {role: db}}
steady_state:
  - name: up
    http: {url: "http://x/"}
    expect: [status == 200]
    from: {role: web}
    of: 2 of 3
  - name: far
    http: {url: "http://x/"}
    expect: [status == 200]
    from: {role: app}
  - name: near
    http: {url: "http://x/"}
    expect: [status == 200]
    of: majority
  - name: most
    tcp: {address: "x:1"}
    expect: [state == open]
    from: all
    of: 4
  - name: odd
    tcp: {address: "x:1"}
    expect: [state == open]
    from: all
    of: 3 of 2
expect:
  - time_to_detect < 5
  - time_to_recover < 5s for 2s
  - time_to_abort < 2 x baseline
  - p99 < 1s
load:
  - name: up
    http: {url: "http://x/", rate: 100}
  - name: shoppers
    http: {url: "http://x/", rate: 0/s, connections: 0}
    expect: [status == 200]
  - name: k6
    run: [k6, run, x.js]
    expect: [p99 < 1s]
  - name: both
    run: [k6]
    http: {url: "http://x/", rate: 1/s}
  - name: nothing
    run: [""]
  - name: late
    http: {url: "http://x/", rate: 10rps, stages: [{rate: 1/s}]}
    env: {A: b}
method:
  - wait: 1s
)") == R"(plan.yaml:11:9: error: `from` is 2 nodes, not 3
      of: 2 of 3
          ^^^^^^
  write 2 of 2
plan.yaml:15:18: error: no node has the label role: app
      from: {role: app}
                   ^^^
  there are db, web
plan.yaml:19:9: error: of without from
      of: majority
          ^^^^^^^^
  give a from as well
plan.yaml:24:9: error: 4 nodes are to agree, and `from` is 3
      of: 4
          ^
plan.yaml:29:9: error: 3 of 2 is more than all of them
      of: 3 of 2
          ^^^^^^
  write 2 of 2, or all
plan.yaml:31:22: error: 5 of what?
    - time_to_detect < 5
                       ^
  time_to_detect is a duration; write 5ms
plan.yaml:32:5: error: a run has each of its times once
    - time_to_recover < 5s for 2s
      ^^^^^^^^^^^^^^^^^^^^^^^^^^^
  leave out `over`, `for` and `x baseline`
plan.yaml:33:5: error: a run has each of its times once
    - time_to_abort < 2 x baseline
      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  leave out `over`, `for` and `x baseline`
plan.yaml:34:5: error: a run has no metric "p99"
    - p99 < 1s
      ^^^
  it may be time_to_detect, time_to_abort or time_to_recover
plan.yaml:36:11: error: a check is called "up" already
    - name: up
            ^^
  the first stands in line 7
plan.yaml:37:36: error: 100 of what?
      http: {url: "http://x/", rate: 100}
                                     ^^^
  write 100/s
plan.yaml:39:36: error: rate 0/s is too small
      http: {url: "http://x/", rate: 0/s, connections: 0}
                                     ^^^
  write 0.01/s to 1000000/s
plan.yaml:39:54: error: connections 0 is too small
      http: {url: "http://x/", rate: 0/s, connections: 0}
                                                       ^
  write 1 to 60000
plan.yaml:40:14: error: a load has no metric "status"
      expect: [status == 200]
               ^^^^^^
  it may be error_rate, rate, p50, p90, p95, p99 or p999
plan.yaml:43:5: error: expect without http
      expect: [p99 < 1s]
      ^^^^^^
  give a http as well
plan.yaml:46:5: error: run and http in one load
      http: {url: "http://x/", rate: 1/s}
      ^^^^
  each needs a load of its own
plan.yaml:48:10: error: run names no program
      run: [""]
           ^
  write run: [program, argument]
plan.yaml:50:36: error: "rps" is not a unit here
      http: {url: "http://x/", rate: 10rps, stages: [{rate: 1/s}]}
                                     ^^^^^
  write 10/s
plan.yaml:50:52: error: a load stage needs `over`
      http: {url: "http://x/", rate: 10rps, stages: [{rate: 1/s}]}
                                                     ^
  over: how long that takes
)");
}

TEST_CASE("credentials in what is no right URL are not shown either") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    prometheus: {url: "ftp://user:secret@x/", query: up}
    expect: [value > 1]
  - name: b
    http: {url: "user:secret@x/"}
    expect: [status == 200]
  - name: c
    http: {url: user:secret@x}
    expect: [status == 200]
  - name: d
    http: {url: "http://user:secret@/"}
    expect: [status == 200]
method:
  - wait: 1s
)") ==
        R"(plan.yaml:5:23: error: "ftp" is not a scheme that can be asked
      prometheus: {url: "ftp://***********@x/", query: up}
                        ^^^^^^^^^^^^^^^^^^^^^^
  write http:// or https://
plan.yaml:8:17: error: "***********@x/" is not a URL
      http: {url: "***********@x/"}
                  ^^^^^^^^^^^^^^^^
  write http://host:port/path
plan.yaml:11:17: error: "***********@x" is not a URL
      http: {url: ***********@x}
                  ^^^^^^^^^^^^^
  write http://host:port/path
plan.yaml:14:17: error: "http://***********@/" has no host
      http: {url: "http://***********@/"}
                  ^^^^^^^^^^^^^^^^^^^^^^
  write http://host:port/path
)");
}

TEST_CASE("what is wrong with a process, log, postgres or redis check is told where it stands") {
  CHECK(
      told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    process: {}
    expect: [count >= 1]
  - name: b
    process: {cmdline: ".*", name: a-name-that-is-too-long}
    expect: [rss < 512, cpu < 80, count over 10s > 1, lines == 0]
  - name: c
    log: {path: var/log/shop.log, pattern: "ERROR|("}
    expect: [lines == 0 over 30s, lines > 1%, lines == 0 over 10ms, value > 1]
    every: 1s
  - name: d
    log: {path: /var/log/shop.log}
    expect: [text contains x]
  - name: e
    postgres: {query: select 1}
    expect: [value == 1, lag < 1, state == open]
  - name: f
    redis: {command: [PING]}
    expect: [state == ok]
  - name: g
    redis: {address: "cache:6379", unix: /run/redis.sock}
    expect: [lag < 1s]
  - name: h
    redis: {unix: redis.sock}
    expect: [value over 1s > 1]
method:
  - wait: 1s
)") ==
      R"(plan.yaml:5:5: error: process needs name, cmdline, pid, port, unit, cgroup, container, user or children_of
      process: {}
      ^^^^^^^
  write process: {name: nginx}
plan.yaml:8:24: error: ".*" matches everything
      process: {cmdline: ".*", name: a-name-that-is-too-long}
                         ^^^^
  write a pattern that some texts do not match
plan.yaml:8:36: error: the kernel keeps 15 bytes of a program's name; "a-name-that-is-too-long" has 23
      process: {cmdline: ".*", name: a-name-that-is-too-long}
                                     ^^^^^^^^^^^^^^^^^^^^^^^
  write "a-name-that-is-"
plan.yaml:9:20: error: 512 of what?
      expect: [rss < 512, cpu < 80, count over 10s > 1, lines == 0]
                     ^^^
  rss is a size; write 512MiB
plan.yaml:9:31: error: 80 of what?
      expect: [rss < 512, cpu < 80, count over 10s > 1, lines == 0]
                                ^^
  cpu is a percentage; write 80%
plan.yaml:9:41: error: unknown operator "over"
      expect: [rss < 512, cpu < 80, count over 10s > 1, lines == 0]
                                          ^^^^
  it may be <, <=, >, >=, ==, !=, between, in, matches or contains
plan.yaml:9:55: error: process has no metric "lines"
      expect: [rss < 512, cpu < 80, count over 10s > 1, lines == 0]
                                                        ^^^^^
  it may be count, rss or cpu
plan.yaml:11:17: error: "var/log/shop.log" is not a whole path
      log: {path: var/log/shop.log, pattern: "ERROR|("}
                  ^^^^^^^^^^^^^^^^
  write it from the root, without . and .., such as /var/lib/shop
plan.yaml:11:44: error: "ERROR|(" is not a pattern: missing ): ERROR|(
      log: {path: var/log/shop.log, pattern: "ERROR|("}
                                             ^^^^^^^^^
  write a regular expression in RE2's syntax
plan.yaml:12:43: error: lines is a number; "1%" is not
      expect: [lines == 0 over 30s, lines > 1%, lines == 0 over 10ms, value > 1]
                                            ^^
  write it as lines == 0 over 10s
plan.yaml:12:58: error: a window of 10ms is shorter than the 1s between two asks
      expect: [lines == 0 over 30s, lines > 1%, lines == 0 over 10ms, value > 1]
                                                           ^^^^
  write over 1s or more
plan.yaml:12:69: error: log has no metric "value"
      expect: [lines == 0 over 30s, lines > 1%, lines == 0 over 10ms, value > 1]
                                                                      ^^^^^
  it may be lines or text
plan.yaml:15:5: error: log needs `pattern`
      log: {path: /var/log/shop.log}
      ^^^
  pattern: a regular expression (RE2) found somewhere in a line
plan.yaml:18:5: error: postgres needs `url`
      postgres: {query: select 1}
      ^^^^^^^^
  url: postgresql://user@host:port/database, as libpq has it; a password is best left to PGPASSFILE
plan.yaml:19:32: error: 1 of what?
      expect: [value == 1, lag < 1, state == open]
                                 ^
  lag is a duration; write 1ms
plan.yaml:19:44: error: postgres has no state "open"
      expect: [value == 1, lag < 1, state == open]
                                             ^^^^
  it may be ok, refused, unreachable, timeout or error
plan.yaml:21:5: error: redis needs address or unix
      redis: {command: [PING]}
      ^^^^^
  write redis: {address: "127.0.0.1:6379", command: [LLEN, orders]}
plan.yaml:24:22: error: address beside unix
      redis: {address: "cache:6379", unix: /run/redis.sock}
                       ^^^^^^^^^^^^
  give one of them
plan.yaml:27:19: error: "redis.sock" is not a whole path
      redis: {unix: redis.sock}
                    ^^^^^^^^^^
  write it from the root, without . and .., such as /var/lib/shop
plan.yaml:28:20: error: unknown operator "over"
      expect: [value over 1s > 1]
                     ^^^^
  it may be <, <=, >, >=, ==, !=, between, in, matches or contains
)");
}

TEST_CASE("a PostgreSQL URL is read before anything is asked") {
  const auto url = [](const std::string& text) {
    return told(
        "plan: t\nnodes: {local: {}}\nsteady_state:\n  - name: a\n    postgres:\n      url: \"" +
        text + "\"\n    expect: [state == ok]\nmethod:\n  - wait: 1s\n");
  };
  for (const char* right :
       {"postgresql://", "postgres://db-1", "postgresql:///shop?host=/run/postgresql",
        "postgresql://shop@db-1:5432,[::1]:5433,%2Frun%2Fpg/shop?sslmode=verify-full&port=5432",
        "postgresql://db-1/a%20b?options=-c%20search_path%3Dshop&target_session_attrs=any"}) {
    CAPTURE(right);
    CHECK(url(right) == "");
  }
  CHECK(url("http://db-1/") ==
        R"(plan.yaml:6:12: error: "http" is not the scheme of a PostgreSQL URL
        url: "http://db-1/"
             ^^^^^^^^^^^^^^
  write postgresql://user@host:port/database
)");
  CHECK(url("db-1:5432") == R"(plan.yaml:6:12: error: this is not a PostgreSQL URL
        url: "db-1:5432"
             ^^^^^^^^^^^
  write postgresql://user@host:port/database
)");
  CHECK(url("postgresql://db 1/") == R"(plan.yaml:6:12: error: a URL has no blanks
        url: "postgresql://db 1/"
             ^^^^^^^^^^^^^^^^^^^^
  write %20 for a blank
)");
  CHECK(url("postgresql://db-1/100%") ==
        R"(plan.yaml:6:12: error: a % stands before what are not two hexadecimal digits
        url: "postgresql://db-1/100%"
             ^^^^^^^^^^^^^^^^^^^^^^^^
  write %25 for a %
)");
  CHECK(url("postgresql://db-1:99999/shop") ==
        R"(plan.yaml:6:12: error: what stands for the port is none
        url: "postgresql://db-1:99999/shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  write a number from 1 to 65535; in a password, %2F for a / and %3F for a ?
)");
  CHECK(url("postgresql://[::1/shop") ==
        R"(plan.yaml:6:12: error: an IPv6 address stands in brackets
        url: "postgresql://[::1/shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^
  write postgresql://[::1]:5432/shop
)");
  CHECK(url("postgresql://db-1/shop?sslmod=require") ==
        R"(plan.yaml:6:12: error: a PostgreSQL URL has no parameter "sslmod"
        url: "postgresql://db-1/shop?sslmod=require"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  did you mean "sslmode"?
)");
  CHECK(url("postgresql://db-1/shop?sslmode=yes") == R"(plan.yaml:6:12: error: unknown sslmode "yes"
        url: "postgresql://db-1/shop?sslmode=yes"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  it may be disable, allow, prefer, require, verify-ca or verify-full
)");
  CHECK(url("postgresql://db-1/shop?service=shop") ==
        R"(plan.yaml:6:12: error: a PostgreSQL URL has no parameter "service"
        url: "postgresql://db-1/shop?service=shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  name the server itself
)");
  CHECK(url("postgresql://db-1/shop?connect_timeout") ==
        R"(plan.yaml:6:12: error: a parameter of the URL has no value
        url: "postgresql://db-1/shop?connect_timeout"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  write ?name=value&name=value; %26 for a & in a value
)");
  CHECK(url("postgresql://me:secret@db-1/shop") ==
        R"(plan.yaml:6:12: warning: the URL carries a password, which the event log would keep
        url: "postgresql://*********@db-1/shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  leave it to PGPASSFILE (~/.pgpass) or PGPASSWORD
)");
  CHECK(url("postgresql://me@db-1/shop?sslpassword=secret&password=secret") ==
        R"(plan.yaml:6:12: warning: the URL carries a password, which the event log would keep
        url: "postgresql://**@db-1/shop?sslpassword=******&password=******"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  leave it to PGPASSFILE (~/.pgpass) or PGPASSWORD
)");
  // Neither does a mistake show it.
  CHECK(url("postgresql://me:se/cret@db-1/shop") ==
        R"(plan.yaml:6:12: error: what stands for the port is none
        url: "postgresql://**********@db-1/shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  write a number from 1 to 65535; in a password, %2F for a / and %3F for a ?
)");
  CHECK(url("postgresql://me:se@cret@db-1/shop") ==
        R"(plan.yaml:6:12: error: a PostgreSQL URL has one @
        url: "postgresql://**********@db-1/shop"
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  write %40 for one in a name or a password
)");
}

TEST_CASE("commands that wipe, stop or set up a Redis server are refused") {
  const auto command = [](const std::string& words) {
    return told(
        "plan: t\nnodes: {local: {}}\nsteady_state:\n  - name: a\n    redis:\n"
        "      address: \"cache:6379\"\n      command: [" +
        words + "]\n    expect: [state == ok]\nmethod:\n  - wait: 1s\n");
  };
  for (const char* right : {"PING", "LLEN, orders", "config, get, maxmemory", "SET, probe, \"1\"",
                            "CLUSTER, INFO", "EVAL_RO, \"return 1\", \"0\""}) {
    CAPTURE(right);
    CHECK(command(right) == "");
  }
  CHECK(command("FLUSHALL") == R"(plan.yaml:7:7: error: a check does not send FLUSHALL
        command: [FLUSHALL]
        ^^^^^^^
  write a command that asks, such as [LLEN, orders]
)");
  CHECK(command("shutdown, nosave") == R"(plan.yaml:7:7: error: a check does not send SHUTDOWN
        command: [shutdown, nosave]
        ^^^^^^^
  write a command that asks, such as [LLEN, orders]
)");
  CHECK(command("CONFIG, SET, maxmemory, \"1\"") ==
        R"(plan.yaml:7:7: error: a check does not send CONFIG SET
        command: [CONFIG, SET, maxmemory, "1"]
        ^^^^^^^
  write CONFIG GET
)");
  CHECK(command("CLIENT") == R"(plan.yaml:7:7: error: CLIENT of what?
        command: [CLIENT]
        ^^^^^^^
  write CLIENT GETNAME, ID, INFO or LIST
)");
  CHECK(command("AUTH, secret") ==
        R"(plan.yaml:7:7: error: a check does not send AUTH, which may carry a password
        command: [AUTH, secret]
        ^^^^^^^
  write `user`, and give the password in REDISCLI_AUTH
)");
  CHECK(command("\"\"") == R"(plan.yaml:7:7: error: command names no command
        command: [""]
        ^^^^^^^
  write a command that asks, such as [LLEN, orders]
)");
}

TEST_CASE("expectations are told wrong at the word that is") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    http: {url: "http://x/"}
    every: 1s
    expect:
      - p99 < 300
      - statu == 200
      - status = 200
      - status <> 200
      - status == OK
      - p99 < 1%
      - error_rate < 1ms
      - latency matches x
      - body matches '['
      - body < 3
      - p99 < 300ms over 100ms
      - latency < 1s over 10s
      - p99 < 300ms for 2s over 10s
      - p99 < 300ms over
      - p99 < 300ms ovr 10s
      - p99
      - p99 <
      - ""
      - state == open
      - p99 < 2 x baselin
      - p99 < baseline
      - status between 500 and 200
      - "status in 200"
      - p99 between 1ms
      - p99 < 300ms twice
      - {a: b}
      - status == 0200
      - p99 < NaN
method:
  - wait: 1s
)") ==
        R"(plan.yaml:8:15: error: 300 of what?
        - p99 < 300
                ^^^
  p99 is a duration; write 300ms
plan.yaml:9:9: error: unknown metric "statu"
        - statu == 200
          ^^^^^
  did you mean "status"?
plan.yaml:10:16: error: unknown operator "="
        - status = 200
                 ^
  did you mean ==?
plan.yaml:11:16: error: unknown operator "<>"
        - status <> 200
                 ^^
  did you mean !=?
plan.yaml:12:19: error: status is a number; "OK" is not
        - status == OK
                    ^^
  write it as status == 200
plan.yaml:13:15: error: "1%" is not a duration
        - p99 < 1%
                ^^
  p99 is a duration; write 200ms
plan.yaml:14:22: error: unknown unit "ms"
        - error_rate < 1ms
                       ^^^
  error_rate is a percentage; write 1%
plan.yaml:15:17: error: latency is a duration, which "matches" does not compare
        - latency matches x
                  ^^^^^^^
  write it as latency < 300ms
plan.yaml:16:22: error: not a pattern: missing ]: [
        - body matches '['
                       ^
  patterns have RE2's syntax
plan.yaml:17:14: error: body is a text, which "<" does not compare
        - body < 3
               ^
  write it as body contains ok
plan.yaml:18:21: error: a window of 100ms is shorter than the 1s between two asks
        - p99 < 300ms over 100ms
                      ^^^^
  write over 1s or more
plan.yaml:19:22: error: latency is of one answer and has no window
        - latency < 1s over 10s
                       ^^^^^^^^
  leave it out; `for 10s` says how long it must be false
plan.yaml:20:28: error: `over` stands behind `for`
        - p99 < 300ms for 2s over 10s
                             ^^^^
  write over 10s for 2s
plan.yaml:21:25: error: a duration is missing
        - p99 < 300ms over
                          ^
  write 200ms
plan.yaml:22:21: error: "ovr 10s" cannot follow here
        - p99 < 300ms ovr 10s
                      ^^^^^^^
  did you mean "over"?
plan.yaml:23:12: error: an operator is missing
        - p99
             ^
  write it as p99 < 300ms over 10s
plan.yaml:24:14: error: a duration to compare with is missing
        - p99 <
               ^
  write it as p99 < 300ms over 10s
plan.yaml:25:10: error: an expectation begins with a metric
        - ""
           ^
  write it as status == 200 or p99 < 300ms over 10s
plan.yaml:26:9: error: http has no metric "state"
        - state == open
          ^^^^^
  it may be status, latency, body, value, error_rate, rate, p50, p90, p95, p99 or p999
plan.yaml:27:19: error: only the baseline can be multiplied
        - p99 < 2 x baselin
                    ^^^^^^^
  write 1.5 x baseline
plan.yaml:28:15: error: how many times the baseline?
        - p99 < baseline
                ^^^^^^^^
  write 1.5 x baseline
plan.yaml:29:32: error: between has its larger quantity first
        - status between 500 and 200
                                 ^^^
  write the smaller one first
plan.yaml:30:20: error: in needs a list
        - "status in 200"
                     ^^^
  write in [200, 204]
plan.yaml:31:24: error: between needs two quantities
        - p99 between 1ms
                         ^
  write between A and B
plan.yaml:32:21: error: "twice" cannot follow here
        - p99 < 300ms twice
                      ^^^^^
  only `over 10s` and `for 2s` may follow
plan.yaml:33:9: error: expectation is written as one text
        - {a: b}
          ^
  put it in quotes if it holds ": ", brackets or "#"
plan.yaml:34:19: error: status is a number; "0200" is not
        - status == 0200
                    ^^^^
  write it as status == 200
plan.yaml:35:15: error: "NaN" is not a duration
        - p99 < NaN
                ^^^
  p99 is a duration; write 200ms
)");
}

TEST_CASE("states of a connection are known words") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: a
    tcp: {address: "x:1"}
    expect: [state == opne, "state in [open, closed]", status == 200]
method:
  - wait: 1s
)") ==
        R"(plan.yaml:6:23: error: tcp has no state "opne"
      expect: [state == opne, "state in [open, closed]", status == 200]
                        ^^^^
  did you mean "open"?
plan.yaml:6:46: error: tcp has no state "closed"
      expect: [state == opne, "state in [open, closed]", status == 200]
                                               ^^^^^^
  it may be open, refused, unreachable or timeout
plan.yaml:6:56: error: tcp has no metric "status"
      expect: [state == opne, "state in [open, closed]", status == 200]
                                                         ^^^^^^
  it may be state, latency, error_rate, rate, p50, p90, p95, p99 or p999
)");
}

TEST_CASE("bounds of the plan itself are kept") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
seed: -1
lease: 61s
recovery: {within: 2h}
recvery: {}
environment: {a: b}
tags: a
method: [{wait: 1s}]
)") ==
        R"(plan.yaml:7:7: error: "-1" is not a whole number
  seed: -1
        ^^
  write digits only
plan.yaml:8:8: error: lease 61s is too large
  lease: 61s
         ^^^
  write 1s to 60s
plan.yaml:9:20: error: within 2h is too large
  recovery: {within: 2h}
                     ^^
  write 1ms to 1h
plan.yaml:10:1: error: unknown key "recvery"
  recvery: {}
  ^^^^^^^
  did you mean "recovery"?
plan.yaml:11:14: error: environment is one value
  environment: {a: b}
               ^
plan.yaml:12:7: error: tags is a list
  tags: a
        ^
  write tags: [a]
)");
}

TEST_CASE("what an alias repeats is told wrong once") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - &s {network: {delay: 100}, for: 1s}
  - *s
  - *s
)") ==
        R"(plan.yaml:8:26: error: 100 of what?
    - &s {network: {delay: 100}, for: 1s}
                           ^^^
  write 100ms
)");
}

TEST_CASE("keys without a value are told") {
  CHECK(told(R"(plan:
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - wait:
  - kill: {process: {name: }}
  -
)") ==
        R"(plan.yaml:1:1: error: plan has no value
  plan:
  ^^^^
  write plan: checkout survives a slow database
plan.yaml:8:5: error: wait has no value
    - wait:
      ^^^^
  write wait: 10s
plan.yaml:9:22: error: name has no value
    - kill: {process: {name: }}
                       ^^^^
  write name: nginx
plan.yaml:10:3: error: the step does nothing
    -
    ^
  write network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, clock, files, script, wait, parallel, repeat, ask or include
)");
}

TEST_CASE("a list is no plan") {
  CHECK(told(R"(- a
)") ==
        R"(plan.yaml:1:1: error: a plan is a mapping
  - a
  ^
  begin with `plan:` and its title
)");
}

TEST_CASE("a tab is told only where it indents") {
  CHECK(told("nodes: {local:\n\t{} x}\n") ==
        "plan.yaml:1:8: error: this { is never closed, or something in it is not separated by a "
        "comma\n"
        "  nodes: {local:\n"
        "         ^\n"
        "  close it with }\n");
  CHECK(told("plan: \"a\n\tb\" c\n") ==
        "plan.yaml:2:5: error: this does not belong to what stands above it\n"
        "  \\x09b\" c\n"
        "         ^\n"
        "  look at the indentation and the quotes\n");
  CHECK(told("plan: abc\n\tdef: x\n") ==
        "plan.yaml:2:1: error: a tab indents this line\n"
        "  \\x09def: x\n"
        "  ^^^^\n"
        "  indent with blanks\n");
}

TEST_CASE("a quote that ends with a backslash at the end of the file is not closed") {
  CHECK(told("plan: \"\\") ==
        "plan.yaml:1:7: error: this quote is never closed\n"
        "  plan: \"\\\n"
        "        ^^\n");
  CHECK(told("plan: \"\\xg1\"\n") ==
        "plan.yaml:1:10: error: this escape is not a character's number\n"
        "  plan: \"\\xg1\"\n"
        "           ^\n"
        "  write \\x with 2 hexadecimal digits, \\u with 4, \\U with 8\n");
}

TEST_CASE("what is wrong behind an anchor and a line end is told where it stands") {
  const std::string told_there = told("recovery:\n  within: &x # of all\n    bogus\n");
  CHECK(told_there.find("plan.yaml:3:5: error: \"bogus\" is not a duration\n      bogus\n"
                        "      ^^^^^\n") != std::string::npos);
  CHECK(told("plan: t\nnodes: {local: {}}\nsteady_state:\n  - name: up\n"
             "    tcp: {address: \"127.0.0.1:80\"}\n    expect:\n      - &e\n        state = open\n"
             "method:\n  - &nothing\n  - wait: 1s\n") ==
        "plan.yaml:8:15: error: unknown operator \"=\"\n"
        "          state = open\n"
        "                ^\n"
        "  did you mean ==?\n"
        "plan.yaml:10:3: error: the step does nothing\n"
        "    - &nothing\n"
        "    ^\n"
        "  write network, kill, cpu, partition, pause, memory, disk, io, exhaust, service, dns, "
        "clock, files, script, wait, parallel, repeat, ask or include\n");
}

TEST_CASE("directives are refused wherever they stand") {
  const auto directive = [](int line, const std::string& text) {
    return "plan.yaml:" + std::to_string(line) + ":1: error: a plan has no directives\n  " + text +
           "\n  " + std::string(text.size(), '^') +
           "\n  leave this line out; put a value that begins with % in quotes\n";
  };
  CHECK(told("# a plan\n\n%YAML 1.2\n---\nplan: a\n") == directive(3, "%YAML 1.2"));
  CHECK(told("plan: a\n%TAG !a! b\n---\n") == directive(2, "%TAG !a! b"));
  CHECK(told("plan: a\n... # over\n%TAG !a! b\n---\n") == directive(3, "%TAG !a! b"));
  CHECK(told("plan: a\n%FOO\n") == directive(2, "%FOO"));
  std::string many;
  for (int i = 0; i < 50'000; ++i) many += "%TAG !a" + std::to_string(i) + "! b\n";
  CHECK(told(many) == directive(1, "%TAG !a0! b"));
  CHECK(told("plan: a\n" + many) == directive(2, "%TAG !a0! b"));
  // In quotes it is a text.
  CHECK(told("plan: \"a\n%TAG b\"\n").find("directive") == std::string::npos);
}

TEST_CASE("characters that no plan may hold are told where they stand") {
  const auto character = [](const std::string& bytes, const std::string& code) {
    return told("plan: t\nhypothesis: \u00e9" + bytes + "x\n") ==
           "plan.yaml:2:15: error: the character U+" + code +
               " cannot stand in a plan\n  hypothesis: \u00e9" + escape_controls(bytes) +
               "x\n               " +
               std::string(escape_controls(bytes) == bytes ? 1 : 4 * bytes.size(), '^') + "\n";
  };
  CHECK(character("\u0080", "0080"));
  CHECK(character("\u009f", "009F"));
  CHECK(character("\uFFFE", "FFFE"));
  CHECK(character("\uFFFF", "FFFF"));
  // libyaml would begin a line behind these, and editors do not.
  CHECK(character("\u0085", "0085"));
  CHECK(character("\u2028", "2028"));
  CHECK(character("\u2029", "2029"));
  CHECK(told("plan: \u00a0\uFFFD\U0001F300\n").find("cannot stand") == std::string::npos);
}

TEST_CASE("more than a thousand mistakes are told as that many") {
  std::string text;
  for (int i = 0; i < 40'000; ++i) text += "k" + std::to_string(i) + ": 1\n";
  const Loaded loaded = load(text, "plan.yaml");
  CHECK(loaded.diagnostics.found.size() == Diagnostics::kMostKept);
  CHECK(loaded.diagnostics.more);
  CHECK(format_diagnostics(loaded.diagnostics, false)
            .ends_with("plan.yaml: more than 800 more not shown\n"));
}

TEST_CASE("more than 100000 values are no plan, however they come") {
  const std::string hint =
      "  a plan has at most 100000 values, those that aliases repeat included\n";
  std::string keys;
  for (int i = 0; i < 50'000; ++i) keys += "k" + std::to_string(i) + ": 1\n";
  CHECK(told(keys) ==
        "plan.yaml:50000:9: error: too many values\n  k49999: 1\n          ^\n" + hint);
  std::string lists;
  for (int i = 0; i < 3000; ++i) lists += "a,";
  std::string aliases = "plan: &a [" + lists + "]\nnodes:\n";
  for (int i = 0; i < 40; ++i) aliases += "- *a\n";
  CHECK(told(aliases) ==
        "plan.yaml:36:3: error: the aliases repeat too much\n  - *a\n    ^^\n" + hint);
  std::string open = "[[[[";
  for (int i = 0; i < 300'000; ++i) open += "a\n,";
  CHECK(told(open).find("too many values") != std::string::npos);
}

TEST_CASE("many values on one line, many credentials and many wrong names take no time") {
  std::string line = "plan: [";
  for (int i = 0; i < 90'000; ++i) line += "\"a\",";
  CHECK(told(line + "]\n").find("plan is one value") != std::string::npos);

  std::string urls = "plan: t\nsteady_state:\n" + std::string(800'000, '\n') +
                     "  - &c {http: {url: \"http://u:p@h/\"}}\n";
  for (int i = 0; i < 10'000; ++i) urls += "  - *c\n";
  CHECK(told(urls).find("http://***@h/") != std::string::npos);

  std::string names = "plan: t\nnodes:\n";
  for (int i = 0; i < 8000; ++i) names += "  node" + std::to_string(i) + ": {}\n";
  names += "method:\n";
  for (int i = 0; i < 8000; ++i) names += "  - {on: nope99, kill: {process: {name: a}}}\n";
  // Each node but the first, and each step.
  CHECK(load(names, "plan.yaml", {.set = {}, .params_files = {}, .unobserved = true})
            .diagnostics.errors == 7999 + 8000);

  std::string patterns =
      "plan: t\nsteady_state:\n  - name: a\n    http: {url: \"http://h/\"}\n    expect: [";
  for (int i = 0; i < 35'000; ++i) patterns += "\"body matches (a|b){1000}\",";
  CHECK(told(patterns + "]\n").find("needs `method`") != std::string::npos);
}

TEST_CASE("what a resource fault may not be is told where the file alone shows it") {
  CHECK(told(R"(plan: t
nodes: {local: {}}
steady_state:
  - name: up
    tcp: {address: "127.0.0.1:80"}
    expect: [state == open]
method:
  - {cpu: {load: 0%}, for: 5s}
  - {cpu: {load: 101%}, for: 5s}
  - {cpu: {load: 50%, cores: 1, on_cores: [0]}, for: 5s}
  - {memory: {size: 1GiB, to: 80%}, for: 5s}
  - {memory: {keep_free: 1GiB}, for: 5s}
  - {disk: {path: /proc/self, size: 1GiB}, for: 5s}
  - {disk: {path: /sys, size: 1GiB}, for: 5s}
  - {disk: {path: /var/../dev/shm, size: 1GiB}, for: 5s}
  - {disk: {path: /devices, read: 1MiB, fsync: 5}, for: 5s}
  - {exhaust: {leave: 5}, for: 5s}
)") ==
        R"(plan.yaml:8:18: error: load 0% is too small
    - {cpu: {load: 0%}, for: 5s}
                   ^^
  write 1% to 100%
plan.yaml:9:18: error: "101%" is more than the whole
    - {cpu: {load: 101%}, for: 5s}
                   ^^^^
  write at most 100%
plan.yaml:10:30: error: cores beside on_cores
    - {cpu: {load: 50%, cores: 1, on_cores: [0]}, for: 5s}
                               ^
  give one of them
plan.yaml:11:21: error: size beside to
    - {memory: {size: 1GiB, to: 80%}, for: 5s}
                      ^^^^
  give one of them
plan.yaml:12:6: error: memory needs size or to
    - {memory: {keep_free: 1GiB}, for: 5s}
       ^^^^^^
  write memory: {to: 80%, keep_free: 512MiB}
plan.yaml:13:19: error: "/proc/self" is the kernel's own: below /proc are no files
    - {disk: {path: /proc/self, size: 1GiB}, for: 5s}
                    ^^^^^^^^^^
  write a directory on a file system, such as /var/lib/shop
plan.yaml:14:19: error: "/sys" is the kernel's own: below /sys are no files
    - {disk: {path: /sys, size: 1GiB}, for: 5s}
                    ^^^^
  write a directory on a file system, such as /var/lib/shop
plan.yaml:15:19: error: "/var/../dev/shm" is not a whole path
    - {disk: {path: /var/../dev/shm, size: 1GiB}, for: 5s}
                    ^^^^^^^^^^^^^^^
  write it from the root, without . and .., such as /var/lib/shop
plan.yaml:16:48: error: fsync without write
    - {disk: {path: /devices, read: 1MiB, fsync: 5}, for: 5s}
                                                 ^
  give a write as well
plan.yaml:17:6: error: exhaust needs descriptors or pids
    - {exhaust: {leave: 5}, for: 5s}
       ^^^^^^^
  write exhaust: {descriptors: {name: nginx}, leave: 5}
)");
}

TEST_CASE("a mistake within a text of several lines is told on its line") {
  CHECK(told(R"(plan: t
nodes: {local: {}, all: {address: "h:1"}}
steady_state:
  - name: up
    http: {url: "http://h/"}
    expect:
      - >-
        status ==
        nope
      - |
        latency < 300ms
         over 10s
      - "body matches
         (a"
method:
  - {on: local, cpu: {load: 10%, ramp: 5s}, for: 1s}
  - {on: local, cpu: {load: 10%, on_cores: [0, 1, 0]}, for: 1s}
  - ask: |
      first ${a}
      then ${b} and ${c}
  - ask: 'one
      two ${d}'
  - ask: "\x41 ${e}
      and"
)") ==
        R"(plan.yaml:2:20: error: no node can be called "all"
  nodes: {local: {}, all: {address: "h:1"}}
                     ^^^
  `on: all` means every node; give this one another name
plan.yaml:9:9: error: status is a number; "nope" is not
          nope
          ^^^^
  write it as status == 200
plan.yaml:12:10: error: latency is of one answer and has no window
           over 10s
           ^^^^^^^^
  leave it out; `for 10s` says how long it must be false
plan.yaml:14:10: error: not a pattern: missing ): (a
           (a"
           ^^
  patterns have RE2's syntax
plan.yaml:16:50: error: the ramp of cpu takes 5s, and the fault ends after 1s
    - {on: local, cpu: {load: 10%, ramp: 5s}, for: 1s}
                                                   ^^
  write a longer `for`, or a shorter `ramp`
plan.yaml:17:51: error: "0" stands there twice
    - {on: local, cpu: {load: 10%, on_cores: [0, 1, 0]}, for: 1s}
                                                    ^
plan.yaml:19:13: error: there is no parameter "a"
        first ${a}
              ^^^^
  the plan declares none in `params`; $${ stands for ${ itself
plan.yaml:20:12: error: there is no parameter "b"
        then ${b} and ${c}
             ^^^^
  the plan declares none in `params`; $${ stands for ${ itself
plan.yaml:20:21: error: there is no parameter "c"
        then ${b} and ${c}
                      ^^^^
  the plan declares none in `params`; $${ stands for ${ itself
plan.yaml:22:11: error: there is no parameter "d"
        two ${d}'
            ^^^^
  the plan declares none in `params`; $${ stands for ${ itself
plan.yaml:23:10: error: there is no parameter "e"
    - ask: "\x41 ${e}
           ^^^^^^^^^^
  the plan declares none in `params`; $${ stands for ${ itself
)");
}

}  // namespace
}  // namespace squall::plan
