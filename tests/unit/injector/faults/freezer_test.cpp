#include "injector/faults/freezer.h"

#include <doctest/doctest.h>
#include <sys/mount.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "injector/faults/undo.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/victim.h"

namespace squall::hold {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using Steps = Shared<std::atomic<std::uint64_t>>;

/// A process in a group, which counts its own steps.
struct Member {
  Steps steps;
  Victim process{unique_name("m"), [this] {
                   if (!fork_child()) return;
                   for (;;) {
                     ++*steps;
                     support::yield_for(std::chrono::microseconds(200));
                   }
                 }};

  explicit Member(const OwnGroup& group) {
    const auto children = support::children_of(static_cast<pid_t>(process.pid()), unique_name("m"));
    REQUIRE(children.size() == 1);
    // One that is frozen before it has its parent's death signal would outlive it.
    REQUIRE(runs());
    group.take(process.pid());
    group.take(static_cast<std::uint32_t>(children[0]));
  }

  bool stands() const {
    const std::uint64_t before = *steps;
    support::yield_for(milliseconds(60));
    return *steps == before;
  }

  bool runs() const {
    const std::uint64_t before = *steps;
    return support::eventually([&] { return *steps > before; }, kBound);
  }
};

v1::Fault freeze(const std::string& path) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(std::chrono::minutes(1)).count());
  fault.mutable_pause()->set_cgroup(path);
  return fault;
}

/// A group with one below it, each with two processes.
struct Scene {
  OwnGroup group{unique_name("z") + ".service"};
  OwnGroup below{group, "below"};
  Member first{group};
  Member second{below};

  void check_frozen() const {
    CHECK(first.stands());
    CHECK(second.stands());
    CHECK(group.is_frozen());
  }

  void check_as_before() const {
    CHECK(support::eventually([&] { return !group.is_frozen(); }, kBound));
    CHECK(group.read("cgroup.freeze") == "0\n");
    CHECK(below.read("cgroup.freeze") == "0\n");
    CHECK(first.runs());
    CHECK(second.runs());
  }
};

TEST_CASE("pause freezes a control group and those below it and thaws them at its end") {
  const Scene scene;
  v1::Fault wanted = freeze(scene.group.path());
  SUBCASE("by its path") {}
  SUBCASE("by its unit") { wanted.mutable_pause()->clear_cgroup(); }
  if (wanted.pause().cgroup().empty()) {
    wanted.mutable_pause()->set_unit(scene.group.path().substr(1));
  }
  const v1::Looked looked = look_at(wanted);
  CHECK(looked.code() == 0);
  CHECK(looked.targets_size() == 4);
  REQUIRE(looked.notes_size() == 1);
  CHECK(looked.notes(0) ==
        "all of control group " + scene.group.path() + ", and of those below it");
  const auto fault = make_fault(wanted);
  const auto undos = fault->prepare();
  REQUIRE_MESSAGE(undos.ok(), message_of(undos.status()));
  REQUIRE(undos->size() == 1);
  const v1::ThawCgroup& undo = (*undos)[0].thaw_cgroup();
  CHECK(undo.path() == scene.group.path());
  CHECK(undo.inode() != 0);
  CHECK(undo.ours() == "1");
  CHECK(undo.before() == "0");
  CHECK(scene.first.runs());
  const Status applied = fault->apply(MonotonicTime::max());
  REQUIRE_MESSAGE(applied.ok(), message_of(applied));
  scene.check_frozen();
  const v1::Evidence evidence = fault->evidence();
  CHECK(evidence.effect());
  CHECK(evidence.pause().processes() == 4);
  CHECK(evidence.pause().threads() == 4);
  CHECK(fault->pulse(MonotonicTime::max()).ok());
  CHECK(fault->end_effect().ok());
  scene.check_as_before();
  CHECK(fault->clean_up().empty());
}

