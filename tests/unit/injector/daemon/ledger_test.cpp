#include "injector/daemon/ledger.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

namespace squall::daemon {
namespace {

v1::LedgerRecord opened(const std::string& fault) {
  v1::LedgerRecord record;
  record.mutable_opened()->set_fault(fault);
  record.mutable_opened()->set_boot_id("boot");
  record.mutable_opened()->add_undos()->mutable_remove_link()->set_name("sq" + fault);
  return record;
}

v1::LedgerRecord closed(const std::string& fault) {
  v1::LedgerRecord record;
  record.mutable_closed()->set_fault(fault);
  return record;
}

v1::LedgerRecord lease(const std::string& run, std::uint64_t epoch) {
  v1::LedgerRecord record;
  record.mutable_lease()->set_run(run);
  record.mutable_lease()->set_epoch(epoch);
  return record;
}

std::vector<std::string> open_faults(const LedgerContent& content) {
  std::vector<std::string> faults;
  for (const auto& entry : content.open) faults.push_back(entry.fault());
  return faults;
}

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "squall-ledger-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string ledger() const { return path_ + "/ledger"; }

 private:
  std::string path_;
};

std::string read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

TEST_CASE("what is opened and not closed is open, oldest first") {
  const std::string bytes = ledger_header() + ledger_frame(opened("a")) +
                            ledger_frame(opened("b")) + ledger_frame(lease("run", 3)) +
                            ledger_frame(closed("a")) + ledger_frame(opened("c")) +
                            ledger_frame(lease("run", 2));
  const LedgerContent content = read_ledger(bytes);
  CHECK(open_faults(content) == std::vector<std::string>{"b", "c"});
  CHECK(content.epochs.at("run") == 3);
  CHECK_FALSE(content.damaged);
  CHECK(content.valid_bytes == bytes.size());
  CHECK(content.open[0].undos(0).remove_link().name() == "sqb");
}

TEST_CASE("a ledger cut at any byte says what its whole records say") {
  const std::vector<std::string> frames = {ledger_frame(opened("a")), ledger_frame(opened("b")),
                                           ledger_frame(closed("a"))};
  const std::vector<std::vector<std::string>> expected = {{}, {"a"}, {"a", "b"}, {"b"}};
  std::string bytes = ledger_header();
  std::vector<std::size_t> ends = {bytes.size()};
  for (const std::string& frame : frames) {
    bytes += frame;
    ends.push_back(bytes.size());
  }
  for (std::size_t cut = 0; cut <= bytes.size(); ++cut) {
    CAPTURE(cut);
    const LedgerContent content = read_ledger(bytes.substr(0, cut));
    std::size_t whole = 0;
    while (whole + 1 < ends.size() && ends[whole + 1] <= cut) ++whole;
    CHECK(open_faults(content) == expected[whole]);
    CHECK(content.damaged == (cut != 0 && cut != ends[whole]));
  }
}

TEST_CASE("a ledger with any one bit flipped says what stands before the flip") {
  const std::string bytes = ledger_header() + ledger_frame(opened("a")) +
                            ledger_frame(opened("b")) + ledger_frame(closed("a"));
  const std::size_t first = ledger_header().size();
  const std::size_t second = first + ledger_frame(opened("a")).size();
  const std::size_t third = second + ledger_frame(opened("b")).size();
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    CAPTURE(bit);
    std::string flipped = bytes;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const LedgerContent content = read_ledger(flipped);
    CHECK(content.damaged);
    const std::size_t byte = bit / 8;
    const std::vector<std::string> expected = byte < second  ? std::vector<std::string>{}
                                              : byte < third ? std::vector<std::string>{"a"}
                                                             : std::vector<std::string>{"a", "b"};
    CHECK(open_faults(content) == expected);
  }
}

TEST_CASE("a file of anything else is an empty ledger that is damaged") {
  for (const std::string& bytes :
       {std::string("x"), std::string(4096, '\0'), std::string("SQLEDG2\n"),
        ledger_header() + std::string(8, '\xff')}) {
    const LedgerContent content = read_ledger(bytes);
    CHECK(content.damaged);
    CHECK(content.open.empty());
  }
  CHECK_FALSE(read_ledger("").damaged);
}

