#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "controller/cli/commands.h"
#include "controller/import/import.h"
#include "experiments/base/diagnostic.h"

namespace squall::cli {
namespace {

void add_output(CLI::App& app, Invocation& said) {
  app.add_option("-o,--output", said.output, "the result on standard output: text or json")
      ->check(CLI::IsMember({"text", "json"}))
      ->envname("SQUALL_OUTPUT")
      ->type_name("FORMAT");
}

void add_tls(CLI::App& app, Invocation& said) {
  app.add_option("--tls-dir", said.tls_dir,
                 "with ca.pem, cert.pem and key.pem; needed for nodes reached over TCP")
      ->envname("SQUALL_TLS_DIR")
      ->type_name("DIR");
}

void add_runs(CLI::App& app, Invocation& said) {
  app.add_option("--runs-dir", said.runs_dir,
                 "where runs are kept (default: runs in $SQUALL_STATE_DIR, else in "
                 "$XDG_STATE_HOME/squall, else in /var/lib/squall)")
      ->envname("SQUALL_RUNS_DIR")
      ->type_name("DIR");
}

void add_params(CLI::App& app, Invocation& said) {
  app.add_option("--set", said.given.set, "name=value: a parameter's value; once for each")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  app.add_option("--params", said.given.params_files,
                 "a YAML file with a mapping of parameters to values; --set wins over it")
      ->type_name("FILE")
      ->allow_extra_args(false);
}

CLI::Option* add_plan(CLI::App& app, Invocation& said) {
  add_params(app, said);
  return app.add_option("plan", said.files, "the plan")->required()->expected(1)->type_name("FILE");
}

void add_seed(CLI::App& app, Invocation& said) {
  app.add_option("--seed", said.seed,
                 "of every random choice (default: the plan's, else drawn and told)")
      ->envname("SQUALL_SEED")
      ->type_name("NUMBER");
}

void declare_telling(CLI::App& app, Invocation& said) {
  const auto add_url = [&](const char* flag, auto& into, const char* help, const char* name) {
    return app.add_option(flag, into, help)
        ->envname(name)
        ->type_name("URL")
        ->allow_extra_args(false)
        ->group("Telling others");
  };
  add_url(
      "--webhook", said.webhooks,
      "told in JSON when the run begins, is breached, aborted, noted upon and ends; signed with "
      "$SQUALL_WEBHOOK_SECRET; once for each",
      "SQUALL_WEBHOOK");
  add_url("--slack", said.slack, "an incoming webhook of Slack's, told the same in words",
          "SQUALL_SLACK");
  add_url("--grafana", said.grafana,
          "a Grafana that gets annotations, with the token in $SQUALL_GRAFANA_TOKEN",
          "SQUALL_GRAFANA");
  app.add_option("--metrics", said.metrics,
                 "where Prometheus may ask for /metrics while the run goes on: 127.0.0.1:9464, "
                 "unix:/path, or another host:port with --tls-dir")
      ->envname("SQUALL_METRICS")
      ->type_name("ADDRESS")
      ->group("Telling others");
}

void declare_run(CLI::App& app, Invocation& said) {
  CLI::Option* const plan = add_plan(app, said);
  CLI::Option* const replay =
      app.add_option("--replay", said.replay, "walk this run again, with the same choices")
          ->type_name("RUN");
  plan->required(false)->excludes(replay);
  add_output(app, said);
  add_tls(app, said);
  add_runs(app, said);
  add_seed(app, said);
  app.add_option("--json", said.json_file, "write the JSON report here too")->type_name("FILE");
  app.add_option("--junit", said.junit_file, "write the JUnit report here too")->type_name("FILE");
  app.add_option("--html", said.html_file, "write the page for people here too")->type_name("FILE");
  app.add_option("--md", said.md_file, "write the postmortem's draft here too")->type_name("FILE");
  app.add_flag("--unobserved", said.given.unobserved, "run a plan that has no steady state");
  app.add_option("--no-input", said.no_input,
                 "nobody is to be asked: an `ask` is skipped, or fails and ends the run")
      ->check(CLI::IsMember({"skip", "fail"}))
      ->envname("SQUALL_NO_INPUT")
      ->type_name("skip|fail");
  declare_telling(app, said);
}

void declare_plan(CLI::App& app, Invocation& said) {
  add_plan(app, said);
  add_output(app, said);
  add_tls(app, said);
  add_seed(app, said);
  app.add_option(
         "--out", said.out_file,
         "write the plan with everything chosen here; `squall run` of it walks exactly that, "
         "or says what has changed")
      ->type_name("FILE");
  app.add_flag("--unobserved", said.given.unobserved, "a plan that has no steady state is right");
}

void declare_init(CLI::App& app, Invocation& said) {
  app.add_option("plan", said.files, "the file to be made (default: plan.yaml)")
      ->expected(0, 1)
      ->type_name("FILE");
}

void declare_validate(CLI::App& app, Invocation& said) {
  app.add_option("plans", said.files, "the plans")->required()->type_name("FILE");
  add_output(app, said);
  add_params(app, said);
}

void declare_explain(CLI::App& app, Invocation& said) {
  app.add_option("word", said.word, "of the plan language; without it, all there are")
      ->type_name("WORD");
  app.add_option("--markdown", said.markdown_folder, "write the pages of all words to this folder")
      ->type_name("DIR");
}

void declare_schema(CLI::App&, Invocation&) {}
void declare_import(CLI::App& app, Invocation& said) {
  app.add_option("experiment", said.files,
                 "the other tool's file; or, with --from pumba or chaosblade, a command line")
      ->required()
      ->type_name("FILE");
  app.add_option("--from", said.from, "which tool's it is (default: told by its content)")
      ->check(CLI::IsMember(importing::format_names()))
      ->type_name("TOOL");
}

void declare_halt(CLI::App& app, Invocation& said) {
  app.add_option("where", said.files,
                 "plans, for all their nodes; or addresses; without any, this machine")
      ->type_name("PLAN|ADDRESS");
  app.add_option("--reason", said.reason, "why, for the log and for who finds it halted")
      ->type_name("TEXT");
  add_tls(app, said);
  add_params(app, said);
  add_runs(app, said);
}

void declare_resume(CLI::App& app, Invocation& said) {
  declare_halt(app, said);
  app.get_option("--reason")->required();
}

void declare_revert(CLI::App& app, Invocation& said) {
  app.add_option("fault", said.files,
                 "its id; then where, as `halt` takes it: plans, addresses, or without any this "
                 "machine")
      ->type_name("ID [PLAN|ADDRESS]");
  app.add_flag("--all", said.all, "every fault that is held there; then no id is given");
  add_tls(app, said);
  add_params(app, said);
}

/// Each --expect is of the --check before it.
void add_checks(CLI::App& app, Invocation& said) {
  app.add_option_function<std::string>(
         "--check",
         [&said](const std::string& text) {
           said.by_hand.checks.push_back({text, {}});
         },
         "what must hold, as in a plan: http: {url: ...}; once for each check")
      ->type_name("CHECK")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->trigger_on_parse();
  app.add_option_function<std::string>(
         "--expect",
         [&said](const std::string& text) {
           if (said.by_hand.checks.empty()) {
             throw CLI::ValidationError("--expect", "belongs to the --check before it");
           }
           said.by_hand.checks.back().expect.push_back(text);
         },
         "of the --check before it: status == 200; once for each")
      ->type_name("EXPECTATION")
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast)
      ->trigger_on_parse();
}

void declare_inject(CLI::App& app, Invocation& said) {
  app.add_option("fault", said.files,
                 "as in a plan: its kind and its fields, and what else a step has")
      ->required()
      ->type_name("FAULT");
  app.add_option("--for", said.by_hand.lasts, "how long it lasts")->type_name("DURATION");
  app.add_option("--on", said.by_hand.on,
                 "which nodes: one's name, or labels as role=web,zone=a; without it, the only one")
      ->type_name("NODE|LABELS");
  CLI::Option* const plan =
      app.add_option("--plan", said.by_hand.plan_file,
                     "whose nodes, steady state, environment, lease and recovery hold")
          ->type_name("FILE");
  app.add_option("--node", said.by_hand.nodes,
                 "an address of a squalld; once for each (default: this machine)")
      ->type_name("ADDRESS")
      ->allow_extra_args(false)
      ->excludes(plan);
  add_checks(app, said);
  app.add_flag("--unobserved", said.given.unobserved, "inject it though nothing is checked");
  add_output(app, said);
  add_tls(app, said);
  add_runs(app, said);
  add_seed(app, said);
  add_params(app, said);
}

void declare_note(CLI::App& app, Invocation& said) {
  app.add_option("run", said.run, "a run's id or its folder, or `last`")
      ->required()
      ->type_name("RUN");
  app.add_option("text", said.text, "what was seen, in words")->type_name("TEXT");
  CLI::Option* const kind =
      app.add_option("--kind", said.kind, "what it says of the run, besides its words")
          ->check(CLI::IsMember({"detected", "mitigated", "recovered"}))
          ->type_name("KIND");
  std::vector<CLI::Option*> flags = {kind};
  for (const auto& [name, word, help] :
       {std::tuple{"--detected", "detected", "somebody, or an alarm, has noticed"},
        std::tuple{"--mitigated", "mitigated", "customers no longer feel it"},
        std::tuple{"--recovered", "recovered", "all is as it was"}}) {
    CLI::Option* const flag = app.add_flag_callback(
        name, [&said, said_word = word] { said.kind = said_word; }, help);
    for (CLI::Option* other : flags) flag->excludes(other);
    flags.push_back(flag);
  }
  add_runs(app, said);
}

void declare_nodes(CLI::App& app, Invocation& said) {
  add_plan(app, said)->required(false)->expected(0, 1);
  add_output(app, said);
  add_tls(app, said);
}

void declare_report(CLI::App& app, Invocation& said) {
  app.add_option("run", said.run, "a run's id or its beginning, last, its folder or its log")
      ->required()
      ->type_name("RUN");
  app.add_option("-o,--output,--format", said.format,
                 "the report on standard output: text, html, md, json, junit or github")
      ->check(CLI::IsMember({"text", "html", "md", "json", "junit", "github"}))
      ->envname("SQUALL_OUTPUT")
      ->type_name("FORMAT");
  add_runs(app, said);
}

void declare_compare(CLI::App& app, Invocation& said) {
  app.add_option("runs", said.files, "two runs, the earlier one first: ids, folders or logs")
      ->required()
      ->expected(2)
      ->type_name("RUN");
  app.add_option("--tolerance", said.tolerance,
                 "by how much of what it was a figure may be worse (default: 10%)")
      ->type_name("PERCENT");
  app.add_option("--floor", said.floor,
                 "a difference of times that is nothing, whatever its share (default: 10ms)")
      ->type_name("DURATION");
  app.add_flag("--force", said.force, "compare runs of different plans as well");
  add_output(app, said);
  add_runs(app, said);
}

void declare_runs(CLI::App& app, Invocation& said) {
  app.add_option("--plan", said.runs.plan, "found in the plan's title or its file, in any case")
      ->type_name("TEXT");
  app.add_option("--verdict", said.runs.verdict,
                 "held, breached, refused, not-steady, not-injected, residue, internal, "
                 "interrupted, lost (ended without a word) or running")
      ->type_name("VERDICT");
  app.add_option("--since", said.runs.since, "24h, 7d, or a day or time in UTC: 2026-11-22T07:15")
      ->type_name("WHEN");
  app.add_option("--tag", said.runs.tags, "a tag of the plan; once for each that it must have")
      ->type_name("TAG")
      ->allow_extra_args(false);
  app.add_option("--limit", said.runs.limit, "so many of the latest (default: 50; 0: all)")
      ->type_name("NUMBER");
  app.add_option("--by", said.runs.by,
                 "plan: one line per plan, with its verdicts and whether it "
                 "is flaky")
      ->check(CLI::IsMember({"plan"}))
      ->type_name("plan");
  app.add_flag("--rebuild", said.runs.rebuild, "read every log again");
  add_output(app, said);
  add_runs(app, said);
}

constexpr const char* kAboutRuns =
    "What is kept:\n"
    "  --runs-dir/ID/events.jsonl      all that happened, as it happened\n"
    "  --runs-dir/ID/report.json       the same as one report, with the keys of Chaos Toolkit\n"
    "  --runs-dir/ID/junit.xml         for a pipeline\n"
    "  --runs-dir/ID/report.html       one page for people who were not there\n"
    "  --runs-dir/ID/report.md         the draft of a postmortem\n"
    "  squall report ID                tells it again\n"
    "\nExit codes:\n"
    "    0  held: the steady state held throughout and recovered in time\n"
    "    1  breached: a check was breached, or recovery took too long\n"
    "    2  refused: the plan or an argument is wrong; nothing was started\n"
    "    3  not steady: the steady state did not hold to begin with; nothing was injected\n"
    "    4  not injected: a node cannot be reached or refuses, a fault failed, or showed no "
    "effect\n"
    "    5  residue: a fault's end could not be proven; the report says what may be left and "
    "where\n"
    "   70  Squall's own mistake; or it held, but its log or a report could not be written\n"
    "  130  interrupted: stopped by a person; everything was reverted\n";

constexpr const char* kAboutNotes =
    "While the run goes on, the note is in its live view at once; afterwards it is added to its "
    "log.\n"
    "Every report of the run tells it at its time.\n"
    "\nExit codes: 0 noted; 2 an argument is wrong, or there is no such run; 4 the run does not "
    "take it.\n";

constexpr const char* kAboutInject =
    "It is a run of one step: with a lease, a log, a live view and reports as any other, and with\n"
    "the exit codes of `squall run`. q, Ctrl-C, `squall revert` and `squall halt` end it.\n";

constexpr const char* kAboutImport =
    "The plan goes to standard output, with a comment at each thing that did not map, and why.\n"
    "\nExit codes:\n"
    "    0  all of it is in the plan\n"
    "    1  a person has to look at the comments that say \"not mapped\" or \"to decide\"\n"
    "    2  the file cannot be read, or is of no tool that is known here\n";

struct Command {
  const char* name;
  const char* help;
  const char* examples;
  const char* details;  ///< Below the options.
  void (*declare)(CLI::App&, Invocation&);
  int (*call)(const Invocation&);
};

constexpr std::array<Command, 16> kCommands = {{
    {"run", "walk a plan: prove the steady state, inject, watch, revert, prove recovery",
     "  squall run examples/quickstart.yaml\n"
     "  squall run plan.yaml --tls-dir ~/.squall/tls --seed 42\n"
     "  squall run plan.yaml --set delay=300ms -o json > result.json\n"
     "  squall run --replay 20261122-071549-k3x9\n",
     kAboutRuns, declare_run, run_plan},
    {"inject", "raise one fault by hand, under the lease, the checks and the log of a run",
     "  squall inject 'network: {delay: 200ms, to: {ports: [5432]}}' --for 60s \\\n"
     "      --check 'http: {url: \"http://127.0.0.1:8080/\"}' --expect 'status == 200'\n"
     "  squall inject 'cpu: {load: 80%}' --on role=web --for 1m --plan plan.yaml\n"
     "  squall inject 'kill: {process: {name: nginx}, pick: 1}' --unobserved\n",
     kAboutInject, declare_inject, inject},
    {"plan", "show what a run would do, on the real nodes; changes nothing",
     "  squall plan plan.yaml --tls-dir ~/.squall/tls\n"
     "  squall plan plan.yaml --set delay=300ms --out friday.json && squall run friday.json\n",
     "Exit codes: 0 all would take part; 1 a node refuses; 2 the plan is wrong; 4 a node is not "
     "reached.\n",
     declare_plan, plan},
    {"init", "make a first plan, with comments",
     "  squall init\n"
     "  squall init checkout.yaml\n",
     "", declare_init, init},
    {"validate", "say everything that is wrong with plans; contacts nothing",
     "  squall validate plan.yaml\n"
     "  squall validate plans/*.yaml -o json\n",
     "", declare_validate, validate},
    {"explain", "tell what a word of the plan language means",
     "  squall explain network\n"
     "  squall explain expectation\n",
     "", declare_explain, explain},
    {"schema", "print the plan language as a JSON Schema, for editors",
     "  squall schema > squall.schema.json\n", "", declare_schema, schema},
    {"import", "turn another chaos tool's experiment into a plan",
     "  squall import experiment.json > plan.yaml\n"
     "  squall import --from pumba -- netem --duration 5m delay --time 3000 web\n",
     kAboutImport, declare_import, import_experiment},
    {"nodes", "say what nodes are, and which faults they hold",
     "  squall nodes                                      this machine\n"
     "  squall nodes plan.yaml --tls-dir ~/.squall/tls\n",
     "", declare_nodes, nodes},
    {"revert", "end one fault, or all that nodes hold; their runs go on, and more may begin",
     "  squall nodes\n"
     "  squall revert k3x9mq7a2bcd\n"
     "  squall revert --all plan.yaml --tls-dir ~/.squall/tls\n",
     "Exit codes: 0 nothing of it is left; 1 no such fault is held; 2 an argument is wrong; 4 a "
     "node is\nnot reached; 5 something is left behind.\n",
     declare_revert, revert},
    {"halt",
     "stop every run and revert every fault on whole nodes; nothing begins there until resume",
     "  squall halt\n"
     "  squall halt plan.yaml --tls-dir ~/.squall/tls --reason 'customers are calling'\n"
     "  squall halt 10.0.0.11:7411 10.0.0.12:7411 --tls-dir ~/.squall/tls\n",
     "Exit codes: 0 nothing is left; 2 an argument is wrong; 4 a node is not reached; 5 something "
     "is "
     "left behind.\n",
     declare_halt, halt},
    {"resume", "let runs begin again on nodes that were halted",
     "  squall resume --reason 'found and mended'\n", "", declare_resume, resume},
    {"note", "put what a person sees into a run's log, with its time",
     "  squall note last --detected 'the pager went off'\n"
     "  squall note 20261122-071549-k3x9 'the dashboard shows old prices'\n",
     kAboutNotes, declare_note, note},
    {"report", "tell a run again from its log",
     "  squall report 20261122-071549-k3x9\n"
     "  squall report 20261122-071549-k3x9 -o junit > junit.xml\n"
     "  squall report 20261122-071549-k3x9 --format html > report.html\n",
     "", declare_report, report},
    {"compare", "show what got better or worse between two runs of a plan",
     "  squall compare 20261122-071549-k3x9 20261123-071502-p4c2\n"
     "  squall compare main/events.jsonl branch/events.jsonl --tolerance 25% --floor 50ms\n",
     "Exit codes: 0 nothing got worse; 1 something did, by more than the tolerance; 2 a run cannot "
     "be read, or they\nare runs of different plans.\n",
     declare_compare, compare},
    {"runs", "list the runs that were, and how often each plan held",
     "  squall runs --since 7d --verdict breached\n"
     "  squall runs --by plan\n"
     "  squall runs --tag nightly -o json\n",
     "", declare_runs, runs},
}};

constexpr const char* kExamples =
    "  squall run examples/quickstart.yaml      on this machine; needs nothing started first\n"
    "  squall validate plan.yaml                everything wrong with it, each with its place\n"
    "  squall explain network                   what a fault may be asked\n"
    "  squall report 20261122-071549-k3x9       a run, told again\n";

/// A person who asks for help wants to see it done, then the details.
class ExamplesFirst : public CLI::Formatter {
 public:
  explicit ExamplesFirst(std::string details = "") : details_(std::move(details)) {}

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    const std::string examples = app->get_footer();
    std::string rest = CLI::Formatter::make_help(app, std::move(name), mode);
    return examples.empty() ? rest : "Examples:\n" + examples + "\n" + rest;
  }
  std::string make_footer(const CLI::App*) const override { return details_; }

