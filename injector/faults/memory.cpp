/// \file
/// memory: holds memory, touched and resident, and never what must stay free.
///
/// A child of the holder takes it, step by step, and looks before each step at what is available.
/// Its pages are of chance, so that nothing folds or packs them, and locked where that is allowed,
/// so that none is swapped out. It is the first that the kernel's OOM killer takes, and its death
/// is the undo: while it holds megabytes, the holder answers pulses and tells what became of it.
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "experiments/base/failpoint.h"
#include "experiments/base/file.h"
#include "experiments/base/units.h"
#include "experiments/fault/fault.h"
#include "injector/faults/child.h"
#include "injector/faults/fault.h"
#include "injector/faults/groups.h"

namespace squall::hold {
namespace {

/// What is taken between two looks at what is available: as much as takes about this long.
constexpr Duration kStepTime = std::chrono::milliseconds(10);
constexpr std::uint64_t kLeastStep = 256U << 10U;
constexpr std::uint64_t kMostStep = 64U << 20U;
constexpr Duration kLookEvery = std::chrono::milliseconds(20);
/// How much more than the reserve needs is given back, as a share of it, and left when something is
/// taken anew. Else the two would chase each other.
constexpr std::uint64_t kSlackShare = 8;
/// While all of the node's programs wait for memory for more of the time than this, nothing is
/// added.
constexpr double kMostStalled = 10;
/// How long apply() waits to see that something is held.
constexpr Duration kPatience = std::chrono::seconds(1);
constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

/// The value behind a word at the beginning of a line, as most of these files have them.
std::optional<std::uint64_t> value_in(const std::string& text, const std::string& word) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    std::uint64_t value = 0;
    if (words >> name >> value && name == word) return value;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> value_in_file(const std::string& path, const std::string& word) {
  // The process that it tells of may end at any moment.
  const StatusOr<std::string> text = read_whole(path);
  return text.ok() ? value_in(*text, word) : std::nullopt;
}

/// Source: Documentation/accounting/psi.rst; 0 for a kernel without it.
double stalled() {
  std::ifstream file("/proc/pressure/memory");
  constexpr std::string_view kWord = "avg10=";
  for (std::string kind, average; file >> kind >> average;) {
    if (kind == "full" && average.starts_with(kWord)) return std::stod(average.substr(6));
    std::getline(file, kind);
  }
  return 0;
}

std::uint64_t less(std::uint64_t from, std::uint64_t what) { return from > what ? from - what : 0; }

std::string in_mib(std::uint64_t bytes) { return format_bytes(bytes >> 20U << 20U); }

/// What there is, and what of it can be had.
struct Stock {
  std::uint64_t total = 0;      ///< Of the node, or the limit that holds in the scope.
  std::uint64_t available = 0;  ///< Of that.
  std::uint64_t free = 0;       ///< Available, in the scope and on the node.
};

/// The node, or a group with those above it, whose limits hold there as well.
class Source {
 public:
  static StatusOr<Source> find(const v1::Memory& wanted) {
    Source source;
    if (!wanted.has_in()) return source;
    if (!wanted.in().netns().empty()) {
      return error(StatusCode::kInvalidArgument,
                   "memory.in.netns: memory is of no network namespace; write a cgroup or a unit");
    }
    StatusOr<Group> group = find_group(wanted.in(), "memory");
    while (group.ok()) {
      const auto above = group->path.rfind('/');
      const std::string hierarchy = group->hierarchy;
      const std::string path = group->path.substr(0, above);
      source.groups_.push_back(*std::move(group));
      if (path.empty()) return source;
      group = open_group(hierarchy, path);
    }
    return in_context("memory.in", group.status());
  }

  /// What looking needs.
  std::vector<int> folders() const {
    std::vector<int> open;
    for (const Group& group : groups_) open.push_back(group.folder.number());
    return open;
  }

  const Group* scope() const { return groups_.empty() ? nullptr : &groups_.front(); }

