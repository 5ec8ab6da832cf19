#include "controller/cli/run_socket.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <boost/asio/io_context.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>
#include <vector>

#include "controller/report/event_log.h"
#include "experiments/base/fd.h"

namespace squall::cli {
namespace {

namespace asio = boost::asio;
namespace fs = std::filesystem;

/// The folder of a run with a log, gone with the test. Its path is longer than a socket's can be.
class RunFolder {
 public:
  RunFolder() {
    std::string name = (fs::temp_directory_path() / "squall-notes-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    top_ = name;
    path = top_ / std::string(120, 'r');
    const auto log = report::EventLog::create(path);
    REQUIRE(log.ok());
    v1::Event event;
    event.mutable_run_started()->set_plan("a test");
    (*log)->write(event);
  }
  ~RunFolder() {
    std::error_code ignored;
    fs::remove_all(top_, ignored);
  }
  fs::path socket() const { return path / "run.sock"; }
  std::vector<v1::Event> events() const {
    auto read = report::read_events(path / "events.jsonl");
    REQUIRE(read.ok());
    return *std::move(read);
  }
  fs::path path;

 private:
  fs::path top_;
};

/// A run that goes on, as far as notes are concerned.
class Running {
 public:
  explicit Running(const fs::path& folder) {
    Told told;
    told.note = [this](v1::Noted note) { taken.push_back(std::move(note)); };
    told.halt = [this](v1::HaltRequest halt) {
      halted.push_back(std::move(halt));
      loop_.stop();
    };
    auto started = RunSocket::start(loop_, folder, std::move(told));
    INFO(message_of(started.status()));
    REQUIRE(started.ok());
    socket_ = *std::move(started);
    thread_ = std::thread([this] {
      loop_.run();
      if (!halted.empty()) socket_.reset();
    });
  }
  ~Running() { end(); }
  void end() {
    if (!thread_.joinable()) return;
    loop_.stop();
    thread_.join();
    socket_.reset();
  }
  std::vector<v1::Noted> taken;         ///< To be read when it has ended.
  std::vector<v1::HaltRequest> halted;  ///< Likewise; the first ends it.

