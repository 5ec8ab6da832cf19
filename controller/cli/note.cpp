// The command that puts what a person sees into a run's log: note.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "controller/cli/commands.h"
#include "controller/cli/outside.h"
#include "controller/cli/run_socket.h"
#include "controller/report/story.h"
#include "experiments/base/diagnostic.h"

namespace squall::cli {

namespace fs = std::filesystem;

int note(const Invocation& said) {
  const fs::path named = run_folder(said, said.run);
  if (named.empty()) {
    complain("there is no run yet in " + runs_folder(said));
    return kRefused;
  }
  v1::Noted note;
  note.set_by(who());
  note.set_kind(said.kind);
  note.set_text(said.text);
  const fs::path folder = named.filename() == "events.jsonl" ? named.parent_path() : named;
  const Status kept = keep_note(folder, note);
  if (!kept.ok()) {
    complain(escape_controls(message_of(kept)));
    return kept.code() == StatusCode::kUnavailable ? kUnreachable
           : kept.code() == StatusCode::kInvalidArgument || kept.code() == StatusCode::kNotFound
               ? kRefused
               : kInternal;
  }
  std::printf("noted of %s: %s\n", escape_controls(folder.filename().string()).c_str(),
              escape_controls(report::note_text({{}, "", note.kind(), note.text()})).c_str());
  return kSuccess;
}

}  // namespace squall::cli
