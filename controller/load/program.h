/// \file
/// A load generator of the user's own, which runs as long as the run does: an argv, never a shell.
#pragma once

#include <filesystem>
#include <memory>

#include "controller/load/load.h"
#include "squall/v1/plan.pb.h"

namespace squall::load {

/// What it writes goes to load-NAME.log in `folder`. It leads a session of its own; when the run
/// ends, it and its group get SIGTERM, and SIGKILL two seconds later. Should squall itself be
/// killed, the kernel kills it. That it ends by itself is well if its exit code says so.
std::unique_ptr<Load> make_program(const v1::Load& load, const std::filesystem::path& folder);

}  // namespace squall::load
