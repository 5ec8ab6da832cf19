/// \file
/// One target with libFuzzer around it: which one, the build says.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const squall::fuzz::Target& target = []() -> const squall::fuzz::Target& {
    for (const squall::fuzz::Target& one : squall::fuzz::targets()) {
      if (one.name == SQUALL_FUZZ_TARGET) return one;
    }
    std::abort();
  }();
  const std::string wrong =
      target.take(std::string_view(reinterpret_cast<const char*>(bytes), size));
  if (wrong.empty()) return 0;
  std::fprintf(stderr, "%s\n", wrong.c_str());
  std::abort();
}
