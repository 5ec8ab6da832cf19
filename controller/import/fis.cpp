/// AWS Fault Injection Service: experiment templates.
/// Source: AWS FIS User Guide, "AWS FIS experiment template components" and "Use Systems Manager
/// SSM documents with AWS FIS".
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "controller/import/formats.h"
#include "experiments/base/units.h"

namespace squall::importing {
namespace {

constexpr std::array<Reason, 22> kReasons = {{
    {"roleArn", "Squall has no rights in AWS, and needs none", Note::Kind::kSaid},
    {"clientToken", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"id", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"arn", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"creationTime", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"lastUpdateTime", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"targetAccountConfigurationsCount", "AWS's own bookkeeping", Note::Kind::kSaid},
    {"documentVersion", "Squall runs no document", Note::Kind::kSaid},
    {"InstallDependencies", "Squall installs nothing", Note::Kind::kSaid},
    {"resourceType", "a node of a plan is a machine with squalld", Note::Kind::kSaid},
    {"logConfiguration", "a run of Squall keeps its events in its own folder"},
    {"experimentReportConfiguration", "a run of Squall reports in text, JSON and JUnit"},
    {"experimentOptions",
     "what AWS does with accounts and empty targets; `on` that matches no node "
     "is an error here"},
    {"stopConditions",
     "a CloudWatch alarm: write a check below steady_state that sees the same, "
     "which ends the run when it is breached"},
    {"filters", "choose the machines when you write them below `nodes`"},
    {"actionId", "no fault of Squall does this"},
    {"Workers", "one process does it", Note::Kind::kSaid},
    {"FlowsPercent", "see `connections` of network"},
    {"documentArn", "a document of your own: see the fault kind script"},
    {"subnets", "no fault of Squall does this"},
    {"parameters", "no fault of Squall takes this"},
    {"tags", "labels of the template in AWS"},
}};

/// How long the document's fault lasts, else its action.
void put_end(Source& action, Source& said, Draft& step) {
  const auto inner = taken(said.find("DurationSeconds"), seconds, "seconds");
  Source* limit = action.find({"parameters", "duration"});
  const auto outer = taken(limit, iso_duration, "a duration such as PT5M");
  if (inner && outer && inner != outer) {
    step.say(fmt::format("{}: {} (the fault itself is shorter, or is ended by it)", limit->path(),
                         limit->written()));
  }
  put_for(step, inner ? inner : outer);
}

Draft network(Source& said) {
  Draft network = Draft::map();
  put(said.find("Interface"), network, "interface", any_text, "an interface");
  const bool arrives = took(said.find("TrafficType"), "ingress");
  if (!arrives) took(said.find("TrafficType"), "egress");
  put_addresses(said.find("Sources"), network, arrives ? "from" : "to");
  put(said.find("FlowsPercent"), network, "connections", percentage, "a percentage");
  if (arrives && network.find("from") == nullptr) {
    network.set("direction", Draft::word("ingress"));
  }
  return network;
}

/// The effect first, as a person would write it.
Draft with_first(Draft effect, Draft rest) {
  for (Draft::Entry& entry : rest.entries()) effect.set(entry.key, std::move(*entry.value));
  for (const Note& note : rest.notes()) effect.note(note);
  return effect;
}

Draft latency(Source& said) {
  Draft effect = Draft::map();
  put_or(said.find("DelayMilliseconds"), effect, "delay", milliseconds, "milliseconds", "200ms");
  put(said.find("JitterMilliseconds"), effect, "jitter", milliseconds, "milliseconds");
  return with_first(std::move(effect), network(said));
}

Draft loss(Source& said) {
  Draft effect = Draft::map();
  put_or(said.find("LossPercent"), effect, "loss", percentage, "a percentage", "7%");
  return with_first(std::move(effect), network(said));
}

Draft blackhole(Source& said) {
  Draft effect = Draft::map();
  effect.set("loss", Draft::word("100%"));
  const bool arrives = text_of(said.find("TrafficType")) == "ingress";
  put_ports(said.find("Port"), effect, arrives ? "from" : "to");
  put_protocol(said.find("Protocol"), effect, arrives ? "from" : "to");
  return with_first(std::move(effect), network(said));
}

Draft cpu(Source& said) {
  Draft cpu = Draft::map();
  put_or(said.find("LoadPercent"), cpu, "load", percentage, "a percentage", "100%");
  put(said.find("CPU"), cpu, "cores", count, "a number");
  return cpu;
}

Draft memory(Source& said) {
  Draft memory = Draft::map();
  put_or(said.find("Percent"), memory, "to", percentage, "a percentage", "80%");
  memory.say("AWS takes this share of all memory; `to` counts what others use as well");
  return memory;
}

Draft disk_fill(Source& said) {
  Draft disk = Draft::map();
  put_or(said.find("Directory"), disk, "path", any_text, "a path", "/");
  put_or(said.find("Percent"), disk, "to", percentage, "a percentage", "95%");
  return disk;
}

Draft disk_load(Source& said) {
  Draft disk = Draft::map();
  disk.set("path", Draft::text("/"));
  for (const char* way : {"read", "write"}) {
    disk.set(way, Draft::word("100MiB"));
  }
  disk.find("read")->decide("AWS takes a share of the disk's load; how much a second?");
  if (Source* share = said.find("Percent"); share != nullptr) {
    share->leave("a share of what the disk can do: write how much a second");
  }
  return disk;
}

Draft kill(Source& said) {
  Draft kill = Draft::map();
  put_required(said.find("ProcessName"), kill.map_at("process"), "name", any_text, "a name",
               "fill-in");
  Source* given = said.find("Signal");
  const auto signal = taken(given, signal_name, "a signal that Squall sends");
  kill.set("signal", Draft::word(signal.value_or("TERM")));
  return kill;
}

struct Document {
  std::string_view name;
  std::string_view kind;
  Draft (*make)(Source& said);
};
constexpr std::array<Document, 10> kDocuments = {{
    {"AWSFIS-Run-Network-Latency", "network", latency},
    {"AWSFIS-Run-Network-Latency-Sources", "network", latency},
    {"AWSFIS-Run-Network-Packet-Loss", "network", loss},
    {"AWSFIS-Run-Network-Packet-Loss-Sources", "network", loss},
    {"AWSFIS-Run-Network-Blackhole-Port", "network", blackhole},
    {"AWSFIS-Run-CPU-Stress", "cpu", cpu},
    {"AWSFIS-Run-Memory-Stress", "memory", memory},
    {"AWSFIS-Run-Disk-Fill", "disk", disk_fill},
    {"AWSFIS-Run-IO-Stress", "disk", disk_load},
    {"AWSFIS-Run-Kill-Process", "kill", kill},
}};

/// COUNT(1) or PERCENT(50): what stands between the brackets.
std::optional<std::string> argument_of(const std::string& text, std::string_view function) {
  if (!text.starts_with(fmt::format("{}(", function)) || !text.ends_with(')')) return std::nullopt;
  return text.substr(function.size() + 1, text.size() - function.size() - 2);
}

std::optional<std::string> pick_of(const std::string& text) {
  if (text == "ALL") return "";
  if (const auto number = argument_of(text, "COUNT")) return count(*number);
  if (const auto share = argument_of(text, "PERCENT")) return percentage(*share);
  return std::nullopt;
}

class Template {
 public:
  Template(Source& root, Experiment& experiment) : root_(root), experiment_(experiment) {}

