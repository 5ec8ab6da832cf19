/// \file
/// The io fault as processes feel it: how long each of their operations takes, and what it returns.
#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "experiments/base/fd.h"
#include "experiments/base/ids.h"
#include "experiments/processes/proc.h"
#include "injector/faults/fault.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/holder.h"
#include "tests/support/namespace.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/scenes.h"

namespace squall::support {
namespace {

using namespace std::chrono_literals;

constexpr Duration kBound = 15s;
constexpr const char* kText = "what is in the file";

std::string unique_name(const std::string& what) {
  return "sqi" + std::to_string(::getpid()) + what;
}

/// What an act of a worker came to: what its call returned, or -errno.
struct Answer {
  std::int64_t result = 0;
  std::int64_t took = 0;

  Duration time() const { return Duration(took); }
};

/// A process that does one of its acts when it is told to, and tells how long that took.
class Worker {
 public:
  using Act = std::function<long()>;

  /// In the namespace, with a name of its own; `prepare` runs in it, and makes its acts.
  Worker(const Namespace& where, const std::string& name,
         const std::function<std::vector<Act>()>& prepare) {
    int ends[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      ::prctl(PR_SET_NAME, name.c_str());
      ::signal(SIGTERM, SIG_DFL);
      if (::setns(where.fd(), CLONE_NEWNET) != 0) ::_exit(1);
      ::close(ends[0]);
      serve(ends[1], prepare());
    }
    ::close(ends[1]);
    socket_.reset(ends[0]);
    begin(0);
    (void)answer();
  }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  pid_t pid() const { return pid_; }
  void signal(int number) const { REQUIRE(::kill(pid_, number) == 0); }

  Answer ask(std::size_t which) const {
    begin(which);
    return answer();
  }

  void begin(std::size_t which) const {
    REQUIRE(::send(socket_.number(), &which, sizeof which, MSG_NOSIGNAL) == sizeof which);
  }

  Answer answer() const {
    Answer answer;
    REQUIRE(::recv(socket_.number(), &answer, sizeof answer, 0) == sizeof answer);
    return answer;
  }

  bool has_answered() const {
    Answer answer;
    return ::recv(socket_.number(), &answer, sizeof answer, MSG_PEEK | MSG_DONTWAIT) > 0;
  }

  /// The least of some tries: a machine may stall.
  Duration quickest(std::size_t which) const {
    Duration least = Duration::max();
    for (int i = 0; i < 5; ++i) least = std::min(least, ask(which).time());
    return least;
  }

  /// Who traces any of its threads; 0: nobody.
  std::uint32_t tracer() const {
    const auto process = ProcFolder::open(static_cast<std::uint32_t>(pid_));
    if (!process) return 0;
    for (const std::uint32_t tid : process->threads()) {
      const auto thread = ProcFolder::open(tid);
      const auto tracer = thread ? thread->status_number("TracerPid") : std::nullopt;
      if (tracer.value_or(0) != 0) return *tracer;
    }
    return 0;
  }

  char state() const {
    const auto process = ProcFolder::open(static_cast<std::uint32_t>(pid_));
    const auto stat = process ? process->stat() : std::nullopt;
    return stat ? stat->state : '?';
  }

 private:
  [[noreturn]] static void serve(int socket, const std::vector<Act>& acts) {
    std::size_t which = 0;
    for (;;) {
      const ssize_t got = ::recv(socket, &which, sizeof which, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got != sizeof which) ::_exit(0);
      const MonotonicTime begun = monotonic_now();
      Answer answer;
      answer.result = acts.at(which)();
      answer.took = (monotonic_now() - begun).count();
      while (::send(socket, &answer, sizeof answer, MSG_NOSIGNAL) < 0 && errno == EINTR) {
      }
    }
  }

  pid_t pid_ = -1;
  Fd socket_;
};

long result_of(long returned) { return returned < 0 ? -errno : returned; }

/// What a program returns that is started by posix_spawn, which shares its memory until then.
long run_program(const char* program, const std::string& argument) {
  std::string text = argument;
  std::string name = program;
  std::array<char*, 3> arguments{name.data(), text.data(), nullptr};
  posix_spawn_file_actions_t quiet;
  ::posix_spawn_file_actions_init(&quiet);
  ::posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&quiet, 2, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  if (::posix_spawnp(&child, program, &quiet, nullptr, arguments.data(), environ) != 0) return -1;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

long in_child(const std::function<long()>& act) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(static_cast<int>(-act()));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? -WEXITSTATUS(status) : -1000;
}

long in_thread(const std::function<long()>& act) {
  long result = 0;
  std::thread([&] { result = act(); }).join();
  return result;
}

/// A directory that is meant and one beside it that only begins like it, with the same files.
struct Files {
  TemporaryFolder folder;
  std::string inside = std::filesystem::canonical(folder.path()) / "data";
  std::string outside = inside + "base";

