/// \file
/// squall-lab: runs a doctest program on a real kernel with netem, on any machine: boots User-Mode
/// Linux, which is an ordinary process, with this machine's files as its read-only root and this
/// same program as process 1.
///
///   squall-lab run RESULTS SECONDS_PER_CASE PROGRAM   boots once and runs every case
///   squall-lab run-under INIT RESULTS SECONDS_PER_CASE PROGRAM   with INIT as process 1
///   (with SQUALL_LAB_AGAIN in the environment: only those cases that did not pass the last time)
///   squall-lab case RESULTS PROGRAM --test-case=NAME          shows one case's output, exits with
///   its status squall-lab case RESULTS PROGRAM --list-test-cases         asks the program itself,
///   here
///
/// The second and third are how CMake sees it, as the program's emulator, so that every case is an
/// ordinary test.

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>

#include "tests/lab/guest.h"
#include "tests/lab/job.h"

namespace squall::lab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKernel = "/usr/bin/linux.uml";
constexpr const char* kMemory = "512M";
/// For the kernel to boot, or to begin the next case.
constexpr std::chrono::seconds kBootPatience(60);

[[noreturn]] void fail(const std::string& why) { throw std::runtime_error(why); }

[[noreturn]] void exec(const std::vector<std::string>& argv) {
  std::vector<char*> pointers;
  for (const std::string& argument : argv) pointers.push_back(const_cast<char*>(argument.c_str()));
  pointers.push_back(nullptr);
  execv(pointers[0], pointers.data());
  dprintf(STDERR_FILENO, "cannot run %s: %s\n", pointers[0], std::strerror(errno));
  _exit(127);
}

std::string read_all(int fd) {
  std::string text;
  char buffer[4096];
  for (ssize_t got = 0; (got = read(fd, buffer, sizeof buffer)) > 0;)
    text.append(buffer, static_cast<std::size_t>(got));
  return text;
}

std::string read_file(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}

std::vector<std::string> list_cases(const fs::path& program) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) fail("pipe2 failed");
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    exec({program, "--list-test-cases"});
  }
  close(ends[1]);
  std::istringstream output(read_all(ends[0]));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (status != 0) fail(program.native() + " --list-test-cases failed");
  std::vector<std::string> cases;
  for (std::string line; std::getline(output, line);) {
    if (!line.starts_with("[doctest]") && !line.starts_with("====")) cases.push_back(line);
  }
  return cases;
}

