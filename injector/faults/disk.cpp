/// \file
/// disk: fills a file system but for a reserve, or keeps its device busy at a steady rate.
///
/// All of it is done to files without a name (O_TMPFILE) that this process alone has open, by
/// threads beside the one that answers pulses: with the process the kernel frees their blocks.
/// Where a file system knows no nameless files, one is made with a name that an undo knows and
/// loses it at once.
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/base/fd.h"
#include "experiments/base/units.h"
#include "experiments/fault/fault.h"
#include "injector/faults/fault.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

/// What is filled between two looks at what is free.
constexpr std::uint64_t kStep = 256U << 20U;
/// Where blocks cannot be had without writing them.
constexpr std::uint64_t kWriteStep = 1U << 20U;
constexpr Duration kLookEvery = std::chrono::milliseconds(50);
/// What is read from and written to, round and round: more than a device's own cache often is.
constexpr std::uint64_t kBurnFile = 64U << 20U;
/// What the device was too slow for is made up for later, but no more than this much of it.
constexpr Duration kLargestDebt = std::chrono::milliseconds(200);
/// What O_DIRECT wants of addresses, and of sizes on the devices that want most.
constexpr std::size_t kAlignment = 4096;
/// How long apply() waits to see that something was done.
constexpr Duration kPatience = std::chrono::seconds(1);

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from > what ? from - what : 0; }

std::string in_kib(std::uint64_t bytes) { return format_bytes(bytes >> 10U << 10U); }

/// What fits neither a page nor a block twice, so that nothing folds or packs it.
void fill_by_chance(std::span<std::uint64_t> words) {
  thread_local std::uint64_t chance = static_cast<std::uint64_t>(to_ns(monotonic_now())) | 1U;
  for (std::uint64_t& word : words) {
    // Source: Marsaglia, "Xorshift RNGs", 2003.
    chance ^= chance << 13U;
    chance ^= chance >> 7U;
    chance ^= chance << 17U;
    word = chance;
  }
}

/// The directory, reached by no symbolic link. Errors: kInvalidArgument for what is none,
/// kNotFound, kFailedPrecondition for one that cannot be written to.
StatusOr<Fd> open_directory(const std::string& path) {
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  Fd folder(static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, path.c_str(), &how, sizeof how)));
  if (!folder.is_open()) {
    switch (errno) {
      case ENOENT:
        return error(StatusCode::kNotFound, "disk.path: there is no " + path);
      case ENOTDIR:
        return error(StatusCode::kInvalidArgument, "disk.path: " + path + " is not a directory");
      case ELOOP: {
        const std::unique_ptr<char, decltype(&std::free)> real(::realpath(path.c_str(), nullptr),
                                                               &std::free);
        return error(StatusCode::kInvalidArgument,
                     "disk.path: " + path + " leads through a symbolic link" +
                         (real ? "; write " + std::string(real.get()) : ""));
      }
      default:
        return from_errno("disk.path: " + path, errno);
    }
  }
  struct statfs about {};
  if (::fstatfs(folder.number(), &about) != 0) return from_errno("disk.path: " + path, errno);
  constexpr std::array<long, 8> kKernels = {
      PROC_SUPER_MAGIC,    SYSFS_MAGIC,   DEVPTS_SUPER_MAGIC, CGROUP_SUPER_MAGIC,
      CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, TRACEFS_MAGIC,      BPF_FS_MAGIC,
  };
  if (std::find(kKernels.begin(), kKernels.end(), about.f_type) != kKernels.end()) {
    return error(StatusCode::kInvalidArgument,
                 "disk.path: " + path + " is the kernel's own, and no file system for files");
  }
  if ((about.f_flags & ST_RDONLY) != 0) {
    return error(StatusCode::kFailedPrecondition,
                 "disk.path: the file system of " + path + " is mounted read-only");
  }
  return folder;
}

/// What a file system has, as df shows it: to all but root.
struct Space {
  std::uint64_t used = 0;
  std::uint64_t free = 0;
};