  Files() {
    for (const std::string& where : {inside, outside}) {
      std::filesystem::create_directories(where + "/deep");
      for (const char* name : {"/file", "/gone", "/deep/file"})
        std::ofstream(where + name) << kText;
    }
  }
};

v1::Fault io_fault(const std::string& name, const Files& files) {
  v1::Fault fault;
  fault.set_id(new_fault_id());
  fault.set_for_(Duration(1min).count());
  fault.set_seed(7);
  fault.mutable_io()->mutable_of()->set_name(name);
  fault.mutable_io()->set_path(files.inside);
  return fault;
}

v1::Fault slow(const std::string& name, const Files& files, Duration delay) {
  v1::Fault fault = io_fault(name, files);
  fault.mutable_io()->set_delay(delay.count());
  return fault;
}

v1::Fault failing(const std::string& name, const Files& files,
                  v1::FileError wanted = v1::FILE_ERROR_EIO) {
  v1::Fault fault = io_fault(name, files);
  fault.mutable_io()->set_error(wanted);
  return fault;
}

/// Acts that most workers here have.
enum : std::size_t { kNothing, kRead, kFsync, kWrite, kReadOutside };

std::vector<Worker::Act> plain_acts(const Files& files) {
  const int file = ::open((files.inside + "/file").c_str(), O_RDWR | O_CLOEXEC);
  const int other = ::open((files.outside + "/file").c_str(), O_RDWR | O_CLOEXEC);
  const auto read_from = [](int from) {
    std::array<char, 64> text{};
    return result_of(::pread(from, text.data(), text.size(), 0));
  };
  return {
      [] { return result_of(::getppid()); },
      [=] { return read_from(file); },
      [=] { return result_of(::fsync(file)); },
      [=] { return result_of(::pwrite(file, "w", 1, 0)); },
      [=] { return read_from(other); },
  };
}

const long kWholeText = static_cast<long>(std::string(kText).size());

TEST_CASE("an operation on a file that was open before takes as much longer as asked") {
  const Namespace node;
  const Files files;
  const Worker meant(node, unique_name("a"), [&] { return plain_acts(files); });
  const Worker other(node, unique_name("b"), [&] { return plain_acts(files); });
  constexpr Duration kDelay = 80ms;
  v1::Fault fault = slow(unique_name("a"), files, kDelay);
  fault.mutable_io()->add_operations(v1::READ);
  fault.mutable_io()->add_operations(v1::FSYNC);
  Holder holder(node);
  CHECK_FALSE(holder.inject(fault, 1min).effect());
  CHECK(holder.undos().empty());
  for (const std::size_t act : {kRead, kFsync, kRead}) {
    const Answer answer = meant.ask(act);
    CHECK(answer.result == (act == kRead ? kWholeText : 0));
    CHECK(answer.time() >= kDelay);
    CHECK(answer.time() < kDelay + 500ms);
  }
  CHECK(meant.quickest(kWrite) < kDelay);
  CHECK(meant.quickest(kReadOutside) < kDelay);
  CHECK(meant.quickest(kNothing) < kDelay);
  CHECK(other.quickest(kRead) < kDelay);
  CHECK(other.tracer() == 0);
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->effect());
  CHECK(evidence->io().operations() == 3);
  CHECK(evidence->io().delayed() == 3);
  CHECK(evidence->io().failed() == 0);
  CHECK(holder.release().empty());
  CHECK(meant.tracer() == 0);
  CHECK(meant.quickest(kRead) < kDelay);
  CHECK(eventually([&] { return meant.state() == 'S'; }, kBound));
}

TEST_CASE("a delay that ramps is what it says for each operation that begins") {
  const Namespace node;
  const Files files;
  const Worker meant(node, unique_name("a"), [&] { return plain_acts(files); });
  constexpr Duration kDelay = 80ms;
  v1::Fault fault = slow(unique_name("a"), files, kDelay);
  add_ramp(fault, "delay", 0, number_of(kDelay), 1s);
  Holder holder(node);
  holder.inject(fault, 1min);
  CHECK(meant.quickest(kRead) < kDelay);
  CHECK(eventually([&] { return meant.ask(kRead).time() >= kDelay; }, kBound));
  CHECK(holder.release().empty());
  CHECK(meant.quickest(kRead) < kDelay);
}

/// One way to do something with a file below a directory; nothing changes if it fails.
struct Way {
  const char* words;
  std::function<long(const std::string& folder)> act;
};

const std::vector<Way>& ways() {
  static const std::vector<Way> all{
      {"open", [](const std::string& f) { return ::open((f + "/file").c_str(), O_RDONLY); }},
      {"open of the directory itself",
       [](const std::string& f) { return ::open((f + "/").c_str(), O_RDONLY); }},
      {"open by a name with dots",
       [](const std::string& f) { return ::open((f + "/deep/..//./file").c_str(), O_RDONLY); }},
      {"open from the working directory",
       [](const std::string& f) {
         return ::chdir((f + "/deep").c_str()) == 0 ? ::open("../file", O_RDONLY) : -1;
       }},
      {"open from an open directory",
       [](const std::string& f) {
         const Fd folder(static_cast<int>(::syscall(SYS_openat, AT_FDCWD, "/", O_PATH)));
         return ::openat(folder.number(), (f + "/file").c_str() + 1, O_RDONLY);
       }},
      {"creat", [](const std::string& f) { return ::creat((f + "/new").c_str(), 0600); }},
      {"stat",
       [](const std::string& f) {
         struct stat about {};
         return ::stat((f + "/file").c_str(), &about);
       }},
      {"statx",
       [](const std::string& f) {
         struct statx about {};
         return ::statx(AT_FDCWD, (f + "/none").c_str(), 0, 0, &about) == 0 || errno == ENOENT ? 0
                                                                                               : -1;
       }},
      {"access", [](const std::string& f) { return ::access((f + "/file").c_str(), R_OK); }},
      {"mkdir", [](const std::string& f) { return ::mkdir((f + "/made").c_str(), 0700); }},
      {"unlink", [](const std::string& f) { return ::unlink((f + "/gone").c_str()); }},
      {"rename within",
       [](const std::string& f) {
         return ::rename((f + "/deep/file").c_str(), (f + "/deep/moved").c_str());
       }},
      {"symlink",
       [](const std::string& f) { return ::symlink("/nowhere", (f + "/link").c_str()); }},
      {"truncate", [](const std::string& f) { return ::truncate((f + "/file").c_str(), 10); }},
  };
  return all;
}

/// What is below a directory, with all texts.
std::map<std::string, std::string> content_of(const std::string& folder) {
  std::map<std::string, std::string> content;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::ifstream file(entry.path());
    content[entry.path()] =
        entry.is_regular_file() ? std::string(std::istreambuf_iterator<char>(file), {}) : "no file";
  }
  return content;
}

