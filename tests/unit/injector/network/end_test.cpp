#include <doctest/doctest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "injector/network/sysctl.h"
#include "tests/unit/injector/network/driver.h"

namespace squall::support {
namespace {

using std::chrono::milliseconds;

constexpr std::uint16_t kPort = 7001;
constexpr milliseconds kBrief(10);

/// A fault in a process of its own, which can be frozen and killed.
class Child {
 public:
  Child(const Namespace& where, const v1::Fault& fault, Duration lease) {
    int pipe_ends[2];
    REQUIRE(pipe(pipe_ends) == 0);
    pid_ = fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      hold(where, fault, lease, pipe_ends[1]);
      close(pipe_ends[1]);
      for (;;) pause();
    }
    close(pipe_ends[1]);
    std::string text;
    std::array<char, 4096> part{};
    for (ssize_t got = 0; (got = read(pipe_ends[0], part.data(), part.size())) > 0;) {
      text.append(part.data(), static_cast<std::size_t>(got));
    }
    close(pipe_ends[0]);
    v1::Undos undos;
    REQUIRE(undos.ParseFromString(text));
    REQUIRE_FALSE(undos.undos().empty());
    undos_.assign(undos.undos().begin(), undos.undos().end());
  }

  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  void freeze() const {
    kill(pid_, SIGSTOP);
    waitpid(pid_, nullptr, WUNTRACED);
  }

  const std::vector<v1::Undo>& undos() const { return undos_; }

 private:
  static void hold(const Namespace& where, const v1::Fault& fault, Duration lease, int answer) {
    v1::Undos undos;
    try {
      // Never destroyed: how this process ends is the test's business.
      auto* held = new Held(where, fault);
      held->apply(lease);
      undos.mutable_undos()->Assign(held->undos().begin(), held->undos().end());
    } catch (const std::exception&) {
      _exit(1);
    }
    const std::string text = undos.SerializeAsString();
    if (write(answer, text.data(), text.size()) < 0) _exit(1);
  }

  pid_t pid_ = -1;
  std::vector<v1::Undo> undos_;
};

/// A fault whose process was killed with SIGKILL after it was applied, and what the ledger has of
/// it.
std::vector<v1::Undo> abandon(const Namespace& where, const v1::Fault& fault, Duration lease) {
  const Child child(where, fault, lease);
  return child.undos();
}

void undo_all(const Namespace& where, const std::vector<v1::Undo>& undos) {
  for (const v1::Undo& undo : undos) {
    const Status undone = where.run([&] { return network::run_undo(undo); });
    CHECK_MESSAGE(undone.ok(), message_of(undone));
  }
}

std::vector<v1::Undo> tagged(const Namespace& where, const std::string& state_id) {
  const StatusOr<std::vector<v1::Undo>> found =
      where.run([&] { return network::find_tagged(state_id); });
  require_ok(found.status());
  return *found;
}

v1::Fault on_lo(v1::Fault fault) {
  fault.mutable_network()->set_interface("lo");
  return fault;
}

}  // namespace

TEST_CASE("what was merely delayed when the fault ended still arrives, in order of its time") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  for (const v1::Direction direction : {v1::EGRESS, v1::INGRESS}) {
    const auto held = inject(hosts.node, delay_fault(kPort, milliseconds(400), direction));
    Stream stream(hosts.client, TwoHosts::kNode4, kPort);
    REQUIRE(eventually([&] { return stream.probes().size() >= 40; }, std::chrono::seconds(20)));
    const MonotonicTime end = monotonic_now();
    CHECK(held->end().ok());
    CHECK(stream.passes_untouched(monotonic_now(), milliseconds(100), std::chrono::seconds(5)));
    CHECK(held->clean_up() == std::vector<std::string>());
    CHECK(monotonic_now() - end < std::chrono::seconds(5));
    std::vector<Probe> probes = stream.finish(std::chrono::seconds(2));
    // What was sent later may meet the removal of our clsact, for which the kernel takes the
    // interface's queues down.
    std::erase_if(probes, [&](const Probe& probe) { return probe.sent > end; });
    CHECK(probes.size() >= 40);
    CHECK_MESSAGE(answered(probes) == probes.size(), losses(probes, end));
    CHECK(held->evidence().network().overflow_packets() == 0);
  }
}

