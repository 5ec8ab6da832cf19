/// \file
/// log: the lines that a file grows by, from the first ask on, and how many of them match. The file
/// may be rotated, be truncated, or not be there yet.
///
/// It is opened without being opened first: a device does something when it is, so that what stands
/// at the path is looked at (O_PATH) before it is read. While a file is held, its inode's number is
/// nobody else's, so that another number at the path is another file.
#include <fcntl.h>
#include <re2/re2.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/checks/aside.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

/// Of one ask. What is left is read by the next.
constexpr std::size_t kMostRead = std::size_t{8} << 20U;
constexpr std::size_t kChunk = std::size_t{64} << 10U;
constexpr std::size_t kLongestLine = std::size_t{64} << 10U;
/// So many bytes before the place that was read to are read again, to know the file by them.
constexpr std::size_t kKnownBy = 64;

/// As many bytes as there are; none at the end, and where they cannot be read.
std::string_view read_at(int file, off_t at, std::vector<char>& into, std::size_t most) {
  ssize_t size = -1;
  do {
    size = ::pread(file, into.data(), std::min(most, into.size()), at);
  } while (size < 0 && errno == EINTR);
  return {into.data(), static_cast<std::size_t>(std::max<ssize_t>(size, 0))};
}

/// A file and how far it was read.
class Followed {
 public:
  Followed(Fd file, const struct stat& found)
      : file_(std::move(file)), device_(found.st_dev), inode_(found.st_ino), buffer_(kChunk) {}

  bool is(const struct stat& other) const {
    return device_ == other.st_dev && inode_ == other.st_ino;
  }

  bool is_empty() const {
    struct stat now {};
    return ::fstat(file_.number(), &now) == 0 && now.st_size == 0;
  }

  /// Reads on behind what is there by now, but for a line that was begun and has no end yet.
  void skip() {
    struct stat now {};
    if (::fstat(file_.number(), &now) != 0) return;
    const off_t from = std::max<off_t>(now.st_size - static_cast<off_t>(kLongestLine), 0);
    const std::string_view tail = read_at(file_.number(), from, buffer_, kLongestLine);
    const auto end = tail.rfind('\n');
    at_ = end != tail.npos ? from + static_cast<off_t>(end) + 1 : from == 0 ? 0 : now.st_size;
    remember(tail.substr(0, static_cast<std::size_t>(at_ - from)));
  }

  /// Gives every line that ends to `take`. Returns how much it read, at most `most`.
  template <typename Take>
  std::size_t read(std::size_t most, const Take& take) {
    if (!is_continued()) begin_anew();
    std::size_t all = 0;
    while (all < most) {
      const std::string_view part = read_at(file_.number(), at_, buffer_, most - all);
      if (part.empty()) break;
      at_ += static_cast<off_t>(part.size());
      all += part.size();
      remember(part);
      split(part, take);
    }
    return all;
  }

  /// A last line without an end, of a file that nobody writes to any more.
  template <typename Take>
  void finish(const Take& take) {
    if (!line_.empty()) take(std::exchange(line_, {}));
  }

 private:
  /// Truncated, or truncated and grown past the place again: then other bytes stand before it.
  bool is_continued() {
    const auto length = static_cast<off_t>(known_.size());
    return read_at(file_.number(), at_ - length, buffer_, known_.size()) == known_;
  }

  void begin_anew() {
    // A program that does not append goes on writing where it was, behind a hole.
    at_ = std::max<off_t>(::lseek(file_.number(), 0, SEEK_DATA), 0);
    line_.clear();
    known_.clear();
  }

  void remember(std::string_view part) {
    known_.append(part.substr(part.size() - std::min(part.size(), kKnownBy)));
    known_.erase(0, known_.size() - std::min(known_.size(), kKnownBy));
  }

  template <typename Take>
  void split(std::string_view part, const Take& take) {
    while (!part.empty()) {
      if (line_.empty()) part.remove_prefix(std::min(part.find_first_not_of('\0'), part.size()));
      const auto end = part.find('\n');
      const std::string_view piece = part.substr(0, end);
      line_.append(piece.substr(0, kLongestLine - std::min(line_.size(), kLongestLine)));
      if (end == part.npos) return;
      if (line_.ends_with('\r')) line_.pop_back();
      take(std::exchange(line_, {}));
      part.remove_prefix(end + 1);
    }
  }

