/// \file
/// The commands of squall: what the command line said, and what each does with it. The line itself
/// is read in main.cpp, by one table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "experiments/plan/by_hand.h"
#include "experiments/plan/load.h"

namespace squall::cli {

/// What was written on the command line, or in the environment where it was silent.
struct Invocation {
  std::vector<std::string> files;  ///< validate: the plans. run, plan, nodes: the first. halt,
                                   ///< revert: where. import: or words. compare: the two runs.
  std::string word;                ///< explain.
  std::string markdown_folder;     ///< explain: where all pages go as Markdown; empty: nowhere.
  std::string run;                 ///< report, note: a run's id, a path, or last.
  std::string output = "text";     ///< text or json: the result, on standard output.
  std::string format = "text";     ///< report: text, json, junit and so on, as `output` is to others.
  std::string reason;              ///< halt, resume: why, in words.
  std::string from;                ///< import: the format, or empty.
  std::string tls_dir;
  std::string runs_dir;  ///< Empty: `runs` in the state directory.
  std::string replay;    ///< A run's id, or its folder.
  std::string out_file;  ///< plan: the plan with everything chosen is written here.
  std::string json_file;
  std::string junit_file;
  std::string html_file;
  std::string md_file;
  std::optional<std::uint64_t> seed;
  plan::Given given;
  plan::ByHand by_hand;  ///< inject.
  bool all = false;      ///< revert.
  std::string kind;      ///< note: detected, mitigated, recovered, or empty.
  std::string text;      ///< note: what was seen.
  std::string tolerance = "10%";  ///< compare: by how much a figure may be worse,
  std::string floor = "10ms";     ///< and how small a difference of times is nothing.
  bool force = false;             ///< compare: runs of different plans as well.
  std::vector<std::string>
      webhooks;  ///< run: who is told beside the terminal. URLs may be secrets.
  std::string slack;
  std::string grafana;
  std::string metrics;  ///< run: where its metrics are served; empty: nowhere.
  /// runs: which, and how they are told.
  struct Runs {
    std::string plan;
    std::string verdict;
    std::string since;
    std::vector<std::string> tags;
    std::size_t limit = 50;
    std::string by;
    bool rebuild = false;
  } runs;
  std::string no_input;  ///< What an `ask` comes to where nobody is to be asked: skip or fail.
};

/// All return the exit code. Results go to standard output, all else to standard error.
int run_plan(const Invocation& said);
int plan(const Invocation& said);
int init(const Invocation& said);
int validate(const Invocation& said);
int explain(const Invocation& said);
int schema(const Invocation& said);
int import_experiment(const Invocation& said);
int nodes(const Invocation& said);
int halt(const Invocation& said);
int resume(const Invocation& said);
int revert(const Invocation& said);
int inject(const Invocation& said);
int note(const Invocation& said);
int report(const Invocation& said);
int compare(const Invocation& said);
int runs(const Invocation& said);

/// Exit codes that more than one command has.
inline constexpr int kSuccess = 0;
inline constexpr int kNo = 1;
inline constexpr int kRefused = 2;
inline constexpr int kUnreachable = 4;
inline constexpr int kResidue = 5;
inline constexpr int kInternal = 70;

/// The folder of all runs.
std::string runs_folder(const Invocation& said);

/// How the run that began last is named.
inline constexpr const char* kLastRun = "last";

/// Of a run that is named by its id, by the beginning of one that no other has, or the last one;
/// any other name is a path already. Empty: there is no last one.
std::filesystem::path run_folder(const Invocation& said, const std::string& named);

/// Says what is wrong with the plan; none if it cannot be walked.
std::optional<v1::Plan> load_plan(const std::string& file, const plan::Given& given);

/// The log that is meant by a run's id, a run's folder or a log's path.
std::filesystem::path log_of(const Invocation& said, const std::string& named);

/// squall: message, on standard error.
void complain(const std::string& message);

}  // namespace squall::cli