TEST_CASE("a fault whose device somebody removes says so and lets every packet pass") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const v1::Fault fault = delay_fault(kPort, milliseconds(100));
  const auto held = inject(hosts.node, fault);
  Stream stream(hosts.client, TwoHosts::kNode4, kPort);
  REQUIRE(stream.is_disturbed(monotonic_now(), milliseconds(50), std::chrono::seconds(10)));
  std::string device;
  for (const v1::Undo& undo : held->undos()) {
    if (undo.has_remove_link()) device = undo.remove_link().name();
  }
  run_in(hosts.node, {"ip", "link", "del", device});
  const MonotonicTime removed = monotonic_now();
  const auto is_told = [&] {
    return eventually([&] { return !held->pulse(std::chrono::minutes(5)).ok(); },
                      std::chrono::seconds(5));
  };
  // The relay sees it by itself; an IFB's fault when it is asked next.
  const bool by_itself = expected_engine() == v1::RELAY;
  if (!by_itself) {
    CHECK(is_told());
    CHECK(held->end().ok());
  }
  CHECK(stream.passes_untouched(removed, milliseconds(50), std::chrono::seconds(5)));
  if (by_itself) {
    CHECK(is_told());
    CHECK(held->end().ok());
  }
  CHECK(held->clean_up() == std::vector<std::string>());
}

TEST_CASE("a fault on lo that starts while another leaves it has what it needs there") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  {
    const auto leaving = inject(hosts.node, on_lo(delay_fault(kPort, milliseconds(50))));
    CHECK(leaving->end().ok());
    Held held(hosts.node, on_lo(delay_fault(kPort, milliseconds(50))), {}, leaving.get());
    held.apply(std::chrono::minutes(5));
    CHECK(leaving->clean_up() == std::vector<std::string>());
    const std::vector<Probe> probes = measure(hosts.node, "127.0.0.1", kPort, 10);
    CHECK(answered(probes) == probes.size());
    CHECK(median_round_trip(probes) >= milliseconds(100));
    CHECK(held.end().ok());
    CHECK(held.clean_up() == std::vector<std::string>());
  }
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("a ledger's word for a setting never leads out of /proc/sys") {
  CHECK(network::read_sysctl("net/../../cpuinfo").status().code() == StatusCode::kInvalidArgument);
  CHECK(network::write_sysctl("net/../../self/comm", "x").code() == StatusCode::kInvalidArgument);
}

TEST_CASE("past its deadline a fault that nobody ends lets every packet pass") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  for (const double loss : {0.0, 100.0}) {
    v1::Fault fault = delay_fault(kPort, milliseconds(300));
    if (loss > 0) fault.mutable_network()->set_loss(loss);
    Held held(hosts.node, fault);
    Stream stream(hosts.client, TwoHosts::kNode4, kPort);
    held.apply(milliseconds(500));
    const MonotonicTime applied = monotonic_now();
    REQUIRE(stream.is_disturbed(applied, milliseconds(150), std::chrono::seconds(10)));
    CHECK(stream.passes_untouched(applied + milliseconds(500), milliseconds(150),
                                  std::chrono::seconds(5)));
  }
}

TEST_CASE("a fault whose process was killed ends in the kernel alone") {
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  Stream stream(hosts.client, TwoHosts::kNode4, kPort);
  const auto undos = abandon(hosts.node, loss_fault(kPort, 100), milliseconds(300));
  const MonotonicTime killed = monotonic_now();
  CHECK(stream.passes_untouched(killed + milliseconds(300), milliseconds(100),
                                std::chrono::seconds(5)));
}

TEST_CASE("a frozen relay blacks out what it matches for its 200 ms at most") {
  if (expected_engine() != v1::RELAY) {
    MESSAGE("SKIPPED: this kernel has netem");
    return;
  }
  TwoHosts hosts;
  const Echo echo(hosts.node, kPort);
  Stream stream(hosts.client, TwoHosts::kNode4, kPort);
  const Child child(hosts.node, delay_fault(kPort, milliseconds(100)), std::chrono::minutes(5));
  REQUIRE(stream.is_disturbed(monotonic_now(), milliseconds(50), std::chrono::seconds(10)));
  child.freeze();
  const MonotonicTime frozen = monotonic_now();
  CHECK(stream.passes_untouched(frozen + milliseconds(200), milliseconds(50),
                                std::chrono::seconds(5)));
  const std::vector<Probe> probes = stream.finish(milliseconds(200));
  const std::optional<MonotonicTime> untouched = untouched_from(probes, milliseconds(50));
  REQUIRE(untouched.has_value());
  CHECK(to_ms(*untouched - frozen) < 220);
}

