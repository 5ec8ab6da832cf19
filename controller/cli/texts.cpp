// The commands that contact nothing: init, validate, explain, schema, import, report.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

#include "controller/cli/commands.h"
#include "controller/cli/diagnostics_json.h"
#include "controller/cli/github.h"
#include "controller/cli/resolved.h"
#include "controller/import/import.h"
#include "controller/report/github.h"
#include "controller/report/reports.h"
#include "controller/report/style.h"
#include "controller/run/schedule.h"
#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "experiments/base/state.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/load.h"
#include "experiments/plan/schema.h"

namespace squall::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFirstPlan =
    R"(# One experiment: what is believed, what must hold, what is done, and to whom.
# squall validate FILE   says what is wrong with it; contacts nothing
# squall plan FILE       shows what would be done, node by node; changes nothing
# squall run FILE        does it, watches, and undoes it, whatever happens
plan: programs still start while a core is busy
hypothesis: with a core busy for a few seconds, a program starts and ends well every time

# Given anew for a run by --set load=50% or --params FILE; ${load} stands for it.
params:
  load: {default: 80%, help: how busy the core is}

# Where faults are injected. `local` has no address: it is this machine, and the run brings its own
# daemon. Others have a squalld of their own:
#   db-1: {address: "10.0.0.11:7411", labels: {role: db}}
nodes: {local: {}}

# What must hold before, during and after. squall explain http, tcp, exec, expectation.
steady_state:
  - name: a program starts
    exec: {run: ["true"]}
    every: 200ms
    expect: [exit == 0, p95 < 2s over 5s]

# The steps, one after another. squall explain step; squall explain cpu, network, kill, ...
method:
  - name: a core is busy
    on: local
    cpu: {load: "${load}", cores: 1}
    for: 3s
  - wait: 1s

# Every check must hold again so soon after the last fault is reverted.
recovery: {within: 10s}
)";

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

/// All pages as Markdown into a folder, which lies beside what is written by hand.
int write_reference(const fs::path& folder) {
  std::error_code failed;
  fs::create_directories(folder, failed);
  const fs::path where = fs::canonical(folder, failed);
  if (failed) {
    complain(folder.string() + ": " + failed.message());
    return kRefused;
  }
  const auto handwritten = plan::read_handwritten(where.parent_path());
  for (const auto& [name, text] : plan::reference(handwritten)) {
    std::ofstream file(where / name, std::ios::binary | std::ios::trunc);
    file << text;
    file.close();
    if (file) continue;
    complain((where / name).string() + ": cannot be written");
    return kRefused;
  }
  return kSuccess;
}

/// The one that began last; empty where there is none. Ids are sorted by time, to the second.
fs::path last_run(const fs::path& runs) {
  std::error_code failed;
  fs::path last;
  fs::file_time_type when;
  for (const auto& entry : fs::directory_iterator(runs, failed)) {
    const std::string name = entry.path().filename().string();
    if (!is_run_id(name) || !fs::exists(entry.path() / "events.jsonl", failed)) continue;
    const auto changed = entry.last_write_time(failed);
    const std::string_view second = std::string_view(name).substr(0, name.rfind('-'));
    const std::string known = last.filename().string();
    const std::string_view latest = std::string_view(known).substr(0, known.rfind('-'));
    if (!last.empty() && (second < latest || (second == latest && changed < when))) continue;
    last = entry.path();
    when = changed;
  }
  return last;
}

/// The one whose id this is, or begins; of several, none, which is told.
fs::path whole_id(const fs::path& runs, const std::string& beginning) {
  std::error_code failed;
  if (fs::exists(runs / beginning, failed)) return runs / beginning;
  std::vector<fs::path> meant;
  for (const auto& entry : fs::directory_iterator(runs, failed)) {
    const std::string name = entry.path().filename().string();
    if (is_run_id(name) && name.starts_with(beginning)) meant.push_back(entry.path());
  }
  if (meant.size() == 1) return meant.front();
  if (meant.size() > 1) {
    complain(fmt::format("{} begins the ids of {} runs; `squall runs` lists them", beginning,
                         meant.size()));
  }
  return runs / beginning;
}

}  // namespace

std::string runs_folder(const Invocation& said) {
  return said.runs_dir.empty() ? default_state_dir() + "/runs" : said.runs_dir;
}

fs::path run_folder(const Invocation& said, const std::string& named) {
  std::error_code failed;
  if (named == kLastRun && !fs::exists(named, failed)) return last_run(runs_folder(said));
  if (!is_run_id(named) || fs::exists(named, failed)) return named;
  return whole_id(runs_folder(said), named);
}

fs::path log_of(const Invocation& said, const std::string& named) {
  const fs::path found = run_folder(said, named);
  std::error_code failed;
  return found != named || fs::is_directory(found, failed) ? found / "events.jsonl" : found;
}

