/// \file
/// files: makes a file or directory absent, unreadable or read-only.
///
/// The inode is never touched, so that owner, mode, attributes and times need no undo. What is
/// absent bears a hidden name in its own folder, which a ledger entry takes back; what is
/// unreadable or read-only has a mount over it.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/base/failpoint.h"
#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "injector/faults/mounts.h"
#include "injector/faults/paths.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

/// The kernel's times of files are as coarse as its slowest tick. Source: time(7), "The software
/// clock, HZ, and jiffies".
constexpr Duration kTick = std::chrono::milliseconds(10);

std::string in_folder(const std::string& folder, const std::string& name) {
  return escape_controls(folder + (folder.ends_with('/') ? "" : "/") + name);
}

/// The inode that bears the name, 0 if nothing does. Errors: kInternal; never taken for "nothing".
StatusOr<std::uint64_t> inode_at(const Fd& folder, const std::string& name) {
  struct stat status {};
  if (::fstatat(folder.number(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) ==
      0) {
    return static_cast<std::uint64_t>(status.st_ino);
  }
  if (errno == ENOENT) return std::uint64_t{0};
  return from_errno("looking for " + escape_controls(name), errno);
}

std::int64_t ns_of(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

void set_modified(const Fd& folder, const timespec& time) {
  const timespec times[] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, time};
  ::futimens(folder.number(), times);
}

/// Gives a folder the time that whoever renamed in it did not live to give back. Its last change is
/// then that of the inode which was renamed; nobody else has changed it since.
void mend_modified(const v1::RenameBack& undo, const Fd& folder, const std::string& name) {
  struct stat now {};
  struct stat renamed {};
  if (undo.folder_modified() == 0 || ::fstat(folder.number(), &now) != 0 ||
      ::fstatat(folder.number(), name.c_str(), &renamed, AT_SYMLINK_NOFOLLOW) != 0 ||
      renamed.st_ino != undo.inode()) {
    return;
  }
  const std::int64_t apart = ns_of(now.st_mtim) - ns_of(renamed.st_ctim);
  if (apart > kTick.count() || apart < -kTick.count()) return;
  set_modified(folder, {.tv_sec = undo.folder_modified() / 1'000'000'000,
                        .tv_nsec = undo.folder_modified() % 1'000'000'000});
}

/// Renames within a folder, whose own times stay as they are, and has it on disk. Never over
/// something else.
Status rename_in(const Fd& folder, const std::string& from, const std::string& to) {
  struct stat before {};
  if (::fstat(folder.number(), &before) != 0) return from_errno("fstat", errno);
  if (::renameat2(folder.number(), from.c_str(), folder.number(), to.c_str(), RENAME_NOREPLACE) !=
      0) {
    if (errno == EINVAL) {
      return error(StatusCode::kUnimplemented,
                   "its file system cannot rename without replacing (RENAME_NOREPLACE)");
    }
    return from_errno("renaming " + escape_controls(from) + " to " + escape_controls(to), errno);
  }
  failpoint<"files.renamed">();
  set_modified(folder, before.st_mtim);
  failpoint<"files.times_kept">();
  if (::fsync(folder.number()) != 0 && errno != EINVAL && errno != EROFS) {
    return from_errno("fsync of the folder", errno);
  }
  return ok();
}

/// Errors: kDataLoss, saying where it is, when it cannot have its name back.
Status rename_back(const v1::RenameBack& undo, const Fd& folder) {
  const StatusOr<std::uint64_t> hidden = inode_at(folder, undo.hidden());
  if (!hidden.ok()) return hidden.status();
  const bool is_hidden = *hidden == undo.inode();
  mend_modified(undo, folder, is_hidden ? undo.hidden() : undo.name());
  if (!is_hidden) return ok();  // never was, or is back, or no longer what we hid
  const Status renamed = rename_in(folder, undo.hidden(), undo.name());
  if (renamed.ok()) return ok();
  const std::string why = renamed.code() == StatusCode::kAlreadyExists
                              ? "somebody else made a new one there"
                              : message_of(renamed);
  return error(StatusCode::kDataLoss, in_folder(undo.folder(), undo.name()) + " is now " +
                                          in_folder(undo.folder(), undo.hidden()) + ": " + why);
}

Status run(const v1::Undo& undo) {
  const v1::RenameBack& back = undo.rename_back();
  const StatusOr<Fd> place = open_path(back.folder());
  if (place.status().code() == StatusCode::kNotFound) return ok();  // gone with its folder
  if (!place.ok()) return error(StatusCode::kDataLoss, message_of(place.status()));
  const Fd folder(::openat(place->number(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open()) {
    return error(StatusCode::kDataLoss,
                 message_of(from_errno("opening " + escape_controls(back.folder()), errno)));
  }
  return rename_back(back, folder);
}

std::string words_of(const v1::Undo& undo) {
  return "hidden " + in_folder(undo.rename_back().folder(), undo.rename_back().name());
}

/// Errors: also kInvalidArgument for what can be neither read nor written anyway.
StatusOr<FoundPath> find(const v1::Files& wanted, const SparedPaths& spared) {
  StatusOr<FoundPath> found = find_path("files.path", wanted.path(), spared);
  if (!found.ok()) return found;
  const mode_t mode = found->status.st_mode;
  if (wanted.make() == v1::ABSENT) {
    struct stat folder {};
    const bool is_mounted = ::fstat(found->parent.number(), &folder) == 0 &&
                            mount_of(found->self.number()) != mount_of(found->parent.number());
    if (is_mounted) {
      return error(StatusCode::kFailedPrecondition,
                   "files.path: " + escape_controls(found->path()) +
                       " is a mount point, which cannot be absent; name something below it");
    }
    return found;
  }
  if (!S_ISREG(mode) && !S_ISDIR(mode)) {
    return error(StatusCode::kInvalidArgument, "files.path: " + escape_controls(found->path()) +
                                                   " is neither a file nor a directory");
  }
  return found;
}

StatusOr<v1::Undo> plan(const v1::Files& wanted, const FoundPath& found, const std::string& tag,
                        const std::string& id) {
  v1::Undo undo;
  if (wanted.make() == v1::ABSENT) {
    v1::RenameBack& back = *undo.mutable_rename_back();
    back.set_folder(found.folder);
    back.set_name(found.name);
    back.set_hidden(".squall-" + id);
    back.set_inode(found.status.st_ino);
    struct stat folder {};
    if (::fstat(found.parent.number(), &folder) != 0) return from_errno("fstat", errno);
    back.set_folder_modified(ns_of(folder.st_mtim));
    return undo;
  }
  StatusOr<v1::Unmount> mount =
      wanted.make() == v1::READ_ONLY ? plan_read_only(found) : plan_cover(found, tag);
  if (!mount.ok()) return in_context("files.path", mount.status());
  *undo.mutable_unmount() = *std::move(mount);
  return undo;
}

class Files final : public Fault {
 public:
  Files(const v1::Files& wanted, const SparedPaths& spared, const std::string& state_id,
        const std::string& id)
      : wanted_(wanted), spared_(spared), tag_(object_tag(state_id, id)), id_(id) {}

  /// Errors: kInvalidArgument for what no fault may touch; kNotFound; kFailedPrecondition for a
  /// mount point.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<FoundPath> found = find(wanted_, spared_);
    if (!found.ok()) return found.status();
    const StatusOr<v1::Undo> undo = plan(wanted_, *found, tag_, id_);
    if (!undo.ok()) return undo.status();
    found_.emplace(*std::move(found));
    undo_ = *undo;
    return std::vector<v1::Undo>{undo_};
  }

  /// Errors: kUnimplemented for a file system or kernel that cannot; kFailedPrecondition without
  /// /dev/fuse.
  Status apply(MonotonicTime) override {
    const Status made = make();
    if (!made.ok()) return in_context("files", made);
    if (Status acts = look_whether_it_acts(); !acts.ok()) return acts;
    acted_ = true;
    return ok();
  }

  /// Errors: kFailedPrecondition when somebody else took the mount away. A new file under an absent
  /// one's name is an answer to the fault, not its end.
  Status pulse(MonotonicTime) override {
    if (wanted_.make() == v1::ABSENT) return ok();
    const StatusOr<bool> mounted = is_mounted(undo_.unmount());
    if (!mounted.ok()) return mounted.status();
    if (*mounted) return ok();
    return error(StatusCode::kFailedPrecondition,
                 "somebody else took the mount over " + escape_controls(found_->path()) + " away");
  }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    evidence.set_effect(acted_);
    evidence.mutable_files()->set_path(escape_controls(wanted_.path()));
    evidence.mutable_files()->set_is(wanted_.make());
    return evidence;
  }

  Status end_effect() override {
    if (undo_.has_unmount()) return unmount(undo_.unmount());
    // By the folder that it was taken from, whatever else its path may lead to by now.
    if (undo_.has_rename_back()) return rename_back(undo_.rename_back(), found_->parent);
    return ok();
  }

  std::vector<std::string> clean_up() override {
    if (!acted_ || !undo_.has_rename_back()) return {};
    const StatusOr<std::uint64_t> there = inode_at(found_->parent, found_->name);
    if (!there.ok()) return {message_of(there.status())};
    if (*there == undo_.rename_back().inode()) return {};
    const StatusOr<std::uint64_t> hidden = inode_at(found_->parent, undo_.rename_back().hidden());
    if (hidden.ok() && *hidden != 0) return {};  // which end_effect() has said
    return {escape_controls(found_->path()) + " is gone: somebody removed it while it was absent"};
  }

 private:
  Status make() {
    switch (wanted_.make()) {
      case v1::UNREADABLE:
        return cover_unreadable(*found_, tag_);
      case v1::READ_ONLY:
        return cover_read_only(*found_);
      default:
        return rename_in(found_->parent, found_->name, undo_.rename_back().hidden());
    }
  }

  /// As any process meets it: by the path.
  Status look_whether_it_acts() const {
    const std::string path = found_->path();
    std::string seen;
    if (wanted_.make() == v1::READ_ONLY) {
      struct statvfs mount {};
      if (::statvfs(path.c_str(), &mount) == 0 && (mount.f_flag & ST_RDONLY) != 0) return ok();
      seen = "can still be written";
    } else {
      const int expected = wanted_.make() == v1::ABSENT ? ENOENT : EACCES;
      const Fd file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
      if (!file.is_open() && errno == expected) return ok();
      seen = file.is_open() ? "can still be opened"
                            : message_of(from_errno("fails in another way: open", errno));
    }
    return error(StatusCode::kInternal, "files: " + escape_controls(path) + " " + seen);
  }

  v1::Files wanted_;
  SparedPaths spared_;
  std::string tag_;
  std::string id_;
  std::optional<FoundPath> found_;
  v1::Undo undo_;
  bool acted_ = false;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Files>(start.fault().files(), start.spared_paths(), start.state_id(),
                                 start.fault().id());
}

v1::Looked look(const v1::Look& request) {
  const v1::Files& wanted = request.fault().files();
  const StatusOr<FoundPath> found = find(wanted, request.spared_paths());
  if (!found.ok()) return refused(found.status());
  const StatusOr<v1::Undo> undo = plan(wanted, *found, "", request.fault().id());
  if (!undo.ok()) return refused(undo.status());
  if (wanted.make() == v1::UNREADABLE && ::access("/dev/fuse", R_OK | W_OK) != 0) {
    return refused(error(StatusCode::kFailedPrecondition, kNoFuse));
  }
  v1::Looked looked;
  looked.add_notes(found->is_folder() ? "a directory and all below it" : "one file");
  if (wanted.make() != v1::ABSENT && has_own_mount_namespace()) {
    looked.add_notes("squalld has a mount namespace of its own: only what runs in it is reached");
  }
  return looked;
}

}  // namespace

extern const FaultKind kFiles;
const FaultKind kFiles{.kind = v1::Fault::kFiles, .name = "files", .make = make, .look = look};

extern const UndoKind kRenameBack;
const UndoKind kRenameBack{.what = v1::Undo::kRenameBack, .run = run, .in_words = words_of};

}  // namespace squall::hold
