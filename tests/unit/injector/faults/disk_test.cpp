/// \file
/// The disk fault on file systems of the test's own, mounted where nobody else sees them, and
/// measured by what they say of themselves.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "experiments/base/ids.h"
#include "injector/faults/fault.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/faults/scenes.h"

namespace squall::support {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr Duration kBound = 15s;
constexpr std::uint64_t kKiB = 1U << 10U;
constexpr std::uint64_t kMiB = 1U << 20U;

/// Mounts from here on are this case's own, and go with it.
void leave_the_mounts() {
  REQUIRE(::unshare(CLONE_NEWNS) == 0);
  REQUIRE(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
}

/// A file system of its own in a folder, in memory.
class Small {
 public:
  explicit Small(std::uint64_t size) {
    leave_the_mounts();
    const std::string options = "size=" + std::to_string(size);
    REQUIRE(::mount("tmpfs", path().c_str(), "tmpfs", 0, options.c_str()) == 0);
  }
  Small(const Small&) = delete;
  Small& operator=(const Small&) = delete;
  ~Small() { ::umount2(path().c_str(), MNT_DETACH); }

  std::string path() const { return folder_.path().native(); }

 private:
  TemporaryFolder folder_;
};

std::uint64_t free_in(const std::string& path) {
  struct statvfs about {};
  REQUIRE(::statvfs(path.c_str(), &about) == 0);
  return std::uint64_t{about.f_bavail} * about.f_frsize;
}

v1::Fault disk(const std::string& path, std::uint64_t keep_free = 0) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(1min).count());
  fault.mutable_disk()->set_path(path);
  fault.mutable_disk()->set_keep_free(keep_free);
  fault.mutable_disk()->set_block(64 * kKiB);
  return fault;
}

v1::Fault fill(const std::string& path, std::uint64_t size, std::uint64_t keep_free = 0) {
  v1::Fault fault = disk(path, keep_free);
  fault.mutable_disk()->set_size(size);
  return fault;
}

v1::Fault fill_to(const std::string& path, double share, std::uint64_t keep_free = 0) {
  v1::Fault fault = disk(path, keep_free);
  fault.mutable_disk()->set_to(share);
  return fault;
}

std::uint64_t in_io(pid_t pid, const std::string& word) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/io");
  std::string name;
  for (std::uint64_t value = 0; file >> name >> value;) {
    if (name == word) return value;
  }
  return 0;
}

void run_program(const std::vector<std::string>& argv) {
  Command command;
  command.argv = argv;
  run(command);
}

bool is_empty(const std::string& path) { return fs::is_empty(path); }

TEST_CASE("disk fills what was asked for with a file that nobody sees, and gives it all back") {
  const Small small(64 * kMiB);
  const std::uint64_t before = free_in(small.path());
  const Namespace node;
  Holder holder(node);
  holder.inject(fill(small.path(), 40 * kMiB, 8 * kMiB), 1min);
  CHECK(eventually([&] { return free_in(small.path()) <= before - 40 * kMiB; }, kBound));
  CHECK(free_in(small.path()) == before - 40 * kMiB);
  CHECK(is_empty(small.path()));
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->effect());
  CHECK(evidence->disk().filled() == 40 * kMiB);
  CHECK(evidence->disk().kept_back() == 0);
  CHECK(holder.release().empty());
  CHECK(free_in(small.path()) == before);
  CHECK(is_empty(small.path()));
}

TEST_CASE("disk fills to a share, as df counts it, and keeps its reserve") {
  const Small small(64 * kMiB);
  {
    const Namespace node;
    Holder holder(node);
    holder.inject(fill_to(small.path(), 75, 4 * kMiB), 1min);
    CHECK(eventually([&] { return free_in(small.path()) <= 16 * kMiB; }, kBound));
    CHECK(free_in(small.path()) == 16 * kMiB);
    CHECK(holder.release().empty());
  }
  const Namespace node;
  Holder holder(node);
  holder.inject(fill_to(small.path(), 100, 4 * kMiB), 1min);
  CHECK(eventually([&] { return free_in(small.path()) <= 4 * kMiB; }, kBound));
  CHECK(free_in(small.path()) == 4 * kMiB);
  std::optional<v1::Evidence> evidence;
  CHECK(eventually(
      [&] {
        evidence = holder.pulse(1min);
        return evidence && evidence->disk().kept_back() == 4 * kMiB;
      },
      kBound));
}

