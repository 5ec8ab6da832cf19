/// \file
/// What takes bytes from outside, and what must be true whatever these are. The fuzzer of
/// `./dev fuzz` and fuzz_test feed the same targets from the same seeds.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace squall::fuzz {

struct Target {
  std::string name;
  /// Says what is wrong with what came of the bytes; empty: nothing. Never throws.
  std::string (*take)(std::string_view bytes);
  /// Bytes that are right, or nearly so, of the sources below `root`.
  std::vector<std::string> (*seeds)(const std::filesystem::path& root);
};

const std::vector<Target>& targets();

/// Every word of the plan language and what it is put together with, once.
std::vector<std::string> words();

}  // namespace squall::fuzz