TEST_CASE("whatever way leads below the directory fails and every other does not") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("w"), [&] {
    std::vector<Worker::Act> acts{[] { return 0L; }};
    for (const std::string& folder : {files.inside, files.outside}) {
      for (const Way& way : ways()) {
        acts.emplace_back([folder, &way] {
          const long result = result_of(way.act(folder));
          // Descriptors may pile up: there are few.
          return result > 0 ? 0 : result;
        });
      }
    }
    return acts;
  });
  const auto before = content_of(files.inside);
  Holder holder(node);
  holder.inject(failing(unique_name("w"), files), 1min);
  for (std::size_t i = 0; i < ways().size(); ++i) {
    CAPTURE(ways()[i].words);
    CHECK(worker.ask(1 + i).result == -EIO);
    CHECK(worker.ask(1 + ways().size() + i).result == 0);
  }
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->io().failed() >= ways().size());
  CHECK(evidence->io().failed() == evidence->io().operations());
  CHECK(holder.release().empty());
  CHECK(content_of(files.inside) == before);
  for (std::size_t i = 0; i < ways().size(); ++i) {
    CAPTURE(ways()[i].words);
    CHECK(worker.ask(1 + i).result == 0);
  }
}

TEST_CASE("operations on open files fail by what they do, deleted files and both of two included") {
  const Namespace node;
  const Files files;
  struct Doing {
    const char* words;
    std::vector<v1::FileOperation> operations;
    std::function<long(int inside, int outside)> act;
  };
  static char text[64];
  const std::vector<Doing> all{
      {"read", {v1::READ}, [](int in, int) { return ::pread(in, text, 9, 0); }},
      {"write", {v1::WRITE}, [](int in, int) { return ::pwrite(in, "x", 1, 0); }},
      {"fsync", {v1::FSYNC}, [](int in, int) { return ::fdatasync(in); }},
      {"ftruncate", {v1::WRITE}, [](int in, int) { return ::ftruncate(in, 19); }},
      {"fstat",
       {v1::LOOKUP},
       [](int in, int) {
         struct stat about {};
         return ::fstat(in, &about);
       }},
      {"sendfile from it",
       {v1::READ},
       [](int in, int out) { return ::sendfile(out, in, nullptr, 1); }},
      {"sendfile to it",
       {v1::WRITE},
       [](int in, int out) { return ::sendfile(in, out, nullptr, 1); }},
  };
  const Worker worker(node, unique_name("o"), [&] {
    std::vector<Worker::Act> acts{[] { return 0L; }};
    const int in = ::open((files.inside + "/gone").c_str(), O_RDWR | O_CLOEXEC);
    const int out = ::open((files.outside + "/file").c_str(), O_RDWR | O_CLOEXEC);
    ::unlink((files.inside + "/gone").c_str());
    for (const Doing& doing : all) {
      acts.emplace_back([&doing, in, out] {
        ::lseek(in, 0, SEEK_SET);
        ::lseek(out, 0, SEEK_SET);
        return result_of(doing.act(in, out));
      });
    }
    return acts;
  });
  for (const auto operation : {v1::READ, v1::WRITE, v1::FSYNC, v1::LOOKUP, v1::OPEN}) {
    v1::Fault fault = failing(unique_name("o"), files);
    fault.mutable_io()->add_operations(operation);
    Holder holder(node);
    holder.inject(fault, 1min);
    for (std::size_t i = 0; i < all.size(); ++i) {
      CAPTURE(all[i].words);
      CAPTURE(v1::FileOperation_Name(operation));
      const bool is_meant =
          std::count(all[i].operations.begin(), all[i].operations.end(), operation) > 0;
      const long result = worker.ask(1 + i).result;
      if (is_meant) {
        CHECK(result == -EIO);
      } else {
        CHECK(result >= 0);
      }
    }
    CHECK(holder.release().empty());
  }
}