TEST_CASE("disk gives way when others need the reserve, and takes what they leave") {
  const Small small(64 * kMiB);
  const Namespace node;
  Holder holder(node);
  holder.inject(fill_to(small.path(), 100, 8 * kMiB), 1min);
  REQUIRE(eventually([&] { return free_in(small.path()) == 8 * kMiB; }, kBound));
  const std::string theirs = small.path() + "/theirs";
  const int file = ::open(theirs.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  REQUIRE(::posix_fallocate(file, 0, 6 * kMiB) == 0);
  CHECK(eventually([&] { return free_in(small.path()) == 8 * kMiB; }, kBound));
  ::close(file);
  fs::remove(theirs);
  CHECK(eventually([&] { return free_in(small.path()) == 8 * kMiB; }, kBound));
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->disk().filled() == 56 * kMiB);
}

TEST_CASE("S35: disk meets ENOSPC: it holds what was to be had, and others meet it too") {
  const Small small(32 * kMiB);
  const Namespace node;
  Holder holder(node);
  holder.inject(fill_to(small.path(), 100), 1min);
  CHECK(eventually([&] { return free_in(small.path()) == 0; }, kBound));
  const std::string theirs = small.path() + "/theirs";
  {
    std::ofstream file(theirs);
    file << std::string(kMiB, 'x') << std::flush;
    CHECK_FALSE(file.good());
  }
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->effect());
  CHECK(evidence->disk().filled() == 32 * kMiB);
  CHECK(holder.release().empty());
  std::ofstream file(theirs);
  file << std::string(kMiB, 'x') << std::flush;
  CHECK(file.good());
}

TEST_CASE("S35: the blocks are free again whatever happens to those who hold them") {
  const Namespace node;
  const Small small(64 * kMiB);
  const std::uint64_t before = free_in(small.path());
  check_ends(
      fill(small.path(), 48 * kMiB, kMiB), node, [](pid_t) {},
      [&] { return free_in(small.path()) < before - 40 * kMiB; });
  CHECK(eventually([&] { return free_in(small.path()) == before; }, kBound));
  CHECK(is_empty(small.path()));
}

TEST_CASE("disk is filled no further and freed by a holder that wakes up too late") {
  const Small small(64 * kMiB);
  const std::uint64_t before = free_in(small.path());
  const Namespace node;
  Holder holder(node);
  holder.inject(fill(small.path(), 48 * kMiB, kMiB), 500ms);
  REQUIRE(eventually([&] { return free_in(small.path()) < before; }, kBound));
  holder.process().signal(SIGSTOP);
  const MonotonicTime frozen = monotonic_now();
  REQUIRE(eventually([&] { return monotonic_now() - frozen > 700ms; }, kBound));
  holder.process().signal(SIGCONT);
  CHECK(eventually([&] { return free_in(small.path()) == before; }, kBound));
}

