#include "injector/faults/protected.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include "injector/faults/spared.h"

namespace squall::hold {
namespace {

/// A program and what it is called in a refusal. systemd starts squalld again and is asked to put
/// services back, by way of the bus; squalld's log goes to the journal, and a daemon whose log is
/// not read stands still. What else bears systemd's name may well be what an experiment is about.
struct Named {
  std::string_view name;
  std::string_view words;
};

constexpr std::array kNamed{
    Named{"squall", "squall's own"},
    Named{"squalld", "squall's own"},
    Named{"squall-hold", "squall's own"},
    Named{"systemd", "systemd"},
    Named{"systemd-journal", "the journal"},
    Named{"systemd-journald", "the journal"},
    Named{"dbus-daemon", "the bus"},
    Named{"dbus-broker", "the bus"},
    Named{"dbus-broker-lau", "the bus"},
    Named{"dbus-broker-launch", "the bus"},
    Named{"sshd", "sshd"},
};

std::string_view words_for(std::string_view name) {
  if (name.starts_with("sshd-")) return "sshd";  // sshd-session, sshd-auth
  const auto* found = std::find_if(kNamed.begin(), kNamed.end(),
                                   [&](const Named& one) { return one.name == name; });
  return found == kNamed.end() ? std::string_view() : found->words;
}

std::uint32_t parent_of(std::uint32_t pid) {
  const auto process = ProcFolder::open(pid);
  const auto stat = process ? process->stat() : std::nullopt;
  return stat ? stat->parent : 0;
}

/// The name of a program whose file may have been replaced since it was started.
std::string_view file_name(std::string_view path) {
  constexpr std::string_view kDeleted = " (deleted)";
  if (path.ends_with(kDeleted)) path.remove_suffix(kDeleted.size());
  return path.substr(path.rfind('/') + 1);
}

}  // namespace

Protection::Protection() {
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
    for (const char* name : {"squall", "squalld", "squall-hold"}) {
      struct stat found {};
      if (::stat((folder + name).c_str(), &found) != 0) continue;
      programs_.push_back({found.st_dev, found.st_ino, folder + name});
    }
  }
}

std::string Protection::why(const ProcFolder& process, const Stat& stat) const {
  if (process.pid() == 1) return "PID 1";
  if (stat.is_kernel_thread()) return "a kernel thread";
  if (line_.contains(process.pid())) return "squall's own or its ancestor";
  if (const auto words = words_for(stat.name); !words.empty()) return std::string(words);
  if (const auto program = process.program()) {
    if (const auto words = words_for(file_name(program->path)); !words.empty()) {
      return std::string(words);
    }
    if (is_squalls_file(*program) && !is_started_here(process.pid())) return "squall's own";
  }
  return why_protected_process(process.pid(), stat.name);
}

std::string Protection::why_not_with(std::uint32_t pid) const {
  if (pid == 0) return "processes that cannot be seen from squalld's PID namespace";
  const auto process = ProcFolder::open(pid);
  const auto stat = process ? process->stat() : std::nullopt;
  const std::string words = stat ? why(*process, *stat) : "";
  return words.empty() ? "" : "what must live: " + std::to_string(pid) + " is " + words;
}

bool Protection::is_squalls_file(const ProcFolder::Program& program) const {
  return std::any_of(programs_.begin(), programs_.end(),
                     [&](const ProcFolder::Program& one) { return one.is_same_file(program); });
}

/// No holder starts another.
bool Protection::is_started_here(std::uint32_t pid) const {
  const auto self = static_cast<std::uint32_t>(::getpid());
  std::set<std::uint32_t> seen;
  while (pid != 0 && pid != self && seen.insert(pid).second) pid = parent_of(pid);
  return pid == self;
}

}  // namespace squall::hold
