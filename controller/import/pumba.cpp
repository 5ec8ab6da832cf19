/// Pumba's command lines: faults of Docker containers.
/// Source: its --help and docs/guide.md, docs/network-chaos.md, docs/stress-testing.md.
#include <fmt/format.h>

#include <array>
#include <utility>

#include "controller/import/formats.h"
#include "controller/import/programs.h"
#include "controller/import/words.h"

namespace squall::importing {
namespace {

using Words = std::span<const std::string>;

constexpr std::array<std::string_view, 17> kSwitches = {
    "--random", "--dry-run", "--dry",        "--json",       "--tls",          "--tlsverify",
    "--force",  "--links",   "--volumes",    "--restart",    "--version",      "--help",
    "-h",       "--pull",    "--pull-image", "--skip-error", "--inject-cgroup"};

constexpr std::array<Flags::Alias, 6> kGlobalAliases = {{{"-H", "--host"},
                                                         {"-l", "--log-level"},
                                                         {"-j", "--json"},
                                                         {"-i", "--interval"},
                                                         {"-r", "--random"},
                                                         {"-v", "--version"}}};
constexpr std::array<Flags::Alias, 8> kNetemAliases = {{{"-d", "--duration"},
                                                        {"-i", "--interface"},
                                                        {"-t", "--target"},
                                                        {"--egressPort", "--egress-port"},
                                                        {"--ingressPort", "--ingress-port"},
                                                        {"-p", "--protocol"},
                                                        {"--src", "--source"},
                                                        {"--dest", "--destination"}}};
constexpr std::array<Flags::Alias, 4> kIptablesPorts = {{{"--sport", "--src-port"},
                                                         {"--dport", "--dst-port"},
                                                         {"-s", "--source"},
                                                         {"-d", "--duration"}}};
constexpr std::array<Flags::Alias, 4> kDelayAliases = {
    {{"-t", "--time"}, {"-j", "--jitter"}, {"-c", "--correlation"}, {"-d", "--distribution"}}};
constexpr std::array<Flags::Alias, 4> kShareAliases = {
    {{"-p", "--percent"}, {"-c", "--correlation"}, {"-r", "--rate"}, {"-s", "--cellsize"}}};
constexpr std::array<Flags::Alias, 2> kGemodelAliases = {{{"-p", "--pg"}, {"-r", "--pb"}}};
constexpr std::array<Flags::Alias, 4> kRateAliases = {
    {{"-r", "--rate"}, {"-p", "--packetoverhead"}, {"-s", "--cellsize"}, {"-c", "--celloverhead"}}};
constexpr std::array<Flags::Alias, 7> kContainerAliases = {{{"-s", "--signal"},
                                                            {"-l", "--limit"},
                                                            {"-d", "--duration"},
                                                            {"-t", "--time"},
                                                            {"-f", "--force"},
                                                            {"-r", "--restart"},
                                                            {"-v", "--volumes"}}};

constexpr std::array<Reason, 27> kReasons = {{
    {"--interval", "a plan does its steps once; run it again for more"},
    {"--random",
     "a container drawn by chance is not known beforehand: choose it, or several nodes "
     "and `pick: 1`"},
    {"--label", "Squall knows a container by its id, not by its labels"},
    {"--limit", "how many of the containers: write as many steps"},
    {"--dry-run", "squall validate and squall nodes change nothing", Note::Kind::kSaid},
    {"--dry", "squall validate and squall nodes change nothing", Note::Kind::kSaid},
    {"--host", "how Pumba reaches Docker; Squall asks the kernel", Note::Kind::kSaid},
    {"--tls", "how Pumba reaches Docker", Note::Kind::kSaid},
    {"--tlsverify", "how Pumba reaches Docker", Note::Kind::kSaid},
    {"--tlscacert", "how Pumba reaches Docker", Note::Kind::kSaid},
    {"--tlscert", "how Pumba reaches Docker", Note::Kind::kSaid},
    {"--tlskey", "how Pumba reaches Docker", Note::Kind::kSaid},
    {"--log-level", "Pumba's own log", Note::Kind::kSaid},
    {"--json", "Pumba's own log", Note::Kind::kSaid},
    {"--slackhook", "a run of Squall reports in text, JSON and JUnit"},
    {"--slackchannel", "a run of Squall reports in text, JSON and JUnit"},
    {"--skip-error", "a fault that fails ends the run of a plan"},
    {"--tc-image", "Squall needs no image: it speaks to the kernel itself", Note::Kind::kSaid},
    {"--iptables-image", "Squall needs no image: it speaks to the kernel itself",
     Note::Kind::kSaid},
    {"--stress-image", "Squall needs no image: its own threads burn", Note::Kind::kSaid},
    {"--pull-image", "Squall needs no image", Note::Kind::kSaid},
    {"--pull", "Squall needs no image", Note::Kind::kSaid},
    {"--restart", "Squall starts no container again: that is what its supervisor is for"},
    {"--force", "the container is ended, and not removed"},
    {"--links", "the container is ended, and not removed"},
    {"--volumes", "the container is ended, and not removed"},
    {"--inject-cgroup", "write the container's control group as `in: {cgroup: ...}`"},
}};

/// A container's id is known here only where it was written as such.
void put_container(const std::string& name, Draft& process) {
  const bool is_id = name.size() >= 12 && name.size() <= 64 &&
                     name.find_first_not_of("0123456789abcdef") == std::string::npos;
  Draft& container = process.set("container", Draft::text(is_id ? name : "000000000000"));
  if (is_id) return;
  const bool is_pattern = name.starts_with("re2:");
  container.decide(
      fmt::format("the id of {} {} (docker {}), which is what Squall knows a container by",
                  is_pattern ? "each container whose name matches" : "the container",
                  quoted_where_needed(name, false, false),
                  is_pattern ? "ps --no-trunc" : "inspect --format '{{.Id}}'"));
}

void put_namespace(const std::string& name, Draft& fault) {
  fault.map_at("in")
      .set("netns", Draft::text("fill-in"))
      .decide(fmt::format(
          "the network namespace of the container {}: the pid of a process in it (docker inspect "
          "--format '{{{{.State.Pid}}}}'); of the machine itself without this",
          quoted_where_needed(name, false, false)));
}

/// One netem command's own options.
void put_netem(const std::string& kind, Source& said, Draft& network) {
  if (kind == "delay") {
    put_or(said.find("--time"), network, "delay", milliseconds, "milliseconds", "100ms");
    // With the defaults that Pumba's people count on; there is no correlation of a jitter of none.
    if (Source* jitter = said.find("--jitter"); jitter != nullptr) {
      put(jitter, network, "jitter", milliseconds, "milliseconds");
    } else {
      put_or(nullptr, network, "jitter", milliseconds, "", "10ms");
    }
    constexpr std::array<Rule, 2> kRules = {
        {{"--correlation", "delay_correlation", percentage, "a percentage", "jitter"},
         {"--distribution", "distribution", any_text, "a distribution", "jitter"}}};
    put(said, network, kRules);
    if (said.find("--correlation") == nullptr && network.find("jitter") != nullptr) {
      put_or(nullptr, network, "delay_correlation", percentage, "", "20%");
    }
  } else if (kind == "loss" || kind == "duplicate" || kind == "corrupt") {
    put_or(said.find("--percent"), network, kind, percentage, "a percentage", "1%");
    if (said.find("--percent") == nullptr) {
      network.find(kind)->decide("Pumba's own default is 0, which does nothing; 1% is a guess");
    }
    put(said.find("--correlation"), network, kind + "_correlation", percentage, "a percentage");
  } else if (kind == "loss-state") {
    Draft& states = network.map_at("four_state");
    put_or(said.find("--p13"), states, "p13", percentage, "a percentage", "1%");
    put_or(said.find("--p31"), states, "p31", percentage, "a percentage", "100%");
    constexpr std::array<Rule, 3> kRules = {{{"--p32", "p32", percentage, "a percentage"},
                                             {"--p23", "p23", percentage, "a percentage"},
                                             {"--p14", "p14", percentage, "a percentage"}}};
    put(said, states, kRules);
  } else if (kind == "loss-gemodel") {
    Draft& model = network.map_at("gilbert_elliott");
    put_or(said.find("--pg"), model, "p", percentage, "a percentage", "1%");
    put_or(said.find("--pb"), model, "r", percentage, "a percentage", "100%");
    constexpr std::array<Rule, 2> kRules = {
        {{"--one-h", "loss_when_bad", percentage, "a percentage"},
         {"--one-k", "loss_when_good", percentage, "a percentage"}}};
    put(said, model, kRules);
  } else if (kind == "rate") {
    put_or(said.find("--rate"), network, "rate", tc_rate, "a rate", "100kbit");
    constexpr std::array<Rule, 3> kRules = {
        {{"--packetoverhead", "packet_overhead", count, "bytes", "rate"},
         {"--cellsize", "cell_size", count, "bytes", "rate"},
         {"--celloverhead", "cell_overhead", count, "bytes", "cell_size"}}};
    put(said, network, kRules);
  }
}

std::span<const Flags::Alias> netem_aliases(const std::string& kind) {
  if (kind == "delay") return kDelayAliases;
  if (kind == "loss-gemodel") return kGemodelAliases;
  if (kind == "rate") return kRateAliases;
  return kShareAliases;
}

/// What is read of one command: its options on every level, and the containers.
struct Said {
  Source options{Source::Kind::kMap};
  std::string command;
  std::string sub;
  std::vector<std::string> containers;
};

void read(Words words, Said& said) {
  std::size_t at = 0;
  read_flags(words, at, {.aliases = kGlobalAliases, .switches = kSwitches, .stop_at_word = true},
             said.options);
  if (at == words.size()) return;
  said.command = words[at++];
  const bool nested = said.command == "netem" || said.command == "iptables";
  if (nested) {
    const bool netem = said.command == "netem";
    std::vector<Flags::Alias> aliases(kNetemAliases.begin(), kNetemAliases.end());
    if (!netem) aliases.insert(aliases.end(), kIptablesPorts.begin(), kIptablesPorts.end());
    read_flags(words, at, {.aliases = aliases, .switches = kSwitches, .stop_at_word = true},
               said.options);
    if (at < words.size()) said.sub = words[at++];
  }
  const Flags flags = {.aliases = nested ? netem_aliases(said.sub) : kContainerAliases,
                       .switches = kSwitches,
                       .stop_at_word = false};
  said.containers = read_flags(words, at, flags, said.options);
}

void put_duration(Said& said, Draft& step) {
  put_for(step, taken(said.options.find("--duration"), go_duration, "a duration"));
}

Draft network_step(Said& said, const std::string& container) {
  Draft step = Draft::map();
  Draft& network = step.set("network", Draft::map());
  Source& options = said.options;
  if (said.command == "netem") {
    put_netem(said.sub, options, network);
    for (const auto& part : options.parts()) {
      if (part->key() == "--target") put_addresses(part.get(), network, "to");
    }
    put_ports(options.find("--egress-port"), network, "to");
    put_ports(options.find("--ingress-port"), network, "to");
  } else {
    if (text_of(options.find("--mode")) == "nth") {
      options.find("--mode")->leave("Squall loses packets by chance, not every Nth");
    } else {
      took(options.find("--mode"), "random");
    }
    put_or(options.find("--probability"), network, "loss", probability, "a probability", "1%");
    put_addresses(options.find("--source"), network, "from");
    put_ports(options.find("--src-port"), network, "from");
    put_ports(options.find("--dst-port"), network, "from");
    put_protocol(options.find("--protocol"), network, "from");
    if (network.find("from") == nullptr) network.set("direction", Draft::word("ingress"));
  }
  put_namespace(container, network);
  if (!put(options.find("--interface"), network, "interface", any_text, "an interface")) {
    network.set("interface", Draft::text("eth0"));
  }
  put_duration(said, step);
  return step;
}

/// The commands about a container as a whole.
Draft container_step(Said& said, const std::string& container) {
  Source& options = said.options;
  Draft step = Draft::map();
  if (said.command == "pause") {
    put_container(container, step.set("pause", Draft::map()).map_at("process"));
    put_duration(said, step);
    return step;
  }
  Draft& kill = step.set("kill", Draft::map());
  put_container(container, kill.map_at("process"));
  if (said.command == "kill") {
    Source* given = options.find("--signal");
    const auto signal = taken(given, signal_name, "a signal that Squall sends");
    if (signal) kill.set("signal", Draft::word(*signal));
    kill.say("Pumba sends it to the first process of the container, Squall to all of them");
  } else if (said.command == "stop" || said.command == "restart") {
    kill.set("signal", Draft::word("TERM"));
    put_or(options.find("--time"), kill, "grace", seconds, "seconds", "5s");
    if (said.command == "restart") {
      kill.lose("restart (Squall starts no container again: that is what its supervisor is for)");
    }
  } else {
    kill.lose("rm (the container's processes are ended; the container itself is not removed)");
  }
  return step;
}

void stress_steps(Said& said, const std::string& container, std::vector<Draft>& steps) {
  Source* stressors = said.options.find("--stressors");
  const auto commands =
      split_line(stressors == nullptr ? "--cpu 4 --timeout 60s" : stressors->text());
  if (!commands || commands->size() != 1) {
    if (stressors != nullptr) stressors->leave("not arguments of stress-ng");
    return;
  }
  if (stressors != nullptr) stressors->take();
  Meant meant = meaning_of_stress(commands->front().words, "--stressors");
  const auto duration = taken(said.options.find("--duration"), go_duration, "a duration");
  for (Draft& step : meant.steps) {
    if (step.kind() == Draft::Kind::kMap) {
      put_end_of_stress(step, duration);
      step.decide(fmt::format("within the container {}: write `in:` with its control group",
                              quoted_where_needed(container, false, false)));
    }
    steps.push_back(std::move(step));
  }
}

bool is_known(const Said& said) {
  if (said.command == "netem") {
    for (const char* sub :
         {"delay", "loss", "loss-state", "loss-gemodel", "duplicate", "corrupt", "rate"}) {
      if (said.sub == sub) return true;
    }
    return false;
  }
  if (said.command == "iptables") return said.sub == "loss";
  for (const char* command : {"kill", "pause", "stop", "rm", "restart", "stress"}) {
    if (said.command == command) return true;
  }
  return false;
}

void map(Words words, Experiment&, std::vector<Draft>& steps) {
  Said said;
  read(words, said);
  std::string line = "pumba";
  for (const std::string& word : words) line += " " + word;
  if (!is_known(said)) {
    Draft& none = steps.emplace_back();
    none.lose(fmt::format("{} (no fault of Squall does this)", line));
    return;
  }
  if (said.containers.empty()) said.containers.emplace_back("re2:.*");
  const std::size_t first = steps.size();
  for (const std::string& container : said.containers) {
    if (said.command == "stress") {
      stress_steps(said, container, steps);
    } else if (said.sub.empty()) {
      steps.push_back(container_step(said, container));
    } else {
      steps.push_back(network_step(said, container));
    }
  }
  if (steps.size() == first) steps.emplace_back();
  tell_rest(said.options, steps[first], kReasons);
}

}  // namespace

const CommandFormat kPumba = {
    .name = "pumba", .called = "Pumba", .program = "pumba", .at_once = false, .map = map};

}  // namespace squall::importing
