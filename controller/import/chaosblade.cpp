/// ChaosBlade's command lines: blade create TARGET ACTION --FLAGS.
/// Source: `blade create TARGET ACTION --help`.
#include <fmt/format.h>

#include <array>
#include <utility>

#include "controller/import/formats.h"
#include "controller/import/words.h"

namespace squall::importing {
namespace {

using Words = std::span<const std::string>;

constexpr std::array<std::string_view, 14> kSwitches = {"--read",
                                                        "--write",
                                                        "--force",
                                                        "--ignore-peer-port",
                                                        "--async",
                                                        "--debug",
                                                        "--recursive",
                                                        "--retain-handle",
                                                        "--include-buffer-cache",
                                                        "--ignore-not-found",
                                                        "--nohup",
                                                        "--auto-create-dir",
                                                        "--escape",
                                                        "--enable-base64"};
constexpr std::array<Flags::Alias, 1> kAliases = {{{"-d", "--debug"}}};

constexpr std::array<Reason, 22> kReasons = {{
    {"--force", "Squall replaces nobody's rules, and needs to replace none", Note::Kind::kSaid},
    {"--ignore-peer-port", "Squall never matches its own connection", Note::Kind::kSaid},
    {"--async", "ChaosBlade's own bookkeeping", Note::Kind::kSaid},
    {"--endpoint", "ChaosBlade's own bookkeeping", Note::Kind::kSaid},
    {"--nohup", "ChaosBlade's own bookkeeping", Note::Kind::kSaid},
    {"--debug", "ChaosBlade's own log", Note::Kind::kSaid},
    {"--uid", "a run of Squall names its faults itself", Note::Kind::kSaid},
    {"--blade-release", "where ChaosBlade itself is", Note::Kind::kSaid},
    {"--channel", "Squall reaches a machine by its squalld: write it below `nodes`"},
    {"--ssh-host", "Squall reaches a machine by its squalld: write it below `nodes`"},
    {"--ssh-user", "Squall reaches a machine by its squalld: write it below `nodes`"},
    {"--retain-handle", "the file that Squall fills is unlinked at once", Note::Kind::kSaid},
    {"--exclude-process", "Squall spares nobody by name: choose more narrowly"},
    {"--ignore-not-found", "processes that are not there are told before anything is injected"},
    {"--mode", "Squall holds memory of its own, never the page cache"},
    {"--include-buffer-cache", "what counts as used is what the kernel cannot free"},
    {"--avoid-being-killed", "Squall gives memory back when others need it"},
    {"--climb-time", "no ramp by steps: see `ramp` of cpu"},
    {"--cpu-index", "see `on_cores` of cpu"},
    {"--cgroup-root", "write the control group itself as `in: {cgroup: ...}`"},
    {"--string-pattern", "Squall looks at addresses, ports and protocols, not into packets"},
    {"--pid", "a process's number is another one in each run: choose it by name"},
}};

/// Which packets, as every command about the network has it. Ports are one or the other, and so are
/// ours; an address and a port have to be both, as with us.
void put_packets(Source& said, Draft& network) {
  put_addresses(said.find("--destination-ip"), network, "to");
  put_ports(said.find("--local-port"), network, "to");
  put_ports(said.find("--remote-port"), network, "to");
  put_protocol(said.find("--protocol"), network, "to");
  put_ports(said.find("--exclude-port"), network, "except");
  Source* excluded = said.find("--exclude-ip");
  if (network.find("except") == nullptr) {
    put_addresses(excluded, network, "except");
  } else if (excluded != nullptr) {
    excluded->leave("`except` has to match as a whole: an address and a port would be both");
  }
  put(said.find("--interface"), network, "interface", any_text, "an interface");
}

Draft delay(Source& said) {
  Draft network = Draft::map();
  put_or(said.find("--time"), network, "delay", milliseconds, "milliseconds", "100ms");
  put(said.find("--offset"), network, "jitter", milliseconds, "milliseconds");
  put_packets(said, network);
  return network;
}

Draft share(Source& said, std::string_view key) {
  Draft network = Draft::map();
  put_or(said.find("--percent"), network, key, percentage, "a percentage", "1%");
  put_packets(said, network);
  return network;
}

Draft loss(Source& said) { return share(said, "loss"); }
Draft corrupt(Source& said) { return share(said, "corrupt"); }
Draft duplicate(Source& said) { return share(said, "duplicate"); }

Draft reorder(Source& said) {
  Draft network = Draft::map();
  put_or(said.find("--time"), network, "delay", milliseconds, "milliseconds", "10ms");
  put_or(said.find("--percent"), network, "reorder", percentage, "a percentage", "50%");
  put(said.find("--correlation"), network, "reorder_correlation", percentage, "a percentage");
  put(said.find("--gap"), network, "gap", count, "a number");
  put_packets(said, network);
  return network;
}

/// iptables' DROP.
Draft drop(Source& said) {
  Draft network = Draft::map();
  network.set("loss", Draft::word("100%"));
  const bool arrives = text_of(said.find("--network-traffic")) != "out";
  took(said.find("--network-traffic"), arrives ? "in" : "out");
  const std::string_view match = arrives ? "from" : "to";
  put_addresses(said.find(arrives ? "--source-ip" : "--destination-ip"), network, match);
  put_ports(said.find("--source-port"), network, match);
  put_ports(said.find("--destination-port"), network, match);
  if (network.find("from") == nullptr && arrives) network.set("direction", Draft::word("ingress"));
  return network;
}

Draft dns(Source& said) {
  Draft dns = Draft::map();
  for (const std::string& name : listed(said.find("--domain"))) {
    dns.list_at("names").add(Draft::text(name));
  }
  if (Source* name = said.find("--domain"); name != nullptr) name->take();
  for (const std::string& address : listed(said.find("--ip"))) {
    dns.list_at("addresses").add(Draft::word(address));
  }
  if (Source* address = said.find("--ip"); address != nullptr) address->take();
  return dns;
}

Draft cpu(Source& said) {
  Draft cpu = Draft::map();
  put_or(said.find("--cpu-percent"), cpu, "load", percentage, "a percentage", "100%");
  Source* cores = said.find("--cpu-list");
  const std::vector<std::string> words = listed(cores);
  Draft chosen = Draft::list();
  bool right = !words.empty();
  constexpr unsigned long kMostCores = 4096;
  for (const std::string& word : words) {
    const auto dash = word.find('-');
    const std::string last = dash == std::string::npos ? word : word.substr(dash + 1);
    const std::string first = word.substr(0, dash);
    const bool numbers = !first.empty() && !last.empty() && first.size() < 5 && last.size() < 5 &&
                         (first + last).find_first_not_of("0123456789") == std::string::npos;
    right = right && numbers;
    for (unsigned long core = numbers ? std::stoul(first) : 1;
         core <= (numbers ? std::stoul(last) : 0) && core < kMostCores; ++core) {
      chosen.add(Draft::word(std::to_string(core)));
    }
  }
  if (right) {
    cores->take();
    cpu.set("on_cores", std::move(chosen));
  } else {
    if (cores != nullptr) cores->leave("not cores such as 0,2-3");
    put(said.find("--cpu-count"), cpu, "cores", count, "a number");
  }
  put(said.find("--climb-time"), cpu, "ramp", seconds, "seconds");
  cpu.say("ChaosBlade burns up to this share with what others use; Squall burns the share itself");
  return cpu;
}

Draft memory(Source& said) {
  Draft memory = Draft::map();
  put_or(said.find("--mem-percent"), memory, "to", percentage, "a percentage", "100%");
  constexpr std::array<Rule, 2> kRules = {
      {{"--rate", "rate", mebibytes, "a number of MB"},
       {"--reserve", "keep_free", mebibytes, "a number of MB"}}};
  put(said, memory, kRules);
  took(said.find("--mode"), "ram");
  return memory;
}

Draft disk_fill(Source& said) {
  Draft disk = Draft::map();
  put_or(said.find("--path"), disk, "path", any_text, "a path", "/");
  if (!put(said.find("--percent"), disk, "to", percentage, "a percentage") &&
      !put(said.find("--size"), disk, "size", mebibytes, "a number of MB")) {
    disk.set("to", Draft::word("100%"));
  }
  put(said.find("--reserve"), disk, "keep_free", mebibytes, "a number of MB");
  return disk;
}

Draft disk_burn(Source& said) {
  Draft disk = Draft::map();
  put_or(said.find("--path"), disk, "path", any_text, "a path", "/");
  for (const char* way : {"read", "write"}) {
    if (!took(said.find(fmt::format("--{}", way)), "true")) continue;
    disk.set(way, Draft::word("100MiB"))
        .decide(fmt::format("ChaosBlade {}s as fast as it can; how much a second?", way));
  }
  put(said.find("--size"), disk, "block", mebibytes, "a number of MB");
  return disk;
}

/// Which processes; ChaosBlade looks for a text in the whole command line, or for a program's name.
void put_process(Source& said, Draft& fault) {
  Draft& process = fault.map_at("process");
  if (Source* text = said.find("--process"); text != nullptr && !text_of(text).empty()) {
    process.set("cmdline", Draft::text(as_pattern(text->text())));
    text->take();
  }
  put(said.find("--process-cmd"), process, "name", any_text, "a name");
  put(said.find("--local-port"), process, "port", count, "a port");
  if (listed(said.find("--pid")).size() == 1) {
    put(said.find("--pid"), process, "pid", count, "a number");
  }
  if (process.entries().empty()) {
    process.set("name", Draft::text("fill-in")).decide("which processes");
  }
  put(said.find("--count"), fault, "pick", count, "a number");
}

Draft kill(Source& said) {
  Draft kill = Draft::map();
  put_process(said, kill);
  if (Source* timeout = said.find("--timeout"); timeout != nullptr) {
    timeout->leave("a kill is done at once", Note::Kind::kSaid);
  }
  const auto signal = taken(said.find("--signal"), signal_name, "a signal that Squall sends");
  if (signal) kill.set("signal", Draft::word(*signal));
  return kill;
}

Draft pause(Source& said) {
  Draft pause = Draft::map();
  put_process(said, pause);
  return pause;
}

Draft file_absent(Source& said) {
  Draft files = Draft::map();
  put_required(said.find("--filepath"), files, "path", any_text, "a path", "/fill-in");
  return files;
}

Draft file_mode(Source& said) {
  Draft files = file_absent(said);
  Source* mode = said.find("--mark");
  const bool read_only = took(mode, "444") || took(mode, "400") || took(mode, "555");
  const bool unreadable = !read_only && (took(mode, "000") || took(mode, "0") || took(mode, "200"));
  files.set("make", Draft::word(read_only ? "read_only" : "unreadable"));
  if (!read_only && !unreadable) files.decide("unreadable or read_only: other modes there are not");
  return files;
}

Draft stop_unit(Source& said) {
  Draft service = Draft::map();
  put_required(said.find("--service"), service, "unit", any_text, "a unit", "fill-in.service");
  Draft* unit = service.find("unit");
  if (unit->text().find('.') == std::string::npos) {
    service.set("unit", Draft::text(unit->text() + ".service"));
  }
  return service;
}

/// What maps where.
struct Action {
  std::string_view target;
  std::string_view action;
  std::string_view kind;
  Draft (*make)(Source& said);
};
constexpr std::array<Action, 17> kActions = {{
    {"network", "delay", "network", delay},
    {"network", "loss", "network", loss},
    {"network", "corrupt", "network", corrupt},
    {"network", "duplicate", "network", duplicate},
    {"network", "reorder", "network", reorder},
    {"network", "drop", "network", drop},
    {"network", "dns", "dns", dns},
    {"cpu", "load", "cpu", cpu},
    {"cpu", "fullload", "cpu", cpu},
    {"mem", "load", "memory", memory},
    {"disk", "fill", "disk", disk_fill},
    {"disk", "burn", "disk", disk_burn},
    {"process", "kill", "kill", kill},
    {"process", "stop", "pause", pause},
    {"file", "delete", "files", file_absent},
    {"file", "chmod", "files", file_mode},
    {"systemd", "stop", "service", stop_unit},
}};

std::optional<std::string> timeout(const std::string& text) {
  const auto bare = seconds(text);
  return bare ? bare : go_duration(text);
}

void map(Words words, Experiment&, std::vector<Draft>& steps) {
  std::string line = "blade";
  for (const std::string& word : words) line += " " + word;
  Source said(Source::Kind::kMap);
  std::size_t at = 0;
  const std::vector<std::string> plain = read_flags(
      words, at, {.aliases = kAliases, .switches = kSwitches, .stop_at_word = false}, said);
  Draft& step = steps.emplace_back();
  if (!plain.empty() && (plain[0] == "destroy" || plain[0] == "d")) {
    step.say(fmt::format("{} (every fault of Squall ends by itself)", line));
    return;
  }
  const bool creates = plain.size() >= 3 && (plain[0] == "create" || plain[0] == "c");
  for (const Action& known : kActions) {
    if (!creates || plain.size() > 3 || plain[1] != known.target || plain[2] != known.action) {
      continue;
    }
    step = Draft::map();
    step.set(known.kind, known.make(said));
    if (known.kind != "kill") {
      put_for(step, taken(said.find("--timeout"), timeout, "a duration"));
    }
    tell_rest(said, step, kReasons);
    return;
  }
  step.lose(fmt::format("{} (no fault of Squall does this)", line));
}

}  // namespace

const CommandFormat kChaosBlade = {
    .name = "chaosblade", .called = "ChaosBlade", .program = "blade", .at_once = true, .map = map};

}  // namespace squall::importing
