/// \file
/// prometheus: asks a Prometheus server an instant query. A scalar, or the one series there is, is
/// the value; everything else that a server may answer, a query that is wrong included, is no data,
/// told as which. Source: https://prometheus.io/docs/prometheus/latest/querying/api/
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string_view>

#include "experiments/base/diagnostic.h"
#include "experiments/checks/fetch.h"
#include "experiments/checks/kind.h"

namespace squall::checks {
namespace {

using Json = nlohmann::json;

/// The query API below the server's URL; what that asks for behind a `?` stays behind it.
std::string query_url(const std::string& url) {
  const auto end = std::min(url.find_first_of("?#"), url.size());
  std::string path = url.substr(0, end);
  while (path.ends_with('/')) path.pop_back();
  return path + "/api/v1/query" + url.substr(end);
}

/// As application/x-www-form-urlencoded has it, but for the blank, which %20 says as well.
std::string form_encoded(std::string_view text) {
  std::string encoded;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '-' || c == '_' || c == '.' || c == '~';
    if (plain) {
      encoded += c;
    } else {
      encoded += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

/// In one line, and no longer than a report can bear.
std::string shown(const std::string& text) {
  constexpr std::size_t kMost = 300;
  return escape_controls(text.size() > kMost ? text.substr(0, kMost) + "..." : text);
}

/// A member that is text; empty where it is not there or something else.
std::string text_at(const Json& object, const char* name) {
  const auto found = object.is_object() ? object.find(name) : object.end();
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

/// [1700000000.123, "42.5"], as the API writes a value at a time.
void take_number(const Json& pair, Sample& sample) {
  if (!pair.is_array() || pair.size() != 2 || !pair[1].is_string()) {
    sample.no_data = "the answer has no value where one should be";
    return;
  }
  const auto& text = pair[1].get_ref<const std::string&>();
  if (text == "NaN" || text == "+Inf" || text == "-Inf") {
    sample.no_data = text;
    return;
  }
  double number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
    sample.no_data = fmt::format("\"{}\" is no number", shown(text));
    return;
  }
  sample.numbers["value"] = number;
}

void take_result(const Json& data, Sample& sample) {
  const std::string type = text_at(data, "resultType");
  const auto result = data.is_object() ? data.find("result") : data.end();
  if (type.empty() || result == data.end() || !result->is_array()) {
    sample.no_data = "the answer is not that of a Prometheus server";
  } else if (type == "scalar") {
    take_number(*result, sample);
  } else if (type != "vector") {
    sample.no_data = fmt::format("the result is a {}; a scalar or one series is wanted",
                                 type == "matrix" ? "range of values" : shown(type));
  } else if (result->empty()) {
    sample.no_data = "empty result: no such series now, or it went stale";
  } else if (result->size() > 1) {
    sample.no_data = fmt::format("{} series; one is wanted", result->size());
  } else if (result->front().is_object() && result->front().contains("histogram")) {
    sample.no_data = "the series is a histogram; a number is wanted";
  } else {
    const Json& series = result->front();
    take_number(series.is_object() ? series.value("value", Json()) : Json(), sample);
  }
}

void take(const Answer& answer, Sample& sample) {
  const Json whole = Json::parse(answer.body, nullptr, false);
  const std::string said = text_at(whole, "error");
  if (answer.status / 100 != 2) {
    sample.no_data = said.empty() ? fmt::format("status {}", answer.status)
                                  : fmt::format("status {}: {}", answer.status, shown(said));
  } else if (whole.is_discarded()) {
    sample.no_data = answer.cut ? "many series: the answer is longer than 64 KiB; one is wanted"
                                : "the answer is no JSON";
  } else if (!whole.is_object() || text_at(whole, "status") != "success") {
    sample.no_data =
        said.empty() ? "the answer is not that of a Prometheus server" : "error: " + shown(said);
  } else {
    take_result(whole.value("data", Json()), sample);
  }
}

class Prometheus final : public Check {
 public:
  explicit Prometheus(const v1::Check& check) {
    const v1::Prometheus& wanted = check.prometheus();
    request_.url = query_url(wanted.url());
    request_.method = "POST";  // a query may be longer than a URL may be
    request_.headers.assign(wanted.headers().begin(), wanted.headers().end());
    request_.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    request_.body = "query=" + form_encoded(wanted.query());
    request_.timeout = timeout_of(check);
    request_.tls = wanted.tls();
  }

  boost::asio::awaitable<Sample> ask() override {
    Sample sample;
    sample.asked = monotonic_now();
    Answer answer = co_await fetcher_.fetch(request_);
    sample.latency = answer.latency;
    sample.error = std::move(answer.error);
    if (sample.error.empty()) {
      sample.status = answer.status;
      take(answer, sample);
    }
    co_return sample;
  }

 private:
  Request request_;
  Fetcher fetcher_;
};

}  // namespace

const CheckKind kPrometheus{.which = v1::Check::kPrometheus, .make = [](const v1::Check& check) {
                              return std::unique_ptr<Check>(new Prometheus(check));
                            }};

}  // namespace squall::checks
