/// \file
/// YAML text into a small tree with places, through a strict pass that libyaml lacks: size,
/// encoding, depth, duplicate keys, tags, directives, aliases, documents and unclosed quotes are
/// judged here.
/// The only door to libyaml.
#pragma once

#include <cstddef>
#include <deque>
#include <string>
#include <vector>

#include "experiments/base/diagnostic.h"

namespace squall::plan {

/// Bytes of the largest plan.
inline constexpr std::size_t kLargestPlan = 1 << 20;

/// Levels of the deepest plan, aliases followed.
inline constexpr std::size_t kDeepestPlan = 64;

/// Values in the largest plan, aliases followed.
inline constexpr std::size_t kMostValues = 100'000;

/// Bytes of all texts of the largest plan, as often as aliases, parameters and files repeat them.
inline constexpr std::size_t kMostText = 4 << 20;
inline constexpr const char* kMostTextHint =
    "a plan has at most 4 MiB of text, as often as aliases, parameters and files repeat it";

/// One value of a YAML text. Aliases are the same node again, so a tree is in truth a graph without
/// cycles, whose size with all aliases followed is bounded.
struct YamlNode {
  enum class Kind { kNull, kScalar, kSequence, kMapping };
  struct Entry {
    const YamlNode* key;
    const YamlNode* value;
  };
  /// A part of the text that stands for another part of the source: a parameter's value for its
  /// ${name}. Offsets count from the beginning of each.
  struct Stand {
    std::size_t begin, end;
    std::size_t source_begin, source_end;
  };

  /// What of the text stands on one line of the source, byte for byte.
  struct Line {
    std::size_t begin, end;
    Place place;  ///< Where it begins.
  };

  Kind kind = Kind::kNull;
  bool plain = false;     ///< A scalar without quotes.
  bool verbatim = false;  ///< The scalar's text stands in the source byte for byte, on one line,
                          ///< but for its `stands`.
  bool open = true;       ///< Still being read; an alias to it would be a cycle.
  bool flow = false;      ///< Written with brackets.
  bool told = false;      ///< What is wrong with it was told; there is nothing to read.
  Place place;
  std::size_t begin = 0;       ///< The byte of the text that its place is.
  std::string text;            ///< Of a scalar.
  std::vector<Stand> stands;   ///< In their order.
  std::vector<Line> lines;     ///< Of a scalar that is not verbatim, where they are known.
  std::vector<Entry> entries;  ///< Of a mapping, in the text's order; keys are scalars and differ.
  std::vector<const YamlNode*> items;  ///< Of a sequence.
  std::size_t values =
      1;  ///< Nodes below and including it, aliases followed; stops counting past kMostValues.
  std::size_t height = 1;  ///< Levels below and including it, aliases followed.
  std::size_t bytes = 0;   ///< Of the texts below and including it, likewise.

  bool is_scalar() const { return kind == Kind::kScalar; }
  bool is_mapping() const { return kind == Kind::kMapping; }
  bool is_sequence() const { return kind == Kind::kSequence; }

  /// The value of a mapping's key, or null.
  const YamlNode* find(std::string_view key) const;
  const YamlNode* find_key(std::string_view key) const;

  /// The place of a part of the scalar's text, on its first line; of all of the text where it
  /// does not stand there verbatim.
  Place within(std::size_t offset, std::size_t length) const;
};

struct YamlTree {
  std::deque<YamlNode> nodes;
  const YamlNode* root = nullptr;  ///< Null where the text could not be read, or holds nothing.

  /// A node to be filled in, in place of another.
  YamlNode& add(const YamlNode& instead_of) { return nodes.emplace_back(instead_of); }
};

/// Reads `diagnostics.text` and tells everything wrong with it there. Never throws.
YamlTree read_yaml(Diagnostics& diagnostics);

/// Reads the `file`th text of those beside it into the same tree, and returns its root, likewise.
const YamlNode* read_yaml_beside(Diagnostics& diagnostics, std::size_t file, YamlTree& tree);

}  // namespace squall::plan
