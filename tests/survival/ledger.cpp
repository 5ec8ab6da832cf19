/// \file
/// A ledger that was cut or has rotted under live faults: what it still says is undone, and a
/// search by our tags finds the rest.
#include <doctest/doctest.h>
#include <signal.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"

namespace squall::survival {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::uint16_t kPort = 7000;
constexpr Duration kBound = seconds(30);

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Two faults that nobody holds any more, both in the ledger.
class Wreck {
 public:
  Wreck() {
    Daemon daemon(node_, state_.path());
    Controller controller(daemon.address(), "wreck", 1, seconds(4));
    for (v1::Fault fault : {loss_fault(kPort, 100), delay_fault(kPort + 1, milliseconds(10))}) {
      fault.mutable_network()->set_interface("lo");
      controller.inject(fault);
    }
    daemon.process().signal(SIGSTOP);
    for (const Stranger& holder : daemon.holders()) {
      holder.signal(SIGKILL);
      REQUIRE(holder.ends(kBound));
    }
    daemon.process().signal(SIGKILL);
    REQUIRE(daemon.process().wait(kBound).has_value());
    REQUIRE(fingerprint_of(node_) != before_);
  }

  std::filesystem::path ledger() const { return state_.path() / "ledger"; }

  /// A squalld starts, and the node is as before.
  void check_recovers() const {
    const Daemon daemon(node_, state_.path());
    CHECK(difference(before_, fingerprint_of(node_)).empty());
  }

 private:
  Namespace node_;
  TemporaryFolder state_;
  std::vector<std::string> before_ = fingerprint_of(node_);
};

/// Every so many bytes, for each takes two starts of a daemon; tests/unit has every byte and every
/// bit of how a ledger is read.
constexpr int kPlaces = 12;

TEST_CASE("S07: the node is as before whatever the ledger was cut to") {
  for (int place = 0; place <= kPlaces; ++place) {
    const Wreck wreck;
    const std::string whole = read(wreck.ledger());
    const std::size_t length = whole.size() * static_cast<std::size_t>(place) / kPlaces;
    CAPTURE(length);
    std::filesystem::resize_file(wreck.ledger(), length);
    wreck.check_recovers();
  }
}

TEST_CASE("S07: the node is as before wherever the ledger has rotted") {
  for (int place = 0; place < kPlaces; ++place) {
    const Wreck wreck;
    std::string bytes = read(wreck.ledger());
    const std::size_t byte = bytes.size() * static_cast<std::size_t>(place) / kPlaces;
    CAPTURE(byte);
    bytes[byte] = static_cast<char>(bytes[byte] ^ (1 << (place % 8)));
    std::ofstream(wreck.ledger(), std::ios::binary) << bytes;
    wreck.check_recovers();
  }
}

TEST_CASE("S09: what another boot takes away is written and not synced, what it leaves is both") {
  const Namespace node;
  const TemporaryFolder state;
  const TemporaryFolder folder;
  const std::filesystem::path notes = folder.path() / "notes";
  const auto passages = [&](const std::string& point) {
    int times = 0;
    std::ifstream lines(notes);
    for (std::string process, name; lines >> process >> name;) times += name == point ? 1 : 0;
    return times;
  };
  Daemon daemon(node, state.path(), {{"SQUALL_FAILPOINT_NOTES", notes}});
  Controller controller(daemon.address(), "run", 1, seconds(4));
  v1::Fault filter = loss_fault(kPort, 100);
  filter.mutable_network()->set_interface("lo");
  controller.inject(filter);
  CHECK(passages("ledger.written") > 0);
  CHECK(passages("ledger.synced") == 0);
  CHECK(read(state.path() / "ledger").find(filter.id()) != std::string::npos);

  v1::Fault hidden;
  hidden.set_id(new_fault_id());
  hidden.set_for_(Duration(seconds(60)).count());
  std::ofstream(folder.path() / "victim") << "here";
  hidden.mutable_files()->set_path(folder.path() / "victim");
  hidden.mutable_files()->set_make(v1::ABSENT);
  controller.inject(hidden);
  CHECK(passages("ledger.synced") == 1);
  for (const std::string& fault : {filter.id(), hidden.id()}) {
    controller.revert(fault);
    REQUIRE(controller.wait_for(
        [&](const v1::LeaseEvent& event) { return event.has_reverted() && event.fault() == fault; },
        kBound));
  }
  CHECK(passages("ledger.synced") == 1);
}

}  // namespace
}  // namespace squall::survival
