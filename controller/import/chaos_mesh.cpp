/// Chaos Mesh's objects: the chaos kinds in Kubernetes and on machines, Workflow and Schedule.
/// Source: chaos-mesh.org/docs, "Simulate ..." and "Create Chaos Mesh Workflow"; the types in
/// api/v1alpha1.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "controller/import/formats.h"
#include "controller/import/programs.h"
#include "controller/import/words.h"

namespace squall::importing {
namespace {

constexpr std::array<Reason, 40> kReasons = {{
    {"labels", "labels of the object in Kubernetes", Note::Kind::kSaid},
    {"annotations", "notes of the object in Kubernetes", Note::Kind::kSaid},
    {"namespace", "where the object itself is kept", Note::Kind::kSaid},
    {"uid", "Kubernetes' own bookkeeping", Note::Kind::kSaid},
    {"resourceVersion", "Kubernetes' own bookkeeping", Note::Kind::kSaid},
    {"creationTimestamp", "Kubernetes' own bookkeeping", Note::Kind::kSaid},
    {"generation", "Kubernetes' own bookkeeping", Note::Kind::kSaid},
    {"status", "what the object came to, not what it asks", Note::Kind::kSaid},
    {"remoteCluster", "write that cluster's machines below `nodes`"},
    {"containerNames", "Squall knows a container by its id: write `in:` or `process:` with it"},
    {"namespaces", "several namespaces: write the machines below `nodes`"},
    {"fieldSelectors", "choose the machines when you write them below `nodes`"},
    {"expressionSelectors", "choose the machines when you write them below `nodes`"},
    {"annotationSelectors", "choose the machines when you write them below `nodes`"},
    {"podPhaseSelectors", "choose the machines when you write them below `nodes`"},
    {"nodeSelectors", "choose the machines when you write them below `nodes`"},
    {"nodes", "choose the machines when you write them below `nodes`"},
    {"pods", "choose the machines when you write them below `nodes`"},
    {"physicalMachines", "choose the machines when you write them below `nodes`"},
    {"schedule", "a plan runs when it is run: a timer starts `squall run`"},
    {"historyLimit", "the schedule's own"},
    {"concurrencyPolicy", "the schedule's own"},
    {"startingDeadlineSeconds", "the schedule's own"},
    {"deadline", "steps end by their own `for`, and a series of them with the last"},
    {"conditionalBranches", "a plan has no branches"},
    {"task", "a plan starts no containers; see the fault kind script"},
    {"options", "further arguments of stress-ng"},
    {"oomScoreAdj", "Squall gives memory back when others need it"},
    {"limit", "netem's queue is as long as the rate and the delay need"},
    {"buffer", "netem's rate has no bucket that is saved up"},
    {"peakrate", "netem's rate has no bucket that is saved up"},
    {"minburst", "netem's rate has no bucket that is saved up"},
    {"gracePeriod", "see `signal: TERM` and `grace` of kill"},
    {"attr", "io delays operations or fails them, and changes no attributes"},
    {"mistake", "io delays operations or fails them, and writes nothing wrong"},
    {"accept-tcp-flags", "Squall does not look at a packet's flags"},
    {"fill-by-fallocate", "Squall fills as it finds best", Note::Kind::kSaid},
    {"dns-server", "Squall answers for names, and leaves resolv.conf alone"},
    {"recover-command", "a service is started again at the end; see script for more"},
    {"statusCheck", "a check of Squall's has no such field"},
}};

/// The selector's labels; `namespace` among them where it names one.
Experiment::Labels labels_of(Source* selector) {
  Experiment::Labels labels;
  if (selector == nullptr) return labels;
  if (Source* wanted = selector->find("labelSelectors"); wanted != nullptr) {
    for (const auto& label : wanted->parts()) {
      if (label->kind() != Source::Kind::kScalar) continue;
      labels[label->key()] = label->text();
      label->take();
    }
  }
  Source* namespaces = selector->find("namespaces");
  if (const auto names = listed(namespaces); names.size() == 1) {
    labels["namespace"] = names.front();
    namespaces->take();
  }
  return labels;
}

/// How many of the selected: `pick`, or nothing for all of them.
void put_pick(Source& spec, Draft& step) {
  Source* mode = spec.find("mode");
  Source* value = spec.find("value");
  if (took(mode, "all")) return;
  if (took(mode, "one")) {
    step.set("pick", Draft::word("1"));
  } else if (text_of(mode) == "fixed") {
    mode->take();
    put(value, step, "pick", count, "a number");
  } else if (text_of(mode) == "fixed-percent" || text_of(mode) == "random-max-percent") {
    mode->take();
    const bool most = mode->text() == "random-max-percent";
    if (put(value, step, "pick", percentage, "a percentage") && most) {
      step.lose("mode: random-max-percent (a share drawn anew each time; `pick` takes all of it)");
    }
  } else if (mode != nullptr) {
    mode->leave("not all, one, fixed, fixed-percent or random-max-percent");
  }
}

std::size_t nodes_needed(const Draft& step) {
  const Draft* pick = step.find("pick");
  constexpr std::size_t kMostDigits = 4;
  const bool number = pick != nullptr && pick->text().size() <= kMostDigits &&
                      pick->text().find_first_not_of("0123456789") == std::string::npos;
  return number ? std::stoul(pick->text()) : 1;
}

/// `on` and `pick`, the latter first read because it says how many nodes there must be.
void put_on(Source& spec, Experiment& experiment, Draft& step) {
  Draft counted = Draft::map();
  put_pick(spec, counted);
  Source* addresses = spec.find("address");
  const std::vector<std::string> machines = listed(addresses);
  if (!machines.empty()) {
    addresses->take();
    Draft* last = nullptr;
    for (const std::string& machine : machines) {
      // Chaosd's port is not squalld's.
      std::string host =
          machine.substr(machine.find("//") == std::string::npos ? 0 : machine.find("//") + 2);
      host = host.substr(0, host.rfind(':'));
      last = &experiment.add_node(host, host + ":7411", {{"chaosd", "yes"}});
    }
    last->say("Chaosd's port is replaced by squalld's, 7411");
    if (machines.size() == 1) {
      const std::string& machine = experiment.last_node();
      step.set("on", Draft::text(machine));
    } else {
      Draft on = Draft::map();
      on.set("chaosd", Draft::text("yes"));
      step.set("on", std::move(on));
    }
  } else {
    step.set("on", experiment.described(labels_of(spec.find("selector")), nodes_needed(counted)));
  }
  for (Draft::Entry& entry : counted.entries()) step.set(entry.key, std::move(*entry.value));
  for (const Note& note : counted.notes()) step.note(note);
}

/// What of the node the fault was about, in Kubernetes: only the selected pods.
void say_of_pods(Draft& step) {
  step.decide(
      "Chaos Mesh did this to the selected pods; this is to the whole machine, unless `in:` names "
      "the pod's control group or network namespace");
}

void put_container(Draft& process, const std::string& why) {
  process.set("container", Draft::text("000000000000")).decide(why);
}

// ---- In Kubernetes
// -------------------------------------------------------------------------------

/// The packets of `target` and `externalTargets`, and their way.
void put_target(Source& spec, Draft& network) {
  const std::string way = text_of(spec.find("direction"));
  const bool from = way == "from";
  const std::string_view match = from ? "from" : "to";
  if (Source* direction = spec.find("direction"); way == "from" || way == "to" || way == "both") {
    direction->take();
  } else if (direction != nullptr) {
    direction->leave("not to, from or both");
  }
  put_addresses(spec.find("externalTargets"), network, match);
  Source* target = spec.find("target");
  if (target != nullptr) {
    network.map_at(match)
        .list_at("hosts")
        .add(Draft::text("fill-in.invalid"))
        .decide(
            fmt::format("the addresses of the pods of {}: {}", target->path(), target->written()));
    target->mark_told();
  }
  if (way == "both") {
    network.set("direction", Draft::word("both"));
  } else if (from && network.find("from") == nullptr) {
    network.set("direction", Draft::word("ingress"));
  }
}

/// One of delay, loss, duplicate, corrupt, and reorder within delay.
void put_emulation(Source& spec, Draft& network) {
  if (Source* said = spec.find("delay"); said != nullptr) {
    put_or(said->find("latency"), network, "delay", go_duration, "a duration", "1ms");
    constexpr std::array<Rule, 2> kRules = {
        {{"jitter", "jitter", go_duration, "a duration"},
         {"correlation", "delay_correlation", percentage, "a percentage", "jitter"}}};
    put(*said, network, kRules);
  }
  Source* within = spec.find({"delay", "reorder"});
  if (Source* said = within != nullptr ? within : spec.find("reorder"); said != nullptr) {
    constexpr std::array<Rule, 3> kRules = {
        {{"reorder", "reorder", percentage, "a percentage", "delay"},
         {"correlation", "reorder_correlation", percentage, "a percentage", "reorder"},
         {"gap", "gap", count, "a number", "reorder"}}};
    put(*said, network, kRules);
  }
  for (const char* kind : {"loss", "duplicate", "corrupt"}) {
    Source* said = spec.find(kind);
    if (said == nullptr) continue;
    put_or(said->find(kind), network, kind, percentage, "a percentage", "1%");
    if (Source* correlation = said->find("correlation"); network.find(kind) != nullptr) {
      put(correlation, network, fmt::format("{}_correlation", kind), percentage, "a percentage");
    }
  }
  for (const char* kind : {"bandwidth", "rate"}) {
    Source* said = spec.find(kind);
    if (said == nullptr) continue;
    Source* rate = said->find("rate");
    if (put(rate, network, "rate", mesh_rate, "a rate such as 1mbps")) {
      network.find("rate")->say(
          fmt::format("{}: {} (of 1024 x 1024 bytes a second)", rate->path(), rate->written()));
    }
  }
}

/// Between the two groups that a partition parts.
bool put_partition(Source& spec, Experiment& experiment, Draft& step) {
  Source* target = spec.find("target");
  if (target == nullptr) return false;
  const std::string way = text_of(spec.find("direction"));
  if (Source* direction = spec.find("direction"); way == "from" || way == "to" || way == "both") {
    direction->take();
  } else if (direction != nullptr) {
    direction->leave("not to, from or both");
  }
  const auto labels = labels_of(spec.find("selector"));
  const auto others = labels_of(target->find("selector"));
  Draft partition = Draft::map();
  Draft& between = partition.list_at("between");
  const bool from = way == "from";
  between.add(experiment.described(from ? others : labels));
  between.add(experiment.described(from ? labels : others));
  if (way != "both") partition.set("one_way", Draft::word("true"));
  step.set("partition", std::move(partition));
  for (Source* mode : {spec.find("mode"), target->find("mode")}) {
    if (took(mode, "all") || mode == nullptr) continue;
    mode->leave("a partition is between all nodes of its groups");
  }
  return true;
}

void network_chaos(Source& spec, Experiment& experiment, Draft& step) {
  const std::string action = text_of(spec.find("action"));
  constexpr std::array<std::string_view, 9> kActions = {"netem",     "delay",   "loss",
                                                        "duplicate", "corrupt", "reorder",
                                                        "bandwidth", "rate",    "partition"};
  if (std::find(kActions.begin(), kActions.end(), action) == kActions.end()) {
    step = Draft();
    return;
  }
  spec.find("action")->take();
  if (action == "partition") {
    if (put_partition(spec, experiment, step)) return;
    put_on(spec, experiment, step);
    Draft& network = step.set("network", Draft::map());
    network.set("loss", Draft::word("100%"));
    put_target(spec, network);
    put(spec.find("device"), network, "interface", any_text, "an interface");
    return say_of_pods(step);
  }
  put_on(spec, experiment, step);
  Draft& network = step.set("network", Draft::map());
  put_emulation(spec, network);
  put_target(spec, network);
  put(spec.find("device"), network, "interface", any_text, "an interface");
  put(spec.find("targetDevice"), network, "interface", any_text, "an interface");
  say_of_pods(step);
}

void put_memory(Source& said, Draft& memory) {
  Source* size = said.find("size");
  if (size != nullptr && text_of(size).ends_with('%')) {
    if (put(size, memory, "to", percentage, "a percentage")) {
      memory.decide("Chaos Mesh takes this share of all memory; `to` counts what others use, too");
    }
  } else {
    put_required(size, memory, "size", decimal_size, "how much memory", "256MiB");
  }
  if (Source* workers = said.find("workers"); workers != nullptr) {
    memory.say(
        fmt::format("{}: {} (one process holds all of it)", workers->path(), workers->written()));
    workers->take();
  }
}

Draft cpu_of(Source& said, std::string_view load_without) {
  Draft cpu = Draft::map();
  put_or(said.find("load"), cpu, "load", percentage, "a percentage", load_without);
  put(said.find("workers"), cpu, "cores", count, "a number");
  return cpu;
}

void stress_chaos(Source& spec, Experiment& experiment, Draft& step) {
  std::vector<Draft> faults;
  if (Source* said = spec.find("stressngStressors"); said != nullptr && !text_of(said).empty()) {
    const auto commands = split_line(said->text());
    if (commands && commands->size() == 1) {
      for (Draft& meant : meaning_of_stress(commands->front().words, said->path()).steps) {
        faults.push_back(std::move(meant));
      }
      said->take();
    }
  }
  const bool by_words = !faults.empty();
  if (Source* other = spec.find("stressors"); other != nullptr && by_words) {
    other->leave("Chaos Mesh takes stressngStressors where both are given");
  }
  if (Source* said = spec.find({"stressors", "cpu"}); said != nullptr && !by_words) {
    Draft one = Draft::map();
    one.set("cpu", cpu_of(*said, "100%"));
    faults.push_back(std::move(one));
  }
  if (Source* said = spec.find({"stressors", "memory"}); said != nullptr && !by_words) {
    Draft one = Draft::map();
    put_memory(*said, one.set("memory", Draft::map()));
    faults.push_back(std::move(one));
  }
  if (faults.empty()) {
    step = Draft();
    return;
  }
  Draft where = Draft::map();
  put_on(spec, experiment, where);
  say_of_pods(where);
  const auto put_whole = [&](Draft fault, Draft& into) {
    for (const Draft::Entry& entry : where.entries()) into.set(entry.key, entry.value->copy());
    for (Draft::Entry& entry : fault.entries()) into.set(entry.key, std::move(*entry.value));
    for (const Note& note : fault.notes()) into.note(note);
  };
  for (const Note& note : where.notes()) step.note(note);
  if (faults.size() == 1) return put_whole(std::move(faults.front()), step);
  if (where.find("pick") != nullptr) {
    step.decide("each of these steps picks nodes of its own; there it was the same pod");
  }
  Draft& together = step.list_at("parallel");
  for (Draft& fault : faults) {
    if (fault.kind() == Draft::Kind::kMap) put_whole(std::move(fault), together.add(Draft::map()));
  }
}

void pod_chaos(Source& spec, Experiment& experiment, Draft& step) {
  const std::string action = text_of(spec.find("action"));
  if (action != "pod-kill" && action != "pod-failure" && action != "container-kill") {
    step = Draft();
    return;
  }
  spec.find("action")->take();
  put_on(spec, experiment, step);
  const bool fails = action == "pod-failure";
  Draft& fault = step.set(fails ? "pause" : "kill", Draft::map());
  put_container(fault.map_at("process"),
                action == "container-kill"
                    ? "the container's id (crictl ps --name ...)"
                    : "the id of the pod's container (crictl ps --pod ...); one step for each");
  if (fails) {
    step.lose(
        "pod-failure makes the pod's containers run an image that does nothing; here they "
        "stand still, and go on afterwards");
  } else if (action == "pod-kill") {
    step.lose(
        "pod-kill deletes the pod, which may come back elsewhere; here its processes end "
        "and the kubelet starts them again");
    if (Source* duration = spec.find("duration"); duration != nullptr) {
      duration->leave("a kill is done at once", Note::Kind::kSaid);
    }
  } else if (Source* duration = spec.find("duration"); duration != nullptr) {
    duration->leave("a kill is done at once", Note::Kind::kSaid);
  }
}

/// Ahead, or back where the offset has a sign.
Draft clock_of(Source* offset) {
  Draft clock = Draft::map();
  std::string text = text_of(offset);
  const bool back = text.starts_with('-');
  if (back || text.starts_with('+')) text = text.substr(1);
  // As in -10m100ns each sign is about the whole.
  const auto value = go_duration(text);
  if (value && !value->empty()) {
    clock.set(back ? "back" : "ahead", Draft::word(*value));
    offset->take();
  } else {
    if (offset != nullptr) offset->leave("not an offset such as -10m");
    clock.set("ahead", Draft::word("1h")).decide("how far ahead, or back");
  }
  return clock;
}

void put_clock_ids(Source* field) {
  if (field == nullptr) return;
  const auto ids = listed(field);
  if (ids.size() == 1 && ids.front() == "CLOCK_REALTIME") return field->take();
  field->leave("Squall moves the wall clock alone, CLOCK_REALTIME");
}

void time_chaos(Source& spec, Experiment& experiment, Draft& step) {
  put_on(spec, experiment, step);
  step.set("clock", clock_of(spec.find("timeOffset")));
  put_clock_ids(spec.find("clockIds"));
  step.decide("Chaos Mesh lied to the selected pods alone; this moves the clock of the machine");
}

void dns_chaos(Source& spec, Experiment& experiment, Draft& step) {
  put_on(spec, experiment, step);
  Draft& dns = step.set("dns", Draft::map());
  Draft& names = dns.list_at("names");
  Source* patterns = spec.find("patterns");
  if (patterns != nullptr) {
    for (const auto& pattern : patterns->parts()) {
      const std::string text = text_of(pattern.get());
      const std::string_view rest =
          text.starts_with("*.") ? std::string_view(text).substr(2) : text;
      if (text != "*" && (rest.empty() || rest.find_first_of("*?[") != rest.npos)) {
        pattern->leave("a name is exact, or has `*.` in front of it");
        continue;
      }
      names.add(Draft::text(text));
      pattern->take();
    }
  }
  if (names.entries().empty()) {
    names.add(Draft::text("*"));
    if (patterns != nullptr && !patterns->parts().empty()) names.decide("which names");
  }
  if (took(spec.find("action"), "random")) {
    dns.list_at("addresses").add(Draft::word("192.0.2.1"));
    dns.say("random addresses there, an address that nobody has here");
  } else {
    took(spec.find("action"), "error");
    dns.set("answer", Draft::word("servfail"));
  }
  say_of_pods(step);
}

struct Word {
  std::string_view theirs;
  std::string_view ours;
};
constexpr std::array<Word, 14> kMethods = {{{"open", "open"},
                                            {"opendir", "open"},
                                            {"read", "read"},
                                            {"write", "write"},
                                            {"fsync", "fsync"},
                                            {"lookup", "lookup"},
                                            {"getattr", "lookup"},
                                            {"create", "create"},
                                            {"mknod", "create"},
                                            {"mkdir", "create"},
                                            {"unlink", "create"},
                                            {"rmdir", "create"},
                                            {"rename", "create"},
                                            {"symlink", "create"}}};
constexpr std::array<Word, 6> kErrors = {{{"5", "EIO"},
                                          {"28", "ENOSPC"},
                                          {"30", "EROFS"},
                                          {"13", "EACCES"},
                                          {"122", "EDQUOT"},
                                          {"24", "EMFILE"}}};

template <std::size_t kSize>
std::string_view translated(const std::array<Word, kSize>& words, const std::string& theirs) {
  for (const Word& word : words) {
    if (word.theirs == theirs) return word.ours;
  }
  return "";
}

void io_chaos(Source& spec, Experiment& experiment, Draft& step) {
  const std::string action = text_of(spec.find("action"));
  if (action != "latency" && action != "fault") {
    step = Draft();
    return;
  }
  spec.find("action")->take();
  put_on(spec, experiment, step);
  Draft& io = step.set("io", Draft::map());
  put_container(io.map_at("of"), "the id of the pod's container (crictl ps --pod ...)");
  put_required(spec.find("volumePath"), io, "path", any_text, "the directory", "/fill-in");
  if (action == "latency") {
    put_required(spec.find("delay"), io, "delay", go_duration, "how much longer", "100ms");
  } else {
    Source* number = spec.find("errno");
    const std::string_view error = translated(kErrors, text_of(number));
    io.set("error", Draft::word(error.empty() ? "EIO" : std::string(error)));
    if (error.empty()) {
      io.find("error")->decide("which of EIO, ENOSPC, EROFS, EACCES, EDQUOT, EMFILE");
      if (number != nullptr) number->leave("io fails with the errors of full and broken disks");
    } else {
      number->take();
    }
  }
  put(spec.find("percent"), io, "percent", percentage, "a percentage");
  if (Source* methods = spec.find("methods"); methods != nullptr) {
    Draft operations = Draft::list();
    for (const auto& method : methods->parts()) {
      const std::string_view ours = translated(kMethods, lower(text_of(method.get())));
      if (ours.empty()) {
        method->leave("not among io's operations");
        continue;
      }
      method->take();
      const auto& had = operations.entries();
      const bool again = std::any_of(had.begin(), had.end(), [&](const Draft::Entry& entry) {
        return entry.value->text() == ours;
      });
      if (!again) operations.add(Draft::word(std::string(ours)));
    }
    if (!operations.entries().empty()) io.set("operations", std::move(operations));
  }
  if (Source* path = spec.find("path"); path != nullptr) {
    path->leave("io takes all files below a directory: narrow `path`");
  }
}

// ---- On machines
// ---------------------------------------------------------------------------------

/// Chaosd's common words for packets.
void put_packets(Source& said, Draft& network) {
  const bool from = took(said.find("direction"), "from");
  if (!from) took(said.find("direction"), "to");
  const std::string_view match = from ? "from" : "to";
  put_addresses(said.find("ip-address"), network, match);
  put_addresses(said.find("hostname"), network, match);
  put_ports(said.find("egress-port"), network, match);
  put_ports(said.find("source-port"), network, match);
  put_protocol(said.find("ip-protocol"), network, match);
  put(said.find("device"), network, "interface", any_text, "an interface");
  if (from && network.find("from") == nullptr) network.set("direction", Draft::word("ingress"));
}

Draft machine_delay(Source& said) {
  Draft network = Draft::map();
  put_or(said.find("latency"), network, "delay", go_duration, "a duration", "1ms");
  constexpr std::array<Rule, 2> kRules = {
      {{"jitter", "jitter", go_duration, "a duration"},
       {"correlation", "delay_correlation", percentage, "a percentage", "jitter"}}};
  put(said, network, kRules);
  put_packets(said, network);
  return network;
}

Draft machine_share(Source& said, const std::string& key) {
  Draft network = Draft::map();
  put_or(said.find("percent"), network, key, percentage, "a percentage", "1%");
  put(said.find("correlation"), network, key + "_correlation", percentage, "a percentage");
  put_packets(said, network);
  return network;
}

Draft machine_loss(Source& said) { return machine_share(said, "loss"); }
Draft machine_corrupt(Source& said) { return machine_share(said, "corrupt"); }
Draft machine_duplicate(Source& said) { return machine_share(said, "duplicate"); }

Draft machine_partition(Source& said) {
  Draft network = Draft::map();
  network.set("loss", Draft::word("100%"));
  put_packets(said, network);
  return network;
}

Draft machine_bandwidth(Source& said) {
  Draft network = Draft::map();
  put_required(said.find("rate"), network, "rate", mesh_rate, "a rate such as 1mbps", "1mbit");
  put_packets(said, network);
  return network;
}

Draft machine_dns(Source& said) {
  Draft dns = Draft::map();
  Draft& names = dns.list_at("names");
  for (const std::string& name : listed(said.find("dns-domain-name"))) names.add(Draft::text(name));
  for (const std::string& ip : listed(said.find("dns-ip"))) {
    dns.list_at("addresses").add(Draft::word(ip));
  }
  for (const char* key : {"dns-domain-name", "dns-ip"}) {
    if (Source* field = said.find(key); field != nullptr) field->take();
  }
  if (names.entries().empty()) names.add(Draft::text("fill-in.invalid")).decide("which names");
  return dns;
}

Draft machine_cpu(Source& said) { return cpu_of(said, "10%"); }

Draft machine_memory(Source& said) {
  Draft memory = Draft::map();
  put_memory(said, memory);
  return memory;
}

void put_path(Source& said, Draft& disk) {
  Source* path = said.find("path");
  const std::string text = text_of(path);
  // A file that is written there; a directory here.
  const auto slash = text.rfind('/');
  if (slash == std::string::npos) {
    if (path != nullptr) path->leave("not a whole path");
    disk.set("path", Draft::text("/tmp")).decide("which directory");
    return;
  }
  disk.set("path", Draft::text(slash == 0 ? "/" : text.substr(0, slash)));
  if (slash + 1 < text.size()) {
    disk.say(fmt::format("{}: {} (its directory: what Squall fills is unlinked at once)",
                         path->path(), path->written()));
  }
  path->take();
}

Draft machine_fill(Source& said) {
  Draft disk = Draft::map();
  put_path(said, disk);
  Source* size = said.find("size");
  if (text_of(size).ends_with('%')) {
    put(size, disk, "to", percentage, "a percentage");
    disk.say("Chaosd fills this share; `to` counts what is used already");
  } else {
    put_required(size, disk, "size", decimal_size, "how much", "1GiB");
  }
  return disk;
}

Draft machine_load(Source& said, std::string_view way) {
  Draft disk = Draft::map();
  put_path(said, disk);
  disk.set(way, Draft::word("100MiB")).decide("how much a second; Chaosd goes as fast as it can");
  if (Source* size = said.find("size"); size != nullptr) {
    size->leave("how much in all; a fault lasts for a time");
  }
  if (Source* number = said.find("payload-process-num"); number != nullptr) {
    number->leave("one process does it");
  }
  return disk;
}

Draft machine_read(Source& said) { return machine_load(said, "read"); }
Draft machine_write(Source& said) { return machine_load(said, "write"); }

Draft machine_clock(Source& said) {
  Draft clock = clock_of(said.find("time-offset"));
  Source* ids = said.find("clock-ids-slice");
  put_clock_ids(ids);
  if (Source* pid = said.find("pid"); pid != nullptr) {
    pid->leave("Squall moves the clock of the machine, for all its processes");
  }
  return clock;
}

struct MachineAction {
  std::string_view action;
  std::string_view kind;
  Draft (*make)(Source& said);
};
constexpr std::array<MachineAction, 14> kMachineActions = {{
    {"network-delay", "network", machine_delay},
    {"network-loss", "network", machine_loss},
    {"network-corrupt", "network", machine_corrupt},
    {"network-duplicate", "network", machine_duplicate},
    {"network-partition", "network", machine_partition},
    {"network-bandwidth", "network", machine_bandwidth},
    {"network-dns", "dns", machine_dns},
    {"stress-cpu", "cpu", machine_cpu},
    {"stress-mem", "memory", machine_memory},
    {"disk-fill", "disk", machine_fill},
    {"disk-read-payload", "disk", machine_read},
    {"disk-write-payload", "disk", machine_write},
    {"clock", "clock", machine_clock},
    {"process", "", nullptr},
}};

/// A name or a pid, and a signal's number: 19 stops.
void machine_process(Source& said, Draft& step) {
  Source* signal = said.find("signal");
  const bool stops = took(signal, "19");
  Draft& fault = step.set(stops ? "pause" : "kill", Draft::map());
  Draft& process = fault.map_at("process");
  Source* who = said.find("process");
  const auto pid = count(text_of(who));
  if (pid && !pid->empty()) {
    put(who, process, "pid", count, "a number");
  } else {
    put_required(who, process, "name", any_text, "which process", "fill-in");
  }
  if (stops) return;
  const auto name = taken(signal, signal_name, "a signal that Squall sends");
  if (name) fault.set("signal", Draft::word(*name));
}

void machine_chaos(Source& spec, Experiment& experiment, Draft& step) {
  Source* action = spec.find("action");
  const std::string name = text_of(action);
  const auto* known =
      std::find_if(kMachineActions.begin(), kMachineActions.end(),
                   [&](const MachineAction& candidate) { return candidate.action == name; });
  Source* said = spec.find(name);
  if (known == kMachineActions.end() || said == nullptr) {
    step = Draft();
    return;
  }
  action->take();
  put_on(spec, experiment, step);
  if (known->make == nullptr) return machine_process(*said, step);
  step.set(known->kind, known->make(*said));
}

// ---- The objects
// ---------------------------------------------------------------------------------

struct ChaosKind {
  std::string_view kind;
  void (*map)(Source& spec, Experiment& experiment, Draft& step);
};
constexpr std::array<ChaosKind, 7> kKinds = {{
    {"NetworkChaos", network_chaos},
    {"StressChaos", stress_chaos},
    {"PodChaos", pod_chaos},
    {"TimeChaos", time_chaos},
    {"DNSChaos", dns_chaos},
    {"IOChaos", io_chaos},
    {"PhysicalMachineChaos", machine_chaos},
}};

/// How long the step lasts, or each of those below it.
void put_end(Draft& step, Source& spec, Source* deadline) {
  std::vector<Draft*> faults = {&step};
  if (Draft* together = step.find("parallel"); together != nullptr) {
    faults.clear();
    for (const Draft::Entry& entry : together->entries()) faults.push_back(entry.value.get());
  }
  if (faults.empty() || !lasts(*faults.front())) return;
  auto duration = taken(spec.find("duration"), go_duration, "a duration");
  if (!duration) duration = taken(deadline, go_duration, "a duration");
  for (Draft* fault : faults) {
    put_end_of_stress(*fault, duration);
  }
}

/// One fault. What cannot be said in a plan comes back as notes alone.
Draft chaos(const std::string& kind, const std::string& name, Source& spec, Experiment& experiment,
            Source* deadline) {
  Draft step = Draft::map();
  if (!name.empty()) step.set("name", Draft::text(name));
  const auto* known = std::find_if(kKinds.begin(), kKinds.end(), [&](const ChaosKind& candidate) {
    return lower(candidate.kind) == lower(kind);
  });
  if (known != kKinds.end()) known->map(spec, experiment, step);
  if (known == kKinds.end() || step.kind() == Draft::Kind::kNothing) {
    Draft none;
    spec.give_back();
    spec.leave(fmt::format("no fault of Squall does what this {} does", kind));
    tell_rest(spec, none, kReasons);
    return none;
  }
  put_end(step, spec, deadline);
  tell_rest(spec, step, kReasons);
  return step;
}

class Workflow {
 public:
  Workflow(Source& spec, Experiment& experiment) : spec_(spec), experiment_(experiment) {
    Source* templates = spec.find("templates");
    if (templates == nullptr) return;
    for (const auto& part : templates->parts()) {
      const std::string name = text_of(part->find("name"));
      if (!name.empty()) templates_.emplace(name, part.get());
    }
  }

