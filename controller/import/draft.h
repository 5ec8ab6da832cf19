/// \file
/// A plan as it is being written: an ordered tree whose every node may bear notes for the person
/// who will read it. Any format is turned into this first; the text is made in one place.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace squall::importing {

/// A comment above the line that it is about.
struct Note {
  enum class Kind {
    kSaid,  ///< Good to know; nothing is lost.
    kLost,  ///< Something of the source has no place in the plan.
    kOpen,  ///< A person has to decide before the plan can run.
  };
  Kind kind;
  std::string text;  ///< One line; wrapped when it is written.
};

/// One value of the plan and its notes.
class Draft {
 public:
  enum class Kind {
    kNothing,  ///< Only its notes are written, where it would stand.
    kWord,     ///< A number, a quantity, a word of the plan language: never quoted for its looks.
    kText,     ///< Free text.
    kList,
    kMap,
  };
  struct Entry {
    std::string key;  ///< Empty in a list.
    std::unique_ptr<Draft> value;
  };

  explicit Draft(Kind kind = Kind::kNothing, std::string text = "")
      : kind_(kind), text_(std::move(text)) {}
  static Draft word(std::string text) { return Draft(Kind::kWord, std::move(text)); }
  static Draft text(std::string text) { return Draft(Kind::kText, std::move(text)); }
  static Draft list() { return Draft(Kind::kList); }
  static Draft map() { return Draft(Kind::kMap); }

  /// Puts a value behind a key, in place of the one that is there. The result lives as long as this
  /// node, or until its key is set again.
  Draft& set(std::string_view key, Draft value);
  Draft& add(Draft value);

  /// The value of a key that was set, or null.
  Draft* find(std::string_view key);
  const Draft* find(std::string_view key) const;

  /// The map or list behind a key, made where there is none.
  Draft& map_at(std::string_view key);
  Draft& list_at(std::string_view key);

  void note(Note note) { notes_.push_back(std::move(note)); }
  void say(std::string text) { note({Note::Kind::kSaid, std::move(text)}); }
  void lose(std::string text) { note({Note::Kind::kLost, std::move(text)}); }
  void decide(std::string text) { note({Note::Kind::kOpen, std::move(text)}); }

  /// Written as a comment with all below it: for a person to fill in.
  void make_example() { example_ = true; }

  Kind kind() const { return kind_; }
  const std::string& text() const { return text_; }
  const std::vector<Entry>& entries() const { return entries_; }
  std::vector<Entry>& entries() { return entries_; }
  const std::vector<Note>& notes() const { return notes_; }
  bool is_example() const { return example_; }

  /// The same again, with all that is below it.
  Draft copy() const;

  /// Notes of one kind, here and below.
  std::size_t count(Note::Kind kind) const;

 private:
  Kind kind_;
  bool example_ = false;
  std::string text_;
  std::vector<Entry> entries_;
  std::vector<Note> notes_;
};

/// A text, and what each of its lines was written for; null for those that are only notes.
struct Page {
  std::string text;
  std::vector<Draft*> owners;  ///< By line, from 0.
};

/// The YAML of a map, two blanks a level, short values in brackets. No character of it moves a
/// terminal's cursor, and no note ends before its line does.
Page write(Draft& root);

/// One scalar as YAML in one line, in quotes where it needs them.
std::string quoted_where_needed(std::string_view text, bool in_brackets, bool free_text);

}  // namespace squall::importing
