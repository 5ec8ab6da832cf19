/// \file
/// A PostgreSQL server of a test's own, reached by a unix socket in its folder, and replicas of it.
/// It ends with the object, or with the test program, and leaves nothing.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/folder.h"
#include "tests/support/process.h"

namespace squall::support {

/// Whether there is one to start, and a user for it to run as.
bool has_postgres();

class PostgresServer {
 public:
  /// Returns when it serves; throws std::runtime_error with what it said when it does not.
  /// `where`: null: the caller's network namespace. `settings`: name=value, beside what keeps it
  /// small. Everybody is trusted, but for the role `locked`, which needs its password.
  explicit PostgresServer(const Namespace* where = nullptr, std::vector<std::string> settings = {});

  /// One that streams from this, with the same settings; this must outlive it.
  std::unique_ptr<PostgresServer> replica() const;

  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  /// Of its socket.
  const std::filesystem::path& folder() const { return folder_.path(); }
  std::filesystem::path data() const { return folder_.path() / "data"; }
  Process& process() { return *process_; }

  /// Those that it has started: the backends, and its own.
  std::vector<pid_t> children() const;

  /// A signal to all of it.
  void signal(int number) const;

  /// Ends it at once.
  void stop();

  /// After `stop`.
  void start();

  Command psql(const std::vector<std::string>& words) const;

  struct Ended {
    int status = -1;
    std::string out;
    std::string err;
  };

  /// Of a client that comes for this alone.
  Ended ask(const std::string& sql) const;

 private:
  PostgresServer(const Namespace* where, std::vector<std::string> settings,
                 const PostgresServer* primary);

  Command command(std::vector<std::string> argv) const;
  Command as_postgres(const std::string& program, const std::vector<std::string>& words) const;
  void make_data(const PostgresServer* primary) const;

  /// Ends at once, but so that it removes its shared memory and ends its processes.
  struct Postmaster : Process {
    using Process::Process;
    ~Postmaster();
  };

  const Namespace* where_;
  std::vector<std::string> settings_;
  TemporaryFolder folder_;
  std::filesystem::path programs_;
  std::unique_ptr<Postmaster> process_;
};

}  // namespace squall::support
