#include "controller/notify/notice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <utility>

namespace squall::notify {
namespace {

std::string plural(std::size_t count, const char* word) {
  return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s");
}

}  // namespace

std::optional<Notice> notice_of(const v1::Event& event, const report::Story& story) {
  switch (event.event_case()) {
    case v1::Event::kRunStarted: {
      const v1::RunStarted& told = event.run_started();
      Notice notice{"run_started",
                    fmt::format("the run began: {}, {}",
                                plural(static_cast<std::size_t>(told.nodes_size()), "node"),
                                plural(static_cast<std::size_t>(told.checks_size()), "check")),
                    Json::object()};
      if (!told.hypothesis().empty()) notice.details["hypothesis"] = told.hypothesis();
      notice.details["nodes"] = std::vector<std::string>(told.nodes().begin(), told.nodes().end());
      return notice;
    }
    case v1::Event::kCheckBreached: {
      const v1::CheckBreached& told = event.check_breached();
      return Notice{"breach",
                    fmt::format("check \"{}\" is breached: observed {}, expected {}", told.check(),
                                told.observed(), told.expectation()),
                    {{"check", told.check()},
                     {"observed", told.observed()},
                     {"expected", told.expectation()},
                     {"aborts", told.aborts()}}};
    }
    case v1::Event::kAbortDecided: {
      const v1::AbortDecided& told = event.abort_decided();
      return Notice{"abort",
                    fmt::format("the run is aborted ({}): {}", told.cause(), told.words()),
                    {{"cause", told.cause()}}};
    }
    case v1::Event::kNoted: {
      const v1::Noted& told = event.noted();
      return Notice{"note",
                    fmt::format("{} noted{}: {}", told.by(),
                                told.kind().empty() ? "" : " (" + told.kind() + ")", told.text()),
                    {{"by", told.by()}, {"kind", told.kind()}, {"text", told.text()}}};
    }
    case v1::Event::kRunEnded: {
      const v1::RunEnded& told = event.run_ended();
      Notice notice{"run_ended",
                    told.sentence(),
                    {{"exit_code", told.exit_code()},
                     {"duration_ms", told.duration_ms()},
                     {"faults", story.faults.size()}}};
      if (notice.sentence.empty()) notice.sentence = report::verdict_text(told.verdict());
      if (told.times().has_to_detect_ms())
        notice.details["to_detect_ms"] = told.times().to_detect_ms();
      if (told.times().has_to_abort_ms())
        notice.details["to_abort_ms"] = told.times().to_abort_ms();
      if (told.times().has_to_recover_ms())
        notice.details["to_recover_ms"] = told.times().to_recover_ms();
      return notice;
    }
    default:
      return std::nullopt;
  }
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::int64_t unix_ns(const report::Story& story, double elapsed) {
  if (!story.started) return 0;
  const std::string& at = story.started->at;
  std::tm utc{};
  // 2026-11-22T07:15:49.123456Z
  const char* const rest = strptime(at.c_str(), "%Y-%m-%dT%H:%M:%S", &utc);
  if (rest == nullptr) return 0;
  std::int64_t ns = std::int64_t{timegm(&utc)} * 1'000'000'000;
  std::int64_t unit = 100'000'000;
  for (const char* digit = rest; *digit != '\0' && unit > 0; ++digit) {
    if (digit == rest && *digit == '.') continue;
    if (*digit < '0' || *digit > '9') break;
    ns += unit * (*digit - '0');
    unit /= 10;
  }
  return ns + std::llround((elapsed - story.started->elapsed) * 1e9);
}

std::string shown(const std::string& url) {
  const std::size_t scheme = url.find("://");
  if (scheme == std::string::npos) return "(no URL)";
  const std::size_t begin = scheme + 3;
  const std::string authority = url.substr(begin, url.find_first_of("/?#", begin) - begin);
  const std::size_t user = authority.rfind('@');
  return url.substr(0, begin) +
         (user == std::string::npos ? authority : authority.substr(user + 1));
}

Status check_url(const std::string& url) {
  const bool web = url.starts_with("http://") || url.starts_with("https://");
  const bool clean =
      std::ranges::none_of(url, [](char c) { return c <= ' ' || c == '\x7f' || c == '\\'; });
  if (web && clean && shown(url).back() != '/') return ok();
  return error(StatusCode::kInvalidArgument,
               "a URL that begins with http:// or https:// is needed");
}

}  // namespace squall::notify
