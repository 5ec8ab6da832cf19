#include "experiments/plan/rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>

#include "experiments/plan/expectation.h"

namespace squall::plan {
namespace {

class Weighing {
 public:
  Weighing(const Tainted& tainted, v1::Plan& plan, Diagnostics& diagnostics)
      : tainted_(tainted), plan_(plan), out_(diagnostics) {}

  void observed(const YamlNode& root, bool unobserved) {
    if (unobserved || root.find_key("steady_state") != nullptr) return;
    const YamlNode* method = root.find_key("method");
    out_.error(method != nullptr      ? method->place
               : root.entries.empty() ? root.place
                                      : root.entries.front().key->place,
               "no steady state: nothing would see what the faults do",
               "add `steady_state:` with at least one check, or run with --unobserved");
  }

  void nodes(const YamlNode& root) {
    const YamlNode* nodes = root.find("nodes");
    if (nodes == nullptr || plan_.nodes().empty()) return;
    // A node that is wrong in itself still has its name; one without a right name may be any.
    nodes_known_ = plan_.nodes().size() == nodes->entries.size();
    labels_known_ = nodes_known_ && !tainted_.contains(nodes);
    for (const auto& [name, node] : plan_.nodes()) {
      node_names_.push_back(name);
      for (const auto& [label, value] : node.labels()) labels_[label].insert(value);
    }
    std::sort(node_names_.begin(), node_names_.end());
    std::unordered_map<std::string, const YamlNode*> by_address;
    for (const YamlNode::Entry& entry : nodes->entries) {
      if (entry.key->text == "all") {
        out_.error(entry.key->place, "no node can be called \"all\"",
                   "`on: all` means every node; give this one another name");
      }
      const auto found = plan_.nodes().find(entry.key->text);
      if (found == plan_.nodes().end() || tainted_.contains(entry.value)) continue;
      const std::string& address = found->second.address();
      const auto [first, fresh] = by_address.emplace(address, entry.key);
      if (fresh) continue;
      if (address.empty()) {
        out_.error(
            entry.key->place,
            fmt::format("a second node without an address, beside \"{}\"", first->second->text),
            "only one node can be the machine that squall itself runs on; give this one an "
            "address");
      } else {
        const YamlNode* value = entry.value->find("address");
        out_.error(
            value != nullptr ? value->place : entry.key->place,
            fmt::format("\"{}\" has the address of \"{}\"", entry.key->text, first->second->text),
            "two names for one node would count it twice");
      }
    }
  }

  void checks(const YamlNode& root) {
    const YamlNode* checks = root.find("steady_state");
    if (checks == nullptr || checks->kind != YamlNode::Kind::kSequence) return;
    const std::size_t count =
        std::min(checks->items.size(), static_cast<std::size_t>(plan_.steady_state_size()));
    for (std::size_t i = 0; i < count; ++i) {
      const YamlNode& node = *checks->items[i];
      const v1::Check& check = plan_.steady_state(static_cast<int>(i));
      named_once(node, check.name(), "check");
      if (const FieldDescriptor* kind = set_of(check)) {
        expectations(node, check.expect(), kind->name(), *kind->message_type(),
                     check.has_every() ? std::optional(Duration(check.every())) : std::nullopt);
      }
      vantage_points(node, check);
      http(node, check);
      icmp(node, check);
      const YamlNode* exec = node.find("exec");
      if (check.has_exec() && exec != nullptr && check.exec().run_size() > 0 &&
          check.exec().run(0).empty()) {
        const YamlNode* run = exec->find("run");
        out_.error(run != nullptr ? run->place : exec->place, "run names no program",
                   "write run: [program, argument]");
      }
    }
  }

  /// What is expected of the run as a whole.
  void run(const YamlNode& root) {
    expectations(root, plan_.expect(), "a run", *v1::Plan::descriptor(), std::nullopt);
    const YamlNode* expect = root.find("expect");
    for (int i = 0; i < plan_.expect_size(); ++i) {
      const v1::Expectation& one = plan_.expect(i);
      const bool lasts = one.has_over() || one.has_for_();
      const bool compares = std::any_of(one.values().begin(), one.values().end(),
                                        [](const auto& value) { return value.times_baseline(); });
      if (!lasts && !compares) continue;
      out_.error(expect->items[static_cast<std::size_t>(i)]->place,
                 "a run has each of its times once", "leave out `over`, `for` and `x baseline`");
    }
  }

