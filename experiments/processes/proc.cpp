#include "experiments/processes/proc.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <sstream>
#include <utility>

namespace squall {
namespace {

constexpr std::uint64_t kKernelThread = 0x00200000;  // PF_KTHREAD, include/linux/sched.h

using Folder = std::unique_ptr<DIR, int (*)(DIR*)>;

std::optional<std::string> read_at(int folder, const std::string& file, std::size_t most) {
  const Fd opened(::openat(folder, file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!opened.is_open()) return std::nullopt;
  std::string text;
  std::array<char, 8192> part{};
  while (text.size() < most) {
    const std::size_t room = std::min(part.size(), most - text.size());
    const ssize_t size = ::read(opened.number(), part.data(), room);
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return std::nullopt;  // it ended meanwhile: ESRCH
    if (size == 0) break;
    text.append(part.data(), static_cast<std::size_t>(size));
  }
  return text;
}

std::optional<std::string> link_at(int folder, const char* name) {
  std::array<char, 4096> target{};
  const ssize_t size = ::readlinkat(folder, name, target.data(), target.size());
  if (size < 0) return std::nullopt;
  return std::string(target.data(), static_cast<std::size_t>(size));
}

}  // namespace

bool Stat::is_kernel_thread() const { return (flags & kKernelThread) != 0; }

std::optional<std::uint64_t> to_number(std::string_view text, int base) {
  std::uint64_t number = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (problem != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::optional<ProcFolder> ProcFolder::open(std::uint32_t pid) {
  Fd folder(::open(("/proc/" + std::to_string(pid)).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.is_open()) return std::nullopt;
  return ProcFolder(pid, std::move(folder));
}

std::optional<std::string> ProcFolder::read(const std::string& file, std::size_t most) const {
  return read_at(folder_.number(), file, most);
}

/// Source: proc(5), /proc/PID/stat. The name may hold blanks and parentheses, so the fields count
/// from the last ')'.
std::optional<Stat> ProcFolder::stat_in(const std::string& file) const {
  const auto text = read(file);
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
  for (int field = 10; field <= 13; ++field) rest >> skipped;
  std::uint64_t in_kernel = 0;
  rest >> stat.cpu_time >> in_kernel;
  stat.cpu_time += in_kernel;
  for (int field = 16; field <= 19; ++field) rest >> skipped;
  rest >> stat.threads >> skipped >> stat.start_time >> skipped >> stat.resident;
  if (!rest) return std::nullopt;
  return stat;
}

std::optional<Stat> ProcFolder::stat_of_thread(std::uint32_t tid) const {
  return stat_in("task/" + std::to_string(tid) + "/stat");
}

std::optional<std::string> ProcFolder::name() const {
  auto text = read("comm");
  if (text && !text->empty() && text->back() == '\n') text->pop_back();
  return text;
}

std::optional<std::string> ProcFolder::arguments() const {
  auto text = read("cmdline");
  if (!text) return text;
  while (!text->empty() && text->back() == '\0') text->pop_back();
  std::replace(text->begin(), text->end(), '\0', ' ');
  return text;
}

std::optional<std::uint32_t> ProcFolder::status_number(std::string_view word, int which) const {
  std::istringstream lines(read("status").value_or(""));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(word) || line.substr(word.size(), 1) != ":") continue;
    std::istringstream numbers(line.substr(word.size() + 1));
    std::uint32_t number = 0;
    for (int i = 0; i <= which; ++i) numbers >> number;
    if (numbers) return number;
  }
  return std::nullopt;
}

std::optional<ino_t> ProcFolder::network_namespace() const {
  struct stat found {};
  if (::fstatat(folder_.number(), "ns/net", &found, 0) != 0) return std::nullopt;
  return found.st_ino;
}

/// Source: cgroups(7), /proc/PID/cgroup: a number, controllers, a path, with colons between them.
std::vector<CgroupLine> ProcFolder::cgroups() const {
  std::vector<CgroupLine> lines;
  std::istringstream text(read("cgroup").value_or(""));
  for (std::string line; std::getline(text, line);) {
    const auto first = line.find(':');
    const auto second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos) continue;
    lines.push_back({line.substr(first + 1, second - first - 1), line.substr(second + 1)});
  }
  return lines;
}

std::vector<std::string> ProcFolder::entries(const char* folder) const {
  std::vector<std::string> names;
  const int opened =
      ::openat(folder_.number(), folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
  if (opened < 0) return names;
  const Folder entries(::fdopendir(opened), &::closedir);
  if (!entries) {
    ::close(opened);
    return names;
  }
  while (const dirent* entry = ::readdir(entries.get())) names.emplace_back(entry->d_name);
  return names;
}

std::vector<std::string> ProcFolder::descriptors() const {
  std::vector<std::string> targets;
  for (const std::string& name : entries("fd")) {
    if (auto target = link_at(folder_.number(), ("fd/" + name).c_str())) {
      targets.push_back(*std::move(target));
    }
  }
  return targets;
}

std::vector<std::uint32_t> ProcFolder::numbers_in(const char* folder) const {
  std::vector<std::uint32_t> numbers;
  for (const std::string& name : entries(folder)) {
    if (const auto number = to_number(name)) numbers.push_back(static_cast<std::uint32_t>(*number));
  }
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

std::string_view ProcFolder::Program::name() const {
  constexpr std::string_view kDeleted = " (deleted)";
  std::string_view whole = path;
  if (whole.ends_with(kDeleted)) whole.remove_suffix(kDeleted.size());
  return whole.substr(whole.rfind('/') + 1);
}

std::optional<ProcFolder::Program> ProcFolder::program() const {
  struct stat found {};
  if (::fstatat(folder_.number(), "exe", &found, 0) != 0) return std::nullopt;
  return Program{found.st_dev, found.st_ino, link_at(folder_.number(), "exe").value_or("")};
}

std::vector<std::uint32_t> all_pids() {
  std::vector<std::uint32_t> pids;
  const Folder entries(::opendir("/proc"), &::closedir);
  if (!entries) return pids;
  while (const dirent* entry = ::readdir(entries.get())) {
    if (const auto pid = to_number(entry->d_name)) pids.push_back(static_cast<std::uint32_t>(*pid));
  }
  std::sort(pids.begin(), pids.end());
  return pids;
}

}  // namespace squall