StatusOr<Space> space_of(const Fd& folder) {
  struct statvfs about {};
  if (::fstatvfs(folder.number(), &about) != 0) return from_errno("statvfs", errno);
  return Space{std::uint64_t{about.f_blocks - about.f_bfree} * about.f_frsize,
               std::uint64_t{about.f_bavail} * about.f_frsize};
}

bool fills(const v1::Disk& wanted) { return wanted.has_size() || wanted.has_to(); }
bool burns(const v1::Disk& wanted) { return wanted.has_read() || wanted.has_write(); }

/// How much more is meant than what is filled.
std::uint64_t still_wanted(const v1::Disk& wanted, const Space& space, std::uint64_t filled) {
  if (wanted.has_size()) return less(wanted.size(), filled);
  if (!wanted.has_to()) return 0;
  const double all = static_cast<double>(space.used + space.free) * wanted.to() / 100;
  return less(static_cast<std::uint64_t>(all), space.used);
}

/// What is burnt on: whole blocks, at least one.
std::uint64_t burn_size(const v1::Disk& wanted) {
  return std::max(kBurnFile / wanted.block(), std::uint64_t{1}) * wanted.block();
}

/// Errors: kFailedPrecondition for what cannot be had without touching the reserve.
Status can_be_had(const v1::Disk& wanted, const Space& space) {
  const std::uint64_t room = less(space.free, wanted.keep_free());
  const std::string why = "of " + in_kib(space.free) + " free below " + wanted.path() + " " +
                          format_bytes(wanted.keep_free()) + " must stay free (keep_free)";
  if (wanted.has_size() && wanted.size() > room) {
    return error(StatusCode::kFailedPrecondition, "disk.size: " + format_bytes(wanted.size()) +
                                                      " cannot be had: " + why + ", so at most " +
                                                      in_kib(room));
  }
  if (wanted.has_to() && still_wanted(wanted, space, 0) == 0) {
    return error(StatusCode::kFailedPrecondition,
                 "disk.to: more than " + format_percent(wanted.to()) + " of the file system of " +
                     wanted.path() + " is in use already");
  }
  if (wanted.has_to() && room == 0) {
    return error(StatusCode::kFailedPrecondition, "disk.to: nothing to be had: " + why);
  }
  if (burns(wanted) && burn_size(wanted) > room) {
    return error(StatusCode::kFailedPrecondition, "disk: the file that is read and written takes " +
                                                      format_bytes(burn_size(wanted)) + ": " + why);
  }
  if (wanted.direct() && wanted.block() % 512 != 0) {
    return error(StatusCode::kInvalidArgument,
                 "disk.block: past the page cache (direct) blocks are multiples of 512B, not " +
                     format_bytes(wanted.block()));
  }
  return ok();
}