  void loads(const YamlNode& root) {
    const YamlNode* loads = root.find("load");
    if (loads == nullptr || loads->kind != YamlNode::Kind::kSequence) return;
    const std::size_t count =
        std::min(loads->items.size(), static_cast<std::size_t>(plan_.load_size()));
    for (std::size_t i = 0; i < count; ++i) {
      const YamlNode& node = *loads->items[i];
      const v1::Load& load = plan_.load(static_cast<int>(i));
      named_once(node, load.name(), "load");
      if (load.has_http()) {
        expectations(node, load.expect(), "a load", *v1::HttpLoad::descriptor(),
                     std::chrono::seconds(1));
      }
      const YamlNode* run = node.find("run");
      if (load.has_run() && run != nullptr && load.run().argv_size() > 0 &&
          load.run().argv(0).empty()) {
        out_.error(run->place, "run names no program", "write run: [program, argument]");
      }
    }
  }

  void method(const YamlNode& root) {
    const YamlNode* method = root.find("method");
    if (method == nullptr || method->kind != YamlNode::Kind::kSequence) return;
    const std::size_t count = steps(*method, *plan_.mutable_method());
    if (count > kMostSteps) {
      out_.error(
          root.find_key("method")->place, fmt::format("more than {} steps", kMostSteps),
          "those of a `repeat` count as often as they are walked, and each turn of a `pulse`");
    }
  }

 private:
  void named_once(const YamlNode& node, const std::string& name, std::string_view what) {
    const YamlNode* written = node.find("name");
    if (written == nullptr || name.empty()) return;
    const auto [first, fresh] = names_.emplace(name, Named{what, written});
    if (fresh) return;
    const auto& [other, where] = first->second;
    out_.error(written->place,
               other == what ? fmt::format("a second {} is called \"{}\"", what, name)
                             : fmt::format("a {} is called \"{}\" already", other, name),
               fmt::format("the first stands in line {}", where->place.line));
  }

  void http(const YamlNode& node, const v1::Check& check) {
    const YamlNode* written = node.find("http");
    if (!check.has_http() || written == nullptr || tainted_.contains(written)) return;
    const YamlNode* tls = written->find_key("tls");
    if (tls != nullptr && !check.http().follow() && check.http().url().starts_with("http:")) {
      out_.error(tls->place, "an http URL is asked without TLS", "write https:// in its `url`");
    }
    const YamlNode* expect = node.find("expect");
    if (!check.http().value().empty() || expect == nullptr ||
        expect->kind != YamlNode::Kind::kSequence) {
      return;
    }
    const std::size_t count =
        std::min(expect->items.size(), static_cast<std::size_t>(check.expect_size()));
    for (std::size_t i = 0; i < count; ++i) {
      const YamlNode& item = *expect->items[i];
      if (tainted_.contains(&item) || check.expect(static_cast<int>(i)).metric() != "value") {
        continue;
      }
      out_.error(item.within(0, std::string_view("value").size()),
                 "which number of the answer is its `value`?",
                 "add value: /queue/depth, a JSON Pointer, to `http`");
    }
  }

  void icmp(const YamlNode& node, const v1::Check& check) {
    const YamlNode* written = node.find("icmp");
    const YamlNode* host = written != nullptr ? written->find("host") : nullptr;
    if (!check.has_icmp() || host == nullptr || tainted_.contains(written)) return;
    const std::string& text = check.icmp().host();
    const auto colon = text.find(':');
    if (text.find_first_of(" \t\r\n/") != std::string::npos) {
      out_.error(host->place, fmt::format("\"{}\" is not a host", text),
                 "write a name or an address, such as db-1");
    } else if (colon != std::string::npos && text.find(':', colon + 1) == std::string::npos) {
      out_.error(host->place, "an echo request has no port",
                 fmt::format("write host: {}", text.substr(0, colon)));
    }
  }

