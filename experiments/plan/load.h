/// \file
/// YAML text in, a validated plan out, or everything that is wrong with it. No sockets, no clock.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "experiments/base/diagnostic.h"
#include "experiments/base/status.h"
#include "squall/v1/plan.pb.h"

namespace squall::plan {

/// What the command line says beside the plan.
struct Given {
  std::vector<std::string> set;           ///< name=value, of parameters; each wins over the files'.
  std::vector<std::string> params_files;  ///< With a mapping of parameters; the later ones win.
  bool unobserved = false;                ///< A plan without checks is right.
};

struct Loaded {
  Diagnostics diagnostics;
  std::optional<v1::Plan> plan;           ///< Absent if there are errors. Defaults are filled in.
  std::map<std::string, v1::Node> nodes;  ///< Those that can be read, whatever else is wrong.
};

/// Never throws; every error of the text in one go, and of the files that it includes: these are
/// looked for in the folder of `file_name`.
Loaded load(std::string text, std::string file_name, const Given& given = {});

/// Opens without following into a device or fifo, at most 1 MiB. What cannot be read is a
/// diagnostic as well.
Loaded load_file(const std::string& path, const Given& given = {});

struct YamlNode;

/// What is to be said about a file beside what its message declares.
struct Beyond {
  /// Why such a file is not read, whatever it holds; empty: it is.
  std::function<std::string(const struct stat&)> unfit;
  /// What its values say together; only where each alone is right.
  std::function<void(const YamlNode& root, Diagnostics&)> weigh;
};

/// Reads a file of another kind than a plan, by its message's declaration and as strictly: the
/// message is right if no errors come back. `called`: what such a file is, in a plural: guardrails.
Diagnostics load_message_file(const std::string& path, const std::string& called,
                              const Beyond& beyond, google::protobuf::Message& message);

/// A parameter's value as logs and screens may show it: stars for one that is called a password, a
/// secret, a token or a key, and for a URL with credentials.
std::string shown_value(const std::string& name, const std::string& value);

/// Whether a message that came over the wire keeps its declared bounds: required fields, oneofs,
/// ranges, known enums. Errors: kInvalidArgument with the field's path: fault.network.delay: …
Status check_bounds(const google::protobuf::Message& message);

}  // namespace squall::plan