  void map() {
    Source* entry = spec_.find("entry");
    Source* first = named(text_of(entry));
    if (first == nullptr) {
      if (entry != nullptr) entry->leave("there is no such template");
      return;
    }
    entry->take();
    for (Draft& step : steps_of(*first)) experiment_.method.add(std::move(step));
    for (const auto& part : spec_.find("templates")->parts()) {
      if (!reached_.contains(part.get())) part->leave("nothing leads to it");
    }
  }

 private:
  static constexpr std::size_t kDeepest = 16;
  static constexpr std::size_t kMostSteps = 1000;

  Source* named(const std::string& name) {
    const auto found = templates_.find(name);
    return found == templates_.end() ? nullptr : found->second;
  }

  std::vector<Draft> one(Draft draft) {
    ++made_;
    std::vector<Draft> steps;
    steps.push_back(std::move(draft));
    return steps;
  }

  std::vector<Draft> lost(const std::string& what) {
    Draft none;
    none.lose(what);
    return one(std::move(none));
  }

  std::vector<Draft> steps_of(Source& part) {
    Source* type = part.find("templateType");
    const std::string kind = text_of(type);
    const std::string name = text_of(part.find("name"));
    const bool again = std::find(open_.begin(), open_.end(), &part) != open_.end();
    if (again || open_.size() >= kDeepest || made_ >= kMostSteps) {
      return lost(fmt::format("{}: {} (it stands in itself, or too deep)", part.path(), name));
    }
    open_.push_back(&part);
    reached_.insert(&part);
    std::vector<Draft> steps = steps_of(part, type, kind, name);
    open_.pop_back();
    return steps;
  }

