/// Chaos Toolkit's experiments.
/// Source: chaostoolkit.org/reference/api/experiment, "The Chaos Toolkit Experiment Format".
#include <fmt/format.h>
#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <utility>

#include "controller/import/formats.h"
#include "controller/import/programs.h"
#include "controller/import/words.h"
#include "experiments/base/units.h"

namespace squall::importing {
namespace {

constexpr std::array<Reason, 18> kReasons = {{
    {"version", "the version of the experiment's format", Note::Kind::kSaid},
    {"contributions", "what the experiment is about; `tags` are for that", Note::Kind::kSaid},
    {"configuration", "a plan has no variables: what uses it has its value"},
    {"controls", "a run of Squall cannot be steered by code"},
    {"extensions", "of other programs that read the experiment"},
    {"runtime", "a run of Squall always reverts, and does so by itself"},
    {"dry", "squall validate and squall nodes change nothing", Note::Kind::kSaid},
    {"frequency", "see `every` of the check"},
    {"verify_tls", "certificates are always verified"},
    {"max_retries", "a check is asked again and again anyway"},
    {"ref", "what it refers to is not of this file"},
    {"background", "probes do not run beside others here"},
    {"output", "what a probe shows is not kept for others"},
    {"secrets", "Squall takes no secrets"},
    {"arguments", "no place for it in the plan"},
    {"tolerance", "what is to hold cannot be said this way"},
    {"pauses", "there is no step that it would stand beside"},
    {"rollbacks",
     "Squall takes back what it did by itself; what this does beside is not in the "
     "plan"},
}};

const std::vector<std::unique_ptr<Source>>& parts_of(Source* list) {
  static const std::vector<std::unique_ptr<Source>> kNone;
  return list == nullptr ? kNone : list->parts();
}

/// One experiment, from top to bottom.
class Reader {
 public:
  Reader(Source& root, Experiment& experiment) : root_(root), experiment_(experiment) {}

  void map() {
    const std::string title = text_of(root_.find("title"));
    if (!title.empty()) {
      experiment_.title = Draft::text(title);
      root_.find("title")->take();
    }
    Source* state = root_.find("steady-state-hypothesis");
    Source* believed = state == nullptr ? nullptr : state->find("title");
    Source* description = root_.find("description");
    Source* hypothesis = text_of(believed).empty() ? description : believed;
    if (!text_of(hypothesis).empty()) {
      experiment_.hypothesis = Draft::text(text_of(hypothesis));
      hypothesis->take();
    }
    if (hypothesis != description && description != nullptr) {
      description->leave("in words", Note::Kind::kSaid);
    }
    for (const auto& tag : parts_of(root_.find("tags"))) {
      if (tag->kind() != Source::Kind::kScalar) continue;
      experiment_.tags.add(Draft::text(tag->text()));
      tag->take();
    }
    if (Source* secrets = root_.find("secrets"); secrets != nullptr && !secrets->is_leaf()) {
      secrets->leave("Squall takes no secrets");
    }
    for (const auto& probe : parts_of(state == nullptr ? nullptr : state->find("probes"))) {
      experiment_.steady_state.add(check_of(*probe));
    }
    if (state != nullptr) tell_rest(*state, experiment_.steady_state, kReasons);
    for (const auto& activity : parts_of(root_.find("method"))) step_of(*activity);
    flush(Draft());
    for (const auto& rollback : parts_of(root_.find("rollbacks"))) undo(*rollback);
  }

 private:
  // ---- values
  // ------------------------------------------------------------------------------------

  /// The text with each ${name} of the configuration that has a value replaced by it; a note of
  /// `at` for each that has none.
  std::string resolved(const std::string& text, Draft& at) {
    std::string out;
    std::size_t from = 0;
    for (;;) {
      const auto begin = text.find("${", from);
      const auto end = begin == std::string::npos ? begin : text.find('}', begin);
      if (end == std::string::npos) return out + text.substr(from);
      const std::string name = text.substr(begin + 2, end - begin - 2);
      out += text.substr(from, begin - from);
      from = end + 1;
      Source* known = root_.find({"configuration", name});
      Source* usual = known == nullptr ? nullptr : known->find("default");
      Source* value = usual != nullptr ? usual : known;
      if (value == nullptr || value->kind() != Source::Kind::kScalar) {
        at.decide(fmt::format("${{{}}}: a plan has no variables: write the value", name));
        out += text.substr(begin, end + 1 - begin);
        continue;
      }
      out += value->text();
      value->take();
      if (usual == nullptr) continue;
      known->take();
      at.say(fmt::format("{}: {} (the default; a plan reads no environment)", known->path(),
                         known->written()));
    }
  }

