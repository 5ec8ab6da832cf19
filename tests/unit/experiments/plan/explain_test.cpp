#include "experiments/plan/explain.h"

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <google/protobuf/message.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <regex>
#include <string>

#include "experiments/plan/declared.h"
#include "experiments/plan/decode.h"
#include "experiments/plan/describe.h"
#include "experiments/plan/expectation.h"
#include "experiments/plan/load.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {
namespace {

std::string indented(const std::string& text, const std::string& by) {
  std::string out = by;
  for (const char c : text) {
    out += c;
    if (c == '\n') out += by;
  }
  return out + "\n";
}

std::string told(const std::string& text) {
  return format_diagnostics(
      load(text, "example", {.set = {}, .params_files = {}, .unobserved = true}).diagnostics,
      false);
}

TEST_CASE("every word explains itself, with an example") {
  for (const std::string& word : explainable()) {
    const auto page = explain(word);
    REQUIRE_MESSAGE(page.ok(), word);
    CHECK(page->rfind(word + ": ", 0) == 0);
    CHECK_MESSAGE(page->find("\nExample") != std::string::npos, word);
  }
}

TEST_CASE("every kind of fault and check is among the words") {
  const std::vector<std::string> words = explainable();
  for (const OneofDescriptor* kinds : {v1::Fault::descriptor()->FindOneofByName("kind"),
                                       v1::Check::descriptor()->FindOneofByName("kind")}) {
    for (const std::string& kind : choices(*kinds)) {
      CHECK_MESSAGE(std::find(words.begin(), words.end(), kind) != words.end(), kind);
    }
  }
}

TEST_CASE("the example of every fault kind is a step that loads") {
  const OneofDescriptor& kinds = *v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    const v1::MessageRules& rules = rules_of(*kinds.field(i)->message_type());
    const std::string lasts = rules.at_once() ? "" : "    for: 1s\n";
    const std::string nodes = rules.example().find("role: web") == std::string::npos
                                  ? "{local: {}}"
                                  : "{a: {address: \"a:1\", labels: {role: db}}, "
                                    "b: {address: \"b:1\", labels: {role: web}}}";
    CHECK(told("plan: t\nnodes: " + nodes + "\nmethod:\n  - " + rules.example() + "\n" + lasts) ==
          "");
  }
}

TEST_CASE("the example of every check kind is a check that loads") {
  const OneofDescriptor& kinds = *v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds.field_count(); ++i) {
    const v1::MessageRules& rules = rules_of(*kinds.field(i)->message_type());
    const std::vector<std::string> examples = expectation_grammar().examples;
    for (const std::string& metric : rules.metrics()) {
      const auto example =
          std::find_if(examples.begin(), examples.end(),
                       [&](const std::string& text) { return text.starts_with(metric + " "); });
      if (example == examples.end() || metric == "state") continue;
      CHECK(told("plan: t\nnodes: {local: {}}\nmethod: [{wait: 1s}]\nsteady_state:\n  - name: x\n"
                 "    expect: [" +
                 *example + "]\n    " + rules.example() + "\n") == "");
    }
  }
}

TEST_CASE("the examples of a plan and its parts load where they stand") {
  const auto example = [](const auto& type) { return rules_of(*type.descriptor()).example(); };
  CHECK(told(example(v1::Plan())) == "");
  const std::string nodes = "nodes:\n" + indented(example(v1::Node()), "  ") + "plan: t\n";
  CHECK(told(nodes + "method:\n" + indented(example(v1::Step()), "  ")) == "");
  CHECK(told(nodes + "method: [{wait: 1s}]\nsteady_state:\n" +
             indented(example(v1::Check()), "  ")) == "");
  CHECK(told(nodes + "method: [{wait: 1s}]\n" + example(v1::Recovery()) + "\n") == "");
  CHECK(told(nodes + "method:\n  - kill:\n      " + example(v1::Process()) + "\n") == "");
  CHECK(told(nodes + "method:\n  - for: 1s\n    network:\n      delay: 1s\n      " +
             example(v1::Match()) + "\n") == "");
}

