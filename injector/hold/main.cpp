/// \file
/// squall-hold: the process that holds one fault for squalld. Parsed by hand: it must start in a
/// millisecond.
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/failpoint.h"
#include "injector/faults/fault.h"
#include "injector/hold/holder.h"
#include "injector/hold/requests.h"

namespace {

constexpr int kSocket = 3;
constexpr int kUsage = 2;
constexpr int kResidue = 5;

constexpr const char* kHelp =
    R"(squall-hold --read                    prints this node's fingerprint
squall-hold --sweep                   removes whatever Squall left on this node
squall-hold --sweep --state-id ID     only what the daemon of that state directory left
squall-hold --failpoints              lists where the tests can make it die
squall-hold --version

Without options it holds one fault for squalld, which speaks to it on descriptor 3; with --spare it is started ahead of
the fault, and makes ready what it can.
--sweep exits 5 if something is left; do not sweep under a daemon that holds faults.
)";

int usage(const std::string& what) {
  std::fprintf(stderr, "squall-hold: %s\ntry: squall-hold --help\n", what.c_str());
  return kUsage;
}

int print_fingerprint() {
  const auto lines = squall::hold::read_node();
  if (!lines.ok()) {
    std::fprintf(stderr, "squall-hold: %s\n", squall::message_of(lines.status()).c_str());
    return EXIT_FAILURE;
  }
  for (const std::string& line : *lines) std::printf("%s\n", line.c_str());
  return EXIT_SUCCESS;
}

int print_sweep(const std::string& state_id) {
  const squall::v1::Swept swept = squall::hold::sweep_tagged(state_id);
  for (const std::string& line : swept.done()) std::printf("removed %s\n", line.c_str());
  for (const std::string& line : swept.residue()) std::printf("left %s\n", line.c_str());
  return swept.residue().empty() ? EXIT_SUCCESS : kResidue;
}

bool has_socket() {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(kSocket, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_SEQPACKET;
}

int run(const std::vector<std::string_view>& words) {
  const bool spare = words == std::vector<std::string_view>{"--spare"};
  if (words.empty() || spare) {
    if (!has_socket()) return usage("descriptor 3 is no socket of squalld's");
    squall::hold::die_with_daemon(kSocket);
    return squall::hold::hold(kSocket, squall::hold::fault_kinds(), spare);
  }
  if (words == std::vector<std::string_view>{"--help"}) {
    std::fputs(kHelp, stdout);
    return EXIT_SUCCESS;
  }
  if (words == std::vector<std::string_view>{"--version"}) {
    std::puts("squall-hold " SQUALL_VERSION);
    return EXIT_SUCCESS;
  }
  if (words == std::vector<std::string_view>{"--failpoints"}) {
    squall::failpoints::print();
    return EXIT_SUCCESS;
  }
  if (words == std::vector<std::string_view>{"--read"}) return print_fingerprint();
  if (words[0] == "--sweep") {
    if (words.size() == 1) return print_sweep("");
    if (words.size() == 3 && words[1] == "--state-id" && !words[2].empty()) {
      return print_sweep(std::string(words[2]));
    }
    return usage("--sweep takes nothing but --state-id ID");
  }
  return usage("unknown option " + std::string(words[0]));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run({argv + 1, argv + argc});
  } catch (const std::exception& problem) {
    std::fprintf(stderr, "squall-hold: %s\n", problem.what());
    return EXIT_FAILURE;  // squalld sees the end and sweeps
  }
}