  /// The arguments of a process: a text, a list, or names with values.
  std::vector<std::string> arguments_of(Source* field, Draft& at) {
    std::vector<std::string> words;
    if (field == nullptr) return words;
    if (field->kind() == Source::Kind::kScalar) {
      const auto commands = split_line(resolved(field->text(), at));
      if (!commands || commands->size() > 1) {
        at.decide(fmt::format("{}: {} (no shell reads it: write a list)", field->path(),
                              field->written()));
        words.push_back(field->text());
      } else if (!commands->empty()) {
        words = commands->front().words;
      }
    }
    for (const auto& part : field->parts()) {
      if (field->kind() == Source::Kind::kMap) words.push_back(part->key());
      if (part->kind() == Source::Kind::kScalar) {
        if (!part->text().empty()) words.push_back(resolved(part->text(), at));
      } else if (part->kind() != Source::Kind::kNull) {
        at.lose(fmt::format("{}: {} (an argument is a text)", part->path(), part->written()));
      }
    }
    field->take();
    return words;
  }

  // ---- the steady state
  // --------------------------------------------------------------------------

  Draft check_of(Source& probe) {
    Draft check = Draft::map();
    took(probe.find("type"), "probe");
    const std::string name = text_of(probe.find("name"));
    check.set("name", Draft::text(name.empty() ? "unnamed" : name));
    if (!name.empty()) probe.find("name")->take();
    Source* provider = probe.find("provider");
    const std::string type = text_of(provider == nullptr ? nullptr : provider->find("type"));
    bool is_check = false;
    if (type == "http") {
      is_check = http(*provider, check);
    } else if (type == "process") {
      is_check = process(*provider, check);
    } else if (type == "python") {
      is_check = python(*provider, check);
    }
    if (!is_check) {
      Draft none;
      probe.give_back();
      probe.leave(type == "python"
                      ? "code of Python's, which Squall does not run: write an exec or "
                        "http check"
                      : "not a check that Squall has");
      tell_rest(probe, none, kReasons);
      return none;
    }
    provider->find("type")->take();
    tell_rest(probe, check, kReasons);
    return check;
  }

  bool http(Source& provider, Draft& check) {
    Source* url = provider.find("url");
    if (text_of(url).empty()) return false;
    Draft& http = check.set("http", Draft::map());
    const std::string written = resolved(url->text(), http);
    http.set("url", Draft::text(written));
    url->take();
    put(provider.find("method"), http, "method", any_text, "a method");
    if (Source* headers = provider.find("headers"); headers != nullptr) {
      for (const auto& header : headers->parts()) {
        if (header->kind() != Source::Kind::kScalar) continue;
        const std::string value = resolved(header->text(), http);
        http.map_at("headers").set(header->key(), Draft::text(value));
        header->take();
      }
    }
    if (Source* body = provider.find("arguments");
        body != nullptr && body->kind() == Source::Kind::kScalar) {
      http.set("body", Draft::text(resolved(body->text(), http)));
      body->take();
    }
    expect(*provider.parent(), check, "status", "body");
    timeout(provider.find("timeout"), check);
    return true;
  }

  bool process(Source& provider, Draft& check) {
    Source* path = provider.find("path");
    if (text_of(path).empty()) return false;
    Draft& exec = check.set("exec", Draft::map());
    Draft& run = exec.list_at("run");
    run.add(Draft::text(resolved(path->text(), exec)));
    path->take();
    for (std::string& word : arguments_of(provider.find("arguments"), exec)) {
      run.add(Draft::text(std::move(word)));
    }
    if (Source* env = provider.find("env"); env != nullptr) {
      for (const auto& value : env->parts()) {
        if (value->kind() != Source::Kind::kScalar) continue;
        exec.map_at("env").set(value->key(), Draft::text(resolved(value->text(), exec)));
        value->take();
      }
    }
    expect(*provider.parent(), check, "exit", "stdout");
    timeout(provider.find("timeout"), check);
    return true;
  }

