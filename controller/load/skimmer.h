/// \file
/// Beast's parser, for answers of which nothing is kept but their status.
#pragma once

#include <boost/beast/http/basic_parser.hpp>

namespace squall::load {

class Skimmer final : public boost::beast::http::basic_parser<false> {
 public:
  /// `bodiless`: of an answer to HEAD.
  explicit Skimmer(bool bodiless) {
    eager(true);
    skip(bodiless);
    // Nothing of it is kept, so only time bounds it.
    body_limit(boost::none);
  }

  int status() const { return status_; }

 private:
  using Error = boost::beast::error_code;
  using Text = boost::beast::string_view;

  void on_request_impl(boost::beast::http::verb, Text, Text, int, Error&) override {}
  void on_response_impl(int code, Text, int, Error&) override { status_ = code; }
  void on_field_impl(boost::beast::http::field, Text, Text, Error&) override {}
  void on_header_impl(Error&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, Error&) override {}
  std::size_t on_body_impl(Text body, Error&) override { return body.size(); }
  void on_chunk_header_impl(std::uint64_t, Text, Error&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, Text body, Error&) override { return body.size(); }
  void on_finish_impl(Error&) override {}

  int status_ = 0;
};

}  // namespace squall::load
