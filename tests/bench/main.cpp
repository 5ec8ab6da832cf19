/// \file
/// squall_bench --bin DIR [--json FILE] [--only SECTION,…] [--quick]: prints what was measured
/// beside its targets.
#include <csignal>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
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
    {"faults", squall::bench::measure_faults},
    {"relay", squall::bench::measure_relay},
    {"through", squall::bench::measure_throughput},
    {"validate", squall::bench::measure_validate},
    {"run", squall::bench::measure_run},
    {"abort", squall::bench::measure_abort},
    {"idle", squall::bench::measure_idle},
};

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
