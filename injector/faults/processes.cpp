#include "injector/faults/processes.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <iterator>
#include <optional>
#include <random>
#include <string_view>
#include <tuple>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/processes/conditions.h"
#include "experiments/processes/proc.h"
#include "injector/faults/protected.h"

namespace squall::hold {
namespace {

constexpr std::size_t kLongestCommand = 200;
/// Together they must fit one message beside all else.
constexpr std::size_t kMostTargets = 2048;
constexpr std::size_t kAllCommands = 32UL * 1024;
/// More would be read by nobody.
constexpr std::size_t kMostSpared = 10;

std::string command_of(const ProcFolder& process, const Stat& stat) {
  std::string command = process.arguments().value_or("");
  if (command.empty()) command = stat.name;
  command.resize(std::min(command.size(), kLongestCommand));
  return escape_controls(command);
}

/// A pidfd for each target is more than the usual limit of 1,024 allows.
void allow_descriptors() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

/// Nothing if it ended meanwhile.
StatusOr<std::optional<Target>> hold_on_to(const ProcFolder& process, const Stat& stat) {
  Target target;
  target.pid = process.pid();
  target.start_time = stat.start_time;
  target.command = command_of(process, stat);
  target.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, process.pid(), 0)));
  const int problem = errno;
  // The folder is that of the process that was looked at. If it still lives, the number is still
  // its own, and the descriptor is too.
  const auto again = process.stat();
  if (!again || again->is_dead()) return std::nullopt;
  if (!target.pidfd.is_open()) return from_errno("pidfd_open", problem);
  return target;
}

/// Between two characters: a message holds nothing that is not UTF-8.
std::string cut(const std::string& text, std::size_t most) {
  if (text.size() <= most) return text;
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xc0U) == 0x80U) --most;
  return text.substr(0, most);
}

std::string in_words(const std::vector<Spared>& spared) {
  std::string words;
  for (const Spared& one : std::span(spared).first(std::min(spared.size(), kMostSpared))) {
    words += (words.empty() ? "" : ", ") + std::to_string(one.pid) + " is " + one.why;
  }
  if (spared.size() > kMostSpared) {
    words += " and " + std::to_string(spared.size() - kMostSpared) + " more";
  }
  return words;
}

/// std::shuffle and the standard's distributions are not the same on every machine.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}

  /// Uniform in [0, bound).
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t fair = engine_.max() - engine_.max() % bound;
    for (;;) {
      if (const std::uint64_t drawn = engine_(); drawn < fair) return drawn % bound;
    }
  }

 private:
  std::mt19937_64 engine_;
};

Status keep_picked(Selection& selection, const v1::ProcessPick& pick, std::uint64_t seed) {
  std::vector<Target>& targets = selection.targets;
  std::size_t wanted = targets.size();
  switch (pick.how_case()) {
    case v1::ProcessPick::kCount:
      wanted = pick.count();
      break;
    case v1::ProcessPick::kPercent: {
      // 30 % of 10 is 3, whatever the last bit of the product says.
      constexpr double kRounding = 1e-9;
      const double share = pick.percent() / 100 * static_cast<double>(targets.size());
      wanted = std::max<std::size_t>(1, static_cast<std::size_t>(std::ceil(share - kRounding)));
      break;
    }
    case v1::ProcessPick::kOldest:
    case v1::ProcessPick::kNewest:
      wanted = 1;
      break;
    default:
      return ok();
  }
  if (wanted > targets.size()) {
    return error(StatusCode::kFailedPrecondition,
                 "pick: " + std::to_string(wanted) + " processes are to be picked, and only " +
                     std::to_string(targets.size()) +
                     (targets.size() == 1 ? " matches" : " match"));
  }
  // By age, so that numbers that begin again from the start change nothing.
  std::sort(targets.begin(), targets.end(), [](const Target& one, const Target& other) {
    return std::tie(one.start_time, one.pid) < std::tie(other.start_time, other.pid);
  });
  if (pick.how_case() == v1::ProcessPick::kNewest) {
    std::swap(targets.front(), targets.back());
  } else if (pick.how_case() != v1::ProcessPick::kOldest) {
    Draw draw(seed);
    for (std::size_t i = 0; i < wanted; ++i) {
      std::swap(targets[i], targets[i + draw.below(targets.size() - i)]);
    }
  }
  const auto rest = targets.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::move(rest, targets.end(), std::back_inserter(selection.unpicked));
  targets.erase(rest, targets.end());
  std::sort(targets.begin(), targets.end(),
            [](const Target& one, const Target& other) { return one.pid < other.pid; });
  return ok();
}

}  // namespace

