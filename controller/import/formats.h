/// \file
/// The formats that can be read. A new one is a file of its own that ends in its line here.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/import/mapping.h"
#include "controller/import/source.h"

namespace squall::importing {

/// A document: JSON or YAML.
struct DocumentFormat {
  std::string_view name;    ///< As --from has it.
  std::string_view called;  ///< As its people call it.
  bool (*fits)(Source& root);
  /// Turns what it understands into the plan; what it leaves is told by the caller.
  void (*map)(Source& root, Experiment& experiment);
  std::span<const Reason> reasons;
};

/// Command lines of one program.
struct CommandFormat {
  std::string_view name;
  std::string_view called;
  std::string_view program;
  bool at_once;  ///< A command returns when its fault has begun: several are there together.
  /// The steps of one command, which tells itself what it left of the words behind the program.
  void (*map)(std::span<const std::string> words, Experiment& experiment,
              std::vector<Draft>& steps);
};

extern const DocumentFormat kChaosToolkit;
extern const DocumentFormat kChaosMesh;
extern const DocumentFormat kFis;
extern const CommandFormat kPumba;
extern const CommandFormat kChaosBlade;

}  // namespace squall::importing
