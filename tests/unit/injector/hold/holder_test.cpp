#include "injector/hold/holder.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <optional>

#include "experiments/base/ids.h"
#include "injector/hold/channel.h"
#include "injector/hold/requests.h"
#include "tests/support/eventually.h"

namespace squall::hold {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kBound = seconds(10);

/// What a fake fault did, in memory that it shares with the test, for it runs in a process of its
/// own.
struct Record {
  std::atomic<int> prepared, made_ready, applied, pulsed, ended, cleaned;
  std::atomic<std::int64_t> deadline_ns;
  std::atomic<bool> refuse_apply, refuse_prepare, refuse_ready, refuse_pulse, refuse_become;
  std::atomic<bool> leave_residue;
  std::atomic<int> became;
  std::atomic<double> load;
};

Record* record() {
  static Record* const shared = new (::mmap(nullptr, sizeof(Record), PROT_READ | PROT_WRITE,
                                            MAP_SHARED | MAP_ANONYMOUS, -1, 0)) Record();
  return shared;
}

class Fake final : public Fault {
 public:
  StatusOr<std::vector<v1::Undo>> prepare() override {
    ++record()->prepared;
    if (record()->refuse_prepare) return error(StatusCode::kNotFound, "no such thing");
    std::vector<v1::Undo> undos(1);
    undos[0].mutable_set_sysctl()->set_name("net/fake");
    return undos;
  }
  Status make_ready() override {
    ++record()->made_ready;
    return record()->refuse_ready ? error(StatusCode::kInvalidArgument, "too many of them") : ok();
  }
  Status apply(MonotonicTime deadline) override {
    ++record()->applied;
    record()->deadline_ns = to_ns(deadline);
    return record()->refuse_apply ? error(StatusCode::kInternal, "the kernel said no") : ok();
  }
  Status pulse(MonotonicTime deadline) override {
    ++record()->pulsed;
    if (record()->refuse_pulse) return error(StatusCode::kFailedPrecondition, "it is gone");
    record()->deadline_ns = to_ns(deadline);
    return ok();
  }
  Status become(const v1::Fault& now) override {
    ++record()->became;
    record()->load = now.cpu().load();
    return record()->refuse_become ? error(StatusCode::kFailedPrecondition, "it is gone") : ok();
  }
  v1::Evidence evidence() override {
    v1::Evidence evidence;
    evidence.set_effect(record()->ended == 0);
    return evidence;
  }
  Status end_effect() override {
    ++record()->ended;
    return ok();
  }
  std::vector<std::string> clean_up() override {
    ++record()->cleaned;
    if (record()->leave_residue) return {"something is left"};
    return {};
  }
};

const FaultKind kKinds[] = {
    {.kind = v1::Fault::kCpu,
     .name = "cpu",
     .make = [](const v1::Start&) -> std::unique_ptr<Fault> { return std::make_unique<Fake>(); },
     .look =
         [](const v1::Look&) {
           v1::Looked looked;
           looked.add_notes("looked at");
           return looked;
         }},
    {.kind = v1::Fault::kKill,
     .name = "kill",
     .make = [](const v1::Start&) -> std::unique_ptr<Fault> { return std::make_unique<Fake>(); },
     .look = [](const v1::Look&) { return v1::Looked(); },
     .at_once = true},
};

/// A process that runs hold() with the fake kinds, the test in squalld's place. Killed with this
/// object.
class Holding {
 public:
  Holding() {
    new (record()) Record();
    Pair pair = *make_pair();
    pid_ = ::fork();
    if (pid_ == 0) {
      pair.daemon.reset();
      ::_exit(hold(pair.holder.number(), kKinds));
    }
    socket_ = std::move(pair.daemon);
  }
  Holding(const Holding&) = delete;
  Holding& operator=(const Holding&) = delete;
  ~Holding() {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
  }

  void say(const v1::ToHolder& message) { REQUIRE(send_message(socket_.number(), message).ok()); }

