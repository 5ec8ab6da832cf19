/// \file
/// Programs that the bench starts, and the network namespaces it lives in.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/clock.h"

namespace squall::bench {

/// A started program. Its destructor ends it (SIGTERM, after 5 s SIGKILL) and waits for it.
class Process {
 public:
  /// Found along PATH. Output and errors go to /dev/null unless `verbose`; it dies with the bench.
  /// Throws std::runtime_error.
  explicit Process(const std::vector<std::string>& argv, bool verbose = false);
  Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Process& operator=(Process&&) = delete;
  ~Process();

  pid_t pid() const { return pid_; }

  /// Waits for its end: the exit code, or 128 + the signal.
  int wait();

 private:
  pid_t pid_ = -1;
};

/// Starts it and waits: posix_spawn to the end of waitpid. Throws unless it exits with `code`.
Duration timed(const std::vector<std::string>& argv, int code = 0);

struct Usage {
  Duration took;
  std::size_t peak_bytes = 0;  ///< Resident at the most.
};

/// The same, with the memory that it took; throws unless it exits with 0.
Usage usage_of(const std::vector<std::string>& argv);

/// Runs it; throws unless it exits with 0.
void must(const std::vector<std::string>& argv);

/// Runs it; its standard output. Throws unless it exits with 0.
std::string output_of(const std::vector<std::string>& argv);

/// utime + stime of all its threads, in clock ticks. Source: proc(5), fields 14 and 15.
long ticks(pid_t pid);

std::vector<pid_t> children(pid_t pid);

/// A temporary folder of its own, removed with it.
class Folder {
 public:
  Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder();

  /// Returns the file's path.
  std::string write(const std::string& name, const std::string& text) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// The bench's own two hosts: moves the calling process into a new network namespace that has lo
/// and eth0 (10.78.0.1/24), whose other end (eth0, 10.78.0.2/24) is in a second one. Both end with
/// the process.
class TwoHosts {
 public:
  TwoHosts();
  ~TwoHosts();
  TwoHosts(const TwoHosts&) = delete;
  TwoHosts& operator=(const TwoHosts&) = delete;

  /// A socket of the far host.
  int far_socket(int type) const;

  static constexpr const char* kNear = "10.78.0.1";
  static constexpr const char* kFar = "10.78.0.2";

 private:
  int near_ = -1;
  int far_ = -1;
};

}  // namespace squall::bench
