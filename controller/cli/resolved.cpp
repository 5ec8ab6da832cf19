#include "controller/cli/resolved.h"

#include <fmt/format.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <set>
#include <utility>

#include "controller/report/reports.h"
#include "experiments/base/diagnostic.h"
#include "experiments/plan/explain.h"
#include "experiments/plan/forms.h"
#include "experiments/plan/load.h"

namespace squall::cli {
namespace {

namespace fs = std::filesystem;
using Seen = v1::ResolvedPlan::Seen;

constexpr std::uint32_t kVersion = 1;
/// Ten times the largest plan: JSON says more words.
constexpr std::size_t kLargest = std::size_t{10} << 20;
/// The first key of every such file.
constexpr std::string_view kMark = "\"squall_plan\"";

std::vector<std::string> list_of(const google::protobuf::RepeatedPtrField<std::string>& words) {
  return {words.begin(), words.end()};
}

/// In the order of the plan's steps, and one fault's.
std::string key_of(const Seen& seen) {
  return fmt::format("{} {} {}", seen.node(), seen.place(), seen.fault());
}

/// The words of one list that the other lacks.
std::vector<std::string> missing(const std::vector<std::string>& from,
                                 const std::vector<std::string>& in) {
  std::vector<std::string> lacking;
  std::copy_if(from.begin(), from.end(), std::back_inserter(lacking), [&](const std::string& word) {
    return std::find(in.begin(), in.end(), word) == in.end();
  });
  return lacking;
}

void compare(const std::string& where, const char* what, const std::vector<std::string>& then,
             const std::vector<std::string>& now, std::vector<std::string>& told) {
  for (const std::string& word : missing(then, now)) {
    told.push_back(fmt::format("{}: the {} {} is not there any more", where, what, word));
  }
  for (const std::string& word : missing(now, then)) {
    told.push_back(fmt::format("{}: the {} {} is new", where, what, word));
  }
}

}  // namespace

bool is_resolved(const fs::path& path) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) return false;
  std::ifstream file(path, std::ios::binary);
  std::string beginning(64, '\0');
  file.read(beginning.data(), static_cast<std::streamsize>(beginning.size()));
  const auto at = beginning.find_first_not_of(" \t\r\n{");
  return at != std::string::npos && std::string_view(beginning).substr(at).starts_with(kMark);
}

StatusOr<v1::ResolvedPlan> read_resolved(const fs::path& path) {
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) {
    return error(StatusCode::kNotFound, path.string() + ": there is no such file");
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return error(StatusCode::kNotFound, path.string() + ": cannot be read");
  std::string text(kLargest + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kLargest) {
    return error(StatusCode::kInvalidArgument, path.string() + ": is larger than 10 MiB");
  }
  v1::ResolvedPlan resolved;
  const auto parsed = google::protobuf::util::JsonStringToMessage(text, &resolved);
  if (!parsed.ok()) {
    return error(StatusCode::kInvalidArgument,
                 fmt::format("{}: not a resolved plan: {}", path.string(),
                             escape_controls(std::string(parsed.message()))));
  }
  if (resolved.squall_plan() != kVersion) {
    return error(StatusCode::kInvalidArgument,
                 fmt::format("{}: is of the format {}, and this squall reads {}", path.string(),
                             resolved.squall_plan(), kVersion));
  }
  if (Status bounds = plan::check_bounds(resolved.plan()); !bounds.ok()) {
    return in_context(path.string(), bounds);
  }
  return resolved;
}

Status write_resolved(const fs::path& path, const v1::ResolvedPlan& resolved) {
  v1::ResolvedPlan whole = resolved;
  whole.set_squall_plan(kVersion);
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  const auto printed = google::protobuf::util::MessageToJsonString(whole, &text, options);
  if (!printed.ok()) return error(StatusCode::kInternal, "the plan cannot be written as JSON");
  return report::write_report(path, text, 0600);
}

Seen seen_in(const v1::Looked& looked) {
  Seen seen;
  if (looked.engine() != v1::AUTO) {
    seen.set_engine(looked.engine() == v1::NETEM ? "netem" : "relay");
  }
  *seen.mutable_interfaces() = looked.interfaces();
  for (const auto& target : looked.targets()) {
    seen.add_targets(fmt::format("{} {}", target.pid(), target.command()));
  }
  for (const v1::HostAddresses& host : looked.hosts()) {
    for (const std::string& address : host.addresses()) {
      v1::Cidr cidr;
      cidr.set_address(address);
      cidr.set_prefix(static_cast<std::uint32_t>(address.size() * 8));
      seen.add_hosts(fmt::format("{} at {}", host.host(), plan::format_cidr(cidr)));
    }
  }
  return seen;
}

std::vector<Seen> seen_by(const std::vector<run::NodePreview>& previews) {
  std::vector<Seen> all;
  for (const run::NodePreview& node : previews) {
    for (std::size_t n = 0; n < node.answers.size(); ++n) {
      Seen& seen = all.emplace_back(seen_in(node.answers[n]));
      seen.set_node(node.name);
      seen.set_place(node.asked[n].step->place);
      seen.set_fault(plan::in_words(*node.asked[n].fault));
    }
  }
  return all;
}

std::vector<std::string> changes(const v1::ResolvedPlan& then,
                                 const std::vector<run::NodePreview>& now) {
  std::vector<std::string> told;
  std::vector<Seen> seen = seen_by(now);
  for (const Seen& before : then.world()) {
    const std::string where =
        fmt::format("{}, {} ({})", before.node(), before.fault(), before.place());
    const auto after = std::find_if(seen.begin(), seen.end(),
                                    [&](const Seen& one) { return key_of(one) == key_of(before); });
    if (after == seen.end()) {
      told.push_back(fmt::format("{}: the node was not asked about it", where));
      continue;
    }
    if (before.engine() != after->engine()) {
      told.push_back(fmt::format("{}: the engine was {}, and is {} now", where,
                                 before.engine().empty() ? "none" : before.engine(),
                                 after->engine().empty() ? "none" : after->engine()));
    }
    compare(where, "interface", list_of(before.interfaces()), list_of(after->interfaces()), told);
    compare(where, "process", list_of(before.targets()), list_of(after->targets()), told);
    compare(where, "address", list_of(before.hosts()), list_of(after->hosts()), told);
    // Asked for twice in one place: each answers for itself.
    seen.erase(after);
  }
  return told;
}

}  // namespace squall::cli