  void map() {
    if (Source* told = root_.find("description"); told != nullptr) {
      put(told, title_, "plan", any_text, "a text");
      if (const Draft* text = title_.find("plan")) experiment_.title = Draft::text(text->text());
    }
    tags();
    for (Source* condition : parts(root_.find("stopConditions"))) {
      took(condition->find("source"), "none");
      tell_rest(*condition, experiment_.steady_state, kReasons);
    }
    order();
    for (const std::vector<Source*>& level : levels_) {
      std::vector<Draft> steps;
      for (Source* action : level) steps.push_back(step(*action));
      add_together(std::move(steps));
    }
  }

 private:
  static std::vector<Source*> parts(Source* from) {
    std::vector<Source*> all;
    if (from == nullptr) return all;
    for (const auto& part : from->parts()) all.push_back(part.get());
    return all;
  }

  void tags() {
    for (Source* tag : parts(root_.find("tags"))) {
      if (tag->kind() != Source::Kind::kScalar) continue;
      // The name is what the console lists a template under.
      const bool name = tag->key() == "Name";
      experiment_.tags.add(Draft::text(name ? tag->text() : tag->key() + "=" + tag->text()));
      tag->take();
    }
  }

  /// Actions in levels: each stands behind all that it starts after. Those in a circle are left.
  void order() {
    Source* actions = root_.find("actions");
    std::map<std::string, std::size_t> level_of;
    std::vector<Source*> rest = parts(actions);
    // AWS itself takes no more than 20.
    constexpr std::size_t kMostActions = 1000;
    for (std::size_t n = kMostActions; n < rest.size(); ++n) rest[n]->leave("too many actions");
    rest.resize(std::min(rest.size(), kMostActions));
    while (!rest.empty()) {
      std::vector<Source*> ready;
      std::vector<Source*> later;
      for (Source* action : rest) {
        const std::vector<std::string> before = listed(action->find("startAfter"));
        const bool all = std::all_of(before.begin(), before.end(), [&](const std::string& name) {
          return level_of.contains(name);
        });
        (all ? ready : later).push_back(action);
      }
      if (ready.empty()) break;
      for (Source* action : ready) level_of[action->key()] = levels_.size();
      levels_.push_back(std::move(ready));
      rest = std::move(later);
    }
    for (Source* action : rest) {
      action->leave("it starts after what is not there, or after itself");
      experiment_.method.add(Draft());
    }
    // Within a level all begin together, behind the last of the level before: later than in AWS for
    // those that need not wait for all of it.
    for (std::size_t n = 1; n < levels_.size(); ++n) {
      for (Source* action : levels_[n]) {
        const std::vector<std::string> before = listed(action->find("startAfter"));
        std::set<std::string> waited_for(before.begin(), before.end());
        for (Source* earlier : levels_[n - 1]) {
          if (!waited_for.contains(earlier->key()))
            also_waits_for_[action].push_back(earlier->key());
        }
        action->find("startAfter")->take();
      }
    }
    for (Source* action : levels_.empty() ? std::vector<Source*>() : levels_.front()) {
      if (Source* none = action->find("startAfter"); none != nullptr) none->take();
    }
  }

