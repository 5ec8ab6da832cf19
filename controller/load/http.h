/// \file
/// An open-loop HTTP/1.1 load: each request is due at its time, whether those before it are
/// answered or not, and its latency counts from when it was due. See docs/load.md.
#pragma once

#include <memory>

#include "controller/load/load.h"
#include "experiments/checks/histogram.h"
#include "squall/v1/plan.pb.h"

namespace squall::load {

class HttpTraffic : public Load {
 public:
  /// How long answers took from when their requests were sent, instead of from when they were due:
  /// what a closed-loop generator measures. For comparisons; only after end().
  virtual const checks::Histogram& service_times() const = 0;
};

/// `name` is what its numbers are told by.
std::unique_ptr<HttpTraffic> make_http_load(const std::string& name, const v1::HttpLoad& load);

}  // namespace squall::load
