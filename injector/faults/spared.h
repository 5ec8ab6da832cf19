/// \file
/// What the guardrails of this node protect, as every kind must ask before it touches a thing. A
/// holder is told once, before its fault is made; nothing is protected until then.
#pragma once

#include <cstdint>
#include <string>

#include "experiments/base/status.h"
#include "squall/v1/hold.pb.h"

namespace squall::hold {

/// Replaces what was told before.
void protect(const google::protobuf::RepeatedPtrField<v1::Spared>& spared);

/// Each says why it must not be touched, with the rule: "protected by guardrails.yaml:7"; empty:
/// it may be.
std::string why_protected_process(std::uint32_t pid, const std::string& name);
std::string why_protected_unit(const std::string& unit);
std::string why_protected_interface(const std::string& name);
/// By what it is, not by its name alone: a hard link or a second mount leads to the same.
std::string why_protected_path(const std::string& path);
/// A control group that a protected unit is, is in or holds, as the processes of the node tell.
std::string why_protected_cgroup(const std::string& path);

/// Whether the fault names a unit or control group that it must not, wherever in it. Errors:
/// kPermissionDenied with the field and the rule.
Status names_nothing_protected(const google::protobuf::Message& fault);

}  // namespace squall::hold
