/// \file
/// The page of a run. Its markup is well-formed XML, so that a test reads it as strictly as that;
/// it needs no script, and its policy forbids everything that is not in the file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "controller/report/chronicle.h"
#include "controller/report/markup.h"
#include "controller/report/reports.h"
#include "controller/report/text.h"
#include "controller/report/timeline.h"

namespace squall::report {
namespace {

/// Of a table; what is broken comes first where not all fit.
constexpr std::size_t kMostRows = 250;
/// Of one text: a body that an answer had may be long.
constexpr int kMostColumns = 300;

constexpr std::string_view kStyle = R"(
:root{--paper:#fff;--ink:#1c2430;--dim:#5b6675;--line:#dfe4ea;--lane:#f4f6f9;--good:#16794a;
--good-paper:#e7f5ed;--bad:#b3261e;--bad-paper:#fdeceb;--warn:#8a5a00;--warn-paper:#fff4dd;
--curve:#1f5fb8;--fault:#e08a1e;--fault-ink:#3a2200;--note:#7a3db0;--false:rgba(179,38,30,.13);
--steady:#d9e8dc;--method:#f6dfbf;--revert:#e6dcf1;--recovery:#d6e6f5;--phase-ink:#1c2430}
@media (prefers-color-scheme:dark){:root{--paper:#12161c;--ink:#e6eaf0;--dim:#98a3b3;--line:#2a323d;
--lane:#1a2028;--good:#5fd39a;--good-paper:#12291e;--bad:#ff8a80;--bad-paper:#341a1a;--warn:#f0c060;
--warn-paper:#30260f;--curve:#7fb2ff;--fault:#d98a2b;--fault-ink:#1a0f00;--note:#c9a0f0;
--false:rgba(255,138,128,.18);--steady:#1f3a2a;--method:#4a3515;--revert:#35274a;--recovery:#1d3550;
--phase-ink:#e6eaf0}}
*{box-sizing:border-box}
html{color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;line-height:1.25;margin:22px 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:36px 0 10px}
p{margin:6px 0;overflow-wrap:anywhere}
.dim{color:var(--dim)}
.verdict{border-left:6px solid;border-radius:6px;padding:12px 16px;margin:0;font-size:16px}
.verdict strong{text-transform:uppercase;letter-spacing:.04em;margin-right:.5em}
.verdict.good{color:var(--good);background:var(--good-paper)}
.verdict.bad{color:var(--bad);background:var(--bad-paper)}
.verdict.warn{color:var(--warn);background:var(--warn-paper)}
.verdict span{color:var(--ink)}
.hypothesis{font-size:17px;font-style:italic;color:var(--dim)}
.figures{display:flex;flex-wrap:wrap;gap:10px;margin:20px 0 0;padding:0}
.figures div{flex:1 1 130px;border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.figures dt{color:var(--dim);font-size:13px}
.figures dd{margin:0;font-size:22px;font-variant-numeric:tabular-nums}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--dim);font-weight:600;font-size:13px}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
td{overflow-wrap:break-word;min-width:80px}
td.t{white-space:nowrap;font-variant-numeric:tabular-nums;color:var(--dim)}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.person{color:var(--note)}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre{background:var(--lane);border-radius:8px;padding:12px 14px;white-space:pre-wrap;
overflow-wrap:anywhere}
ul{margin:0;padding-left:1.2em}
.timeline{display:block;width:100%;min-width:760px;height:auto;
font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.timeline text{fill:var(--ink)}
.timeline .name,.timeline .more{fill:var(--dim)}
.timeline .title{font-weight:600}
.timeline .title tspan{font-weight:400;fill:var(--dim)}
.timeline .tick{fill:var(--dim);text-anchor:middle;font-size:11px}
.timeline .scale{fill:var(--dim);text-anchor:end;font-size:11px}
.timeline .lane{fill:var(--lane)}
.timeline .false{fill:var(--false)}
.timeline .grid{stroke:var(--line)}
.timeline .bound{stroke:var(--bad);stroke-dasharray:6 4}
.timeline .curve{fill:none;stroke:var(--curve);stroke-width:1.6;stroke-linejoin:round;
stroke-linecap:round}
.timeline .gap{fill:none;stroke:var(--bad);stroke-width:1.4}
.timeline .band rect,.timeline .band path{fill:var(--fault)}
.timeline .band text{fill:var(--fault-ink)}
.timeline .band text.beside{fill:var(--ink)}
.timeline .band.bad rect,.timeline .band.bad path{fill:var(--bad)}
.timeline .band.bad text{fill:var(--paper)}
.timeline .p-preflight rect{fill:var(--line)}.timeline .p-steady rect{fill:var(--steady)}
.timeline .p-method rect{fill:var(--method)}.timeline .p-revert rect{fill:var(--revert)}
.timeline .p-recovery rect{fill:var(--recovery)}
.timeline g[class^="p-"] text{fill:var(--phase-ink)}
.timeline line.m-bad{stroke:var(--bad)}.timeline g.m-bad text{fill:var(--bad);font-weight:600}
.timeline line.m-warn{stroke:var(--warn)}.timeline g.m-warn text{fill:var(--warn);font-weight:600}
.timeline line.m-good{stroke:var(--good)}.timeline g.m-good text{fill:var(--good);font-weight:600}
.timeline line.m-note{stroke:var(--note);stroke-dasharray:2 3}
.timeline g.m-note text{fill:var(--note);font-weight:600}
@media (max-width:600px){main{padding:16px 14px 40px}h1{font-size:21px}
table.cards thead{display:none}table.cards tr{display:block;padding:8px 0;
border-bottom:1px solid var(--line)}
table.cards td{display:block;border:0;padding:1px 0;min-width:0;white-space:normal}
table.cards td[data-of]::before{content:attr(data-of) ": ";color:var(--dim)}
table.cards td:empty{display:none}}
@media print{:root{--paper:#fff;--ink:#000;--dim:#444;--line:#bbb;--lane:#f4f4f4;--good:#0b5c36;
--good-paper:#fff;--bad:#a01810;--bad-paper:#fff;--warn:#6a4500;--warn-paper:#fff;--curve:#003f9e;
--fault:#f0b060;--fault-ink:#000;--note:#5a2090;--steady:#d9e8dc;--method:#f6dfbf;--revert:#e6dcf1;
--recovery:#d6e6f5;--phase-ink:#000}
html{color-scheme:light}body{font-size:11pt;-webkit-print-color-adjust:exact;
print-color-adjust:exact}main{max-width:none;padding:0}.scroll{overflow:visible}
.timeline{min-width:0}td{overflow-wrap:anywhere}
table{font-size:9pt}.figures div{flex-basis:90px;padding:8px 10px}.figures dd{font-size:15pt}tr,.figures,.verdict,pre{break-inside:avoid}h2{break-after:avoid}}
)";

class Page {
 public:
  explicit Page(const Story& story) : story_(story), times_(story.times()) {}

  std::string html() {
    const std::string title = safe(story_.run.plan().empty() ? "a run" : story_.run.plan());
    out_ = fmt::format(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<title>{}: {}</title>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n"
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
        "'unsafe-inline'; img-src data:\"/>\n"
        "<meta name=\"generator\" content=\"squall {}\"/>\n"
        "<link rel=\"icon\" href=\"data:,\"/>\n<style>{}</style>\n</head>\n<body>\n<main>\n",
        safe(story_.verdict()), title, safe(story_.run.version()), kStyle);
    head(title);
    figures();
    section("Timeline");
    out_ += "<div class=\"scroll\">\n" + timeline_svg(story_) + "</div>\n";
    expectations_of_run();
    checks();
    loads();
    faults();
    search();
    nodes();
    what_happened();
    again();
    return out_ + "</main>\n</body>\n</html>\n";
  }

 private:
  static std::string safe(std::string_view text) {
    const Style style{.utf8 = true};
    return xml(Line().add(shown(text, style)).text(style, kMostColumns));
  }

  void section(std::string_view words) { out_ += fmt::format("<h2>{}</h2>\n", words); }

  void head(const std::string& title) {
    const v1::Verdict verdict = story_.ended ? story_.ended->verdict() : v1::INTERNAL;
    const bool undecided =
        verdict == v1::INTERRUPTED || verdict == v1::REFUSED || verdict == v1::NOT_INJECTED;
    out_ += fmt::format("<p class=\"verdict {}\"><strong>{}{}</strong> <span>{}</span></p>\n",
                        verdict == v1::HELD ? "good"
                        : undecided         ? "warn"
                                            : "bad",
                        verdict == v1::HELD ? "✓ " : "✗ ", safe(story_.verdict()),
                        safe(story_.sentence()));
    out_ += "<h1>" + title + "</h1>\n";
    if (!story_.run.hypothesis().empty())
      out_ += "<p class=\"hypothesis\">" + safe(story_.run.hypothesis()) + "</p>\n";
    std::string facts = "run " + safe(story_.run.run());
    if (story_.started)
      facts += ", begun " + safe(date(story_.started->at)) + " " + safe(time(story_.started->at)) +
               " UTC";
    if (story_.ended) facts += fmt::format(", exit code {}", story_.ended->exit_code());
    for (const std::string& tag : story_.run.tags()) facts += " · " + safe(tag);
    out_ += "<p class=\"dim\">" + facts + "</p>\n";
  }

  /// Of 2026-11-22T07:15:49.123456Z; a bad log's is shown as it is.
  static std::string date(const std::string& at) { return at.substr(0, at.find('T')); }
  static std::string time(const std::string& at) {
    const std::size_t begin = at.find('T');
    return begin == std::string::npos ? at : at.substr(begin + 1, 12);
  }

  void figure(std::string_view what, const std::string& words) {
    out_ += fmt::format("<div><dt>{}</dt><dd>{}</dd></div>\n", what, words);
  }

  void figures() {
    out_ += "<dl class=\"figures\">\n";
    const auto ms = [](bool is_known, double value) { return is_known ? ms_text(value) : "–"; };
    figure("time to detect", ms(times_.has_to_detect_ms(), times_.to_detect_ms()));
    figure("time to abort", ms(times_.has_to_abort_ms(), times_.to_abort_ms()));
    figure("time to recover", ms(times_.has_to_recover_ms(), times_.to_recover_ms()));
    figure("duration", elapsed_text(story_.end().elapsed));
    const auto stood = std::ranges::count_if(story_.checks, [&](const CheckStory& check) {
      return check.asked > 0 && story_.stands(check);
    });
    figure("checks that stood", fmt::format("{} of {}", stood, story_.checks.size()));
    const auto clean = std::ranges::count_if(story_.faults, &FaultStory::clean);
    figure("faults proven gone", fmt::format("{} of {}", clean, story_.faults.size()));
    out_ += "</dl>\n";
  }

  void table(const std::vector<std::string_view>& columns) {
    columns_ = columns;
    out_ += "<div class=\"scroll\"><table class=\"cards\"><thead><tr>";
    for (const std::string_view column : columns) out_ += fmt::format("<th>{}</th>", column);
    out_ += "</tr></thead><tbody>\n";
  }

  /// Cells are safe already.
  void row(const std::vector<std::string>& cells) {
    out_ += "<tr>";
    for (std::size_t n = 0; n < cells.size(); ++n) {
      out_ +=
          n == 0 || columns_[n].empty() ? "<td>" : fmt::format("<td data-of=\"{}\">", columns_[n]);
      out_ += cells[n] + "</td>";
    }
    out_ += "</tr>\n";
  }

  void end_table(std::size_t left_out, std::string_view of) {
    out_ += "</tbody></table></div>\n";
    if (left_out > 0)
      out_ +=
          fmt::format("<p class=\"dim\">{} more {} are in the JSON report.</p>\n", left_out, of);
  }

  template <typename Told, typename IsBad>
  std::vector<const Told*> most_telling(const std::vector<Told>& all, IsBad is_bad) {
    std::vector<const Told*> chosen;
    for (const Told& one : all) chosen.push_back(&one);
    if (chosen.size() > kMostRows) {
      std::stable_partition(chosen.begin(), chosen.end(),
                            [&](const Told* one) { return is_bad(*one); });
      chosen.resize(kMostRows);
    }
    return chosen;
  }

  static std::string painted(std::string_view style, const std::string& words) {
    return fmt::format("<span class=\"{}\">{}</span>", style, words);
  }

  void expectations_of_run() {
    if (!story_.ended || story_.ended->expect_size() == 0) return;
    section("What was expected of the run");
    table({"expected", "observed", ""});
    for (const v1::RunExpectation& one : story_.ended->expect()) {
      row({safe(one.expectation()), safe(one.observed()),
           one.holds() ? painted("good", "✓ holds") : painted("bad", "✗ does not hold")});
    }
    end_table(0, "");
  }

  std::string standing(const CheckStory& check) const {
    if (check.asked == 0) return painted("warn", "never asked");
    if (!story_.stands(check)) {
      return painted("bad", check.broke()                ? "✗ breached"
                            : story_.reached(v1::METHOD) ? "✗ not recovered"
                                                         : "✗ not steady");
    }
    return check.breaches.empty() ? painted("good", "✓ held") : painted("warn", "! only noted");
  }

  /// One line of a cell for each expectation.
  template <typename Words>
  static std::string each(const CheckStory& check, Words words) {
    std::string cell;
    for (const ExpectationStory& one : check.expect) {
      cell += (cell.empty() ? "" : "<br/>") + words(one);
    }
    return cell;
  }

  std::string worst_of(const ExpectationStory& one) const {
    if (one.worst.empty()) return "not judged";
    const std::string words = safe(without_metric(one.worst, one.text));
    if (one.breached || story_.kept_from_steady(one)) return painted("bad", words);
    return one.ever_false ? painted("warn", words + " (briefly)") : words;
  }

  void checks() {
    section("Checks");
    if (story_.checks.empty()) {
      out_ += "<p>None: nothing was observed.</p>\n";
      return;
    }
    table({"check", "expected", "worst", "last", "asked", "p50 / p99 / max", "in the end"});
    const auto chosen = most_telling(story_.checks, [&](const CheckStory& check) {
      return !check.breaches.empty() || !story_.stands(check);
    });
    for (const CheckStory* const check : chosen) {
      const std::uint64_t unanswered = check->asked - check->answered;
      std::string asked = fmt::format("{}", check->asked);
      if (unanswered > 0)
        asked += "<br/>" + painted("warn", fmt::format("{} unanswered", unanswered));
      std::string latencies;
      if (const auto middle = check->latency_percentile_ms(50); middle && !check->is_load) {
        latencies = fmt::format("{} / {} / {}", ms_text(*middle),
                                ms_text(*check->latency_percentile_ms(99)),
                                ms_text(*check->latency_percentile_ms(100)));
      }
      row({"<strong>" + safe(check->name) + "</strong><br/><span class=\"dim\">" +
               safe(check->kind) + "</span>",
           each(*check, [](const ExpectationStory& one) { return safe(one.text); }),
           each(*check, [&](const ExpectationStory& one) { return worst_of(one); }),
           each(*check,
                [](const ExpectationStory& one) {
                  return one.latest.empty() ? "–" : safe(without_metric(one.latest, one.text));
                }),
           asked, latencies, standing(*check)});
    }
    end_table(story_.checks.size() - chosen.size(), "checks");
  }

  void loads() {
    if (story_.loads.empty()) return;
    section("Load");
    table({"load", "sent", "answered", "failed", "rate, of what was wanted",
           "p50 / p90 / p99 / p99.9 / max"});
    for (const LoadStory& load : story_.loads) {
      const v1::LoadEnded& told = load.told;
      row({"<strong>" + safe(told.load()) + "</strong>", fmt::format("{}", told.sent()),
           fmt::format("{}", told.answered()), fmt::format("{}", told.failed()),
           fmt::format("{:.4g}/s of {:.4g}/s", told.rate(), told.wanted_per_second()),
           told.answered() == 0 ? safe(told.words())
                                : fmt::format("{} / {} / {} / {} / {}", ms_text(told.p50_ms()),
                                              ms_text(told.p90_ms()), ms_text(told.p99_ms()),
                                              ms_text(told.p999_ms()), ms_text(told.max_ms()))});
    }
    end_table(0, "");
  }

  std::string end_of(const FaultStory& fault) const {
    if (!fault.residue.empty()) return painted("bad", "✗ " + safe(revert_problem(fault)));
    if (fault.failed) return painted("bad", "✗ failed: " + safe(fault.failure));
    if (!fault.reverted) return painted("bad", "✗ never verified clean");
    std::string words = fault.at_once() ? "✓ done, verified clean" : "✓ verified clean";
    if (const auto took = fault.reverting_ms()) words += " in " + ms_text(*took);
    std::string cell = painted("good", words);
    if (!fault.end_reason.empty())
      cell += "<br/><span class=\"dim\">" + safe(fault.end_reason) + "</span>";
    return cell;
  }

  void faults() {
    section("Faults");
    if (story_.faults.empty()) {
      out_ += "<p>None was injected.</p>\n";
      return;
    }
    table({"what", "where", "from", "to", "evidence", "its end"});
    const auto chosen = most_telling(story_.faults, [](const FaultStory& fault) {
      return fault.failed || !fault.clean() || fault.without_effect();
    });
    for (const FaultStory* const fault : chosen) {
      std::string what =
          "<strong>" + safe(fault->words.empty() ? fault->kind : fault->words) + "</strong>";
      if (!fault->step.empty() && fault->step != fault->words)
        what += "<br/><span class=\"dim\">" + safe(fault->step) + "</span>";
      std::string evidence = safe(fault->evidence_words);
      if (fault->applied && !fault->failed && fault->without_effect()) {
        if (!evidence.empty()) evidence.insert(0, ": ");
        evidence = painted("bad", "✗ no effect" + evidence);
      }
      row({what, safe(fault->node),
           fault->applied ? elapsed_text(fault->applied->elapsed) + " <span class=\"dim\">(in " +
                                ms_text(fault->apply_took_ms) + ")</span>"
                          : "never applied",
           fault->at_once()      ? ""
           : fault->effect_ended ? elapsed_text(fault->effect_ended->elapsed)
                                 : "–",
           evidence, end_of(*fault)});
    }
    end_table(story_.faults.size() - chosen.size(), "faults");
  }

  void search() {
    if (story_.attempts.empty()) return;
    section("Search");
    if (story_.answer) out_ += "<p><strong>" + safe(story_.answer->words()) + "</strong></p>\n";
    table({"tried", "what came of it"});
    for (const v1::Attempted& attempt : story_.attempts) {
      row({safe(attempt.value()), attempt.held()
                                      ? painted("good", "✓ holds")
                                      : painted("bad", "✗ breaks: " + safe(attempt.words()))});
    }
    end_table(0, "");
  }

  void nodes() {
    if (story_.nodes.empty()) return;
    section("Nodes");
    table({"node", "address", "kernel", "in the end"});
    const auto is_bad = [](const NodeStory& node) {
      return node.lost || !node.refusals.empty() || !node.residue.empty();
    };
    const auto chosen = most_telling(story_.nodes, is_bad);
    for (const NodeStory* const node : chosen) {
      std::string end;
      const auto say = [&](std::string_view style, const std::string& words) {
        end += (end.empty() ? "" : "<br/>") + painted(style, safe(words));
      };
      if (node->lost) say("bad", "✗ lost: " + node->lost_reason);
      for (const std::string& one : node->refusals) say("bad", "✗ refused " + one);
      for (const std::string& one : node->residue) say("bad", "✗ left behind: " + one);
      for (const std::string& one : node->changed_by_others)
        say("warn", "changed by others: " + one);
      for (const std::string& one : node->recovered) say("warn", "swept at its start: " + one);
      if (end.empty() && node->settled) say("good", "✓ settled, nothing left");
      row({safe(node->name), safe(node->address), safe(node->kernel), end});
    }
    end_table(story_.nodes.size() - chosen.size(), "nodes");
  }

  void what_happened() {
    section("What happened");
    table({"time (UTC)", "into the run", "what"});
    for (const Happening& one : chronicle(story_, kMostRows)) {
      constexpr std::array<std::string_view, 5> kStyles = {"", "", "good", "bad", "person"};
      row({"<span class=\"dim\">" + safe(time(one.moment.at)) + "</span>",
           elapsed_text(one.moment.elapsed),
           painted(kStyles[static_cast<std::size_t>(one.kind)], safe(one.words))});
    }
    end_table(0, "");
  }

  void again() {
    section("How to run it again");
    out_ += "<pre>" + xml(command_again(story_)) + "</pre>\n";
    out_ += fmt::format("<p class=\"dim\">plan {}, seed {}, lease {}, squall {}</p>\n",
                        safe(story_.run.file()), story_.run.seed(), ms_text(story_.run.lease_ms()),
                        safe(story_.run.version()));
  }

  const Story& story_;
  v1::RunTimes times_;
  std::vector<std::string_view> columns_;
  std::string out_;
};

}  // namespace

std::string html_report(const Story& story) { return Page(story).html(); }

}  // namespace squall::report