  std::vector<Draft> steps_of(Source& part, Source* type, const std::string& kind,
                              const std::string& name) {
    Source* deadline = part.find("deadline");
    if (kind == "Suspend") {
      take(part, type);
      Draft step = Draft::map();
      step.set("name", Draft::text(name));
      put_required(deadline, step, "wait", go_duration, "how long", "60s");
      tell_rest(part, step, kReasons);
      return one(std::move(step));
    }
    if (kind == "Serial" || kind == "Parallel") {
      take(part, type);
      return series(part, kind == "Parallel");
    }
    if (kind == "StatusCheck" && status_check(part, type)) return {};
    Source* spec = spec_in(part, kind);
    if (spec == nullptr) {
      Draft none;
      part.leave(fmt::format("a plan has no {}", kind.empty() ? "step without a type" : kind));
      tell_rest(part, none, kReasons);
      return one(std::move(none));
    }
    take(part, type);
    Draft step = chaos(kind, name, *spec, experiment_, deadline);
    tell_rest(part, step, kReasons);
    return one(std::move(step));
  }

  static void take(Source& part, Source* type) {
    type->take();
    if (Source* name = part.find("name"); name != nullptr) name->take();
  }

  /// networkChaos for NetworkChaos, physicalmachineChaos for PhysicalMachineChaos.
  static Source* spec_in(Source& part, const std::string& kind) {
    for (const auto& field : part.parts()) {
      if (field->kind() == Source::Kind::kMap && lower(field->key()) == lower(kind)) {
        return field.get();
      }
    }
    return nullptr;
  }