TEST_CASE("the examples of quantities, ramps and searches are steps that load") {
  for (const Description& value : describe_values()) {
    CHECK(
        told("plan: t\nnodes: {local: {}}\nsteady_state:\n  - {name: x, tcp: {address: \"a:80\"}, "
             "expect: [state == open]}\nmethod:\n" +
             indented(value.example, "  ")) == "");
  }
}

/// The value in a fragment that begins with its key, or is a list's item: what has fields of the
/// message for keys.
const YamlNode* value_in(const YamlNode* node, const Descriptor& type) {
  const std::vector<const FieldDescriptor*> fields = fields_of(type);
  const auto is_field = [&](const std::string& key) {
    return std::any_of(fields.begin(), fields.end(),
                       [&](const FieldDescriptor* field) { return field->name() == key; });
  };
  while (node != nullptr) {
    if (node->kind == YamlNode::Kind::kSequence && !node->items.empty()) {
      node = node->items.front();
    } else if (node->kind == YamlNode::Kind::kMapping && !node->entries.empty() &&
               !is_field(node->entries.front().key->text)) {
      node = node->entries.front().value;
    } else {
      break;
    }
  }
  return node;
}

/// What is told of a text that is, or leads to, the value of a message.
Diagnostics told_of(const std::string& text, const Descriptor& type) {
  using google::protobuf::MessageFactory;
  const std::unique_ptr<Message> message(
      MessageFactory::generated_factory()->GetPrototype(&type)->New());
  Diagnostics diagnostics;
  diagnostics.file = type.name();
  diagnostics.text = text;
  YamlTree tree = read_yaml(diagnostics);
  tree.root = value_in(tree.root, type);
  REQUIRE_MESSAGE(tree.root != nullptr, text);
  decode(tree, *message, diagnostics);
  return diagnostics;
}

TEST_CASE("the example on every page is right where it stands") {
  int examples = 0;
  for (const Page& page : pages()) {
    const std::string& example = rules_of(*page.type).example();
    CHECK_MESSAGE(!example.empty(), page.word);
    CHECK(format_diagnostics(told_of(example, *page.type), false) == "");
    ++examples;
  }
  CHECK(examples > 20);
}

TEST_CASE("every example and default of a field is a value that it takes") {
  int values = 0;
  for (const Page& page : pages()) {
    for (const FieldDescriptor* field : fields_of(*page.type)) {
      const v1::FieldRules& rules = rules_of(*field);
      std::vector<std::string> said(rules.examples().begin(), rules.examples().end());
      if (!rules.default_value().empty()) said.push_back(rules.default_value());
      for (const std::string& value : said) {
        const bool one_of_several =
            field->is_repeated() && !field->is_map() && !value.starts_with('[');
        // Beside an unknown key what the fields say together is not asked.
        const std::string text = fmt::format("{}:\n  {}\nunknown: 1\n", field->name(),
                                             one_of_several ? "[" + value + "]" : value);
        for (const Diagnostic& told : told_of(text, *page.type).found) {
          CHECK_MESSAGE(told.place.line != 2, page.word, ".", text, told.summary);
        }
        ++values;
      }
    }
  }
  CHECK(values > 100);
}

TEST_CASE("the committed reference is what squall explain writes") {
  namespace fs = std::filesystem;
  const fs::path docs = fs::path(SQUALL_SOURCE_DIR) / "docs";
  std::map<std::string, std::string> committed;
  for (const fs::directory_entry& entry : fs::directory_iterator(docs / "reference")) {
    std::ifstream file(entry.path(), std::ios::binary);
    committed[entry.path().filename()] = {std::istreambuf_iterator<char>(file), {}};
  }
  const std::map<std::string, std::string> told = reference(read_handwritten(docs));
  for (const auto& [name, text] : told) {
    const bool same = committed[name] == text;
    CHECK_MESSAGE(same, "docs/reference/", name,
                  " is not what `squall explain --markdown` writes; ./dev docs renews it");
  }
  for (const auto& [name, text] : committed) {
    CHECK_MESSAGE(told.contains(name), "docs/reference/", name, " is of no word; remove it");
  }
}