TEST_CASE("the ledger's undos alone, carried out twice, leave everything as it was") {
  TwoHosts hosts;
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  for (const v1::Direction direction : {v1::EGRESS, v1::BOTH}) {
    for (const v1::Fault& fault :
         {delay_fault(kPort, kBrief, direction), loss_fault(kPort, 100, direction),
          on_lo(delay_fault(kPort, kBrief, direction))}) {
      const std::vector<v1::Undo> undos = abandon(hosts.node, fault, std::chrono::minutes(5));
      undo_all(hosts.node, undos);
      CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
      undo_all(hosts.node, undos);
      CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
    }
  }
}

TEST_CASE("without a ledger the tags alone lead back to how it was") {
  TwoHosts hosts;
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  CHECK(tagged(hosts.node, "").empty());
  for (const v1::Fault& fault :
       {delay_fault(kPort, kBrief, v1::BOTH), loss_fault(kPort, 100, v1::BOTH),
        on_lo(delay_fault(kPort, kBrief, v1::BOTH))}) {
    abandon(hosts.node, fault, std::chrono::minutes(5));
    CHECK(tagged(hosts.node, "notthisone").empty());
    const std::vector<v1::Undo> undos = tagged(hosts.node, kStateId);
    CHECK_FALSE(undos.empty());
    undo_all(hosts.node, undos);
    CHECK(tagged(hosts.node, "").empty());
    CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
  }
}

TEST_CASE(
    "S28: what somebody deletes is noticed at once, and what happens beside it is no matter") {
  TwoHosts hosts;
  const auto held = inject(hosts.node, delay_fault(kPort, kBrief));
  // Nothing yet; what its own making caused has no news in it.
  while (const std::optional<Status> own = held->noticed(Duration::zero())) CHECK(own->ok());
  run_in(hosts.node, {"ip", "link", "set", "eth0", "mtu", "1400"});
  const std::optional<Status> beside = held->noticed(std::chrono::seconds(5));
  REQUIRE(beside.has_value());
  CHECK(beside->ok());
  while (const std::optional<Status> more = held->noticed(Duration::zero())) CHECK(more->ok());

  SUBCASE("the filter") { run_in(hosts.node, {"tc", "filter", "del", "dev", "eth0", "egress"}); }
  SUBCASE("the device, and with it its queue") {
    const auto device = [](const v1::Undo& undo) { return undo.has_remove_link(); };
    const auto undos = held->undos();
    const auto made = std::find_if(undos.begin(), undos.end(), device);
    REQUIRE(made != undos.end());
    run_in(hosts.node, {"ip", "link", "del", made->remove_link().name()});
  }
  SUBCASE("S27: the interface itself") { run_in(hosts.node, {"ip", "link", "del", "eth0"}); }
  std::optional<Status> found;
  do {
    found = held->noticed(std::chrono::seconds(5));
    REQUIRE(found.has_value());
  } while (found->ok());
  CHECK_FALSE(found->ok());
}

TEST_CASE("an undo is done in the namespace that it names, from wherever it is run") {
  TwoHosts hosts;
  const std::vector<std::string> client = settled_fingerprint(hosts.client);
  const std::vector<std::string> node = settled_fingerprint(hosts.node);
  const auto held = inject(hosts.node, delay_fault(kPort, kBrief));
  for (const v1::Undo& undo : held->undos()) {
    const Status undone = hosts.client.run([&] { return network::run_undo(undo); });
    CHECK_MESSAGE(undone.ok(), message_of(undone));
  }
  CHECK(difference(node, settled_fingerprint(hosts.node)) == "");
  CHECK(difference(client, settled_fingerprint(hosts.client)) == "");
}

TEST_CASE("an undo in a namespace that is gone has nothing left to do") {
  v1::Undo undo;
  {
    const Namespace gone;
    undo.mutable_remove_link()->set_netns_inode(gone.inode());
  }
  undo.mutable_remove_link()->set_name("sqaaaaaaaaaaaa");
  undo.mutable_remove_link()->set_tag("squall:" + kStateId + ":aaaaaaaaaaaa");
  CHECK(network::run_undo(undo).ok());
}

