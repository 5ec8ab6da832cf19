#include "controller/load/request.h"

#include <doctest/doctest.h>

namespace squall::load {
namespace {

Request request_to(const std::string& url) {
  v1::HttpLoad load;
  load.set_url(url);
  auto made = make_request(load);
  REQUIRE(made.ok());
  return *made;
}

TEST_CASE("a request goes where its URL says") {
  const Request plain = request_to("http://shop.staging/cart?id=1#top");
  CHECK_FALSE(plain.secure);
  CHECK(plain.host == "shop.staging");
  CHECK(plain.port == "80");
  CHECK(plain.bytes ==
        "GET /cart?id=1 HTTP/1.1\r\nHost: shop.staging\r\nUser-Agent: squall\r\n\r\n");

  const Request secure = request_to("https://[::1]:8443?q");
  CHECK(secure.secure);
  CHECK(secure.host == "::1");
  CHECK(secure.port == "8443");
  CHECK(secure.bytes.starts_with("GET /?q HTTP/1.1\r\nHost: [::1]:8443\r\n"));

  CHECK(request_to("https://shop").port == "443");
  CHECK(request_to("http://[::1]/").host == "::1");
}

TEST_CASE("a user and a password in the URL are sent as what they are") {
  const Request request = request_to("http://me:p%40ss@shop/");
  CHECK(request.host == "shop");
  CHECK(request.bytes.find("Authorization: Basic bWU6cEBzcw==\r\n") != std::string::npos);
}

TEST_CASE("method, headers and body are the plan's, and its headers come before ours") {
  v1::HttpLoad load;
  load.set_url("http://shop/order");
  load.set_method("POST");
  load.set_body("{}");
  (*load.mutable_headers())["User-Agent"] = "a shopper";
  (*load.mutable_headers())["host"] = "other";
  const auto request = make_request(load);
  REQUIRE(request.ok());
  CHECK(request->bytes ==
        "POST /order HTTP/1.1\r\nHost: other\r\nUser-Agent: a shopper\r\n"
        "Content-Length: 2\r\n\r\n{}");
  CHECK_FALSE(request->repeatable);
  CHECK(request_to("http://shop").repeatable);
}

TEST_CASE("what is no URL is told") {
  v1::HttpLoad load;
  for (const char* url : {"", "shop", "http://", "http:///cart", "http://:80/"}) {
    load.set_url(url);
    CHECK_FALSE(make_request(load).ok());
  }
}

}  // namespace
}  // namespace squall::load