TEST_CASE("every link of the reference leads to a file that is there") {
  namespace fs = std::filesystem;
  const fs::path docs = fs::path(SQUALL_SOURCE_DIR) / "docs";
  const std::map<std::string, std::string> told = reference(read_handwritten(docs));
  const std::regex link(R"(\]\(([^)#]+)[^)]*\))");
  int links = 0;
  for (const auto& [name, text] : told) {
    for (auto found = std::sregex_iterator(text.begin(), text.end(), link);
         found != std::sregex_iterator(); ++found) {
      const std::string target = (*found)[1];
      CHECK_MESSAGE((told.contains(target) || fs::exists(docs / "reference" / target)), name,
                    " leads to ", target);
      ++links;
    }
  }
  CHECK(links > 60);
}

TEST_CASE("a page of the reference has a table of the fields") {
  const std::map<std::string, std::string> told =
      reference({{"faults/resources.md", "# cpu and more\n\n## cpu\n\n"}});
  CHECK(told.at("cpu.md") ==
        R"(<!-- Told from the declarations in api/squall/v1/ by ./dev docs; not written by hand. -->
# cpu

burns a share of processor time

```yaml
cpu: {load: 80%, cores: 1}
```

| key | what it is | written as | default | such as |
| --- | --- | --- | --- | --- |
| `load` | share of each chosen core that is burnt, or of all of them together | percentage; required; 1% to 100%; may be a ramp |  | `80%` |
| `cores` | how many cores; without it, all that the node may use | number; 1 to 4096; not with `on_cores` |  |  |
| `on_cores` | which cores, by their numbers | list of numbers; 0 to 4095 |  | `[0, 2]` |
| `of` | what the load is a share of: of each core, or of the total of them | word; core or total | `core` | `total` |
| `ramp` | rises from nothing to the load over this time | duration; 1ms to 1h |  | `30s` |
| `in` | burnt inside a part of the node, within its quota | [scope](scope.md) |  |  |

How it ends: its threads end with the process that holds it.

More about it: [faults/resources.md#cpu](../faults/resources.md#cpu).
)");
}

TEST_CASE("guardrails and what is in them are explained") {
  for (const char* word : {"guardrails", "protect", "quiet_hours", "gilbert_elliott"}) {
    CHECK_MESSAGE(explain(word).ok(), word);
  }
}

TEST_CASE("a kind's page tells its fields with unit, bounds and default") {
  CHECK(*explain("network") ==
        R"(network: delays, loses or mangles the packets it matches; all others pass untouched

  delay                  duration         added to every matched packet (1us to 60s; may be a ramp;
                                          such as 200ms)
  jitter                 duration         the delay varies by this much, as `distribution` says (1us
                                          to 60s; at most `delay`; only with `delay`; may be a ramp;
                                          such as 20ms)
  distribution           word             how the delay varies; all but uniform take jitter for the
                                          standard deviation (uniform, normal, pareto or
                                          paretonormal; only with `jitter`; default uniform; such as
                                          normal)
  delay_correlation      percentage       how much a packet's delay resembles the one before it
                                          (0.0001% to 100%; only with `jitter`; may be a ramp; such
                                          as 25%)
  loss                   percentage       share of the matched packets that vanish (0.0001% to 100%;
                                          not with `gilbert_elliott`; not with `four_state`; may be
                                          a ramp; such as 1%)
  loss_correlation       percentage       how much a loss depends on whether the packet before it
                                          was lost (0.0001% to 100%; only with `loss`; may be a
                                          ramp; such as 25%)
  gilbert_elliott        gilbert elliott  loss in bursts, by the Gilbert-Elliott model: tc's `loss
                                          gemodel` (not with `four_state`)
  four_state             four state       loss in bursts, by a Markov chain of four states: tc's
                                          `loss state`
  ecn                    true or false    packets to be lost that know ECN are marked as congested
                                          instead of dropped
  duplicate              percentage       share of the matched packets that arrive twice (0.0001% to
                                          100%; may be a ramp; such as 1%)
  duplicate_correlation  percentage       how much a duplicate depends on whether the packet before
                                          it was one (0.0001% to 100%; only with `duplicate`; may be
                                          a ramp)
  corrupt                percentage       share of the matched packets in which one bit is flipped
                                          (0.0001% to 100%; may be a ramp; such as 0.1%)
  corrupt_correlation    percentage       how much a flipped bit depends on whether the packet
                                          before had one (0.0001% to 100%; only with `corrupt`; may
                                          be a ramp)
  reorder                percentage       share of the packets that pass at once, ahead of those
                                          that are delayed (0.0001% to 100%; only with `delay`; may
                                          be a ramp; such as 25%)
  reorder_correlation    percentage       how much it depends on whether the packet before passed at
                                          once (0.0001% to 100%; only with `reorder`; may be a ramp)
  gap                    number           only every Nth packet may pass at once (1 to 1000000; only
                                          with `reorder`; such as 5)
  rate                   rate             as slow as a line of this many bits per second (8bit to
                                          1000gbit; may be a ramp; such as 10mbit)
  packet_overhead        number           bytes that every packet counts for beside its own; a minus
                                          sign takes some off (-1500 to 1500; only with `rate`; such
                                          as 20)
  cell_size              number           the line carries cells of this many bytes (1 to 65535;
                                          only with `rate`; such as 48)
  cell_overhead          number           bytes that every cell counts for beside its own (-1500 to
                                          1500; only with `cell_size`; such as 5)
  slot                   slot             packets arrive in bursts, as on radio links: tc's `slot`
  limit                  number           most packets held at once; without it, as many as the rate
                                          and the delay need (1 to 100000000; such as 1000)
  to                     match            which packets; without it, all of them
  from                   match            which packets, of those that arrive from there (not with
                                          `to`; not with `direction`)
  except                 match            which of these pass untouched all the same
  connections            percentage       share of the connections that are hit, each whole or not
                                          at all (0.01% to 100%; not with `packets`; such as 10%)
  packets                percentage       share of the packets that are hit (0.01% to 100%; such as
                                          10%)
  in                     network scope    only what a part of the node sends and receives
  direction              word             which way the packets go, seen from the node (egress,
                                          ingress or both; default egress)
  interface              text             the network interface (such as eth0)
  engine                 word             what holds the packets (auto, netem or relay; default
                                          auto)

At least one of delay, loss, gilbert_elliott, four_state, duplicate, corrupt, rate or slot.

How it ends: the kernel matches nothing any more at the deadline; the filters go first, then the
devices once they are empty.

Example
  network: {delay: 200ms, jitter: 20ms, to: {ports: [5432]}}
)");
}

TEST_CASE("a field is explained where it stands") {
  CHECK(
      *explain("delay") ==
      R"(delay in network: duration, added to every matched packet (1us to 60s; may be a ramp; such as
  200ms)
delay in slot: duration, the mean time from slot to slot, where it is drawn from a distribution
  (1us to 60s; such as 1ms)
delay in io: duration, each operation takes this much longer (100us to 60s; may be a ramp; such as
  50ms)
delay in dns: duration, their answers come this much later (1ms to 60s; may be a ramp; such as 2s)
)");
}

TEST_CASE("a word that a fault and a check share leads to both") {
  const std::string fault = *explain("dns");
  CHECK(fault.starts_with("dns: makes names fail to resolve"));
  CHECK(fault.ends_with("\nA check is called dns as well: squall explain dns_check.\n"));
  const std::string check = *explain("dns_check");
  CHECK(check.starts_with("dns_check: asks a name server for a name\n"));
  CHECK(check.ends_with("\nIn a plan it is called dns, as is a fault: squall explain dns.\n"));
  const auto files = reference({});
  CHECK(files.at("dns.md").find("[dns_check](dns_check.md)") != std::string::npos);
  CHECK(files.at("README.md").find("| [dns](dns_check.md) | asks a name server for a name |") !=
        std::string::npos);
}

TEST_CASE("an unknown word is met with the nearest") {
  CHECK(message_of(explain("netwrok").status()) ==
        "no word \"netwrok\"; did you mean \"network\"?");
  CHECK(explain("quux").status().code() == StatusCode::kNotFound);
  CHECK(message_of(explain("\x1b[31m").status()).find('\x1b') == std::string::npos);
}

TEST_CASE("a fault is told in a few words") {
  v1::Fault fault;
  CHECK(in_words(fault) == "no fault");
  fault.mutable_network()->set_delay(300'000'000);
  CHECK(in_words(fault) == "network delay 300ms");
  fault.mutable_network()->mutable_to()->add_ports()->set_first(5432);
  fault.mutable_network()->mutable_to()->mutable_ports(0)->set_last(5432);
  fault.mutable_network()->set_direction(v1::INGRESS);
  CHECK(in_words(fault) == "network delay 300ms to ports 5432 direction ingress");
  fault.mutable_kill()->mutable_process()->set_name("ngi\nnx");
  fault.mutable_kill()->set_signal(v1::SIGNAL_TERM);
  CHECK(in_words(fault) == "kill process name ngi\\x0anx signal TERM");
  fault.mutable_cpu()->set_load(80);
  fault.mutable_cpu()->set_cores(2);
  CHECK(in_words(fault) == "cpu load 80% cores 2");
  fault.mutable_dns()->add_names("*.internal");
  fault.mutable_dns()->set_answer(v1::NXDOMAIN);
  fault.mutable_dns()->set_delay(2'000'000'000);
  CHECK(in_words(fault) == "dns names *.internal answer nxdomain delay 2s");
  fault.mutable_io()->mutable_of()->set_name("postgres");
  fault.mutable_io()->set_path("/var/lib/postgresql");
  fault.mutable_io()->set_delay(50'000'000);
  fault.mutable_io()->add_operations(v1::READ);
  fault.mutable_io()->add_operations(v1::FSYNC);
  CHECK(in_words(fault) ==
        "io of name postgres path /var/lib/postgresql delay 50ms operations read, fsync");
  fault.mutable_cpu()->set_load(80);
  fault.mutable_cpu()->add_on_cores(0);
  fault.mutable_cpu()->add_on_cores(2);
  CHECK(in_words(fault) == "cpu load 80% on_cores 0, 2");
}

TEST_CASE("evidence is told in a few words") {
  v1::Evidence evidence;
  CHECK(in_words(evidence) == "nothing shown");
  evidence.mutable_network();
  CHECK(in_words(evidence) == "0 packets matched");
  evidence.mutable_network()->set_matched_packets(412);
  evidence.mutable_network()->set_dropped_packets(4);
  CHECK(in_words(evidence) == "412 packets matched, 4 lost as asked");
  evidence.mutable_kill()->add_victims();
  CHECK(in_words(evidence) == "1 process ended");
  evidence.mutable_cpu()->set_achieved(79.8333);
  evidence.mutable_cpu()->set_cores(2);
  CHECK(in_words(evidence) == "79.8% of each core burnt, 2 cores");
  evidence.mutable_dns()->set_matched_queries(12);
  evidence.mutable_dns()->set_answered_queries(12);
  evidence.mutable_dns()->set_forwarded_queries(30);
  CHECK(in_words(evidence) ==
        "12 queries matched, 12 answered in the server's place, 30 passed on to the server");
  evidence.mutable_io()->set_operations(40);
  evidence.mutable_io()->set_delayed(12);
  evidence.mutable_io()->set_failed(12);
  CHECK(in_words(evidence) == "40 operations seen, 12 delayed, 12 failed as asked");
}

}  // namespace
}  // namespace squall::plan
