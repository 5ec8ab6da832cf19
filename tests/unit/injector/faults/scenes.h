/// \file
/// What the tests of the faults that use a resource up share: a fault in mid-life on a squalld of
/// its own and every blow that may hit those who hold it, and control groups to use things up in.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "experiments/base/clock.h"
#include "squall/v1/faults.pb.h"
#include "tests/support/daemon.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"

namespace squall::support {

enum class Blow {
  kReverted,
  kHolderKilled,
  kHolderFrozen,
  kDaemonKilled,
  kAllFrozen,
  kControllerVanished,
  kControllerSilent,
};

std::string_view in_words(Blow blow);

/// Shorter than in life, so that many cases take little time. All is slower in the lab.
extern const Duration kLease;

/// A fault in mid-life. Whatever of it still lives ends with the object.
class MidFault {
 public:
  /// Returns when it is applied. Throws std::runtime_error with the reason when it is not.
  MidFault(const v1::Fault& fault, const Namespace& where);
  MidFault(const MidFault&) = delete;
  MidFault& operator=(const MidFault&) = delete;
  ~MidFault();

  pid_t holder() const { return holder_->pid(); }
  Controller& controller() { return *controller_; }
  Daemon& daemon() { return *daemon_; }

  void strike(Blow blow);

 private:
  v1::Fault fault_;
  TemporaryFolder state_;
  std::optional<Daemon> daemon_;
  std::optional<Controller> controller_;
  std::optional<Stranger> holder_;
};

/// Injects the fault once for each of the blows, waits until it is in effect, strikes, and checks
/// that it is not any more within a lease. `begin` is called with each holder.
void check_ends(const v1::Fault& fault, const Namespace& where,
                const std::function<void(pid_t)>& begin, const std::function<bool()>& in_effect,
                bool when_all_are_frozen = true);

/// Why a look refuses the fault; checks that a holder does so as well, in the same words but for
/// what is available just then.
std::string why_refused(const v1::Fault& fault, const Namespace& where);

/// Processor time that a process and its threads have used, by the kernel's account, to the moment;
/// nothing if it is gone.
std::optional<Duration> processor_time(pid_t pid);

/// What a process has in memory that belongs to no file; 0 if it is gone.
std::uint64_t resident_memory(pid_t pid);

/// A control group of the test's own, in the hierarchy where the controller acts. Throws
/// std::runtime_error, and says SKIPPED, where none does.
class ControlGroup {
 public:
  explicit ControlGroup(const std::string& controller);
  ControlGroup(const ControlGroup&) = delete;
  ControlGroup& operator=(const ControlGroup&) = delete;
  ~ControlGroup();  ///< Kills whoever is in it.

  bool is_v2() const { return v2_; }
  const std::string& path() const { return path_; }      ///< From the hierarchy's root.
  const std::string& folder() const { return folder_; }  ///< Where it is mounted.
  std::string read(const std::string& name) const;
  std::uint64_t number(const std::string& name) const;
  void write(const std::string& name, const std::string& value) const;

 private:
  bool v2_ = false;
  std::string path_;
  std::string folder_;
};

}  // namespace squall::support