TEST_CASE("disk reads and writes at the rates that were asked for, by the kernel's account") {
  // Where O_DIRECT is known and nothing is in memory only: what the tests are built on.
  const TemporaryFolder folder;
  v1::Fault fault = disk(folder.path());
  fault.mutable_disk()->set_read(4 * kMiB);
  fault.mutable_disk()->set_write(2 * kMiB);
  fault.mutable_disk()->set_block(32 * kKiB);
  fault.mutable_disk()->set_fsync(5);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  const pid_t pid = holder.process().pid();
  std::optional<v1::Evidence> first;
  REQUIRE(eventually(
      [&] {
        first = holder.pulse(1min);
        return first && first->effect() && first->disk().fsyncs() > 0;
      },
      kBound));
  const MonotonicTime begun = monotonic_now();
  const std::uint64_t read_before = in_io(pid, "rchar:");
  const std::uint64_t written_before = in_io(pid, "wchar:");
  REQUIRE(eventually([&] { return monotonic_now() - begun >= 2s; }, kBound));
  const auto last = holder.pulse(1min);
  const double took = to_ms(monotonic_now() - begun) / 1000;
  const auto read = static_cast<double>(in_io(pid, "rchar:") - read_before);
  const auto written = static_cast<double>(in_io(pid, "wchar:") - written_before);
  REQUIRE(last.has_value());
  // The bucket holds a fifth of a second.
  CHECK(read <= 4e0 * kMiB * (took + 0.3));
  CHECK(written <= 2e0 * kMiB * (took + 0.3));
  CHECK(read >= 1e0 * kMiB);
  CHECK(written >= 0.5 * kMiB);
  CHECK(static_cast<double>(last->disk().fsyncs() - first->disk().fsyncs()) <= 5 * (took + 0.3));
  CHECK(last->disk().fsyncs() > first->disk().fsyncs());
  // What is told is what the kernel counted, but for what happened between the two.
  CHECK(static_cast<double>(last->disk().read() - first->disk().read()) <= read + kMiB);
  CHECK(static_cast<double>(last->disk().written() - first->disk().written()) <= written + kMiB);
  CHECK(static_cast<double>(last->disk().read() - first->disk().read()) >= read - 1e0 * kMiB);
  CHECK(static_cast<double>(last->disk().written() - first->disk().written()) >=
        written - 1e0 * kMiB);
  CHECK(is_empty(folder.path()));
  CHECK(holder.release().empty());
}

TEST_CASE("disk whose size falls gives back what is meant no more") {
  const Small small(64 * kMiB);
  const std::uint64_t before = free_in(small.path());
  v1::Fault fault = fill(small.path(), 40 * kMiB, 8 * kMiB);
  add_ramp(fault, "size", 40 * kMiB, 8 * kMiB, 3s);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  CHECK(eventually([&] { return free_in(small.path()) <= before - 24 * kMiB; }, kBound));
  CHECK(eventually([&] { return free_in(small.path()) == before - 8 * kMiB; }, kBound));
  CHECK(holder.release().empty());
  CHECK(free_in(small.path()) == before);
}

TEST_CASE("disk whose size falls keeps its reserve all the while") {
  const Small small(64 * kMiB);
  v1::Fault fault = fill(small.path(), 40 * kMiB, 8 * kMiB);
  // By itself it would give back one in all this time.
  add_ramp(fault, "size", 40 * kMiB, 39 * kMiB, 1min);
  const Namespace node;
  Holder holder(node);
  holder.inject(fault, 1min);
  CHECK(eventually([&] { return free_in(small.path()) < 26 * kMiB; }, kBound));
  std::ofstream(small.path() + "/theirs") << std::string(20 * kMiB, 'x');
  CHECK(eventually([&] { return free_in(small.path()) >= 8 * kMiB; }, kBound));
  CHECK(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        return evidence && evidence->disk().kept_back() > 0;
      },
      kBound));
  CHECK(holder.release().empty());
}

TEST_CASE("disk with a rate that rises writes the area below the line") {
  const TemporaryFolder folder;
  v1::Fault fault = disk(folder.path());
  fault.mutable_disk()->set_write(8 * kMiB);
  fault.mutable_disk()->set_block(32 * kKiB);
  add_ramp(fault, "write", 0, 8 * kMiB, 2s);
  const Namespace node;
  Holder holder(node);
  const MonotonicTime begun = monotonic_now();
  holder.inject(fault, 1min);
  CHECK(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        REQUIRE(evidence.has_value());
        const double passed = to_ms(monotonic_now() - begun) / 1000;
        const double area = passed < 2 ? 2 * passed * passed : 8 + 8 * (passed - 2);
        // A block that is due is written whole, and the bucket holds a fifth of a second.
        CHECK(static_cast<double>(evidence->disk().written()) <= (area + 1.7) * kMiB);
        return evidence->disk().written() >= 12 * kMiB;
      },
      kBound));
  CHECK(holder.release().empty());
}

