/// \file
/// Which system calls are which operations on files, and which file each of them means: what a
/// tracer needs to know of a thread that stands at the beginning of one.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "squall/v1/resources.pb.h"

namespace squall::hold {

/// One file that a call means, and what it does with it.
struct FileArgument {
  enum Kind : std::uint8_t {
    kNone,
    kDescriptor,  ///< By an open descriptor.
    kName,        ///< By a name, from the working directory.
    kNameAt,      ///< By a descriptor of a directory, and a name in the argument after it.
  };
  v1::FileOperation operation = v1::OPEN;
  Kind kind = kNone;
  std::uint8_t index = 0;  ///< Of the call's argument.
};

/// Of a call with one file the other is kNone.
using FileCall = std::array<FileArgument, 2>;

/// The architecture whose calls are known, as the kernel names it (AUDIT_ARCH_*); 0 where none is.
extern const std::uint32_t kCallsOf;

/// Null for a call that is no operation on files.
const FileCall* find_file_call(std::uint64_t number);

/// The path of what an argument means, for a thread that stands: of a descriptor as /proc shows it
/// to this process, of a name by its letters alone, symbolic links unread: no file system is asked,
/// so that nothing here waits for one. Nothing for what has no path, or cannot be read.
std::optional<std::string> path_of(std::uint32_t tid, const FileArgument& file,
                                   const std::array<std::uint64_t, 6>& arguments);

}  // namespace squall::hold