  Draft step(Source& action) {
    Draft step = Draft::map();
    step.set("name", Draft::text(action.key()));
    if (Source* told = action.find("description"); told != nullptr) {
      put(told, step, "name", any_text, "a text");
      step.say(fmt::format("called {} in the template", action.key()));
    }
    if (const auto found = also_waits_for_.find(&action); found != also_waits_for_.end()) {
      step.decide(fmt::format("begins when {} is over, which it did not wait for in AWS",
                              fmt::join(found->second, " and ")));
    }
    const std::string id = text_of(action.find("actionId"));
    if (id == "aws:fis:wait") {
      wait(action, step);
    } else if (id == "aws:ssm:send-command" && document(action, step)) {
      action.find("actionId")->take();
    } else {
      Draft none;
      action.leave("no fault of Squall does this");
      action.give_back();
      tell_rest(action, none, kReasons);
      return none;
    }
    tell_rest(action, step, kReasons);
    return step;
  }

  static void wait(Source& action, Draft& step) {
    action.find("actionId")->take();
    Source* duration = action.find({"parameters", "duration"});
    put_required(duration, step, "wait", iso_duration, "a duration such as PT5M", "60s");
  }

  /// An action that runs one of AWS's own documents.
  bool document(Source& action, Draft& step) {
    Source* arn = action.find({"parameters", "documentArn"});
    const std::string text = text_of(arn);
    const std::string name = text.substr(text.rfind('/') + 1);
    const auto* known = std::find_if(kDocuments.begin(), kDocuments.end(),
                                     [&](const Document& d) { return d.name == name; });
    if (known == kDocuments.end()) return false;
    Source* said = action.find({"parameters", "documentParameters"});
    Source nothing(Source::Kind::kMap);
    if (said != nullptr && said->kind() == Source::Kind::kScalar) {
      Source read;
      if (read_json(said->text(), read) && read.kind() == Source::Kind::kMap) {
        read_json(said->text(), *said);
      }
    }
    Source& parameters = said != nullptr && said->kind() == Source::Kind::kMap ? *said : nothing;
    if (&parameters == &nothing && said != nullptr) said->leave("not a JSON object");
    arn->take();
    step.say(fmt::format("{}: {} (which is {} here)", arn->path(), arn->written(), known->kind));
    target(action, step);
    step.set(known->kind, known->make(parameters));
    if (known->kind != "kill") {
      put_end(action, parameters, step);
    } else if (Source* duration = action.find({"parameters", "duration"})) {
      duration->leave("a kill is done at once", Note::Kind::kSaid);
    }
    return true;
  }