  /// Errors: kInternal for what cannot be read, and is then never taken for "plenty".
  StatusOr<Stock> look() const {
    const auto total = value_in_file("/proc/meminfo", "MemTotal:");
    const auto available = value_in_file("/proc/meminfo", "MemAvailable:");
    if (!total || !available) return error(StatusCode::kInternal, "/proc/meminfo cannot be read");
    Stock stock{*total << 10U, *available << 10U, *available << 10U};
    if (groups_.empty()) return stock;
    stock.total = kNone;
    stock.available = kNone;
    for (const Group& group : groups_) {
      const auto limit = read_number(group, group.is_v2() ? "memory.max" : "memory.limit_in_bytes");
      const auto used =
          read_number(group, group.is_v2() ? "memory.current" : "memory.usage_in_bytes");
      const auto uses = read_key(group, "memory.stat");
      // The folder at the top of a delegated hierarchy may have no limit of its own.
      if (limit.status().code() == StatusCode::kNotFound) continue;
      if (!limit.ok()) return limit.status();
      if (!used.ok()) return used.status();
      if (!uses.ok()) return uses.status();
      if (*limit >= kNoLimit) continue;
      // The kernel gives up pages of files before it lets a limit hurt.
      const std::string kind = group.is_v2() ? "" : "total_";
      const std::uint64_t files = value_in(*uses, kind + "inactive_file").value_or(0) +
                                  value_in(*uses, kind + "active_file").value_or(0);
      stock.total = std::min(stock.total, *limit);
      stock.available = std::min(stock.available, less(*limit, less(*used, files)));
    }
    stock.free = std::min(stock.free, stock.available);
    return stock;
  }

 private:
  /// cgroup v1 shows the largest number of pages for none.
  static constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 62U;

  std::vector<Group> groups_;  // the scope's first
};

/// How much more is meant than what is held.
std::uint64_t still_wanted(const v1::Memory& wanted, const Stock& stock, std::uint64_t held) {
  if (wanted.has_size()) return less(wanted.size(), held);
  const double spare = static_cast<double>(stock.total) * (1 - wanted.to() / 100);
  return less(stock.available, static_cast<std::uint64_t>(spare));
}

/// How much of what is held is meant no more.
std::uint64_t too_much(const v1::Memory& wanted, const Stock& stock, std::uint64_t held) {
  if (wanted.has_size()) return less(held, wanted.size());
  const double spare = static_cast<double>(stock.total) * (1 - wanted.to() / 100);
  return less(static_cast<std::uint64_t>(spare), stock.available);
}

/// What child and holder tell each other.
struct Board {
  std::atomic<std::int64_t> deadline_ns;
  std::atomic<std::uint64_t> held;
  std::atomic<std::uint64_t> kept_back;
};

/// The child's part.
class Taker {
 public:
  Taker(const v1::Fault& fault, const Source& source, Board& board, std::uint64_t most)
      : fault_(fault), source_(source), board_(board), most_(most) {}

