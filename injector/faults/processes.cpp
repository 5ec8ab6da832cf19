#include "injector/faults/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string_view>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "injector/faults/spared.h"

namespace squall::hold {
namespace {

constexpr std::size_t kLongestCommand = 200;
constexpr std::uint64_t kKernelThread = 0x00200000;  // PF_KTHREAD, include/linux/sched.h
constexpr std::string_view kListening = "0A";        // TCP_LISTEN in /proc/net/tcp

/// At most `most` bytes of a file below /proc; nothing if it is gone.
std::optional<std::string> read_proc(const std::string& path, std::size_t most = 1U << 22U) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return std::nullopt;
  std::string text;
  std::array<char, 16384> part{};
  while (text.size() < most) {
    const ssize_t size = ::read(file.number(), part.data(), part.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return std::nullopt;
    if (size == 0) break;
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  return text;
}

template <typename Number>
std::optional<Number> to_number(std::string_view text, int base = 10) {
  Number number{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

struct Stat {
  std::string name;
  char state = '?';
  std::uint32_t parent = 0;
  std::uint64_t flags = 0;
  std::uint64_t start_time = 0;
};

/// Source: proc(5), /proc/PID/stat. The name may hold blanks and parentheses, so the fields count
/// from the last ')'.
std::optional<Stat> read_stat(std::uint32_t pid) {
  const auto text = read_proc("/proc/" + std::to_string(pid) + "/stat");
  if (!text) return std::nullopt;
  const auto open = text->find('(');
  const auto close = text->rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
  Stat stat;
  stat.name = text->substr(open + 1, close - open - 1);
  std::istringstream rest(text->substr(close + 1));
  std::string skipped;
  rest >> stat.state >> stat.parent;
  for (int field = 5; field <= 8; ++field) rest >> skipped;
  rest >> stat.flags;
  for (int field = 10; field <= 21; ++field) rest >> skipped;
  rest >> stat.start_time;
  if (!rest) return std::nullopt;
  return stat;
}

std::string command_of(std::uint32_t pid, const std::string& name) {
  auto text = read_proc("/proc/" + std::to_string(pid) + "/cmdline", kLongestCommand);
  if (!text || text->empty()) return escape_controls(name);
  text->resize(std::min(text->size(), kLongestCommand));
  std::replace(text->begin(), text->end(), '\0', ' ');
  while (!text->empty() && text->back() == ' ') text->pop_back();
  return escape_controls(*text);
}

std::optional<ino_t> network_of(const std::string& process) {
  struct stat found {};
  if (::stat(("/proc/" + process + "/ns/net").c_str(), &found) != 0) return std::nullopt;
  return found.st_ino;
}

/// The sockets that listen on a TCP port in this network namespace. Source: proc(5), /proc/net/tcp.
std::set<std::string> listening_inodes(std::uint32_t port) {
  std::set<std::string> inodes;
  for (const char* path : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::istringstream lines(read_proc(path, 1U << 26U).value_or(""));
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
      if (to_number<std::uint32_t>(std::string_view(local).substr(colon + 1), 16) == port) {
        inodes.insert("socket:[" + inode + "]");
      }
    }
  }
  return inodes;
}

bool holds_any(std::uint32_t pid, const std::set<std::string>& sockets) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(folder.c_str()), &::closedir);
  if (!entries) return false;
  while (const dirent* entry = ::readdir(entries.get())) {
    std::array<char, 64> target{};
    const ssize_t size =
        ::readlinkat(::dirfd(entries.get()), entry->d_name, target.data(), target.size());
    if (size > 0 && sockets.contains(std::string(target.data(), static_cast<std::size_t>(size)))) {
      return true;
    }
  }
  return false;
}

std::set<std::uint32_t> own_line() {
  std::set<std::uint32_t> line;
  auto pid = static_cast<std::uint32_t>(::getpid());
  while (pid != 0 && line.insert(pid).second) {
    const auto stat = read_stat(pid);
    pid = stat ? stat->parent : 0;
  }
  return line;
}

/// Why it must live; empty if it need not.
std::string protection_of(std::uint32_t pid, const Stat& stat,
                          const std::set<std::uint32_t>& line) {
  if (pid == 1) return "PID 1";
  if ((stat.flags & kKernelThread) != 0) return "a kernel thread";
  if (line.contains(pid)) return "squall's own or its ancestor";
  if (stat.name == "squall" || stat.name == "squalld" || stat.name == "squall-hold") {
    return "squall's own";
  }
  if (stat.name == "systemd") return "systemd";
  if (stat.name == "sshd" || stat.name.starts_with("sshd-")) return "sshd";
  return why_protected_process(pid, stat.name);
}

std::vector<std::uint32_t> all_pids() {
  std::vector<std::uint32_t> pids;
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir("/proc"), &::closedir);
  if (!entries) return pids;
  while (const dirent* entry = ::readdir(entries.get())) {
    if (const auto pid = to_number<std::uint32_t>(entry->d_name)) pids.push_back(*pid);
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

std::string in_words(const v1::Process& wanted) {
  std::string words;
  const auto add = [&](const std::string& word) { words += (words.empty() ? "" : ", ") + word; };
  if (!wanted.name().empty()) add("name " + escape_controls(wanted.name()));
  if (wanted.has_pid()) add("pid " + std::to_string(wanted.pid()));
  if (wanted.has_port()) add("port " + std::to_string(wanted.port()));
  return words;
}

}  // namespace

StatusOr<std::vector<Target>> select_processes(const v1::Process& wanted) {
  if (wanted.name().empty() && !wanted.has_pid() && !wanted.has_port()) {
    return error(StatusCode::kInvalidArgument,
                 "process: one of name, pid, port is needed: an empty selector would match all");
  }
  const auto own_network = network_of("self");
  if (!own_network) return error(StatusCode::kInternal, "/proc/self/ns/net cannot be read");
  const std::set<std::string> sockets =
      wanted.has_port() ? listening_inodes(wanted.port()) : std::set<std::string>();
  const std::set<std::uint32_t> line = own_line();

  std::vector<Target> targets;
  std::string spared;
  for (const std::uint32_t pid :
       wanted.has_pid() ? std::vector<std::uint32_t>{wanted.pid()} : all_pids()) {
    const auto stat = read_stat(pid);
    if (!stat || stat->state == 'Z' || stat->state == 'X') continue;
    if (!wanted.name().empty() && stat->name != wanted.name()) continue;
    if (network_of(std::to_string(pid)) != own_network) continue;
    if (wanted.has_port() && !holds_any(pid, sockets)) continue;
    if (const std::string why = protection_of(pid, *stat, line); !why.empty()) {
      spared += (spared.empty() ? "" : ", ") + std::to_string(pid) + " is " + why;
      continue;
    }
    Target target;
    target.pid = pid;
    target.start_time = stat->start_time;
    target.command = command_of(pid, stat->name);
    target.pidfd.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!target.pidfd.is_open()) continue;  // ended meanwhile
    // Between reading and opening, the number may have gone to another process. The descriptor now
    // holds one; if it started when ours did, it is ours.
    const auto again = read_stat(pid);
    if (!again || again->start_time != stat->start_time) continue;
    targets.push_back(std::move(target));
  }
  if (targets.empty()) {
    return error(StatusCode::kNotFound,
                 "no process with " + in_words(wanted) + " on this node" +
                     (spared.empty() ? "" : " that may be touched: " + spared));
  }
  return targets;
}

}  // namespace squall::hold
