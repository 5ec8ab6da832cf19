#include "tests/survival/samples.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <type_traits>
#include <vector>

#include "experiments/base/ids.h"
#include "tests/support/daemon.h"
#include "tests/support/eventually.h"
#include "tests/support/faults.h"
#include "tests/support/process.h"
#include "tests/unit/injector/faults/scenes.h"
#include "tests/unit/injector/faults/victim.h"

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

 private:
  v1::Fault fault_;
};

std::unique_ptr<Sample> make_delay(const Namespace&) {
  return std::make_unique<OnLoopback>(delay_fault(kPort, milliseconds(10), v1::BOTH));
}

/// One that is set anew again and again for as long as it lives.
std::unique_ptr<Sample> make_ramp(const Namespace&) {
  v1::Fault fault = delay_fault(kPort, milliseconds(20), v1::EGRESS);
  add_ramp(fault, "delay", 0, number_of(Duration(fault.network().delay())), Duration(fault.for_()));
  return std::make_unique<OnLoopback>(std::move(fault));
}

std::unique_ptr<Sample> make_loss(const Namespace&) {
  return std::make_unique<OnLoopback>(loss_fault(kPort, 100));
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

  Fingerprint fingerprint() const override { return fingerprint_of_files(file_.parent_path()); }

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

  Fingerprint fingerprint() const override { return fingerprint_of_files(trace_); }

 private:
  TemporaryFolder folder_;
  fs::path trace_ = folder_.path() / "trace";
};

/// A process of the node's that has nothing to do.
class Sleeper {
 public:
  explicit Sleeper(const Namespace& node) : process_(command(node)) {
    // From then on it is "sleep" and nothing else.
    eventually([this] { return is_asleep(); }, std::chrono::seconds(20));
  }

  std::uint32_t pid() const { return static_cast<std::uint32_t>(process_.pid()); }
  Fingerprint fingerprint() const { return fingerprint_of_process(process_.pid()); }

 private:
  static Command command(const Namespace& node) {
    Command command;
    command.argv = {"sleep", "1000"};
    command.where = &node;
    return command;
  }

  bool is_asleep() const {
    std::ifstream file(fmt::format("/proc/{}/comm", pid()));
    std::string name;
    return std::getline(file, name) && name == "sleep";
  }

  Process process_;
};

/// A process that must be what it was.
class OneSleeper : public Sample {
 public:
  explicit OneSleeper(const Namespace& node) : target_(node) {}

  Fingerprint fingerprint() const override { return target_.fingerprint(); }

 protected:
  std::uint32_t pid() const { return target_.pid(); }

 private:
  Sleeper target_;
};

class Paused final : public OneSleeper {
 public:
  using OneSleeper::OneSleeper;

  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_pause()->mutable_process()->set_pid(pid());
    return fault;
  }
};

/// What one process sends and receives on lo.
class OnItsSockets final : public OneSleeper {
 public:
  using OneSleeper::OneSleeper;

  v1::Fault fault() const override {
    v1::Fault fault = delay_fault(kPort, milliseconds(10), v1::BOTH);
    fault.mutable_network()->set_interface("lo");
    fault.mutable_network()->mutable_in()->mutable_process()->set_pid(pid());
    return fault;
  }
};

class WithoutDescriptors final : public OneSleeper {
 public:
  using OneSleeper::OneSleeper;

  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_exhaust()->mutable_descriptors()->set_pid(pid());
    return fault;
  }
};

class SlowFiles final : public OneSleeper {
 public:
  using OneSleeper::OneSleeper;

  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_io()->mutable_of()->set_pid(pid());
    fault.mutable_io()->set_path(folder_.path());
    fault.mutable_io()->set_delay(Duration(milliseconds(1)).count());
    return fault;
  }

 private:
  TemporaryFolder folder_;
};

/// A control group with one process in it.
class Frozen final : public Sample {
 public:
  explicit Frozen(const Namespace& node) : target_(node) { group_.take(target_.pid()); }

  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_pause()->set_cgroup(group_.path());
    return fault;
  }

  Fingerprint fingerprint() const override {
    return fingerprint_of_group(group_.mount() + group_.path()) + target_.fingerprint();
  }

 private:
  hold::OwnGroup group_{"squall-test-" + new_fault_id()};
  Sleeper target_;
};

