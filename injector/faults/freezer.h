/// \file
/// The freezer of a control group: stops all that is in it and below it, and stays as it was
/// written when its writer is gone. So its way back is an undo.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/fd.h"
#include "experiments/base/status.h"
#include "injector/faults/processes.h"
#include "squall/v1/faults.pb.h"
#include "squall/v1/undo.pb.h"

namespace squall::hold {

/// One control group's. The group is held by its opened folder.
class Freezer {
 public:
  /// That of the group which the fault names, in v2 or, where v2 has no such group, in v1's
  /// freezer. Errors: kNotFound for a group that is not there; kUnimplemented for a kernel without
  /// a freezer; kFailedPrecondition for the root, which has none, and for what cannot be written.
  static StatusOr<Freezer> open(const v1::Pause& wanted);

  /// That of an undo. Errors: kNotFound if the group is gone, or another bears its path.
  static StatusOr<Freezer> open(const v1::ThawCgroup& undo);

  const std::string& path() const { return path_; }

  /// "control group /shop", of v1 said so.
  std::string in_words() const;

  /// What the file says: "0" or "1"; v1: "THAWED", "FREEZING" or "FROZEN".
  StatusOr<std::string> state() const;

  /// Whether all that is in it stands.
  StatusOr<bool> is_frozen() const;

  /// Errors: kDataLoss if it does not read so afterwards.
  Status write(const std::string& state) const;

  /// Waits until all that is in it stands. Errors: kFailedPrecondition when it does not by then.
  Status wait_until_frozen(MonotonicTime by) const;

  /// The way back from frozen(), as it reads now.
  v1::ThawCgroup undo(const std::string& before) const;

  const char* frozen() const { return v1_ ? "FROZEN" : "1"; }
  const char* thawed() const { return v1_ ? "THAWED" : "0"; }

  /// The processes in it and below it. Errors: kInternal when it cannot be read.
  StatusOr<std::vector<std::uint32_t>> processes() const { return members("cgroup.procs"); }
  StatusOr<std::vector<std::uint32_t>> threads() const {
    return members(v1_ ? "tasks" : "cgroup.threads");
  }

  /// Keeps other faults from it until it is closed. Errors: kFailedPrecondition if one has it.
  StatusOr<Fd> lock() const;

  /// From then on watched() is readable when what is_frozen() says may have changed, until that is
  /// asked. v1 tells nobody.
  Status watch();
  int watched() const { return watched_.number(); }

 private:
  Freezer(std::string path, bool v1, Fd folder)
      : path_(std::move(path)), v1_(v1), folder_(std::move(folder)) {}

  static StatusOr<Freezer> find(const v1::Pause& wanted);

  const char* file() const { return v1_ ? "freezer.state" : "cgroup.freeze"; }
  StatusOr<std::vector<std::uint32_t>> members(const char* name) const;
  std::uint64_t inode() const;
  StatusOr<std::string> events() const;

  std::string path_;
  bool v1_;
  Fd folder_;
  Fd events_;  // cgroup.events, while it is watched
  Fd watched_;
};

}  // namespace squall::hold
