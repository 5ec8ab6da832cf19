/// \file
/// What another tool's experiment says, as a tree that knows which of it was read. What nobody took
/// becomes a comment of the plan by itself, so that no field can be dropped by being forgotten.
/// The only door to nlohmann's parser and to the plan's YAML reader here.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "controller/import/draft.h"
#include "experiments/base/diagnostic.h"

namespace squall::importing {

/// One value of the source. Not copied: whoever reads it leaves a mark on it.
class Source {
 public:
  enum class Kind { kNull, kScalar, kList, kMap };
  using Parts = std::vector<std::unique_ptr<Source>>;

  explicit Source(Kind kind = Kind::kNull, std::string text = "")
      : kind_(kind), text_(std::move(text)) {}
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// The key is empty in a list.
  Source& add(std::string key, Kind kind, std::string text = "");

  Kind kind() const { return kind_; }
  const std::string& key() const { return key_; }
  const std::string& text() const { return text_; }  ///< Of a scalar.
  const Parts& parts() const { return parts_; }
  Source* parent() const { return parent_; }

  /// The value of a map's key; null where there is none.
  Source* find(std::string_view key);

  /// The same through several maps.
  Source* find(std::initializer_list<std::string_view> keys);

  /// Where it stands: spec.delay.latency, method[0].name.
  std::string path() const;

  /// The path of what is below begins here, with its own key.
  void begin_path(std::string name = "") { path_ = std::move(name); }

  /// All of it in one line, as YAML has it, but for one key.
  std::string written(std::string_view but = "") const;

  /// A text that is a document of its own becomes what it says.
  void become(Kind kind) { kind_ = kind; }

  // Marks. Of a map or a list they are about all that is below it.

  /// It has its place in the plan.
  void take();

  /// It has none: why not, and whether that is a loss.
  void leave(std::string why, Note::Kind weight = Note::Kind::kLost);

  /// What was read of it came to nothing: it is told again, as a whole.
  void give_back();

  /// It is told of already.
  void mark_told();

  bool is_leaf() const { return parts_.empty(); }
  bool taken() const { return taken_; }
  bool told() const { return told_; }
  const std::optional<Note>& why() const { return why_; }

 private:
  Kind kind_;
  bool taken_ = false;
  bool told_ = false;
  std::string key_;
  std::string text_;
  std::optional<std::string> path_;
  std::optional<Note> why_;
  Source* parent_ = nullptr;
  std::size_t index_ = 0;
  Parts parts_;
};

/// Why a field has no place in a plan, by its key.
struct Reason {
  std::string_view key;
  std::string_view why;
  Note::Kind weight = Note::Kind::kLost;
};

/// Everything at and below `source` that was neither taken nor told becomes a note of `at`, with
/// what was said when it was left, else the reason of the nearest key that has one.
void tell_rest(Source& source, Draft& at, std::span<const Reason> reasons);

/// Reads JSON where the text begins with a bracket, else YAML, into an empty source, which holds
/// nothing then if there was something wrong; told in `diagnostics`, whose text it reads. At most
/// as deep and as large as a plan. Never throws.
void read_document(Diagnostics& diagnostics, Source& into);

/// Reads JSON alone. False: it is none, and `into` is as before.
bool read_json(std::string_view text, Source& into);

}  // namespace squall::importing
