#include "tests/lab/guest.h"

#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "tests/lab/job.h"

namespace squall::lab {
namespace {

namespace fs = std::filesystem;

const fs::path kResults = "/run/results";

/// What network faults and their tests need; each brings what modules.dep names before it.
constexpr const char* kModules[] = {
    "ipv6",         "veth",           "ifb",       "tun",         "bridge",     "dummy",
    "sch_ingress",  "sch_netem",      "sch_prio",  "sch_htb",     "sch_tbf",    "sch_fq",
    "sch_fq_codel", "sch_sfq",        "cls_bpf",   "cls_u32",     "cls_flower", "cls_matchall",
    "act_mirred",   "act_gact",       "act_bpf",   "act_skbedit", "inet_diag",  "tcp_diag",
    "udp_diag",     "af_packet_diag", "unix_diag",
};

class Guest {
 public:
  void prepare() {
    mount_at("proc", "/proc");
    mount_at("sysfs", "/sys");
    mount_at("tmpfs", "/run");
    mount_at("hostfs", kResults, std::getenv(kResultsVariable));
    log_.open(kResults / "guest");
    // After the results, so that everything that goes wrong from here on is told.
    mount_at("devtmpfs", "/dev");
    // What an ordinary init adds to it.
    link_at("/proc/self/fd", "/dev/fd");
    link_at("/proc/self/fd/0", "/dev/stdin");
    link_at("/proc/self/fd/1", "/dev/stdout");
    link_at("/proc/self/fd/2", "/dev/stderr");
    mount_at("devpts", "/dev/pts");
    mount_at("tmpfs", "/dev/shm");
    mount_at("cgroup2", "/sys/fs/cgroup");
    mount_at("bpf", "/sys/fs/bpf");
    fs::create_directories("/run/netns");
    fs::create_directories("/run/tmp");
    load_modules();
    raise_loopback();
    setenv("TMPDIR", "/run/tmp", 1);
    setenv("HOME", "/run/tmp", 1);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("SQUALL_LAB", "1", 1);
  }

  /// Hands over to another process 1, whose unit runs this program for the cases. Returns only if
  /// that fails.
  void become(const char* init) {
    const fs::path units = "/run/systemd/system";
    fs::create_directories(units);
    std::ofstream(units / "squall-lab.service")
        << "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nTimeoutStartSec=infinity\n"
        << "ExecStart=" << fs::read_symlink("/proc/self/exe").native() << " cases\n"
        << "Environment=TMPDIR=/run/tmp HOME=/run/tmp SQUALL_LAB=1 PATH=" << std::getenv("PATH")
        << '\n';
    log_.close();
    execl(init, init, "--unit=squall-lab.service", "--log-target=null", nullptr);
    log_.open(kResults / "guest", std::ios::app);
    tell(std::string("cannot run ") + init + ": " + std::strerror(errno));
  }

  void go_on_telling() { log_.open(kResults / "guest", std::ios::app); }

  void run() {
    const std::optional<Job> job = read_job(kResults);
    if (!job) {
      tell("there is no job");
      return;
    }
    for (std::size_t index = 0; index < job->cases.size(); ++index) {
      if (status_of(kResults, index) == 0) continue;
      // As ctest does on the host (see `dev`): a machine that stalls once is no failure.
      if (run_case(*job, index, O_TRUNC) != 0) run_case(*job, index, O_APPEND);
    }
    std::ofstream(kResults / "done") << "done\n";
  }

  [[noreturn]] void power_off() {
    log_.close();
    umount(kResults.c_str());
    sync();
    reboot(RB_POWER_OFF);
    _exit(1);
  }

 private:
  void tell(const std::string& text) { log_ << text << std::endl; }

  void mount_at(const char* type, const fs::path& where, const char* options = nullptr) {
    std::error_code ignored;
    fs::create_directories(where, ignored);
    if (mount(type, where.c_str(), type, 0, options) != 0 && errno != EBUSY) {
      tell("mount " + where.native() + ": " + std::strerror(errno));
    }
  }

  void link_at(const char* target, const char* where) {
    if (symlink(target, where) != 0 && errno != EEXIST)
      tell(std::string("link ") + where + ": " + std::strerror(errno));
  }