  /// Which machines, and how many of them.
  void target(Source& action, Draft& step) {
    for (Source* used : parts(action.find("targets"))) {
      Source* target = root_.find({"targets", text_of(used)});
      if (target == nullptr) {
        used->leave("there is no such target");
        continue;
      }
      used->take();
      Experiment::Labels labels;
      for (Source* tag : parts(target->find("resourceTags"))) {
        if (tag->kind() != Source::Kind::kScalar) continue;
        labels[tag->key()] = tag->text();
        tag->take();
      }
      Source* mode = target->find("selectionMode");
      const auto pick = taken(mode, pick_of, "ALL, COUNT(n) or PERCENT(n)");
      const bool by_number = pick && !pick->empty() && !pick->ends_with('%');
      constexpr std::size_t kMostDigits = 4;
      std::size_t least = by_number && pick->size() <= kMostDigits ? std::stoul(*pick) : 1;
      const std::vector<std::string> arns = listed(target->find("resourceArns"));
      if (!arns.empty()) {
        labels["target"] = target->key();
        for (const std::string& arn : arns) add_instance(arn, labels);
        Draft on = Draft::map();
        for (const auto& [label, value] : labels) on.set(label, Draft::text(value));
        step.set("on", std::move(on));
        target->find("resourceArns")->take();
      } else {
        if (labels.empty()) labels["target"] = target->key();
        step.set("on", experiment_.described(labels, least));
      }
      if (pick && !pick->empty()) step.set("pick", Draft::word(*pick));
      tell_rest(*target, step, kReasons);
    }
  }

  /// arn:aws:ec2:us-east-1:111122223333:instance/i-0123
  void add_instance(const std::string& arn, const Experiment::Labels& labels) {
    const std::string name = arn.substr(arn.rfind('/') + 1);
    if (!instances_.insert(arn).second) return;
    Experiment::Labels all = labels;
    all["arn"] = arn;
    experiment_.add_node(name, name + ".invalid:7411", all)
        .decide("the source tells the instance, not its address: write it in place of .invalid");
  }

  void add_together(std::vector<Draft> steps) {
    std::vector<Draft> real;
    for (Draft& step : steps) {
      if (step.kind() == Draft::Kind::kNothing) {
        experiment_.method.add(std::move(step));
      } else {
        real.push_back(std::move(step));
      }
    }
    if (real.size() == 1) experiment_.method.add(std::move(real.front()));
    if (real.size() < 2) return;
    Draft& together = experiment_.method.add(Draft::map()).list_at("parallel");
    for (Draft& step : real) together.add(std::move(step));
  }

  Source& root_;
  Experiment& experiment_;
  Draft title_ = Draft::map();
  std::vector<std::vector<Source*>> levels_;
  std::map<Source*, std::vector<std::string>> also_waits_for_;
  std::set<std::string> instances_;
};

/// The template itself, or what the service answers with one in it.
Source* template_in(Source& root) {
  Source* inner = root.find("experimentTemplate");
  Source* found = inner != nullptr ? inner : &root;
  Source* actions = found->find("actions");
  if (actions == nullptr || actions->kind() != Source::Kind::kMap) return nullptr;
  const auto& parts = actions->parts();
  const bool fits = std::any_of(parts.begin(), parts.end(), [](const auto& action) {
    return action->find("actionId") != nullptr;
  });
  return fits ? found : nullptr;
}

bool fits(Source& root) { return template_in(root) != nullptr; }

void map(Source& root, Experiment& experiment) {
  Source* found = template_in(root);
  Template(found != nullptr ? *found : root, experiment).map();
}

}  // namespace

const DocumentFormat kFis = {
    .name = "fis", .called = "AWS FIS", .fits = fits, .map = map, .reasons = kReasons};

}  // namespace squall::importing