  /// Nodes that ask, and how many of them must agree.
  void vantage_points(const YamlNode& node, const v1::Check& check) {
    const YamlNode* from = node.find("from");
    if (from == nullptr || !nodes_known_ || tainted_.contains(from)) return;
    const std::size_t matching = matched(*from, check.from());
    const YamlNode* of = node.find("of");
    if (of == nullptr || matching == 0 || tainted_.contains(of)) return;
    const std::size_t among = check.of().among();
    if (among != 0 && among != matching) {
      out_.error(
          of->place,
          fmt::format("`from` is {} node{}, not {}", matching, matching == 1 ? "" : "s", among),
          fmt::format("write {} of {}", std::min<std::size_t>(check.of().count(), matching),
                      matching));
    } else if (check.of().count() > matching) {
      out_.error(
          of->place,
          fmt::format("{} nodes are to agree, and `from` is {}", check.of().count(), matching), "");
    }
  }

  /// The member of its choice `kind` that is set.
  static const FieldDescriptor* set_of(const Message& message) {
    return message.GetReflection()->GetOneofFieldDescriptor(
        message, message.GetDescriptor()->FindOneofByName("kind"));
  }

  void expectations(const YamlNode& node,
                    const google::protobuf::RepeatedPtrField<v1::Expectation>& wanted,
                    std::string_view called, const Descriptor& measured,
                    std::optional<Duration> every) {
    const YamlNode* expect = node.find("expect");
    if (expect == nullptr || expect->kind != YamlNode::Kind::kSequence) return;
    const std::size_t count =
        std::min(expect->items.size(), static_cast<std::size_t>(wanted.size()));
    for (std::size_t i = 0; i < count; ++i) {
      const YamlNode& item = *expect->items[i];
      if (tainted_.contains(&item)) continue;
      if (auto told = misfit(wanted[static_cast<int>(i)], called, measured, every)) {
        out_.error(item.within(told->offset, told->length), std::move(told->problem.summary),
                   std::move(told->problem.hint));
      }
    }
  }

  /// Returns how many there are, each as often as it is repeated; stops counting where it is too
  /// often.
  std::size_t steps(const YamlNode& list, google::protobuf::RepeatedPtrField<v1::Step>& steps) {
    const std::size_t count = std::min(list.items.size(), static_cast<std::size_t>(steps.size()));
    std::size_t all = 0;
    for (std::size_t i = 0; i < count; ++i) {
      all = std::min(all + step(*list.items[i], steps[static_cast<int>(i)]), kMostSteps + 1);
    }
    return all;
  }

  std::size_t step(const YamlNode& node, v1::Step& step) {
    if (node.kind != YamlNode::Kind::kMapping) return 1;
    for (const char* other : {"parallel", "repeat", "wait", "ask"}) {
      const YamlNode* written = node.find(other);
      if (node.find_key(other) == nullptr) continue;
      const bool has_steps = step.has_parallel() || step.has_repeat();
      for (const char* word : {"on", "pick"}) {
        const YamlNode* key = node.find_key(word);
        if (key == nullptr) continue;
        out_.error(
            key->place,
            fmt::format("`{}` says where a fault goes, and this step has none of its own", word),
            has_steps ? fmt::format("write it in the steps below `{}`", other)
                      : fmt::format("leave `{}` out", word));
      }
      if (written == nullptr || !has_steps) return 1;
      ++inside_;
      std::size_t count = 1;
      if (step.has_parallel()) {
        for (const YamlNode* beside : written->items) {
          if (beside->find_key("ask") == nullptr) continue;
          out_.error(beside->find_key("ask")->place, "a question beside other steps",
                     "a person answers one thing at a time: ask before or after them");
        }
        count += steps(*written, *step.mutable_parallel()->mutable_steps());
      } else if (const YamlNode* list = written->find("steps")) {
        count += step.repeat().times() * steps(*list, *step.mutable_repeat()->mutable_steps());
      }
      --inside_;
      return count;
    }
    fault(node, step);
    return 1 + turns_of(step.fault());
  }