  /// Until the deadline.
  void run() {
    // Room for all of it, of which nothing is there yet; so it can be given back from its end.
    void* const start =
        ::mmap(nullptr, most_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return;
    start_ = static_cast<std::byte*>(start);
    const MonotonicTime begun = monotonic_now();
    while (to_ns(monotonic_now()) < board_.deadline_ns.load(std::memory_order_relaxed)) {
      if (!step(monotonic_now() - begun))
        ::poll(nullptr, 0, kLookEvery / std::chrono::milliseconds(1));
    }
  }

 private:
  /// Whether there is more to do at once.
  bool step(Duration since) {
    const StatusOr<Stock> stock = source_.look();
    if (!stock.ok()) return false;
    const v1::Memory wanted = fault_at(fault_, since).memory();
    if (fault_.ramps_size() > 0) give_back(too_much(wanted, *stock, held_));
    const std::uint64_t reserve = wanted.keep_free();
    if (stock->free < reserve) {
      give_back(reserve - stock->free + reserve / kSlackShare);
      gave_back_ = true;
      board_.kept_back.store(still_wanted(wanted, *stock, held_), std::memory_order_relaxed);
      return false;
    }
    const std::uint64_t left = gave_back_ ? reserve + reserve / kSlackShare : reserve;
    const std::uint64_t room = less(stock->free, left);
    const std::uint64_t missing = std::min(still_wanted(wanted, *stock, held_), most_ - held_);
    board_.kept_back.store(less(missing, room), std::memory_order_relaxed);
    std::uint64_t next = std::min({missing, room, step_});
    std::uint64_t due = kNone;
    if (wanted.has_rate()) {
      const double allowed =
          static_cast<double>(wanted.rate()) * static_cast<double>(since.count()) / 1e9;
      due = less(static_cast<std::uint64_t>(allowed), held_);
    }
    next = std::min(next, due);
    next -= next % page_;
    if (next == 0 || stalled() > kMostStalled || !take(next)) return false;
    // What is due in the meantime is worth a look of its own only once it is more than a page.
    return next + page_ <= due;
  }

  bool take(std::uint64_t size) {
    const MonotonicTime begun = monotonic_now();
    std::byte* const from = start_ + held_;
    // Refused where the node promises no more memory than it has.
    if (::mprotect(from, size, PROT_READ | PROT_WRITE) != 0) return false;
    // Before it is touched: then it becomes one with the mapping before it, and there is a bound on
    // how many there may be. Not allowed to all; then the kernel may swap it out, and the evidence
    // shows that.
    ::mlock2(from, size, MLOCK_ONFAULT);
    auto* const words = reinterpret_cast<std::uint64_t*>(from);
    for (std::uint64_t i = 0; i < size / sizeof *words; ++i) {
      // Source: Marsaglia, "Xorshift RNGs", 2003; chance enough for what compresses pages.
      chance_ ^= chance_ << 13U;
      chance_ ^= chance_ >> 7U;
      chance_ ^= chance_ << 17U;
      words[i] = chance_;
    }
    held_ += size;
    board_.held.store(held_, std::memory_order_relaxed);
    failpoint<"memory.taken">();
    const bool was_quick = monotonic_now() - begun < kStepTime;
    step_ = std::clamp(was_quick ? step_ * 2 : step_ / 2, kLeastStep, kMostStep);
    return true;
  }

  void give_back(std::uint64_t size) {
    size = std::min(held_, (size + page_ - 1) / page_ * page_);
    if (size == 0) return;
    // A mapping over it frees the pages, locked or not.
    std::byte* const from = start_ + held_ - size;
    if (::mmap(from, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
               0) == MAP_FAILED) {
      return;
    }
    held_ -= size;
    board_.held.store(held_, std::memory_order_relaxed);
  }

  const v1::Fault& fault_;
  const Source& source_;
  Board& board_;
  std::uint64_t most_;
  std::uint64_t page_ = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::byte* start_ = nullptr;
  std::uint64_t held_ = 0;
  std::uint64_t step_ = kLeastStep;
  std::uint64_t chance_ = static_cast<std::uint64_t>(to_ns(monotonic_now())) | 1U;
  bool gave_back_ = false;
};

/// Of the process, in memory that belongs to no file.
std::uint64_t resident(pid_t pid) {
  return value_in_file("/proc/" + std::to_string(pid) + "/status", "RssAnon:").value_or(0) << 10U;
}

/// How many processes the kernel's OOM killer has taken since the boot, in whatever group.
std::uint64_t oom_kills() { return value_in_file("/proc/vmstat", "oom_kill").value_or(0); }

/// Errors: kFailedPrecondition for what cannot be had without touching the reserve.
Status can_be_had(const v1::Memory& wanted, const Source& source, const Stock& stock) {
  const std::string where =
      source.scope() == nullptr ? "" : " in the control group " + source.scope()->path;
  if (source.scope() != nullptr && stock.total == kNone && wanted.has_to()) {
    return error(StatusCode::kFailedPrecondition,
                 "memory.to: the control group " + source.scope()->path +
                     " has no limit to be a share of; write a size");
  }
  const std::uint64_t room = less(stock.free, wanted.keep_free());
  const std::string why = "of " + in_mib(stock.free) + " available" + where + " " +
                          format_bytes(wanted.keep_free()) + " must stay free (keep_free)";
  if (wanted.has_size() && wanted.size() > room) {
    return error(StatusCode::kFailedPrecondition, "memory.size: " + format_bytes(wanted.size()) +
                                                      " cannot be had: " + why + ", so at most " +
                                                      in_mib(room));
  }
  const std::uint64_t missing = still_wanted(wanted, stock, 0);
  if (missing == 0) {
    return error(StatusCode::kFailedPrecondition,
                 "memory.to: more than " + format_percent(wanted.to()) + " of " +
                     in_mib(stock.total) + where + " is in use already");
  }
  if (room == 0)
    return error(StatusCode::kFailedPrecondition, "memory.to: nothing to be had: " + why);
  return ok();
}

class Memory final : public Fault {
 public:
  explicit Memory(const v1::Fault& fault) : fault_(fault), wanted_(fault.memory()) {}

  /// Errors: as Source::find, Source::look and can_be_had.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    StatusOr<Source> source = Source::find(wanted_);
    if (!source.ok()) return source.status();
    const StatusOr<Stock> stock = source->look();
    if (!stock.ok()) return stock.status();
    if (const Status had = can_be_had(wanted_, *source, *stock); !had.ok()) return had;
    StatusOr<SharedMemory> shared = SharedMemory::map(sizeof(Board));
    if (!shared.ok()) return shared.status();
    source_.emplace(*std::move(source));
    shared_.emplace(*std::move(shared));
    board_ = new (shared_->start()) Board();
    // Rounded up to whole pages; a share can never be more than what there is.
    most_ = (wanted_.has_size() ? wanted_.size() + kLeastStep - 1 : stock->total) / kLeastStep *
            kLeastStep;
    return std::vector<v1::Undo>();
  }