  void start(Duration lease, std::optional<Duration> lasts = seconds(60),
             const std::optional<v1::Ramp>& ramp = std::nullopt) {
    v1::ToHolder message;
    v1::Start& start = *message.mutable_start();
    start.mutable_fault()->set_id(new_fault_id());
    start.mutable_fault()->mutable_cpu();
    if (lasts) start.mutable_fault()->set_for_(lasts->count());
    if (ramp) *start.mutable_fault()->add_ramps() = *ramp;
    start.set_lease_end(to_ns(monotonic_now() + lease));
    say(message);
  }
  void go() {
    v1::ToHolder message;
    message.mutable_go();
    say(message);
  }
  void pulse(Duration lease) {
    v1::ToHolder message;
    message.mutable_pulse()->set_lease_end(to_ns(monotonic_now() + lease));
    say(message);
  }
  void release() {
    v1::ToHolder message;
    message.mutable_release();
    say(message);
  }

  /// The next message; WHAT_NOT_SET at the end or when none comes.
  v1::FromHolder hear() {
    v1::FromHolder message;
    pollfd waiting{.fd = socket_.number(), .events = POLLIN, .revents = 0};
    if (::poll(&waiting, 1, static_cast<int>(to_ms(kBound))) != 1) return message;
    const auto received = receive_message(socket_.number(), message);
    REQUIRE(received.ok());
    return message;
  }

  /// start → undos → go → applied.
  void apply(Duration lease, Duration lasts = seconds(60),
             const std::optional<v1::Ramp>& ramp = std::nullopt) {
    start(lease, lasts, ramp);
    REQUIRE(hear().has_undos());
    go();
    REQUIRE(hear().has_applied());
  }

  /// effect_ended → released → the process ends. Returns why.
  v1::EndReason end() {
    const v1::FromHolder over = hear();
    INFO(over.ShortDebugString());
    REQUIRE(over.has_effect_ended());
    const v1::FromHolder released = hear();
    REQUIRE(released.has_released());
    CHECK(released.released().residue().empty());
    CHECK(exits());
    return over.effect_ended().reason();
  }

  bool exits() { return ended_by() == 0; }

  /// The signal that ends it, 0 for none; -1 if it does not end, or with an error.
  int ended_by() {
    int status = 0;
    if (!support::eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, kBound)) {
      return -1;
    }
    pid_ = -1;
    if (WIFSIGNALED(status)) return WTERMSIG(status);
    return WEXITSTATUS(status) == 0 ? 0 : -1;
  }

  void hang_up() { socket_.reset(); }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = -1;
  Fd socket_;
};

TEST_CASE("a fault is changed nothing for before go, and ends on release") {
  Holding holding;
  holding.start(seconds(60));
  const v1::FromHolder undos = holding.hear();
  REQUIRE(undos.has_undos());
  CHECK(undos.undos().undos(0).set_sysctl().name() == "net/fake");
  CHECK(record()->applied == 0);
  holding.go();
  const v1::FromHolder applied = holding.hear();
  REQUIRE(applied.has_applied());
  CHECK(applied.applied().evidence().effect());
  CHECK(record()->ended == 0);
  holding.release();
  CHECK(holding.end() == v1::RELEASED);
  CHECK(record()->ended == 1);
  CHECK(record()->cleaned == 1);
}

TEST_CASE("a fault ends when its own time is up") {
  Holding holding;
  const MonotonicTime begun = monotonic_now();
  holding.apply(seconds(60), milliseconds(150));
  CHECK(holding.end() == v1::DURATION_OVER);
  CHECK(monotonic_now() - begun >= milliseconds(150));
  CHECK(record()->ended == 1);
}

TEST_CASE("a fault ends when its lease is over") {
  Holding holding;
  holding.apply(milliseconds(200));
  CHECK(holding.end() == v1::LEASE_LAPSED);
  CHECK(record()->ended == 1);
}

TEST_CASE("a fault ends when the daemon's end of the socket closes") {
  Holding holding;
  holding.apply(seconds(60));
  holding.hang_up();
  // Nobody hears the last words, so only that it ends is asked.
  holding.exits();
  CHECK(record()->ended == 1);
  CHECK(record()->cleaned == 1);
}

TEST_CASE("a fault ends on SIGTERM") {
  Holding holding;
  holding.apply(seconds(60));
  ::kill(holding.pid(), SIGTERM);
  CHECK(holding.end() == v1::TERMINATED);
  CHECK(record()->ended == 1);
}

TEST_CASE("a pulse moves the end of the lease and is answered with evidence") {
  Holding holding;
  holding.apply(milliseconds(400));
  const MonotonicTime begun = monotonic_now();
  holding.pulse(seconds(1));
  CHECK(holding.hear().has_evidence());
  CHECK(record()->deadline_ns >= to_ns(begun + seconds(1)));
  CHECK(holding.end() == v1::LEASE_LAPSED);
  CHECK(monotonic_now() - begun >= seconds(1));
}