TEST_CASE("a control group is thawed whatever happens to its holder") {
  const Scene scene;
  const support::Namespace where;
  support::Holder holder(where);
  const bool lapses = [] {
    bool is = false;
    SUBCASE("when its lease lapses") { is = true; }
    return is;
  }();
  CHECK(holder.inject(freeze(scene.group.path()), lapses ? short_lease() : seconds(60)).effect());
  SUBCASE("when it is released") {
    scene.check_frozen();
    CHECK(holder.release().empty());
  }
  SUBCASE("when squalld is gone") {
    scene.check_frozen();
    holder.hang_up();
  }
  SUBCASE("when it is told to end") {
    scene.check_frozen();
    holder.process().signal(SIGTERM);
  }
  SUBCASE("when it is killed and squalld sweeps") {
    scene.check_frozen();
    holder.process().signal(SIGKILL);
    CHECK(holder.process().wait(kBound).has_value());
    scene.check_frozen();  // it stays as it was written: hence the undo
    const v1::Swept swept = support::sweep(where, holder.undos());
    CHECK(swept.residue().empty());
    REQUIRE(swept.done_size() == 1);
    CHECK(swept.done(0) == "frozen control group " + scene.group.path());
    CHECK(support::sweep(where, holder.undos()).residue().empty());
  }
  scene.check_as_before();
}

TEST_CASE("a control group that is no longer ours is left alone") {
  std::optional<OwnGroup> group(std::in_place, unique_name("o"));
  v1::Undo undo;
  {
    const Member member(*group);
    const auto fault = make_fault(freeze(group->path()));
    const auto undos = fault->prepare();
    REQUIRE(undos.ok());
    undo = (*undos)[0];
  }
  SUBCASE("another that was made at its path") {
    group.reset();
    group.emplace(unique_name("o"));
    REQUIRE(group->write("cgroup.freeze", "1"));
    CHECK(run_undo(undo).ok());
    CHECK(group->read("cgroup.freeze") == "1\n");
  }
  SUBCASE("one that is gone") {
    group.reset();
    CHECK(run_undo(undo).ok());
  }
  SUBCASE("one that somebody thawed") { CHECK(run_undo(undo).ok()); }
}

TEST_CASE("a group that somebody thaws ends the fault and he is told of") {
  const Scene scene;
  const support::Namespace where;
  support::Holder holder(where);
  CHECK(holder.inject(freeze(scene.group.path()), seconds(60)).effect());
  REQUIRE(scene.group.write("cgroup.freeze", "0"));
  std::optional<v1::FromHolder> told;
  while ((told = holder.hear(kBound)) && !told->has_failed()) {
  }
  REQUIRE(told.has_value());
  CHECK(told->failed().message() ==
        "control group " + scene.group.path() + " was thawed by somebody else");
  CHECK(told->failed().residue().empty());
  scene.check_as_before();
}

TEST_CASE("a process that comes into a frozen group is frozen and ends no fault") {
  const Scene scene;
  const support::Namespace where;
  support::Holder holder(where);
  CHECK(holder.inject(freeze(scene.group.path()), seconds(60)).effect());
  const Member late(scene.group);
  CHECK(support::eventually([&] { return late.stands(); }, kBound));
  std::optional<v1::Evidence> evidence;
  CHECK(support::eventually(
      [&] { return (evidence = holder.pulse(seconds(60))) && evidence->effect(); }, kBound));
  CHECK(evidence->pause().processes() == 6);
  CHECK(holder.release().empty());
  scene.check_as_before();
  CHECK(late.runs());
}

