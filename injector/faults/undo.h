/// \file
/// What a way back is to the process that takes it. Sweeps know an undo by its data alone, long
/// after the fault that asked for it is dead; the file of the kind that needs it first ends in its
/// UndoKind, listed in kinds.cpp.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "experiments/base/status.h"
#include "squall/v1/undo.pb.h"

namespace squall::hold {

/// The registry line of an undo.
struct UndoKind {
  v1::Undo::WhatCase what;

  /// Carries it out and reads back. Idempotent: what is already so is success, what is no longer
  /// ours is left alone. Errors: kDataLoss for what is still there afterwards.
  Status (*run)(const v1::Undo& undo);

  /// What it removes or puts back: "link sqabc".
  std::string (*in_words)(const v1::Undo& undo);

  /// What on this node bears the state directory's tag, as the undos that remove it, in their
  /// order; of any state directory for an empty id. Null for what bears no tag, and is known to the
  /// ledger alone. Errors: kInternal when the node cannot be read; never taken for "none".
  StatusOr<std::vector<v1::Undo>> (*find_tagged)(const std::string& state_id) = nullptr;
};

/// Every undo this build knows.
std::span<const UndoKind> undo_kinds();

/// As UndoKind::run. Errors: also kUnimplemented for an undo of another version.
Status run_undo(const v1::Undo& undo);

std::string in_words(const v1::Undo& undo);

/// As UndoKind::find_tagged, of all kinds.
StatusOr<std::vector<v1::Undo>> find_tagged(const std::string& state_id);

/// The tag of what it removes, squall:STATE_ID:FAULT_ID; empty for what bears none.
std::string tag_of(const v1::Undo& undo);

}  // namespace squall::hold