 private:
  asio::io_context loop_{1};
  std::unique_ptr<RunSocket> socket_;
  std::thread thread_;
};

v1::Noted note_of(const std::string& text, const std::string& kind = "") {
  v1::Noted note;
  note.set_by("ana@laptop");
  note.set_kind(kind);
  note.set_text(text);
  return note;
}

/// Connected to the run, and says nothing.
Fd connected(const fs::path& folder) {
  const Fd opened(::open(folder.c_str(), O_PATH | O_CLOEXEC));
  const std::string path = "/proc/self/fd/" + std::to_string(opened.number()) + "/run.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // POSIX wants this cast.
  REQUIRE(connect(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
          0);
  return socket;
}

TEST_CASE("a run that goes on takes notes, safe to show, and nobody else writes to its log") {
  const RunFolder folder;
  CHECK_FALSE(goes_on(folder.path));
  Running running(folder.path);
  CHECK(goes_on(folder.path));
  struct stat socket {};
  REQUIRE(stat(folder.socket().c_str(), &socket) == 0);
  CHECK((socket.st_mode & 0777) == 0600);
  CHECK(keep_note(folder.path, note_of("the pager\x1b[31m went\noff \xff", "detected")).ok());
  CHECK(keep_note(folder.path, note_of("", "mitigated")).ok());
  CHECK(keep_note(folder.path, note_of(std::string(kLongestNote, '\x01'))).ok());
  running.end();
  REQUIRE(running.taken.size() == 3);
  CHECK(running.taken[0].by() == "ana@laptop");
  CHECK(running.taken[0].kind() == "detected");
  CHECK(running.taken[0].text() == "the pager\\x1b[31m went\\x0aoff \\xff");
  CHECK(running.taken[1].kind() == "mitigated");
  CHECK(running.taken[2].text().size() == 4 * kLongestNote);
  CHECK(folder.events().size() == 1);
  CHECK_FALSE(goes_on(folder.path));
  CHECK_FALSE(fs::exists(folder.socket()));
}

TEST_CASE("a note of a run that is over is added to its log, whatever a killed run left") {
  const RunFolder folder;
  SUBCASE("nothing") {}
  SUBCASE("a socket that nobody listens at") {
    // As a killed run leaves it: bound, and its process gone.
    const fs::path here = fs::current_path();
    fs::current_path(folder.path);
    const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, "run.sock");
    REQUIRE(bind(socket.number(), reinterpret_cast<const sockaddr*>(&address), sizeof address) ==
            0);
    fs::current_path(here);
  }
  SUBCASE("half a line") {
    std::ofstream(folder.path / "events.jsonl", std::ios::app) << "{\"at\":\"2026";
  }
  REQUIRE(keep_note(folder.path, note_of("found\tout why")).ok());
  const auto events = folder.events();
  REQUIRE(events.size() == 2);
  CHECK(events.back().noted().text() == "found\\x09out why");
  CHECK(events.back().noted().by() == "ana@laptop");
  CHECK(events.back().elapsed() >= 0);
}

TEST_CASE("what is no note is refused, and so is one of no run") {
  const RunFolder folder;
  const auto told = [&](const v1::Noted& note) { return message_of(keep_note(folder.path, note)); };
  CHECK(told(note_of("")) == "the note says nothing");
  CHECK(told(note_of(" \n")) == "the note says nothing");
  CHECK(told(note_of("x", "noticed")) ==
        "a note is of no other kind than detected, mitigated or recovered");
  CHECK(told(note_of(std::string(kLongestNote + 1, 'x'))) ==
        "a note has at most 4096 bytes, and this has 4097");
  CHECK(message_of(keep_note(folder.path / "none", note_of("x"))) ==
        "there is no run in " + (folder.path / "none").string());
  CHECK(folder.events().size() == 1);
}

TEST_CASE("those who connect and say nothing, or nonsense, keep no note from being taken") {
  const RunFolder folder;
  Running running(folder.path);
  std::vector<Fd> silent;
  for (int n = 0; n < 8; ++n) silent.push_back(connected(folder.path));
  const Fd babbling = connected(folder.path);
  const std::string much(1 << 20, 'x');
  // It is cut off in the middle.
  CHECK(send(babbling.number(), much.data(), much.size(), MSG_NOSIGNAL) <
        static_cast<ssize_t>(much.size()));
  CHECK(keep_note(folder.path, note_of("all the same")).ok());
  running.end();
  REQUIRE(running.taken.size() == 1);
}

TEST_CASE("a note that comes while the run ends is kept, once") {
  const RunFolder folder;
  std::size_t asked = 0;
  std::size_t taken = 0;
  for (int round = 0; round < 20; ++round) {
    Running running(folder.path);
    std::thread person([&] { asked += keep_note(folder.path, note_of("now")).ok() ? 1 : 0; });
    std::this_thread::yield();
    running.end();
    person.join();
    taken += running.taken.size();
  }
  CHECK(asked == 20);
  CHECK(taken + folder.events().size() - 1 == 20);
}

TEST_CASE("a note of a run that is about to begin waits for it") {
  const RunFolder folder;
  fs::resize_file(folder.path / "events.jsonl", 0);
  bool kept = false;
  std::thread person([&] { kept = keep_note(folder.path, note_of("so soon")).ok(); });
  Running running(folder.path);
  person.join();
  running.end();
  CHECK(kept);
  CHECK(running.taken.size() == 1);
}

TEST_CASE("a run is told to end, and who told it waits until it is over") {
  const RunFolder folder;
  v1::HaltRequest request;
  request.set_by("ana@laptop");
  request.set_reason("customers are\ncalling");
  // Of one that is over, nothing has to be told.
  CHECK(halt_run(folder.path, request).ok());
  Running running(folder.path);
  CHECK(halt_run(folder.path, request).ok());
  CHECK_FALSE(goes_on(folder.path));
  running.end();
  REQUIRE(running.halted.size() == 1);
  CHECK(running.halted[0].by() == "ana@laptop");
  CHECK(running.halted[0].reason() == "customers are\\x0acalling");
  CHECK(running.taken.empty());
}

TEST_CASE("a folder is one process's") {
  const RunFolder folder;
  Running running(folder.path);
  asio::io_context loop;
  const auto second = RunSocket::start(loop, folder.path, {});
  CHECK(second.status().code() == StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace squall::cli
