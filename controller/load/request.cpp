#include "controller/load/request.h"

#include <openssl/evp.h>

#include <boost/beast/core/string.hpp>
#include <boost/beast/http/message.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <charconv>
#include <cstdint>
#include <sstream>
#include <string_view>
#include <vector>

namespace squall::load {
namespace {

namespace http = boost::beast::http;

/// %40 is an at sign.
std::string decoded(std::string_view text) {
  std::string plain;
  for (std::size_t n = 0; n < text.size(); ++n) {
    unsigned byte = 0;
    if (text[n] == '%' && n + 2 < text.size() &&
        std::from_chars(text.data() + n + 1, text.data() + n + 3, byte, 16).ptr ==
            text.data() + n + 3) {
      plain += static_cast<char>(byte);
      n += 2;
    } else {
      plain += text[n];
    }
  }
  return plain;
}

std::string base64(const std::string& text) {
  std::vector<unsigned char> encoded(4 * (text.size() + 2) / 3 + 1);
  const int length =
      EVP_EncodeBlock(encoded.data(), reinterpret_cast<const unsigned char*>(text.data()),
                      static_cast<int>(text.size()));
  return {encoded.begin(), encoded.begin() + length};
}

}  // namespace

StatusOr<Request> make_request(const v1::HttpLoad& load) {
  const auto wrong = [] { return error(StatusCode::kInvalidArgument, "not a URL"); };
  Request request;
  std::string_view rest = load.url();
  const auto scheme = rest.find("://");
  if (scheme == std::string_view::npos) return wrong();
  request.secure = rest.substr(0, scheme) == "https";
  rest.remove_prefix(scheme + 3);
  std::string_view authority = rest.substr(0, rest.find_first_of("/?#"));
  std::string_view target = rest.substr(authority.size());
  target = target.substr(0, target.find('#'));
  std::string credentials;
  if (const auto at = authority.rfind('@'); at != std::string_view::npos) {
    credentials = decoded(authority.substr(0, at));
    authority.remove_prefix(at + 1);
  }
  const auto colon = authority.rfind(':');
  const auto bracket = authority.rfind(']');
  const bool has_port =
      colon != std::string_view::npos && (bracket == std::string_view::npos || colon > bracket);
  std::string_view host = authority.substr(0, has_port ? colon : authority.size());
  if (has_port) request.port = authority.substr(colon + 1);
  if (request.port.empty()) request.port = request.secure ? "443" : "80";
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  request.host = host;
  if (request.host.empty()) return wrong();

  http::request<http::string_body> message;
  message.version(11);
  const std::string method = load.method().empty() ? "GET" : load.method();
  message.method_string(method);
  message.target(target.starts_with('/') ? std::string(target) : "/" + std::string(target));
  // It comes first (RFC 9110, 7.2), whoever says it.
  std::string named(authority);
  for (const auto& [name, value] : load.headers()) {
    if (boost::beast::iequals(name, "host")) named = value;
  }
  message.set(http::field::host, named);
  message.set(http::field::user_agent, "squall");
  if (!credentials.empty()) {
    message.set(http::field::authorization, "Basic " + base64(credentials));
  }
  for (const auto& [name, value] : load.headers()) {
    if (!boost::beast::iequals(name, "host")) message.set(name, value);
  }
  message.body() = load.body();
  if (!load.body().empty()) message.content_length(load.body().size());
  std::ostringstream text;
  text << message;
  request.bytes = text.str();
  request.bodiless = method == "HEAD";
  for (const char* known : {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"}) {
    request.repeatable = request.repeatable || method == known;
  }
  return request;
}

}  // namespace squall::load