  /// Of Python's own library what a program of the system says as well.
  static bool python(Source& provider, Draft& check) {
    Source* module = provider.find("module");
    Source* function = provider.find("func");
    Source* path = provider.find({"arguments", "path"});
    Source* tolerance = provider.parent()->find("tolerance");
    struct Test {
      std::string_view function;
      std::string_view flag;
    };
    constexpr std::array<Test, 3> kTests = {{{"exists", "-e"}, {"isfile", "-f"}, {"isdir", "-d"}}};
    const auto* test = std::find_if(kTests.begin(), kTests.end(), [&](const Test& candidate) {
      return candidate.function == text_of(function);
    });
    const std::string wanted = text_of(tolerance);
    if (text_of(module) != "os.path" || test == kTests.end() || text_of(path).empty() ||
        (wanted != "true" && wanted != "false")) {
      return false;
    }
    Draft& run = check.set("exec", Draft::map()).list_at("run");
    run.add(Draft::text("test"));
    run.add(Draft::text(std::string(test->flag)));
    run.add(Draft::text(path->text()));
    check.list_at("expect").add(Draft::text(wanted == "true" ? "exit == 0" : "exit == 1"));
    for (Source* field : {module, function, path, tolerance}) field->take();
    return true;
  }

  /// The tolerance; `number` and `text` are the metrics that it may be about.
  void expect(Source& probe, Draft& check, const std::string& number, const std::string& text) {
    Source* tolerance = probe.find("tolerance");
    Draft& expect = check.set("expect", Draft::list());
    const std::string found =
        tolerance == nullptr ? "" : expected(*tolerance, number, text, expect);
    if (!found.empty()) {
      expect.add(Draft::text(found));
      return;
    }
    const std::string usual = number == "status" ? "status == 200" : "exit == 0";
    expect.add(Draft::text(usual));
    expect.decide(fmt::format("{} is a guess", usual));
  }

  static bool is_number(Source* field) {
    return field != nullptr && field->kind() == Source::Kind::kScalar &&
           count(field->text()).has_value();
  }

  /// In the words of an expectation; empty: it cannot be said, and the tolerance is left.
  static std::string expected(Source& tolerance, const std::string& number, const std::string& text,
                              Draft& at) {
    if (is_number(&tolerance)) {
      tolerance.take();
      return fmt::format("{} == {}", number, tolerance.text());
    }
    if (tolerance.kind() == Source::Kind::kList) {
      const auto& items = tolerance.parts();
      const bool numbers = !items.empty() && std::all_of(items.begin(), items.end(), [](auto& i) {
        return is_number(i.get());
      });
      if (!numbers) return "";
      tolerance.take();
      return fmt::format("{} in [{}]", number, fmt::join(listed(&tolerance), ", "));
    }
    const std::string type = text_of(tolerance.find("type"));
    const std::string target = text_of(tolerance.find("target"));
    if (type == "range") {
      Source* range = tolerance.find("range");
      if (range == nullptr || range->parts().size() != 2 || !is_number(range->parts()[0].get()) ||
          !is_number(range->parts()[1].get()) || !(target.empty() || target == "status")) {
        return "";
      }
      take(tolerance, {"type", "target", "range"});
      return fmt::format("{} between {} and {}", number, range->parts()[0]->text(),
                         range->parts()[1]->text());
    }
    if (type == "regex") {
      const std::string pattern = text_of(tolerance.find("pattern"));
      const bool of_text = target.empty() || target == text;
      if (pattern.empty() || !of_text || !is_pattern(pattern)) return "";
      const std::string written = in_expectation(pattern);
      if (written.empty()) return "";
      take(tolerance, {"type", "target", "pattern"});
      return fmt::format("{} matches {}", text, written);
    }
    if (type == "jsonpath" && text == "body") return json_path(tolerance, at);
    return "";
  }

  static void take(Source& from, std::initializer_list<std::string_view> keys) {
    for (const std::string_view key : keys) {
      if (Source* field = from.find(key); field != nullptr) field->take();
    }
  }

  static bool is_pattern(const std::string& pattern) { return RE2(pattern, RE2::Quiet).ok(); }

  /// A text ends before ` for 5s` and ` over 5s`, and at its quote if it begins with one. Empty: it
  /// cannot be written.
  static std::string in_expectation(const std::string& text) {
    const bool ends_early = text.find(" for ") != std::string::npos ||
                            text.find(" over ") != std::string::npos || text[0] == '"' ||
                            text[0] == '\'' || text[0] == ' ' || text.back() == ' ';
    if (!ends_early) return text;
    for (const char quote : {'"', '\''}) {
      if (text.find(quote) == std::string::npos) return quote + text + quote;
    }
    return "";
  }

