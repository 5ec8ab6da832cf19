#include "experiments/plan/file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "experiments/plan/yaml.h"

namespace squall::plan {
namespace {

// Non-blocking, or a fifo without a writer would hold us here before we could see that it is one.
constexpr int kReading = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

std::string in_words(int number) { return std::generic_category().message(number); }

std::string read_open(const Fd& file, const Unfit& unfit, std::string& text) {
  struct stat status {};
  if (fstat(file.number(), &status) != 0) return in_words(errno);
  if (S_ISDIR(status.st_mode)) return "is a directory";
  if (!S_ISREG(status.st_mode)) return "is not a file";
  if (std::string why = unfit ? unfit(status) : ""; !why.empty()) return why;
  // The size is a guess, right for most: one byte more shows that there is no more.
  text.resize(std::min(static_cast<std::size_t>(status.st_size), kLargestPlan) + 1);
  std::size_t size = 0;
  for (;;) {
    const ssize_t got = read(file.number(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return in_words(errno);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
    if (size > kLargestPlan) return "is larger than 1 MiB";
    if (size == text.size()) text.resize(std::min(2 * size + 4096, kLargestPlan + 1));
  }
  text.resize(size);
  return "";
}

}  // namespace

std::string read_file(const std::string& path, const Unfit& unfit, std::string& text) {
  if (path.find('\0') != std::string::npos) return "has a NUL byte in its name";
  const Fd file(open(path.c_str(), kReading));
  if (!file.is_open()) return in_words(errno);
  return read_open(file, unfit, text);
}

Folder::Folder(const std::string& file)
    : name_(std::filesystem::path(file).parent_path().native()),
      folder_(open(name_.empty() ? "." : name_.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {}

std::string Folder::read_below(const std::string& path, std::string& text) const {
  if (path.find('\0') != std::string::npos) return "has a NUL byte in its name";
  open_how how{};
  how.flags = kReading;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  const Fd file(
      static_cast<int>(::syscall(SYS_openat2, folder_.number(), path.c_str(), &how, sizeof how)));
  if (!file.is_open()) {
    return errno == EXDEV ? "leads out of the plan's folder, as every absolute link does"
                          : in_words(errno);
  }
  return read_open(file, nullptr, text);
}

std::string Folder::shown(const std::string& path) const {
  return (std::filesystem::path(name_) / path).native();
}

}  // namespace squall::plan