/// The kernel and all its helpers, in a process namespace of their own, so that they end together
/// whatever happens to us. Where that is not allowed, as without privileges, they end with the
/// kernel's main process.
pid_t boot(const fs::path& results, const std::string& init) {
  const fs::path self = fs::read_symlink("/proc/self/exe");
  const int console =
      open((results / "console").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  std::vector<std::string> argv{kKernel,
                                std::string("mem=") + kMemory,
                                "root=/dev/root",
                                "rootfstype=hostfs",
                                "rootflags=/",
                                "ro",
                                "init=" + self.native(),
                                "con=null",
                                "con0=null,fd:1",
                                "quiet",
                                "uml_dir=" + results.native() + "/uml",
                                "umid=lab",
                                std::string(kResultsVariable) + "=" + results.native()};
  if (!init.empty()) argv.push_back(std::string(kInitVariable) + "=" + init);
  const auto become_kernel = [&] {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setsid();
    // Beside us; the kernel's own processes never see it. See xstate.cpp.
    setenv("LD_PRELOAD", (self.parent_path() / "squall-lab-xstate.so").c_str(), 1);
    // What is measured inside should not depend on what else this machine is doing.
    setpriority(PRIO_PROCESS, 0, -10);
    const int null = open("/dev/null", O_RDONLY);
    dup2(null, STDIN_FILENO);
    dup2(console, STDOUT_FILENO);
    dup2(console, STDERR_FILENO);
    exec(argv);
  };
  const auto parent = static_cast<pid_t>(
      syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (parent > 0) return parent;
  if (parent == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const pid_t kernel = fork();
    if (kernel == 0) become_kernel();
    int status = 0;
    for (pid_t ended = 0; ended != kernel;) ended = waitpid(-1, &status, 0);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  }
  const pid_t kernel = fork();
  if (kernel == 0) become_kernel();
  return kernel;
}

void check_machine() {
  if (access(kKernel, X_OK) != 0) {
    fail(std::string(kKernel) + " is missing: the lab needs the package user-mode-linux");
  }
  struct statvfs shared {};
  if (statvfs("/dev/shm", &shared) == 0 &&
      shared.f_bavail * shared.f_frsize < (std::uint64_t{512} << 20)) {
    std::cerr << "warning: /dev/shm has less than 512 MiB, which the lab's memory may need\n";
  }
}

std::size_t count_ended(const fs::path& results, const Job& job) {
  std::size_t ended = 0;
  for (std::size_t index = 0; index < job.cases.size(); ++index)
    ended += status_of(results, index).has_value();
  return ended;
}

/// What is left of earlier runs, but for what passed where only the rest is to be tried again.
void clear(const fs::path& results, const Job& job) {
  const std::optional<Job> earlier = read_job(results);
  std::error_code ignored;
  if (std::getenv("SQUALL_LAB_AGAIN") == nullptr || !earlier || earlier->cases != job.cases) {
    fs::remove_all(results, ignored);
    return;
  }
  for (const char* file : {"done", "guest", "console"}) fs::remove(results / file, ignored);
  for (std::size_t index = 0; index < job.cases.size(); ++index) {
    if (status_of(results, index) != 0) fs::remove(status_file(results, index), ignored);
  }
}

/// Returns whether it ended by itself. It has not while cases end one after another, however slow
/// the machine; a kernel that hangs ends none, and is ended.
bool wait_for(pid_t child, const fs::path& results, const Job& job) {
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
  if (fd < 0) fail("pidfd_open failed");
  // A case that fails is tried once more.
  const auto patience = kBootPatience + 2 * std::chrono::seconds(job.seconds_per_case);
  auto deadline = std::chrono::steady_clock::now() + patience;
  pollfd waiting{fd, POLLIN, 0};
  for (std::size_t seen = 0; poll(&waiting, 1, 1000) <= 0;) {
    const std::size_t ended = count_ended(results, job);
    if (ended > seen) deadline = std::chrono::steady_clock::now() + patience;
    seen = ended;
    if (std::chrono::steady_clock::now() >= deadline) break;
  }
  const bool by_itself = (waiting.revents & POLLIN) != 0;
  if (!by_itself) kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(fd);
  return by_itself;
}

int run(const std::string& init, const fs::path& results, int seconds_per_case,
        const fs::path& program) {
  check_machine();
  Job job{.directory = fs::current_path(),
          .seconds_per_case = seconds_per_case,
          .program = fs::absolute(program),
          .cases = list_cases(program)};
  clear(results, job);
  fs::create_directories(results / "uml");
  write_job(results, job);

  const auto start = std::chrono::steady_clock::now();
  const bool by_itself = wait_for(boot(fs::absolute(results), init), results, job);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  std::error_code ignored;
  fs::remove_all(results / "uml", ignored);

  const std::size_t ended = count_ended(results, job);
  std::cout << ended << " of " << job.cases.size() << " cases ended in the lab, in " << took.count()
            << " s\n";
  std::cout << read_file(results / "guest");
  if (fs::exists(results / "done")) return 0;
  std::cout << (by_itself ? "the lab ended early\n" : "the lab stood still\n")
            << read_file(results / "console");
  // The cases that ended still show their own results; the others say that they did not.
  return ended > 0 ? 0 : 1;
}

int show(const fs::path& results, const fs::path& program, const std::string& asked) {
  if (asked == "--list-test-cases") exec({program, asked});
  constexpr std::string_view kSelect = "--test-case=";
  if (!asked.starts_with(kSelect)) fail("unknown argument " + asked);
  const std::string name = unescape_commas(asked.substr(kSelect.size()));
  const std::optional<Job> job = read_job(results);
  if (!job) fail("no results in " + results.native() + ": run the lab first");
  for (std::size_t index = 0; index < job->cases.size(); ++index) {
    if (job->cases[index] != name) continue;
    std::cout << read_file(output_file(results, index));
    const std::optional<int> status = status_of(results, index);
    if (!status)
      std::cout << "the lab ended before this case did\n" << read_file(results / "guest");
    return status.value_or(1);
  }
  fail("the lab ran no case named " + name);
}

int main_of(const std::vector<std::string>& arguments) {
  if (getpid() == 1 && std::getenv(kResultsVariable) != nullptr) run_guest();
  if (arguments.size() == 2 && arguments[1] == "cases") run_cases();
  if (arguments.size() == 5 && arguments[1] == "run")
    return run("", arguments[2], std::stoi(arguments[3]), arguments[4]);
  if (arguments.size() == 6 && arguments[1] == "run-under")
    return run(arguments[2], arguments[3], std::stoi(arguments[4]), arguments[5]);
  if (arguments.size() >= 5 && arguments[1] == "case")
    return show(arguments[2], arguments[3], arguments[4]);
  std::cerr << "usage: squall-lab run RESULTS SECONDS_PER_CASE PROGRAM\n"
               "       squall-lab run-under INIT RESULTS SECONDS_PER_CASE PROGRAM\n"
               "       squall-lab case RESULTS PROGRAM --test-case=NAME\n";
  return 2;
}

}  // namespace
}  // namespace squall::lab

int main(int argc, char** argv) {
  try {
    return squall::lab::main_of({argv, argv + argc});
  } catch (const std::exception& failure) {
    std::cerr << failure.what() << '\n';
    return 1;
  }
}