 private:
  std::string details_;
};

std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  const std::string near = nearest(word, known);
  return near.empty() ? "" : "; did you mean " + near + "?";
}

/// What of the line is no word of ours, in words.
std::string unknown(const CLI::App& app, const std::string& word) {
  if (!word.starts_with("-")) return "unexpected argument " + escape_controls(word);
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    for (const std::string& name : option->get_snames()) known.push_back("-" + name);
  }
  const std::string flag = word.substr(0, word.find('='));
  return "unknown option " + escape_controls(flag) + suggestion(flag, known);
}

int start(int argc, char** argv) {
  CLI::App app("chaos engineering: faults that always end", "squall");
  app.formatter(std::make_shared<ExamplesFirst>());
  app.footer(kExamples);
  app.set_version_flag("--version", "squall " SQUALL_VERSION);
  app.set_help_flag("-h,--help", "this text");
  app.require_subcommand(1);
  std::array<Invocation, kCommands.size()> said;
  std::vector<std::string> names;
  for (std::size_t n = 0; n < kCommands.size(); ++n) {
    const Command& command = kCommands[n];
    CLI::App* sub = app.add_subcommand(command.name, command.help);
    sub->footer(command.examples);
    sub->formatter(std::make_shared<ExamplesFirst>(command.details));
    command.declare(*sub, said[n]);
    names.emplace_back(command.name);
  }
  if (argc < 2) {
    std::cerr << app.help();
    return kRefused;
  }
  const std::string first = argv[1];
  if (!first.starts_with("-") && std::find(names.begin(), names.end(), first) == names.end()) {
    complain("unknown command " + escape_controls(first) +
             (first == "help" ? "; squall --help tells of all" : suggestion(first, names)));
    return kRefused;
  }
  // Before the parser, which would take the value of an option it does not know for a plan.
  for (int n = 2; n < argc && std::string_view(argv[n]) != "--"; ++n) {
    const CLI::App* sub = first.starts_with("-") ? nullptr : app.get_subcommand(first);
    const std::string word = argv[n];
    if (sub == nullptr || !word.starts_with("-") || word == "-") continue;
    const std::string flag = word.substr(0, word.find('='));
    if (sub->get_option_no_throw(flag.starts_with("--") ? flag : flag.substr(0, 2)) != nullptr)
      continue;
    complain(unknown(*sub, word));
    return kRefused;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& asked) {
    return app.exit(asked);
  } catch (const CLI::CallForVersion& asked) {
    return app.exit(asked);
  } catch (const CLI::ExtrasError& wrong) {
    const CLI::App* sub = app.get_subcommands().empty() ? &app : app.get_subcommands().front();
    const auto extras = app.remaining(true);
    complain(extras.empty() ? wrong.what() : unknown(*sub, extras.front()));
    return kRefused;
  } catch (const CLI::ParseError& wrong) {
    complain(wrong.what());
    return kRefused;
  }
  for (std::size_t n = 0; n < kCommands.size(); ++n) {
    if (app.got_subcommand(kCommands[n].name)) return kCommands[n].call(said[n]);
  }
  return kInternal;
}

/// A run's log must not be opened as standard output because that was closed, and then be written
/// to as such.
void hold_standard_descriptors() {
  for (int descriptor = STDIN_FILENO; descriptor <= STDERR_FILENO; ++descriptor) {
    // The lowest free number is this one, as those below are open by now.
    if (fcntl(descriptor, F_GETFD) < 0) open("/dev/null", O_RDWR | O_NOCTTY);
  }
}

}  // namespace

}  // namespace squall::cli

int main(int argc, char** argv) {
  squall::cli::hold_standard_descriptors();
  // Neither a closed terminal nor a closed pipe may keep a run from reverting.
  signal(SIGPIPE, SIG_IGN);
  signal(SIGCHLD, SIG_DFL);  // inherited as ignored, no child of ours could be waited for
  try {
    return squall::cli::start(argc, argv);
  } catch (const std::exception& failed) {
    squall::cli::complain(std::string("a fault of squall's own: ") + failed.what());
    return squall::cli::kInternal;
  }
}