  std::vector<Draft> series(Source& part, bool together) {
    std::vector<Draft> steps;
    Draft parallel = Draft::map();
    Draft& list = parallel.list_at("parallel");
    Draft notes;
    std::vector<Draft> behind;
    if (Source* children = part.find("children"); children != nullptr) {
      for (const auto& child : children->parts()) {
        Source* meant = named(text_of(child.get()));
        if (meant == nullptr) {
          child->leave("there is no such template");
          continue;
        }
        child->take();
        std::vector<Draft> made = steps_of(*meant);
        if (together && made.size() > 1) {
          made.front().decide(fmt::format(
              "{} was a series beside the others; `parallel` holds single steps, so that it "
              "follows them",
              child->text()));
          for (Draft& step : made) behind.push_back(std::move(step));
          continue;
        }
        for (Draft& step : made) {
          if (together && step.kind() != Draft::Kind::kNothing) {
            list.add(std::move(step));
          } else {
            steps.push_back(std::move(step));
          }
        }
      }
    }
    tell_rest(part, notes, kReasons);
    if (!notes.notes().empty()) steps.insert(steps.begin(), std::move(notes));
    if (list.entries().size() == 1) {
      steps.push_back(std::move(*list.entries().front().value));
    } else if (!list.entries().empty()) {
      steps.push_back(std::move(parallel));
    }
    for (Draft& step : behind) steps.push_back(std::move(step));
    return steps;
  }

