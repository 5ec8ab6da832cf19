#include "told_runs.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>

namespace squall::report::testing {
namespace {

/// Tells events in the order of their times, beginning at 07:15:49.
class Teller {
 public:
  /// The next event, `seconds` after the one before.
  v1::Event& after(double seconds) {
    now_ += seconds;
    v1::Event& event = events_.emplace_back();
    const auto micros = std::llround(now_ * 1e6);
    const auto whole = 15 * 60 + 49 + micros / 1'000'000;
    event.set_at(fmt::format("2026-11-22T07:{:02}:{:02}.{:06}Z", whole / 60, whole % 60,
                             micros % 1'000'000));
    event.set_elapsed(static_cast<double>(micros) / 1e6);
    return event;
  }

  void start(const std::string& plan, const std::string& hypothesis,
             const std::vector<std::string>& nodes, double method_ms) {
    v1::RunStarted& run = *after(0).mutable_run_started();
    run.set_run("20261122-071549-k3x9");
    run.set_plan(plan);
    run.set_file("examples/checkout/plan.yaml");
    run.set_hypothesis(hypothesis);
    run.add_tags("checkout");
    run.set_seed(42);
    run.set_lease_ms(5000);
    for (const std::string& node : nodes) run.add_nodes(node);
    run.set_version("0.1.0");
    run.set_method_ms(method_ms);
  }

  void check(const std::string& name, const std::string& kind,
             const std::vector<std::string>& expect) {
    auto& line = *events_.front().mutable_run_started()->add_checks();
    line.set_name(name);
    line.set_kind(kind);
    for (const std::string& one : expect) line.add_expect(one);
    line.set_every_ms(200);
  }

  /// Which nodes ask a check.
  void vantage(const std::string& name, const std::vector<std::string>& nodes) {
    for (auto& line : *events_.front().mutable_run_started()->mutable_checks()) {
      for (const std::string& node : nodes) {
        if (line.name() == name) line.add_from(node);
      }
    }
  }

  void load(const std::string& name) {
    for (auto& line : *events_.front().mutable_run_started()->mutable_checks()) {
      if (line.name() == name) line.set_load(true);
    }
  }

  /// Who asked, of the asking that was told last.
  void from(const std::string& node) { events_.back().mutable_check_asked()->set_from(node); }

  void phase(v1::Phase phase) { after(0.001).mutable_phase_started()->set_phase(phase); }

  void connected(const std::string& node, const std::string& address) {
    v1::NodeConnected& told = *after(0.004).mutable_node_connected();
    told.set_node(node);
    told.set_address(address);
    told.set_kernel("6.1.0-28-amd64");
    told.set_netem(true);
  }

  void preflighted(const std::string& node, const std::string& fault) {
    v1::Preflighted& told = *after(0.002).mutable_preflighted();
    told.set_node(node);
    told.set_fault(fault);
    told.set_engine("netem");
  }

  struct Seen {
    std::string observed;
    bool holds = true;
    std::optional<double> number;
  };

  void asked(const std::string& check, double latency_ms, const std::string& observed,
             const std::vector<Seen>& seen, const std::string& error = "") {
    v1::CheckAsked& told = *after(0.1).mutable_check_asked();
    told.set_check(check);
    told.set_answered(error.empty());
    told.set_latency_ms(latency_ms);
    told.set_observed(observed);
    told.set_error(error);
    bool holds = true;
    for (const Seen& one : seen) {
      auto& finding = *told.add_findings();
      finding.set_observed(one.observed);
      finding.set_holds(one.holds);
      if (one.number) finding.set_number(*one.number);
      holds = holds && one.holds;
    }
    told.set_holds(holds);
  }

  void step(const std::string& words, const std::string& place, double lasts_ms,
            const std::vector<std::string>& nodes) {
    v1::StepStarted& told = *after(0.001).mutable_step_started();
    told.set_step(words);
    told.set_place(place);
    told.set_lasts_ms(lasts_ms);
    for (const std::string& node : nodes) told.add_nodes(node);
  }

