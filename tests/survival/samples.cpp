#include "tests/survival/samples.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/faults.h"
#include "tests/support/process.h"

namespace squall::survival {
namespace {

using namespace support;
using std::chrono::milliseconds;
using std::chrono::minutes;
namespace fs = std::filesystem;

constexpr std::uint16_t kPort = 7000;

v1::Fault lasting() {
  v1::Fault fault;
  fault.set_for_(Duration(minutes(1)).count());
  return fault;
}

/// Of the node's network, which whoever judges reads anyway.
class OnLoopback final : public Sample {
 public:
  explicit OnLoopback(v1::Fault fault) : fault_(std::move(fault)) {
    fault_.mutable_network()->set_interface("lo");
  }
  v1::Fault fault() const override { return fault_; }
  std::string state() const override { return ""; }

 private:
  v1::Fault fault_;
};

std::unique_ptr<Sample> make_delay() {
  return std::make_unique<OnLoopback>(delay_fault(kPort, milliseconds(10), v1::BOTH));
}

std::unique_ptr<Sample> make_loss() { return std::make_unique<OnLoopback>(loss_fault(kPort, 100)); }

/// What a rename or a mount could change of a file, or of a folder and what is in it, but for the
/// time of the last change to the inode.
std::string seen_of(const fs::path& path) {
  std::ostringstream text;
  struct stat seen {};
  if (::lstat(path.c_str(), &seen) != 0) return path.native() + ": errno " + std::to_string(errno);
  text << path.native() << ' ' << seen.st_dev << ' ' << seen.st_ino << ' ' << seen.st_mode << ' '
       << seen.st_uid << ' ' << seen.st_nlink << ' ' << seen.st_mtim.tv_sec << '.'
       << seen.st_mtim.tv_nsec << '\n';
  if (S_ISREG(seen.st_mode)) {
    const bool can_be_written = std::ofstream(path, std::ios::in | std::ios::out).is_open();
    text << (can_be_written ? "writable: " : "not writable: ") << std::ifstream(path).rdbuf();
  }
  if (S_ISDIR(seen.st_mode)) {
    std::vector<fs::path> entries;
    std::error_code unreadable;
    for (const auto& entry : fs::directory_iterator(path, unreadable)) entries.push_back(entry);
    if (unreadable) text << "unreadable\n";
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) text << seen_of(entry);
  }
  return text.str();
}

template <v1::FileState kMake>
class OneFile final : public Sample {
 public:
  OneFile() {
    fs::create_directory(folder_.path() / "data");
    std::ofstream(file_) << "price = 3\n";
    const timespec long_ago[] = {{.tv_sec = 1'000'000'000, .tv_nsec = 123'456'789},
                                 {.tv_sec = 1'000'000'001, .tv_nsec = 987'654'321}};
    for (const fs::path& path : {file_, file_.parent_path()}) {
      ::utimensat(AT_FDCWD, path.c_str(), long_ago, 0);
    }
  }

  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_files()->set_path(file_);
    fault.mutable_files()->set_make(kMake);
    return fault;
  }

  std::string state() const override { return seen_of(file_.parent_path()); }

  static std::unique_ptr<Sample> make() { return std::make_unique<OneFile>(); }

 private:
  TemporaryFolder folder_;
  fs::path file_ = folder_.path() / "data" / "shop.conf";
};

/// A program that makes a file, and one that removes it.
class Scripts final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    v1::Script& script = *fault.mutable_script();
    for (const char* word : {"/usr/bin/touch", trace_.c_str()}) script.add_run(word);
    for (const char* word : {"/usr/bin/rm", "-f", trace_.c_str()}) script.add_undo(word);
    script.set_timeout(Duration(std::chrono::seconds(10)).count());
    return fault;
  }

  std::string state() const override { return fs::exists(trace_) ? "broken" : "whole"; }

  static std::unique_ptr<Sample> make() { return std::make_unique<Scripts>(); }

 private:
  TemporaryFolder folder_;
  fs::path trace_ = folder_.path() / "trace";
};

Command sleeper() {
  Command command;
  command.argv = {"sleep", "1000"};
  return command;
}

/// There is no way back for what is killed; its neighbour must live.
class TwoSleepers final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault;
    fault.mutable_kill()->mutable_process()->set_pid(static_cast<std::uint32_t>(target_.pid()));
    return fault;
  }

  std::string state() const override { return neighbour_.running() ? "neighbour lives" : "gone"; }

  static std::unique_ptr<Sample> make() { return std::make_unique<TwoSleepers>(); }

 private:
  Process target_{sleeper()};
  mutable Process neighbour_{sleeper()};
};

class LittleCpu final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_cpu()->set_load(1);
    fault.mutable_cpu()->set_cores(1);
    return fault;
  }
  std::string state() const override { return ""; }

  static std::unique_ptr<Sample> make() { return std::make_unique<LittleCpu>(); }
};

class OneName final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_dns()->add_names("shop.example");
    return fault;
  }
  std::string state() const override { return ""; }

  static std::unique_ptr<Sample> make() { return std::make_unique<OneName>(); }
};

}  // namespace

std::span<const SampleKind> samples() {
  static const SampleKind all[] = {
      {.kind = "network", .words = "delay on lo both ways", .make = make_delay},
      {.kind = "network", .words = "loss of all on lo", .make = make_loss},
      {.kind = "kill", .words = "one process", .make = TwoSleepers::make},
      {.kind = "cpu", .words = "1 % of one core", .make = LittleCpu::make},
      {.kind = "dns", .words = "one name", .make = OneName::make},
      {.kind = "files", .words = "absent", .make = OneFile<v1::ABSENT>::make},
      {.kind = "files", .words = "unreadable", .make = OneFile<v1::UNREADABLE>::make},
      {.kind = "files", .words = "read-only", .make = OneFile<v1::READ_ONLY>::make},
      {.kind = "script", .words = "touch and rm", .make = Scripts::make},
      {.kind = "clock", .words = "", .make = nullptr, .not_here = "its clock is not ours to set"},
      {.kind = "service", .words = "", .make = nullptr, .not_here = "systemd need not run here"},
  };
  return all;
}

}  // namespace squall::survival