TEST_CASE("an undo leaves alone what bears its name but not its tag") {
  TwoHosts hosts;
  const v1::Fault fault = delay_fault(kPort, kBrief);
  const Held prepared(hosts.node, fault);
  const auto link = std::find_if(prepared.undos().begin(), prepared.undos().end(),
                                 [](const v1::Undo& undo) { return undo.has_remove_link(); });
  REQUIRE(link != prepared.undos().end());
  const std::string name = link->remove_link().name();
  run_in(hosts.node, {"ip", "link", "add", name, "type", "ifb"});
  run_in(hosts.node, {"ip", "link", "set", name, "alias", "the owner's", "up"});
  undo_all(hosts.node, prepared.undos());
  run_in(hosts.node, {"ip", "link", "show", name});
  run_in(hosts.node, {"ip", "link", "del", name});
}

TEST_CASE("a fault that cannot be applied leaves nothing behind") {
  TwoHosts hosts;
  const std::vector<std::string> before = settled_fingerprint(hosts.node);
  Held held(hosts.node, delay_fault(kPort, kBrief));
  const auto link = std::find_if(held.undos().begin(), held.undos().end(),
                                 [](const v1::Undo& undo) { return undo.has_remove_link(); });
  REQUIRE(link != held.undos().end());
  const std::string name = link->remove_link().name();
  // The place of its device is taken.
  run_in(hosts.node, {"ip", "link", "add", name, "type", "veth"});
  CHECK_THROWS_AS(held.apply(std::chrono::seconds(5)), std::runtime_error);
  CHECK(held.end().ok());
  CHECK(held.clean_up() == std::vector<std::string>());
  run_in(hosts.node, {"ip", "link", "del", name});
  CHECK(difference(before, settled_fingerprint(hosts.node)) == "");
}

TEST_CASE("S27: an interface that goes in mid-fault ends it without residue") {
  ThreeHosts hosts;
  v1::Fault fault = delay_fault(kPort, kBrief, v1::BOTH);
  fault.mutable_network()->set_interface("eth1");
  const auto held = inject(hosts.node, fault);
  run_in(hosts.node, {"ip", "link", "del", "eth1"});
  CHECK(held->end().ok());
  CHECK(held->clean_up() == std::vector<std::string>());
  CHECK(tagged(hosts.node, "").empty());
}

TEST_CASE("S27: whatever becomes of an interface, its fault goes and no other device is touched") {
  ThreeHosts hosts;
  const Namespace away("squall-away");
  const auto ip = [&](const std::vector<std::string>& words) {
    std::vector<std::string> argv = {"ip"};
    argv.insert(argv.end(), words.begin(), words.end());
    run_in(hosts.node, argv);
  };
  const std::vector<std::string> clsact = {"tc", "qdisc", "add", "dev", "eth1", "clsact"};
  v1::Fault fault = delay_fault(kPort, kBrief, v1::BOTH);
  fault.mutable_network()->set_interface("eth1");
  const auto held = inject(hosts.node, fault);
  SUBCASE("set down") { ip({"link", "set", "eth1", "down"}); }
  SUBCASE("renamed, and another takes its name") {
    ip({"link", "set", "eth1", "down"});
    ip({"link", "set", "eth1", "name", "old1"});
    ip({"link", "set", "old1", "up"});
    ip({"link", "add", "eth1", "type", "veth", "peer", "name", "peer1"});
    run_in(hosts.node, clsact);
  }
  SUBCASE("deleted, and another takes its name") {
    ip({"link", "del", "eth1"});
    ip({"link", "add", "eth1", "type", "veth", "peer", "name", "peer1"});
    run_in(hosts.node, clsact);
  }
  SUBCASE("moved into another namespace") { ip({"link", "set", "eth1", "netns", "squall-away"}); }
  CHECK(held->end().ok());
  CHECK(held->clean_up() == std::vector<std::string>());
  CHECK(tagged(hosts.node, "").empty());
  CHECK(tagged(away, "").empty());
  // The owner's new one, which nobody may have taken for the old one.
  const auto lines_with = [left = settled_fingerprint(hosts.node)](const std::string& word) {
    return std::count_if(left.begin(), left.end(), [&](const std::string& line) {
      return line.find(word) != std::string::npos;
    });
  };
  CHECK((lines_with("clsact") > 0) == (lines_with("peer1") > 0));
}

}  // namespace squall::support
