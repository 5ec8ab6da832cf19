#include "controller/import/programs.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "controller/import/mapping.h"
#include "controller/import/source.h"
#include "controller/import/words.h"

namespace squall::importing {
namespace {

using Words = std::span<const std::string>;

/// The arguments of tc, one after another. What it does not know ends the reading.
class TcReader {
 public:
  TcReader(Words words, std::string where) : words_(words), where_(std::move(where)) {}

  std::optional<Meant> read() {
    if (word() != "qdisc") return std::nullopt;
    ++at_;
    const std::string action = word();
    ++at_;
    if (action == "del" || action == "delete") return Meant{.steps = {}, .undoes = true};
    if (action != "add" && action != "replace" && action != "change") return std::nullopt;
    Draft network = Draft::map();
    std::string interface;
    for (; at_ < words_.size() && word() != "netem"; ++at_) {
      const std::string& name = words_[at_];
      if (name == "root") continue;
      if (name == "dev") {
        interface = next();
      } else if (name == "handle" || name == "parent") {
        const std::string value = next();
        network.say(fmt::format("{}: {} {} (Squall has a device of its own for each fault)", where_,
                                name, value));
      } else {
        return std::nullopt;
      }
    }
    if (word() != "netem") return std::nullopt;
    for (++at_; at_ < words_.size();) {
      if (!option(network)) return std::nullopt;
    }
    if (!interface.empty()) network.set("interface", Draft::text(interface));
    Meant meant;
    meant.steps.push_back(Draft::map());
    meant.steps.back().set("network", std::move(network));
    return meant;
  }

 private:
  std::string word() const { return at_ < words_.size() ? words_[at_] : ""; }
  std::string next() { return ++at_ < words_.size() ? words_[at_] : ""; }

  /// Puts the word here under a key if it converts, and goes on behind it then.
  bool put_if(Draft& network, std::string_view key, Convert convert) {
    const auto value = at_ < words_.size() ? convert(words_[at_]) : std::nullopt;
    if (!value) return false;
    const std::string& written = words_[at_++];
    if (value->empty()) {
      network.say(fmt::format("{}: {} of {} asks for nothing", where_, key, written));
    } else {
      network.set(key, Draft::word(*value));
    }
    return true;
  }

  /// A share and how it depends on the one before.
  bool share(Draft& network, std::string_view key, std::string_view correlation) {
    if (!put_if(network, key, percentage)) return false;
    put_if(network, correlation, percentage);
    return true;
  }

  bool option(Draft& network) {
    const std::string name = words_[at_++];
    if (name == "delay" || name == "latency") {
      if (!put_if(network, "delay", tc_time)) return false;
      if (put_if(network, "jitter", tc_time)) {
        put_if(network, "delay_correlation", percentage);
      }
      return true;
    }
    if (name == "distribution") {
      network.set("distribution", Draft::word(word()));
      ++at_;
      return true;
    }
    if (name == "loss" || name == "drop") return loss(network);
    if (name == "duplicate") return share(network, "duplicate", "duplicate_correlation");
    if (name == "corrupt") return share(network, "corrupt", "corrupt_correlation");
    if (name == "reorder") return share(network, "reorder", "reorder_correlation");
    if (name == "gap") return put_if(network, "gap", count);
    if (name == "limit") return put_if(network, "limit", count);
    if (name == "ecn") {
      network.set("ecn", Draft::word("true"));
      return true;
    }
    if (name != "rate" || !put_if(network, "rate", tc_rate)) return false;
    // Behind a rate its three numbers, each only behind the one before.
    static_cast<void>(put_if(network, "packet_overhead", count) &&
                      put_if(network, "cell_size", count) &&
                      put_if(network, "cell_overhead", count));
    return true;
  }

  bool loss(Draft& network) {
    if (word() == "random") ++at_;
    if (word() == "state") {
      ++at_;
      return several(network.map_at("four_state"), {"p13", "p31", "p32", "p23", "p14"});
    }
    if (word() == "gemodel") {
      ++at_;
      return several(network.map_at("gilbert_elliott"),
                     {"p", "r", "loss_when_bad", "loss_when_good"});
    }
    return share(network, "loss", "loss_correlation");
  }

  bool several(Draft& model, std::initializer_list<std::string_view> keys) {
    bool any = false;
    for (const std::string_view key : keys) {
      if (!put_if(model, key, percentage)) break;
      any = true;
    }
    return any;
  }

