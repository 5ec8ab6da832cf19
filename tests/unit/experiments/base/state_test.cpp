#include "experiments/base/state.h"

#include <doctest/doctest.h>
#include <stdlib.h>

namespace squall {
namespace {

TEST_CASE("state is kept where the environment says, and a relative home says nothing") {
  ::unsetenv("SQUALL_STATE_DIR");
  ::unsetenv("XDG_STATE_HOME");
  CHECK(default_state_dir() == "/var/lib/squall");
  ::setenv("XDG_STATE_HOME", "state", 1);
  CHECK(default_state_dir() == "/var/lib/squall");
  ::setenv("XDG_STATE_HOME", "/home/me/state", 1);
  CHECK(default_state_dir() == "/home/me/state/squall");
  ::setenv("SQUALL_STATE_DIR", "", 1);
  CHECK(default_state_dir() == "/home/me/state/squall");
  ::setenv("SQUALL_STATE_DIR", "here", 1);
  CHECK(default_state_dir() == "here");
}

}  // namespace
}  // namespace squall