TEST_CASE("a group that cannot or must not be frozen is refused before anything is changed") {
  const std::string name = unique_name("r");
  const OwnGroup group(name);
  const std::string words = "control group /" + name;
  v1::Fault wanted = freeze(group.path());
  std::string why;
  std::optional<OwnGroup> below;  // outlives whoever is in it, also when a REQUIRE fails
  std::optional<Member> member;
  std::optional<Victim> guest;
  SUBCASE("there is none") {
    wanted.mutable_pause()->set_cgroup("/no/such/group");
    why = "there is no control group /no/such/group";
  }
  SUBCASE("a unit that is not running") {
    wanted.mutable_pause()->clear_cgroup();
    wanted.mutable_pause()->set_unit("no-such.service");
    why = "no control group of the unit no-such.service: it is not running, or not known here";
  }
  SUBCASE("nobody is in it") { why = words + " holds no process"; }
  SUBCASE("it is frozen already") {
    member.emplace(group);
    REQUIRE(group.write("cgroup.freeze", "1"));
    why = words + " is frozen already, by somebody else";
  }
  SUBCASE("one above it is frozen") {
    below.emplace(group, "below");
    member.emplace(*below);
    REQUIRE(group.write("cgroup.freeze", "1"));
    CHECK(support::eventually([&] { return below->is_frozen(); }, kBound));
    wanted.mutable_pause()->set_cgroup(below->path());
    why = words + "/below is frozen already, with one above it";
  }
  SUBCASE("sshd is below it") {
    below.emplace(group, "below");
    guest.emplace("sshd");
    below->take(guest->pid());
    why = words + " holds what must live: " + std::to_string(guest->pid()) + " is sshd";
  }
  SUBCASE("the controller is in it") {
    guest.emplace("squall");
    group.take(guest->pid());
    why = words + " holds what must live: " + std::to_string(guest->pid()) + " is squall's own";
  }
  const v1::Looked looked = look_at(wanted);
  // Where v1's freezer is mounted too, it was looked for there as well.
  const std::string said = looked.message().substr(0, looked.message().find(", in v2 or"));
  CHECK(said == why);
  CHECK(make_fault(wanted)->prepare().status().code() == static_cast<StatusCode>(looked.code()));
  member.reset();
  guest.reset();
}

TEST_CASE("the group of this process is refused") {
  const OwnGroup group(unique_name("s"));
  const auto outside = [] {
    v1::Pause root;
    return network::open_cgroup_root();
  }();
  REQUIRE(outside.ok());
  group.take(static_cast<std::uint32_t>(::getpid()));
  const v1::Looked looked = look_at(freeze(group.path()));
  std::ofstream("/proc/self/fd/" + std::to_string(outside->number()) + "/cgroup.procs")
      << ::getpid() << std::flush;
  CHECK(looked.message() == "control group " + group.path() + " holds what must live: " +
                                std::to_string(::getpid()) + " is squall's own or its ancestor");
}

TEST_CASE("two faults cannot freeze one group") {
  const Scene scene;
  const auto first = make_fault(freeze(scene.group.path()));
  const auto second = make_fault(freeze(scene.group.path()));
  REQUIRE(first->prepare().ok());
  CHECK(message_of(second->prepare().status()) ==
        "another fault has frozen control group " + scene.group.path());
  REQUIRE(first->apply(MonotonicTime::max()).ok());
  CHECK(second->end_effect().ok());
  CHECK(second->clean_up().empty());
  scene.check_frozen();
  CHECK(first->end_effect().ok());
  CHECK(first->clean_up().empty());
  scene.check_as_before();
  // And then another can.
  const auto third = make_fault(freeze(scene.group.path()));
  CHECK(third->prepare().ok());
}

TEST_CASE("a group that was frozen by somebody else since it was chosen stays his") {
  const Scene scene;
  const auto fault = make_fault(freeze(scene.group.path()));
  REQUIRE(fault->prepare().ok());
  REQUIRE(scene.group.write("cgroup.freeze", "1"));
  CHECK(message_of(fault->apply(MonotonicTime::max())) ==
        "control group " + scene.group.path() + " was frozen by somebody else meanwhile");
  CHECK(fault->end_effect().ok());
  CHECK(scene.group.read("cgroup.freeze") == "1\n");
  REQUIRE(scene.group.write("cgroup.freeze", "0"));
  scene.check_as_before();
}

TEST_CASE("a paused group may be killed and emptied and removed without residue") {
  const auto group = std::make_unique<OwnGroup>(unique_name("k"));
  auto member = std::make_unique<Member>(*group);
  const auto fault = make_fault(freeze(group->path()));
  REQUIRE(fault->prepare().ok());
  REQUIRE(fault->apply(MonotonicTime::max()).ok());
  member.reset();
  CHECK(support::eventually([&] { return group->read("cgroup.procs").empty(); }, kBound));
  CHECK_FALSE(fault->evidence().effect());
  CHECK(fault->end_effect().ok());
  CHECK(fault->clean_up().empty());
}

