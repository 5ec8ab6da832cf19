/// \file
/// Writes what the fuzzer begins with: seeds SOURCES FOLDER makes FOLDER/seeds/TARGET/ and
/// FOLDER/words.dict.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/fuzz/targets.h"

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  if (argc != 3) {
    std::fputs("usage: fuzz_seeds SOURCES FOLDER\n", stderr);
    return 2;
  }
  const fs::path folder = argv[2];
  for (const squall::fuzz::Target& target : squall::fuzz::targets()) {
    const fs::path below = folder / "seeds" / target.name;
    fs::create_directories(below);
    std::size_t number = 0;
    for (const std::string& seed : target.seeds(argv[1])) {
      std::ofstream(below / fmt::format("{:03}", number++), std::ios::binary) << seed;
    }
  }
  std::ofstream dictionary(folder / "words.dict");
  for (const std::string& word : squall::fuzz::words()) {
    dictionary << '"';
    for (const char c : word) dictionary << fmt::format("\\x{:02X}", static_cast<unsigned char>(c));
    dictionary << "\"\n";
  }
  return dictionary.good() ? 0 : 1;
}