class WithoutPids final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_exhaust()->mutable_pids()->set_cgroup(group_.path());
    return fault;
  }

  Fingerprint fingerprint() const override { return fingerprint_of_group(group_.folder()); }

 private:
  ControlGroup group_{"pids"};
};

/// There is no way back for what is killed; its neighbour must live.
class TwoSleepers final : public Sample {
 public:
  explicit TwoSleepers(const Namespace& node) : target_(node), neighbour_(node) {}

  v1::Fault fault() const override {
    v1::Fault fault;
    fault.mutable_kill()->mutable_process()->set_pid(target_.pid());
    return fault;
  }

  Fingerprint fingerprint() const override { return neighbour_.fingerprint(); }

 private:
  Sleeper target_;
  Sleeper neighbour_;
};

class LittleCpu final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_cpu()->set_load(1);
    fault.mutable_cpu()->set_cores(1);
    return fault;
  }
};

class LittleMemory final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_memory()->set_size(4 << 20);
    return fault;
  }
};

class LittleDisk final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_disk()->set_path(folder_.path());
    fault.mutable_disk()->set_size(4 << 20);
    return fault;
  }
  Fingerprint fingerprint() const override { return fingerprint_of_files(folder_.path()); }

 private:
  TemporaryFolder folder_;
};

class OneName final : public Sample {
 public:
  v1::Fault fault() const override {
    v1::Fault fault = lasting();
    fault.mutable_dns()->add_names("shop.example");
    fault.mutable_dns()->set_answer(v1::NXDOMAIN);
    return fault;
  }
};

template <typename Kind>
std::unique_ptr<Sample> make(const Namespace& node) {
  if constexpr (std::is_constructible_v<Kind, const Namespace&>) {
    return std::make_unique<Kind>(node);
  } else {
    return std::make_unique<Kind>();
  }
}

}  // namespace

const std::vector<std::pair<std::string, std::string>>& takes_all() {
  static const TemporaryFolder folder;
  static const std::vector<std::pair<std::string, std::string>> environment = [] {
    const fs::path file = folder.path() / "guardrails.yaml";
    std::ofstream(file) << "scripts: [/usr/bin/touch, /usr/bin/rm]\n";
    return std::vector<std::pair<std::string, std::string>>{{"SQUALL_GUARDRAILS", file}};
  }();
  return environment;
}

std::span<const SampleKind> samples() {
  static const SampleKind all[] = {
      {.kind = "network", .words = "delay on lo both ways", .make = make_delay},
      {.kind = "network", .words = "delay on lo that ramps", .make = make_ramp},
      {.kind = "network", .words = "loss of all on lo", .make = make_loss},
      {.kind = "network", .words = "delay of one process's", .make = make<OnItsSockets>},
      {.kind = "kill", .words = "one process", .make = make<TwoSleepers>},
      {.kind = "pause", .words = "one process", .make = make<Paused>},
      {.kind = "pause", .words = "a control group", .make = make<Frozen>},
      {.kind = "io", .words = "1 ms more", .make = make<SlowFiles>},
      {.kind = "cpu", .words = "1 % of one core", .make = make<LittleCpu>},
      {.kind = "memory", .words = "4 MiB", .make = make<LittleMemory>},
      {.kind = "disk", .words = "4 MiB", .make = make<LittleDisk>},
      {.kind = "exhaust", .words = "descriptors", .make = make<WithoutDescriptors>},
      {.kind = "exhaust", .words = "pids", .make = make<WithoutPids>},
      {.kind = "dns", .words = "one name", .make = make<OneName>},
      {.kind = "files", .words = "absent", .make = make<OneFile<v1::ABSENT>>},
      {.kind = "files", .words = "unreadable", .make = make<OneFile<v1::UNREADABLE>>},
      {.kind = "files", .words = "read-only", .make = make<OneFile<v1::READ_ONLY>>},
      {.kind = "script", .words = "touch and rm", .make = make<Scripts>},
      {.kind = "clock", .words = "", .make = nullptr, .not_here = "its clock is not ours to set"},
      {.kind = "service", .words = "", .make = nullptr, .not_here = "systemd need not run here"},
  };
  return all;
}

}  // namespace squall::survival