  Words words_;
  std::size_t at_ = 0;
  std::string where_;
};

constexpr std::array<Reason, 12> kStressReasons = {{
    {"--metrics", "a report of stress-ng's own", Note::Kind::kSaid},
    {"--metrics-brief", "a report of stress-ng's own", Note::Kind::kSaid},
    {"--quiet", "a report of stress-ng's own", Note::Kind::kSaid},
    {"--verbose", "a report of stress-ng's own", Note::Kind::kSaid},
    {"--vm-keep", "Squall always keeps what it holds", Note::Kind::kSaid},
    {"--cpu-method", "Squall burns a measured share, whatever the instructions", Note::Kind::kSaid},
    {"--vm-method", "Squall touches what it holds once", Note::Kind::kSaid},
    {"--vm-hang", "Squall always keeps what it holds", Note::Kind::kSaid},
    {"--io", "no fault does sync() alone; disk has `fsync`"},
    {"--hdd-ops", "a fault lasts for a time, not for a number of operations"},
    {"--cpu-ops", "a fault lasts for a time, not for a number of operations"},
    {"--vm-ops", "a fault lasts for a time, not for a number of operations"},
}};

std::optional<std::string> stress_timeout(const std::string& text) {
  const auto bare = seconds(text);
  return bare ? bare : go_duration(text);
}

Draft step_of(std::string_view kind, Draft fault) {
  Draft step = Draft::map();
  step.set(kind, std::move(fault));
  return step;
}

Draft cpu_of(Source& said) {
  Draft cpu = Draft::map();
  put_or(said.find("--cpu-load"), cpu, "load", percentage, "a percentage", "100%");
  put(said.find("--cpu"), cpu, "cores", count, "a number");
  return step_of("cpu", std::move(cpu));
}

Draft memory_of(Source& said) {
  Draft memory = Draft::map();
  if (Source* workers = said.find("--vm"); took(workers, workers->text())) {
    memory.say(
        fmt::format("{}: {} (one process holds all of it)", workers->path(), workers->written()));
  }
  Source* size = said.find("--vm-bytes");
  if (size != nullptr && text_of(size).ends_with('%')) {
    if (put(size, memory, "to", percentage, "a percentage")) {
      memory.decide(
          "stress-ng takes this share of what is free; `to` is of all, what others use "
          "included");
    }
  } else if (size == nullptr || !put(size, memory, "size", binary_size, "a size")) {
    memory.set("size", Draft::word("256MiB")).decide("how much is to be held");
  }
  return step_of("memory", std::move(memory));
}

Draft disk_of(Source& said) {
  Draft disk = Draft::map();
  if (Source* workers = said.find("--hdd"); workers != nullptr) {
    disk.say(fmt::format("{}: {} (one process writes)", workers->path(), workers->written()));
    workers->take();
  }
  disk.set("path", Draft::text("/tmp")).decide("which directory");
  disk.set("write", Draft::word("100MiB")).decide("stress-ng writes as fast as it can; how fast?");
  return step_of("disk", std::move(disk));
}

std::optional<Meant> kill_of(Words words, const std::string& where) {
  std::string signal = "TERM";
  std::vector<std::string> pids;
  for (std::size_t n = 1; n < words.size(); ++n) {
    const std::string& word = words[n];
    if (word == "-s" || word == "--signal" || word == "-n") {
      if (++n < words.size()) signal = words[n];
    } else if (word.size() > 1 && word[0] == '-' && word != "--") {
      signal = word.substr(1);
    } else if (word != "--") {
      pids.push_back(word);
    }
  }
  const bool stops = signal == "STOP" || signal == "SIGSTOP" || signal == "19";
  const auto name = signal_name(signal);
  if ((!name && !stops) || pids.empty()) return std::nullopt;
  Meant meant;
  for (const std::string& pid : pids) {
    const auto number = count(pid);
    if (!number || number->empty()) return std::nullopt;
    Draft fault = Draft::map();
    fault.map_at("process").set("pid", Draft::word(*number));
    if (!stops) fault.set("signal", Draft::word(*name));
    meant.steps.push_back(step_of(stops ? "pause" : "kill", std::move(fault)));
  }
  meant.steps.front().decide(
      fmt::format("{}: a process's number is another one in each run: choose it by name", where));
  return meant;
}

constexpr std::array<Flags::Alias, 6> kPkillAliases = {{{"-f", "--full"},
                                                        {"-x", "--exact"},
                                                        {"-u", "--euid"},
                                                        {"-s", "--signal"},
                                                        {"-o", "--oldest"},
                                                        {"-n", "--newest"}}};
constexpr std::array<std::string_view, 8> kPkillSwitches = {
    "--full", "--exact", "--oldest", "--newest", "--echo", "-e", "-q", "--quiet"};

/// pkill and killall: the processes by name.
std::optional<Meant> kill_by_name(Words words, const std::string& where) {
  std::vector<std::string> plain;
  std::string signal = "TERM";
  for (const std::string& word : words.subspan(1)) {
    const bool is_signal = word.size() > 2 && word[0] == '-' && word[1] != '-' &&
                           signal_name(word.substr(1)).has_value();
    const bool is_number = word.size() == 2 && word[0] == '-' && signal_name(word.substr(1));
    if (is_signal || is_number || word == "-STOP" || word == "-SIGSTOP" || word == "-19") {
      signal = word.substr(1);
    } else {
      plain.push_back(word);
    }
  }
  Source said(Source::Kind::kMap);
  said.begin_path(where);
  std::size_t at = 0;
  const auto names = read_flags(
      plain, at, {.aliases = kPkillAliases, .switches = kPkillSwitches, .stop_at_word = false},
      said);
  if (Source* given = said.find("--signal")) {
    signal = given->text();
    given->take();
  }
  const bool stops = signal == "STOP" || signal == "SIGSTOP" || signal == "19";
  const auto known = signal_name(signal);
  if (names.empty() || (!known && !stops)) return std::nullopt;
  const bool full = took(said.find("--full"), "true");
  const bool exact = took(said.find("--exact"), "true") || program_name(words[0]) == "killall";
  Meant meant;
  for (const std::string& name : names) {
    Draft fault = Draft::map();
    Draft& process = fault.map_at("process");
    process.set(full ? "cmdline" : "name", Draft::text(name));
    if (!full && !exact) {
      process.say("pkill matches a part of the name; Squall takes exactly this one");
    }
    put(said.find("--euid"), process, "user", any_text, "a user");
    if (!stops) fault.set("signal", Draft::word(*known));
    if (took(said.find("--oldest"), "true")) fault.set("pick", Draft::word("oldest"));
    if (took(said.find("--newest"), "true")) fault.set("pick", Draft::word("newest"));
    Draft step = step_of(stops ? "pause" : "kill", std::move(fault));
    tell_rest(said, step, {});
    meant.steps.push_back(std::move(step));
  }
  return meant;
}

std::optional<Meant> service_of(Words words) {
  if (words.size() != 3) return std::nullopt;
  const std::string& action = words[1];
  if (action == "start") return Meant{.steps = {}, .undoes = true};
  if (action != "stop" && action != "restart") return std::nullopt;
  Draft service = Draft::map();
  const bool has_type = words[2].find('.') != std::string::npos;
  service.set("unit", Draft::text(has_type ? words[2] : words[2] + ".service"));
  if (action == "restart") service.set("action", Draft::word(action));
  Meant meant;
  meant.steps.push_back(step_of("service", std::move(service)));
  return meant;
}

}  // namespace

Meant meaning_of_stress(Words arguments, const std::string& where) {
  constexpr std::array<Flags::Alias, 8> kAliases = {{{"-c", "--cpu"},
                                                     {"-l", "--cpu-load"},
                                                     {"-m", "--vm"},
                                                     {"-d", "--hdd"},
                                                     {"-i", "--io"},
                                                     {"-t", "--timeout"},
                                                     {"-q", "--quiet"},
                                                     {"-v", "--verbose"}}};
  constexpr std::array<std::string_view, 5> kSwitches = {"--metrics", "--metrics-brief", "--quiet",
                                                         "--verbose", "--vm-keep"};
  Source said(Source::Kind::kMap);
  said.begin_path(where);
  std::size_t at = 0;
  const auto others = read_flags(
      arguments, at, {.aliases = kAliases, .switches = kSwitches, .stop_at_word = false}, said);
  for (const std::string& other : others) said.add("", Source::Kind::kScalar, other);
  Meant meant;
  if (said.find("--cpu") != nullptr) meant.steps.push_back(cpu_of(said));
  if (said.find("--vm") != nullptr) meant.steps.push_back(memory_of(said));
  if (said.find("--hdd") != nullptr) meant.steps.push_back(disk_of(said));
  const auto timeout = taken(said.find("--timeout"), stress_timeout, "a duration");
  for (Draft& step : meant.steps) {
    if (timeout && !timeout->empty()) step.set("for", Draft::word(*timeout));
  }
  if (meant.steps.empty()) meant.steps.emplace_back();
  tell_rest(said, meant.steps.front(), kStressReasons);
  return meant;
}

std::optional<Meant> meaning_of(Words words, const std::string& where) {
  while (!words.empty() && (words[0] == "sudo" || words[0].empty())) words = words.subspan(1);
  if (words.empty()) return std::nullopt;
  const std::string program = program_name(words[0]);
  if (program == "tc") return TcReader(words.subspan(1), where).read();
  if (program == "stress-ng" || program == "stress") {
    return meaning_of_stress(words.subspan(1), where);
  }
  if (program == "kill") return kill_of(words, where);
  if (program == "pkill" || program == "killall") return kill_by_name(words, where);
  if (program == "systemctl") return service_of(words);
  return std::nullopt;
}

Draft script_of(Words words) {
  Draft script = Draft::map();
  Draft& run = script.list_at("run");
  for (const std::string& word : words) run.add(Draft::text(word));
  Draft& undo = script.list_at("undo");
  undo.add(Draft::text("/bin/true"));
  undo.decide("the source has no undo for it: write what takes back what it did");
  return step_of("script", std::move(script));
}

void put_end_of_stress(Draft& step, const std::optional<std::string>& duration) {
  const Draft* own = step.find("for");
  if (own != nullptr && !duration) return;
  if (own != nullptr && own->text() != *duration) {
    step.say(fmt::format("stress-ng's own timeout of {} gives way", own->text()));
  }
  put_for(step, duration);
}

bool lasts(const Draft& step) {
  const Draft* service = step.find("service");
  if (service != nullptr && service->find("action") != nullptr) return false;
  for (const char* kind : {"network", "partition", "pause", "cpu", "memory", "disk", "io", "dns",
                           "exhaust", "service", "files", "clock", "script"}) {
    if (step.find(kind) != nullptr) return true;
  }
  return false;
}

}  // namespace squall::importing
