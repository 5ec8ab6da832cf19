/// \file
/// script: runs a program that is a fault of the plan's own, and at the end another that undoes it.
///
/// Whatever the first leaves running belongs to the fault: it is ended before the second runs. The
/// second runs from the ledger too, also after a crash between the two and after a reboot, so it
/// must do no harm where the first never ran.
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "experiments/base/diagnostic.h"
#include "experiments/base/ids.h"
#include "experiments/base/units.h"
#include "injector/faults/fault.h"
#include "injector/faults/programs.h"
#include "injector/faults/undo.h"

namespace squall::hold {
namespace {

std::vector<std::string> words_in(const google::protobuf::RepeatedPtrField<std::string>& words) {
  return {words.begin(), words.end()};
}

/// Errors: kInternal unless it ended with status 0.
Status judge(const std::string& field, const StatusOr<ProgramEnd>& end, Duration timeout) {
  if (!end.ok()) return end.status();
  if (!end->timed_out && end->exit == 0) return ok();
  std::string why = field + (end->timed_out ? " had not ended after " + format_duration(timeout)
                                            : " ended with status " + std::to_string(end->exit));
  const std::size_t length = end->output.find_last_not_of('\n') + 1;
  if (length > 0) why += ": " + escape_controls(end->output.substr(0, length));
  return error(StatusCode::kInternal, why);
}

Status run(const v1::Undo& undo) {
  const v1::RunProgram& program = undo.run_program();
  const Duration timeout(program.timeout());
  end_what_runs(program.tag());
  const Status done = judge(
      "script.undo", run_program("script.undo", words_in(program.argv()), timeout, ""), timeout);
  return done.ok() ? ok() : error(StatusCode::kDataLoss, message_of(done));
}

std::string words_of(const v1::Undo& undo) {
  std::string words = "what";
  for (const std::string& word : undo.run_program().argv()) words += ' ' + escape_controls(word);
  return words + " undoes";
}

Status check(const v1::Script& wanted) {
  const Status runs = check_program("script.run", words_in(wanted.run()));
  return runs.ok() ? check_program("script.undo", words_in(wanted.undo())) : runs;
}

class Script final : public Fault {
 public:
  Script(const v1::Script& wanted, const std::string& tag) : wanted_(wanted), tag_(tag) {}

  /// Errors: kInvalidArgument, kNotFound, kPermissionDenied for a program that cannot be run.
  StatusOr<std::vector<v1::Undo>> prepare() override {
    if (const Status runs = check(wanted_); !runs.ok()) return runs;
    v1::RunProgram& program = *undo_.mutable_run_program();
    *program.mutable_argv() = wanted_.undo();
    program.set_timeout(wanted_.timeout());
    program.set_tag(tag_);
    return std::vector<v1::Undo>{undo_};
  }

  /// Errors: kInternal for a program that fails or does not end in time.
  Status apply(MonotonicTime deadline) override {
    begun_ = true;
    const Duration timeout = std::min(Duration(wanted_.timeout()), deadline - monotonic_now());
    StatusOr<ProgramEnd> end = run_program("script.run", words_in(wanted_.run()), timeout, tag_);
    Status judged = judge("script.run", end, timeout);
    if (end.ok()) end_ = *std::move(end);
    return judged;
  }

  Status pulse(MonotonicTime) override { return ok(); }

  v1::Evidence evidence() override {
    listen_to(end_);
    v1::Evidence evidence;
    evidence.set_effect(begun_);
    evidence.mutable_script()->set_exit(end_.exit);
    evidence.mutable_script()->set_output(escape_controls(end_.output, true));
    return evidence;
  }

  Status end_effect() override {
    if (!std::exchange(begun_, false)) return ended_;
    ended_ = run(undo_);
    return ended_;
  }

  std::vector<std::string> clean_up() override { return {}; }

 private:
  v1::Script wanted_;
  std::string tag_;
  v1::Undo undo_;
  ProgramEnd end_;
  bool begun_ = false;
  Status ended_;
};

std::unique_ptr<Fault> make(const v1::Start& start) {
  return std::make_unique<Script>(start.fault().script(),
                                  object_tag(start.state_id(), start.fault().id()));
}

v1::Looked look(const v1::Look& request) {
  if (const Status runs = check(request.fault().script()); !runs.ok()) return refused(runs);
  v1::Looked looked;
  looked.add_notes("as root, with PATH and SQUALL_FAULT alone for its environment");
  return looked;
}

}  // namespace

extern const FaultKind kScript;
const FaultKind kScript{.kind = v1::Fault::kScript, .name = "script", .make = make, .look = look};

extern const UndoKind kRunProgram;
const UndoKind kRunProgram{.what = v1::Undo::kRunProgram, .run = run, .in_words = words_of};

}  // namespace squall::hold
