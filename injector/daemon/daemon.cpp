#include "injector/daemon/daemon.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "experiments/base/units.h"
#include "experiments/metrics/endpoint.h"
#include "injector/daemon/asking.h"
#include "injector/daemon/guardrails.h"
#include "injector/daemon/journal.h"
#include "injector/daemon/log.h"
#include "injector/daemon/metrics.h"
#include "injector/daemon/node.h"
#include "injector/daemon/server.h"
#include "injector/daemon/spawn.h"
#include "injector/daemon/state_dir.h"
#include "injector/daemon/supervisor.h"

namespace squall::daemon {
namespace {

constexpr Duration kLookPatience = std::chrono::seconds(10);

std::vector<std::string> known_kinds() {
  std::vector<std::string> kinds;
  const auto* choice = v1::Fault::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < choice->field_count(); ++i) kinds.push_back(choice->field(i)->name());
  return kinds;
}

/// What the network faults stand on, where it comes as modules; now and never later, for loading
/// one is a change of the node that no revert takes back. `numifbs=0`, or the ifb module makes two
/// devices nobody asked for.
void load_modules() {
  constexpr const char* kLoader = "/sbin/modprobe";
  utsname kernel{};
  ::uname(&kernel);
  const std::string modules = std::string("/lib/modules/") + kernel.release;
  if (::access(kLoader, X_OK) != 0 || ::access(modules.c_str(), F_OK) != 0) return;
  const std::vector<std::string> wanted[] = {
      {"-q", "ifb", "numifbs=0"},
      {"-q", "-a", "sch_netem", "sch_ingress", "cls_bpf", "act_mirred"},
  };
  for (const std::vector<std::string>& arguments : wanted) {
    const StatusOr<int> code = run_program(kLoader, arguments);
    std::string words;
    for (const std::string& word : arguments) words += ' ' + word;
    log(LogLevel::kInfo,
        "event=modules command=" + quoted(kLoader + words) +
            " exit=" + (code.ok() ? std::to_string(*code) : quoted(message_of(code.status()))));
  }
}

/// Whether the kernel has netem: what a holder would choose for the plainest of network faults.
void look_for_netem(Holders& holders, std::function<void(bool)> found) {
  v1::ToHolder request;
  v1::Fault& fault = *request.mutable_look()->mutable_fault();
  fault.mutable_network()->set_delay(
      std::chrono::nanoseconds(std::chrono::milliseconds(1)).count());
  fault.mutable_network()->set_interface("lo");
  holders.ask(request, kLookPatience, [found = std::move(found)](StatusOr<v1::FromHolder> answer) {
    found(answer.ok() && answer->looked().engine() == v1::NETEM);
  });
}

/// Errors: as Guardrails::load(); kInvalidArgument where they name another environment.
StatusOr<Guardrails> read_guardrails(const Options& options) {
  std::string path = options.guardrails;
  if (path.empty()) {
    struct stat found {};
    // Only where it is certain that there are none, there are none.
    if (::lstat(kGuardrailsFile, &found) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
      return Guardrails();
    }
    path = kGuardrailsFile;
  }
  StatusOr<Guardrails> guardrails = Guardrails::load(path);
  if (!guardrails.ok()) return guardrails;
  if (!options.environment.empty() && !guardrails->environment().empty() &&
      options.environment != guardrails->environment()) {
    return error(StatusCode::kInvalidArgument, "--environment is " + options.environment +
                                                   ", and the guardrails in " + path + " say " +
                                                   guardrails->environment() + "; leave one out");
  }
  log(LogLevel::kInfo, "event=guardrails file=" + quoted(path));
  return guardrails;
}

/// What squalld and its holders stand on: their programs and libraries, the state, the socket.
std::vector<std::string> needed_paths(const Options& options, const std::string& state_dir,
                                      const std::string& address) {
  std::set<std::string> paths{state_dir, options.hold};
  if (address.starts_with("unix:")) paths.insert(address.substr(std::strlen("unix:")));
  if (!options.tls_dir.empty()) paths.insert(options.tls_dir);
  // Hidden, they would hold no longer at the next start.
  paths.insert(options.guardrails.empty() ? kGuardrailsFile : options.guardrails);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::size_t slash = line.find('/');
    if (slash != std::string::npos) paths.insert(line.substr(slash));
  }
  std::vector<std::string> real;
  for (const std::string& path : paths) {
    const std::unique_ptr<char, decltype(&std::free)> whole(::realpath(path.c_str(), nullptr),
                                                            &std::free);
    real.push_back(whole ? whole.get() : path);
  }
  return real;
}

}  // namespace

