#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/daemon.h"
#include "tests/support/ends.h"
#include "tests/support/eventually.h"
#include "tests/support/fingerprint.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/unit/injector/faults/scenes.h"

namespace squall::hold {
namespace {

using namespace support;
using std::chrono::minutes;
using std::chrono::seconds;
namespace fs = std::filesystem;

std::string content_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

void write(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

/// A shop's folder with a file in it, with an owner, a mode and an attribute of its own, in a
/// folder that is not squalld's.
struct Shop {
  TemporaryFolder folder;
  fs::path data = folder.path() / "data";
  fs::path file = data / "shop.conf";
  Fingerprint before;

  Shop() {
    fs::create_directory(data);
    write(file, "price = 3\n");
    REQUIRE(::chown(file.c_str(), 12345, 54321) == 0);
    REQUIRE(::chmod(file.c_str(), 0640) == 0);
    ::setxattr(file.c_str(), "user.shop", "mine", 4, 0);  // where the file system knows them
    const timespec long_ago[] = {{.tv_sec = 1'000'000'000, .tv_nsec = 123'456'789},
                                 {.tv_sec = 1'000'000'001, .tv_nsec = 987'654'321}};
    for (const fs::path& path : {file, data, folder.path()}) {
      REQUIRE(::utimensat(AT_FDCWD, path.c_str(), long_ago, 0) == 0);
    }
    before = fingerprint_of_files(folder.path());
  }
};

v1::Fault files(const fs::path& path, v1::FileState make) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(minutes(5)).count());
  fault.mutable_files()->set_path(path);
  fault.mutable_files()->set_make(make);
  return fault;
}

int errno_of_open(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) return errno;
  ::close(fd);
  return 0;
}

struct Case {
  const char* words;
  bool on_folder;
  v1::FileState make;
  int flags;
  int error;  ///< of an open of the file
};

const Case kCases[] = {
    {"absent file", false, v1::ABSENT, O_RDONLY, ENOENT},
    {"absent folder", true, v1::ABSENT, O_RDONLY, ENOENT},
    {"unreadable file", false, v1::UNREADABLE, O_RDONLY, EACCES},
    {"unreadable folder", true, v1::UNREADABLE, O_RDONLY, EACCES},
    {"read-only file", false, v1::READ_ONLY, O_RDWR, EROFS},
    {"read-only folder", true, v1::READ_ONLY, O_RDWR, EROFS},
};

TEST_CASE("root itself meets what a files fault says and after it all is as before byte by byte") {
  const Namespace node;
  for (const Case& one : kCases) {
    INFO(one.words);
    const Shop shop;
    Holder holder(node);
    const v1::Evidence evidence =
        holder.inject(files(one.on_folder ? shop.data : shop.file, one.make), minutes(1));
    CHECK(evidence.effect());
    CHECK(evidence.files().is() == one.make);
    CHECK(errno_of_open(shop.file, one.flags) == one.error);
    if (one.make == v1::READ_ONLY) CHECK(content_of(shop.file) == "price = 3\n");
    CHECK(holder.release() == std::vector<std::string>());
    CHECK(difference(shop.before, fingerprint_of_files(shop.folder.path())) == "");
    CHECK(errno_of_open(shop.file, O_RDWR) == 0);
  }
}

TEST_CASE("a files fault is undone however it ends and whoever has crashed") {
  for (const Case& one : kCases) {
    if (!one.on_folder) continue;
    INFO(one.words);
    const Shop shop;
    WatchedFault watched;
    watched.fault = files(shop.data, one.make);
    watched.acts = [&] { return errno_of_open(shop.file, one.flags) == one.error; };
    watched.restored = [&] {
      return fingerprint_of_files(shop.folder.path()) == shop.before &&
             errno_of_open(shop.file, O_RDWR) == 0;
    };
    for (const std::string& failed : endings_that_fail(watched)) FAIL_CHECK(failed);
  }
}

TEST_CASE("the ledger's undo does its work once and forgives a change that was never made") {
  const Namespace node;
  for (const Case& one : kCases) {
    INFO(one.words);
    const Shop shop;
    Holder holder(node);
    holder.inject(files(one.on_folder ? shop.data : shop.file, one.make), minutes(1));
    holder.process().signal(SIGKILL);
    REQUIRE(holder.process().wait(seconds(10)).has_value());
    CHECK(errno_of_open(shop.file, one.flags) == one.error);
    for (int times = 0; times < 2; ++times) {
      const v1::Swept swept = sweep(node, holder.undos());
      CHECK(swept.residue_size() == 0);
      CHECK(difference(shop.before, fingerprint_of_files(shop.folder.path())) == "");
    }
  }
}

TEST_CASE(
    "a new file under an absent one's name is left alone and it is told where the old one is") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  const v1::Fault fault = files(shop.file, v1::ABSENT);
  holder.inject(fault, minutes(1));
  write(shop.file, "made anew\n");
  const std::string hidden = shop.data / (".squall-" + fault.id());
  const std::string told =
      shop.file.native() + " is now " + hidden + ": somebody else made a new one there";
  CHECK(holder.release() == std::vector<std::string>{"the effect was not ended: " + told});
  CHECK(content_of(shop.file) == "made anew\n");
  CHECK(content_of(hidden) == "price = 3\n");
  const v1::Swept again = sweep(node, holder.undos());
  REQUIRE(again.residue_size() == 1);
  CHECK(again.residue(0) == "hidden " + shop.file.native() + ": " + told);
  fs::remove(shop.file);
  CHECK(sweep(node, holder.undos()).residue_size() == 0);
  CHECK(content_of(shop.file) == "price = 3\n");
}

TEST_CASE("what was removed while it was absent is told and not made up") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  const v1::Fault fault = files(shop.file, v1::ABSENT);
  holder.inject(fault, minutes(1));
  fs::remove(shop.data / (".squall-" + fault.id()));
  CHECK(holder.release() ==
        std::vector<std::string>{shop.file.native() +
                                 " is gone: somebody removed it while it was absent"});
  CHECK(sweep(node, holder.undos()).residue_size() == 0);
}

/// A process with a mount namespace of its own, made when the object is, that nothing reaches from
/// outside any more.
class Apart {
 public:
  Apart() {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    pid_ = ::fork();
    if (pid_ == 0) {
      const bool done = ::unshare(CLONE_NEWNS) == 0 &&
                        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
      if (::write(ends[1], done ? "y" : "n", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char answer = 0;
    CHECK(::read(ends[0], &answer, 1) == 1);
    CHECK(answer == 'y');
    ::close(ends[0]);
    ::close(ends[1]);
  }
  Apart(const Apart&) = delete;
  Apart& operator=(const Apart&) = delete;
  ~Apart() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  /// The path as seen there.
  fs::path seen(const fs::path& path) const {
    return "/proc/" + std::to_string(pid_) + "/root" + path.native();
  }

 private:
  pid_t pid_ = -1;
};

TEST_CASE("a mount namespace made meanwhile keeps nothing of a files fault") {
  const Namespace node;
  for (const Case& one : kCases) {
    INFO(one.words);
    const Shop shop;
    Holder holder(node);
    holder.inject(files(one.on_folder ? shop.data : shop.file, one.make), minutes(1));
    const Apart apart;
    CHECK(errno_of_open(apart.seen(shop.file), one.flags) == one.error);
    CHECK(holder.release() == std::vector<std::string>());
    CHECK(errno_of_open(apart.seen(shop.file), O_RDWR) == 0);
    CHECK(difference(shop.before, fingerprint_of_files(shop.folder.path())) == "");
  }
}

TEST_CASE("who works in a folder while it is read-only can write there when the fault has ended") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  holder.inject(files(shop.data, v1::READ_ONLY), minutes(1));
  const int folder = ::open(shop.data.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  REQUIRE(folder >= 0);
  CHECK(::openat(folder, "shop.conf", O_RDWR | O_CLOEXEC) < 0);
  CHECK(errno == EROFS);
  CHECK(holder.release() == std::vector<std::string>());
  const int file = ::openat(folder, "shop.conf", O_RDWR | O_CLOEXEC);
  CHECK(file >= 0);
  ::close(file);
  ::close(folder);
}

TEST_CASE("a mount that somebody else took away is told and the fault ends") {
  const Namespace node;
  const Shop shop;
  Holder holder(node);
  holder.inject(files(shop.file, v1::UNREADABLE), minutes(1));
  REQUIRE(::umount2(shop.file.c_str(), MNT_DETACH) == 0);
  CHECK_FALSE(holder.pulse(minutes(1)).has_value());
  CHECK(holder.process().wait(seconds(10)).has_value());
  CHECK(difference(shop.before, fingerprint_of_files(shop.folder.path())) == "");
}

TEST_CASE("a files fault is refused with what would be right before anything is changed") {
  const Namespace node;
  const Shop shop;
  const fs::path link = shop.folder.path() / "link";
  fs::create_directory_symlink(shop.data, link);
  const std::string own = binary("squall-hold");
  struct Refusal {
    fs::path path;
    v1::FileState make;
    std::string why;
  };
  const std::vector<Refusal> refusals{
      {shop.data / "none", v1::ABSENT, "files.path: there is no " + (shop.data / "none").native()},
      {link / "shop.conf", v1::ABSENT,
       "files.path: " + (link / "shop.conf").native() + " leads through a symbolic link: write " +
           shop.file.native()},
      {link, v1::READ_ONLY,
       "files.path: " + link.native() + " leads through a symbolic link: write " +
           shop.data.native()},
      {"/etc", v1::READ_ONLY,
       "files.path: /etc cannot be touched: the node itself stands on it; name something below it"},
      {"/", v1::ABSENT,
       "files.path: / cannot be touched: the node itself stands on it; name something below it"},
      {"/proc/sys/kernel", v1::READ_ONLY,
       "files.path: /proc/sys/kernel cannot be touched: it is below /proc"},
      {"/dev/null", v1::ABSENT, "files.path: /dev/null cannot be touched: it is below /dev"},
      {own, v1::ABSENT,
       "files.path: " + own + " cannot be touched: it is what squalld itself needs"},
      {fs::path(own).parent_path(), v1::UNREADABLE,
       "files.path: " + fs::path(own).parent_path().native() +
           " cannot be touched: squalld itself needs " + own},
  };
  for (const Refusal& refusal : refusals) {
    INFO(refusal.path.native());
    std::string why;
    try {
      Holder(node).inject(files(refusal.path, refusal.make), minutes(1));
    } catch (const std::runtime_error& refused) {
      why = refused.what();
    }
    CHECK(why == refusal.why);
  }
  fs::remove(link);
}

TEST_CASE("squalld's own state is out of reach of a files fault") {
  const Namespace node;
  const TemporaryFolder state;
  const Daemon daemon(node, state.path());
  Controller controller(daemon.address(), "own", 1, seconds(5));
  for (const fs::path& path : {state.path(), state.path() / "ledger"}) {
    std::string why;
    try {
      controller.inject(files(path, v1::ABSENT));
    } catch (const std::runtime_error& refused) {
      why = refused.what();
    }
    CHECK(why ==
          "files.path: " + path.native() + " cannot be touched: it is what squalld itself needs");
  }
  CHECK(fs::exists(state.path() / "ledger"));
}

}  // namespace
}  // namespace squall::hold