TEST_CASE("a fault whose objects somebody else removed ends and says so") {
  Holding holding;
  holding.apply(seconds(60));
  record()->refuse_pulse = true;
  holding.pulse(seconds(60));
  const v1::FromHolder over = holding.hear();
  REQUIRE(over.has_effect_ended());
  CHECK(over.effect_ended().reason() == v1::OBJECTS_GONE);
  CHECK(record()->ended == 1);
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().message() == "it is gone");
  CHECK(record()->cleaned == 1);
}

TEST_CASE("a number that ramps is set anew until it has arrived, and then no more") {
  Holding holding;
  v1::Ramp ramp;
  ramp.set_field("load");
  ramp.set_from(10);
  ramp.set_to(60);
  ramp.set_over(Duration(milliseconds(350)).count());
  holding.apply(seconds(60), seconds(60), ramp);
  REQUIRE(support::eventually([&] { return record()->load == 60; }, kBound));
  const int became = record()->became;
  CHECK(became >= 2);
  CHECK(became <= 4);
  holding.pulse(seconds(60));
  CHECK(holding.hear().has_evidence());
  CHECK(record()->became == became);
  holding.release();
  CHECK(holding.end() == v1::RELEASED);
}

TEST_CASE("a fault that cannot become what its ramp says ends and says so") {
  Holding holding;
  record()->refuse_become = true;
  v1::Ramp ramp;
  ramp.set_field("load");
  ramp.set_to(60);
  ramp.set_over(Duration(seconds(5)).count());
  holding.apply(seconds(60), seconds(60), ramp);
  const v1::FromHolder over = holding.hear();
  REQUIRE(over.has_effect_ended());
  CHECK(over.effect_ended().reason() == v1::OBJECTS_GONE);
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().message() == "it is gone");
  CHECK(record()->cleaned == 1);
}

TEST_CASE("no pulse moves the deadline past the fault's own end, or back") {
  Holding holding;
  holding.apply(seconds(60), seconds(30));
  const std::int64_t end = record()->deadline_ns;
  holding.pulse(seconds(3600));
  CHECK(holding.hear().has_evidence());
  CHECK(record()->deadline_ns == end);
  holding.pulse(milliseconds(1));
  CHECK(holding.hear().has_evidence());
  CHECK(record()->deadline_ns == end);
}

TEST_CASE("a pulse that queued up while the holder was frozen revives nothing") {
  Holding holding;
  holding.apply(milliseconds(300));
  const int pulses = record()->pulsed;
  const MonotonicTime lapsed = monotonic_now() + milliseconds(300);
  ::kill(holding.pid(), SIGSTOP);
  holding.pulse(seconds(60));
  REQUIRE(support::eventually([&] { return monotonic_now() > lapsed; }, kBound));
  ::kill(holding.pid(), SIGCONT);
  CHECK(holding.end() == v1::LEASE_LAPSED);
  CHECK(record()->pulsed == pulses);
}

TEST_CASE("a holder that stays frozen is ended by the kernel half a second after its deadline") {
  Holding holding;
  SUBCASE("its lease's") { holding.apply(milliseconds(300)); }
  SUBCASE("its fault's") { holding.apply(seconds(60), milliseconds(300)); }
  SUBCASE("a pulse's") {
    holding.apply(milliseconds(300));
    holding.pulse(milliseconds(600));
    REQUIRE(holding.hear().has_evidence());
  }
  ::kill(holding.pid(), SIGSTOP);
  CHECK(holding.ended_by() == SIGKILL);
}

TEST_CASE("a fault that fails to apply is undone and told as failed") {
  Holding holding;
  record()->refuse_apply = true;
  holding.start(seconds(60));
  REQUIRE(holding.hear().has_undos());
  holding.go();
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().code() == static_cast<int>(StatusCode::kInternal));
  CHECK(failed.failed().message() == "the kernel said no");
  CHECK(record()->ended == 1);
  CHECK(record()->cleaned == 1);
  CHECK(holding.exits());
}

TEST_CASE("a fault whose target is not there changes nothing") {
  Holding holding;
  record()->refuse_prepare = true;
  holding.start(seconds(60));
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().message() == "no such thing");
  CHECK(record()->applied == 0);
  CHECK(record()->ended == 0);
}

