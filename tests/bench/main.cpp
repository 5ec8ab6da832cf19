/// \file
/// squall_bench --bin DIR [--json FILE] [--only SECTION,…] [--quick]: prints what was measured
/// beside its targets.
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>

#include "tests/bench/sections.h"

namespace {

using squall::bench::Bench;

struct Section {
  const char* name;
  void (*measure)(Bench&);
};

constexpr Section kSections[] = {
    {"faults", squall::bench::measure_faults},     {"cpu", squall::bench::measure_cpu},
    {"match", squall::bench::measure_match},       {"netem", squall::bench::measure_netem},
    {"relay", squall::bench::measure_relay},       {"through", squall::bench::measure_throughput},
    {"validate", squall::bench::measure_validate}, {"run", squall::bench::measure_run},
    {"abort", squall::bench::measure_abort},       {"idle", squall::bench::measure_idle},
    {"load", squall::bench::measure_load},         {"checks", squall::bench::measure_checks},
    {"report", squall::bench::measure_report},
};

constexpr std::string_view kLabCase = "netem";

/// What squall-lab asks of a test program: its cases, and then each of them.
std::optional<int> run_in_lab(std::string_view word) {
  if (word == "--list-test-cases") {
    std::printf("%s\n", kLabCase.data());
    return 0;
  }
  if (word != "--test-case=" + std::string(kLabCase)) return std::nullopt;
  const squall::bench::TwoHosts hosts;
  squall::bench::Table table;
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  Bench bench{self.parent_path().parent_path() / "bin", hosts, table, false};
  squall::bench::measure_netem_in_lab(bench);
  std::fputs(table.json().c_str(), stdout);
  return 0;
}

int usage() {
  std::fputs(
      "usage: squall_bench [--bin DIR] [--json FILE] [--only SECTION[,SECTION]] "
      "[--quick]\nsections:",
      stderr);
  for (const Section& section : kSections) std::fprintf(stderr, " %s", section.name);
  std::fputs("\n", stderr);
  return 2;
}

int run(int argc, char** argv) {
  std::string bin = "build/bin";
  std::string json;
  std::string only;
  bool quick = false;
  if (argc == 2) {
    if (const auto done = run_in_lab(argv[1])) return *done;
  }
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--quick") {
      quick = true;
    } else if (i + 1 < argc && word == "--bin") {
      bin = argv[++i];
    } else if (i + 1 < argc && word == "--json") {
      json = argv[++i];
    } else if (i + 1 < argc && word == "--only") {
      only = std::string(",") + argv[++i] + ",";
    } else {
      return usage();
    }
  }
  ::signal(SIGPIPE, SIG_IGN);
  const squall::bench::TwoHosts hosts;
  squall::bench::Table table;
  Bench bench{std::filesystem::absolute(bin), hosts, table, quick};
  for (const Section& section : kSections) {
    if (!only.empty() && only.find(std::string(",") + section.name + ",") == std::string::npos)
      continue;
    std::fprintf(stderr, "measuring %s ...\n", section.name);
    try {
      section.measure(bench);
    } catch (const std::exception& problem) {
      table.missing(section.name, problem.what());
    }
  }
  table.print();
  if (!json.empty()) {
    std::ofstream out(json);
    out << table.json();
    out.close();
    if (!out) {
      std::fprintf(stderr, "squall_bench: cannot write %s\n", json.c_str());
      return 1;
    }
  }
  return table.reached() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "squall_bench: %s\n", problem.what());
    return 1;
  }
}