  void fault(const YamlNode& node, v1::Step& step) {
    const YamlNode* on = node.find("on");
    search(node, step.fault());
    if (!nodes_known_) return;
    if (step.fault().has_partition()) return partition(node, step);
    std::size_t matching = 0;
    if (on == nullptr) {
      if (step.fault().kind_case() == v1::Fault::KIND_NOT_SET) return;
      if (node_names_.size() != 1) {
        const YamlNode* key = node.find_key(kind_of(step.fault())->name());
        out_.error(key != nullptr ? key->place : node.place, "on which of the nodes?",
                   fmt::format("write `on: {}`, or labels, or `on: all`", node_names_.front()));
        return;
      }
      step.mutable_on()->set_node(node_names_.front());
      matching = 1;
    } else {
      if (tainted_.contains(on)) return;
      matching = matched(*on, step.on());
    }
    const YamlNode* pick = node.find("pick");
    if (pick != nullptr && matching > 0 && step.pick().count() > matching) {
      out_.error(pick->place,
                 fmt::format("{} nodes are to be picked, and only {} match", step.pick().count(),
                             matching),
                 "");
    }
  }

  /// How often a fault that comes and goes does either; stops counting where it is too often.
  static std::size_t turns_of(const v1::Fault& fault) {
    if (!fault.has_pulse() || !fault.has_for_()) return 0;
    const std::int64_t period = fault.pulse().on() + fault.pulse().off();
    if (period <= 0) return 0;
    return std::min(2 * (static_cast<std::size_t>((fault.for_() + period - 1) / period)),
                    kMostSteps + 1);
  }

  void search(const YamlNode& node, const v1::Fault& fault) {
    if (!fault.has_search()) return;
    const YamlNode* kind = node.find(kind_of(fault)->name());
    const Place& place = kind->find(fault.search().field())->place;
    if (inside_ > 0) {
      out_.error(place, "a number is looked for among other steps",
                 "make it a step of the method itself");
    } else if (std::exchange(searched_, true)) {
      out_.error(place, "a second number is looked for",
                 "what one run finds is one number: make a plan of each");
    } else if (plan_.steady_state().empty()) {
      out_.error(place, "a number is looked for, and no check says when it is found",
                 "add `steady_state:` with what must break");
    }
  }

  /// How many nodes match; tells where none does.
  std::size_t matched(const YamlNode& on, const v1::Selector& selector) {
    if (selector.all()) return node_names_.size();
    if (!selector.node().empty()) {
      if (plan_.nodes().contains(selector.node())) return 1;
      out_.error(on.place, fmt::format("there is no node \"{}\"", selector.node()),
                 [&] { return suggestion(selector.node(), node_names_); });
      return 0;
    }
    if (!labels_known_) return 0;
    if (const std::size_t count = bearing(selector); count > 0) return count;
    for (const YamlNode::Entry& entry : on.entries) {
      const auto known = labels_.find(entry.key->text);
      if (known == labels_.end()) {
        out_.error(entry.key->place, fmt::format("no node has a label \"{}\"", entry.key->text),
                   [&] { return suggestion(entry.key->text, label_names()); });
        return 0;
      }
      if (!known->second.contains(entry.value->text)) {
        out_.error(entry.value->place,
                   fmt::format("no node has the label {}: {}", entry.key->text, entry.value->text),
                   [&] { return suggestion(entry.value->text, known->second); });
        return 0;
      }
    }
    out_.error(on.place, "no node has all these labels at once", "");
    return 0;
  }

  /// Groups that are there and have no node in common, or enough nodes for the shape.
  void partition(const YamlNode& node, const v1::Step& step) {
    const v1::Partition& wanted = step.fault().partition();
    const YamlNode* written = node.find("partition");
    const YamlNode* key = node.find_key("partition");
    if (written == nullptr || tainted_.contains(written)) return;
    if (const YamlNode* pick = node.find_key("pick")) {
      out_.error(pick->place, "`pick` takes some of the nodes, and a partition is between them",
                 "leave `pick` out, and select with `on` or `between`");
    }
    const YamlNode* on = node.find("on");
    if (wanted.between_size() == 0) {
      if (on != nullptr && tainted_.contains(on)) return;
      const std::size_t count = on == nullptr ? node_names_.size() : matched(*on, step.on());
      const std::size_t least = least_nodes(wanted.shape());
      if (count == 0 || count >= least) return;
      out_.error(key->place,
                 fmt::format("a {} needs {} nodes, and there {} {}", spelling_of(wanted.shape()),
                             least, count == 1 ? "is" : "are", count),
                 "");
      return;
    }
    if (on != nullptr) {
      out_.error(node.find_key("on")->place, "`on` beside `between`",
                 "`between` says which nodes are meant: leave `on` out");
    }
    const YamlNode* groups = written->find("between");
    if (wanted.between_size() < 2) {
      out_.error(groups->place, "a partition is between two groups, and this is one",
                 "write between: [one, other]");
    }
    std::map<std::string, int> group_of;
    for (int i = 0; i < wanted.between_size(); ++i) {
      const YamlNode& group = *groups->items[static_cast<std::size_t>(i)];
      if (matched(group, wanted.between(i)) == 0) continue;
      for (const std::string& name : node_names_) {
        if (!selects(wanted.between(i), name)) continue;
        if (group_of.emplace(name, i).second) continue;
        out_.error(group.place, fmt::format("the node {} is in two of the groups", name),
                   "no node can be parted from itself");
        break;
      }
    }
  }