Status serve(const Options& options) {
  ::umask(0077);
  // A full or limited disk is an error of a write, not the end of the process.
  ::signal(SIGXFSZ, SIG_IGN);
  ::signal(SIGPIPE, SIG_IGN);
  // Each check that is asked from here may hold a few.
  rlimit descriptors{};
  if (::getrlimit(RLIMIT_NOFILE, &descriptors) == 0) {
    descriptors.rlim_cur = descriptors.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &descriptors);
  }
  // Inherited as ignored, the kernel would reap the holders and nobody could say how one ended.
  ::signal(SIGCHLD, SIG_DFL);
  if (::access(options.hold.c_str(), X_OK) != 0) {
    return error(StatusCode::kFailedPrecondition,
                 options.hold + " cannot be run: --hold PATH names the holder's program");
  }
  StatusOr<Guardrails> guardrails = read_guardrails(options);
  StatusOr<StateDir> state = StateDir::open(options.state_dir);
  if (!state.ok()) return state.status();
  const Listen listen{options.listen.empty() ? "unix:" + state->socket() : options.listen,
                      options.tls_dir};
  const StatusOr<std::uint16_t> port = port_of(listen.address);
  if (!port.ok()) return port.status();
  if (*port == 0 && !listen.address.starts_with("unix:")) {
    return error(StatusCode::kInvalidArgument, "port 0: faults must know the port to spare");
  }

  if (!options.metrics.empty()) {
    const Status fits = metrics::check_address(options.metrics, options.tls_dir);
    if (!fits.ok()) return in_context("--metrics", fits);
  }

  load_modules();
  Loop loop;
  Supervisor supervisor(loop);  // before any holder is started
  std::optional<int> signal_seen;
  loop.on_signals({SIGTERM, SIGINT, SIGHUP}, [&](int number) {
    signal_seen = number;  // while still recovering: acted on as soon as that is done
    loop.stop();
  });
  StatusOr<Ledger> ledger = Ledger::open(state->ledger());
  if (!ledger.ok()) return ledger.status();
  Holders holders(loop, options.hold);
  v1::Description description;
  bool looked = false;
  look_for_netem(holders, [&](bool found) {
    description.set_netem(found);
    looked = true;
    loop.stop();
  });
  NodeFacts facts;
  facts.state_id = state->id();
  facts.boot_id = boot_id();
  facts.environment = options.environment;
  if (facts.environment.empty() && guardrails.ok()) facts.environment = guardrails->environment();
  if (*port != 0) facts.spared_ports.push_back(*port);
  facts.spared_paths = needed_paths(options, state->path(), listen.address);
  facts.recovered = recover(loop, holders, *ledger, facts.state_id, facts.boot_id);
  facts.epochs = ledger->content().epochs;
  for (const std::string& line : facts.recovered) {
    log(LogLevel::kWarn, "event=recovered what=" + quoted(line));
  }

  utsname kernel{};
  ::uname(&kernel);
  description.set_version(options.version);
  description.set_kernel(kernel.release);
  for (const std::string& kind : known_kinds()) description.add_kinds(kind);
  description.set_state_dir(state->path());
  description.set_boot_id(facts.boot_id);
  description.set_environment(facts.environment);
  while (!looked) loop.run();
  // Not before: a mistake in them must not keep from its end what an earlier daemon left.
  if (!guardrails.ok()) return guardrails.status();
  facts.guardrails = *std::move(guardrails);
  facts.halted = state->halted();
  facts.keep_halted = [&state](const std::optional<Halt>& halted) {
    return state->keep_halted(halted);
  };
  if (facts.halted) {
    log(LogLevel::kWarn, "event=still_halted by=" + quoted(facts.halted->by) +
                             " reason=" + quoted(facts.halted->reason));
  }
  holders.keep_spare();

  Journal journal(loop, *std::move(ledger));
  Metrics metrics(options.version, known_kinds());
  Node node(loop, holders, journal, metrics, std::move(facts));
  Asking asking(loop, node.guardrails());
  StatusOr<std::unique_ptr<Server>> server = Server::start(loop, node, asking, listen, [&] {
    description.clear_held();
    for (v1::HeldFault& fault : node.held()) *description.add_held() = std::move(fault);
    description.set_faults(node.faults());
    description.clear_halted();
    if (node.halted()) *description.mutable_halted() = to_message(*node.halted());
    return description;
  });
  if (!server.ok()) return server.status();
  std::unique_ptr<metrics::Endpoint> endpoint;
  if (!options.metrics.empty()) {
    auto listening = metrics::Endpoint::start(options.metrics, options.tls_dir, metrics.registry());
    if (!listening.ok()) return in_context("--metrics", listening.status());
    endpoint = *std::move(listening);
    log(LogLevel::kInfo, "event=metrics listen=" + quoted(endpoint->address()));
  }
  log(LogLevel::kInfo, "event=serving pid=" + std::to_string(::getpid()) +
                           " version=" + options.version + " listen=" + quoted(listen.address) +
                           " state_dir=" + quoted(state->path()) + " state_id=" + state->id() +
                           (description.netem() ? " netem=yes" : " netem=no"));

  supervisor.ready();

  bool in_haste = false;
  const auto begin_ending = [&](int number) {
    log(LogLevel::kInfo, "event=ending signal=" + std::to_string(number) +
                             " faults=" + std::to_string(node.faults()));
    supervisor.stopping();
    asking.stop();
    node.stop([&] {
      if (!in_haste) loop.stop();
    });
  };
  bool stopping = signal_seen.has_value();
  if (stopping) loop.post([&] { begin_ending(*signal_seen); });
  loop.on_signals({}, [&](int number) {
    if (std::exchange(stopping, true)) {
      in_haste = true;
      return loop.stop();
    }
    begin_ending(number);
  });
  loop.run();
  const bool clean = node.faults() == 0;
  server->reset();
  log(LogLevel::kInfo, "event=ended");
  return clean ? ok()
               : error(StatusCode::kAborted, "told twice to end: the holders revert by themselves");
}

}  // namespace squall::daemon
