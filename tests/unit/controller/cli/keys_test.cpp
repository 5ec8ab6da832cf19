#include "controller/cli/keys.h"

#include <doctest/doctest.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

namespace squall::cli {
namespace {

bool is_raw() {
  termios now{};
  return tcgetattr(STDIN_FILENO, &now) == 0 && (now.c_lflag & (ICANON | ECHO)) == 0 &&
         (now.c_lflag & ISIG) != 0;
}

bool is_as_before() {
  termios now{};
  return tcgetattr(STDIN_FILENO, &now) == 0 && (now.c_lflag & (ICANON | ECHO)) == (ICANON | ECHO);
}

/// On a terminal of its own: 0, or the number of the first thing that is not so.
int on_terminal() {
  if (!is_as_before()) return 1;
  {
    const auto keys = Keys::take();
    if (!keys || !is_raw()) return 2;
  }
  if (!is_as_before()) return 3;
  {
    auto keys = Keys::take();
    if (!keys) return 4;
    Keys moved = *std::move(keys);
    keys.reset();
    if (!is_raw()) return 5;
    moved.restore();
    if (!is_as_before()) return 6;
  }
  return is_as_before() ? 0 : 7;
}

}  // namespace

TEST_CASE(
    "single keys are read without echo, Ctrl-C stays a signal, and the terminal is put back") {
  int terminal = -1;
  const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
  REQUIRE(child >= 0);
  if (child == 0) _exit(on_terminal());
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  close(terminal);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("without a terminal no key is waited for") {
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    close(STDIN_FILENO);
    _exit(Keys::take() ? 1 : 0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

}  // namespace squall::cli
