#include "experiments/base/file.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include "experiments/base/fd.h"

namespace squall {
namespace {

/// With a content of its own, gone at its end.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string_view content)
      : path_((std::filesystem::temp_directory_path() / "squall-file-XXXXXX").string()),
        file_(::mkstemp(path_.data())) {
    REQUIRE(file_.is_open());
    REQUIRE(::write(file_.number(), content.data(), content.size()) ==
            static_cast<ssize_t>(content.size()));
    REQUIRE(::lseek(file_.number(), 0, SEEK_SET) == 0);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { ::unlink(path_.c_str()); }

  const std::string& path() const { return path_; }
  int number() const { return file_.number(); }

 private:
  std::string path_;
  Fd file_;
};

}  // namespace

TEST_CASE("a file is read whole, whatever its length") {
  for (const std::size_t size : {0U, 1U, 16384U, 16385U, 100'000U}) {
    const std::string content(size, 'x');
    CHECK(read_whole(TemporaryFile(content).path()).value() == content);
  }
}

TEST_CASE("what is left of a file is added to what is known of it") {
  const TemporaryFile file("one two");
  REQUIRE(::lseek(file.number(), 4, SEEK_SET) == 4);
  std::string text = "and ";
  CHECK(read_rest(file.number(), text) == 0);
  CHECK(text == "and two");
}

TEST_CASE("a file as long as it may be is read, a longer one is refused") {
  const TemporaryFile file("12345");
  CHECK(read_whole(file.path(), 5).value() == "12345");
  const auto longer = read_whole(file.path(), 4);
  CHECK_FALSE(longer.ok());
  CHECK(message_of(longer.status()) == file.path() + ": File too large");
}

TEST_CASE("what cannot be read says so, with its path") {
  CHECK(read_whole("/nowhere/at/all").status().code() == StatusCode::kNotFound);
  CHECK(message_of(read_whole("/tmp").status()) == "/tmp: Is a directory");
  CHECK(message_of(read_pem("/dev/zero").status()) == "/dev/zero: File too large");
}

TEST_CASE("a key is a PEM file or told not to be one") {
  const TemporaryFile key("-----BEGIN PRIVATE KEY-----\n");
  CHECK(read_pem(key.path()).ok());
  const TemporaryFile other("hunter2");
  CHECK(message_of(read_pem(other.path()).status()) == other.path() + ": is not a PEM file");
}

}  // namespace squall