TEST_CASE("an operation fails with the error that was asked for") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("e"), [&] { return plain_acts(files); });
  const std::pair<v1::FileError, int> errors[] = {
      {v1::FILE_ERROR_EIO, EIO},       {v1::FILE_ERROR_ENOSPC, ENOSPC},
      {v1::FILE_ERROR_EROFS, EROFS},   {v1::FILE_ERROR_EACCES, EACCES},
      {v1::FILE_ERROR_EDQUOT, EDQUOT}, {v1::FILE_ERROR_EMFILE, EMFILE}};
  for (const auto& [wanted, number] : errors) {
    CAPTURE(number);
    v1::Fault fault = failing(unique_name("e"), files, wanted);
    fault.mutable_io()->set_delay(Duration(20ms).count());
    Holder holder(node);
    holder.inject(fault, 1min);
    const Answer answer = worker.ask(kWrite);
    CHECK(answer.result == -number);
    CHECK(answer.time() >= 20ms);
    const auto evidence = holder.pulse(1min);
    REQUIRE(evidence.has_value());
    CHECK(evidence->effect());
    CHECK(evidence->io().operations() == 1);
    CHECK(evidence->io().delayed() == 1);
    CHECK(evidence->io().failed() == 1);
    CHECK(holder.release().empty());
    CHECK(worker.ask(kWrite).result == 1);
  }
}

TEST_CASE("a share of the operations is hit, and the same ones by the same seed") {
  const Namespace node;
  const Files files;
  constexpr int kReads = 2000;
  constexpr double kShare = 0.3;
  const Worker worker(node, unique_name("p"), [&] { return plain_acts(files); });
  const auto hit_by = [&](std::uint64_t seed) {
    v1::Fault fault = failing(unique_name("p"), files);
    fault.mutable_io()->set_percent(kShare * 100);
    fault.set_seed(seed);
    Holder holder(node);
    holder.inject(fault, 1min);
    std::vector<bool> hit;
    for (int i = 0; i < kReads; ++i) {
      const auto result = worker.ask(kRead).result;
      CHECK((result == -EIO || result == kWholeText));
      hit.push_back(result == -EIO);
    }
    const auto evidence = holder.pulse(1min);
    REQUIRE(evidence.has_value());
    CHECK(evidence->io().operations() == kReads);
    CHECK(evidence->io().failed() ==
          static_cast<std::uint64_t>(std::count(hit.begin(), hit.end(), true)));
    CHECK(holder.release().empty());
    return hit;
  };
  const std::vector<bool> hit = hit_by(11);
  const double deviation = std::sqrt(kReads * kShare * (1 - kShare));
  CHECK(std::abs(static_cast<double>(std::count(hit.begin(), hit.end(), true)) - kReads * kShare) <
        5 * deviation);
  CHECK(hit_by(11) == hit);
  CHECK(hit_by(12) != hit);
}