  void injecting(const std::string& id, const std::string& node, const std::string& kind,
                 const std::string& words, double lasts_ms) {
    v1::FaultInjecting& told = *after(0.001).mutable_fault_injecting();
    told.set_fault(id);
    told.set_node(node);
    told.set_kind(kind);
    told.set_words(words);
    told.set_lasts_ms(lasts_ms);
  }

  void network(v1::FaultActed& told, const std::string& id, const std::string& node,
               std::uint64_t packets) {
    told.set_fault(id);
    told.set_node(node);
    told.mutable_evidence()->set_effect(packets > 0);
    told.mutable_evidence()->mutable_network()->set_engine(v1::NETEM);
    told.mutable_evidence()->mutable_network()->set_matched_packets(packets);
    told.mutable_evidence()->mutable_network()->set_matched_bytes(packets * 512);
    told.mutable_evidence()->mutable_network()->add_interfaces("eth0");
  }

  void reverted(const std::string& id, const std::string& node, double took_ms,
                const std::vector<std::string>& residue = {}) {
    v1::FaultRevertedEvent& told = *after(0.01).mutable_fault_reverted();
    told.set_fault(id);
    told.set_node(node);
    told.set_took_ms(took_ms);
    for (const std::string& left : residue) told.add_residue(left);
  }

  void settled(const std::string& node) { after(0.002).mutable_node_settled()->set_node(node); }

  v1::RunEnded& ended(v1::Verdict verdict, std::uint32_t exit_code, const std::string& sentence) {
    v1::RunEnded& told = *after(0.01).mutable_run_ended();
    told.set_verdict(verdict);
    told.set_exit_code(exit_code);
    told.set_sentence(sentence);
    told.set_duration_ms(now_ * 1000);
    return told;
  }

  std::vector<v1::Event> events() { return std::move(events_); }

