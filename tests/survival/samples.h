/// \file
/// One small fault of every kind, on targets of its own: what the tests that go through all kinds
/// inject.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "squall/v1/faults.pb.h"
#include "tests/support/fingerprint.h"
#include "tests/support/namespace.h"

namespace squall::survival {

/// A fault's targets, which go with the object.
class Sample {
 public:
  Sample() = default;
  Sample(const Sample&) = delete;
  Sample& operator=(const Sample&) = delete;
  virtual ~Sample() = default;

  /// Without id.
  virtual v1::Fault fault() const = 0;

  /// Of its targets; the node's network is read by whoever judges.
  virtual support::Fingerprint fingerprint() const { return {}; }
};

struct SampleKind {
  std::string kind;  ///< As a plan writes it; a kind may have several.
  std::string words;
  std::unique_ptr<Sample> (*make)(const support::Namespace& node);
  const char* not_here = nullptr;  ///< Why it is not for this machine.
};

/// What squalld is started with so that it takes them all: scripts are off but for listed programs.
/// The file stays as long as this process.
const std::vector<std::pair<std::string, std::string>>& takes_all();

/// At least one of each kind of this build.
std::span<const SampleKind> samples();

}  // namespace squall::survival