TEST_CASE("no thread waits for the delay of another") {
  const Namespace node;
  const Files files;
  constexpr std::size_t kThreads = 8;
  constexpr Duration kDelay = 300ms;
  const Worker worker(node, unique_name("t"), [&] {
    std::vector<Worker::Act> acts = plain_acts(files);
    static std::array<std::atomic<int>, kThreads> turns{};
    static std::atomic<int> done = 0;
    const Worker::Act read = acts[kRead];
    for (auto& turn : turns) {
      std::thread([&turn, read] {
        for (;;) {
          turn.wait(0);
          turn = 0;
          read();
          ++done;
          done.notify_all();
        }
      }).detach();
    }
    acts.emplace_back([] {
      done = 0;
      for (auto& turn : turns) {
        turn = 1;
        turn.notify_all();
      }
      for (int now = 0; now < std::ssize(turns); now = done) done.wait(now);
      return 0L;
    });
    return acts;
  });
  Holder holder(node);
  holder.inject(slow(unique_name("t"), files, kDelay), 1min);
  const Answer answer = worker.ask(kReadOutside + 1);
  CHECK(answer.time() >= kDelay);
  CHECK(answer.time() < 4 * kDelay);
  // Nor does the holder's own loop.
  const MonotonicTime asked = monotonic_now();
  worker.begin(kReadOutside + 1);
  const auto evidence = holder.pulse(1min);
  CHECK(monotonic_now() - asked < kDelay);
  REQUIRE(evidence.has_value());
  CHECK(evidence->io().delayed() >= kThreads);
  CHECK(holder.release().empty());
  (void)worker.answer();
  CHECK(worker.tracer() == 0);
}

TEST_CASE("threads, children and programs that are started meanwhile are hit too") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("c"), [&] {
    const std::vector<Worker::Act> acts = plain_acts(files);
    const Worker::Act read = acts[kRead];
    const std::string file = files.inside + "/file";
    return std::vector<Worker::Act>{
        acts[kNothing],
        [=] { return in_thread(read); },
        [=] { return in_child(read); },
        [=] { return in_child([=] { return in_thread(read); }); },
        [=] { return run_program("cat", file) == 0 ? kWholeText : -EIO; },
        // An exec by another thread than the first takes that one's number.
        [=] {
          return in_child([=] {
            return in_thread([=] {
              const int none = ::open("/dev/null", O_WRONLY);
              for (const int number : {1, 2}) ::dup2(none, number);
              ::execlp("cat", "cat", file.c_str(), nullptr);
              return -1L;
            });
          });
        },
    };
  });
  constexpr std::array<long, 6> kUnharmed{0, 19, -237, -237, 19, 0};
  const auto check_unharmed = [&] {
    for (std::size_t act = 1; act < kUnharmed.size(); ++act) {
      CAPTURE(act);
      CHECK(worker.ask(act).result == kUnharmed[act]);
    }
  };
  check_unharmed();
  SUBCASE("with an error") {
    Holder holder(node);
    v1::Fault fault = failing(unique_name("c"), files);
    fault.mutable_io()->add_operations(v1::READ);
    holder.inject(fault, 1min);
    for (std::size_t act = 1; act < kUnharmed.size(); ++act) {
      CAPTURE(act);
      CHECK(worker.ask(act).result == (act == 5 ? -1 : -EIO));
    }
    CHECK(holder.release().empty());
  }
  SUBCASE("with a delay") {
    Holder holder(node);
    v1::Fault fault = slow(unique_name("c"), files, 100ms);
    fault.mutable_io()->add_operations(v1::READ);
    holder.inject(fault, 1min);
    for (std::size_t act = 1; act < kUnharmed.size(); ++act) {
      CAPTURE(act);
      const Answer answer = worker.ask(act);
      CHECK(answer.result == kUnharmed[act]);
      CHECK(answer.time() >= 100ms);
    }
    CHECK(holder.release().empty());
  }
  CHECK(worker.tracer() == 0);
  check_unharmed();
}

std::atomic<int> handled = 0;

std::vector<Worker::Act> acts_with_signals(const Files& files) {
  std::vector<Worker::Act> acts = plain_acts(files);
  struct sigaction action {};
  action.sa_handler = [](int) { ++handled; };
  ::sigaction(SIGUSR1, &action, nullptr);
  acts.emplace_back([] { return static_cast<long>(handled); });
  return acts;
}

constexpr std::size_t kHandled = kReadOutside + 1;

/// Begins a read and returns when it is held.
void begin_held(const Worker& worker, Holder& holder, std::uint64_t before = 0) {
  worker.begin(kRead);
  REQUIRE(eventually(
      [&] {
        const auto evidence = holder.pulse(1min);
        return evidence && evidence->io().operations() > before && worker.state() == 't';
      },
      kBound));
}

