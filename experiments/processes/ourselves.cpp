#include "experiments/processes/ourselves.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace squall {
namespace {

constexpr std::array<std::string_view, 3> kPrograms = {"squall", "squalld", "squall-hold"};

bool is_name(std::string_view name) {
  return std::find(kPrograms.begin(), kPrograms.end(), name) != kPrograms.end();
}

std::uint32_t parent_of(std::uint32_t pid) {
  const auto process = ProcFolder::open(pid);
  const auto stat = process ? process->stat() : std::nullopt;
  return stat ? stat->parent : 0;
}

}  // namespace

Ourselves::Ourselves() {
  for (auto pid = static_cast<std::uint32_t>(::getpid()); pid != 0 && line_.insert(pid).second;) {
    pid = parent_of(pid);
  }
  // Beside a holder, or beside the squalld that started it, stand the others' files.
  for (const pid_t pid : {::getpid(), ::getppid()}) {
    const auto process = ProcFolder::open(static_cast<std::uint32_t>(pid));
    const auto program = process ? process->program() : std::nullopt;
    if (!program) continue;
    if (pid == ::getpid()) programs_.push_back(*program);
    const std::string folder = program->path.substr(0, program->path.rfind('/') + 1);
    for (const std::string_view name : kPrograms) {
      const std::string path = folder + std::string(name);
      struct stat found {};
      if (::stat(path.c_str(), &found) != 0) continue;
      programs_.push_back({found.st_dev, found.st_ino, path});
    }
  }
}

bool Ourselves::is_program(const ProcFolder& process, const Stat& stat) const {
  if (is_name(stat.name)) return true;
  const auto program = process.program();
  if (!program) return false;
  return is_name(program->name()) || (is_file(*program) && !is_started_here(process.pid()));
}

bool Ourselves::is_file(const ProcFolder::Program& program) const {
  return std::any_of(programs_.begin(), programs_.end(),
                     [&](const ProcFolder::Program& one) { return one.is_same_file(program); });
}

/// No holder starts another.
bool Ourselves::is_started_here(std::uint32_t pid) const {
  const auto self = static_cast<std::uint32_t>(::getpid());
  std::set<std::uint32_t> seen;
  while (pid != 0 && pid != self && seen.insert(pid).second) pid = parent_of(pid);
  return pid == self;
}

}  // namespace squall