/// Freezes and thaws the group, with the mounts as `arrange` leaves them. Returns what went wrong.
std::string freeze_elsewhere(const std::string& path, const std::function<bool()>& arrange) {
  Status status;
  // Mounts are a thread's own, if it says so.
  std::thread([&] {
    const bool arranged = ::unshare(CLONE_NEWNS) == 0 &&
                          ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                          arrange();
    const auto fault = make_fault(freeze(path));
    status = arranged ? fault->prepare().status() : error(StatusCode::kInternal, "mount");
    if (!status.ok()) return;
    status = fault->apply(MonotonicTime::max());
    if (status.ok() && !fault->evidence().effect()) status = error(StatusCode::kInternal, "no");
    status.Update(fault->end_effect());
    for (const std::string& left : fault->clean_up()) {
      status.Update(error(StatusCode::kInternal, left));
    }
  }).join();
  return message_of(status);
}

TEST_CASE("where cgroup v2 is mounted nowhere a group is frozen all the same") {
  const Scene scene;
  CHECK(freeze_elsewhere(scene.group.path(),
                         [] { return ::mount("tmpfs", "/sys", "tmpfs", 0, nullptr) == 0; }) == "");
  scene.check_as_before();
}

TEST_CASE("where cgroup v2 is mounted to be read only a group is refused before it is tried") {
  const Scene scene;
  const std::string mount = scene.group.mount();
  CHECK(freeze_elsewhere(scene.group.path(),
                         [&] {
                           return ::mount(nullptr, mount.c_str(), nullptr,
                                          MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0;
                         }) == "control group " + scene.group.path() +
                                   " cannot be frozen: its hierarchy is mounted to be read only");
  scene.check_as_before();
}

/// A group of v1's freezer.
class OldGroup {
 public:
  OldGroup() {
    for (const char* known : {"/sys/fs/cgroup/freezer"}) {
      if (std::filesystem::exists(std::string(known) + "/tasks")) root_ = known;
    }
    if (root_.empty()) return;
    path_ = "/" + unique_name("v1");
    std::filesystem::create_directory(root_ + path_);
  }
  ~OldGroup() {
    if (root_.empty()) return;
    write("freezer.state", "THAWED");
    support::eventually([&] { return ::rmdir((root_ + path_).c_str()) == 0; }, kBound);
  }
  OldGroup(const OldGroup&) = delete;
  OldGroup& operator=(const OldGroup&) = delete;

  bool exists() const { return !root_.empty(); }
  const std::string& path() const { return path_; }

  void write(const std::string& file, const std::string& text) const {
    std::ofstream(root_ + path_ + "/" + file) << text << std::flush;
  }
  std::string state() const {
    std::ifstream in(root_ + path_ + "/freezer.state");
    return {std::istreambuf_iterator<char>(in), {}};
  }

 private:
  std::string root_;
  std::string path_;
};

TEST_CASE("where v2 has no such group v1's freezer is taken") {
  const OldGroup group;
  if (!group.exists()) {
    MESSAGE("SKIPPED: v1's freezer is not mounted here");
    return;
  }
  const Steps steps;
  Victim member(unique_name("m"), [&] {
    if (!fork_child()) return;
    for (;;) {
      ++*steps;
      support::yield_for(std::chrono::microseconds(200));
    }
  });
  const auto children = support::children_of(static_cast<pid_t>(member.pid()), unique_name("m"));
  REQUIRE(children.size() == 1);
  group.write("cgroup.procs", std::to_string(children[0]));
  const auto fault = make_fault(freeze(group.path()));
  const auto undos = fault->prepare();
  REQUIRE_MESSAGE(undos.ok(), message_of(undos.status()));
  CHECK((*undos)[0].thaw_cgroup().v1());
  const Status applied = fault->apply(MonotonicTime::max());
  REQUIRE_MESSAGE(applied.ok(), message_of(applied));
  const std::uint64_t before = *steps;
  support::yield_for(milliseconds(60));
  CHECK(*steps == before);
  CHECK(fault->evidence().effect());
  CHECK(fault->evidence().pause().processes() == 1);
  CHECK(group.state() == "FROZEN\n");
  CHECK(run_undo((*undos)[0]).ok());  // as a sweep does it
  CHECK(group.state() == "THAWED\n");
  CHECK(fault->end_effect().ok());
  CHECK(fault->clean_up().empty());
  CHECK(support::eventually([&] { return *steps > before; }, kBound));
}

}  // namespace
}  // namespace squall::hold