  void load_modules() {
    utsname kernel{};
    uname(&kernel);
    fs::path folder = fs::path("/usr/lib/uml/modules") / kernel.release;
    std::error_code failed;
    if (!fs::exists(folder, failed)) {
      for (const auto& entry : fs::directory_iterator("/usr/lib/uml/modules", failed))
        folder = entry.path();
    }
    std::map<std::string, std::vector<fs::path>> known;
    std::ifstream dependencies(folder / "modules.dep");
    for (std::string line; std::getline(dependencies, line);) {
      std::istringstream words(line);
      std::string file;
      words >> file;
      if (file.empty()) continue;
      file.pop_back();  // the colon
      // A line lists the nearest need first, so that the last must be loaded first.
      std::vector<fs::path> order{folder / file};
      for (std::string need; words >> need;) order.insert(order.begin(), folder / need);
      known[fs::path(file).stem()] = order;
    }
    if (known.empty()) tell("no modules.dep below " + folder.native());
    for (const char* name : kModules) {
      const auto found = known.find(name);
      if (found == known.end()) continue;  // built in
      for (const fs::path& file : found->second) load(file);
    }
  }

  void load(const fs::path& file) {
    if (!loaded_.insert(file).second) return;
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    // Without its parameter ifb makes two devices that nobody asked for.
    const char* parameters = file.stem() == "ifb" ? "numifbs=0" : "";
    if (fd < 0 || (syscall(SYS_finit_module, fd, parameters, 0) != 0 && errno != EEXIST)) {
      tell("module " + file.native() + ": " + std::strerror(errno));
    }
    if (fd >= 0) close(fd);
  }

  void raise_loopback() {
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    if (ioctl(fd, SIOCSIFFLAGS, &request) != 0) tell(std::string("lo: ") + std::strerror(errno));
    close(fd);
  }

  /// Returns its exit status, which is also written beside its output.
  int run_case(const Job& job, std::size_t index, int flag) {
    const std::string selected = "--test-case=" + escape_commas(job.cases[index]);
    const int out =
        open(output_file(kResults, index).c_str(), O_WRONLY | O_CREAT | flag | O_CLOEXEC, 0644);
    const pid_t child = fork();
    if (child == 0) {
      setsid();
      const int null = open("/dev/null", O_RDWR);
      dup2(null, STDIN_FILENO);
      dup2(out, STDOUT_FILENO);
      dup2(out, STDERR_FILENO);
      if (chdir(job.directory.c_str()) != 0) _exit(126);
      execl(job.program.c_str(), job.program.c_str(), selected.c_str(), nullptr);
      dprintf(STDERR_FILENO, "cannot run %s: %s\n", job.program.c_str(), std::strerror(errno));
      _exit(127);
    }
    const int status = wait_for(child, job.seconds_per_case, out);
    close(out);
    // Whatever a case left running must not disturb the next: as process 1 this reaches all but
    // ourselves. Under another one it must not.
    kill(getpid() == 1 ? -1 : -child, SIGKILL);
    while (waitpid(-1, nullptr, 0) > 0) {
    }
    std::ofstream(status_file(kResults, index)) << status << '\n';
    return status;
  }

  int wait_for(pid_t child, int seconds, int out) {
    const int fd = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    for (;;) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - std::chrono::steady_clock::now());
      pollfd waiting{fd, POLLIN, 0};
      if (left.count() <= 0) {
        dprintf(out, "timed out after %d s in the lab\n", seconds);
        kill(-child, SIGKILL);
        kill(child, SIGKILL);
      } else if (poll(&waiting, 1, static_cast<int>(left.count())) == 0) {
        continue;
      }
      int status = 0;
      while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
      }
      close(fd);
      if (WIFSIGNALED(status)) return 128 + WTERMSIG(status);
      return WEXITSTATUS(status);
    }
  }

  std::ofstream log_;
  std::set<fs::path> loaded_;
};

}  // namespace

void run_guest() {
  Guest guest;
  try {
    guest.prepare();
    const char* init = std::getenv(kInitVariable);
    if (init == nullptr) {
      guest.run();
    } else {
      guest.become(init);
    }
  } catch (const std::exception& failure) {
    std::ofstream(kResults / "guest", std::ios::app) << failure.what() << '\n';
  }
  guest.power_off();
}

void run_cases() {
  Guest guest;
  try {
    guest.go_on_telling();
    guest.run();
  } catch (const std::exception& failure) {
    std::ofstream(kResults / "guest", std::ios::app) << failure.what() << '\n';
  }
  guest.power_off();
}

}  // namespace squall::lab
