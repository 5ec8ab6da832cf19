#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "asking.h"
#include "tests/support/folder.h"

namespace squall::checks {
namespace {

using namespace testing;
namespace fs = std::filesystem;

/// A file in a folder of its own, and a check that watches it for ERROR.
struct Scene {
  support::TemporaryFolder folder;
  fs::path path = folder.path() / "shop.log";
  asio::io_context loop;
  std::unique_ptr<Check> check;

  explicit Scene(const std::string& pattern = "ERROR") {
    v1::Check wanted;
    wanted.set_timeout(Duration(10s).count());
    wanted.mutable_log()->set_path(path);
    wanted.mutable_log()->set_pattern(pattern);
    check = make_check(wanted);
  }

  void append(const std::string& text) const {
    std::ofstream(path, std::ios::app | std::ios::binary) << text;
  }

  Sample look() { return ask(loop, *check); }

  /// How many lines matched since the last ask; -1 where that is not said.
  double lines() {
    const Sample sample = look();
    CHECK(sample.error == "");
    const auto found = sample.numbers.find("lines");
    return found == sample.numbers.end() ? -1 : found->second;
  }
};

TEST_CASE("a log check counts the lines that match and that the file grew by since the last ask") {
  Scene scene;
  scene.append("ERROR before\n");
  CHECK(scene.lines() == 0);
  scene.append("ERROR one\nfine\nan ERROR two\r\n");
  const Sample sample = scene.look();
  CHECK(sample.numbers.at("lines") == 2);
  CHECK(sample.output == "an ERROR two");
  CHECK(sample.no_data == "");
  const Sample later = scene.look();
  CHECK(later.numbers.at("lines") == 0);
  CHECK(later.output == "an ERROR two");
}

TEST_CASE("a line is counted once it has ended, and whole") {
  Scene scene;
  scene.append("fine\nan ERR");
  CHECK(scene.lines() == 0);
  scene.append("OR that was begun before, and ");
  CHECK(scene.lines() == 0);
  scene.append("ended after\nERR");
  CHECK(scene.look().output == "an ERROR that was begun before, and ended after");
  scene.append("OR\n");
  CHECK(scene.lines() == 1);
}

TEST_CASE("a file that is not there yet is no data, and read whole when it comes") {
  Scene scene;
  const Sample sample = scene.look();
  CHECK(sample.error == "");
  CHECK(sample.no_data == scene.path.native() + " is not there yet");
  CHECK(sample.numbers.empty());
  scene.append("ERROR\nERROR\n");
  CHECK(scene.lines() == 2);
}

TEST_CASE("a file that is rotated away is read to its end and the new one from its beginning") {
  Scene scene;
  scene.append("fine\n");
  CHECK(scene.lines() == 0);
  scene.append("ERROR 1\n");
  const fs::path old = scene.folder.path() / "shop.log.1";
  fs::rename(scene.path, old);
  SUBCASE("before the next ask") {
    scene.append("ERROR 2\nERROR 3\n");
    CHECK(scene.lines() == 3);
  }
  SUBCASE("with asks between the two") {
    CHECK(scene.lines() == 1);
    CHECK(scene.lines() == 0);
    scene.append("ERROR 2\n");
    CHECK(scene.lines() == 1);
  }
  SUBCASE("while its program has yet to hear of it") {
    scene.append("");
    CHECK(scene.lines() == 1);
    std::ofstream(old, std::ios::app) << "ERROR late\nan ERROR that never ends";
    CHECK(scene.lines() == 1);
    scene.append("ERROR 2\n");
    CHECK(scene.lines() == 2);
    scene.append("ERROR 3\n");
    CHECK(scene.lines() == 1);
  }
}

TEST_CASE("a file that is removed and made again is another, whatever its inode's number") {
  Scene scene;
  scene.append("fine\n");
  CHECK(scene.lines() == 0);
  for (int round = 0; round < 3; ++round) {
    fs::remove(scene.path);
    scene.append("ERROR\n");
    CHECK(scene.lines() == 1);
  }
}

TEST_CASE("a file that is truncated is read from its beginning") {
  Scene scene;
  scene.append("ERROR, and more than is there afterwards\n");
  CHECK(scene.lines() == 0);
  fs::resize_file(scene.path, 0);
  SUBCASE("where it is shorter than before") {
    scene.append("ERROR\n");
    CHECK(scene.lines() == 1);
  }
  SUBCASE("where it has grown past the place again") {
    for (int line = 0; line < 100; ++line) scene.append("ERROR " + std::to_string(line) + "\n");
    CHECK(scene.lines() == 100);
  }
  SUBCASE("where its program writes on behind a hole") {
    fs::resize_file(scene.path, 40);
    scene.append("ERROR\n");
    CHECK(scene.look().output == "ERROR");
  }
}

TEST_CASE("what no line of a log should be harms nothing") {
  Scene scene("ERROR$");
  scene.append("");
  CHECK(scene.lines() == 0);
  SUBCASE("a line without end is cut") {
    scene.append(std::string(300'000, 'x') + "ERROR");
    CHECK(scene.lines() == 0);
    scene.append("\nERROR\n" + std::string(70'000, 'E') + "\n");
    CHECK(scene.lines() == 1);
  }
  SUBCASE("bytes that are no text") {
    std::string rubbish;
    for (int byte = 0; byte < 256; ++byte) rubbish += static_cast<char>(byte);
    scene.append(rubbish + "ERROR\n" + rubbish +
                 "\n\xff\xfe"
                 "ERROR\n");
    CHECK(scene.lines() == 2);
  }
}

TEST_CASE("one ask reads a bounded part, and none are said to be there only where all was read") {
  Scene scene;
  scene.append("");
  CHECK(scene.lines() == 0);
  const std::string line(1023, 'x');
  {
    std::ofstream out(scene.path, std::ios::app);
    for (int n = 0; n < 20 * 1024; ++n) out << line << '\n';
    out << "ERROR\n";
  }
  for (int part = 0; part < 2; ++part) {
    const Sample behind = scene.look();
    CHECK(behind.output == "");
    CHECK(behind.no_data == "it grows faster than it is read");
    CHECK(behind.numbers.empty());
  }
  CHECK(scene.lines() == 1);
}

TEST_CASE("what is no file is told as what it is, and not opened") {
  Scene scene;
  const auto refused = [&](const std::string& words) {
    const Sample sample = scene.look();
    CHECK(sample.error == scene.path.native() + words);
    fs::remove_all(scene.path);
  };
  REQUIRE(::mkfifo(scene.path.c_str(), 0600) == 0);
  refused(" is a fifo");
  fs::create_directory(scene.path);
  refused(" is a directory");
  fs::create_symlink("/etc/hostname", scene.path);
  refused(" is a symbolic link: name the file that it leads to");
  REQUIRE(::mknod(scene.path.c_str(), S_IFCHR | 0600, makedev(1, 3)) == 0);  // as /dev/null
  refused(" is a device");
  scene.append("ERROR\n");
  CHECK(scene.lines() == 1);
}

TEST_CASE("a log that may not be read is told so") {
  Scene scene;
  scene.path = "/proc/self/no/such.log";
  v1::Check wanted;
  wanted.mutable_log()->set_path("/dev/null/shop.log");
  wanted.mutable_log()->set_pattern("ERROR");
  scene.check = make_check(wanted);
  CHECK(scene.look().error == "cannot open /dev/null/shop.log: not a directory");
}

}  // namespace
}  // namespace squall::checks
