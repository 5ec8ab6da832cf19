#include "controller/cli/github.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string_view>

#include "controller/cli/commands.h"
#include "controller/report/github.h"

namespace squall::cli {
namespace {

namespace fs = std::filesystem;

/// GitHub knows files by their paths in the repository.
std::string in_repository(const std::string& file) {
  const char* const workspace = std::getenv("GITHUB_WORKSPACE");
  if (workspace == nullptr || *workspace == '\0') return file;
  std::error_code failed;
  const fs::path whole = fs::weakly_canonical(file, failed);
  if (failed) return file;
  const fs::path root = fs::weakly_canonical(workspace, failed);
  if (failed) return file;
  const fs::path within = whole.lexically_relative(root);
  return within.empty() || *within.begin() == ".." ? file : within.string();
}

/// The runner reads both streams; a line of ours must not end one of others.
void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

/// A file that the runner names, and other steps have written to.
void append(const char* variable, const std::string& text) {
  const char* const path = std::getenv(variable);
  if (path == nullptr || *path == '\0') return;
  std::ofstream file(path, std::ios::binary | std::ios::app);
  file << text;
  file.close();
  if (!file) complain(fmt::format("cannot write to ${}, {}", variable, escape_controls(path)));
}

/// Nothing of what is no plan: a pipe would be waited for, and a device has no end.
std::string text_of(const std::string& path) {
  constexpr std::size_t kMost = std::size_t{4} << 20;
  std::error_code failed;
  if (!fs::is_regular_file(path, failed) || fs::file_size(path, failed) > kMost) return "";
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

bool in_github_actions() {
  const char* const set = std::getenv("GITHUB_ACTIONS");
  return set != nullptr && std::string_view(set) == "true";
}

void annotate(std::span<const Diagnostics> files) {
  if (!in_github_actions()) return;
  std::string out;
  for (const Diagnostics& file : files) {
    for (const Diagnostic& found : file.found) {
      const Place& place = found.place;
      const bool is_placed = place.line > 0;
      const auto number = [&](std::size_t n) { return is_placed ? std::to_string(n) : ""; };
      out += report::workflow_command(
          found.severity == Severity::kError ? "error" : "warning",
          {{"file", in_repository(file.file_of(place))},
           {"line", number(place.line)},
           {"endLine", number(place.line)},
           {"col", number(place.column)},
           {"endColumn", number(place.column + std::max<std::size_t>(place.length, 1))}},
          found.hint.empty() ? found.summary : found.summary + "\n" + found.hint);
    }
  }
  print(out);
}

void tell_github(const report::Story& story) {
  if (!in_github_actions()) return;
  const std::string& file = story.run.file();
  print(report::github_annotations(story, in_repository(file), text_of(file)));
  append("GITHUB_STEP_SUMMARY", report::github_summary(story) + "\n");
  const std::uint32_t code = story.ended ? story.ended->exit_code() : kInternal;
  append("GITHUB_OUTPUT", fmt::format("verdict={}\nexit_code={}\nrun={}\n", story.verdict(), code,
                                      escape_controls(story.run.run())));
}

}  // namespace squall::cli