  /// A check over HTTP is part of the steady state.
  bool status_check(Source& part, Source* type) {
    Source* said = part.find("statusCheck");
    Source* http = said == nullptr ? nullptr : said->find("http");
    if (http == nullptr || http->find("url") == nullptr) return false;
    take(part, type);
    Draft& check = experiment_.steady_state.add(Draft::map());
    check.set("name", Draft::text(text_of(part.find("name"))));
    took(said->find("type"), "HTTP");
    Draft& asked = check.set("http", Draft::map());
    put(http->find("url"), asked, "url", any_text, "a URL");
    put(http->find("method"), asked, "method", any_text, "a method");
    put(http->find("body"), asked, "body", any_text, "a text");
    Source* status = http->find({"criteria", "statusCode"});
    const std::string text = text_of(status);
    const auto dash = text.find('-');
    const auto low = count(text.substr(0, dash));
    const auto high = dash == std::string::npos ? low : count(text.substr(dash + 1));
    Draft& expect = check.list_at("expect");
    if (low && high && !low->empty() && !high->empty()) {
      status->take();
      expect.add(Draft::text(*low == *high ? fmt::format("status == {}", *low)
                                           : fmt::format("status between {} and {}", *low, *high)));
    } else {
      if (status != nullptr) status->leave("not a status, or two with a dash");
      expect.add(Draft::text("status == 200")).decide("status == 200 is a guess");
    }
    put(said->find("intervalSeconds"), check, "every", seconds, "seconds");
    put(said->find("timeoutSeconds"), check, "timeout", seconds, "seconds");
    tell_rest(part, check, kReasons);
    return true;
  }