TEST_CASE("a signal that comes during a delay is delivered after it, and no operation is lost") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("s"), [&] { return acts_with_signals(files); });
  Holder holder(node);
  holder.inject(slow(unique_name("s"), files, 400ms), 1min);
  begin_held(worker, holder);
  worker.signal(SIGUSR1);
  const Answer answer = worker.answer();
  CHECK(answer.result == kWholeText);
  CHECK(answer.time() >= 400ms);
  CHECK(worker.ask(kHandled).result == 1);
  worker.signal(SIGUSR1);
  CHECK(eventually([&] { return worker.ask(kHandled).result == 2; }, kBound));
  CHECK(holder.release().empty());
}

TEST_CASE("a signal that came during a delay is not lost with a killed holder") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("l"), [&] { return acts_with_signals(files); });
  Holder holder(node);
  holder.inject(slow(unique_name("l"), files, 1min), 1min);
  begin_held(worker, holder);
  worker.signal(SIGUSR1);
  holder.process().signal(SIGKILL);
  CHECK(worker.answer().result == kWholeText);
  CHECK(worker.ask(kHandled).result == 1);
}

TEST_CASE("no signal, thread, child or operation is lost however often a fault comes and goes") {
  const Namespace node;
  const Files files;
  constexpr int kSignals = 1500;
  const Worker worker(node, unique_name("n"), [&] {
    std::vector<Worker::Act> acts = acts_with_signals(files);
    struct sigaction counted {};
    counted.sa_sigaction = [](int, siginfo_t*, void*) { ++handled; };
    counted.sa_flags = SA_SIGINFO | SA_RESTART;
    ::sigaction(SIGRTMIN + 1, &counted, nullptr);
    static std::atomic<int> wrong = 0;
    static std::atomic<int> done = 0;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGRTMIN + 1);
    ::pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
    const Worker::Act read = acts[kRead];
    for (int i = 0; i < 2; ++i) {
      std::thread([read] {
        for (;; yield_for(1ms), ++done) {
          if (read() != kWholeText) ++wrong;
        }
      }).detach();
    }
    std::thread([read] {
      for (;; yield_for(5ms), ++done) {
        if (in_thread(read) != kWholeText || in_child(read) != -237 ||
            run_program("true", "") != 0) {
          ++wrong;
        }
      }
    }).detach();
    ::pthread_sigmask(SIG_UNBLOCK, &blocked, nullptr);
    acts.emplace_back([] { return static_cast<long>(wrong); });
    acts.emplace_back([] { return static_cast<long>(done); });
    return acts;
  });
  constexpr std::size_t kWrong = kHandled + 1;
  constexpr std::size_t kDone = kHandled + 2;
  std::atomic<int> sent = 0;
  // Ends also when the case does before its time.
  std::jthread sender([&](const std::stop_token& stop) {
    while (sent < kSignals && !stop.stop_requested()) {
      const sigval none{};
      if (::sigqueue(worker.pid(), SIGRTMIN + 1, none) == 0) ++sent;
      yield_for(1ms);
    }
  });
  int rounds = 0;
  for (; sent < kSignals || rounds < 5; ++rounds) {
    Holder holder(node);
    v1::Fault fault = slow("", files, 2ms);
    fault.mutable_io()->mutable_of()->clear_name();
    // Not by name: a child has its parent's until it is another program, and the parent may wait
    // for just that where nothing interrupts it.
    fault.mutable_io()->mutable_of()->set_pid(static_cast<std::uint32_t>(worker.pid()));
    holder.inject(fault, 1min);
    const auto before = worker.ask(kDone).result;
    CHECK(eventually([&] { return worker.ask(kDone).result > before + 5; }, kBound));
    if (rounds % 2 == 0) {
      CHECK(holder.release().empty());
    } else {
      holder.process().signal(SIGKILL);
    }
  }
  sender.join();
  CHECK(rounds >= 5);
  CHECK(eventually([&] { return worker.ask(kHandled).result == kSignals; }, kBound));
  CHECK(worker.ask(kWrong).result == 0);
  CHECK(eventually([&] { return worker.tracer() == 0; }, kBound));
}

TEST_CASE("a process can be killed while an operation is held, and then the fault is over") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("k"), [&] { return plain_acts(files); });
  Holder holder(node);
  holder.inject(slow(unique_name("k"), files, 1min), 1min);
  begin_held(worker, holder);
  worker.signal(SIGKILL);
  CHECK(::waitpid(worker.pid(), nullptr, 0) == worker.pid());
  std::optional<v1::FromHolder> told;
  while ((told = holder.hear(kBound)) && !told->has_failed()) {
  }
  REQUIRE(told.has_value());
  CHECK(told->failed().message() == "every process whose operations were held has ended");
  CHECK(told->failed().residue().empty());
}

