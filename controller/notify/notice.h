/// \file
/// What of a run is worth telling people who do not watch it, in words; and what all receivers
/// share.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "controller/report/story.h"
#include "experiments/base/status.h"
#include "squall/v1/events.pb.h"

namespace squall::notify {

using Json = nlohmann::ordered_json;

/// Its beginning, a breach, the abort, a note, its end.
struct Notice {
  std::string event;     ///< run_started, breach, abort, note, run_ended
  std::string sentence;  ///< For people; without a full stop.
  Json details = Json::object();
};

/// None for all other events.
std::optional<Notice> notice_of(const v1::Event& event, const report::Story& story);

/// What is not UTF-8 is replaced.
std::string dump(const Json& json);

/// Nanoseconds since 1970 of `elapsed` seconds into a run: the wall clock of its beginning and the
/// monotonic clock from there on, so that no step of the wall clock bends a span.
std::int64_t unix_ns(const report::Story& story, double elapsed);

/// https://host:port of a URL whose rest may be a secret.
std::string shown(const std::string& url);

/// Errors: kInvalidArgument for what is no http or https URL.
Status check_url(const std::string& url);

}  // namespace squall::notify
