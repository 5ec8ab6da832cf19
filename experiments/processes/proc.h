/// \file
/// What /proc says of one process. Everything that is read of it comes through its opened folder,
/// which belongs to the process and not to its number: once it has ended, nothing is read any more,
/// whoever has the number then.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/fd.h"

namespace squall {

/// Of /proc/PID/stat, the process's own or that of one of its threads.
struct Stat {
  std::string name;
  char state = '?';
  std::uint32_t parent = 0;
  std::uint64_t flags = 0;
  std::uint32_t threads = 0;     ///< Of its process, a dead main thread included.
  std::uint64_t start_time = 0;  ///< In ticks of sysconf(_SC_CLK_TCK) since the machine started.
  std::uint64_t cpu_time = 0;    ///< In the same ticks: what it has used, in user and kernel mode.
  std::uint64_t resident = 0;    ///< Pages.

  /// Dead, though perhaps nobody has waited for it yet.
  bool is_dead() const { return state == 'X' || state == 'Z'; }
  bool is_kernel_thread() const;
};

/// One control group of a process: which hierarchies it is of, and its path there.
struct CgroupLine {
  std::string controllers;  ///< Empty for v2.
  std::string path;

  /// Those in which systemd keeps its units: v2, and v1's that it made for itself.
  bool is_of_systemd() const { return controllers.empty() || controllers == "name=systemd"; }
};

/// The folder of one process.
class ProcFolder {
 public:
  /// Nothing if there is no such process.
  static std::optional<ProcFolder> open(std::uint32_t pid);

  std::uint32_t pid() const { return pid_; }

  /// The file's text, at most `most` bytes of it; nothing if the process is gone.
  std::optional<std::string> read(const std::string& file, std::size_t most = 1U << 22U) const;

  std::optional<Stat> stat() const { return stat_in("stat"); }
  std::optional<Stat> stat_of_thread(std::uint32_t tid) const;

  /// /proc/PID/comm.
  std::optional<std::string> name() const;

  /// Its arguments, joined by blanks; empty for a kernel thread.
  std::optional<std::string> arguments() const;

  /// The number behind a word of /proc/PID/status, the `which`th of several.
  std::optional<std::uint32_t> status_number(std::string_view word, int which = 0) const;

  std::optional<ino_t> network_namespace() const;
  std::vector<CgroupLine> cgroups() const;

  /// The targets of its descriptors, as /proc shows them: "socket:[123]".
  std::vector<std::string> descriptors() const;
  std::vector<std::uint32_t> descriptor_numbers() const { return numbers_in("fd"); }

  /// The ids of its threads, sorted. Empty if it is gone.
  std::vector<std::uint32_t> threads() const { return numbers_in("task"); }

  /// The program that it runs: device and inode of the file, and its path as /proc shows it.
  struct Program {
    dev_t device = 0;
    ino_t inode = 0;
    std::string path;

    /// The file's name, also where the file has been replaced since the program was started.
    std::string_view name() const;

    bool is_same_file(const Program& other) const {
      return device == other.device && inode == other.inode;
    }
  };
  std::optional<Program> program() const;

 private:
  ProcFolder(std::uint32_t pid, Fd folder) : pid_(pid), folder_(std::move(folder)) {}

  std::optional<Stat> stat_in(const std::string& file) const;
  std::vector<std::string> entries(const char* folder) const;
  std::vector<std::uint32_t> numbers_in(const char* folder) const;

  std::uint32_t pid_;
  Fd folder_;
};

/// Every process, sorted.
std::vector<std::uint32_t> all_pids();

/// A number, if that is all the text is.
std::optional<std::uint64_t> to_number(std::string_view text, int base = 10);

}  // namespace squall
