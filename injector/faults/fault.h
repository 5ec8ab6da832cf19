/// \file
/// What a fault is to the process that holds it. squall-hold drives every kind through this
/// interface and knows none of them; a kind is one file beside this one that ends in a FaultKind,
/// listed in kinds.cpp.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/base/clock.h"
#include "experiments/base/status.h"
#include "squall/v1/hold.pb.h"

namespace squall::hold {

using Hosts = google::protobuf::RepeatedPtrField<v1::HostAddresses>;

/// One fault of one kind. Made, driven and destroyed by one thread; a kind that needs threads of
/// its own keeps them to itself. Calls come in the order of the functions below; end_effect() and
/// clean_up() also follow a failed apply().
class Fault {
 public:
  Fault() = default;
  Fault(const Fault&) = delete;
  Fault& operator=(const Fault&) = delete;
  virtual ~Fault() = default;

  /// Resolves what will be touched and says every way back, before anything is changed. Reads only.
  /// Errors: kNotFound for a target that is not there; kUnimplemented for what this kernel lacks.
  virtual StatusOr<std::vector<v1::Undo>> prepare() = 0;

  /// While the undos are being written: what apply() would else do first, and what changes nothing
  /// on the node. Errors: as apply().
  virtual Status make_ready() { return squall::ok(); }

  /// Acts, and reads back that it did. The effect may last until `deadline` unless pulse() moves
  /// it; a kind whose effect the kernel owns hands the deadline to the kernel.
  virtual Status apply(MonotonicTime deadline) = 0;

  /// The controller is still there: the effect may last until `deadline`, min(lease end, the
  /// fault's own end).
  /// Errors: kFailedPrecondition if what it acts with is no longer as it was made; the fault then
  /// ends.
  virtual Status pulse(MonotonicTime deadline) = 0;

  /// Once applied: a descriptor that is readable when something may have happened to what the fault
  /// acts with; -1 for a kind that cannot tell. It stays its own.
  virtual int watched() const { return -1; }

  /// It is readable. Errors: as pulse().
  virtual Status look_again() { return squall::ok(); }

  /// Names in the fault stand for other addresses now: from its return on, these are meant. For a
  /// kind that knows names.
  virtual Status resolved(const Hosts& /*hosts*/) { return squall::ok(); }

  /// The numbers that ramp are those of `now`, from its return on; those that the kernel keeps are
  /// read back. For a kind with fields that ramp; what such a kind was made from says how far they
  /// will go.
  virtual Status become(const v1::Fault& /*now*/) {
    return error(StatusCode::kUnimplemented, "no number of this kind of fault can change");
  }

  /// Of a kind that is at_once, after apply(): whether nothing is left to do. Until then it is
  /// held, as those that last are.
  virtual bool is_done() const { return true; }

  /// What it has done so far, read from the kernel.
  virtual v1::Evidence evidence() = 0;

  /// From its return on, nothing is touched any more. Idempotent.
  virtual Status end_effect() = 0;

  /// Removes what was made, waits for what is queued, reads back. Returns the residue, each a
  /// sentence; empty: clean.
  virtual std::vector<std::string> clean_up() = 0;
};

/// A look's answer that the fault cannot be, and why.
inline v1::Looked refused(const Status& why) {
  v1::Looked looked;
  looked.set_code(static_cast<int>(why.code()));
  looked.set_message(message_of(why));
  return looked;
}

/// The registry line of a kind.
struct FaultKind {
  v1::Fault::KindCase kind;
  std::string_view name;  ///< As a plan writes it.

  std::unique_ptr<Fault> (*make)(const v1::Start& start);

  /// What it would do here; reads only.
  v1::Looked (*look)(const v1::Look& look);

  /// What a spare holder may do ahead of time so that make() and apply() are quick; changes nothing
  /// on the node. May be null.
  void (*warm_up)() = nullptr;

  /// What such faults have in the kernel that goes with its holder, and so has no undo: each in
  /// words that end in its tag. Whose and where, and errors: as UndoKind::find_tagged. May be null.
  StatusOr<std::vector<std::string>> (*find_held)(const std::string& state_id) = nullptr;

  /// Ends when it is_done(), unless it has a duration: then it is held like every other.
  bool at_once = false;
};

/// Every kind this build knows.
std::span<const FaultKind> fault_kinds();

/// The kind of a fault, or null.
const FaultKind* find_kind(const v1::Fault& fault);

}  // namespace squall::hold
