#include "injector/faults/processes.h"

#include <poll.h>
#include <pwd.h>
#include <re2/re2.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <sstream>
#include <string_view>
#include <tuple>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "injector/faults/proc.h"
#include "injector/faults/protected.h"

namespace squall::hold {
namespace {

constexpr std::size_t kLongestCommand = 200;
/// Together they must fit one message beside all else.
constexpr std::size_t kMostTargets = 2048;
constexpr std::size_t kAllCommands = 32UL * 1024;
/// More would be read by nobody.
constexpr std::size_t kMostSpared = 10;
constexpr std::string_view kListening = "0A";  // TCP_LISTEN in /proc/net/tcp
constexpr std::size_t kContainerId = 64;

bool is_hex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// Whether the path has a part of that name: a unit's group bears it, systemd.slice(5).
bool has_part(std::string_view path, std::string_view name) {
  for (auto at = path.find(name); at != path.npos; at = path.find(name, at + 1)) {
    const auto end = at + name.size();
    if (at > 0 && path[at - 1] == '/' && (end == path.size() || path[end] == '/')) return true;
  }
  return false;
}

bool is_at_or_below(std::string_view path, std::string_view group) {
  while (group.size() > 1 && group.back() == '/') group.remove_suffix(1);
  return path.starts_with(group) && (path.size() == group.size() || path[group.size()] == '/');
}

/// The container that a part of a path is named for; empty if for none. Docker, containerd and
/// Podman write its whole id, with systemd as NAME-ID.scope. conmon's group is named for the
/// container that it watches, and is not in it.
std::string_view container_of(std::string_view part) {
  if (part.ends_with(".scope")) part.remove_suffix(6);
  const auto dash = part.rfind('-');
  if (dash != part.npos) {
    const std::string_view engine = part.substr(0, dash);
    if (engine != "docker" && engine != "cri-containerd" && engine != "crio" &&
        engine != "libpod" && engine != "nerdctl") {
      return "";
    }
    part.remove_prefix(dash + 1);
  }
  return part.size() == kContainerId && is_hex(part) ? part : "";
}

/// Of all containers that the process is in, one inside the other.
std::set<std::string> containers_of(const std::vector<CgroupLine>& groups) {
  std::set<std::string> ids;
  for (const CgroupLine& line : groups) {
    std::istringstream parts(line.path);
    for (std::string part; std::getline(parts, part, '/');) {
      if (const auto id = container_of(part); !id.empty()) ids.emplace(id);
    }
  }
  return ids;
}

/// The sockets that listen on a TCP port in the process's network namespace. Source: proc(5),
/// /proc/net/tcp.
std::set<std::string> listening_sockets(const ProcFolder& process, std::uint32_t port) {
  std::set<std::string> sockets;
  for (const char* path : {"net/tcp", "net/tcp6"}) {
    std::istringstream lines(process.read(path, 1U << 26U).value_or(""));
    std::string line;
    std::getline(lines, line);  // the headings
    while (std::getline(lines, line)) {
      std::istringstream words(line);
      std::string slot, local, remote, state, skipped, inode;
      words >> slot >> local >> remote >> state;
      for (int field = 0; field < 5; ++field) words >> skipped;
      words >> inode;
      const auto colon = local.rfind(':');
      if (!words || state != kListening || colon == std::string::npos) continue;
      if (to_number(std::string_view(local).substr(colon + 1), 16) == port) {
        sockets.insert("socket:[" + inode + "]");
      }
    }
  }
  return sockets;
}

/// By /etc/passwd alone: a static program has no way to the C library's other sources.
StatusOr<uid_t> uid_of(const std::string& user) {
  if (const auto uid = to_number(user)) return static_cast<uid_t>(*uid);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> users(std::fopen("/etc/passwd", "re"),
                                                              &std::fclose);
  if (users) {
    while (const passwd* entry = ::fgetpwent(users.get())) {
      if (user == entry->pw_name) return entry->pw_uid;
    }
  }
  return error(StatusCode::kNotFound, "process.user: no user " + escape_controls(user) +
                                          " in /etc/passwd; one of a directory is named by its "
                                          "uid");
}

/// A selector made ready to be asked about every process, what costs least first.
class Conditions {
 public:
  static StatusOr<Conditions> make(const v1::Process& wanted) {
    Conditions made(wanted);
    if (made.in_words_.empty()) {
      return error(StatusCode::kInvalidArgument,
                   "process: at least one condition is needed: an empty selector would match all");
    }
    const auto self = ProcFolder::open(static_cast<std::uint32_t>(::getpid()));
    const auto network = self ? self->network_namespace() : std::nullopt;
    if (!network) return error(StatusCode::kInternal, "/proc/self/ns/net cannot be read");
    made.own_network_ = *network;
    if (!wanted.user().empty()) {
      const StatusOr<uid_t> uid = uid_of(wanted.user());
      if (!uid.ok()) return uid.status();
      made.uid_ = *uid;
    }
    if (!wanted.cmdline().empty()) {
      RE2::Options options;
      options.set_log_errors(false);
      made.cmdline_ = std::make_unique<RE2>(wanted.cmdline(), options);
      if (!made.cmdline_->ok()) {
        return error(StatusCode::kInvalidArgument, "process.cmdline: " + made.cmdline_->error());
      }
    }
    return made;
  }