  Fd file_;
  dev_t device_;
  ino_t inode_;
  off_t at_ = 0;
  std::string line_;   ///< Read, and without an end so far; cut to the longest.
  std::string known_;  ///< The last bytes before `at_`.
  std::vector<char> buffer_;
};

const char* noun_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFLNK:
      return "a symbolic link: name the file that it leads to";
    case S_IFDIR:
      return "a directory";
    case S_IFIFO:
      return "a fifo";
    case S_IFSOCK:
      return "a socket";
    default:
      return "a device";
  }
}

/// The path and the files that stood there. Shared with the thread that reads them.
class Tail {
 public:
  struct Found {
    std::string error = "the file could not be read";
    std::string no_data;
    std::uint64_t lines = 0;
  };

  Tail(std::string path, const std::string& pattern)
      : path_(std::move(path)), pattern_(pattern, RE2::Quiet) {}

  const std::string& latest() const { return latest_; }
  const Found& found() const { return found_; }

  void look() {
    found_ = Found();
    found_.error = attach();
    if (!found_.error.empty() || !current_) return;
    const auto take = [this](std::string line) {
      if (!RE2::PartialMatch(line, pattern_)) return;
      ++found_.lines;
      latest_ = std::move(line);
    };
    std::size_t left = kMostRead;
    if (before_) {
      left -= before_->read(left, take);
      // A program writes to the old file until it has been told of the new one.
      if (left > 0 && !current_->is_empty()) {
        before_->finish(take);
        before_.reset();
      }
    }
    if (left > 0) left -= current_->read(left, take);
    // None is said to be there only where all was read.
    if (left == 0 && found_.lines == 0) found_.no_data = "it grows faster than it is read";
  }

 private:
  /// Sees to it that `current_` is what stands at the path. The error, or empty.
  std::string attach() {
    const bool is_first = !std::exchange(looked_, true);
    const Fd there(::open(path_.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!there.is_open()) {
      if (errno != ENOENT) return "cannot open " + path_ + ": " + errno_words(errno);
      // Between two files of a rotation there may be none.
      if (!current_) found_.no_data = path_ + " is not there yet";
      return "";
    }
    struct stat found {};
    if (::fstat(there.number(), &found) != 0) return path_ + ": " + errno_words(errno);
    if (!S_ISREG(found.st_mode)) return path_ + " is " + noun_of(found.st_mode);
    if (current_ && current_->is(found)) return "";
    const std::string again = "/proc/self/fd/" + std::to_string(there.number());
    Fd file(::open(again.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    if (!file.is_open()) return "cannot open " + path_ + ": " + errno_words(errno);
    before_ = std::exchange(current_, std::make_unique<Followed>(std::move(file), found));
    if (is_first) current_->skip();
    return "";
  }

  std::string path_;
  RE2 pattern_;
  bool looked_ = false;
  std::unique_ptr<Followed> current_;
  std::unique_ptr<Followed> before_;  ///< What stood there until it was rotated away.
  std::string latest_;
  Found found_;
};

class Log final : public Check {
 public:
  explicit Log(const v1::Check& check)
      : tail_(std::make_shared<Tail>(check.log().path(), check.log().pattern())),
        timeout_(timeout_of(check)) {}

  boost::asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    sample.error = co_await look(sample.asked + timeout_);
    sample.latency = monotonic_now() - sample.asked;
    if (!sample.error.empty()) co_return sample;
    sample.output = tail_->latest();
    sample.no_data = tail_->found().no_data;
    if (!sample.no_data.empty()) co_return sample;
    sample.numbers["lines"] = static_cast<double>(tail_->found().lines);
    co_return sample;
  }

 private:
  boost::asio::awaitable<std::string> look(MonotonicTime deadline) {
    if (!aside_.is_going() && !aside_.begin([tail = tail_] { tail->look(); })) {
      co_return "out of threads or descriptors";
    }
    const Aside::Wait waited = co_await aside_.wait(deadline);
    if (waited == Aside::Wait::kLate) co_return timeout_words(timeout_);
    if (waited == Aside::Wait::kGivenUp) co_return kCancelled;
    co_return tail_->found().error;
  }

  std::shared_ptr<Tail> tail_;
  Duration timeout_;
  Aside aside_;
};

}  // namespace

const CheckKind kLog{.which = v1::Check::kLog, .make = [](const v1::Check& check) {
                       return std::unique_ptr<Check>(new Log(check));
                     }};

}  // namespace squall::checks
