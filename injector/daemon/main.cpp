/// \file
/// squalld: the node daemon's command line.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/base/state.h"
#include "injector/daemon/daemon.h"
#include "injector/daemon/doctor.h"
#include "injector/daemon/log.h"
#include "injector/daemon/state_dir.h"

namespace {

constexpr int kUsage = 2;
constexpr int kResidue = 5;

constexpr const char* kHelp = R"(squalld: the node daemon of Squall

examples:
  squalld                                      serve this node on a unix socket in the state directory
  squalld --listen 10.0.0.11:7411 --tls-dir /etc/squall/tls
                                               serve controllers elsewhere, by mutual TLS
  squalld --state-dir /tmp/sq --log-level debug
                                               try it out beside another one
  squalld doctor                               every object of Squall's on this node, and who answers for it
  squalld sweep                                remove those that nobody answers for

Takes faults from squall and holds them, each in a squall-hold of its own, for as long as their controller renews its
lease. At its start it first undoes what an earlier one left behind. SIGTERM, SIGINT and SIGHUP revert everything.
Guardrails are read once, at the start.
)";

int failed(const squall::Status& status) {
  std::fprintf(stderr, "squalld: %s\n", squall::message_of(status).c_str());
  return status.code() == squall::StatusCode::kInvalidArgument ? kUsage : EXIT_FAILURE;
}

int print_diagnosis(const squall::daemon::Options& options) {
  const auto diagnosis = squall::daemon::diagnose(options);
  if (!diagnosis.ok()) return failed(diagnosis.status());
  const std::string who =
      diagnosis->daemon.empty() ? "no squalld" : "squalld with pid " + diagnosis->daemon;
  std::printf("%s serves %s\n", who.c_str(), options.state_dir.c_str());
  for (const auto& object : diagnosis->objects) {
    const char* owner = !object.owner.empty() ? object.owner.c_str()
                        : object.ours         ? "NOBODY answers for it"
                                              : "of another state directory";
    std::printf("%s: %s\n", object.words.c_str(), owner);
  }
  for (const std::string& orphan : diagnosis->orphans) {
    std::printf("%s: open in the ledger, and NOBODY holds it\n", orphan.c_str());
  }
  if (diagnosis->is_accounted_for()) {
    std::printf("%zu objects, all accounted for\n", diagnosis->objects.size());
    return EXIT_SUCCESS;
  }
  std::printf("squalld sweep removes what nobody answers for\n");
  return kResidue;
}

int print_sweep(const squall::daemon::Options& options) {
  std::vector<std::string> left;
  const auto done = squall::daemon::sweep(options, left);
  if (!done.ok()) return failed(done.status());
  for (const std::string& line : *done) std::printf("%s\n", line.c_str());
  for (const std::string& line : left) std::printf("left behind: %s\n", line.c_str());
  if (!left.empty()) return kResidue;
  std::printf("nothing is left that nobody answers for\n");
  return EXIT_SUCCESS;
}

std::string beside_this_program(const std::string& name) {
  std::error_code problem;
  const auto own = std::filesystem::read_symlink("/proc/self/exe", problem);
  return problem ? name : (own.parent_path() / name).string();
}

int run(int argc, char** argv) {
  squall::daemon::Options options;
  options.version = SQUALL_VERSION;
  options.state_dir = squall::default_state_dir();
  options.hold = beside_this_program("squall-hold");
  std::string level = "info";

  CLI::App app(kHelp, "squalld");
  app.set_version_flag("--version", "squalld " SQUALL_VERSION);
  app.add_option(
      "--state-dir", options.state_dir,
      "ledger, lock and socket live here (else $SQUALL_STATE_DIR, $XDG_STATE_HOME/squall, "
      "/var/lib/squall)");
  app.add_option("--listen", options.listen,
                 "unix:/path or host:port (default: squalld.sock in the state directory)")
      ->envname("SQUALL_LISTEN");
  app.add_option("--tls-dir", options.tls_dir,
                 "with ca.pem, cert.pem and key.pem; needed for host:port")
      ->envname("SQUALL_TLS_DIR");
  app.add_option("--metrics", options.metrics,
                 "where Prometheus may ask for /metrics: 127.0.0.1:9465, unix:/path, or another "
                 "host:port with --tls-dir (default: nowhere)");
  app.add_option("--hold", options.hold,
                 "the holder's program (default: squall-hold beside this one)");
  app.add_option("--log-level", level, "debug, info, warn or error")->envname("SQUALL_LOG_LEVEL");
  app.add_option("--environment", options.environment,
                 "a plan must name this environment, or it is refused")
      ->envname("SQUALL_ENVIRONMENT");
  app.add_option("--guardrails", options.guardrails,
                 "what faults may do here, whatever a plan asks (default: "
                 "/etc/squall/guardrails.yaml, if it is there)")
      ->envname("SQUALL_GUARDRAILS");
  bool failpoints = false;
  app.add_flag("--failpoints", failpoints, "lists where the tests can make it die");
  app.add_subcommand("doctor",
                     "lists every object of Squall's on this node and who answers for it; exits 5 "
                     "if there is one that nobody does")
      ->fallthrough();
  app.add_subcommand("sweep",
                     "removes what nobody answers for, and exits 5 if something is left; needs no "
                     "daemon")
      ->fallthrough();
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    return app.exit(problem) == 0 ? EXIT_SUCCESS : kUsage;
  }
  if (const squall::Status status = squall::daemon::set_log_level(level); !status.ok()) {
    std::fprintf(stderr, "squalld: %s\n", squall::message_of(status).c_str());
    return kUsage;
  }
  if (failpoints) {
    squall::failpoints::print();
    return EXIT_SUCCESS;
  }
  if (app.got_subcommand("doctor")) return print_diagnosis(options);
  if (app.got_subcommand("sweep")) return print_sweep(options);
  const squall::Status status = squall::daemon::serve(options);
  return status.ok() ? EXIT_SUCCESS : failed(status);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "squalld: %s\n", problem.what());
    return EXIT_FAILURE;
  }
}