StatusOr<Selection> select_processes(const v1::Process& wanted, const v1::ProcessPick& pick,
                                     std::uint64_t seed) {
  StatusOr<ProcessConditions> conditions = ProcessConditions::make(wanted);
  if (!conditions.ok()) return conditions.status();
  const Protection protection;
  allow_descriptors();

  Selection selection;
  for (const std::uint32_t pid :
       wanted.has_pid() ? std::vector<std::uint32_t>{wanted.pid()} : all_pids()) {
    const auto process = ProcFolder::open(pid);
    const auto stat = process ? conditions->fits(*process) : std::nullopt;
    if (!stat) continue;
    if (std::string why = protection.why(*process, *stat); !why.empty()) {
      selection.spared.push_back({pid, command_of(*process, *stat), std::move(why)});
      continue;
    }
    StatusOr<std::optional<Target>> target = hold_on_to(*process, *stat);
    if (!target.ok()) return target.status();
    if (*target) selection.targets.push_back(**std::move(target));
  }
  if (Status one = conditions->one_container(); !one.ok()) return one;
  if (selection.targets.empty()) {
    const std::string spared = in_words(selection.spared);
    return error(StatusCode::kNotFound,
                 "no process with " + conditions->in_words() + " on this node" +
                     (spared.empty() ? "" : " that may be touched: " + spared));
  }
  if (Status picked = keep_picked(selection, pick, seed); !picked.ok()) return picked;
  if (selection.targets.size() > kMostTargets) {
    return error(StatusCode::kInvalidArgument, std::to_string(selection.targets.size()) +
                                                   " processes with " + conditions->in_words() +
                                                   " are too many for one fault: at most " +
                                                   std::to_string(kMostTargets) + "; pick fewer");
  }
  return selection;
}

StatusOr<std::vector<Target>> select_processes(const v1::Process& wanted) {
  StatusOr<Selection> selection = select_processes(wanted, v1::ProcessPick(), 0);
  if (!selection.ok()) return selection.status();
  return std::move(selection->targets);
}

std::optional<Target> target_of(std::uint32_t pid) {
  const auto process = ProcFolder::open(pid);
  const auto stat = process ? process->stat() : std::nullopt;
  if (!stat || stat->is_dead()) return std::nullopt;
  StatusOr<std::optional<Target>> target = hold_on_to(*process, *stat);
  return target.ok() ? *std::move(target) : std::nullopt;
}

bool has_ended(const Target& target) {
  pollfd end{.fd = target.pidfd.number(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, 0) == 1;
}

bool ends_by(const Target& target, MonotonicTime time) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(time - monotonic_now());
  pollfd end{.fd = target.pidfd.number(), .events = POLLIN, .revents = 0};
  return ::poll(&end, 1, static_cast<int>(std::max<long>(left.count(), 0))) == 1;
}

void tell(std::span<const Target> targets,
          google::protobuf::RepeatedPtrField<v1::KillEvidence::Victim>& told) {
  const std::size_t share = targets.empty() ? 0 : kAllCommands / targets.size();
  for (const Target& target : targets) {
    v1::KillEvidence::Victim& victim = *told.Add();
    victim.set_pid(target.pid);
    victim.set_start_time(target.start_time);
    victim.set_command(cut(target.command, share));
  }
}

void tell(const Selection& selection, v1::Looked& looked) {
  tell(selection.targets, *looked.mutable_targets());
  if (!selection.unpicked.empty()) {
    looked.add_notes(std::to_string(selection.targets.size()) + " of the " +
                     std::to_string(selection.targets.size() + selection.unpicked.size()) +
                     " that match");
  }
  for (const Spared& one :
       std::span(selection.spared).first(std::min(selection.spared.size(), kMostSpared))) {
    looked.add_notes("spares " + std::to_string(one.pid) + " " + one.command + ": it is " +
                     one.why);
  }
  if (selection.spared.size() > kMostSpared) {
    looked.add_notes("spares " + std::to_string(selection.spared.size() - kMostSpared) +
                     " more that must live");
  }
}

}  // namespace squall::hold