  /// $.status with one value that is wanted: the field somewhere in the body, with that value.
  static std::string json_path(Source& tolerance, Draft& at) {
    const std::string path = text_of(tolerance.find("path"));
    const std::string target = text_of(tolerance.find("target"));
    Source* wanted = tolerance.find("expect");
    const std::string field = path.substr(path.rfind('.') + 1);
    const bool simple = path.starts_with("$.") && !field.empty() &&
                        path.find_first_of("[]*?@()") == std::string::npos;
    const std::vector<std::string> values = listed(wanted);
    if (!simple || values.size() != 1 || !(target.empty() || target == "body")) return "";
    const std::string written = in_expectation(
        fmt::format(R"("{}"\s*:\s*"?{})", as_pattern(field), as_pattern(values.front())));
    if (written.empty()) return "";
    at.decide(
        fmt::format("{}: {} (Squall reads no JSON: the pattern finds this field anywhere in "
                    "the body)",
                    tolerance.path(), tolerance.written()));
    tolerance.take();
    return fmt::format("body matches {}", written);
  }

  /// No more than `every`, which goes up with it.
  static void timeout(Source* field, Draft& check) {
    if (field == nullptr) return;
    Source* last = field;
    if (field->kind() == Source::Kind::kList && !field->parts().empty()) {
      last = field->parts().back().get();  // to connect, and to read
      if (field->parts().size() > 1) {
        field->parts().front()->leave("one timeout is for all of an answer");
      }
    }
    const auto value = seconds(text_of(last));
    if (!value || value->empty()) return last->leave("not a number of seconds");
    last->take();
    const auto parsed = parse_duration(*value);
    if (parsed.ok() && *parsed > std::chrono::seconds(1)) check.set("every", Draft::word(*value));
    check.set("timeout", Draft::word(*value));
  }

  // ---- the method
  // --------------------------------------------------------------------------------

  /// A pause beside an activity; empty where there is none.
  std::string pause(Source& activity, std::string_view side) {
    Source* field = activity.find({"pauses", side});
    if (field == nullptr) return "";
    const auto value = seconds(resolved(text_of(field), experiment_.head));
    if (!value) {
      field->leave("not a number of seconds");
      return "";
    }
    field->take();
    return *value;
  }

  void wait(const std::string& duration) {
    if (duration.empty()) return;
    Draft step = Draft::map();
    step.set("wait", Draft::word(duration));
    flush(std::move(step));
  }

  void step_of(Source& activity) {
    wait(pause(activity, "before"));
    const std::string after = pause(activity, "after");
    std::vector<Draft> steps = steps_in(activity, after);
    const bool pause_is_end = std::any_of(steps.begin(), steps.end(), [&](const Draft& step) {
      const Draft* end = step.find("for");
      return end != nullptr && !after.empty() && end->text() == after;
    });
    const bool in_background = took(activity.find("background"), "true") && !pause_is_end;
    if (!in_background) took(activity.find("background"), "false");
    if (in_background && steps.front().kind() == Draft::Kind::kMap) {
      steps.front().say(
          "in the background there; here beside the next step, and what follows waits "
          "for both");
    }
    if (!steps.empty()) tell_rest(activity, steps.front(), kReasons);
    for (std::size_t n = 0; n < steps.size(); ++n) {
      const bool last = n + 1 == steps.size();
      if (steps[n].kind() == Draft::Kind::kMap && (in_background || !last)) {
        waiting_.push_back(std::move(steps[n]));
      } else {
        flush(std::move(steps[n]));
      }
    }
    if (!pause_is_end) wait(after);
  }

  /// What was in the background runs beside the next step.
  void flush(Draft step) {
    if (step.kind() == Draft::Kind::kNothing && !step.notes().empty()) {
      experiment_.method.add(std::move(step));
      return;
    }
    const bool is_step = step.kind() == Draft::Kind::kMap;
    if (is_step) waiting_.push_back(std::move(step));
    if (waiting_.size() == 1) {
      experiment_.method.add(std::move(waiting_.front()));
    } else if (!waiting_.empty()) {
      Draft& together = experiment_.method.add(Draft::map()).list_at("parallel");
      for (Draft& one : waiting_) together.add(std::move(one));
    }
    waiting_.clear();
  }

  static std::vector<Draft> single(Draft draft) {
    std::vector<Draft> all;
    all.push_back(std::move(draft));
    return all;
  }

  /// At least one, if only of notes.
  std::vector<Draft> steps_in(Source& activity, const std::string& after) {
    Source* provider = activity.find("provider");
    const std::string type = text_of(provider == nullptr ? nullptr : provider->find("type"));
    const bool is_action = text_of(activity.find("type")) == "action";
    if (is_action && type == "process" && !text_of(provider->find("path")).empty()) {
      return program(activity, *provider, after);
    }
    const std::string why =
        !is_action ? "the steady state is asked all the while; a probe between actions has no place"
        : type == "python"
            ? "code of Python's, which Squall does not run: see `squall explain` for the faults"
            : "no fault of Squall does this";
    Draft none;
    if (activity.find("pauses") == nullptr) {
      activity.leave(why);
      tell_rest(activity, none, kReasons);
      return single(std::move(none));
    }
    // Its pauses stay.
    none.lose(fmt::format("{}: {} ({})", activity.path(), activity.written("pauses"), why));
    for (const auto& part : activity.parts()) {
      if (part->key() != "pauses") part->mark_told();
    }
    return single(std::move(none));
  }

  std::vector<Draft> program(Source& activity, Source& provider, const std::string& after) {
    took(activity.find("type"), "action");
    took(provider.find("type"), "process");
    Draft notes;
    std::vector<std::string> words = arguments_of(provider.find("arguments"), notes);
    words.insert(words.begin(), resolved(provider.find("path")->text(), notes));
    provider.find("path")->take();
    auto meant = meaning_of(words, provider.path());
    if (meant && meant->undoes) {
      took(activity.find("name"), text_of(activity.find("name")));
      Draft none;
      none.say(
          fmt::format("{} (every fault of Squall is taken back by itself)", fmt::join(words, " ")));
      for (const Note& note : notes.notes()) none.note(note);
      tell_rest(activity, none, kReasons);
      return single(std::move(none));
    }
    if (!meant) {
      meant.emplace();
      meant->steps.push_back(script_of(words));
    }
    const std::string name = text_of(activity.find("name"));
    if (!name.empty()) activity.find("name")->take();
    Source* limit = provider.find("timeout");
    std::vector<Draft> steps;
    for (Draft& fault : meant->steps) {
      if (fault.kind() == Draft::Kind::kNothing) {
        steps.push_back(std::move(fault));
        continue;
      }
      Draft step = Draft::map();
      if (!name.empty()) step.set("name", Draft::text(name));
      for (Draft::Entry& entry : fault.entries()) step.set(entry.key, std::move(*entry.value));
      for (const Note& note : fault.notes()) step.note(note);
      if (Draft* script = step.find("script"); script != nullptr && limit != nullptr) {
        put(limit, *script, "timeout", seconds, "seconds");
      }
      if (lasts(step) && step.find("for") == nullptr) end(step, after);
      steps.push_back(std::move(step));
    }
    for (const Note& note : notes.notes()) steps.front().note(note);
    if (limit != nullptr && !limit->taken()) {
      limit->leave("a fault ends by its own `for`", Note::Kind::kSaid);
    }
    return steps;
  }

  /// A program like tc sets something up that stays: until the rollback, or for the pause behind
  /// it.
  static void end(Draft& step, const std::string& after) {
    if (after.empty()) return put_for(step, std::nullopt);
    step.set("for", Draft::word(after)).say("for as long as the pause behind it");
  }

  void undo(Source& rollback) {
    Source* provider = rollback.find("provider");
    if (provider == nullptr || text_of(provider->find("type")) != "process") return;
    std::vector<std::string> words = {text_of(provider->find("path"))};
    Source* arguments = provider->find("arguments");
    const auto commands = split_line(text_of(arguments));
    if (commands && commands->size() == 1) {
      const auto& said = commands->front().words;
      words.insert(words.end(), said.begin(), said.end());
    }
    for (const auto& part : parts_of(arguments)) words.push_back(text_of(part.get()));
    const auto meant = meaning_of(words, "");
    if (meant && meant->undoes) {
      rollback.leave("Squall takes back what it did by itself", Note::Kind::kSaid);
    }
  }

  Source& root_;
  Experiment& experiment_;
  std::vector<Draft> waiting_;
};

bool fits(Source& root) {
  Source* method = root.find("method");
  return method != nullptr && method->kind() == Source::Kind::kList &&
         root.find("plan") == nullptr &&
         (root.find("steady-state-hypothesis") != nullptr || root.find("title") != nullptr);
}

void map(Source& root, Experiment& experiment) { Reader(root, experiment).map(); }

}  // namespace

const DocumentFormat kChaosToolkit = {.name = "chaostoolkit",
                                      .called = "Chaos Toolkit",
                                      .fits = fits,
                                      .map = map,
                                      .reasons = kReasons};

}  // namespace squall::importing