TEST_CASE("a process that is stopped by a signal stays so, and goes on when it is told to") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("z"), [&] { return plain_acts(files); });
  Holder holder(node);
  SUBCASE("stopped before") {
    worker.signal(SIGSTOP);
    REQUIRE(eventually([&] { return worker.state() == 'T'; }, kBound));
    holder.inject(slow(unique_name("z"), files, 50ms), 1min);
  }
  SUBCASE("stopped meanwhile") {
    holder.inject(slow(unique_name("z"), files, 50ms), 1min);
    worker.signal(SIGSTOP);
  }
  SUBCASE("stopped and still so when the fault ends") {
    holder.inject(slow(unique_name("z"), files, 50ms), 1min);
    worker.signal(SIGSTOP);
    yield_for(20ms);
    CHECK(holder.release().empty());
    CHECK(eventually([&] { return worker.state() == 'T'; }, kBound));
    worker.begin(kRead);
    yield_for(50ms);
    CHECK_FALSE(worker.has_answered());
    worker.signal(SIGCONT);
    CHECK(worker.answer().result == kWholeText);
    return;
  }
  worker.begin(kRead);
  yield_for(200ms);
  CHECK_FALSE(worker.has_answered());
  worker.signal(SIGCONT);
  const Answer answer = worker.answer();
  CHECK(answer.result == kWholeText);
  CHECK(answer.time() >= 50ms);
  CHECK(holder.release().empty());
  CHECK(worker.tracer() == 0);
}

TEST_CASE("what is held when the fault ends is done at once and unharmed") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("u"), [&] { return plain_acts(files); });
  Holder holder(node);
  v1::Fault fault = slow(unique_name("u"), files, 1min);
  fault.mutable_io()->set_error(v1::FILE_ERROR_EIO);
  holder.inject(fault, 1min);
  begin_held(worker, holder);
  SUBCASE("released") { CHECK(holder.release().empty()); }
  SUBCASE("its holder killed") { holder.process().signal(SIGKILL); }
  SUBCASE("its frozen holder killed") {
    holder.process().signal(SIGSTOP);
    holder.process().signal(SIGKILL);
  }
  SUBCASE("squalld gone") { holder.hang_up(); }
  const Answer answer = worker.answer();
  CHECK(answer.result == kWholeText);
  CHECK(answer.time() < 30s);
  CHECK(eventually([&] { return worker.tracer() == 0; }, kBound));
  CHECK(worker.quickest(kRead) < 50ms);
  CHECK(eventually([&] { return worker.state() == 'S'; }, kBound));
}

TEST_CASE("io passes whatever happens to those who hold it") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("x"), [&] { return plain_acts(files); });
  constexpr Duration kDelay = 50ms;
  v1::Fault fault = slow(unique_name("x"), files, 2 * kDelay);
  SUBCASE("one delay") {}
  SUBCASE("a delay that changes") {
    add_ramp(fault, "delay", number_of(2 * kDelay), number_of(kDelay), 1min);
  }
  check_ends(
      fault, node, [](pid_t) {}, [&] { return worker.quickest(kRead) >= kDelay; });
  CHECK(worker.tracer() == 0);
}

TEST_CASE("redis that forces every write to disk is as slow as its disk") {
  const Namespace node;
  const Files files;
  Command command;
  command.argv = {"redis-server", "--port",       "7379", "--bind",
                  "127.0.0.1",    "--save",       "",     "--dir",
                  files.inside,   "--appendonly", "yes",  "--appendfsync",
                  "always",       "--daemonize",  "no"};
  command.where = &node;
  Process redis(command);
  const auto set_takes = [&]() -> std::optional<Duration> {
    const MonotonicTime begun = monotonic_now();
    Command client;
    client.argv = {"redis-cli", "-p", "7379", "set", "a", "b"};
    client.where = &node;
    Process process(client);
    if (process.wait(kBound) != 0 || process.out() != "OK\n") return std::nullopt;
    return monotonic_now() - begun;
  };
  REQUIRE(eventually([&] { return set_takes().has_value(); }, kBound));
  constexpr Duration kDelay = 300ms;
  v1::Fault fault = slow("", files, kDelay);
  fault.mutable_io()->mutable_of()->clear_name();
  fault.mutable_io()->mutable_of()->set_port(7379);
  fault.mutable_io()->add_operations(v1::FSYNC);
  Holder holder(node);
  holder.inject(fault, 1min);
  for (int i = 0; i < 3; ++i) {
    const auto took = set_takes();
    REQUIRE(took.has_value());
    CHECK(*took >= kDelay);
  }
  const auto evidence = holder.pulse(1min);
  REQUIRE(evidence.has_value());
  CHECK(evidence->io().delayed() >= 3);
  CHECK(holder.release().empty());
  CHECK(eventually([&] { return set_takes().value_or(kDelay) < kDelay; }, kBound));
}