TEST_CASE("disk past the page cache writes to the device itself, or says that it cannot") {
  const TemporaryFolder folder;
  v1::Fault fault = disk(folder.path());
  fault.mutable_disk()->set_write(8 * kMiB);
  fault.mutable_disk()->set_block(64 * kKiB);
  fault.mutable_disk()->set_direct(true);
  const Namespace node;
  Holder holder(node);
  try {
    holder.inject(fault, 1min);
  } catch (const std::runtime_error& refused) {
    CHECK(std::string(refused.what()) ==
          "disk.direct: this file system cannot go past the page cache");
    return;
  }
  const pid_t pid = holder.process().pid();
  CHECK(eventually([&] { return in_io(pid, "write_bytes:") >= 2 * kMiB; }, kBound));
}

TEST_CASE("disk burning is over whatever happens to those who hold it") {
  const Namespace node;
  const TemporaryFolder folder;
  v1::Fault fault = disk(folder.path());
  fault.mutable_disk()->set_write(4 * kMiB);
  pid_t holder = 0;
  const auto writes = [&] {
    const std::uint64_t before = in_io(holder, "wchar:");
    yield_for(100ms);
    return in_io(holder, "wchar:") > before + 64 * kKiB;
  };
  check_ends(
      fault, node, [&](pid_t pid) { holder = pid; }, writes);
  CHECK(is_empty(folder.path()));
}

TEST_CASE("disk fills a real file system, and its holder's death frees it") {
  leave_the_mounts();
  const TemporaryFolder folder;
  const std::string image = folder.path() / "image";
  const std::string point = folder.path() / "point";
  fs::create_directory(point);
  std::ofstream(image).close();
  fs::resize_file(image, 160 * kMiB);
  try {
    run_program({"mkfs.ext4", "-q", "-F", image});
    run_program({"mount", "-o", "loop", image, point});
  } catch (const std::runtime_error& failed) {
    std::printf("SKIPPED: no file system on a loop device here: %s\n", failed.what());
    return;
  }
  const std::uint64_t before = free_in(point);
  {
    const Namespace node;
    Holder holder(node);
    holder.inject(fill_to(point, 100, kMiB), 1min);
    CHECK(eventually([&] { return free_in(point) <= kMiB + 256 * kKiB; }, kBound));
    CHECK(free_in(point) >= kMiB - 256 * kKiB);
    holder.process().signal(SIGKILL);
    CHECK(eventually([&] { return free_in(point) == before; }, kBound));
  }
  v1::Fault fault = disk(point);
  fault.mutable_disk()->set_write(4 * kMiB);
  fault.mutable_disk()->set_direct(true);
  {
    const Namespace node;
    Holder holder(node);
    CHECK(holder.inject(fault, 1min).effect());
    CHECK(holder.release().empty());
  }
  run_program({"umount", point});
}

TEST_CASE("disk on a file system that knows no nameless files leaves no name either") {
  // The lab's own folder is such a one.
  const char* const folder = std::getenv("SQUALL_LAB") != nullptr ? "/run/results" : nullptr;
  if (folder == nullptr || !fs::is_directory(folder)) {
    std::printf("SKIPPED: every file system here knows O_TMPFILE\n");
    return;
  }
  const auto names = [&] {
    std::vector<std::string> all;
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename().native().starts_with(".squall-")) all.push_back(entry.path());
    }
    return all;
  };
  const Namespace node;
  Holder holder(node);
  CHECK(holder.inject(fill(folder, 4 * kMiB), 1min).effect());
  CHECK(names().empty());
  CHECK(holder.release().empty());
  CHECK(names().empty());
}

