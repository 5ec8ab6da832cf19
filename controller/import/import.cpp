#include "controller/import/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "controller/import/draft.h"
#include "controller/import/formats.h"
#include "controller/import/mapping.h"
#include "controller/import/source.h"
#include "controller/import/words.h"
#include "experiments/plan/file.h"
#include "experiments/plan/load.h"

namespace squall::importing {
namespace {

constexpr std::size_t kLargestSource = 1 << 20;

constexpr std::array<const DocumentFormat*, 3> kDocuments = {&kChaosToolkit, &kChaosMesh, &kFis};
constexpr std::array<const CommandFormat*, 2> kCommands = {&kPumba, &kChaosBlade};

std::string known_formats() {
  std::vector<std::string> called;
  for (const DocumentFormat* format : kDocuments) called.emplace_back(format->called);
  for (const CommandFormat* format : kCommands) called.emplace_back(format->called);
  const std::string last = std::move(called.back());
  called.pop_back();
  return fmt::format("{} and {}", fmt::join(called, ", "), last);
}

/// What stands before the program's own words, and the program where it is called by more than its
/// name; empty for most.
std::string start_of(std::span<const std::string> words, std::size_t at) {
  return at == 0 ? "" : fmt::format("{}", fmt::join(words.first(at + 1), " "));
}

/// The program of a command line, past sudo and what starts it in a container. Where the words of
/// the program itself begin is in `at`.
const CommandFormat* program_of(std::span<const std::string> words, std::size_t& at) {
  const bool wrapped =
      !words.empty() && (words[0] == "sudo" || program_name(words[0]) == "docker" ||
                         program_name(words[0]) == "podman");
  for (at = 0; at < words.size(); ++at) {
    for (const CommandFormat* format : kCommands) {
      if (program_name(words[at]) == format->program) return format;
    }
    if (!wrapped) return nullptr;
  }
  return nullptr;
}

/// Writes the plan, and puts at each line that `squall validate` refuses what it says there.
void write_checked(Draft plan, Imported& imported) {
  Page page = write(plan);
  const plan::Loaded loaded = plan::load(page.text, imported.diagnostics.file,
                                         {.set = {}, .params_files = {}, .unobserved = true});
  for (const Diagnostic& found : loaded.diagnostics.found) {
    if (found.severity != Severity::kError) continue;
    const std::size_t line = found.place.line;
    Draft* owner = line == 0 || line > page.owners.size() ? nullptr : page.owners[line - 1];
    if (owner == nullptr) owner = &plan;
    // A person who has to decide it anyway need not be told twice.
    const auto& notes = owner->notes();
    const bool open = std::any_of(notes.begin(), notes.end(),
                                  [](const Note& note) { return note.kind == Note::Kind::kOpen; });
    if (open && owner != &plan) continue;
    owner->decide(found.hint.empty() ? found.summary
                                     : fmt::format("{}; {}", found.summary, found.hint));
  }
  if (loaded.diagnostics.has_errors()) page = write(plan);
  imported.plan = std::move(page.text);
  imported.not_mapped = plan.count(Note::Kind::kLost);
  imported.to_decide = plan.count(Note::Kind::kOpen);
}

std::string stem_of(const std::string& file) {
  const std::string name = file.substr(file.rfind('/') + 1);
  const std::string stem = name.substr(0, name.rfind('.'));
  return stem.empty() ? "an experiment" : stem;
}

void import_document(const DocumentFormat& format, Source& root, Imported& imported) {
  Experiment experiment;
  experiment.head.say(fmt::format("From {}, by squall import.", format.called));
  format.map(root, experiment);
  tell_rest(root, experiment.head, format.reasons);
  write_checked(experiment.finish(stem_of(imported.diagnostics.file)), imported);
}

/// The steps of commands, in the order in which they would run.
class CommandReader {
 public:
  CommandReader(const CommandFormat& format, Imported& imported)
      : format_(format), imported_(imported) {
    experiment_.head.say(fmt::format("From {}, by squall import.", format.called));
  }

  void remark(std::string text) { remarks_.push_back(std::move(text)); }

  void lose(std::string text) {
    flush();
    experiment_.method.add(Draft()).lose(std::move(text));
  }

  void take(std::span<const std::string> words, std::string_view before, bool in_background) {
    std::vector<Draft> steps;
    format_.map(words, experiment_, steps);
    if (steps.empty()) steps.emplace_back();
    for (std::string& text : std::exchange(remarks_, {})) steps.front().say(std::move(text));
    if (!before.empty()) {
      steps.front().say(fmt::format("{} (how {} itself is started)", before, format_.called));
    }
    for (Draft& step : steps) {
      if (step.kind() == Draft::Kind::kNothing) {
        for (const Note& note : step.notes()) waiting_notes_.note(note);
      } else {
        together_.push_back(std::move(step));
      }
    }
    if (!in_background && !format_.at_once) flush();
  }

  void finish() {
    flush();
    for (std::string& text : remarks_) experiment_.method.add(Draft()).say(std::move(text));
    write_checked(experiment_.finish(stem_of(imported_.diagnostics.file)), imported_);
  }

 private:
  void flush() {
    if (!waiting_notes_.notes().empty()) {
      experiment_.method.add(std::exchange(waiting_notes_, Draft()));
    }
    if (together_.size() == 1) {
      experiment_.method.add(std::move(together_.front()));
    } else if (!together_.empty()) {
      Draft& parallel = experiment_.method.add(Draft::map()).list_at("parallel");
      for (Draft& step : together_) parallel.add(std::move(step));
    }
    together_.clear();
  }