 private:
  std::vector<v1::Event> events_;
  double now_ = 0;
};

constexpr const char* kShop = "shop answers";

void ask_shop(Teller& teller, double latency_ms, double p99_ms) {
  const bool holds = p99_ms < 300;
  teller.asked(kShop, latency_ms, fmt::format("200 in {:.1f}ms", latency_ms),
               {{"status 200", true, 200}, {fmt::format("p99 {:.1f}ms", p99_ms), holds, p99_ms}});
}

void start_shop(Teller& teller, const std::string& plan, const std::string& hypothesis) {
  teller.start(plan, hypothesis, {"back-1", "back-2", "front"}, 10000);
  teller.check(kShop, "http", {"status == 200", "p99 < 300ms over 10s"});
  teller.check("queue drains", "exec", {"value <= 1.5 x baseline for 5s"});
  teller.phase(v1::PREFLIGHT);
  teller.connected("back-1", "10.77.0.11:7411");
  teller.connected("back-2", "10.77.0.12:7411");
  teller.connected("front", "10.77.0.21:7411");
}

void steady(Teller& teller) {
  teller.phase(v1::STEADY);
  for (int round = 0; round < 5; ++round) {
    ask_shop(teller, 2.1 + round * 0.2, 2.9);
    teller.asked("queue drains", 4.2, "exit 0 in 4.20ms", {{"value 12", true, 12}});
  }
}

}  // namespace

std::vector<v1::Event> held_run() {
  Teller teller;
  start_shop(teller, "checkout survives the loss of a replica",
             "the front takes the dead back end out within a second");
  teller.preflighted("back-1", "kill nginx");
  steady(teller);
  teller.phase(v1::METHOD);
  teller.step("kill nginx", "method[0]", 0, {"back-1"});
  teller.injecting("abcdefghijkl", "back-1", "kill", "kill nginx", 0);
  v1::FaultActed& acted = *teller.after(0.002).mutable_fault_applied();
  acted.set_fault("abcdefghijkl");
  acted.set_node("back-1");
  acted.set_took_ms(1.24);
  acted.mutable_evidence()->set_effect(true);
  auto& victim = *acted.mutable_evidence()->mutable_kill()->add_victims();
  victim.set_pid(4242);
  victim.set_start_time(991234);
  victim.set_command("nginx");
  victim.set_gone(true);
  teller.reverted("abcdefghijkl", "back-1", 0.4);
  teller.after(0.001).mutable_step_ended()->set_place("method[0]");
  teller.step("wait", "method[1]", 10000, {});
  for (int round = 0; round < 12; ++round) {
    ask_shop(teller, 3.4, round == 2 ? 148 : 30);
    teller.asked("queue drains", 4.2, "exit 0 in 4.20ms",
                 {{fmt::format("value {} (baseline 12)", round == 3 ? 20 : 13), round != 3,
                   round == 3 ? 20 : 13}});
  }
  teller.after(0.001).mutable_step_ended()->set_place("method[1]");
  teller.phase(v1::REVERT);
  for (const char* node : {"back-1", "back-2", "front"}) teller.settled(node);
  teller.phase(v1::RECOVERY);
  ask_shop(teller, 2.2, 2.2);
  teller.asked("queue drains", 4.2, "exit 0 in 4.20ms", {{"value 12 (baseline 12)", true, 12}});
  teller.after(0.001).mutable_recovered()->set_after_ms(640);
  teller.phase(v1::VERDICT);
  teller.ended(v1::HELD, 0, "the steady state held throughout and recovered after 640ms");
  return teller.events();
}

std::vector<v1::Event> breached_run() {
  Teller teller;
  start_shop(teller, "checkout survives a slow network",
             "p99 stays under 300 ms while the back ends are 300 ms slower");
  for (const char* node : {"back-1", "back-2"})
    teller.preflighted(node, "network delay 300ms egress");
  steady(teller);
  teller.phase(v1::METHOD);
  teller.step("the back ends become slow", "method[0]", 60000, {"back-1", "back-2"});
  const std::pair<const char*, const char*> faults[] = {{"aaaaaaaaaaaa", "back-1"},
                                                        {"bbbbbbbbbbbb", "back-2"}};
  for (const auto& [id, node] : faults)
    teller.injecting(id, node, "network", "network delay 300ms egress", 60000);
  for (const auto& [id, node] : faults) {
    v1::FaultActed& acted = *teller.after(0.002).mutable_fault_applied();
    teller.network(acted, id, node, 0);
    acted.set_took_ms(1.87);
  }
  for (int round = 0; round < 12; ++round) {
    ask_shop(teller, 3.0 + round * 20, round < 6 ? 20.0 + round * 45 : 280);
    teller.asked("queue drains", 4.2, "exit 0 in 4.20ms", {{"value 13 (baseline 12)", true, 13}});
    for (const auto& [id, node] : faults) {
      v1::FaultActed& acted = *teller.after(0.001).mutable_fault_evidence();
      teller.network(acted, id, node, static_cast<std::uint64_t>(40 + round * 31));
    }
  }
  ask_shop(teller, 412, 412);
  v1::CheckBreached& breached = *teller.after(0).mutable_check_breached();
  breached.set_check(kShop);
  breached.set_expectation("p99 < 300ms over 10s");
  breached.set_observed("p99 412ms");
  breached.set_aborts(true);
  v1::AbortDecided& abort = *teller.after(0.0012).mutable_abort_decided();
  abort.set_cause("breach");
  abort.set_words("shop answers: p99 412ms, expected p99 < 300ms over 10s");
  teller.phase(v1::REVERT);
  for (const auto& [id, node] : faults) {
    v1::FaultActed& acted = *teller.after(0.003).mutable_fault_effect_ended();
    teller.network(acted, id, node, 412);
    acted.set_took_ms(0.82);
    acted.set_reason("reverted");
  }
  for (const auto& [id, node] : faults) teller.reverted(id, node, 31.5);
  for (const char* node : {"back-1", "back-2", "front"}) teller.settled(node);
  teller.phase(v1::RECOVERY);
  for (int round = 0; round < 4; ++round) {
    ask_shop(teller, 2.4, 2.4);
    teller.asked("queue drains", 4.2, "exit 0 in 4.20ms", {{"value 12 (baseline 12)", true, 12}});
  }
  teller.after(0).mutable_check_held_again()->set_check(kShop);
  teller.after(0.001).mutable_recovered()->set_after_ms(2130);
  teller.phase(v1::VERDICT);
  v1::RunEnded& ended = teller.ended(v1::BREACHED, 1,
                                     "shop answers was breached: p99 412ms, expected p99 < 300ms "
                                     "over 10s, while network delay 300ms egress was on back-1 "
                                     "and back-2, 3.6s into the run");
  ended.mutable_abort()->set_decided_ms(1.2);
  ended.mutable_abort()->set_effect_ended_ms(8);
  ended.mutable_abort()->set_verified_clean_ms(340);
  return teller.events();
}

std::vector<v1::Event> residue_run() {
  Teller teller;
  start_shop(teller, "checkout survives a partition", "");
  steady(teller);
  teller.phase(v1::METHOD);
  teller.step("packets are lost", "method[0]", 30000, {"back-1", "back-2"});
  const std::pair<const char*, const char*> faults[] = {{"aaaaaaaaaaaa", "back-1"},
                                                        {"bbbbbbbbbbbb", "back-2"}};
  for (const auto& [id, node] : faults) {
    teller.injecting(id, node, "network", "network loss 100% both", 30000);
    v1::FaultActed& acted = *teller.after(0.002).mutable_fault_applied();
    teller.network(acted, id, node, 17);
    acted.set_took_ms(2.1);
  }
  ask_shop(teller, 4, 4);
  teller.asked("queue drains", 1000, "timeout after 1s",
               {{"no answer (timeout after 1s)", false, {}}}, "timeout after 1s");
  v1::NodeLost& lost = *teller.after(0.5).mutable_node_lost();
  lost.set_node("back-2");
  lost.set_reason("no answer for 5s");
  v1::AbortDecided& abort = *teller.after(0.001).mutable_abort_decided();
  abort.set_cause("node lost");
  abort.set_words("back-2: no answer for 5s");
  teller.phase(v1::REVERT);
  v1::FaultActed& acted = *teller.after(0.003).mutable_fault_effect_ended();
  teller.network(acted, "aaaaaaaaaaaa", "back-1", 90);
  acted.set_took_ms(0.9);
  acted.set_reason("reverted");
  teller.reverted("aaaaaaaaaaaa", "back-1", 12, {"link sqaaaaaaaaaaaa (ifindex 12)"});
  v1::NodeSettled& settled = *teller.after(0.002).mutable_node_settled();
  settled.set_node("back-1");
  settled.add_residue("link sqaaaaaaaaaaaa (ifindex 12)");
  settled.add_changed_by_others("route 10.9.0.0/16 via 10.77.0.1 added");
  teller.phase(v1::VERDICT);
  v1::RunEnded& ended = teller.ended(
      v1::RESIDUE, 5,
      "back-2 could not be asked whether its fault has ended: run `squalld sweep` there");
  ended.mutable_abort()->set_decided_ms(0.9);
  ended.mutable_abort()->set_effect_ended_ms(4.1);
  return teller.events();
}

std::vector<v1::Event> not_steady_run() {
  Teller teller;
  start_shop(teller, "checkout survives anything", "");
  teller.phase(v1::STEADY);
  for (int round = 0; round < 3; ++round) {
    teller.asked(kShop, 0.3, "connection refused",
                 {{"no answer (connection refused)", false, {}},
                  {"p99 unanswered (connection refused)", false, {}}},
                 "connection refused");
  }
  teller.phase(v1::VERDICT);
  teller.ended(
      v1::NOT_STEADY, 3,
      "shop answers did not hold before the method: connection refused; nothing was injected");
  return teller.events();
}

std::vector<v1::Event> refused_run() {
  Teller teller;
  start_shop(teller, "checkout survives a slow disk", "");
  v1::Preflighted& told = *teller.after(0.002).mutable_preflighted();
  told.set_node("back-1");
  told.set_fault("network delay 300ms egress");
  told.set_refused(true);
  told.set_message("the kernel has no sch_netem, and engine: netem asks for it");
  teller.phase(v1::VERDICT);
  teller.ended(v1::NOT_INJECTED, 4,
               "back-1 refuses network delay 300ms egress: the kernel has no sch_netem");
  return teller.events();
}

std::vector<v1::Event> gameday_run() {
  Teller teller;
  teller.start("the dashboard survives the loss of its replica",
               "people see numbers that are a minute old, and no error", {"db-1", "web-1", "web-2"},
               20000);
  teller.check("dashboard answers", "http", {"status == 200", "p95 < 250ms over 5s"});
  teller.vantage("dashboard answers", {"web-1", "web-2"});
  teller.check("users", "load", {"error_rate < 1% over 5s", "p99 < 500ms over 5s"});
  teller.load("users");
  teller.phase(v1::PREFLIGHT);
  teller.connected("db-1", "10.77.0.11:7411");
  teller.connected("web-1", "10.77.0.21:7411");
  teller.connected("web-2", "10.77.0.22:7411");
  teller.phase(v1::STEADY);
  const auto ask = [&](double p95, double web_2, double errors, double p99) {
    for (const char* from : {"web-1", "web-2"}) {
      const double seen = from == std::string("web-1") ? p95 : web_2;
      teller.asked(
          "dashboard answers", seen, fmt::format("200 in {:.1f}ms", seen),
          {{"status 200", true, 200}, {fmt::format("p95 {:.1f}ms", seen), seen < 250, seen}});
      teller.from(from);
    }
    teller.asked("users", p99, fmt::format("1000/s, p99 {:.0f}ms", p99),
                 {{fmt::format("error_rate {:.1f}%", errors), errors < 1, errors},
                  {fmt::format("p99 {:.0f}ms", p99), p99 < 500, p99}});
  };
  for (int round = 0; round < 5; ++round) ask(31 + round, 30 + 2 * round, 0, 42);
  teller.phase(v1::METHOD);
  v1::Asked& question = *teller.after(0.1).mutable_asked();
  question.set_place("method[0]");
  question.set_question("is everybody watching the dashboard?");
  v1::Answered& answer = *teller.after(1.5).mutable_answered();
  answer.set_place("method[0]");
  answer.set_yes(true);
  answer.set_by("a person at the terminal");
  teller.step("the replica is gone", "method[1]", 20000, {"db-1"});
  teller.injecting("cccccccccccc", "db-1", "network", "network loss 100% to 5432", 20000);
  v1::FaultActed& acted = *teller.after(0.002).mutable_fault_applied();
  teller.network(acted, "cccccccccccc", "db-1", 3);
  acted.set_took_ms(2.4);
  for (int round = 0; round < 6; ++round)
    ask(40 + 12 * round, 45 + 40 * round, 0.1 * round, 60 + 30 * round);
  v1::Noted& seen = *teller.after(0.3).mutable_noted();
  seen.set_by("ada@ops");
  seen.set_kind("detected");
  seen.set_text("the numbers are old, and the page says so");
  ask(90, 310, 0.7, 410);
  v1::CheckBreached& breached = *teller.after(0).mutable_check_breached();
  breached.set_check("dashboard answers");
  breached.set_expectation("p95 < 250ms over 5s");
  breached.set_observed("p95 310.0ms");
  breached.set_aborts(true);
  v1::AbortDecided& abort = *teller.after(0.0009).mutable_abort_decided();
  abort.set_cause("breach");
  abort.set_words("dashboard answers from web-2: p95 310.0ms, expected p95 < 250ms over 5s");
  teller.phase(v1::REVERT);
  v1::FaultActed& over = *teller.after(0.003).mutable_fault_effect_ended();
  teller.network(over, "cccccccccccc", "db-1", 1873);
  over.set_took_ms(0.71);
  over.set_reason("reverted");
  teller.reverted("cccccccccccc", "db-1", 28.3);
  for (const char* node : {"db-1", "web-1", "web-2"}) teller.settled(node);
  teller.phase(v1::RECOVERY);
  for (int round = 0; round < 3; ++round) ask(38, 60, 0, 50);
  teller.after(0).mutable_check_held_again()->set_check("dashboard answers");
  teller.after(0.001).mutable_recovered()->set_after_ms(1240);
  v1::LoadEnded& load = *teller.after(0.01).mutable_load_ended();
  load.set_load("users");
  load.set_sent(6012);
  load.set_answered(5998);
  load.set_failed(14);
  load.set_wanted_per_second(1000);
  load.set_rate(998.2);
  load.set_p50_ms(11.2);
  load.set_p90_ms(38.4);
  load.set_p99_ms(212);
  load.set_p999_ms(391);
  load.set_max_ms(420);
  load.set_words("6,012 requests, 998.2/s, p99 212ms, 14 failed");
  teller.phase(v1::VERDICT);
  v1::RunEnded& ended = teller.ended(
      v1::BREACHED, 1,
      "dashboard answers from web-2 was breached: p95 310.0ms, expected p95 < 250ms over 5s, "
      "under network loss 100% to 5432 on db-1, 5.7s into the run");
  ended.mutable_abort()->set_decided_ms(0.9);
  ended.mutable_abort()->set_effect_ended_ms(4.6);
  ended.mutable_abort()->set_verified_clean_ms(33);
  ended.mutable_times()->set_to_detect_ms(2404);
  ended.mutable_times()->set_to_abort_ms(4.6);
  ended.mutable_times()->set_to_recover_ms(1240);
  v1::RunExpectation& soon = *ended.add_expect();
  soon.set_expectation("time_to_detect < 2s");
  soon.set_observed("time_to_detect 2.40s");
  v1::RunExpectation& again = *ended.add_expect();
  again.set_expectation("time_to_recover < 20s");
  again.set_observed("time_to_recover 1.24s");
  again.set_holds(true);
  v1::Noted& after = *teller.after(95).mutable_noted();
  after.set_by("ada@ops");
  after.set_text("the cache's size was the bottleneck; ticket opened");
  return teller.events();
}

std::vector<v1::Event> nasty_run() {
  Teller teller;
  const std::string evil = "<b>&\"'\x1b[2J\x07]]>\x80\xff é 漢字 \xEF\xBF\xBF \n-->";
  teller.start("plan " + evil, evil, {"node " + evil}, 0);
  teller.check("check " + evil, "http", {"body contains " + evil});
  teller.phase(v1::PREFLIGHT);
  teller.connected("node " + evil, evil);
  teller.phase(v1::STEADY);
  teller.asked("check " + evil, 1, evil, {{"body " + evil, false, {}}}, evil);
  teller.phase(v1::METHOD);
  teller.step(evil, "method[0]", 1000, {evil});
  teller.injecting("aaaaaaaaaaaa", "node " + evil, "kill", "kill " + evil, 0);
  v1::FaultFailedEvent& failed = *teller.after(0.001).mutable_fault_failed();
  failed.set_fault("aaaaaaaaaaaa");
  failed.set_node("node " + evil);
  failed.set_message(evil);
  failed.add_residue(evil);
  v1::AbortDecided& abort = *teller.after(0.001).mutable_abort_decided();
  abort.set_cause(evil);
  abort.set_words(evil);
  v1::Noted& note = *teller.after(0.001).mutable_noted();
  note.set_by(evil);
  note.set_kind(evil);
  note.set_text(evil);
  v1::LoadEnded& load = *teller.after(0.001).mutable_load_ended();
  load.set_load(evil);
  load.set_words(evil);
  v1::RunEnded& ended = teller.ended(v1::RESIDUE, 5, evil);
  ended.add_expect()->set_expectation(evil);
  return teller.events();
}

std::vector<v1::Event> run_named(const std::string& name) {
  if (name == "held") return held_run();
  if (name == "breached") return breached_run();
  if (name == "residue") return residue_run();
  if (name == "not_steady") return not_steady_run();
  if (name == "refused") return refused_run();
  if (name == "gameday") return gameday_run();
  if (name == "nasty") return nasty_run();
  return {};
}

}  // namespace squall::report::testing