TEST_CASE("io is refused for what it cannot do, before anything is changed") {
  const Namespace node;
  const Files files;
  const std::string name = unique_name("r");
  const auto worker_with = [&](const std::function<void()>& prepare) {
    return std::make_unique<Worker>(node, name, [&] {
      prepare();
      return plain_acts(files);
    });
  };
  SUBCASE("no process") {
    CHECK(why_refused(slow(name, files, 1ms), node) ==
          "no process with name " + name + " on this node");
  }
  SUBCASE("no directory") {
    const auto worker = worker_with([] {});
    v1::Fault fault = slow(name, files, 1ms);
    fault.mutable_io()->set_path(files.inside + "/none");
    CHECK(why_refused(fault, node) == "io.path: there is no " + files.inside + "/none");
    fault.mutable_io()->set_path(files.inside + "/file");
    CHECK(why_refused(fault, node) == "io.path: " + files.inside + "/file is not a directory");
    std::filesystem::create_symlink(files.inside, files.outside + "/link");
    fault.mutable_io()->set_path(files.outside + "/link/deep");
    CHECK(why_refused(fault, node) == "io.path: " + files.outside +
                                          "/link/deep leads through a symbolic link: write " +
                                          files.inside + "/deep");
  }
  SUBCASE("traced by somebody else") {
    const auto worker = worker_with([] {});
    const auto tracer = std::make_unique<Worker>(node, unique_name("g"), [&] {
      ::ptrace(PTRACE_SEIZE, worker->pid(), nullptr, nullptr);
      return plain_acts(files);
    });
    CHECK(why_refused(slow(name, files, 1ms), node) ==
          "process " + std::to_string(worker->pid()) + " (" + name + ") is traced by process " +
              std::to_string(tracer->pid()) + " (" + unique_name("g") + ")");
  }
  SUBCASE("io_uring") {
    const auto worker = worker_with([] {
      std::array<std::uint32_t, 30> parameters{};
      ::syscall(SYS_io_uring_setup, 4, parameters.data());
    });
    const auto process = ProcFolder::open(static_cast<std::uint32_t>(worker->pid()));
    const auto open = process->descriptors();
    if (std::count(open.begin(), open.end(), "anon_inode:[io_uring]") == 0) {
      std::printf("SKIPPED: no io_uring here\n");
      return;
    }
    CHECK(why_refused(slow(name, files, 1ms), node)
              .ends_with(") uses io_uring, whose operations no tracer sees"));
  }
  SUBCASE("an error where a filter looks at calls") {
    const auto worker = worker_with([] {
      sock_filter allow{.code = BPF_RET | BPF_K, .jt = 0, .jf = 0, .k = SECCOMP_RET_ALLOW};
      sock_fprog program{.len = 1, .filter = &allow};
      ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    });
    CHECK(why_refused(failing(name, files), node)
              .ends_with(") has a seccomp filter, which may end it for a call that is made to "
                         "fail; a delay does it no harm"));
    Holder holder(node);
    holder.inject(slow(name, files, 50ms), 1min);
    CHECK(worker->ask(kRead).time() >= 50ms);
  }
  SUBCASE("another directory of that name") {
    const auto worker = worker_with([&] {
      if (::unshare(CLONE_NEWNS) != 0 ||
          ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
          ::mount("none", files.inside.c_str(), "tmpfs", 0, nullptr) != 0) {
        ::_exit(1);
      }
    });
    CHECK(why_refused(slow(name, files, 1ms), node)
              .ends_with(") has mounts of its own, and sees something else at " + files.inside +
                         " than the node does"));
  }
}

TEST_CASE("a process with mounts of its own but the same directory is hit") {
  const Namespace node;
  const Files files;
  const Worker worker(node, unique_name("m"), [&] {
    if (::unshare(CLONE_NEWNS) != 0) ::_exit(1);
    return plain_acts(files);
  });
  Holder holder(node);
  holder.inject(slow(unique_name("m"), files, 50ms), 1min);
  CHECK(worker.ask(kRead).time() >= 50ms);
  CHECK(holder.release().empty());
}

}  // namespace
}  // namespace squall::support