  const CommandFormat& format_;
  Imported& imported_;
  Experiment experiment_;
  std::vector<std::string> remarks_;  ///< Comments of the source, for the step behind them.
  Draft waiting_notes_;
  std::vector<Draft> together_;
};

/// The lines of a text, those that end in a backslash with what follows; empty lines stay.
std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  bool goes_on = false;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    std::string line(text.substr(0, end));
    if (line.ends_with('\r')) line.pop_back();
    text.remove_prefix(std::min(end + 1, text.size()));
    const bool more = line.ends_with('\\') && !text.empty();
    if (more) line.back() = ' ';
    if (goes_on) {
      lines.back() += line;
    } else {
      lines.push_back(std::move(line));
    }
    goes_on = more;
  }
  return lines;
}

std::string_view without_blanks(std::string_view line) {
  const auto begin = line.find_first_not_of(" \t");
  return begin == std::string_view::npos ? std::string_view() : line.substr(begin);
}

/// The format of the first line that is a command; null: it is none of theirs.
const CommandFormat* commands_in(const std::vector<std::string>& lines) {
  for (const std::string& line : lines) {
    if (without_blanks(line).empty() || without_blanks(line).starts_with('#')) continue;
    const auto commands = split_line(line);
    std::size_t at = 0;
    return commands && !commands->empty() ? program_of(commands->front().words, at) : nullptr;
  }
  return nullptr;
}

void import_commands(const CommandFormat& format, const std::vector<std::string>& lines,
                     Imported& imported) {
  CommandReader reader(format, imported);
  for (const std::string& line : lines) {
    const std::string_view rest = without_blanks(line);
    if (rest.starts_with('#')) {
      const std::string_view remark = without_blanks(rest.substr(1));
      if (!remark.empty()) reader.remark(std::string(remark));
      continue;
    }
    const auto commands = split_line(line);
    if (!commands) {
      reader.lose(fmt::format("{} (a quote is not closed, or the line pipes or redirects)", rest));
      continue;
    }
    for (const Command& command : *commands) {
      std::size_t at = 0;
      if (program_of(command.words, at) != &format) {
        reader.lose(
            fmt::format("{} (not a command of {})", fmt::join(command.words, " "), format.called));
        continue;
      }
      const std::span<const std::string> words = command.words;
      reader.take(words.subspan(at + 1), start_of(words, at), command.in_background);
    }
  }
  reader.finish();
}

bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

template <typename Formats>
auto named(const Formats& formats, std::string_view name) {
  const auto found = std::find_if(formats.begin(), formats.end(),
                                  [&](const auto* format) { return format->name == name; });
  return found == formats.end() ? nullptr : *found;
}

}  // namespace

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const DocumentFormat* format : kDocuments) names.emplace_back(format->name);
  for (const CommandFormat* format : kCommands) names.emplace_back(format->name);
  return names;
}

Imported import_text(std::string text, std::string file_name, std::string_view from) {
  Imported imported;
  Diagnostics& diagnostics = imported.diagnostics;
  diagnostics.file = std::move(file_name);
  diagnostics.text = std::move(text);
  const DocumentFormat* document = named(kDocuments, from);
  const CommandFormat* command = named(kCommands, from);
  if (document == nullptr && diagnostics.text.size() <= kLargestSource &&
      is_utf8(diagnostics.text)) {
    const std::vector<std::string> lines = lines_of(diagnostics.text);
    if (command == nullptr) command = commands_in(lines);
    if (command != nullptr) {
      import_commands(*command, lines, imported);
      return imported;
    }
  }
  Source root;
  read_document(diagnostics, root);
  if (diagnostics.has_errors()) return imported;
  for (const DocumentFormat* known : kDocuments) {
    if (document == nullptr && from.empty() && known->fits(root)) document = known;
  }
  if (document != nullptr && root.kind() == Source::Kind::kMap) {
    import_document(*document, root, imported);
    return imported;
  }
  const bool ours = root.find("plan") != nullptr && root.find("method") != nullptr;
  diagnostics.error(
      {}, ours ? "this is a plan of Squall's already" : "this is no experiment that is known here",
      ours ? "" : fmt::format("it may be one of {}", known_formats()));
  return imported;
}

Imported import_file(const std::string& path, std::string_view from) {
  std::string text;
  const std::string wrong = plan::read_file(path, nullptr, text);
  if (wrong.empty()) return import_text(std::move(text), path, from);
  Imported imported;
  imported.diagnostics.file = path;
  imported.diagnostics.error({}, wrong);
  return imported;
}

Imported import_command(std::span<const std::string> words, std::string_view from) {
  Imported imported;
  const CommandFormat* format = named(kCommands, from);
  if (format == nullptr) {
    imported.diagnostics.error({}, "only pumba and chaosblade are command lines");
    return imported;
  }
  imported.diagnostics.file = std::string(format->name);
  if (!std::all_of(words.begin(), words.end(), is_utf8)) {
    imported.diagnostics.error({}, "the command line is not UTF-8");
    return imported;
  }
  std::size_t at = 0;
  const bool has_program = program_of(words, at) == format;
  CommandReader reader(*format, imported);
  reader.take(has_program ? words.subspan(at + 1) : words, has_program ? start_of(words, at) : "",
              false);
  reader.finish();
  return imported;
}

}  // namespace squall::importing