/// A file that nobody else has, and that is gone with its descriptor. Errors: kUnimplemented for a
/// file system that cannot go past the page cache.
StatusOr<Fd> make_file(const Fd& folder, const std::string& name, bool direct) {
  const int flags = O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0);
  const std::string self = "/proc/self/fd/" + std::to_string(folder.number());
  Fd file(::open(self.c_str(), flags | O_TMPFILE, 0600));
  // Kernels and file systems that know no O_TMPFILE say one of these. Source: open(2).
  if (!file.is_open() && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
    file.reset(
        ::openat(folder.number(), name.c_str(), flags | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    failpoint<"disk.named">();
    if (file.is_open() && ::unlinkat(folder.number(), name.c_str(), 0) != 0) {
      return from_errno("a file of the fault's own cannot be made nameless", errno);
    }
  }
  if (!file.is_open() && direct && errno == EINVAL) {
    return error(StatusCode::kUnimplemented,
                 "disk.direct: this file system cannot go past the page cache");
  }
  if (!file.is_open()) return from_errno("a file of the fault's own cannot be made", errno);
  return file;
}

/// What the threads and the holder tell each other.
struct Board {
  std::atomic<std::int64_t> deadline_ns = 0;
  std::atomic<bool> ending = false;
  std::atomic<std::uint64_t> filled = 0;
  std::atomic<std::uint64_t> kept_back = 0;
  std::atomic<std::uint64_t> read = 0;
  std::atomic<std::uint64_t> written = 0;
  std::atomic<std::uint64_t> fsyncs = 0;

  /// Past the deadline, nothing is done even if the holder never runs again.
  bool is_over() const {
    return ending.load(std::memory_order_relaxed) ||
           to_ns(monotonic_now()) >= deadline_ns.load(std::memory_order_relaxed);
  }
};

/// What is meant now, for it may change while the fault lasts. From any thread.
class Asked {
 public:
  /// From now on. `fault` outlives it.
  explicit Asked(const v1::Fault& fault) : fault_(fault) {}

  bool changes() const { return fault_.ramps_size() > 0; }
  v1::Disk now() const { return fault_at(fault_, monotonic_now() - begun_).disk(); }

  /// One number of it, asked for again and again: without a copy where nothing changes.
  template <typename Number>
  double now(Number (v1::Disk::*number)() const) const {
    return static_cast<double>(changes() ? (now().*number)() : (fault_.disk().*number)());
  }

 private:
  const v1::Fault& fault_;
  MonotonicTime begun_ = monotonic_now();
};

/// Waits, but not past the end.
void rest(const Board& board, MonotonicTime until) {
  while (!board.is_over()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now());
    if (left.count() <= 0) return;
    ::poll(nullptr, 0, static_cast<int>(std::min<long>(left.count(), 20)));
  }
}

/// Fills, and gives back what others need, or what is meant no more.
class Filler {
 public:
  Filler(const Asked& asked, const Fd& folder, const Fd& file, Board& board)
      : asked_(asked), folder_(folder), file_(file), board_(board) {}

  void run() {
    while (!board_.is_over()) {
      const bool more = step();
      board_.filled.store(filled_, std::memory_order_relaxed);
      if (!more) rest(board_, monotonic_now() + kLookEvery);
    }
    set_size(0);
  }

 private:
  /// Whether there is more to do at once.
  bool step() {
    const StatusOr<Space> space = space_of(folder_);
    if (!space.ok()) return false;
    const v1::Disk wanted = asked_.now();
    const std::uint64_t reserve = wanted.keep_free();
    const std::uint64_t missing = still_wanted(wanted, *space, filled_);
    board_.kept_back.store(missing - std::min(missing, less(space->free, reserve)),
                           std::memory_order_relaxed);
    const std::uint64_t excess = asked_.changes() ? too_much(wanted, *space) : 0;
    if (const std::uint64_t back = std::max(excess, less(reserve, space->free)); back > 0) {
      if (filled_ > 0) set_size(less(filled_, back));
      return false;
    }
    const std::uint64_t next = std::min({missing, space->free - reserve, step_});
    if (next < kAlignment) return false;
    if (add(next)) {
      step_ = writes_ ? kWriteStep : kStep;
      return true;
    }
    // It is fuller than it says: for a quota, or for blocks that it needs for itself. What is still
    // to be had is had in smaller steps.
    step_ = std::max(step_ / 2, std::uint64_t{kAlignment});
    if (step_ > kAlignment) return true;
    board_.kept_back.store(missing, std::memory_order_relaxed);
    return false;
  }

  std::uint64_t too_much(const v1::Disk& wanted, const Space& space) const {
    if (wanted.has_size()) return less(filled_, wanted.size());
    const double all = static_cast<double>(space.used + space.free) * wanted.to() / 100;
    return less(space.used, static_cast<std::uint64_t>(all));
  }

  bool add(std::uint64_t size) {
    if (!writes_) {
      if (::fallocate(file_.number(), 0, static_cast<off_t>(filled_), static_cast<off_t>(size)) ==
          0) {
        filled_ += size;
        failpoint<"disk.filled">();
        return true;
      }
      if (errno != EOPNOTSUPP && errno != ENOSYS) return false;
      writes_ = true;
      step_ = kWriteStep;
      size = std::min(size, kWriteStep);
    }
    std::vector<std::uint64_t> words(size / sizeof(std::uint64_t));
    fill_by_chance(words);
    const ssize_t got = ::pwrite(file_.number(), words.data(), words.size() * sizeof words[0],
                                 static_cast<off_t>(filled_));
    if (got > 0) filled_ += static_cast<std::uint64_t>(got);
    return got > 0;
  }

