#include "injector/faults/spared.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "injector/faults/paths.h"
#include "squall/v1/options.pb.h"

namespace squall::hold {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

google::protobuf::RepeatedPtrField<v1::Spared>& all_spared() {
  static google::protobuf::RepeatedPtrField<v1::Spared> spared;
  return spared;
}

std::string by_rule(const v1::Spared& spared) { return "protected by " + spared.rule(); }

/// Whether a group's path has a unit's group on it. Source: systemd.unit(5); a unit's group bears
/// its name, with a '_' before it where the kernel has a file of that name.
bool is_in_unit(const std::string& group, const std::string& unit) {
  return (group + '/').find('/' + unit + '/') != std::string::npos ||
         (group + '/').find("/_" + unit + '/') != std::string::npos;
}

/// The groups of a process, one for each hierarchy. Source: cgroups(7), /proc/PID/cgroup.
std::vector<std::string> groups_of(const std::string& pid) {
  std::vector<std::string> groups;
  std::ifstream lines("/proc/" + pid + "/cgroup");
  for (std::string line; std::getline(lines, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second != std::string::npos) groups.push_back(line.substr(second + 1));
  }
  return groups;
}

std::vector<std::string> all_groups() {
  std::vector<std::string> groups;
  std::error_code problem;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", problem)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    for (std::string& group : groups_of(name)) groups.push_back(std::move(group));
  }
  std::sort(groups.begin(), groups.end());
  groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  return groups;
}

/// The same file or directory, by whatever name.
bool is_same(const std::string& one, const std::string& other) {
  struct stat a {};
  struct stat b {};
  return ::stat(one.c_str(), &a) == 0 && ::stat(other.c_str(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

/// Whether a path, or a directory on its way, is what `folder` stands for.
bool leads_into(std::string path, const std::string& folder) {
  for (;;) {
    if (path == folder || is_same(path, folder)) return true;
    const std::size_t slash = path.rfind('/');
    if (path.size() <= 1 || slash == std::string::npos) return false;
    path.resize(std::max<std::size_t>(slash, 1));
  }
}

std::string without_doubles(const std::string& path) {
  std::string text = std::filesystem::path(path).lexically_normal().string();
  while (text.size() > 1 && text.ends_with('/')) text.pop_back();
  return text;
}

std::string why_protected_text(const std::string& text, v1::TextForm form) {
  switch (form) {
    case v1::UNIT_NAME:
      return why_protected_unit(text);
    case v1::CGROUP_PATH:
      return why_protected_cgroup(text);
    default:
      return "";
  }
}

}  // namespace

void protect(const google::protobuf::RepeatedPtrField<v1::Spared>& spared) {
  all_spared() = spared;
}

std::string why_protected_process(std::uint32_t pid, const std::string& name) {
  std::vector<std::string> groups;
  for (const v1::Spared& spared : all_spared()) {
    if (spared.has_process() && spared.process() == name) return by_rule(spared);
    if (!spared.has_unit()) continue;
    if (groups.empty()) groups = groups_of(std::to_string(pid));
    for (const std::string& group : groups) {
      if (is_in_unit(group, spared.unit())) return by_rule(spared);
    }
  }
  return "";
}

std::string why_protected_unit(const std::string& unit) {
  for (const v1::Spared& spared : all_spared()) {
    if (spared.has_unit() && spared.unit() == unit) return by_rule(spared);
  }
  return "";
}

std::string why_protected_interface(const std::string& name) {
  for (const v1::Spared& spared : all_spared()) {
    if (spared.has_interface() && spared.interface() == name) return by_rule(spared);
  }
  return "";
}

std::string why_protected_path(const std::string& path) {
  const std::string whole = without_doubles(path);
  for (const v1::Spared& spared : all_spared()) {
    if (!spared.has_path()) continue;
    const std::string folder = without_doubles(spared.path());
    if (leads_into(whole, folder)) return by_rule(spared);
    std::error_code problem;
    const std::filesystem::path real = std::filesystem::canonical(folder, problem);
    if (is_within(folder, whole) || (!problem && is_within(real.string(), whole)) ||
        leads_into(folder, whole)) {
      return "it holds " + escape_controls(folder) + ", " + by_rule(spared);
    }
  }
  return "";
}

std::string why_protected_cgroup(const std::string& path) {
  const std::string whole = without_doubles('/' + path);
  std::vector<std::string> groups;
  for (const v1::Spared& spared : all_spared()) {
    if (!spared.has_unit()) continue;
    if (is_in_unit(whole, spared.unit())) return by_rule(spared);
    if (groups.empty()) groups = all_groups();
    for (const std::string& group : groups) {
      if (is_in_unit(group, spared.unit()) && is_within(group, whole)) {
        return "it holds " + spared.unit() + ", " + by_rule(spared);
      }
    }
  }
  return "";
}

Status names_nothing_protected(const Message& fault) {
  std::vector<const FieldDescriptor*> fields;
  fault.GetReflection()->ListFields(fault, &fields);
  for (const FieldDescriptor* field : fields) {
    const auto& reflection = *fault.GetReflection();
    const int many = field->is_repeated() ? reflection.FieldSize(fault, field) : 1;
    for (int i = 0; i < many; ++i) {
      if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
        const Message& inner = field->is_repeated() ? reflection.GetRepeatedMessage(fault, field, i)
                                                    : reflection.GetMessage(fault, field);
        if (const Status status = names_nothing_protected(inner); !status.ok()) {
          return in_context(field->name(), status);
        }
      } else if (field->cpp_type() == FieldDescriptor::CPPTYPE_STRING) {
        const std::string text = field->is_repeated()
                                     ? reflection.GetRepeatedString(fault, field, i)
                                     : reflection.GetString(fault, field);
        const std::string why =
            why_protected_text(text, field->options().GetExtension(v1::rules).text());
        if (why.empty()) continue;
        return error(StatusCode::kPermissionDenied,
                     field->name() + ": " + escape_controls(text) + " cannot be touched: " + why);
      }
    }
  }
  return ok();
}

}  // namespace squall::hold
