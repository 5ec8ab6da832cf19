#include "controller/report/reports.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>

#include "controller/report/chronicle.h"
#include "controller/report/json.h"
#include "controller/report/markup.h"
#include "controller/report/story.h"
#include "controller/report/text.h"
#include "experiments/base/diagnostic.h"

namespace squall::report {
namespace {

/// The status of a fault that was neither a success nor a failure.
constexpr const char* kNoEffectYet = "no effect yet when aborted";

// ---- JSON
// ----------------------------------------------------------------------------------------

/// The words that Chaos Toolkit's readers know.
std::string toolkit_status(const Story& story) {
  if (!story.ended) return "aborted";
  switch (story.ended->verdict()) {
    case v1::HELD:
      return "completed";
    case v1::BREACHED:
    case v1::NOT_STEADY:
      return "failed";
    case v1::INTERRUPTED:
      return "interrupted";
    default:
      return "aborted";
  }
}

bool run_went_on_from(const Story& story, v1::Phase phase) {
  if (phase == v1::STEADY) return story.reached(v1::METHOD);
  if (phase == v1::RECOVERY) return story.recovered_after_ms.has_value();
  return std::ranges::none_of(story.checks, &CheckStory::broke);
}

Json steady_state(const Story& story, v1::Phase phase) {
  if (!story.reached(phase)) return nullptr;
  Json probes = Json::array();
  bool met = true;
  for (const CheckStory& check : story.checks) {
    const auto held = check.held_at_end_of.find(phase);
    const bool holds = held != check.held_at_end_of.end() && held->second;
    // Where several ask, not all of them have to agree; but whether enough did, the run knew.
    met = met && (holds || (!check.from.empty() && run_went_on_from(story, phase)));
    Json expect = Json::array();
    for (const ExpectationStory& one : check.expect) expect.push_back(one.text);
    probes.push_back(
        {{"activity", {{"type", "probe"}, {"name", check.name}, {"tolerance", std::move(expect)}}},
         {"status", holds ? "succeeded" : "failed"},
         {"tolerance_met", holds}});
  }
  return {{"steady_state_met", met}, {"probes", std::move(probes)}};
}

/// To the microsecond: a division by 1000 alone leaves seventeen digits of nothing.
double seconds(double ms) { return std::round(ms * 1000) / 1e6; }

Json activity(const FaultStory& fault, const char* type, const std::string& status,
              const std::string& problem, const Moment& start, const std::optional<Moment>& end,
              const std::optional<double>& took_ms) {
  Json json{{"activity", {{"type", "action"}, {"name", fault_title(fault)}, {"phase", type}}},
            {"status", problem.empty() ? status : "failed"},
            {"start", start.at},
            {"end", end ? Json(end->at) : Json(nullptr)},
            {"duration", took_ms ? Json(seconds(*took_ms)) : Json(nullptr)}};
  json["output"] = problem.empty() ? Json(fault.evidence_words) : Json(nullptr);
  if (!problem.empty()) json["exception"] = Json::array({problem});
  return json;
}

Json number_or_null(const std::optional<double>& number) {
  return number ? Json(*number) : Json(nullptr);
}

Json check_json(const CheckStory& check) {
  Json expect = Json::array();
  for (const ExpectationStory& one : check.expect) {
    expect.push_back({{"expectation", one.text},
                      {"held", !one.breached},
                      {"worst", one.worst.empty() ? Json(nullptr) : Json(one.worst)},
                      {"worst_number", number_or_null(one.worst_number)}});
  }
  Json breaches = Json::array();
  for (const BreachStory& breach : check.breaches) {
    breaches.push_back(
        {{"at", breach.moment.at},
         {"elapsed", breach.moment.elapsed},
         {"expectation", breach.expectation},
         {"observed", breach.observed},
         {"since_ms", breach.since_ms},
         {"aborted", breach.aborts},
         {"held_again", breach.held_again ? Json(breach.held_again->at) : Json(nullptr)}});
  }
  return {{"name", check.name},
          {"from", check.from.empty() ? Json(nullptr) : Json(check.from)},
          {"kind", check.kind},
          {"load", check.is_load},
          {"every_ms", check.every_ms},
          {"held", check.breaches.empty()},
          {"asked", check.asked},
          {"answered", check.answered},
          {"latency_ms",
           {{"p50", number_or_null(check.latency_percentile_ms(50))},
            {"p95", number_or_null(check.latency_percentile_ms(95))},
            {"p99", number_or_null(check.latency_percentile_ms(99))},
            {"max", number_or_null(check.latency_percentile_ms(100))}}},
          {"last", {{"holds", check.holds}, {"observed", check.observed}, {"error", check.error}}},
          {"expect", std::move(expect)},
          {"breaches", std::move(breaches)}};
}

std::optional<double> took_to_apply(const FaultStory& fault) {
  return fault.applied ? std::optional(fault.apply_took_ms) : std::nullopt;
}

Json fault_json(const FaultStory& fault) {
  const auto moment = [](const std::optional<Moment>& at) {
    return at ? Json(at->at) : Json(nullptr);
  };
  Json json{{"id", fault.id},
            {"node", fault.node},
            {"step", fault.step},
            {"kind", fault.kind},
            {"words", fault.words},
            {"lasts_ms", fault.lasts_ms},
            {"injecting", fault.injecting.at},
            {"applied", moment(fault.applied)},
            {"apply_took_ms", number_or_null(took_to_apply(fault))},
            {"effect_ended", moment(fault.effect_ended)},
            {"end_took_ms", number_or_null(fault.ending_ms())},
            {"end_reason", fault.end_reason},
            {"reverted", moment(fault.reverted)},
            {"revert_took_ms", number_or_null(fault.reverting_ms())},
            {"failure", fault.failure},
            {"residue", fault.residue},
            {"effect", fault.acted()},
            {"evidence", fault.evidence ? to_json(*fault.evidence) : Json(nullptr)},
            {"evidence_words", fault.evidence_words}};
  return json;
}

Json node_json(const NodeStory& node) {
  return {
      {"name", node.name},           {"address", node.address},
      {"kernel", node.kernel},       {"netem", node.netem},
      {"recovered", node.recovered}, {"lost", node.lost ? Json(node.lost_reason) : Json(nullptr)},
      {"refusals", node.refusals},   {"settled", node.settled},
      {"residue", node.residue},     {"changed_by_others", node.changed_by_others}};
}

Json note_json(const NoteStory& note) {
  return {{"at", note.moment.at},
          {"elapsed", note.moment.elapsed},
          {"by", note.by},
          {"kind", note.kind},
          {"text", note.text}};
}

Json times_json(const v1::RunTimes& times) {
  const auto ms = [](bool is_known, double value) {
    return is_known ? Json(value) : Json(nullptr);
  };
  return {{"to_detect_ms", ms(times.has_to_detect_ms(), times.to_detect_ms())},
          {"to_abort_ms", ms(times.has_to_abort_ms(), times.to_abort_ms())},
          {"to_recover_ms", ms(times.has_to_recover_ms(), times.to_recover_ms())}};
}

Json abort_json(const Story& story) {
  if (!story.abort) return nullptr;
  Json json{
      {"cause", story.abort->cause()}, {"words", story.abort->words()}, {"at", story.abort_at.at}};
  json["acting"] = story.acting_at_abort;
  json["breach_seen_ms"] = 0;
  const bool timed = story.ended && story.ended->has_abort();
  const auto ms = [&](double value, bool zero_is_a_time) {
    return timed && (value > 0 || zero_is_a_time) ? Json(value) : Json(nullptr);
  };
  const v1::AbortTimes times = timed ? story.ended->abort() : v1::AbortTimes();
  json["decided_ms"] = ms(times.decided_ms(), true);
  json["effect_ended_ms"] = ms(times.effect_ended_ms(), false);
  json["verified_clean_ms"] = ms(times.verified_clean_ms(), false);
  return json;
}

// ---- JUnit
// ---------------------------------------------------------------------------------------

struct Case {
  enum class Result { kPassed, kFailed, kError, kSkipped };
  std::string class_name, name;
  double seconds = 0;
  Result result = Result::kPassed;
  std::string message{};
  std::string output{};
  std::string type{};  ///< Of what went wrong.
};

std::string case_xml(const Case& one) {
  std::string out = fmt::format("    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3f}\"",
                                xml(one.class_name), xml(one.name), std::max(one.seconds, 0.0));
  if (one.result == Case::Result::kPassed && one.output.empty()) return out + "/>\n";
  out += ">\n";
  const auto element = [&](std::string_view name) {
    out += fmt::format("      <{} type=\"{}\" message=\"{}\"/>\n", name, xml(one.type),
                       xml(one.message));
  };
  if (one.result == Case::Result::kFailed) element("failure");
  if (one.result == Case::Result::kError) element("error");
  if (one.result == Case::Result::kSkipped) element("skipped");
  if (!one.output.empty())
    out += fmt::format("      <system-out>{}</system-out>\n", xml(one.output));
  return out + "    </testcase>\n";
}

double seconds_since(const Moment& start, const std::optional<Moment>& end, const Moment& latest) {
  return (end ? end->elapsed : latest.elapsed) - start.elapsed;
}

std::vector<Case> cases_of(const Story& story) {
  std::vector<Case> cases;
  for (const CheckStory& check : story.checks) {
    Case one{.class_name = "squall.checks", .name = check.name, .seconds = story.end().elapsed};
    if (check.asked == 0) {
      one.result = Case::Result::kSkipped;
      one.message = "never asked";
      one.type = "never asked";
      one.seconds = 0;
    } else if (check.broke()) {
      const auto first = std::ranges::find(check.breaches, true, &BreachStory::aborts);
      one.result = Case::Result::kFailed;
      one.message = fmt::format("{}, expected {}, at {}", first->observed, first->expectation,
                                first->moment.at);
      one.type = "breached";
    } else if (!story.stands(check)) {
      one.result = Case::Result::kFailed;
      one.message =
          (story.reached(v1::METHOD) ? "not recovered: " : "not steady: ") + check.observed;
      one.type = story.reached(v1::METHOD) ? "not recovered" : "not steady";
    }
    for (const ExpectationStory& expectation : check.expect) {
      one.output += expectation.text + ": " +
                    (expectation.worst.empty() ? "not judged" : expectation.worst) + "\n";
    }
    one.output += fmt::format("{} asked, {} answered\n", check.asked, check.answered);
    if (const LoadStory* load = check.is_load ? story.load(check.check) : nullptr)
      one.output += load->told.words() + "\n";
    cases.push_back(std::move(one));
  }
  for (const FaultStory& fault : story.faults) {
    Case applied{.class_name = "squall.faults.applied",
                 .name = fault_title(fault),
                 .output = fault.evidence_words};
    applied.seconds = fault.apply_took_ms > 0
                          ? fault.apply_took_ms / 1000
                          : seconds_since(fault.injecting, fault.applied, story.end());
    if (const std::string problem = apply_problem(fault); !problem.empty()) {
      applied.result = Case::Result::kError;
      applied.message = problem;
      applied.type = "not injected";
    } else if (fault.without_effect_yet()) {
      applied.result = Case::Result::kSkipped;
      applied.message = applied.type = kNoEffectYet;
    }
    cases.push_back(std::move(applied));

    Case reverted{.class_name = "squall.faults.reverted",
                  .name = fault_title(fault),
                  .output = fault.end_reason};
    reverted.seconds = fault.reverting_ms().value_or(0) / 1000;
    if (const std::string problem = revert_problem(fault); !problem.empty()) {
      reverted.result = Case::Result::kFailed;
      reverted.message = problem;
      reverted.type = "residue";
    }
    cases.push_back(std::move(reverted));
  }
  // A load of which nothing was expected is no check, but what it came to is told.
  for (const LoadStory& load : story.loads) {
    if (std::ranges::any_of(story.checks,
                            [&](const CheckStory& one) { return one.check == load.told.load(); }))
      continue;
    Case one{.class_name = "squall.loads",
             .name = load.told.load(),
             .seconds = story.end().elapsed,
             .output = load.told.words()};
    if (load.told.has_exit() && load.told.exit() != 0) {
      one.result = Case::Result::kFailed;
      one.message = fmt::format("exited with {}", load.told.exit());
      one.type = "load";
    }
    cases.push_back(std::move(one));
  }
  const v1::RunEnded ended = story.ended.value_or(v1::RunEnded());
  for (const v1::RunExpectation& expected : ended.expect()) {
    Case one{.class_name = "squall.run",
             .name = expected.expectation(),
             .seconds = story.end().elapsed,
             .output = expected.observed()};
    if (!expected.holds()) {
      one.result = Case::Result::kFailed;
      one.message = expected.observed() + ", expected " + expected.expectation();
      one.type = "breached";
    }
    cases.push_back(std::move(one));
  }
  // A pipeline that reads only this file must never see green where the exit code is not 0.
  const bool told = std::ranges::any_of(cases, [](const Case& one) {
    return one.result == Case::Result::kFailed || one.result == Case::Result::kError;
  });
  const bool held = story.ended && story.ended->verdict() == v1::HELD;
  if (!held && !told) {
    cases.push_back({.class_name = "squall.run",
                     .name = story.run.plan(),
                     .seconds = story.end().elapsed,
                     .result = Case::Result::kError,
                     .message = story.ended ? verdict_text(story.ended->verdict()) + ": " +
                                                  story.ended->sentence()
                                            : "lost: the log ends without a verdict",
                     .type = story.ended ? verdict_text(story.ended->verdict()) : "lost"});
  }
  return cases;
}

}  // namespace

std::string json_report(const Story& story) {
  const bool breached = std::ranges::any_of(story.checks, &CheckStory::broke);

  Json hypothesis_probes = Json::array();
  for (const CheckStory& check : story.checks) {
    Json expect = Json::array();
    for (const ExpectationStory& one : check.expect) expect.push_back(one.text);
    hypothesis_probes.push_back(
        {{"type", "probe"}, {"name", check.name}, {"tolerance", std::move(expect)}});
  }
  Json method = Json::array();
  for (const StepStory& step : story.steps) {
    method.push_back({{"type", "action"}, {"name", step.words}, {"place", step.place}});
  }
  Json run = Json::array();
  Json rollbacks = Json::array();
  Json faults = Json::array();
  for (const FaultStory& fault : story.faults) {
    const char* applied = fault.without_effect_yet() ? kNoEffectYet : "succeeded";
    run.push_back(activity(fault, "apply", applied, apply_problem(fault), fault.injecting,
                           fault.applied, took_to_apply(fault)));
    if (fault.applied) {
      rollbacks.push_back(activity(fault, "revert", "succeeded", revert_problem(fault),
                                   fault.effect_ended ? *fault.effect_ended : *fault.applied,
                                   fault.reverted, fault.reverting_ms()));
    }
    faults.push_back(fault_json(fault));
  }
  Json checks = Json::array();
  for (const CheckStory& check : story.checks) checks.push_back(check_json(check));
  Json nodes = Json::array();
  for (const NodeStory& node : story.nodes) nodes.push_back(node_json(node));
  Json expect = Json::array();
  if (story.ended) {
    for (const v1::RunExpectation& one : story.ended->expect()) expect.push_back(to_json(one));
  }
  Json loads = Json::array();
  for (const LoadStory& load : story.loads) {
    loads.push_back(to_json(load.told));
    loads.back()["at"] = load.moment.at;
  }
  Json notes = Json::array();
  for (const NoteStory& note : story.notes) notes.push_back(note_json(note));
  Json questions = Json::array();
  for (const QuestionStory& one : story.questions) {
    questions.push_back({{"at", one.asked.at},
                         {"question", one.question},
                         {"answered", one.answered ? Json(one.answered->at) : Json(nullptr)},
                         {"yes", one.yes},
                         {"by", one.by}});
  }
  Json tags = Json::array();
  for (const std::string& tag : story.run.tags()) tags.push_back(tag);

  Json json{
      {"sentence", story.sentence()},
      {"experiment",
       {{"title", story.run.plan()},
        {"description", story.run.hypothesis()},
        {"tags", std::move(tags)},
        {"steady-state-hypothesis",
         {{"title", story.run.hypothesis()}, {"probes", std::move(hypothesis_probes)}}},
        {"method", std::move(method)}}},
      {"status", toolkit_status(story)},
      {"deviated", breached || (story.ended && story.ended->verdict() == v1::BREACHED)},
      {"start", story.started ? story.started->at : ""},
      {"end", story.end().at},
      {"duration", story.end().elapsed},
      {"steady_states",
       {{"before", steady_state(story, v1::STEADY)},
        {"after", steady_state(story, v1::RECOVERY)},
        {"during", Json::array()}}},
      {"run", std::move(run)},
      {"rollbacks", std::move(rollbacks)},
  };
  if (story.reached(v1::METHOD))
    json["steady_states"]["during"].push_back(steady_state(story, v1::METHOD));

  const bool ended = story.ended.has_value();
  json["squall"] = {
      {"version", story.run.version()},
      {"run", story.run.run()},
      {"file", story.run.file()},
      {"seed", story.run.seed()},
      {"lease_ms", story.run.lease_ms()},
      // A run without its last event is told as lost, never as completed.
      {"verdict", story.verdict()},
      {"exit_code", ended ? Json(story.ended->exit_code()) : Json(nullptr)},
      {"sentence", story.sentence()},
      {"abort", abort_json(story)},
      {"recovered_after_ms", number_or_null(story.recovered_after_ms)},
      {"times", times_json(story.times())},
      {"expect", std::move(expect)},
      {"checks", std::move(checks)},
      {"faults", std::move(faults)},
      {"loads", std::move(loads)},
      {"nodes", std::move(nodes)},
      {"questions", std::move(questions)},
      {"notes", std::move(notes)},
  };
  return dump_indented(json);
}

std::string junit_report(const Story& story) {
  const std::vector<Case> cases = cases_of(story);
  const auto count = [&](Case::Result result) {
    return std::ranges::count(cases, result, &Case::result);
  };
  const std::string counts = fmt::format("tests=\"{}\" failures=\"{}\" errors=\"{}\"", cases.size(),
                                         count(Case::Result::kFailed), count(Case::Result::kError));
  const std::string time = fmt::format("{:.3f}", story.end().elapsed);
  // Its readers know seconds without a zone: 2026-11-22T07:15:49.
  const std::string stamp = story.started ? story.started->at.substr(0, 19) : "";

  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
  out += fmt::format("<testsuites name=\"squall\" {} time=\"{}\">\n", counts, time);
  out += fmt::format(
      "  <testsuite name=\"{}\" {} skipped=\"{}\" time=\"{}\" timestamp=\"{}\" id=\"{}\">\n",
      xml(story.run.plan()), counts, count(Case::Result::kSkipped), time, xml(stamp),
      xml(story.run.run()));
  out += "    <properties>\n";
  const std::string exit_code = story.ended ? std::to_string(story.ended->exit_code()) : "";
  const std::pair<const char*, std::string> properties[] = {
      {"sentence", story.sentence()}, {"verdict", story.verdict()},
      {"exit_code", exit_code},       {"seed", std::to_string(story.run.seed())},
      {"file", story.run.file()},     {"version", story.run.version()}};
  for (const auto& [name, value] : properties) {
    out += fmt::format("      <property name=\"{}\" value=\"{}\"/>\n", name, xml(value));
  }
  out += "    </properties>\n";
  for (const Case& one : cases) out += case_xml(one);
  if (story.ended)
    out += fmt::format("    <system-out>{}</system-out>\n", xml(story.ended->sentence()));
  return out + "  </testsuite>\n</testsuites>\n";
}

namespace {

/// A pipe or a device, which can only be written through.
bool is_special(const std::filesystem::path& path) {
  std::error_code failed;
  return std::filesystem::exists(path, failed) && !std::filesystem::is_regular_file(path, failed);
}

}  // namespace

Status prepare_report(const std::filesystem::path& path) {
  // Of a pipe nobody may read yet, and opening it would be waited for.
  std::error_code failed;
  if (std::filesystem::is_fifo(path, failed)) return ok();
  const int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0644);
  if (descriptor < 0) return from_errno("cannot write " + path.string(), errno);
  close(descriptor);
  return ok();
}

Status write_report(const std::filesystem::path& path, std::string_view text, mode_t mode) {
  const bool through = is_special(path);
  const std::string temporary =
      through ? path.string() : fmt::format("{}.{}.tmp", path.string(), getpid());
  const int flags = O_WRONLY | O_CLOEXEC | O_NOCTTY | (through ? 0 : O_CREAT | O_TRUNC);
  const int descriptor = open(temporary.c_str(), flags, mode);
  if (descriptor < 0) return from_errno("cannot write " + path.string(), errno);
  int failed = 0;
  while (!text.empty() && failed == 0) {
    const ssize_t written = write(descriptor, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      failed = errno;
    }
  }
  if (close(descriptor) != 0 && failed == 0) failed = errno;
  if (failed == 0 && !through && std::rename(temporary.c_str(), path.c_str()) != 0) failed = errno;
  if (failed == 0) return ok();
  if (!through) unlink(temporary.c_str());
  return from_errno("cannot write " + path.string(), failed);
}

}  // namespace squall::report
