#include "controller/import/words.h"

#include <algorithm>
#include <utility>

namespace squall::importing {
namespace {

/// Reads one line from left to right.
class Splitter {
 public:
  explicit Splitter(std::string_view line) : line_(line) {}

  std::optional<std::vector<Command>> split() {
    while (at_ < line_.size()) {
      const char c = line_[at_];
      if (c == ' ' || c == '\t' || c == '\r') {
        end_word();
        ++at_;
      } else if (c == '#' && !in_word_) {
        at_ = std::min(line_.find('\n', at_), line_.size());
      } else if (c == ';' || c == '\n') {
        end_command(false);
        ++at_;
      } else if (c == '&') {
        const bool both = line_.substr(at_, 2) == "&&";
        end_command(!both);
        at_ += both ? 2 : 1;
      } else if (c == '|' || c == '<' || c == '>' || !take_character(c)) {
        return std::nullopt;
      }
    }
    end_command(false);
    return std::move(commands_);
  }

 private:
  /// One character of a word, or a part of it in quotes. False: a quote is not closed.
  bool take_character(char c) {
    in_word_ = true;
    if (c == '\'') {
      const auto end = line_.find('\'', at_ + 1);
      if (end == std::string_view::npos) return false;
      word_ += line_.substr(at_ + 1, end - at_ - 1);
      at_ = end + 1;
      return true;
    }
    if (c == '"') return take_double_quoted();
    if (c == '\\') {
      if (++at_ == line_.size()) return false;
      // A line end behind it joins the lines.
      if (line_[at_] != '\n') word_ += line_[at_];
      if (line_[at_] == '\n' && word_.empty()) in_word_ = false;
      ++at_;
      return true;
    }
    word_ += c;
    ++at_;
    return true;
  }

  bool take_double_quoted() {
    for (++at_; at_ < line_.size(); ++at_) {
      if (line_[at_] == '"') {
        ++at_;
        return true;
      }
      const bool escapes =
          line_[at_] == '\\' && at_ + 1 < line_.size() &&
          std::string_view("\"\\$`").find(line_[at_ + 1]) != std::string_view::npos;
      if (escapes) ++at_;
      word_ += line_[at_];
    }
    return false;
  }

  void end_word() {
    if (in_word_) command_.words.push_back(std::exchange(word_, ""));
    in_word_ = false;
  }

  void end_command(bool in_background) {
    end_word();
    command_.in_background = in_background;
    if (!command_.words.empty()) commands_.push_back(std::move(command_));
    command_ = {};
  }

  std::string_view line_;
  std::size_t at_ = 0;
  bool in_word_ = false;  ///< Also for an empty one in quotes.
  std::string word_;
  Command command_;
  std::vector<Command> commands_;
};

}  // namespace

std::optional<std::vector<Command>> split_line(std::string_view line) {
  return Splitter(line).split();
}

std::string program_name(std::string_view word) {
  word = word.substr(word.rfind('/') + 1);
  return std::string(word.substr(0, word.find(':')));
}

std::vector<std::string> read_flags(std::span<const std::string> words, std::size_t& at,
                                    const Flags& flags, Source& into) {
  std::vector<std::string> others;
  const auto is_switch = [&](std::string_view name) {
    return std::find(flags.switches.begin(), flags.switches.end(), name) != flags.switches.end();
  };
  for (; at < words.size(); ++at) {
    const std::string& word = words[at];
    if (word == "--") {
      others.insert(others.end(), words.begin() + static_cast<std::ptrdiff_t>(at) + 1, words.end());
      at = words.size();
      break;
    }
    if (word.size() < 2 || word[0] != '-') {
      if (flags.stop_at_word) break;
      others.push_back(word);
      continue;
    }
    const auto equals = word.find('=');
    std::string name = word.substr(0, equals);
    for (const Flags::Alias& alias : flags.aliases) {
      if (alias.written == name) name = alias.meant;
    }
    if (equals != std::string::npos) {
      into.add(name, Source::Kind::kScalar, word.substr(equals + 1));
    } else if (is_switch(name) || at + 1 == words.size()) {
      into.add(name, Source::Kind::kScalar, "true");
    } else {
      into.add(name, Source::Kind::kScalar, words[++at]);
    }
  }
  return others;
}

}  // namespace squall::importing