TEST_CASE("what a fault makes ready once its undos are told changes nothing and may be refused") {
  Holding holding;
  SUBCASE("ready without go") {
    holding.start(seconds(60));
    REQUIRE(holding.hear().has_undos());
    CHECK(support::eventually([] { return record()->made_ready == 1; }, kBound));
  }
  SUBCASE("refused") {
    record()->refuse_ready = true;
    holding.start(seconds(60));
    REQUIRE(holding.hear().has_undos());
    const v1::FromHolder failed = holding.hear();
    REQUIRE(failed.has_failed());
    CHECK(failed.failed().message() == "too many of them");
    CHECK(failed.failed().residue().empty());
    CHECK(holding.exits());
  }
  CHECK(record()->applied == 0);
  CHECK(record()->ended == 0);
}

TEST_CASE("what is left behind is told") {
  Holding holding;
  record()->leave_residue = true;
  holding.apply(seconds(60));
  holding.release();
  REQUIRE(holding.hear().has_effect_ended());
  const v1::FromHolder released = holding.hear();
  REQUIRE(released.has_released());
  REQUIRE(released.released().residue_size() == 1);
  CHECK(released.released().residue(0) == "something is left");
}

TEST_CASE("without go nothing is ever changed") {
  Holding holding;
  v1::EndReason reason = v1::TERMINATED;
  SUBCASE("but a release comes") {
    holding.start(seconds(60));
    REQUIRE(holding.hear().has_undos());
    holding.release();
    reason = v1::RELEASED;
  }
  SUBCASE("but the lease lapses") {
    holding.start(milliseconds(50));
    REQUIRE(holding.hear().has_undos());
    reason = v1::LEASE_LAPSED;
  }
  CHECK(holding.end() == reason);
  CHECK(record()->applied == 0);
}

TEST_CASE("a fault that lasts must say how long") {
  Holding holding;
  holding.start(seconds(60), std::nullopt);
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().message() == "fault.for: required, for a cpu fault lasts");
  CHECK(record()->prepared == 0);
}

TEST_CASE("a fault that is done at once is not held") {
  Holding holding;
  v1::ToHolder message;
  message.mutable_start()->mutable_fault()->mutable_kill();
  message.mutable_start()->set_lease_end(to_ns(monotonic_now() + seconds(60)));
  holding.say(message);
  REQUIRE(holding.hear().has_undos());
  holding.go();
  REQUIRE(holding.hear().has_applied());
  CHECK(holding.end() == v1::DURATION_OVER);
}

TEST_CASE("an unknown kind is refused") {
  Holding holding;
  v1::ToHolder message;
  message.mutable_start()->mutable_fault()->mutable_network();
  message.mutable_start()->set_lease_end(to_ns(monotonic_now() + seconds(60)));
  holding.say(message);
  const v1::FromHolder failed = holding.hear();
  REQUIRE(failed.has_failed());
  CHECK(failed.failed().code() == static_cast<int>(StatusCode::kUnimplemented));
}

TEST_CASE("a spare goes when its daemon goes") {
  Holding holding;
  holding.hang_up();
  CHECK(holding.exits());
  CHECK(record()->prepared == 0);
}

TEST_CASE("a look is answered and changes nothing") {
  Holding holding;
  v1::ToHolder message;
  message.mutable_look()->mutable_fault()->mutable_cpu();
  holding.say(message);
  const v1::FromHolder looked = holding.hear();
  REQUIRE(looked.has_looked());
  CHECK(looked.looked().notes(0) == "looked at");
  CHECK(record()->prepared == 0);
  CHECK(holding.exits());
}

TEST_CASE("a long fingerprint comes in parts that each fit, in order and whole") {
  std::vector<std::string> lines;
  for (int i = 0; i < 20'000; ++i) lines.push_back("line " + std::to_string(i) + " of the node");
  std::vector<std::string> joined;
  const auto parts = in_parts(lines);
  CHECK(parts.size() > 1);
  for (const v1::Fingerprint& part : parts) {
    v1::FromHolder message;
    *message.mutable_fingerprint() = part;
    CHECK(message.ByteSizeLong() <= kMaxMessage);
    CHECK(part.more() == (&part != &parts.back()));
    joined.insert(joined.end(), part.lines().begin(), part.lines().end());
  }
  CHECK(joined == lines);
}

}  // namespace
}  // namespace squall::hold
