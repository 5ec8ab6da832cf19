/// \file
/// The one request that a load sends again and again: its bytes, and where they go.
#pragma once

#include <string>

#include "experiments/base/status.h"
#include "squall/v1/plan.pb.h"

namespace squall::load {

struct Request {
  bool secure = false;
  std::string host;  ///< A name or an address, without brackets.
  std::string port;
  std::string bytes;
  bool bodiless = false;    ///< HEAD: its answer has no body, whatever its head says.
  bool repeatable = false;  ///< Asking twice does no more than asking once (RFC 9110, 9.2.2).
};

/// Errors: kInvalidArgument for a URL or a method that no request can be made of.
StatusOr<Request> make_request(const v1::HttpLoad& load);

}  // namespace squall::load
