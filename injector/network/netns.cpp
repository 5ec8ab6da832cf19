#include "injector/network/netns.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <system_error>

#include "injector/network/netlink.h"

namespace squall::network {
namespace {

namespace fs = std::filesystem;

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

/// Processes end and names are removed while they are looked at; what is gone is no entry.
void for_each_entry(const fs::path& folder, const auto& visit) {
  std::error_code gone;
  fs::directory_iterator entry(folder, gone);
  for (; !gone && entry != fs::directory_iterator(); entry.increment(gone)) visit(entry->path());
}

/// Where each can be opened, by its number: as the namespace of a process, or as a mount of it,
/// which is how it gets a name. Source: ip-netns(8), proc(5).
std::map<std::uint64_t, fs::path> all_netns() {
  std::map<std::uint64_t, fs::path> found;
  const auto look = [&](const fs::path& path) {
    struct stat about {};
    if (::stat(path.c_str(), &about) == 0) found.emplace(about.st_ino, path);
  };
  for_each_entry("/proc", [&](const fs::path& process) {
    if (is_number(process.filename())) look(process / "ns/net");
  });
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    if (line.find(" - nsfs ") == std::string::npos || line.find(" net:[") == std::string::npos) {
      continue;
    }
    std::istringstream words(line);
    std::string point;
    for (int field = 0; field < 5; ++field) words >> point;
    look(point);
  }
  return found;
}

/// Held by nothing but an open file of some process.
fs::path open_in_a_process(std::uint64_t inode) {
  const std::string wanted = "net:[" + std::to_string(inode) + "]";
  fs::path found;
  for_each_entry("/proc", [&](const fs::path& process) {
    if (!found.empty() || !is_number(process.filename())) return;
    for_each_entry(process / "fd", [&](const fs::path& file) {
      std::error_code gone;
      if (found.empty() && fs::read_symlink(file, gone) == wanted) found = file;
    });
  });
  return found;
}

}  // namespace

StatusOr<Fd> open_netns(const std::string& name) {
  const std::string path = is_number(name)  ? "/proc/" + name + "/ns/net"
                           : name[0] == '/' ? name
                                            : "/run/netns/" + name;
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.is_open()) return file;
  if (errno != ENOENT) return from_errno("cannot open the network namespace " + path, errno);
  return error(StatusCode::kNotFound,
               is_number(name) ? "no process " + name : "no network namespace " + path);
}

StatusOr<Fd> find_netns(std::uint64_t inode) {
  const std::map<std::uint64_t, fs::path> all = all_netns();
  const auto named = all.find(inode);
  const fs::path path = named != all.end() ? named->second : open_in_a_process(inode);
  Fd file(path.empty() ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat about {};
  // The process may have ended, and its number be another's.
  if (file.is_open() && ::fstat(file.number(), &about) == 0 && about.st_ino == inode) return file;
  return error(StatusCode::kNotFound,
               "the network namespace " + std::to_string(inode) + " is gone");
}

StatusOr<std::uint64_t> number_of(const Fd& netns) {
  struct stat about {};
  if (::fstat(netns.number(), &about) != 0) {
    return from_errno("cannot read the number of a network namespace", errno);
  }
  return std::uint64_t{about.st_ino};
}

std::vector<std::uint64_t> other_netns() {
  const StatusOr<std::uint64_t> here = current_netns();
  std::vector<std::uint64_t> others;
  for (const auto& [inode, path] : all_netns()) {
    if (!here.ok() || inode != *here) others.push_back(inode);
  }
  return others;
}

StatusOr<InNetns> InNetns::enter(const Fd& netns) {
  Fd back(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!back.is_open()) return from_errno("/proc/thread-self/ns/net", errno);
  if (::setns(netns.number(), CLONE_NEWNET) != 0) {
    return from_errno("cannot enter the network namespace", errno);
  }
  return InNetns(std::move(back));
}

InNetns::~InNetns() {
  // Work done in the wrong namespace would be done to somebody else's network.
  if (back_.is_open() && ::setns(back_.number(), CLONE_NEWNET) != 0) std::abort();
}

}  // namespace squall::network
