#include "tests/unit/injector/faults/scenes.h"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>
#include <stdexcept>
#include <system_error>

#include "experiments/base/file.h"
#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "tests/support/eventually.h"
#include "tests/support/holder.h"

namespace squall::support {
namespace {

using namespace std::chrono_literals;

/// For what has no promised time: only so that a broken case ends.
constexpr Duration kBound = 15s;
/// What may come on top of a promised time on a machine that is busy with something else.
constexpr Duration kSlack = 2s;

constexpr Blow kBlows[] = {
    Blow::kReverted,  Blow::kHolderKilled,       Blow::kHolderFrozen,     Blow::kDaemonKilled,
    Blow::kAllFrozen, Blow::kControllerVanished, Blow::kControllerSilent,
};

std::string line_of(const std::string& text, const std::string& begin) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(begin)) return line.substr(begin.size());
  }
  return "";
}

/// Nothing of what is gone.
std::string text_of(const std::string& path) { return read_whole(path).value_or(""); }

/// What is free changes from one look to the next, and with it what it is counted in.
std::string without_sizes(const std::string& text) {
  static const std::regex kSize("[0-9.]+([KMGT]iB|B|%)?");
  return std::regex_replace(text, kSize, "#");
}

}  // namespace

const Duration kLease = std::getenv("SQUALL_LAB") != nullptr ? 3s : 1s;

std::string_view in_words(Blow blow) {
  switch (blow) {
    case Blow::kReverted:
      return "reverted";
    case Blow::kHolderKilled:
      return "its holder killed";
    case Blow::kHolderFrozen:
      return "its holder frozen";
    case Blow::kDaemonKilled:
      return "squalld killed";
    case Blow::kAllFrozen:
      return "squalld and its holders frozen";
    case Blow::kControllerVanished:
      return "the controller gone";
    case Blow::kControllerSilent:
      return "the controller silent";
  }
  return "";
}

MidFault::MidFault(const v1::Fault& fault, const Namespace& where) : fault_(fault) {
  fault_.set_id(new_fault_id());
  daemon_.emplace(where, state_.path());
  controller_.emplace(daemon_->address(), "resources", 1, kLease);
  try {
    controller_->inject(fault_);
  } catch (const std::runtime_error& failed) {
    throw std::runtime_error(std::string(failed.what()) + "; squalld said:\n" +
                             daemon_->process().err());
  }
  const std::string applied_by = "fault=" + fault_.id() + " pid=";
  std::string said;
  REQUIRE(eventually(
      [&] { return (said = daemon_->process().err()).find(applied_by) != std::string::npos; },
      kBound));
  holder_.emplace(std::stoi(said.substr(said.find(applied_by) + applied_by.size())));
}

MidFault::~MidFault() {
  // A frozen daemon's holders would outlive it by a lease.
  for (const int number : {SIGCONT, SIGKILL}) holder_->signal(number);
  daemon_->process().signal(SIGCONT);
}

void MidFault::strike(Blow blow) {
  switch (blow) {
    case Blow::kReverted:
      return controller_->revert(fault_.id());
    case Blow::kHolderKilled:
      return holder_->signal(SIGKILL);
    case Blow::kHolderFrozen:
      return holder_->signal(SIGSTOP);
    case Blow::kDaemonKilled:
      return daemon_->process().signal(SIGKILL);
    case Blow::kAllFrozen:
      daemon_->process().signal(SIGSTOP);
      return holder_->signal(SIGSTOP);
    case Blow::kControllerVanished:
      return controller_->vanish();
    case Blow::kControllerSilent:
      return controller_->fall_silent();
  }
}

void check_ends(const v1::Fault& fault, const Namespace& where,
                const std::function<void(pid_t)>& begin, const std::function<bool()>& in_effect,
                bool when_all_are_frozen) {
  for (const Blow blow : kBlows) {
    if (blow == Blow::kAllFrozen && !when_all_are_frozen) continue;
    CAPTURE(in_words(blow));
    MidFault scene(fault, where);
    begin(scene.holder());
    REQUIRE(eventually(in_effect, kBound));
    scene.strike(blow);
    CHECK(eventually([&] { return !in_effect(); }, kLease + kSlack));
  }
}

std::string why_refused(const v1::Fault& fault, const Namespace& where) {
  v1::Look look;
  *look.mutable_fault() = fault;
  const v1::Looked looked = where.run([&] { return hold::find_kind(fault)->look(look); });
  CHECK(looked.code() != 0);
  Holder holder(where);
  std::string said;
  try {
    holder.inject(fault, kBound);
  } catch (const std::runtime_error& refused) {
    said = refused.what();
  }
  CHECK(without_sizes(said) == without_sizes(looked.message()));
  return said;
}

std::optional<Duration> processor_time(pid_t pid) {
  clockid_t clock{};
  timespec used{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &used) != 0) {
    return std::nullopt;
  }
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

std::uint64_t resident_memory(pid_t pid) {
  const std::string line = line_of(text_of("/proc/" + std::to_string(pid) + "/status"), "RssAnon:");
  return line.empty() ? 0 : std::stoull(line) << 10U;
}

ControlGroup::ControlGroup(const std::string& controller) {
  const std::string v2 = "/sys/fs/cgroup";
  const std::string v1 = v2 + "/" + controller;
  v2_ = (" " + text_of(v2 + "/cgroup.controllers")).find(" " + controller) != std::string::npos;
  if (!v2_ && !std::filesystem::exists(v1 + "/cgroup.procs")) {
    std::printf("SKIPPED: no control groups with a %s controller here\n", controller.c_str());
    throw std::runtime_error("no control groups with a " + controller + " controller");
  }
  if (v2_) std::ofstream(v2 + "/cgroup.subtree_control") << "+" << controller << std::flush;
  static int made = 0;
  path_ = "/squall-test-" + std::to_string(::getpid()) + "-" + std::to_string(++made);
  folder_ = (v2_ ? v2 : v1) + path_;
  if (::mkdir(folder_.c_str(), 0755) != 0) throw std::runtime_error("cannot make " + folder_);
}

ControlGroup::~ControlGroup() {
  eventually(
      [&] {
        std::istringstream pids(text_of(folder_ + "/cgroup.procs"));
        for (pid_t pid = 0; pids >> pid;) ::kill(pid, SIGKILL);
        return ::rmdir(folder_.c_str()) == 0;
      },
      5s);
}

std::string ControlGroup::read(const std::string& name) const {
  return text_of(folder_ + "/" + name);
}

std::uint64_t ControlGroup::number(const std::string& name) const {
  return std::stoull(read(name));
}

void ControlGroup::write(const std::string& name, const std::string& value) const {
  std::ofstream file(folder_ + "/" + name);
  file << value << std::flush;
  if (!file) throw std::runtime_error("cannot write " + folder_ + "/" + name);
}

}  // namespace squall::support