TEST_CASE("a file that still had its name when its holder died is swept by that name alone") {
  const TemporaryFolder folder;
  const v1::Fault fault = fill(folder.path(), kMiB);
  const Namespace node;
  std::vector<v1::Undo> undos;
  {
    Holder holder(node);
    holder.inject(fault, 1min);
    undos = holder.undos();
  }
  REQUIRE(undos.size() == 1);
  // As if it had died between the making of the file and the loss of its name.
  std::ofstream(folder.path() / undos[0].remove_file().name()) << "left";
  std::ofstream(folder.path() / "theirs") << "kept";
  CHECK(sweep(node, undos).residue().empty());
  CHECK_FALSE(fs::exists(folder.path() / undos[0].remove_file().name()));
  CHECK(fs::exists(folder.path() / "theirs"));
  // A ledger's word leads nowhere else.
  undos[0].mutable_remove_file()->set_name("theirs");
  CHECK(sweep(node, undos).residue_size() == 1);
  undos[0].mutable_remove_file()->set_name(".squall-a/../theirs");
  CHECK(sweep(node, undos).residue_size() == 1);
  CHECK(fs::exists(folder.path() / "theirs"));
}

TEST_CASE("disk refuses what is no directory, links, the kernel's own, and what is read-only") {
  const Namespace node;
  const Small small(16 * kMiB);
  std::ofstream(small.path() + "/file") << "x";
  fs::create_directory(small.path() + "/real");
  fs::create_directory_symlink(small.path() + "/real", small.path() + "/link");
  CHECK(why_refused(fill(small.path() + "/file", kMiB), node) ==
        "disk.path: " + small.path() + "/file is not a directory");
  CHECK(why_refused(fill(small.path() + "/none", kMiB), node) ==
        "disk.path: there is no " + small.path() + "/none");
  CHECK(why_refused(fill(small.path() + "/link", kMiB), node) ==
        "disk.path: " + small.path() + "/link leads through a symbolic link; write " +
            small.path() + "/real");
  CHECK(why_refused(fill("/proc/self", kMiB), node)
            .starts_with("disk.path: /proc/self leads through"));
  CHECK(why_refused(fill("/proc/sys", kMiB), node) ==
        "disk.path: /proc/sys is the kernel's own, and no file system for files");
  CHECK(why_refused(fill("/sys/kernel", kMiB), node) ==
        "disk.path: /sys/kernel is the kernel's own, and no file system for files");
  REQUIRE(::mount(nullptr, small.path().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  CHECK(why_refused(fill(small.path(), kMiB), node) ==
        "disk.path: the file system of " + small.path() + " is mounted read-only");
}

TEST_CASE("disk refuses what the reserve does not leave, with what can be had") {
  const Namespace node;
  const Small small(16 * kMiB);
  CHECK(why_refused(fill(small.path(), 12 * kMiB, 8 * kMiB), node) ==
        "disk.size: 12MiB cannot be had: of 16MiB free below " + small.path() +
            " 8MiB must stay free (keep_free), so at most 8MiB");
  CHECK(why_refused(fill_to(small.path(), 90, 16 * kMiB), node) ==
        "disk.to: nothing to be had: of 16MiB free below " + small.path() +
            " 16MiB must stay free (keep_free)");
  std::ofstream(small.path() + "/theirs") << std::string(12 * kMiB, 'x');
  CHECK(why_refused(fill_to(small.path(), 50), node) ==
        "disk.to: more than 50% of the file system of " + small.path() + " is in use already");
  v1::Fault fault = disk(small.path());
  fault.mutable_disk()->set_write(kMiB);
  CHECK(why_refused(fault, node) ==
        "disk: the file that is read and written takes 64MiB: of 4MiB free "
        "below " +
            small.path() + " 0B must stay free (keep_free)");
  fs::remove(small.path() + "/theirs");
}

}  // namespace
}  // namespace squall::support
