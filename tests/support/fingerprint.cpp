#include "tests/support/fingerprint.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <string_view>

#include "experiments/base/file.h"
#include "tests/support/holder.h"
#include "tests/support/process.h"

namespace squall::support {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// What of /proc/PID/status stays the same while nobody does anything to a process.
std::string steady(const std::string& line) {
  constexpr std::array<std::string_view, 3> kKept = {"TracerPid:", "Cpus_allowed_list:", "Uid:"};
  if (line.starts_with("State:")) {
    // It may run or sleep as it likes.
    const char state = line[line.find_first_not_of(" \t", 6)];
    return std::string_view("RSDI").find(state) != std::string_view::npos ? "goes on" : line;
  }
  const bool kept = std::any_of(kKept.begin(), kKept.end(),
                                [&](std::string_view begin) { return line.starts_with(begin); });
  return kept ? line : "";
}

std::string link_of(const std::string& path) {
  std::error_code gone;
  return fs::read_symlink(path, gone).native();
}

std::string attributes_of(const fs::path& path) {
  std::string text;
  char names[1024];
  const ssize_t size = ::llistxattr(path.c_str(), names, sizeof names);
  for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(std::string(names + at).size()) + 1) {
    char value[1024];
    const ssize_t length = ::lgetxattr(path.c_str(), names + at, value, sizeof value);
    text += fmt::format(" {}={}", names + at,
                        std::string(value, static_cast<std::size_t>(std::max<ssize_t>(length, 0))));
  }
  return text;
}

void add_file(const fs::path& path, Fingerprint& lines) {
  const std::string& name = path.native();
  struct stat seen {};
  if (::lstat(path.c_str(), &seen) != 0) {
    lines.push_back(fmt::format("file {} errno {}", name, errno));
    return;
  }
  lines.push_back(fmt::format(
      "file {} on {} inode {} mode {:o} of {}:{} links {} size {} changed {}.{:09}{}", name,
      seen.st_dev, seen.st_ino, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink, seen.st_size,
      seen.st_mtim.tv_sec, seen.st_mtim.tv_nsec, attributes_of(path)));
  if (S_ISREG(seen.st_mode)) {
    const bool can_be_written = std::ofstream(path, std::ios::in | std::ios::out).is_open();
    lines.push_back(fmt::format("file {} {}: {}", name,
                                can_be_written ? "writable" : "not writable",
                                read_whole(path).value_or("unreadable")));
  }
  if (!S_ISDIR(seen.st_mode)) return;
  std::error_code unreadable;
  for (const auto& entry : fs::directory_iterator(path, unreadable)) add_file(entry, lines);
  if (unreadable) lines.push_back(fmt::format("file {} unreadable", name));
}

/// Can be written, to set it back, and goes up by itself.
bool is_count(const std::string& file) {
  constexpr std::array<std::string_view, 4> kCounts = {"max_usage", "failcnt", "peak", "pressure"};
  return std::any_of(kCounts.begin(), kCounts.end(),
                     [&](std::string_view count) { return file.find(count) != std::string::npos; });
}

void add_group(const fs::path& folder, Fingerprint& lines) {
  std::error_code gone;
  for (const auto& entry : fs::directory_iterator(folder, gone)) {
    if (entry.is_directory(gone)) {
      add_group(entry, lines);
      continue;
    }
    if (is_count(entry.path().filename())) continue;
    if ((entry.status(gone).permissions() & fs::perms::owner_write) == fs::perms::none) continue;
    // Some can only be written.
    for (const std::string& line : lines_of(read_whole(entry.path()).value_or(""))) {
      lines.push_back(fmt::format("group {} {}", entry.path().native(), line));
    }
  }
  if (gone) lines.push_back(fmt::format("group {} gone", folder.native()));
}

Fingerprint sorted(Fingerprint lines) {
  std::sort(lines.begin(), lines.end());
  return lines;
}

}  // namespace

Fingerprint fingerprint_of_process(pid_t pid) {
  const std::string folder = fmt::format("/proc/{}/", pid);
  const auto status = read_whole(folder + "status");
  if (!status.ok()) return {fmt::format("process {} gone", pid)};
  Fingerprint lines;
  for (const std::string& line : lines_of(*status)) {
    if (const std::string kept = steady(line); !kept.empty()) {
      lines.push_back(fmt::format("process {} {}", pid, kept));
    }
  }
  for (const char* file : {"limits", "cgroup", "oom_score_adj"}) {
    for (const std::string& line : lines_of(read_whole(folder + file).value_or(""))) {
      lines.push_back(fmt::format("process {} {} {}", pid, file, line));
    }
  }
  for (const char* name : {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}) {
    lines.push_back(fmt::format("process {} in {}", pid, link_of(folder + "ns/" + name)));
  }
  return sorted(std::move(lines));
}

Fingerprint fingerprint_of_group(const fs::path& folder) {
  Fingerprint lines;
  add_group(folder, lines);
  return sorted(std::move(lines));
}

Fingerprint fingerprint_of_files(const fs::path& path) {
  Fingerprint lines;
  add_file(path, lines);
  // Source: proc(5), /proc/PID/mountinfo; the first two numbers are counted anew by every mount.
  for (const std::string& line : lines_of(read_whole("/proc/self/mountinfo").value_or(""))) {
    std::istringstream words(line);
    std::string number, parent, device, root, point, rest;
    words >> number >> parent >> device >> root >> point;
    std::getline(words, rest);
    if (point != path && !point.starts_with(path.native() + "/")) continue;
    lines.push_back(fmt::format("mount {} of {} {}{}", point, device, root, rest));
  }
  return sorted(std::move(lines));
}

Fingerprint fingerprint_of_unit(const std::string& unit) {
  Command command;
  command.argv = {"systemctl", "show", unit,
                  "--property=ActiveState,SubState,LoadState,UnitFileState,Job"};
  Fingerprint lines;
  for (const std::string& line : lines_of(run(command))) {
    lines.push_back(fmt::format("unit {} {}", unit, line));
  }
  return sorted(std::move(lines));
}

Fingerprint operator+(Fingerprint left, const Fingerprint& right) {
  left.insert(left.end(), right.begin(), right.end());
  return sorted(std::move(left));
}

}  // namespace squall::support