  static std::size_t least_nodes(v1::Shape shape) {
    switch (shape) {
      case v1::RING:
        return 4;  // of three, a majority around each is all of them
      case v1::BRIDGE:
        return 3;
      default:
        return 2;
    }
  }

  static std::string spelling_of(v1::Shape shape) {
    return spelling(*v1::Shape_descriptor()->FindValueByNumber(shape));
  }

  bool selects(const v1::Selector& selector, const std::string& name) const {
    if (selector.all() || selector.node() == name) return true;
    const auto& labels = plan_.nodes().at(name).labels();
    return !selector.labels().empty() &&
           std::all_of(selector.labels().begin(), selector.labels().end(), [&](const auto& wanted) {
             const auto found = labels.find(wanted.first);
             return found != labels.end() && found->second == wanted.second;
           });
  }

  /// How many nodes bear all of a selector's labels. Many steps select the same.
  std::size_t bearing(const v1::Selector& selector) {
    std::map<std::string, std::string> labels(selector.labels().begin(), selector.labels().end());
    const auto [known, fresh] = bearing_.try_emplace(std::move(labels), 0);
    if (!fresh) return known->second;
    std::size_t& count = known->second;
    for (const auto& [name, node] : plan_.nodes()) {
      count += static_cast<std::size_t>(selects(selector, name));
    }
    return count;
  }

  std::vector<std::string> label_names() const {
    std::vector<std::string> names;
    for (const auto& [label, values] : labels_) names.push_back(label);
    return names;
  }

  /// `known` is a range of words.
  template <typename Words>
  static std::string suggestion(const std::string& word, const Words& known) {
    // Comparing with thousands takes longer than a person waits for a hint.
    constexpr std::size_t kMostCompared = 200;
    std::string near;
    if (known.size() <= kMostCompared) near = squall::nearest(word, {known.begin(), known.end()});
    if (!near.empty()) return fmt::format("did you mean \"{}\"?", near);
    if (known.empty()) return "the nodes of this plan have no labels";
    return fmt::format("there {} {}", known.size() == 1 ? "is" : "are", listed(known));
  }

  template <typename Words>
  static std::string listed(const Words& words) {
    constexpr std::size_t kMost = 8;
    if (words.size() <= kMost) return fmt::format("{}", fmt::join(words, ", "));
    return fmt::format("{} and {} more",
                       fmt::join(words.begin(), std::next(words.begin(), kMost), ", "),
                       words.size() - kMost);
  }

  const Tainted& tainted_;
  v1::Plan& plan_;
  Diagnostics& out_;
  struct Named {
    std::string_view what;
    const YamlNode* where;
  };
  /// Checks and loads, which reports tell by their names alike.
  std::unordered_map<std::string, Named> names_;
  std::vector<std::string> node_names_;
  std::map<std::string, std::set<std::string>> labels_;
  std::map<std::map<std::string, std::string>, std::size_t> bearing_;
  int inside_ = 0;  ///< Steps that have steps.
  bool searched_ = false;
  bool nodes_known_ = false;
  bool labels_known_ = false;
};

}  // namespace

void weigh_plan(const YamlNode& root, const Tainted& tainted, bool unobserved, v1::Plan& plan,
                Diagnostics& diagnostics) {
  if (root.kind != YamlNode::Kind::kMapping) return;
  Weighing weighing(tainted, plan, diagnostics);
  weighing.observed(root, unobserved);
  weighing.nodes(root);
  weighing.checks(root);
  weighing.loads(root);
  weighing.run(root);
  weighing.method(root);
}

}  // namespace squall::plan