  void set_size(std::uint64_t size) {
    if (::ftruncate(file_.number(), static_cast<off_t>(size)) == 0) filled_ = size;
  }

  const Asked& asked_;
  const Fd& folder_;
  const Fd& file_;
  Board& board_;
  std::uint64_t filled_ = 0;
  std::uint64_t step_ = kStep;
  bool writes_ = false;
};

/// So many a second, evenly: a bucket that holds what kLargestDebt brings.
class Pace {
 public:
  /// `each_second`: how many now; asked again and again, for it may change.
  explicit Pace(std::function<double()> each_second) : each_second_(std::move(each_second)) {}

  /// Waits for the next, which is worth `units`; false when all is over.
  bool next(const Board& board, double units) {
    due_ = std::max(due_, monotonic_now() - kLargestDebt);
    for (double left = units; left > 0 && !board.is_over();) {
      const double each_second = each_second_();
      const double in_a_step = each_second * to_ms(kStep) / 1000;
      const bool is_last = left < in_a_step;
      due_ += is_last ? Duration(static_cast<std::int64_t>(left / each_second * 1e9)) : kStep;
      left -= in_a_step;
      wait(board, is_last || left <= 0);
    }
    return !board.is_over();
  }

 private:
  static constexpr Duration kStep = std::chrono::milliseconds(20);

  void wait(const Board& board, bool exactly) const {
    if (!exactly) return rest(board, due_);
    const timespec until{.tv_sec = to_ns(due_) / 1'000'000'000,
                         .tv_nsec = to_ns(due_) % 1'000'000'000};
    ::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  }

  std::function<double()> each_second_;
  MonotonicTime due_ = monotonic_now();
};

/// Memory as O_DIRECT wants it.
class Block {
 public:
  explicit Block(std::uint64_t size)
      : size_(size),
        start_(std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment),
               &std::free) {}

  bool is_there() const { return start_ != nullptr; }
  void* start() const { return start_.get(); }
  std::size_t size() const { return size_; }
  std::span<std::uint64_t> words() const {
    return {static_cast<std::uint64_t*>(start_.get()), size_ / sizeof(std::uint64_t)};
  }

 private:
  std::size_t size_;
  std::unique_ptr<void, decltype(&std::free)> start_;
};

/// Reads, writes and syncs one file, each in a thread of its own.
class Burner {
 public:
  Burner(const Asked& asked, const Fd& file, Board& board)
      : asked_(asked),
        file_(file),
        board_(board),
        block_(asked.now().block()),
        blocks_(burn_size(asked.now()) / block_) {}

  void read() {
    const Block block(block_);
    if (!block.is_there() || !make_content(block)) return;
    Pace pace([this] { return asked_.now(&v1::Disk::read); });
    for (std::uint64_t i = 0; pace.next(board_, static_cast<double>(block.size())); ++i) {
      const off_t where = place(i);
      const ssize_t got = ::pread(file_.number(), block.start(), block.size(), where);
      if (got > 0)
        board_.read.fetch_add(static_cast<std::uint64_t>(got), std::memory_order_relaxed);
      // Read again it shall come from the device again.
      ::posix_fadvise(file_.number(), where, static_cast<off_t>(block.size()), POSIX_FADV_DONTNEED);
    }
  }

  void write() {
    const Block block(block_);
    if (!block.is_there()) return;
    Pace pace([this] { return asked_.now(&v1::Disk::write); });
    for (std::uint64_t i = 0; pace.next(board_, static_cast<double>(block.size())); ++i) {
      fill_by_chance(block.words());
      const ssize_t put = ::pwrite(file_.number(), block.start(), block.size(), place(i));
      if (put > 0) {
        board_.written.fetch_add(static_cast<std::uint64_t>(put), std::memory_order_relaxed);
      }
    }
  }

