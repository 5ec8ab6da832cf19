#include "controller/report/story.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>

#include "controller/report/event_log.h"
#include "experiments/base/units.h"

namespace squall::report {
namespace {

/// What a wide terminal can show of the past.
constexpr std::size_t kRecent = 240;

/// Of `p99 < 300ms over 10s`: p99, <, 300ms.
struct Words {
  std::string metric, op, bound;
};

Words words_of(const std::string& expectation) {
  Words words;
  std::size_t at = 0;
  for (std::string* word : {&words.metric, &words.op, &words.bound}) {
    at = expectation.find_first_not_of(' ', at);
    if (at == std::string::npos) break;
    const std::size_t end = std::min(expectation.find(' ', at), expectation.size());
    *word = expectation.substr(at, end - at);
    at = end;
  }
  return words;
}

std::optional<double> bound_of(const Words& words) {
  if (const auto time = parse_duration(words.bound); time.ok())
    return static_cast<double>(time->count()) / 1e6;
  if (const auto percent = parse_percent(words.bound); percent.ok()) return *percent;
  double number = 0;
  const char* end = words.bound.data() + words.bound.size();
  const auto [stop, failed] = std::from_chars(words.bound.data(), end, number);
  if (failed == std::errc() && stop == end && stop != words.bound.data()) return number;
  return std::nullopt;
}

std::vector<std::string> list_of(const google::protobuf::RepeatedPtrField<std::string>& texts) {
  return {texts.begin(), texts.end()};
}

/// Whether `next` is worse for an expectation than what is kept.
bool is_worse(const ExpectationStory& kept, const v1::CheckAsked::Finding& next) {
  if (kept.worst.empty()) return true;
  if (kept.ever_false != !next.holds()) return !next.holds();
  const char op = kept.op.empty() ? '=' : kept.op[0];
  if (op != '<' && op != '>')
    return next.holds();  // of those that hold the latest, else the first that did not
  if (!kept.worst_number) return false;  // unanswered: nothing is worse
  if (!next.has_number()) return true;
  return op == '<' ? next.number() > *kept.worst_number : next.number() < *kept.worst_number;
}

}  // namespace

ExpectationStory::ExpectationStory(std::string as_planned) : text(std::move(as_planned)) {
  Words words = words_of(text);
  // A multiple of the baseline is no bound until the baseline is known, which the log does not
  // tell.
  if (text.find("baseline") == std::string::npos) bound = bound_of(words);
  metric = std::move(words.metric);
  op = std::move(words.op);
}

bool ExpectationStory::is_time() const {
  return metric == "latency" || (metric.size() > 1 && metric[0] == 'p' &&
                                 std::isdigit(static_cast<unsigned char>(metric[1])));
}

const ExpectationStory* CheckStory::watched() const {
  const ExpectationStory* first = nullptr;
  for (const ExpectationStory& one : expect) {
    if (one.is_time()) return &one;
    if (first == nullptr && one.latest_number) first = &one;
  }
  return first;
}

std::optional<double> CheckStory::latency_percentile_ms(double percent) const {
  return latencies_ms.at(percent);
}

std::optional<double> FaultStory::ending_ms() const {
  return effect_ended && end_took_ms > 0 ? std::optional(end_took_ms) : std::nullopt;
}

std::optional<double> FaultStory::reverting_ms() const {
  if (!reverted) return std::nullopt;
  if (revert_took_ms > 0) return revert_took_ms;
  if (!effect_ended) return std::nullopt;
  // As exact as the log's times are.
  return std::round((reverted->elapsed - effect_ended->elapsed) * 1e6) / 1e3;
}

std::string placed_name(const std::string& check, const std::string& from) {
  return from.empty() ? check : fmt::format("{} from {}", check, from);
}

bool CheckStory::broke() const {
  return std::ranges::any_of(breaches, [](const BreachStory& breach) { return breach.aborts; });
}

Story::Story(std::span<const v1::Event> events) {
  for (const v1::Event& event : events) take(event);
}

bool Story::reached(v1::Phase phase) const {
  return std::ranges::any_of(phases, [&](const auto& known) { return known.first == phase; });
}

bool Story::stands(const CheckStory& check) const {
  if (check.broke()) return false;
  if (check.asked == 0 || check.holds) return true;
  return reached(v1::METHOD) && (!reached(v1::RECOVERY) || recovered_after_ms);
}

bool Story::kept_from_steady(const ExpectationStory& one) const {
  return !reached(v1::METHOD) && !one.latest.empty() && !one.holds;
}

std::string Story::sentence() const {
  if (!ended) return "the log ends without a verdict";
  return ended->sentence();
}

std::string Story::verdict() const { return ended ? verdict_text(ended->verdict()) : "lost"; }

v1::RunTimes Story::times() const {
  v1::RunTimes times = ended ? ended->times() : v1::RunTimes();
  if (!times.has_to_recover_ms() && recovered_after_ms)
    times.set_to_recover_ms(*recovered_after_ms);
  const bool timed = ended && ended->has_abort() && ended->abort().effect_ended_ms() > 0 && abort &&
                     abort->cause() == "breach";
  if (!times.has_to_abort_ms() && timed) times.set_to_abort_ms(ended->abort().effect_ended_ms());
  if (times.has_to_detect_ms()) return times;
  std::optional<double> acting;
  for (const FaultStory& one : faults) {
    if (one.applied && (!acting || one.applied->elapsed < *acting)) acting = one.applied->elapsed;
  }
  std::optional<double> breached;
  for (const CheckStory& one : checks) {
    for (const BreachStory& breach : one.breaches) {
      const double at = breach.moment.elapsed;
      if (acting && at >= *acting && (!breached || at < *breached)) breached = at;
    }
  }
  // As exact as the log's times are.
  if (breached) times.set_to_detect_ms(std::round((*breached - *acting) * 1e6) / 1e3);
  return times;
}

const LoadStory* Story::load(const std::string& name) const {
  const auto found =
      std::ranges::find_if(loads, [&](const LoadStory& one) { return one.told.load() == name; });
  return found == loads.end() ? nullptr : &*found;
}

CheckStory& Story::check(const std::string& name, const std::string& from) {
  // No name has a zero in it.
  key_.assign(name).append(1, '\0').append(from);
  const auto [found, is_new] = check_index_.try_emplace(key_, checks.size());
  if (is_new) {
    checks.emplace_back().name = placed_name(name, from);
    checks.back().check = name;
    checks.back().from = from;
  }
  return checks[found->second];
}

/// From wherever it is asked; at least one.
std::vector<CheckStory*> Story::asked_as(const std::string& name) {
  std::vector<CheckStory*> all;
  for (CheckStory& one : checks) {
    if (one.check == name) all.push_back(&one);
  }
  if (all.empty()) all.push_back(&check(name, ""));
  return all;
}

FaultStory& Story::fault(const std::string& id, const std::string& node_name) {
  const auto [found, is_new] = fault_index_.try_emplace(id, faults.size());
  if (is_new) {
    faults.emplace_back().id = id;
    faults.back().node = node_name;
    faults.back().injecting = latest;
  }
  return faults[found->second];
}

NodeStory& Story::node(const std::string& name) {
  const auto [found, is_new] = node_index_.try_emplace(name, nodes.size());
  if (is_new) nodes.emplace_back().name = name;
  return nodes[found->second];
}

void Story::take_asked(const v1::CheckAsked& asked, double elapsed) {
  CheckStory& story = check(asked.check(), asked.from());
  ++story.asked;
  if (asked.answered()) {
    ++story.answered;
    story.latencies_ms.add(asked.latency_ms());
  }
  story.changed = story.asked == 1 || story.holds != asked.holds();
  story.holds = asked.holds();
  story.observed = asked.observed();
  story.error = asked.error();
  story.held_at_end_of[phase()] = asked.holds();

  const auto findings = static_cast<std::size_t>(asked.findings_size());
  for (std::size_t index = 0; index < std::min(findings, story.expect.size()); ++index) {
    const v1::CheckAsked::Finding& finding = asked.findings(static_cast<int>(index));
    ExpectationStory& one = story.expect[index];
    one.latest = finding.observed();
    one.latest_number = finding.has_number() ? std::optional(finding.number()) : std::nullopt;
    one.holds = finding.holds();
    // After an abort the fault's effect ebbs away: what is measured then is not what decided.
    const bool counts = phase() == v1::METHOD && !abort;
    const bool proving = phase() == v1::STEADY;
    if ((!counts && !proving) || one.breached) continue;
    if (!is_worse(one, finding)) continue;
    one.worst = one.latest;
    one.worst_number = one.latest_number;
    one.ever_false = one.ever_false || !finding.holds();
  }

  const ExpectationStory* watched = story.watched();
  CheckStory::Point point{std::nullopt, asked.holds()};
  if (watched != nullptr && !watched->latest.empty()) {
    point.number = watched->latest_number;
    point.holds = watched->holds;
  } else if (asked.answered()) {
    point.number = asked.latency_ms();
  }
  story.recent.push_back(point);
  if (story.recent.size() > kRecent) story.recent.pop_front();
  story.curve.add(elapsed, point.number, point.holds);
}

void Story::take_attempted(const v1::Attempted& attempted) {
  attempts.push_back(attempted);
  if (attempted.held() || steps.empty()) return;
  // What broke ended the attempt before its time.
  const auto attempt = std::find_if(steps.rbegin(), steps.rend(), [&](const StepStory& step) {
    return step.place == attempted.place();
  });
  if (attempt == steps.rend()) return;
  for (FaultStory& one : faults) {
    if (one.step == attempt->words) one.cut_short = true;
  }
}

void Story::take_note(NoteStory note) {
  const auto later = std::ranges::upper_bound(
      notes, note.moment.elapsed, {}, [](const auto& known) { return known.moment.elapsed; });
  notes.insert(later, std::move(note));
}

void Story::take_fault(const v1::Event& event, const Moment& moment) {
  const auto acted = [&](const v1::FaultActed& told) -> FaultStory& {
    FaultStory& story = fault(told.fault(), told.node());
    if (told.has_evidence()) story.evidence = told.evidence();
    story.effect_seen = story.effect_seen || told.evidence().effect();
    // Who is parted from the one that would speak first never has anything to lose.
    const bool shared = story.kind == "partition" && story.acted();
    for (std::size_t n = 0; shared && n < faults.size(); ++n) {
      FaultStory& other = faults[n];
      if (other.step == story.step && !other.reverted) other.acted_elsewhere = true;
    }
    if (!told.words().empty()) {
      story.evidence_words = told.words();
    } else if (told.has_evidence()) {
      story.evidence_words = evidence_text(told.evidence());
    }
    return story;
  };
  switch (event.event_case()) {
    case v1::Event::kFaultInjecting: {
      const v1::FaultInjecting& told = event.fault_injecting();
      FaultStory& story = fault(told.fault(), told.node());
      story.injecting = moment;
      story.step = told.step();
      story.kind = told.kind();
      story.words = told.words();
      story.lasts_ms = told.lasts_ms();
      break;
    }
    case v1::Event::kFaultApplied: {
      FaultStory& story = acted(event.fault_applied());
      story.applied = moment;
      story.apply_took_ms = event.fault_applied().took_ms();
      break;
    }
    case v1::Event::kFaultEvidence:
      acted(event.fault_evidence());
      break;
    case v1::Event::kFaultEffectEnded: {
      FaultStory& story = acted(event.fault_effect_ended());
      story.effect_ended = moment;
      story.end_took_ms = event.fault_effect_ended().took_ms();
      story.end_reason = event.fault_effect_ended().reason();
      story.cut_short = story.cut_short || story.ended_by_hand();
      break;
    }
    case v1::Event::kFaultReverted: {
      const v1::FaultRevertedEvent& told = event.fault_reverted();
      FaultStory& story = fault(told.fault(), told.node());
      story.reverted = moment;
      story.revert_took_ms = told.took_ms();
      story.residue = list_of(told.residue());
      break;
    }
    case v1::Event::kFaultFailed: {
      const v1::FaultFailedEvent& told = event.fault_failed();
      FaultStory& story = fault(told.fault(), told.node());
      story.failed = moment;
      story.failure = told.message();
      story.residue = list_of(told.residue());
      break;
    }
    default:
      break;
  }
}

void Story::take_started(const v1::RunStarted& told) {
  run = told;
  for (const auto& line : run.checks()) {
    std::vector<std::string> from = list_of(line.from());
    if (from.empty()) from.emplace_back();
    for (const std::string& node_name : from) {
      CheckStory& story = check(line.name(), node_name);
      story.kind = line.kind();
      story.is_load = line.load();
      story.every_ms = line.every_ms();
      for (const std::string& text : line.expect()) story.expect.emplace_back(text);
    }
  }
  for (const std::string& name : run.nodes()) node(name);
}

/// Of several vantage points it is the breach of those that were against it.
void Story::take_breached(const v1::CheckBreached& told, const Moment& moment) {
  std::vector<CheckStory*> stories = asked_as(told.check());
  const bool several = stories.size() > 1;
  if (several && std::ranges::any_of(stories, [](const auto* one) { return !one->holds; })) {
    std::erase_if(stories, [](const auto* one) { return one->holds; });
  }
  for (CheckStory* const story : stories) {
    story->breaches.push_back(
        {moment, told.expectation(), told.observed(), told.aborts(), told.since_ms(), {}});
    for (ExpectationStory& one : story->expect) {
      if (one.text != told.expectation() || one.breached) continue;
      one.breached = true;
      one.ever_false = true;
      if (several && !one.worst.empty()) continue;  // what is told may be of another
      one.worst = told.observed();
      one.worst_number = one.latest == one.worst ? one.latest_number : std::nullopt;
    }
  }
}

void Story::take(const v1::Event& event) {
  // What a person adds when all is over makes no run longer.
  const bool is_late = ended && event.has_noted();
  Moment late;
  Moment& moment = is_late ? late : latest;
  moment.at = event.at();
  moment.elapsed = event.elapsed();
  if (!started) started = moment;
  switch (event.event_case()) {
    case v1::Event::kRunStarted:
      take_started(event.run_started());
      break;
    case v1::Event::kPhaseStarted:
      // The method is judged by itself; a run that never reached it is judged by what was proven.
      if (event.phase_started().phase() == v1::METHOD) {
        for (CheckStory& story : checks) {
          for (ExpectationStory& one : story.expect) {
            one.worst.clear();
            one.worst_number.reset();
            one.ever_false = false;
          }
        }
      }
      phases.emplace_back(event.phase_started().phase(), moment);
      break;
    case v1::Event::kNodeConnected: {
      NodeStory& story = node(event.node_connected().node());
      story.address = event.node_connected().address();
      story.kernel = event.node_connected().kernel();
      story.netem = event.node_connected().netem();
      story.recovered = list_of(event.node_connected().recovered());
      break;
    }
    case v1::Event::kNodeLost: {
      NodeStory& story = node(event.node_lost().node());
      story.lost = moment;
      story.lost_reason = event.node_lost().reason();
      break;
    }
    case v1::Event::kPreflighted: {
      const v1::Preflighted& told = event.preflighted();
      NodeStory& story = node(told.node());
      story.preflighted.push_back(told);
      if (told.refused()) story.refusals.push_back(told.fault() + ": " + told.message());
      break;
    }
    case v1::Event::kCheckAsked:
      take_asked(event.check_asked(), moment.elapsed);
      break;
    case v1::Event::kCheckBreached:
      take_breached(event.check_breached(), moment);
      break;
    case v1::Event::kCheckHeldAgain:
      for (CheckStory* const story : asked_as(event.check_held_again().check())) {
        for (BreachStory& breach : story->breaches) {
          if (!breach.held_again) breach.held_again = moment;
        }
      }
      break;
    case v1::Event::kLoadEnded:
      loads.push_back({moment, event.load_ended()});
      break;
    case v1::Event::kNoted:
      take_note({moment, event.noted().by(), event.noted().kind(), event.noted().text()});
      break;
    case v1::Event::kStepStarted: {
      const v1::StepStarted& told = event.step_started();
      steps.push_back(
          {told.step(), told.place(), told.lasts_ms(), list_of(told.nodes()), moment, {}});
      open_steps_.push_back(steps.size() - 1);
      break;
    }
    case v1::Event::kStepEnded:
      std::erase_if(open_steps_, [&](std::size_t index) {
        const bool is_it = steps[index].place == event.step_ended().place();
        if (is_it) steps[index].ended = moment;
        return is_it;
      });
      break;
    case v1::Event::kAsked:
      question = event.asked();
      questions.push_back({moment, question->question(), {}, false, ""});
      break;
    case v1::Event::kAnswered:
      question.reset();
      if (questions.empty()) break;
      questions.back().answered = moment;
      questions.back().yes = event.answered().yes();
      questions.back().by = event.answered().by();
      break;
    case v1::Event::kAttempted:
      take_attempted(event.attempted());
      break;
    case v1::Event::kFound:
      answer = event.found();
      answer_at = moment;
      break;
    case v1::Event::kFaultInjecting:
    case v1::Event::kFaultApplied:
    case v1::Event::kFaultEvidence:
    case v1::Event::kFaultEffectEnded:
    case v1::Event::kFaultReverted:
    case v1::Event::kFaultFailed:
      take_fault(event, moment);
      break;
    case v1::Event::kHostChanged:
      break;
    case v1::Event::kNodeSettled: {
      NodeStory& story = node(event.node_settled().node());
      story.settled = true;
      story.residue = list_of(event.node_settled().residue());
      story.changed_by_others = list_of(event.node_settled().changed_by_others());
      break;
    }
    case v1::Event::kAbortDecided:
      question.reset();
      if (!abort) {
        abort = event.abort_decided();
        abort_at = moment;
        for (FaultStory& held : faults) {
          // What fails or is over at once has no end of its own to tell.
          const bool over = held.effect_ended || held.reverted || held.failed;
          held.cut_short = held.cut_short || !over;
          acting_at_abort += over ? 0 : 1;
        }
      }
      break;
    case v1::Event::kRecovered:
      recovered_after_ms = event.recovered().after_ms();
      recovered_at = moment;
      break;
    case v1::Event::kRunEnded:
      ended = event.run_ended();
      ended_at = moment;
      break;
    case v1::Event::EVENT_NOT_SET:
      break;
  }
}

StatusOr<Story> read_story(const std::filesystem::path& log) {
  Story story;
  Status read = read_events(log, [&](const v1::Event& event) { story.take(event); });
  if (!read.ok()) return read;
  return story;
}

std::string evidence_text(const v1::Evidence& evidence) {
  switch (evidence.kind_case()) {
    case v1::Evidence::kNetwork: {
      const v1::NetworkEvidence& seen = evidence.network();
      std::string text = fmt::format("{} packets matched", seen.matched_packets());
      if (seen.dropped_packets() > 0)
        text += fmt::format(", {} lost as asked", seen.dropped_packets());
      if (seen.overflow_packets() > 0)
        text += fmt::format(", {} lost to a full queue", seen.overflow_packets());
      return text;
    }
    case v1::Evidence::kKill: {
      std::string text;
      for (const auto& victim : evidence.kill().victims()) {
        if (!text.empty()) text += ", ";
        text += fmt::format("{} ({}) {}", victim.command(), victim.pid(),
                            victim.gone() ? "gone" : "still there");
      }
      return text;
    }
    case v1::Evidence::kCpu:
      return fmt::format("{:.1f}% of {} {} burnt", evidence.cpu().achieved(),
                         evidence.cpu().cores(), evidence.cpu().cores() == 1 ? "core" : "cores");
    default:  // the logs of all other kinds have the words themselves
      break;
  }
  return "";
}

std::string verdict_text(v1::Verdict verdict) {
  switch (verdict) {
    case v1::HELD:
      return "held";
    case v1::BREACHED:
      return "breached";
    case v1::REFUSED:
      return "refused";
    case v1::NOT_STEADY:
      return "not steady";
    case v1::NOT_INJECTED:
      return "not injected";
    case v1::RESIDUE:
      return "residue";
    case v1::INTERRUPTED:
      return "interrupted";
    default:
      return "internal error";
  }
}

std::string phase_text(v1::Phase phase) {
  switch (phase) {
    case v1::PREFLIGHT:
      return "preflight";
    case v1::STEADY:
      return "steady";
    case v1::METHOD:
      return "method";
    case v1::REVERT:
      return "revert";
    case v1::RECOVERY:
      return "recovery";
    default:
      return "verdict";
  }
}

std::string note_text(const NoteStory& note) {
  if (note.kind.empty()) return note.text;
  return note.text.empty() ? note.kind : note.kind + ": " + note.text;
}

std::string without_metric(const std::string& observed, const std::string& expectation) {
  const std::string prefix = words_of(expectation).metric + " ";
  return observed.starts_with(prefix) ? observed.substr(prefix.size()) : observed;
}

}  // namespace squall::report