  Status apply(MonotonicTime deadline) override {
    board_->deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    StatusOr<Child> child =
        Child::start([this] { Taker(fault_, *source_, *board_, most_).run(); }, source_->folders());
    if (!child.ok()) return child.status();
    child_.emplace(*std::move(child));
    const auto pid = static_cast<std::uint32_t>(child_->pid());
    if (Status marked = dies_first(pid); !marked.ok()) return marked;
    if (const Group* scope = source_->scope()) {
      if (const Status moved = move_into(*scope, pid); !moved.ok()) {
        return in_context("memory.in", moved);
      }
    }
    own_ = resident(child_->pid());
    oom_kills_ = oom_kills();
    child_->go();
    // Read back that it acts.
    const MonotonicTime patience = monotonic_now() + kPatience;
    while (!evidence().effect() && monotonic_now() < patience) {
      pollfd end{.fd = child_->ended(), .events = POLLIN, .revents = 0};
      if (::poll(&end, 1, 1) > 0) return look_again();
    }
    return ok();
  }

  Status pulse(MonotonicTime deadline) override {
    // The child looks at it itself: past it, it ends, even if this process never runs again.
    board_->deadline_ns.store(to_ns(deadline), std::memory_order_relaxed);
    return look_again();
  }

  int watched() const override { return child_ ? child_->ended() : -1; }

  Status look_again() override {
    const std::string how = child_ ? child_->how() : "";
    if (how.empty()) return ok();
    // At its deadline it ends as this process is about to.
    if (to_ns(monotonic_now()) >= board_->deadline_ns.load(std::memory_order_relaxed)) return ok();
    const std::string what =
        "the process that held " + in_mib(board_->held.load(std::memory_order_relaxed)) + " ";
    if (how.ends_with("signal 9") && oom_kills() > oom_kills_) {
      return error(StatusCode::kResourceExhausted, what + "was taken by the kernel's OOM killer");
    }
    return error(StatusCode::kFailedPrecondition, what + how);
  }

  /// The child knows the whole course.
  Status become(const v1::Fault&) override { return ok(); }

  v1::Evidence evidence() override {
    v1::Evidence evidence;
    v1::MemoryEvidence& memory = *evidence.mutable_memory();
    if (!child_) return evidence;
    memory.set_held(board_->held.load(std::memory_order_relaxed));
    // The number of one that has ended may be another's.
    if (child_->how().empty()) memory.set_resident(less(resident(child_->pid()), own_));
    memory.set_kept_back(board_->kept_back.load(std::memory_order_relaxed));
    evidence.set_effect(memory.held() > 0 && memory.resident() > 0);
    return evidence;
  }

  Status end_effect() override {
    if (child_) child_->end();
    return ok();
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  /// Source: proc(5), /proc/PID/oom_score_adj: 1000 is taken before all others.
  static Status dies_first(std::uint32_t pid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/oom_score_adj";
    std::ofstream(path) << "1000";
    int score = 0;
    if (std::ifstream(path) >> score && score == 1000) return ok();
    return error(StatusCode::kPermissionDenied, path + " cannot be set to 1000");
  }

  v1::Fault fault_;
  v1::Memory wanted_;  // at its largest
  std::optional<Source> source_;
  std::optional<SharedMemory> shared_;
  Board* board_ = nullptr;
  std::uint64_t most_ = 0;
  std::uint64_t own_ = 0;  // resident before anything is held
  std::uint64_t oom_kills_ = 0;
  std::optional<Child> child_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Memory>(start.fault());
}

v1::Looked look(const v1::Look& request) {
  const v1::Memory& wanted = request.fault().memory();
  const StatusOr<Source> source = Source::find(wanted);
  if (!source.ok()) return refused(source.status());
  const StatusOr<Stock> stock = source->look();
  if (!stock.ok()) return refused(stock.status());
  if (const Status had = can_be_had(wanted, *source, *stock); !had.ok()) return refused(had);
  v1::Looked looked;
  const std::uint64_t missing = still_wanted(wanted, *stock, 0);
  const std::uint64_t room = less(stock->free, wanted.keep_free());
  looked.add_notes("holds " + in_mib(std::min(missing, room)) + " of " + in_mib(stock->free) +
                   " available");
  if (missing > room) {
    looked.add_notes("and not " + in_mib(missing) + ": " + format_bytes(wanted.keep_free()) +
                     " stay free");
  }
  if (source->scope() != nullptr) looked.add_notes("in the control group " + source->scope()->path);
  return looked;
}

}  // namespace

extern const FaultKind kMemory;
const FaultKind kMemory{.kind = v1::Fault::kMemory, .name = "memory", .make = make, .look = look};

}  // namespace squall::hold