TEST_CASE("what was appended is read back by the next daemon, and a damaged tail is not kept") {
  const Folder folder;
  {
    auto ledger = Ledger::open(folder.ledger());
    REQUIRE(ledger.ok());
    REQUIRE(ledger->append(opened("a")).ok());
    REQUIRE(ledger->append(opened("b")).ok());
    REQUIRE(ledger->append(lease("run", 7)).ok());
  }
  std::ofstream(folder.ledger(), std::ios::app | std::ios::binary) << "torn";
  auto again = Ledger::open(folder.ledger());
  REQUIRE(again.ok());
  CHECK(again->content().damaged);
  CHECK(open_faults(again->content()) == std::vector<std::string>{"a", "b"});
  REQUIRE(again->append(closed("a")).ok());
  const LedgerContent content = read_ledger(read(folder.ledger()));
  CHECK_FALSE(content.damaged);
  CHECK(open_faults(content) == std::vector<std::string>{"b"});
  CHECK(content.epochs.at("run") == 7);
}

TEST_CASE("a record must be on the disk if any of its undos is needed after another boot") {
  v1::LedgerRecord kernels = opened("a");
  kernels.mutable_opened()->add_undos()->mutable_thaw_cgroup();
  CHECK_FALSE(must_be_on_disk(kernels));
  v1::LedgerRecord files = kernels;
  files.mutable_opened()->add_undos()->mutable_rename_back();
  files.mutable_opened()->add_undos()->mutable_unmount();
  CHECK(must_be_on_disk(files));
  // Of which nobody here knows what it undoes.
  v1::LedgerRecord unknown = kernels;
  unknown.mutable_opened()->add_undos();
  CHECK(must_be_on_disk(unknown));
  CHECK_FALSE(must_be_on_disk(closed("a")));
  CHECK_FALSE(must_be_on_disk(lease("run", 7)));
}

TEST_CASE("only a file system that is known for it is taken to keep what is written") {
  const Fd memory(::open("/dev/shm", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(memory.is_open());
  CHECK(keeps_what_is_written(memory.number()));
  const Fd processes(::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  CHECK_FALSE(keeps_what_is_written(processes.number()));
  CHECK_FALSE(keeps_what_is_written(-1));
}

TEST_CASE("every undo of the kernel's objects ends with its boot, and what is on disk does not") {
  std::vector<std::string> on_disk;
  const auto* whats = v1::Undo::descriptor()->FindOneofByName("what");
  for (int i = 0; i < whats->field_count(); ++i) {
    v1::Undo undo;
    v1::Undo::GetReflection()->MutableMessage(&undo, whats->field(i));
    if (!ends_with_boot(undo)) on_disk.push_back(whats->field(i)->name());
  }
  std::sort(on_disk.begin(), on_disk.end());
  CHECK(on_disk ==
        std::vector<std::string>{"remove_file", "rename_back", "run_program", "start_unit"});
}

TEST_CASE("compacting keeps what is open and forgets what is closed") {
  const Folder folder;
  auto ledger = Ledger::open(folder.ledger());
  REQUIRE(ledger.ok());
  for (int i = 0; i < 100; ++i) {
    REQUIRE(ledger->append(opened(std::to_string(i))).ok());
    REQUIRE(ledger->append(closed(std::to_string(i))).ok());
  }
  REQUIRE(ledger->append(opened("kept")).ok());
  const std::size_t before = ledger->size();
  REQUIRE(ledger->compact().ok());
  CHECK(ledger->size() < before / 10);
  CHECK(ledger->size() == read(folder.ledger()).size());
  CHECK(open_faults(read_ledger(read(folder.ledger()))) == std::vector<std::string>{"kept"});
}

TEST_CASE("a write that fails leaves no half record behind") {
  const Folder folder;
  auto ledger = Ledger::open(folder.ledger());
  REQUIRE(ledger.ok());
  REQUIRE(ledger->append(opened("a")).ok());
  // A full disk, as far as this process is concerned.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit full = before;
  full.rlim_cur = ledger->size() + 10;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
  const Status refused = ledger->append(opened("b"));
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  ::signal(SIGXFSZ, handler);
  CHECK_FALSE(refused.ok());
  CHECK(read(folder.ledger()).size() == ledger->size());
  REQUIRE(ledger->append(opened("c")).ok());
  const LedgerContent content = read_ledger(read(folder.ledger()));
  CHECK_FALSE(content.damaged);
  CHECK(open_faults(content) == std::vector<std::string>{"a", "c"});
}

}  // namespace
}  // namespace squall::daemon
