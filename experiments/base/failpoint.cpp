#include "experiments/base/failpoint.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>

#include "experiments/base/fd.h"

namespace squall::failpoints {
namespace {

std::set<std::string_view>& enlisted() {
  static std::set<std::string_view> all;
  return all;
}

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// What the environment said when the first point was passed.
struct Armed {
  std::string name = setting("SQUALL_FAILPOINT");
  std::string notes = setting("SQUALL_FAILPOINT_NOTES");
  std::atomic<long> left = 1;
  bool any = !name.empty() || !notes.empty();

  Armed() {
    const std::size_t colon = name.find(':');
    if (colon == std::string::npos) return;
    left = std::strtol(name.c_str() + colon + 1, nullptr, 10);
    name.resize(colon);
  }
};

void note(const std::string& file, std::string_view name) {
  const Fd notes(::open(file.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  const std::string line = std::to_string(::getpid()) + " " + std::string(name) + "\n";
  // A line that is missing fails the test that reads them.
  static_cast<void>(!::write(notes.number(), line.data(), line.size()));
}

}  // namespace

void print() {
  for (const std::string_view name : enlisted()) std::puts(std::string(name).c_str());
}

bool enlist(std::string_view name) { return enlisted().insert(name).second; }

void pass(std::string_view name) {
  static Armed armed;
  if (!armed.any) return;
  if (!armed.notes.empty()) note(armed.notes, name);
  if (name != armed.name || --armed.left != 0) return;
  ::kill(::getpid(), SIGKILL);
  for (;;) ::pause();  // the signal is on its way
}

}  // namespace squall::failpoints