  void sync() {
    Pace pace([this] { return asked_.now(&v1::Disk::fsync); });
    while (pace.next(board_, 1)) {
      if (::fsync(file_.number()) == 0) board_.fsyncs.fetch_add(1, std::memory_order_relaxed);
    }
  }

 private:
  off_t place(std::uint64_t turn) const { return static_cast<off_t>(turn % blocks_ * block_); }

  /// What was never written is not on the device, and reading it would ask the device for nothing.
  bool make_content(const Block& block) {
    for (std::uint64_t i = 0; i < blocks_ && !board_.is_over(); ++i) {
      fill_by_chance(block.words());
      if (::pwrite(file_.number(), block.start(), block.size(), place(i)) <= 0) return false;
    }
    if (::fdatasync(file_.number()) != 0) return false;
    ::posix_fadvise(file_.number(), 0, 0, POSIX_FADV_DONTNEED);
    return true;
  }

  const Asked& asked_;
  const Fd& file_;
  Board& board_;
  std::uint64_t block_;
  std::uint64_t blocks_;
};

class Disk final : public Fault {
 public:
  Disk(const v1::Fault& fault, const std::string& name)
      : fault_(fault), wanted_(fault.disk()), name_(name) {}
  ~Disk() override { stop(); }

  /// Errors: as open_directory and can_be_had.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Fd> folder = open_directory(wanted_.path());
    if (!folder.ok()) return folder.status();
    const StatusOr<Space> space = space_of(*folder);
    if (!space.ok()) return space.status();
    if (const Status had = can_be_had(wanted_, *space); !had.ok()) return had;
    folder_ = *std::move(folder);
    v1::Undo undo;
    undo.mutable_remove_file()->set_directory(wanted_.path());
    undo.mutable_remove_file()->set_name(name_);
    return std::vector<v1::Undo>{undo};
  }

  /// Errors: as make_file; kResourceExhausted.
  Status apply(MonotonicTime deadline) override {
    board_.deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    if (fills(wanted_)) {
      StatusOr<Fd> file = make_file(folder_, name_, false);
      if (!file.ok()) return file.status();
      fill_file_ = *std::move(file);
    }
    if (burns(wanted_)) {
      StatusOr<Fd> file = make_file(folder_, name_, wanted_.direct());
      if (!file.ok()) return file.status();
      burn_file_ = *std::move(file);
      // So that no block of it is missing later; where it cannot be done, writing has to do.
      const auto size = static_cast<off_t>(burn_size(wanted_));
      if (::fallocate(burn_file_.number(), 0, 0, size) != 0 && errno != EOPNOTSUPP) {
        return from_errno("disk: the file that is read and written", errno);
      }
    }
    asked_.emplace(fault_);
    try {
      if (fills(wanted_)) {
        start([this] { Filler(*asked_, folder_, fill_file_, board_).run(); });
      }
      if (wanted_.has_read()) start([this] { Burner(*asked_, burn_file_, board_).read(); });
      if (wanted_.has_write()) start([this] { Burner(*asked_, burn_file_, board_).write(); });
      if (wanted_.has_fsync()) start([this] { Burner(*asked_, burn_file_, board_).sync(); });
    } catch (const std::system_error& problem) {
      return error(StatusCode::kResourceExhausted,
                   std::string("a thread cannot be started: ") + problem.what());
    }
    const MonotonicTime patience = monotonic_now() + kPatience;
    while (!evidence().effect() && monotonic_now() < patience) ::poll(nullptr, 0, 1);
    return ok();
  }

  Status pulse(MonotonicTime deadline) override {
    board_.deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    return ok();
  }

  /// The threads know the whole course.
  Status become(const v1::Fault&) override { return ok(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::DiskEvidence& disk = *evidence.mutable_disk();
    disk.set_filled(filled());
    disk.set_kept_back(board_.kept_back.load(std::memory_order_relaxed));
    disk.set_read(board_.read.load(std::memory_order_relaxed));
    disk.set_written(board_.written.load(std::memory_order_relaxed));
    disk.set_fsyncs(board_.fsyncs.load(std::memory_order_relaxed));
    evidence.set_effect((!fills(wanted_) || disk.filled() > 0) &&
                        (!wanted_.has_read() || disk.read() > 0) &&
                        (!wanted_.has_write() || disk.written() > 0));
    return evidence;
  }

  Status end_effect() override {
    stop();
    return ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  /// By the file system's word: what it has blocks for, and where it counts none, what it took.
  std::uint64_t filled() const {
    struct stat about {};
    if (!fill_file_.is_open() || ::fstat(fill_file_.number(), &about) != 0) return 0;
    if (about.st_blocks == 0) return board_.filled.load(std::memory_order_relaxed);
    return static_cast<std::uint64_t>(about.st_blocks) * 512;
  }

  void start(std::function<void()> act) { threads_.emplace_back(std::move(act)); }

  void stop() {
    board_.ending.store(true, std::memory_order_relaxed);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    // With them their blocks.
    fill_file_.reset();
    burn_file_.reset();
  }

  v1::Fault fault_;
  v1::Disk wanted_;  // at its largest
  std::string name_;
  std::optional<Asked> asked_;  // since it acts
  Fd folder_;
  Fd fill_file_;
  Fd burn_file_;
  Board board_;
  std::vector<std::thread> threads_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Disk>(start.fault(),
                                ".squall-" + start.state_id() + "-" + start.fault().id());
}

v1::Looked look(const v1::Look& request) {
  const v1::Disk& wanted = request.fault().disk();
  const StatusOr<Fd> folder = open_directory(wanted.path());
  if (!folder.ok()) return refused(folder.status());
  const StatusOr<Space> space = space_of(*folder);
  if (!space.ok()) return refused(space.status());
  if (const Status had = can_be_had(wanted, *space); !had.ok()) return refused(had);
  v1::Looked looked;
  if (fills(wanted)) {
    const std::uint64_t missing = still_wanted(wanted, *space, 0);
    const std::uint64_t room = less(space->free, wanted.keep_free());
    looked.add_notes("fills " + in_kib(std::min(missing, room)) + " of " + in_kib(space->free) +
                     " free");
    if (missing > room) {
      looked.add_notes("and not " + in_kib(missing) + ": " + format_bytes(wanted.keep_free()) +
                       " stay free");
    }
  }
  if (burns(wanted)) {
    looked.add_notes("reads and writes a file of " + format_bytes(burn_size(wanted)));
  }
  return looked;
}

Status remove_file(const v1::Undo& undo) {
  const v1::RemoveFile& file = undo.remove_file();
  // A ledger's word for a name must never lead elsewhere, nor to what is not ours.
  if (!file.name().starts_with(".squall-") || file.name().find('/') != std::string::npos) {
    return error(StatusCode::kInvalidArgument, file.name() + " is no file of squall's");
  }
  open_how how{};
  how.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
  how.resolve = RESOLVE_NO_SYMLINKS;
  const Fd folder(static_cast<int>(
      ::syscall(SYS_openat2, AT_FDCWD, file.directory().c_str(), &how, sizeof how)));
  if (!folder.is_open() && (errno == ENOENT || errno == ENOTDIR)) return ok();
  if (!folder.is_open()) return from_errno(file.directory(), errno);
  if (::unlinkat(folder.number(), file.name().c_str(), 0) == 0 || errno == ENOENT) return ok();
  return error(StatusCode::kDataLoss, std::string("still there: ") + std::strerror(errno));
}

std::string remove_file_in_words(const v1::Undo& undo) {
  return "file " + undo.remove_file().directory() + "/" + undo.remove_file().name();
}

}  // namespace

extern const FaultKind kDisk;
const FaultKind kDisk{.kind = v1::Fault::kDisk, .name = "disk", .make = make, .look = look};

extern const UndoKind kRemoveFile;
const UndoKind kRemoveFile{
    .what = v1::Undo::kRemoveFile, .run = remove_file, .in_words = remove_file_in_words};

}  // namespace squall::hold