void complain(const std::string& message) { std::fprintf(stderr, "squall: %s\n", message.c_str()); }

int init(const Invocation& said) {
  const std::string file = said.files.empty() ? "plan.yaml" : said.files.front();
  const Fd made(open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, 0644));
  if (!made.is_open()) {
    complain(errno == EEXIST ? file + " is there already; name another file"
                             : message_of(from_errno("cannot make " + file, errno)));
    return kRefused;
  }
  std::string_view text = kFirstPlan;
  while (!text.empty()) {
    const ssize_t written = write(made.number(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      complain(message_of(from_errno("cannot write " + file, errno)));
      return kInternal;
    }
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  print("made " + file + "; next:\n  squall validate " + file + "\n  squall plan " + file +
        "\n  squall run " + file + "\n");
  return kSuccess;
}

int validate(const Invocation& said) {
  std::vector<Diagnostics> files;
  for (const std::string& file : said.files) {
    if (is_resolved(file)) {
      Diagnostics& told = files.emplace_back();
      told.file = file;
      if (!said.given.set.empty() || !said.given.params_files.empty()) {
        told.error({}, "in this file all is chosen", "leave --set and --params out");
      }
      const auto resolved = read_resolved(file);
      if (resolved.ok()) continue;
      // The message begins with the file, as the diagnostic does.
      told.error({}, message_of(resolved.status()).substr(file.size() + 2));
      continue;
    }
    plan::Loaded loaded = plan::load_file(file, said.given);
    if (loaded.plan) {
      // Any seed will do: how many nodes a step takes does not depend on it.
      const auto schedule = run::make_schedule(*loaded.plan, 0);
      if (!schedule.ok()) loaded.diagnostics.error({}, message_of(schedule.status()));
    }
    files.push_back(std::move(loaded.diagnostics));
  }
  annotate(files);
  bool valid = true;
  for (const Diagnostics& file : files) valid = valid && !file.has_errors();
  if (said.output == "json") {
    print(diagnostics_json(files));
    return valid ? kSuccess : kRefused;
  }
  for (const Diagnostics& file : files) {
    const std::string text = format_diagnostics(file, report::style_of(STDERR_FILENO).colour);
    std::fwrite(text.data(), 1, text.size(), stderr);
    if (!file.has_errors()) print(escape_controls(file.file) + " is valid\n");
  }
  return valid ? kSuccess : kRefused;
}

int explain(const Invocation& said) {
  if (!said.markdown_folder.empty()) return write_reference(said.markdown_folder);
  if (said.word.empty()) {
    for (const std::string& word : plan::explainable()) print(word + "\n");
    return kSuccess;
  }
  const auto page = plan::explain(said.word);
  if (!page.ok()) {
    complain(message_of(page.status()));
    return kRefused;
  }
  print(page->ends_with("\n") ? *page : *page + "\n");
  return kSuccess;
}

int schema(const Invocation&) {
  print(plan::json_schema());
  return kSuccess;
}

int import_experiment(const Invocation& said) {
  const bool is_command = said.files.size() > 1;
  if (is_command && said.from != "pumba" && said.from != "chaosblade") {
    complain("one file at a time; a command line needs --from pumba or --from chaosblade");
    return kRefused;
  }
  const importing::Imported imported = is_command
                                           ? importing::import_command(said.files, said.from)
                                           : importing::import_file(said.files.front(), said.from);
  if (!imported.plan) {
    const std::string text =
        format_diagnostics(imported.diagnostics, report::style_of(STDERR_FILENO).colour);
    std::fwrite(text.data(), 1, text.size(), stderr);
    return kRefused;
  }
  print(*imported.plan);
  if (imported.is_complete()) return kSuccess;
  complain(fmt::format("not mapped: {}, to decide: {}; each has its comment in the plan",
                       imported.not_mapped, imported.to_decide));
  return kNo;
}

int report(const Invocation& said) {
  if (said.run == kLastRun && run_folder(said, said.run).empty()) {
    complain("there is no run yet in " + runs_folder(said));
    return kRefused;
  }
  const fs::path log = log_of(said, said.run);
  const auto story = report::read_story(log);
  if (!story.ok()) {
    complain(message_of(story.status()));
    return kRefused;
  }
  if (!story->started) {
    complain(log.string() + ": no event in it");
    return kRefused;
  }
  if (said.format == "json") {
    print(report::json_report(*story));
  } else if (said.format == "junit") {
    print(report::junit_report(*story));
  } else if (said.format == "html") {
    print(report::html_report(*story));
  } else if (said.format == "md") {
    print(report::markdown_report(*story));
  } else if (said.format == "github") {
    print(report::github_report(*story));
  } else {
    print(report::text_report(*story, report::style_of(STDOUT_FILENO), {{"log", log}}));
  }
  return kSuccess;
}

}  // namespace squall::cli