  Source& spec_;
  Experiment& experiment_;
  std::map<std::string, Source*> templates_;
  std::vector<Source*> open_;
  std::set<const Source*> reached_;
  std::size_t made_ = 0;
};

bool fits(Source& root) {
  return text_of(root.find("apiVersion")).starts_with("chaos-mesh.org/") &&
         root.find("spec") != nullptr;
}

void map(Source& root, Experiment& experiment) {
  Source* version = root.find("apiVersion");
  const std::string kind = text_of(root.find("kind"));
  experiment.head.say(fmt::format("{} {}", text_of(version), kind));
  for (Source* field : {version, root.find("kind")}) {
    if (field != nullptr) field->take();
  }
  const std::string name = text_of(root.find({"metadata", "name"}));
  if (!name.empty()) {
    experiment.title = Draft::text(name);
    root.find({"metadata", "name"})->take();
  }
  Source* spec = root.find("spec");
  if (spec == nullptr || spec->kind() != Source::Kind::kMap) return;
  if (kind == "Workflow") return Workflow(*spec, experiment).map();
  if (kind != "Schedule") {
    experiment.method.add(chaos(kind, "", *spec, experiment, nullptr));
    return;
  }
  Source* type = spec->find("type");
  const std::string inner_kind = text_of(type);
  for (const auto& field : spec->parts()) {
    if (field->kind() != Source::Kind::kMap || lower(field->key()) != lower(inner_kind)) continue;
    type->take();
    if (inner_kind == "Workflow") return Workflow(*field, experiment).map();
    Draft step = chaos(inner_kind, "", *field, experiment, nullptr);
    tell_rest(*spec, step, kReasons);
    experiment.method.add(std::move(step));
    return;
  }
}

}  // namespace

const DocumentFormat kChaosMesh = {
    .name = "chaosmesh", .called = "Chaos Mesh", .fits = fits, .map = map, .reasons = kReasons};

}  // namespace squall::importing
