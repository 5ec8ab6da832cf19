#include "experiments/processes/conditions.h"

#include <pwd.h>
#include <re2/re2.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <sstream>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/base/diagnostic.h"

namespace squall {
namespace {

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

}  // namespace

StatusOr<ProcessConditions> ProcessConditions::make(const v1::Process& wanted, Unseen unseen) {
  ProcessConditions made(wanted, unseen);
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

ProcessConditions::ProcessConditions(const v1::Process& wanted, Unseen unseen)
    : wanted_(wanted), unseen_(unseen) {
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

ProcessConditions::ProcessConditions(ProcessConditions&&) noexcept = default;
ProcessConditions& ProcessConditions::operator=(ProcessConditions&&) noexcept = default;
ProcessConditions::~ProcessConditions() = default;

std::optional<Stat> ProcessConditions::fits(const ProcFolder& process) {
  if (!wanted_.name().empty() && process.name() != wanted_.name()) return std::nullopt;
  if (!is_users(process) || !is_in_groups(process) || !has_arguments(process)) return std::nullopt;
  auto stat = process.stat();
  if (!stat || stat->is_dead()) return std::nullopt;
  const bool all = is_child(*stat) && is_here(process) && listens(process);
  return all ? stat : std::nullopt;
}

bool ProcessConditions::found_listeners() const {
  return std::any_of(sockets_.begin(), sockets_.end(),
                     [](const auto& network) { return !network.second.empty(); });
}

Status ProcessConditions::one_container() const {
  if (containers_.size() < 2) return ok();
  return error(StatusCode::kInvalidArgument,
               "process.container: " + wanted_.container() + " may be " + *containers_.begin() +
                   " or " + *std::next(containers_.begin()) + "; write more of the id");
}

bool ProcessConditions::is_child(const Stat& stat) {
  if (wanted_.children_of().empty()) return true;
  const auto known = parents_.find(stat.parent);
  if (known != parents_.end()) return known->second == wanted_.children_of();
  const auto parent = ProcFolder::open(stat.parent);
  const std::string name = parent ? parent->name().value_or("") : "";
  return parents_.emplace(stat.parent, name).first->second == wanted_.children_of();
}

bool ProcessConditions::is_users(const ProcFolder& process) const {
  constexpr int kEffective = 1;  // real, effective, saved, of the file system
  return !uid_ || process.status_number("Uid", kEffective) == uid_;
}

bool ProcessConditions::is_in_groups(const ProcFolder& process) {
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

bool ProcessConditions::is_here(const ProcFolder& process) const {
  if (!wanted_.container().empty()) return true;
  const auto network = process.network_namespace();
  if (network) return network == own_network_;
  return unseen_ == Unseen::kOutsideContainers && containers_of(process.cgroups()).empty();
}

bool ProcessConditions::has_arguments(const ProcFolder& process) const {
  if (!cmdline_) return true;
  const auto arguments = process.arguments();
  return arguments && RE2::PartialMatch(*arguments, *cmdline_);
}

bool ProcessConditions::listens(const ProcFolder& process) {
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

}  // namespace squall
