#include "experiments/base/ids.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <span>
#include <stdexcept>

namespace squall {
namespace {

constexpr std::string_view kBase32 = "abcdefghijklmnopqrstuvwxyz234567";

/// The kernel is asked for many at once: a plan of a thousand steps needs as many ids.
unsigned char random_byte() {
  // Up to 256 bytes getrandom neither blocks after boot nor returns short. Source: getrandom(2).
  thread_local std::array<unsigned char, 256> bytes;
  thread_local std::size_t used = bytes.size();
  if (used == bytes.size()) {
    if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      throw std::runtime_error("getrandom failed");
    }
    used = 0;
  }
  return bytes[used++];
}

std::string random_base32(std::size_t length) {
  std::string text(length, '\0');
  for (char& letter : text) letter = kBase32[random_byte() % kBase32.size()];
  return text;
}

bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

std::string new_fault_id() { return random_base32(kFaultIdLength); }

bool is_fault_id(std::string_view id) {
  return id.size() == kFaultIdLength && id.find_first_not_of(kBase32) == std::string_view::npos;
}

std::string new_run_id() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%Y%m%d-%H%M%S-", &utc);
  return std::string(text.data(), length) + random_base32(4);
}

bool is_run_id(std::string_view id) {
  return !id.empty() && id.size() <= 64 &&
         std::ranges::all_of(id, [](char c) { return is_letter_or_digit(c) || c == '-'; });
}

std::string new_state_id() { return random_base32(8); }

std::string object_tag(std::string_view state_id, std::string_view fault_id) {
  return "squall:" + std::string(state_id) + ":" + std::string(fault_id);
}

}  // namespace squall