  const std::string& in_words() const { return in_words_; }

  /// Its stat, if it lives and all that is given holds.
  std::optional<Stat> fits(const ProcFolder& process) {
    if (!wanted_.name().empty() && process.name() != wanted_.name()) return std::nullopt;
    if (!is_users(process) || !is_in_groups(process) || !has_arguments(process))
      return std::nullopt;
    auto stat = process.stat();
    if (!stat || stat->is_dead()) return std::nullopt;
    const bool all = is_child(*stat) && is_here(process) && listens(process);
    return all ? stat : std::nullopt;
  }

  /// The containers that were found to bear the wanted id.
  const std::set<std::string>& containers() const { return containers_; }

 private:
  explicit Conditions(const v1::Process& wanted) : wanted_(wanted) {
    const auto add = [&](const std::string& word, const std::string& value) {
      if (value.empty()) return;
      in_words_ += (in_words_.empty() ? "" : ", ") + word + " " + escape_controls(value);
    };
    add("name", wanted.name());
    if (wanted.has_pid()) add("pid", std::to_string(wanted.pid()));
    if (wanted.has_port()) add("port", std::to_string(wanted.port()));
    add("cmdline", wanted.cmdline());
    add("unit", wanted.unit());
    add("cgroup", wanted.cgroup());
    add("container", wanted.container());
    add("user", wanted.user());
    add("children_of", wanted.children_of());
  }

  bool is_child(const Stat& stat) {
    if (wanted_.children_of().empty()) return true;
    const auto known = parents_.find(stat.parent);
    if (known != parents_.end()) return known->second == wanted_.children_of();
    const auto parent = ProcFolder::open(stat.parent);
    const std::string name = parent ? parent->name().value_or("") : "";
    return parents_.emplace(stat.parent, name).first->second == wanted_.children_of();
  }

  bool is_users(const ProcFolder& process) const {
    constexpr int kEffective = 1;  // real, effective, saved, of the file system
    return !uid_ || process.status_number("Uid", kEffective) == uid_;
  }

  bool is_in_groups(const ProcFolder& process) {
    if (wanted_.unit().empty() && wanted_.cgroup().empty() && wanted_.container().empty()) {
      return true;
    }
    const std::vector<CgroupLine> groups = process.cgroups();
    const auto any = [&](const auto& holds) {
      return std::any_of(groups.begin(), groups.end(), holds);
    };
    if (!wanted_.unit().empty() && !any([&](const CgroupLine& line) {
          return line.is_of_systemd() && has_part(line.path, wanted_.unit());
        })) {
      return false;
    }
    if (!wanted_.cgroup().empty() &&
        !any([&](const CgroupLine& line) { return is_at_or_below(line.path, wanted_.cgroup()); })) {
      return false;
    }
    if (wanted_.container().empty()) return true;
    bool found = false;
    for (const std::string& id : containers_of(groups)) {
      if (!id.starts_with(wanted_.container())) continue;
      containers_.insert(id);
      found = true;
    }
    return found;
  }

  bool is_here(const ProcFolder& process) const {
    return !wanted_.container().empty() || process.network_namespace() == own_network_;
  }

  bool has_arguments(const ProcFolder& process) const {
    if (!cmdline_) return true;
    const auto arguments = process.arguments();
    return arguments && RE2::PartialMatch(*arguments, *cmdline_);
  }

  bool listens(const ProcFolder& process) {
    if (!wanted_.has_port()) return true;
    const auto network = process.network_namespace();
    if (!network) return false;
    auto known = sockets_.find(*network);
    if (known == sockets_.end()) {
      known = sockets_.emplace(*network, listening_sockets(process, wanted_.port())).first;
    }
    if (known->second.empty()) return false;
    const std::vector<std::string> held = process.descriptors();
    return std::any_of(held.begin(), held.end(), [&](const std::string& descriptor) {
      return known->second.contains(descriptor);
    });
  }

  v1::Process wanted_;
  std::string in_words_;
  ino_t own_network_ = 0;
  std::optional<uid_t> uid_;
  std::unique_ptr<RE2> cmdline_;
  std::map<std::uint32_t, std::string> parents_;    // their names, by pid
  std::map<ino_t, std::set<std::string>> sockets_;  // those that listen, by network namespace
  std::set<std::string> containers_;
};

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
  StatusOr<Conditions> conditions = Conditions::make(wanted);
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
  if (conditions->containers().size() > 1) {
    return error(StatusCode::kInvalidArgument,
                 "process.container: " + wanted.container() + " may be " +
                     *conditions->containers().begin() + " or " +
                     *std::next(conditions->containers().begin()) + "; write more of the id");
  }
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
