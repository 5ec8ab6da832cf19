#include "tests/support/postgres.h"

#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <system_error>
#include <utility>

#include "tests/support/eventually.h"

namespace squall::support {
namespace {

constexpr Duration kBound = std::chrono::seconds(60);

/// Where Debian has the newest; empty if nowhere. What is on PATH are wrappers for its clusters.
std::filesystem::path folder_of_programs() {
  std::filesystem::path newest;
  int version = 0;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", none)) {
    const int found = std::atoi(entry.path().filename().c_str());
    if (found <= version || !std::filesystem::exists(entry.path() / "bin/postgres")) continue;
    version = found;
    newest = entry.path() / "bin";
  }
  return newest;
}

void end(const Command& command) {
  Process process(command);
  if (process.wait(kBound) == 0) return;
  throw std::runtime_error(command.argv.at(5) + ": " + process.err());
}

}  // namespace

bool has_postgres() { return !folder_of_programs().empty() && ::getpwnam("postgres") != nullptr; }

PostgresServer::PostgresServer(const Namespace* where, std::vector<std::string> settings)
    : PostgresServer(where, std::move(settings), nullptr) {}

PostgresServer::PostgresServer(const Namespace* where, std::vector<std::string> settings,
                               const PostgresServer* primary)
    : where_(where), settings_(std::move(settings)), programs_(folder_of_programs()) {
  make_data(primary);
  start();
}

std::unique_ptr<PostgresServer> PostgresServer::replica() const {
  return std::unique_ptr<PostgresServer>(new PostgresServer(where_, settings_, this));
}

std::vector<pid_t> PostgresServer::children() const {
  return children_of(process_->pid(), "postgres");
}

void PostgresServer::signal(int number) const {
  process_->signal(number);
  for (const pid_t child : children()) ::kill(child, number);
}

void PostgresServer::stop() { process_.reset(); }

void PostgresServer::start() {
  // So little memory that a table is read from its files, and nothing but what is asked for.
  std::vector<std::string> words;
  for (const std::string& setting :
       {std::string("listen_addresses="), "unix_socket_directories=" + folder().native(),
        std::string("shared_buffers=1MB"), std::string("dynamic_shared_memory_type=mmap"),
        std::string("max_connections=20"), std::string("autovacuum=off")}) {
    words.insert(words.end(), {"-c", setting});
  }
  for (const std::string& setting : settings_) words.insert(words.end(), {"-c", setting});
  process_ = std::make_unique<Postmaster>(as_postgres("postgres", words));
  const bool serves = eventually([&] { return ask("select 1").status == 0; }, kBound,
                                 std::chrono::milliseconds(50));
  if (!serves) throw std::runtime_error("postgres: " + process_->err());
}

Command PostgresServer::psql(const std::vector<std::string>& words) const {
  Command made = command({(programs_ / "psql").native(), "--no-psqlrc", "--no-align",
                          "--tuples-only", "--quiet", "--host", folder().native(), "--username",
                          "postgres", "--dbname", "postgres"});
  made.argv.insert(made.argv.end(), words.begin(), words.end());
  return made;
}

PostgresServer::Ended PostgresServer::ask(const std::string& sql) const {
  Process client(psql({"--command", sql}));
  const int status = client.wait(kBound).value_or(-1);
  return {status, client.out(), client.err()};
}

Command PostgresServer::command(std::vector<std::string> argv) const {
  Command made;
  made.argv = std::move(argv);
  made.where = where_;
  made.environment = {{"LC_ALL", "C"}};
  return made;
}

/// Neither initdb nor postgres runs as root. Whatever becomes of the test, the server ends with it.
Command PostgresServer::as_postgres(const std::string& program,
                                    const std::vector<std::string>& words) const {
  const passwd& user = *::getpwnam("postgres");
  std::vector<std::string> argv = {"setpriv",
                                   "--reuid=" + std::to_string(user.pw_uid),
                                   "--regid=" + std::to_string(user.pw_gid),
                                   "--clear-groups",
                                   "--pdeathsig=QUIT",
                                   (programs_ / program).native(),
                                   "-D",
                                   data().native()};
  argv.insert(argv.end(), words.begin(), words.end());
  return command(std::move(argv));
}

void PostgresServer::make_data(const PostgresServer* primary) const {
  const passwd& user = *::getpwnam("postgres");
  if (::chown(folder().c_str(), user.pw_uid, user.pw_gid) != 0) {
    throw std::runtime_error("cannot give a folder to postgres");
  }
  if (primary != nullptr) {
    end(as_postgres("pg_basebackup",
                    {"--host", primary->folder().native(), "--username", "postgres",
                     "--write-recovery-conf", "--checkpoint=fast", "--no-sync"}));
    return;
  }
  end(as_postgres("initdb", {"--username=postgres", "--auth=trust", "--no-locale",
                             "--encoding=UTF8", "--no-sync"}));
  std::ofstream(data() / "pg_hba.conf") << "local all locked scram-sha-256\n"
                                           "local all all trust\n"
                                           "local replication all trust\n";
}

PostgresServer::Postmaster::~Postmaster() {
  signal(SIGQUIT);
  signal(SIGCONT);  // a frozen one would not hear it
  wait(kBound);
}

}  // namespace squall::support
