/// \file
/// What this node's owner lets faults do, whatever a plan asks: /etc/squall/guardrails.yaml, read
/// once, at the daemon's start. Knows no fault kind by name but script, whose programs it lists.
#pragma once

#include <cstddef>
#include <cstdint>
#include <ctime>
#include <map>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "squall/v1/checks.pb.h"
#include "squall/v1/guardrails.pb.h"
#include "squall/v1/hold.pb.h"

namespace squall::daemon {

inline constexpr const char* kGuardrailsFile = "/etc/squall/guardrails.yaml";

class Guardrails {
 public:
  /// None: every kind but script, as strong as it can be asked for.
  Guardrails() = default;

  /// Errors: kInvalidArgument with every mistake of the file by line and column; a file that others
  /// than root and its owner may write is one.
  static StatusOr<Guardrails> load(const std::string& path);

  const std::string& environment() const { return rules_.environment(); }

  /// Whether the fault may be injected at `now`, the wall clock's seconds, while `beside` others
  /// live. Errors: kPermissionDenied, and kFailedPrecondition for what another moment would allow;
  /// each with the rule: "guardrails.yaml:7: strongest.network.delay is 2s, the fault asks for
  /// 10s".
  Status allow(const v1::Fault& fault, std::size_t beside, std::time_t now) const;

  /// Whether a check may be asked from here: one that runs a program, only if script faults may run
  /// that program as well. Errors: kPermissionDenied with the rule.
  Status allow(const v1::Check& check) const;

  /// Whether allow() asks for the time at all.
  bool has_quiet_hours() const { return rules_.quiet_size() > 0; }

  /// What only the holder can tell whether a fault touches.
  const google::protobuf::RepeatedPtrField<v1::Spared>& spared() const { return spared_; }
  const google::protobuf::RepeatedField<std::uint32_t>& spared_ports() const {
    return rules_.protect().ports();
  }

 private:
  /// guardrails.yaml:7
  std::string place_of(const std::string& rule) const;
  Status refuse(StatusCode code, const std::string& rule, const std::string& why) const;

  Status allow_kind(const v1::Fault& fault) const;
  Status allow_program(const std::string& program) const;
  Status allow_strength(const google::protobuf::Message& most,
                        const google::protobuf::Message& fault, const std::string& path) const;
  Status allow_value(const google::protobuf::Message& most, const google::protobuf::Message& fault,
                     const google::protobuf::FieldDescriptor& field, const std::string& path) const;
  Status spare(const google::protobuf::Message& fault, const std::string& path) const;
  Status allow_time(const v1::Fault& fault, std::time_t now) const;

  std::string file_;  ///< Its last part, for what is said of a rule.
  v1::Guardrails rules_;
  google::protobuf::RepeatedPtrField<v1::Spared> spared_;
  std::map<std::string, std::size_t> lines_;  ///< Of every key and list item: protect.ports[0].
};

}  // namespace squall::daemon
