/// \file
/// http: asks a URL. An answer of any status is an answer; what is expected of it is the judge's to
/// say.
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "experiments/checks/fetch.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

using Json = nlohmann::json;

/// What a JSON Pointer leads to; nothing where it leads nowhere.
std::optional<Json> found_at(const Json& whole, const std::string& pointer) {
  try {
    const Json::json_pointer path(pointer);
    if (whole.contains(path)) return whole.at(path);
  } catch (const Json::exception&) {
    // An escape that is none, or an index that no list can have.
  }
  return std::nullopt;
}

/// An array, a string; null is a word of its own.
std::string kind_of(const Json& found) {
  if (found.is_null()) return "null";
  return fmt::format("{} {}", found.is_array() || found.is_object() ? "an" : "a",
                     found.type_name());
}

/// The number that stands at `pointer` in the answer becomes the metric `value`.
void take_value(const Answer& answer, const std::string& pointer, Sample& sample) {
  const Json whole = Json::parse(answer.body, nullptr, false);
  if (whole.is_discarded()) {
    sample.no_data =
        answer.cut ? "the answer is longer than the 64 KiB that are kept" : "the answer is no JSON";
  } else if (const auto found = found_at(whole, pointer); !found) {
    sample.no_data = fmt::format("the answer has no {}", pointer);
  } else if (!found->is_number()) {
    sample.no_data = fmt::format("{} is no number but {}", pointer, kind_of(*found));
  } else {
    sample.numbers["value"] = found->get<double>();
  }
}

class Http final : public Check {
 public:
  explicit Http(const v1::Check& check) {
    const v1::Http& wanted = check.http();
    request_.url = wanted.url();
    if (!wanted.method().empty()) request_.method = wanted.method();
    request_.headers.assign(wanted.headers().begin(), wanted.headers().end());
    request_.body = wanted.body();
    request_.timeout = timeout_of(check);
    request_.follow = wanted.follow();
    request_.tls = wanted.tls();
    request_.address = wanted.resolve();
    request_.unix_socket = wanted.unix();
    value_ = wanted.value();
  }

  boost::asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    Answer answer = co_await fetcher_.fetch(request_);
    sample.latency = answer.latency;
    sample.error = std::move(answer.error);
    if (sample.error.empty()) {
      sample.status = answer.status;
      if (!value_.empty()) take_value(answer, value_, sample);
    }
    sample.output = std::move(answer.body);
    co_return sample;
  }

 private:
  Request request_;
  std::string value_;  ///< A JSON Pointer; empty: no value is wanted.
  Fetcher fetcher_;
};

}  // namespace

const CheckKind kHttp{.which = v1::Check::kHttp, .make = [](const v1::Check& check) {
                        return std::unique_ptr<Check>(new Http(check));
                      }};

}  // namespace squall::checks
