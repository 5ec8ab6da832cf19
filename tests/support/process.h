/// \file
/// Programs under test: started in a namespace, held by pidfd, ended with the object whatever
/// happens to the test.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::support {

class Namespace;

/// Where the build put `squall`, `squalld` and `squall-hold`; $SQUALL_BIN_DIR overrides it.
std::string binary(const std::string& name);

/// What to start and how.
struct Command {
  std::vector<std::string> argv;     ///< argv[0] is a path, or found on PATH.
  const Namespace* where = nullptr;  ///< Null: the caller's own.
  std::vector<std::pair<std::string, std::string>> environment;  ///< Beside the caller's.
  std::vector<std::pair<int, int>> descriptors;  ///< (ours, its number there), beside 0, 1 and 2.
};

/// Puts this process and what it starts before whatever else the machine is doing, as far as it
/// may: a test of times is no test of that.
void go_first();

/// One child. Its standard input is empty; what it writes is kept, however much it is.
class Process {
 public:
  /// Throws std::runtime_error when it cannot be started.
  explicit Process(const Command& command);
  Process(Process&& other) noexcept;
  Process& operator=(Process&&) = delete;

  /// Ends it with SIGKILL, if it still runs, and waits for it.
  ~Process();

  pid_t pid() const { return pid_; }
  void signal(int number) const;
  bool running();

  /// Its exit status, or 128 + the signal that ended it; nothing if it still runs after `bound`.
  std::optional<int> wait(Duration bound);

  std::string out() const;
  std::string err() const;

 private:
  pid_t pid_ = -1;
  int pidfd_ = -1;
  int out_ = -1;
  int err_ = -1;
  std::optional<int> status_;
};

/// Runs it to its end. Throws std::runtime_error with its output unless it ends with status 0
/// within 10 s.
std::string run(const Command& command);

/// A process that is not our child, by pidfd: of a number that is used again, nothing here is true.
class Stranger {
 public:
  explicit Stranger(pid_t pid);
  Stranger(Stranger&& other) noexcept;
  Stranger& operator=(Stranger&& other) noexcept;
  ~Stranger();

  pid_t pid() const { return pid_; }
  void signal(int number) const;

  /// Whether it ended within the bound; a dead child that nobody has waited for counts as ended.
  bool ends(Duration bound) const;

 private:
  pid_t pid_;
  int pidfd_;
};

/// The children of a process whose name (/proc/PID/comm) is `name`; ended ones are left out.
std::vector<pid_t> children_of(pid_t parent, const std::string& name);

}  // namespace squall::support
