#include "injector/faults/protected.h"

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

}  // namespace

std::string Protection::why(const ProcFolder& process, const Stat& stat) const {
  if (process.pid() == 1) return "PID 1";
  if (stat.is_kernel_thread()) return "a kernel thread";
  if (ourselves_.is_in_line(process.pid())) return "squall's own or its ancestor";
  if (ourselves_.is_program(process, stat)) return "squall's own";
  if (const auto words = words_for(stat.name); !words.empty()) return std::string(words);
  if (const auto program = process.program()) {
    if (const auto words = words_for(program->name()); !words.empty()) {
      return std::string(words);
    }
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

}  // namespace squall::hold
