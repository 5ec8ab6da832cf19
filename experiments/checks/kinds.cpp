#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <stdexcept>
#include <system_error>

#include "experiments/base/diagnostic.h"
#include "experiments/base/units.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

constexpr const CheckKind* kKinds[] = {&kDns,      &kExec,    &kGrpc,       &kHttp,  &kIcmp, &kLog,
                                       &kPostgres, &kProcess, &kPrometheus, &kRedis, &kTcp};

}  // namespace

Duration timeout_of(const v1::Check& check) {
  if (check.has_timeout()) return Duration(check.timeout());
  if (check.has_every()) return Duration(check.every());
  return std::chrono::seconds(1);
}

std::string timeout_words(Duration timeout) { return "timeout after " + format_duration(timeout); }

std::string errno_words(int errno_value) {
  switch (errno_value) {
    case ECONNREFUSED:
      return "connection refused";
    case ECONNRESET:
      return "connection reset";
    case EHOSTUNREACH:
      return "no route to host";
    case ENETUNREACH:
      return "network unreachable";
    case ETIMEDOUT:
      return "connection timed out";
    default: {
      std::string words = std::generic_category().message(errno_value);
      if (!words.empty())
        words[0] = static_cast<char>(std::tolower(static_cast<unsigned char>(words[0])));
      return words;
    }
  }
}

bool expects(const v1::Check& check, std::string_view metric) {
  return std::any_of(check.expect().begin(), check.expect().end(),
                     [&](const v1::Expectation& one) { return one.metric() == metric; });
}

std::optional<double> number_from(std::string_view text) {
  double number = 0;
  const char* const last = text.data() + text.size();
  const auto [end, failed] = std::from_chars(text.data(), last, number);
  if (failed != std::errc() || end != last || !std::isfinite(number)) return std::nullopt;
  return number;
}

std::string told_by_server(std::string_view words) {
  constexpr std::size_t kRead = 200;
  std::string_view line = words.substr(0, words.find('\n'));
  const bool is_cut = line.size() > kRead;
  return escape_controls(line.substr(0, kRead)) + (is_cut ? "..." : "");
}

std::unique_ptr<Check> make_check(const v1::Check& check) {
  for (const CheckKind* kind : kKinds) {
    if (kind->which == check.kind_case()) return kind->make(check);
  }
  throw std::logic_error("no such check kind: " + std::to_string(check.kind_case()));
}

}  // namespace squall::checks
